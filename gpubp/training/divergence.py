"""Finding out, after the fact, where a training left the finite numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backprop import Layer
from gpubp.errors import DivergenceError
from gpubp.training.history import History
from gpubp.training.slice_step import SliceStep
from gpubp.training.step import TrainingStep


def report(step: TrainingStep, diverged: NDArray[np.bool_], history: History, numbered: bool = True) -> DivergenceError:
    """The error for the first of the networks that diverged in this epoch: step, layer, likely cause, remedy.

    The layer is found by replaying the recorded batch with the weights that the network was left with. A network of
    a stack is named by its number, where `numbered`.
    """
    net, backend, table = step.net, step.net.backend, step.table
    k = int(np.argmax(diverged))
    first, steps = int(table.first_step[k]), step.steps_of(k)
    fault = step.fault_step(k)
    at = first + steps - 1 if fault < 0 else fault
    layer, what = None, "an update overflowed"
    if fault >= 0:
        again, place = step.replay(fault - first, k)
        totals = backend.to_host(again.kept.epoch.totals)[place, fault - first]
        layer, what = _first_not_finite(again, place, bool(np.isfinite(totals[0])))
    who = f"network {k}: " if net.models > 1 and numbered else ""
    where = "" if layer is None else f" in layer {layer} of {len(net.layers)}"
    rate = float(table.learning_rate[k, at - first])
    return DivergenceError(
        f"{who}training diverged at step {at} (epoch {at // steps + 1}, learning rate {rate:.3g}): "
        f"{what}{where}. "
        f"The last finite weights are kept. Try a learning rate ten times smaller, max_grad_norm=1, "
        f"or inputs scaled to about unit variance",
        step=at,
        layer=layer,
        history=history,
    )


def _first_not_finite(step: SliceStep, k: int, loss_is_finite: bool) -> tuple[int | None, str]:
    """(layer counted from 1, what happened) of the first non-finite value on the way forward, then backward."""
    backend, net = step.net.backend, step.net

    def finite(array: Array) -> bool:
        return bool(np.isfinite(backend.to_host(array[k])).all())

    for l, record in enumerate(step.scratch.work.records[:-1]):
        if not (finite(record.z) and finite(record.a)):
            return l + 1, "activations overflowed"
    if not loss_is_finite:
        return len(net.layers), "the loss overflowed"
    for l in range(len(net.layers) - 1, -1, -1):
        grads: Layer = step.grads[l]
        if not (finite(grads.W) and finite(grads.b)):
            return l + 1, "the gradient overflowed"
    if backend.finite(step.scratch.grad)[k]:  # the weights it was left with are those from before
        return None, "an update overflowed"
    steepest = max(range(len(net.layers)), key=lambda l: np.abs(backend.to_host(step.grads[l].W[k])).max())
    return steepest + 1, "the norm of the gradient overflowed"
