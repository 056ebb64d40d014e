"""The measurements of ``gpubp bench``: one network's training steps on every backend of this machine, side by side.

Backends are timed alternately, so that a slow phase of the machine affects all of them, and none is timed before its
first steps have been verified against float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpubp.backends import Backend, get_backend
from gpubp.bench.advice import advice
from gpubp.bench.doctor import findings
from gpubp.bench.report import BackendRow, Report
from gpubp.bench.steps import (
    TOLERANCE,
    VERIFIED,
    BareGemms,
    Repeated,
    Steps,
    Workload,
    displacements,
    error,
    rounds,
    sample,
    verified_rows,
)
from gpubp.errors import DeviceError, GpubpError

# Every backend by its own name, and the device name that selects it.
DEVICES = {"compiled": "cpu", "reference": "cpu-reference", "cuda": "cuda", "cuda-unfused": "cuda-unfused"}
# The findings of gpubp doctor on which measurements depend.
SUBJECTS = ("gpubp", "Python", "numpy", "processor", "BLAS", "BLAS kernels", "CuPy", "GEMM table")

# The bare products on each backend's device; if two backends share it, the first in DEVICES, which launches faster,
# runs them.
FLOORS = {name: f"bare GEMMs, {'GPU' if name.startswith('cuda') else 'CPU'}" for name in DEVICES}


def bench(workload: Workload, precisions: Sequence[str] = ("float32",), optimizer: str = "adam") -> Report:
    """Measure a network's steps on every backend, in less than a minute per precision.

    The row of a backend that is missing, fails or is wrong says so. Ctrl-C ends the measurements, not the report.
    """
    report = Report(workload, optimizer, _machine())
    try:
        for precision in precisions:
            _measure(report, precision)
        report.advice = advice(report)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def _machine() -> dict[str, str]:
    return {
        finding.subject: finding.found + (f" -> {finding.warning}" if finding.warning else "")
        for finding in findings()
        if finding.subject in SUBJECTS
    }


def open_backend(name: str, precision: str) -> Backend:
    """Open a backend by its own name.

    Raises
    ------
    GpubpError
        If this machine does not have it, or not in this precision; the message says why.
    """
    backend = get_backend(DEVICES[name], precision)
    if backend.name != name:  # the CPU falls back to the reference
        raise DeviceError(backend.reason.removeprefix("asked for; "))
    return backend


def _measure(report: Report, precision: str) -> None:
    """Rows of one precision: verify all backends, then time them alternately."""
    workload, verified = report.network, verified_rows(report.network)
    expected = displacements(workload, report.optimizer, verified)
    steps_of: dict[str, Steps] = {}
    entrants: dict[str, UntilFailure] = {}
    floors: dict[str, UntilFailure] = {}
    rows = {name: BackendRow(name, precision) for name in DEVICES}
    report.rows += rows.values()
    for name, row in rows.items():
        with _failures_noted(row):
            steps = Steps(workload, open_backend(name, precision), report.optimizer)
            row.way = steps.step.way
            row.memory = steps.stack.memory(workload.batch_size, report.optimizer)["total"]
            _verify(steps, row, expected, verified)
            steps.seconds(1)  # shows what a whole batch may lack, such as memory
            floor = FLOORS[name]
            if floor not in floors:
                floors[floor] = UntilFailure(BareGemms(workload, steps.backend))
            entrants[name], steps_of[name] = UntilFailure(steps, row), steps
            floors[floor].rows.append(row)
    for seconds in rounds({**entrants, **floors}):
        for name in entrants:
            rows[name].seconds.append(seconds[name])
            rows[name].floor.append(seconds[FLOORS[name]])
    for name, steps in steps_of.items():
        with _failures_noted(rows[name]):
            if steps.diverged():
                raise DeviceError("the network diverged while it was measured, and steps then do nothing")


class UntilFailure(Repeated):
    """An entrant that is timed until it fails, or until all rows it is measured for have failed; the others go on.

    Parameters
    ----------
    repeated : Repeated
    *rows : BackendRow
        The rows in which a failure is recorded.
    """

    def __init__(self, repeated: Repeated, *rows: BackendRow) -> None:
        self.repeated, self.rows = repeated, list(rows)

    def run(self, count: int) -> None:
        self.repeated.run(count)

    def wait(self) -> None:
        self.repeated.wait()

    def seconds(self, count: int) -> float:
        """Infinite after a failure."""
        if not all(row.reason for row in self.rows):
            with _failures_noted(*self.rows):
                return super().seconds(count)
        return math.inf


@contextmanager
def _failures_noted(*rows: BackendRow) -> Iterator[None]:
    """Record in these rows what prevents their measurement, without affecting others."""
    try:
        yield
    except GpubpError as error:
        reason = str(error)
    except MemoryError as error:
        reason = f"not enough memory ({error})"
    except Exception as error:  # a library or driver may raise anything
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    else:
        return
    for row in rows:
        row.reason = row.reason or reason


def _verify(steps: Steps, row: BackendRow, expected: Sequence[Any], rows: int) -> None:
    steps.run(VERIFIED, rows)
    row.error = error(steps.workload, [sample(tensor) for tensor in steps.weights()], expected)
    if not row.error <= TOLERANCE[row.precision]:
        raise DeviceError(f"wrong: its first steps are off by {row.error:.2g}, relative to float64's; see gpubp doctor")
