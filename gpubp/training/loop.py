"""Training: the epoch loop around the training step, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.errors import DataError, UsageError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import ScheduleSpec, schedules_of
from gpubp.stack import Stack
from gpubp.training.divergence import divergence_error
from gpubp.training.history import History
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import Planner

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
    schedule: ScheduleSpec | Sequence[ScheduleSpec] = None,
    l2: Any = 0.0,
    weight_decay: Any = None,
    dropout: Any = 0.0,
    label_smoothing: Any = 0.0,
    class_weight: Any = None,
    max_grad_norm: Any = None,
    batch_size: int = 128,
    epochs: int | Sequence[int] = 20,
    patience: int | Sequence[int] | None = None,
    update_tolerance: Any = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    callbacks: Sequence[Callback] = (),
    rows: Sequence[Any] | None = None,
    validation_rows: Sequence[Any] | None = None,
) -> History:
    """Train a network, or a stack, in place.

    What is marked (K,) may be one for all networks of a stack or one each. Each network of a stack is trained
    as it would be by itself.

    Parameters
    ----------
    net : MLP
    X : (m, n_0) array
        Finite real numbers of any dtype; cast batch by batch.
    y : (m,) or (m, n_L) array
        Classes 0 … n_L − 1, one-hot rows, labels 0/1 or values, as the loss asks.
    sample_weight : (m,) or (K, m) array, optional
        The loss of a batch is Σ w C / Σ w.
    validation_data : (X, y) or (X, y, sample_weight), optional
        Evaluated after every epoch.
    optimizer : str or Optimizer
    optimizer_options : dict, optional
        ``{"momentum": 0.95}``, ``{"beta2": 0.99}``, … (K,)
    learning_rate : float (K,)
        The base rate, multiplied by `schedule`'s factor at each step.
    schedule : str, Schedule, callable or None (K,)
        ``"cosine"``, ``"warmup(cosine, 0.1)"``, …; None is constant. A list names one per network.
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
    epochs : int (K,)
    patience : int or None (K,)
        Stop after so many epochs without a lower validation loss, and return to the best weights.
    update_tolerance : float (K,) or None
        Stop when no weight or bias moved more than this in any step of an epoch.
    shuffle : bool
        Draw a new order every epoch.
    seed : int or sequence of K ints
        Of the order: network k of a stack sees the order of a single network with seed ``seed + k``.
    callbacks : sequence of callable
        ``callback(net, history)`` after every epoch; one that returns True ends the training.
    rows : sequence of K index arrays, optional
        The rows of X that each network trains on: a fold, or a bootstrap sample, in which rows may repeat. Fastest
        where networks with equally many rows are neighbours.
    validation_rows : sequence of K index arrays, optional
        Instead of `validation_data`: the rows of X that each network is validated on.

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
    stack = net.stack
    X, y, weight = stack.checked(X, y, sample_weight, weight_per_network=True)
    own_rows = checks.rows(rows, net.models, len(X))
    validation = _validation(stack, validation_data, validation_rows, (X, y, weight))
    weight = _with_class_weight(weight, class_weight, stack, y, own_rows)
    total_weight = _total_weights(weight, net.models, len(X), own_rows)
    if not total_weight.all():
        who = f" of network {int(np.argmin(total_weight))}" if net.models > 1 else ""
        raise DataError(f"class_weight and sample_weight leave every sample{who} with weight 0; one must count")
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise UsageError(f"callbacks={callbacks!r} does not fit; give a list of functions of (net, history)")
    lengths = checks.whole_per_network("epochs", epochs, net.models, 1)
    if patience is not None and validation is None:
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
    norm = {"low_open": True, "high_open": False}  # infinity clips nothing
    state = initial_state(
        stack,
        rule,
        options,
        largest_update=None if tolerance is None else np.zeros(net.models),
        l2=penalty if penalty.any() else None,
        weight_decay=decay if decay.any() else None,
        max_grad_norm=None if max_grad_norm is None else number("max_grad_norm", max_grad_norm, 0.0, **norm),
    )
    seeds = checks.seeds(seed, net.models)
    batch_size = min(checks.whole("batch_size", batch_size, 1), max(map(len, own_rows)) if own_rows else len(X))
    planner = Planner(
        rows=own_rows or [np.arange(len(X))],
        batch_size=batch_size,
        epochs=lengths,
        weight=weight,
        learning_rate=number("learning_rate", learning_rate, 0.0, low_open=True),
        schedules=schedules_of(schedule, net.models),
        seeds=seeds if shuffle and (own_rows is not None or batch_size < len(X)) else None,
    )
    step = TrainingStep(
        stack,
        (X, y, weight),
        batch_size,
        state,
        dropout=number("dropout", dropout, 0.0, 1.0),
        label_smoothing=smoothing,
        orders=planner.orders,
        counts=None if own_rows is None else planner.counts,
    )
    waits = None if patience is None else checks.whole_per_network("patience", patience, net.models, 1)
    return _TrainingRun(net, step, planner, total_weight, validation, waits, tolerance, callbacks).run()


