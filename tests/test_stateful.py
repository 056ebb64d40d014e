"""State machines: what hypothesis draws is a sequence of calls, and what must hold is looked at after each.

A training with checkpoints ends with the bits of an unbroken one however it was interrupted, and an estimator that is
saved, copied and misused has the bits of one that never was.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import gpubp
from gpubp import DataError, MLPClassifier, TrainingInterrupted, UsageError, serialization
from gpubp.training import checkpoint
from gpubp.training.checkpoint import CheckpointFolder

FEW = settings(max_examples=12, stateful_step_count=10, deadline=None, derandomize=True, database=None)
MANY = settings(FEW, max_examples=40, stateful_step_count=25)
RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((30, 4)), RNG.integers(0, 3, 30)
STEPS = 9  # of a training: 3 epochs of 3 batches


class CrashError(Exception):
    """What ends a training in the middle of a step."""


@contextmanager
def before_step(number: int, act: Any) -> Iterator[None]:
    """Trainings with checkpoints take one step at a time, and `act` is called before that of this number."""
    with pytest.MonkeyPatch.context() as patch:
        most_steps = checkpoint.Checkpoints.most_steps

        def acting(self: Any, step: int) -> int:
            if step == number:
                act()
            return min(1, most_steps(self, step))

        patch.setattr(checkpoint.Checkpoints, "most_steps", acting)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def state_of(net: gpubp.MLP) -> tuple[bytes, bytes]:
    return net.theta.tobytes(), net.forward(X).tobytes()


@contextmanager
def refused(error: type[Exception], match: str, net: gpubp.MLP, folder: Path) -> Iterator[None]:
    """What is done within is refused, and leaves a network and a folder as they were."""
    before = state_of(net), contents(folder)
    with pytest.raises(error, match=match):
        yield
    assert (state_of(net), contents(folder)) == before


@functools.cache
def unbroken(optimizer: str, dropout: float) -> tuple[bytes, bytes]:
    """Weights and losses that a training ends with which nothing interrupts."""
    net = gpubp.MLP([4, 5, 3], seed=2, device="cpu-reference")
    history = train(net, optimizer, dropout)
    return net.theta.tobytes(), history.curve("loss").tobytes()


def train(net: gpubp.MLP, optimizer: str, dropout: float, **options: Any) -> gpubp.History:
    options = {"learning_rate": 0.05, **options}
    return gpubp.train(net, X, Y, optimizer=optimizer, dropout=dropout, batch_size=10, epochs=3, **options)


class Training(RuleBasedStateMachine):
    """A training with checkpoints, and files of its network."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.folder, self.models = Path(self.place.name, "checkpoints"), Path(self.place.name, "models")
        self.saved: dict[str, tuple[bytes, bytes]] = {}
        self.net = gpubp.MLP([4, 5, 3], seed=2, device="cpu-reference")

    def teardown(self) -> None:
        self.place.cleanup()

    @initialize(
        optimizer=st.sampled_from(["sgd", "adam"]),
        dropout=st.sampled_from([0.0, 0.4]),
        every=st.sampled_from(["1steps", "2steps", "1epochs", None]),
    )
    def choose(self, optimizer: str, dropout: float, every: str | None) -> None:
        self.options, self.every = {"optimizer": optimizer, "dropout": dropout}, every

    def checkpoints(self) -> list[Path]:
        return CheckpointFolder(self.folder).files()

    def go_on(self) -> None:
        """Train to the end, from the last checkpoint if there is one, or from the weights that were drawn."""
        if self.checkpoints():
            self.net.theta += 1  # a checkpoint has all weights
            where = {"resume": self.folder}
        else:
            self.net = gpubp.MLP([4, 5, 3], seed=2, device="cpu-reference")
            where = {"checkpoint": self.folder}
        history = train(self.net, **self.options, **where, checkpoint_every=self.every)
        assert (self.net.theta.tobytes(), history.curve("loss").tobytes()) == unbroken(**self.options)

    @rule()
    def train_to_the_end(self) -> None:
        self.go_on()

    @rule(step=st.integers(0, STEPS - 1))
    def stop_by_a_signal(self, step: int) -> None:
        try:
            with before_step(step, lambda: signal.raise_signal(signal.SIGTERM)):
                self.go_on()
        except TrainingInterrupted as interrupted:
            assert interrupted.checkpoint == self.folder and self.checkpoints()

    @rule(step=st.integers(0, STEPS - 1))
    def crash(self, step: int) -> None:
        def fail() -> None:
            raise CrashError

        try:
            with before_step(step, fail):
                self.go_on()
        except CrashError:
            pass

    @precondition(lambda self: self.checkpoints())
    @rule()
    def begin_anew_where_checkpoints_are(self) -> None:
        with refused(UsageError, "holds checkpoints already", self.net, self.folder):
            train(self.net, **self.options, checkpoint=self.folder)

    @precondition(lambda self: self.checkpoints())
    @rule()
    def resume_another_training(self) -> None:
        with refused(DataError, "belongs to another training: settings.learning_rate", self.net, self.folder):
            train(self.net, **self.options, learning_rate=0.06, resume=self.folder)

    @precondition(lambda self: self.checkpoints())
    @rule(place=st.floats(0, 1, exclude_max=True))
    def lose_the_last_checkpoint(self, place: float) -> None:
        last = self.checkpoints()[-1]
        damaged = bytearray(last.read_bytes())
        damaged[int(place * len(damaged))] ^= 1
        last.write_bytes(damaged)
        with refused(DataError, last.name, self.net, self.folder):
            train(self.net, **self.options, resume=self.folder)
        last.unlink()

    @rule(name=st.sampled_from("ab"))
    def save(self, name: str) -> None:
        self.net.save(self.models / name)
        self.saved[name] = state_of(self.net)

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.saved)))
        loaded = gpubp.MLP.load(self.models / name, "cpu-reference")
        assert state_of(loaded) == self.saved[name]

    @rule(name=st.sampled_from("ab"), call=st.sampled_from(["fsync", "replace"]))
    def save_on_a_full_disk(self, name: str, call: str) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        self.models.mkdir(exist_ok=True)
        with pytest.MonkeyPatch.context() as patch, refused(UsageError, "No space left", self.net, self.models):
            patch.setattr(os, call, full)
            self.net.save(self.models / name)

    @invariant()
    def files_are_whole(self) -> None:
        assert contents(self.models).keys() == self.saved.keys()
        assert len(contents(self.folder)) == len(self.checkpoints())  # nothing hidden is left
        for path in self.checkpoints():
            serialization.load(path)

    @invariant()
    def predictions_are_finite(self) -> None:
        assert np.isfinite(self.net.forward(X)).all()


