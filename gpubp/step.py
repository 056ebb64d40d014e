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
    orders : int
        1 where all networks see the rows in the same order, else K.
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
        orders: int = 1,
    ) -> None:
        self.net, self.state, self.batch_size = net, state, batch_size
        backend = net.backend
        self.whole = batch_size == len(X)
        self.X = backend.from_host(X, backend.storage if self.whole else None)
        self.y = backend.from_host(net.cast_targets(y))
        self.weight = None if weight is None else backend.from_host(weight)
        self.smoothing = backend.from_host(label_smoothing)
        self.epoch = net.epoch(len(X), batch_size, orders)
        self.epoch.loss_scale = backend.loss_scale(net.models)
        self.dropout = net.dropout(dropout, self.epoch.cursor)
        self.activations = net.stack_activations
        self.work = net.workspace(batch_size, self.dropout is not None)
        self.grad = backend.zeros(net.theta.shape)
        self.grads = net.layout.layers(self.grad)
        shape = (orders, batch_size)
        self.buffers = (  # of batches
            None if self.whole else backend.empty((*shape, *self.X.shape[1:]), backend.storage),
            None if self.whole else backend.empty((*shape, *self.y.shape[1:]), self.y.dtype),
            None if self.whole or self.weight is None else backend.empty(shape, self.weight.dtype),
        )
        self.run = backend.capture(self._step)

    def train_epoch(self, table: StepTable) -> None:
        """Take all steps of a table: those of full batches, then the last if it is smaller."""
        self.begin(table)
        full, rest = divmod(table.rows, self.batch_size)
        if full:
            self.run(full, self.batch_size)
        if rest:
            self.run(1, rest)

    def begin(self, table: StepTable, at: int = 0) -> None:
        """Copy a table to the device, with the cursor at step `at`."""
        self.net.refresh()
        self.table, epoch = table, self.epoch
        for array, values in (
            (epoch.cursor, np.array([at, table.first_step + at])),
            (epoch.order, table.order),
            (epoch.normalizer, table.normalizer),
            (epoch.learning_rate, table.learning_rate),
        ):
            array[...] = self.net.backend.from_host(values)

    def replay(self, index: int) -> None:
        """Loss and gradients of step `index` of the table once more, with the weights as they are now."""
        self.begin(self.table, index)
        with self.net.backend.computing():
            self._forward_backward(min(self.batch_size, self.table.rows - index * self.batch_size))

    def _step(self, rows: int) -> None:
        self._forward_backward(rows)
        self.net.backend.optimizer_step(self.state, self.net.theta, self.grad, self.epoch)

    def _forward_backward(self, rows: int) -> None:
        """Loss into the step's totals and gradients into `grad`, from the next batch."""
        net, backend = self.net, self.net.backend
        X, y, weight = self._batch(rows)
        records = self.work.first(rows)
        logits = forward(backend, net.operands, self.activations, X, records, self.dropout)
        backend.loss_delta(net.loss, logits, y, weight, self.smoothing, self.epoch, self.grads[-1].b)
        backward(backend, net.operands, self.activations, X, records, self.grads, self.dropout)

    def _batch(self, rows: int) -> tuple[Array, Array, Array | None]:
        """X (K or 1, rows, n_0), y and weights (K or 1, rows) of the step."""
        if self.whole:
            return self.X[None], self.y[None], None if self.weight is None else self.weight[None]
        taken = tuple(None if buffer is None else buffer[:, :rows] for buffer in self.buffers)
        for source, out in zip((self.X, self.y, self.weight), taken, strict=True):
            if out is not None:
                self.net.backend.gather(source, self.epoch, out)
        X, y, weight = taken
        return X, y, weight
