"""Checkpoints: files with the whole state of a training; a folder keeps the last two and the best.

A checkpoint holds what a training needs to resume with the same bits; `loop` and `step` define that. This module
decides when one is due, writes it while the training continues, chooses which files to keep, and ensures that a
training resumes only from its own checkpoints.
"""

from __future__ import annotations

import math
import platform
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpubp
from gpubp import serialization
from gpubp.backends.notices import say_once
from gpubp.checks import SparseRows
from gpubp.errors import CheckpointError, DataError, UsageError
from gpubp.stack import Stack
from gpubp.training.interruption import Interruption
from gpubp.training.ranks import Ranks

FOLDER = "checkpoints"  # in the folder of a run
EVERY = "10minutes"  # unless another interval is named
KEPT = 2  # checkpoints besides the best
LOOK = 0.05  # seconds of steps between checks of the clock and of signals
SUFFIX = ".safetensors"
NAME = re.compile(rf"step-(\d{{12}}){re.escape(SUFFIX)}")
METADATA = {
    "epoch": int,
    "position": int,
    "step": int,
    "best": (None, []),
    "training": {},
    "machine": {str: str},
    "state": {},
}
INTERVAL = re.compile(r"(\d+(?:\.\d+)?) ?(step|epoch|minute)s?")


@dataclass(frozen=True)
class Interval:
    """How often a checkpoint is written.

    Attributes
    ----------
    number : float
    unit : {"step", "epoch", "minute"}
    """

    number: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Interval:
        """``"500steps"``, ``"1 epoch"``, ``"2.5minutes"``."""
        match = INTERVAL.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or not float(match[1]) or (match[2] != "minute" and "." in match[1]):
            raise UsageError(
                f"checkpoint_every={text!r} does not fit; give a number of steps, epochs or minutes, such as "
                '"500steps", "1epochs" or "10minutes"'
            )
        return cls(float(match[1]), match[2])


@dataclass(frozen=True)
class TrainingState:
    """The state of a training.

    Attributes
    ----------
    epoch, position : int
        The epoch, counted from 0, and the step within it that come next.
    step : int
        The next step, counted over the whole training.
    score : float
        The monitored loss of the last epoch, mean over networks; infinite before there is one.
    tensors : dict of str to array
        Copies on the host.
    metadata : dict
        JSON-serializable.
    """

    epoch: int
    position: int
    step: int
    score: float
    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, Any]


