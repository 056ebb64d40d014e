"""When a training ends: patience, a tolerance of updates, callbacks, and exceptions in them."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import MLP, train
from support.machines import host, in_float64
from support.trainings import blobs, digest


def overfitting():
    """Noise as targets: the validation loss soon rises."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 40, 5)), rng.integers(2, size=(2, 40))
    return (X[0], y[0]), (X[1], y[1])


def test_patience_stops_and_keeps_the_best_weights(mlp):
    data, validation = overfitting()
    net, best = mlp([5, 30, 2]), {}

    def remember(net, history):
        best[history.validation_loss[-1]] = digest(net)

    history = train(
        net, *data, validation_data=validation, learning_rate=0.02, epochs=200, patience=4, callbacks=[remember]
    )
    assert history.stopped == "patience"
    losses = history.validation_loss
    assert history.best_epoch == int(np.argmin(losses)) == history.epochs - 1 - 4
    assert digest(net) == best[min(losses)]
    assert net.evaluate(*validation)["loss"] == min(losses)


def test_patience_keeps_the_best_weights_also_when_it_was_never_exhausted():
    data, validation = overfitting()
    net = MLP([5, 30, 2])
    history = train(net, *data, validation_data=validation, learning_rate=0.02, epochs=60, patience=1000)
    assert history.stopped == "epochs" and history.best_epoch < 59
    assert net.evaluate(*validation)["loss"] == min(history.validation_loss)


def test_without_patience_the_last_weights_stay_and_the_best_epoch_is_told():
    data, validation = overfitting()
    net = MLP([5, 30, 2])
    history = train(net, *data, validation_data=validation, learning_rate=0.02, epochs=60)
    assert history.best_epoch == int(np.argmin(history.validation_loss)) < 59
    assert net.evaluate(*validation)["loss"] == history.validation_loss[-1] > min(history.validation_loss)


def test_validation_data_may_carry_weights(mlp):
    data, (X, y) = overfitting()
    net, weight = mlp([5, 4, 2]), np.arange(1.0, 41)
    history = train(net, *data, validation_data=(X, y, weight), epochs=1)
    assert history.validation_loss[0] == net.evaluate(X, y, weight)["loss"] != net.evaluate(X, y)["loss"]


@in_float64
def test_update_tolerance_stops_once_an_epoch_moves_nothing_by_more(mlp):
    """sgd with the learning rate halved every epoch: the largest update of an epoch falls below 1e-3."""
    X, y = blobs(12)
    net, largest = mlp([4, 5, 3]), []
    before = host(net.theta).copy()

    def measure(net, history):
        largest.append(np.abs(host(net.theta) - before).max())
        before[...] = host(net.theta)

    history = train(
        net, X, y, optimizer="sgd", learning_rate=0.5, schedule="exponential(0.5)", batch_size=12, epochs=100,
        update_tolerance=1e-3, callbacks=[measure],
    )  # fmt: skip
    assert history.stopped == "update_tolerance"
    assert largest[-1] <= 1e-3 < min(largest[:-1])


def test_update_tolerance_looks_at_every_step_of_an_epoch(mlp):
    """Steps there and back leave no change over an epoch, but did move."""
    X, y = np.ones((2, 1)), np.array([1.0, -1.0])
    net = mlp([1, 1], loss="half_squared_error", init="zeros")
    history = train(
        net, X, y, optimizer="sgd", learning_rate=0.25, batch_size=1, epochs=4, shuffle=False, update_tolerance=0.1
    )
    assert history.stopped == "epochs" and history.epochs == 4


def test_callbacks_run_after_every_epoch_and_may_end_the_training(mlp):
    X, y = blobs()
    net, seen = mlp([4, 5, 3]), []

    def note(net, history):
        seen.append((digest(net), history.epochs, history.steps))
        return "not True"

    def enough(net, history):
        return history.epochs == 3

    history = train(net, X, y, batch_size=30, epochs=10, callbacks=[enough, note])
    assert history.stopped == "callback" and history.epochs == 3
    assert [(epochs, steps) for _, epochs, steps in seen] == [(1, 2), (2, 4), (3, 6)]
    assert seen[-1][0] == digest(net) != seen[0][0]


@pytest.mark.parametrize("answer", [True, np.True_, False, np.False_, None, 1, "stop"])
def test_a_callback_ends_the_training_by_a_truth_value_of_python_or_numpy(answer):
    history = train(MLP([4, 5, 3]), *blobs(12), epochs=2, callbacks=[lambda net, history: answer])
    assert history.epochs == (1 if isinstance(answer, bool | np.bool_) and answer else 2)


def test_an_exception_in_a_callback_leaves_the_best_weights():
    data, validation = overfitting()
    net, losses = MLP([5, 30, 2]), []

    def fail(net, history):
        losses.append(history.validation_loss[-1])
        if history.epochs == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(net, *data, validation_data=validation, learning_rate=0.05, epochs=50, patience=50, callbacks=[fail])
    assert losses[-1] > min(losses)
    assert net.evaluate(*validation)["loss"] == min(losses)
