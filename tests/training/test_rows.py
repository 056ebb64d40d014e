"""Data that does not fit on the device: the same training, a segment of the rows at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import gpubp
from gpubp.errors import DeviceError
from gpubp.optimizers import get_optimizer
from gpubp.training.device_data import DeviceData
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table
from support.machines import host


def trained(mlp, monkeypatch, room=None, **settings):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(53, 6)), rng.integers(0, 3, 53)
    net = mlp([6, 9, 3], models=settings.pop("models", 1))
    if room is not None:
        needed = net.memory(8, "adam")
        beside = needed["total"] - needed["parameters"]
        monkeypatch.setattr(net.stack.backend, "free_memory", lambda: beside + room)
    history = gpubp.train(net, X, y, batch_size=8, epochs=3, **settings)
    return net.stack.backend.to_host(net.theta), np.array(history.loss)


@pytest.mark.parametrize("room", [0, 2000])  # a batch at a time; several
@pytest.mark.parametrize(
    "settings",
    [{}, {"models": 3, "seed": [4, 5, 6]}, {"sample_weight": np.linspace(0.5, 1.5, 53)}, {"shuffle": False}],
    ids=["one network", "three orders", "weights", "in order"],
)
def test_streamed_rows_train_as_resident_ones_do(mlp, monkeypatch, room, settings):
    theta, loss = trained(mlp, monkeypatch, **settings)
    streamed, streamed_loss = trained(mlp, monkeypatch, room, **settings)
    np.testing.assert_array_equal(streamed, theta)
    np.testing.assert_array_equal(streamed_loss, loss)


def test_a_divergence_is_found_in_the_segment_where_it_happened(mlp, monkeypatch):
    with pytest.raises(gpubp.DivergenceError) as resident:
        trained(mlp, monkeypatch, learning_rate=1e300)
    with pytest.raises(gpubp.DivergenceError) as streamed:
        trained(mlp, monkeypatch, room=0, learning_rate=1e300)
    assert str(streamed.value) == str(resident.value)


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does_where_nobody_cuts_it(mlp, monkeypatch):
    stack, rule, none = mlp([6, 9, 3]).stack, get_optimizer("adam"), np.zeros(1)
    needed = stack.memory(64, rule)
    monkeypatch.setattr(stack.backend, "free_memory", lambda: needed["optimizer"] + needed["activations"] / 2)
    options = {name: np.full(1, value) for name, value in rule.options.items()}
    with pytest.raises(DeviceError, match="batch_size=32 would fit"):
        TrainingStep(
            stack, (np.zeros((64, 6)), np.zeros(64, int), None), 64, initial_state(stack, rule, options), none, none
        )


@pytest.mark.parametrize(
    ("batches", "orders", "segment"), [(3.0, 1, 24), (2.99, 1, 16), (0.1, 1, 8), (6.0, 2, 24), (5.9, 2, 16)]
)
def test_a_segment_has_as_many_batches_as_there_is_room_for_twice(batches, orders, segment):
    X, y = np.zeros((100, 4)), np.zeros(100)
    batch = 8 * (X.nbytes + y.nbytes) // 100  # in bytes
    data = DeviceData(
        gpubp.MLP([4, 2], device="cpu-reference").stack.backend, (X, y, None), 8, orders, 2 * batches * batch
    )
    assert not data.resident and data.segment == segment
    assert [None if rows is None else rows.shape for rows in data.device] == [
        (1, orders * segment, 4),
        (1, orders * segment),
        None,
    ]
    assert (None if data.places is None else data.places.shape) == (None if orders == 1 else (orders, segment))


def test_where_no_batch_fits_that_is_said(mlp, monkeypatch):
    net = mlp([6, 9, 3])
    monkeypatch.setattr(net.stack.backend, "free_memory", lambda: 10.0)
    with pytest.raises(DeviceError, match="no batch would fit"):
        gpubp.train(net, np.zeros((64, 6)), np.zeros(64, int), batch_size=64)


def test_steps_may_be_taken_one_by_one(mlp):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(12, 6)), rng.integers(0, 3, 12)
    net, trained_at_once = mlp([6, 9, 3]), mlp([6, 9, 3])
    gpubp.train(trained_at_once, X, y, optimizer="sgd", learning_rate=0.125, batch_size=4, epochs=1, shuffle=False)
    state, none = initial_state(net.stack, get_optimizer("sgd"), {}), np.zeros(1)
    step = TrainingStep(net.stack, (X, y, None), 4, state, none, none)
    step.begin(draw_table([np.arange(12)], 4, None, np.zeros(1, np.int64), [np.full(3, 0.125)]))
    for count, position in ((2, 2), (1, 3)):
        step.run_steps(count, 4)
        assert step.position() == position
    assert step.way in ("calls", "program", "graph", "on-chip")
    np.testing.assert_array_equal(host(step.live.theta), host(trained_at_once.theta))


def test_the_slots_of_a_network_are_where_it_has_its_place(mlp):
    net = mlp([6, 9, 3], models=3)
    options = {name: np.full(3, value) for name, value in get_optimizer("momentum").options.items()}
    state = initial_state(net.stack, get_optimizer("momentum"), options)
    step = TrainingStep(net.stack, (np.zeros((12, 6)), np.zeros(12, int), None), 4, state, np.zeros(3), np.zeros(3))
    state.slots[0][2, 0] = 7.0
    updates, (velocity,) = step.optimizer_slots(2)
    assert host(updates).tolist() == [0] and host(velocity)[0, 0] == 7
    assert step.optimizer_slots(3) is None


def test_a_step_is_replayed_with_the_rows_that_the_network_had_in_it():
    """Networks whose last batches differ in size take that step one after the other."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(12, 6)), rng.integers(0, 3, 12)
    rows, seeds = [np.arange(9), np.arange(1, 11), np.arange(1, 12)], [1, 2, 3]
    net = gpubp.MLP([6, 9, 3], models=3, seed=seeds, device="cpu-reference", precision="float64")
    state, none = initial_state(net.stack, get_optimizer("sgd"), {}), np.zeros(3)
    counts = np.array([len(own) for own in rows])
    step = TrainingStep(net.stack, (X, y, None), 4, state, none, none, orders=3, counts=counts)
    step.begin(draw_table(rows, 4, None, np.zeros(3, np.int64), [np.full(3, 0.1)] * 3))
    for k, index in product(range(3), (0, 2)):
        replayed, place = step.replay(index, k)
        alone = gpubp.MLP([6, 9, 3], seed=seeds[k], device="cpu-reference", precision="float64")
        batch = rows[k][4 * index : 4 * (index + 1)]
        _, expected = alone.gradients(X[batch], y[batch])
        for layer, W in enumerate(expected.weights):
            grad = net.stack.layout.layers(replayed.workspace.grad)[layer].W[place]
            np.testing.assert_allclose(grad, W, rtol=1e-12, err_msg=f"network {k}, step {index}")
