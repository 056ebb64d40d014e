"""One training step of networks that have equally many rows in it, over preallocated buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import Dropout, Epoch, OptimizerState
from gpubp.backprop import backward, forward
from gpubp.optimizers import Optimizer
from gpubp.stack import Forward, Stack


def first_state(
    net: Stack,
    rule: Optimizer,
    options: Mapping[str, NDArray[np.float64]],
    *,
    largest_update: NDArray[np.float64] | None = None,
    l2: NDArray[np.float64] | None = None,
    weight_decay: NDArray[np.float64] | None = None,
    max_grad_norm: NDArray[np.float64] | None = None,
    l2_by_batch: bool = False,
    penalty: NDArray[np.float64] | None = None,
) -> OptimizerState:
    """The `OptimizerState` before the first update, from numbers on the host."""
    backend = net.backend

    def placed(array: NDArray[np.float64] | None) -> Array | None:
        return None if array is None else backend.from_host(array)

    return OptimizerState(
        rule,
        {name: backend.from_host(value) for name, value in options.items()},
        tuple(backend.zeros(net.theta.shape) for _ in rule.slots),
        updates=backend.zeros((net.models,), np.int64),
        active=backend.from_host(np.ones(net.models, np.bool_)),
        fault_step=backend.from_host(np.full(net.models, -1)),
        n_weights=net.layout.n_weights,
        largest_update=placed(largest_update),
        l2=placed(l2),
        weight_decay=placed(weight_decay),
        max_grad_norm=placed(max_grad_norm),
        l2_by_batch=l2_by_batch,
        penalty=placed(penalty),
    )


@dataclass
class StepState:
    """What networks carry from step to step, besides their parameters.

    Attributes
    ----------
    state : OptimizerState
    epoch : Epoch
    dropout : Dropout or None
    smoothing : (K,) float64
    rows : (1, m, n_0), (1, m) or (1, m, n_L), and (K or 1, m) arrays
        X, y and the sample weights or None.
    """

    state: OptimizerState
    epoch: Epoch
    dropout: Dropout | None
    smoothing: Array
    rows: tuple[Array | None, ...]


@dataclass
class Workspace:
    """What a step fills: the batch, the records of each layer, and the gradients."""

    batch: tuple[Array | None, ...]
    work: Forward
    grad: Array


class SliceStep:
    """A training step of neighbours in a stack, who have equally many rows in it.

    Parameters
    ----------
    net : Stack
    kept : StepState
    scratch : Workspace
        Of these networks alone.
    """

    def __init__(self, net: Stack, kept: StepState, scratch: Workspace) -> None:
        self.net, self.kept, self.scratch = net, kept, scratch
        self.activations, self.grads = net.stack_activations, net.layout.layers(scratch.grad)
        self.run = net.backend.capture(self._step)

    def forward_backward(self, rows: int) -> None:
        """Loss into the step's totals and gradients into `grads`, from the next batch."""
        net, backend, kept = self.net, self.net.backend, self.kept
        X, y, weight = self._batch(rows)
        records = self.scratch.work.first(rows)
        logits = forward(backend, net.operands, self.activations, X, records, kept.dropout)
        backend.loss_delta(net.loss, logits, y, weight, kept.smoothing, kept.epoch, self.grads[-1].b)
        backward(backend, net.operands, self.activations, X, records, self.grads, kept.dropout)

    def _step(self, rows: int) -> None:
        self.forward_backward(rows)
        self.net.backend.optimizer_step(self.kept.state, self.net.theta, self.scratch.grad, self.kept.epoch)

    def _batch(self, rows: int) -> tuple[Array | None, ...]:
        """X (K or 1, rows, n_0), y and weights (K or 1, rows) of the step: gathered, or the data as they lie."""
        if self.scratch.batch[0] is None:
            return self.kept.rows
        taken = tuple(None if buffer is None else buffer[:, :rows] for buffer in self.scratch.batch)
        for source, out in zip(self.kept.rows, taken, strict=True):
            if out is not None:
                self.net.backend.gather(source, self.kept.epoch, out)
        return taken