class KilledTraining(Training):
    """One whose process is killed, too."""

    @rule(step=st.integers(0, STEPS - 1))
    def kill(self, step: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
            process = os.fork()
        if not process:
            try:
                with before_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    self.go_on()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        serialization.sweep(self.folder, checkpoint.NAME.pattern) if self.folder.is_dir() else None


def with_one(value: float) -> np.ndarray:
    """The rows of X, one of whose cells is of this value."""
    return np.where(np.arange(X.size).reshape(X.shape) == 7, value, X)


MISUSES: dict[str, tuple[str, dict[str, Any]]] = {
    "missing value": ("fit", {"X": with_one(np.nan), "y": Y}),
    "too few targets": ("fit", {"X": X, "y": Y[:-1]}),
    "too few weights": ("fit", {"X": X, "y": Y, "sample_weight": np.ones(3)}),
    "unknown class": ("partial_fit", {"X": X, "y": Y + 1, "classes": [0, 1, 2]}),
    "infinite value": ("partial_fit", {"X": with_one(np.inf), "y": Y, "classes": [0, 1, 2]}),
}


class Estimator(RuleBasedStateMachine):
    """A classifier that is saved, copied, and given what it refuses, and its twin that is only trained."""

    @initialize(solver=st.sampled_from(["sgd", "adam"]), dropout=st.sampled_from([0.0, 0.3]))
    def make(self, solver: str, dropout: float) -> None:
        self.est, self.twin = (
            MLPClassifier(
                (5,), solver=solver, dropout=dropout, batch_size=10, max_iter=2, random_state=3, device="cpu-reference"
            )
            for _ in range(2)
        )
        self.fitted = False

    @rule(first=st.sampled_from([0, 10]))
    def fit(self, first: int) -> None:
        for est in (self.est, self.twin):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=UserWarning)  # two epochs are no convergence
                est.fit(X[first:], Y[first:])
        self.fitted = True

    @rule(first=st.sampled_from([0, 15]))
    def partial_fit(self, first: int) -> None:
        for est in (self.est, self.twin):
            est.partial_fit(X[first : first + 15], Y[first : first + 15], classes=[0, 1, 2])
        self.fitted = True

    @precondition(lambda self: self.fitted)
    @rule(copied=st.sampled_from([copy.deepcopy, lambda est: pickle.loads(pickle.dumps(est))]))
    def go_on_with_a_copy(self, copied: Any) -> None:
        self.est = copied(self.est)

    @precondition(lambda self: self.fitted)
    @rule()
    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.safetensors")
            self.est.save(path)
            loaded = MLPClassifier.load(path, "cpu-reference")
            assert loaded.predict_proba(X).tobytes() == self.est.predict_proba(X).tobytes()
            np.testing.assert_array_equal(loaded.predict(X), self.est.predict(X))
            with pytest.raises(UsageError, match="cannot be written"):
                self.est.save(path / "within a file")
            assert os.listdir(folder) == [path.name]

    @rule(name=st.sampled_from(sorted(MISUSES)))
    def misuse(self, name: str) -> None:
        call, arguments = MISUSES[name]
        with pytest.raises(ValueError):
            getattr(self.est, call)(**arguments)

    @precondition(lambda self: self.fitted)
    @rule()
    def predict_rows_of_another_width(self) -> None:
        with pytest.raises(ValueError, match="features"):
            self.est.predict(X[:, :3])

    @invariant()
    def nothing_but_trainings_leaves_a_trace(self) -> None:
        if not self.fitted:
            return
        probabilities = self.est.predict_proba(X)
        assert np.isfinite(probabilities).all()
        assert probabilities.tobytes() == self.twin.predict_proba(X).tobytes()
        assert (self.est.n_iter_, self.est.t_) == (self.twin.n_iter_, self.twin.t_)
        assert self.est.loss_curve_ == self.twin.loss_curve_


def test_a_training_ends_with_the_bits_of_an_unbroken_one():
    run_state_machine_as_test(Training, settings=FEW)


def test_an_estimator_is_what_it_was_trained_to_be():
    run_state_machine_as_test(Estimator, settings=FEW)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "machine",
    [
        pytest.param(KilledTraining, marks=pytest.mark.skipif(sys.platform == "win32", reason="no fork")),
        Estimator,
    ],
)
def test_long_sequences_of_calls_end_alike(machine):
    run_state_machine_as_test(machine, settings=MANY)
