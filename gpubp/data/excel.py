"""The reader of Excel workbooks, through openpyxl (extra ``excel``): their first sheet, read as CSV is."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import IO, Any

from gpubp.data.csv_copy import read_copy
from gpubp.data.schema import Schema, TableOptions
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, UsageError


def read_excel(path: Path, options: TableOptions, schema: Schema | None) -> RawData:
    """Read the first sheet of a workbook as a table whose first row names the columns."""
    try:
        import openpyxl
    except ImportError:
        raise UsageError(f"{path.name}: reading Excel files needs openpyxl; pip install 'gpubp[excel]'") from None
    # Open files here, since openpyxl does not close those that it cannot read.
    with path.open("rb") as first, path.open("rb") as second:
        with _damage_as_data_error(path):
            with zipfile.ZipFile(path) as archive:
                check_size(path.name, sum(info.file_size for info in archive.infolist()), path.stat().st_size)
            values = openpyxl.load_workbook(first, read_only=True, data_only=True)
            formulas = openpyxl.load_workbook(second, read_only=True)
        if not values.worksheets:
            raise DataError(f"{path.name}: holds no sheet of cells; a table is needed")
        rows = _rows(path, values.worksheets[0], formulas.worksheets[0])
        data = read_copy(path.name, lambda file: _write_csv(file, rows), options, schema)
        if len(values.worksheets) > 1:
            data.say(f'sheet "{values.worksheets[0].title}", the first of {len(values.worksheets)}')
        return data


@contextmanager
def _damage_as_data_error(path: Path) -> Iterator[None]:
    """Turn any error of openpyxl, which has none of its own for files that are not workbooks, into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path.name}: cannot be read as an Excel workbook ({error}); save it again as .xlsx") from None


def _rows(path: Path, values: Any, formulas: Any) -> Iterator[list[str]]:
    """Yield the rows as texts, all as long as the first and without empty ones at the end.

    Raise for a formula whose value is not in the file: it would be read as missing, and only Excel can compute it.
    """
    values.reset_dimensions()
    formulas.reset_dimensions()
    stored = path.stat().st_size
    width, cells, waiting = 0, 0, 0
    for number, (row, written) in enumerate(_both(path, values, formulas), start=1):
        cells += len(row)
        check_size(path.name, 8 * cells, stored)
        if written.count(None) == len(written):
            waiting += 1
            continue
        for column, (value, formula) in enumerate(zip(row, written, strict=False), start=1):
            if value is None and isinstance(formula, str) and formula.startswith("="):
                raise DataError(
                    f"{path.name}, line {number}, column {column}: the value of the formula {formula[:60]} was never "
                    "computed; open and save the file in Excel or LibreOffice"
                )
        texts = [_text(value) for value in row]
        while texts and not texts[-1]:
            texts.pop()
        width = width or len(texts)
        if len(texts) > width:
            raise DataError(
                f"{path.name}, line {number}: {len(texts)} cells where the first row names {width} column(s); "
                "delete what stands above or beside the table"
            )
        yield from ([""] * width for _ in range(waiting))
        waiting = 0
        yield texts + [""] * (width - len(texts))


def _both(path: Path, values: Any, formulas: Any) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Yield each row of values with its row of formulas; they are read on demand, and may be damaged."""
    with _damage_as_data_error(path):
        yield from zip(values.iter_rows(values_only=True), formulas.iter_rows(values_only=True), strict=True)


def _text(value: Any) -> str:
    """Write a cell as in CSV, on one line, so that a row's number is its line's."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, datetime | date | time):
        return value.isoformat(*((" ",) if isinstance(value, datetime) else ()))
    return " ".join(str(value).split("\n"))


def _write_csv(file: IO[bytes], rows: Iterator[list[str]]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    text.detach()  # flushes the rest, and leaves the file open
