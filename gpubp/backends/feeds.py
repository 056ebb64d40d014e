"""Transfer of rows to the device while it trains on others: from one thread to another, through separate buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array


class Feed(Protocol):
    """Fills some arrays on the device, (1, n, …) each, from a thread that reads ahead.

    Attributes
    ----------
    host : tuple of (n, …) arrays
        Buffers for that thread to fill.
    """

    host: tuple[NDArray[Any], ...]

    def send(self, rows: int) -> None:
        """In that thread: transfer the first rows of `host`; then they may be overwritten, but not sent again."""

    def take(self, rows: int) -> None:
        """In the training thread: put the rows sent into the arrays, after all work so far."""


class HostFeed:
    """The feed of arrays on the host.

    Parameters
    ----------
    arrays : sequence of arrays
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.host = tuple(np.empty(array.shape[1:], array.dtype) for array in arrays)

    def send(self, rows: int) -> None:
        """Do nothing: the rows are already in host memory."""

    def take(self, rows: int) -> None:
        for array, host in zip(self.arrays, self.host, strict=True):
            array[0, :rows] = host[:rows]
