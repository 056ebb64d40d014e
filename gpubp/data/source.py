"""What every reader returns, and the bound that every reader keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from gpubp.errors import DataError

# A few kilobytes on disk may declare gigabytes. What exceeds both of these is refused before it is allocated:
# real data compresses by less (MNIST 5-fold, a one-hot matrix about 100-fold), zeros 1000-fold.
FREE_BYTES = 256 * 2**20
LARGEST_RATIO = 200

LONGEST_SHOWN = 60  # characters of a file's text in a message


@dataclass
class RawData:
    """A data set as its file has it, nothing encoded yet.

    Attributes
    ----------
    name : str
        Of the built-in set or the file, for messages.
    kind : {"table", "arrays", "images"}
        Named columns; numbers without names; pixels (uint8, 0 to 255).
    X, y : ndarray or None
        Arrays and images only: (m, n), and (m,) or (m, n_out).
    X_test, y_test : ndarray or None
        The source's own test part, where it has one.
    one_unit : bool
        Whether all columns of X measure the same thing (pixels), so that they share one mean and one scale:
        standardizing each would blow up the nearly constant ones.
    columns : dict of str to ndarray
        Tables only, in file order: float64 with NaN, or object (str) with None, where a value is missing.
    target : str or None
        The target's column, where it is known.
    notes : list of str
        What the user should be told: everything that was guessed, left out or replaced.
    place : callable
        ``place(row)`` names a row, counted from 0, as the user finds it: "line 118", "row 117".
    """

    name: str
    kind: Literal["table", "arrays", "images"]
    X: NDArray[Any] | None = None
    y: NDArray[Any] | None = None
    X_test: NDArray[Any] | None = None
    y_test: NDArray[Any] | None = None
    one_unit: bool = False
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)
    target: str | None = None
    notes: list[str] = field(default_factory=list)
    place: Callable[[int], str] = lambda row: f"row {row + 1}"

    @property
    def rows(self) -> int:
        """How many rows there are, the source's own test part not counted."""
        return len(self.X) if self.X is not None else len(next(iter(self.columns.values())))

    @property
    def test_part(self) -> RawData | None:
        """The source's own test part as a data set, or None."""
        if self.X_test is None:
            return None
        return RawData(f"{self.name} (test part)", self.kind, X=self.X_test, y=self.y_test)

    def say(self, note: str) -> None:
        """Keep a note for the user, once."""
        if note not in self.notes:
            self.notes.append(note)

    def where(self, row: int, column: str | None = None) -> str:
        """How an error names a cell: ``housing.csv, line 118, column "total_rooms"``."""
        cell = f"{self.name}, {self.place(row)}"
        return cell if column is None else f'{cell}, column "{column}"'


def check_size(name: str, declared: int, stored: int) -> None:
    """Refuse what unpacks to far more than real data does.

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
    if declared > FREE_BYTES and declared > LARGEST_RATIO * stored:
        raise DataError(
            f"{name}: {stored:,} bytes on disk declare {declared:,} bytes of data, more than {LARGEST_RATIO} "
            "times as much; the file is damaged or hostile; if it is neither, save it uncompressed"
        )


def shown(text: str) -> str:
    """A file's text as a message can hold it: not too long, nothing in it that a terminal would obey."""
    text = text.strip()
    cut = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut)
