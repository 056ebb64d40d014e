"""The training rows of a table in folds, as each recipe encodes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import RawData, features, targets
from gpubp.data.folds import Fold, encode_folds
from gpubp.data.prepare import fit_features, split_rows
from gpubp.errors import DataError
from gpubp.losses import Loss
from gpubp.training import packing

MOST_INPUTS = 8192  # if bins and waves would make more, numbers are only scaled
MOST_BYTES = 2**31  # of inputs, up to which each fold has its own encoding; beyond, all folds share one
PART_OF_MEMORY = 4  # and at most this fraction (1/4) of the free memory
SCALINGS = ("standard", "robust", "quantile")  # encodings with one input per column

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """The rows of a table that a preset is trained on.

    Attributes
    ----------
    data : RawData
        With its target.
    rows : (m,) int
    target : dict
        The encoding of the target, with mean and scale over all these rows.
    loss : Loss
    outputs : Outputs
        What the outputs of the networks can be.
    strata : (data.rows,) int or None
        The class of each row.
    weight : (m,) float64 or None
        Sample weights.
    """

    data: RawData
    rows: NDArray[np.int64]
    target: features.Encoding
    loss: Loss
    outputs: targets.Outputs
    strata: NDArray[np.int64] | None
    weight: NDArray[np.float64] | None = None

    @property
    def y(self) -> NDArray[Any]:
        """The encoded targets of the rows: (m,) classes, or (m, n_L)."""
        y = targets.apply(self.target, self.data, self.rows, np.float64)
        assert y is not None
        return y


def split(table: TrainingRows, folds: int, validation: float, seed: int, say: Callable[[str], Any]) -> list[Split]:
    """Draw the folds: for each, the positions of the rows to train and to validate on.

    Every row is validated on in one of them; there are fewer than `folds` if there are fewer rows, or fewer of every
    class. 1 means a single split, with `validation` as the second part.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    rows, strata = table.rows, None if table.strata is None else table.strata[table.rows]
    if len(rows) < 2:
        raise DataError(f"{table.data.name}: {len(rows)} row(s) to train on; give two at least, to validate on one")
    if folds == 1:
        silent = replace(table.data, notes=[])
        train, held_out = split_rows(silent, rows, validation, table.strata, seed, "validation")
        say(f"validation: {len(held_out):,} of {len(rows):,} training rows, drawn with seed {seed}")
        return [(np.searchsorted(rows, train), np.searchsorted(rows, held_out))]
    if strata is None:
        folds = min(folds, len(rows))
        say(f"folds: {folds} of {len(rows):,} training rows, drawn with seed {seed}")
        return list(KFold(folds, shuffle=True, random_state=seed).split(rows))
    codes, counts = np.unique(strata, return_counts=True)
    folds = max(2, min(folds, int(counts.max())))
    say(f"folds: {folds} of {len(rows):,} training rows, drawn with seed {seed}, in each class alike")
    for code, count in zip(codes, counts, strict=True):
        if count < folds:
            name = table.target["classes"][int(code)]
            say(f'class "{name}": {count} training row(s) for {folds} folds; not every network is validated on it')
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # reported above, with the class's name
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, strata))


def encode(
    table: TrainingRows, splits: list[Split], numbers: str, seed: int, dtype: Any, say: Callable[[str], Any]
) -> list[Fold]:
    """Encode the rows for each fold with an encoding fitted on its own training rows, equally wide for all folds."""
    silent = replace(table, data=replace(table.data, notes=[]))
    least = len(table.data.columns) * len(numbers.split("+"))  # avoids growing many trees in vain
    first = None if least > MOST_INPUTS else _preprocessing(silent, splits[0][0], numbers, seed)
    width = least if first is None else features.width(first["features"])
    if width > MOST_INPUTS and numbers not in SCALINGS:
        scaling = next((name for name in numbers.split("+") if name in SCALINGS), features.STANDARD)
        say(f"numbers: {scaling}, since {numbers} would make {width:,} inputs or more")
        return encode(table, splits, scaling, seed, dtype, say)
    if first is None:
        first = _preprocessing(silent, splits[0][0], numbers, seed)
        width = features.width(first["features"])
    needed = width * len(table.rows) * len(splits) * np.dtype(dtype).itemsize
    if needed > min(MOST_BYTES, packing.system_memory() / PART_OF_MEMORY):
        say("numbers: one encoding, fitted on all training rows, as one for each fold would take too much memory")
        of_all = _preprocessing(silent, np.arange(len(table.rows)), numbers, seed)
        return encode_folds(silent.data, table.rows, splits, [of_all] * len(splits), dtype)
    others = [_preprocessing(silent, train, numbers, seed) for train, _ in splits[1:]]
    return encode_folds(silent.data, table.rows, splits, [first, *others], dtype, padded=True)


def _preprocessing(table: TrainingRows, train: NDArray[np.int64], numbers: str, seed: int) -> dict[str, Any]:
    """The preprocessing fitted on some of the rows, given by their positions."""
    target, rows = dict(table.target), table.rows[train]
    targets.standardize(target, table.data, table.loss, rows, table.outputs)
    weight = None if table.weight is None else table.weight[train]
    return {"features": fit_features(table.data, rows, target, numbers, seed, weight), "target": target}
