"""Memory that a training takes at its peak beside its data, as Python's allocators count it on the CPU."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

import gpubp
from gpubp.backends import Backend
from gpubp.bench.steps import Workload


@pytest.mark.parametrize("batch_size", [128, 1024])
def test_peak(benchmark: Any, backend: Backend, batch_size: int) -> None:
    """784-512-512-10: MB in the benchmark's extra information, beside what `MLP.memory` says."""
    if backend.device != "cpu":
        pytest.skip(f"{backend.name}: tracemalloc sees no memory of a device")
    workload = Workload((784, 512, 512, 10), batch_size, 4)
    X, y, _ = workload.rows

    def train() -> None:
        gpubp.train(gpubp.MLP(workload.layer_sizes, device=backend), X, y, batch_size=batch_size, epochs=1)

    train()  # compiles
    tracemalloc.start()
    train()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected = gpubp.MLP(workload.layer_sizes, device=backend).memory(batch_size)["total"]
    benchmark.group = f"memory, {workload.name}"
    benchmark.extra_info |= {"contender": backend.name, "MB": peak / 1e6, "MB by MLP.memory": expected / 1e6}
    benchmark.pedantic(train, rounds=3)
