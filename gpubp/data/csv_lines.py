"""A CSV file as lines of text: its header, the line of a row, and the first malformed line, for error messages."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpubp.data.source import check_size, printable
from gpubp.errors import DataError

LONGEST_LINE = 2_000_000  # characters; DuckDB's own limit in bytes


@dataclass(frozen=True)
class Header:
    """The names of the columns, and the character that separates them."""

    names: list[str]
    delimiter: str


def read_header(path: Path) -> Header:
    """Read the first line of the file, in which every column must have a name that no other has."""
    with _open_text(path) as handle:
        first_line = next(_checked_lines(path, handle), "")
    if not first_line.strip():
        problem = "the file is empty" if path.stat().st_size == 0 else "the line is empty"
        raise DataError(f"{path.name}, line 1: {problem}; the first line must name the columns")
    unquoted = re.sub(r'"[^"]*"', "", first_line)
    delimiter = max(",;\t|", key=unquoted.count)
    _, cells = next(_csv_records(path, delimiter))
    names = [cell.strip() for cell in cells]
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{path.name}, line 1: column {i + 1} has no name; name it, or delete it (a row index?)")
        if name in names[:i]:
            raise DataError(
                f'{path.name}, line 1: columns {names.index(name) + 1} and {i + 1} are both "{name}"; rename one'
            )
    if all(map(_is_number, names)):
        raise DataError(
            f'{path.name}, line 1: "{printable(first_line)}" looks like data; the first line must name the columns'
        )
    return Header(names=names, delimiter=delimiter)


def raise_for_malformed_line(path: Path, header: Header) -> None:
    """Raise a DataError for the first malformed line, if there is one.

    A line is malformed if it has more or fewer cells than the header, a quote that is never closed, bytes that are
    not UTF-8, too many characters, or another line ending than the first line.
    """
    width = len(header.names)
    for line, cells in _csv_records(path, header.delimiter):
        if cells and len(cells) != width:
            missing = f' (no "{header.names[len(cells)]}")' if len(cells) < width else ""
            raise DataError(
                f"{path.name}, line {line}: {len(cells)} cells where the header names {width} columns"
                f'{missing}: "{printable(header.delimiter.join(cells))}"; correct the line; a cell that holds '
                f'"{header.delimiter}" needs quotes'
            )
    with _open_text(path) as handle:
        endings = (_line_ending(text) for text in handle)
        first_ending = next(endings)
        for line, ending in enumerate(endings, start=2):
            if ending not in ("", first_ending):
                raise DataError(
                    f"{path.name}, line {line}: ends with {ending!r} where line 1 ends with {first_ending!r}; "
                    "save the file with one kind of line ending"
                )


def line_of_row(path: Path, header: Header, row: int) -> int:
    """Find the line, counted from 1, on which a row of the table, counted from 0, starts."""
    lines = (line for line, cells in _csv_records(path, header.delimiter) if cells)  # blank lines are no rows
    next(lines)  # the header
    return next(line for i, line in enumerate(lines) if i == row)


def check_unpacked_size(path: Path) -> None:
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


def _open_text(path: Path) -> IO[str]:
    """Open the file as text, line endings as they are; bytes that are not UTF-8 become surrogates.

    So reading goes on to the line that they stand in, which the error can then name.
    """
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    handle: IO[str] = opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return handle


def _checked_lines(path: Path, handle: IO[str]) -> Iterator[str]:
    """Yield the lines of the file; raise for one that is too long, not UTF-8 or in a damaged part of a .gz."""
    number = 0
    try:
        while text := handle.readline(LONGEST_LINE):
            number += 1
            if len(text) == LONGEST_LINE:
                raise DataError(
                    f'{path.name}, line {number}: longer than {LONGEST_LINE:,} characters: "{printable(text)}"; '
                    "is this a CSV file?"
                )
            raw = text.encode("utf-8", "surrogateescape")
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(
                    f'{path.name}, line {number}: "{printable(raw.decode("latin-1"))}" is not UTF-8; '
                    "save the file as UTF-8 (iconv -f LATIN1 -t UTF-8, or another -f)"
                ) from None
            yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip data are damaged ({error}); download or copy it again") from error


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which a record starts and its cells, for every record; a blank line has no cells."""
    with _open_text(path) as handle:
        reader = csv.reader(_checked_lines(path, handle), delimiter=delimiter, strict=True)
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


def _line_ending(text: str) -> str:
    return text[len(text.rstrip("\r\n")) :]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
