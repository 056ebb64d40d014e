"""The reference formulas on a GPU with CuPy alone, for comparison and for users' own records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import gcd
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.backends.collectives import GradientSum, Processes
from gpubp.backends.cuda.driver import Driver, GemmSpec, dtype_of
from gpubp.backends.cuda.feed import DeviceFeed
from gpubp.backends.cuda.nccl import nccl_sum
from gpubp.backends.cuda.source import C_TYPES
from gpubp.backends.feeds import Feed
from gpubp.backends.records import TrainingArrays
from gpubp.backends.reference import ReferenceBackend
from gpubp.precision import PRECISIONS

MOVED = 1 << 22  # elements copied at once from one stack to another, through a temporary
LINE = 128  # values; every tensor in θ is a multiple of this


class UnfusedBackend(ReferenceBackend):
    """Each formula as a chain of array operations, each operation a kernel of the array library.

    Parameters
    ----------
    driver : Driver
    precision : str
        A key of `gpubp.precision.PRECISIONS`.
    device : str
        "cuda", "cuda:1" or "cuda-unfused".
    reason : str
        A short reason for the choice of this device.
    """

    name = "cuda-unfused"
    fused = False  # whether steps can be captured
    block = sys.maxsize  # a device has room for whole temporaries, and one launch per block would cost more

    def __init__(self, driver: Driver, precision: str, device: str = "cuda", reason: str = "asked for") -> None:
        types = PRECISIONS[precision]
        super().__init__(np.dtype(types.parameters), reason)
        self.driver, self.xp, self.device, self.precision = driver, driver.xp, device, precision
        self.storage, self.compute = dtype_of(types.storage), types.compute
        self.gemm_table = driver.gemm_table

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return self.driver.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return self.driver.zeros(shape, self.dtype if dtype is None else dtype)

    def free_memory(self) -> float:
        return self.driver.free_memory()

    def from_host(self, array: Any, dtype: Any = None) -> Array:
        if hasattr(array, "__cuda_array_interface__"):  # already on the device
            array = array if dtype is None else array.astype(dtype, copy=False)
            return array if array.flags.c_contiguous else array.copy()  # kernels read contiguous rows
        host = np.asarray(array, dtype)
        return self.driver.to_device(host if host.dtype.name in C_TYPES else host.astype(self.dtype))

    def to_host(self, array: Array) -> Any:
        return self.driver.to_host(array)

    def feed(self, arrays: Sequence[Array]) -> Feed:
        return DeviceFeed(self.driver, arrays)

    def _take(self, source: Array, rows: Array, out: Array) -> None:
        out[...] = source[0][rows] if len(source) == 1 else self.xp.take_along_axis(source, rows, axis=1)

    def assign(self, target: Array, values: Any, who: Any) -> None:
        mask = np.reshape(who, (-1, *(1 for _ in target.shape[1:])))
        self.xp.copyto(target, values, where=self.from_host(mask))

    def copy_networks(self, source: Array, taken: Any, target: Array, places: Any) -> None:
        at_once = max(1, MOVED // source[0].size)
        for start in range(0, len(taken), at_once):
            some = slice(start, start + at_once)
            target[self.from_host(places[some])] = source[self.from_host(taken[some])]

    def finite(self, array: Array) -> Any:
        # The largest and the smallest of many values are finite if all of them are, and need no copy of the array.
        # By lines first: a device reduces many short lines better than a few long ones.
        lines = array.reshape(len(array), -1, gcd(array[0].size, LINE))
        xp = self.xp
        largest, smallest = xp.max(xp.max(lines, axis=2), axis=1), xp.min(xp.min(lines, axis=2), axis=1)
        return self.to_host(xp.isfinite(largest) & xp.isfinite(smallest))

    def matmul(self, a: Array, b: Array, out: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        spec = self._product(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b)
        self.driver.gemm(spec)(a, b, out)

    def computing(self) -> AbstractContextManager[Any]:
        return self.driver.turn()

    def device_sum(self, processes: Processes) -> GradientSum | None:
        return nccl_sum(processes, self.driver, captured=self.fused)

    def training_steps(
        self, step: Callable[[int], None], training: TrainingArrays
    ) -> tuple[str, Callable[[int, int], None]]:
        return self.way, self.capture(step)  # no product runs on the CPU

    def _product(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        epilogue: str = "none",
        bias: Array | None = None,
    ) -> GemmSpec:
        networks, m, n = out.shape
        k = a.shape[1 if transpose_a else 2]
        return GemmSpec(
            networks=networks,
            m=m,
            n=n,
            k=k,
            transpose_a=transpose_a,
            transpose_b=transpose_b,
            a_stride=stride(a),
            b_stride=stride(b),
            out_stride=stride(out),
            in_type=a.dtype.name,
            out_type=out.dtype.name,
            compute=self.compute,
            epilogue=epilogue,
            bias_stride=0 if bias is None else stride(bias),
        )

    def _squared_norm(self, array: Array) -> Array:
        return self.xp.square(array, dtype=self.accumulator).sum(axis=1)


def stride(array: Array) -> int:
    """Elements from one network to the next; 0 if all share one."""
    return 0 if len(array) == 1 else int(array.strides[0] // array.itemsize)


def stride_of(array: Array | None) -> Any:
    """`stride` as a kernel argument; 0 for no array."""
    return np.int64(0 if array is None else stride(array))
