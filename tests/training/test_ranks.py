"""Several processes that train one network: each takes its part of every batch, and all end with the same weights.

Ranks are threads here; tests/cli/test_ranks_command.py starts processes by ``mpiexec``.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, DivergenceError, RankError, UsageError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.optimizers import OPTIMIZERS
from gpubp.training.ranks import ALONE, MpiRanks, ranks_of
from support.machines import but_unfused, by_tier, host_driver
from support.rank_trainings import EVERYTHING, OPTIONS, X, Y, assert_same, errors_of, network, trained, trained_on
from support.thread_ranks import ThreadComm, on_ranks

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
