"""Data-parallel training: ranks go through the parts of each batch, and add up their gradients before the update.

Every rank has all rows, the whole network and the whole optimizer. Parts are those of accumulation, rank r has those
after the parts of the ranks below it, and gradients are added in that order: ranks end with the weights of one process
that accumulates as many parts. What must not differ among them is compared, or is what rank 0 says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpubp import serialization
from gpubp._typing import Array
from gpubp.backends import Backend
from gpubp.backends.notices import say_once
from gpubp.errors import DataError, DeviceError, RankError
from gpubp.layout import Layout
from gpubp.stack import Stack
from gpubp.training.accumulation import AccumulatingStep, Batches, parts_per_batch
from gpubp.training.checkpoint import TrainingIdentity, TrainingState, first_difference
from gpubp.training.ranks import Ranks
from gpubp.training.samples import Samples
from gpubp.training.slice_step import StepState, Workspace

FEWEST_IN_SLICE = 1 << 18  # elements of a gradient that are added up beside the backward pass, or with the next ones


class RankStep(AccumulatingStep):
    """A training step of neighbours in a stack, of whose batch this rank goes through its parts.

    Parameters
    ----------
    stack, state, workspace
        As for `AccumulatingStep`.
    ranks : Ranks
    parts : int
        Of a batch, that this rank goes through.
    add_up : callable
        As `adding_up` returns it.
    """

    def __init__(
        self,
        stack: Stack,
        state: StepState,
        workspace: Workspace,
        ranks: Ranks,
        parts: int,
        add_up: Callable[[Array], None],
    ) -> None:
        self.first_part, self.most_parts, self._add_up = ranks.rank * parts, parts, add_up
        super().__init__(stack, state, workspace)

    def _run(self, count: int, rows: int) -> None:
        """Take steps of so many rows, of which this rank has none where the last batch of an epoch is small."""
        parts, cursor = self.added.parts, self.added.parts.cursor
        own_rows = min(max(0, rows - self.first_part * parts.batch_size), self.most_parts * parts.batch_size)
        full, rest = divmod(own_rows, parts.batch_size)
        for _ in range(count):
            cursor += self.first_part
            if full:
                self._add(full, parts.batch_size)
            if rest:
                self._add(1, rest)
            cursor += parts_per_batch(self.added) - self.first_part - full - (rest > 0)
            self._over_ranks()
            self._update(1, rows)
            self._clear(1, rows)

    def _over_ranks(self) -> None:
        """Add up the sums of all ranks; where a part was not finite on one of them, on none is the sum."""
        backend = self.stack.backend
        with backend.computing():
            self.total[:, :1] += backend.xp.where(self.state.optimizer.active, 0.0, np.nan)[:, None]
            self._add_up(self.total)


class OverlappingRankStep(RankStep):
    """A rank's step of one network and one part, which adds up gradients slice by slice beside the backward pass.

    Once the gradients of some layers are there, the last ones first, the sum of all ranks' is begun, and MPI sends
    while the layers below are gone through. Each element is added up in the order of the ranks, as it is in one sum.

    Parameters
    ----------
    stack, state, workspace, ranks, add_up
        As for `RankStep`, of parts that each rank has one of.
    """

    def __init__(
        self, stack: Stack, state: StepState, workspace: Workspace, ranks: Ranks, add_up: Callable[[Array], None]
    ) -> None:
        self.ranks, self.after_layer = ranks, slices_by_layer(stack.layout)
        lowest = min((part.start for part in self.after_layer.values()), default=stack.layout.n_weights)
        rest = slice(0, lowest), slice(stack.layout.n_weights, stack.layout.size)
        self.slices = [*self.after_layer.values(), *rest]
        self._ends: list[Callable[[Array], None]] = []  # of the sums that are begun
        super().__init__(stack, state, workspace, ranks, 1, add_up)

    def _run(self, count: int, rows: int) -> None:
        parts, cursor = self.added.parts, self.added.parts.cursor
        own_rows = min(max(0, rows - self.first_part * parts.batch_size), parts.batch_size)
        for _ in range(count):
            cursor += self.first_part
            self._add_over_ranks(own_rows)
            cursor += parts_per_batch(self.added) - self.first_part - (own_rows > 0)
            self._update(1, rows)
            self._clear(1, rows)

    def _add_over_ranks(self, rows: int) -> None:
        """The sum of all ranks' gradients, of which this one has so many rows; what was begun is ended in any case."""
        grad, total = self.workspace.grad[0], self.total[0]
        self.ranks.meet()
        try:
            if rows:
                self._add(1, rows)
            else:
                grad[...] = 0.0
            if not self.state.optimizer.active[0]:
                grad[0] = np.nan  # of the first layer, in a slice that is not begun yet: on no rank is the sum finite
        finally:
            for part in self.slices[len(self._ends) :]:
                self._begin(part)
            ends, self._ends = self._ends, []
            for part, end in zip(self.slices, ends, strict=True):
                end(total[part])

    def _add_part(self, rows: int) -> None:
        self.gradients(rows, self._begin_after)
        self.stack.backend.optimizer_step(self.added.adding, self.total, self.workspace.grad, self.added.parts)

    def _begin_after(self, layer: int) -> None:
        if layer in self.after_layer:
            self.stack.backend.call(self._begin, self.after_layer[layer])

    def _begin(self, part: slice) -> None:
        self._ends.append(self.ranks.begin_sum(self.workspace.grad[0, part]))


