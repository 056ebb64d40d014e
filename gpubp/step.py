"""The training step: one function over preallocated buffers, driven by the epoch's table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import OptimizerState
from gpubp.backprop import backward, forward
from gpubp.network import MLP
from gpubp.step_table import StepTable


class TrainingStep:
    """Gather batch → forward → BP1 with loss → (BP4, BP2 + BP3) per layer → optimizer.

    Parameters
    ----------
    net : MLP
    X : (m, n_0) array
    y : (m,) integers or (m, n_L) array
    weight : (m,) float64 or None
    batch_size : int
        At most m. With m, the rows are used where they lie, in their own order.
    state : OptimizerState
    dropout, label_smoothing : (K,) float64
    """

    def __init__(
        self,
        net: MLP,
        X: Array,
        y: Array,
        weight: NDArray[np.float64] | None,
        batch_size: int,
        state: OptimizerState,
        dropout: NDArray[np.float64],
        label_smoothing: NDArray[np.float64],
    ) -> None:
        self.net, self.state, self.batch_size = net, state, batch_size
        backend = net.backend
        self.whole = batch_size == len(X)
        self.X = backend.from_host(X, backend.dtype if self.whole else None)
        self.y = backend.from_host(net.cast_targets(y))
        self.weight = None if weight is None else backend.from_host(weight)
        self.smoothing = backend.from_host(label_smoothing, backend.dtype)[:, None, None]
        self.dropout = net.dropout(dropout)
        self.activations = net.stack_activations
        self.work = net.workspace(batch_size, self.dropout is not None)
        self.grad = backend.zeros(net.theta.shape)
        self.grads = net.layout.layers(self.grad)
        self.batch: tuple[Array, Array, Array | None] | None = None
        self.run = backend.capture(self._step)

    def begin(self, table: StepTable) -> None:
        """Take over an epoch's table."""
        backend = self.net.backend
        self.table = table
        self.normalizer = backend.from_host(table.normalizer)
        self.learning_rate = backend.from_host(table.learning_rate)
        self.totals = backend.zeros((table.steps, self.net.models, 2), backend.accumulator)
        if not self.whole and (self.batch is None or len(self.batch[0]) != len(table.order)):
            self.batch = self._buffers(len(table.order))

    def __call__(self, index: int) -> None:
        """Take step `index` of the epoch."""
        self.run(index)

    def forward_backward(self, index: int, totals: Array) -> None:
        """Loss into `totals` (K, 2) and gradients into `grad`, from the batch of step `index`."""
        net, backend = self.net, self.net.backend
        X, y, weight = self._batch(index)
        records = self.work.first(X.shape[1])
        if self.dropout is not None:
            self.dropout.step = self.table.first_step + index
        logits = forward(backend, net.layers, self.activations, X, records, self.dropout)
        backend.loss_delta(
            net.loss, logits, y, weight, self.normalizer[index], self.smoothing, self.grads[-1].b, totals
        )
        backward(backend, net.layers, self.activations, X, records, self.grads, self.dropout)

    def _step(self, index: int) -> None:
        totals = self.totals[index]
        self.forward_backward(index, totals)
        self.net.backend.optimizer_step(
            self.state,
            self.net.theta,
            self.grad,
            self.learning_rate[index],
            totals,
            self.table.first_step + index,
        )

    def _batch(self, index: int) -> tuple[Array, Array, Array | None]:
        """X (K or 1, r, n_0), y and weights (K or 1, r) of step `index`."""
        if self.batch is None:
            return self.X[None], self.y[None], None if self.weight is None else self.weight[None]
        rows = self.table.rows(index)
        sources = (self.X, self.y, self.weight)
        taken = []
        for source, buffer in zip(sources, self.batch, strict=True):
            out = None if buffer is None else buffer[:, : rows.shape[1]]
            if out is not None:
                self.net.backend.gather(source, rows, out)
            taken.append(out)
        return taken[0], taken[1], taken[2]

    def _buffers(self, networks: int) -> tuple[Array, Array, Array | None]:
        """Where gathered batches lie, for `networks` different orders."""
        backend, shape = self.net.backend, (networks, self.batch_size)
        return (
            backend.empty((*shape, *self.X.shape[1:])),
            backend.empty((*shape, *self.y.shape[1:]), self.y.dtype),
            None if self.weight is None else backend.empty(shape, self.weight.dtype),
        )
