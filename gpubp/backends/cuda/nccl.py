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
CAPTURED_SINCE = 2_09_00  # the version of NCCL whose sums can be captured into graphs


def available() -> bool:
    """Whether CuPy finds NCCL here."""
    with warnings.catch_warnings():  # CuPy warns where it does not
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl

    return bool(nccl.available)


class NcclSum:
    """Puts the sum of all processes' arrays into each of them, on the device; an `OverlappingSum` where that is so.

    NCCL adds up in an order that follows from the devices and how they are connected: the same on every call, and all
    processes get the same bits. Its sums run in a stream of their own, one after the other, after what was launched
    before each was begun.

    Parameters
    ----------
    processes : Processes
        With a device each, which is CuPy's current one.
    driver : Driver
        Of the current device.
    overlapping : bool
        Whether a captured step may begin sums. Those of all processes are captured then, or those of none.

    Raises
    ------
    DeviceError
        On all of them, where two have one device; where it cannot start.
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
        """Add up arrays of float32 or float64, each of them in one piece."""
        self._processes.meet()  # a device would wait for ever for the one of a process that has failed
        for array in arrays:
            self.begin(array)
        self.join()

    @contextmanager
    def beside(self, first: Sequence[Array], last: Sequence[Array]) -> Iterator[None]:
        self._processes.meet()
        try:
            yield
            self(*last)
        except BaseException:  # of this process, or of one from which it hears in the end
            # A device may wait for a sum that is never there. Abort ends it at once, and returns once no graph has any.
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
    """What adds up arrays on the devices of processes by NCCL; None where it is missing on one of them.

    Parameters
    ----------
    processes : Processes
    driver : Driver
        Of this process's device, CuPy's current one.
    captured : bool
        Whether steps are captured here. Where they are not on all, none begins sums within a step.
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
    """What tells the current device from all others, those of other machines too."""
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
    """The index of the GPU of one of so many processes on a machine; None where none works there.

    Where each sees a single one, its launcher has chosen it.

    Raises
    ------
    DeviceError
        Where there are too few.
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
