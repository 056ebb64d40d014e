"""Stage ``nodes``: what each launch of a step takes, by Nsight Compute."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import LARGE, SMALL
from benchmarks.devices import REPOSITORY, open_backend
from benchmarks.gpu.parity import Uncaptured
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stacks import NARROW, STACK
from benchmarks.gpu.step_times import A_START, NO_TIME, TINY
from benchmarks.parts import Part
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.bench.steps import Steps, Workload

PLACES = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-compute")  # where ncu lies, if not on the PATH
METRIC = "gpu__time_duration.sum"
CASES = ((SMALL[0], "float32"), (SMALL[1], "float32"), (SMALL[2], "float32"), (SMALL[2], "bfloat16"))
CASES += ((LARGE[0], "bfloat16"), (LARGE[1], "bfloat16"), (LARGE[1], "tf32"), (STACK, "float32"), (NARROW, "float32"))
NANOSECONDS = {"nsecond": 1.0, "ns": 1.0, "usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6}
NAMED = 48  # letters of a kernel's name that are shown


@dataclass(frozen=True)
class Launch:
    """A launch as it was profiled."""

    kernel: str
    grid: str
    block: str
    microseconds: float


def nodes(part: Part, settings: Settings) -> None:
    """A row for each network; the launches themselves are among the figures."""
    program = find_ncu()
    for number, (workload, precision) in enumerate(((TINY, "float32"),) if part.dry_run else CASES):
        what = f"{workload.name} {precision}: launches of a step"
        if program is None and not part.dry_run:
            return part.skipped(what, "there is no ncu; it comes with Nsight Compute")
        if not part.dry_run and part.left() < A_START:
            part.skipped(what, NO_TIME)
            continue
        command = [sys.executable, "-m", "benchmarks.gpu.nodes", str(number), *(["--dry-run"] if part.dry_run else [])]
        profiler = [] if part.dry_run else profiled(str(program))
        try:
            ran = subprocess.run(
                [*profiler, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=max(1.0, part.left())
            )
        except subprocess.TimeoutExpired:
            part.skipped(what, NO_TIME)
            continue
        launches = read_launches(ran.stdout)
        if ran.returncode or (not launches and not part.dry_run):
            part.failed(what, f"exit code {ran.returncode}; {(ran.stdout + ran.stderr)[-300:]}")
            continue
        _tell(part, what, launches)


def find_ncu() -> str | None:
    """Nsight Compute's command, where this machine has it."""
    folders = [os.environ.get("PATH", os.defpath), PLACES[0], *map(str, sorted(Path(PLACES[1]).glob("*")))]
    return shutil.which("ncu", path=os.pathsep.join(folders))


def profiled(program: str) -> list[str]:
    """The command line before the one to be profiled; the device's clocks and caches stay as they are."""
    options = ["--csv", "--metrics", METRIC, "--profile-from-start", "off", "--target-processes", "all"]
    return [program, *options, "--clock-control", "none", "--cache-control", "none"]


def read_launches(output: str) -> list[Launch]:
    """The launches in a table of Nsight Compute's, which begins after the lines that were printed meanwhile."""
    lines = output.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    rows = csv.DictReader(line for line in lines[begin:] if line.startswith('"'))
    return [
        Launch(
            kernel=row["Kernel Name"],
            grid=row["Grid Size"],
            block=row["Block Size"],
            microseconds=float(row["Metric Value"].replace(",", "")) * NANOSECONDS[row["Metric Unit"]] / 1e3,
        )
        for row in rows
        if row["Metric Name"] == METRIC
    ]


def _tell(part: Part, what: str, launches: Sequence[Launch]) -> None:
    total = sum(launch.microseconds for launch in launches)
    for launch in launches:
        print(f"     {launch.microseconds:9.2f} us  {launch.kernel[:NAMED]:<{NAMED}} {launch.grid} {launch.block}")
    part.timed(what, "", f"{len(launches)}, {total:,.1f} us one by one", None)
    part.figures.append({"what": what, "launches": [vars(launch) for launch in launches]})


# -- what is profiled -----------------------------------------------------------------------------------------


def profile(workload: Workload, precision: str, dry_run: bool) -> None:
    """Take a step, launch by launch, that the profiler sees, after others that it does not."""
    backend = open_backend("cuda", precision, dry_run)
    assert isinstance(backend, CudaBackend)
    backend.driver = Uncaptured(backend.driver)
    steps = Steps(workload, backend)
    steps.seconds(2)
    if dry_run:
        return
    import cupy

    cupy.cuda.runtime.profilerStart()
    steps.seconds(1)
    cupy.cuda.runtime.profilerStop()


if __name__ == "__main__":
    WORKLOAD, PRECISION = (TINY, "float32") if "--dry-run" in sys.argv else CASES[int(sys.argv[1])]
    profile(WORKLOAD, PRECISION, "--dry-run" in sys.argv)
