"""Stage ``onchip``: training on the chip against the same steps as graphs: results, bits and times."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from benchmarks.contest import environment
from benchmarks.devices import open_backend
from benchmarks.gpu.parity import TINY as TINY_EXAMPLES
from benchmarks.gpu.parity import TOLERANCE, Example, Followed, bits_of
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stacks import NARROW, NO_TIME, TINY, VMAPS, peers
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.remote import Remote, RemoteError
from benchmarks.stack_cases import StackWorkload
from benchmarks.timing import interleaved
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.bench.steps import Steps, Workload
from gpubp.bench.timing import ratio, spread

EXAMPLES = {
    "float32": (
        Example((64, 64, 64, 10), 32),
        Example((33, 65, 17, 3), 31, "gelu", optimizer="momentum", learning_rate=0.5, max_grad_norm=0.1),
        Example((20, 40, 40, 4), 32, "silu", models=5, dropout=0.3, weight_decay=0.01),
        Example((16, 24, 2), 200, "sigmoid", "half_squared_error", "nesterov", learning_rate=0.1, models=3),
    ),
    "float64": (
        Example((33, 65, 17, 3), 31, "gelu", optimizer="momentum", learning_rate=0.5, max_grad_norm=0.1),
        Example((16, 24, 2), 200, "sigmoid", "half_squared_error", "nesterov", learning_rate=0.1, models=3),
    ),
    "tf32": (
        Example((64, 64, 64, 10), 32),
        Example((20, 40, 40, 4), 32, "silu", models=5, dropout=0.3, weight_decay=0.01),
    ),
}
LIMIT = {**TOLERANCE, "tf32": 3e-3}  # of the slots too, which are sums of what was rounded in several layers
ALONE = (
    Workload((64, 64, 64, 10), 32, 64),
    Workload((64, 100, 10), 32, 64),
    Workload((30, 100, 1), 32, 64),
    Workload((64, 100, 10), 200, 16),
)
BY_TENSOR_CORES = (ALONE[0], NARROW)  # in TF32 too
STACKED = (NARROW, StackWorkload((64, 64, 64, 10), 32, 64, models=4096))
WAYS = ("on-chip", "graph")
STEPS, FRESH = 12, 3
COMPILING = 25.0  # seconds until every kernel is compiled, by a process for each example and way
ASKED: dict[Workload, float] = {ALONE[0]: 3.0}  # times as fast as the graph
ROUNDS = 7
A_WORKLOAD, A_CONTEST = 5.0, 20.0  # seconds: with less left, none is begun


def onchip(part: Part, settings: Settings) -> None:
    """Rows on results and bits, then on times, the most important ones first."""
    _compile(part)
    fresh = [Remote(FreshProcess, environment=environment(part.dry_run)) for _ in range(2 if part.dry_run else FRESH)]
    try:
        for process in fresh:
            process.send("bits", part.dry_run)
        for precision in EXAMPLES:
            what = f"{precision}: a step on the chip against the graph's"
            _tried(part, what, "onchip-parity", partial(_against_the_graph, part, precision))
        _rows_on_bits(part, fresh)
    finally:
        for process in fresh:
            process.close()
    alone = (Workload((8, 16, 4), 8, 4),) if part.dry_run else ALONE
    timed = [("float32", workload) for workload in (*alone, *((TINY,) if part.dry_run else STACKED))]
    timed += [("tf32", workload) for workload in (alone if part.dry_run else BY_TENSOR_CORES)]
    for precision, workload in timed:
        what = f"{workload.name}{' tf32' * (precision == 'tf32')}: step as a graph over on the chip"
        bar = "onchip-step" if precision == "float32" and workload in ASKED else ""
        _tried(part, what, bar, partial(_steps, part, workload, precision, what, bar))
    _tried(part, "a step of few rows", "", partial(_few_rows, part, alone[0]))
    for stack in (TINY,) if part.dry_run else STACKED:
        if not part.dry_run and part.left() < A_CONTEST:
            part.skipped(f"{stack.name}: against vmap", NO_TIME)
            continue
        peers(part, settings, (stack,), VMAPS)


def backends(precision: str, dry_run: bool) -> dict[str, CudaBackend]:
    """The two ways of the same device."""
    ways = {}
    for way in WAYS:
        backend = open_backend("cuda", precision, dry_run)
        assert isinstance(backend, CudaBackend)
        backend.on_chip = way == "on-chip"
        ways[way] = backend
    return ways


def _tried(part: Part, what: str, bar: str, measure: Callable[[], None]) -> None:
    """A row where it fails, so that the others are measured all the same."""
    try:
        measure()
    except Exception as error:
        traceback.print_exc()
        part.failed(what, f"{type(error).__name__}: {error}", bar)


def examples(precision: str, dry_run: bool) -> Sequence[Example]:
    """The trainings that are followed."""
    return TINY_EXAMPLES[:1] if dry_run else EXAMPLES[precision]


# -- compiling ----------------------------------------------------------------------------------------------


class Compiler:
    """A process that takes a step, and so leaves its kernels in CuPy's cache."""

    def step(self, example: Example, precision: str, way: str, dry_run: bool) -> None:
        """A first step, and one of fewer rows."""
        followed = Followed(example, backends(precision, dry_run)[way], 2)
        followed.step.train_epoch(followed.table)
        followed.host()


