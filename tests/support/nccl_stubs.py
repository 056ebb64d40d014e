"""A stand-in for CuPy's module of NCCL: it notes what is called, and adds up what lies on stand-ins for devices."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np

from support.thread_ranks import ThreadComm

IDENTITY = bytes(range(128))


class NcclError(RuntimeError):
    """What CuPy raises where a call into NCCL fails."""


class Nccl(types.ModuleType):
    """CuPy's module, as far as it is used; what is called is noted.

    Attributes
    ----------
    ranks : dict of ThreadComm by int
        By which ranks that are here exchange what a sum in a stream of the host driver's is of.
    """

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0
    NcclError = NcclError
    available = True

    def __init__(self) -> None:
        super().__init__("cupy.cuda.nccl")
        self.calls: list[tuple[Any, ...]] = []
        self.ranks: dict[int, ThreadComm] = {}

    def get_unique_id(self) -> bytes:
        return IDENTITY

    def get_version(self) -> int:
        return 2_27_07

    def NcclCommunicator(self, size: int, identity: bytes, rank: int) -> NcclCommunicator:  # noqa: N802
        return NcclCommunicator(self, size, identity, rank)


class NcclCommunicator:
    """Of one rank."""

    def __init__(self, module: Nccl, size: int, identity: bytes, rank: int) -> None:
        if identity != IDENTITY:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        self.module, self.rank = module, rank
        module.calls.append(("start", size, rank))

    def allReduce(self, *arguments: Any) -> None:  # noqa: N802
        self.module.calls.append(arguments)
        if not callable(arguments[-1]):
            return
        sent, received, count, kind, operation, stream = arguments
        assert sent == received and operation == Nccl.NCCL_SUM
        dtype = np.dtype({Nccl.NCCL_FLOAT32: np.float32, Nccl.NCCL_FLOAT64: np.float64}[kind])
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(sent)

        def add() -> None:
            array = np.frombuffer(memory, dtype)
            every = self.module.ranks[self.rank].exchange("allReduce", array)
            assert len({len(one) for one in every}) == 1
            with np.errstate(all="ignore"):
                array[...] = sum(every[1:], start=every[0])

        stream(add)

    def abort(self) -> None:
        self.module.calls.append(("abort", self.rank))
