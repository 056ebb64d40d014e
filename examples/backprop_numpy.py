"""Backpropagation in plain NumPy, one line per equation: the gradients of a small network on one batch.

Rows are samples. A layer computes z = aW + b and a = σ(z) with the sigmoid σ; the cost is half the squared error,
averaged over the batch. `gpubp.MLP(sizes, "sigmoid", "half_squared_error", output_activation="sigmoid")` is the same
network.
"""

import numpy as np


def sigmoid(z):
    """σ(z), elementwise."""
    return 1 / (1 + np.exp(-z))


def gradients(weights, biases, X, y):
    """The cost and its gradients for each W (n_in, n_out) and each b (n_out,). X is (m, n_0), y is (m, n_L)."""
    a = [X]  # a[l] is the input of layer l + 1: (m, n_l)
    for W, b in zip(weights, biases, strict=True):
        a.append(sigmoid(a[-1] @ W + b))
    sigma_prime = [a_l * (1 - a_l) for a_l in a]  # σ′(z), computed from a = σ(z)
    cost = 0.5 * ((a[-1] - y) ** 2).sum() / len(X)

    grad_W, grad_b = [None] * len(weights), [None] * len(biases)
    delta = (a[-1] - y) / len(X) * sigma_prime[-1]  # BP1: δᴸ = ∇ₐC ⊙ σ′(zᴸ)
    for l in reversed(range(len(weights))):
        grad_b[l] = delta.sum(axis=0)  # BP3: ∂C/∂b = Σ_rows δ
        grad_W[l] = a[l].T @ delta  # BP4: ∂C/∂W = aᵀ δ, where a is the layer's input
        if l > 0:
            delta = (delta @ weights[l].T) * sigma_prime[l]  # BP2: δˡ = (δˡ⁺¹ Wˡ⁺¹ᵀ) ⊙ σ′(zˡ)
    return cost, grad_W, grad_b


def main():
    """Learn the exclusive or by gradient descent."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((2, 3)), rng.standard_normal((3, 1))]
    biases = [np.zeros(3), np.zeros(1)]
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]]), np.array([[0], [1], [1], [0.0]])
    for step in range(2001):
        cost, grad_W, grad_b = gradients(weights, biases, X, y)
        if step % 500 == 0:
            print(f"step {step}: cost {cost:.6f}")
        for theta, gradient in zip([*weights, *biases], [*grad_W, *grad_b], strict=True):
            theta -= 5.0 * gradient


if __name__ == "__main__":
    main()
