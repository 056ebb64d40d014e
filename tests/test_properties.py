"""Laws that hold for any network and any data, with cases drawn by hypothesis.

Each law is checked normwise to a few roundings per term, but for those that hold bit for bit.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubp import train
from gpubp.activations import ACTIVATIONS
from gpubp.losses import LOSSES
from support.machines import alike, host, in_float64

# One backend serves all examples of a test, so its fixture need not be made anew for each.
FEW = settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
EPS = np.finfo(np.float64).eps

sizes = st.lists(st.integers(1, 9), min_size=2, max_size=4)
seeds = st.integers(0, 2**32 - 1)
activations = st.sampled_from([name for name in ACTIVATIONS if name != "exponential"])  # towers of it overflow
losses = st.sampled_from(list(LOSSES))


def fill(net, parameter, values) -> None:
    """Write a host array to one of the network's arrays."""
    parameter[...] = net.stack.backend.from_host(values, net.stack.backend.dtype)


@st.composite
def problems(draw, mlp, models: int = 1, min_rows: int = 2):
    """A network with data that suits its loss: net, X, y, sample weights."""
    layers, loss, seed = draw(sizes), draw(losses), draw(seeds)
    if loss == "cross_entropy":
        layers[-1] += 1
    net = mlp(layers, draw(activations), loss, seed=seed, models=models)
    rng = np.random.default_rng(seed)
    for b in net.biases:
        fill(net, b, 0.3 * rng.standard_normal(b.shape))
    rows = draw(st.integers(min_rows, 12))
    X = rng.standard_normal((rows, layers[0]))
    y = {
        "cross_entropy": lambda shape: rng.integers(shape[1], size=rows),
        "binary_cross_entropy": lambda shape: rng.integers(2, size=shape),
        "poisson": lambda shape: rng.poisson(2, size=shape),
    }.get(loss, rng.standard_normal)((rows, layers[-1]))
    return net, X, y, rng.uniform(0.1, 2, rows)


def gradient(net, X, y, weight=None, **settings) -> tuple[float, np.ndarray]:
    """The loss and the gradient as one vector."""
    loss, grads = net.gradients(X, y, weight, **settings)
    return loss, np.concatenate([host(g).ravel() for part in grads for g in part])


def assert_same(found, expected, scale: float, roundings: int = 64) -> None:
    """Normwise, relative to `scale`: the size of what was added up, not of what is left of it."""
    assert np.linalg.norm(np.subtract(found, expected)) <= roundings * EPS * scale


def size_of_terms(net, X, y, weight) -> float:
    """Σ over rows of w ‖gradient of the row‖ / Σ w, plus the loss: what rounding is relative to."""
    rows = [gradient(net, X[i : i + 1], y[i : i + 1]) for i in range(len(X))]
    sizes = [abs(loss) + np.linalg.norm(g) for loss, g in rows]
    return float(np.dot(weight, sizes) / np.sum(weight)) + 1.0


@in_float64
@FEW
@given(data=st.data())
def test_the_gradient_of_a_batch_is_the_weighted_mean_over_its_parts(mlp, data):
    net, X, y, weight = data.draw(problems(mlp))
    cut = data.draw(st.integers(1, len(X) - 1))
    loss, whole = gradient(net, X, y, weight)
    parts = [gradient(net, X[part], y[part], weight[part]) for part in (slice(cut), slice(cut, None))]
    shares = np.array([weight[:cut].sum(), weight[cut:].sum()]) / weight.sum()
    scale = size_of_terms(net, X, y, weight)
    assert_same(sum(share * g for share, (_, g) in zip(shares, parts, strict=True)), whole, scale)
    assert_same(sum(share * part for share, (part, _) in zip(shares, parts, strict=True)), loss, scale)


@in_float64
@FEW
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(mlp, data, random):
    net, X, y, weight = data.draw(problems(mlp))
    order = list(range(len(X)))
    random.shuffle(order)
    scale = size_of_terms(net, X, y, weight)
    for found, expected in zip(
        gradient(net, X[order], y[order], weight[order]), gradient(net, X, y, weight), strict=True
    ):
        assert_same(found, expected, scale)
    np.testing.assert_allclose(net.forward(X[order]), net.forward(X)[order], rtol=1e-12, atol=1e-12)


@in_float64
@FEW
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_hidden_units_may_change_places(mlp, data, random):
    """With their weights: the outputs stay, and the gradients change places alike."""
    net, X, y, weight = data.draw(problems(mlp))
    twin = mlp(net.layer_sizes, net.activations, net.loss, output_activation=net.output_activation)
    orders = [list(range(n)) for n in net.layer_sizes]
    for order in orders[1:-1]:
        random.shuffle(order)
    for l in range(len(net.weights)):
        fill(twin, twin.weights[l], host(net.weights[l])[np.ix_(orders[l], orders[l + 1])])
        fill(twin, twin.biases[l], host(net.biases[l])[orders[l + 1]])
    scale = size_of_terms(net, X, y, weight)
    np.testing.assert_allclose(twin.forward(X), net.forward(X), rtol=1e-12, atol=1e-12)
    (loss, grads), (twin_loss, twin_grads) = (n.gradients(X, y, weight) for n in (net, twin))
    assert_same(twin_loss, loss, scale)
    for l in range(len(net.weights)):
        changed = host(grads.weights[l])[np.ix_(orders[l], orders[l + 1])]
        assert_same(host(twin_grads.weights[l]), changed, scale)
        assert_same(host(twin_grads.biases[l]), host(grads.biases[l])[orders[l + 1]], scale)


