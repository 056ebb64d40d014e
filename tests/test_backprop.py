"""The four equations: worked by hand, one by one against sums over samples, and as stacks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from gpubp.activations import ACTIVATIONS, get_activation
from gpubp.backends import Batch, LayerCache
from gpubp.backends.reference import NumpyNamespace
from gpubp.backprop import gradients
from gpubp.losses import get_loss
from support.machines import alike, host, on_the_reference, one_step

XP = NumpyNamespace()
UNEVEN = [  # layer sizes that matmul and sum treat specially, and ordinary ones
    (1, 1, 1),
    (5, 1, 2),
    (3, 4, 1),
    (7, 5, 4, 3),
    (64, 33, 10),
]


def set_layers(net, *layers):
    """Give a network its weights and biases."""
    backend = net.stack.backend
    for layer, (W, b) in zip(net.stack.layers, layers, strict=True):
        layer.W[...] = backend.from_host(W, backend.dtype)
        layer.b[...] = backend.from_host(b, backend.dtype)


def flat(gradients) -> np.ndarray:
    """All gradients of a network in one vector."""
    return np.concatenate([host(g).ravel() for part in gradients for g in part])


# -- by hand ----------------------------------------------------------------------------------------------


def test_a_relu_network_worked_by_hand(mlp):
    """2-2-1, relu, half squared error, two rows; every number is exact in binary.

    Row 1, x = (1, 1): z¹ = (1·1 + 1·2 + 0, −1·1 + 1·1 + 1) = (3, 1), a¹ = (3, 1),
                       z² = 2·3 + 1·1 − 1 = 6; y = 4, error 2, C = 2.
    Row 2, x = (2, 0): z¹ = (2, −2 + 1) = (2, −1), a¹ = (2, 0), z² = 4 − 1 = 3; y = 7, error −4, C = 8.
    """
    net = mlp([2, 2, 1], "relu", "half_squared_error")
    set_layers(net, ([[1, -1], [2, 1]], [0, 1]), ([[2], [1]], [-1]))
    X, y = np.array([[1, 1], [2, 0]]), np.array([4, 7])

    np.testing.assert_array_equal(net.forward(X), [[6], [3]])
    loss, grads = net.gradients(X, y)

    assert loss == (2 + 8) / 2
    # BP1: δ² = error / 2 rows = (1, −2).  BP3: Σ δ² = −1.  BP4: a¹ᵀ δ² = (3·1 + 2·−2, 1·1 + 0·−2).
    np.testing.assert_array_equal(host(grads.biases[1]), [-1])
    np.testing.assert_array_equal(host(grads.weights[1]), [[-1], [1]])
    # BP2: δ¹ = δ² W²ᵀ ⊙ σ′(z¹) = (2, 1) ⊙ (1, 1) and (−4, −2) ⊙ (1, 0) = (2, 1) and (−4, 0).
    np.testing.assert_array_equal(host(grads.biases[0]), [-2, 1])
    np.testing.assert_array_equal(host(grads.weights[0]), [[1 * 2 + 2 * -4, 1 * 1], [1 * 2, 1 * 1]])


def test_nielsens_sigmoid_network_worked_by_hand(mlp):
    """1-1-1 with both z = 0: a = ½ and σ′ = ¼ at either layer.

    x = 2, w¹ = 1, b¹ = −2: z¹ = 0.  w² = 2, b² = −1: z² = 2·½ − 1 = 0.  y = 1: C = ½(½ − 1)² = ⅛.
    """
    net = mlp([1, 1, 1], "sigmoid", "half_squared_error", output_activation="sigmoid")
    set_layers(net, ([[1]], [-2]), ([[2]], [-1]))

    loss, grads = net.gradients([[2]], [1])

    assert loss == 1 / 8
    delta2 = (1 / 2 - 1) * 1 / 4  # BP1: ∇ₐC ⊙ σ′(z²)
    delta1 = delta2 * 2 * 1 / 4  # BP2: δ² w² σ′(z¹)
    assert grads.biases[1] == delta2 and grads.weights[1] == 1 / 2 * delta2
    assert grads.biases[0] == delta1 and grads.weights[0] == 2 * delta1


def test_cross_entropy_worked_by_hand(mlp):
    """Logits 0, 0, 0, 0: probabilities ¼, C = ln 4; δ = ¼ − 1 at the class and ¼ elsewhere."""
    net = mlp([1, 4], loss="cross_entropy", init="zeros")
    loss, grads = net.gradients([[3.0]], [2])
    assert loss == pytest.approx(np.log(4), rel=1e-7)
    np.testing.assert_array_equal(host(grads.biases[0]), [0.25, 0.25, -0.75, 0.25])
    np.testing.assert_array_equal(host(grads.weights[0]), [[0.75, 0.75, -2.25, 0.75]])


# -- one by one, sample by sample -------------------------------------------------------------------------


def test_bp1_is_the_weighted_mean_of_the_samples_deltas(backend, rng):
    z, y = rng.standard_normal((3, 6, 4)), rng.standard_normal((1, 6, 4))
    weight, normalizer = rng.random((1, 6)), np.array([0.5, 2.0, 0.0])
    logits, grad_b = backend.from_host(z.copy(), backend.dtype), backend.empty((3, 1, 4))
    epoch = one_step(backend, 3, normalizer=normalizer)
    output = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
    batch = Batch(
        X=None,
        y=backend.from_host(y, backend.dtype),
        weight=backend.from_host(weight),
        smoothing=backend.zeros((3,), np.float64),
    )
    backend.loss_delta(get_loss("half_squared_error"), output, batch, epoch, grad_b)
    close = {"rtol": 30 * np.finfo(backend.dtype).eps, "atol": 10 * np.finfo(backend.dtype).eps}
    for k in range(3):
        deltas = [weight[0, i] * normalizer[k] * (z[k, i] - y[0, i]) for i in range(6)]
        values = [weight[0, i] * 0.5 * np.sum((z[k, i] - y[0, i]) ** 2) for i in range(6)]
        np.testing.assert_allclose(host(logits)[k], deltas, **close)
        np.testing.assert_allclose(host(grad_b)[k, 0], sum(deltas), **close)  # BP3
        np.testing.assert_allclose(host(epoch.totals)[k, 0, 0], sum(values), **close)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bp2_and_bp3_multiply_by_the_slope_and_sum_over_samples(backend, rng, name):
    activation = get_activation(name)
    z, grad = rng.standard_normal((2, 3, 7, 5))
    z, grad = z.astype(backend.dtype), grad.astype(backend.dtype)
    a = activation.f(XP, z)
    slope = activation.derivative(XP, a if activation.derivative_from == "a" else z)
    delta, grad_b = backend.from_host(grad.copy()), backend.empty((3, 1, 5))
    cache = LayerCache(0, z=backend.from_host(z), a=backend.from_host(a), delta=delta, mask=None)
    backend.hadamard_derivative(activation, cache, grad_b)
    close = {"rtol": 30 * np.finfo(backend.dtype).eps, "atol": 10 * np.finfo(backend.dtype).eps}
    for k in range(3):
        for i in range(7):
            np.testing.assert_allclose(host(delta)[k, i], grad[k, i] * slope[k, i], **close)
        np.testing.assert_allclose(host(grad_b)[k, 0], sum(grad[k] * slope[k]), **close)


def test_bp4_is_the_sum_of_the_samples_outer_products(backend, rng):
    """And the input may be shared by the whole stack, where it has a leading axis of 1."""
    a_prev, delta = rng.standard_normal((1, 7, 4)), rng.standard_normal((3, 7, 5))
    grad_W = backend.empty((3, 4, 5))
    backend.matmul(
        backend.from_host(a_prev, backend.dtype),
        backend.from_host(delta, backend.dtype),
        out=grad_W,
        transpose_a=True,
    )
    for k in range(3):
        outer = sum(np.outer(a_prev[0, i], delta[k, i]) for i in range(7))
        np.testing.assert_allclose(host(grad_W)[k], outer, rtol=0, atol=100 * np.finfo(backend.dtype).eps)


def test_forward_is_one_affine_map_and_one_activation_per_layer(mlp, backend, rng):
    net = mlp([3, 5, 4, 2], ["tanh", "gelu"], "half_squared_error", init="standard_normal", seed=3)
    X = rng.standard_normal((6, 3))
    found = net.forward(X)
    for i in range(6):
        a = X[i]
        for W, b, activation in zip(net.weights, net.biases, net.stack.network.activations, strict=True):
            a = activation.f(XP, a @ host(W).astype(np.float64) + host(b))
        np.testing.assert_allclose(found[i], a, rtol=1e-4 if backend.precision == "float32" else 1e-13)


# -- stacks and buffers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("sizes", UNEVEN, ids=str)
def test_a_stack_has_the_bits_of_its_networks_alone(mlp, rng, sizes, rows, dropout):
    X, y = rng.standard_normal((rows, sizes[0])), rng.standard_normal((rows, sizes[-1]))
    settings = {"activations": "gelu", "loss": "half_squared_error", "init": "standard_normal"}
    weight = rng.random(rows) + 0.1
    stack = mlp(sizes, **settings, seed=5, models=4)
    loss, grads = stack.gradients(X, y, weight, l2=0.1, dropout=dropout, step=9)
    outputs = stack.forward(X)
    for k in range(4):
        solo = mlp(sizes, **settings, seed=5 + k)
        solo_loss, solo_grads = solo.gradients(X, y, weight, l2=0.1, dropout=dropout, step=9)
        alike(stack.stack.backend, loss[k], solo_loss)
        alike(stack.stack.backend, outputs[k], solo.forward(X))
        for part, solo_part in zip(grads, solo_grads, strict=True):
            for g, solo_g in zip(part, solo_part, strict=True):
                alike(stack.stack.backend, g[k], solo_g)


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("sizes", UNEVEN, ids=str)
def test_a_short_batch_in_larger_buffers_has_the_bits_of_exact_buffers(mlp, backend, rng, sizes, models):
    """What a longer batch left in the buffers, here NaN, is never read."""
    X, y = rng.standard_normal((1, 5, sizes[0])), rng.standard_normal((1, 5, sizes[-1]))
    X, y = backend.from_host(X, backend.dtype), backend.from_host(y, backend.dtype)
    stack = mlp(sizes, "silu", "half_squared_error", init="standard_normal", models=models).stack
    batch = Batch(X, y, weight=None, smoothing=backend.zeros((models,), np.float64))

    def computed(rows):
        caches = stack.caches(rows)
        for cache in caches:
            cache.z[...] = cache.a[...] = cache.delta[...] = np.nan
        grad, epoch = backend.zeros(stack.theta.shape), one_step(backend, models, normalizer=0.2)
        first = [cache.first(5) for cache in caches]
        gradients(backend, stack.network, batch, first, stack.layout.layers(grad), epoch)
        return host(grad), host(epoch.totals)

    exact, larger = computed(5), computed(12)
    assert np.isfinite(exact[0]).all()
    np.testing.assert_array_equal(exact[0], larger[0])
    np.testing.assert_array_equal(exact[1], larger[1])


@on_the_reference
def test_blocks_of_rows_do_not_show(mlp, rng, monkeypatch):
    """The same bits whether formulas run over all rows at once or over three at a time."""
    net = mlp([6, 8, 7, 3], "mish", "cross_entropy", models=2)
    X, y = rng.standard_normal((20, 6)), rng.integers(3, size=20)
    whole = net.gradients(X, y, dropout=0.4, step=2)
    monkeypatch.setattr("gpubp.backends.reference.BLOCK", 48)
    parts = net.gradients(X, y, dropout=0.4, step=2)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(flat(whole[1]), flat(parts[1]))


PAGES = """
import resource, numpy as np
from gpubp.activations import get_activation
from gpubp.backends import Layer, LayerCache
from gpubp.backends.reference import BLOCK, ReferenceBackend
backend, mish = ReferenceBackend(np.float64), get_activation("mish")
z, layer = backend.zeros((1, 1, BLOCK)), Layer(None, backend.zeros((1, 1, BLOCK)))
cache = LayerCache(0, z, z, z, None)
def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        backend.bias_activation(mish, layer, cache)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
print(faults(100))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is how glibc keeps memory")
def test_temporaries_find_their_memory_again():
    """Each is 64 pages; a process that has freed nothing large must not fetch them from the system every time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PAGES], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 100


def test_backward_leaves_the_parameters_and_the_input_alone(mlp, backend, rng):
    net = mlp([3, 4, 2], "relu", "half_squared_error")
    X, y = rng.standard_normal((5, 3)).astype(backend.dtype), rng.standard_normal((5, 2)).astype(backend.dtype)
    theta, X_before, y_before = host(net.theta).copy(), X.copy(), y.copy()
    net.gradients(X, y, dropout=0.5, l2=1.0)
    np.testing.assert_array_equal(host(net.theta), theta)
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)


def test_a_cache_of_fewer_rows_keeps_z_and_a_one_buffer(backend):
    """Where σ′ is read off a, activation happens in place also in a short batch."""
    z = backend.zeros((1, 4, 2))
    shared = LayerCache(0, z, z, backend.zeros((1, 4, 2)), None).first(3)
    assert shared.z is shared.a and shared.z.shape == (1, 3, 2)
    apart = LayerCache(0, z, backend.zeros((1, 4, 2)), z, z).first(3)
    assert apart.z is not apart.a and apart.mask.shape == (1, 3, 2)
