"""Stages of step times: steps of Adam against peers, against plain CuPy, and against their floor."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np

from benchmarks.cases import LARGE, PRECISIONS, SMALL, Task
from benchmarks.contest import Contest, Times, environment
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import CONTENDERS, Contender, UnavailableError
from benchmarks.peers.floors import copied
from benchmarks.remote import Remote, RemoteError
from gpubp.bench.steps import Workload

OURS, UNFUSED, GEMMS, COPY, OPTIMIZER = "gpubp", "gpubp cuda-unfused", "bare GEMMs", "copy", "optimizer at copy rate"
FASTEST = ("torch graph", "jax scan")  # of PyTorch and JAX, without minutes of compiling
COMPILED = ("torch compile", "torch compile autotuned")
PEERS = ("torch eager", *COMPILED, "torch graph", "jax jit", "jax scan")
ADAM_BYTES = 28  # a parameter: its gradient read, itself and two slots read and written, all in float32
ROUNDS = 5  # turns of everyone

AT_LEAST = {SMALL[0]: 1.5, SMALL[1]: 1.5, SMALL[2]: 1.2}  # times as fast as the fastest peer
AT_LEAST_ELSEWHERE = 0.95
UNFUSED_AT_LEAST = 4.0  # times as fast as cuda-unfused, for the small networks
FLOOR_AT_MOST = {(LARGE[1], "tf32"): 1.10, (LARGE[1], "bfloat16"): 1.13}
# By what is asked of it: the first two are in tf32 and bfloat16 what the floor is asked of.
BY_IMPORTANCE = (LARGE[1], LARGE[0], LARGE[2])

TINY = Workload((8, 16, 16, 4), 8, 4)  # of dry runs
ONE_TASK = ((TINY, "float32"),)
A_CONFIGURATION, A_START = 6.0, 10.0  # seconds: with less left, none is begun
NO_TIME = "no time left in this stage"
CACHES = (
    *("CUPY_CACHE_DIR", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
    "JAX_COMPILATION_CACHE_DIR",
)


def small(part: Part, settings: Settings) -> None:
    """Three small networks, in float32 and bfloat16."""
    chosen = settings.chosen_precisions(("float32", "bfloat16"))
    tasks = product((TINY,), PRECISIONS) if part.dry_run else product(SMALL, chosen)
    step_times(part, settings, (OURS, *FASTEST, GEMMS, COPY), tasks)


def large(part: Part, settings: Settings) -> None:
    """Three large networks, in TF32 and bfloat16."""
    chosen = settings.chosen_precisions(("tf32", "bfloat16"))
    names = (OURS, GEMMS, COPY) if part.dry_run else (OURS, *FASTEST, GEMMS, COPY)  # peers ran in the stage before
    step_times(part, settings, names, ONE_TASK if part.dry_run else product(BY_IMPORTANCE, chosen), ready=40.0)


def compiled(part: Part, settings: Settings) -> None:
    """Two small networks: torch.compile, which takes long to get ready, and plain CuPy."""
    chosen = settings.chosen_precisions(("float32",))
    tasks = ONE_TASK if part.dry_run else product((SMALL[2], SMALL[1]), chosen)
    step_times(part, settings, (OURS, UNFUSED, *COMPILED), tasks, ready=36.0)


def precisions(part: Part, settings: Settings) -> None:
    """Small networks in TF32, then large ones in float32; with more peers."""
    names = (OURS, "torch eager", "torch graph", "jax jit", "jax scan", GEMMS, COPY)
    tasks = [*product(SMALL, settings.chosen_precisions(("tf32",)))]
    tasks += [*product(BY_IMPORTANCE, settings.chosen_precisions(("float32",)))]
    step_times(part, settings, names[:1] if part.dry_run else names, ONE_TASK if part.dry_run else tasks, ready=40.0)


def step_times(
    part: Part,
    settings: Settings,
    names: Sequence[str],
    tasks: Iterable[tuple[Workload, str]],
    ready: float = 25.0,
) -> None:
    """These contenders on networks in precisions."""
    told: set[tuple[str, str]] = set()
    names, rounds = settings.chosen_contenders(names), settings.rounds or ROUNDS
    with Contest(part, names, rounds, ready, settings.references) as contest:
        for workload, precision in tasks:
            what = f"{workload.name} {precision}"
            if not part.dry_run and part.left() < A_CONFIGURATION:
                part.skipped(what, NO_TIME, _bar_of(workload))
                continue
            times = contest.measure(_task(part, workload, precision))
            for name, reason in times.missing.items():
                if (name, reason) not in told:
                    told.add((name, reason))
                    (part.failed if name == OURS else part.skipped)(f"{what}: {name}", reason)
            if OURS in times.seconds:
                _tell(times, part.dry_run)
                _against_peers(part, what, times)
                _against_unfused(part, what, times)
                _against_the_floor(part, what, times)


def _bar_of(workload: Workload) -> str:
    return "peers-large" if workload in LARGE else "peers-small"


def _tell(times: Times, dry_run: bool) -> None:
    """Everyone's step, in one line."""
    microseconds = {name: times.microseconds(name) for name in CONTENDERS if name in times.seconds}
    if COPY in microseconds:
        microseconds[OPTIMIZER] = _copies(times, dry_run) * microseconds.pop(COPY)
    steps = ", ".join(f"{name} {value:,.1f}" for name, value in microseconds.items())
    print(f"     {times.workload.name} {times.precision}, us: {steps}", flush=True)


