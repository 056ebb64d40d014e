"""Stages ``stacks``, ``vmap`` and ``stack-sizes``: many networks at once, against one after the other and vmap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

import gpubp
from benchmarks.cases import Task
from benchmarks.contest import Times, environment
from benchmarks.devices import open_backend
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.remote import Remote, RemoteError
from benchmarks.stack_cases import StackContest, StackWorkload
from benchmarks.stack_equality import one_step
from benchmarks.stack_memory import DeviceMemory, memory_row
from benchmarks.timing import interleaved
from gpubp.bench.steps import Steps, Workload
from gpubp.bench.timing import ratio

OURS = "gpubp stack"
VMAPS = ("torch vmap graph", "jax vmap scan")  # the fastest of PyTorch and JAX, without minutes of compiling
STACK = StackWorkload((64, 256, 256, 10), 128, 64, models=256)
NARROW = StackWorkload((64, 64, 64, 10), 32, 64, models=256)
TINY = StackWorkload((8, 16, 4), 8, 4, models=4)  # of dry runs
SIZES = (16, 64, 1024, 4096)
EPOCHS = 20  # as gpubp.train has it where nothing is said
SAMPLED = 16  # networks that are trained by themselves for all of the stack
ALIKE = 0.05  # relative, of the losses of such a network and of the same one in the stack
TRAININGS_AT_LEAST = 20.0  # times as fast
# The first is bound by the device's memory, for everyone.
PEERS_AT_LEAST: dict[Workload, float] = {STACK: 1.1, NARROW: 2.0}
ROUNDS = 5
READY = 25.0  # seconds that everyone has to get ready
A_CONFIGURATION = 8.0  # seconds: with less left, none is begun
NO_TIME = "no time left in this stage"


def stacks(part: Part, settings: Settings) -> None:
    """Equality, trainings one by one, and memory."""
    workload = TINY if part.dry_run else STACK
    try:
        one_step(part, open_backend("cuda", "float64", part.dry_run), "stack-equality")
    except UnavailableError as error:
        part.skipped("networks of a stack and by themselves", str(error), "stack-equality")
    one_by_one(part, workload)
    memory(part, workload)


def vmap(part: Part, settings: Settings) -> None:
    """Steps of 256 networks, against PyTorch's and JAX's."""
    peers(part, settings, (TINY,) if part.dry_run else (NARROW, STACK), VMAPS, ready=max(READY, part.left() / 2))


def sizes(part: Part, settings: Settings) -> None:
    """Stacks of few and of very many networks, and PyTorch's vmap compiled."""
    narrow = [replace(NARROW, models=models) for models in SIZES]
    peers(part, settings, (TINY,) if part.dry_run else narrow, VMAPS)
    if not part.dry_run:
        peers(part, settings, (NARROW,), ("torch vmap compile graph",), ready=30.0)


# -- one by one ---------------------------------------------------------------------------------------------


class OneByOne:
    """A stack and some of its networks by themselves, in this process; the seconds of both come back, by rounds."""

    def __init__(self, workload: StackWorkload, dry_run: bool) -> None:
        self.workload, self.dry_run = workload, dry_run
        self.backend = open_backend("cuda", "float32", dry_run)
        self.sampled = min(SAMPLED, workload.models)
        self.rates = np.geomspace(3e-4, 3e-3, workload.models)

    def trainings(self) -> dict[str, Any]:
        """From a network to its trained weights on the host: the whole stack, and the sampled networks."""
        together, alone = self._train(list(range(self.workload.models))), np.array(self._alone())
        off = float(np.max(np.abs(together[: self.sampled] / alone - 1)))
        if not off <= ALIKE:
            raise ValueError(f"losses of the stack and of its networks by themselves differ by {off:.2g}")
        return self._by_turns(partial(self._train, list(range(self.workload.models))), self._alone)

    def steps(self) -> dict[str, Any]:
        """An epoch of steps whose graphs are there already."""
        stack = Steps(self.workload, self.backend)
        solos = [Steps(member, self.backend) for member in self.workload.members[: self.sampled]]

        def one_after_the_other() -> None:
            for solo in solos:
                solo.run(self.workload.batches)
            solos[-1].wait()

        return self._by_turns(partial(stack.seconds, self.workload.batches), one_after_the_other)

    def _alone(self) -> list[float]:
        return [float(self._train([k])[0]) for k in range(self.sampled)]

    def _train(self, seeds: list[int]) -> Any:
        """The losses (K,) of the last epoch."""
        X, y, _ = self.workload.rows
        net = gpubp.MLP(self.workload.layer_sizes, seed=seeds, models=len(seeds), device=self.backend)
        options = {"batch_size": self.workload.batch_size, "epochs": 2 if self.dry_run else EPOCHS}
        history = gpubp.train(net, X, y, seed=seeds, learning_rate=self.rates[seeds], **options)
        self.backend.to_host(net.theta)
        return np.atleast_1d(history.loss[-1])

    def _by_turns(self, stack: Any, sampled: Any) -> dict[str, Any]:
        return interleaved({"stack": stack, "sampled": sampled}, *((2, 0) if self.dry_run else (3, 1)))


