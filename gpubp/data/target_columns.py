"""The target of a data set as it stands there: one column or several, numbers or texts, none of them missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.columns import JoinedColumns
from gpubp.data.features import LARGEST_MAGNITUDE
from gpubp.data.source import RawData, printable
from gpubp.errors import DataError, suggest

TRUTH_VALUES = {"true": "1", "false": "0"}


def join_columns(data: RawData, names: Sequence[str]) -> RawData:
    """Make several columns of a table its target: one column of the table that is a matrix, called by all their names.

    A table that lacks one of them is returned as it is, and so is any for no names.

    Raises
    ------
    DataError
        If one of them holds texts other than truth values.
    """
    if not names or any(name not in data.columns for name in names):
        return data
    matrix = np.column_stack([_target_numbers(data, name) for name in names])
    target = ",".join(names)
    columns = JoinedColumns(data.columns, names, target, matrix)
    return replace(data, columns=columns, target=target, target_columns=list(names))


def _target_numbers(data: RawData, name: str) -> NDArray[np.float64]:
    """Take one of several target columns as numbers; truth values are 0 and 1."""
    values = data.columns[name]
    if values.dtype != object:
        return values
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            numbers[row] = np.nan if value is None else float(TRUTH_VALUES.get(value.lower(), value))
        except ValueError:
            raise DataError(
                f'{data.where(row, name)}: "{printable(value)}" is not a number; several target columns must be numbers'
            ) from None
    return numbers


def raw_values(data: RawData) -> NDArray[Any]:
    """Take the target as it stands in the data, numbers or an array of str; raise if one is missing or too large."""
    if data.kind == "table":
        if data.target not in data.columns:
            raise DataError(
                f'{data.name}: there is no column "{data.target}"; {suggest(str(data.target), data.columns)}'
            )
        y = data.columns[data.target]
    elif data.y is None:
        raise DataError(f'{data.name}: has no targets; add an array "y", or for pictures a folder for each class')
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
        raise DataError(f"{where_target(data, row)}: the target is {fault}; correct it or delete the row")
    if y.dtype.kind == "b":
        return y.astype(np.int64)
    return y.astype(str) if y.dtype == object else y


def where_target(data: RawData, row: int) -> str:
    """Where a row's target stands, for messages."""
    return data.where(row, data.target if data.kind == "table" else "y")
