"""Tables as people and programs write them, by code, each with the cells that are meant."""

from __future__ import annotations

import csv
import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import openpyxl
import pandas as pd

NUMBERS = (1.5, -20.25, 3000.0, 0.0, 7.125, 1e6)
COLOURS = ("red", "grün", "red", "grün", "blue", "blue")
TARGET = (1.0, 2.0, 3.0, 4.0, 5.0, 6.5)
MEANT: dict[str, tuple[Any, ...]] = {"size": NUMBERS, "colour": COLOURS, "price": TARGET}
GAPS: dict[str, tuple[Any, ...]] = {
    "size": (1.5, None, 3000.0, 0.0, None, 1e6),
    "colour": COLOURS,
    "price": TARGET,
}


@dataclass(frozen=True)
class OddTable:
    """A table in a file, or as a data frame.

    Attributes
    ----------
    name : str
        What is odd about it, ending as the file does.
    content : bytes or DataFrame
    meant : mapping of str to sequence
        The cells of each column, None where a value is missing.
    options : mapping
        Of `read`.
    """

    name: str
    content: Any
    meant: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: MEANT)
    options: Mapping[str, Any] = field(default_factory=dict)

    def source(self, folder: Path) -> Any:
        """What `read` takes."""
        if not isinstance(self.content, bytes):
            return self.content
        path = folder / self.name
        path.write_bytes(self.content)
        return path


def _text(
    columns: Mapping[str, tuple[Any, ...]] = MEANT,
    delimiter: str = ",",
    decimal: str = ".",
    end: str = "\n",
    quoting: Any = csv.QUOTE_MINIMAL,
    missing: str = "",
) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        cells = [missing if cell is None else str(cell) for cell in row]
        is_number = [isinstance(cell, float) for cell in row]
        writer.writerow([c.replace(".", decimal) if n else c for c, n in zip(cells, is_number, strict=True)])
    return file.getvalue()


def _dialects() -> Iterator[OddTable]:
    """Every delimiter, decimal mark, encoding and line ending with each other."""
    names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    ends = {"\n": "LF", "\r\n": "CRLF", "\r": "CR"}
    encodings = ("utf-8", "utf-8-sig", "utf-16", "cp1252")
    for delimiter, decimal, encoding, end in itertools.product(names, ".,", encodings, ends):
        text = _text(delimiter=delimiter, decimal=decimal, end=end)
        name = f"{names[delimiter]}, decimal {ord(decimal)}, {encoding}, {ends[end]}.csv"
        yield OddTable(name, text.encode(encoding))


def _gaps() -> Iterator[OddTable]:
    """Every way to say that a number is missing."""
    markers = ("", "NA", "NaN", "nan", "null", "NULL", "None", "N/A", "n/a", "#N/A", "?", "-", "--", "<NA>", "missing")
    for number, marker in enumerate(markers):
        yield OddTable(f"missing {number}.csv", _text(GAPS, missing=marker).encode())
    yield OddTable("missing -999.csv", _text(GAPS, missing="-999").encode(), GAPS, {"missing": ["-999"]})


def _writings() -> Iterator[OddTable]:
    """Numbers as people write them, all of which mean NUMBERS."""
    written = {
        "thousands with commas": ("1.5", "-20.25", "3,000", "0", "7.125", "1,000,000"),
        "thousands with dots": ("1,5", "-20,25", "3.000", "0", "7,125", "1.000.000"),
        "thousands with spaces": ("1.5", "-20.25", "3 000", "0", "7.125", "1 000 000"),
        "thousands with apostrophes": ("1.5", "-20.25", "3'000", "0", "7.125", "1'000'000"),
        "dollars": ("$1.5", "-$20.25", "$3,000", "$0", "$7.125", "$1,000,000"),
        "euros behind": ("1.5 €", "-20.25 €", "3000 €", "0 €", "7.125 €", "1000000 €"),
        "centimetres": ("1.5 cm", "-20.25 cm", "3000 cm", "0 cm", "7.125 cm", "1000000 cm"),
        "exponents": ("15e-1", "-2.025E+1", "3e3", "0e0", "7.125", "1E6"),
        "signs": ("+1.5", "-20.25", "+3000", "-0", "+7.125", "+1000000"),
        "spaces around": (" 1.5", "-20.25 ", " 3000 ", "0", "7.125", "1000000"),
        "minus of typographers": ("1.5", "\u221220.25", "3000", "0", "7.125", "1000000"),
        "brackets for minus": ("1.5", "(20.25)", "3000", "0", "7.125", "1000000"),
        "more digits than a float": ("1.50000000000000000000001", "-20.25", "3000", "0", "7.125", "1000000"),
    }
    for name, cells in written.items():
        yield OddTable(f"{name}.csv", _text({**MEANT, "size": cells}, quoting=csv.QUOTE_ALL).encode())


