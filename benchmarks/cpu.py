"""Training steps on a CPU against peers and against their floor: ``python -m benchmarks.cpu --out DIR [--part PART]``.

Everyone's steps select their batch by a permutation; contenders take turns, each in a process of its own, and none
is timed before its steps agree with float64's. What is behind the table goes into DIR/cpu.json. ``--dry-run`` runs
the same program on tiny networks; its figures mean nothing and never stand beside measured ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.cases import ACTIVATIONS, CPU_WORKLOADS, SMALL, Task
from benchmarks.commands import measure_parts, parser_of
from benchmarks.contest import Contest, Times, environment
from benchmarks.cpu_training import Machine, training
from benchmarks.parts import Part
from benchmarks.peers import ON_A_CPU
from benchmarks.remote import Remote
from benchmarks.small_products import products
from gpubp.bench.steps import Workload

FILE, SECONDS = "cpu.json", 1200.0
OURS, REFERENCE, GEMMS, SKLEARN = "gpubp cpu", "gpubp cpu-reference", "bare GEMMs cpu", "scikit-learn"
PEERS, OTHERS = ("torch eager", "torch compile", "jax jit", SKLEARN), ("jax scan", "thinc")
TINY = Workload((8, 16, 16, 4), 8, 4)  # of dry runs

MEAN_AT_LEAST = 1.45  # geometric, of the ratios to the fastest peer
FLOOR_AT_MOST = dict(zip(CPU_WORKLOADS, (1.6, 1.35, 1.2, 1.2, 1.15), strict=True))


def steps(part: Part) -> None:
    """Five networks with ReLU, and gpubp without Numba against scikit-learn."""
    ratios = []
    with Contest(part, ON_A_CPU) as contest:
        for workload in (TINY,) if part.dry_run else CPU_WORKLOADS:
            times = _measured(part, contest, workload)
            ratios += _against_peers(part, times)
            bar = FLOOR_AT_MOST.get(workload)
            _compare(part, times, "gpubp over its bare GEMMs", OURS, GEMMS, at_most=bar)
            _compare(part, times, "scikit-learn over gpubp without Numba", SKLEARN, REFERENCE, at_least=1.0)
    if ratios:
        mean = float(np.exp(np.mean(np.log(ratios))))
        met = mean >= MEAN_AT_LEAST
        part.timed("fastest peer over gpubp, geometric mean", f">= {MEAN_AT_LEAST}", f"{mean:.2f}", met)


def activations(part: Part) -> None:
    """784-512-512-10 with other activations than ReLU."""
    workload = TINY if part.dry_run else SMALL[2]
    with Contest(part, (OURS, *PEERS, *OTHERS)) as contest:
        for activation in ACTIVATIONS:
            _against_peers(part, _measured(part, contest, replace(workload, activation=activation)))


def _measured(part: Part, contest: Contest, workload: Workload) -> Times:
    """Everyone's step, printed in one line; who could not take part has a row."""
    times = contest.measure(Task(workload, "float32", "cpu", part.dry_run))
    for name, reason in times.missing.items():
        (part.failed if name == OURS else part.skipped)(f"{workload.name}: {name}", reason)
    microseconds = ", ".join(f"{name} {times.microseconds(name):,.1f}" for name in times.seconds)
    print(f"     {workload.name}, us: {microseconds}", flush=True)
    return times


def _against_peers(part: Part, times: Times) -> list[float]:
    """Rows; the ratio to the fastest peer, if there was one."""
    medians = []
    for names, bar in ((PEERS, 1.0), (OTHERS, None)):
        peers = [name for name in names if name in times.seconds]
        if OURS not in times.seconds or not peers:
            continue
        ratio = times.compared(lambda ours, *theirs: np.min(theirs, axis=0) / ours, OURS, *peers)
        fastest = min(peers, key=times.microseconds)
        what = f"{times.workload.name}: {'fastest peer' if bar else 'fastest of ' + ' and '.join(names)} over gpubp"
        met = None if bar is None else ratio.median >= bar
        part.timed(what, f">= {bar}" if bar else "", f"{ratio}; {fastest}", met)
        medians += [ratio.median] if bar else []
    return medians


def _compare(
    part: Part,
    times: Times,
    what: str,
    a: str,
    b: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> None:
    """A row on the seconds of a over those of b."""
    if not {a, b} <= times.seconds.keys():
        return
    ratio = times.compared(lambda x, y: x / y, a, b)
    asked, met = "", None
    if at_least is not None:
        asked, met = f">= {at_least}", ratio.median >= at_least
    elif at_most is not None:
        asked, met = f"<= {at_most}", ratio.median <= at_most
    part.timed(f"{times.workload.name}: {what}", asked, str(ratio), met)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure some parts."""
    parser = parser_of("cpu", __doc__, FILE, ("steps", "activations", "training", "products"))
    parser.add_argument("--mnist", metavar="FOLDER", help="with MNIST's IDX files; without it, data of their shape")
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[Part], None]] = {
        "steps": steps,
        "activations": activations,
        "training": lambda part: training(part, options.mnist),
        "products": products,
    }
    machine = partial(described_in_a_process, options.dry_run)
    return measure_parts("cpu", options, FILE, parts, machine=machine, seconds=SECONDS)


def described_in_a_process(dry_run: bool) -> dict[str, str]:
    """The machine as a contender's process sees it, whose variables hold OpenBLAS to no slower kernels."""
    machine = Remote(Machine, environment=environment(dry_run))
    try:
        about: dict[str, str] = machine.call("described")
    finally:
        machine.close()
    return about


if __name__ == "__main__":
    sys.exit(main())
