"""One training step of networks with equally many rows in it, using preallocated buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubp import backprop
from gpubp._typing import Array
from gpubp.backends import Batch, Dropout, Epoch, LayerCache, OptimizerState, TrainingArrays
from gpubp.optimizers import Optimizer
from gpubp.stack import Stack


def initial_state(
    stack: Stack,
    rule: Optimizer,
    options: Mapping[str, NDArray[np.float64]],
    *,
    l2_by_batch: bool = False,
    **per_network: NDArray[np.float64] | None,
) -> OptimizerState:
    """The `OptimizerState` before the first update, from numbers on the host.

    Parameters
    ----------
    stack : Stack
    rule : Optimizer
    options : mapping of str to (K,) array
        The rule's options.
    l2_by_batch : bool
    **per_network
        ``l2``, ``weight_decay``, ``max_grad_norm``, ``largest_update``, ``penalty``, as in `OptimizerState`.
    """
    backend = stack.backend
    return OptimizerState(
        rule=rule,
        options={name: backend.from_host(value) for name, value in options.items()},
        slots=tuple(backend.zeros(stack.theta.shape) for _ in rule.slots),
        updates=backend.zeros((stack.models,), np.int64),
        active=backend.from_host(np.ones(stack.models, np.bool_)),
        fault_step=backend.from_host(np.full(stack.models, -1)),
        n_weights=stack.layout.n_weights,
        l2_by_batch=l2_by_batch,
        **{name: backend.from_host(array) for name, array in per_network.items() if array is not None},
    )


@dataclass
class Accumulation:
    """Adds up the gradients of a batch's parts.

    Attributes
    ----------
    parts : Epoch
        A step for each part, with all learning rates −1.
    whole : Epoch
        A step for each batch, with all learning rates 1.
    adding, clearing : OptimizerState
        The states of gradient descent on the sum.
    """

    parts: Epoch
    whole: Epoch
    adding: OptimizerState
    clearing: OptimizerState


@dataclass
class StepState:
    """The state that networks carry from step to step, besides their parameters.

    Attributes
    ----------
    optimizer : OptimizerState
    epoch : Epoch
    dropout : Dropout or None
    data : Batch
        All rows, (1 or K, m, …), from which a step gathers its batch.
    accumulation : Accumulation or None
        Set if a batch is processed in parts.
    """

    optimizer: OptimizerState
    epoch: Epoch
    dropout: Dropout | None
    data: Batch
    accumulation: Accumulation | None = None


@dataclass
class Workspace:
    """The buffers that a step fills.

    Attributes
    ----------
    batch : tuple of arrays or None
        X, y and sample weights of the batch, with None for missing weights; all None if the rows are used in place.
    caches : list of LayerCache
    grad : (K, P) array
    total : (K, P) array or None
        The sum of the gradients of a batch's parts, zero between two steps.
    """

    batch: tuple[Array | None, ...] | None
    caches: list[LayerCache]
    grad: Array
    total: Array | None = None


class SliceStep:
    """A training step of consecutive networks with equally many rows in it.

    Parameters
    ----------
    stack : Stack
    state : StepState
    workspace : Workspace
        Each with only these networks' parts.

    Attributes
    ----------
    way : str
        How the backend takes steps: "calls", "program", "graph" or "on-chip".
    run : callable
        ``run(count, rows)`` takes `count` steps of `rows` rows each.
    """

    def __init__(self, stack: Stack, state: StepState, workspace: Workspace) -> None:
        self.stack, self.state, self.workspace = stack, state, workspace
        self.epoch = state.epoch  # `gradients` takes its steps
        self.grads = stack.layout.layers(workspace.grad)
        self.way, self.run = self._steps()

    def _steps(self) -> tuple[str, Callable[[int, int], None]]:
        """As the backend's `training_steps`."""
        stack, state = self.stack, self.state
        starts = stack.layout.weight_starts, stack.layout.bias_starts
        training = TrainingArrays(
            shapes=stack.layout.shapes,
            starts=list(zip(*starts, strict=True)),
            activations=stack.network.activations,
            loss=stack.loss,
            theta=stack.theta,
            data=state.data,
            batch_size=self.workspace.caches[0].z.shape[1],
            epoch=self.epoch,
            dropout=state.dropout,
            optimizer=state.optimizer,
        )
        return stack.backend.training_steps(self._step, training)

    def gradients(self, rows: int, done: Callable[[int], None] = backprop.no_action) -> None:
        """Write the next batch's loss to the step's totals and gradients to `grads`; ``done(l)`` after layer l."""
        stack, state, caches = self.stack, self.state, self.workspace.caches
        if rows < caches[0].z.shape[1]:
            caches = [cache.first(rows) for cache in caches]
        batch = self.batch(rows)
        backprop.gradients(stack.backend, stack.network, batch, caches, self.grads, self.epoch, state.dropout, done)

    def _step(self, rows: int) -> None:
        self.gradients(rows)
        state = self.state
        self.stack.backend.optimizer_step(state.optimizer, self.stack.theta, self.workspace.grad, state.epoch)

    def batch(self, rows: int) -> Batch:
        """The batch of the step: gathered, or the data in place."""
        data, buffers = self.state.data, self.workspace.batch
        if buffers is None:
            return data
        X, y, weight = (None if buffer is None else buffer[:, :rows] for buffer in buffers)
        batch = Batch(X, y, weight, data.smoothing)
        self.stack.backend.gather(data, self.epoch, batch)
        return batch
