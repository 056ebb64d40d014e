"""The target: which loss it asks for, its encoding, and the network's outputs decoded into its classes and units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubp.activations import SOFTMAX, Activation, Softmax, get_output_activation
from gpubp.data.features import ALL_ROWS, Encoding, RowIndices, RowSelection, as_text
from gpubp.data.source import RawData, option, printable
from gpubp.data.target_columns import raw_values, where_target
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss, get_loss

OutputActivations: TypeAlias = str | Activation | Softmax | tuple[str | Activation | Softmax, ...]

FEW_DISTINCT_NUMBERS = 10  # up to so many different whole numbers are classes, gaps or not
FEW_COUNTED_FROM_ONE = 20  # up to so many are, if they are 1 … k
MOST_CLASSES = 1000
MOST_EXACT = 2**53  # up to which whole numbers are exact in float64
FEW_ROWS = 10  # of a class, in all parts of the data; such classes are named
MOST_NAMED = 5  # classes in a message
MARGIN = 0.1  # of a bounded output's range, kept free at either end
LEAST_SPREAD = 0.1  # of a bounded output's range; values within it that spread less are scaled


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a network, or of several that are compared, can be.

    Attributes
    ----------
    names : tuple of str
        Of the output activations.
    bounds : tuple of (float, float)
        What all of them can reach lies between these.
    """

    names: tuple[str, ...]
    bounds: tuple[float, float]

    @classmethod
    def of(cls, loss: Loss, asked: OutputActivations = "auto") -> Outputs:
        """Look up the output activations that are asked for; "auto" is the loss's own."""
        several = asked if isinstance(asked, tuple) else (asked,)
        activations = [loss.output_activation if one == "auto" else get_output_activation(one) for one in several]
        lows, highs = zip(*(activation.bounds for activation in activations), strict=True)
        return cls(tuple(dict.fromkeys(activation.name for activation in activations)), (max(lows), min(highs)))

    def __str__(self) -> str:
        return " and ".join(self.names)


def infer_loss(data: RawData) -> Loss:
    """Choose the loss by the target; the reason, and how to choose otherwise, are noted in `data`.

    Texts and truth values are classes (cross_entropy). So are one-hot rows, and whole numbers if there are at most 10
    different ones, or if they are 0 … k − 1, or 1 … k with k ≤ 20, without a gap, and at least two rows of each on
    average. Any other matrix of zeros and ones is one label a column (binary_cross_entropy). All other numbers, such as
    ages, are values (half_squared_error).
    """
    y = raw_values(data)
    distinct = np.unique(y)
    if y.dtype.kind == "U":
        name, reason = "cross_entropy", "texts, read as classes"
    elif is_one_hot(y):
        name = "cross_entropy"
        reason = (
            f"{y.shape[1]} columns of 0 and 1, one 1 in every row, read as classes; for independent labels, "
            "--loss binary_cross_entropy"
        )
    elif y.ndim == 2 and np.isin(distinct, (0, 1)).all():
        name, reason = "binary_cross_entropy", f"{y.shape[1]} columns of 0 and 1, read as labels"
    elif y.ndim == 2 or not _are_whole_numbers(distinct):
        name, reason = "half_squared_error", "numbers, read as values; for classes, --loss cross_entropy"
    elif _look_like_classes(distinct, len(y)):
        name = "cross_entropy"
        other = "huber" if _label_pixels(data) else "half_squared_error"  # the latter takes classes there
        reason = f"{len(distinct)} different whole numbers, read as classes; for values, --loss {other}"
    else:
        name = "half_squared_error"
        reason = f"{len(distinct)} different whole numbers, read as values; for classes, --loss cross_entropy"
    data.say(f"target: {reason}" if data.target is None else f'target: "{data.target}", {reason}')
    return get_loss(name)


def fit(data: RawData, loss: Loss, outputs: Outputs) -> Encoding:
    """Fit the encoding of the target on all rows, for all classes must be known; `standardize` adds mean and scale.

    Parameters
    ----------
    data : RawData
    loss : Loss
        ``half_squared_error`` takes classes too, with an output for each and one-hot rows as targets: texts, one-hot
        rows, whole numbers that label pixels, and those that `infer_loss` reads as classes where outputs are bounded.
    outputs : Outputs
    """
    y = raw_values(data)
    encoding: Encoding = {"name": data.target, "loss": loss.name}
    if data.target_columns:
        encoding["columns"] = list(data.target_columns)
    if not loss.classification and _are_classes_for_values(data, y, loss, outputs):
        names = _fit_classes(data, y, loss)
        k = len(names["classes"])
        data.say(f"target: {k} classes, an output each, compared with one-hot rows")
        return encoding | {"type": "one_hot", "outputs": k} | names
    if not loss.classification:
        if y.dtype.kind == "U":
            raise DataError(
                f'{where_target(data, 0)}: "{y[0]}" is not a number, and {loss.name} predicts numbers; '
                "choose cross_entropy for classes"
            )
        columns = 1 if y.ndim == 1 else y.shape[1]
        if loss.quantiles and columns > 1:
            raise UsageError(f"{loss.name} predicts quantiles of one target, and there are {columns} target columns")
        n = len(loss.quantiles) or columns
        quantiles = {"quantiles": list(loss.quantiles)} if loss.quantiles else {}
        return encoding | {"type": "values", "outputs": n, "mean": [0.0] * n, "scale": [1.0] * n} | quantiles
    if y.ndim == 2 and not (loss.integer_targets and is_one_hot(y)):
        return encoding | {"type": "labels", "outputs": _check_labels(data, y, loss)}
    names = _fit_classes(data, y, loss)
    n = len(names["classes"]) if loss.integer_targets else 1
    return encoding | {"type": "classes" if loss.integer_targets else "binary", "outputs": n} | names


def _are_classes_for_values(data: RawData, y: NDArray[Any], loss: Loss, outputs: Outputs) -> bool:
    """Whether a loss on values is asked to tell classes apart, as `fit` says."""
    if loss.name != "half_squared_error":
        return False
    if y.dtype.kind == "U" or is_one_hot(y):
        return True
    distinct = np.unique(y)
    whole = y.ndim == 1 and _are_whole_numbers(distinct) and _look_like_classes(distinct, len(y))
    low, high = outputs.bounds
    return whole and (_label_pixels(data) or (low <= 0 and 1 <= high < np.inf))


def _label_pixels(data: RawData) -> bool:
    return data.kind == "images" or data.one_unit


