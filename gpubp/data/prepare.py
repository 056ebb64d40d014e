"""From a data set to training, validation and test arrays, and what must be remembered to do it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import features, targets
from gpubp.data.readers import read
from gpubp.data.source import RawData
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss, get_loss

TEST_FRACTION = 0.2
Part = tuple[NDArray[Any], NDArray[Any]]
TASKS = {
    "classes": "classification",
    "binary": "classification",
    "labels": "multilabel",
    "values": "regression",
}


@dataclass(frozen=True)
class PreparedData:
    """Data that a network can be trained on.

    Attributes
    ----------
    task : {"classification", "multilabel", "regression"}
    loss : str
        The loss's name, the one that was asked for or the one that the target implies.
    train, validation, test : (X, y) or None
        X (m, n_inputs) C-contiguous; y (m,) int64 for cross-entropy, otherwise (m, n_outputs) of
        X's dtype.
    n_inputs, n_outputs : int
    preprocessing : dict
        For `encode` and `decode`: plain JSON.
    classes : list or None
        The class that each index means, for one target a row.
    notes : list of str
        What was guessed, left out or replaced, to be said aloud.
    """

    task: str
    loss: str
    train: Part
    validation: Part | None
    test: Part | None
    n_inputs: int
    n_outputs: int
    preprocessing: dict[str, Any]
    classes: list[Any] | None
    notes: list[str]


def prepare(
    data: RawData,
    *,
    loss: str | Loss = "auto",
    test: float | str | Path | None = None,
    validation: float | None = None,
    seed: int = 0,
    dtype: Any = np.float32,
) -> PreparedData:
    """Split a data set and encode it, everything fitted on the training rows alone.

    Parameters
    ----------
    data : RawData
        As `read` returns it.
    loss : str or Loss
        "auto" chooses by the target (see `gpubp.data.targets.infer_loss`) and says so in the notes.
    test : float, path or None
        A fraction of the rows (0 for no test part), a file of test rows, or None: the source's own test
        part, else 20 % of the rows.
    validation : float or None
        A fraction of the training rows.
    seed : int
        Of the random splits, which keep the shares of the classes.
    dtype : dtype
        Of X and of targets that are not class indices.

    Raises
    ------
    DataError
        If the data cannot be trained on; the message names the file, the line or row, the column, the remedy.
    """
    data = having_target(data)
    chosen = targets.infer_loss(data) if loss == "auto" else get_loss(loss)
    target = targets.fit(data, chosen)
    strata = targets.apply(target, data) if "classes" in target else None
    strata = None if strata is None else strata.ravel()
    train, held, tested = test_part(data, test, strata, seed)
    targets.values(tested)  # raises where the test part has none
    train, checked = split_rows(data, train, validation or 0.0, strata, seed, "validation")
    targets.standardize(target, data, chosen, train)
    preprocessing = {"features": features.fit(data, train), "target": target}

    def part(rows: NDArray[np.int64], source: RawData) -> Part | None:
        if not len(rows):
            return None
        X, y = _encode(preprocessing, source, rows, dtype)
        assert y is not None
        return X, y

    parts = [part(train, data), part(checked, data), part(held, tested)]
    assert parts[0] is not None
    return PreparedData(
        TASKS[target["type"]],
        chosen.name,
        *(parts[0], parts[1], parts[2]),
        n_inputs=features.width(preprocessing["features"]),
        n_outputs=target["outputs"],
        preprocessing=preprocessing,
        classes=target.get("classes"),
        notes=list(dict.fromkeys([*data.notes, *tested.notes])),
    )


def encode(
    preprocessing: dict[str, Any], data: RawData, *, with_target: bool = True, dtype: Any = np.float32
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The input and the target that a trained network takes, from raw rows.

    Parameters
    ----------
    preprocessing : dict
        From `prepare`, or from a model's file.
    data : RawData
        A table's columns may come in any order. What was replaced or ignored is added to ``data.notes``.
    with_target : bool
        Whether to encode the target where `data` has it; predicting needs none.
    dtype : dtype
        Of X and of targets that are not class indices.

    Returns
    -------
    X : ndarray (m, n_inputs)
    y : ndarray or None
        As in `PreparedData`; None if `data` has no target.

    Raises
    ------
    DataError
        If columns are missing, or a value is not of the kind that the network was trained on.
    """
    data = replace(data, target=preprocessing["target"]["name"])  # shares its notes with the caller's
    state = preprocessing["features"]
    if data.kind == "table" == state["kind"]:
        used = {data.target, *state["numbers"]["names"], *(column["name"] for column in state["categories"])}
        for name in data.columns:
            if name not in used:
                data.say(f'column "{name}": the network was not trained on it, ignored')
    return _encode(preprocessing, data, features.ALL_ROWS, dtype, with_target)


