"""Raw rows to the network's input. What is fitted on the training rows is plain JSON.

The columns of the input are: every number, standardized; an indicator for every number that was missing
somewhere in training; for every category column one column a category and, where it was missing in training,
an indicator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.source import RawData, shown
from gpubp.errors import DataError

Rows = NDArray[np.int64] | slice
State = dict[str, Any]
ALL_ROWS = slice(None)

BLOCK = 2**18  # numbers encoded at a time, in float64
MOST_CATEGORIES = 1000
# Beyond it the variance would leave float64; itself float64, so that smaller types are compared in that.
LARGEST = np.float64(1e100)
KINDS = {
    "table": "a table with named columns",
    "arrays": "arrays of numbers",
    "images": "uint8 pixels from 0 to 255",
}


def fit(data: RawData, rows: Rows) -> State:
    """What encoding the columns of `data`, but for its target, needs to know, from these rows alone.

    Returns
    -------
    dict
        ``numbers``: names (None for arrays), mean, scale, fill (what replaces a missing value) and indicators
        (indices into them); pixels share one mean and one scale. ``categories``: name,
        values and indicator of each column.
    """
    names: list[str] = []
    categories: list[State] = []
    for name, values in data.columns.items():
        if name == data.target:
            continue
        if values.dtype == object:
            categories += _fit_categories(data, name, values[rows])
        elif np.isnan(values[rows]).all():
            data.say(f'column "{name}": no value in the training rows, not used')
        else:
            names.append(name)
    if data.kind == "table" and not names and not categories:
        raise DataError(
            f"{data.name}: no column is left to learn from beside the target; known columns: {', '.join(data.columns)}"
        )
    numbers = _fit_numbers(data, names if data.kind == "table" else None, rows)
    return {"kind": data.kind, "numbers": numbers, "categories": categories}


def width(state: State) -> int:
    """How many inputs the network gets."""
    numbers = state["numbers"]
    blocks = [len(column["values"]) + column["indicator"] for column in state["categories"]]
    return int(numbers["width"] + len(numbers["indicators"]) + sum(blocks))


def apply(state: State, data: RawData, rows: Rows = ALL_ROWS, dtype: Any = np.float32) -> NDArray[Any]:
    """The network's input (rows, n_inputs), C-contiguous, for these rows of `data`."""
    _check_columns(state, data)
    index = np.arange(data.rows)[rows]
    out = np.zeros((len(index), width(state)), dtype=dtype)
    size = BLOCK // (state["numbers"]["width"] + 1) + 1
    for start in range(0, len(index), size):
        block = slice(start, start + size)
        _apply_numbers(state["numbers"], data, index[block], out[block])
    left = state["numbers"]["width"] + len(state["numbers"]["indicators"])
    for column in state["categories"]:
        right = left + len(column["values"]) + column["indicator"]
        _apply_categories(column, data, index, out[:, left:right])
        left = right
    return out


def as_text(value: Any) -> str:
    """A cell as a category: 1.0 is "1", because a file whose codes are all whole was read as numbers."""
    if isinstance(value, str):
        return value
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _fit_numbers(data: RawData, names: list[str] | None, rows: Rows) -> State:
    if names == []:
        return {"names": [], "width": 0, "mean": [], "scale": [], "fill": [], "indicators": []}
    from sklearn.preprocessing import StandardScaler

    values = _numbers(data, names, rows)
    if data.kind == "images":
        return _one_scale(values, 0.0, 255.0)
    if data.one_unit:
        return _one_scale(values, float(values.mean()), float(values.std()))
    extreme = ~((np.fmax.reduce(values) < LARGEST) & (np.fmin.reduce(values) > -LARGEST))
    extreme &= ~np.isnan(values).all(axis=0)
    if extreme.any():
        _refuse_value(data, names, np.arange(data.rows)[rows], values, np.abs(values) >= LARGEST)
    scaler = StandardScaler().fit(values)  # leaves missing values out, gives constant columns the scale 1
    missing = np.flatnonzero(np.isnan(values).any(axis=0))
    mean = np.nan_to_num(scaler.mean_)
    fill = mean.copy()
    some = [j for j in missing if not np.isnan(values[:, j]).all()]
    fill[some] = np.nanmedian(values[:, some], axis=0) if some else 0.0
    return {
        "names": names,
        "width": len(mean),
        "mean": mean.tolist(),
        "scale": np.nan_to_num(scaler.scale_, nan=1.0).tolist(),
        "fill": fill.tolist(),
        "indicators": missing.tolist(),
    }


