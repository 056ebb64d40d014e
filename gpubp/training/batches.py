"""What `train` accepts as batches: data sets that are asked for their rows, and iterables of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import DataError, UsageError
from gpubp.scratch import BLOCK_BYTES, WINDOW_BYTES, ScratchRows, rows_of
from gpubp.training.streaming import RowSource

LOOKED_AT = 64  # rows of a data set that identify it


def as_row_source(batches: Any) -> RowSource:
    """Turn the argument `batches` into rows that can be read in any order.

    A data set with ``len()`` is asked for its rows, one by one, whenever they are needed; an iterable of batches is
    read once, and its rows are kept in a scratch file.

    Parameters
    ----------
    batches : RowSource, sequence of rows, iterable of batches, or callable that returns one
        A row is (x, y), x of one dimension; a batch is (X, y), X of two.
    """
    if isinstance(batches, RowSource):
        return batches
    if callable(batches) and not hasattr(batches, "__getitem__") and not hasattr(batches, "__iter__"):
        batches = batches()
    if hasattr(batches, "__len__") and hasattr(batches, "__getitem__") and not isinstance(batches, Mapping):
        if not len(batches):
            raise DataError("batches: holds nothing; at least one row is needed")
        if np.ndim(_pair(batches[0], "batches[0]")[0]) == 1:
            return DatasetRows(batches)
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise UsageError(
            f"batches={batches!r} does not fit; give a data set of rows (x, y), or what yields batches (X, y)"
        )
    rows = ScratchRows("batches")
    for number, batch in enumerate(batches):
        rows.append(*_pair(batch, f"batches, number {number}"))
    return rows.whole()


def _pair(batch: Any, where: str) -> tuple[Any, Any]:
    """X and y of a batch, or x and y of a row."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        what = f"{len(batch)} items" if isinstance(batch, Sequence) else f"a {type(batch).__name__}"
        raise DataError(f"{where}: is {what}, and no pair; give (X, y)")
    return batch[0], batch[1]


class DatasetRows:
    """The rows of a data set such as PyTorch's ``Dataset``: ``dataset[i]`` is (x, y), and ``len(dataset)`` is known.

    Parameters
    ----------
    dataset : object
        Several rows are requested through ``__getitems__(numbers)``, if it has that.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.name = dataset, type(dataset).__name__
        x = np.asarray(dataset[0][0])
        self.shape = len(dataset), len(x)
        self.block, self.window = rows_of(BLOCK_BYTES, x), rows_of(WINDOW_BYTES, x)

    def read(self, first: int, end: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """X (n, n_0) and y of the rows first … end − 1."""
        if len(self.dataset) < end:
            end = max(first, len(self.dataset))
        if hasattr(self.dataset, "__getitems__"):
            rows = self.dataset.__getitems__(list(range(first, end)))
        else:
            rows = [self.dataset[i] for i in range(first, end)]
        X, y = np.empty((len(rows), self.shape[1]), np.float64), []
        for i, row in enumerate(rows):
            x, target = _pair(row, f"{self.name}, row {first + i + 1:,}")
            if np.shape(x) != X.shape[1:]:
                raise DataError(
                    f"{self.name}, row {first + i + 1:,}: x has shape {np.shape(x)}; that of the first row is "
                    f"{X.shape[1:]}"
                )
            X[i] = x
            y.append(np.asarray(target))
        return X, np.array(y)

    def identity(self) -> dict[str, Any]:
        """The digest of some rows, spread over the data set."""
        digest = hashlib.sha256()
        for row in np.unique(np.linspace(0, self.shape[0] - 1, LOOKED_AT).astype(int)).tolist():
            for array in self.read(row, row + 1):
                digest.update(np.ascontiguousarray(array).tobytes())
        return {"rows": self.name, "digest": digest.hexdigest()[:32]}