@dataclass(frozen=True)
class Validation:
    """What is evaluated after every epoch: X, y and weights (m,) or (K, m), or of each network its `rows` of them."""

    X: Any
    y: Any
    weight: Any
    rows: Sequence[NDArray[np.int64]] | None = None


def _validation(
    stack: Stack, data: Sequence[Any] | None, rows: Sequence[Any] | None, training: tuple[Any, Any, Any]
) -> Validation | None:
    """Data for validation, checked before anything is trained."""
    if rows is not None:
        if data is not None:
            raise UsageError("validation_data and validation_rows are both given; give one of them")
        return Validation(*training, checks.rows(rows, stack.models, len(training[0]), "validation_rows"))
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
    X, y, *weight = data
    return Validation(*stack.checked(X, y, weight[0] if weight else None, "validation"))


def _with_class_weight(
    weight: NDArray[np.float64] | None,
    class_weight: Any,
    stack: Stack,
    y: NDArray[Any],
    rows: Sequence[NDArray[np.int64]] | None,
) -> NDArray[np.float64] | None:
    """Sample weights times those of classes, which each network counts in its own rows."""
    if class_weight is None:
        return weight
    by_class = np.zeros(len(y) if rows is None else (stack.models, len(y)))
    for weights, own_rows in zip(np.atleast_2d(by_class), rows or [np.arange(len(y))], strict=True):
        weights[own_rows] = checks.class_weights(class_weight, y[own_rows], stack.layer_sizes[-1], stack.loss)
    return by_class if weight is None else weight * by_class


def _total_weights(
    weight: NDArray[np.float64] | None, models: int, m: int, rows: Sequence[NDArray[np.int64]] | None
) -> NDArray[np.float64]:
    """What the rows of each network weigh, (K,): all m rows, or its own."""
    ones = np.broadcast_to(1.0, (1, m)) if weight is None else np.atleast_2d(weight)
    each = [ones[k if len(ones) > 1 else 0] for k in range(models)]
    return np.array([(w if rows is None else w[rows[k]]).sum() for k, w in enumerate(each)])


