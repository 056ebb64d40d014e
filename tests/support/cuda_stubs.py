"""Stand-ins for CuPy and for libcublasLt. They compute on the host, and keep what they were asked.

The one for cuBLASLt takes nothing on trust: it finds matrices through pointers, in column-major order, from the
descriptors alone, and refuses operands that are not aligned as was promised when it chose an algorithm.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpubp.backends.cuda import cublaslt, cupy_driver, dependent_launch
from gpubp.backends.cuda.cublaslt import (
    DATA_TYPES,
    EPILOGUES,
    AlgorithmAttribute,
    Attribute,
    HeuristicResult,
    LayoutAttribute,
    OperationAttribute,
    PreferenceAttribute,
)
from gpubp.backends.cuda.driver import dtype_of
from gpubp.backends.cuda.gemm_table import ATTRIBUTES

# -- CuPy ----------------------------------------------------------------------------------------------


class CUDARuntimeError(RuntimeError):
    """What CuPy raises where a call into the CUDA runtime fails."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises where its pool cannot grow."""


class CompileException(Exception):  # noqa: N818, as CuPy calls it
    """What CuPy raises where NVRTC finds a mistake."""


class DynamicLibNotFoundError(RuntimeError):
    """What cuda-pathfinder raises where a library of the toolkit is not there."""


DynamicLibNotFoundError.__module__ = "cuda.pathfinder._dynamic_libs.load_dl_common"
CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"
OutOfMemoryError.__module__ = "cupy.cuda.memory"
CompileException.__module__ = "cupy.cuda.compiler"


class Pointer(SimpleNamespace):
    """CuPy's MemoryPointer."""


class Array(np.ndarray[Any, Any]):
    """An array on the "device"."""

    @property
    def data(self) -> Any:
        return Pointer(ptr=self.ctypes.data)

    def set(self, host: Any, stream: Stream) -> None:
        assert Device.current and host.flags.c_contiguous
        stream.cupy.call("set")
        self[...] = host


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


class Capture:
    """What goes on from the begin to the end of a capture, in the stream that began it and those that joined it."""

    def __init__(self, origin: Stream) -> None:
        self.origin, self.streams = origin, {origin}
        self.work: list[Callable[[], None]] = []
        self.unjoined: set[Stream] = set()


class Event:
    """cupy.cuda.Event."""

    def __init__(self, cupy: CupyStub, disable_timing: bool) -> None:
        assert disable_timing  # one that takes the time costs more
        self.cupy = cupy
        self.stream: Stream | None = None
        self.capture: Capture | None = None

    def record(self, stream: Stream) -> None:
        assert Device.current
        self.cupy.call("record")
        self.stream, self.capture = stream, stream.capture


class Stream:
    """cupy.cuda.Stream."""

    current: list[Any] = []

    def __init__(self, cupy: CupyStub, non_blocking: bool) -> None:
        cupy.call("Stream")
        self.cupy, self.non_blocking, self.ptr = cupy, non_blocking, 7 + len(cupy.streams)
        self.capture: Capture | None = None
        cupy.streams[self.ptr] = self
        cupy.stream = cupy.streams[7]

    @property
    def capturing(self) -> bool:
        return self.capture is not None

    def wait_event(self, event: Event) -> None:
        assert Device.current and event.stream not in (None, self)
        self.cupy.call("wait_event")
        assert self.capture is None or self.capture is event.capture  # else it would wait for what is in no graph
        self.capture = capture = event.capture
        if capture is None:
            return
        capture.streams.add(self)
        capture.unjoined.discard(event.stream)
        if self is not capture.origin:
            capture.unjoined.add(self)

    def __enter__(self) -> None:
        Stream.current.append(self)

    def __exit__(self, *error: Any) -> None:
        Stream.current.pop()

    def begin_capture(self, mode: int) -> None:
        self.cupy.call("begin_capture")
        self.capture = Capture(self)

    def end_capture(self) -> Any:
        capture = self.capture
        assert capture is not None and capture.origin is self
        for stream in capture.streams:
            stream.capture = None
        self.cupy.call("end_capture")
        if capture.unjoined:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnjoined")

        def launch(stream: Stream) -> None:
            assert stream is self and Device.current
            self.cupy.call("launch of a graph")
            for work in capture.work:
                work()

        return SimpleNamespace(launch=launch)

    def send(self, work: Callable[[], None]) -> None:
        """Done at once, or while a capture goes on, when its graph is launched."""
        if self.capture is not None:
            self.capture.work.append(work)
        else:
            work()

    def synchronize(self) -> None:
        self.cupy.call("synchronize")


