"""The data set that every reader returns, and the limits on size that every reader checks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from gpubp.errors import DataError

# A few kilobytes on disk may declare gigabytes. What exceeds both of these is refused before it is allocated: real
# data compress by less (MNIST 5-fold, a one-hot matrix about 100-fold), zeros 1000-fold.
UNCHECKED_BYTES = 256 * 2**20
LARGEST_RATIO = 200

LONGEST_SHOWN = 60  # characters of a file's text in a message


@dataclass
class RawData:
    """A data set as stored in its file, with nothing encoded yet.

    Attributes
    ----------
    name : str
        The name of the built-in set or of the file, for messages.
    kind : {"table", "arrays", "images"}
        Named columns; numbers without names; pixels (uint8, 0 to 255).
    X, y : ndarray or None
        Arrays and images only: (m, n), and (m,) or (m, n_out).
    X_test, y_test : ndarray or None
        The test part, if the data set has one.
    class_names : sequence of str or int, or None
        The classes that the numbers 0, 1, … in y stand for, if the data set says so.
    one_unit : bool
        Whether all columns of X measure the same thing (pixels), so that they share one mean and one scale:
        standardizing each would blow up the nearly constant ones.
    columns : mapping of str to ndarray
        Tables only, in file order: float64 with NaN, or object (str) with None, where a value is missing. Those of a
        file are `gpubp.data.columns.Columns`: their schema is inferred when the first is used.
    target : str or None
        The target's column, if known.
    target_columns : sequence of str or None
        Tables only: the columns of the file that were joined to `target`, a matrix, where it has several.
    notes : list of str
        Notices for the user: everything that was guessed, left out or replaced.
    place : callable
        ``place(row)`` names a row, counted from 0, so that the user finds it: "line 118", "row 117".
    """

    name: str
    kind: Literal["table", "arrays", "images"]
    X: NDArray[Any] | None = None
    y: NDArray[Any] | None = None
    X_test: NDArray[Any] | None = None
    y_test: NDArray[Any] | None = None
    class_names: Sequence[str | int] | None = None
    one_unit: bool = False
    columns: Mapping[Any, NDArray[Any]] = field(default_factory=dict)
    target: str | None = None
    target_columns: Sequence[str] | None = None
    notes: list[str] = field(default_factory=list)
    place: Callable[[int], str] = lambda row: f"row {row + 1}"

    @property
    def rows(self) -> int:
        """The number of rows, without those of the data set's own test part."""
        if self.X is not None:
            return len(self.X)
        rows = getattr(self.columns, "rows", None)  # of columns that are not read yet
        return len(next(iter(self.columns.values()))) if rows is None else int(rows)

    @property
    def test_part(self) -> RawData | None:
        """The data set's own test part, as a data set, or None."""
        if self.X_test is None:
            return None
        return RawData(
            name=f"{self.name} (test part)",
            kind=self.kind,
            X=self.X_test,
            y=self.y_test,
            class_names=self.class_names,
        )

    def say(self, note: str) -> None:
        """Add a note for the user, unless it is there already."""
        if note not in self.notes:
            self.notes.append(note)

    def where(self, row: int, column: str | None = None) -> str:
        """Name a row or cell for an error message: ``housing.csv, line 118, column "total_rooms"``."""
        cell = f"{self.name}, {self.place(row)}"
        return cell if column is None else f'{cell}, column "{column}"'


def check_size(name: str, declared: int, stored: int) -> None:
    """Raise for data that would unpack to far more than real data do.

    Parameters
    ----------
    name : str
        The file, and the part of it, for the message.
    declared : int
        Bytes that it would take in memory.
    stored : int
        Bytes that it takes on disk.

    Raises
    ------
    DataError
        If `declared` exceeds both 256 MiB and 200 times `stored`.
    """
    if declared > UNCHECKED_BYTES and declared > LARGEST_RATIO * stored:
        raise DataError(
            f"{name}: {stored:,} bytes on disk declare {declared:,} bytes of data, more than {LARGEST_RATIO} "
            "times as much; the file is damaged or hostile; if it is neither, save it uncompressed"
        )


def option(name: str, value: str) -> str:
    """Write an option as the user would type it: ``--missing '<1.0'``."""
    return f"{name} {shlex.quote(value)}"


def printable(text: str) -> str:
    """Make text from a file printable in a message: cut to 60 characters, control characters escaped."""
    text = text.strip()
    shortened = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in shortened)
