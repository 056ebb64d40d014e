"""The readers of CSV and Parquet files, through DuckDB: every cell is a number, a text or missing.

A column that could be read in two ways is an error or leaves a note.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import csv_lines
from gpubp.data.source import RawData, check_size, printable
from gpubp.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MISSING_MARKERS = r"|na|nan|null|\?"
# Texts among numbers are mistakes if they are at most this fraction of the cells, or at most so many; where they are
# more, all cells are categories.
FEW_TEXTS_FRACTION = 0.05
FEW_TEXTS = 3
COMMA = "has a comma; write decimals with a point, and thousands without a separator"
NOT_A_NUMBER = "is not a number; correct it; where the value is missing, write nothing, NA, NaN, null or ?"
NUMBER_TYPE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")
TEXT_TYPE = re.compile(r"VARCHAR|BOOLEAN|UUID|DATE|TIME.*")


def read_csv(path: Path) -> RawData:
    """Read a CSV file: UTF-8, the first line names the columns, separated by comma, semicolon, tab or bar."""
    import duckdb

    header = csv_lines.read_header(path)
    csv_lines.check_unpacked_size(path)
    names = [f"c{i}" for i in range(len(header.names))]
    declared = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    connection = _connect()
    try:
        connection.execute(
            f"CREATE TABLE cells AS SELECT {', '.join(map(_text_sql, names))} "
            "FROM read_csv(?, auto_detect=false, header=true, delim=?, quote='\"', escape='\"', "
            f"strict_mode=true, columns={{{declared}}})",
            [glob.escape(str(path)), header.delimiter],
        )
    except duckdb.Error as error:
        csv_lines.raise_for_malformed_line(path, header)
        raise DataError(f"{path.name}: cannot be read: {str(error).splitlines()[0]}") from error

    def place(row: int) -> str:
        return f"line {csv_lines.line_of_row(path, header, row)}"

    return _read_cells(path.name, connection, header.names, place)


def read_parquet(path: Path) -> RawData:
    """Read a Parquet file of numbers, texts, truth values and dates (as texts)."""
    import duckdb

    connection = _connect()
    pattern = [glob.escape(str(path))]
    try:
        columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", pattern).fetchall()
        rows, stored = connection.execute(
            "SELECT (SELECT sum(num_rows) FROM parquet_file_metadata($1)), "
            "(SELECT sum(total_uncompressed_size) FROM parquet_metadata($1))",
            pattern,
        ).fetchall()[0]
        check_size(path.name, max(8 * (rows or 0) * len(columns), stored or 0), path.stat().st_size)
        expressions = [_parquet_cell_sql(path, i, name, kind) for i, (name, kind, *_) in enumerate(columns)]
        cells = ", ".join(expressions)
        connection.execute(f"CREATE TABLE cells AS SELECT {cells} FROM read_parquet(?)", pattern)
    except duckdb.Error as error:
        raise DataError(f"{path.name}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return _read_cells(path.name, connection, [name for name, *_ in columns])


def _connect() -> DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})


def _parquet_cell_sql(path: Path, i: int, name: str, kind: str) -> str:
    """Write the SQL for column i of the table ``cells``, from a Parquet column of DuckDB's type `kind`."""
    quoted = '"' + name.replace('"', '""') + '"'
    if NUMBER_TYPE.fullmatch(kind):
        return f"CAST({quoted} AS DOUBLE) AS c{i}"
    if TEXT_TYPE.fullmatch(kind):
        return _text_sql(f"CAST({quoted} AS VARCHAR)", f"c{i}")
    raise DataError(f'{path.name}, column "{name}": type {kind} cannot be learned from; leave the column out')


def _text_sql(cell: str, name: str = "") -> str:
    """Write the SQL for a cell without the spaces around it, or NULL where it is a marker of a missing value.

    A regular expression, because DuckDB plans NOT IN as a join, and a join of many rows shuffles them.
    """
    is_missing = f"regexp_full_match(trim({cell}), '{MISSING_MARKERS}', 'i')"
    return f"CASE WHEN NOT {is_missing} THEN trim({cell}) END AS {name or cell}"


def _number_sql(cell: str) -> str:
    """Write the SQL for a cell as a number, or NULL. DuckDB reads 1_2 as 12; more likely it is a code."""
    return f"CASE WHEN NOT contains({cell}::VARCHAR, '_') THEN TRY_CAST({cell} AS DOUBLE) END"


def _has_comma_sql(cell: str) -> str:
    """Write the SQL for whether a cell is a number written with a comma."""
    return f"regexp_full_match({cell}::VARCHAR, '[-+]?[0-9.]+,[0-9]+')"


def _read_cells(
    name: str, connection: DuckDBPyConnection, names: Sequence[str], place: Callable[[int], str] | None = None
) -> RawData:
    """Make a data set of DuckDB's table ``cells``, each column fetched as numbers or as texts."""
    data = RawData(name=name, kind="table")
    if place is not None:
        data.place = place
    cells = [f"c{i}" for i in range(len(names))]
    count_expressions = [f"count({c}), count({_number_sql(c)}), count(*) FILTER ({_has_comma_sql(c)})" for c in cells]
    rows, *counts = connection.execute(f"SELECT count(*), {', '.join(count_expressions)} FROM cells").fetchall()[0]
    if not rows:
        raise DataError(f"{name}: names {len(names)} column(s) and holds no row; give at least two rows")
    for i, (column, cell) in enumerate(zip(names, cells, strict=True)):
        filled, numbers, commas = counts[3 * i : 3 * i + 3]
        texts = filled - numbers
        if commas and commas + numbers > (1 - FEW_TEXTS_FRACTION) * filled:
            _raise_for_first_cell(data, connection, column, cell, _has_comma_sql(cell), COMMA)
        if numbers > texts > 0 and texts <= max(FEW_TEXTS_FRACTION * filled, FEW_TEXTS):
            _raise_for_first_cell(data, connection, column, cell, f"({_number_sql(cell)}) IS NULL", NOT_A_NUMBER)
        if numbers and texts:
            data.say(f'column "{column}": {numbers} numbers and {texts} texts, read as categories')
        data.columns[column] = _fetch_column(connection, cell if texts else f"{_number_sql(cell)} AS {cell}")
    return data


def _fetch_column(connection: DuckDBPyConnection, expression: str) -> NDArray[Any]:
    """Fetch float64 with NaN, or str objects with None, where a value is missing."""
    (values,) = connection.execute(f"SELECT {expression} FROM cells").fetchnumpy().values()
    if values.dtype == object:
        texts: NDArray[Any] = np.ma.getdata(values).copy()
        texts[np.ma.getmaskarray(values)] = None
        return texts
    return np.ma.filled(values.astype(np.float64), np.nan)


def _raise_for_first_cell(
    data: RawData, connection: DuckDBPyConnection, column: str, cell: str, condition: str, fault: str
) -> None:
    """Raise for the first cell of the column that is not missing and meets the condition, written in SQL."""
    row, text = connection.execute(
        f"SELECT rowid, {cell} FROM cells WHERE {cell} IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1"
    ).fetchall()[0]
    raise DataError(f'{data.where(row, column)}: "{printable(text)}" {fault}')
