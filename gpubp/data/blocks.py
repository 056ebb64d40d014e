"""Files read one block of rows at a time: Parquet, .npy and HDF5."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubp.data import tables
from gpubp.data.arrays import INPUTS_AND_TARGETS, file_beside, find_layout, from_arrays, map_npy, npy_test_part
from gpubp.data.hdf5 import hdf5_test_part, stored_array
from gpubp.data.schema import TableOptions
from gpubp.data.source import RawData
from gpubp.errors import DataError

BLOCK_BYTES = 1 << 25  # of the numbers of a block, 8 bytes each
IN_MEMORY = 4  # memory of a data set read as a whole, as a multiple of the bytes of its numbers or of a CSV file's text


class RowBlocks(Protocol):
    """A file's rows, one block at a time.

    Attributes
    ----------
    name : str
        The file's name, for messages.
    starts : (blocks + 1,) int
        The first row of each block, followed by the number of rows.
    row_bytes : int
        Bytes of the numbers in a row, 8 each.
    options : TableOptions or None
        How the columns of a table are read; None for arrays.
    header : str or None
        Names the line from which the column names come, if it may be a row.
    test_part : RawData or None
        The test rows of the data set itself.
    """

    name: str
    starts: NDArray[np.int64]
    row_bytes: int
    options: TableOptions | None
    header: str | None
    test_part: RawData | None

    def read(self, block: int) -> RawData:
        """The rows of a block, as if the whole file had been read.

        Raises
        ------
        DataError
            If the file changed since it was opened, or cannot be read.
        """


def release(data: RawData) -> None:
    """Release the columns of a block: they and the block form a cycle, which would stay until a collection."""
    data.columns = {}


def too_large(size: float, limit: float) -> bool:
    """Whether numbers or text of `size` bytes would take more than the limit if read as a whole."""
    return IN_MEMORY * size > limit


class FileBlocks(ABC):
    """What all files read in blocks have in common.

    Parameters
    ----------
    path : Path
    options : TableOptions or None
    """

    header: str | None = None
    test_part: RawData | None = None

    def __init__(self, path: Path, options: TableOptions | None) -> None:
        self.path, self.name, self.options = path, path.name, options
        self._stamp = _stamp(path)

    def divide(self, rows: Sequence[int], numbers: int) -> None:
        """Set the number of rows of each block, and of numbers per row."""
        self.starts, self.row_bytes = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64), 8 * numbers

    def read(self, block: int) -> RawData:
        """The rows of a block."""
        first, end = self.starts[block : block + 2].tolist()
        try:
            data = self._read(block, first, end)
        except (OSError, ValueError, RuntimeError) as error:
            self._check_unchanged(first)
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.name}, from row {first + 1:,} on: cannot be read: {error}") from error
        self._check_unchanged(first)
        if data.rows != end - first:
            raise DataError(f"{self.name}: ends behind row {first + data.rows:,} of {self.starts[-1]:,}; copy it again")
        return data

    @abstractmethod
    def _read(self, block: int, first: int, end: int) -> RawData:
        """The rows first … end − 1, which form a block."""

    def _check_unchanged(self, row: int) -> None:
        before, now = self._stamp, _stamp(self.path)
        if now != before:
            sizes = f"{before[0]:,} bytes then, {now[0]:,} now" if now[0] != before[0] else "written anew"
            sizes = "it is gone" if now[0] < 0 else sizes
            raise DataError(
                f"{self.name}: changed while it was read, at row {row + 1:,} or before ({sizes}); train again once it "
                "is complete"
            )


class ParquetBlocks(FileBlocks):
    """A Parquet file, whose row groups are blocks or are cut into blocks of equal size."""

    def __init__(self, file: tables.ParquetFile, options: TableOptions) -> None:
        super().__init__(file.path, options)
        self.file = file
        most = max(1, BLOCK_BYTES // (8 * len(file.columns)))
        groups = file.execute(
            "SELECT any_value(row_group_num_rows) FROM parquet_metadata($1) GROUP BY row_group_id ORDER BY row_group_id"
        )
        cuts = [_cut(rows, most) for (rows,) in groups]
        self.divide([rows for cut in cuts for rows in cut], len(file.columns))

    @classmethod
    def open(cls, path: Path, options: TableOptions, limit: float) -> ParquetBlocks | None:
        """The file, if it is too large."""
        file = tables.ParquetFile(path, options)
        if not too_large(8 * file.rows * len(file.columns), limit):
            return None
        options.check_columns(path.name, list(file.columns))
        file.check_texts()
        return cls(file, options)

    def _read(self, block: int, first: int, end: int) -> RawData:
        assert self.options is not None
        return self.file.read(self.options, None, (first, end))


class ArrayBlocks(FileBlocks):
    """Arrays X and y, or a matrix whose columns are those of a table, read in ranges of rows.

    Parameters
    ----------
    path : Path
    rows : int
    numbers : int
        Numbers per row.
    stretch : callable
        ``stretch(first, end)`` returns X and y of these rows, or a matrix and None.
    options : TableOptions or None
        For a table; None for X and y.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        numbers: int,
        stretch: Callable[[int, int], tuple[Any, Any]],
        options: TableOptions | None = None,
    ) -> None:
        super().__init__(path, options)
        self.divide(_cut(rows, max(1, BLOCK_BYTES // (8 * numbers))), numbers)
        self.stretch = stretch

    @classmethod
    def open_npy(cls, path: Path, options: TableOptions, limit: float) -> ArrayBlocks | None:
        """A .npy file, with its targets in a file next to it or in the last column, if it is too large."""
        X, targets_path = map_npy(path), file_beside(path, INPUTS_AND_TARGETS)
        numbers = int(np.prod(X.shape[1:]))
        if X.ndim < 2 or 0 in X.shape or not too_large(8 * X.size, limit):
            return None
        read_X = _npy_reader(path, X)
        if targets_path is not None:
            options.check_arrays(path.name)
            read_y = _npy_reader(targets_path, map_npy(targets_path, texts=True))
            blocks = cls(path, len(X), numbers, lambda first, end: (read_X(first, end), read_y(first, end)))
            return blocks.with_test_part(npy_test_part(path, targets_path), limit)
        if X.ndim > 2:
            return None
        return cls(path, len(X), numbers, lambda first, end: (read_X(first, end), None), options)

    @classmethod
    def open_hdf5(cls, path: Path, options: TableOptions, limit: float) -> ArrayBlocks | None:
        """An HDF5 file with X and y under one of their names, if it is too large."""
        try:
            import h5py

            file = h5py.File(path, "r")
        except (ImportError, OSError):
            return None  # reading it as a whole reports the reason
        layout = find_layout(file, ("X",))
        if layout is None or layout["y"] not in file or "list_classes" in file:
            return None
        X, y = stored_array(path, file, layout["X"]), stored_array(path, file, layout["y"])
        in_blocks = X.ndim > 1 and len(X) == len(y) and not (X.dtype.hasobject or y.dtype.hasobject)
        if not in_blocks or not too_large(8 * X.size, limit):
            return None
        options.check_arrays(path.name)
        blocks = cls(path, len(X), int(np.prod(X.shape[1:])), lambda first, end: (X[first:end], y[first:end]))
        return blocks.with_test_part(hdf5_test_part(path), limit)

    def with_test_part(self, arrays: dict[str, Any], limit: float) -> ArrayBlocks:
        """These blocks with the test part in the arrays X and y, if there is one."""
        if arrays:
            if too_large(8 * arrays["X"].size, limit):
                raise DataError(f"{self.name}: its test part takes too much memory, too; raise --memory-limit")
            self.test_part = from_arrays(f"{self.name} (test part)", {name: np.array(x) for name, x in arrays.items()})
        return self

    def _read(self, block: int, first: int, end: int) -> RawData:
        X, y = self.stretch(first, end)
        if self.options is None:
            data = from_arrays(self.name, {"X": X, "y": y})
        else:
            values = np.array(X.T, dtype=np.float64, order="C")
            columns = {str(i): column for i, column in enumerate(values, start=1)}
            data = tables.with_options(RawData(name=self.name, kind="table", columns=columns), self.options, None)
        data.place = lambda row: f"row {first + row + 1}"
        return data


def _npy_reader(path: Path, array: NDArray[Any]) -> Callable[[int, int], NDArray[Any]]:
    """A reader of ranges of rows of a .npy file that `array` maps: mapped rows would count as memory in use."""
    if not array.flags.c_contiguous:
        raise DataError(
            f"{path.name}: is written column by column, and too large to be read as a whole; save it in C order"
        )
    assert isinstance(array, np.memmap)
    offset, dtype, shape = int(array.offset), array.dtype, array.shape[1:]
    row_bytes = int(np.prod(shape)) * dtype.itemsize

    def read(first: int, end: int) -> NDArray[Any]:
        count = (end - first) * int(np.prod(shape))
        values = np.fromfile(path, dtype, count, offset=offset + first * row_bytes)
        whole = len(values) // max(1, int(np.prod(shape)))
        return values[: whole * int(np.prod(shape))].reshape(-1, *shape)

    return read


def _cut(rows: int, most: int) -> list[int]:
    """Rows in the fewest blocks of about equal size with at most `most` rows each."""
    parts = -(-rows // most)
    borders = [rows * i // parts for i in range(parts + 1)]
    return [end - first for first, end in pairwise(borders)]


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written to, its size first."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino
