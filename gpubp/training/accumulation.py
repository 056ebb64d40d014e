"""Batches processed in parts, whose gradients are added up for one update, in the memory of one part.

No new operations are needed. Adding to a sum is a step of gradient descent on it with learning rate −1, and clearing it
is a step along itself with learning rate 1: both are exact, and a network whose loss or gradient is not finite in any
part becomes inactive before anything of it is written, as in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import Epoch, OptimizerState
from gpubp.backends.cuda.driver import OutOfDeviceMemoryError
from gpubp.backends.notices import say_once
from gpubp.errors import UsageError
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.stack import Stack
from gpubp.training.ranks import ALONE, Ranks
from gpubp.training.slice_step import Accumulation, SliceStep, StepState, Workspace, initial_state
from gpubp.training.step_table import StepTable

Built = TypeVar("Built")


class Batches(NamedTuple):
    """How the batches of an epoch are processed.

    Attributes
    ----------
    size : int
        Rows of an update.
    parts : int
        The number of parts of a batch, over all ranks together.
    recompute : bool
        Whether the backward pass recomputes segments of layers instead of keeping all activations.
    ranks : Ranks
        The ranks that process them: each takes equally many parts, in rank order.
    """

    size: int
    parts: int = 1
    recompute: bool = False
    ranks: Ranks = ALONE

    @classmethod
    def asked(cls, options: Mapping[str, Any], most_rows: int, recompute: bool, ranks: Ranks) -> Batches:
        """The batches that checked options ask for; in a full batch, there may be fewer rows than parts."""
        size, parts = options["batch_size"], options["accumulate"]
        if size == most_rows and ranks.size == 1:
            parts = min(parts, size)
        return cls(size, parts, recompute, ranks)

    @property
    def part_size(self) -> int:
        """Rows of a part; the last one of a batch may have fewer."""
        return -(-self.size // self.parts)

    def check(self, most_rows: int) -> None:
        """Refuse parts of different sizes if an epoch has several batches."""
        if self.size >= most_rows or self.size % self.parts == 0:
            return
        each = self.parts // self.ranks.size
        if self.ranks.size == 1:
            raise UsageError(
                f"accumulate={each} does not divide batch_size={self.size} into equal parts; use a divisor of it"
            )
        what = f"{self.ranks.size} ranks" if each == 1 else f"{self.ranks.size} ranks with accumulate={each}"
        less = self.size - self.size % self.parts
        raise UsageError(
            f"batch_size={self.size} does not go into equal parts for {what}; use "
            f"{f'{less} or ' if less else ''}{less + self.parts}"
        )

    def that_fit(self, stack: Stack, optimizer: Optimizer, most_rows: int) -> Batches:
        """These batches in as few more parts as fit into the device's memory; unchanged if nothing fits."""
        free = stack.backend.free_memory()
        if training_bytes(stack, self, optimizer) <= free:
            return self
        a_row = stack.memory(1, optimizer, self.recompute)["activations"]
        rows = int((free - training_bytes(stack, self._replace(parts=self.size), optimizer)) // a_row) + 1
        if rows < 1 or self.size == 1:
            return self
        return self.in_parts(max(self.parts, -(-self.size // rows)), most_rows)

    def in_parts(self, fewest: int, most_rows: int) -> Batches:
        """These batches in as few equal parts as possible, but at least `fewest`, and at most one per row."""
        each = -(-min(fewest, self.size) // self.ranks.size)
        candidates = range(each * self.ranks.size, self.size + 1, self.ranks.size)
        equal = (n for n in candidates if not self.size % n or self.size >= most_rows)
        return self._replace(parts=next(equal, self.parts))


def with_batches_that_fit(
    build: Callable[[Batches], Built], asked: Batches, stack: Stack, optimizer: Optimizer, most_rows: int
) -> Built:
    """What `build` makes for batches in as many parts as asked for, or in more if they do not fit into memory.

    The number is computed beforehand. If memory runs out nevertheless, `build` is called once more with parts of half
    the size, but not with several ranks, since the others would not know.

    Raises
    ------
    UsageError
        If the parts asked for are not equal.
    """
    asked.check(most_rows)
    fitting = asked.that_fit(stack, optimizer, most_rows)
    batches = fitting._replace(parts=int(asked.ranks.gather(fitting.parts).max()))
    try:
        built = build(batches)
    except (OutOfDeviceMemoryError, MemoryError):
        batches, before = batches.in_parts(2 * batches.parts, most_rows), batches
        if batches == before or batches.ranks.size > 1:
            raise
        built = None
    if batches != asked:
        say_once(
            f"{asked.part_size:,} rows at once do not fit on {stack.backend.device}: a batch is gone through in "
            f"{batches.parts} parts of {batches.part_size:,}, for one update"
        )
    return build(batches) if built is None else built


def training_bytes(stack: Stack, batches: Batches, optimizer: Optimizer) -> int:
    """Bytes that training takes besides data and parameters, which are already allocated."""
    memory = stack.memory(batches.part_size, optimizer, batches.recompute)
    sums = memory["parameters"] if batches.parts > 1 else 0
    return memory["total"] - memory["parameters"] + sums


def accumulation(
    stack: Stack, batches: Batches, epoch: Epoch, optimizer: OptimizerState, most_rows: int
) -> Accumulation:
    """The accumulation for an optimizer, whose networks it can make inactive; its tables are still empty."""
    if epoch.loss_scale is not None:
        what = "accumulate does" if batches.ranks.size == 1 else f"{batches.ranks.size} ranks do"
        raise UsageError(f'{what} not go with precision "float16", whose loss scale is of one batch; use "bfloat16"')
    parts, whole = stack.epoch(most_rows, batches.part_size), stack.epoch(most_rows, batches.size)
    parts.learning_rate[...], whole.learning_rate[...] = -1.0, 1.0
    adding, clearing = (
        replace(initial_state(stack, get_optimizer("sgd"), {}), active=optimizer.active) for _ in range(2)
    )
    return Accumulation(parts, whole, adding, clearing)


def begin(added: Accumulation, stack: Stack, epoch: Epoch, table: StepTable, members: NDArray[np.intp]) -> None:
    """Fill the tables of the parts from those of their batches, for the networks still in the stack."""
    per_batch = parts_per_batch(added)
    width = added.parts.normalizer.shape[1]
    normalizer = np.repeat(table.normalizer, per_batch, axis=1)[:, :width]
    first_step = table.first_step * per_batch
    for array, values in ((added.parts.normalizer, normalizer), (added.parts.first_step, first_step)):
        array[...] = stack.backend.from_host(values if len(values) == 1 else values[members])
    added.parts.order, added.parts.keys, added.parts.counts = epoch.order, epoch.keys, epoch.counts
    added.parts.period = epoch.period


def parts_per_batch(added: Accumulation) -> int:
    """The number of part steps in the step of a whole batch."""
    return -(-added.whole.batch_size // added.parts.batch_size)


class AccumulatingStep(SliceStep):
    """A training step of consecutive networks that processes its batch in parts.

    Parameters
    ----------
    stack, state, workspace
        As for `SliceStep`; the state has an accumulation, and the workspace has buffers for one part and for the sum.
    """

    def __init__(self, stack: Stack, state: StepState, workspace: Workspace) -> None:
        assert state.accumulation is not None and workspace.total is not None
        super().__init__(stack, state, workspace)
        self.added: Accumulation = state.accumulation
        self.total: Array = workspace.total
        self.epoch = self.added.parts
        capture = stack.backend.capture
        self._add, self._update, self._clear = (
            capture(self._add_part),
            capture(self._take_update),
            capture(self._clear_sum),
        )

    def _steps(self) -> tuple[str, Callable[[int, int], None]]:
        return "parts", self._run

    def _run(self, count: int, rows: int) -> None:
        """Take `count` steps of `rows` rows; each part is a recorded step of its own."""
        parts, rest = divmod(rows, self.added.parts.batch_size)
        for _ in range(count):
            if parts:
                self._add(parts, self.added.parts.batch_size)
            if rest:
                self._add(1, rest)
            self._update(1, rows)
            self._clear(1, rows)

    def _add_part(self, rows: int) -> None:
        self.gradients(rows)
        self.stack.backend.optimizer_step(self.added.adding, self.total, self.workspace.grad, self.added.parts)

    def _take_update(self, rows: int) -> None:
        self.stack.backend.optimizer_step(self.state.optimizer, self.stack.theta, self.total, self.state.epoch)

    def _clear_sum(self, rows: int) -> None:
        self.stack.backend.optimizer_step(self.added.clearing, self.total, self.total, self.added.whole)
