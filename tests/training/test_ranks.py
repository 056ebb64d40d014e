"""Several processes that train one network: each takes its part of every batch, and all end with the same weights.

Ranks are threads here; tests/cli/test_ranks_command.py starts processes by ``mpiexec``.
"""

from __future__ import annotations

import logging
import re
import signal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, DeviceError, DivergenceError, RankError, UsageError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.notices import say_once
from gpubp.backends.reference import ReferenceBackend
from gpubp.optimizers import OPTIMIZERS
from gpubp.training import checkpoint, data_parallel, gradient_sums
from gpubp.training.data_parallel import OverlappingRankStep
from gpubp.training.ranks import ALONE, MpiRanks, Ranks, ranks_of
from support.machines import but_unfused, by_tier, host, host_driver
from support.thread_ranks import ThreadComm, on_ranks

RNG = np.random.default_rng(17)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
WEIGHT = RNG.uniform(0.5, 2.0, 61)
OPTIONS: dict[str, Any] = {"batch_size": 16, "epochs": 13, "learning_rate": 0.01, "seed": 5}  # 52 steps
EVERYTHING: dict[str, Any] = {
    "sample_weight": WEIGHT,
    "schedule": "reduce_on_plateau(0, 0.5)",
    "max_grad_norm": 0.5,
    "l2": 1e-3,
    "label_smoothing": 0.1,
    "patience": 4,
    "update_tolerance": 1e-9,
    "validation_data": (X[:13], Y[:13], WEIGHT[:13]),
}


def network(device: Any = "cpu-reference", models: int = 1, precision: str = "float64") -> gpubp.MLP:
    return gpubp.MLP([6, 9, 8, 3], "tanh", seed=2, device=device, precision=precision, models=models)


def trained(make: Any = network, **options: Any) -> tuple[Any, gpubp.History]:
    net = make()
    history = gpubp.train(net, X, Y, **{**OPTIONS, **options})
    return host(net.theta), history


def trained_on(size: int, make: Any = network, **options: Any) -> list[tuple[Any, gpubp.History]]:
    """What each rank ends with; raises what one of them raised."""
    outcomes = on_ranks(size, lambda communicator: trained(make, communicator=communicator, **options))
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def curves(history: gpubp.History) -> list[Any]:
    names = ("loss", "metric", "learning_rate", *(["validation_loss"] if history.validation_loss else []))
    return [history.curve(name) for name in names]


