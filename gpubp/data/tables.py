"""The readers of tables: CSV files, Parquet files through DuckDB, and data frames."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.cells import Cells, TypedCells, text_column
from gpubp.data.columns import Columns
from gpubp.data.csv_cells import read_cells
from gpubp.data.csv_text import read_csv_text
from gpubp.data.schema import Schema, TableOptions
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError

COLUMNS_PER_QUERY = (
    64  # of a Parquet file; a query over all columns of a wide one takes time that grows with its square
)
NUMBER_TYPE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")
TEXT_TYPE = re.compile(r"VARCHAR|BOOLEAN|UUID|ENUM\(.*\)|DATE|TIME.*|\"NULL\"")


def read_csv(path: Path, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a CSV file: the first line names the columns, separated by comma, semicolon, tab or bar."""
    data = RawData(name=path.name, kind="table")
    text = read_csv_text(path, options, data.say)
    cells, lines = read_cells(text, options.header)
    data.place = lambda row: f"line {lines[row]}"
    header = f"{path.name}, line {text.skipped + 1}" if options.header is None else None
    return _with_columns(data, cells, options, schema, header)


def read_parquet(path: Path, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a Parquet file of numbers, texts, truth values and dates (as texts)."""
    import duckdb

    data = RawData(name=path.name, kind="table")
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    pattern = [glob.escape(str(path))]
    try:
        connection.execute("SET TimeZone = 'UTC'")
        columns = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", pattern).fetchall()
        rows, stored = connection.execute(
            "SELECT (SELECT sum(num_rows) FROM parquet_file_metadata($1)), "
            "(SELECT sum(total_uncompressed_size) FROM parquet_metadata($1))",
            pattern,
        ).fetchall()[0]
        check_size(path.name, max(8 * (rows or 0) * len(columns), stored or 0), path.stat().st_size)
        names = [name for name, *_ in columns]
        if not rows:
            raise DataError(f"{path.name}: names {len(names)} column(s) and holds no row; give at least two rows")
        cells = TypedCells(names, rows)
        for first in range(0, len(columns), COLUMNS_PER_QUERY):
            block = {name: kind for name, kind, *_ in columns[first : first + COLUMNS_PER_QUERY]}
            kept = {name: kind for name, kind in block.items() if name not in options.ignore}
            _check_texts(connection, path, kept)
            expressions = ", ".join(_parquet_sql(path, i, *item) for i, item in enumerate(kept.items()))
            arrays = connection.execute(f"SELECT {expressions} FROM read_parquet(?)", pattern).fetchnumpy()
            for i, name in enumerate(kept):
                _put_column(cells, name, arrays[f"c{i}"])
    except duckdb.Error as error:
        raise DataError(f"{path.name}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        if "interrupted" in str(error):  # what DuckDB makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise
    return _with_columns(data, cells, options, schema)


def _check_texts(connection: Any, path: Path, columns: dict[str, str]) -> None:
    """Raise for texts that would take far more memory than the file: a dictionary holds a long one once for all rows.

    DuckDB counts their bytes without writing them out.
    """
    texts = [name.replace('"', '""') for name, kind in columns.items() if kind == "VARCHAR"]
    if texts:
        lengths = ", ".join(f'sum(strlen("{name}"))' for name in texts)
        counted = connection.execute(f"SELECT {lengths} FROM read_parquet(?)", [glob.escape(str(path))]).fetchone()
        check_size(path.name, sum(int(length or 0) for length in counted), path.stat().st_size)


def is_frame(source: Any) -> bool:
    """Whether `source` is a pandas data frame; pandas itself is not needed to tell."""
    return hasattr(source, "iloc") and hasattr(source, "columns")


def read_frame(frame: Any, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a pandas data frame as a file with the same values would be."""
    data = RawData(name="data frame", kind="table")
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names) or not len(frame):
        raise DataError("data frame: holds no row, or two columns of one name; give rows, and each column its own name")
    cells = TypedCells(names, len(frame))
    for i, name in enumerate(names):
        series = frame.iloc[:, i]
        values, missing = series.to_numpy(), series.isna().to_numpy()
        if values.dtype.kind in "iuf":
            cells.numbers[name] = values.astype(np.float64)
        else:
            texts = ["" if absent else str(value) for value, absent in zip(values, missing, strict=True)]
            cells.others[name] = text_column(name, texts)
    return _with_columns(data, cells, options, schema)


def with_options(data: RawData, options: TableOptions, schema: Schema | None) -> RawData:
    """Let a table of arrays be read as options or a schema say; raise for options on data that are no table."""
    if options == TableOptions() and schema is None:
        return data
    if data.kind != "table":
        options.check_columns(data.name, [])
        return data
    cells = TypedCells(list(data.columns), data.rows)
    for name, values in data.columns.items():
        if values.dtype == object:
            cells.others[name] = text_column(name, ["" if value is None else str(value) for value in values])
        else:
            cells.numbers[name] = values.astype(np.float64)
    return _with_columns(data, cells, options, schema)


def _with_columns(
    data: RawData, cells: Cells, options: TableOptions, schema: Schema | None, header: str | None = None
) -> RawData:
    if schema is None:
        options.check_columns(data.name, cells.names)
    data.columns = Columns(cells, options, data.where, data.say, schema, header)
    return data


def _parquet_sql(path: Path, i: int, name: str, kind: str) -> str:
    """Write the SQL for a Parquet column of DuckDB's type `kind`: a number or a text, called ci."""
    quoted = '"' + name.replace('"', '""') + '"'
    if NUMBER_TYPE.fullmatch(kind):
        return f"CAST({quoted} AS DOUBLE) AS c{i}"
    if TEXT_TYPE.fullmatch(kind):
        return f"CAST({quoted} AS VARCHAR) AS c{i}"
    raise DataError(f'{path.name}, column "{name}": type {kind} cannot be learned from; say --ignore "{name}"')


def _put_column(cells: TypedCells, name: str, values: NDArray[Any]) -> None:
    """Put a column that DuckDB fetched, masked where it is null, among those of its type."""
    if values.dtype == object:
        mask = np.ma.getmaskarray(values)
        texts = ["" if null else text for text, null in zip(np.ma.getdata(values).tolist(), mask.tolist(), strict=True)]
        cells.others[name] = text_column(name, texts)
    else:
        cells.numbers[name] = np.ma.filled(values.astype(np.float64), np.nan)
