"""Batches that are gone through in parts: the result of whole ones, in the memory of a part."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DeviceError, DivergenceError, UsageError
from gpubp.backends import get_backend
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import OutOfDeviceMemoryError
from gpubp.backends.notices import say_once
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from gpubp.training.accumulation import Batches, accumulation, with_batches_that_fit
from support.machines import but_unfused, by_tier, host, host_driver

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
CASES: dict[str, dict[str, Any]] = {
    "two parts": {"batch_size": 16, "accumulate": 2},
    "a row a part": {"batch_size": 4, "accumulate": 4, "epochs": 2},
    "full batch in unequal parts": {"batch_size": 1000, "accumulate": 3, "patience": 2, "validation_data": (X, Y)},
    "in order, with weights and penalties": {
        "batch_size": 16,
        "accumulate": 4,
        "shuffle": False,
        "sample_weight": RNG.uniform(0.1, 2.0, 61),
        "l2": 0.02,
        "weight_decay": 0.05,
        "max_grad_norm": 0.3,
        "label_smoothing": 0.1,
        "update_tolerance": 1e-9,
    },
    "a stack of folds that end apart": {
        "batch_size": 16,
        "accumulate": 2,
        "rows": [range(61), range(40), range(40), range(9)],
        "epochs": [3, 1, 1, 3],
        "learning_rate": [0.01, 0.02, 0.03, 0.04],
    },
}


def trained(make: Any, accumulate: int, **options: Any) -> tuple[np.ndarray, gpubp.History]:
    net = make([6, 9, 7, 3], "tanh", seed=2, models=len(options.get("rows", [0])))
    history = gpubp.train(net, X, Y, **{"epochs": 3, "learning_rate": 0.01, **options, "accumulate": accumulate})
    return host(net.theta), history


def assert_equal_but_for_rounding(make: Any, options: dict[str, Any], tolerance: float) -> None:
    whole, history = trained(make, **{**options, "accumulate": 1})
    parts, history_of_parts = trained(make, **options)
    np.testing.assert_allclose(parts, whole, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(history_of_parts.loss, history.loss, rtol=tolerance, atol=tolerance)
    assert history_of_parts.steps == history.steps and history_of_parts.stopped == history.stopped


@but_unfused
@pytest.mark.parametrize("case", CASES)
def test_parts_end_as_whole_batches_do(mlp, backend, case):
    assert_equal_but_for_rounding(mlp, CASES[case], 1e-12 if backend.dtype == np.float64 else 2e-4)


@pytest.mark.parametrize("optimizer", by_tier(OPTIMIZERS, lambda name: name == "momentum"))
def test_they_do_with_every_optimizer(optimizer):
    def make(*sizes: Any, **options: Any) -> gpubp.MLP:
        return gpubp.MLP(*sizes, **options, device="cpu-reference", precision="float64")

    assert_equal_but_for_rounding(make, {**CASES["two parts"], "optimizer": optimizer}, 1e-10)


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_they_do_in_the_precisions_of_a_gpu(precision):
    backend = CudaBackend(host_driver(), precision)

    def make(*sizes: Any, **options: Any) -> gpubp.MLP:
        return gpubp.MLP(*sizes, **options, device=backend)

    assert_equal_but_for_rounding(make, CASES["two parts"], 2e-2)


def test_with_dropout_training_is_reproducible_and_other_masks_are_drawn(mlp):
    options = {"batch_size": 16, "dropout": 0.3}
    first, again, whole = (trained(mlp, accumulate, **options)[0] for accumulate in (2, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, whole)


def test_a_divergence_is_found_in_the_step_of_its_batch():
    whole = gpubp.MLP([6, 9, 3], device="cpu-reference")
    parts = gpubp.MLP([6, 9, 3], device="cpu-reference")
    errors = []
    for net, accumulate in ((whole, 1), (parts, 4)):
        with pytest.raises(DivergenceError) as caught, np.errstate(all="ignore"):
            gpubp.train(net, X * 1e15, Y, optimizer="sgd", learning_rate=1e12, batch_size=16, accumulate=accumulate)
        errors.append(caught.value)
        assert np.isfinite(net.theta).all()
    assert errors[0].step == errors[1].step
    assert "the loss or the gradient overflowed" in str(errors[1])


@pytest.mark.parametrize("options", [{"batch_size": 16, "accumulate": 3}, {"batch_size": 4, "accumulate": 8}])
def test_parts_that_are_not_equal_are_refused(options):
    with pytest.raises(UsageError, match="accumulate=. does not divide batch_size=.* into equal parts"):
        trained(gpubp.MLP, **options)
    with pytest.raises(UsageError, match="accumulate=0 does not fit"):
        trained(gpubp.MLP, accumulate=0)


def test_rows_that_are_fewer_than_the_parts_are_a_part_each():
    net, whole = (gpubp.MLP([6, 3], device="cpu-reference", precision="float64") for _ in range(2))
    gpubp.train(net, X[:2], Y[:2], accumulate=4)
    gpubp.train(whole, X[:2], Y[:2])
    np.testing.assert_allclose(net.theta, whole.theta, rtol=1e-12, atol=1e-12)


@pytest.mark.backends
def test_the_loss_scale_of_float16_is_refused():
    with pytest.raises(UsageError, match='accumulate does not go with precision "float16"'):
        gpubp.train(gpubp.MLP([6, 3], device=CudaBackend(host_driver(), "float16")), X, Y, accumulate=2)


@pytest.mark.parametrize(("ranks", "what"), [(1, "accumulate does"), (3, "3 ranks do")])
def test_a_loss_scale_is_refused_before_anything_is_made(ranks, what):
    batches = Batches(6, 3, ranks=SimpleNamespace(size=ranks))
    with pytest.raises(UsageError, match=f'{what} not go with precision "float16"'):
        accumulation(None, batches, SimpleNamespace(loss_scale=object()), None, 6)


def test_a_batch_that_does_not_fit_is_cut_into_parts_which_is_said_once(monkeypatch, caplog):
    def with_room_for(rows: int) -> gpubp.MLP:
        net = gpubp.MLP([6, 9, 3], device=get_backend("cpu-reference", "float64"))
        needed = net.memory(rows, "adam")
        monkeypatch.setattr(net.stack.backend, "free_memory", lambda: needed["total"])
        return net

    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "gpubp"):
        nets = [with_room_for(rows) for rows in (10, 10)]
        for net in nets:
            gpubp.train(net, X, Y, batch_size=32, epochs=2)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["32 rows at once do not fit on cpu: a batch is gone through in 4 parts of 8, for one update"]
    whole = gpubp.MLP([6, 9, 3], device="cpu-reference", precision="float64")
    gpubp.train(whole, X, Y, batch_size=32, epochs=2)
    np.testing.assert_allclose(nets[0].theta, whole.theta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("error", [MemoryError, OutOfDeviceMemoryError])
def test_whichever_allocation_fails_the_result_is_that_of_whole_batches_or_nothing_is_changed(monkeypatch, error):
    whole = gpubp.MLP([6, 9, 3], device="cpu-reference", precision="float64")
    gpubp.train(whole, X, Y, batch_size=32, epochs=1)
    outcomes = []
    for at in range(1, 40):
        net = gpubp.MLP([6, 9, 3], device=get_backend("cpu-reference", "float64"))
        drawn, calls = net.theta.copy(), []
        with monkeypatch.context() as patch:
            for name in ("empty", "zeros"):
                patch.setattr(net.stack.backend, name, failing(getattr(net.stack.backend, name), calls, at, error))
            try:
                gpubp.train(net, X, Y, batch_size=32, epochs=1)
            except (DeviceError, MemoryError):
                np.testing.assert_array_equal(net.theta, drawn)
                outcomes.append("refused")
            else:
                np.testing.assert_allclose(net.theta, whole.theta, rtol=1e-12, atol=1e-12)
                outcomes.append("cut" if len(calls) >= at else "whole")
    assert outcomes.count("cut") > 10 and outcomes[-1] == "whole"


def test_a_batch_that_cannot_be_cut_is_not_tried_again():
    net, tried = gpubp.MLP([6, 9, 3], device="cpu-reference"), []

    def build(batches: Batches) -> None:
        tried.append(batches.parts)
        raise MemoryError

    for batches, parts in ((Batches(1), [1]), (Batches(12, parts=4), [4, 12])):
        tried.clear()
        with pytest.raises(MemoryError):
            with_batches_that_fit(build, batches, net.stack, get_optimizer("adam"), most_rows=60)
        assert tried == parts


def failing(allocate: Any, calls: list[str], at: int, error: type[Exception]) -> Any:
    """An allocation that fails if it is number `at`."""

    def allocating(*arguments: Any, **options: Any) -> Any:
        calls.append("")
        if len(calls) == at:
            raise error("out of memory") if error is MemoryError else error("out of memory", asked=1, free=0)
        return allocate(*arguments, **options)

    return allocating


def test_where_not_even_a_row_fits_nothing_is_trained(monkeypatch):
    net = gpubp.MLP([6, 9, 3], device="cpu-reference")
    drawn = net.theta.copy()
    monkeypatch.setattr(net.stack.backend, "free_memory", lambda: 10.0)
    with pytest.raises(DeviceError, match="no batch would fit"):
        gpubp.train(net, X, Y, batch_size=32)
    np.testing.assert_array_equal(net.theta, drawn)


def test_a_network_lost_between_two_parts_leaves_nothing_to_the_one_that_takes_its_place():
    rows = np.repeat([[1.0], [1e10]], 4, axis=0)  # with weights of 1e150 the loss of the second part alone overflows
    weights = {}
    for lost in (0, 3):  # of the others, all move up, or none does
        net = gpubp.MLP(
            [1, 1], loss="half_squared_error", init="zeros", precision="float64", models=4, device="cpu-reference"
        )
        net.weights[0][:, 0, 0] = np.array([1.0, 2.0, 3.0, 4.0]) * 1e-12
        net.weights[0][lost] = 1e150
        history = gpubp.train(
            net, rows, np.ones(8), optimizer="sgd", learning_rate=1e-24, batch_size=8, accumulate=2, epochs=3
        )
        assert history.stopped[lost] == "diverged"
        weights[lost] = net.weights[0][[1, 2], 0, 0]
    np.testing.assert_array_equal(weights[0], weights[3])
