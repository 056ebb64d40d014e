"""The training step: one function over preallocated buffers, driven by the epoch's table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import OptimizerState
from gpubp.backprop import backward, forward
from gpubp.errors import DeviceError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer
from gpubp.rows import Rows
from gpubp.step_table import StepTable


def first_state(
    net: MLP,
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
        operands=None if net.operand_buffer is net.theta else net.operand_buffer,
    )


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
        room = _room_for_data(net, batch_size, state.rule)
        rows = X.astype(backend.storage, copy=False) if self.whole else X
        self.rows = Rows(backend, (rows, net.cast_targets(y), weight), batch_size, orders, room)
        self.X, self.y, self.weight = self.rows.device
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
        for start in range(0, table.rows, self.rows.segment):
            self.rows.load(table.order, start)
            full, rest = divmod(min(self.rows.segment, table.rows - start), self.batch_size)
            if full:
                self.run(full, self.batch_size)
            if rest:
                self.run(1, rest)

    def watched_epoch(self, table: StepTable) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """`train_epoch`, and what the host reads at its end.

        Returns
        -------
        totals : (steps, K, 2) float64
            Σ weight · (value, metric) over the rows of each step.
        diverged : (K,) bool
            The networks that left the finite numbers in this epoch. They have their last finite weights: those
            whose θ itself overflowed go back to the epoch's start.
        """
        net, backend, state = self.net, self.net.backend, self.state
        before, start_theta = self.active().copy(), net.theta.copy()
        self.train_epoch(table)
        totals = backend.to_host(self.epoch.totals)
        overflowed = before & ~backend.finite(net.theta)
        if overflowed.any():
            backend.assign(net.theta, start_theta, overflowed)
            backend.assign(state.active, False, overflowed)
        return totals, before & (overflowed | (backend.to_host(state.fault_step) >= 0))

    def active(self) -> NDArray[np.bool_]:
        """Which networks still train, (K,) on the host."""
        host: NDArray[np.bool_] = self.net.backend.to_host(self.state.active)
        return host

    def begin(self, table: StepTable, at: int = 0) -> None:
        """Copy a table to the device, with the cursor at step `at`."""
        self.net.refresh()
        self.table, epoch = table, self.epoch
        for array, values in (
            (epoch.cursor, np.array([at, table.first_step + at])),
            (epoch.order, self.rows.positions(table.order)),
            (epoch.normalizer, table.normalizer),
            (epoch.learning_rate, table.learning_rate),
        ):
            array[...] = self.net.backend.from_host(values)

    def replay(self, index: int) -> None:
        """Loss and gradients of step `index` of the table once more, with the weights as they are now."""
        self.begin(self.table, index)
        row = index * self.batch_size
        self.rows.load(self.table.order, row - row % self.rows.segment)
        with self.net.backend.computing():
            self._forward_backward(min(self.batch_size, self.table.rows - row))

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


def _room_for_data(net: MLP, batch_size: int, optimizer: Optimizer) -> float:
    """Bytes that are left for the data on the device beside what training takes."""
    needed, room = net.memory(batch_size, optimizer), net.backend.room()
    taken = needed["total"] - needed["parameters"]  # those are there already
    if taken <= room:
        return room - taken
    fits = int((room - needed["optimizer"]) * batch_size // needed["activations"])
    remedy = f"batch_size={fits} would fit" if fits > 0 else "no batch would fit beside its optimizer"
    raise DeviceError(
        f"training {net} with batch_size={batch_size} takes {taken / 2**20:,.0f} MiB more of {net.device}, where "
        f"{room / 2**20:,.0f} MiB are free; {remedy}"
    )
