"""A stack of networks: its steps by its size, verified against float64 first, and trainings at once or one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubp
from benchmarks.peers.gpubp_stack import StackSteps
from benchmarks.stack_cases import StackOf, references, worst
from gpubp.backends import Backend
from gpubp.bench.run import DEVICES
from gpubp.bench.steps import TOLERANCE, VERIFIED, sample

MODELS, EPOCHS = 16, 2

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("models", [1, 4, 16, 64])
def test_step(benchmark: Any, backend: Backend, models: int) -> None:
    """64-64-64-10, batches of 32; the time is that of all networks."""
    network = StackOf((64, 64, 64, 10), 32, 16, models=models)
    steps = StackSteps(network, backend)
    steps.run(VERIFIED)
    found, _ = worst(network, [sample(tensor) for tensor in steps.weights()], references(network))
    assert found <= TOLERANCE["float32"]
    steps.seconds(network.batches)
    benchmark.group = "16 steps by networks"
    benchmark.extra_info |= {"axis": "networks", "value": models, "contender": backend.name, "precision": "float32"}
    benchmark(steps.seconds, network.batches)


@pytest.mark.parametrize("how", ["a stack", "one by one"])
def test_training(benchmark: Any, backend: Backend, how: str) -> None:
    """16 networks, each with a learning rate and a seed of its own, on 1,024 rows."""
    network = StackOf((64, 64, 64, 10), 32, 32)
    X, y, _ = network.members[0].rows
    rates, device = np.geomspace(3e-4, 1e-2, MODELS), DEVICES[backend.name]
    fixed = {"batch_size": network.batch_size, "epochs": EPOCHS}

    def together() -> None:
        gpubp.train(gpubp.MLP(network.layer_sizes, models=MODELS, device=device), X, y, learning_rate=rates, **fixed)

    def one_by_one() -> None:
        for k, rate in enumerate(rates):
            net = gpubp.MLP(network.layer_sizes, seed=k, device=device)
            gpubp.train(net, X, y, learning_rate=rate, seed=k, **fixed)

    benchmark.group = f"training, {MODELS} of 64-64-64-10 b32"
    benchmark.extra_info["contender"] = f"{backend.name}, {how}"
    benchmark(together if how == "a stack" else one_by_one)
