"""cuBLASLt through ctypes: the functions that products need, with the numbers and widths of their arguments.

Everything here is public interface, declared in `cublasLt.h`, `cublas_api.h` and `library_types.h` of CUDA 13, and
unchanged since CUDA 12.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import (
    CDLL,
    Structure,
    addressof,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from enum import Enum
from functools import cache
from typing import Any

OLDEST = 120000  # the version in CUDA 12.0, the first whose algorithms have all of `AlgorithmAttribute`

SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15  # cublasStatus_t
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType_t
COMPUTE_TYPES = {"float32": 68, "float64": 70, "tf32": 77}  # cublasComputeType_t: 32F, 64F, 32F_FAST_TF32
EPILOGUES = {"none": 1, "bias": 4, "relu_bias": 6}  # cublasLtEpilogue_t: DEFAULT, BIAS, RELU_BIAS
REDUCE_IN_COMPUTE_TYPE = 2  # cublasLtReductionScheme_t


class Attribute(Enum):
    """An attribute of a cuBLASLt object: its number, and the C type of its value."""

    number: int
    ctype: Any

    def __init__(self, number: int, ctype: Any) -> None:
        self.number, self.ctype = number, ctype


class OperationAttribute(Attribute):
    """The cublasLtMatmulDescAttributes_t that are set."""

    TRANSA = 3, c_int32
    TRANSB = 4, c_int32
    EPILOGUE = 7, c_uint32
    BIAS_POINTER = 8, c_void_p
    BIAS_BATCH_STRIDE = 10, c_int64


class LayoutAttribute(Attribute):
    """The cublasLtMatrixLayoutAttribute_t that are set."""

    BATCH_COUNT = 5, c_int32
    STRIDED_BATCH_OFFSET = 6, c_int64


class PreferenceAttribute(Attribute):
    """The cublasLtMatmulPreferenceAttributes_t that are set."""

    MAX_WORKSPACE_BYTES = 1, c_uint64
    REDUCTION_SCHEME_MASK = 3, c_uint32
    MIN_ALIGNMENT_A_BYTES = 5, c_uint32
    MIN_ALIGNMENT_B_BYTES = 6, c_uint32
    MIN_ALIGNMENT_C_BYTES = 7, c_uint32
    MIN_ALIGNMENT_D_BYTES = 8, c_uint32


class AlgorithmAttribute(Attribute):
    """cublasLtMatmulAlgoConfigAttributes_t, all of them."""

    ID = 0, c_int32
    TILE_ID = 1, c_uint32
    SPLITK_NUM = 2, c_int32
    REDUCTION_SCHEME = 3, c_uint32
    CTA_SWIZZLING = 4, c_uint32
    CUSTOM_OPTION = 5, c_uint32
    STAGES_ID = 6, c_uint32
    INNER_SHAPE_ID = 7, c_uint16
    CLUSTER_SHAPE_ID = 8, c_uint16


OpaqueAlgorithm = c_uint64 * 8  # cublasLtMatmulAlgo_t


class HeuristicResult(Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm that cuBLASLt proposes; `state` is a status."""

    _fields_ = (
        ("algo", OpaqueAlgorithm),
        ("workspaceSize", c_size_t),
        ("state", c_int),
        ("wavesCount", c_float),
        ("reserved", c_int * 4),
    )


# The parameters of the functions that return a status. Handles, descriptors, arrays and the stream are pointers.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (c_void_p,),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatmulDescSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatrixLayoutSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (c_void_p, c_int, c_void_p, c_size_t),
    # handle, operation, layouts of A, B, C and D, preference, wanted, results, returned
    "cublasLtMatmulAlgoGetHeuristic": (*(c_void_p,) * 7, c_int, c_void_p, c_void_p),
    "cublasLtMatmulAlgoConfigGetAttribute": (c_void_p, c_int, c_void_p, c_size_t, c_void_p),
    # handle, operation, alpha, A and B with their layouts, beta, C and D with theirs, algorithm,
    # workspace and its size, stream
    "cublasLtMatmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}


class CublasLtError(Exception):
    """cuBLASLt refused a call.

    Attributes
    ----------
    status : int
        cublasStatus_t.
    """

    def __init__(self, function: str, status: int, name: str) -> None:
        super().__init__(f"{function}: {name}")
        self.status = status


