"""Rows in a scratch file: written once, in order, and read in ranges as often as needed."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import DataError, UsageError

WINDOW_BYTES = 1 << 26  # of inputs that are shuffled together
BLOCK_BYTES = 1 << 21  # of inputs that are stored and read in order


class ScratchRows:
    """Rows in a scratch file, which disappears with this object, however the process ends.

    Parameters
    ----------
    name : str
        The name of their source, for messages.
    window_bytes : int
        Bytes of inputs that are shuffled together.

    Attributes
    ----------
    shape : (int, int)
    block, window : int
        As in a `RowSource`, once the first rows are there.
    files : sequence of files
        Of X and of y.
    """

    def __init__(self, name: str, window_bytes: int = WINDOW_BYTES) -> None:
        self.name, self.window_bytes = name, window_bytes
        self.shape, self.block, self.window = (0, 0), 1, 1
        self.files: Sequence[Any] = ()
        self._rows: Sequence[NDArray[Any]] = ()  # the first row of X and of y, for their shapes and types
        self._digest = hashlib.sha256()
        self._of_all = ""  # the digest, once all rows are there

    @classmethod
    def of_files(cls, files: Sequence[Any], about: Mapping[str, Any]) -> ScratchRows:
        """Rows that another process has written, from its files and its `about`."""
        rows = cls(about["name"], about["window_bytes"])
        rows._open(files, [np.zeros(shape, dtype) for shape, dtype in about["rows"]])
        rows.shape, rows._of_all = (about["count"], rows.shape[1]), about["digest"]
        return rows

    def about(self) -> dict[str, Any]:
        """What another process needs to know besides the files, JSON-serializable; once all rows are there."""
        rows = [[row.shape, row.dtype.str] for row in self._rows]
        about = {"name": self.name, "window_bytes": self.window_bytes, "rows": rows}
        return {**about, "count": self.shape[0], "digest": self._of_all}

    def append(self, X: Any, y: Any) -> None:
        """Write rows X (n, n_0) and y (n,) or (n, n_L), or a single row, after those already there.

        Raises
        ------
        DataError
            For rows unlike the first ones.
        UsageError
            If there is no room for them.
        """
        arrays = [np.asarray(X), np.asarray(y)]
        arrays = [array[None] for array in arrays] if arrays[0].ndim == 1 else arrays
        m = self.shape[0]
        where = f"{self.name}, from row {m + 1:,} on"
        if any(array.dtype.kind not in "biuf" for array in arrays) or arrays[0].ndim != 2:
            what = " and ".join(f"{array.dtype} of shape {array.shape}" for array in arrays)
            raise DataError(f"{where}: {what}; numbers are needed, X of (rows, inputs)")
        if arrays[1].shape[:1] != arrays[0].shape[:1]:
            raise DataError(f"{where}: {len(arrays[0])} rows of X, and y of shape {arrays[1].shape}")
        if not self.files:
            self._begin(arrays)
        for what, array, first in zip("Xy", arrays, self._rows, strict=True):
            if array.shape[1:] != first.shape or not _can_be_kept_as(first.dtype, array):
                raise DataError(
                    f"{where}: {what} is {array.dtype} of shape {array.shape[1:]} a row, and was {first.dtype} of "
                    f"{first.shape} before"
                )
        for file, array, first in zip(self.files, arrays, self._rows, strict=True):
            piece = np.ascontiguousarray(array, first.dtype)
            self._digest.update(piece.data)
            self._write(file, piece)
        self.shape = m + len(arrays[0]), self.shape[1]

    def whole(self) -> ScratchRows:
        """These rows, once all are there; there must be at least one."""
        if not self.shape[0]:
            raise DataError(f"{self.name}: yields no rows; at least one is needed")
        for file in self.files:
            self._call(file.flush)
        self._of_all = self._digest.hexdigest()[:32]
        return self

    def read(self, first: int, end: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """X and y of the rows first … end − 1."""
        arrays = []
        for file, row in zip(self.files, self._rows, strict=True):
            array = np.empty((end - first, *row.shape), row.dtype)
            file.seek(first * row.nbytes)
            got = file.readinto(array.data.cast("B"))
            arrays.append(array[: got // max(1, row.nbytes)])
        return arrays[0], arrays[1]

    def identity(self) -> dict[str, Any]:
        """The digest of all rows."""
        return {"rows": "all of them", "digest": self._of_all}

    def _begin(self, arrays: Sequence[NDArray[Any]]) -> None:
        files = [self._call(lambda: tempfile.TemporaryFile(dir=scratch_folder())) for _ in arrays]
        self._open(files, [np.zeros(array.shape[1:], array.dtype) for array in arrays])

    def _open(self, files: Sequence[Any], rows: Sequence[NDArray[Any]]) -> None:
        """Take files, and the first rows in them for their shapes and types."""
        self.files, self._rows = files, rows
        weakref.finalize(self, _close, files)
        self.shape = 0, rows[0].shape[0]
        self.block, self.window = rows_of(BLOCK_BYTES, self._rows[0]), rows_of(self.window_bytes, self._rows[0])

    def _write(self, file: Any, piece: NDArray[Any]) -> None:
        self._call(lambda: file.write(piece.data))

    def _call(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OSError as error:
            written = self.shape[0] * sum(row.nbytes for row in self._rows)
            room = " is full" if error.errno == errno.ENOSPC else f": {error.strerror}"
            raise UsageError(
                f"{scratch_folder()}{room}, where a scratch file with the rows of {self.name} is kept "
                f"({written:,} bytes so far); make room, or name another folder by TMPDIR"
            ) from error


def _can_be_kept_as(dtype: np.dtype[Any], array: NDArray[Any]) -> bool:
    """Whether numbers keep their values in a type of their kind: integers must be within its bounds."""
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return not array.size or bool(bounds.min <= array.min() and array.max() <= bounds.max)
    return np.can_cast(array.dtype, dtype, "same_kind")


def scratch_folder() -> str:
    """The folder of scratch files: the one that TMPDIR names, else one that is on a disk, as /tmp may not be."""
    on_disk = "/var/tmp"
    return os.environ.get("TMPDIR") or (on_disk if os.access(on_disk, os.W_OK) else tempfile.gettempdir())


def _close(files: Sequence[Any]) -> None:
    for file in files:
        file.close()


def rows_of(size: int, row: NDArray[Any]) -> int:
    """How many rows of inputs take `size` bytes, at least one."""
    return max(1, size // max(1, row.nbytes))
