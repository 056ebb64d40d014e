"""The encoding of raw rows as the network's input X. An encoding fitted on the training rows is plain JSON.

The columns of X are, in this order: every column of numbers, standardized or otherwise encoded (`encodings`); an
indicator (0 or 1) for each column of numbers with missing values in the training rows; for every column of categories a
one-hot block with one column per category, followed by an indicator if the column had missing values in the training
rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.checks import SparseRows
from gpubp.data import encodings
from gpubp.data.cells import number_as_text
from gpubp.data.number_style import PLAIN_NUMBER
from gpubp.data.selection import choose_columns
from gpubp.data.source import RawData, option, printable
from gpubp.errors import DataError, UsageError

RowIndices = NDArray[np.int64]
RowSelection = RowIndices | slice
Encoding = dict[str, Any]  # fitted, of all columns or of one; plain JSON
ALL_ROWS = slice(None)
STANDARD = "standard"  # the default encoding of numbers

NUMBERS_PER_BLOCK = 2**18  # numbers encoded at a time, in float64
UNSEEN = -1  # the code of a cell without a known category
LARGEST_DENSE = 2**26  # bytes up to which an input is an array however many zeros it holds
FEW_FILLED = 4  # a larger one is sparse if at most one number in this many is nonzero
# Beyond it the variance would overflow float64; a float64 itself, so that smaller types are compared in that type.
LARGEST_MAGNITUDE = np.float64(1e100)
FEW_CATEGORIES = 16  # of a column, up to which encodings of numbers may look at them too
KINDS = {
    "table": "a table with named columns",
    "arrays": "arrays of numbers",
    "images": "uint8 pixels from 0 to 255",
}


def fit(
    data: RawData,
    rows: RowSelection,
    numbers: str = STANDARD,
    target: encodings.Target | None = None,
    seed: int = 0,
) -> Encoding:
    """Fit the encoding of all columns of `data` except the target, on only these rows.

    Parameters
    ----------
    data : RawData
    rows : (m,) int or slice
    numbers : str
        How columns of numbers are encoded: names in `encodings.ENCODINGS`, combined by ``+``. Tables only.
    target : Target or None
        The target of these rows, for encodings that use it.
    seed : int
        Seed of encodings with random numbers.

    Returns
    -------
    dict
        ``kind`` of the data. ``numbers``: the names of these columns (None for arrays), their number (width), mean,
        scale and fill (which replaces a missing value) of each, and the indices of those with an indicator; pixels
        share one mean and one scale; ``encodings``, fitted for each, if there is more than standardizing.
        ``categories``: for each column its name, its values, and whether it has an indicator. ``left_out``, for tables:
        why each unused column is unused.

    Raises
    ------
    UsageError
        For an unknown encoding, and for any but the standard one if there are no columns.
    """
    encodings.get_encodings(numbers)
    if data.kind != "table":
        if numbers != STANDARD:
            raise UsageError(f"{data.name}: is {KINDS[data.kind]}; only the columns of a table are encoded otherwise")
        return {"kind": data.kind, "numbers": _fit_numbers(data, None, rows), "categories": []}
    names, left_out = choose_columns(data, rows)
    of_numbers, categories = [], []
    for name in names:
        values = data.columns[name][rows]
        # One number or nothing: a number unknown in training must not be scaled by a constant column.
        if values.dtype == object or np.fmin.reduce(values) == np.fmax.reduce(values):
            categories.append(_fit_categories(name, _as_texts(values)))
        else:
            of_numbers.append(name)
    fitted = _fit_numbers(data, of_numbers, rows)
    if numbers != STANDARD and of_numbers:
        filled = _filled_numbers(fitted, data, rows)
        silent = replace(data, notes=[])
        codes = [_category_codes(column, silent, np.arange(data.rows)[rows]) for column in categories]
        indicators = _indicators(categories, codes, len(filled))
        fitted["encodings"] = encodings.fit(numbers, filled, target, np.random.default_rng(seed), indicators)
    return {
        "kind": data.kind,
        "numbers": fitted,
        "categories": categories,
        "left_out": left_out,
    }


def width(encoding: Encoding) -> int:
    """Count the columns of the network's input."""
    return int(_width_of_numbers(encoding["numbers"]) + sum(map(_width_of_category, encoding["categories"])))


