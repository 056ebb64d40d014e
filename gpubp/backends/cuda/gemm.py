"""Matrix products of stacks through cuBLASLt; graphs can capture them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from gpubp._typing import Array
from gpubp.backends.cuda.cublaslt import (
    EPILOGUES,
    INVALID_VALUE,
    NOT_SUPPORTED,
    REDUCE_IN_COMPUTE_TYPE,
    CublasLtError,
    CublasLtLibrary,
    LayoutAttribute,
    OperationAttribute,
    PreferenceAttribute,
)
from gpubp.backends.cuda.driver import GemmSpec, NoAlgorithmError
from gpubp.backends.cuda.gemm_table import Algorithm, GemmTable, configuration

# `with at_work("doing this"):` makes the device current and raises its faults as DeviceError.
AtWork: TypeAlias = Callable[[str], AbstractContextManager[None]]

PROPOSALS = 8  # by cuBLASLt for a product, among which a table chooses
ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@cache
def handle_of(library: CublasLtLibrary, device: int) -> int:
    """cuBLASLt's handle for the current device.

    It is never destroyed: that waits for the device, and would break a capture if the garbage collector did it then.
    """
    return library.create()


def workspace_size(compute_capability: tuple[int, int]) -> int:
    """Bytes that an algorithm may use: what cuBLAS recommends, but fixed, since the choice depends on it."""
    return (32 if compute_capability >= (9, 0) else 4) << 20


@dataclass(frozen=True, slots=True)
class StreamWorkspace:
    """A stream, and the workspace of its products: they run in order, so one workspace serves them all."""

    stream: Any
    workspace: Array


@dataclass(frozen=True, slots=True)
class CublasLt:
    """The data that a device's products share.

    Attributes
    ----------
    library : CublasLtLibrary
    handle : int
    workspace_size : int
        Bytes.
    current : callable
        ``current()`` is the stream in which products are launched now.
    device : str
        The device's name, for messages.
    at_work : callable
        Makes the device current.
    table : GemmTable
        The algorithms that the user tuned.
    """

    library: CublasLtLibrary
    handle: int
    workspace_size: int
    current: Callable[[], StreamWorkspace]
    device: str
    at_work: AtWork
    table: GemmTable


class LtGemm:
    """A product through cuBLASLt.

    cuBLASLt uses column-major matrices, where row-major ones appear transposed. So it is asked for outᵀ = op(b)ᵀ
    op(a)ᵀ: its A is our b, its B our a, and a bias has an element for each of its rows, as its epilogues require.

    Parameters
    ----------
    context : CublasLt
    spec : GemmSpec
    wanted : Algorithm or None
        The algorithm to use. With None, or one that cuBLASLt does not propose for the operands, its first proposal is
        used.
    """

    def __init__(self, context: CublasLt, spec: GemmSpec, wanted: Algorithm | None = None) -> None:
        library = context.library
        self._context = context
        self._spec = spec
        self._wanted = wanted
        self._name = str(spec)
        self._algorithms: dict[tuple[int, ...], Any] = {}
        self._owned = ExitStack()
        weakref.finalize(self, self._owned.close)  # descriptors are on the host: any moment will do

        scale = "float64" if spec.compute == "float64" else "float32"
        self._one, self._zero = np.ones(1, scale), np.zeros(1, scale)  # α and β, read at every call
        self._operation = library.create_operation(spec.compute, scale)
        self._owned.callback(library.destroy_operation, self._operation)
        self._describe(OperationAttribute.TRANSA, int(spec.transpose_b))
        self._describe(OperationAttribute.TRANSB, int(spec.transpose_a))
        self._describe(OperationAttribute.EPILOGUE, EPILOGUES[spec.epilogue])
        self._describe(OperationAttribute.BIAS_BATCH_STRIDE, spec.bias_stride)
        self._a = self._layout(spec.in_type, _stored(spec.m, spec.k, spec.transpose_a), spec.a_stride)
        self._b = self._layout(spec.in_type, _stored(spec.k, spec.n, spec.transpose_b), spec.b_stride)
        self._out = self._layout(spec.out_type, (spec.m, spec.n), spec.out_stride)

    @property
    def usable(self) -> bool:
        """Whether there is an algorithm for some of the operands that it was called with."""
        return any(algorithm is not None for algorithm in self._algorithms.values())

    def __call__(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> None:
        with self._context.at_work(self._name):
            pointers = _pointers(a, b, out, bias)
            alignments = self._alignments(*pointers)
            if alignments not in self._algorithms:
                self._algorithms[alignments] = self._choose(alignments, pointers)
            algorithm = self._algorithms[alignments]
            if algorithm is not None and not self._launch(algorithm, pointers):
                algorithm = self._algorithms[alignments] = None
            if algorithm is None:
                raise NoAlgorithmError(
                    f"{self._name}: cuBLASLt has no algorithm for this on {self._context.device}; use another "
                    "precision, or update the nvidia-cublas package"
                )

    def proposals(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> list[Algorithm]:
        """cuBLASLt's proposals for operands aligned like these, its first choice first."""
        with self._context.at_work(self._name):
            pointers = _pointers(a, b, out, bias)
            proposals = self._propose(PROPOSALS, self._alignments(*pointers), pointers)
            # Those with the same configuration count as one, the first, which is the one that `_choose` finds.
            return list(dict.fromkeys(configuration(self._context.library, each) for each in proposals))

    def _layout(self, data_type: str, shape: tuple[int, int], stride: int) -> int:
        """A row-major matrix (rows, columns), described as the column-major (columns, rows) that it also is."""
        library, (rows, columns) = self._context.library, shape
        layout = library.create_layout(data_type, columns, rows, columns)
        self._owned.callback(library.destroy_layout, layout)
        library.set_layout(layout, LayoutAttribute.BATCH_COUNT, self._spec.networks)
        library.set_layout(layout, LayoutAttribute.STRIDED_BATCH_OFFSET, stride)
        return layout

    def _describe(self, attribute: OperationAttribute, value: int) -> None:
        self._context.library.set_operation(self._operation, attribute, value)

    def _launch(self, algorithm: Any, pointers: tuple[int, ...]) -> bool:
        """Launch the product; False if the library refuses because it lacks the epilogue."""
        context, current, (a, b, out, bias) = self._context, self._context.current(), pointers
        if bias:
            self._describe(OperationAttribute.BIAS_POINTER, bias)
        try:
            context.library.matmul(
                handle=context.handle,
                operation=self._operation,
                scales=(self._one.ctypes.data, self._zero.ctypes.data),
                operands=((b, self._b), (a, self._a), (out, self._out), (out, self._out)),
                algorithm=algorithm,
                workspace=(current.workspace.data.ptr, context.workspace_size),
                stream=current.stream.ptr,
            )
        except CublasLtError as error:
            if not self._lacks_epilogue(error):
                raise
            return False
        return True

    def _lacks_epilogue(self, error: CublasLtError) -> bool:
        """Whether an error may mean a missing epilogue, which is no fault: a kernel applies it instead."""
        return self._spec.epilogue != "none" and error.status in (INVALID_VALUE, NOT_SUPPORTED)

    def _choose(self, alignments: tuple[int, ...], pointers: tuple[int, ...]) -> Any:
        """An algorithm for operands whose addresses have these alignments; None if there is none."""
        try:
            proposals = self._propose(1 if self._wanted is None else PROPOSALS, alignments, pointers)
        except CublasLtError as error:
            if not self._lacks_epilogue(error):
                raise
            return None
        for proposed in proposals if self._wanted is not None else ():
            if configuration(self._context.library, proposed) == self._wanted:
                return proposed
        return proposals[0] if proposals else None

    def _alignments(self, a: int, b: int, out: int, bias: int) -> tuple[int, ...]:
        spec = self._spec
        size, out_size = ITEMSIZE[spec.in_type], ITEMSIZE[spec.out_type]
        return (
            self._alignment(a, spec.a_stride * size),
            self._alignment(b, spec.b_stride * size),
            self._alignment(out, spec.out_stride * out_size),
            self._alignment(bias, spec.bias_stride * out_size),
        )

    def _alignment(self, address: int, stride: int) -> int:
        """The largest power of two, at most 256, that divides each network's address."""
        addresses = address | 256 | (stride if self._spec.networks > 1 else 0)
        return addresses & -addresses

    def _propose(self, most: int, alignments: tuple[int, ...], pointers: tuple[int, ...]) -> list[Any]:
        """cuBLASLt's algorithms for operands with these alignments, the best by its estimate first."""
        context, library, spec = self._context, self._context.library, self._spec
        a, b, out, _ = alignments
        *_, bias = pointers
        if bias:  # it examines the bias's address
            biases = (bias, bias + spec.bias_stride * ITEMSIZE[spec.out_type]) if spec.networks > 1 else (bias,)
            least_aligned = min(biases, key=lambda address: self._alignment(address, 0))
            self._describe(OperationAttribute.BIAS_POINTER, least_aligned)
        with ExitStack() as owned:
            preference = library.create_preference()
            owned.callback(library.destroy_preference, preference)
            for attribute, value in (
                (PreferenceAttribute.MAX_WORKSPACE_BYTES, context.workspace_size),
                # If a sum is split, its parts are combined in one fixed order and in the compute type, not in the
                # output, where they would be rounded to its type and added in any order.
                (PreferenceAttribute.REDUCTION_SCHEME_MASK, REDUCE_IN_COMPUTE_TYPE),
                (PreferenceAttribute.MIN_ALIGNMENT_A_BYTES, b),
                (PreferenceAttribute.MIN_ALIGNMENT_B_BYTES, a),
                (PreferenceAttribute.MIN_ALIGNMENT_C_BYTES, out),
                (PreferenceAttribute.MIN_ALIGNMENT_D_BYTES, out),
            ):
                library.set_preference(preference, attribute, value)
            layouts = (self._b, self._a, self._out, self._out)
            return library.propose(context.handle, self._operation, layouts, preference, most)


def _pointers(*arrays: Array | None) -> tuple[int, ...]:
    """Addresses, 0 for none."""
    return tuple(0 if array is None else array.data.ptr for array in arrays)


def _stored(rows: int, columns: int, transpose: bool) -> tuple[int, int]:
    """The stored shape of an operand that op turns into (rows, columns)."""
    return (columns, rows) if transpose else (rows, columns)
