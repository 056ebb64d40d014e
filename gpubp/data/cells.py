"""The cells of a table as stored in its file: texts in one buffer, or numbers if the file has types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CELLS_PER_BLOCK = 2**16  # parsed at a time, so that temporaries stay in the cache
MOST_DIGITS = 15  # beyond it, digits / 10^k would not be the float64 nearest to the text
WIDEST = MOST_DIGITS + 1  # bytes of a plain number without its sign: digits and a point
POWERS_OF_TEN = 10.0 ** np.arange(WIDEST)
WHOLE_POWERS = 10 ** np.arange(WIDEST, dtype=np.int64)


@dataclass(frozen=True)
class PlainNumbers:
    """A column read as plain decimal numbers such as 12, -0.5 or 007.

    Attributes
    ----------
    values : (rows,) float64
        NaN where the cell is something else.
    odd : (n,) int
        The rows of these cells.
    zero_padded : bool
        Whether a cell has leading zeros, such as 007.
    decimals : int or None
        The number of digits after the point in all cells with a point; 0 if there is no such cell, None if it varies.
    """

    values: NDArray[np.float64]
    odd: NDArray[np.intp]
    zero_padded: bool = False
    decimals: int | None = 0


class Cells(Protocol):
    """The output of a reader: `rows` cells in each of the columns `names`."""

    names: list[str]
    rows: int

    def plain_numbers(self, names: Sequence[str]) -> Iterator[PlainNumbers]:
        """Read these columns as plain numbers, one after the other."""
        ...

    def texts(self, name: str, rows: NDArray[np.intp] | None = None) -> list[str]:
        """Take cells of a column as texts, without the spaces around them; an empty cell is ""."""
        ...


class TextCells:
    """Texts in one buffer.

    Parameters
    ----------
    names : list of str
    buffer : bytes
        UTF-8.
    starts, ends : (rows, columns) int
        The start of each cell in the buffer, and the position after its end.
    delimiter : str, optional
        The separator of cells in the file.
    """

    def __init__(
        self,
        names: list[str],
        buffer: bytes,
        starts: NDArray[Any],
        ends: NDArray[Any],
        delimiter: str | None = None,
    ) -> None:
        self.names, self.rows, self.delimiter = names, len(starts), delimiter
        self.buffer, self.starts, self.ends = buffer, starts, ends
        self._bytes = np.frombuffer(buffer + bytes(WIDEST), np.uint8)
        self._positions = {name: j for j, name in enumerate(names)}
        self._trim()

    def plain_numbers(self, names: Sequence[str]) -> Iterator[PlainNumbers]:
        """Read these columns as plain numbers, one after the other."""
        columns = max(1, CELLS_PER_BLOCK // max(1, self.rows))
        positions = [self._positions[name] for name in names]
        for first in range(0, len(positions), columns):
            block = positions[first : first + columns]
            starts, ends = self.starts[:, block].T.ravel(), self.ends[:, block].T.ravel()
            read = _parse_decimals(self._bytes, starts, ends - starts)
            padded = np.logical_or.reduce(read.zero_padded.reshape(-1, self.rows), axis=1).tolist()
            most = read.decimals.reshape(-1, self.rows).max(axis=1).tolist()
            fewest = np.where(read.decimals, read.decimals, WIDEST).reshape(-1, self.rows).min(axis=1).tolist()
            for j in range(len(block)):
                cells = slice(j * self.rows, (j + 1) * self.rows)
                decimals = most[j] if most[j] in (0, fewest[j]) else None
                yield PlainNumbers(read.values[cells], np.flatnonzero(~read.plain[cells]), padded[j], decimals)

    def texts(self, name: str, rows: NDArray[np.intp] | None = None) -> list[str]:
        """Take cells of a column as texts, without the spaces around them; an empty cell is ""."""
        j = self._positions[name]
        starts, ends = self.starts[:, j], self.ends[:, j]
        if rows is not None:
            starts, ends = starts[rows], ends[rows]
        buffer = self.buffer
        raw = [buffer[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        decoded = {cell: cell.decode("utf-8", "surrogatepass").strip() for cell in set(raw)}  # equal cells share one
        return [decoded[cell] for cell in raw]

    def _trim(self) -> None:
        """Move starts and ends past the spaces and tabs around the cells."""
        bytes_ = self._bytes
        while (space := _is_blank(bytes_[self.starts]) & (self.starts < self.ends)).any():
            self.starts = self.starts + space
        while (space := _is_blank(bytes_[self.ends - 1]) & (self.starts < self.ends)).any():
            self.ends = self.ends - space


@dataclass
class TypedCells:
    """Columns of a file that knows their types (Parquet, a data frame).

    Attributes
    ----------
    names : list of str
    numbers : dict of str to (rows,) float64
        The columns of numbers, NaN where a value is missing.
    others : dict of str to TextCells
        A one-column table for each of the others.
    """

    names: list[str]
    rows: int
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    others: dict[str, TextCells] = field(default_factory=dict)

    def plain_numbers(self, names: Sequence[str]) -> Iterator[PlainNumbers]:
        """Read these columns as plain numbers, one after the other."""
        for name in names:
            if name in self.numbers:
                yield PlainNumbers(self.numbers[name], np.flatnonzero(np.isnan(self.numbers[name])))
            else:
                yield from self.others[name].plain_numbers([name])

    def texts(self, name: str, rows: NDArray[np.intp] | None = None) -> list[str]:
        """Take cells of a column as texts, without the spaces around them; an empty cell is ""."""
        if name in self.others:
            return self.others[name].texts(name, rows)
        values = self.numbers[name] if rows is None else self.numbers[name][rows]
        return ["" if np.isnan(value) else number_as_text(value) for value in values]


def text_column(name: str, texts: Sequence[str]) -> TextCells:
    """Make a one-column table of these texts."""
    return TextCells([name], *join_texts(texts, 1))


def join_texts(texts: Sequence[str], columns: int) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
    """Put texts, row after row of `columns` columns, into one buffer with their starts and ends (rows, columns)."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return b"".join(encoded), starts.reshape(-1, columns), ends.reshape(-1, columns)


