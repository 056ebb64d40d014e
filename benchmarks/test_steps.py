"""Whole training steps, verified against float64 before they are timed, and their bare products."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cases import CPU_NETWORKS, SMALL
from gpubp.backends import Backend
from gpubp.bench.steps import TOLERANCE, VERIFIED, BareGemms, Network, Steps, displacements, error, sample

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("network", CPU_NETWORKS[:4], ids=lambda network: network.name)
def test_adam(benchmark: Any, backend: Backend, network: Network) -> None:
    """The networks of the tables, but for the largest."""
    _measure(benchmark, backend, network, "adam")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_other_optimizers(benchmark: Any, backend: Backend, optimizer: str) -> None:
    """784-512-512-10."""
    _measure(benchmark, backend, SMALL[2], optimizer)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_other_activations(benchmark: Any, backend: Backend, activation: str) -> None:
    """784-512-512-10."""
    network = SMALL[2]
    _measure(benchmark, backend, Network(network.layer_sizes, network.batch_size, network.batches, activation), "adam")


@pytest.mark.parametrize("network", CPU_NETWORKS[:4], ids=lambda network: network.name)
def test_bare_gemms(benchmark: Any, backend: Backend, network: Network) -> None:
    """The floor."""
    gemms = BareGemms(network, backend)
    gemms.seconds(2)  # compiles
    benchmark.group = f"step, {network.name}, adam"
    benchmark.extra_info |= {"network": network.name, "contender": f"bare GEMMs, {backend.name}"}
    benchmark(gemms.seconds, 1)


def _measure(benchmark: Any, backend: Backend, network: Network, optimizer: str) -> None:
    steps = Steps(network, backend, optimizer)
    steps.run(VERIFIED)
    found = error(network, [sample(tensor) for tensor in steps.weights()], displacements(network, optimizer))
    assert found <= TOLERANCE["float32"]
    steps.seconds(2)
    benchmark.group = f"step, {network.name}, {optimizer}"
    benchmark.extra_info |= {"network": network.name, "contender": backend.name, "precision": "float32"}
    benchmark(steps.seconds, 1)
