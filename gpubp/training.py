"""Training: the epoch loop around the training step, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.divergence import report
from gpubp.errors import DataError, UsageError
from gpubp.history import History
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import ScheduleSpec, get_schedule
from gpubp.stack import seeds_of
from gpubp.step import TrainingStep, first_state
from gpubp.step_table import Planner

Callback = Callable[[MLP, History], Any]


def train(
    net: MLP,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    validation_data: Sequence[Any] | None = None,
    *,
    optimizer: str | Optimizer = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    learning_rate: Any = 1e-3,
    schedule: ScheduleSpec = None,
    l2: Any = 0.0,
    weight_decay: Any = None,
    dropout: Any = 0.0,
    label_smoothing: Any = 0.0,
    class_weight: Any = None,
    max_grad_norm: Any = None,
    batch_size: int = 128,
    epochs: int = 20,
    patience: int | None = None,
    update_tolerance: Any = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train a network, or a stack, in place.

    Numbers marked (K,) may be one for all networks of a stack or one each.

    Parameters
    ----------
    net : MLP
    X : (m, n_0) array
        Finite real numbers of any dtype; cast batch by batch.
    y : (m,) or (m, n_L) array
        Classes 0 … n_L − 1, one-hot rows, labels 0/1 or values, as the loss asks.
    sample_weight : (m,) array, optional
        The loss of a batch is Σ w C / Σ w.
    validation_data : (X, y) or (X, y, sample_weight), optional
        Evaluated after every epoch.
    optimizer : str or Optimizer
    optimizer_options : dict, optional
        ``{"momentum": 0.95}``, ``{"beta2": 0.99}``, … (K,)
    learning_rate : float (K,)
        The base rate, multiplied by `schedule`'s factor at each step.
    schedule : str, Schedule, callable or None
        ``"cosine"``, ``"warmup(cosine, 0.1)"``, …; None is constant.
    l2 : float (K,)
        l2 · W is added to the gradient of weights, before clipping.
    weight_decay : float (K,) or None
        Decoupled: W loses learning_rate · weight_decay · W at each step. None is 0, for ``"adamw"`` 0.01.
    dropout : float (K,)
        Rate at which elements of hidden layers are dropped.
    label_smoothing : float (K,)
        For classification losses.
    class_weight : dict or "balanced", optional
        Multiplies the sample weights by one per class.
    max_grad_norm : float (K,) or None
        The gradient over all parameters is scaled down to this norm where it is longer.
    batch_size : int
        1 is online, m or more full-batch. The last batch of an epoch may be smaller and counts by its rows.
    epochs : int
    patience : int or None
        Stop after so many epochs without a lower validation loss, and return to the best weights.
    update_tolerance : float (K,) or None
        Stop when no weight or bias moved more than this in any step of an epoch.
    shuffle : bool
        Draw a new order every epoch.
    seed : int or sequence of K ints
        Of the order: network k of a stack sees the order of a single network with seed ``seed + k``.
    callbacks : sequence of callable
        ``callback(net, history)`` after every epoch; one that returns True ends the training.

    Returns
    -------
    History

    Raises
    ------
    DataError, UsageError
        Before anything is trained, naming what does not fit.
    DivergenceError
        At the end of the epoch in which the loss or the gradient stopped being finite. The last finite
        weights are in `net`. In a stack the others go on; it is raised when none is left.
    """
    X = checks.inputs(X, net.layer_sizes[0], net.precision)
    y = checks.targets(y, len(X), net.layer_sizes[-1], net.loss, net.precision)
    weight = checks.sample_weight(sample_weight, len(X))
    by_class = checks.class_weights(class_weight, y, net.layer_sizes[-1], net.loss)
    weight = by_class if weight is None else weight if by_class is None else weight * by_class
    if weight is not None and not weight.any():
        raise DataError("class_weight and sample_weight leave every sample with weight 0; at least one must count")
    validation = _validation(net, validation_data)
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise UsageError(f"callbacks={callbacks!r} does not fit; give a list of functions of (net, history)")
    seeds = seeds_of(seed, net.models)
    epochs = checks.whole("epochs", epochs, 1)
    batch_size = min(checks.whole("batch_size", batch_size, 1), len(X))
    if patience is not None:
        patience = checks.whole("patience", patience, 1)
        if validation is None:
            raise UsageError("patience needs validation_data to watch; give (X, y), or leave patience out")

    def number(name: str, value: Any, low: float, high: float = np.inf, **bounds: bool) -> NDArray[np.float64]:
        return checks.per_network(name, value, net.models, low, high, **bounds)

    smoothing = number("label_smoothing", label_smoothing, 0.0, 1.0)
    if smoothing.any() and not net.loss.classification:
        raise UsageError(f'label_smoothing smooths classes; loss "{net.loss.name}" has none')
    rule = get_optimizer(optimizer)
    options = {key: number(key, v, 0.0) for key, v in rule.configured(optimizer_options).items()}
    tolerance = None if update_tolerance is None else number("update_tolerance", update_tolerance, 0.0)
    decay = number("weight_decay", rule.weight_decay if weight_decay is None else weight_decay, 0.0)
    penalty = number("l2", l2, 0.0)
    state = first_state(
        net, rule, options,
        largest_update=None if tolerance is None else np.zeros(net.models),
        l2=penalty if penalty.any() else None,
        weight_decay=decay if decay.any() else None,
        max_grad_norm=None if max_grad_norm is None else number("max_grad_norm", max_grad_norm, 0.0, low_open=True),
    )  # fmt: skip
    planner = Planner(
        len(X), batch_size, epochs, weight, number("learning_rate", learning_rate, 0.0, low_open=True),
        get_schedule(schedule), seeds if shuffle and batch_size < len(X) else None,
    )  # fmt: skip
    rate = number("dropout", dropout, 0.0, 1.0)
    step = TrainingStep(net, X, y, weight, batch_size, state, rate, smoothing, planner.orders)
    total_weight = float(len(X) if weight is None else weight.sum())
    return _Run(net, step, planner, total_weight, validation, patience, tolerance, callbacks).until_done()


