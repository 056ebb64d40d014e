"""CSV and Parquet through DuckDB: every cell is a number, a text or missing, and never guessed in silence."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data import csv_lines
from gpubp.data.source import RawData, check_size, shown
from gpubp.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MISSING = r"|na|nan|null|\?"
# Texts among numbers are mistakes if they are this few; where they are more, all cells are categories.
FEW = 0.05
FEW_CELLS = 3
COMMA = "has a comma; write decimals with a point, and thousands without a separator"
NOT_A_NUMBER = "is not a number; correct it; where the value is missing, write nothing, NA, NaN, null or ?"
NUMBER_TYPE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")
TEXT_TYPE = re.compile(r"VARCHAR|BOOLEAN|UUID|DATE|TIME.*")


def read_csv(path: Path) -> RawData:
    """Read a CSV file: UTF-8, the first line names the columns, separated by comma, semicolon, tab or bar."""
    import duckdb

    header = csv_lines.read_header(path)
    csv_lines.check_expansion(path)
    names = [f"c{i}" for i in range(len(header.names))]
    declared = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    connection = _connect()
    try:
        connection.execute(
            f"CREATE TABLE cells AS SELECT {', '.join(map(_clean, names))} "
            "FROM read_csv(?, auto_detect=false, header=true, delim=?, quote='\"', escape='\"', "
            f"strict_mode=true, columns={{{declared}}})",
            [glob.escape(str(path)), header.delimiter],
        )
    except duckdb.Error as error:
        csv_lines.raise_fault(path, header)
        raise DataError(f"{path.name}: cannot be read: {str(error).splitlines()[0]}") from error

    def place(row: int) -> str:
        return f"line {csv_lines.line_of(path, header, row)}"

    return _table(path.name, connection, header.names, place)


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
        expressions = [_from_parquet(path, i, name, kind) for i, (name, kind, *_) in enumerate(columns)]
        cells = ", ".join(expressions)
        connection.execute(f"CREATE TABLE cells AS SELECT {cells} FROM read_parquet(?)", pattern)
    except duckdb.Error as error:
        raise DataError(f"{path.name}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return _table(path.name, connection, [name for name, *_ in columns])


def _connect() -> DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})


def _from_parquet(path: Path, i: int, name: str, kind: str) -> str:
    """SQL that makes cell column i of a Parquet column of DuckDB's type `kind`."""
    quoted = '"' + name.replace('"', '""') + '"'
    if NUMBER_TYPE.fullmatch(kind):
        return f"CAST({quoted} AS DOUBLE) AS c{i}"
    if TEXT_TYPE.fullmatch(kind):
        return _clean(f"CAST({quoted} AS VARCHAR)", f"c{i}")
    raise DataError(f'{path.name}, column "{name}": type {kind} cannot be learned from; leave the column out')


def _clean(cell: str, name: str = "") -> str:
    """SQL for a cell without the spaces around it, or NULL where it is a marker of a missing value.

    A regular expression, because DuckDB plans NOT IN as a join, and a join of many rows shuffles them.
    """
    return f"CASE WHEN NOT regexp_full_match(trim({cell}), '{MISSING}', 'i') THEN trim({cell}) END AS {name or cell}"


def _number(cell: str) -> str:
    """SQL for a cell as a number, or NULL. DuckDB reads 1_2 as 12; more likely it is a code."""
    return f"CASE WHEN NOT contains({cell}::VARCHAR, '_') THEN TRY_CAST({cell} AS DOUBLE) END"


def _comma(cell: str) -> str:
    """SQL for whether a cell is a number written with a comma."""
    return f"regexp_full_match({cell}::VARCHAR, '[-+]?[0-9.]+,[0-9]+')"


def _table(
    name: str, connection: DuckDBPyConnection, names: Sequence[str], place: Callable[[int], str] | None = None
) -> RawData:
    """The data set in DuckDB's table ``cells``, each column fetched as numbers or as texts."""
    data = RawData(name, "table") if place is None else RawData(name, "table", place=place)
    cells = [f"c{i}" for i in range(len(names))]
    counts = [f"count({c}), count({_number(c)}), count(*) FILTER ({_comma(c)})" for c in cells]
    rows, *found = connection.execute(f"SELECT count(*), {', '.join(counts)} FROM cells").fetchall()[0]
    if not rows:
        raise DataError(f"{name}: names {len(names)} column(s) and holds no row; give at least two rows")
    for i, (column, cell) in enumerate(zip(names, cells, strict=True)):
        filled, numbers, commas = found[3 * i : 3 * i + 3]
        texts = filled - numbers
        if commas and commas + numbers > (1 - FEW) * filled:
            _refuse(data, connection, column, cell, _comma(cell), COMMA)
        if numbers > texts > 0 and texts <= max(FEW * filled, FEW_CELLS):
            _refuse(data, connection, column, cell, f"({_number(cell)}) IS NULL", NOT_A_NUMBER)
        if numbers and texts:
            data.say(f'column "{column}": {numbers} numbers and {texts} texts, read as categories')
        data.columns[column] = _fetch(connection, cell if texts else f"{_number(cell)} AS {cell}")
    return data


def _fetch(connection: DuckDBPyConnection, expression: str) -> NDArray[Any]:
    (values,) = connection.execute(f"SELECT {expression} FROM cells").fetchnumpy().values()
    if values.dtype == object:
        texts: NDArray[Any] = np.ma.getdata(values).copy()
        texts[np.ma.getmaskarray(values)] = None
        return texts
    return np.ma.filled(values.astype(np.float64), np.nan)


def _refuse(data: RawData, connection: DuckDBPyConnection, column: str, cell: str, condition: str, fault: str) -> None:
    """Raise for the column's first filled cell that meets the condition."""
    row, text = connection.execute(
        f"SELECT rowid, {cell} FROM cells WHERE {cell} IS NOT NULL AND {condition} ORDER BY rowid LIMIT 1"
    ).fetchall()[0]
    raise DataError(f'{data.where(row, column)}: "{shown(text)}" {fault}')
