"""The few calls through which the CUDA backend reaches a device.

There are two drivers: CuPy with cuBLASLt on a GPU, and one in the tests that runs the same kernel sources on
the host. Everything above them uses only these protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpubp._typing import Array, Namespace
from gpubp.errors import DeviceError

EPILOGUES = ("none", "bias", "relu_bias")

# Input and output types of a product, from cuBLASLt's table of data types. That table has every epilogue for each of
# them, with a bias of the output's type.
TYPES = (
    ("float64", "float64"),
    ("float32", "float32"),
    ("float16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "bfloat16"),
    ("bfloat16", "float32"),
)


def dtype_of(name: str) -> Any:
    """A dtype from its name; NumPy itself has no bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Source(Protocol):
    """The whole text of one kernel; `gpubp.backends.cuda.source` assembles it."""

    @property
    def name(self) -> str:
        """The name of the one ``extern "C"`` kernel in it."""

    @property
    def text(self) -> str:
        """CUDA C++ that includes none of our files."""

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options besides those of every kernel."""


class Kernel(Protocol):
    """A compiled kernel, launched on the driver's stream."""

    def __call__(self, grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int = 0) -> None:
        """Launch it.

        Parameters
        ----------
        grid : tuple of 3 int
            Blocks along x, y and z.
        block : int
            Threads of a block, along x.
        args : tuple
            Arrays, whose pointers are passed, and np.int32, np.int64, np.float32 or np.float64 scalars.
        shared : int
            Bytes of dynamic shared memory of a block, besides what the kernel declares with a size.
        """


class Gemm(Protocol):
    """One matrix product, prepared for its shapes and layouts."""

    def __call__(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> None:
        """out = op(a) op(b), then the epilogue, for every network, launched on the driver's stream.

        Only the pointers to the arrays' first elements are used; shapes and strides are the spec's. The bias is given
        if the epilogue adds one. If there is no algorithm for it, NoAlgorithmError is raised and nothing is launched,
        every time that operands have this alignment.
        """


@dataclass(frozen=True, slots=True)
class GemmSpec:
    """The product of two row-major matrices for each of K networks.

    Per network, out (m, n) = op(a) (m, k) op(b) (k, n); rows are contiguous and follow each other without
    gaps. So a is stored as (m, k), or as (k, m) if it is transposed, and b likewise.

    Attributes
    ----------
    networks : int
        K.
    m, n, k : int
    transpose_a, transpose_b : bool
        Whether op is the transpose.
    a_stride, b_stride, out_stride : int
        Elements from one network's matrix to the next one's; 0 if all networks share it.
    in_type : {"float64", "float32", "float16", "bfloat16"}
        Of a and b.
    out_type : same names
        Of out: in_type, or float32 if in_type has 16 bits.
    compute : {"float64", "float32", "tf32"}
        How products are multiplied and summed.
    epilogue : one of EPILOGUES
        Applied to a sum x before it is rounded to out_type: x, x + bias, or max(x + bias, 0).
    bias_stride : int
        Elements from one network's bias (n,) to the next one's. A bias is of out_type: cuBLASLt takes no other.
    """

    networks: int
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    a_stride: int
    b_stride: int
    out_stride: int
    in_type: str
    out_type: str
    compute: str
    epilogue: str = "none"
    bias_stride: int = 0

    @property
    def adds_bias(self) -> bool:
        """Whether it reads a bias."""
        return self.epilogue in ("bias", "relu_bias")

    def __str__(self) -> str:
        a = f"{self.m} x {self.k}{' transposed' if self.transpose_a else ''}"
        b = f"{self.k} x {self.n}{' transposed' if self.transpose_b else ''}"
        types = f"{self.in_type} to {self.out_type} in {self.compute}"
        return f"product of {self.networks} x ({a}) ({b}), {types}, epilogue {self.epilogue}"


class OutOfDeviceMemoryError(DeviceError):
    """The device has no room for an array.

    Attributes
    ----------
    asked, free : int
        Bytes.
    """

    def __init__(self, message: str, *, asked: int, free: int) -> None:
        super().__init__(message)
        self.asked = asked
        self.free = free


class NoAlgorithmError(DeviceError):
    """The library of matrix products has no algorithm for operands with this layout and alignment."""


class Driver(Protocol):
    """A device, and how to run something on it. Work goes to one stream, in order, except what is launched aside."""

    xp: Namespace
    name: str  # the product's
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int  # the most bytes that a block may request
    gemm_table: str | None  # the hash of the user's table by which `gemm` chooses algorithms, if there is one

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array on the device; contents undefined."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of zeros on the device."""

    def to_device(self, host: Any) -> Array:
        """A copy of a host array on the device."""

    def to_host(self, array: Array) -> Any:
        """A NumPy array of the same values, once all work so far is done."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array on the host, page-locked, from which `copy_beside` copies; contents undefined."""

    def mark(self) -> Any:
        """A marker for the moment when all work so far is done."""

    def copy_beside(self, host: Any, out: Array, after: Any) -> None:
        """out = host, a `pinned` array of its shape and type, after that moment and concurrently with all other work.

        Call it from a separate thread; it returns when the copy is done.
        """

    def free_memory(self) -> int:
        """Bytes that `empty` can still allocate."""

    def kernel(self, source: Source) -> Kernel:
        """The compiled kernel; the same text is compiled once."""

    def gemm(self, spec: GemmSpec) -> Gemm:
        """The prepared product; the same spec is prepared once."""

    def turn(self) -> AbstractContextManager[Any]:
        """A context for operations that belong together because they share streams and scratch: other threads wait.

        Inside, the device is the thread's current one. A thread may enter it again.
        """

    def aside(self) -> AbstractContextManager[None]:
        """What is launched inside runs after all work so far, and beside what is launched later, until `join`.

        Allocations, copies, waiting and the end of a capture also join it, and collectives.
        """

    def join(self) -> None:
        """Make what is launched from now on run after everything launched aside."""

    def has_nccl(self) -> bool:
        """Whether NCCL is available to add up arrays over several devices."""

    def collective(self, array: Array) -> AbstractContextManager[Any]:
        """The stream in which another library adds up an array over several devices, in place.

        What it launches there runs after all work so far, and concurrently with what is launched later, until
        `join_collectives`; several of them run in order. They can be captured.
        """

    def join_collectives(self) -> None:
        """Make what is launched from now on run after all sums over several devices."""

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture what `run` launches; returns a function that replays it.

        Call `run` once before, outside a capture, to compile kernels and choose algorithms. Inside, it may only call
        kernels and products; allocation, copies and array arithmetic are errors there.
        """

    def synchronize(self) -> None:
        """Wait until all work so far is done."""
