"""The training of a stack, epoch by epoch: its rows, its steps, and which networks are still in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import Batch, OptimizerState
from gpubp.errors import DeviceError
from gpubp.optimizers import Optimizer
from gpubp.stack import Stack
from gpubp.training.accumulation import (
    AccumulatingStep,
    Batches,
    accumulation,
    parts_per_batch,
    training_bytes,
)
from gpubp.training.accumulation import begin as begin_parts
from gpubp.training.augmentation import Augmentation
from gpubp.training.data_parallel import of_own_parts, rank_step
from gpubp.training.device_data import DeviceData
from gpubp.training.gradient_sums import adding_up
from gpubp.training.row_groups import RowGroup, compacted, of_networks, row_groups
from gpubp.training.slice_step import SliceStep, StepState, Workspace
from gpubp.training.step_table import StepTable
from gpubp.training.streaming import StreamedData, StreamedRows

COMPACT_BELOW = 0.75  # fraction of a stack that still trains, below which the other networks are removed


@dataclass(frozen=True)
class EpochResult:
    """What the host reads at the end of an epoch.

    Attributes
    ----------
    totals : (K, steps, 2) float64
        Σ weight · (value, metric) over the rows of each step.
    diverged : (K,) bool
        The networks that diverged in this epoch. They have their last finite weights: those whose θ itself overflowed
        return to the epoch's start.
    penalty : (K, steps) float64 or None
    largest_update : (K,) float64 or None
        As in `OptimizerState`; None if not tracked.
    overflows : (K,) int64 or None
        Steps that loss scaling skipped so far.
    """

    totals: NDArray[np.float64]
    diverged: NDArray[np.bool_]
    penalty: NDArray[np.float64] | None
    largest_update: NDArray[np.float64] | None
    overflows: NDArray[np.int64] | None


class Pauses(Protocol):
    """Called between steps of an epoch, when all networks are at the same step."""

    def most_steps(self, position: int) -> int:
        """The number of steps that may be taken from step `position` of the epoch before the next pause."""

    def reached(self, position: int) -> None:
        """Step `position` of the epoch comes next; it is neither the first nor beyond the last."""


class TrainingStep:
    """Gather batch → forward → BP1 with loss → (BP4, BP2 + BP3) per layer → optimizer, for a whole stack.

    It works on a copy of the parameters: `stack` has those from the end of the last epoch in which they were finite.
    Networks that no longer train are removed between epochs, once they are a quarter of the stack.

    Parameters
    ----------
    stack : Stack
    data : (X, y, weight)
        X (m, n_0), y (m,) integers or (m, n_L), and sample weights (m,) or (K, m) float64, or None. If X is
        StreamedRows, it holds the targets, and y has one row.
    batch_size : int or Batches
        At most m rows. With m in one part, the rows are used in place, in their own order.
    optimizer : OptimizerState
    dropout, label_smoothing : (K,) float64
    orders : int
        1 if all networks see the rows in the same order, otherwise K.
    counts : (K,) int, optional
        The number of rows of each network, if not all; `orders` is then K.

    Attributes
    ----------
    members : (n,) int
        The numbers of the networks still in the stack.
    live : Stack
        These networks, with the parameters that are being trained.
    table : StepTable
        The table of the last epoch that was begun.
    began : (K,) bool
        Which networks trained when it began.
    augmentation : Augmentation or None
        Regenerates the rows before an epoch; None if they stay.
    """

    augmentation: Augmentation | None = None

    def __init__(
        self,
        stack: Stack,
        data: tuple[Any, Array, NDArray[np.float64] | None],
        batch_size: int | Batches,
        optimizer: OptimizerState,
        dropout: NDArray[np.float64],
        label_smoothing: NDArray[np.float64],
        orders: int = 1,
        counts: NDArray[np.int64] | None = None,
    ) -> None:
        batches = Batches(batch_size) if isinstance(batch_size, int) else batch_size
        self.stack, self.batches, self.batch_size = stack, batches, batches.size
        backend, (X, y, weight) = stack.backend, data
        m, weight = len(X), None if weight is None else np.atleast_2d(weight)
        if weight is not None and len(weight) > 1:
            orders = stack.models
        streamed = isinstance(X, StreamedRows)
        in_place = (batches.size, batches.parts, streamed) == (m, 1, False) and counts is None and orders == 1
        free = _memory_for_data(stack, batches, optimizer.rule)
        X = X.astype(backend.storage, copy=False) if in_place else X
        self.data: DeviceData | StreamedData = (
            StreamedData(backend, X, batches.size)
            if streamed
            else DeviceData(backend, (X, stack.cast_targets(y), weight), batches.size, orders, free)
        )
        self.counts = np.full(stack.models, m) if counts is None else counts
        self.members, self.live = np.arange(stack.models), stack.copy()
        self.began = np.ones(stack.models, np.bool_)
        optimizer.operands = None if self.live.operand_buffer is self.live.theta else self.live.operand_buffer
        epoch = stack.epoch(most_rows := int(self.counts.max()), batches.size)
        epoch.loss_scale = backend.loss_scale(stack.models)
        epoch.period = 0 if self.data.resident else self.data.segment
        added = None if batches.parts == 1 else accumulation(stack, batches, epoch, optimizer, most_rows)
        drop = stack.dropout(dropout, epoch if added is None else added.parts)
        X, y, weight = self.data.device
        data_batch = Batch(X, y, weight, backend.from_host(label_smoothing))
        self.state = StepState(optimizer, epoch, drop, data_batch, added)
        self.workspace = Workspace(
            batch=None if in_place else self._batch_buffers(orders),
            caches=stack.caches(batches.part_size, drop is not None, recompute=batches.recompute),
            grad=backend.zeros(stack.theta.shape),
            total=None if added is None else backend.zeros(stack.theta.shape),
        )
        self._slice_steps: dict[tuple[int, int], SliceStep] = {}
        self._add_up = None if batches.ranks.size == 1 else adding_up(batches.ranks, stack)

    def _batch_buffers(self, orders: int) -> tuple[Array | None, ...]:
        """X, y and weights of a batch, which `gather` fills."""
        backend, sources = self.stack.backend, self.data.device
        dtypes = (backend.storage, sources[1].dtype, np.float64)
        return tuple(
            None if source is None else backend.empty((orders, self.batches.part_size, *source.shape[2:]), dtype)
            for source, dtype in zip(sources, dtypes, strict=True)
        )

    # -- what is known of it ---------------------------------------------------------------------------

    @property
    def way(self) -> str:
        """How the backend takes steps: "calls", "program", "graph" or "on-chip"; in "parts" with accumulation."""
        return self._made_slice_step(slice(0, len(self.members))).way

    def active(self) -> NDArray[np.bool_]:
        """Which networks still train, (K,) on the host."""
        return self._for_all(self.state.optimizer.active)

    def totals(self) -> NDArray[np.float64]:
        """Σ weight · (value, metric) over the rows of each step or part of the epoch, (K, steps, 2) on the host."""
        totals = self._for_all(self._totals())
        self.batches.ranks.sum(totals)
        return totals

    def fault_step(self, k: int) -> int:
        """The step over the whole training at which network k diverged; −1 if it did not."""
        added = self.state.accumulation
        if added is not None and (part := int(self._for_all(added.adding.fault_step)[k])) >= 0:
            return part // parts_per_batch(added)
        return int(self._for_all(self.state.optimizer.fault_step)[k])  # a sum of parts, or there are no parts

    def steps_of(self, k: int) -> int:
        """Steps of network k in an epoch."""
        return -(-int(self.counts[k]) // self.batch_size)

    def optimizer_slots(self, k: int) -> tuple[Array, tuple[Array, ...]] | None:
        """Views of updates (1,) and slots (1, P) of network k; None if it was removed."""
        places = np.flatnonzero(self.members == k)
        if not len(places):
            return None
        place, optimizer = slice(int(places[0]), int(places[0]) + 1), self.state.optimizer
        return optimizer.updates[place], tuple(slot[place] for slot in optimizer.slots)

    def carried(self) -> dict[str, Array]:
        """The state that networks in the stack carry from step to step, by name, without copying."""
        optimizer, epoch = self.state.optimizer, self.state.epoch
        scaling, largest = epoch.loss_scale, optimizer.largest_update
        added = self.state.accumulation
        return {
            "theta": self.live.theta,
            **{f"slots.{name}": slot for name, slot in zip(optimizer.rule.slots, optimizer.slots, strict=True)},
            "updates": optimizer.updates,
            "active": optimizer.active,
            "fault_step": optimizer.fault_step,
            "totals": self._totals(),
            **({} if added is None else {"fault_part": added.adding.fault_step}),
            **({} if largest is None else {"largest_update": largest}),
            **({} if scaling is None else {"scale": scaling.scale, "clean_steps": scaling.clean_steps}),
            **({} if scaling is None else {"overflows": scaling.overflows}),
        }

    def carried_to_host(self) -> dict[str, NDArray[Any]]:
        """A copy of the carried state; called by all ranks together, since each has the totals of its own parts."""
        carried = {name: np.array(self.stack.backend.to_host(array)) for name, array in self.carried().items()}
        ranks = self.batches.ranks
        ranks.sum(carried["totals"])
        if "fault_part" in carried:
            carried["fault_part"] = ranks.gather(*carried["fault_part"]).max(axis=0).astype(np.int64)
        return carried

    def restore(self, members: NDArray[np.int64], began: NDArray[np.bool_], carried: Mapping[str, Any]) -> None:
        """Return to an earlier state, in which `members` were in the stack, from what they carried, on the host."""
        if len(members) < len(self.members):
            self._keep(members)
        self.began = began
        if (added := self.state.accumulation) is not None:
            own_totals = of_own_parts(carried["totals"], self.batches.ranks, parts_per_batch(added))
            carried = {**carried, "totals": own_totals}
        for name, array in self.carried().items():
            array[...] = self.stack.backend.from_host(carried[name])

    # -- training --------------------------------------------------------------------------------------

    def stop(self, networks: NDArray[np.bool_]) -> None:
        """Stop training these networks, (K,) bool."""
        self.stack.backend.assign(self.state.optimizer.active, False, networks[self.members])

    def run_epoch(self, table: StepTable, first: int = 0, pauses: Pauses | None = None) -> EpochResult:
        """Take all steps of a table, read the results to the host, and give `stack` the finite parameters.

        Parameters
        ----------
        table : StepTable
        first : int
            The step to begin with; earlier ones had been taken before the networks were `restore`d.
        pauses : Pauses, optional
        """
        if not first:
            self._compact()
            if self.state.optimizer.largest_update is not None:
                self.state.optimizer.largest_update[...] = 0
            self.began = self.active()
        backend, optimizer, scaling = self.stack.backend, self.state.optimizer, self.state.epoch.loss_scale
        before = self.began
        self.train_epoch(table, first, pauses)
        finite = backend.finite(self.live.theta)
        overflowed = before[self.members] & ~finite
        if overflowed.any():
            backend.assign(optimizer.active, False, overflowed)
        self._copy_back(finite)
        return EpochResult(
            totals=self.totals(),
            diverged=before & ~self.active(),
            penalty=None if optimizer.penalty is None else self._for_all(optimizer.penalty),
            largest_update=None if optimizer.largest_update is None else self._for_all(optimizer.largest_update),
            overflows=None if scaling is None else self._for_all(scaling.overflows),
        )

    def train_epoch(self, table: StepTable, first: int = 0, pauses: Pauses | None = None) -> None:
        """Take all steps of a table, or those from `first` on, starting from the networks' current state."""
        self.begin(table, first, parameters=not first)
        steps_of_segment, loaded = self.data.segment // self.batch_size, -1
        for start, groups in groupby(self._row_groups(), lambda group: group.first):
            together = list(groups)
            position, end = max(start, first), start + together[0].steps
            if position < end and position // steps_of_segment != loaded:
                loaded = position // steps_of_segment
                self._load(loaded * self.data.segment)
            while position < end:
                count = end - position if pauses is None else min(end - position, pauses.most_steps(position))
                for group in together:
                    self.seek(position)
                    self._slice_step(group.networks).run(count, group.rows)
                position += count
                if pauses is not None and position < table.steps:
                    pauses.reached(position)

    def give_back(self) -> None:
        """Give `stack` the networks' parameters within an epoch, where they are finite."""
        self._copy_back(self.stack.backend.finite(self.live.theta))

    def begin(self, table: StepTable, at: int = 0, *, parameters: bool = True) -> None:
        """Copy a table to the device, with the cursor at step `at`, and if asked, the parameters of `stack`."""
        self.table, epoch = table, self.state.epoch
        if parameters and len(self.members) == self.stack.models:
            self.live.theta[...] = self.stack.theta
        elif parameters:
            places = np.arange(len(self.members))
            self.stack.backend.copy_networks(self.stack.theta, self.members, self.live.theta, places)
        self.live.refresh()
        self.seek(at)
        for array, values in (
            (epoch.first_step, self._of_members(table.first_step)),
            (epoch.normalizer, self._of_members(table.normalizer)),
            (epoch.learning_rate, self._of_members(table.learning_rate)),
        ):
            array[...] = self.stack.backend.from_host(values)
        self._send_order(table)
        if self.state.accumulation is not None:
            begin_parts(self.state.accumulation, self.stack, epoch, table, self.members)

    def _send_order(self, table: StepTable) -> None:
        """Send the order of rows to the device: keys if it computes the order itself, otherwise a table of the rows."""
        epoch, order = self.state.epoch, table.order
        if not self.data.resident:
            if self.data.places is not None:
                epoch.order = self._sent(self.data.places[: len(self.members)], epoch.order)
            return
        if table.keys is not None and self.stack.backend.shuffles_rows:
            epoch.keys = self._sent(self._of_members(table.keys), epoch.keys)
            if epoch.counts is not None:  # the networks' rows are already on the device
                return
            epoch.counts = self._sent(self._of_members(table.counts), None)
        elif table.keys is not None:
            order = table.rows()
        if order is not None:
            epoch.order = self._sent(self._of_members(order), epoch.order)

    def _sent(self, values: NDArray[Any], there: Array | None) -> Array:
        """A host array on the device: in `there`, or in memory of its own, since networks are moved in it."""
        if there is None:
            return self.stack.backend.from_host(values.copy())
        there[...] = self.stack.backend.from_host(values)
        return there

    def _load(self, start: int) -> None:
        """If not all rows are on the device, copy the segment of each order that begins at `start`."""
        if not self.data.resident:
            self.data.load(self.table, start, self.members)

    def seek(self, index: int) -> None:
        """Make step `index` of the epoch the next one."""
        self.state.epoch.cursor[...] = index
        if (added := self.state.accumulation) is not None:
            added.whole.cursor[...], added.parts.cursor[...] = index, index * parts_per_batch(added)

    def position(self) -> int:
        """Which step of the epoch comes next; waits for the device."""
        return int(self.stack.backend.to_host(self.state.epoch.cursor)[0])

    def run_steps(self, count: int, rows: int) -> None:
        """Launch the next steps of all networks in the stack, each on `rows` rows."""
        self._slice_step(slice(0, len(self.members))).run(count, rows)

    def replay(self, index: int, k: int) -> tuple[SliceStep, int]:
        """Repeat loss and gradients of step `index` of the table for network k with its current weights.

        Returns
        -------
        SliceStep
            With the results of the step.
        int
            The index of network k in it.
        """
        place = int(np.searchsorted(self.members, k))
        group = next(
            group
            for group in self._row_groups()
            if group.networks.start <= place < group.networks.stop and 0 <= index - group.first < group.steps
        )
        self.begin(self.table, index)
        row = index * self.batch_size
        self._load(row - row % self.data.segment)
        step = self._slice_step(group.networks)
        with self.stack.backend.computing():
            step.gradients(group.rows)
        return step, place - group.networks.start

    # -- which networks have a place -------------------------------------------------------------------

    def _compact(self) -> None:
        """If many networks no longer train, move the others together and release the rest of the memory."""
        active = self.stack.backend.to_host(self.state.optimizer.active)
        if active.all() or not active.any() or active.sum() > COMPACT_BELOW * len(active):
            return
        self._keep(np.flatnonzero(active))

    def _keep(self, stay: NDArray[np.int64]) -> None:
        """Move the networks at these places together and release the rest of the memory."""
        self.members, first = self.members[stay], slice(0, len(stay))
        self.state, self.workspace = compacted(self.state, stay), of_networks(self.workspace, first)
        self.live = self.live.part(first)
        if self.workspace.total is not None:  # a network that diverged within a batch left the sum of some parts there
            self.workspace.total[...] = 0
        self._slice_steps.clear()

    def _slice_step(self, networks: slice) -> SliceStep:
        """The step of consecutive networks."""
        key = networks.start, networks.stop
        if key not in self._slice_steps:
            self._slice_steps[key] = self._made_slice_step(networks)
        return self._slice_steps[key]

    def _made_slice_step(self, networks: slice) -> SliceStep:
        """A new step, which uses the current order of rows."""
        stack, (state, workspace) = self.live.part(networks), of_networks((self.state, self.workspace), networks)
        if self._add_up is not None:
            return rank_step(stack, state, workspace, self.batches, self._add_up)
        return (SliceStep if state.accumulation is None else AccumulatingStep)(stack, state, workspace)

    def _row_groups(self) -> list[RowGroup]:
        """The steps of an epoch, in groups that do not extend from one segment of the rows into the next."""
        counts = self.counts[self.members]
        borders = range(0, int(counts.max()), self.data.segment)
        return row_groups(counts, self.batch_size, [row // self.batch_size for row in borders])

    def _of_members(self, array: NDArray[Any]) -> NDArray[Any]:
        """The part of a host array (K or 1, …) that belongs to the networks in the stack."""
        return array if len(array) == 1 else array[self.members]

    def _totals(self) -> Array:
        """Sums of the losses and metrics of each step, or of each part, for the networks in the stack."""
        added = self.state.accumulation
        return self.state.epoch.totals if added is None else added.parts.totals

    def _for_all(self, array: Array) -> NDArray[Any]:
        """An array for the networks in the stack, expanded to (K, …) on the host, zero for the others."""
        of_members = self.stack.backend.to_host(array)
        if len(self.members) == self.stack.models:
            return np.array(of_members)
        everyone = np.zeros((self.stack.models, *of_members.shape[1:]), of_members.dtype)
        everyone[self.members] = of_members
        return everyone

    def _copy_back(self, finite: NDArray[np.bool_]) -> None:
        """Give `stack` the parameters that are finite."""
        if finite.all() and len(self.members) == self.stack.models:
            self.stack.theta[...] = self.live.theta
            return
        places = np.flatnonzero(finite)
        self.stack.backend.copy_networks(self.live.theta, places, self.stack.theta, self.members[places])


def _memory_for_data(stack: Stack, batches: Batches, optimizer: Optimizer) -> float:
    """Bytes left for the data on the device besides what training takes."""
    taken, free = training_bytes(stack, batches, optimizer), stack.backend.free_memory()
    if taken <= free:
        return free - taken
    needed, size = stack.memory(batches.part_size, optimizer, batches.recompute), batches.part_size
    fits = int((free - needed["optimizer"]) * size // needed["activations"])
    remedy = f"batch_size={fits} would fit" if fits > 0 else "no batch would fit beside its optimizer"
    raise DeviceError(
        f"training {stack} with batch_size={size} takes {taken / 2**20:,.0f} MiB more of "
        f"{stack.backend.device}, where {free / 2**20:,.0f} MiB are free; {remedy}"
    )
