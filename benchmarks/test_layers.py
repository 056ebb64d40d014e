"""The forward and the backward pass of networks of 512 units a layer, alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubp.backends import Backend, Batch
from gpubp.backprop import backward, forward
from gpubp.network import MLP

ROWS, UNITS = 128, 512

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("layers", [1, 3])
def test_passes(benchmark: Any, backend: Backend, layers: int, direction: str) -> None:
    """On one batch, again and again."""
    stack = MLP([UNITS] * (layers + 1), device=backend).stack
    stack.refresh()
    rng = np.random.default_rng(0)
    batch = Batch(
        X=backend.from_host(rng.standard_normal((1, ROWS, UNITS), dtype=np.float32)),
        y=backend.from_host(rng.integers(0, UNITS, (1, ROWS))),
        weight=None,
        smoothing=backend.zeros((1,), np.float64),
    )
    caches, grads = stack.caches(ROWS), stack.layout.layers(backend.zeros(stack.theta.shape))
    epoch = stack.single_step(normalizer=1 / ROWS)

    def step(rows: int) -> None:
        if direction == "forward":
            forward(backend, stack.network, batch.X, caches)
        else:
            backward(backend, stack.network, batch, caches, grads, epoch)

    forward(backend, stack.network, batch.X, caches)
    run, last = backend.capture(step), backend.zeros((1,))

    def once() -> None:
        run(1, ROWS)
        backend.to_host(last)

    once()  # compiles
    benchmark.group = f"{direction} pass, {layers} x {UNITS}"
    benchmark(once)
