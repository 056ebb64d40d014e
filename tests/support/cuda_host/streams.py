"""The two streams of the host driver: what was launched aside runs at any moment before they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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


class Streams:
    """In which order launches run.

    A launch that collides with one that was launched aside and is not joined is an error. So the order is of no
    matter, and at random what was launched aside runs at once, or when the streams are joined.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._inside = False  # `aside`
        self._unjoined: list[Access] = []
        self._waiting: list[Launch] = []
        self._recorded: list[tuple[str, Launch]] | None = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is launched inside goes to the second stream."""
        if self._inside:
            raise HostDriverError("work is launched aside of work that is launched aside")
        self._inside = True
        try:
            yield
        finally:
            self._inside = False

    def join(self) -> None:
        """Let what is launched from now on run after all of it."""
        self._send("join", lambda: None)
        self._unjoined.clear()  # until now it kept their memory

    def launch(self, accesses: Sequence[Access], run: Launch) -> None:
        """Run it now or later, or while launches are recorded, note it down."""
        if self._inside:
            self._unjoined += accesses
            return self._send("aside", run)
        for access in accesses:
            for other in filter(access.collides, self._unjoined):
                raise HostDriverError(f"{access.what} is that of {other.what}, which was launched aside and not joined")
        self._send("", run)

    def record(self, run: Launch) -> Launch:
        """What `run` launches, as something to call again and again."""
        self.join()
        self._recorded = recorded = []
        try:
            run()
            self.join()
        finally:
            self._recorded = None
            self._unjoined.clear()

        def replay() -> None:
            self.join()
            for stream, launch in recorded:
                self._run(stream, launch)

        return replay

    def _send(self, stream: str, launch: Launch) -> None:
        if self._recorded is None:
            self._run(stream, launch)
        else:
            self._recorded.append((stream, launch))

    def _run(self, stream: str, launch: Launch) -> None:
        if stream == "aside" and (self._waiting or self._random.integers(2)):
            self._waiting.append(launch)
            return
        if stream == "join":
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each()
        launch()