def width_of_indicators(encoding: Encoding) -> int:
    """Count the categories that encodings of numbers may look at: those of the columns that have few."""
    return sum(_width_of_category(column) for column in encoding["categories"] if has_few(column))


def _width_of_category(column: Encoding) -> int:
    return int(len(column["values"]) + column["indicator"])


def has_few(column: Encoding) -> bool:
    """Whether encodings of numbers may look at the categories of a column."""
    return _width_of_category(column) <= FEW_CATEGORIES


def _width_of_numbers(numbers: Encoding) -> int:
    """Count the inputs that numbers become, with their indicators."""
    encoded = encodings.width(numbers["encodings"]) if "encodings" in numbers else numbers["width"]
    return int(encoded + len(numbers["indicators"]))


def apply(encoding: Encoding, data: RawData, rows: RowSelection = ALL_ROWS, dtype: Any = np.float32) -> Any:
    """Encode these rows of `data` as the network's input X (rows, n_inputs): an array, C-contiguous, or SparseRows.

    It is sparse if it would be large and consists mostly of zeros from categories.
    """
    check_columns(encoding, data)
    index = np.arange(data.rows)[rows]
    codes = [_category_codes(column, data, index) for column in encoding["categories"]]
    if is_sparse(encoding, len(index), dtype):
        return SparseRows(_apply_sparsely(encoding, data, index, codes, dtype))
    out = np.zeros((len(index), width(encoding)), dtype=dtype)
    left = _width_of_numbers(encoding["numbers"])
    _apply_numbers(encoding, data, index, codes, out[:, :left])
    for column, of_column in zip(encoding["categories"], codes, strict=True):
        known = np.flatnonzero(of_column >= 0)
        out[known, left + of_column[known]] = 1
        left += _width_of_category(column)
    return out


def as_text(value: Any) -> str:
    """Write a cell as a category: 1.0 is "1", because a file whose codes are all whole was read as numbers."""
    return value if isinstance(value, str) else number_as_text(value)


def _fit_numbers(data: RawData, names: list[str] | None, rows: RowSelection) -> Encoding:
    """Fit mean, scale, fill and indicators of the columns of numbers; names are None for arrays and images."""
    if names == []:
        return {"names": [], "width": 0, "mean": [], "scale": [], "fill": [], "indicators": []}
    from sklearn.preprocessing import StandardScaler

    values = _number_matrix(data, names, rows)
    if data.kind == "images":
        return _shared_scale(values, 0.0, 255.0)
    if data.one_unit:
        return _shared_scale(values, float(values.mean()), float(values.std()))
    extreme = ~((np.fmax.reduce(values) < LARGEST_MAGNITUDE) & (np.fmin.reduce(values) > -LARGEST_MAGNITUDE))
    extreme &= ~np.isnan(values).all(axis=0)
    if extreme.any():
        _raise_for_extreme_value(data, names, np.arange(data.rows)[rows], values, np.abs(values) >= LARGEST_MAGNITUDE)
    scaler = StandardScaler().fit(values)  # ignores missing values, and gives constant columns the scale 1
    missing = np.flatnonzero(np.isnan(values).any(axis=0))
    mean = np.nan_to_num(scaler.mean_)
    fill = mean.copy()
    partly_missing = [j for j in missing if not np.isnan(values[:, j]).all()]
    fill[partly_missing] = np.nanmedian(values[:, partly_missing], axis=0) if partly_missing else 0.0
    return {
        "names": names,
        "width": len(mean),
        "mean": mean.tolist(),
        "scale": np.nan_to_num(scaler.scale_, nan=1.0).tolist(),
        "fill": fill.tolist(),
        "indicators": missing.tolist(),
    }


def _shared_scale(values: NDArray[Any], mean: float, scale: float) -> Encoding:
    """Give all columns of `values` one mean and one scale, which broadcast."""
    return {
        "names": None,
        "width": values.shape[1],
        "mean": [mean],
        "scale": [scale],
        "fill": [mean],
        "indicators": [],
    }