def _against_peers(part: Part, what: str, times: Times) -> None:
    peers = [name for name in PEERS if name in times.seconds]
    if not peers:
        return part.skipped(f"{what}: fastest peer over gpubp", "no peer could be measured", _bar_of(times.workload))
    bar = AT_LEAST.get(times.workload, AT_LEAST_ELSEWHERE)
    ratio = times.compared(lambda ours, *theirs: np.min(theirs, axis=0) / ours, OURS, *peers)
    fastest = min(peers, key=times.microseconds)
    part.timed(
        what=f"{what}: fastest peer over gpubp",
        asked=f">= {bar}",
        measured=f"{ratio}; {fastest}",
        met=ratio.median >= bar,
        bar=_bar_of(times.workload),
    )


def _against_unfused(part: Part, what: str, times: Times) -> None:
    if UNFUSED not in times.seconds:
        return
    ratio = times.compared(lambda ours, unfused: unfused / ours, OURS, UNFUSED)
    asked = times.workload in SMALL
    part.timed(
        f"{what}: cuda-unfused over gpubp",
        f">= {UNFUSED_AT_LEAST}" if asked else "",
        str(ratio),
        ratio.median >= UNFUSED_AT_LEAST if asked else None,
        "unfused" if asked else "",
    )


def _against_the_floor(part: Part, what: str, times: Times) -> None:
    if not {GEMMS, COPY} <= times.seconds.keys():
        return
    copies = _copies(times, part.dry_run)
    ratio = times.compared(lambda ours, gemms, copy: ours / (gemms + copies * copy), OURS, GEMMS, COPY)
    bar = FLOOR_AT_MOST.get((times.workload, times.precision))
    part.timed(
        f"{what}: gpubp over bare GEMMs + {OPTIMIZER}",
        f"<= {bar:.2f}" if bar else "",
        str(ratio),
        ratio.median <= bar if bar else None,
        "floor" if bar else "",
    )


def _copies(times: Times, dry_run: bool) -> float:
    """How many of the measured copies, each byte read and written, move as much as the optimizer must."""
    return ADAM_BYTES * times.workload.parameters / (2 * copied(dry_run))


def first(part: Part, settings: Settings) -> None:
    """Seconds from the start of a process to the end of its first step: with empty caches, then with filled ones."""
    task = _task(part, TINY if part.dry_run else SMALL[2], "float32")
    workload = task.workload
    for name in [OURS] if part.dry_run else settings.chosen_contenders((OURS, *FASTEST, "torch compile")):
        what = f"{workload.name} float32: first step of a fresh process, {name}"
        if not part.dry_run and part.left() < A_START:
            part.skipped(what, NO_TIME)
            continue
        with tempfile.TemporaryDirectory() as folder:
            variables = {**environment(part.dry_run), **{cache: f"{folder}/{cache}" for cache in CACHES}}
            try:
                empty, filled = (_first_step(name, task, variables, part.left()) for _ in range(2))
            except (UnavailableError, RemoteError) as error:
                part.skipped(what, str(error))
                continue
        part.timed(what, "", f"{empty:.1f} s, {filled:.1f} s with filled caches", None)
        seconds = {"cold": empty, "warm": filled}
        part.figures.append({"network": workload.name, "contender": name, "first step": seconds})


def _first_step(name: str, task: Task, variables: Mapping[str, str | None], timeout: float) -> float:
    start = time.perf_counter()
    process = Remote(Contender, name, environment=variables)
    try:
        process.call("prepare", task, timeout=timeout)
        process.call("take", 1, timeout=timeout)
        return time.perf_counter() - start
    finally:
        process.close()


def _task(part: Part, workload: Workload, precision: str) -> Task:
    return Task(workload, precision, "cpu" if part.dry_run else "cuda", part.dry_run)