class _Run:
    """One call of `train`: what is watched from epoch to epoch."""

    def __init__(
        self,
        net: MLP,
        step: TrainingStep,
        planner: Planner,
        total_weight: float,
        validation: Sequence[Any] | None,
        patience: int | None,
        tolerance: NDArray[np.float64] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.net, self.step, self.planner, self.total_weight = net, step, planner, total_weight
        self.validation, self.patience, self.tolerance, self.callbacks = (
            validation,
            patience,
            tolerance,
            callbacks,
        )
        self.history = History(net.loss.metric.name)
        self.stopped = np.array(["epochs"] * net.models, dtype=object)
        self.best_loss = np.full(net.models, np.inf)
        self.best_epoch = np.zeros(net.models, np.int64)
        self.best_theta = net.theta.copy() if patience is not None else None
        self.monitored = np.empty((0, net.models))

    def until_done(self) -> History:
        """Train epoch after epoch until the last, or until no network is active."""
        net, history = self.net, self.history
        start = time.perf_counter()
        try:
            for epoch in range(self.planner.epochs):
                self._epoch(epoch, start)
                answers = [callback(net, history) for callback in self.callbacks]  # every one is called
                ended = any(answer is True for answer in answers)
                if ended:
                    self.stopped[self.step.active()] = "callback"
                if ended or not self.step.active().any():
                    break
        finally:
            if self.best_theta is not None and np.isfinite(self.best_loss).any():
                known = np.isfinite(self.best_loss)
                net.backend.assign(net.theta, self.best_theta, known)
            if self.validation is not None and history.epochs:
                history.best_epoch = self.best_epoch if net.models > 1 else int(self.best_epoch[0])
            if self.step.epoch.loss_scale is not None:
                overflows = net.backend.to_host(self.step.epoch.loss_scale.overflows)
                history.overflows = overflows if net.models > 1 else int(overflows[0])
            history.stopped = self.stopped.tolist() if net.models > 1 else self.stopped[0]
        history.samples_per_second = self.planner.m * history.epochs / (time.perf_counter() - start)
        return history

    def _epoch(self, epoch: int, start: float) -> None:
        net, state, step = self.net, self.step.state, self.step
        before = step.active().copy()
        table = self.planner.table(epoch, self.monitored)
        if state.largest_update is not None:
            state.largest_update[...] = 0
        totals, diverged = step.watched_epoch(table)
        self.history.steps += table.steps
        mean = totals.sum(axis=0) / self.total_weight
        mean[~before | diverged] = np.nan
        metric = np.array([net.loss.metric.finish(v) for v in mean[:, 1]])
        entries = {"loss": mean[:, 0], "metric": metric, "learning_rate": table.learning_rate[-1]}
        watched = mean[:, 0]
        if self.validation is not None:
            found = net.evaluate(*self.validation)
            watched = np.where(before & ~diverged, found["loss"], np.nan)
            entries["validation_loss"] = watched
            entries["validation_metric"] = np.where(before & ~diverged, found[net.loss.metric.name], np.nan)
        self.history.append(net.models, **entries, seconds=time.perf_counter() - start)
        self.monitored = np.vstack([self.monitored, watched])
        if diverged.any():
            self.stopped[diverged] = "diverged"
            if not self.step.active().any() and (self.stopped == "diverged").all():
                raise report(step, diverged, self.history)
        self._watch(epoch, watched)

    def _watch(self, epoch: int, watched: NDArray[np.float64]) -> None:
        """Early stopping and the sources' ε."""
        net, state = self.net, self.step.state
        active = self.step.active()
        if self.validation is not None:
            better = active & (watched < self.best_loss)
            self.best_loss[better], self.best_epoch[better] = watched[better], epoch
            if self.best_theta is not None and self.patience is not None:
                net.backend.assign(self.best_theta, net.theta, better)
                self._stop(active & (epoch - self.best_epoch >= self.patience), "patience")
        if self.tolerance is not None:
            largest = net.backend.to_host(state.largest_update)
            self._stop(self.step.active() & (largest <= self.tolerance), "update_tolerance")

    def _stop(self, who: NDArray[np.bool_], why: str) -> None:
        self.stopped[who] = why
        self.net.backend.assign(self.step.state.active, False, who)


def _validation(net: MLP, data: Sequence[Any] | None) -> Sequence[Any] | None:
    """(X, y, sample_weight), checked before anything is trained."""
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
    X = checks.inputs(data[0], net.layer_sizes[0], net.precision, "validation X")
    y = checks.targets(data[1], len(X), net.layer_sizes[-1], net.loss, net.precision, "validation y")
    weight = checks.sample_weight(data[2], len(X), "validation sample_weight") if len(data) == 3 else None
    return X, y, weight
