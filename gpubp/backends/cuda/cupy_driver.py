"""The driver of a real device: memory, kernels and graphs through CuPy, products through cuBLASLt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np

from gpubp._typing import Array, Namespace
from gpubp.backends.cuda import dependent_launch, nccl
from gpubp.backends.cuda.cublaslt import load_cublaslt
from gpubp.backends.cuda.dependent_launch import DependentLaunch
from gpubp.backends.cuda.driver import Gemm, GemmSpec, Kernel, OutOfDeviceMemoryError, Source
from gpubp.backends.cuda.faults import explain, is_fault
from gpubp.backends.cuda.gemm import CublasLt, LtGemm, StreamWorkspace, handle_of, workspace_size
from gpubp.backends.cuda.gemm_table import read_table
from gpubp.errors import DeviceError

COMPILER_OPTIONS = ("-std=c++17",)  # CuPy adds the device's architecture, and -ftz=true: float32 has no subnormals

SHARED_UNASKED = 48 << 10  # bytes of shared memory that a block has by default


class CupyNamespace:
    """CuPy, with cupyx's functions where CuPy lacks them."""

    def __getattr__(self, name: str) -> Any:
        if name in ("erf", "erfc"):
            from cupyx.scipy import special

            function = getattr(special, name)
        else:
            import cupy

            function = getattr(cupy, name)
        setattr(self, name, function)  # found directly from now on
        return function


class SideStream:
    """A stream that forks from the main one, and joins it again.

    Parameters
    ----------
    cupy : module
    stream : cupy.cuda.Stream
    """

    def __init__(self, cupy: Any, stream: Any) -> None:
        self.stream = stream
        self.unjoined = False  # whether anything was launched in it since it joined
        self._forked, self._joined = (cupy.cuda.Event(disable_timing=True) for _ in range(2))

    def fork(self, main: Any) -> None:
        """Make what is launched in it from now on run after everything in the main one."""
        self._forked.record(main)
        self.stream.wait_event(self._forked)
        self.unjoined = True

    def join(self, main: Any) -> None:
        """Make what is launched in the main one from now on run after everything in this one."""
        self._joined.record(self.stream)
        main.wait_event(self._joined)
        self.unjoined = False


