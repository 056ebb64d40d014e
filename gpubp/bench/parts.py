"""Where the time of a training step goes: selecting the batch, the forward pass, the backward pass, the update."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from gpubp import backprop
from gpubp.backends.blas_threads import threads_for_products
from gpubp.bench.steps import BareGemms, Repeated, Workload, rounds
from gpubp.network import MLP
from gpubp.optimizers import get_optimizer
from gpubp.training.slice_step import SliceStep, initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table

BATCHES = 16  # in the rows that steps are taken on
ROUNDS = 5  # everything is timed once per round
PATIENCE = 2.0  # seconds after which no new round starts
RATE = 1e-9  # learning rate: timed steps must not change the network much
MOST_NUMBERS = 2**26  # of X in all batches


@dataclass(frozen=True)
class StepParts:
    """Seconds of a training step, and of its parts.

    Attributes
    ----------
    device, backend, precision : str
        What the step was measured on.
    batch_size : int
    step : float
        Seconds of a whole step: the minimum over rounds, which a busy machine affects least.
    parts : dict of str to float
        Seconds of each part of a step, timed separately; empty if the backend takes steps in a single launch.
    products : float
        Seconds of its matrix products alone, which are included in the two passes.
    """

    device: str
    backend: str
    precision: str
    batch_size: int
    step: float
    parts: dict[str, float]
    products: float


def step_parts(net: MLP, X: Any, y: Any, batch_size: int, optimizer: str = "adam", dropout: float = 0.0) -> StepParts:
    """Time training steps of a single network without changing its parameters.

    Each part is timed separately, so together they may take slightly more or less than a step. This takes about a
    second, and longer if a step takes more than 0.1 seconds.

    Parameters
    ----------
    net : MLP
    X, y : arrays
        Rows to take steps on, repeated if they are fewer than a batch.
    batch_size : int
    optimizer : str
    dropout : float
    """
    X, y, _ = net.stack.checked(X, y)
    size = max(1, min(batch_size, MOST_NUMBERS // (BATCHES * net.layer_sizes[0])))
    rows = np.resize(np.arange(len(X)), BATCHES * size)
    step = _training_step(net, (X[rows], y[rows], None), size, optimizer, dropout)
    backend = net.stack.backend
    workload = Workload(net.layer_sizes, size, BATCHES)
    largest = size * max(n_in * n_out for n_in, n_out in workload.shapes)
    with threads_for_products(largest):
        entrants: dict[str, Repeated] = {
            name: _Taken(step, size, backend.capture(part)) for name, part in _parts(step, size).items()
        }
        parts = list(entrants)
        entrants |= {"step": _Taken(step, size, step.run_steps), "products": BareGemms(workload, backend)}
        measured = _measured(entrants)
    fastest = {name: min(seconds[name] for seconds in measured) for name in entrants}
    return StepParts(
        device=backend.device,
        backend=backend.name,
        precision=backend.precision,
        batch_size=size,
        step=fastest["step"],
        parts={} if step.way == "on-chip" else {name: fastest[name] for name in parts},
        products=fastest["products"],
    )


def _measured(entrants: dict[str, Repeated]) -> list[dict[str, float]]:
    """Seconds of every entrant, round by round."""
    measured, start = [], time.perf_counter()
    for seconds in islice(rounds(entrants), ROUNDS):
        measured.append(seconds)
        if time.perf_counter() - start > PATIENCE:
            break
    return measured


def _training_step(net: MLP, data: tuple[Any, Any, None], size: int, optimizer: str, dropout: float) -> TrainingStep:
    """A step at the first batch of its rows, in a shuffled order."""
    rule, stack = get_optimizer(optimizer), net.stack
    options = {name: np.array([value]) for name, value in rule.options.items()}
    step = TrainingStep(
        stack,
        data=data,
        batch_size=size,
        optimizer=initial_state(stack, rule, options),
        dropout=np.array([dropout]),
        label_smoothing=np.zeros(1),
    )
    order = np.random.default_rng(0).permutation(len(data[0]))
    step.begin(draw_table([order], size, None, np.zeros(1, np.int64), [np.full(BATCHES, RATE)]))
    return step


def _parts(step: TrainingStep, size: int) -> dict[str, Callable[[int], None]]:
    """The parts of a step in order, each run alone on the results of the previous one: ``part(rows)``."""
    stack, state, workspace = step.live, step.state, step.workspace
    backend, network, caches = stack.backend, stack.network, workspace.caches
    slice_step = SliceStep(stack, state, workspace)
    with backend.computing():
        batch = slice_step.batch(size)
        slice_step.gradients(size)
    X = batch.X
    assert X is not None

    def select(rows: int) -> None:
        slice_step.batch(rows)

    def forward(rows: int) -> None:
        backprop.forward(backend, network, X, caches, state.dropout)

    def backward(rows: int) -> None:
        backprop.backward(backend, network, batch, caches, slice_step.grads, state.epoch, state.dropout)

    def update(rows: int) -> None:
        backend.optimizer_step(state.optimizer, stack.theta, workspace.grad, state.epoch)

    return {"selecting the batch": select, "forward pass": forward, "backward pass": backward, "update": update}


class _Taken(Repeated):
    """Steps, or parts of steps, on one batch after another.

    Parameters
    ----------
    step : TrainingStep
    size : int
        Rows of a batch.
    run : callable
        ``run(count, rows)`` takes `count` of them.
    """

    def __init__(self, step: TrainingStep, size: int, run: Callable[[int, int], None]) -> None:
        self.step, self.size, self.take = step, size, run

    def run(self, count: int) -> None:
        """Start at the first batch, and again after the last one."""
        while count:
            taken = min(count, BATCHES)
            self.step.seek(0)
            self.take(taken, self.size)
            count -= taken

    def wait(self) -> None:
        """Reading the cursor waits for the device."""
        self.step.position()
