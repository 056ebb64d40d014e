"""Planted faults: each is found, and named by its equation, its layer and the mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpubp import MLP, Activation, DataError, check_gradients
from gpubp.activations import get_activation
from gpubp.losses import get_loss

ROWS = 7
X = np.random.default_rng(0).standard_normal((ROWS, 4))
CLASSES = np.random.default_rng(1).integers(3, size=ROWS)
VALUES = np.random.default_rng(2).uniform(0.1, 0.9, (ROWS, 3))


def network(activations="tanh", loss="cross_entropy", **options) -> MLP:
    """Square hidden layers, so that a transposed W has the right shape."""
    options = {"precision": "float64", "device": "cpu-reference", "seed": 3, **options}
    return MLP([4, 4, 4, 3], activations, loss, **options)


def students(net: MLP, y, *, slope=True, scale=1.0, transpose=True, biases=np.sum) -> tuple[list, list]:
    """Gradients by a student's own pass, with or without a mistake in it; hidden layers are tanh."""
    a, zs, activations = X, [], [X]
    for W, b in zip(net.weights, net.biases, strict=True):
        z = a @ W + b
        zs.append(z)
        a = np.tanh(z)
        activations.append(a)
    e = np.exp(zs[-1])
    delta = (e / e.sum(axis=1, keepdims=True) - np.eye(3)[y]) / ROWS * scale
    weights, bias_gradients = [], []
    for l in (2, 1, 0):
        weights.insert(0, activations[l].T @ delta)
        bias_gradients.insert(0, delta if biases is None else biases(delta, axis=0))
        if l:
            W = net.weights[l]
            delta = delta @ (W.T if transpose or W.shape[0] != W.shape[1] else W)
            delta = delta * (1 - np.tanh(zs[l - 1]) ** 2) if slope else delta
    return weights, bias_gradients


def faults(net: MLP, y, gradients=None, **settings) -> tuple[str, ...]:
    check = check_gradients(net, X, y, gradients=gradients, **settings)
    assert not check.ok
    return check.faults


def test_a_students_right_gradients_are_approved():
    net = network()
    check = check_gradients(net, X, CLASSES, gradients=students(net, CLASSES))
    assert check.ok and check.faults == ()


@pytest.mark.parametrize("layer", [0, 1])
def test_a_derivative_off_by_1e_8(layer):
    right = get_activation("tanh")
    wrong = Activation("my_tanh", right.f, lambda xp, x: right.derivative(xp, x) * (1 + 1e-8), "a")
    activations = [wrong if l == layer else "tanh" for l in range(2)]
    found = faults(network(activations), CLASSES)
    assert len(found) == 1
    assert found[0].startswith(f"BP2, layer {layer + 1}: δ is wrong, by 1.0e-08") and "σ′" in found[0]


def test_a_wrong_gradient_of_a_loss():
    right = get_loss("half_squared_error")

    def formula(xp, z, y, smoothing):
        value, delta = right.formula(xp, z, y, smoothing)
        return value, delta + 1e-3 * z

    wrong = replace(right, name="mine", formula=formula, scalar_value=None, scalar_delta=None)
    found = faults(network(loss=wrong), VALUES)
    assert len(found) == 1 and found[0].startswith("BP1, layer 3, the output layer: δ is wrong, by")
    assert "the loss's gradient" in found[0] and "layers below inherit it" in found[0]


def test_a_missing_mean():
    net = network()
    (found,) = faults(net, CLASSES, students(net, CLASSES, scale=ROWS))
    assert found.startswith("BP1: every gradient is 7 times") and "1/m is missing" in found


def test_a_mean_taken_twice():
    net = network()
    (found,) = faults(net, CLASSES, students(net, CLASSES, scale=1 / ROWS))
    assert "1/m is there twice" in found


def test_a_wrong_sign():
    net = network()
    (found,) = faults(net, CLASSES, students(net, CLASSES, scale=-1.0))
    assert "the sign is wrong" in found


def test_a_bias_gradient_that_is_not_summed():
    net = network()
    found = faults(net, CLASSES, students(net, CLASSES, biases=None))
    assert [text.partition(":")[0] for text in found] == ["BP3, layer 1", "BP3, layer 2", "BP3, layer 3"]
    assert all("∂C/∂b is its sum over the rows" in text for text in found)


def test_a_bias_gradient_that_is_a_mean():
    net = network()
    found = faults(net, CLASSES, students(net, CLASSES, biases=np.mean))
    assert len(found) == 3 and all(text.startswith("BP3") and "the mean of δ" in text for text in found)


def test_weights_that_were_not_transposed():
    net = network()
    (found,) = faults(net, CLASSES, students(net, CLASSES, transpose=False))
    assert found.startswith("BP2, layer 1: W of the layer above is not transposed")


def test_a_delta_without_slope_is_named_in_each_layer():
    net = network()
    found = faults(net, CLASSES, students(net, CLASSES, slope=False))
    assert [text.partition(":")[0] for text in found] == ["BP2, layer 2", "BP2, layer 1"]
    assert all("σ′(z) is missing" in text for text in found)


@pytest.mark.parametrize("square", [True, False])
def test_a_transposed_gradient(square):
    net = network()
    weights, biases = students(net, CLASSES)
    l = 1 if square else 2
    weights[l] = weights[l].T
    (found,) = faults(net, CLASSES, (weights, biases))
    assert found.startswith(f"BP4, layer {l + 1}") and "transpose" in found


def test_a_slope_missing_from_bp1():
    net = network(loss="half_squared_error", output_activation="sigmoid")
    _, right = net.gradients(X, VALUES)
    traced = net.trace(X, VALUES)
    delta, weights, biases = traced.grad_a, [], []
    for layer, a_prev in zip(reversed(traced.layers), (traced.layers[1].a, traced.layers[0].a, X), strict=True):
        if layer.number < 3:
            delta = delta * layer.derivative
        weights.insert(0, a_prev.T @ delta)
        biases.insert(0, delta.sum(axis=0))
        delta = delta @ layer.W.T
    (found,) = faults(net, VALUES, (weights, biases))
    assert found.startswith("BP1, layer 3, the output layer: σ′(z) is missing")


def test_faults_are_found_beside_a_penalty_and_weights():
    net, weight = network(), np.linspace(0, 2, ROWS)
    _, right = net.gradients(X, CLASSES, weight, l2=0.3)
    mine = [*right.weights[:2], right.weights[2] * 1.5], right.biases
    check = check_gradients(net, X, CLASSES, weight, l2=0.3, gradients=mine)
    (found,) = check.faults
    assert found.startswith("BP4, layer 3, the output layer: ∂C/∂W is off by")
    assert "GRADIENTS ARE WRONG" in str(check) and found in str(check)


def test_gradients_without_an_array_for_each_layer():
    net = network()
    weights, biases = students(net, CLASSES)
    with pytest.raises(DataError, match="hold 2 arrays for weights and 3 for biases; the network has 3 layers"):
        check_gradients(net, X, CLASSES, gradients=(weights[1:], biases))
    with pytest.raises(DataError, match="must be a pair"):
        check_gradients(net, X, CLASSES, gradients=weights[0])
