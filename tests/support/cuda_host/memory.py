"""Memory that stands for a device's: filled with poison, and between guard zones."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

ALIGNMENT = 512  # of every allocation, as CuPy's pool has it
GUARD_BYTES = 256  # on either side of one
GUARDS_AT_ONCE = 256


class HostDriverError(RuntimeError):
    """What would be undefined, hang or fail on a device."""


class Device:
    """What allocations, arrays and the driver share.

    Attributes
    ----------
    capturing : bool
        Whether launches are being recorded.
    settle : callable
        Finishes all that was launched, as work outside the driver's streams waits for.
    """

    def __init__(self) -> None:
        self.capturing = False
        self.settle: Callable[[], None] = lambda: None
        self._random = np.random.default_rng(0)
        self._guards: list[bytes] = []

    def check(self, what: str) -> None:
        """Called before what is impossible while launches are recorded."""
        if self.capturing:
            raise HostDriverError(f"{what} during a capture: only kernels and GEMMs may be launched there")

    def work(self, what: str) -> None:
        """Called before anything that a device would have to do at once, after all that was launched."""
        self.check(what)
        self.settle()

    def guard(self) -> bytes:
        """A guard zone's content: NaN in every floating type, another one everywhere, so that no copy passes for it."""
        try:
            return self._guards.pop()
        except IndexError:  # many are drawn at once, as every operation on arrays asks for one
            words = self._random.integers(0xFF81, 0xFFC0, (GUARDS_AT_ONCE, GUARD_BYTES // 2), np.uint16)
            words[:, 3::4] |= 0x70  # the upper words of float64
            *self._guards, guard = (guard.tobytes() for guard in words)
            return guard


class Allocation:
    """`nbytes` bytes, and a guard zone on either side.

    Attributes
    ----------
    bytes : (nbytes,) uint8 array
    """

    __slots__ = ("__weakref__", "_after", "_before", "_guard", "bytes", "device", "start")

    def __init__(self, device: Device, nbytes: int) -> None:
        device.check("an allocation")
        raw = np.empty(nbytes + 2 * GUARD_BYTES + ALIGNMENT, np.uint8)
        address = raw.__array_interface__["data"][0]
        first = GUARD_BYTES + -(address + GUARD_BYTES) % ALIGNMENT
        self.device = device
        self.bytes = raw[first : first + nbytes]
        self.start = address + first
        self._before = raw[first - GUARD_BYTES : first]
        self._after = raw[first + nbytes : first + nbytes + GUARD_BYTES]
        self._guard = device.guard()
        self._before[:] = self._after[:] = np.frombuffer(self._guard, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The bytes as an array."""
        return self.bytes.view(dtype).reshape(shape)

    def damage(self) -> str:
        """Which guard zone was written, or nothing."""
        if self._before.tobytes() != self._guard:
            return f"the memory before its {self.bytes.size} bytes"
        if self._after.tobytes() != self._guard:
            return f"the memory behind its {self.bytes.size} bytes"
        return ""


class Pointer:
    """An address as a launch keeps it: it does not keep the memory alive."""

    __slots__ = ("_allocation", "address", "what")

    def __init__(self, what: str, allocation: Allocation, address: int) -> None:
        self.what = what
        self.address = address
        self._allocation = weakref.ref(allocation)

    def allocation(self) -> Allocation:
        """Where it points to."""
        allocation = self._allocation()
        if allocation is None:
            raise HostDriverError(f"{self.what} was freed between its capture and this replay")
        return allocation


def poison(array: Any) -> None:
    """Fill with what shows when it is read: NaN, or integers far outside any range."""
    if array.dtype.kind in "fcV":  # V: bfloat16
        array[...] = np.nan
    elif array.dtype.kind == "b":
        array[...] = True
    else:
        array[...] = np.iinfo(array.dtype).max // 2
