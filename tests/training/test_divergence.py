"""Trainings that leave the finite numbers: how it is found and told, and where their weights are then."""

from __future__ import annotations

import numpy as np
import pytest

import gpubp
from gpubp import DivergenceError, train
from gpubp.training.divergence import with_finite_outputs
from gpubp.training.samples import Samples
from support.machines import alike, in_float64
from support.trainings import all_finite, blobs, digest

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


# -- weights that are not finite ----------------------------------------------------------------------------


def line(m: int = 20):
    X = np.linspace(-1, 1, m)[:, None]
    return X, 3 * X[:, 0]


def test_divergence_names_step_layer_and_advice_and_keeps_the_last_finite_weights(mlp):
    X, y = line()
    net, states = mlp([1, 4, 1], "identity", "half_squared_error"), []

    def remember(net, history):
        states.append(digest(net))

    with pytest.raises(DivergenceError) as caught:
        train(net, X, y, optimizer="sgd", learning_rate=50.0, batch_size=20, epochs=5000, callbacks=[remember])
    error = caught.value
    assert error.step == len(states) > 2 and error.layer in (1, 2)
    assert digest(net) == states[-1] and all_finite(net)
    for part in (f"step {error.step}", f"layer {error.layer} of 2", "learning rate 50", "ten times smaller"):
        assert part in str(error)


def test_divergence_is_found_in_the_epoch_in_which_it_happens(mlp):
    X, y = line()
    net = mlp([1, 4, 1], "identity", "half_squared_error")
    with pytest.raises(DivergenceError) as caught:
        train(net, X, y, optimizer="sgd", learning_rate=50.0, batch_size=1, epochs=5000)
    assert caught.value.step < 20 and "(epoch 1," in str(caught.value)
    assert all_finite(net)


@pytest.mark.parametrize("batch_size", [20, 5], ids=["last step", "inner step"])
def test_an_update_that_itself_overflows_goes_back_to_the_epochs_start(mlp, batch_size):
    """Loss and gradient are finite, the weights after the step are not."""
    X, y = line()
    net = mlp([1, 4, 1], "tanh", "half_squared_error")
    before, rate = digest(net), 0.9 * float(np.finfo(net.stack.backend.dtype).max)
    with pytest.raises(DivergenceError, match="an update overflowed") as caught:
        train(net, X, 10 * y, optimizer="sgd", learning_rate=rate, batch_size=batch_size, epochs=3)
    assert caught.value.layer is None
    assert digest(net) == before


def test_divergence_in_a_hidden_layer_names_that_layer(mlp):
    X, y = blobs()
    net = mlp([4, 3, 5, 3], ["tanh", "exponential"])
    net.weights[1][...] = 1e4
    net.weights[0][...] = 1.0
    with pytest.raises(DivergenceError, match="activations overflowed in layer 2 of 3") as caught:
        train(net, X, y, epochs=1)
    assert caught.value.layer == 2 and caught.value.step == 0


@in_float64
def test_a_norm_that_overflows_is_found_in_the_layer_of_the_largest_gradient(mlp):
    """Inputs of 1e300 leave loss and gradient finite, but not the gradient's square."""
    X, y = blobs()
    net = mlp([4, 5, 3], "identity")
    net.weights[0][...] *= 1e-250  # so that only what the inputs multiply is large
    with pytest.raises(DivergenceError, match="the norm of the gradient overflowed in layer 1 of 2") as caught:
        train(net, X * 1e300, y, epochs=1)
    assert caught.value.layer == 1 and "inputs scaled to about unit variance" in str(caught.value)


def test_a_stack_goes_on_without_the_networks_that_diverged(mlp):
    X, y = line()
    settings = {"optimizer": "sgd", "batch_size": 7, "epochs": 40}
    stack = mlp([1, 4, 1], "identity", "half_squared_error", models=3)
    history = train(stack, X, y, learning_rate=[0.01, 50.0, 0.05], **settings)
    assert history.stopped == ["epochs", "diverged", "epochs"] and history.epochs == 40
    assert all_finite(stack)
    assert np.isnan(history.loss[-1][1]) and np.isfinite(history.loss[-1][[0, 2]]).all()
    for k, rate in ((0, 0.01), (2, 0.05)):
        solo = mlp([1, 4, 1], "identity", "half_squared_error", seed=k)
        train(solo, X, y, learning_rate=rate, seed=k, **settings)
        alike(stack.stack.backend, stack.theta[k], solo.theta[0])


def test_a_stack_that_diverges_to_the_last_network_raises(mlp):
    X, y = line()
    stack = mlp([1, 4, 1], "identity", "half_squared_error", models=2)
    with pytest.raises(DivergenceError, match="network [01]: training diverged"):
        train(stack, X, y, optimizer="sgd", learning_rate=[50.0, 60.0], epochs=5000)
    assert all_finite(stack)


def test_divergence_under_early_stopping_returns_to_the_best_weights(mlp):
    """Good epochs, then a learning rate that breaks them."""
    X, y = line()
    net = mlp([1, 4, 1], "identity", "half_squared_error")

    def factor(progress):
        return np.where(progress.step < 10, 0.01, 1e6)

    losses = []
    with pytest.raises(DivergenceError):
        train(
            net, X, y, validation_data=(X, y), optimizer="sgd", learning_rate=1.0, schedule=factor,
            batch_size=20, epochs=200, patience=100, callbacks=[lambda net, h: losses.append(h.validation_loss[-1])],
        )  # fmt: skip
    assert net.evaluate(X, y)["loss"] == min(losses)
