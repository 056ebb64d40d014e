"""The matrix products of `GemmSpec`, as cuBLASLt computes them, on NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.backends.cuda.driver import EPILOGUES, TYPES, GemmSpec
from support.cuda_host.arrays import DeviceArray
from support.cuda_host.memory import HostDriverError, Pointer


def type_named(name: str) -> np.dtype[Any]:
    """The dtype of one of `GemmSpec`'s type names."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def to_tf32(x: Any) -> Any:
    """float32 rounded to 10 bits of fraction, to nearest even; what is not finite stays as it is."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded.view(np.float32), x)


def matrices(pointer: Pointer, networks: int, rows: int, columns: int, stride: int, dtype: np.dtype[Any]) -> Any:
    """(networks, rows, columns) of the memory from the pointer on."""
    memory = pointer.allocation()
    offset = pointer.address - memory.start
    end = offset + ((networks - 1) * stride + rows * columns) * dtype.itemsize
    if end > memory.bytes.size:
        raise HostDriverError(
            f"{pointer.what}: {networks} matrices of {rows} x {columns} {dtype}, {stride} elements apart, end at byte "
            f"{end} of an allocation of {memory.bytes.size}"
        )
    strides = (stride * dtype.itemsize, columns * dtype.itemsize, dtype.itemsize)
    return np.ndarray((networks, rows, columns), dtype, memory.bytes, offset, strides)


class HostProduct:
    """One prepared product."""

    def __init__(self, spec: GemmSpec) -> None:
        if spec.epilogue not in EPILOGUES or (spec.in_type, spec.out_type) not in TYPES:
            raise HostDriverError(f"gemm: cuBLASLt has no product of these types with this epilogue: {spec}")
        self.spec = spec
        self.in_type, self.out_type = type_named(spec.in_type), type_named(spec.out_type)
        self.accumulator = np.dtype(np.float64 if spec.compute == "float64" else np.float32)

    def check(self, **arrays: DeviceArray | None) -> None:
        """Whether the arrays have the spec's types, and a bias is there exactly where the epilogue adds one."""
        if (arrays["bias"] is not None) != self.spec.adds_bias:
            raise HostDriverError(f'gemm: bias={arrays["bias"]} with the epilogue "{self.spec.epilogue}"')
        for what, array in arrays.items():
            dtype = self.in_type if what in ("a", "b") else self.out_type
            if array is not None and array.dtype != dtype:
                raise HostDriverError(f"gemm: {what} is {array.dtype}, not {dtype} as its spec says: {self.spec}")
        if self.spec.networks > 1 and self.spec.out_stride < self.spec.m * self.spec.n:
            raise HostDriverError(f"gemm: the networks' out are {self.spec.out_stride} elements apart and overlap")

    def run(self, a: Pointer, b: Pointer, out: Pointer, bias: Pointer | None = None) -> None:
        """out = op(a) op(b), with the epilogue."""
        s = self.spec
        A = matrices(a, s.networks, *((s.k, s.m) if s.transpose_a else (s.m, s.k)), s.a_stride, self.in_type)
        B = matrices(b, s.networks, *((s.n, s.k) if s.transpose_b else (s.k, s.n)), s.b_stride, self.in_type)
        C = matrices(out, s.networks, s.m, s.n, s.out_stride, self.out_type)
        if np.may_share_memory(A, C) or np.may_share_memory(B, C):
            raise HostDriverError("gemm: out shares memory with an operand")
        with np.errstate(all="ignore"):
            product = self._operand(A, s.transpose_a) @ self._operand(B, s.transpose_b)
            if bias is not None:
                product += matrices(bias, s.networks, 1, s.n, s.bias_stride, self.out_type).astype(self.accumulator)
            if s.epilogue == "relu_bias":
                np.maximum(product, 0, out=product)
            C[...] = product

    def _operand(self, matrix: Any, transpose: bool) -> Any:
        matrix = matrix.astype(self.accumulator, order="C")
        if self.spec.compute == "tf32":
            matrix = to_tf32(matrix)
        return matrix.swapaxes(-1, -2) if transpose else matrix
