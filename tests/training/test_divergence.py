"""Trainings whose weights stay finite while what they make of finite rows does not."""

from __future__ import annotations

import numpy as np
import pytest

import gpubp
from gpubp import DivergenceError
from gpubp.training.divergence import with_finite_outputs
from gpubp.training.samples import Samples

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)
DEVICES = ["cpu-reference", "cpu"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("validation", [None, (X, Y)])
def test_a_last_update_after_which_no_loss_is_finite_is_a_divergence(device, validation):
    net = gpubp.MLP([3, 8, 2], seed=0, device=device)
    with pytest.raises(DivergenceError, match="weights are finite, but so large that the loss is not") as caught:
        gpubp.train(net, X, Y, learning_rate=1e20, epochs=1, batch_size=60, validation_data=validation)
    assert caught.value.history.stopped == "diverged" and caught.value.history.epochs == 1
    assert all(np.isfinite(W).all() for W in net.weights)


def test_a_network_of_a_stack_is_diverged_and_the_others_are_not():
    net = gpubp.MLP([3, 8, 2], seed=0, models=3, device="cpu-reference")
    history = gpubp.train(net, X, Y, learning_rate=[1e-3, 1e20, 1e-3], epochs=1, batch_size=60)
    assert history.stopped == ["epochs", "diverged", "epochs"]
    alone = gpubp.MLP([3, 8, 2], seed=0, device="cpu-reference")
    gpubp.train(alone, X, Y, learning_rate=1e-3, epochs=1, batch_size=60)
    np.testing.assert_array_equal(net.theta[0], alone.theta[0])


def test_a_validation_loss_that_is_not_finite_ends_the_training_and_the_best_weights_are_kept():
    net = gpubp.MLP([3, 8, 1], "relu", "poisson", seed=0, device="cpu-reference")
    far = (np.full((4, 3), 1e4), np.ones(4))
    with pytest.raises(DivergenceError):
        gpubp.train(net, X, Y.astype(float), learning_rate=0.1, epochs=50, validation_data=far, patience=40)
    assert all(np.isfinite(W).all() for W in net.weights)


def test_rows_that_are_looked_at_are_those_of_each_network():
    net = gpubp.MLP([3, 8, 2], seed=0, models=2, device="cpu-reference")
    rows = [np.arange(30), np.arange(30, 60)]
    history = gpubp.train(net, X, Y, rows=rows, learning_rate=[1e-3, 1e20], epochs=1, batch_size=30)
    assert history.stopped == ["epochs", "diverged"]


@pytest.mark.parametrize(("columns", "count"), [(1, 1024), (255, 128), (4095, 8)])
def test_the_first_rows_are_looked_at_as_many_as_take_little_memory(columns, count):
    """At most 1024 rows, 2¹⁵ values of all layers, and 8 rows whatever they take."""
    net = gpubp.MLP([columns, 1], loss="half_squared_error", seed=0, device="cpu-reference")
    net.weights[0][:] = 1e20
    rows = np.zeros((count + 2, columns))
    rows[count] = 1e20  # whose output is infinite
    for first, stopped in ((0, "epochs"), (1, "diverged")):
        samples = Samples(rows[first:], np.zeros((count + 2 - first, 1)), None)
        history = gpubp.History("rmse")
        if stopped == "diverged":
            with pytest.raises(DivergenceError):
                with_finite_outputs(history, net.stack, samples)
        else:
            assert with_finite_outputs(history, net.stack, samples) is history
        assert history.stopped == stopped
