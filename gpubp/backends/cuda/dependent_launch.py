"""Kernels that are launched before the one before them has ended (programmatic dependent launches), by ctypes.

A kernel's launch takes microseconds, as long as a small kernel runs. On devices of compute capability 9.0 and later it
can happen while the kernel before it still runs: the kernel waits by itself, by `wait_for_last_kernel` of
kernels/common.cuh, where it needs what that one wrote. CuPy has no such launch; all of this is public interface, as
`cuda.h` of CUDA 12 and 13 declares it.
"""

from __future__ import annotations

import os
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_int, c_uint, c_void_p, pointer
from typing import Any

import numpy as np

CAPABILITY = (9, 0)  # the least of a device that has such launches
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID


class LaunchAttribute(Structure):
    """CUlaunchAttribute, of an attribute whose value is an int."""

    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_int), ("others", c_int * 15)]


class LaunchConfig(Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", POINTER(LaunchAttribute)),
        ("attribute_count", c_uint),
    ]


class CudaDriverError(RuntimeError):
    """A function of the CUDA driver failed; the text has the status's name."""


class DependentLaunch:
    """The launch of kernels that need not wait for the launch of what they follow.

    Parameters
    ----------
    library : ctypes.CDLL
        The CUDA driver's.
    """

    def __init__(self, library: CDLL) -> None:
        self._launch, self._name = library.cuLaunchKernelEx, library.cuGetErrorName
        self._launch.argtypes = [POINTER(LaunchConfig), c_void_p, POINTER(c_void_p), c_void_p]
        self._name.argtypes = [c_int, POINTER(c_char_p)]
        self._launch.restype = self._name.restype = c_int

    def __call__(
        self, function: int, stream: int, grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int
    ) -> None:
        """Launch a kernel into a stream whose last work is a kernel too.

        Parameters
        ----------
        function, stream : int
            CUfunction and CUstream.
        grid, block, args, shared
            As `gpubp.backends.cuda.driver.Kernel` has them.

        Raises
        ------
        CudaDriverError
        """
        values = [np.array(arg if isinstance(arg, np.generic) else arg.data.ptr) for arg in args]
        places = (c_void_p * len(values))(*(value.ctypes.data for value in values))
        early = LaunchAttribute(id=PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        config = LaunchConfig((*grid,), (block, 1, 1), shared, stream, pointer(early), 1)
        if status := self._launch(byref(config), function, places, None):
            name = c_char_p()
            self._name(status, byref(name))
            raise CudaDriverError(f"cuLaunchKernelEx: {(name.value or b'').decode() or status}")


def cuda_driver() -> CDLL:
    """The library of the installed NVIDIA driver; OSError where there is none."""
    return CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