def is_one_hot(y: NDArray[Any]) -> bool:
    """Whether y is a matrix of zeros and ones with a single 1 in every row."""
    return bool(y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def _fit_classes(data: RawData, y: NDArray[Any], loss: Loss) -> Encoding:
    """List the classes in y: under ``classes`` as they are called, and under ``codes`` the numbers that stand for them.

    Codes are there only where the data set names its classes, by ``list_classes`` or by the columns of one-hot rows.
    All columns of one-hot rows are classes, whether or not a row has its 1 there.
    """
    distinct = np.unique(y.argmax(axis=1)) if y.ndim == 2 else np.unique(y)
    if not _are_whole_numbers(distinct):
        row = int(np.flatnonzero(y != np.floor(y))[0])
        raise DataError(
            f"{where_target(data, row)}: {y[row]} is no class, and {loss.name} predicts classes; "
            "choose half_squared_error for values"
        )
    if y.dtype.kind == "U":
        texts = [str(value) for value in distinct]
        _check_classes(data, texts, len(y), loss)
        return {"classes": texts}
    if np.abs(distinct).max() > MOST_EXACT:
        row = int(np.flatnonzero(np.abs(y) > MOST_EXACT)[0])
        remedy = f"; read them as texts by {option('--kind', f'{data.target}=category')}" if data.target else ""
        raise DataError(
            f"{where_target(data, row)}: {y[row]:.17g} has more digits than numbers keep, so that classes would run "
            f"into each other{remedy}"
        )
    codes = [int(value) for value in distinct]
    _check_classes(data, codes, len(y), loss)
    if y.ndim == 2:
        codes = list(range(y.shape[1]))
    names = data.class_names or data.target_columns or ()
    if len(set(names)) == len(names) and 0 <= min(codes) and max(codes) < len(names):
        return {"classes": [names[code] for code in codes], "codes": codes}
    return {"classes": codes}


def class_indices(encoding: Encoding, data: RawData) -> NDArray[Any] | None:
    """Find the class of every row (m,), for splits with the classes in proportion; None for labels and values."""
    if "classes" not in encoding:
        return None
    return _class_codes(encoding, data, raw_values(data), np.arange(data.rows))


def standardize(encoding: Encoding, data: RawData, loss: Loss, rows: RowSelection, outputs: Outputs) -> None:
    """Fit mean and scale of values to be predicted on these rows, in place.

    Targets of a loss that bounds them (counts for poisson) stay raw, as do classes and labels. Where the output
    activation gives no number beyond a bound, values are scaled to lie within: without a shift if they have one bound,
    to the middle of the range if they have two, unless they lie within it already. Shares for softmax stay raw.

    Raises
    ------
    DataError
        For a value that the loss or the output activation cannot have.
    """
    if encoding["type"] != "values":
        return
    y = _by_output(encoding, raw_values(data))
    low, high = loss.targets
    _require_within(data, y, low, high, f"{loss.name} needs; correct it or choose another loss")
    if (low, high) != (-np.inf, np.inf):
        return
    if SOFTMAX.name in outputs.names:
        _require_shares(data, y)
    elif outputs.bounds == (-np.inf, np.inf):
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(y[rows])
        encoding |= {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
    else:
        low, high = outputs.bounds
        if (low, high) == (0, np.inf):
            _require_within(data, y, low, high, f"outputs of {outputs} are; choose another --output-activation")
        mean, scale, how = _scale_within(y[rows].astype(np.float64), low, high)
        encoding |= {"mean": mean.tolist(), "scale": scale.tolist()}
        data.say(f"target: {how}, for outputs of {outputs} lie in [{low:g}, {high:g}]")
        if "relu" in outputs.names:
            data.say("an output of relu that is 0 learns nothing; --output-activation softplus always does")


def _by_output(encoding: Encoding, y: NDArray[Any]) -> NDArray[Any]:
    """Values as a matrix (m, outputs): of one target that has several quantiles, the same in each column."""
    outputs = encoding["outputs"]
    return np.tile(y.reshape(-1, 1), outputs) if "quantiles" in encoding else y.reshape(-1, outputs)


def clamp(encoding: Encoding, y: NDArray[Any]) -> None:
    """Keep values that are predicted within the range of these encoded targets (m, n_outputs), in place."""
    if encoding["type"] == "values":
        raw = np.stack([y.min(axis=0), y.max(axis=0)]).astype(np.float64) * encoding["scale"] + encoding["mean"]
        encoding["low"], encoding["high"] = raw.tolist()


def _scale_within(
    y: NDArray[np.float64], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Find mean and scale (outputs,) with which (y − mean) / scale lies in [low, high], and say what they do.

    `low` is finite.
    """
    least, largest = y.min(axis=0), y.max(axis=0)
    nothing, one = np.zeros(y.shape[1]), np.ones(y.shape[1])
    if high == np.inf:
        scale = np.sqrt((y**2).mean(axis=0))
        if low < 0:
            scale = np.maximum(scale, least / low)
        return nothing, np.where(scale > 0, scale, 1.0), "scaled and not shifted"
    width = high - low
    fits = (least >= low) & (largest <= high) & (largest - least >= LEAST_SPREAD * width)
    if fits.all():
        return nothing, one, "left as it is"
    # The outermost tenths stay free: bounds are reached for infinite logits only, and later rows may lie further out.
    scale = np.where(largest > least, (largest - least) / ((1 - 2 * MARGIN) * width), 1.0)
    middle = (largest + least) / 2 - scale * (high + low) / 2
    return middle, scale, "scaled to the middle of the range"


def _require_within(data: RawData, y: NDArray[Any], low: float, high: float, remedy: str) -> None:
    """Raise for the first of the values y (m, outputs) that is not in [low, high], as the remedy says is needed."""
    outside = np.argwhere((y < low) | (y > high))
    if len(outside):
        row, column = (int(i) for i in outside[0])
        raise DataError(f"{where_target(data, row)}: {y[row, column]} is not in [{low:g}, {high:g}], as {remedy}")


def _require_shares(data: RawData, y: NDArray[Any]) -> None:
    """Raise for the first row of y (m, outputs) that is not made of shares that sum to 1."""
    wrong = (y < 0).any(axis=1) | (np.abs(y.sum(axis=1) - 1) > 1e-4)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{where_target(data, row)}: sums to {y[row].sum():g}, and outputs of softmax are shares that sum to 1; "
            "choose another --output-activation"
        )


def apply(
    encoding: Encoding, data: RawData, rows: RowSelection = ALL_ROWS, dtype: Any = np.float32
) -> NDArray[Any] | None:
    """Encode the target: class indices (m,) int64, or (m, n_outputs) of `dtype`; None if `data` has no target."""
    if data.target not in data.columns if data.kind == "table" else data.y is None:
        return None
    y = raw_values(data)[rows]
    if encoding["type"] == "values":
        if y.dtype.kind == "U":
            raise DataError(f'{where_target(data, 0)}: "{y[0]}" is not a number, as all targets were in training')
        scaled = (_by_output(encoding, y) - encoding["mean"]) / encoding["scale"]
        return np.ascontiguousarray(scaled, dtype=dtype)
    if encoding["type"] == "labels":
        _check_labels(data, raw_values(data), get_loss(encoding["loss"]), encoding["outputs"])
        return np.ascontiguousarray(y, dtype=dtype)
    codes = _class_codes(encoding, data, y, np.arange(data.rows)[rows])
    if encoding["type"] == "one_hot":
        return np.eye(encoding["outputs"], dtype=dtype)[codes]
    return codes if encoding["type"] == "classes" else codes.astype(dtype)[:, None]


def training_mean(encoding: Encoding, y: NDArray[Any]) -> list[float]:
    """The mean of encoded targets of training, (outputs,): of classes, the fraction of rows that each has."""
    if encoding["type"] == "classes" and y.ndim == 1:
        mean = np.bincount(y, minlength=encoding["outputs"]) / len(y)
    else:
        mean = y.mean(axis=0, dtype=np.float64)
    return [float(value) for value in mean]


def say_few_rows(encoding: Encoding, data: RawData) -> None:
    """Name the classes of few rows, which can hardly be learned."""
    classes = encoding.get("classes", [])
    codes = class_indices(encoding, data)
    if codes is None:
        return
    counts = np.bincount(codes, minlength=len(classes))
    few = [f'"{printable(str(classes[i]))}" ({counts[i]})' for i in np.flatnonzero(counts < FEW_ROWS)]
    if few:
        more = ", …" if len(few) > MOST_NAMED else ""
        data.say(f"target: classes of fewer than {FEW_ROWS} rows: {', '.join(few[:MOST_NAMED])}{more}")


def decode(encoding: Encoding, outputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Turn the network's outputs (m, n_outputs) into named columns (m,) of predictions and probabilities."""
    names = encoding.get("quantiles") or encoding.get("columns")
    if encoding["type"] == "values":
        raw = np.asarray(outputs, dtype=np.float64) * encoding["scale"] + encoding["mean"]
        if "low" in encoding:
            raw = np.clip(raw, encoding["low"], encoding["high"])
        return _output_columns("prediction", raw, names)
    if encoding["type"] == "labels":
        labels = (outputs > 0.5).astype(np.int64)
        return _output_columns("prediction", labels, names) | _output_columns("probability", outputs, names)
    classes = np.asarray(encoding["classes"])
    if encoding["type"] == "binary":
        outputs = np.hstack([1 - outputs, outputs])
    kind = "output" if encoding["type"] == "one_hot" else "probability"  # squared errors make no probabilities
    probabilities = {f"{kind}_{name}": outputs[:, i] for i, name in enumerate(encoding["classes"])}
    return {"prediction": classes[outputs.argmax(axis=1)], **probabilities}


def _are_whole_numbers(distinct: NDArray[Any]) -> bool:
    return distinct.dtype.kind != "f" or bool((distinct == np.floor(distinct)).all())


def _look_like_classes(distinct: NDArray[Any], rows: int) -> bool:
    """Whether whole numbers are classes, by the rule in `infer_loss`."""
    k = len(distinct)
    counts_from_zero = distinct[0] == 0 and distinct[-1] == k - 1
    counts_from_one = distinct[0] == 1 and distinct[-1] == k <= FEW_COUNTED_FROM_ONE
    few = k <= FEW_DISTINCT_NUMBERS or counts_from_zero or counts_from_one
    return bool(few and 2 * k <= rows)


def _check_classes(data: RawData, classes: Sequence[Any], rows: int, loss: Loss) -> None:
    what = f'{data.name}, target "{data.target}"' if data.target else f"{data.name}, target"
    if len(classes) < 2:
        raise DataError(f'{what}: all {rows} rows are of class "{classes[0]}"; there is nothing to learn')
    if len(classes) > MOST_CLASSES or 2 * len(classes) > rows:
        raise DataError(
            f"{what}: {len(classes)} different values in {rows} rows are too many for classes; "
            "choose another target, or half_squared_error if they are numbers"
        )
    if len(classes) > 2 and loss.classification and not loss.integer_targets:
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
    known = np.asarray(encoding["classes"])
    if y.dtype.kind != "U":
        known = np.asarray(encoding.get("codes", encoding["classes"]))
        if y.ndim == 2:
            y = _one_hot_codes(data, y, known)
        elif known.dtype.kind == "U":
            y = np.array([as_text(value) for value in y])
    comparable = (known.dtype.kind == "U") == (y.dtype.kind == "U")
    codes = np.zeros(len(y), dtype=np.int64)
    if comparable:
        order = np.argsort(known)
        codes = order[np.searchsorted(known, y, sorter=order).clip(max=len(known) - 1)]
    unknown = known[codes] != y if comparable else np.ones(len(y), dtype=bool)
    if unknown.any():
        i = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f'{where_target(data, int(rows[i]))}: class "{printable(str(y[i]))}" does not occur in training; known: '
            f"{', '.join(map(str, encoding['classes']))}"
        )
    return codes.astype(np.int64)


def _one_hot_codes(data: RawData, y: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """Find the column of the 1 in each row of y; raise if y is not one-hot with a column for each known class."""
    if not is_one_hot(y) or known.dtype.kind == "U" or not np.array_equal(known, np.arange(y.shape[1])):
        raise DataError(
            f"{data.name}: y is a matrix, and the network tells {len(known)} classes apart; give one class a row, or "
            "one-hot rows as in training"
        )
    codes: NDArray[np.int64] = y.argmax(axis=1)
    return codes


def _output_columns(kind: str, matrix: NDArray[Any], names: Sequence[str] | None) -> dict[str, NDArray[Any]]:
    """Call the columns of a matrix KIND_NAME, or KIND_0, KIND_1, …; a single prediction is just that."""
    if kind == "prediction" and matrix.shape[1] == 1:
        return {kind: matrix[:, 0]}
    return {f"{kind}_{name}": matrix[:, j] for j, name in enumerate(names or range(matrix.shape[1]))}
