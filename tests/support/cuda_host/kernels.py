"""A kernel's library, and how arguments get into it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from support.cuda_host.arrays import DeviceArray
from support.cuda_host.memory import HostDriverError
from support.cuda_host.streams import Access

if TYPE_CHECKING:
    from support.cuda_host.driver import HostDriver

MAX_THREADS, MAX_GRID = 1024, (2**31 - 1, 65535, 65535)
SCALARS = (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)


class HostKernel:
    """A compiled kernel; called with the arguments of `gpubp.backends.cuda.driver.Kernel`."""

    def __init__(self, driver: HostDriver, name: str, path: Path) -> None:
        # PyDLL keeps Python's lock: the runtime's threads and shared memory exist once.
        library = ctypes.PyDLL(str(path))
        self._launch = library.gpubp_launch
        self._launch.restype = ctypes.c_char_p
        self._launch.argtypes = [
            *(ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_void_p, ctypes.c_ulonglong, ctypes.c_bool),
        ]
        self._driver = driver
        self.name = name
        self.parameters = _parameters(library)
        content = path.read_bytes()  # names the functions of the runtime that it calls
        self._synchronizes = b"host_syncthreads" in content or b"host_meet" in content

    def __call__(self, grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int = 0) -> None:
        self._check_shape(grid, block)
        if len(args) != len(self.parameters):
            raise HostDriverError(f'kernel "{self.name}" has {len(self.parameters)} parameters; given {len(args)}')
        values = (ctypes.c_ulonglong * (len(args) or 1))()
        accesses: list[Access] = []
        for i, (arg, (code, is_pointer, constant)) in enumerate(zip(args, self.parameters, strict=True)):
            what = f'kernel "{self.name}", argument {i}'
            if isinstance(arg, DeviceArray):
                _check_array(what, arg, code, is_pointer)
                accesses.append(Access(what, arg, writes=not constant))
                values[i] = arg.pointer(what).address
            else:
                values[i] = _scalar_bits(what, arg, code, is_pointer)
        extent = (ctypes.c_uint * 3)(*grid)

        def run() -> None:
            first = ctypes.addressof(values)
            addresses = (ctypes.c_void_p * len(values))(*range(first, first + 8 * len(values), 8))
            seed = self._driver.seed + self._driver.launches
            fault = self._launch(extent, block, shared, addresses, seed, self._synchronizes)
            if fault is not None:
                raise HostDriverError(f'kernel "{self.name}", grid {grid}, block {block}: {fault.decode()}')

        self._driver.launch(accesses, run)

    def _check_shape(self, grid: tuple[int, int, int], block: int) -> None:
        if not 0 < block <= MAX_THREADS:
            raise HostDriverError(f'kernel "{self.name}": blocks of {block} threads; a device takes 1 to {MAX_THREADS}')
        if len(grid) != 3 or not all(0 < n <= most for n, most in zip(grid, MAX_GRID, strict=True)):
            raise HostDriverError(f'kernel "{self.name}": a grid of {grid}; a device takes 1 to {MAX_GRID}')


def _parameters(library: ctypes.PyDLL) -> list[tuple[str, bool, bool]]:
    """Of each parameter, what it is or points to (`HostType` in host.hpp), whether it points, and to what is const."""
    ask = library.gpubp_parameter
    ask.restype = ctypes.c_char_p
    ask.argtypes = [ctypes.c_uint, *[ctypes.POINTER(ctypes.c_bool)] * 2]
    is_pointer, constant, parameters = ctypes.c_bool(), ctypes.c_bool(), []
    while (code := ask(len(parameters), ctypes.byref(is_pointer), ctypes.byref(constant))) is not None:
        parameters.append((code.decode(), is_pointer.value, constant.value))
    return parameters


def _check_array(what: str, array: DeviceArray, code: str, is_pointer: bool) -> None:
    if not is_pointer:
        raise HostDriverError(f"{what} is an array; the parameter is a number ({code})")
    kind, size = code[0], code[1:]
    if code == "?":
        return  # a vector, a struct or void
    given = {"b": "u", "V": "b"}.get(array.dtype.kind, array.dtype.kind)
    same_kind = given == kind or {given, kind} == {"i", "u"}
    if not same_kind or array.itemsize != int(size):
        raise HostDriverError(f"{what} is an array of {array.dtype}; the parameter points to {code}")


def _scalar_bits(what: str, value: Any, code: str, is_pointer: bool) -> int:
    if not isinstance(value, SCALARS):
        names = ", ".join(scalar.__name__ for scalar in SCALARS)
        raise TypeError(f"{what} is {value!r} of {type(value).__name__}; use a device array or one of NumPy's {names}")
    given = f"{value.dtype.kind}{value.dtype.itemsize}"
    if is_pointer and given == "u8" and value == 0:
        return 0  # a null pointer
    if is_pointer or given.replace("u", "i") != code.replace("u", "i"):
        raise HostDriverError(f"{what} is {value!r} ({given}); the parameter is {'a pointer to ' * is_pointer}{code}")
    return int.from_bytes(value.tobytes(), "little")
