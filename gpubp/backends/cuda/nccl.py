"""Sums over the GPUs of several processes, through NCCL."""

from __future__ import annotations

import json
import platform
import warnings
from typing import Any, Protocol

from gpubp._typing import Array
from gpubp.backends.cuda.faults import explain
from gpubp.backends.cuda.probe import probe
from gpubp.errors import DeviceError

INSTALL = "pip install 'gpubp[nccl13]' (or 'gpubp[nccl12]' for CUDA 12)"


class Processes(Protocol):
    """What the sum needs of the processes that take part in it."""

    rank: int
    size: int

    def texts(self, text: str) -> list[str]:
        """The texts that the processes give, in their order."""

    def meet(self) -> None:
        """Wait until all have come here, or hear that one has failed."""


def available() -> bool:
    """Whether CuPy finds NCCL here."""
    with warnings.catch_warnings():  # CuPy warns where it does not
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl

    return bool(nccl.available)


class NcclSum:
    """Puts the sum of all processes' arrays into each of them, on the device.

    NCCL adds up in an order that follows from the devices and how they are connected: the same on every call, and all
    processes get the same bits. The sum takes its turn among the kernels and array arithmetic of its device.

    Parameters
    ----------
    processes : Processes
        With a device each, which is CuPy's current one.

    Raises
    ------
    DeviceError
        On all of them, where two have one device; where it cannot start.
    """

    def __init__(self, processes: Processes) -> None:
        import cupy
        from cupy.cuda import nccl

        self._nccl, self._cupy, self._processes = nccl, cupy, processes
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

    def __call__(self, array: Array) -> None:
        """Add up arrays (K, P) of float32 or float64, in one piece."""
        self._processes.meet()  # a device would wait for ever for the one of a process that has failed
        kind = getattr(self._nccl, self._types[array.dtype.char])
        address, stream = array.data.ptr, self._cupy.cuda.get_current_stream().ptr
        self._communicator.allReduce(address, address, array.size, kind, self._nccl.NCCL_SUM, stream)


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
