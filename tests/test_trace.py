"""One pass shown: against plain Python floats, and against what training computes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubp import MLP, DataError, UsageError
from gpubp.activations import ACTIVATIONS
from support.machines import host, in_float64

NETWORKS = ([2, 2, 1], [3, 4, 3, 2])
PAIRS = {
    "squared error, sigmoid": {"loss": "half_squared_error", "output_activation": "sigmoid"},
    "binary cross-entropy": {"loss": "binary_cross_entropy"},
    "cross-entropy": {"loss": "cross_entropy"},
}


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def by_hand(net: MLP, X: list[list[float]], Y: list[list[float]], pair: str) -> dict[str, list]:
    """Every quantity of one pass in plain Python, unit by unit, as lists per layer; sigmoid hidden units."""
    W = [w.tolist() for w in net.weights]
    b = [v.tolist() for v in net.biases]
    L, m = len(W), len(X)
    z: list[list[list[float]]] = [[] for _ in W]
    a: list[list[list[float]]] = [[] for _ in W]
    slope: list[list[list[float]]] = [[] for _ in W]
    delta: list[list[list[float]]] = [[] for _ in W]
    cost = 0.0
    for x, y in zip(X, Y, strict=True):
        below = x
        for l in range(L):
            z[l].append([sum(below[j] * W[l][j][k] for j in range(len(below))) + b[l][k] for k in range(len(b[l]))])
            if l == L - 1 and pair == "cross-entropy":
                total = sum(math.exp(v) for v in z[l][-1])
                a[l].append([math.exp(v) / total for v in z[l][-1]])
            else:
                a[l].append([sigmoid(v) for v in z[l][-1]])
            slope[l].append([v * (1 - v) for v in a[l][-1]])
            below = a[l][-1]
        if pair == "squared error, sigmoid":
            delta[L - 1].append([(p - t) * s / m for p, t, s in zip(below, y, slope[L - 1][-1], strict=True)])
            cost += sum(0.5 * (p - t) ** 2 for p, t in zip(below, y, strict=True)) / m
        else:
            delta[L - 1].append([(p - t) / m for p, t in zip(below, y, strict=True)])
            cost -= sum(t * math.log(p) for p, t in zip(below, y, strict=True)) / m
            if pair == "binary cross-entropy":
                cost -= sum((1 - t) * math.log(1 - p) for p, t in zip(below, y, strict=True)) / m
        for l in range(L - 2, -1, -1):
            above = delta[l + 1][-1]
            back = [sum(W[l + 1][j][k] * above[k] for k in range(len(above))) for j in range(len(W[l + 1]))]
            delta[l].append([g * s for g, s in zip(back, slope[l][-1], strict=True)])
    inputs = [X, *a[:-1]]
    grad_W = [
        [[sum(inputs[l][i][j] * delta[l][i][k] for i in range(m)) for k in range(len(b[l]))] for j in range(len(W[l]))]
        for l in range(L)
    ]
    grad_b = [[sum(delta[l][i][k] for i in range(m)) for k in range(len(b[l]))] for l in range(L)]
    return {"z": z, "a": a, "derivative": slope, "delta": delta, "grad_W": grad_W, "grad_b": grad_b, "cost": [cost]}


def batch(sizes: list[int], pair: str, rows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (rows, sizes[0]))
    if pair == "cross-entropy":
        return X, np.eye(sizes[-1])[rng.integers(sizes[-1], size=rows)]
    return X, rng.integers(2, size=(rows, sizes[-1])).astype(float)


def network(sizes: list[int], pair: str, **options) -> MLP:
    return MLP(sizes, "sigmoid", seed=4, precision="float64", device="cpu-reference", **PAIRS[pair], **options)


@pytest.mark.parametrize("sizes", NETWORKS, ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_quantity_is_that_of_plain_floats(sizes, pair):
    sizes = [*sizes[:-1], 2] if pair == "cross-entropy" else sizes  # softmax has two outputs at least
    net = network(sizes, pair)
    for b in net.biases:
        b[...] = np.linspace(-0.3, 0.4, len(b))
    X, Y = batch(sizes, pair)
    traced, exact = net.trace(X, Y), by_hand(net, X.tolist(), Y.tolist(), pair)
    for l, layer in enumerate(traced.layers):
        for name in ("z", "a", "derivative", "delta", "grad_W", "grad_b"):
            if name == "derivative" and layer.activation == "softmax":
                assert layer.derivative is None
                continue
            np.testing.assert_allclose(getattr(layer, name), exact[name][l], rtol=0, atol=1e-15, err_msg=name)
    assert traced.loss == pytest.approx(exact["cost"][0], abs=1e-15)


@in_float64
@pytest.mark.parametrize("weight", [None, np.array([0.5, 2.0, 1.0])], ids=["plain", "weights"])
def test_a_trace_holds_the_gradients_that_every_backend_computes(mlp, weight):
    net = mlp([3, 5, 4, 2], ["relu", "gelu"], "half_squared_error", seed=2, precision="float64", device="cpu-reference")
    X, Y = np.random.default_rng(0).standard_normal((2, 3, 3))[0], np.ones((3, 2))
    loss, grads = net.gradients(X, Y, weight)
    traced = net.trace(X, Y, weight)
    assert traced.loss == pytest.approx(loss, rel=1e-14)
    for layer, W, b in zip(traced.layers, grads.weights, grads.biases, strict=True):
        np.testing.assert_allclose(layer.grad_W, host(W), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(layer.grad_b, host(b), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_equations_hold_between_what_is_traced(activation):
    net = MLP([2, 3, 3, 2], activation, "half_squared_error", seed=1, precision="float64", device="cpu-reference")
    X, Y = np.array([[0.3, -0.8], [1.2, 0.1]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    traced = net.trace(X, Y)
    inputs = [traced.X, *(layer.a for layer in traced.layers)]
    for l, layer in enumerate(traced.layers):
        np.testing.assert_allclose(layer.z, inputs[l] @ layer.W + layer.b, atol=1e-14)
        if l + 1 < len(traced.layers):
            above = traced.layers[l + 1]
            np.testing.assert_allclose(layer.delta, (above.delta @ above.W.T) * layer.derivative, atol=1e-14)
    np.testing.assert_allclose(traced.layers[-1].delta, traced.grad_a * traced.layers[-1].derivative, atol=1e-14)


@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_of_the_rows_have_that_of_the_batch_as_their_mean(pair):
    sizes = [3, 4, 2]
    net = network(sizes, pair)
    X, Y = batch(sizes, pair, rows=5)
    whole, each = net.trace(X, Y), net.trace(X, Y, per_sample=True)
    assert each.loss.shape == (5,) and each.loss.mean() == pytest.approx(whole.loss, rel=1e-14)
    for layer, rows in zip(whole.layers, each.layers, strict=True):
        assert rows.grad_W.shape == (5, *layer.grad_W.shape)
        np.testing.assert_allclose(rows.grad_W.mean(axis=0), layer.grad_W, atol=1e-15)
        np.testing.assert_allclose(rows.grad_b.mean(axis=0), layer.grad_b, atol=1e-15)
        np.testing.assert_allclose(rows.delta / 5, layer.delta, atol=1e-15)
        np.testing.assert_allclose(rows.z, layer.z, atol=1e-15)


def test_print_shows_the_numbers_beside_the_equations():
    net = network([2, 2, 1], "squared error, sigmoid")
    text = str(net.trace([[0.05, 0.1]], [[0.01]]))
    for equation in (
        "z¹ = a⁰W¹ + b¹",
        "a¹ = sigmoid(z¹)",
        "BP1  δ² = ∇ₐC ⊙ σ′(z²)",
        "BP2  δ¹ = (δ²W²ᵀ) ⊙ σ′(z¹)",
        "BP3  ∂C/∂b¹ = Σ_rows δ¹",
        "BP4  ∂C/∂W¹ = a⁰ᵀδ¹",
    ):
        assert equation in text
    assert f"{net.weights[0][1, 0]:.6g}" in text
    assert "BP1  δ² = (a² − y)/m, σ′ cancels" in str(
        network([2, 2, 2], "cross-entropy").trace([[1, 2], [3, 4]], [0, 1])
    )
    large = str(network([2, 50, 2], "cross-entropy").trace([[1, 2]], [0]))
    assert "2 × 50 numbers" in large and len(large.splitlines()) < 40


def test_a_trace_says_what_it_cannot_show():
    stack = network([2, 2, 2], "cross-entropy", models=3)
    with pytest.raises(UsageError, match="trace takes a single network; this is a stack of 3"):
        stack.trace([[1, 2]], [0])
    net = network([2, 2, 2], "cross-entropy")
    with pytest.raises(UsageError, match="leave out sample_weight"):
        net.trace([[1, 2]], [0], [1.0], per_sample=True)
    with pytest.raises(DataError, match=r"rows are samples here: give X\.T"):
        net.trace(np.ones((2, 5)), [0] * 5)
