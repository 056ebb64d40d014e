"""Training on rows that are not in memory: their order in an epoch, and the thread that reads ahead.

Every epoch visits the blocks of a source in an order of its own. As many rows as fit form a window, which is shuffled
and trained on while the next one is read. Both orders are keyed bijections of (seed, epoch, window), like the order of
rows in memory, so any window can be read again: a training resumes from a checkpoint with the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import Backend
from gpubp.backends.shuffle import MOST_ROWS, order_keys, shuffled
from gpubp.errors import DataError, UsageError
from gpubp.stack import Stack
from gpubp.training.samples import Samples
from gpubp.training.step_table import StepTable


@runtime_checkable
class RowSource(Protocol):
    """Rows in a fixed order, any range of which can be read at any time, by one thread at a time.

    Attributes
    ----------
    name : str
        For messages.
    shape : (int, int)
        The number of rows, and of inputs per row.
    block, window : int
        How many rows are read together, and how many are shuffled together.
    """

    name: str
    shape: tuple[int, int]
    block: int
    window: int

    def read(self, first: int, end: int) -> tuple[Any, Any]:
        """X and y of the rows first … end − 1."""

    def identity(self) -> Mapping[str, Any]:
        """What identifies these rows, JSON-serializable."""


class StreamedRows:
    """The rows of a source in the form a network is trained on, checked at every read.

    Parameters
    ----------
    stack : Stack
    source : RowSource
    seed : int or None
        Seed of the order of rows; None keeps their stored order.
    """

    def __init__(self, stack: Stack, source: RowSource, seed: int | None) -> None:
        self.stack, self.source, self.seed, self.shape = stack, source, seed, source.shape
        # One thread reads ahead, and another that writes a checkpoint may read some rows for its identity.
        self._reading = threading.Lock()
        if not 0 < len(self) <= MOST_ROWS:
            raise DataError(f"{source.name}: has {len(self):,} rows; from 1 to {MOST_ROWS:,} can be streamed")
        _, y = source.read(0, 1)
        # One-hot rows stay a matrix: later rows may not be one-hot.
        self._as_matrix = np.ndim(y) == 2 and np.shape(y)[1] > 1
        self.first_row = self.read(0, 1)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, first: int, end: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """X (n, n_0), and y (n,) int64 or (n, n_L), of the rows first … end − 1, in the network's type.

        Raises
        ------
        DataError
            Naming the row that does not fit, or the place where the source ends too early.
        """
        with self._reading:
            X, y = self.source.read(first, end)
        if len(X) != end - first:
            raise DataError(
                f"{self.source.name}: ends behind row {first + len(X):,}, and had {len(self):,} rows when the training "
                "began; train again once it is whole"
            )
        try:
            X, y, _ = self.stack.checked(X, y)
        except DataError:
            self._raise_for_first_wrong(X, y, first)
            raise
        dtype = self.stack.backend.dtype
        if self._as_matrix and y.ndim == 1:
            y = np.eye(self.stack.layer_sizes[-1])[y]
        return np.asarray(X, dtype), np.asarray(self.stack.cast_targets(y))

    def identity(self) -> dict[str, Any]:
        """What identifies these rows and the windows in which they are shuffled, JSON-serializable."""
        with self._reading:
            return {"shape": list(self.shape), "window": self.source.window, **self.source.identity()}

    def _raise_for_first_wrong(self, X: Any, y: Any, first: int) -> None:
        """Raise the error of the first row that does not fit, with its number in the source."""
        if len(X) == len(y):
            for i in range(len(X)):
                self.stack.checked(X[i : i + 1], y[i : i + 1], None, f"{self.source.name}, row {first + i + 1:,}:")


def streamed_samples(source: RowSource, stack: Stack, seed: int | None, at_once: Mapping[str, Any]) -> Samples:
    """The rows of a source to train a stack on; all its networks see them in the same order.

    Parameters
    ----------
    source : RowSource
    stack : Stack
    seed : int or None
    at_once : mapping
        Arguments of `train` that need all rows at once; none of them may be given.
    """
    refused = [name for name, value in at_once.items() if value is not None]
    if refused:
        raise UsageError(f"{refused[0]} does not go with batches, of whose rows few are in memory at a time")
    rows = StreamedRows(stack, source, seed)
    return Samples(rows, rows.first_row[1], None)  # type: ignore[arg-type]


class StreamedOrder:
    """The order of a source's rows, epoch by epoch.

    Parameters
    ----------
    rows, block : int
    seed : int or None
    """

    def __init__(self, rows: int, block: int, seed: int | None) -> None:
        self.rows, self.block = rows, block
        self.seeds = None if seed is None else np.array([seed & (2**64 - 1)], np.uint64)

    def stretches(self, epoch: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The ranges of rows, (first, end) each, whose blocks come at the positions start … stop − 1."""
        blocks = self._permutation(epoch, -(-self.rows // self.block))
        ends = np.cumsum(np.minimum(self.block, self.rows - blocks * self.block))
        for place in range(int(np.searchsorted(ends, start, side="right")), len(blocks)):
            first = int(blocks[place]) * self.block
            position = int(ends[place]) - min(self.block, self.rows - first)
            if position >= stop:
                return
            yield first + max(0, start - position), first + min(int(ends[place]), stop) - position

    def places(self, epoch: int, window: int, rows: int) -> NDArray[np.int64]:
        """The place of each row in its shuffled window."""
        return self._permutation(epoch + (window + 1 << 32), rows)

    def _permutation(self, counter: int, count: int) -> NDArray[np.int64]:
        places = np.arange(count)
        return places if self.seeds is None else shuffled(places, order_keys(self.seeds, counter)[0], count)


class StreamedData:
    """Data with one window on the device while a thread reads the next; otherwise like `DeviceData`.

    Parameters
    ----------
    backend : Backend
    rows : StreamedRows
    batch_size : int
    """

    resident = False
    places = None

    def __init__(self, backend: Backend, rows: StreamedRows, batch_size: int) -> None:
        self.rows = rows
        self.segment = batch_size * max(1, rows.source.window // batch_size)
        self.order = StreamedOrder(len(rows), min(rows.source.block, self.segment), rows.seed)
        arrays = [backend.empty((1, min(self.segment, len(rows)), *one.shape[1:]), one.dtype) for one in rows.first_row]
        self.device: tuple[Any, ...] = (*arrays, None)
        self._feed = backend.feed(arrays)
        self._thread, self._closed = ThreadPoolExecutor(1, "read-ahead"), False
        self._ahead: tuple[tuple[int, int], Future[int]] | None = None  # (epoch, window), and its number of rows

    def load(self, table: StepTable, start: int, networks: NDArray[np.intp]) -> None:
        """Put the window that begins at position `start` of the epoch on the device, and have the next one read."""
        epoch, window = int(table.first_step[0]) // table.steps, start // self.segment
        if self._ahead is not None and self._ahead[0] != (epoch, window):
            self._ahead[1].exception()  # waits for it; then the thread's buffers are free
            self._ahead = None
        if self._ahead is None:
            self._read_ahead(epoch, window)
        assert self._ahead is not None
        (_, reading), self._ahead = self._ahead, None
        self._feed.take(reading.result())
        last = (window + 1) * self.segment >= len(self.rows)
        self._read_ahead(*((epoch + 1, 0) if last else (epoch, window + 1)))

    def close(self) -> None:
        """Stop reading; wait for the thread, which may be reading a block."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _read_ahead(self, epoch: int, window: int) -> None:
        self._ahead = (epoch, window), self._thread.submit(self._fill, epoch, window)

    def _fill(self, epoch: int, window: int) -> int:
        """Read a window into the feed, in the order in which it is trained on; returns its number of rows."""
        start, stop = window * self.segment, min((window + 1) * self.segment, len(self.rows))
        places, done = self.order.places(epoch, window, stop - start), 0
        for first, end in self.order.stretches(epoch, start, stop):
            if self._closed:
                return done
            where = places[done : done + end - first]
            for host, values in zip(self._feed.host, self.rows.read(first, end), strict=True):
                host[where] = values
            done += end - first
        self._feed.send(stop - start)
        return stop - start
