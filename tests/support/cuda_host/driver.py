"""The driver: `gpubp.backends.cuda.driver.Driver`, on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from gpubp.backends.cuda.driver import GemmSpec, Source
from support.cuda_host.arrays import DeviceArray, DeviceNamespace, empty, to_device
from support.cuda_host.gemm import HostProduct
from support.cuda_host.kernels import HostKernel
from support.cuda_host.memory import Device, HostDriverError, poison
from support.cuda_host.streams import Access, Streams
from support.cuda_host.toolchain import Toolchain


class HostDriver:
    """Runs kernels and GEMMs on the host, and refuses what a device would.

    Parameters
    ----------
    folder : path
        Where compiled kernels are kept.
    seed : int
        Of the order in which blocks and threads run.
    multiprocessors : int
        How many the device pretends to have.
    threads : bool
        Whether several use it, and take turns: kernels on the host have one set of shared memory. Else turns are not
        kept: ranks that are threads of one process wait for each other inside of theirs.
    """

    name = "the host in place of a device"
    compute_capability = (9, 0)
    shared_memory = 227 << 10
    gemm_table: str | None = None

    def __init__(self, folder: Path, seed: int = 0, multiprocessors: int = 4, threads: bool = False) -> None:
        self.toolchain = Toolchain(folder)
        self.device = Device()
        self.xp = DeviceNamespace(self.device)
        self.seed = seed
        self.multiprocessors = multiprocessors
        self.launches = 0
        self.copied_beside = 0  # bytes
        self._pinned: list[Any] = []
        self._marks = 0
        self._kernels: dict[str, HostKernel] = {}
        self._products: dict[GemmSpec, Callable[..., None]] = {}
        self.one_thread = RLock() if threads else nullcontext()
        self._streams = Streams(seed, self.one_thread)
        self.device.settle = self._streams.join_all
        self.aside, self.join = self._streams.aside, self._streams.join

    def turn(self) -> Any:
        return self.one_thread

    # -- memory ---------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        self.device.check("an allocation")
        self._streams.join_all()
        return empty(self.device, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def to_device(self, host: Any) -> DeviceArray:
        self.device.check("an allocation")
        self._streams.join_all()
        return to_device(self.device, host)

    def to_host(self, array: DeviceArray) -> Any:
        return array.get()

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = np.empty(shape, dtype)
        poison(array)
        self._pinned.append(array)
        return array

    def mark(self) -> int:
        self.device.work("a mark")
        self._marks += 1
        return self._marks

    def copy_beside(self, host: Any, out: DeviceArray, after: int) -> None:
        if not any(np.may_share_memory(host, array) for array in self._pinned):
            raise HostDriverError("a copy beside other work from memory that is not page-locked")
        if after != self._marks:
            raise HostDriverError("a copy beside work that may still read what is copied to")
        in_one_piece = host.flags.c_contiguous and out.flags.c_contiguous
        if (host.shape, host.dtype) != (out.shape, out.dtype) or not in_one_piece:
            raise HostDriverError(f"a copy of {host.shape} {host.dtype} to {out.shape} {out.dtype}, or in pieces")
        self.copied_beside += host.nbytes
        out._host[...] = host

    def free_memory(self) -> int:
        return 1 << 34

    # -- work -----------------------------------------------------------------------------------------

    def kernel(self, source: Source) -> HostKernel:
        if source.text not in self._kernels:
            self.device.check("compiling a kernel")
            self._kernels[source.text] = HostKernel(self, source.name, self.toolchain.library(source))
        return self._kernels[source.text]

    def prefetch(self, sources: Iterable[Source]) -> None:
        """Compile many kernels at once, so that `kernel` finds them made."""
        self.toolchain.prefetch(sources)

    def gemm(self, spec: GemmSpec) -> Callable[..., None]:
        if spec not in self._products:
            self.device.check("preparing a product")
            self._products[spec] = self._prepare(HostProduct(spec))
        return self._products[spec]

    def _prepare(self, product: HostProduct) -> Callable[..., None]:
        def gemm(a: DeviceArray, b: DeviceArray, out: DeviceArray, bias: DeviceArray | None = None) -> None:
            product.check(a=a, b=b, out=out, bias=bias)
            arrays = {"a": a, "b": b, "out": out} | ({} if bias is None else {"bias": bias})
            pointers = {what: array.pointer(f"gemm: {what}") for what, array in arrays.items()}
            accesses = [Access(f"gemm: {what}", array, what == "out") for what, array in arrays.items()]
            self.launch(accesses, lambda: product.run(**pointers))

        return gemm

    def launch(self, accesses: list[Access], run: Callable[[], None]) -> None:
        """Run it now, or while a capture goes on, note it down; memory written outside its bounds is an error."""
        pointers = [access.array.pointer(access.what) for access in accesses]

        def checked() -> None:
            memory = [pointer.allocation() for pointer in pointers]
            self.launches += 1
            run()
            for pointer, allocation in zip(pointers, memory, strict=True):
                if damage := allocation.damage():
                    raise HostDriverError(f"{pointer.what}: {damage} was written")

        self._streams.launch(accesses, checked)

    def has_nccl(self) -> bool:
        return False

    @contextmanager
    def collective(self, array: DeviceArray) -> Iterator[Callable[[Callable[[], None]], None]]:
        """As its stream, what sends a launch there."""
        self.join()
        access, pointer = Access("a sum", array, True), array.pointer("an array that is added up over several devices")

        def launch(run: Callable[[], None]) -> None:
            self._streams.launch([access], lambda: pointer.allocation() and run(), "collectives")

        yield launch

    def join_collectives(self) -> None:
        self._streams.join("collectives")

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        self.device.work("a capture")
        with self.one_thread:
            self.device.capturing = True
            try:
                graph = self._streams.record(run)
            finally:
                self.device.capturing = False

        def replay() -> None:
            self.device.work("a replay")
            graph()

        return replay

    def synchronize(self) -> None:
        self.device.work("a synchronization")
