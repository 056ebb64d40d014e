"""A CSV file as text: its bytes, its encoding, its delimiter, and the line that names the columns."""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpubp.data.schema import TableOptions
from gpubp.data.source import check_size, printable
from gpubp.errors import DataError, UsageError

DELIMITERS = ",;\t|"
LONGEST_LINE = 2_000_000  # bytes
SEPARATOR_LINE = re.compile(r"sep=(.)")
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LOOKED_AT = 1000  # bytes examined to recognize UTF-16 without a byte order mark
DAMAGED = "the gzip data are damaged ({}); download or copy it again"


@dataclass(frozen=True)
class CsvText:
    """The text of a CSV file.

    Attributes
    ----------
    name : str
        The file's name, for messages.
    body : bytes
        The whole text in UTF-8, with lines ended by a newline alone.
    skipped : int
        The number of lines before the one that names the columns.
    delimiter : str
    head, left_out : int
        If the body is the file's first `head` lines and a later piece, the number of lines missing between them.
    """

    name: str
    body: bytes
    skipped: int
    delimiter: str
    head: int = 0
    left_out: int = 0

    def number(self, line: int) -> int:
        """The line number in the file of a line of the body, counted from 1."""
        return line + self.left_out * (line > self.head)

    def line(self, number: int) -> str:
        """Return a line, counted from 1, without its ending."""
        return _line(self.body, number)


def read_csv_text(path: Path, options: TableOptions, say: Callable[[str], None]) -> CsvText:
    """Read a CSV file, find its encoding and its delimiter, and skip the lines before the column names.

    Raises
    ------
    DataError
        If the file is empty, damaged, not in the given encoding, or not text.
    """
    return text_of(path.name, _unpack(path), options, say)


def text_of(name: str, raw: bytes, options: TableOptions, say: Callable[[str], None]) -> CsvText:
    """Read all bytes of a file as `read_csv_text` does."""
    body = _one_line_ending(name, _to_utf8(name, raw, options, say))
    skipped, declared = _lines_before_header(name, body, options, say)
    first_line = _line(body, skipped + 1)
    if not first_line.strip():
        problem = "the file is empty" if not body.strip() else "the line is empty"
        raise DataError(f"{name}, line {skipped + 1}: {problem}; the first line must name the columns")
    unquoted = re.sub(r'"[^"]*"', "", first_line)
    delimiter = options.delimiter or declared or max(DELIMITERS, key=unquoted.count)
    return CsvText(name, body, skipped, delimiter)


def _unpack(path: Path) -> bytes:
    """Read all bytes of the file; refuse a .csv.gz that unpacks to far more than text would."""
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    pieces, unpacked = [], 0
    try:
        with gzip.open(path) as stream:
            while piece := stream.read(2**20):
                pieces.append(piece)
                unpacked += len(piece)
                check_size(path.name, unpacked, path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: {DAMAGED.format(error)}") from error
    return b"".join(pieces)


def _to_utf8(name: str, raw: bytes, options: TableOptions, say: Callable[[str], None]) -> bytes:
    """Convert the file's bytes to UTF-8, without a byte order mark."""
    encoding = options.encoding or _marked_encoding(raw)
    if encoding is None:
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            encoding = _single_byte_encoding(raw)
            line = raw.count(b"\n", 0, error.start) + 1
            text = printable(_line(raw, line, encoding))
            say(f'{name}, line {line}: "{text}" is not UTF-8; read as {encoding}; for another, --encoding')
        else:
            return raw
    elif options.encoding is None and encoding != "utf-8-sig":
        say(f"{name}: read as {encoding.upper()}; for another, --encoding")
    try:
        return raw.decode(encoding).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
    except LookupError:
        raise UsageError(
            f'--encoding "{encoding}": there is none; utf-8, utf-16, latin-1 and cp1252 are usual'
        ) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: is not written in {encoding}; name another --encoding") from None


def _marked_encoding(raw: bytes) -> str | None:
    """Detect the encoding from the byte order mark, or from every other byte being zero."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if raw.startswith(mark):
            return encoding
    even, odd = raw[:LOOKED_AT:2], raw[1:LOOKED_AT:2]
    if odd and odd.count(0) > 0.7 * len(odd):
        return "utf-16-le"
    return "utf-16-be" if odd and even.count(0) > 0.7 * len(even) else None


def _single_byte_encoding(raw: bytes) -> str:
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _one_line_ending(name: str, body: bytes) -> bytes:
    """Replace the line endings by newlines; raise if a line ends differently than the first."""
    pairs, returns, newlines = body.count(b"\r\n"), body.count(b"\r"), body.count(b"\n")
    if returns and (not newlines or pairs == returns == newlines or b'"' in body):  # a quoted cell may hold any ending
        return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not returns:
        return body
    endings = re.findall(rb"\r\n|\r|\n", body)
    starts = re.match(
        rb"(?:(?:#|sep=)[^\r\n]*(?:\r\n|\r|\n))*", body
    )  # lines that another program put before the table
    assert starts is not None
    first = len(re.findall(rb"\r\n|\r|\n", starts[0]))
    line = next((i for i, ending in enumerate(endings[first:], start=first + 1) if ending != endings[first]), None)
    if line is not None:
        raise DataError(
            f"{name}, line {line}: ends with {endings[line - 1].decode()!r} where line {first + 1} ends with "
            f"{endings[first].decode()!r}; save the file with one kind of line ending"
        )
    return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _lines_before_header(
    name: str, body: bytes, options: TableOptions, say: Callable[[str], None]
) -> tuple[int, str | None]:
    """Count comment and title lines before the table; also return the delimiter that one may declare."""
    skipped, declared = 0, None
    while True:
        line = _line(body, skipped + 1)
        if match := SEPARATOR_LINE.fullmatch(line.strip(" \r")) if not skipped else None:
            declared = match[1]
        elif not (line.startswith("#") and not _is_header_in_hash(body, skipped + 1)) and not _is_title(
            body, skipped + 1, options.delimiter or declared
        ):
            return skipped, declared
        else:
            say(f'{name}, line {skipped + 1}: "{printable(line)}" is skipped: it is no row of the table')
        skipped += 1


def _is_header_in_hash(body: bytes, number: int) -> bool:
    """Whether a line that begins with # names as many columns as the next line has cells, more than one."""
    line, following = _line(body, number), _line(body, number + 1)
    return any(line.count(mark) == following.count(mark) > 0 for mark in DELIMITERS)


def _is_title(body: bytes, number: int, delimiter: str | None) -> bool:
    """Whether a line has one cell, and the two lines that follow have equally many, more than one."""
    marks = delimiter or DELIMITERS
    line, second, third = (_line(body, number + k) for k in range(3))
    if not line.strip() or '"' in line or any(mark in line.strip() for mark in marks):
        return False
    return any(second.count(mark) == third.count(mark) > 0 for mark in marks)


def _line(body: bytes, number: int, encoding: str = "utf-8") -> str:
    """Return a line, counted from 1, without its ending; "" after the last."""
    start = 0
    for _ in range(number - 1):
        start = body.find(b"\n", start) + 1
        if not start:
            return ""
    end = body.find(b"\n", start)
    return body[start : end if end >= 0 else len(body)][:LONGEST_LINE].decode(encoding, "replace")
