"""Rows that a user's function regenerates in place before each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import Backend
from gpubp.checks import SparseRows
from gpubp.errors import DataError, DeviceError, UsageError
from gpubp.training.device_data import DeviceData
from gpubp.training.samples import Samples
from gpubp.training.streaming import StreamedData

Augment = Callable[[Any, Any, int], Any]


def checked_augment(augment: Any, samples: Samples) -> str:
    """The name of the function that augments rows; refused if it is not callable, or if the rows are sparse."""
    if not callable(augment):
        raise UsageError(f"augment={augment!r} does not fit; give a function of (xp, X, epoch) that returns rows")
    if isinstance(samples.X, SparseRows):
        raise UsageError("augment does not go with sparse rows; give them as an array, X[:]")
    return str(getattr(augment, "__qualname__", type(augment).__name__))


class Augmentation:
    """Fills the rows on the device before an epoch, and keeps the originals next to them.

    Parameters
    ----------
    augment : callable
        As `gpubp.train` takes it.
    backend : Backend
    X : (m, n_0) array
        In the network's type, on the host.
    data : DeviceData
        The rows that are trained on, in memory of their own.

    Raises
    ------
    DeviceError
        If the device has no room for all rows.
    """

    def __init__(self, augment: Augment, backend: Backend, X: NDArray[Any], data: DeviceData | StreamedData) -> None:
        if not data.resident or X.nbytes > backend.free_memory():
            size = f"{X.nbytes / 2**20:,.0f} MiB"
            raise DeviceError(
                f"augment needs all rows twice on {backend.device}, {size} each, and there is less memory; augment "
                "them in a data set that is given as batches, or use another device"
            )
        self.augment, self.backend = augment, backend
        self.original, self.rows = backend.from_host(X), data.device[0][0]

    def begin_epoch(self, epoch: int) -> None:
        """Make the rows of this epoch.

        Raises
        ------
        UsageError
            If the function does not return an array on this device with the rows' shape.
        DataError
            If the array has a number that is not finite.
        """
        xp = self.backend.xp
        augmented = self.augment(xp, self.original.copy(), epoch)
        if not isinstance(augmented, xp.ndarray):
            where = "" if xp.ndarray is np.ndarray else f" of {self.backend.device}; compute with xp, not with NumPy"
            raise UsageError(
                f"augment returns a {type(augmented).__module__}.{type(augmented).__name__}, not an array{where}"
            )
        if augmented.shape != self.original.shape:
            raise UsageError(f"augment returns shape {augmented.shape} for rows of shape {self.original.shape}")
        if not bool(xp.isfinite(augmented).all()):
            raise DataError(f"augment: returns a number that is not finite, for epoch {epoch} (the first is 0)")
        self.rows[...] = augmented
