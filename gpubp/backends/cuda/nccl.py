"""Sums over the GPUs of several processes, through NCCL."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

from gpubp._typing import Array
from gpubp.backends.collectives import Processes
from gpubp.backends.cuda.driver import Driver
from gpubp.backends.cuda.faults import explain
from gpubp.backends.cuda.probe import probe
from gpubp.errors import DeviceError

INSTALL = "pip install 'gpubp[nccl13]' (or 'gpubp[nccl12]' for CUDA 12)"
CAPTURED_SINCE = 2_09_00  # the first version of NCCL whose sums can be captured into graphs


def available() -> bool:
    """Whether CuPy finds NCCL."""
    with warnings.catch_warnings():  # CuPy warns if it does not
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl

    return bool(nccl.available)


class NcclSum:
    """Replaces each process's arrays by the sums over all, on the device; an `OverlappingSum` if `overlapping`.

    NCCL's order of addition follows from the devices and their connections: it is the same on every call, and all
    processes get the same bits. Its sums run in a separate stream, one after the other, each after what was launched
    before it.

    Parameters
    ----------
    processes : Processes
        Each has its own device, which is CuPy's current one.
    driver : Driver
        Of the current device.
    overlapping : bool
        Whether a captured step may begin sums. Then either all processes capture them, or none.

    Raises
    ------
    DeviceError
        On all processes if two share a device; or if NCCL cannot start.
    """

    def __init__(self, processes: Processes, driver: Driver, overlapping: bool = False) -> None:
        import cupy
        from cupy.cuda import nccl

        self._nccl, self._processes, self._driver, self.overlapping = nccl, processes, driver, overlapping
        self._types = {"f": "NCCL_FLOAT32", "d": "NCCL_FLOAT64"}
        device = _device_here(cupy)
        _check_apart(processes.texts(device))
        identity = list(nccl.get_unique_id()) if processes.rank == 0 else []
        identity = json.loads(processes.texts(json.dumps(identity))[0])
        try:
            self._communicator = nccl.NcclCommunicator(processes.size, bytes(identity), processes.rank)
        except nccl.NcclError as error:
            cause, remedy = explain(error)
            raise DeviceError(f"NCCL cannot start on {device}: {cause}; {remedy}") from error

    def __call__(self, *arrays: Array) -> None:
        """Add up contiguous arrays of float32 or float64."""
        self._processes.meet()  # a device would wait forever for that of a failed process
        for array in arrays:
            self.begin(array)
        self.join()

    @contextmanager
    def beside(self, first: Sequence[Array], last: Sequence[Array]) -> Iterator[None]:
        self._processes.meet()
        try:
            yield
            self(*last)
        except BaseException:  # raised in this process, or reported by another
            # A device may wait for a sum that never comes. Abort ends it at once, and returns when no graph has any.
            Thread(target=self._communicator.abort, name="NCCL abort", daemon=True).start()
            raise

    def begin(self, array: Array) -> None:
        kind = getattr(self._nccl, self._types[array.dtype.char])
        address = array.data.ptr
        with self._driver.collective(array) as stream:
            self._communicator.allReduce(address, address, array.size, kind, self._nccl.NCCL_SUM, stream)

    def join(self) -> None:
        self._driver.join_collectives()


def nccl_sum(processes: Processes, driver: Driver, captured: bool) -> NcclSum | None:
    """The sum of arrays on the devices of processes through NCCL; None if it is missing on one of them.

    Parameters
    ----------
    processes : Processes
    driver : Driver
        The driver of this process's device, CuPy's current one.
    captured : bool
        Whether steps are captured here. Unless they are on all processes, none begins sums within a step.
    """
    there = driver.has_nccl()
    captured = there and captured and _version() >= CAPTURED_SINCE
    every = [json.loads(text) for text in processes.texts(json.dumps([there, captured]))]
    if not all(there for there, _ in every):
        return None
    return NcclSum(processes, driver, overlapping=all(captures for _, captures in every))


def _version() -> int:
    from cupy.cuda import nccl

    return int(nccl.get_version())


def _device_here(cupy: Any) -> str:
    """An identifier of the current device, unique across machines."""
    index = cupy.cuda.Device().id
    return f"{platform.node()}, GPU {cupy.cuda.runtime.deviceGetPCIBusId(index)}"


def _check_apart(devices: list[str]) -> None:
    for rank, device in enumerate(devices):
        if (first := devices.index(device)) != rank:
            raise DeviceError(
                f"ranks {first} and {rank} are on one device ({device}); each needs a GPU of its own, such as "
                f'device="cuda:{rank}"'
            )


def own_device(place: int, processes: int) -> int | None:
    """The GPU index for one of `processes` processes on a machine; None if no GPU works there.

    If each process sees a single GPU, its launcher has chosen it.

    Raises
    ------
    DeviceError
        If there are too few.
    """
    if not probe().usable:
        return None
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if count == 1:
        return 0
    if count < processes:
        raise DeviceError(f"{processes} processes on a machine with {count} GPUs; start one for each GPU")
    return place