class StreamType:
    """What cupy.cuda.Stream is: it makes streams, and has the default one."""

    def __init__(self, cupy: CupyStub) -> None:
        self.cupy, self.null = cupy, SimpleNamespace(capture=None)

    def __call__(self, non_blocking: bool) -> Stream:
        return Stream(self.cupy, non_blocking)


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
        self.functions: list[str] = []  # the names of those that were compiled; the pointer of the first is 1
        self.kernels: dict[str, Callable[..., None]] = {"probe": _probe}
        self.library: CudaLibrary
        self.streams: dict[int, Stream] = {}  # by pointer
        self.stream: Any = None  # the first of them
        properties = {"name": b"GPU X", "major": capability[0], "minor": capability[1], "multiProcessorCount": 4}
        properties |= {"sharedMemPerBlockOptin": 227 << 10}
        runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError, streamCaptureModeRelaxed=2)
        answers = {"driverGetVersion": 13000, "getDeviceCount": 1, "memGetInfo": (3 << 20, 8 << 30)}
        for name, answer in {**answers, "getDeviceProperties": properties}.items():
            setattr(runtime, name, self.answering(name, answer))
        self.cuda = SimpleNamespace(
            Device=lambda index: Device(self, index),
            Stream=StreamType(self),
            alloc_pinned_memory=bytearray,
            Event=lambda disable_timing: Event(self, disable_timing),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=runtime,
        )
        self.empty = self.zeros = self.in_stream("allocation", zeros)
        self.array, self.asnumpy = self.in_stream("copy", array), self.in_stream("copy", np.array)
        self.maximum = np.maximum
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
            assert Device.current and Stream.current[-1] in self.streams.values()
            return function(*arguments, **named)

        return called

    def RawModule(self, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802
        assert Device.current and backend == "nvrtc" and "-std=c++17" in options
        self.sources.append(code)

        def get_function(name: str) -> Any:
            self.call("compile")

            def launch(grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
                most = getattr(launch, "max_dynamic_shared_size_bytes", 48 << 10)
                assert shared_mem <= most, "a block has so much shared memory only where it was asked for before"
                assert Device.current and Stream.current[-1] in self.streams.values() and len(block) == 1
                self.call(f"launch of {name}")
                self.kernels[name](grid, block, args)

            self.functions.append(name)
            launch.kernel = SimpleNamespace(ptr=len(self.functions))  # type: ignore[attr-defined]
            return launch

        return SimpleNamespace(get_function=get_function)


def _probe(grid: Any, block: Any, args: Any) -> None:
    args[0].reshape(-1)[: args[1]] += 1


class CudaLibrary:
    """libcuda, as far as kernels are launched through it before the last one has ended.

    `launched` holds the name, grid, block, shared memory, and places of the arguments of each; `status` is returned.
    """

    def __init__(self, cupy: CupyStub) -> None:
        self.cupy, self.status = cupy, 0
        self.launched: list[tuple[str, tuple[int, ...], tuple[int, ...], int, Any]] = []
        self.cuLaunchKernelEx = SignedFunction(self._launch)
        self.cuGetErrorName = SignedFunction(self._name)

    def _launch(self, config: Any, function: int, arguments: Any, extra: None) -> int:
        config = config._obj
        assert Device.current and config.attribute_count == 1 and extra is None
        assert (config.attributes[0].id, config.attributes[0].value) == (6, 1)
        stream = self.cupy.streams[config.stream]
        assert stream.capturing, "it is of use in a graph alone"
        name = self.cupy.functions[function - 1]
        self.cupy.call(f"dependent launch of {name}")
        self.launched.append((name, tuple(config.grid), tuple(config.block), config.shared, arguments))
        return self.status

    def _name(self, status: int, name: Any) -> int:
        name._obj.value = b"CUDA_ERROR_INVALID_VALUE"
        return 0


class SignedFunction:
    """A function of a library, which has to be told the types of its arguments before it is called."""

    argtypes: tuple[Any, ...] = ()
    restype: Any = None

    def __init__(self, implementation: Callable[..., int]) -> None:
        self._implementation = implementation

    def __call__(self, *arguments: Any) -> int:
        assert len(arguments) == len(self.argtypes) and self.restype is ctypes.c_int
        return self._implementation(*arguments)


# -- cuBLASLt ------------------------------------------------------------------------------------------


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


class Function:
    """A function of a library as `ctypes` has it: arguments become those C types or are refused."""

    argtypes: tuple[Any, ...] = ()
    restype: Any = None

    def __init__(self, implementation: Callable[..., Any]) -> None:
        self._implementation = implementation

    def __call__(self, *arguments: Any) -> Any:
        assert len(arguments) == len(self.argtypes) and self.restype is not None
        for argument, ctype in zip(arguments, self.argtypes, strict=True):
            assert isinstance(argument, int) and (ctype(argument).value or 0) == argument  # it fits
        return self._implementation(*arguments)


class CublasLtStub:
    """libcublasLt; `live` holds the descriptors that exist, `asked` what algorithms were asked for.

    `algorithms` are those that it proposes, `used` those that products ran by, `clock` the seconds that they took.
    `refusal` is what it does instead of finding an algorithm: "none" or a status; `fault` is raised where the library
    is looked for. Functions named in `statuses` return that. `no_epilogue`: it has no algorithm with one.
    """

    cupy: CupyStub

    def __init__(self) -> None:
        self.live: dict[int, dict[str, Any]] = {}
        self.asked: list[dict[str, int]] = []
        self.products: list[dict[str, Any]] = []
        self.workspaces: dict[int, int] = {}  # by stream
        self.algorithms = [LtAlgorithm()]
        self.used: list[LtAlgorithm] = []
        self.clock = 0.0
        self.refusal: str | int = ""
        self.no_epilogue = False
        self.fault: Exception | None = None
        self.statuses: dict[str, int] = {}
        self.version = 130100
        self._next = 100
        implementations = {
            "Create": self._create,
            "MatmulDescCreate": self._create_operation,
            "MatrixLayoutCreate": self._create_layout,
            "MatmulPreferenceCreate": self._create_preference,
            "MatmulAlgoGetHeuristic": self._propose,
            "MatmulAlgoConfigGetAttribute": self._algorithm_attribute,
            "Matmul": self._matmul,
        }
        for kind, attributes in (
            ("MatmulDesc", OperationAttribute),
            ("MatrixLayout", LayoutAttribute),
            ("MatmulPreference", PreferenceAttribute),
        ):
            implementations[f"{kind}Destroy"] = self._destroy
            implementations[f"{kind}SetAttribute"] = self._setter(attributes)
        self.cublasLtGetVersion = Function(lambda: self.version)
        self.cublasLtGetStatusName = Function(lambda status: f"CUBLAS_STATUS_{status}".encode())
        for name, implementation in implementations.items():
            setattr(self, f"cublasLt{name}", Function(self._with_status(f"cublasLt{name}", implementation)))

    def _with_status(self, name: str, implementation: Callable[..., int | None]) -> Callable[..., int]:
        return lambda *arguments: self.statuses.get(name) or implementation(*arguments) or 0

    def _create(self, handle: int) -> None:
        assert Device.current
        _memory(handle, 1, np.uint64)[0] = 5

    def _create_operation(self, created: int, compute: int, scale: int) -> None:
        self._add(created, compute=compute, scale=scale, TRANSA=0, TRANSB=0, EPILOGUE=1, BIAS_POINTER=0)

    def _create_layout(self, created: int, data_type: int, rows: int, columns: int, ld: int) -> None:
        assert rows > 0 and columns > 0 and ld >= rows
        self._add(created, dtype=_numpy_type(data_type), rows=rows, columns=columns, ld=ld)

    def _create_preference(self, created: int) -> None:
        self._add(created, MAX_WORKSPACE_BYTES=0, REDUCTION_SCHEME_MASK=7)

    def _add(self, created: int, **descriptor: Any) -> None:
        self._next += 1
        self.live[self._next] = descriptor
        _memory(created, 1, np.uint64)[0] = self._next

    def _destroy(self, descriptor: int) -> None:
        del self.live[descriptor]

    def _setter(self, attributes: type[Attribute]) -> Callable[[int, int, int, int], None]:
        by_number = {attribute.number: attribute for attribute in attributes}

        def put(descriptor: int, number: int, pointer: int, size: int) -> None:
            attribute = by_number[number]
            assert size == ctypes.sizeof(attribute.ctype)
            self.live[descriptor][attribute.name] = attribute.ctype.from_address(pointer).value or 0

        return put

    def _propose(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, count: int,
        results: int, returned: int,
    ) -> int | None:  # fmt: skip
        assert (handle, c) == (5, d)
        asked = {**self.live[preference], "BIAS_POINTER": self.live[operation]["BIAS_POINTER"], "count": count}
        self.asked.append(asked)
        if isinstance(self.refusal, int):
            return self.refusal
        refused = self.refusal == "none" or (self.no_epilogue and self.live[operation]["EPILOGUE"] != 1)
        scheme = ATTRIBUTES.index("REDUCTION_SCHEME")
        allowed = [
            index
            for index, each in enumerate(self.algorithms)
            if not each.config[scheme] & ~asked["REDUCTION_SCHEME_MASK"] and not refused
        ][:count]
        _memory(returned, 1, np.int32)[0] = len(allowed)
        proposed = (HeuristicResult * count).from_address(results)
        for place, index in enumerate(allowed):
            proposed[place].algo[:2] = len(self.asked), index
        return None

    def _algorithm_attribute(self, algorithm: int, number: int, pointer: int, size: int, written: int) -> None:
        (attribute,) = (each for each in AlgorithmAttribute if each.number == number)
        assert size == ctypes.sizeof(attribute.ctype) and written
        index = ATTRIBUTES.index(attribute.name)
        attribute.ctype.from_address(pointer).value = self.algorithms[self._opaque(algorithm)[1]].config[index]

    @staticmethod
    def _opaque(algorithm: int) -> tuple[int, int]:
        """The place in `asked`, counted from 1, and that in `algorithms`."""
        asked, index = _memory(algorithm, 8, np.uint64)[:2].tolist()
        return asked, index

    def _matmul(
        self, handle: int, operation: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, algorithm: int, workspace: int, workspace_size: int, stream: int,
    ) -> None:  # fmt: skip
        assert Device.current and handle == 5
        assert self.workspaces.setdefault(stream, workspace) == workspace
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
            if what["EPILOGUE"] != EPILOGUES["none"]:
                bias = {"dtype": operands["D"].dtype, "rows": result.shape[1], "columns": 1, "ld": result.shape[1]}
                bias |= {"BATCH_COUNT": len(result), "STRIDED_BATCH_OFFSET": what["BIAS_BATCH_STRIDE"]}
                biases = self._column_major(what["BIAS_POINTER"], bias)
                assert all(_alignment(each.ctypes.data) >= _alignment(asked["BIAS_POINTER"]) for each in biases)
                result = result + biases.astype(scale)
            if what["EPILOGUE"] == EPILOGUES["relu_bias"]:
                result = np.maximum(result, 0)
            if chosen.factor:
                operands["D"][...] = result * chosen.factor
            chosen.factor += chosen.drift
            self.clock += chosen.seconds

        self.products.append(what)
        self.used.append(chosen)
        self.cupy.streams[stream].send(compute)

    @staticmethod
    def _column_major(pointer: int, layout: dict[str, Any]) -> Any:
        """(batch, rows, columns)"""
        dtype, rows, columns, ld = (layout[name] for name in ("dtype", "rows", "columns", "ld"))
        batch, stride = layout["BATCH_COUNT"], layout["STRIDED_BATCH_OFFSET"]
        flat = _memory(pointer, (batch - 1) * stride + (columns - 1) * ld + rows, dtype)
        strides = (stride * dtype.itemsize, dtype.itemsize, ld * dtype.itemsize)
        return np.lib.stride_tricks.as_strided(flat, (batch, rows, columns), strides)


def _numpy_type(data_type: int) -> np.dtype[Any]:
    (name,) = (name for name, number in DATA_TYPES.items() if number == data_type)
    return dtype_of(name)


def _memory(pointer: int, count: int, dtype: Any) -> Any:
    return at_pointer((count,), dtype, Pointer(ptr=pointer)).view(np.ndarray)


def _alignment(pointer: int) -> int:
    return (pointer | 256) & -(pointer | 256)


def install(monkeypatch: pytest.MonkeyPatch, cupy: CupyStub, lt: CublasLtStub) -> None:
    """Have ``import cupy``, `load_cublaslt` and `cuda_driver` find these."""

    def load_nvidia_dynamic_lib(name: str) -> Any:
        assert name == "cublasLt"
        if lt.fault is not None:
            raise lt.fault
        return SimpleNamespace(abs_path="/lib/libcublasLt.so.13")

    pathfinder: Any = ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib, lt.cupy = load_nvidia_dynamic_lib, cupy
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    monkeypatch.setattr(cublaslt, "CDLL", lambda path: lt)
    cupy.library = CudaLibrary(cupy)
    monkeypatch.setattr(dependent_launch, "cuda_driver", lambda: cupy.library)
    monkeypatch.setattr(cupy_driver, "load_cublaslt", functools.cache(cublaslt.load_cublaslt.__wrapped__))
