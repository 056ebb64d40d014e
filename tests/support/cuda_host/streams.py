"""The streams of the host driver: what was launched aside runs at any moment before they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from support.cuda_host.arrays import DeviceArray
from support.cuda_host.memory import HostDriverError

Launch = Callable[[], None]
WORK = 10_000  # of NumPy's exact answer whether arrays share memory; beyond that they count as sharing it


@dataclass(frozen=True)
class Access:
    """An array that a launch reads, or reads and writes, under a name for messages."""

    what: str
    array: DeviceArray
    writes: bool

    def collides(self, other: Access) -> bool:
        """Whether the order of the two matters."""
        return (self.writes or other.writes) and _share_memory(self.array, other.array)


def _share_memory(a: DeviceArray, b: DeviceArray) -> bool:
    try:
        return np.shares_memory(a._host, b._host, max_work=WORK)
    except np.exceptions.TooHardError:
        return True


SIDES = {"aside": "launched aside", "collectives": "added up over several devices"}


class Streams:
    """In which order launches run.

    A launch that collides with one that was launched aside and is not joined is an error. So the order is of no
    matter, and at random what was launched aside runs at once, or when the streams are joined. Sums over several
    devices are in a stream of their own, which is joined by itself.

    Parameters
    ----------
    seed : int
    one_thread : context manager
        Entered for whatever is launched.
    """

    def __init__(self, seed: int, one_thread: AbstractContextManager[Any]) -> None:
        self.one_thread = one_thread
        self._random = np.random.default_rng(seed)
        self._inside = False  # `aside`
        self._unjoined: dict[str, list[Access]] = {side: [] for side in SIDES}
        self._waiting: dict[str, list[Launch]] = {side: [] for side in SIDES}
        self._recorded: list[tuple[str, Launch]] | None = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is launched inside goes to the second stream."""
        with self.one_thread:
            if self._inside:
                raise HostDriverError("work is launched aside of work that is launched aside")
            self._inside = True
            try:
                yield
            finally:
                self._inside = False

    def join(self, side: str = "aside") -> None:
        """Let what is launched from now on run after all of it."""
        with self.one_thread:
            if self._recorded is None and not self._unjoined[side] and not self._waiting[side]:
                return
            self._send(f"join {side}", lambda: None)
            self._unjoined[side].clear()  # until now it kept their memory

    def join_all(self) -> None:
        """Let what is launched from now on run after all that was launched."""
        for side in SIDES:
            self.join(side)

    def launch(self, accesses: Sequence[Access], run: Launch, stream: str = "") -> None:
        """Run it now or later, or while launches are recorded, note it down."""
        with self.one_thread:
            stream = stream or ("aside" if self._inside else "")
            self._check(accesses, stream)
            if stream:
                self._unjoined[stream] += accesses
            self._send(stream, run)

    def _check(self, accesses: Sequence[Access], stream: str) -> None:
        for access in accesses:
            for side in SIDES.keys() - {stream}:
                for other in filter(access.collides, self._unjoined[side]):
                    raise HostDriverError(
                        f"{access.what} is that of {other.what}, which was {SIDES[side]} and not joined"
                    )

    def record(self, run: Launch) -> Launch:
        """What `run` launches, as something to call again and again."""
        with self.one_thread:
            self.join_all()
            self._recorded = recorded = []
            try:
                run()
                self.join_all()
            finally:
                self._recorded = None
                for accesses in self._unjoined.values():
                    accesses.clear()

        def replay() -> None:
            with self.one_thread:
                self.join_all()
                for stream, launch in recorded:
                    self._run(stream, launch)

        return replay

    def _send(self, stream: str, launch: Launch) -> None:
        if self._recorded is None:
            self._run(stream, launch)
        else:
            self._recorded.append((stream, launch))

    def _run(self, stream: str, launch: Launch) -> None:
        if stream in SIDES and (self._waiting[stream] or self._random.integers(2)):
            self._waiting[stream].append(launch)
            return
        if (side := stream.removeprefix("join ")) != stream:
            waiting, self._waiting[side] = self._waiting[side], []
            for each in waiting:
                each()
        launch()
