"""The forward and the backward pass of networks of 512 units a layer, alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubp.backends import Backend
from gpubp.backprop import backward, forward
from gpubp.bench.steps import mlp_on

ROWS, UNITS = 128, 512

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layers", [1, 3])
def test_passes(benchmark: Any, backend: Backend, layers: int, direction: str) -> None:
    """On one batch, again and again."""
    net = mlp_on(backend, [UNITS] * (layers + 1))
    X = backend.from_host(np.random.default_rng(0).standard_normal((1, ROWS, UNITS), dtype=np.float32))
    records, activations = net.workspace(ROWS, dropout=False).records, net.stack_activations
    grads = net.layout.layers(backend.zeros(net.theta.shape))

    def step(rows: int) -> None:
        if direction == "forward":
            forward(backend, net.operands, activations, X, records)
        else:
            backward(backend, net.operands, activations, X, records, grads)

    forward(backend, net.operands, activations, X, records)
    run, last = backend.capture(step), backend.zeros((1,))

    def once() -> None:
        run(1, ROWS)
        backend.to_host(last)

    once()  # compiles
    benchmark.group = f"{direction} pass, {layers} x {UNITS}"
    benchmark(once)