class CupyDriver:
    """One NVIDIA device.

    Its streams are blocking ones, which synchronize with the default stream: array arithmetic, which CuPy sends to the
    default stream, thus runs after the kernels launched before it and before those launched after it. Arithmetic inside
    a captured step is an error instead of silently missing from the graph.

    Parameters
    ----------
    device : int
        CUDA's index of it.

    Attributes
    ----------
    cublas : CublasLt
        The interface for products.

    Raises
    ------
    DeviceError
        If the device or a library cannot be used: what, why, and the remedy.
    """

    def __init__(self, device: int = 0) -> None:
        import cupy

        self._cupy = cupy
        self._index = device
        self.xp: Namespace = CupyNamespace()
        self._device = cupy.cuda.Device(device)
        self.name = f"CUDA device {device}"
        self._kernels: dict[str, Kernel] = {}
        self._gemms: dict[GemmSpec, LtGemm] = {}
        self._one_thread = RLock()  # only one thread launches, copies or allocates at a time
        self._copies: Any = None  # the stream of `copy_beside`, once there is one
        with self._at_work("start"):
            properties = cupy.cuda.runtime.getDeviceProperties(device)
            self.name = properties["name"].decode()
            self.compute_capability: tuple[int, int] = (properties["major"], properties["minor"])
            self.multiprocessors: int = properties["multiProcessorCount"]
            self.shared_memory: int = properties.get("sharedMemPerBlockOptin", SHARED_UNASKED)
            self._main, self._aside = (self._new_stream() for _ in range(2))
            self._current = self._main
            self._side = SideStream(cupy, self._aside.stream)
            self._collectives: SideStream | None = None  # once there is a sum over several devices
            self._launch_dependent: DependentLaunch | None = None  # in captures, on devices that support it
            if self.compute_capability >= dependent_launch.CAPABILITY:
                self._launch_dependent = DependentLaunch(dependent_launch.cuda_driver())
            self._capturing = False
            self._after_kernel = False  # in a capture, whether the main stream's last work is a kernel of ours
            self.cublas = self._start_cublas()
        self.gemm_table = self.cublas.table.digest

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self._allocating(shape, dtype):
            return self._cupy.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        with self._allocating(shape, dtype):
            return self._cupy.zeros(shape, dtype)

    def to_device(self, host: Any) -> Array:
        host = np.asarray(host)
        with self._allocating(host.shape, host.dtype):
            return self._cupy.array(host, order="C")

    def to_host(self, array: Array) -> Any:
        self._join_all()
        with self._in_stream("copy to the host"):
            return self._cupy.asnumpy(array)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        count = int(np.prod(shape, dtype=np.int64))
        with self._at_work("allocation of page-locked memory"):
            memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def mark(self) -> Any:
        with self._in_turn("a mark"):
            self._join_all()
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(self._cupy.cuda.Stream.null)  # after the work in all streams, and array arithmetic
            return event

    def copy_beside(self, host: Any, out: Array, after: Any) -> None:
        with self._at_work("copy to the device"):
            if self._copies is None:  # a non-blocking stream: only marks order it
                self._copies = self._cupy.cuda.Stream(non_blocking=True)
            self._copies.wait_event(after)
            out.set(host, stream=self._copies)
            self._copies.synchronize()

    def free_memory(self) -> int:
        with self._at_work("looking at its memory"):
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            return int(free + self._cupy.get_default_memory_pool().free_bytes())

    def kernel(self, source: Source) -> Kernel:
        if source.text not in self._kernels:
            with self._at_work(f'kernel "{source.name}"'):
                options = (*COMPILER_OPTIONS, *source.options)
                module = self._cupy.RawModule(code=source.text, options=options, backend="nvrtc")
                self._kernels[source.text] = self._launcher(source.name, module.get_function(source.name))
        return self._kernels[source.text]

    def gemm(self, spec: GemmSpec) -> Gemm:
        if spec not in self._gemms:
            with self._at_work(str(spec)):
                self._gemms[spec] = LtGemm(self.cublas, spec, self.cublas.table.algorithms.get(spec))
        return self._gemms[spec]

    def prepared(self) -> list[GemmSpec]:
        """The products that have run so far."""
        return [spec for spec, gemm in self._gemms.items() if gemm.usable]

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._one_thread, ExitStack() as entered:
            with self._at_work("start"):
                entered.enter_context(self._device)
            yield  # errors inside are passed on unchanged

    @contextmanager
    def aside(self) -> Iterator[None]:
        with self.turn():
            with self._at_work("work on a second stream"):
                self._side.fork(self._main.stream)
            self._current = self._aside
            try:
                yield
            finally:
                self._current = self._main

    def join(self) -> None:
        self._join(self._side, "work on a second stream")

    def has_nccl(self) -> bool:
        return nccl.available()

    @contextmanager
    def collective(self, array: Array) -> Iterator[Any]:
        self.join()
        with self._in_turn("a sum over several devices"):
            if self._collectives is None:
                self._collectives = SideStream(self._cupy, self._cupy.cuda.Stream(non_blocking=False))
            self._collectives.fork(self._main.stream)
            self._after_kernel = False
            yield self._collectives.stream.ptr

    def join_collectives(self) -> None:
        if self._collectives is not None:
            self._join(self._collectives, "a sum over several devices")

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        stream = self._main.stream
        with self._in_turn("capture of a step"), self._in_capture():
            self._join_all()  # or a captured step would wait for work outside it
            # In relaxed mode, since the garbage collector may free memory at any moment.
            stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeRelaxed)
            try:
                run()
                self._join_all()
            except BaseException:
                # An invalid capture ends with an error of its own; raise the one that made it invalid.
                for side in self._sides():
                    side.unjoined = False
                with suppress(self._cupy.cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise
            return Replay(self, stream.end_capture(), run)

    def replay(self, graph: Any) -> None:
        """Launch a captured graph."""
        with self._at_work("replay of a step"):
            graph.launch(self._main.stream)

    def use(self) -> None:
        """Make this the device of the thread's array arithmetic outside kernels."""
        with self._at_work("start"):
            self._device.use()

    def synchronize(self) -> None:
        self._join_all()
        with self._at_work("waiting for the device"):
            self._main.stream.synchronize()

    # -- pieces ---------------------------------------------------------------------------------------

    def _sides(self) -> list[SideStream]:
        return [self._side] if self._collectives is None else [self._side, self._collectives]

    def _join(self, side: SideStream, doing: str) -> None:
        if side.unjoined:
            with self._in_turn(doing):
                side.join(self._main.stream)
                self._after_kernel = False

    def _join_all(self) -> None:
        self.join()
        self.join_collectives()

    def _start_cublas(self) -> CublasLt:
        library = load_cublaslt()
        handle = handle_of(library, self._index)
        table = read_table(self.name, self.multiprocessors, library.version)
        size = workspace_size(self.compute_capability)
        return CublasLt(library, handle, size, self._for_product, self.name, self._in_turn, table)

    def _for_product(self) -> StreamWorkspace:
        self._after_kernel = False
        return self._current

    def _new_stream(self) -> StreamWorkspace:
        stream, size = self._cupy.cuda.Stream(non_blocking=False), workspace_size(self.compute_capability)
        with self._at_work("allocation", size), stream:
            return StreamWorkspace(stream, self._cupy.empty((size,), np.uint8))

    def _launcher(self, name: str, function: Any) -> Kernel:
        doing, most = f'kernel "{name}"', SHARED_UNASKED // 2  # the other half is for what the kernel declares itself

        def launch(grid: tuple[int, int, int], block: int, args: tuple[Any, ...], shared: int = 0) -> None:
            nonlocal most
            with self._in_stream(doing):
                if shared > most:
                    function.max_dynamic_shared_size_bytes = most = shared
                on_main = self._current is self._main
                if on_main and self._after_kernel and self._launch_dependent is not None:
                    self._launch_dependent(function.kernel.ptr, self._main.stream.ptr, grid, block, args, shared)
                else:
                    function(grid, (block,), args, shared_mem=shared)
                if on_main:
                    self._after_kernel = self._capturing

        return launch

    @contextmanager
    def _in_capture(self) -> Iterator[None]:
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = self._after_kernel = False

    @contextmanager
    def _at_work(self, doing: str, asked: int | None = None) -> Iterator[None]:
        """Make the device current, and raise its faults with their meaning."""
        try:
            with self._device:
                yield
        except Exception as error:
            if asked is not None and isinstance(error, self._cupy.cuda.memory.OutOfMemoryError):
                raise self._out_of_memory(asked) from error
            if not is_fault(error):
                raise
            cause, remedy = explain(error)
            raise DeviceError(f"{self.name}, {doing}: {cause}; {remedy}") from error

    @contextmanager
    def _in_turn(self, doing: str, asked: int | None = None) -> Iterator[None]:
        """Like `_at_work`, while other threads wait."""
        with self._one_thread, self._at_work(doing, asked):
            yield

    @contextmanager
    def _in_stream(self, doing: str, asked: int | None = None) -> Iterator[None]:
        """Like `_in_turn`, and CuPy's work inside goes to the current launch stream."""
        with self._in_turn(doing, asked), self._current.stream:
            yield

    def _allocating(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self._join_all()  # the pool may hand out freed memory that work aside still reads
        return self._in_stream("allocation", int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)

    def _out_of_memory(self, asked: int) -> OutOfDeviceMemoryError:
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return OutOfDeviceMemoryError(
            f"{self.name} is out of memory: {_mib(asked)} were asked for, {_mib(free)} of {_mib(total)} are free; "
            "train with smaller batches, a smaller network or less data on the device, or end other programs on it",
            asked=asked,
            free=free,
        )


@dataclass(slots=True)
class Replay:
    """A callable captured step. It keeps the captured objects alive: a graph holds only addresses."""

    driver: CupyDriver
    graph: Any
    captured: Callable[[], None]

    def __call__(self) -> None:
        self.driver.replay(self.graph)

    def __del__(self) -> None:
        """Release the graph before the captured objects: NCCL's communicator waits until no graph has its sums."""
        self.graph = None


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