class TrainingIdentity:
    """What two trainings must have in common for one to resume where the other stopped.

    Parameters
    ----------
    stack : Stack
    settings : mapping
        The options of the training: arrays and JSON-serializable values.
    data : mapping
        All training and validation data: arrays, SparseRows, StreamedRows, sequences of arrays, None, and mappings of
        those.
    """

    def __init__(self, stack: Stack, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        self.network, self.data = stack.describe(), data
        self.settings = {name: _as_json(x.tolist() if isinstance(x, np.ndarray) else x) for name, x in settings.items()}
        self.machine = {
            "gpubp": gpubp.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "device": stack.backend.device,
            "backend": stack.backend.name,
        }

    @cached_property
    def described(self) -> dict[str, Any]:
        """The identity, JSON-serializable: for the data, their shapes, types and digests."""
        return {"network": self.network, "settings": self.settings, "data": fingerprint(self.data)}

    def check(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another training, naming both sides; warn if the bits may differ.

        Raises
        ------
        DataError
        """
        difference = first_difference("", metadata["training"], self.described)
        if difference is not None:
            name, there, here = difference
            raise DataError(
                f"{path}: belongs to another training: {name} is {there} there and {here} here; resume with what it "
                "was begun with, or train anew"
            )
        machines = [(name, metadata["machine"].get(name), value) for name, value in self.machine.items()]
        if changed := [f"{name} is {there} there and {here} here" for name, there, here in machines if there != here]:
            say_once(f"{path}: {', '.join(changed)}; the training goes on, but perhaps not with the same bits")


class CheckpointFolder:
    """A folder that holds the last checkpoints of one training, and its best.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._latest: list[str] = []
        self._best: tuple[float, str | None] = (math.inf, None)

    def files(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(path for path in self.path.iterdir() if NAME.fullmatch(path.name))

    def check_new(self) -> None:
        """Refuse to start a training in a folder that holds checkpoints of another one, or that cannot be one."""
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"{self.path}: {existing.name} is a file; give a folder for checkpoints")
        if files := self.files():
            raise UsageError(
                f"{self.path}: holds checkpoints already ({files[-1].name}); go on from them with "
                f"resume={str(self.path)!r}, or choose another folder"
            )

    def write(self, state: TrainingState, identity: TrainingIdentity) -> None:
        """Write a checkpoint; it is on the disk when this returns.

        Raises
        ------
        CheckpointError
            If it cannot be written; earlier ones are untouched.
        """
        path = self.path / f"step-{state.step:012d}{SUFFIX}"
        best = min(self._best, (state.score, path.name), key=lambda scored: scored[0])
        about = {
            "epoch": state.epoch,
            "position": state.position,
            "step": state.step,
            "best": [best[0], best[1]] if best[1] is not None and math.isfinite(best[0]) else None,
            "training": identity.described,
            "machine": identity.machine,
            "state": state.metadata,
        }
        try:
            serialization.save(path, state.tensors, {"checkpoint": about})
        except UsageError as error:
            before = f"{self.path / self._latest[-1]} is intact" if self._latest else "there is none before it"
            raise CheckpointError(f"{error}; of the checkpoints, {before}") from error
        self._best, self._latest = best, [*self._latest, path.name][-KEPT:]

    def remove_older(self) -> None:
        """Remove checkpoints that are no longer needed, and leftovers of killed writers."""
        with suppress(OSError):  # an extra file does no harm
            for old in self.files():
                if old.name not in (*self._latest, self._best[1]):
                    old.unlink()
            serialization.sweep(self.path, NAME.pattern)

    def goes_on_from(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Make a checkpoint that was read the last one, with the best that was known then."""
        serialization.sweep(self.path, NAME.pattern)
        self._latest = [path.name]
        if metadata["best"] is not None:
            self._best = (float(metadata["best"][0]), str(metadata["best"][1]))


def newest(path: Path) -> Path:
    """The last checkpoint in a folder, or in the folder of a run; a file is returned as it is.

    Raises
    ------
    DataError
        If there is none.
    """
    if path.is_file():
        return path
    for folder in (path, path / FOLDER):
        if files := CheckpointFolder(folder).files():
            return files[-1]
    raise DataError(f"{path}: holds no checkpoint; train without resume to begin anew")


def read(path: Path, identity: TrainingIdentity) -> tuple[TrainingState, dict[str, Any]]:
    """The state that a checkpoint of this training holds, and its other metadata.

    Raises
    ------
    DataError
        If the file is damaged, is not a checkpoint, or is of another training.
    """
    try:
        tensors, metadata = serialization.load(path)
    except DataError as error:
        others = [str(other) for other in CheckpointFolder(path.parent).files() if other != path]
        remedy = f"; an older one is {others[-1]}" if others else ""
        raise DataError(f"{error}{remedy}") from None
    about = metadata.get("checkpoint")
    if not isinstance(about, dict):
        raise DataError(
            f"{path}: is a model, and no checkpoint; resume from the folder that checkpoints are written to"
        )
    serialization.check_metadata(f"{path}: checkpoint", about, METADATA)
    identity.check(path, about)
    return TrainingState(about["epoch"], about["position"], about["step"], math.inf, tensors, about["state"]), about


def open_checkpoints(
    folder: str | Path | None,
    every: str | None,
    resume: str | Path | None,
    identity: TrainingIdentity,
    ranks: Ranks,
) -> tuple[Checkpoints | None, TrainingState | None]:
    """The checkpoints of a training, if it has any, and the state it resumes from, given the arguments of `train`.

    Raises
    ------
    DataError, UsageError
        If there is nothing to resume from, if it is of another training, or if a folder already holds one.
    """
    interval = None if every is None else Interval.parse(every)
    if resume is None:
        if folder is None:
            if every not in (None, EVERY):
                raise UsageError(f"checkpoint_every={every!r} needs a folder to write to; give one as checkpoint")
            return None if ranks.size == 1 else Checkpoints(None, None, identity, ranks), None
        kept = CheckpointFolder(serialization.checked_path(folder, "checkpoint"))
        kept.check_new()
        return Checkpoints(kept, interval, identity, ranks), None
    path = newest(serialization.checked_path(resume, "resume"))
    state, about = read(path, identity)
    kept = CheckpointFolder(path.parent if folder is None else serialization.checked_path(folder, "checkpoint"))
    if kept.path.resolve() == path.parent.resolve():
        kept.goes_on_from(path, about)
    else:
        kept.check_new()
    return Checkpoints(kept, interval, identity, ranks), state


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints of a training: when they are due, and the thread that writes them.

    With several ranks, rank 0 decides when, and writes; a signal to any of them reaches all.

    Parameters
    ----------
    folder : CheckpointFolder or None
        None for ranks that write none: between two steps, a signal then does what it would do anywhere without ranks.
    every : Interval or None
        With None, only an interrupt causes a checkpoint.
    identity : TrainingIdentity
    ranks : Ranks
    """

    def __init__(
        self, folder: CheckpointFolder | None, every: Interval | None, identity: TrainingIdentity, ranks: Ranks
    ) -> None:
        self.folder, self.every, self.identity, self.ranks = folder, every, identity, ranks
        self.interruption = Interruption()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._written_at = self._looked_at = time.monotonic()
        self._pace = 1  # steps between two checks of the clock

    def __enter__(self) -> Checkpoints:
        self.interruption.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.interruption.__exit__(kind, error, traceback)
        self._thread.shutdown()
        if error is None:
            self.wait()

    def most_steps(self, step: int) -> int:
        """How many steps may be taken from `step` on before `due` must be called."""
        now = time.monotonic()
        if now - self._looked_at < LOOK:
            self._pace *= 2
        elif now - self._looked_at > 4 * LOOK:
            self._pace = max(1, self._pace // 2)
        self._looked_at = now
        pace = int(self.ranks.of_first(self._pace))
        if self.every is not None and self.every.unit == "step":
            number = int(self.every.number)
            return min(pace, number - step % number)
        return pace

    def due(self, step: int, epoch: int | None) -> bool:
        """Whether to write a checkpoint before `step`; `epoch` is the number of finished epochs if one ends there."""
        of_ranks = self.ranks.gather(self.interruption.signal or 0, self._is_time(step, epoch))
        if signal := int(of_ranks[:, 0].max()):
            self.interruption.signal = signal
            return True
        return bool(of_ranks[0, 1])

    def _is_time(self, step: int, epoch: int | None) -> bool:
        if self.every is None:
            return False
        if self.every.unit == "minute":
            return time.monotonic() - self._written_at >= 60 * self.every.number
        if self.every.unit == "step":
            return step % int(self.every.number) == 0
        return epoch is not None and epoch % int(self.every.number) == 0

    def write(self, state: TrainingState) -> None:
        """Write a checkpoint in the background, once the previous one is written."""
        if self.folder is None:
            return self.interruption.let_happen()
        self.wait()
        if self.ranks.rank == 0:
            self._writing = self._thread.submit(self.folder.write, state, self.identity)
            self._thread.submit(self._remove_older, self._writing)
        self._written_at = time.monotonic()

    def _remove_older(self, written: Future[None]) -> None:
        """Remove what a checkpoint replaces, if it was written; only the next one waits for that."""
        if self.folder is not None and written.exception() is None:
            self.folder.remove_older()

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        CheckpointError
            If that failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _as_json(setting: Any) -> Any:
    """A setting as JSON, which has no infinity: that of ``max_grad_norm`` becomes a string."""
    if isinstance(setting, list):
        return [_as_json(one) for one in setting]
    return str(setting) if isinstance(setting, float) and not math.isfinite(setting) else setting


def fingerprint(data: Any) -> Any:
    """Shapes, types and digests of arrays, as `TrainingIdentity` takes them."""
    if data is None:
        return None
    if hasattr(data, "identity"):  # rows that are not in memory
        return data.identity()
    if isinstance(data, Mapping):
        return {name: fingerprint(value) for name, value in data.items()}
    if isinstance(data, SparseRows):
        matrix = data.matrix
        return {name: fingerprint(getattr(matrix, name)) for name in ("data", "indices", "indptr")}
    if isinstance(data, Sequence):
        return {"lengths": fingerprint(np.array([len(rows) for rows in data])), "rows": fingerprint(np.hstack(data))}
    return f"{data.shape} {data.dtype} with digest {serialization.digest_of_array(data)[:32]}"


def first_difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any] | None:
    """The first difference of two JSON-serializable records: its name and both values; None if they are equal."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*here, *(key for key in there if key not in here)]:
            inner = f"{name}.{key}" if name else key
            if (difference := first_difference(inner, there.get(key), here.get(key))) is not None:
                return difference
        return None
    return None if there == here else (name, there, here)
