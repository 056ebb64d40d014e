"""The step that trains a stack, built from checked options, with batches that fit into memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.optimizers import Optimizer
from gpubp.stack import Stack
from gpubp.training.accumulation import Batches, with_batches_that_fit
from gpubp.training.augmentation import Augment, Augmentation
from gpubp.training.samples import Samples
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import Planner


def built_step(
    stack: Stack,
    samples: Samples,
    planner: Planner,
    asked: Batches,
    optimizer: tuple[Optimizer, Mapping[str, NDArray[np.float64]]],
    options: Mapping[str, Any],
    augment: Augment | None,
) -> TrainingStep:
    """The step that trains a stack, built from checked options."""
    rule, rule_options = optimizer
    # Augmentation overwrites rows in place, which must not be the user's array.
    X = samples.X if augment is None else np.array(samples.X, stack.backend.dtype)

    def build(batches: Batches) -> TrainingStep:
        state = initial_state(
            stack,
            rule,
            rule_options,
            weight_decay=_unless_zero(options["weight_decay"]),
            l2=_unless_zero(options["l2"]),
            max_grad_norm=options["max_grad_norm"],
            largest_update=None if options["update_tolerance"] is None else np.zeros(stack.models),
        )
        return TrainingStep(
            stack,
            (X, samples.y, samples.weight),
            batches,
            state,
            dropout=options["dropout"],
            label_smoothing=options["label_smoothing"],
            orders=planner.orders,
            counts=None if samples.rows is None else planner.counts,
        )

    step = with_batches_that_fit(build, asked, stack, rule, samples.most_rows)
    if augment is not None:
        step.augmentation = Augmentation(augment, stack.backend, np.asarray(samples.X, stack.backend.dtype), step.data)
    return step


def _unless_zero(numbers: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(K,) numbers, or None if all are 0, so that the step leaves their term out."""
    return numbers if numbers.any() else None
