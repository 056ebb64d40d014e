"""Data that one rank reads for all on its machine: the same rows, once in memory, and the training of one process.

Ranks are threads here; tests/cli/test_ranks_command.py starts processes by ``mpiexec``.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, RankError, checks
from gpubp.backends.notices import say_once
from gpubp.checks import SparseRows
from gpubp.cli.presets import with_validation_rows
from gpubp.data import PreparedData, open_large, prepare, prepare_streamed, read, read_once
from gpubp.data.read_once import prepared_once
from gpubp.training.ranks import ALONE, MpiRanks
from support.machines import host
from support.thread_ranks import ThreadComm, on_ranks

ROWS, INPUTS = 260, 6
LIMIT = 20_000  # bytes, less than the rows take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    X = rng.standard_normal((ROWS, INPUTS))
    np.save(tmp_path / "rows.npy", np.column_stack([X, X[:, :3].argmax(axis=1)]))
    return tmp_path / "rows.npy"


def in_memory(path: Path) -> PreparedData:
    return prepare(read(path), test=0.1, validation=0.1, dtype=np.float64)


def streamed(path: Path) -> PreparedData:
    large = open_large(path, limit=LIMIT)
    assert large is not None
    return prepare_streamed(large, test=0.1, validation=0.1, dtype=np.float64, loss="cross_entropy")


WAYS = pytest.mark.parametrize("make", [in_memory, streamed], ids=["in memory", "streamed"])


def arrays_of(prepared: PreparedData) -> list[Any]:
    parts = [part for part in (prepared.train, prepared.validation, prepared.test) if part is not None]
    rows = prepared.stream
    return [*itertools.chain.from_iterable(parts), *([] if rows is None else rows.read(0, rows.shape[0]))]


def on_each(size: int, make: Any, asked: Any = lambda rank: "all the same") -> tuple[list[Any], list[int]]:
    """What `prepared_once` returns or raises on each rank, and the ranks that read."""
    readers: list[int] = []

    def work(communicator: ThreadComm) -> tuple[PreparedData, dict[str, Any]]:
        def reading() -> tuple[PreparedData, dict[str, Any]]:
            readers.append(communicator.rank)
            return make(), {"name": "rows"}

        with MpiRanks(communicator) as ranks:
            return prepared_once(ranks, asked(communicator.rank), reading)

    return on_ranks(size, work), readers


@WAYS
def test_one_rank_reads_for_all(make, path):
    outcomes, readers = on_each(3, lambda: make(path))
    assert readers == [0]
    alone = make(path)
    for prepared, about in outcomes:
        assert about == {"name": "rows"} and prepared.notes == alone.notes
        assert prepared.preprocessing == alone.preprocessing and prepared.rows == alone.rows
        for one, other in zip(arrays_of(prepared), arrays_of(alone), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        if alone.stream is not None:
            assert prepared.stream.identity() == alone.stream.identity()
            assert (prepared.stream.block, prepared.stream.window) == (alone.stream.block, alone.stream.window)


def test_who_writes_into_the_rows_changes_them_for_nobody_else(path):
    (one, other), _ = on_each(2, lambda: in_memory(path))
    before = other[0].train[0].copy()
    one[0].train[0][...] = 0.0
    np.testing.assert_array_equal(other[0].train[0], before)


def test_sparse_rows_are_shared_too():
    from scipy.sparse import random_array

    def make() -> PreparedData:
        X = SparseRows(random_array((50, 20), density=0.1, format="csr", rng=np.random.default_rng(0)))
        return PreparedData("classification", "cross_entropy", (X, np.arange(50) % 3), None, None, 20, 3, {}, None, [])

    (first, second), readers = on_each(2, make)
    assert readers == [0] and isinstance(second[0].train[0], SparseRows)
    np.testing.assert_array_equal(first[0].train[0][:], make().train[0][:])
    np.testing.assert_array_equal(second[0].train[0][:], make().train[0][:])


def test_epochs_on_validation_rows_too_take_them_from_the_memory_of_all(path, monkeypatch):
    stacked_rows, stacked = checks.stacked_rows, []
    monkeypatch.setattr(checks, "stacked_rows", lambda X, below: stacked.append(len(X)) or stacked_rows(X, below))

    def work(communicator: ThreadComm) -> PreparedData:
        with MpiRanks(communicator) as ranks:
            return with_validation_rows(in_memory(path), ranks)

    alone = in_memory(path)
    for rows in on_ranks(2, work):
        for one, *two in zip(rows.train, alone.train, alone.validation, strict=True):
            np.testing.assert_array_equal(one, np.concatenate(two))
    assert stacked == [alone.rows]


def test_ranks_that_ask_for_something_else_read_for_themselves(path):
    _, readers = on_each(4, lambda: in_memory(path), lambda rank: "odd" if rank % 2 else "even")
    assert sorted(readers) == [0, 1]


@WAYS
@pytest.mark.parametrize("missing", ["memfd_create", "permission", "reach"])
def test_where_memory_cannot_be_shared_each_reads(make, missing, path, monkeypatch, caplog):
    say_once.cache_clear()
    if missing == "reach":
        monkeypatch.setattr(read_once, "_borrowed", lambda lent: None)
    elif missing == "permission":
        refused = PermissionError(errno.EPERM, "Operation not permitted")
        monkeypatch.setattr(os, "memfd_create", lambda name: (_ for _ in ()).throw(refused))
    else:
        monkeypatch.delattr(os, missing)
    outcomes, readers = on_each(2, lambda: make(path))
    assert sorted(readers) == [0, 1]
    np.testing.assert_array_equal(outcomes[0][0].train[0], outcomes[1][0].train[0])
    assert "each reads all rows" in caplog.text


def test_files_of_another_process_are_not_taken_for_those_that_were_meant(tmp_path):
    with (tmp_path / "file").open("wb") as file, (tmp_path / "other").open("wb") as other:
        process, _, identity = read_once._lent(file)
        assert read_once._borrowed([process, other.fileno(), identity]) is None
    assert read_once._borrowed([process, 10**6, identity]) is None


def test_what_is_wrong_with_the_data_ends_all():
    def fail() -> Any:
        raise DataError("rows.csv, line 3: a cell too few")

    (here, there), _ = on_each(2, fail)
    assert isinstance(here, DataError) and isinstance(there, RankError)
    assert str(here) in str(there) and there.usage


def test_one_process_reads_as_ever(path):
    prepared, about = prepared_once(ALONE, "", lambda: (in_memory(path), {"name": "x"}))
    assert about == {"name": "x"} and prepared.train[0].base is None


@WAYS
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_train_on_them_as_one_process_does(make, size, path):
    def trained(prepared: PreparedData, **where: Any) -> Any:
        net = gpubp.MLP([INPUTS, 8, 3], "tanh", seed=1, device="cpu-reference", precision="float64")
        options: dict[str, Any] = {"batch_size": 16, "epochs": 4, "validation_data": prepared.validation}
        history = gpubp.train(net, **prepared.training_arguments, **options, **where)
        assert history.steps > 50
        return host(net.theta)

    def work(communicator: ThreadComm) -> Any:
        with MpiRanks(communicator) as ranks:
            prepared, _ = prepared_once(ranks, "", lambda: (make(path), {}))
            return trained(prepared, communicator=ranks)

    alone = trained(make(path))
    for theta in on_ranks(size, work):
        np.testing.assert_allclose(theta, alone, rtol=1e-12, atol=1e-12)
