"""Stage ``tests``: the tests that carry the mark "gpu", in parallel, their outcomes as lines while they come in."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.devices import REPOSITORY
from benchmarks.gpu.result_lines import LINES
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part

FILES = (
    "tests/backends/test_cuda_driver.py",
    "tests/backends/test_cuda_probe.py",
    "tests/backends/test_kernels_gpu.py",
    "tests/test_backprop.py",
    "tests/backends/test_dropout.py",
    "tests/training/test_rows.py",
    "tests/training/test_stacks.py",
    "tests/training/test_training.py",
    "tests/training/test_sample_weights.py",
    "tests/training/test_stopping.py",
    "tests/training/test_divergence.py",
    "tests/training/test_training_arguments.py",
    "tests/backends/test_cuda_backend.py",
)
PROCESSES = 8
SHOWN = 20  # failures that get a row each


def tests(part: Part, settings: Settings) -> None:
    """A row for each failure as soon as it is known, then one for each file."""
    files = FILES[:2] if part.dry_run else FILES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes"
        with (Path(folder) / "output").open("w+", encoding="utf-8", errors="replace") as output:
            # Not a pipe: processes that hang would hold it open.
            process = subprocess.Popen(
                command(files, path, part.dry_run),
                cwd=REPOSITORY,
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            outcomes = _followed(part, process, path)
            code = process.poll()
            if code is None:
                process.kill()
            output.seek(0)
            printed = output.read()
    print(printed)
    part.figures += [outcome for outcome in outcomes if outcome["outcome"] != "passed"]
    for file in files:
        _row(part, file, [outcome for outcome in outcomes if outcome["test"].startswith(file + "::")])
    if code is None:
        part.failed("pytest -m gpu", f"no end within its time; {len(outcomes)} outcomes until then", "tests")
    elif code not in (0, 1):
        last = next((line for line in reversed(printed.splitlines()) if line.strip()), "")
        part.failed("pytest -m gpu", f"exit code {code}; {last}", "tests")


def command(files: Sequence[str], path: Path, dry_run: bool) -> list[str]:
    """Pytest's command line; without pytest-xdist, one process."""
    parallel = ["-p", "xdist", "-n", "2" if dry_run else str(PROCESSES)] if importlib.util.find_spec("xdist") else []
    return [
        *(sys.executable, "-m", "pytest", *files, "-m", "gpu", "-q", "--no-header", "--tb=short", "-rN", *parallel),
        # Another version of a library may warn; that is no fault of the device's.
        *("-W", "default", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.result_lines", f"--{LINES}", str(path)),
        *([] if dry_run else ["--require-gpu"]),
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "2"}


def _followed(part: Part, process: subprocess.Popen[bytes], path: Path) -> list[dict[str, Any]]:
    """The outcomes until the process ends, or the part's time does."""
    outcomes: list[dict[str, Any]] = []
    ended = False
    while not ended and part.left() > 0:
        ended = process.poll() is not None  # looked at before the file, so that no last line is missed
        time.sleep(0.2)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines[len(outcomes) :]:
            outcomes.append(json.loads(line))
            failures = sum(outcome["outcome"] == "failed" for outcome in outcomes)
            if outcomes[-1]["outcome"] == "failed" and failures <= SHOWN:
                part.failed(outcomes[-1]["test"].rpartition("/")[2], outcomes[-1]["message"], "tests")
    return outcomes


def _row(part: Part, file: str, outcomes: Sequence[Mapping[str, Any]]) -> None:
    counts = Counter(outcome["outcome"] for outcome in outcomes)
    measured = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no outcome"
    part.timed(file, "0 failed", measured, counts["passed"] > 0 and not counts["failed"], "tests")
