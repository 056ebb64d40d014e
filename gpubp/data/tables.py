"""The readers of tables: CSV files, Parquet files through DuckDB, and data frames."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from datetime import timedelta
from itertools import repeat
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

COLUMNS_PER_QUERY = 64  # of a Parquet file; the time of a query over all columns grows with the square of their number
NUMBER_TYPE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")
WITHOUT_A_MEANING = (list, tuple, dict, set, frozenset, np.ndarray, complex, np.complexfloating)
TEXT_TYPE = re.compile(r"VARCHAR|BOOLEAN|UUID|ENUM\(.*\)|DATE|TIME.*|\"NULL\"")


def read_csv(path: Path, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a CSV file: the first line names the columns, separated by comma, semicolon, tab or bar."""
    data = RawData(name=path.name, kind="table")
    text = read_csv_text(path, options, data.say)
    cells, lines = read_cells(text, options.header)
    data.place = lambda row: f"line {lines[row]}"
    header = f"{path.name}, line {text.skipped + 1}" if options.header is None else None
    return with_columns(data, cells, options, schema, header)


def read_parquet(path: Path, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a Parquet file of numbers, texts, booleans and dates (as texts)."""
    file = ParquetFile(path, options)
    file.check_texts()
    return file.read(options, schema)


class ParquetFile:
    """An open Parquet file, to be read as a whole or in ranges of rows.

    Parameters
    ----------
    path : Path
    options : TableOptions
        Which columns are left out.

    Attributes
    ----------
    columns : dict of str to str
        The types of the columns, by DuckDB's names.
    rows : int

    Raises
    ------
    DataError
        If it is not a Parquet file, holds no rows, or would unpack to far more than real data do.
    """

    def __init__(self, path: Path, options: TableOptions) -> None:
        import duckdb

        self.path, self._pattern = path, glob.escape(str(path))
        config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        self._connection = duckdb.connect(config=config)
        self._run("SET TimeZone = 'UTC'", "fetchall")
        self.columns = {name: kind for name, kind, *_ in self.execute("DESCRIBE SELECT * FROM read_parquet($1)")}
        rows, stored, in_groups = self.execute(
            "SELECT (SELECT sum(num_rows) FROM parquet_file_metadata($1)), sum(total_uncompressed_size), "
            "sum(row_group_num_rows) FILTER (column_id = 0) FROM parquet_metadata($1)"
        )[0]
        self.rows, held = rows or 0, in_groups or 0
        if self.rows != held:  # DuckDB reads what is in the groups
            raise DataError(
                f"{path.name}: says that it has {self.rows:,} row(s), but holds {held:,}; the file is damaged"
            )
        size = max(8 * self.rows * len(self.columns), stored or 0)
        check_size(path.name, size, path.stat().st_size)
        if not self.rows:
            raise DataError(
                f"{path.name}: names {len(self.columns)} column(s) and holds no row; give at least two rows"
            )
        self.kept = {name: kind for name, kind in self.columns.items() if name not in options.ignore}

    def execute(self, query: str) -> list[Any]:
        """The rows of a query's result; $1 in the query is the file."""
        rows: list[Any] = self._run(query, "fetchall")
        return rows

    def read(self, options: TableOptions, schema: Schema | None, rows: tuple[int, int] | None = None) -> RawData:
        """The rows first … end − 1 for (first, end), or all, as a table."""
        first, end = rows or (0, self.rows)
        cells = TypedCells(list(self.columns), end - first)
        source = "read_parquet($1)"
        if rows is not None:
            source = f"read_parquet($1, file_row_number = true) WHERE file_row_number BETWEEN {first} AND {end - 1}"
        kept = list(self.kept.items())
        for start in range(0, len(kept), COLUMNS_PER_QUERY):
            some = kept[start : start + COLUMNS_PER_QUERY]
            expressions = ", ".join(_parquet_sql(self.path, i, *item) for i, item in enumerate(some))
            arrays = self._run(f"SELECT {expressions} FROM {source}", "fetchnumpy")
            for i, (name, _) in enumerate(some):
                _put_column(cells, name, arrays[f"c{i}"])
        data = RawData(name=self.path.name, kind="table", place=lambda row: f"row {first + row + 1}")
        return with_columns(data, cells, options, schema)

    def _run(self, query: str, fetch: str) -> Any:
        import duckdb

        try:
            result = self._connection.execute(query, [self._pattern] if "$1" in query else [])
            return getattr(result, fetch)()
        except duckdb.Error as error:
            raise DataError(f"{self.path.name}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        except RuntimeError as error:
            if "interrupted" in str(error):  # DuckDB's error for Ctrl-C
                raise KeyboardInterrupt from None
            raise

    def check_texts(self) -> None:
        """Raise for texts that take far more memory than the file: a dictionary may hold one long text for all rows.

        DuckDB counts their bytes without materializing them.
        """
        texts = [name.replace('"', '""') for name, kind in self.kept.items() if kind == "VARCHAR"]
        for start in range(0, len(texts), COLUMNS_PER_QUERY):
            lengths = ", ".join(f'sum(strlen("{name}"))' for name in texts[start : start + COLUMNS_PER_QUERY])
            counted = self.execute(f"SELECT {lengths} FROM read_parquet($1)")[0]
            check_size(self.path.name, sum(int(length or 0) for length in counted), self.path.stat().st_size)


def is_frame(source: Any) -> bool:
    """Whether `source` is a pandas or polars data frame; imports neither."""
    return (hasattr(source, "iloc") or hasattr(source, "get_column_index")) and hasattr(source, "columns")


def read_frame(frame: Any, options: TableOptions, schema: Schema | None = None) -> RawData:
    """Read a pandas or polars data frame like a file with the same values."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f'data frame: two columns are called "{twice}"; rename one')
    if not len(frame):
        raise DataError("data frame: holds no row; give at least one")
    columns = zip(names, map(_values_of_frame, repeat(frame), range(len(names))), strict=True)
    return read_columns("data frame", columns, names, len(frame), options, schema)


def read_columns(
    where: str,
    columns: Iterable[tuple[str, NDArray[Any]]],
    names: list[str],
    rows: int,
    options: TableOptions,
    schema: Schema | None = None,
) -> RawData:
    """Read arrays (rows,) of any type, each with its name, as columns of a file with the same values would be.

    Parameters
    ----------
    where : str
        What to call the table in messages.
    columns : iterable of (str, (rows,) array)
        None, NaN, NaT or pandas' NA where a value is missing. Spans of time become seconds.
    names : list of str
        Of all columns, in their order.
    rows : int
    options, schema
        As of `read_csv`.

    Raises
    ------
    DataError
        For complex numbers, and for values that hold others, such as lists.
    """
    data = RawData(name=where, kind="table")
    cells = TypedCells(names, rows)
    for name, values in columns:
        _put_values(cells, name, values, f'{where}, column "{name}"')
    return with_columns(data, cells, options, schema)


def is_missing_value(value: Any) -> bool:
    """Whether a Python value stands for none: None, NaN, NaT, pandas' NA."""
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA is neither equal to itself nor different
        return True


def _values_of_frame(frame: Any, i: int) -> NDArray[Any]:
    """The values of a data frame's column (rows,)."""
    if hasattr(frame, "iloc"):
        values: NDArray[Any] = frame.iloc[:, i].to_numpy()
        return values
    series = frame.to_series(i)  # of polars
    values = series.cast(float).to_numpy() if series.dtype.is_numeric() else series.to_numpy()
    return values


def _put_values(cells: TypedCells, name: str, values: NDArray[Any], where: str) -> None:
    """Put a column of any type among the cells, as numbers or as texts."""
    if values.dtype.kind in "iufm" and values.ndim == 1:
        cells.numbers[name] = values / np.timedelta64(1, "s") if values.dtype.kind == "m" else values.astype(np.float64)
        return
    types = set(map(type, values))  # of a column of lists of one length, a matrix, arrays
    if nested := next((type_ for type_ in types if issubclass(type_, WITHOUT_A_MEANING)), None):
        raise DataError(
            f"{where}: values of type {nested.__name__} cannot be learned from; make numbers or texts of them"
        )
    missing = [is_missing_value(value) for value in values]
    spans = [absent or isinstance(value, timedelta) for value, absent in zip(values, missing, strict=True)]
    if all(spans) and not all(missing):
        seconds = [np.nan if absent else value.total_seconds() for value, absent in zip(values, missing, strict=True)]
        cells.numbers[name] = np.array(seconds)
        return
    texts = ["" if absent else _as_text(value) for value, absent in zip(values, missing, strict=True)]
    cells.others[name] = text_column(name, texts)


def _as_text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def with_options(data: RawData, options: TableOptions, schema: Schema | None) -> RawData:
    """Apply options or a schema to a table of arrays; raise for options on data that are not a table."""
    if options == TableOptions() and schema is None:
        return data
    if data.kind != "table":
        if schema is None:
            options.check_arrays(data.name)
        return data
    cells = TypedCells(list(data.columns), data.rows)
    for name, values in data.columns.items():
        if values.dtype == object:
            cells.others[name] = text_column(name, ["" if value is None else str(value) for value in values])
        else:
            cells.numbers[name] = values.astype(np.float64)
    return with_columns(data, cells, options, schema)


def with_columns(
    data: RawData, cells: Cells, options: TableOptions, schema: Schema | None, header: str | None = None
) -> RawData:
    """Give a table its columns, read from these cells; `header` names the line from which their names come."""
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
    """Add a column that DuckDB fetched, masked where it is null, to those of its type."""
    if values.dtype == object:
        mask = np.ma.getmaskarray(values)
        texts = ["" if null else text for text, null in zip(np.ma.getdata(values).tolist(), mask.tolist(), strict=True)]
        cells.others[name] = text_column(name, texts)
    else:
        cells.numbers[name] = np.ma.filled(values.astype(np.float64), np.nan)
