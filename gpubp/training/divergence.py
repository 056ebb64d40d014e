"""Finds out, after the fact, where a training diverged."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends.cuda.driver import OutOfDeviceMemoryError
from gpubp.backends.notices import say_once
from gpubp.backends.reference import ReferenceBackend
from gpubp.errors import DivergenceError
from gpubp.stack import Stack
from gpubp.training.history import History
from gpubp.training.samples import Samples
from gpubp.training.slice_step import SliceStep
from gpubp.training.step import TrainingStep
from gpubp.training.streaming import StreamedRows

REMEDY = "Try a learning rate ten times smaller, max_grad_norm=1, or inputs scaled to about unit variance"
# Limits on the rows of each network that are checked after a training, and on the values of all their layers.
FEWEST_ROWS, MOST_ROWS, MOST_VALUES = 8, 1024, 2**15


def divergence_error(
    step: TrainingStep, diverged: NDArray[np.bool_], history: History, numbered: bool = True
) -> DivergenceError:
    """The error for the first of the networks that diverged in this epoch: step, layer, likely cause, remedy.

    The layer is found by replaying the recorded batch with the weights that the network had in the end. With
    `numbered`, a network of a stack is named by its number.
    """
    stack, table = step.stack, step.table
    k = int(np.argmax(diverged))
    first, steps = int(table.first_step[k]), step.steps_of(k)
    fault = step.fault_step(k)
    at = first + steps - 1 if fault < 0 else fault
    layer, what = None, "an update overflowed"
    if fault >= 0 and (step.batches.parts > 1 or step.batches.recompute):  # not all of the batch is in memory
        what = "the loss or the gradient overflowed"
    elif fault >= 0:
        replayed, place = step.replay(fault - first, k)
        totals = stack.backend.to_host(replayed.state.epoch.totals)[place, fault - first]
        layer, what = _first_not_finite(replayed, place, bool(np.isfinite(totals[0])))
    who = f"network {k}: " if stack.models > 1 and numbered else ""
    where = "" if layer is None else f" in layer {layer} of {len(stack.layers)}"
    rate = float(table.learning_rate[k, at - first])
    return DivergenceError(
        f"{who}training diverged at step {at} (epoch {at // steps + 1}, learning rate {rate:.3g}): "
        f"{what}{where}. "
        f"The last finite weights are kept. {REMEDY}",
        step=at,
        layer=layer,
        history=history,
    )


def with_finite_outputs(history: History, stack: Stack, samples: Samples) -> History:
    """The history, with networks marked as diverged whose loss on their first rows is not finite although θ is.

    The last update of a training may cause that, and no later step would notice. With streamed rows, only the very
    first row is checked, since no more are read once a training is over.

    Raises
    ------
    DivergenceError
        If all networks are.
    """
    X, y = samples.X.first_row if isinstance(samples.X, StreamedRows) else (samples.X, samples.y)
    count = max(FEWEST_ROWS, min(MOST_ROWS, MOST_VALUES // (sum(stack.layer_sizes) * stack.models)))
    every = np.arange(min(len(X), count))
    rows = [every] * stack.models if samples.rows is None else [own_rows[:count] for own_rows in samples.rows]
    if stack.backend.name == "compiled":  # not worth it for so few rows
        stack = stack.like(stack.theta, _reference(stack.backend.dtype), stack.seeds)
    try:
        with np.errstate(all="ignore"):
            loss, _ = stack.evaluate(X, y, None, rows)
    except (OutOfDeviceMemoryError, MemoryError):  # the trained network matters more than this check
        return history
    lost = ~np.isfinite(loss)
    if lost.any():
        history.stopped_by_network[lost] = "diverged"
        if (history.stopped_by_network == "diverged").all():
            raise lost_error(history)
    return history


@functools.cache
def _reference(dtype: np.dtype[Any]) -> ReferenceBackend:
    return ReferenceBackend(dtype)


def say_if_slots_overflowed(step: TrainingStep) -> None:
    """Report which optimizer slots hold infinity: a gradient whose square overflows ends its weight's updates.

    Weights and losses stay finite, so no step notices.
    """
    for name, slot in step.carried().items():
        if name.startswith("slots.") and not step.stack.backend.finite(slot).all():
            say_once(
                f"the optimizer's {name.removeprefix('slots.')} overflowed: some weights no longer move as they "
                "should. Scale inputs to about unit variance, or set max_grad_norm=1"
            )


def lost_error(history: History) -> DivergenceError:
    """The error if weights are finite but the networks' outputs for finite rows are not."""
    return DivergenceError(
        f"training diverged by the end of epoch {history.epochs}: weights are finite, but so large that the loss is "
        f"not. They are kept. {REMEDY}",
        step=max(history.steps - 1, 0),
        layer=None,
        history=history,
    )


def _first_not_finite(step: SliceStep, k: int, loss_is_finite: bool) -> tuple[int | None, str]:
    """(layer counted from 1, what happened) of the first non-finite value in the forward, then the backward pass."""
    backend, layers = step.stack.backend, len(step.grads)

    def finite(array: Array) -> bool:
        return bool(np.isfinite(backend.to_host(array[k])).all())

    for l, cache in enumerate(step.workspace.caches[:-1]):
        if not (finite(cache.z) and finite(cache.a)):
            return l + 1, "activations overflowed"
    if not loss_is_finite:
        return layers, "the loss overflowed"
    for l in range(layers - 1, -1, -1):
        if not (finite(step.grads[l].W) and finite(step.grads[l].b)):
            return l + 1, "the gradient overflowed"
    grad = np.asarray(backend.to_host(step.workspace.grad[k]), np.float64)
    with np.errstate(over="ignore"):
        norm_is_finite = np.isfinite(grad @ grad)
    if norm_is_finite:  # the weights it ended with are those from before
        return None, "an update overflowed"
    steepest = max(range(layers), key=lambda l: np.abs(backend.to_host(step.grads[l].W[k])).max())
    return steepest + 1, "the norm of the gradient overflowed"
