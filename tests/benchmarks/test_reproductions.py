"""The published results, reproduced: minutes each, so only with ``pytest -m slow``.

``python -m benchmarks.foundation`` prints the same rows as one table, with the timings, which decide no test.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.package import REPOSITORY


def _measure(part: str, data: Path) -> str:
    command = [sys.executable, "-m", "benchmarks.foundation", "--data", str(data), "--only", part]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.backends
def test_gradients_are_within_their_bound() -> None:
    assert "ok   complex-step gradient error" in _measure("gradients", REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["mnist", "housing", "cats", "nielsen"])
def test_published_results_are_reached(part: str, shared_data: Path) -> None:
    _measure(part, shared_data)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, which is Linux's"
)
def test_training_stays_within_its_memory(shared_data: Path) -> None:
    _measure("memory", shared_data)
