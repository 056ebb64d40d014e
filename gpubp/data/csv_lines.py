"""Where things stand in a CSV file: its header, the line of a row, the first line that breaks the rules."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpubp.data.source import check_size, shown
from gpubp.errors import DataError

LONGEST_LINE = 2_000_000  # characters; DuckDB's own limit in bytes


@dataclass(frozen=True)
class Header:
    """The names of the columns, and what separates them."""

    names: list[str]
    delimiter: str


def read_header(path: Path) -> Header:
    """The first line of the file, every column of which needs a name of its own."""
    with _open(path) as handle:
        first = next(_lines(path, handle), "")
    if not first.strip():
        problem = "the file is empty" if path.stat().st_size == 0 else "the line is empty"
        raise DataError(f"{path.name}, line 1: {problem}; the first line must name the columns")
    unquoted = re.sub(r'"[^"]*"', "", first)
    delimiter = max(",;\t|", key=unquoted.count)
    _, cells = next(_records(path, delimiter))
    names = [cell.strip() for cell in cells]
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{path.name}, line 1: column {i + 1} has no name; name it, or delete it (a row index?)")
        if name in names[:i]:
            raise DataError(
                f'{path.name}, line 1: columns {names.index(name) + 1} and {i + 1} are both "{name}"; rename one'
            )
    if all(map(_is_number, names)):
        raise DataError(f'{path.name}, line 1: "{shown(first)}" looks like data; the first line must name the columns')
    return Header(names, delimiter)


def raise_fault(path: Path, header: Header) -> None:
    """Raise for the first line that breaks the rules, if there is one that this module knows."""
    width = len(header.names)
    for line, cells in _records(path, header.delimiter):
        if cells and len(cells) != width:
            missing = f' (no "{header.names[len(cells)]}")' if len(cells) < width else ""
            raise DataError(
                f"{path.name}, line {line}: {len(cells)} cells where the header names {width} columns"
                f'{missing}: "{shown(header.delimiter.join(cells))}"; correct the line; a cell that holds '
                f'"{header.delimiter}" needs quotes'
            )
    with _open(path) as handle:
        endings = (_ending(text) for text in handle)
        first = next(endings)
        for line, ending in enumerate(endings, start=2):
            if ending not in ("", first):
                raise DataError(
                    f"{path.name}, line {line}: ends with {ending!r} where line 1 ends with {first!r}; "
                    "save the file with one kind of line ending"
                )


def line_of(path: Path, header: Header, row: int) -> int:
    """The line, counted from 1, on which a row of the table, counted from 0, starts."""
    filled = (line for line, cells in _records(path, header.delimiter) if cells)
    next(filled)
    return next(line for i, line in enumerate(filled) if i == row)


def check_expansion(path: Path) -> None:
    """Refuse a .csv.gz that unpacks to far more than text does."""
    if path.suffix.lower() != ".gz":
        return
    unpacked = 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(2**20):
                unpacked += len(chunk)
                check_size(path.name, unpacked, path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip data are damaged ({error}); download or copy it again") from error


def _open(path: Path) -> IO[str]:
    """Text with its line endings. Bytes that are not UTF-8 become surrogates, so their line can be told."""
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    handle: IO[str] = opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return handle


def _lines(path: Path, handle: IO[str]) -> Iterator[str]:
    number = 0
    try:
        while text := handle.readline(LONGEST_LINE):
            number += 1
            if len(text) == LONGEST_LINE:
                raise DataError(
                    f'{path.name}, line {number}: longer than {LONGEST_LINE:,} characters: "{shown(text)}"; '
                    "is this a CSV file?"
                )
            raw = text.encode("utf-8", "surrogateescape")
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(
                    f'{path.name}, line {number}: "{shown(raw.decode("latin-1"))}" is not UTF-8; '
                    "save the file as UTF-8 (iconv -f LATIN1 -t UTF-8, or another -f)"
                ) from None
            yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip data are damaged ({error}); download or copy it again") from error


def _records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record of the file with the line on which it starts; blank lines are empty records."""
    with _open(path) as handle:
        reader = csv.reader(_lines(path, handle), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
                raise DataError(
                    f'{path.name}, line {line}: {problem}; close the quote, and write a quote inside a cell as ""'
                ) from None


def _ending(text: str) -> str:
    return text[len(text.rstrip("\r\n")) :]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