def _apply_numbers(
    encoding: Encoding, data: RawData, rows: RowIndices, codes: list[NDArray[np.int64]], out: NDArray[Any]
) -> None:
    """Write the encoded numbers, followed by their indicators, into `out`, block by block."""
    if not encoding["numbers"]["width"]:
        return
    size = NUMBERS_PER_BLOCK // (out.shape[1] + 1) + 1
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        _apply_to_block(encoding, data, rows[block], [of_column[block] for of_column in codes], out[block])


def _apply_to_block(
    encoding: Encoding, data: RawData, rows: RowIndices, codes: list[NDArray[np.int64]], out: NDArray[Any]
) -> None:
    numbers = encoding["numbers"]
    values = _number_matrix(data, numbers["names"], rows).astype(np.float64)  # (rows, n)
    missing = np.isnan(values)
    np.copyto(values, numbers["fill"], where=missing)
    n = out.shape[1] - len(numbers["indicators"])
    with np.errstate(over="ignore"):
        standardized = ((values - numbers["mean"]) / numbers["scale"]).astype(out.dtype)
    if not np.isfinite(standardized).all():
        _raise_for_extreme_value(data, numbers["names"], rows, values, ~np.isfinite(standardized))
    if "encodings" in numbers:
        encodings.apply(
            numbers["encodings"], values, out[:, :n], _indicators(encoding["categories"], codes, len(values))
        )
    else:
        out[:, :n] = standardized
    out[:, n:] = missing[:, numbers["indicators"]]


def _filled_numbers(numbers: Encoding, data: RawData, rows: RowSelection) -> NDArray[np.float64]:
    """Get the columns of numbers with missing values replaced."""
    values = _number_matrix(data, numbers["names"], rows).astype(np.float64)
    np.copyto(values, numbers["fill"], where=np.isnan(values))
    return values


def _number_matrix(data: RawData, names: list[str] | None, rows: RowSelection) -> NDArray[Any]:
    """Get these rows of the columns of numbers: (rows, width), with NaN for missing values."""
    if names is None:
        assert data.X is not None
        return data.X[rows]
    return np.column_stack([_column_as_numbers(data, name)[rows] for name in names])


def _column_as_numbers(data: RawData, name: str) -> NDArray[Any]:
    """Get a column as numbers; if it was read as texts, each must be a number."""
    values = data.columns[name]
    if values.dtype != object:
        return values
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            numbers[row] = np.nan if value is None else float(value)
        except ValueError:
            raise DataError(
                f'{data.where(row, name)}: "{printable(value)}" is not a number; '
                "the network was trained on numbers in this column"
            ) from None
    return numbers


def _fit_categories(name: str, values: NDArray[Any]) -> Encoding:
    """Fit the encoding of one column of texts."""
    known = sorted({value for value in values if value is not None})
    return {"name": name, "values": known, "indicator": any(value is None for value in values)}


def _as_texts(values: NDArray[Any]) -> NDArray[Any]:
    """Get a column as texts, with None for missing values."""
    if values.dtype == object:
        return values
    return np.array([None if np.isnan(value) else as_text(value) for value in values], dtype=object)


def _category_codes(column: Encoding, data: RawData, rows: RowIndices) -> NDArray[np.int64]:
    """Find the column of the one-hot block that is 1 in each row, or UNSEEN if there is none.

    A missing value maps to the last column, the indicator, if there is one; a category unknown in training to none.
    """
    position = {value: i for i, value in enumerate(column["values"])}
    missing = len(position) if column["indicator"] else UNSEEN
    cells = _as_texts(data.columns[column["name"]][rows])
    different = {value: missing if value is None else _category_code(value, position) for value in set(cells)}
    unseen = [value for value, code in different.items() if code == UNSEEN and value is not None]
    if unseen:
        count = int(np.isin(cells, unseen).sum())
        first = next(value for value in cells if value in unseen)
        data.say(
            f'column "{column["name"]}": {count} cells of {data.name} hold categories that did not '
            f'occur in training ("{printable(first)}"), encoded as none of the known ones'
        )
    return np.array([different[value] for value in cells], dtype=np.int64)