def _compile(part: Part) -> None:
    """Have every kernel compiled that the rows need, all at the same time; failures show where it is needed."""
    if part.dry_run:
        return
    jobs = [(example, precision, way) for precision, some in EXAMPLES.items() for example in some for way in WAYS]
    jobs.append((Example((30, 100, 1), 32, "relu", "half_squared_error"), "float32", "on-chip"))
    processes = [Remote(Compiler, environment=environment(part.dry_run)) for _ in jobs]
    try:
        for process, job in zip(processes, jobs, strict=True):
            process.send("step", *job, part.dry_run)
        end = part.left() - COMPILING
        for process in processes:
            with suppress(UnavailableError, RemoteError):
                process.receive(max(0.1, part.left() - end))
    finally:
        for process in processes:
            process.close()


# -- results ------------------------------------------------------------------------------------------------


def _against_the_graph(part: Part, precision: str) -> None:
    """A row on how far steps on the chip are from those of the graph, each taken from where the other stood."""
    try:
        ways = backends(precision, part.dry_run)
    except UnavailableError as error:
        return part.skipped(f"{precision}: steps on the chip against the graph's", str(error), "onchip-parity")
    errors: dict[str, float] = {}
    for example in examples(precision, part.dry_run):
        found = _errors(example, ways)
        part.figures.append({"precision": precision, "example": example.name, **found})
        errors = {what: max(error, errors.get(what, 0.0)) for what, error in found.items()}
    limit = LIMIT[precision]
    part.computed(
        what=f"{precision}: a step on the chip against the graph's",
        asked=f"<= {limit:.0e}",
        measured=", ".join(f"{what} {error:.1e}" for what, error in errors.items()),
        met=all(error <= limit for error in errors.values()),
        bar="onchip-parity",
    )


