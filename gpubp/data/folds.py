"""The training rows of a data set in folds, each of which is encoded as if its training rows were all there are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import features, targets
from gpubp.data.prepare import having_target, split_rows, test_part
from gpubp.data.source import RawData
from gpubp.errors import UsageError
from gpubp.losses import get_loss

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """What a network is trained and validated on.

    Attributes
    ----------
    number : int
        Counted from 1.
    X, y : ndarray
        As in `PreparedData`. Folds whose inputs are equally wide share them: they hold every training row of the data
        set once for each different encoding.
    train, validation : (n,) int
        The rows of X and y, encoded by what was fitted on those in `train` alone.
    preprocessing : dict
        What was fitted.
    """

    number: int
    X: NDArray[Any]
    y: NDArray[Any]
    train: Indices
    validation: Indices
    preprocessing: dict[str, Any]


def cut(
    data: RawData,
    *,
    loss: str,
    test: float | str | Path | None,
    folds: int,
    validation: float,
    seed: int,
    dtype: Any,
) -> tuple[list[Fold], list[str]]:
    """Cut the rows that `prepare` would train on into folds, with the classes in proportion.

    Parameters
    ----------
    data, loss, test, seed, dtype : as `prepare` takes them
    folds : int
        Each row is validated on in one of them; 1 is a single split.
    validation : float
        The fraction of the rows that the single split validates on.

    Returns
    -------
    list of Fold
    list of str
        What the user should be told.

    Raises
    ------
    UsageError
        If there are too few rows, or too few of every class.
    """
    data = having_target(replace(data, notes=[]))
    chosen = get_loss(loss)
    target = targets.fit(data, chosen)
    strata = targets.apply(target, data) if "classes" in target else None
    strata = None if strata is None else strata.ravel()
    apart = isinstance(test, str | Path)  # rows of another file, none of these
    rows, _, _ = test_part(data, 0.0 if apart else test, strata, seed)
    data.notes.clear()
    if folds == 1:
        halves = split_rows(data, rows, validation, strata, seed, "validation")
        splits = [(np.searchsorted(rows, halves[0]), np.searchsorted(rows, halves[1]))]
    else:
        splits = _folds(data, rows, folds, None if strata is None else strata[rows], target, seed)
    notes = list(data.notes)
    fitted = []
    for train, _ in splits:
        own = dict(target)
        targets.standardize(own, data, chosen, rows[train])
        fitted.append({"features": features.fit(data, rows[train]), "target": own})
    return _encoded(data, rows, splits, fitted, dtype), notes


def _folds(
    data: RawData, rows: Indices, folds: int, strata: Indices | None, target: features.State, seed: int
) -> list[tuple[Indices, Indices]]:
    """(training rows, validation rows) of each fold, as places in `rows`."""
    from sklearn.model_selection import KFold, StratifiedKFold

    if strata is None:
        if len(rows) < folds:
            raise UsageError(f"--folds {folds}: {data.name} has {len(rows)} training rows; use fewer folds")
        data.say(f"folds: {folds} of {len(rows):,} training rows, drawn with seed {seed}")
        return list(KFold(folds, shuffle=True, random_state=seed).split(rows))
    codes, counts = np.unique(strata, return_counts=True)
    if counts.max() < folds:
        raise UsageError(
            f"--folds {folds}: no class of {data.name} has so many training rows; use --folds {counts.max()} or fewer"
        )
    data.say(f"folds: {folds} of {len(rows):,} training rows, drawn with seed {seed}, in each class alike")
    for code, count in zip(codes, counts, strict=True):
        if count < folds:
            few = f"{count} training rows" if count > 1 else "1 training row, without which one fold is trained"
            data.say(f'class "{target["classes"][int(code)]}": {few}; not every fold is validated on it')
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # said above, with its name
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, strata))


def _encoded(
    data: RawData,
    rows: Indices,
    splits: Sequence[tuple[Indices, Indices]],
    fitted: Sequence[dict[str, Any]],
    dtype: Any,
) -> list[Fold]:
    found: dict[int, Fold] = {}
    widths = [features.width(one["features"]) for one in fitted]
    for width in dict.fromkeys(widths):
        members = [i for i, own in enumerate(widths) if own == width]
        different: list[dict[str, Any]] = []
        for i in members:
            if fitted[i] not in different:
                different.append(fitted[i])
        X = np.empty((len(different) * len(rows), width), dtype)
        y: list[Any] = []
        for block, preprocessing in zip(X.reshape(len(different), len(rows), width), different, strict=True):
            block[...] = features.apply(preprocessing["features"], data, rows, dtype)
            y.append(targets.apply(preprocessing["target"], data, rows, dtype))
        together: NDArray[Any] = np.concatenate(y)
        for i in members:
            first = different.index(fitted[i]) * len(rows)
            train, validation = (first + part for part in splits[i])
            found[i] = Fold(i + 1, X, together, train, validation, fitted[i])
    return [found[i] for i in range(len(fitted))]
