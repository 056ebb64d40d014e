"""The target: which loss it asks for, its encoding, and the network's outputs decoded into its classes and units."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.features import ALL_ROWS, LARGEST_MAGNITUDE, Encoding, RowIndices, RowSelection, as_text
from gpubp.data.source import RawData, printable
from gpubp.errors import DataError, suggest
from gpubp.losses import Loss, get_loss

FEW_DISTINCT_NUMBERS = 20  # up to so many different whole numbers are classes, gaps or not
MOST_CLASSES = 1000


def infer_loss(data: RawData) -> Loss:
    """Choose the loss by the target; the reason, and how to choose otherwise, are noted in `data`.

    Texts and truth values are classes (cross_entropy). So are whole numbers if there are at most 20 different
    ones, or if they are 0 … k − 1 without a gap, and at least two rows of each on average. A matrix of zeros
    and ones is one label a column (binary_cross_entropy). All other numbers are values (half_squared_error).
    """
    y = raw_values(data)
    distinct = np.unique(y)
    if y.dtype.kind == "U":
        name, reason = "cross_entropy", "texts, read as classes"
    elif y.ndim == 2 and np.isin(distinct, (0, 1)).all():
        name, reason = "binary_cross_entropy", f"{y.shape[1]} columns of 0 and 1, read as labels"
    elif y.ndim == 2 or not _are_whole_numbers(distinct):
        name, reason = "half_squared_error", "numbers, read as values; for classes, --loss cross_entropy"
    elif _look_like_classes(distinct, len(y)):
        name = "cross_entropy"
        reason = f"{len(distinct)} different whole numbers, read as classes; for values, --loss half_squared_error"
    else:
        name = "half_squared_error"
        reason = f"{len(distinct)} different whole numbers, read as values; for classes, --loss cross_entropy"
    data.say(f"target: {reason}" if data.target is None else f'target: "{data.target}", {reason}')
    return get_loss(name)


def fit(data: RawData, loss: Loss) -> Encoding:
    """Fit the encoding of the target on all rows, for all classes must be known; `standardize` adds mean and scale."""
    y = raw_values(data)
    encoding: Encoding = {"name": data.target, "loss": loss.name}
    if not loss.classification:
        if y.dtype.kind == "U":
            raise DataError(
                f'{_where_target(data, 0)}: "{y[0]}" is not a number, and {loss.name} predicts numbers; '
                "choose cross_entropy for classes"
            )
        outputs = 1 if y.ndim == 1 else y.shape[1]
        return encoding | {
            "type": "values",
            "outputs": outputs,
            "mean": [0.0] * outputs,
            "scale": [1.0] * outputs,
        }
    if y.ndim == 2:
        return encoding | {"type": "labels", "outputs": _check_labels(data, y, loss)}
    distinct = np.unique(y)
    if not _are_whole_numbers(distinct):
        row = int(np.flatnonzero(y != np.floor(y))[0])
        raise DataError(
            f"{_where_target(data, row)}: {y[row]} is no class, and {loss.name} predicts classes; "
            "choose half_squared_error for values"
        )
    classes = [str(value) if y.dtype.kind == "U" else int(value) for value in distinct]
    _check_classes(data, classes, len(y), loss)
    if loss.integer_targets:
        return encoding | {"type": "classes", "outputs": len(classes), "classes": classes}
    return encoding | {"type": "binary", "outputs": 1, "classes": classes}


def class_indices(encoding: Encoding, data: RawData) -> NDArray[Any] | None:
    """Find the class of every row (m,), for splits with the classes in proportion; None for labels and values."""
    if "classes" not in encoding:
        return None
    codes = apply(encoding, data)
    return None if codes is None else codes.ravel()


def standardize(encoding: Encoding, data: RawData, loss: Loss, rows: RowSelection) -> None:
    """Fit mean and scale of values to be predicted on these rows, in place.

    Targets of a loss that bounds them (counts for poisson) stay raw, as do classes and labels.
    """
    if encoding["type"] != "values":
        return
    from sklearn.preprocessing import StandardScaler

    y = raw_values(data)
    low, high = loss.targets
    outside = np.argwhere((y < low) | (y > high))
    if len(outside):
        row = int(outside[0][0])
        raise DataError(
            f"{_where_target(data, row)}: {y[row]} is not in [{low}, {high}], as {loss.name} needs; "
            "correct it or choose another loss"
        )
    if (low, high) == (-np.inf, np.inf):
        scaler = StandardScaler().fit(y[rows].reshape(-1, encoding["outputs"]))
        encoding |= {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}


def apply(
    encoding: Encoding, data: RawData, rows: RowSelection = ALL_ROWS, dtype: Any = np.float32
) -> NDArray[Any] | None:
    """Encode the target: class indices (m,) int64, or (m, n_outputs) of `dtype`; None if `data` has no target."""
    if data.target not in data.columns if data.kind == "table" else data.y is None:
        return None
    y = raw_values(data)[rows]
    if encoding["type"] == "values":
        if y.dtype.kind == "U":
            raise DataError(f'{_where_target(data, 0)}: "{y[0]}" is not a number, as all targets were in training')
        scaled = (y.reshape(-1, encoding["outputs"]) - encoding["mean"]) / encoding["scale"]
        return np.ascontiguousarray(scaled, dtype=dtype)
    if encoding["type"] == "labels":
        _check_labels(data, raw_values(data), get_loss(encoding["loss"]), encoding["outputs"])
        return np.ascontiguousarray(y, dtype=dtype)
    codes = _class_codes(encoding, data, y, np.arange(data.rows)[rows])
    return codes if encoding["type"] == "classes" else codes.astype(dtype)[:, None]


def decode(encoding: Encoding, outputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Turn the network's outputs (m, n_outputs) into named columns (m,) of predictions and probabilities."""
    if encoding["type"] == "values":
        raw = np.asarray(outputs, dtype=np.float64) * encoding["scale"] + encoding["mean"]
        return _output_columns("prediction", raw)
    if encoding["type"] == "labels":
        return _output_columns("prediction", (outputs > 0.5).astype(np.int64)) | _output_columns("probability", outputs)
    classes = np.asarray(encoding["classes"])
    if encoding["type"] == "binary":
        outputs = np.hstack([1 - outputs, outputs])
    probabilities = {f"probability_{name}": outputs[:, i] for i, name in enumerate(encoding["classes"])}
    return {"prediction": classes[outputs.argmax(axis=1)], **probabilities}