def _errors(example: Example, ways: dict[str, CudaBackend]) -> dict[str, float]:
    """The largest relative error of loss, slots and θ in any step of any network."""
    found = {way: Followed(example, backend, STEPS) for way, backend in ways.items()}
    if found["on-chip"].step.way != "on-chip":
        raise ValueError(f"{example.name} does not go on the chip")
    chip, graph = found["on-chip"], found["graph"]
    errors = {"loss": 0.0, "slots": 0.0, "theta": 0.0}
    for index in range(STEPS):
        for source, target in zip(_carried(graph), _carried(chip), strict=True):
            target[...] = chip.backend.from_host(graph.backend.to_host(source))
        for one in (chip, graph):
            one.step.run_steps(1, one.rows(index))
        after, expected = chip.host(), graph.host()
        loss, expected_loss = (one.step.totals()[:, index, :1] for one in (chip, graph))
        pairs = [("loss", loss, expected_loss), ("theta", after["theta"], expected["theta"])]
        pairs += [("slots", *slots) for slots in zip(after["slots"], expected["slots"], strict=True)]
        if (after["updates"] != expected["updates"]).any():
            raise ValueError(f"{example.name}: {after['updates']} updates instead of {expected['updates']}")
        for what, measured, exact in pairs:
            off = np.linalg.norm(measured - exact, axis=1) / np.linalg.norm(exact, axis=1)
            errors[what] = max(errors[what], float(off.max()))
    return errors


def _carried(one: Followed) -> list[Any]:
    """θ, slots and the count of updates where they lie."""
    return [one.step.live.theta, *one.state.slots, one.state.updates]


class FreshProcess:
    """One of several that should all compute the same."""

    def bits(self, dry_run: bool) -> dict[str, list[str]]:
        """By precision, a digest for each training."""
        digests = {}
        for precision in EXAMPLES:
            backend = backends(precision, dry_run)["on-chip"]
            followed = (Followed(example, backend, STEPS) for example in examples(precision, dry_run))
            digests[precision] = [bits_of(one) for one in followed]
        return digests


def _rows_on_bits(part: Part, processes: Sequence[Remote]) -> None:
    try:
        found = [process.receive(part.left()) for process in processes]
    except (UnavailableError, RemoteError) as error:
        return part.failed("on the chip: bits of the final weights, fresh processes", str(error), "onchip-bits")
    for precision in EXAMPLES:
        kinds = len({tuple(digests[precision]) for digests in found})
        part.computed(
            what=f"{precision} on the chip: bits of the final weights, {len(found)} fresh processes",
            asked="identical",
            measured=f"{kinds} kind{'s' * (kinds > 1)}",
            met=kinds == 1,
            bar="onchip-bits",
        )


# -- times --------------------------------------------------------------------------------------------------


def _steps(part: Part, workload: Workload, precision: str, what: str, bar: str) -> None:
    """A row on the steps of an epoch, by turns on the chip and as graphs."""
    asked = ASKED[workload] if bar else None
    if not part.dry_run and part.left() < A_WORKLOAD:
        return part.skipped(what, NO_TIME, bar)
    steps = {way: Steps(workload, backend) for way, backend in backends(precision, part.dry_run).items()}
    if steps["on-chip"].step.way != "on-chip":
        return part.skipped(what, "it does not go on the chip", bar)
    count = workload.batches
    functions = {way: partial(one.seconds, count) for way, one in steps.items()}
    seconds = interleaved(functions, *((2, 0) if part.dry_run else (ROUNDS, 2)))
    times = ratio(seconds["graph"], seconds["on-chip"])
    each = ", ".join(f"{way} {1e6 * np.median(values) / count:,.2f} us" for way, values in seconds.items())
    part.timed(
        what=what,
        asked=f">= {asked}" if asked else "",
        measured=f"{times}; {each}",
        met=times.median >= asked if asked else None,
        bar=bar,
    )
    figures = {way: values.tolist() for way, values in seconds.items()}
    part.figures.append({"workload": workload.name, "precision": precision, "steps": count, "seconds": figures})


def _few_rows(part: Part, workload: Workload) -> None:
    """A row on steps of 4 rows, which is what a step takes beside its products."""
    steps, count = Steps(workload, backends("float32", part.dry_run)["on-chip"]), workload.batches

    def run() -> None:
        steps.run(count, 4)
        steps.wait()

    seconds = interleaved({"on-chip": run}, *((2, 0) if part.dry_run else (ROUNDS, 2)))["on-chip"]
    part.timed(f"{workload.name}, 4 rows of each batch: on the chip", "", f"{spread(1e6 * seconds / count)} us", None)
