"""How ranks add up their gradients: slice by slice beside the backward pass, and on devices or by way of the host."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DeviceError, DivergenceError, RankError
from gpubp.backends.notices import say_once
from gpubp.backends.reference import ReferenceBackend
from gpubp.training import data_parallel, gradient_sums
from gpubp.training.data_parallel import OverlappingRankStep
from gpubp.training.ranks import MpiRanks, Ranks
from support.rank_trainings import EVERYTHING, OPTIONS, X, Y, assert_same, errors_of, network, trained, trained_on
from support.thread_ranks import ThreadComm, on_ranks


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Small networks have slices too; what rank 0 does: the sums that are begun, and the ends of backward passes."""
    monkeypatch.setattr(data_parallel, "FEWEST_IN_SLICE", 1)
    told: list[str] = []
    begin, init = MpiRanks.begin_sum, OverlappingRankStep.__init__

    def begin_sum(self: MpiRanks, array: Any) -> Any:
        if self.rank == 0:
            told.append(f"slice of {array.size}")
        return begin(self, array)

    def begin_training(self: OverlappingRankStep, *arguments: Any) -> None:
        init(self, *arguments)
        add = self._add

        def told_add(count: int, rows: int) -> None:
            add(count, rows)
            told.append("backward pass over")

        if self.first_part == 0:  # that of rank 0
            self._add = told_add

    monkeypatch.setattr(MpiRanks, "begin_sum", begin_sum)
    monkeypatch.setattr(OverlappingRankStep, "__init__", begin_training)
    return told


@pytest.mark.parametrize("device", ["cpu-reference", "cpu"])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.thorough)])
def test_slices_have_the_bits_of_one_sum(overlapping, device, size, monkeypatch):
    def make() -> gpubp.MLP:
        return network(device)

    options: dict[str, Any] = {**EVERYTHING, "dropout": 0.2, "batch_size": 20, "epochs": 3}
    outcomes = trained_on(size, make, **options)
    over = overlapping.index("backward pass over")
    assert overlapping[over - 2 : over + 3] == [
        *("slice of 128", "slice of 128"),  # weights of the last layers; then those of the first, and all biases
        *("backward pass over", "slice of 128", "slice of 384"),
    ]
    monkeypatch.setattr(data_parallel, "FEWEST_IN_SLICE", 1 << 18)
    for theta, history in outcomes:
        assert_same((theta, history), trained_on(size, make, **options)[0])
        assert_same((theta, history), trained(make, **options, accumulate=size), 1e-12)
    np.testing.assert_array_equal(outcomes[0][0], trained(make, **options, accumulate=size)[0])


@pytest.mark.parametrize("batch_size", [16, 1000])
def test_slices_of_ranks_some_of_which_have_no_rows_in_a_last_batch(overlapping, batch_size):
    rows = [range(59)]  # 11 in the last batch of 16, none of them rank 3's
    outcomes = trained_on(4, batch_size=batch_size, rows=rows)
    for outcome in outcomes:
        assert_same(outcome, outcomes[0])
    assert_same(outcomes[0], trained(batch_size=batch_size, rows=rows), 1e-12)


def test_slices_of_a_training_that_diverges_on_one_rank(overlapping):
    data = X.copy()
    data[40] = 1e200

    def diverging(**where: Any) -> None:
        with np.errstate(all="ignore"):
            gpubp.train(network(), data, Y, optimizer="sgd", learning_rate=1e200, batch_size=16, shuffle=False, **where)

    with pytest.raises(DivergenceError) as alone:
        diverging(accumulate=2)
    errors = on_ranks(2, lambda communicator: diverging(communicator=communicator))
    assert [str(error) for error in errors] == [str(alone.value)] * 2


def test_slices_of_a_loss_that_overflows_on_one_rank_are_finite_on_none(overlapping):
    data = X.copy()
    data[40] = 1e200  # in the second part of the third batch, whose squared error alone is infinite
    weights = []

    def diverging(**where: Any) -> None:
        net = gpubp.MLP([6, 9, 8, 1], "relu", "half_squared_error", seed=2, device="cpu-reference", precision="float64")
        try:
            with np.errstate(all="ignore"):
                gpubp.train(net, data, Y, optimizer="sgd", batch_size=16, shuffle=False, **where)
        finally:
            weights.append(net.theta.copy())

    with pytest.raises(DivergenceError, match="diverged at step 2 ") as alone:
        diverging(accumulate=2)
    errors = on_ranks(2, lambda communicator: diverging(communicator=communicator))
    assert [str(error) for error in errors] == [str(alone.value)] * 2
    for theta in weights:
        np.testing.assert_array_equal(theta, weights[0])


class TwoRanks(Ranks):
    """Rank 0 of two, of which the other one answers with what is told beforehand and has the same arrays."""

    size = 2

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)

    def gather(self, *numbers: float) -> Any:
        return np.array([numbers, [self.answers.pop(0)]], np.float64)

    def sum(self, array: Any) -> None:
        array *= 2


def on_a_device(device_sum: Any = None) -> Any:
    """What `adding_up` looks at of a stack whose arrays are a GPU's, and what its backend adds arrays up by."""
    copies = {"to_host": lambda array: array, "from_host": lambda array: array}
    backend = SimpleNamespace(device="cuda:0", device_sum=lambda ranks: device_sum, **copies)
    return SimpleNamespace(theta=SimpleNamespace(__cuda_array_interface__={}), backend=backend)


def test_ranks_of_which_some_alone_have_a_gpu_are_refused():
    with pytest.raises(DeviceError, match="rank 0 computes on cuda:0, rank 1 does not; give all a GPU, or none"):
        gradient_sums.adding_up(TwoRanks(False), on_a_device())
    with pytest.raises(DeviceError, match="rank 0 computes on cpu, rank 1 does not; give all a GPU, or none"):
        gradient_sums.adding_up(TwoRanks(True), network().stack)


@pytest.mark.parametrize("device_sum", ["a sum of devices", None])
def test_gpus_add_up_where_they_can_and_else_on_the_host_which_is_said(device_sum, caplog):
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "gpubp"):
        add_up = gradient_sums.adding_up(TwoRanks(True), on_a_device(device_sum))
    said = [record.getMessage() for record in caplog.records]
    if device_sum:
        assert add_up == device_sum and not said
    else:
        array = np.arange(3.0)
        add_up(array)
        assert array.tolist() == [0, 2, 4]
        assert len(said) == 1 and said[0].startswith("NCCL is missing: gradients are added up in the host's memory")


def test_a_rank_that_fails_between_two_slices_ends_all(overlapping, monkeypatch):
    backward = ReferenceBackend.dense_backward

    def work(communicator: ThreadComm) -> None:
        net = network()

        def failing(layer: Any, *arguments: Any) -> None:
            if layer.shape[-1] == 8 and communicator.rank == 1:
                raise MemoryError("no room")
            backward(net.stack.backend, layer, *arguments)

        net.stack.backend.dense_backward = failing
        gpubp.train(net, X, Y, **OPTIONS, communicator=communicator)

    there, here = errors_of(2, work)
    assert isinstance(here, MemoryError) and isinstance(there, RankError) and "MemoryError: no room" in str(there)
