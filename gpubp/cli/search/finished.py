"""The finished part of a search in a file: an interrupted search resumes after its last finished stack."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import serialization
from gpubp.cli.search.trials import Search
from gpubp.errors import DataError
from gpubp.training.checkpoint import fingerprint, first_difference

FINISHED = "finished.safetensors"
SCORES = ("loss", "metric", "epochs")


def save(folder: Path, search: Search) -> None:
    """Write the results of the finished trials."""
    values = {name: np.array([getattr(trial, name) for trial in search.trials]) for name in SCORES}
    states = [trial.state if trial.finished else None for trial in search.trials]
    serialization.save(folder / FINISHED, values, {"search": _identity(search), "states": states})


def load(folder: Path, search: Search) -> int:
    """Load the finished trials; returns how many stacks need no more training.

    Raises
    ------
    DataError
        If there is nothing to resume, or it is from another search; the message names both sides.
    """
    path = folder / FINISHED
    if not path.is_file():
        raise DataError(f"{folder}: holds no search to go on with; search without --resume to begin anew")
    values, metadata = serialization.load(path)
    difference = first_difference("", metadata.get("search"), _identity(search))
    if difference is not None:
        name, there, here = difference
        raise DataError(f"{path}: belongs to another search: {name} is {there} there and {here} here")
    for k, (trial, state) in enumerate(zip(search.trials, metadata["states"], strict=True)):
        if state is not None:
            trial.state = state
            trial.loss, trial.metric, trial.epochs = (values[name][k].item() for name in SCORES)
    return sum(stack.finished for stack in search.stacks)


@lru_cache(maxsize=1)
def _identity(search: Search) -> dict[str, Any]:
    """What two searches must have in common for one to resume where the other stopped."""
    digests: dict[int, Any] = {}  # folds share arrays

    def digest(array: Any) -> Any:
        if id(array) not in digests:
            digests[id(array)] = fingerprint(array)
        return digests[id(array)]

    by_class = search.class_weight
    return {
        "candidates": {str(number): settings.as_dict() for number, settings in enumerate(search.candidates, start=1)},
        "seeds": list(search.seeds),
        "loss": search.loss,
        "precision": search.precision,
        "class_weight": {str(k): w for k, w in by_class.items()} if isinstance(by_class, dict) else by_class,
        "folds": {
            str(fold.number): {name: digest(getattr(fold, name)) for name in ("X", "y", "train", "validation")}
            for fold in search.folds
        },
    }
