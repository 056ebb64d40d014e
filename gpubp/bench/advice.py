"""Which device to use for a network, from the measurements of ``gpubp bench`` and some more around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from gpubp.backends import CPU_PRECISIONS, get_backend
from gpubp.bench.report import Report
from gpubp.bench.steps import Steps, Workload, rounds, workload
from gpubp.bench.timing import ratio
from gpubp.errors import DeviceError

WIDTHS, BATCH_SIZES = (16, 64, 256, 1024, 4096), (1, 8, 32, 128, 512, 2048)  # at which GPU and CPU are compared
LOOKING = 15.0  # seconds of that comparison


def advice(report: Report) -> list[str]:
    """Sentences on which device to use for this network, by the first precision with measurements."""
    measured = [row for row in report.rows if row.measured]
    if not measured:
        return ["nothing could be measured; gpubp doctor says more"]
    precision = measured[0].precision
    row_of = {row.backend: row for row in measured if row.precision == precision}
    reasons = {row.backend: row.reason for row in report.rows if row.precision == precision}
    best = min(row_of.values(), key=lambda row: row.step.median)
    device = "cuda" if best.backend.startswith("cuda") else "cpu"
    sentences = [f"--device {device} for this network in {precision}: {best.step.median * 1e3:.3g} ms a step"]
    if "reference" in row_of and best.backend != "reference":
        times = ratio(row_of["reference"].seconds, best.seconds).median
        sentences[0] += f", {times:.2g} times as fast as the plain formulas on the CPU"
    if "reference" in row_of and "compiled" not in row_of:
        sentences.append(f"the CPU could be faster: {reasons['compiled']}")
    if "cuda" in row_of:
        sentences += _crossovers(report.network, precision, report.optimizer)
    return sentences


def _crossovers(measured: Workload, precision: str, optimizer: str) -> list[str]:
    """The width of the hidden layers and the batch size from which the GPU is faster."""
    first, *hidden, last = measured.layer_sizes
    end = time.perf_counter() + LOOKING
    cpu = precision if precision in CPU_PRECISIONS else "float32"

    def wins(case: Workload) -> bool | None:
        """None if no time is left, or not enough memory."""
        if time.perf_counter() > end:
            return None
        try:
            both = {
                "cuda": Steps(case, get_backend("cuda", precision), optimizer),
                "cpu": Steps(case, get_backend("cpu", cpu), optimizer),
            }
            seconds = list(islice(rounds(both), 3))
        except (DeviceError, MemoryError):
            return None
        return ratio([s["cpu"] for s in seconds], [s["cuda"] for s in seconds]).median > 1

    sentences = []
    if hidden:
        widths = {w: replace(measured, layer_sizes=(first, *[w] * len(hidden), last)) for w in WIDTHS}
        sentences.append(_from(widths, wins, f"at batch {measured.batch_size}, with hidden layers of width"))
    batches = {b: workload(measured.layer_sizes, b, measured.activation) for b in BATCH_SIZES}
    sentences.append(_from(batches, wins, "this network, at batch size"))
    return [sentence for sentence in sentences if sentence]


def _from(cases: dict[int, Workload], wins: Callable[[Workload], bool | None], where: str) -> str:
    """A sentence on the first of the cases in which the GPU wins; empty if none could be tried."""
    tried = 0
    for value, case in cases.items():
        won = wins(case)
        if won is None:
            break
        if won:
            return f"{where} {value}{' and more' if tried else ', the least tried, already'}: the GPU is faster"
        tried = value
    return f"{where} {tried} and less: the CPU is faster; more was not tried" if tried else ""