def one_by_one(part: Part, workload: StackWorkload) -> None:
    """Rows on trainings and, for information, on steps alone."""
    if not part.dry_run and part.left() < A_CONFIGURATION:
        return part.skipped(f"{workload.name}: one by one", NO_TIME, "one-by-one")
    process = Remote(OneByOne, workload, part.dry_run, environment=environment(part.dry_run))
    sampled = min(SAMPLED, workload.models)
    scale = workload.models / sampled
    try:
        for method, what, bar in (
            ("trainings", f"trained for {EPOCHS} epochs", TRAININGS_AT_LEAST),
            ("steps", "an epoch of steps", None),
        ):
            seconds = process.call(method, timeout=part.left())
            times = ratio(scale * seconds["sampled"], seconds["stack"])
            each = f"{np.median(seconds['stack']):.3f} s; {sampled} took {np.median(seconds['sampled']):.3f} s"
            name = f"{workload.name}, {what}: one by one ({sampled} measured, times {scale:g}) over the stack"
            met = None if bar is None else times.median >= bar
            part.timed(
                name, "" if bar is None else f">= {bar}", f"{times}; {each}", met, "" if bar is None else "one-by-one"
            )
            part.figures.append({"what": name, "seconds": {k: v.tolist() for k, v in seconds.items()}})
    except UnavailableError as error:
        part.skipped(f"{workload.name}: one by one", str(error), "one-by-one")
    except RemoteError as error:
        part.failed(f"{workload.name}: one by one", str(error), "one-by-one")
    finally:
        process.close()


# -- memory and peers ---------------------------------------------------------------------------------------


def memory(part: Part, workload: StackWorkload) -> None:
    """What a training takes of the device's memory."""
    if part.dry_run:
        return part.skipped(f"{workload.name}: memory", "the host in place of a device has no pool", "stack-memory")
    if part.left() < A_CONFIGURATION:
        return part.skipped(f"{workload.name}: memory", NO_TIME, "stack-memory")
    process = Remote(DeviceMemory, environment=environment(part.dry_run))
    try:
        measured = process.call("training", workload, timeout=part.left())
        memory_row(part, workload, measured, "memory in CuPy's pool", "stack-memory")
    except (UnavailableError, RemoteError) as error:
        part.failed(f"{workload.name}: memory", str(error), "stack-memory")
    finally:
        process.close()


def peers(
    part: Part, settings: Settings, workloads: Sequence[StackWorkload], names: Sequence[str], ready: float = READY
) -> None:
    """Steps of whole stacks, batch selection included for all."""
    told: set[tuple[str, str]] = set()
    names, rounds = settings.chosen_contenders((OURS, *names)), settings.rounds or ROUNDS
    with StackContest(part, names, rounds, ready) as contest:
        for workload, precision in product(workloads, settings.chosen_precisions(("float32",))):
            what = f"{workload.name} {precision}"
            bar = "vmap" if workload in PEERS_AT_LEAST else ""
            if not part.dry_run and part.left() < A_CONFIGURATION:
                part.skipped(what, NO_TIME, bar)
                continue
            times = contest.measure(Task(workload, precision, "cpu" if part.dry_run else "cuda", part.dry_run))
            for name, reason in times.missing.items():
                if (name, reason) not in told:
                    told.add((name, reason))
                    (part.failed if name == OURS else part.skipped)(f"{what}: {name}", reason)
            print(f"     {what}, us: " + ", ".join(f"{n} {times.microseconds(n):,.1f}" for n in times.seconds))
            _against_vmap(part, what, times)


def _against_vmap(part: Part, what: str, times: Times) -> None:
    at_least = PEERS_AT_LEAST.get(times.workload)
    bar = "vmap" if at_least else ""
    there = [name for name in times.seconds if name != OURS]
    if OURS not in times.seconds or not there:
        return part.skipped(f"{what}: fastest vmap over gpubp", "no peer could be measured", bar)
    ratios = times.compared(lambda ours, *theirs: np.min(theirs, axis=0) / ours, OURS, *there)
    part.timed(
        what=f"{what}: fastest vmap over gpubp",
        asked=f">= {at_least}" if at_least else "",
        measured=f"{ratios}; {min(there, key=times.microseconds)}",
        met=ratios.median >= at_least if at_least else None,
        bar=bar,
    )
