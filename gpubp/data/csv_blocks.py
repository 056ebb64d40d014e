"""A CSV file read one piece at a time: whole rows, together with the first lines of the file."""

from __future__ import annotations

import codecs
import gzip
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpubp.data import tables
from gpubp.data.blocks import FileBlocks, too_large
from gpubp.data.cells import TextCells
from gpubp.data.csv_cells import read_cells
from gpubp.data.csv_text import DAMAGED, CsvText, text_of
from gpubp.data.schema import TableOptions
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError
from gpubp.scratch import scratch_folder

PIECE = 1 << 22  # bytes of text
MOST_PIECES = 8  # that one row, with newlines in quotes, may span


class _Piece(NamedTuple):
    """The start and end of a piece in the file, and the number of lines between the file's head and it."""

    start: int
    end: int
    lines: int


class CsvBlocks(FileBlocks):
    """The pieces of a CSV file.

    Parameters
    ----------
    path : Path
    options : TableOptions
    """

    def __init__(self, path: Path, options: TableOptions) -> None:
        super().__init__(path, options)
        self._file = _unpacked(path) if path.suffix.lower() == ".gz" else path.open("rb")
        weakref.finalize(self, self._file.close)
        beginning = self._file.read(PIECE)
        beginning = beginning[: beginning.rfind(b"\n") + 1]
        if not beginning or b"\0" in beginning:
            raise DataError(f"{path.name}: is no UTF-8 with lines that end with \\n, as reading it in blocks needs")
        marked = beginning.startswith(codecs.BOM_UTF8)
        self._options = replace(options, encoding=options.encoding or ("utf-8-sig" if marked else "utf-8"))
        text = text_of(path.name, beginning, self._options, lambda note: None)
        self._options = replace(self._options, delimiter=text.delimiter)
        self._head_lines = text.skipped + (0 if options.header is False else 1)
        self._head = b"".join(beginning.split(b"\n")[i] + b"\n" for i in range(self._head_lines))
        names = read_cells(_of_whole_rows(text), options.header)[0].names
        options.check_columns(path.name, names)
        if options.header is None:
            self.header = f"{path.name}, line {self._head_lines}"
        counted = [(piece, self._count_rows(piece)) for piece in self._find_pieces()]
        self._pieces = [piece for piece, rows in counted if rows]  # others have only blank lines
        self.divide([rows for _, rows in counted if rows], len(names))

    @classmethod
    def open(cls, path: Path, options: TableOptions, limit: float) -> CsvBlocks | None:
        """The file, if it is too large."""
        size = path.stat().st_size
        if path.suffix.lower() == ".gz" and size >= 4:
            with path.open("rb") as file:
                file.seek(-4, 2)
                size = max(size, int.from_bytes(file.read(4), "little"))  # its unpacked size, modulo 4 GiB
        return cls(path, options) if too_large(size, limit) else None

    def _read(self, block: int, first: int, end: int) -> RawData:
        cells, lines = self._cells(self._pieces[block], self._bytes_of(self._pieces[block]))
        data = RawData(name=self.name, kind="table", place=lambda row: f"line {lines[row]}")
        assert self.options is not None
        return tables.with_columns(data, cells, self.options, None)

    def _find_pieces(self) -> Iterator[_Piece]:
        """Cut the file after the last complete row in each piece."""
        start, lines, rest = len(self._head), 0, b""
        while more := self._bytes(start + len(rest), PIECE):
            rest += more
            length = _whole_rows(rest)
            if not length and len(rest) >= MOST_PIECES * PIECE:
                raise DataError(
                    f"{self.name}, from line {self._head_lines + lines + 1} on: no row ends in {len(rest):,} bytes; "
                    "close the quote that is open there"
                )
            if length:
                yield _Piece(start, start + length, lines)
                start, lines, rest = start + length, lines + rest.count(b"\n", 0, length), rest[length:]
        if rest.strip():
            yield _Piece(start, start + len(rest), lines)

    def _count_rows(self, piece: _Piece) -> int:
        body = self._bytes_of(piece)
        if b'"' in body:
            return self._cells(piece, body)[0].rows
        return sum(1 for line in body.split(b"\n") if line and line != b"\r")

    def _cells(self, piece: _Piece, body: bytes) -> tuple[TextCells, NDArray[np.int64]]:
        """The cells of a piece, and the line of the file on which each row starts."""
        assert self._options.encoding is not None
        try:
            body.decode(self._options.encoding)
        except UnicodeDecodeError as error:
            line = self._head_lines + piece.lines + body.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{self.name}, line {line}: is not written in {self._options.encoding}; name another --encoding"
            ) from None
        text: CsvText = text_of(self.name, self._head + body, self._options, lambda note: None)
        text = replace(text, head=self._head_lines, left_out=piece.lines)
        return read_cells(text, self._options.header)

    def _bytes_of(self, piece: _Piece) -> bytes:
        return self._bytes(piece.start, piece.end - piece.start)

    def _bytes(self, start: int, count: int) -> bytes:
        self._file.seek(start)
        return self._file.read(count)


def _of_whole_rows(text: CsvText) -> CsvText:
    """The beginning of a file without an incomplete row at its end, which may be cut inside a quoted cell."""
    first = sum(len(line) + 1 for line in text.body.split(b"\n", text.skipped)[: text.skipped])
    return replace(text, body=text.body[: first + _whole_rows(text.body[first:])])


def _whole_rows(text: bytes) -> int:
    """The number of bytes of complete rows, which end with a newline outside quotes."""
    end = text.rfind(b"\n") + 1
    quotes = text.count(b'"', 0, end)
    while quotes % 2:
        before = text.rfind(b"\n", 0, end - 1) + 1
        quotes -= text.count(b'"', before, end)
        end = before
    return end


def _unpacked(path: Path) -> IO[bytes]:
    """Unpack a gzipped file into a scratch file."""
    file = tempfile.TemporaryFile(dir=scratch_folder())
    try:
        with gzip.open(path) as packed:
            while piece := packed.read(PIECE):
                file.write(piece)
                check_size(path.name, file.tell(), path.stat().st_size)
    except BaseException as error:
        file.close()
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            raise DataError(f"{path.name}: {DAMAGED.format(error)}") from error
        raise
    file.seek(0)
    return file
