"""The columns of a table, each read from its cells by the schema on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.cells import Cells, PlainNumbers, TypedCells
from gpubp.data.dates import derived_column, derived_names, parse_date
from gpubp.data.infer import header_is_a_row, infer
from gpubp.data.missing import declared_numbers, is_missing
from gpubp.data.number_style import NumberStyle
from gpubp.data.schema import ColumnSchema, Kind, Schema, TableOptions
from gpubp.data.source import RawData, printable
from gpubp.errors import DataError

BOOLEANS = {"true": "true", "false": "false", "1": "true", "0": "false"}
BOOLEAN_NUMBERS = {"true": 1.0, "false": 0.0}
NOT_AS_TRAINED = "is not a number; the network was trained on numbers in this column"


class Columns(Mapping[str, NDArray[Any]]):
    """A table's columns by name: float64 with NaN, or object (str) with None, where a value is missing.

    Parameters
    ----------
    cells : Cells
    options : TableOptions
    where : callable
        ``where(row, column)`` names a cell for a message.
    say : callable
        Called with notices for the user.
    schema : Schema, optional
        The types of the columns; if not given, they are inferred from the cells when needed.
    header : str, optional
        Names the line of a file from which the names come, for a message.
    """

    def __init__(
        self,
        cells: Cells,
        options: TableOptions,
        where: Callable[[int, str], str],
        say: Callable[[str], None],
        schema: Schema | None = None,
        header: str | None = None,
    ) -> None:
        self.cells, self.options, self.where, self.say = cells, options, where, say
        self.header = header
        self._names = frozenset(cells.names)
        self._trained = schema
        self._plain: dict[str, PlainNumbers] = {}
        self._read: dict[str, NDArray[Any]] = {}

    @cached_property
    def schema(self) -> Schema:
        """The schema of the columns.

        Raises
        ------
        DataError
            If the cells are ambiguous; the message says which option decides.
        """
        if self._trained is not None:
            return self._trained
        schema, self._plain = infer(self.cells, self.options, self.where, self.say)
        if self.header is not None and header_is_a_row(self.cells, schema):
            first = ",".join(self.cells.names)
            raise DataError(
                f'{self.header}: "{printable(first)}" looks like data; the first line must name the columns; if it '
                "does, --header; if it is a row, --no-header"
            )
        return schema

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.cells.rows

    def read_as(self, schema: Schema) -> Columns:
        """Return the same cells, to be read by another table's schema."""
        return Columns(self.cells, schema.options, self.where, self.say, schema)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._read:
            if name not in self._names:
                self._read[name] = self._part_of_date(name)
                return self._read[name]
            column = self.schema.columns[name]
            read = {"category": self._categories, "date": self._dates}.get(column.kind, self._numbers)
            self._read[name] = read(name, column)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        unknown = self._trained is not None and name in self._names and name not in self._trained.columns
        return (name in self._names and not unknown) or (self._is_decided and name in self._derived)

    @property
    def _is_decided(self) -> bool:
        """Whether the schema is known without inferring it now."""
        return self._trained is not None or "schema" in self.__dict__

    @cached_property
    def _derived(self) -> dict[str, tuple[str, str, str]]:
        """The columns for parts of dates, each with the date's column, the part, and sine or cosine."""
        return {
            derived: (name, *what)
            for name, column in self.schema.columns.items()
            if column.kind == "date" and name in self._names
            for derived, what in derived_names(name, column.parts).items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells.names)

    def __len__(self) -> int:
        return len(self.cells.names)

    def _numbers(self, name: str, column: ColumnSchema) -> NDArray[np.float64]:
        """Read a column of numbers; raise for the first cell that is not one."""
        plain = self._plain_numbers(name)
        typed = isinstance(self.cells, TypedCells) and name in self.cells.numbers
        # If "1.234" is not a decimal number, cells read as such must be read again.
        rows = plain.odd if column.style.is_plain or typed else np.arange(self.rows)
        texts = self.cells.texts(name, rows) if len(rows) else []
        values = plain.values.copy()
        numbers = {text: self._number(text, column) for text in set(texts)}
        if None in numbers.values():
            row, text = next((row, text) for row, text in zip(rows, texts, strict=True) if numbers[text] is None)
            hint = _decimal_hint(text, column.style)
            raise DataError(f'{self.where(int(row), name)}: "{printable(text)}" {NOT_AS_TRAINED}{hint}')
        values[rows] = [numbers[text] for text in texts]
        if declared := declared_numbers(self.options.missing):
            values[np.isin(values, declared)] = np.nan
        return values

    def _dates(self, name: str, column: ColumnSchema) -> NDArray[np.float64]:
        """Read a column of dates as seconds since 1970; raise for the first cell that is not one."""
        texts = self.cells.texts(name)
        seconds: dict[str, float | None] = {}
        for text in set(texts):
            missing = is_missing(text, self.options.missing, among_numbers=True)
            seconds[text] = float("nan") if missing else parse_date(text, column.date_format)
        if None in seconds.values():
            row = next(row for row, text in enumerate(texts) if seconds[text] is None)
            raise DataError(
                f'{self.where(row, name)}: "{printable(texts[row])}" is not a date written as in training '
                f"({column.date_format})"
            )
        return np.array([seconds[text] for text in texts], dtype=np.float64)

    def _part_of_date(self, name: str) -> NDArray[np.float64]:
        """Make a column for part of a date; raise KeyError if there is no such column."""
        date, part, wave = self._derived[name]
        return derived_column(self[date], part, wave)

    def _number(self, text: str, column: ColumnSchema) -> float | None:
        if is_missing(text, self.options.missing, among_numbers=True):
            return float("nan")
        number = column.style.parse(text)
        return BOOLEAN_NUMBERS.get(text.lower()) if number is None else number

    def _plain_numbers(self, name: str) -> PlainNumbers:
        """Get a column of numbers from the single pass over all of them."""
        if name not in self._plain:
            schema = self.schema  # this may fill the dictionary
            names = [n for n in self.cells.names if n in schema.columns and schema.columns[n].kind == "number"]
            names = names if name in names else [name]
            self._plain |= dict(zip(names, self.cells.plain_numbers(names), strict=True))
        return self._plain[name]

    def _categories(self, name: str, column: ColumnSchema) -> NDArray[Any]:
        """Read a column of texts."""
        texts = self.cells.texts(name)
        categories: dict[str, str | None] = {}
        for text in set(texts):
            category = BOOLEANS.get(text.lower(), text) if column.boolean else text
            lacks_value = text not in column.categories and is_missing(text, self.options.missing)
            categories[text] = None if lacks_value else category
        values = np.empty(len(texts), dtype=object)
        values[:] = [categories[text] for text in texts]
        return values


