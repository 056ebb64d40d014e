"""Kernels launched before the previous one has ended (programmatic dependent launches), through ctypes.

A kernel's launch takes microseconds, as long as a small kernel runs. On devices of compute capability 9.0 and later it
can overlap with the previous kernel: the new kernel itself waits, with `wait_for_last_kernel` of kernels/common.cuh,
where it needs what that one wrote. CuPy has no such launch; everything here is public interface, declared in `cuda.h`
of CUDA 12 and 13.
"""

from __future__ import annotations

import os
from ctypes import CDLL, POINTER, Structure, byref, c_char_p, c_int, c_uint, c_void_p, pointer
from typing import Any

import numpy as np

CAPABILITY = (9, 0)  # the lowest of devices with such launches
PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID


class LaunchAttribute(Structure):
    """CUlaunchAttribute with an int value."""

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
    """A function of the CUDA driver failed; the text names the status."""


class DependentLaunch:
    """Launches kernels that need not wait for the preceding kernel to end.

    Parameters
    ----------
    library : ctypes.CDLL
        The CUDA driver.
    """

    def __init__(self, library: CDLL) -> None:
        self._launch, self._name = library.cuLaunchKernelEx, library.cuGetErrorName
        self._launch.argtypes = [POINTER(LaunchConfig), c_void_p, POINTER(c_void_p), c_void_p]
        self._name.argtypes = [c_int, POINTER(c_char_p)]
        self._launch.restype = self._name.restype = c_int

    def __call__(
        self, function: int, stream: int, grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int
    ) -> None:
        """Launch a kernel into a stream whose last work is also a kernel.

        Parameters
        ----------
        function, stream : int
            CUfunction and CUstream.
        grid, block, args, shared
            As in `gpubp.backends.cuda.driver.Kernel`.

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
    """The library of the installed NVIDIA driver; raises OSError if there is none."""
    return CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
