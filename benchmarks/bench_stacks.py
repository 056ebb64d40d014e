"""A stack of networks: its steps by its size, verified against float64 first, and trainings at once or one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubp
from benchmarks.stack_cases import StackWorkload, references, worst
from gpubp.backends import Backend
from gpubp.bench.steps import TOLERANCE, VERIFIED, Steps, sample

MODELS, EPOCHS = 16, 2

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("models", [1, 4, 16, 64])
def test_step(benchmark: Any, backend: Backend, models: int) -> None:
    """64-64-64-10, batches of 32; the time is that of all networks."""
    workload = StackWorkload((64, 64, 64, 10), 32, 16, models=models)
    steps = Steps(workload, backend)
    steps.run(VERIFIED)
    error, _ = worst(workload, [sample(tensor) for tensor in steps.weights()], references(workload))
    assert error <= TOLERANCE["float32"]
    steps.seconds(workload.batches)
    benchmark.group = "16 steps by networks"
    benchmark.extra_info |= {"axis": "networks", "value": models, "contender": backend.name, "precision": "float32"}
    benchmark(steps.seconds, workload.batches)


@pytest.mark.parametrize("how", ["a stack", "one by one"])
def test_training(benchmark: Any, backend: Backend, how: str) -> None:
    """16 networks, each with a learning rate and a seed of its own, on 1,024 rows."""
    workload = StackWorkload((64, 64, 64, 10), 32, 32)
    X, y, _ = workload.members[0].rows
    rates = np.geomspace(3e-4, 1e-2, MODELS)
    fixed = {"batch_size": workload.batch_size, "epochs": EPOCHS}

    def together() -> None:
        gpubp.train(gpubp.MLP(workload.layer_sizes, models=MODELS, device=backend), X, y, learning_rate=rates, **fixed)

    def one_by_one() -> None:
        for k, rate in enumerate(rates):
            net = gpubp.MLP(workload.layer_sizes, seed=k, device=backend)
            gpubp.train(net, X, y, learning_rate=rate, seed=k, **fixed)

    benchmark.group = f"training, {MODELS} of 64-64-64-10 b32"
    benchmark.extra_info["contender"] = f"{backend.name}, {how}"
    benchmark(together if how == "a stack" else one_by_one)