def number_as_text(value: float) -> str:
    """Write a number as a category: 1.0 is "1"."""
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def _is_blank(characters: NDArray[np.uint8]) -> NDArray[np.bool_]:
    blank: NDArray[np.bool_] = (characters == ord(" ")) | (characters == ord("\t"))
    return blank


@dataclass(frozen=True)
class _Decimals:
    """Cells read as decimal numbers, each (n,): the values, whether they are valid, and how they are written."""

    values: NDArray[np.float64]
    plain: NDArray[np.bool_]
    zero_padded: NDArray[np.bool_]
    decimals: NDArray[np.uint8]


def _parse_decimals(buffer: NDArray[np.uint8], starts: NDArray[Any], lengths: NDArray[Any]) -> _Decimals:
    """Read cells as decimal numbers of at most 15 digits, all cells at once, character by character from the right.

    Digits are divided once by a power of ten, both exact in float64, so that each value is the float64 nearest to its
    text, as with Python's ``float``.
    """
    n = len(starts)
    first = buffer[starts]
    negative = first == ord("-")
    unread = lengths - (negative | (first == ord("+")))
    wrong = (unread <= 0) | (unread > WIDEST)
    mantissa = np.zeros(n, np.int64)
    digits, decimals = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    has_point = np.zeros(n, bool)
    position = starts + lengths
    for k in range(min(int(unread.max(initial=0)), WIDEST)):
        position -= 1
        inside = unread > k
        character = buffer.take(position, mode="clip")
        is_point = (character == ord(".")) & inside
        character -= np.uint8(ord("0"))  # wraps around: anything but a digit is above 9
        is_digit = (character < 10) & inside
        character *= is_digit
        mantissa += character * np.where(has_point, WHOLE_POWERS[k - 1], WHOLE_POWERS[k])
        digits += is_digit
        np.copyto(decimals, np.uint8(k), where=is_point)
        wrong |= inside & ~is_digit & ~(is_point & ~has_point)
        has_point |= is_point
    plain = ~wrong & (digits > 0) & (digits <= MOST_DIGITS)
    values = mantissa / POWERS_OF_TEN[np.minimum(decimals, MOST_DIGITS)]
    np.negative(values, out=values, where=negative)
    values[~plain] = np.nan
    padded = plain & ~has_point & (digits > 1) & (first == ord("0"))
    return _Decimals(values, plain, padded, decimals * plain)
