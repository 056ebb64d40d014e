"""Contenders measured by turns, each in a process of its own, and none before its steps were verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Task
from benchmarks.machine import PINS
from benchmarks.parts import Part
from benchmarks.peers import Contender, UnavailableError
from benchmarks.remote import Remote, RemoteError
from gpubp.bench.steps import TOLERANCE, VERIFIED, Workload, displacements, error
from gpubp.bench.timing import Spread, spread

ROUNDS, FEWEST, PATIENCE = 11, 5, 20.0  # turns of everyone; seconds after which FEWEST are enough
ENOUGH = 8.0  # seconds of one contender after three turns; the further ones it leaves to the others
TURN = 0.03  # seconds of measured steps in a turn
# Seconds before a turn on the CPU: the last contender's threads go on looking for work for up to 0.1 s, and would
# take the cores from the next one.
REST = 0.2


@dataclass(frozen=True)
class Times:
    """Seconds per step of one network in one precision.

    Attributes
    ----------
    seconds : mapping of str to (rounds,) float64
        For each contender that could be measured.
    missing : mapping of str to str
        Why the others could not.
    """

    workload: Workload
    precision: str
    seconds: Mapping[str, NDArray[np.float64]]
    missing: Mapping[str, str]

    def microseconds(self, name: str) -> float:
        """Median of a contender."""
        return float(np.median(self.seconds[name])) * 1e6

    def compared(self, ratio: Callable[..., NDArray[np.float64]], *names: str) -> Spread:
        """Median and quartiles of ``ratio(seconds, …)`` over the rounds in which all of these took part."""
        rounds = min(len(self.seconds[name]) for name in names)
        return spread(ratio(*(self.seconds[name][:rounds] for name in names)))


class Entrant:
    """A contender in its process, and how it fares in the present task."""

    def __init__(self, name: str, environment: Mapping[str, str | None]) -> None:
        self.name, self.environment = name, environment
        self.process = Remote(Contender, name, environment=environment)
        self.too_slow = ""  # why it is out of all tasks that follow

    def begin(self, task: Task) -> None:
        """Forget the last task."""
        self.figure: dict[str, Any] = {
            "network": task.workload.name,
            "precision": task.precision,
            "contender": self.name,
        }
        self.reason = self.too_slow
        if self.too_slow:
            self.figure["skipped"] = self.too_slow
        self.seconds: list[float] = []
        self.steps = 1  # in a turn

    @property
    def competing(self) -> bool:
        """Whether nothing has kept it from going on."""
        return not self.reason

    @contextmanager
    def failures_noted(self) -> Iterator[None]:
        """What keeps it from going on is noted, and keeps nobody else; nobody knows what state it left behind."""
        try:
            yield
        except UnavailableError as error:
            self.figure["skipped"] = self.reason = str(error)
        except RemoteError as error:
            self.figure["failed"] = self.reason = str(error)
            self.process.close()
            self.process = Remote(Contender, self.name, environment=self.environment)


class Contest:
    """Entrants that take one task after the other.

    Parameters
    ----------
    part : Part
        Where figures go.
    names : sequence of str
        Keys of `benchmarks.peers.CONTENDERS`.
    rounds : int
        Turns of everyone, at most.
    ready : float
        Seconds that everyone has to get ready for a task; a peer that needs more is out of those that follow too.
    references : mapping, optional
        What the first steps of networks add to their tensors, by their names; others are computed.
    """

    def __init__(
        self,
        part: Part,
        names: Sequence[str],
        rounds: int = ROUNDS,
        ready: float = 120.0,
        references: Mapping[str, list[Any]] | None = None,
    ) -> None:
        self.part, self.rounds, self.ready = part, rounds, ready
        self.entrants = [Entrant(name, environment(part.dry_run)) for name in names]
        self.references: dict[str, list[Any]] = dict(references or {})

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *_: object) -> None:
        for entrant in self.entrants:
            entrant.process.close()

    def measure(self, task: Task) -> Times:
        """Verify and time everyone who can do the task; of the others, note why not."""
        patience = 4 * self.ready if self.part.dry_run else self.ready
        deadline = time.monotonic() + min(patience, max(5.0, self.part.left()))
        for entrant in self.entrants:
            entrant.begin(task)
        for entrant in self._competing():
            with entrant.failures_noted():
                entrant.process.send("prepare", task)  # all at once: nothing is timed yet
        if task.workload.name not in self.references:
            self.references[task.workload.name] = self._reference(task.workload)
        for entrant in self._competing():
            with entrant.failures_noted():
                entrant.figure["versions"] = entrant.process.receive(max(1.0, deadline - time.monotonic()))
            if entrant.reason and time.monotonic() >= deadline and not entrant.name.startswith("gpubp"):
                entrant.too_slow = f"not ready in time for {task.workload.name}, {task.precision}"
        for entrant in self._competing():
            with entrant.failures_noted():
                self._verify(entrant, task)
                entrant.steps = self._steps_of_a_turn(self._ask(entrant, "seconds", 1), task.workload.batches)
        self._take_turns(REST if task.device == "cpu" and not self.part.dry_run else 0.0)
        for entrant in self._competing():
            middle, low, high = spread(np.array(entrant.seconds) * 1e6)
            entrant.figure |= {"microseconds": middle, "quartiles": [low, high]}
            entrant.figure |= {"rounds": len(entrant.seconds), "steps in a round": entrant.steps}
        self.part.figures += [entrant.figure for entrant in self.entrants]
        return Times(
            workload=task.workload,
            precision=task.precision,
            seconds={entrant.name: np.array(entrant.seconds) for entrant in self._competing()},
            missing={entrant.name: entrant.reason for entrant in self.entrants if not entrant.competing},
        )

    def _reference(self, workload: Workload) -> list[Any]:
        """What its first steps should add to its tensors."""
        return displacements(workload)

    def _verify(self, entrant: Entrant, task: Task) -> None:
        weights = self._ask(entrant, "weights_after", VERIFIED)
        if not weights:
            return
        off = error(task.workload, weights, self.references[task.workload.name])
        entrant.figure["error after two steps"] = off
        if not off <= TOLERANCE[task.precision]:
            raise RemoteError(f"its steps are not this network's: off by {off:.2g}, relative to float64's")

    def _steps_of_a_turn(self, seconds: float, batches: int) -> int:
        """Whole epochs for about TURN, from the time of a step; fewer steps where an epoch takes a second."""
        if self.part.dry_run:
            return batches
        if seconds * batches > 1:
            return max(1, round(TURN / seconds))
        return batches * max(1, round(TURN / (seconds * batches)))

    def _take_turns(self, rest: float) -> None:
        spent = dict.fromkeys(self._competing(), 0.0)
        for turn in range(2 if self.part.dry_run else self.rounds):
            if turn >= FEWEST and sum(spent.values()) > PATIENCE or turn >= 3 and self.part.left() < 0:
                break
            for entrant in self._competing():
                if turn < 3 or spent[entrant] < ENOUGH:
                    time.sleep(rest)
                    with entrant.failures_noted():
                        seconds = self._ask(entrant, "seconds", entrant.steps)
                        entrant.seconds.append(seconds / entrant.steps)
                        spent[entrant] += 2 * seconds

    def _ask(self, entrant: Entrant, method: str, count: int) -> Any:
        return entrant.process.call(method, count, timeout=self._timeout())

    def _timeout(self) -> float:
        return float(np.clip(self.part.left(), 5, 120))

    def _competing(self) -> list[Entrant]:
        return [entrant for entrant in self.entrants if entrant.competing]


def environment(dry_run: bool) -> dict[str, str | None]:
    """Variables of contenders' processes: none that hold OpenBLAS to slower kernels than the processor has."""
    variables: dict[str, str | None] = dict.fromkeys(PINS)
    return {**variables, "OMP_NUM_THREADS": "1"} if dry_run else variables
