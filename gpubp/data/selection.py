"""Which columns of a table a network can learn from, and why it cannot from the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.columns import schema_of
from gpubp.data.dates import derived_names
from gpubp.data.source import RawData, option
from gpubp.errors import DataError

MOST_CATEGORIES = 1000
FEWEST_COUNTED_ROWS = 20  # this many whole numbers in increasing order are a counter; fewer may be by chance
INDEX_NAMES = ("Unnamed: 0", "__index_level_0__")  # pandas' names for the row numbers that it writes


def choose_columns(data: RawData, rows: NDArray[np.int64] | slice) -> tuple[list[str], dict[str, str]]:
    """Choose the columns from whose training rows a network can learn, and report what is left out.

    Parameters
    ----------
    data : RawData
    rows : (n,) int or slice
        The training rows.

    Returns
    -------
    names : list of str
    left_out : dict of str to str
        Why each other column, except the target, is left out.

    Raises
    ------
    DataError
        If no column is left.
    """
    schema = schema_of(data)
    names, left_out, counters = [], {}, {}
    for name in data.columns:
        if name == data.target:
            continue
        column = schema.columns[name]
        if column.kind == "ignored":
            left_out[name] = column.why
            continue
        values = data.columns[name][rows]
        if reason := _why_useless(values):
            left_out[name] = reason
            data.say(f'column "{name}": {reason}, not used')
        elif column.kind == "date":
            parts = derived_names(name, column.parts)
            names += [name, *(part for part in parts if not _why_useless(data.columns[part][rows]))]
        elif not column.chosen_by_user and is_counter(name, values):
            counters[name] = "counts the rows"
        else:
            names.append(name)
    if not names:
        names, counters = list(counters), {}
    for name, reason in counters.items():
        wanted = option("--kind", f"{name}=number")
        data.say(f'column "{name}": {reason}, not used; if it is a quantity, {wanted}')
    if not names:
        raise DataError(
            f"{data.name}: no column is left to learn from beside the target; known columns: {', '.join(data.columns)}"
        )
    return names, left_out | counters


def is_counter(name: str, values: NDArray[Any]) -> bool:
    """Whether a column numbers the rows: whole numbers that increase from row to row, or an index that pandas wrote."""
    if values.dtype == object or len(values) < 2:
        return False
    differences = np.diff(np.sort(values) if name in INDEX_NAMES else values)
    enough = name in INDEX_NAMES or len(values) >= FEWEST_COUNTED_ROWS
    return bool(enough and (differences > 0).all() and (values == np.floor(values)).all())


def _why_useless(values: NDArray[Any]) -> str | None:
    """Say why nothing can be learned from these values; None if something may be.

    Names and identifiers identify a row, and say nothing about other rows.
    """
    if values.dtype != object:
        missing = np.isnan(values)
        if missing.all():
            return "no value in the training rows"
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        return f"{low:g} in all training rows" if low == high and not missing.any() else None
    known = {value for value in values if value is not None}
    if not known:
        return "no value in the training rows"
    if len(known) > MOST_CATEGORIES or len(known) > max(len(values) / 2, 20):
        return f"{len(known)} different texts in {len(values)} training rows"
    return f'"{next(iter(known))}" in all training rows' if len(known) == 1 and None not in values else None
