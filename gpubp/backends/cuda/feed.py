"""Transfer of rows to a device during training: page-locked memory, and a stream for copies."""

from __future__ import annotations

from collections.abc import Sequence

from gpubp._typing import Array
from gpubp.backends.cuda.driver import Driver


class DeviceFeed:
    """The feed of arrays on a device: page-locked memory, a stream for copies, and a second buffer on the device.

    The addresses of arrays are part of a captured step, so rows that were sent are copied into them on the device,
    which takes microseconds; the transfer from the host overlaps with training.

    Parameters
    ----------
    driver : Driver
    arrays : sequence of arrays
    """

    def __init__(self, driver: Driver, arrays: Sequence[Array]) -> None:
        self.driver, self.arrays = driver, arrays
        self.host = tuple(driver.pinned(array.shape[1:], array.dtype) for array in arrays)
        self._ahead = [driver.empty(array.shape, array.dtype) for array in arrays]
        self._taken = driver.mark()

    def send(self, rows: int) -> None:
        for host, ahead in zip(self.host, self._ahead, strict=True):
            self.driver.copy_beside(host[:rows], ahead[0, :rows], self._taken)

    def take(self, rows: int) -> None:
        for array, ahead in zip(self.arrays, self._ahead, strict=True):
            array[0, :rows] = ahead[0, :rows]
        self._taken = self.driver.mark()