def _indicators(categories: list[Encoding], codes: list[NDArray[np.int64]], rows: int) -> NDArray[np.bool_]:
    """Which category each row is in (rows, c), of the columns that have few of them."""
    blocks = [
        of_column[:, None] == np.arange(_width_of_category(column))
        for column, of_column in zip(categories, codes, strict=True)
        if has_few(column)
    ]
    return np.hstack([np.empty((rows, 0), np.bool_), *blocks])


def say_unknown_categories(encoding: Encoding, data: RawData) -> None:
    """Add a note to a table about categories that did not occur in training."""
    for column in encoding["categories"]:
        _category_codes(column, data, np.arange(data.rows))


def is_sparse(encoding: Encoding, rows: int, dtype: Any) -> bool:
    """Whether the input of `rows` rows would be large, and mostly zeros."""
    columns = width(encoding)
    numbers = encoding["numbers"]
    filled = _width_of_numbers(numbers) - len(numbers["indicators"]) + len(encoding["categories"])
    return bool(rows * columns * np.dtype(dtype).itemsize > LARGEST_DENSE and filled * FEW_FILLED < columns)


def _apply_sparsely(
    encoding: Encoding, data: RawData, rows: RowIndices, codes: list[NDArray[np.int64]], dtype: Any
) -> Any:
    """Encode rows as a CSR matrix."""
    from scipy.sparse import csr_matrix, hstack

    dense = np.zeros((len(rows), _width_of_numbers(encoding["numbers"])), dtype)
    _apply_numbers(encoding, data, rows, codes, dense)
    blocks = [csr_matrix(dense)]
    for column, of_column in zip(encoding["categories"], codes, strict=True):
        known = of_column >= 0
        starts = np.concatenate([[0], np.cumsum(known)])
        shape = (len(rows), _width_of_category(column))
        blocks.append(csr_matrix((np.ones(starts[-1], dtype), of_column[known], starts), shape))
    return hstack(blocks, format="csr")


def _category_code(value: str, position: dict[str, int]) -> int:
    """Find the number of a category; 1.0 is the category "1", since programs write whole numbers with a point."""
    if value not in position and PLAIN_NUMBER.fullmatch(value) and not value.startswith("0"):
        value = as_text(float(value))
    return position.get(value, UNSEEN)


def check_columns(encoding: Encoding, data: RawData) -> None:
    """Raise if the data are of another kind than the training data, or lack one of their columns."""
    if data.kind != encoding["kind"]:
        raise DataError(f"{data.name}: is {KINDS[data.kind]}; the network was trained on {KINDS[encoding['kind']]}")
    if data.kind != "table":
        assert data.X is not None
        trained_width = encoding["numbers"]["width"]
        if data.X.shape[1] != trained_width:
            raise DataError(f"{data.name}: {data.X.shape[1]} numbers a row; the network was trained on {trained_width}")
        return
    needed = [*encoding["numbers"]["names"], *(column["name"] for column in encoding["categories"])]
    absent = [name for name in needed if name not in data.columns]
    absent = [name for name in absent if not any(name.startswith(f"{date} (") for date in absent)]  # parts of a date
    if absent:
        raise DataError(
            f"{data.name}: lacks {_quoted(absent)}, on which the network was trained; it has {_quoted(data.columns)}"
        )


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _raise_for_extreme_value(
    data: RawData, names: list[str] | None, rows: RowIndices, values: NDArray[Any], bad: NDArray[np.bool_]
) -> None:
    """Raise for the first of the bad values; `values` and `bad` are (rows, width)."""
    i, j = (int(k) for k in np.argwhere(bad)[0])
    column = names[j] if names is not None else str(j + 1)
    remedy = "" if names is None else f" by {option('--ignore', column)}"
    raise DataError(
        f"{data.where(int(rows[i]), column)}: {values[i, j]} is infinite or too large to standardize; "
        f"correct it, or leave the column out{remedy}"
    )
