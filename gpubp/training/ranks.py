"""The processes that train one network together, and how they talk: each is a rank, numbered from 0.

Whatever ranks exchange begins with a word in which each says whether it goes on. A rank that fails says so in the next
one, so that all end together with its error, and none waits for a rank that no longer comes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends.blas_threads import share_of_cores
from gpubp.errors import GpubpError, RankError, UsageError

# Of a communicator, as mpi4py has it.
METHODS = ("Dup", "Get_rank", "Get_size", "Allgather", "Allgatherv", "Ialltoallv")


class Ranks(AbstractContextManager["Ranks"]):
    """One process alone.

    Attributes
    ----------
    rank, size : int
        The number of this process, and how many there are.
    """

    rank = 0
    size = 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nobody has to be told how it ended."""

    def gather(self, *numbers: float) -> NDArray[np.float64]:
        """The numbers that each rank gives, (size, n)."""
        return np.array([numbers], np.float64)

    def texts(self, text: str) -> list[str]:
        """The texts that the ranks give, in their order."""
        return [text]

    def sum(self, array: NDArray[Any]) -> None:
        """Put the sum of all ranks' arrays into each of them, added up in the order of the ranks.

        Parameters
        ----------
        array : array of any shape, in one piece, on the host
        """
        self.meet()
        self.begin_sum(array)(array)

    def begin_sum(self, array: NDArray[Any]) -> Callable[[NDArray[Any]], None]:
        """Begin to add up an array of all ranks, as `sum` does, and go on meanwhile.

        All ranks begin the same sums in the same order, after they have met, and end them in this order. Whoever fails
        in between begins and ends them nevertheless.

        Parameters
        ----------
        array : array of any shape, in one piece, on the host
            Left as it is until the sum is ended.

        Returns
        -------
        callable
            ``end(total)`` puts the sum into an array of this size, in one piece, which may be the same.
        """
        return lambda total: np.copyto(total, array)

    def meet(self) -> None:
        """Wait until all ranks have come here."""

    def alike(self, text: str = "") -> list[int]:
        """The ranks on this machine that give the text that this one does."""
        machine = f"{platform.node()} {text}"
        return [rank for rank, other in enumerate(self.texts(machine)) if other == machine]

    def any(self, flag: bool) -> bool:
        """Whether it is true of any rank."""
        return bool(self.gather(flag).any())

    def of_first(self, number: float) -> float:
        """What rank 0 gives."""
        return float(self.gather(number)[0, 0])


class MpiRanks(Ranks):
    """The processes of an MPI communicator.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Of at least two processes. A duplicate is used, so that nothing is mixed up with what is sent by others.
    """

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator.Dup()
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self._entered = 0
        self._failed = False  # whether all ranks know of a failure, and exchange nothing more
        self._exit = ExitStack()

    def __enter__(self) -> MpiRanks:
        self._entered += 1
        if self._entered == 1:
            cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
            self._exit.enter_context(share_of_cores(len(self.alike(str(cores)))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell the others how it ended, once.

        Raises
        ------
        RankError
            If it ended well here, and others failed.
        """
        self._entered -= 1
        if self._entered:
            return
        with self._exit:
            if not self._failed:
                self._go_on(error)
            if not self._failed:
                self._communicator.Free()

    def meet(self) -> None:
        self._go_on()

    def gather(self, *numbers: float) -> NDArray[np.float64]:
        self._go_on()
        return self._gathered(*numbers)

    def texts(self, text: str) -> list[str]:
        self._go_on()
        return self._gathered_texts(text)

    def begin_sum(self, array: NDArray[Any]) -> Callable[[NDArray[Any]], None]:
        """As for one process. Each rank adds up a part of the array, and gives that sum to all."""
        ends = np.arange(1, self.size + 1) * array.size // self.size
        counts, starts = np.diff(ends, prepend=0), np.concatenate([[0], ends[:-1]])
        parts = np.empty((self.size, counts[self.rank]), array.dtype)  # of every rank, of which this one makes the sum
        counts_received = [counts[self.rank]] * self.size
        received = self._communicator.Ialltoallv(
            [in_one_piece(array), (counts, starts)],
            [parts, (counts_received, np.arange(self.size) * counts_received[0])],
        )

        def end(total: NDArray[Any]) -> None:
            received.Wait()
            of_part = parts[0]
            for part in parts[1:]:
                of_part += part
            self._communicator.Allgatherv(of_part, [in_one_piece(total), (counts, starts)])

        return end

    # -- what is sent ----------------------------------------------------------------------------------

    def _go_on(self, error: BaseException | None = None) -> None:
        """Say that this rank goes on, or what ends it, and hear it from the others.

        Raises
        ------
        RankError
            If this rank goes on, and others do not.
        """
        failing = self._gathered(0 if error is None else 2 if isinstance(error, UsageError) else 1)[:, 0]
        if not failing.any():
            return
        self._failed = True
        texts = self._gathered_texts("" if error is None else described(error))
        if error is None:
            rank = int(np.argmax(failing > 0))
            message = f"rank {rank} of {self.size} ended, and all others with it: {texts[rank]}"
            raise RankError(message, rank=rank, usage=failing[rank] > 1)

    def _gathered(self, *numbers: float) -> NDArray[np.float64]:
        received = np.empty((self.size, len(numbers)))
        self._communicator.Allgather(np.array(numbers, np.float64), received)
        return received

    def _gathered_texts(self, text: str) -> list[str]:
        data = np.frombuffer(text.encode(), np.uint8)
        counts = self._gathered(len(data))[:, 0].astype(np.int64)
        starts = np.cumsum(counts) - counts
        received = np.empty(counts.sum(), np.uint8)
        self._communicator.Allgatherv(data, [received, (counts, starts)])
        return [received[start : start + n].tobytes().decode() for start, n in zip(starts, counts, strict=True)]


ALONE = Ranks()


def ranks_of(communicator: Any) -> Ranks:
    """The processes of a communicator as `gpubp.train` takes it: mpi4py's, None, or what this returned before."""
    if communicator is None or isinstance(communicator, Ranks):
        return communicator or ALONE
    if not all(callable(getattr(communicator, name, None)) for name in METHODS):
        raise UsageError(
            f"communicator={communicator!r} does not fit; give one of mpi4py, such as mpi4py.MPI.COMM_WORLD"
        )
    return MpiRanks(communicator) if communicator.Get_size() > 1 else ALONE


def in_one_piece(array: NDArray[Any]) -> NDArray[Any]:
    """An array as (n,), the same memory."""
    flat = array.reshape(-1)
    assert np.shares_memory(flat, array), "an array in one piece"
    return flat


def described(error: BaseException) -> str:
    """An error in a line."""
    if isinstance(error, GpubpError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
