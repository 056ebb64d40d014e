"""Stand-ins for CuPy and for nvmath's cuBLASLt bindings. They compute on the host, and keep what they were asked.

The one for cuBLASLt takes nothing on trust: it finds matrices through pointers, in column-major order, from the
descriptors alone, and refuses operands that are not aligned as was promised when it chose an algorithm.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpubp.backends.cuda.gemm_table import ATTRIBUTES

# -- CuPy ----------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where a call into the CUDA runtime fails."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises where its pool cannot grow."""


class CompileException(Exception):  # noqa: N818, as CuPy calls it
    """What CuPy raises where NVRTC finds a mistake."""


class DynamicLibNotFoundError(RuntimeError):
    """What nvmath raises where a library of the toolkit is not there."""


DynamicLibNotFoundError.__module__ = "cuda.pathfinder._dynamic_libs.load_dl_common"
CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"
OutOfMemoryError.__module__ = "cupy.cuda.memory"
CompileException.__module__ = "cupy.cuda.compiler"


class Pointer(SimpleNamespace):
    """CuPy's MemoryPointer."""

    def __add__(self, offset: int) -> Pointer:
        return Pointer(ptr=self.ptr + offset)


class Array(np.ndarray[Any, Any]):
    """An array on the "device"."""

    @property
    def data(self) -> Any:
        return Pointer(ptr=self.ctypes.data)


def zeros(shape: Any, dtype: Any, offset: int = 0) -> Any:
    """An array that starts `offset` bytes after a multiple of 512, as CuPy's memory does."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 1024, np.uint8)
    start = -memory.ctypes.data % 512 + offset
    return memory[start : start + size].view(dtype).reshape(shape).view(Array)


def array(values: Any, order: str = "C") -> Any:
    copy = zeros(np.shape(values), np.asarray(values).dtype)
    copy[...] = values
    return copy


def at_pointer(shape: tuple[int, ...], dtype: Any, memptr: Pointer) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(memptr.ptr), dtype).reshape(shape).view(Array)


class Device:
    """cupy.cuda.Device: entered again and again."""

    current: list[int] = []
    used = 0

    def __init__(self, cupy: CupyStub, index: int) -> None:
        self.cupy, self.index = cupy, index

    def use(self) -> None:
        Device.used = self.index

    def __enter__(self) -> None:
        self.cupy.call("Device")
        Device.current.append(self.index)

    def __exit__(self, *error: Any) -> None:
        Device.current.pop()


class Stream:
    """cupy.cuda.Stream."""

    current: list[Any] = []

    def __init__(self, cupy: CupyStub, non_blocking: bool) -> None:
        cupy.call("Stream")
        self.cupy, self.non_blocking, self.ptr, self.capturing = cupy, non_blocking, 7, False
        self.captured: list[Callable[[], None]] = []
        cupy.stream = self

    def __enter__(self) -> None:
        Stream.current.append(self)

    def __exit__(self, *error: Any) -> None:
        Stream.current.pop()

    def begin_capture(self, mode: int) -> None:
        self.cupy.call("begin_capture")
        self.capturing, self.captured = True, []

    def end_capture(self) -> Any:
        assert self.capturing
        self.capturing = False
        self.cupy.call("end_capture")
        captured = self.captured

        def launch(stream: Stream) -> None:
            assert stream is self and Device.current
            self.cupy.call("launch of a graph")
            for work in captured:
                work()

        return SimpleNamespace(launch=launch)

    def send(self, work: Callable[[], None]) -> None:
        """Done at once, or while a capture goes on, when its graph is launched."""
        if self.capturing:
            self.captured.append(work)
        else:
            work()

    def synchronize(self) -> None:
        self.cupy.call("synchronize")


class CupyStub(ModuleType):
    """CuPy with one device.

    `faults` maps the name of a call to what it raises; every call's name is logged. `kernels` maps the name of a
    kernel to what it does.
    """

    def __init__(self, faults: dict[str, Exception] | None = None, capability: tuple[int, int] = (9, 0)) -> None:
        super().__init__("cupy")
        self.faults = faults or {}
        self.log: list[str] = []
        self.sources: list[str] = []
        self.kernels: dict[str, Callable[..., None]] = {"probe": _probe}
        self.stream: Any = None
        properties = {"name": b"GPU X", "major": capability[0], "minor": capability[1], "multiProcessorCount": 4}
        runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, streamCaptureModeRelaxed=2)
        answers = {"driverGetVersion": 13000, "getDeviceCount": 1, "memGetInfo": (3 << 20, 8 << 30)}
        for name, answer in {**answers, "getDeviceProperties": properties}.items():
            setattr(runtime, name, self.answering(name, answer))
        self.cuda = SimpleNamespace(
            Device=lambda index: Device(self, index),
            Stream=lambda non_blocking: Stream(self, non_blocking),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=runtime,
        )
        self.compute_type, self.compute_types = 99, []
        self._core = ModuleType("cupy._core")
        self._core._routines_linalg = SimpleNamespace(  # type: ignore[attr-defined]
            COMPUTE_TYPE_DEFAULT=1,
            COMPUTE_TYPE_TF32=7,
            get_compute_type=lambda dtype: self.compute_type,
            set_compute_type=lambda dtype, value: setattr(self, "compute_type", value),
        )
        self.empty = self.zeros = self.in_stream("allocation", zeros)
        self.array, self.asnumpy = self.in_stream("copy", array), self.in_stream("copy", np.array)
        self.ndarray, self.maximum = at_pointer, np.maximum
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 1 << 20)

    def call(self, name: str) -> None:
        self.log.append(name)
        if name in self.faults:
            raise self.faults[name]

    def answering(self, name: str, answer: Any) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            self.call(name)
            return answer

        return function

    def in_stream(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self.call(name)
            assert Device.current and Stream.current[-1] is self.stream
            return function(*arguments, **named)

        return called

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        assert Device.current and Stream.current[-1] is self.stream
        self.call("matmul")
        assert a.dtype == b.dtype == out.dtype  # CuPy would round to the inputs' type on its way to another
        self.compute_types.append(self.compute_type)
        wide = np.float64 if a.dtype == np.float64 else np.float32
        out[...] = (a.astype(wide) @ b.astype(wide)).astype(a.dtype)

    def RawModule(self, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802
        assert Device.current and backend == "nvrtc" and "-std=c++17" in options
        self.sources.append(code)

        def get_function(name: str) -> Any:
            self.call("compile")

            def launch(grid: Any, block: Any, args: Any) -> None:
                assert Device.current and Stream.current[-1] is self.stream and len(block) == 1
                self.call(f"launch of {name}")
                self.kernels[name](grid, block, args)

            return launch

        return SimpleNamespace(get_function=get_function)


def _probe(grid: Any, block: Any, args: Any) -> None:
    args[0].reshape(-1)[: args[1]] += 1


# -- cuBLASLt ------------------------------------------------------------------------------------------


class cuBLASLtError(Exception):  # noqa: N801, N818, as nvmath calls it
    """What nvmath raises where cuBLASLt returns a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"CUBLAS_STATUS_{status}")
        self.status = status


