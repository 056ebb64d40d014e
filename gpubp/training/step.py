"""The training of a stack, epoch by epoch: its rows, its steps, and who still has a place in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import OptimizerState
from gpubp.errors import DeviceError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer
from gpubp.training.device_data import DeviceData
from gpubp.training.row_groups import Run, moved_up, part, runs
from gpubp.training.slice_step import SliceStep, StepState, Workspace
from gpubp.training.step_table import StepTable

CROWDED = 0.75  # share of a stack that still trains; where it is less, the others give up their place


@dataclass(frozen=True)
class EpochResult:
    """What the host reads at the end of an epoch.

    Attributes
    ----------
    totals : (K, steps, 2) float64
        Σ weight · (value, metric) over the rows of each step.
    diverged : (K,) bool
        The networks that left the finite numbers in this epoch. They have their last finite weights: those
        whose θ itself overflowed go back to the epoch's start.
    penalty : (K, steps) float64 or None
    largest_update : (K,) float64 or None
        As `OptimizerState` has them; None where they are not tracked.
    overflows : (K,) int64 or None
        Steps that loss scaling skipped so far.
    """

    totals: NDArray[np.float64]
    diverged: NDArray[np.bool_]
    penalty: NDArray[np.float64] | None
    largest_update: NDArray[np.float64] | None
    overflows: NDArray[np.int64] | None


class TrainingStep:
    """Gather batch → forward → BP1 with loss → (BP4, BP2 + BP3) per layer → optimizer, for all of a stack.

    It works on a copy of the parameters: `net` has those from the end of the last epoch in which they were finite.
    Networks that no longer train give up their place between epochs, once they are a quarter of the stack.

    Parameters
    ----------
    net : MLP
    X : (m, n_0) array
    y : (m,) integers or (m, n_L) array
    weight : (m,) or (K, m) float64 or None
    batch_size : int
        At most m. With m, the rows are used where they lie, in their own order.
    state : OptimizerState
    dropout, label_smoothing : (K,) float64
    orders : int
        1 where all networks see the rows in the same order, else K.
    counts : (K,) int, optional
        How many rows each network has, where it does not have all; `orders` is K then.

    Attributes
    ----------
    members : (n,) int
        The networks that have a place.
    live : Stack
        They, with the parameters that are being trained.
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
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        self.net, self.batch_size = net, batch_size
        backend, m = net.backend, len(X)
        weight = None if weight is None else np.atleast_2d(weight)
        if weight is not None and len(weight) > 1:
            orders = net.models
        whole = batch_size == m and counts is None and orders == 1
        room = _room_for_data(net, batch_size, state.rule)
        given = X.astype(backend.storage, copy=False) if whole else X
        self.rows = DeviceData(backend, (given, net.cast_targets(y), weight), batch_size, orders, room)
        sources = self.rows.device
        self.counts = np.full(net.models, m) if counts is None else counts
        self.members, self.live = np.arange(net.models), net.twin()
        state.operands = None if self.live.operand_buffer is self.live.theta else self.live.operand_buffer
        epoch = net.epoch(int(self.counts.max()), batch_size, orders)
        epoch.loss_scale = backend.loss_scale(net.models)
        drop = net.dropout(dropout, epoch)
        self.kept = StepState(state, epoch, drop, backend.from_host(label_smoothing), sources)
        self.scratch = Workspace(
            tuple(
                None if source is None or whole else backend.empty((orders, batch_size, *source.shape[2:]), dtype)
                for source, dtype in zip(sources, (backend.storage, sources[1].dtype, np.float64), strict=True)
            ),
            net.workspace(batch_size, drop is not None),
            backend.zeros(net.theta.shape),
        )
        self._substeps: dict[tuple[int, int], SliceStep] = {}

    @property
    def together(self) -> SliceStep:
        """The step of all that have a place."""
        return self._of(slice(0, len(self.members)))

    def active(self) -> NDArray[np.bool_]:
        """Which networks still train, (K,) on the host."""
        return self._of_all(self.kept.state.active)

    def fault_step(self, k: int) -> int:
        """The step over the whole training at which network k left the finite numbers; −1 if it did not."""
        return int(self._of_all(self.kept.state.fault_step)[k])

    def steps_of(self, k: int) -> int:
        """Steps of network k in an epoch."""
        return -(-int(self.counts[k]) // self.batch_size)

    def stop(self, who: NDArray[np.bool_]) -> None:
        """Train the networks `who` (K,) no further."""
        self.net.backend.assign(self.kept.state.active, False, who[self.members])

    def run_epoch(self, table: StepTable) -> EpochResult:
        """`train_epoch`, and what the host reads at its end."""
        self._close_ranks()
        backend, state, scaling = self.net.backend, self.kept.state, self.kept.epoch.loss_scale
        if state.largest_update is not None:
            state.largest_update[...] = 0
        before = self.active()
        self.train_epoch(table)
        finite = backend.finite(self.live.theta)
        overflowed = before[self.members] & ~finite
        if overflowed.any():
            backend.assign(state.active, False, overflowed)
        self._hand_over(finite)
        return EpochResult(
            self._of_all(self.kept.epoch.totals),
            before & ~self.active(),
            None if state.penalty is None else self._of_all(state.penalty),
            None if state.largest_update is None else self._of_all(state.largest_update),
            None if scaling is None else self._of_all(scaling.overflows),
        )

    def train_epoch(self, table: StepTable) -> None:
        """Take all steps of a table."""
        self.begin(table)
        for start in range(0, table.order.shape[1], self.rows.segment):
            self.rows.load(self._own(table.order), start, self.members)
            for run in self._runs():
                if start <= run.first * self.batch_size < start + self.rows.segment:
                    self.kept.epoch.cursor[...] = run.first
                    self._of(run.networks).run(run.steps, run.rows)

    def begin(self, table: StepTable, at: int = 0) -> None:
        """Take over the parameters of `net` and copy a table to the device, with the cursor at step `at`."""
        self.table, epoch = table, self.kept.epoch
        if len(self.members) == self.net.models:
            self.live.theta[...] = self.net.theta
        else:
            for place, k in enumerate(self.members.tolist()):
                self.live.theta[place] = self.net.theta[k]
        self.live.refresh()
        epoch.cursor[...] = at
        for array, values in (
            (epoch.first_step, self._own(table.first_step)),
            (epoch.order, self.rows.positions(self._own(table.order))),
            (epoch.normalizer, self._own(table.normalizer)),
            (epoch.learning_rate, self._own(table.learning_rate)),
        ):
            array[...] = self.net.backend.from_host(values)

    def replay(self, index: int, k: int) -> tuple[SliceStep, int]:
        """Loss and gradients of step `index` of the table once more, for network k with the weights it has now.

        Returns
        -------
        SliceStep
            With what the step left.
        int
            Which of its networks k is.
        """
        place = int(np.searchsorted(self.members, k))
        run = next(
            run
            for run in self._runs()
            if run.networks.start <= place < run.networks.stop and run.first <= index < run.first + run.steps
        )
        self.begin(self.table, index)
        row = index * self.batch_size
        self.rows.load(self._own(self.table.order), row - row % self.rows.segment, self.members)
        with self.net.backend.computing():
            self._of(run.networks).forward_backward(run.rows)
        return self._of(run.networks), place - run.networks.start

    # -- who has a place -------------------------------------------------------------------------------

    def _close_ranks(self) -> None:
        """Those that no longer train give up their place, where they are many."""
        active = self.net.backend.to_host(self.kept.state.active)
        if active.all() or not active.any() or active.sum() > CROWDED * len(active):
            return
        stay = np.flatnonzero(active)
        self.members, first = self.members[stay], slice(0, len(stay))
        self.kept, self.scratch = moved_up(self.kept, stay), part(self.scratch, first)
        self.live = self.live.part(first)
        self._substeps.clear()

    def _of(self, networks: slice) -> SliceStep:
        """The step of neighbours."""
        key = networks.start, networks.stop
        if key not in self._substeps:
            self._substeps[key] = SliceStep(self.live.part(networks), *part((self.kept, self.scratch), networks))
        return self._substeps[key]

    def _runs(self) -> list[Run]:
        """The steps of an epoch, none of which reaches from one segment of the rows into the next."""
        longest = int(self.counts[self.members].max())
        borders = range(0, longest, self.rows.segment)
        return runs(self.counts[self.members], self.batch_size, [row // self.batch_size for row in borders])

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part of the networks that have a place, of a host's array (K or 1, …)."""
        return array if len(array) == 1 else array[self.members]

    def _of_all(self, array: Array) -> NDArray[Any]:
        """An array of those that have a place as one (K, …) on the host, zero for the others."""
        own = self.net.backend.to_host(array)
        if len(self.members) == self.net.models:
            return np.array(own)
        found = np.zeros((self.net.models, *own.shape[1:]), own.dtype)
        found[self.members] = own
        return found

    def _hand_over(self, finite: NDArray[np.bool_]) -> None:
        """Give `net` the parameters that are finite."""
        if finite.all() and len(self.members) == self.net.models:
            self.net.theta[...] = self.live.theta
            return
        for place in np.flatnonzero(finite).tolist():
            self.net.theta[int(self.members[place])] = self.live.theta[place]


def _room_for_data(net: MLP, batch_size: int, optimizer: Optimizer) -> float:
    """Bytes that are left for the data on the device beside what training takes."""
    needed, room = net.memory(batch_size, optimizer), net.backend.free_memory()
    taken = needed["total"] - needed["parameters"]  # those are there already
    if taken <= room:
        return room - taken
    fits = int((room - needed["optimizer"]) * batch_size // needed["activations"])
    remedy = f"batch_size={fits} would fit" if fits > 0 else "no batch would fit beside its optimizer"
    raise DeviceError(
        f"training {net} with batch_size={batch_size} takes {taken / 2**20:,.0f} MiB more of {net.device}, where "
        f"{room / 2**20:,.0f} MiB are free; {remedy}"
    )
