"""Matrix products of stacks: through cuBLASLt, which a graph can capture, or through CuPy's own, which it cannot."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from gpubp._typing import Array
from gpubp.backends.cuda.driver import GemmSpec, dtype_of
from gpubp.backends.cuda.gemm_table import Algorithm, GemmTable, configuration
from gpubp.errors import DeviceError

# `with at_work("doing this"):` makes the device current and raises its faults as DeviceError.
AtWork: TypeAlias = Callable[[str], AbstractContextManager[None]]

DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType_t
COMPUTE_TYPES = {"float32": 68, "float64": 70, "tf32": 77}  # cublasComputeType_t: 32F, 64F, 32F_FAST_TF32
NOT_SUPPORTED = 15  # cublasStatus_t
PROPOSALS = 8  # of cuBLASLt for a product, from which a table chooses
EPILOGUES = {"none": "DEFAULT", "bias": "BIAS", "relu_bias": "RELU_BIAS"}
ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@cache
def handle_of(bindings: Any, device: int) -> int:
    """cuBLASLt's handle for a device, which is current.

    It is never destroyed: that waits for the device, and would break a capture if the garbage collector chose
    such a moment for it.
    """
    handle: int = bindings.create()
    return handle


def workspace_size(compute_capability: tuple[int, int]) -> int:
    """Bytes that an algorithm may use: what cuBLAS recommends, and fixed, since the choice depends on it."""
    return (32 if compute_capability >= (9, 0) else 4) << 20


@dataclass(frozen=True, slots=True)
class CublasLt:
    """What the products of one stream share. They run one after the other, so one workspace serves them all.

    Attributes
    ----------
    bindings : module
        ``nvmath.bindings.cublasLt``.
    handle : int
    workspace : array of uint8
    stream : int
        The stream's pointer.
    device : str
        The device's name, for messages.
    at_work : callable
        Makes the device current.
    table : GemmTable
        What the user had tuned.
    """

    bindings: Any
    handle: int
    workspace: Array
    stream: int
    device: str
    at_work: AtWork
    table: GemmTable


class LtGemm:
    """A product through cuBLASLt.

    cuBLASLt counts in column-major matrices, in which row-major ones lie transposed. So it is asked for
    outᵀ = op(b)ᵀ op(a)ᵀ: its A is our b, its B our a, and a bias has an element for each of its rows, as its
    epilogues want it.

    Parameters
    ----------
    context : CublasLt
    spec : GemmSpec
    wanted : Algorithm or None
        By which algorithm. None, or one that cuBLASLt does not propose for the operands: its first proposal.
    """

    def __init__(self, context: CublasLt, spec: GemmSpec, wanted: Algorithm | None = None) -> None:
        lt = context.bindings
        self._context = context
        self._spec = spec
        self._wanted = wanted
        self._name = str(spec)
        self._algorithms: dict[tuple[int, ...], Array] = {}
        self._owned = ExitStack()
        weakref.finalize(self, self._owned.close)  # descriptors live on the host: any moment will do

        scale = "float64" if spec.compute == "float64" else "float32"
        self._one, self._zero = np.ones(1, scale), np.zeros(1, scale)  # α and β, read at every call
        self._operation = lt.matmul_desc_create(COMPUTE_TYPES[spec.compute], DATA_TYPES[scale])
        self._owned.callback(lt.matmul_desc_destroy, self._operation)
        attributes = lt.MatmulDescAttribute
        self._describe(attributes.TRANSA, int(spec.transpose_b))
        self._describe(attributes.TRANSB, int(spec.transpose_a))
        self._describe(attributes.EPILOGUE, int(lt.Epilogue[EPILOGUES[spec.epilogue]]))
        self._describe(attributes.BIAS_BATCH_STRIDE, spec.bias_stride)
        self._a = self._layout(spec.in_type, _stored(spec.m, spec.k, spec.transpose_a), spec.a_stride)
        self._b = self._layout(spec.in_type, _stored(spec.k, spec.n, spec.transpose_b), spec.b_stride)
        self._out = self._layout(spec.out_type, (spec.m, spec.n), spec.out_stride)

    def __call__(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> None:
        context, lt = self._context, self._context.bindings
        with context.at_work(self._name):
            bias_pointer = 0 if bias is None else bias.data.ptr
            algorithm = self._algorithm(a.data.ptr, b.data.ptr, out.data.ptr, bias_pointer)
            if bias_pointer:
                self._describe(lt.MatmulDescAttribute.BIAS_POINTER, bias_pointer)
            lt.matmul(
                context.handle,
                self._operation,
                self._one.ctypes.data,
                b.data.ptr,
                self._b,
                a.data.ptr,
                self._a,
                self._zero.ctypes.data,
                out.data.ptr,
                self._out,
                out.data.ptr,
                self._out,
                algorithm.ctypes.data,
                context.workspace.data.ptr,
                context.workspace.nbytes,
                context.stream,
            )

    def proposals(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> list[Algorithm]:
        """What cuBLASLt proposes for operands that lie as these do, its first choice first."""
        with self._context.at_work(self._name):
            pointers = (a.data.ptr, b.data.ptr, out.data.ptr, 0 if bias is None else bias.data.ptr)
            proposals = self._propose(PROPOSALS, self._alignments(*pointers), pointers[3])
            # Those that are configured alike count as one, the first, which is what `_choose` finds.
            return list(dict.fromkeys(configuration(self._context.bindings, each) for each in proposals))

    def _layout(self, data_type: str, shape: tuple[int, int], stride: int) -> int:
        """A row-major matrix (rows, columns) as the column-major (columns, rows) that it is too."""
        lt = self._context.bindings
        rows, columns = shape
        layout: int = lt.matrix_layout_create(DATA_TYPES[data_type], columns, rows, columns)
        self._owned.callback(lt.matrix_layout_destroy, layout)
        attributes = lt.MatrixLayoutAttribute
        for name, value in ((attributes.BATCH_COUNT, self._spec.networks), (attributes.STRIDED_BATCH_OFFSET, stride)):
            dtype = lt.get_matrix_layout_attribute_dtype(int(name))
            _put(lt.matrix_layout_set_attribute, layout, name, dtype, value)
        return layout

    def _describe(self, name: Any, value: int) -> None:
        lt = self._context.bindings
        dtype = lt.get_matmul_desc_attribute_dtype(int(name))
        _put(lt.matmul_desc_set_attribute, self._operation, name, dtype, value)

    def _algorithm(self, a: int, b: int, out: int, bias: int) -> Array:
        """The choice for operands whose addresses are divisible by as much as these."""
        alignments = self._alignments(a, b, out, bias)
        if alignments not in self._algorithms:
            self._algorithms[alignments] = self._choose(alignments, bias)
        return self._algorithms[alignments]

    def _choose(self, alignments: tuple[int, ...], bias: int) -> Array:
        if self._wanted is None:
            return self._propose(1, alignments, bias)[0]
        proposals, lt = self._propose(PROPOSALS, alignments, bias), self._context.bindings
        return next((each for each in proposals if configuration(lt, each) == self._wanted), proposals[0])

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

    def _propose(self, most: int, alignments: tuple[int, ...], bias: int) -> list[Array]:
        """cuBLASLt's algorithms for operands aligned so, the best by its estimate first; one at least."""
        context, lt, spec = self._context, self._context.bindings, self._spec
        limits = lt.MatmulPreferenceAttribute
        a, b, out, _ = alignments
        results = np.zeros(most, lt.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        if bias:  # of which it looks at the address
            biases = (bias, bias + spec.bias_stride * ITEMSIZE[spec.out_type]) if spec.networks > 1 else (bias,)
            least_aligned = min(biases, key=lambda address: self._alignment(address, 0))
            self._describe(lt.MatmulDescAttribute.BIAS_POINTER, least_aligned)
        with ExitStack() as owned:
            preference = lt.matmul_preference_create()
            owned.callback(lt.matmul_preference_destroy, preference)
            for name, value in (
                (limits.MAX_WORKSPACE_BYTES, context.workspace.nbytes),
                # Where a sum is split, its parts are put together in one fixed order and in the compute type.
                # Not in the output: there they would be rounded to its type, and added as they come.
                (limits.REDUCTION_SCHEME_MASK, int(lt.ReductionScheme.COMPUTE_TYPE)),
                (limits.MIN_ALIGNMENT_A_BYTES, b),
                (limits.MIN_ALIGNMENT_B_BYTES, a),
                (limits.MIN_ALIGNMENT_C_BYTES, out),
                (limits.MIN_ALIGNMENT_D_BYTES, out),
            ):
                dtype = lt.get_matmul_preference_attribute_dtype(int(name))
                _put(lt.matmul_preference_set_attribute, preference, name, dtype, value)
            try:
                lt.matmul_algo_get_heuristic(
                    context.handle,
                    self._operation,
                    self._b,
                    self._a,
                    self._out,
                    self._out,
                    preference,
                    most,
                    results.ctypes.data,
                    count.ctypes.data,
                )
            except lt.cuBLASLtError as error:
                if error.status != NOT_SUPPORTED:
                    raise
        usable = [results["algo"][i : i + 1].copy() for i in range(count[0]) if results["state"][i] == 0]
        if not usable:
            raise DeviceError(
                f"{self._name}: cuBLASLt has no algorithm for this on {context.device}; use another precision, "
                "or update the nvidia-cublas package"
            )
        return usable


class EagerGemm:
    """A product through CuPy, one network after the other: for machines without nvmath-python.

    Sums are rounded to the type of the output before a bias is added. Where the output is wider than the
    inputs, these are widened first.

    Parameters
    ----------
    cupy : module
    spec : GemmSpec
    at_work : callable
        Makes the device current, and the stream.
    """

    def __init__(self, cupy: Any, spec: GemmSpec, at_work: AtWork) -> None:
        self._cupy = cupy
        self._spec = spec
        self._name = str(spec)
        self._at_work = at_work

    def __call__(self, a: Array, b: Array, out: Array, bias: Array | None = None) -> None:
        spec, cupy = self._spec, self._cupy
        with self._at_work(self._name), _computing_in(spec.compute):
            for network in range(spec.networks):
                left = self._operand(a, network * spec.a_stride, (spec.m, spec.k), spec.transpose_a)
                right = self._operand(b, network * spec.b_stride, (spec.k, spec.n), spec.transpose_b)
                result = self._view(out, network * spec.out_stride, (spec.m, spec.n), spec.out_type)
                cupy.matmul(left, right, out=result)
                if bias is not None:
                    result += self._view(bias, network * spec.bias_stride, (spec.n,), spec.out_type)
                if spec.epilogue == "relu_bias":
                    cupy.maximum(result, 0, out=result)

    def _operand(self, array: Array, offset: int, shape: tuple[int, int], transpose: bool) -> Array:
        stored = self._view(array, offset, _stored(*shape, transpose), self._spec.in_type)
        if self._spec.out_type != self._spec.in_type:
            stored = stored.astype(self._spec.out_type)
        return stored.T if transpose else stored

    def _view(self, array: Array, offset: int, shape: tuple[int, ...], dtype: str) -> Array:
        """The matrix that starts `offset` elements after the array's first."""
        return self._cupy.ndarray(shape, dtype_of(dtype), memptr=array.data + offset * ITEMSIZE[dtype])


def _computing_in(compute: str) -> AbstractContextManager[Any]:
    """CuPy multiplies float32 in TF32 inside, or in IEEE arithmetic, whatever CUPY_TF32 says."""
    from cupy._core import _routines_linalg as routines

    restored = ExitStack()
    restored.callback(routines.set_compute_type, np.float32, routines.get_compute_type(np.float32))
    wanted = routines.COMPUTE_TYPE_TF32 if compute == "tf32" else routines.COMPUTE_TYPE_DEFAULT
    routines.set_compute_type(np.float32, wanted)
    return restored


def _stored(rows: int, columns: int, transpose: bool) -> tuple[int, int]:
    """The shape in memory of an operand that op makes (rows, columns)."""
    return (columns, rows) if transpose else (rows, columns)


def _put(setter: Callable[..., None], descriptor: int, name: Any, dtype: Any, value: int) -> None:
    buffer = np.array([value], dtype)
    setter(descriptor, int(name), buffer.ctypes.data, buffer.nbytes)
