"""Parts ``small`` and ``large``: a step of Adam against peers, against plain CuPy, and against its floor."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.cases import LARGE, PRECISIONS, SMALL, Task
from benchmarks.contest import Contest, Times, environment
from benchmarks.gpu.mnist import end_to_end
from benchmarks.parts import Part
from benchmarks.peers import ON_A_GPU, Contender, UnavailableError
from benchmarks.peers.floors import copied
from benchmarks.remote import Remote, RemoteError
from gpubp.bench.steps import Workload

OURS, UNFUSED, GEMMS, COPY, OPTIMIZER = "gpubp", "gpubp cuda-unfused", "bare GEMMs", "copy", "optimizer at copy rate"
PEERS = ("torch eager", "torch compile", "torch graph", "jax jit", "jax scan")
ADAM_BYTES = 28  # a parameter: its gradient read, itself and two slots read and written, all in float32

AT_LEAST = {SMALL[0]: 1.5, SMALL[1]: 1.5, SMALL[2]: 1.2}  # times as fast as the fastest peer
AT_LEAST_ELSEWHERE = 0.95
UNFUSED_AT_LEAST = 4.0  # times as fast as cuda-unfused, for the small networks
FLOOR_AT_MOST = {(LARGE[1], "tf32"): 1.10, (LARGE[1], "bfloat16"): 1.10}

TINY = Workload((8, 16, 16, 4), 8, 4)  # of dry runs
A_CONFIGURATION, A_START = 40.0, 15.0  # seconds: with less left, none is begun
NO_TIME = "no time left in this part"
CACHES = (
    *("CUPY_CACHE_DIR", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
    "JAX_COMPILATION_CACHE_DIR",
)


def small(part: Part, mnist: str | None) -> None:
    """MNIST from call to weights, step times of three small networks, and the first step of a fresh process."""
    end_to_end(part, mnist)
    workloads = (TINY,) if part.dry_run else SMALL
    step_times(part, list(ON_A_GPU), workloads, PRECISIONS)
    first_steps(part, workloads[-1])


def large(part: Part) -> None:
    """Step times of three large networks."""
    if part.dry_run:
        without_peers = [name for name in ON_A_GPU if name not in PEERS]  # they were seen to run in the other part
        step_times(part, without_peers, (TINY,), PRECISIONS[:1])
    else:
        step_times(part, list(ON_A_GPU), LARGE, PRECISIONS)


def step_times(part: Part, names: Sequence[str], workloads: Sequence[Workload], precisions: Sequence[str]) -> None:
    """These contenders on every network in every precision."""
    told: set[tuple[str, str]] = set()
    with Contest(part, names) as contest:
        for workload in workloads:
            for precision in precisions:
                what = f"{workload.name} {precision}"
                if part.left() < A_CONFIGURATION:
                    part.skipped(what, NO_TIME)
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


def _tell(times: Times, dry_run: bool) -> None:
    """Everyone's step, in one line."""
    microseconds = {name: times.microseconds(name) for name in ON_A_GPU if name in times.seconds}
    if COPY in microseconds:
        microseconds[OPTIMIZER] = _copies(times, dry_run) * microseconds.pop(COPY)
    steps = ", ".join(f"{name} {value:,.1f}" for name, value in microseconds.items())
    print(f"     {times.workload.name} {times.precision}, us: {steps}", flush=True)


def _against_peers(part: Part, what: str, times: Times) -> None:
    peers = [name for name in PEERS if name in times.seconds]
    if not peers:
        return part.skipped(f"{what}: fastest peer over gpubp", "no peer could be measured")
    bar = AT_LEAST.get(times.workload, AT_LEAST_ELSEWHERE)
    ratio = times.compared(lambda ours, *theirs: np.min(theirs, axis=0) / ours, OURS, *peers)
    fastest = min(peers, key=times.microseconds)
    part.timed(f"{what}: fastest peer over gpubp", f">= {bar}", f"{ratio}; {fastest}", ratio[0] >= bar)


def _against_unfused(part: Part, what: str, times: Times) -> None:
    if UNFUSED not in times.seconds:
        return
    ratio = times.compared(lambda ours, unfused: unfused / ours, OURS, UNFUSED)
    asked = times.workload in SMALL
    part.timed(
        f"{what}: cuda-unfused over gpubp",
        f">= {UNFUSED_AT_LEAST}" if asked else "",
        str(ratio),
        ratio[0] >= UNFUSED_AT_LEAST if asked else None,
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
        ratio[0] <= bar if bar else None,
    )


def _copies(times: Times, dry_run: bool) -> float:
    """How many of the measured copies, each byte read and written, move as much as the optimizer must."""
    return ADAM_BYTES * times.workload.parameters / (2 * copied(dry_run))


def first_steps(part: Part, workload: Workload) -> None:
    """Seconds from the start of a process to the end of its first step: with empty caches, then with filled ones."""
    names = [OURS] if part.dry_run else [OURS, *PEERS]
    task = _task(part, workload, "float32")
    for name in names:
        what = f"{workload.name} float32: first step of a fresh process, {name}"
        if part.left() < A_START:
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