class CublasLtLibrary:
    """The library's functions. They take and return numbers: handles and descriptors are addresses.

    Parameters
    ----------
    library : ctypes.CDLL

    Attributes
    ----------
    version : int
        130100 is 13.1.0.

    Raises
    ------
    ImportError
        If the version is too old.
    AttributeError
        If a function is missing.
    """

    def __init__(self, library: Any) -> None:
        library.cublasLtGetVersion.argtypes, library.cublasLtGetVersion.restype = (), c_size_t
        self.version: int = library.cublasLtGetVersion()
        if self.version < OLDEST:
            raise ImportError(f"cuBLASLt {self.version} is too old; {OLDEST} is the oldest that has all that is used")
        library.cublasLtGetStatusName.argtypes, library.cublasLtGetStatusName.restype = (c_int,), c_char_p
        for name, parameters in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = parameters, c_int
        self._library = library

    def create(self) -> int:
        """A handle for the current device."""
        return self._created("cublasLtCreate")

    def create_operation(self, compute: str, scale: str) -> int:
        """The descriptor of a product: how it is computed, and the type of α and β."""
        return self._created("cublasLtMatmulDescCreate", COMPUTE_TYPES[compute], DATA_TYPES[scale])

    def destroy_operation(self, operation: int) -> None:
        """Free it."""
        self._call("cublasLtMatmulDescDestroy", operation)

    def set_operation(self, operation: int, attribute: OperationAttribute, value: int) -> None:
        """Set an attribute of a product."""
        self._set("cublasLtMatmulDescSetAttribute", operation, attribute, value)

    def create_layout(self, data_type: str, rows: int, columns: int, leading_dimension: int) -> int:
        """The descriptor of a column-major matrix."""
        return self._created("cublasLtMatrixLayoutCreate", DATA_TYPES[data_type], rows, columns, leading_dimension)

    def destroy_layout(self, layout: int) -> None:
        """Free it."""
        self._call("cublasLtMatrixLayoutDestroy", layout)

    def set_layout(self, layout: int, attribute: LayoutAttribute, value: int) -> None:
        """Set an attribute of a matrix."""
        self._set("cublasLtMatrixLayoutSetAttribute", layout, attribute, value)

    def create_preference(self) -> int:
        """The descriptor of the preferences for algorithms."""
        return self._created("cublasLtMatmulPreferenceCreate")

    def destroy_preference(self, preference: int) -> None:
        """Free it."""
        self._call("cublasLtMatmulPreferenceDestroy", preference)

    def set_preference(self, preference: int, attribute: PreferenceAttribute, value: int) -> None:
        """Set an attribute of the preferences for algorithms."""
        self._set("cublasLtMatmulPreferenceSetAttribute", preference, attribute, value)

    def propose(self, handle: int, operation: int, layouts: tuple[int, ...], preference: int, most: int) -> list[Any]:
        """Up to `most` algorithms for a product, cuBLASLt's first choice first; empty if it has none.

        Parameters
        ----------
        handle, operation, preference : int
        layouts : tuple of 4 int
            Of A, B, C and D.
        most : int
            How many to ask for.

        Returns
        -------
        list of OpaqueAlgorithm
        """
        results, returned = (HeuristicResult * most)(), c_int()
        arguments = (handle, operation, *layouts, preference, most, addressof(results), addressof(returned))
        try:
            self._call("cublasLtMatmulAlgoGetHeuristic", *arguments)
        except CublasLtError as error:
            if error.status != NOT_SUPPORTED:
                raise
        usable = (result for result in results[: returned.value] if result.state == SUCCESS)
        return [OpaqueAlgorithm(*result.algo) for result in usable]

    def algorithm_attribute(self, algorithm: Any, attribute: AlgorithmAttribute) -> int:
        """One number of an algorithm's configuration."""
        value, written = attribute.ctype(), c_size_t()
        arguments = (addressof(algorithm), attribute.number, addressof(value), sizeof(value), addressof(written))
        self._call("cublasLtMatmulAlgoConfigGetAttribute", *arguments)
        return int(value.value)

    def matmul(
        self,
        handle: int,
        operation: int,
        scales: tuple[int, int],
        operands: tuple[tuple[int, int], ...],
        algorithm: Any,
        workspace: tuple[int, int],
        stream: int,
    ) -> None:
        """Launch D = α op(A) op(B) + β C, then the epilogue.

        Parameters
        ----------
        handle, operation : int
        scales : tuple of 2 int
            Addresses on the host of α and β.
        operands : tuple of 4 tuples (int, int)
            The device address and the layout of A, B, C and D.
        algorithm : OpaqueAlgorithm
        workspace : tuple (int, int)
            Address on the device, and bytes.
        stream : int
        """
        (alpha, beta), (a, b, c, d) = scales, operands
        arguments = (handle, operation, alpha, *a, *b, beta, *c, *d, addressof(algorithm), *workspace, stream)
        self._call("cublasLtMatmul", *arguments)

    # -- pieces ---------------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: int) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != SUCCESS:
            raise CublasLtError(name, status, self._library.cublasLtGetStatusName(status).decode())

    def _created(self, name: str, *arguments: int) -> int:
        """The object that a function creates and stores where its first argument points."""
        created = c_void_p()
        self._call(name, addressof(created), *arguments)
        return int(created.value or 0)

    def _set(self, name: str, descriptor: int, attribute: Attribute, value: int) -> None:
        content = attribute.ctype(value)
        self._call(name, descriptor, attribute.number, addressof(content), sizeof(content))


@cache
def load_cublaslt() -> CublasLtLibrary:
    """The installed library, found as CuPy finds it and loaded once.

    Raises
    ------
    ImportError
        If it cannot be found, loaded or used; the message says why.
    """
    load = _pathfinder()
    try:
        return CublasLtLibrary(CDLL(load("cublasLt").abs_path))
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ImportError(f"cuBLASLt cannot be loaded: {type(error).__name__}: {error}") from error


def _pathfinder() -> Callable[[str], Any]:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except (ImportError, AttributeError) as error:
        raise ImportError(f"cuda-pathfinder, which comes with CuPy, cannot be imported: {error}") from error
    find: Callable[[str], Any] = load_nvidia_dynamic_lib
    return find