class JoinedColumns(Mapping[str, NDArray[Any]]):
    """A table's columns with several joined into one: the target, a matrix.

    Parameters
    ----------
    columns : mapping of str to ndarray
        The table's own columns.
    names : sequence of str
        The joined columns.
    target : str
        The name of the joined column.
    matrix : (m, n) array
    """

    def __init__(
        self, columns: Mapping[str, NDArray[Any]], names: Sequence[str], target: str, matrix: NDArray[Any]
    ) -> None:
        self.columns, self.target, self.matrix = columns, target, matrix
        self.names = [*(name for name in columns if name not in names), target]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.matrix if name == self.target else self.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def schema_of(data: RawData) -> Schema:
    """Determine the schema of a table's columns; for arrays in memory, from their types.

    Raises
    ------
    DataError
        If the cells of a file are ambiguous.
    """
    if isinstance(data.columns, JoinedColumns):
        return schema_of(replace(data, columns=data.columns.columns))
    if isinstance(data.columns, Columns):
        return data.columns.schema
    return Schema({name: _typed_column(values) for name, values in data.columns.items()})


def read_as(data: RawData, schema: Schema) -> RawData:
    """Return a table whose cells are read by another table's schema; arrays in memory stay as they are."""
    return replace(data, columns=data.columns.read_as(schema)) if isinstance(data.columns, Columns) else data


def schema_of_format_1(encoding: Mapping[str, Any], target: Mapping[str, Any]) -> Schema:
    """Make the schema for a network that was saved without one."""
    columns = {name: ColumnSchema("number", "format 1") for name in encoding["numbers"]["names"] or ()}
    for column in encoding["categories"]:
        known = tuple(value for value in column["values"] if is_missing(value))
        columns[column["name"]] = ColumnSchema("category", "format 1", categories=known)
    classes = target.get("classes", ())
    if target["name"] is not None:
        kind: Kind = "category" if any(isinstance(value, str) for value in classes) else "number"
        known = tuple(value for value in classes if isinstance(value, str) and is_missing(value))
        columns[target["name"]] = ColumnSchema(kind, "format 1", categories=known)
    return Schema(columns)


def _decimal_hint(text: str, style: NumberStyle) -> str:
    """The option that would make a text a number, if another decimal sign does."""
    other = "," if style.decimal == "." else "."
    if style.with_decimal(other).parse(text) is None:
        return ""
    return f'; if "{other}" stands before decimals, --decimal {other}'


def _typed_column(values: NDArray[Any]) -> ColumnSchema:
    return ColumnSchema("category" if values.dtype == object else "number", "its type")
