"""Data-parallel training: ranks process parts of each batch, and add up their gradients before the update.

Every rank has all rows, the whole network and the whole optimizer. Parts are those of accumulation; rank r takes the
ones after those of the ranks below it, and gradients are added in that order: ranks end with the weights of one process
that accumulates as many parts. Whatever must not differ among ranks is compared, or decided by rank 0.
"""

from __future__ import annotations

import json
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gpubp import serialization
from gpubp.backends.collectives import GradientSum, OverlappingSum
from gpubp.errors import DataError, RankError
from gpubp.layout import Layout
from gpubp.stack import Stack
from gpubp.training.accumulation import AccumulatingStep, Batches, parts_per_batch
from gpubp.training.checkpoint import TrainingIdentity, TrainingState, first_difference
from gpubp.training.ranks import Ranks
from gpubp.training.samples import Samples
from gpubp.training.slice_step import StepState, Workspace

FEWEST_IN_SLICE = 1 << 18  # elements of a gradient summed during the backward pass; fewer wait for the next ones


class RankStep(AccumulatingStep):
    """A training step of consecutive networks in which this rank processes its parts of the batch.

    Parameters
    ----------
    stack, state, workspace
        As for `AccumulatingStep`.
    ranks : Ranks
    parts : int
        The parts of a batch that this rank processes.
    add_up : GradientSum
    """

    def __init__(
        self,
        stack: Stack,
        state: StepState,
        workspace: Workspace,
        ranks: Ranks,
        parts: int,
        add_up: GradientSum,
    ) -> None:
        self.first_part, self.most_parts, self._add_up = ranks.rank * parts, parts, add_up
        super().__init__(stack, state, workspace)

    def _run(self, count: int, rows: int) -> None:
        """Take `count` steps of `rows` rows; this rank may have none of them if the last batch of an epoch is small."""
        parts, cursor = self.added.parts, self.added.parts.cursor
        full, rest = divmod(self._own_rows(rows), parts.batch_size)
        for _ in range(count):
            cursor += self.first_part
            if full:
                self._add(full, parts.batch_size)
            if rest:
                self._add(1, rest)
            cursor += parts_per_batch(self.added) - self.first_part - full - (rest > 0)
            with self.stack.backend.computing():
                self._mark_faulty()
                self._add_up(self.total)
            self._update(1, rows)
            self._clear(1, rows)

    def _own_rows(self, rows: int) -> int:
        """How many of a batch's rows this rank processes."""
        size = self.added.parts.batch_size
        return min(max(0, rows - self.first_part * size), self.most_parts * size)

    def _mark_faulty(self) -> None:
        """If a part was not finite on this rank, make the sum non-finite on all ranks."""
        self.total[:, :1] += self.stack.backend.xp.where(self.state.optimizer.active, 0.0, np.nan)[:, None]


