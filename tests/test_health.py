"""Planted sickness is named, with a remedy; a healthy training has no verdict."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gpubp import MLP, UsageError, train
from gpubp.activations import ACTIVATIONS, get_activation
from gpubp.diagnostics.health import examine, loss_of_constant, sample_of_rows, steepest
from gpubp.losses import get_loss

X, Y = load_digits(return_X_y=True)
X, X_TEST, Y, Y_TEST = X[:1000] / 16, X[1400:] / 16, Y[:1000], Y[1400:]


def trained(X=X, y=Y, activation="relu", init="auto", sizes=(64, 64, 32, 10), plant=None, **options):
    net = MLP(sizes, activation, init=init, device="cpu-reference")
    if plant:
        plant(net)
    options = {"epochs": 12, "batch_size": 64, "learning_rate": 2e-3, **options}
    return train(net, X, y, validation_data=(X_TEST, Y_TEST), diagnostics=True, **options)


def verdicts(**sickness) -> str:
    history = trained(**sickness)
    return "\n".join(history.health.verdicts(history))


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_healthy_training_has_no_verdict(activation):
    history = trained(activation=activation)
    assert history.health.verdicts(history) == []
    looks = history.health.looks
    assert len(looks) == 1 + history.epochs and all(len(look) == 3 for look in looks)
    assert np.isnan(looks[0][0].change) and 0 < looks[-1][0].change < 1
    assert [layer.number for layer in looks[0]] == [1, 2, 3]


def scaled(factor):
    def plant(net):
        for W in net.weights:
            W *= factor

    return plant


def switched_off(net):
    net.biases[0][...] = -50.0


def test_a_saturated_stack():
    assert "of its tanh activations are saturated" in verdicts(activation="tanh", plant=scaled(20))


def test_dead_units():
    assert verdicts(plant=switched_off).startswith("layer 1: 100% of units never fire; lower the learning rate, or")


def test_first_weights_that_are_too_large():
    text = verdicts(init="standard_normal")
    assert "before training its activations are" in text and 'init="auto"' in text


@pytest.mark.parametrize("options", [{"learning_rate": 0.3}, {"optimizer": "sgd", "learning_rate": 3.0}])
def test_a_learning_rate_that_is_too_high(options):
    assert "lower the learning rate" in verdicts(**options)


def test_a_training_that_is_too_short():
    text = verdicts(learning_rate=1e-5, plant=scaled(2))
    assert "fell in every epoch, but ended at" in text and "train longer" in text and "lower the" not in text


def test_inputs_that_were_not_scaled():
    assert verdicts(X=X * np.linspace(1, 1e4, 64)).startswith("inputs: a column has values around")


def test_targets_that_are_noise():
    noise = np.random.default_rng(0).integers(10, size=len(Y))
    assert "the targets may not depend on the inputs" in verdicts(y=noise, epochs=40)


def test_gradients_that_vanish():
    text = verdicts(activation="sigmoid", sizes=(64, *[30] * 8, 10), epochs=2)
    assert text.startswith("gradients vanish: that of layer 1 has") and "use relu" in text


def test_a_trained_network_is_examined():
    net = MLP([64, 32, 10], device="cpu-reference")
    train(net, X, Y, epochs=5)
    health = examine(net.stack, *net.stack.checked(X, Y))
    assert health.verdicts() == [] and health.looks[0][0].weight_norm == pytest.approx(np.linalg.norm(net.weights[0]))
    switched_off(net)
    assert "100% of units never fire" in examine(net.stack, *net.stack.checked(X, Y)).verdicts()[0]


def test_looking_changes_nothing():
    curves, weights = [], []
    for diagnostics in (False, True):
        net = MLP([64, 16, 10], device="cpu-reference")
        curves.append(train(net, X, Y, epochs=3, dropout=0.2, diagnostics=diagnostics).loss)
        weights.append(net.theta.copy())
    assert curves[0] == curves[1]
    np.testing.assert_array_equal(*weights)


def test_the_loss_of_a_constant_is_the_least():
    y = np.array([0, 0, 1, 2, 2, 2])
    assert loss_of_constant(get_loss("cross_entropy"), y, None, 3) == pytest.approx(1.0114042647)
    labels = np.array([[0, 1], [1, 1], [0, 1], [0, 0]])
    expected = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) * 2
    assert loss_of_constant(get_loss("binary_cross_entropy"), labels, None, 2) == pytest.approx(expected)
    assert loss_of_constant(get_loss("half_squared_error"), np.array([1.0, 3.0]), None, 1) == pytest.approx(0.5)
    counts = np.array([0.0, 2.0, 4.0])
    assert loss_of_constant(get_loss("poisson"), counts, None, 1) == pytest.approx(2 - 2 * np.log(2))
    assert np.isnan(loss_of_constant(get_loss("huber"), counts, None, 1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_steepest_slope(name):
    assert 0.2 < steepest(get_activation(name)) < 1e4


def test_rows_that_are_looked_at():
    assert len(sample_of_rows(10)) == 10 and len(sample_of_rows(1000)) == 32 and len(sample_of_rows(60_000)) == 256
    assert sample_of_rows(60_000)[-1] == 59_999


def test_of_some_rows_those_alone_are_looked_at_with_the_weights_of_their_classes():
    rows = np.random.default_rng(4).permutation(1000)[:300]
    some, alone = (
        trained(**data, class_weight="balanced", batch_size=50, epochs=2, sizes=(64, 16, 10))
        for data in ({"rows": [rows]}, {"X": X[rows], "y": Y[rows]})
    )
    assert repr(some.health.looks[0]) == repr(alone.health.looks[0])  # since no NaN is another
    assert some.health.constant_loss == pytest.approx(alone.health.constant_loss, rel=1e-12)
    assert some.health.largest_input == alone.health.largest_input


def test_a_stack_is_refused():
    with pytest.raises(UsageError, match="diagnostics looks at a single network; this is a stack of 2"):
        train(MLP([64, 10], models=2), X, Y, diagnostics=True)
