"""Turns the X and y passed to the estimators for tables into a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import RawData, read
from gpubp.data.columns import JoinedColumns
from gpubp.data.schema import Kind
from gpubp.data.tables import is_frame
from gpubp.errors import DataError, UsageError


def as_table(X: Any, trained: Mapping[str, Any] | None = None) -> RawData:
    """Read a data frame, a matrix, or a dict of columns as a table.

    Parameters
    ----------
    X : pandas or polars data frame, (m, n) array, or dict of str to (m,) array
        Columns of pandas' type "category" are categories, whatever they hold; those of a matrix are called "0", "1", ….
    trained : mapping, optional
        The preprocessing of a model, whose columns determine how these are read.
    """
    if not is_frame(X) and hasattr(X, "to_pandas"):
        X = X.to_pandas()
    if is_frame(X):
        kinds: dict[str, Kind] = {
            str(name): "category" for name, dtype in zip(X.columns, X.dtypes, strict=True) if str(dtype) == "category"
        }
        return read(X, kinds=kinds, trained=trained)
    if isinstance(X, Mapping):
        columns = {str(name): _column(np.atleast_1d(np.asarray(values))) for name, values in X.items()}
        if len({len(values) for values in columns.values()}) != 1:
            raise DataError("X: a dict of columns needs one at least, and equally many rows in all")
        return RawData(name="X", kind="table", columns=columns)
    matrix = np.asarray(X.toarray() if hasattr(X, "toarray") else X)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"X has shape {matrix.shape}; give a data frame, or a matrix (rows, columns) with some of both")
    columns = {str(j): _column(matrix[:, j]) for j in range(matrix.shape[1])}
    return RawData(name="X", kind="table", columns=columns)


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """Read a column as numbers, or as strings with None where a value is missing."""
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    missing = np.array([value is None or value != value for value in values.tolist()])
    try:
        return np.where(missing, np.nan, values).astype(np.float64)
    except (TypeError, ValueError):
        texts = np.array([str(value) for value in values.tolist()], dtype=object)
        texts[missing] = None
        return texts


def with_target(data: RawData, y: NDArray[Any], name: str) -> RawData:
    """Give a table a target, (m,) or (m, n) numbers, called `name` or, where a column has that name, ``name_``."""
    if len(y) != data.rows:
        raise UsageError(f"y has {len(y)} rows and X {data.rows}; give one target a row")
    while name in data.columns:
        name += "_"
    return replace(data, columns=JoinedColumns(data.columns, [], name, y), target=name)
