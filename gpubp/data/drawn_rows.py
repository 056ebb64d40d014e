"""Rows drawn from a file read in blocks, collected as a data set in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import tables
from gpubp.data.blocks import RowBlocks, release
from gpubp.data.cells import Cells, TextCells, TypedCells, join_texts, text_column
from gpubp.data.columns import Columns
from gpubp.data.readers import with_target
from gpubp.data.source import RawData
from gpubp.data.targets import MOST_CLASSES


class DrawnRows:
    """Rows of several blocks.

    Parameters
    ----------
    blocks : RowBlocks
    """

    def __init__(self, blocks: RowBlocks) -> None:
        self.blocks = blocks
        self._like: RawData | None = None  # a block, without its rows
        self._names: list[str] = []
        self._delimiter: str | None = None
        self._all_texts = False
        self._pieces: dict[str, list[Any]] = {}  # by column, or "X" and "y": arrays, or lists of texts
        self._places: list[str] = []

    def add(self, raw: RawData, rows: NDArray[np.int64]) -> None:
        """Add these rows of a block."""
        cells = raw.columns.cells if isinstance(raw.columns, Columns) else None
        self._like, self._names = replace(raw, columns={}, X=None, y=None), list(raw.columns)
        self._all_texts = isinstance(cells, TextCells)
        self._delimiter = cells.delimiter if isinstance(cells, TextCells) else None
        for name in column_names(raw):
            self._pieces.setdefault(name, []).append(column(raw, name, rows))
        self._places += [raw.place(row) for row in rows.tolist()]

    def join(self, other: DrawnRows) -> None:
        """Add the rows of another, from the same blocks."""
        for name, pieces in other._pieces.items():
            self._pieces.setdefault(name, []).extend(pieces)
        self._places += other._places

    def values(self, name: str) -> set[Any]:
        """The distinct values of a column."""
        return {value for piece in self._pieces.get(name, ()) for value in np.unique(piece, axis=0).tolist()}

    def data(self, target: str | None) -> RawData:
        """All rows as a data set; for a table, with this column as its target if given."""
        assert self._like is not None
        places = self._places
        data = replace(self._like, place=places.__getitem__, notes=[])
        if data.kind != "table":
            arrays = {name: np.concatenate(pieces) for name, pieces in self._pieces.items()}
            return replace(data, X=arrays["X"], y=arrays.get("y"))
        assert self.blocks.options is not None
        data = tables.with_columns(data, self._cells(), self.blocks.options, None, self.blocks.header)
        return data if target is None else with_target(data, target)

    def _cells(self) -> Cells:
        """The cells of a table."""
        texts = {
            name: [text for piece in pieces for text in piece]
            for name, pieces in self._pieces.items()
            if isinstance(pieces[0], list)
        }
        if self._all_texts:
            by_row = [text for row in zip(*texts.values(), strict=True) for text in row]
            return TextCells(self._names, *join_texts(by_row, len(self._names)), self._delimiter)
        cells = TypedCells(self._names, len(self._places))
        cells.others = {name: text_column(name, column) for name, column in texts.items()}
        cells.numbers = {name: np.concatenate(self._pieces[name]) for name in self._pieces if name not in texts}
        return cells


def column_names(raw: RawData) -> list[str]:
    """The columns of a block that were read, which may exclude ignored ones; "X" and "y" for arrays."""
    if raw.kind != "table":
        return ["X"] if raw.y is None else ["X", "y"]
    cells = raw.columns.cells if isinstance(raw.columns, Columns) else None
    return [*cells.numbers, *cells.others] if isinstance(cells, TypedCells) else list(raw.columns)


def column(raw: RawData, name: str, rows: NDArray[np.int64]) -> NDArray[Any] | list[str]:
    """Some rows of a column as stored in the file: numbers or texts."""
    if raw.kind != "table":
        array: NDArray[Any] = getattr(raw, name)
        return array[rows]
    if not isinstance(raw.columns, Columns):
        return raw.columns[name][rows]
    cells = raw.columns.cells
    if isinstance(cells, TypedCells) and name in cells.numbers:
        return cells.numbers[name][rows]
    return cells.texts(name, rows)


def take(blocks: RowBlocks, target: str, parts: Mapping[str, NDArray[np.int64]], sample: str) -> dict[str, DrawnRows]:
    """The rows of each part, in one pass over the file.

    Parameters
    ----------
    blocks : RowBlocks
    target : str
        The target's column, or "y".
    parts : mapping of str to (n,) int
        Rows in order.
    sample : str
        The part to which a row of every missing class is added, because all classes must be known; preferably a row of
        no other part.
    """
    drawn = {name: DrawnRows(blocks) for name in parts}
    others = np.sort(np.concatenate([rows for name, rows in parts.items() if name != sample]))
    classes = _Classes(blocks, target)
    for block in range(len(blocks.starts) - 1):
        raw, (first, end) = blocks.read(block), blocks.starts[block : block + 2].tolist()
        for name, rows in parts.items():
            here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)]
            if len(here):
                drawn[name].add(raw, here - first)
        classes.look(raw, np.isin(np.arange(first, end), others))
        release(raw)
    if classes.rows:
        known = drawn[sample].values(target)
        for value, (_, row) in classes.rows.items():
            if value not in known:
                drawn[sample].join(row)
    return drawn


class _Classes:
    """A row of every class of the target, if its values may be classes: few distinct texts or whole numbers.

    Attributes
    ----------
    rows : dict
        By class, whether the row is in no part except the sample, and the row; empty if there are no classes.
    """

    def __init__(self, blocks: RowBlocks, target: str) -> None:
        self.blocks, self.target = blocks, target
        self.rows: dict[Any, tuple[bool, DrawnRows]] = {}
        self._may_be_classes = True

    def look(self, raw: RawData, in_others: NDArray[np.bool_]) -> None:
        """Look for new classes in a block, some of whose rows are in other parts."""
        if not self._may_be_classes or self.target not in column_names(raw):
            return
        values = np.asarray(column(raw, self.target, np.arange(raw.rows)))
        numbers = values.dtype.kind == "f"
        if values.ndim > 1 or (numbers and (values != np.floor(values))[np.isfinite(values)].any()):
            return self._give_up()
        for free in (True, False):
            rows = np.flatnonzero(in_others != free)
            different, where = np.unique(values[rows], return_index=True)
            if len(different) > MOST_CLASSES:
                return self._give_up()
            for value, row in zip(different.tolist(), rows[where], strict=True):
                if value == value and (value not in self.rows or (free and not self.rows[value][0])):
                    self.rows[value] = free, DrawnRows(self.blocks)
                    self.rows[value][1].add(raw, np.array([row]))
        if len(self.rows) > MOST_CLASSES:
            self._give_up()
        return None

    def _give_up(self) -> None:
        self._may_be_classes = False
        self.rows.clear()