class OverlappingRankStep(RankStep):
    """A rank's step of one network and one part, which sums gradients slice by slice during the backward pass.

    Once the gradients of some layers are ready, the last ones first, the sum over all ranks starts, and continues while
    the layers below are processed. The rest is added up afterwards.

    Parameters
    ----------
    stack, state, workspace, ranks
        As for `RankStep`, with one part per rank.
    add_up : OverlappingSum
    """

    def __init__(
        self, stack: Stack, state: StepState, workspace: Workspace, ranks: Ranks, add_up: OverlappingSum
    ) -> None:
        self.after_layer, self._sums = slices_by_layer(stack.layout), add_up
        super().__init__(stack, state, workspace, ranks, 1, add_up)
        slices, n_weights = list(self.after_layer.values()), stack.layout.n_weights
        lowest = min((part.start for part in slices), default=n_weights)
        self.summed_beside = [self.total[0, part] for part in slices]
        self.summed_last = [self.total[0, :lowest], self.total[0, n_weights:]]
        self._backward = stack.backend.capture(self._gradients_over_ranks, self._prepare)

    def _run(self, count: int, rows: int) -> None:
        cursor, own_rows = self.added.parts.cursor, self._own_rows(rows)
        for _ in range(count):
            cursor += self.first_part
            self._backward(0, rows)
            with self.stack.backend.computing(), self._sums.beside(self.summed_beside, self.summed_last):
                self._backward(1, rows)
                if own_rows:
                    self._add(1, own_rows)
                self._mark_faulty()
            cursor += parts_per_batch(self.added) - self.first_part - (own_rows > 0)
            self._update(1, rows)
            self._clear(1, rows)

    def _gradients_over_ranks(self, rows: int) -> None:
        """This rank's gradients of a batch of `rows` rows; in slices that are summed meanwhile, those of all ranks.

        If it has no rows, the sums are those of the others, and are put where its own would be added.
        """
        if own_rows := self._own_rows(rows):
            self.gradients(own_rows, self._begin_after)
        else:
            for array in self.summed_beside:
                self.stack.backend.call(self._sums.begin, array)
        self.stack.backend.call(self._sums.join)

    def _begin_after(self, layer: int) -> None:
        if layer in self.after_layer:
            self.stack.backend.call(self._sums.begin, self.workspace.grad[0, self.after_layer[layer]])

    def _prepare(self, rows: int) -> None:
        """Run what a device needs before it can capture gradients and sums; the results are not used."""
        if own_rows := self._own_rows(rows):
            self.gradients(own_rows)
        self._sums(*(self.workspace.grad[0, part] for part in self.after_layer.values()))

    def _add_part(self, rows: int) -> None:
        self.stack.backend.optimizer_step(self.added.adding, self.total, self.workspace.grad, self.added.parts)


def slices_by_layer(layout: Layout) -> dict[int, slice]:
    """Slices of a gradient large enough for a sum of their own, by the layer after which they are complete."""
    slices, end = {}, layout.n_weights
    for layer in reversed(range(1, len(layout.shapes))):
        start = layout.weight_starts[layer]
        if end - start >= FEWEST_IN_SLICE:
            slices[layer], end = slice(start, end), start
    return slices


def rank_step(stack: Stack, state: StepState, workspace: Workspace, batches: Batches, add_up: GradientSum) -> RankStep:
    """The step of one of several ranks: overlapping with its sums if that is possible and worthwhile."""
    ranks, parts = batches.ranks, batches.parts // batches.ranks.size
    all_have_rows = (ranks.size - 1) * batches.part_size < batches.size  # in a whole batch, so that all prepare for it
    if add_up.overlapping and parts == stack.models == 1 and all_have_rows and slices_by_layer(stack.layout):
        return OverlappingRankStep(stack, state, workspace, ranks, cast(OverlappingSum, add_up))
    return RankStep(stack, state, workspace, ranks, parts, add_up)


def of_own_parts(totals: NDArray[np.float64], ranks: Ranks, parts: int) -> NDArray[np.float64]:
    """Totals (K, steps · parts, 2) of all ranks' parts, zero except for this rank's own parts."""
    first = ranks.rank * parts // ranks.size
    part = np.arange(totals.shape[1]) % parts
    is_ours = (first <= part) & (part < first + parts // ranks.size)
    return np.where(is_ours[:, None], totals, 0.0)


def check_same(ranks: Ranks, stack: Stack, identity: TrainingIdentity, state: TrainingState | None) -> None:
    """Refuse ranks that would not train the same network on the same rows, starting at the same step.

    Raises
    ------
    DataError
        On all ranks, with the differing values of both sides.
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
    """Refuse to continue if ranks have arrived at different weights.

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
    """The weighted mean loss (K,) and the metric (K,) over samples, with each rank evaluating a part."""
    if ranks.size == 1:
        return stack.evaluate(samples.X, samples.y, samples.weight, samples.rows)
    part = samples.part(ranks.rank, ranks.size)
    weights = part.weights(stack.models)[:, None]
    with np.errstate(invalid="ignore"):  # a rank may have no rows, or none with weight
        losses = stack.mean_losses(part.X, part.y, part.weight, part.rows)
    sums = np.hstack([np.where(weights > 0, losses * weights, 0.0), weights])
    ranks.sum(sums)
    means = sums[:, :2] / sums[:, 2:]
    return means[:, 0], np.array([stack.loss.metric.finish(value) for value in means[:, 1]])
