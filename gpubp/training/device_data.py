"""Where the rows of a training are: all of them on the device, or as many at a time as fit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import Backend
from gpubp.checks import SparseRows
from gpubp.training.step_table import StepTable

_DENSE = 1 << 24  # bytes of a sparse matrix's rows made dense at a time


class DeviceData:
    """The data set as `Backend.gather` reads it.

    If it does not fit on the device, an epoch is cut into segments of whole batches. The host arranges a segment's rows
    in the order in which they will be used and copies them; gather then takes them in sequence, so a step is the same
    function in either case.

    Parameters
    ----------
    backend : Backend
    host : tuple of arrays, SparseRows or None
        X (m, n_0), y (m,) or (m, n_L), and the sample weights (K or 1, m).
    batch_size : int
    orders : int
        1 if all networks see the rows in the same order, otherwise K.
    free : float
        Bytes of the device that the data may take.

    Attributes
    ----------
    device : tuple of arrays or None
        The arrays that gather reads, (K or 1, m, …).
    segment : int
        Rows per order that are on the device at a time; more than there are rows if all are.
    places : (orders, segment) int or None
        Where the rows of a segment are in `device`, if networks have orders of their own.
    """

    def __init__(self, backend: Backend, host: tuple[Any, ...], batch_size: int, orders: int, free: float) -> None:
        self.backend, self.host = backend, host
        m, size = len(host[0]), sum(x.nbytes for x in host if isinstance(x, (np.ndarray, SparseRows)))
        if any(isinstance(array, SparseRows) for array in host):
            free = min(free, _DENSE)
        self.resident = size <= free
        self.device: tuple[Any, ...]
        self.places: NDArray[np.int64] | None
        if self.resident:
            self.segment, self.places = sys.maxsize, None
            X, y, weight = host
            X = X[:] if isinstance(X, SparseRows) else X
            # A copy of the weights, in which networks can be moved.
            on_device = None if weight is None else backend.from_host(weight.copy())
            self.device = backend.from_host(X)[None], backend.from_host(y)[None], on_device
        else:
            # A segment exists twice while it is copied.
            self.segment = batch_size * max(1, int(free / 2 / (size / m * batch_size * orders)))
            samples = [None if rows is None else backend.from_host(rows[:1]) for rows in self._sources(0)]
            self.device = tuple(
                None if one is None else backend.empty((1, orders * self.segment, *one.shape[1:]), one.dtype)
                for one in samples
            )
            places = np.arange(orders * self.segment).reshape(orders, self.segment)
            self.places = places if orders > 1 else None

    def load(self, table: StepTable, start: int, networks: NDArray[np.intp]) -> None:
        """Copy the segment of these networks that begins at position `start` of the epoch."""
        order = table.rows(start, start + self.segment)
        # Networks with weights of their own have a segment each, even if they share an order.
        for place, k in enumerate(networks.tolist() if self.places is not None else [0]):
            rows, first = order[k if len(order) > 1 else 0], place * self.segment
            for source, out in zip(self._sources(k), self.device, strict=True):
                if source is not None and out is not None:
                    out[0, first : first + len(rows)] = self.backend.from_host(source[rows])

    def close(self) -> None:
        """There is nothing to wait for."""

    def _sources(self, k: int) -> tuple[Any, ...]:
        """X, y and the weights of network k."""
        X, y, weight = self.host
        return X, y, weight if weight is None else weight[k if len(weight) > 1 else 0]