cuBLASLtError.__module__ = "nvmath.bindings.cublasLt"

BITS = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16)}  # cudaDataType_t, and 14 below
ENUMS: dict[str, dict[str, int]] = {
    "MatmulDescAttribute": {"TRANSA": 3, "TRANSB": 4, "EPILOGUE": 7, "BIAS_POINTER": 8, "BIAS_BATCH_STRIDE": 10},
    "MatrixLayoutAttribute": {"BATCH_COUNT": 5, "STRIDED_BATCH_OFFSET": 6},
    "MatmulPreferenceAttribute": {
        "MAX_WORKSPACE_BYTES": 1,
        "REDUCTION_SCHEME_MASK": 3,
        "MIN_ALIGNMENT_A_BYTES": 5,
        "MIN_ALIGNMENT_B_BYTES": 6,
        "MIN_ALIGNMENT_C_BYTES": 7,
        "MIN_ALIGNMENT_D_BYTES": 8,
    },
    "MatmulAlgoConfigAttribute": {name: value for value, name in enumerate(ATTRIBUTES)},
    "ReductionScheme": {"NONE": 0, "INPLACE": 1, "COMPUTE_TYPE": 2, "OUTPUT_TYPE": 4},
    "Epilogue": {"DEFAULT": 1, "BIAS": 4, "RELU_BIAS": 6},
}
DTYPES: dict[str, dict[str, Any]] = {
    "get_matmul_desc_attribute_dtype": {
        "TRANSA": np.int32,
        "TRANSB": np.int32,
        "EPILOGUE": np.uint32,
        "BIAS_POINTER": np.int64,
        "BIAS_BATCH_STRIDE": np.int64,
    },
    "get_matrix_layout_attribute_dtype": {"BATCH_COUNT": np.int32, "STRIDED_BATCH_OFFSET": np.int64},
    "get_matmul_preference_attribute_dtype": {
        "MAX_WORKSPACE_BYTES": np.uint64,
        **dict.fromkeys(list(ENUMS["MatmulPreferenceAttribute"])[1:], np.uint32),
    },
    "get_matmul_algo_config_attribute_dtype": {
        **dict.fromkeys(ATTRIBUTES, np.uint32),
        **dict.fromkeys(("ID", "SPLITK_NUM"), np.int32),
        **dict.fromkeys(("INNER_SHAPE_ID", "CLUSTER_SHAPE_ID"), np.uint16),
    },
}