def decode(preprocessing: dict[str, Any], outputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Predictions in the data's own terms.

    Parameters
    ----------
    preprocessing : dict
        From `prepare`, or from a model's file.
    outputs : ndarray (m, n_outputs)
        The network's outputs a^L, not its logits.

    Returns
    -------
    dict of str to ndarray (m,)
        ``prediction``, the class or the value in raw units, and ``probability_CLASS`` for each class; with
        several labels or values ``prediction_0``, ``prediction_1``, … (and ``probability_0``, … for labels).
    """
    return targets.decode(preprocessing["target"], np.asarray(outputs))


def _encode(
    preprocessing: dict[str, Any], data: RawData, rows: features.Rows, dtype: Any, with_target: bool = True
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    X = features.apply(preprocessing["features"], data, rows, dtype)
    return X, targets.apply(preprocessing["target"], data, rows, dtype) if with_target else None


def having_target(data: RawData) -> RawData:
    """The same data, with the last column of a table as the target where none is named."""
    if data.kind != "table" or data.target is not None:
        return data
    last = list(data.columns)[-1]
    data.say(f'target: last column, "{last}"; for another, --target')
    return replace(data, target=last)


def test_part(
    data: RawData, test: float | str | Path | None, strata: NDArray[Any] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], RawData]:
    """Training rows of `data`, test rows, and the data set that the latter are rows of."""
    rows = np.arange(data.rows)
    own = data.test_part
    if isinstance(test, str | Path):
        other = replace(read(test), target=data.target)
        data.say(f"test: the {other.rows} rows of {other.name}")
        return rows, np.arange(other.rows), other
    if test is None and own is not None:
        data.say(f"test: the {own.rows} rows that the data set keeps for it")
        return rows, np.arange(own.rows), own
    train, held = split_rows(data, rows, TEST_FRACTION if test is None else test, strata, seed, "test")
    return train, held, data


def split_rows(
    data: RawData, rows: NDArray[np.int64], fraction: float, strata: NDArray[Any] | None, seed: int, part: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a random fraction off `rows`, of each class alike; both parts stay in order.

    Where scikit-learn's ``train_test_split`` can do it, the rows are those that it draws with the same seed.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"{part}={fraction} is no fraction; choose one from 0 (none) to below 1")
    if fraction == 0:
        return rows, rows[:0]
    from sklearn.model_selection import train_test_split

    if len(rows) < 2:
        raise DataError(f"{data.name}: {len(rows)} row(s) cannot be split; give more rows, or {part}=0")
    stays = rows[:0]
    labels = None
    if strata is not None:
        codes, inverse, counts = np.unique(strata[rows], return_inverse=True, return_counts=True)
        alone = counts[inverse] == 1  # a class of one row can only be learned from
        stays, rows = rows[alone], rows[~alone]
        labels = strata[rows]
        least = int((counts > 1).sum())
    else:
        least = 1
    if not len(rows):
        raise DataError(f"{data.name}: every class has one row only; give more rows, or {part}=0")
    size = min(max(ceil(fraction * (len(rows) + len(stays))), least), len(rows) - least)
    kept, cut = train_test_split(rows, test_size=size, random_state=seed, stratify=labels)
    how = ", in each class alike" if strata is not None else ""
    data.say(f"{part}: {size} of {len(rows) + len(stays)} rows, drawn with seed {seed}{how}")
    return np.sort(np.concatenate([kept, stays])), np.sort(cut)
