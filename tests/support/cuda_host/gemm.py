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
        self.written = {"out"} | ({"bias"} if spec.sums_bias else set())
        self.written |= {"signs"} if spec.epilogue == "relu_aux_bias" else set()
        if spec.has_signs and (spec.signs_stride % 128 or spec.signs_row < spec.n):
            raise HostDriverError(f"gemm: rows of signs do not begin at multiples of 128 bits: {spec}")
        least = 2 if spec.epilogue in ("drelu", "drelu_bgrad", "bgrad") else 1
        if spec.k < least:
            raise HostDriverError(f"gemm: cuBLASLt has no such epilogue for sums of a single term: {spec}")

    def check(self, **arrays: DeviceArray | None) -> None:
        """Whether the arrays have the spec's types; bias and signs are there exactly where the epilogue has them."""
        spec = self.spec
        for what, wanted in (("bias", spec.adds_bias or spec.sums_bias), ("signs", spec.has_signs)):
            if (arrays[what] is not None) != wanted:
                raise HostDriverError(f'gemm: {what}={arrays[what]} with the epilogue "{spec.epilogue}"')
        types = {"a": self.in_type, "b": self.in_type, "signs": np.uint8}
        for what, array in arrays.items():
            dtype = types.get(what, self.out_type)
            if array is not None and array.dtype != dtype:
                raise HostDriverError(f"gemm: {what} is {array.dtype}, not {dtype} as its spec says: {self.spec}")
        if self.spec.networks > 1 and self.spec.out_stride < self.spec.m * self.spec.n:
            raise HostDriverError(f"gemm: the networks' out are {self.spec.out_stride} elements apart and overlap")

    def run(
        self, a: Pointer, b: Pointer, out: Pointer, bias: Pointer | None = None, signs: Pointer | None = None
    ) -> None:
        """out = op(a) op(b), with the epilogue."""
        s = self.spec
        A = matrices(a, s.networks, *((s.k, s.m) if s.transpose_a else (s.m, s.k)), s.a_stride, self.in_type)
        B = matrices(b, s.networks, *((s.n, s.k) if s.transpose_b else (s.k, s.n)), s.b_stride, self.in_type)
        C = matrices(out, s.networks, s.m, s.n, s.out_stride, self.out_type)
        if np.may_share_memory(A, C) or np.may_share_memory(B, C):
            raise HostDriverError("gemm: out shares memory with an operand")
        with np.errstate(all="ignore"):
            product = self._operand(A, s.transpose_a) @ self._operand(B, s.transpose_b)
            vector = None if bias is None else matrices(bias, s.networks, 1, s.n, s.bias_stride, self.out_type)
            if s.adds_bias:
                product += vector.astype(self.accumulator)
            if signs is not None:
                self._signs(product, signs)
            if s.epilogue in ("relu_bias", "relu_aux_bias"):
                np.maximum(product, 0, out=product)
            C[...] = product
            if s.sums_bias:
                summed = product if s.epilogue == "drelu_bgrad" else self._operand(B, s.transpose_b)
                vector[...] = summed.sum(axis=1, keepdims=True)

    def _signs(self, product: Any, signs: Pointer) -> None:
        """Keep the signs of a product, or set to 0 where they are not positive. Their order in a row is arbitrary."""
        s = self.spec
        rows = matrices(signs, s.networks, s.m, s.signs_row // 8, s.signs_stride // 8, np.dtype(np.uint8))
        if s.epilogue == "relu_aux_bias":
            bits = np.ones((*product.shape[:2], s.signs_row), np.bool_)  # also of what is no element
            bits[..., : s.n] = product > 0
            rows[...] = np.packbits(bits, axis=2)
        else:
            product[np.unpackbits(rows, axis=2, count=s.n) == 0] = 0

    def _operand(self, matrix: Any, transpose: bool) -> Any:
        matrix = matrix.astype(self.accumulator, order="C")
        if self.spec.compute == "tf32":
            matrix = to_tf32(matrix)
        return matrix.swapaxes(-1, -2) if transpose else matrix