def _one_scale(values: NDArray[Any], mean: float, scale: float) -> State:
    """One mean and one scale for all columns; they broadcast."""
    shared = {"mean": [mean], "scale": [scale], "fill": [mean]}
    return {"names": None, "width": values.shape[1], **shared, "indicators": []}


def _apply_numbers(numbers: State, data: RawData, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    if not numbers["width"]:
        return
    values = _numbers(data, numbers["names"], rows).astype(np.float64)
    n = numbers["width"]
    missing = np.isnan(values)
    np.copyto(values, numbers["fill"], where=missing)
    with np.errstate(over="ignore"):
        out[:, :n] = (values - numbers["mean"]) / numbers["scale"]
    if not np.isfinite(out[:, :n]).all():
        _refuse_value(data, numbers["names"], rows, values, ~np.isfinite(out[:, :n]))
    out[:, n : n + len(numbers["indicators"])] = missing[:, numbers["indicators"]]


def _numbers(data: RawData, names: list[str] | None, rows: Rows) -> NDArray[Any]:
    if names is None:
        assert data.X is not None
        return data.X[rows]
    return np.column_stack([_numeric_column(data, name)[rows] for name in names])


def _numeric_column(data: RawData, name: str) -> NDArray[Any]:
    values = data.columns[name]
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values) if values.dtype == object else ():
        try:
            numbers[row] = np.nan if value is None else float(value)
        except ValueError:
            raise DataError(
                f'{data.where(row, name)}: "{shown(value)}" is not a number; '
                "the network was trained on numbers in this column"
            ) from None
    return numbers if values.dtype == object else values


def _fit_categories(data: RawData, name: str, values: NDArray[Any]) -> list[State]:
    """The state of one column of texts; none if its texts say who a row is rather than what."""
    known = sorted({value for value in values if value is not None})
    if len(known) > MOST_CATEGORIES or len(known) > max(len(values) / 2, 20):
        data.say(f'column "{name}": {len(known)} different texts in {len(values)} training rows, not used')
        return []
    indicator = any(value is None for value in values)
    return [{"name": name, "values": known, "indicator": indicator}]


def _apply_categories(column: State, data: RawData, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Write a 1 into each row's column of `out`; rows of an unknown category stay zero."""
    position = {value: i for i, value in enumerate(column["values"])}
    cells = data.columns[column["name"]]
    if cells.dtype != object:
        cells = np.array([None if np.isnan(value) else as_text(value) for value in cells], dtype=object)
    unseen = []
    for i, value in enumerate(cells[rows]):
        if value is None:
            out[i, len(position) :] = 1
        elif value in position:
            out[i, position[value]] = 1
        else:
            unseen.append(value)
    if unseen:
        data.say(
            f'column "{column["name"]}": {len(unseen)} cells of {data.name} hold categories that did not '
            f'occur in training ("{shown(unseen[0])}"), encoded as none of the known ones'
        )


def _check_columns(state: State, data: RawData) -> None:
    if data.kind != state["kind"]:
        raise DataError(f"{data.name}: is {KINDS[data.kind]}; the network was trained on {KINDS[state['kind']]}")
    if data.kind != "table":
        assert data.X is not None
        if data.X.shape[1] != state["numbers"]["width"]:
            raise DataError(
                f"{data.name}: {data.X.shape[1]} numbers a row; the network was trained on {state['numbers']['width']}"
            )
        return
    needed = [*state["numbers"]["names"], *(column["name"] for column in state["categories"])]
    absent = [name for name in needed if name not in data.columns]
    if absent:
        raise DataError(
            f"{data.name}: lacks {_quoted(absent)}, on which the network was trained; it has {_quoted(data.columns)}"
        )


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _refuse_value(
    data: RawData, names: list[str] | None, rows: NDArray[np.int64], values: NDArray[Any], bad: NDArray[np.bool_]
) -> None:
    i, j = (int(k) for k in np.argwhere(bad)[0])
    column = names[j] if names is not None else str(j + 1)
    raise DataError(
        f"{data.where(int(rows[i]), column)}: {values[i, j]} is infinite or too large to standardize; "
        "correct it, or leave it out"
    )