@dataclass
class LtAlgorithm:
    """One that the stand-in proposes: its configuration, the seconds of a product by it, and what is wrong with it.

    Results are multiplied by `factor`, which changes by `drift` from one product to the next; 0 writes nothing.
    """

    config: tuple[int, ...] = (0,) * len(ATTRIBUTES)
    seconds: float = 1e-3
    factor: float = 1.0
    drift: float = 0.0


def configured(*config: int, **named: float) -> LtAlgorithm:
    """One of this configuration, as far as it is not 0."""
    return LtAlgorithm((*config, *(0,) * (len(ATTRIBUTES) - len(config))), **named)


class CublasLtStub(ModuleType):
    """``nvmath.bindings.cublasLt``; `live` holds the descriptors that exist, `asked` what algorithms were asked for.

    `algorithms` are those that it proposes, `used` those that products ran by, `clock` the seconds that they took.
    `refusal` is what it does instead of finding an algorithm: "none" or a status; `fault` is raised on creation.
    """

    cupy: CupyStub

    matmul_heuristic_result_dtype = np.dtype(
        [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("state", "<i4"), ("rest", "<i4", (5,))]
    )
    cuBLASLtError = cuBLASLtError  # noqa: N815

    def __init__(self) -> None:
        super().__init__("nvmath.bindings.cublasLt")
        self.live: dict[int, dict[str, Any]] = {}
        self.asked: list[dict[str, int]] = []
        self.products: list[dict[str, Any]] = []
        self.algorithms = [LtAlgorithm()]
        self.used: list[LtAlgorithm] = []
        self.clock = 0.0
        self.refusal: str | int = ""
        self.fault: Exception | None = None
        self._next = 100
        for name, members in ENUMS.items():
            setattr(self, name, IntEnum(name, members))
        owners = ("MatmulDescAttribute", "MatrixLayoutAttribute", "MatmulPreferenceAttribute")
        for (name, dtypes), owner in zip(DTYPES.items(), (*owners, "MatmulAlgoConfigAttribute"), strict=True):
            by_value = {ENUMS[owner][member]: dtype for member, dtype in dtypes.items()}
            setattr(self, name, by_value.__getitem__)
        for kind, owner in zip(("matmul_desc", "matrix_layout", "matmul_preference"), owners, strict=True):
            setattr(self, f"{kind}_destroy", self.live.pop)
            setattr(self, f"{kind}_set_attribute", self._setter(owner))

    def get_version(self) -> int:
        return 130100

    def create(self) -> int:
        assert Device.current
        if self.fault is not None:
            raise self.fault
        return 5

    def matmul_desc_create(self, compute: int, scale: int) -> int:
        return self._add(compute=compute, scale=scale, TRANSA=0, TRANSB=0, EPILOGUE=1, BIAS_POINTER=0)

    def matrix_layout_create(self, data_type: int, rows: int, columns: int, ld: int) -> int:
        assert rows > 0 and columns > 0 and ld >= rows
        return self._add(dtype=_numpy_type(data_type), rows=rows, columns=columns, ld=ld)

    def matmul_preference_create(self) -> int:
        return self._add(MAX_WORKSPACE_BYTES=0, REDUCTION_SCHEME_MASK=7)

    def _add(self, **descriptor: Any) -> int:
        self._next += 1
        self.live[self._next] = descriptor
        return self._next

    def _setter(self, owner: str) -> Callable[[int, int, int, int], None]:
        names = {value: name for name, value in ENUMS[owner].items()}
        dtypes = next(dtypes for dtypes in DTYPES.values() if set(dtypes) == set(names.values()))

        def put(descriptor: int, attribute: int, pointer: int, size: int) -> None:
            dtype = np.dtype(dtypes[names[attribute]])
            assert size == dtype.itemsize
            self.live[descriptor][names[attribute]] = int(_memory(pointer, 1, dtype)[0])

        return put

    def matmul_algo_get_heuristic(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, count: int,
        results: int, found: int,
    ) -> None:  # fmt: skip
        assert (handle, c) == (5, d)
        asked = {**self.live[preference], "BIAS_POINTER": self.live[operation]["BIAS_POINTER"], "count": count}
        self.asked.append(asked)
        if isinstance(self.refusal, int):
            raise cuBLASLtError(self.refusal)
        scheme = ATTRIBUTES.index("REDUCTION_SCHEME")
        allowed = [
            index
            for index, each in enumerate(self.algorithms)
            if not each.config[scheme] & ~asked["REDUCTION_SCHEME_MASK"] and self.refusal != "none"
        ][:count]
        _memory(found, 1, np.int32)[0] = len(allowed)
        proposed = _memory(results, count, self.matmul_heuristic_result_dtype)["algo"]["data_"]
        for place, index in enumerate(allowed):
            proposed[place, :2] = len(self.asked), index

    def matmul_algo_config_get_attribute(
        self, algorithm: int, attribute: int, pointer: int, size: int, written: int
    ) -> None:
        dtype = np.dtype(DTYPES["get_matmul_algo_config_attribute_dtype"][ATTRIBUTES[attribute]])
        assert size == dtype.itemsize and written
        _memory(pointer, 1, dtype)[0] = self.algorithms[self._opaque(algorithm)[1]].config[attribute]

    @staticmethod
    def _opaque(algorithm: int) -> tuple[int, int]:
        """The place in `asked`, counted from 1, and that in `algorithms`."""
        asked, index = _memory(algorithm, 8, np.uint64)[:2].tolist()
        return asked, index

    def matmul(
        self, handle: int, operation: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, algorithm: int, workspace: int, workspace_size: int, stream: int,
    ) -> None:  # fmt: skip
        assert Device.current and (handle, stream) == (5, 7)
        number, index = self._opaque(algorithm)
        asked, chosen = self.asked[number - 1], self.algorithms[index]
        assert workspace % 256 == 0 and workspace_size == asked["MAX_WORKSPACE_BYTES"]
        what = dict(self.live[operation])
        scale = _numpy_type(what["scale"])
        assert _memory(alpha, 1, scale)[0] == 1 and _memory(beta, 1, scale)[0] == 0
        operands = {}
        for name, pointer, layout in (("A", a, a_layout), ("B", b, b_layout), ("C", c, c_layout), ("D", d, d_layout)):
            matrices = operands[name] = self._column_major(pointer, self.live[layout])
            assert all(matrix.ctypes.data % asked[f"MIN_ALIGNMENT_{name}_BYTES"] == 0 for matrix in matrices)

        def compute() -> None:
            left, right = operands["A"].astype(scale), operands["B"].astype(scale)
            result = (left.mT if what["TRANSA"] else left) @ (right.mT if what["TRANSB"] else right)
            assert len(left) == len(right) == len(result) and result.shape == operands["D"].shape
            if what["EPILOGUE"] != ENUMS["Epilogue"]["DEFAULT"]:
                bias = {"dtype": operands["D"].dtype, "rows": result.shape[1], "columns": 1, "ld": result.shape[1]}
                bias |= {"BATCH_COUNT": len(result), "STRIDED_BATCH_OFFSET": what["BIAS_BATCH_STRIDE"]}
                biases = self._column_major(what["BIAS_POINTER"], bias)
                assert all(_alignment(each.ctypes.data) >= _alignment(asked["BIAS_POINTER"]) for each in biases)
                result = result + biases.astype(scale)
            if what["EPILOGUE"] == ENUMS["Epilogue"]["RELU_BIAS"]:
                result = np.maximum(result, 0)
            if chosen.factor:
                operands["D"][...] = result * chosen.factor
            chosen.factor += chosen.drift
            self.clock += chosen.seconds

        self.products.append(what)
        self.used.append(chosen)
        self.cupy.stream.send(compute)

    @staticmethod
    def _column_major(pointer: int, layout: dict[str, Any]) -> Any:
        """(batch, rows, columns)"""
        dtype, rows, columns, ld = (layout[name] for name in ("dtype", "rows", "columns", "ld"))
        batch, stride = layout["BATCH_COUNT"], layout["STRIDED_BATCH_OFFSET"]
        flat = _memory(pointer, (batch - 1) * stride + (columns - 1) * ld + rows, dtype)
        strides = (stride * dtype.itemsize, dtype.itemsize, ld * dtype.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (batch, rows, columns), strides)


def _numpy_type(data_type: int) -> np.dtype[Any]:
    if data_type == 14:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return BITS[data_type]


def _memory(pointer: int, count: int, dtype: Any) -> Any:
    return at_pointer((count,), dtype, Pointer(ptr=pointer)).view(np.ndarray)


def _alignment(pointer: int) -> int:
    return (pointer | 256) & -(pointer | 256)


def install(monkeypatch: pytest.MonkeyPatch, cupy: CupyStub, lt: CublasLtStub | None) -> None:
    """Have ``import cupy`` and ``from nvmath.bindings import cublasLt`` find these; None: nvmath is not there."""
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy._core", cupy._core)
    for name in ("nvmath.bindings", "nvmath.bindings.cublasLt"):  # the real ones, where they are installed
        monkeypatch.delitem(sys.modules, name, raising=False)
    if lt is None:
        monkeypatch.setitem(sys.modules, "nvmath", None)
        return
    nvmath, bindings = ModuleType("nvmath"), ModuleType("nvmath.bindings")
    bindings.cublasLt, lt.cupy = lt, cupy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvmath", nvmath)
    monkeypatch.setitem(sys.modules, "nvmath.bindings", bindings)