def slices_by_layer(layout: Layout) -> dict[int, slice]:
    """Slices of a gradient that are worth a sum of their own, by the layer after which they are complete."""
    slices, end = {}, layout.n_weights
    for layer in reversed(range(1, len(layout.shapes))):
        start = layout.weight_starts[layer]
        if end - start >= FEWEST_IN_SLICE:
            slices[layer], end = slice(start, end), start
    return slices


def rank_step(
    stack: Stack,
    state: StepState,
    workspace: Workspace,
    batches: Batches,
    add_up: Callable[[Array], None],
) -> RankStep:
    """The step of one of several ranks: overlapping with its sums on a CPU, where that is worth it."""
    parts = batches.parts // batches.ranks.size
    on_host = isinstance(stack.theta, np.ndarray) and stack.backend.device == "cpu"
    if on_host and parts == stack.models == 1 and slices_by_layer(stack.layout):
        return OverlappingRankStep(stack, state, workspace, batches.ranks, add_up)
    return RankStep(stack, state, workspace, batches.ranks, parts, add_up)


def of_own_parts(totals: NDArray[np.float64], ranks: Ranks, parts: int) -> NDArray[np.float64]:
    """Totals (K, steps · parts, 2) of all ranks' parts, zero where the part of a batch is not this rank's."""
    first = ranks.rank * parts // ranks.size
    part = np.arange(totals.shape[1]) % parts
    is_ours = (first <= part) & (part < first + parts // ranks.size)
    return np.where(is_ours[:, None], totals, 0.0)


def adding_up(ranks: Ranks, stack: Stack) -> Callable[[Array], None]:
    """What puts the sum of all ranks' arrays, which lie where those of a stack do, into each of them."""
    on_device = hasattr(stack.theta, "__cuda_array_interface__")
    if (differing := ranks.gather(on_device)[:, 0] != on_device).any():
        where = f"rank {ranks.rank} computes on {stack.backend.device}"
        raise DeviceError(f"{where}, rank {int(np.argmax(differing))} does not; give all a GPU, or none")
    if not on_device:
        return ranks.sum if isinstance(stack.theta, np.ndarray) else partial(_sum_on_host, ranks, stack.backend)
    from gpubp.backends.cuda.nccl import INSTALL, NcclSum, available

    if ranks.gather(available()).all():
        return NcclSum(ranks)
    say_once(f"NCCL is missing: gradients are added up in the host's memory, which takes longer; {INSTALL}")
    return partial(_sum_on_host, ranks, stack.backend)


def _sum_on_host(ranks: Ranks, backend: Backend, array: Array) -> None:
    host = np.array(backend.to_host(array))
    ranks.sum(host)
    array[...] = backend.from_host(host)


def check_same(ranks: Ranks, stack: Stack, identity: TrainingIdentity, state: TrainingState | None) -> None:
    """Refuse ranks that would not train the same network on the same rows, from the same step on.

    Raises
    ------
    DataError
        On all ranks, with what differs on both sides.
    """
    if ranks.size == 1:
        return
    weights = stack.backend.to_host(stack.theta)
    here = {
        **identity.described,
        "versions": {name: value for name, value in identity.machine.items() if name != "device"},
        "weights": serialization.digest_of_array(weights)[:32] if state is None else f"of step {state.step}",
    }
    every = [json.loads(text) for text in ranks.texts(json.dumps(here))]
    for rank, there in enumerate(every[1:], start=1):
        if (difference := first_difference("", every[0], there)) is not None:
            name, first, other = difference
            raise DataError(
                f"rank {rank} would not train what rank 0 does: {name} is {first} on rank 0 and {other} on rank "
                f"{rank}; give all ranks the same rows, network and options, and each takes its part of every batch"
            )


def check_still_same(ranks: Ranks, stack: Stack) -> None:
    """Refuse to go on where ranks have come to different weights.

    Raises
    ------
    RankError
        On all ranks.
    """
    if ranks.size == 1:
        return
    digests = ranks.texts(serialization.digest_of_array(stack.backend.to_host(stack.theta))[:32])
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise RankError(
                f"rank {rank} has come to other weights ({digest}) than rank 0 ({digests[0]}), whose gradients are the "
                "same: its machine computes otherwise; use machines of one kind, with the same versions",
                rank=rank,
            )


def evaluate(ranks: Ranks, stack: Stack, samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weighted mean loss (K,) and the metric (K,) over samples, of which each rank takes a part."""
    if ranks.size == 1:
        return stack.evaluate(samples.X, samples.y, samples.weight, samples.rows)
    part = samples.part(ranks.rank, ranks.size)
    weights = part.weights(stack.models)[:, None]
    with np.errstate(invalid="ignore"):  # a rank may have no row, or none that counts
        losses = stack.mean_losses(part.X, part.y, part.weight, part.rows)
    sums = np.hstack([np.where(weights > 0, losses * weights, 0.0), weights])
    ranks.sum(sums)
    means = sums[:, :2] / sums[:, 2:]
    return means[:, 0], np.array([stack.loss.metric.finish(value) for value in means[:, 1]])