@in_float64
@FEW
@given(data=st.data())
def test_a_weight_of_two_is_the_row_twice_and_a_weight_of_zero_no_row(mlp, data):
    net, X, y, weight = data.draw(problems(mlp))
    row = data.draw(st.integers(0, len(X) - 1))
    scale = 2 * size_of_terms(net, X, y, weight)
    for times, rows in ((2.0, [*range(len(X)), row]), (0.0, [i for i in range(len(X)) if i != row])):
        scaled = weight.copy()
        scaled[row] *= times
        for found, expected in zip(
            gradient(net, X, y, scaled), gradient(net, X[rows], y[rows], weight[rows]), strict=True
        ):
            assert_same(found, expected, scale * weight.sum() / weight[rows].sum())


@FEW
@given(layers=sizes, activation=st.sampled_from(["identity", "relu"]), power=st.integers(-20, 20), seed=seeds)
def test_scaling_by_a_power_of_two_is_exact(mlp, layers, activation, power, seed):
    """X·c with W¹/c is the same network, bit for bit; and c·b, c·W¹ scale a relu network's outputs by c."""
    c = 2.0**power
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((5, layers[0])), rng.standard_normal((5, layers[-1]))
    net, inverse, scaled = (mlp(layers, activation, "half_squared_error", seed=seed) for _ in range(3))
    inverse.weights[0][...] /= c
    np.testing.assert_array_equal(inverse.forward(X * c), net.forward(X))
    (loss, grads), (inverse_loss, inverse_grads) = net.gradients(X, y), inverse.gradients(X * c, y)
    assert inverse_loss == loss
    np.testing.assert_array_equal(host(inverse_grads.weights[0]), c * host(grads.weights[0]))
    for l in range(1, len(grads.weights)):
        np.testing.assert_array_equal(host(inverse_grads.weights[l]), host(grads.weights[l]))

    scaled.weights[0][...] *= c
    np.testing.assert_array_equal(scaled.forward(X), c * net.forward(X))  # biases are zero here


@in_float64
@FEW
@given(data=st.data(), dropout=st.sampled_from([0.0, 0.4]), optimizer=st.sampled_from(["adam", "nesterov"]))
def test_a_stack_is_its_networks_one_by_one(mlp, data, dropout, optimizer):
    """Gradients and trained weights."""
    stack, X, y, weight = data.draw(problems(mlp, models=3))
    solos = []
    for k, seed in enumerate(stack.stack.seeds):
        solo = mlp(
            stack.layer_sizes, stack.activations, stack.loss, seed=seed, output_activation=stack.output_activation
        )
        solo.theta[0] = stack.theta[k]
        solos.append(solo)
    how = {"optimizer": optimizer, "dropout": dropout, "max_grad_norm": 1.0, "batch_size": 3, "epochs": 2}
    loss, grads = stack.gradients(X, y, weight, dropout=dropout)
    train(stack, X, y, weight, seed=11, **how)
    for k, solo in enumerate(solos):
        solo_loss, solo_grads = solo.gradients(X, y, weight, dropout=dropout)
        alike(stack.stack.backend, loss[k], solo_loss)
        for ours, theirs in zip(
            (*grads.weights, *grads.biases), (*solo_grads.weights, *solo_grads.biases), strict=True
        ):
            alike(stack.stack.backend, ours[k], theirs)
        train(solo, X, y, weight, seed=11 + k, **how)
        alike(stack.stack.backend, stack.theta[k], solo.theta[0])


@in_float64
@FEW
@given(data=st.data(), share=st.floats(0.1, 10))
def test_the_loss_falls_along_the_negative_gradient(mlp, data, share):
    """C(θ − ηg) ≈ C(θ) − η‖g‖² for a small enough η: the gradient is one of descent."""
    net, X, y, weight = data.draw(problems(mlp))
    loss, grads = net.gradients(X, y, weight)
    square = sum(float((g * g).sum()) for part in grads for g in part)
    eta = share * 1e-7 / (1 + square)
    for parameter, g in zip((*net.weights, *net.biases), (*grads.weights, *grads.biases), strict=True):
        parameter -= eta * g
    after, _ = net.gradients(X, y, weight)
    assert after - loss == pytest.approx(-eta * square, rel=1e-2, abs=64 * EPS * (1 + abs(loss)))