def _shapes() -> Iterator[OddTable]:
    """Files with something before, behind or between what is meant."""
    plain = _text()
    quoted = {**MEANT, "colour": ('a "b"', "c,d", "e\nf", 'a "b"', "c,d", "e\nf")}
    codes = {**MEANT, "colour": ("007", "010", "007", "010", "100", "100")}
    yield OddTable("no end of line.csv", plain.rstrip("\n").encode())
    yield OddTable("empty lines at the end.csv", (plain + "\n\n").encode())
    yield OddTable("a line that names the separator.csv", ("sep=;\n" + _text(delimiter=";")).encode())
    yield OddTable("quotes around all.csv", _text(quoting=csv.QUOTE_ALL).encode())
    yield OddTable("quotes, commas and lines in cells.csv", _text(quoted).encode(), quoted)
    yield OddTable("codes with zeros in front.csv", _text(codes).encode(), codes, {"kinds": {"colour": "category"}})
    yield OddTable("spaces behind delimiters.csv", plain.replace(",", ", ").encode())
    yield OddTable("tabs.tsv", _text(delimiter="\t").encode())
    yield OddTable("UTF-16 without a mark.csv", plain.encode("utf-16-le"))
    yield OddTable("names in other letters.csv", plain.replace("price", "цена").encode(), _renamed("цена"))
    yield OddTable("a name with a comma.csv", plain.replace("price", '"price, net"').encode(), _renamed("price, net"))
    yield OddTable("a name of two lines.csv", plain.replace("price", '"price\nnet"').encode(), _renamed("price\nnet"))
    wide = {f"x{number}": NUMBERS for number in range(300)} | MEANT
    yield OddTable("300 columns.csv", _text(wide).encode(), wide)
    long = {name: cells * 2000 for name, cells in MEANT.items()}
    yield OddTable("12,000 rows.csv", _text(long).encode(), long)


def _renamed(name: str) -> dict[str, tuple[Any, ...]]:
    return {"size": NUMBERS, "colour": COLOURS, name: TARGET}


def _parquet(types: str, column: str, meant: tuple[Any, ...]) -> OddTable:
    """A Parquet file whose first column has a type of its own."""
    cells = ", ".join(
        f"({cell}, '{colour}', {price})" for cell, colour, price in zip(types.split(";"), COLOURS, TARGET, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.parquet")
        duckdb.execute(
            f"COPY (SELECT size::{column} AS size, colour, price FROM (VALUES {cells}) t(size, colour, price)) "
            f"TO '{path}' (FORMAT parquet)"
        )
        name = f"{column.replace('(', ' ').replace(')', '').replace(',', ' ')}{', NaN' * ('NaN' in types)}.parquet"
        return OddTable(name, path.read_bytes(), {**MEANT, "size": meant})


def _typed() -> Iterator[OddTable]:
    """Parquet's types, Excel's cells and pandas' columns."""
    whole = (1.0, 2.0, None, 4.0, 100.0, 0.0)
    for column in ("TINYINT", "UTINYINT", "SMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT"):
        yield _parquet("1;2;NULL;4;100;0", column, whole)
    for column in ("FLOAT", "DOUBLE", "DECIMAL(9,3)", "DECIMAL(30,3)"):
        yield _parquet("1.5;-20.25;3000;0;7.125;NULL", column, (1.5, -20.25, 3000.0, 0.0, 7.125, None))
    yield _parquet("'NaN';'-20.25';'3000';'0';'7.125';'1'", "DOUBLE", (None, -20.25, 3000.0, 0.0, 7.125, 1.0))
    yield _parquet("'a';'b';NULL;'a';'b';'a'", "VARCHAR", ("a", "b", None, "a", "b", "a"))
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (tuple(MEANT), *zip(*MEANT.values(), strict=True)):
        book.active.append(row)
    book.save(file)
    yield OddTable("workbook.xlsx", file.getvalue())
    for dtype in ("float64", "float32", "Float64", "object"):
        yield OddTable(f"pandas {dtype}", pd.DataFrame(MEANT).astype({"size": dtype}))
    yield OddTable("pandas categories", pd.DataFrame(MEANT).astype({"colour": "category"}))
    yield OddTable(
        "pandas whole numbers with gaps",
        pd.DataFrame(MEANT | {"size": pd.array([1, None] * 3, "Int64")}),
        {**MEANT, "size": (1.0, None) * 3},
    )
    yield OddTable("pandas rows by other labels", pd.DataFrame(MEANT, index=list("fedcba")))
    yield OddTable("pandas rows by one label", pd.DataFrame(MEANT, index=[0] * 6))


def odd_tables() -> list[OddTable]:
    """All of them."""
    tables = [*_dialects(), *_gaps(), *_writings(), *_shapes(), *_typed()]
    return [OddTable(t.name, t.content, GAPS, t.options) if t.name.startswith("missing") else t for t in tables]


def differences(columns: Mapping[Any, Any], meant: Mapping[str, tuple[Any, ...]]) -> str:
    """What was read that was not meant, in a line; nothing where all was."""
    if list(columns) != list(meant):
        return f"columns {list(columns)} where {list(meant)} are meant"
    for name, cells in meant.items():
        got = columns[name]
        if len(got) != len(cells):
            return f'column "{name}" has {len(got)} cells where {len(cells)} are meant'
        is_number = got.dtype.kind == "f"
        for row, (cell, truth) in enumerate(zip(got.tolist(), cells, strict=True)):
            cell = None if is_number and np.isnan(cell) else cell
            if cell != truth:
                return f'row {row + 1}, column "{name}": {cell!r} where {truth!r} is meant'
    return ""
