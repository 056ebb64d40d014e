"""Whole training steps, verified against float64 before they are timed, and their bare products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.cases import CPU_WORKLOADS, SMALL
from gpubp.backends import Backend
from gpubp.bench.steps import TOLERANCE, VERIFIED, BareGemms, Steps, Workload, displacements, error, sample

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("workload", CPU_WORKLOADS[:4], ids=lambda workload: workload.name)
def test_adam(benchmark: Any, backend: Backend, workload: Workload) -> None:
    """The networks of the tables, but for the largest."""
    _measure(benchmark, backend, workload, "adam")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_other_optimizers(benchmark: Any, backend: Backend, optimizer: str) -> None:
    """784-512-512-10."""
    _measure(benchmark, backend, SMALL[2], optimizer)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_other_activations(benchmark: Any, backend: Backend, activation: str) -> None:
    """784-512-512-10."""
    _measure(benchmark, backend, replace(SMALL[2], activation=activation), "adam")


@pytest.mark.parametrize("workload", CPU_WORKLOADS[:4], ids=lambda workload: workload.name)
def test_bare_gemms(benchmark: Any, backend: Backend, workload: Workload) -> None:
    """The floor."""
    gemms = BareGemms(workload, backend)
    gemms.seconds(2)  # compiles
    benchmark.group = f"step, {workload.name}, adam"
    benchmark.extra_info |= {"network": workload.name, "contender": f"bare GEMMs, {backend.name}"}
    benchmark(gemms.seconds, 1)


def _measure(benchmark: Any, backend: Backend, workload: Workload, optimizer: str) -> None:
    steps = Steps(workload, backend, optimizer)
    steps.run(VERIFIED)
    off = error(workload, [sample(tensor) for tensor in steps.weights()], displacements(workload, optimizer))
    assert off <= TOLERANCE["float32"]
    steps.seconds(2)
    benchmark.group = f"step, {workload.name}, {optimizer}"
    benchmark.extra_info |= {"network": workload.name, "contender": backend.name, "precision": "float32"}
    benchmark(steps.seconds, 1)