def assert_same(one: tuple[Any, gpubp.History], other: tuple[Any, gpubp.History], tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(curves(one[1]), curves(other[1]), rtol=tolerance, atol=tolerance)
    assert (one[1].steps, one[1].stopped) == (other[1].steps, other[1].stopped)


# -- the same as in one process ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_ranks_end_as_one_does_with_the_same_batches(size, options):
    outcomes = trained_on(size, **options)
    for outcome in outcomes:
        assert_same(outcome, outcomes[0])
    assert outcomes[0][1].steps > 50 or options
    assert_same(outcomes[0], trained(**options), 1e-12)


@but_unfused
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_they_have_the_bits_of_one_that_accumulates_as_many_parts(backend, dropout, monkeypatch):
    monkeypatch.setattr("gpubp.backends.cuda.nccl.available", lambda: False)  # ranks are on one device here

    def make() -> gpubp.MLP:
        return network(backend)

    (ranks, history), _ = trained_on(2, make, dropout=dropout, epochs=3, batch_size=20)
    one, history_of_one = trained(make, dropout=dropout, epochs=3, batch_size=20, accumulate=2)
    np.testing.assert_array_equal(ranks, one)
    np.testing.assert_array_equal(history.loss, history_of_one.loss)


# -- gradients that are added up beside the backward pass -------------------------------------------------


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
def test_gpus_add_up_where_they_can_and_else_on_the_host_which_is_said(device_sum, monkeypatch, caplog):
    monkeypatch.setattr(gradient_sums, "HostSum", lambda ranks: ranks.sum)
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


@pytest.mark.parametrize("optimizer", by_tier(OPTIMIZERS, lambda name: name == "adamw"))
def test_every_optimizer_is_reproducible(optimizer):
    first, again = (trained_on(4, optimizer=optimizer, epochs=4, dropout=0.2) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2},
        {"batch_size": 1000},
        {"batch_size": 1000, "accumulate": 30, "epochs": 3},
        {"shuffle": False, "recompute": True},
        {"class_weight": "balanced"},
        {"batches": [(X[:40], Y[:40]), (X[40:], Y[40:])]},
    ],
    ids=["accumulated", "full batch", "fewer rows than parts", "in order", "class weights", "streamed"],
)
def test_other_ways_through_the_rows(options):
    def run(**where: Any) -> tuple[Any, gpubp.History]:
        net, data = network(), (X, Y) if "batches" not in options else ()
        return net, gpubp.train(net, *data, **{**OPTIONS, **options, **where})

    (net, history), (other, _) = on_ranks(2, lambda communicator: run(communicator=communicator))
    alone, history_alone = run()
    np.testing.assert_array_equal(net.theta, other.theta)
    np.testing.assert_allclose(net.theta, alone.theta, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(history.loss, history_alone.loss, rtol=1e-12)


def test_a_stack_whose_networks_differ_in_rows_and_one_of_which_diverges():
    rows = [range(40), range(40), range(25), range(7)]
    options = {
        "rows": rows,
        "validation_rows": [range(40, 61), range(40, 43), range(50, 51), range(40, 61)],
        "optimizer": "sgd",
        "learning_rate": [0.05, 1e300, 0.02, 0.1],
        "epochs": [5, 5, 2, 4],
    }

    def make() -> gpubp.MLP:
        return network(models=4)

    with np.errstate(all="ignore"):
        outcomes, (alone, history) = trained_on(4, make, **options), trained(make, **options)
    for theta, of_rank in outcomes:
        np.testing.assert_array_equal(theta, outcomes[0][0])
        np.testing.assert_allclose(theta[[0, 2, 3]], alone[[0, 2, 3]], rtol=1e-12, atol=1e-12)
        assert of_rank.stopped == history.stopped and "diverged" in of_rank.stopped


def test_networks_that_end_one_after_the_other_leave_nothing_to_those_that_take_their_places():
    options = {"epochs": [1, 2, 4, 4, 4, 4, 4, 4], "patience": None, "validation_data": None}  # 6 of 8 move up

    def make() -> gpubp.MLP:
        return network(models=8)

    (ranks, of_rank), (alone, history) = trained_on(2, make, **options)[0], trained(make, **options)
    np.testing.assert_allclose(ranks, alone, rtol=1e-12, atol=1e-12)
    assert of_rank.stopped == history.stopped == ["epochs"] * 8


def test_a_divergence_is_found_by_all_ranks_in_one_step():
    def diverging(**where: Any) -> None:
        with np.errstate(all="ignore"):
            gpubp.train(network(), X * 1e100, Y, optimizer="sgd", learning_rate=1e200, batch_size=16, **where)

    with pytest.raises(DivergenceError) as alone:
        diverging(accumulate=2)
    errors = on_ranks(2, lambda communicator: diverging(communicator=communicator))
    assert [str(error) for error in errors] == [str(alone.value)] * 2


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_the_precisions_of_a_gpu(precision):
    def make() -> gpubp.MLP:
        return gpubp.MLP([6, 9, 8, 3], "tanh", seed=2, device=CudaBackend(host_driver(), precision))

    (ranks, _), (other, _) = trained_on(2, make, epochs=3)
    np.testing.assert_array_equal(ranks, other)
    np.testing.assert_array_equal(ranks, trained(make, epochs=3, accumulate=2)[0])


# -- what is refused --------------------------------------------------------------------------------------


def errors_of(size: int, work: Any) -> list[BaseException]:
    outcomes = on_ranks(size, work)
    assert all(isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    return outcomes


@pytest.mark.parametrize(
    "differing, named",
    [
        ({"X": X[::-1]}, r"data\.training\.X is \(61, 6\) float64 with digest \w+ on rank 0 and .* on rank 1"),
        ({"y": (Y + 1) % 3}, r"data\.training\.y is"),
        ({"net": {"seed": 9}}, r"network\.seeds is \[2\] on rank 0 and \[9\] on rank 1"),
        ({"learning_rate": 0.02}, r"settings\.learning_rate is \[0\.01\] on rank 0 and \[0\.02\] on rank 1"),
        ({"validation_data": (X, Y)}, r"data\.validation is None on rank 0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(*value),
)
def test_ranks_that_would_train_something_else_are_refused_with_both_sides_named(differing, named):
    def work(communicator: ThreadComm) -> None:
        options: dict[str, Any] = {"X": X, "y": Y, **OPTIONS, "batch_size": 15}
        options |= differing if communicator.rank == 1 else {}
        net = gpubp.MLP([6, 9, 3], device="cpu-reference", **{"seed": 2, **options.pop("net", {})})
        gpubp.train(net, **options, communicator=communicator)

    for error in errors_of(3, work):
        assert isinstance(error, DataError) and re.search(named, str(error)), error
        assert "give all ranks the same rows" in str(error)


def test_other_initial_weights_are_refused():
    def work(communicator: ThreadComm) -> None:
        net = network()
        net.weights[0][0, 0] += communicator.rank
        gpubp.train(net, X, Y, communicator=communicator)

    assert all(re.search("weights is .* on rank 0 and .* on rank 1", str(error)) for error in errors_of(2, work))


def test_ranks_that_come_to_other_weights_do_not_go_on():
    def work(communicator: ThreadComm) -> None:
        def disturb(net: gpubp.MLP, history: gpubp.History) -> None:
            net.weights[0][0, 0] += communicator.rank

        gpubp.train(network(), X, Y, **OPTIONS, callbacks=[disturb], communicator=communicator)

    for error in errors_of(2, work):
        assert isinstance(error, RankError) and "rank 1 has come to other weights" in str(error)


@pytest.mark.parametrize(
    "size, options, message",
    [
        (2, {"batch_size": 15}, "batch_size=15 does not go into equal parts for 2 ranks; use 14 or 16"),
        (4, {"batch_size": 3}, "batch_size=3 does not go into equal parts for 4 ranks; use 4"),
        (2, {"batch_size": 18, "accumulate": 4}, "for 2 ranks with accumulate=4; use 16 or 24"),
    ],
)
def test_batches_that_do_not_go_into_equal_parts_are_refused(size, options, message):
    for error in errors_of(size, lambda c: gpubp.train(network(), X, Y, communicator=c, **options)):
        assert isinstance(error, UsageError) and message in str(error)


@pytest.mark.backends
def test_the_loss_scale_of_float16_is_refused():
    def work(communicator: ThreadComm) -> None:
        net = gpubp.MLP([6, 3], device=CudaBackend(host_driver(), "float16"))
        gpubp.train(net, X, Y, communicator=communicator)

    assert all('2 ranks do not go with precision "float16"' in str(error) for error in errors_of(2, work))


@pytest.mark.parametrize("communicator", [4, "mpi", object()])
def test_what_is_no_communicator_is_refused(communicator):
    with pytest.raises(UsageError, match="communicator=.* does not fit; give one of mpi4py"):
        gpubp.train(network(), X, Y, communicator=communicator)


def test_one_process_is_alone():
    assert ranks_of(None) is ALONE and on_ranks(1, ranks_of) == [ALONE]
    (outcome,) = trained_on(1)
    assert_same(outcome, trained())


# -- ranks that fail --------------------------------------------------------------------------------------


def test_all_end_with_the_error_of_the_one_that_fails():
    def work(communicator: ThreadComm) -> None:
        def fail(net: gpubp.MLP, history: gpubp.History) -> None:
            if communicator.rank == 2 and history.epochs == 2:
                raise MemoryError("no room")

        gpubp.train(network(), X, Y, batch_size=6, callbacks=[fail], communicator=communicator)

    first, second, failed = errors_of(3, work)
    for error in (first, second):
        assert isinstance(error, RankError) and error.rank == 2
        assert str(error) == "rank 2 of 3 ended, and all others with it: MemoryError: no room"
    assert isinstance(failed, MemoryError)


def test_what_is_wrong_on_one_rank_is_said_on_all_before_anything_is_trained():
    def work(communicator: ThreadComm) -> None:
        gpubp.train(network(), X * np.nan if communicator.rank else X, Y, communicator=communicator)

    there, here = errors_of(2, work)
    assert isinstance(here, DataError) and isinstance(there, RankError) and str(here) in str(there)


def test_one_that_fails_at_the_very_end_is_heard_too(tmp_path):
    def work(communicator: ThreadComm) -> Any:
        with MpiRanks(communicator) as ranks:
            if ranks.rank == 1:
                raise OSError("disk full")

    there, here = errors_of(2, work)
    assert "OSError: disk full" in str(there) and isinstance(here, OSError)


def test_a_callback_of_any_rank_ends_the_training_of_all():
    def work(communicator: ThreadComm) -> gpubp.History:
        stop = [lambda net, history: communicator.rank == 1 and history.epochs == 3]
        return gpubp.train(network(), X, Y, **OPTIONS, callbacks=stop, communicator=communicator)

    for history in on_ranks(2, work):
        assert (history.epochs, history.stopped) == (3, "callback")


# -- checkpoints ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", ["3steps", "1epochs"])
def test_ranks_go_on_from_a_checkpoint_with_the_same_bits(tmp_path, every):
    options = {**EVERYTHING, "dropout": 0.2, "epochs": 5}
    unbroken = trained_on(2, **options, checkpoint=tmp_path / "run", checkpoint_every=every)
    files = sorted((tmp_path / "run").iterdir())
    assert 2 <= len(files) <= 3  # rank 0 alone writes
    for path in files:
        for resumed, whole in zip(
            trained_on(2, **options, resume=path, checkpoint=tmp_path / path.stem), unbroken, strict=True
        ):
            assert_same(resumed, whole)
    assert_same(trained(**options, accumulate=2, resume=files[0], checkpoint=tmp_path / "one"), unbroken[0], 1e-12)


def test_another_number_of_ranks_is_refused_unless_parts_are_as_many(tmp_path):
    trained_on(4, epochs=2, checkpoint=tmp_path / "run", checkpoint_every="1epochs")
    with pytest.raises(DataError, match=r"settings\.accumulate is 4 there and 2 here"):
        trained_on(2, epochs=2, resume=tmp_path / "run")
    trained_on(2, epochs=2, accumulate=2, resume=tmp_path / "run")


@pytest.fixture
def interruptions(monkeypatch: pytest.MonkeyPatch) -> list[checkpoint.Interruption]:
    """What takes note of signals on each rank, in their order."""
    noted: list[checkpoint.Interruption] = []

    class Noted(checkpoint.Interruption):
        def __init__(self) -> None:
            super().__init__()
            noted.append(self)

    monkeypatch.setattr(checkpoint, "Interruption", Noted)
    return noted


def interrupted(interruptions: list[checkpoint.Interruption], **options: Any) -> list[BaseException]:
    """What two ranks raise, of which the second receives SIGTERM in the second epoch."""

    def work(communicator: ThreadComm) -> None:
        def interrupt(net: gpubp.MLP, history: gpubp.History) -> None:
            if communicator.rank == 1 and history.epochs == 2:
                interruptions[1].signal = signal.SIGTERM

        gpubp.train(network(), X, Y, **OPTIONS, **options, callbacks=[interrupt], communicator=communicator)

    return errors_of(2, work)


def test_a_signal_to_one_rank_is_heard_by_all_between_two_steps(tmp_path, interruptions):
    errors = interrupted(interruptions, checkpoint=tmp_path / "run")
    assert [(type(error), error.signal) for error in errors] == [(gpubp.TrainingInterrupted, signal.SIGTERM)] * 2
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_without_checkpoints_it_then_does_on_all_what_it_does(interruptions, monkeypatch):
    raised: list[int] = []

    def raise_signal(number: int) -> None:
        raised.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr("gpubp.training.interruption.signal.raise_signal", raise_signal)
    errors = interrupted(interruptions)
    assert [type(error) for error in errors] == [KeyboardInterrupt] * 2 and raised == [signal.SIGTERM] * 2


def test_where_the_writer_cannot_write_all_end(tmp_path):
    (tmp_path / "file").touch()
    first, second = errors_of(
        2,
        lambda c: trained(communicator=c, checkpoint=tmp_path / "file" / "run", checkpoint_every="1epochs"),
    )
    assert isinstance(first, gpubp.CheckpointError) and isinstance(second, RankError) and str(first) in str(second)
