"""The backends' operations one by one, on a layer of 512 units and batches of 128, captured as a step is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpubp.activations import get_activation
from gpubp.backends import Backend, Batch, Layer, LayerCache
from gpubp.losses import get_loss
from gpubp.network import MLP
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from gpubp.training.slice_step import initial_state

ROWS, UNITS, CLASSES = 128, 512, 10
ACTIVATIONS = ("relu", "tanh", "gelu")

pytestmark = pytest.mark.benchmark(max_time=0.5, min_rounds=3)


class Operands:
    """Arrays of a layer, and the tables of an epoch whose cursor is put back before every operation."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.stack = backend, MLP([UNITS, UNITS, CLASSES], device=backend).stack
        self.epoch = self.stack.epoch(4 * ROWS, ROWS)
        self.epoch.normalizer[...] = 1 / ROWS
        self.epoch.learning_rate[...] = 1e-3
        self.first = backend.from_host(np.zeros(1, np.int64))
        self.layer = Layer(None, backend.zeros((1, 1, UNITS)))
        self.grad_b = backend.zeros((1, 1, UNITS))

    def drawn(self, *shape: int) -> Any:
        """Normal numbers."""
        return self.backend.from_host(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))

    def repeated(self, operation: Callable[[], None]) -> Callable[[], None]:
        """The operation, done when it returns."""
        run = self.backend.capture(lambda rows: operation())

        def once() -> None:
            self.epoch.cursor[...] = self.first
            run(1, ROWS)
            self.backend.to_host(self.epoch.cursor)

        once()  # compiles
        return once


@pytest.fixture
def operands(backend: Backend) -> Operands:
    """On every backend."""
    return Operands(backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation(benchmark: Any, operands: Operands, activation: str) -> None:
    """Forward, between two products."""
    record, z = get_activation(activation), operands.drawn(1, ROWS, UNITS)
    a = z if record.derivative_from == "a" else operands.drawn(1, ROWS, UNITS)
    cache = LayerCache(0, z, a, delta=None, mask=None)
    benchmark.group = f"bias_activation {activation}"
    benchmark(operands.repeated(lambda: operands.backend.bias_activation(record, operands.layer, cache)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hadamard_derivative(benchmark: Any, operands: Operands, activation: str) -> None:
    """Backward, between two products."""
    record, delta, z_or_a = get_activation(activation), *(operands.drawn(1, ROWS, UNITS) for _ in range(2))
    cache = LayerCache(0, z_or_a, z_or_a, delta, mask=None)
    benchmark.group = f"hadamard_derivative {activation}"
    benchmark(operands.repeated(lambda: operands.backend.hadamard_derivative(record, cache, operands.grad_b)))


def test_loss_delta(benchmark: Any, operands: Operands) -> None:
    """Softmax cross-entropy of ten classes."""
    backend, loss = operands.backend, get_loss("cross_entropy")
    logits, y = operands.drawn(1, ROWS, CLASSES), backend.from_host(np.arange(ROWS)[None] % CLASSES)
    cache = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
    batch = Batch(X=None, y=y, weight=None, smoothing=backend.zeros((1,), np.float64))
    grad_b = backend.zeros((1, 1, CLASSES))
    benchmark.group = "loss_delta cross_entropy"
    benchmark(operands.repeated(lambda: backend.loss_delta(loss, cache, batch, operands.epoch, grad_b)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizer_step(benchmark: Any, operands: Operands, optimizer: str) -> None:
    """An update of all parameters."""
    stack, rule = operands.stack, get_optimizer(optimizer)
    state = initial_state(stack, rule, {name: np.full(1, value) for name, value in rule.options.items()})
    grad = operands.drawn(*stack.theta.shape)
    benchmark.group = f"optimizer_step {optimizer}"
    benchmark(operands.repeated(lambda: operands.backend.optimizer_step(state, stack.theta, grad, operands.epoch)))


def test_gather(benchmark: Any, operands: Operands) -> None:
    """A batch of rows."""
    X, batch = operands.drawn(1, 4 * ROWS, UNITS), operands.drawn(1, ROWS, UNITS)
    data, out = (Batch(array, None, None, None) for array in (X, batch))
    benchmark.group = "gather"
    benchmark(operands.repeated(lambda: operands.backend.gather(data, operands.epoch, out)))
