"""Checkpoints of several ranks: they go on with the same bits, and a signal to one is heard by all."""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest

import gpubp
from gpubp import DataError, RankError
from gpubp.training import checkpoint
from support.rank_trainings import EVERYTHING, OPTIONS, X, Y, assert_same, errors_of, network, trained, trained_on
from support.thread_ranks import ThreadComm


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


def test_where_the_writer_cannot_write_all_end(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    first, second = errors_of(
        2,
        lambda c: trained(communicator=c, checkpoint=tmp_path / "run", checkpoint_every="1epochs"),
    )
    assert isinstance(first, gpubp.CheckpointError) and isinstance(second, RankError) and str(first) in str(second)
