"""What a run of the stages was asked for, and what it finds in the folder that travels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.bench.steps import Workload

REFERENCES, MNIST, SITE = "references.npz", "mnist", "site"  # in the folder that travels
PACKAGES = ("pytest", "xdist", "execnet")  # what stages import that is in SITE, for machines that lack some of it


@dataclass(frozen=True)
class Settings:
    """Options that every stage understands.

    Attributes
    ----------
    precisions, contenders : tuple of str
        The only ones to measure; empty for each stage's own choice. gpubp itself is always measured.
    rounds : int or None
        Turns of everyone; None for each stage's own number.
    mnist : str or None
        A folder with MNIST's IDX files.
    packed : Path or None
        The folder that ``--pack`` made.
    """

    precisions: tuple[str, ...] = ()
    contenders: tuple[str, ...] = ()
    rounds: int | None = None
    mnist: str | None = None
    packed: Path | None = None

    def chosen_precisions(self, own: Sequence[str]) -> list[str]:
        """A stage's own precisions, or those that were asked for."""
        return list(self.precisions or own)

    def chosen_contenders(self, own: Sequence[str]) -> list[str]:
        """Those of a stage's contenders that may take part; peers are what can be chosen."""
        peers = [name for name in own if name.startswith(("torch", "jax"))]
        return [name for name in own if not self.contenders or name not in peers or name in self.contenders]

    @property
    def mnist_folder(self) -> str | None:
        """As given, or from the folder that travels; None where it is at neither place."""
        packed = None if self.packed is None else self.packed / MNIST
        return self.mnist or (str(packed) if packed is not None and packed.is_dir() else None)

    @cached_property
    def references(self) -> dict[str, list[Any]]:
        """What the first steps of the slow networks add to their tensors, by the networks' names."""
        path = None if self.packed is None else self.packed / REFERENCES
        return {} if path is None or not path.is_file() else load_references(path)

    def arguments(self) -> list[str]:
        """The same settings on a command line."""
        arguments: list[str] = []
        for flag, values in (("--precision", self.precisions), ("--contenders", self.contenders)):
            arguments += [flag, *values] if values else []
        for flag, value in (("--rounds", self.rounds), ("--mnist", self.mnist), ("--packed", self.packed)):
            arguments += [] if value is None else [flag, str(value)]
        return arguments


def save_references(path: Path, references: Mapping[str, Sequence[Any]]) -> None:
    """Write them in float32, which tells a right step from a wrong one."""
    arrays = {f"{name}|{i}": np.float32(x) for name, tensors in references.items() for i, x in enumerate(tensors)}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_references(path: Path) -> dict[str, list[Any]]:
    """What `save_references` wrote."""
    references: dict[str, list[Any]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in sorted(arrays.files, key=lambda key: (key.rpartition("|")[0], int(key.rpartition("|")[2]))):
            references.setdefault(key.rpartition("|")[0], []).append(arrays[key])
    return references


def packed_workloads() -> tuple[Workload, ...]:
    """The networks whose reference takes a CPU longer than a second."""
    from benchmarks.cases import LARGE, SMALL

    return (SMALL[2], *LARGE)
