"""Turns the X and y passed to the estimators for tables into a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import RawData, read
from gpubp.data.columns import JoinedColumns
from gpubp.data.readers import saved_schema
from gpubp.data.schema import Kind, TableOptions
from gpubp.data.tables import is_frame, is_missing_value, read_columns
from gpubp.errors import DataError, UsageError

CATEGORIES = ("category", "Categorical", "Enum")  # what the types of pandas and polars are called


def as_table(X: Any, trained: Mapping[str, Any] | None = None) -> RawData:
    """Read a data frame, a matrix, or a dict of columns as a table.

    Parameters
    ----------
    X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        Columns of the types "category", "Categorical" and "Enum" are categories, whatever they hold. Those of a matrix
        are called "0", "1", …; if it holds numbers they are numbers, else each is read as that of a frame.
    trained : mapping, optional
        The preprocessing of a model, whose columns determine how these are read.
    """
    if not is_frame(X) and hasattr(X, "to_pandas"):
        X = X.to_pandas()
    if is_frame(X):
        kinds: dict[str, Kind] = {
            str(name): "category"
            for name, dtype in zip(X.columns, X.dtypes, strict=True)
            if str(dtype).partition("(")[0] in CATEGORIES
        }
        return read(X, kinds=kinds, trained=trained)
    if isinstance(X, Mapping):
        columns = {str(name): np.atleast_1d(_array(values)) for name, values in X.items()}
        if len({len(values) for values in columns.values()}) != 1:
            raise DataError("X: a dict of columns needs one at least, and equally many rows in all")
        return _table_of_any_types(columns, trained)
    matrix = _array(X.toarray() if hasattr(X, "toarray") else X)
    if matrix.ndim == 0:
        raise DataError(f"X is of type {type(X).__name__}; give a data frame, a dict of columns or a matrix")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"X has shape {matrix.shape}; give a data frame, or a matrix (rows, columns) with some of both")
    columns = {str(j): matrix[:, j] for j in range(matrix.shape[1])}
    if matrix.dtype.kind not in "biuf":
        return _table_of_any_types(columns, trained)
    return RawData(
        name="X", kind="table", columns={name: values.astype(np.float64) for name, values in columns.items()}
    )


def _array(values: Any, name: str = "X") -> NDArray[Any]:
    """Values as an array, NaN or None where a masked one has none; `name` is for a message."""
    try:
        array = np.asanyarray(values)
    except ValueError as error:
        raise DataError(f"{name}: {error}; all rows need the same length") from None
    if not np.ma.is_masked(array):
        return np.asarray(array)
    numbers = array.dtype.kind in "biuf"
    return np.ma.filled(array.astype(np.float64 if numbers else object), np.nan if numbers else None)


def _table_of_any_types(columns: Mapping[str, NDArray[Any]], trained: Mapping[str, Any] | None) -> RawData:
    schema = saved_schema(trained)
    options = TableOptions() if schema is None else schema.options
    return read_columns("X", columns.items(), list(columns), len(next(iter(columns.values()))), options, schema)


def check_width(X: Any, table: RawData, est: Any) -> None:
    """Raise for a matrix that has other columns than the one that `est` was fitted on; names say the rest.

    Raises
    ------
    DataError
        In scikit-learn's words.
    """
    width = len(table.columns)
    if not is_frame(X) and not isinstance(X, Mapping) and not hasattr(est, "feature_names_in_"):
        if width != est.n_features_in_ and "0" in table.columns:
            name = type(est).__name__
            raise DataError(f"X has {width} features, but {name} is expecting {est.n_features_in_} features as input")


def column_of_targets(y: Any) -> NDArray[Any]:
    """y as an array (m,), or (m, n) where it has several columns; raise where a target is missing.

    Objects that are all texts, all numbers or all truth values are an array of these.
    """
    array = _array(y, "y")
    if not array.ndim:
        raise DataError(f"y is {y!r}; give a target for each row")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim > 2:
        raise DataError(f"y has shape {array.shape}; give a target for each row, (rows,) or (rows, targets)")
    values = array.ravel()
    if array.dtype.kind in "fc":
        missing = ~np.isfinite(values)
    elif array.dtype.kind in "mM":
        missing = np.isnat(values)
    else:
        missing = np.array([is_missing_value(value) for value in values] if array.dtype == object else [False])
    if missing.any():
        row = int(np.argmax(missing)) // max(1, array.size // len(array))
        raise DataError(f"y: the target of row {row} is missing or infinite; correct it or delete the row")
    if array.dtype.kind == "c":
        raise DataError("y: holds complex numbers; give real ones, such as y.real")
    return _without_objects(array) if array.dtype == object else array


def _without_objects(array: NDArray[np.object_]) -> NDArray[Any]:
    """Objects of one kind as an array of that; raise for texts among others."""
    are_texts = [isinstance(value, str) for value in array.ravel()]
    if any(are_texts) and not all(are_texts):
        text, other = are_texts.index(True), are_texts.index(False)
        shown = f"{array.ravel()[text]!r} and {array.ravel()[other]!r}"
        raise DataError(f"y: holds texts and other values, such as {shown}; make all of one type")
    types = set(map(type, array.ravel()))
    if all(are_texts):
        return array.astype(str)
    if types <= {bool, np.bool_} or not any(issubclass(type_, bool | np.bool_) for type_ in types):
        with_type = np.array(array.tolist())
        if with_type.dtype.kind in "biuf" and with_type.shape == array.shape:
            return with_type
    return array


def with_target(data: RawData, y: NDArray[Any], name: str) -> RawData:
    """Give a table a target, (m,) or (m, n) numbers, called `name` or, where a column has that name, ``name_``."""
    if len(y) != data.rows:
        raise UsageError(f"y has {len(y)} rows and X {data.rows}; give one target a row")
    while name in data.columns:
        name += "_"
    return replace(data, columns=JoinedColumns(data.columns, [], name, y), target=name)
