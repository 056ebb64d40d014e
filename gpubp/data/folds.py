"""The training rows of a data set in folds, each with an encoding fitted only on its own training rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.checks import SparseRows
from gpubp.data import features, targets
from gpubp.data.features import RowIndices
from gpubp.data.prepare import split_rows, split_test, with_default_target
from gpubp.data.source import RawData
from gpubp.errors import UsageError
from gpubp.losses import get_loss


@dataclass(frozen=True, eq=False)
class Fold:
    """A split of the rows into training and validation rows of a network.

    Attributes
    ----------
    number : int
        Counted from 1.
    X, y : ndarray, or SparseRows for X
        As in `PreparedData`. Folds with equally wide inputs share these arrays, which hold all training rows of the
        data set once per distinct encoding.
    train, validation : (n,) int
        The fold's rows of X and y.
    preprocessing : dict
        The encoding fitted on the rows in `train`, as in `PreparedData`.
    """

    number: int
    X: Any
    y: NDArray[Any]
    train: RowIndices
    validation: RowIndices
    preprocessing: dict[str, Any]


def cut(
    data: RawData,
    *,
    loss: str,
    output_activation: targets.OutputActivations = "auto",
    test: float | str | Path | None,
    folds: int,
    validation: float,
    seed: int,
    dtype: Any,
) -> tuple[list[Fold], list[str]]:
    """Split the rows that `prepare` would train on into folds, stratified by class.

    Parameters
    ----------
    data, loss, output_activation, test, seed, dtype
        As for `prepare`.
    folds : int
        The number of folds; each row is validated on in one of them. 1 is a single split.
    validation : float
        The fraction of validation rows in a single split.

    Returns
    -------
    folds : list of Fold
    notes : list of str
        Notices for the user.

    Raises
    ------
    UsageError
        If there are too few rows, or too few of every class.
    """
    data = with_default_target(replace(data, notes=[]))
    chosen_loss = get_loss(loss)
    outputs = targets.Outputs.of(chosen_loss, output_activation)
    target = targets.fit(data, chosen_loss, outputs)
    strata = targets.class_indices(target, data)
    has_test_file = isinstance(test, str | Path)  # then all rows of `data` are for training
    rows, _, _ = split_test(data, 0.0 if has_test_file else test, strata, seed)
    data.notes.clear()
    if folds == 1:
        train_rows, validation_rows = split_rows(data, rows, validation, strata, seed, "validation")
        splits = [(np.searchsorted(rows, train_rows), np.searchsorted(rows, validation_rows))]
    else:
        splits = _split_into_folds(data, rows, folds, None if strata is None else strata[rows], target, seed)
    notes = list(data.notes)
    preprocessings = []
    for train, _ in splits:
        fold_target = dict(target)
        targets.standardize(fold_target, data, chosen_loss, rows[train], outputs)
        preprocessings.append({"features": features.fit(data, rows[train]), "target": fold_target})
    return encode_folds(data, rows, splits, preprocessings, dtype), notes


def _split_into_folds(
    data: RawData, rows: RowIndices, folds: int, strata: RowIndices | None, target: features.Encoding, seed: int
) -> list[tuple[RowIndices, RowIndices]]:
    """Draw the folds: for each the training and the validation rows, as positions in `rows`."""
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
        warnings.filterwarnings("ignore", "The least populated class")  # reported above, with the class's name
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, strata))


def encode_folds(
    data: RawData,
    rows: RowIndices,
    splits: Sequence[tuple[RowIndices, RowIndices]],
    preprocessings: Sequence[dict[str, Any]],
    dtype: Any,
    padded: bool = False,
) -> list[Fold]:
    """Encode `rows` once per distinct preprocessing, in one pair (X, y) for folds with equally wide inputs.

    Parameters
    ----------
    data : RawData
    rows : (m,) int
    splits : sequence of (train, validation)
        Positions in `rows`.
    preprocessings : sequence of dict
        The preprocessing of each split.
    dtype : dtype
    padded : bool
        Whether to pad all inputs to the widest with columns of zeros.

    Returns
    -------
    list of Fold
    """
    folds: dict[int, Fold] = {}
    widths = [features.width(preprocessing["features"]) for preprocessing in preprocessings]
    if padded:
        widths = [max(widths)] * len(widths)
    for width in dict.fromkeys(widths):
        members = [i for i, fold_width in enumerate(widths) if fold_width == width]
        different: list[dict[str, Any]] = []
        for i in members:
            if preprocessings[i] not in different:
                different.append(preprocessings[i])
        X = _inputs([preprocessing["features"] for preprocessing in different], data, rows, width, dtype)
        y_blocks: list[Any] = [targets.apply(preprocessing["target"], data, rows, dtype) for preprocessing in different]
        y: NDArray[Any] = np.concatenate(y_blocks)
        for i in members:
            start = different.index(preprocessings[i]) * len(rows)
            train, validation = splits[i]
            folds[i] = Fold(
                number=i + 1,
                X=X,
                y=y,
                train=start + train,
                validation=start + validation,
                preprocessing=preprocessings[i],
            )
    return [folds[i] for i in range(len(preprocessings))]


def _inputs(
    encodings: Sequence[features.Encoding], data: RawData, rows: RowIndices, width: int, dtype: Any
) -> NDArray[Any] | SparseRows:
    """The rows in each encoding, one block after the other; all sparse if any block is."""
    if any(features.is_sparse(encoding, len(rows), dtype) for encoding in encodings):
        from scipy.sparse import csr_matrix, vstack

        matrices = []
        for encoding in encodings:
            encoded = features.apply(encoding, data, rows, dtype)
            matrix = encoded.matrix if isinstance(encoded, SparseRows) else csr_matrix(encoded)
            matrix.resize(len(rows), width)
            matrices.append(matrix)
        return SparseRows(vstack(matrices, format="csr"))
    X = np.zeros((len(encodings) * len(rows), width), dtype)
    for block, encoding in zip(X.reshape(len(encodings), len(rows), width), encodings, strict=True):
        block[:, : features.width(encoding)] = features.apply(encoding, data, rows, dtype)
    return X
