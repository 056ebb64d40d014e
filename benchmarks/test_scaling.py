"""How a step's time grows with batch, width, depth and the threads of BLAS: where the GPU overtakes the CPU."""

from __future__ import annotations

from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from gpubp.backends import Backend
from gpubp.backends.compiled.program import cpu_count
from gpubp.bench.steps import Steps, Workload

THREADS = sorted({1, 2, cpu_count() // 2, cpu_count()} - {0})

pytestmark = pytest.mark.benchmark(max_time=0.3, min_rounds=3)


@pytest.mark.parametrize("batch_size", [1, 8, 32, 128, 512])
def test_batch(benchmark: Any, backend: Backend, batch_size: int) -> None:
    """64-256-256-10."""
    _measure(benchmark, backend, "batch size", batch_size, Workload((64, 256, 256, 10), batch_size, 16))


@pytest.mark.parametrize("width", [16, 64, 256, 1024])
def test_width(benchmark: Any, backend: Backend, width: int) -> None:
    """Two hidden layers, batches of 128."""
    _measure(benchmark, backend, "width", width, Workload((64, width, width, 10), 128, 16))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_depth(benchmark: Any, backend: Backend, depth: int) -> None:
    """Hidden layers of 128 units, batches of 128."""
    _measure(benchmark, backend, "hidden layers", depth, Workload((64, *[128] * depth, 10), 128, 16))


@pytest.mark.parametrize("threads", THREADS)
def test_threads(benchmark: Any, backend: Backend, threads: int) -> None:
    """784-512-512-10, batches of 128."""
    if backend.device != "cpu":
        pytest.skip(f"{backend.name}: its products take no threads of the CPU")
    with threadpool_limits(threads, user_api="blas"):
        _measure(benchmark, backend, "threads", threads, Workload((784, 512, 512, 10), 128, 16))


def _measure(benchmark: Any, backend: Backend, axis: str, value: int, workload: Workload) -> None:
    steps = Steps(workload, backend)
    steps.seconds(2)  # compiles
    benchmark.group = f"step by {axis}"
    benchmark.extra_info |= {"axis": axis, "value": value, "contender": backend.name, "precision": "float32"}
    benchmark(steps.seconds, 1)