def raw_values(data: RawData) -> NDArray[Any]:
    """Take the target as it stands in the data, numbers or an array of str; raise if one is missing or too large."""
    if data.kind == "table":
        if data.target not in data.columns:
            raise DataError(
                f'{data.name}: there is no column "{data.target}"; {suggest(str(data.target), data.columns)}'
            )
        y = data.columns[data.target]
    elif data.y is None:
        raise DataError(f'{data.name}: has no targets; add an array "y"')
    else:
        y = data.y
    if y.dtype == object:
        bad = np.array([value is None for value in y])
    else:
        bad = ~(np.abs(y) < LARGEST_MAGNITUDE) if y.dtype.kind == "f" else np.zeros(len(y), dtype=bool)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        missing = y.dtype == object or np.isnan(y[row]).any()
        fault = "missing" if missing else f"{y[row]}, too large to standardize"
        raise DataError(f"{_where_target(data, row)}: the target is {fault}; correct it or delete the row")
    if y.dtype.kind == "b":
        return y.astype(np.int64)
    return y.astype(str) if y.dtype == object else y


def _are_whole_numbers(distinct: NDArray[Any]) -> bool:
    return distinct.dtype.kind != "f" or bool((distinct == np.floor(distinct)).all())


def _look_like_classes(distinct: NDArray[Any], rows: int) -> bool:
    """Whether whole numbers are classes, by the rule in `infer_loss`."""
    k = len(distinct)
    few = k <= FEW_DISTINCT_NUMBERS or (distinct[0] == 0 and distinct[-1] == k - 1)
    return bool(few and 2 * k <= rows)


def _check_classes(data: RawData, classes: list[Any], rows: int, loss: Loss) -> None:
    what = f'{data.name}, target "{data.target}"' if data.target else f"{data.name}, target"
    if len(classes) < 2:
        raise DataError(f'{what}: all {rows} rows are of class "{classes[0]}"; there is nothing to learn')
    if len(classes) > MOST_CLASSES or 2 * len(classes) > rows:
        raise DataError(
            f"{what}: {len(classes)} different values in {rows} rows are too many for classes; "
            "choose another target, or half_squared_error if they are numbers"
        )
    if len(classes) > 2 and not loss.integer_targets:
        raise DataError(f"{what}: {len(classes)} classes, and {loss.name} tells two apart; choose cross_entropy")


def _check_labels(data: RawData, y: NDArray[Any], loss: Loss, expected: int | None = None) -> int:
    """Count the labels, the columns of y; raise if y is no matrix of 0 and 1, or they are not as many as expected."""
    if loss.integer_targets:
        raise DataError(
            f"{data.name}: y is a matrix, and {loss.name} takes one class a row; give class numbers, or "
            "choose binary_cross_entropy for labels"
        )
    if y.ndim != 2 or not np.isin(y, (0, 1)).all() or expected not in (None, y.shape[1]):
        raise DataError(f"{data.name}: y must be a matrix of 0 and 1 with one column a label ({expected or 'any'})")
    return int(y.shape[1])


def _class_codes(encoding: Encoding, data: RawData, y: NDArray[Any], rows: RowIndices) -> NDArray[np.int64]:
    """Find the index of each target's class; `rows` are where y stands in the data, for the error message."""
    classes = np.asarray(encoding["classes"])
    if classes.dtype.kind == "U" and y.dtype.kind != "U":
        y = np.array([as_text(value) for value in y])
    comparable = (classes.dtype.kind == "U") == (y.dtype.kind == "U")
    codes = np.searchsorted(classes, y).clip(max=len(classes) - 1) if comparable else np.zeros(len(y), dtype=np.int64)
    unknown = classes[codes] != y if comparable else np.ones(len(y), dtype=bool)
    if unknown.any():
        i = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f'{_where_target(data, int(rows[i]))}: class "{printable(str(y[i]))}" does not occur in training; known: '
            f"{', '.join(map(str, encoding['classes']))}"
        )
    return codes.astype(np.int64)


def _output_columns(name: str, matrix: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Name the columns of a matrix NAME_0, NAME_1, …; a single prediction has no number."""
    if name == "prediction" and matrix.shape[1] == 1:
        return {name: matrix[:, 0]}
    return {f"{name}_{j}": matrix[:, j] for j in range(matrix.shape[1])}


def _where_target(data: RawData, row: int) -> str:
    return data.where(row, data.target if data.kind == "table" else "y")
