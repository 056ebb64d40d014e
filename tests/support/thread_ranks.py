"""Ranks as threads of one process, of which one runs at a time, with as much of mpi4py as `gpubp.training.ranks` uses.

Whoever waits for the others hands on the right to run, so that ranks are in turn exactly where they exchange something.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")
PATIENCE = 60.0  # seconds that a rank waits for the others


class ThreadComm:
    """The communicator of one rank; those of all ranks share a board.

    Parameters
    ----------
    rank, size : int
    board : list
        What each rank has put up.
    barrier : threading.Barrier
    turn : threading.Lock
        Held by the rank that runs.
    """

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier, turn: Any) -> None:
        self.rank, self.size, self.board, self.barrier, self.turn = rank, size, board, barrier, turn

    def Dup(self) -> ThreadComm:  # noqa: N802
        return self

    def Free(self) -> None:  # noqa: N802
        pass

    def Get_rank(self) -> int:  # noqa: N802
        return self.rank

    def Get_size(self) -> int:  # noqa: N802
        return self.size

    def Allgather(self, sent: Any, received: Any) -> None:  # noqa: N802
        every = self.exchange("Allgather", sent)
        assert all(len(one) == len(sent) for one in every)
        received[...] = every

    def Allgatherv(self, sent: Any, received: Any) -> None:  # noqa: N802
        flat, (counts, starts) = received
        for part, count, start in zip(self.exchange("Allgatherv", sent), counts, starts, strict=True):
            flat[start : start + count] = part

    def Ialltoallv(self, sent: Any, received: Any) -> ThreadComm:  # noqa: N802
        parts, (counts, starts) = received
        into = parts.reshape(-1)
        for (flat, (theirs, at)), count, start in zip(self.exchange("Ialltoallv", sent), counts, starts, strict=True):
            assert theirs[self.rank] == count
            into[start : start + count] = flat[at[self.rank] : at[self.rank] + count]
        return self

    def Wait(self) -> None:  # noqa: N802
        """What this communicator began has ended."""

    def exchange(self, call: str, given: Any) -> list[Any]:
        """What all ranks give in the same call, copied once all have come."""
        self.board[self.rank] = call, given
        self._wait()
        assert {name for name, _ in self.board} == {call}, f"ranks are in different calls: {self.board}"
        every = [_copied(given) for _, given in self.board]
        self._wait()
        return every

    def _wait(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.turn.acquire()


def _copied(given: Any) -> Any:
    return [given[0].copy(), given[1]] if isinstance(given, list) else np.array(given)


def on_ranks(size: int, work: Callable[[ThreadComm], Result]) -> list[Result | BaseException]:
    """What ``work(communicator)`` returns or raises on each of so many ranks."""
    board, barrier, turn = [None] * size, threading.Barrier(size), threading.Lock()
    outcomes: list[Any] = [None] * size

    def run(rank: int) -> None:
        with turn:
            try:
                outcomes[rank] = work(ThreadComm(rank, size, board, barrier, turn))
            except BaseException as error:
                outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