class _TrainingRun:
    """One call of `train`: what is watched from epoch to epoch."""

    def __init__(
        self,
        net: MLP,
        step: TrainingStep,
        planner: Planner,
        total_weight: NDArray[np.float64],
        validation: Validation | None,
        patience: NDArray[np.int64] | None,
        tolerance: NDArray[np.float64] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.net, self.stack, self.step = net, net.stack, step
        self.planner, self.total_weight, self.validation = planner, total_weight, validation
        self.patience, self.tolerance, self.callbacks = patience, tolerance, callbacks
        self.history = History(net.loss.metric.name, net.models)
        self.stopped = self.history.stopped_by_network
        self.best_loss = np.full(net.models, np.inf)
        self.best_epoch = np.zeros(net.models, np.int64)
        self.best_theta = self.stack.theta.copy() if patience is not None else None
        self.monitored = np.empty((0, net.models))

    def run(self) -> History:
        """Train epoch after epoch until the last, or until no network is active."""
        history = self.history
        start = time.perf_counter()
        try:
            for epoch in range(int(self.planner.epochs.max())):
                self._epoch(epoch, start)
                answers = [callback(self.net, history) for callback in self.callbacks]  # every one is called
                if any(answer is True for answer in answers):
                    self.stopped[self.step.active()] = "callback"
                    break
                self._stop(self.step.active() & (self.planner.epochs == epoch + 1), "epochs")
                if not self.step.active().any():
                    break
        finally:
            if self.best_theta is not None and np.isfinite(self.best_loss).any():
                self.stack.backend.assign(self.stack.theta, self.best_theta, np.isfinite(self.best_loss))
            if self.validation is not None and history.epochs:
                history.best_epoch_by_network = self.best_epoch
        rows = float(self.planner.counts.mean()) * history.epochs
        history.samples_per_second = rows / (time.perf_counter() - start)
        return history

    def _epoch(self, epoch: int, start: float) -> None:
        models, step, history = self.stack.models, self.step, self.history
        before = step.active()
        table = self.planner.table(epoch, self.monitored)
        result = step.run_epoch(table)
        trains = before & ~result.diverged
        history.steps += table.steps
        if result.overflows is not None:
            history.overflows_by_network = result.overflows
        mean = result.totals.sum(axis=1) / self.total_weight[:, None]
        mean[~trains] = np.nan
        metric = np.array([self.stack.loss.metric.finish(v) for v in mean[:, 1]])
        last_rate = table.learning_rate[np.arange(models), self.planner.steps_per_epoch - 1]
        entries = {"loss": mean[:, 0], "metric": metric, "learning_rate": last_rate}
        monitored = mean[:, 0]
        if self.validation is not None:
            monitored, entries["validation_metric"] = self._validate(self.validation, trains)
            entries["validation_loss"] = monitored
        history.append(time.perf_counter() - start, **entries)
        self.monitored = np.vstack([self.monitored, monitored])
        if result.diverged.any():
            self.stopped[result.diverged] = "diverged"
            if not step.active().any() and (self.stopped == "diverged").all():
                raise divergence_error(step, result.diverged, history)
        self._stop_early(epoch, monitored, result.largest_update)

    def _validate(self, data: Validation, trains: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss and metric (K,) of the networks that train, NaN for the others."""
        members = self.step.members
        rows = None if data.rows is None else [data.rows[k] for k in members.tolist()]
        weight = data.weight if data.weight is None or data.weight.ndim == 1 else data.weight[members]
        loss, metric = np.full((2, len(trains)), np.nan)
        loss[members], metric[members] = self.step.live.evaluate(data.X, data.y, weight, rows)
        return np.where(trains, loss, np.nan), np.where(trains, metric, np.nan)

    def _stop_early(
        self, epoch: int, monitored: NDArray[np.float64], largest_update: NDArray[np.float64] | None
    ) -> None:
        """Remember the best epoch of each network; stop those without patience left, or that hardly move."""
        active = self.step.active()
        if self.validation is not None:
            better = active & (monitored < self.best_loss)
            self.best_loss[better], self.best_epoch[better] = monitored[better], epoch
            if self.best_theta is not None and self.patience is not None:
                self.stack.backend.assign(self.best_theta, self.stack.theta, better)
                self._stop(active & (epoch - self.best_epoch >= self.patience), "patience")
        if self.tolerance is not None and largest_update is not None:
            self._stop(self.step.active() & (largest_update <= self.tolerance), "update_tolerance")

    def _stop(self, networks: NDArray[np.bool_], why: str) -> None:
        self.stopped[networks] = why
        self.step.stop(networks)
