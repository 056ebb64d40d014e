"""Training: the epoch loop around the training step, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.diagnostics.health import HealthWatch
from gpubp.errors import DataError, UsageError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import ScheduleSpec, schedules_of
from gpubp.stack import Stack
from gpubp.training.divergence import divergence_error
from gpubp.training.history import History
from gpubp.training.options import TRAINING_OPTIONS
from gpubp.training.slice_step import initial_state
from gpubp.training.step import EpochResult, TrainingStep
from gpubp.training.step_table import Planner, StepTable

Callback = Callable[[MLP, History], Any]
Numbers = float | Sequence[float] | NDArray[Any]  # one for all networks of a stack, or one each


def train(
    net: MLP,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    validation_data: Sequence[Any] | None = None,
    *,
    optimizer: str | Optimizer = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    learning_rate: Numbers = 1e-3,
    schedule: ScheduleSpec | Sequence[ScheduleSpec] = None,
    l2: Numbers = 0.0,
    weight_decay: Numbers | None = None,
    dropout: Numbers = 0.0,
    label_smoothing: Numbers = 0.0,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    max_grad_norm: Numbers | None = None,
    batch_size: int = 128,
    epochs: int | Sequence[int] | NDArray[Any] = 20,
    patience: int | Sequence[int] | NDArray[Any] | None = None,
    update_tolerance: Numbers | None = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    callbacks: Sequence[Callback] = (),
    rows: Sequence[Any] | None = None,
    validation_rows: Sequence[Any] | None = None,
    diagnostics: bool = False,
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
    diagnostics : bool
        Look at every layer of a single network before the training and after each epoch, on up to 256 training rows:
        ``history.health`` has norms, saturated and dead units, and ``history.health.verdicts(history)`` says what is
        wrong.

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

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)
    >>> net = gpubp.MLP([2, 16, 2], seed=0, device="cpu")
    >>> history = gpubp.train(net, X, y, learning_rate=0.05, schedule="cosine", batch_size=32, epochs=30)
    >>> net.evaluate(X, y)["accuracy"] > 0.9
    True

    Two networks at once, each with a learning rate of its own:

    >>> stack = gpubp.MLP([2, 16, 2], seed=0, models=2, device="cpu")
    >>> history = gpubp.train(stack, X, y, learning_rate=[0.05, 0.001], batch_size=32, epochs=5)
    >>> history.loss[-1].shape
    (2,)
    """
    stack, models = net.stack, net.models
    X, y, weight = stack.checked(X, y, sample_weight, weight_per_network=True)
    samples = Samples(X, y, weight, checks.rows(rows, models, len(X)))
    validation = _validation_samples(stack, validation_data, validation_rows, samples)
    samples = _with_class_weight(samples, class_weight, stack)
    total_weight = _total_weights(samples, models)
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise UsageError(f"callbacks={callbacks!r} does not fit; give a list of functions of (net, history)")

    def checked(name: str, value: Any) -> Any:
        return TRAINING_OPTIONS[name].check(value, models)

    epochs_by_network = checked("epochs", epochs)
    if patience is not None and validation is None:
        raise UsageError("patience needs validation_data to watch; give (X, y), or leave patience out")
    smoothing = checked("label_smoothing", label_smoothing)
    if smoothing.any() and not net.loss.classification:
        raise UsageError(f'label_smoothing smooths classes; loss "{net.loss.name}" has none')
    rule = get_optimizer(optimizer)
    rule_options = {
        name: checks.per_network(name, value, models, 0.0) for name, value in rule.configured(optimizer_options).items()
    }
    tolerance = checked("update_tolerance", update_tolerance)
    state = initial_state(
        stack,
        rule,
        rule_options,
        weight_decay=_unless_zero(checked("weight_decay", rule.weight_decay if weight_decay is None else weight_decay)),
        l2=_unless_zero(checked("l2", l2)),
        max_grad_norm=checked("max_grad_norm", max_grad_norm),
        largest_update=None if tolerance is None else np.zeros(models),
    )
    if diagnostics:
        if models > 1:
            raise UsageError(f"diagnostics looks at a single network; this is a stack of {models}")
        callbacks = (HealthWatch(stack, X, y, samples.weight), *callbacks)
    seeds = checks.seeds(seed, models)
    batch_size = min(checked("batch_size", batch_size), samples.most_rows)
    planner = Planner(
        m=len(X),
        rows=samples.rows,
        batch_size=batch_size,
        epochs=epochs_by_network,
        weight=samples.weight,
        learning_rate=checked("learning_rate", learning_rate),
        schedules=schedules_of(schedule, models),
        seeds=seeds if shuffle and (samples.rows is not None or batch_size < len(X)) else None,
    )
    step = TrainingStep(
        stack,
        (X, y, samples.weight),
        batch_size,
        state,
        dropout=checked("dropout", dropout),
        label_smoothing=smoothing,
        orders=planner.orders,
        counts=None if samples.rows is None else planner.counts,
    )
    stopping = EarlyStopping(patience=checked("patience", patience), update_tolerance=tolerance)
    return _TrainingRun(net, step, planner, total_weight, validation, stopping, callbacks).run()


@dataclass(frozen=True)
class Samples:
    """What networks are trained or validated on, as `checks` makes it regular.

    Attributes
    ----------
    X : (m, n_0) array
    y : (m,) or (m, n_L) array
    weight : (m,) or (K, m) float64, or None
    rows : K arrays of int, or None
        The rows that each network uses; None where each uses all m.
    """

    X: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float64] | None
    rows: Sequence[NDArray[np.int64]] | None = None

    @property
    def most_rows(self) -> int:
        """How many rows the network with the most of them uses."""
        return max(map(len, self.rows)) if self.rows else len(self.X)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """What ends the training of a network before its last epoch; None where nothing does.

    Attributes
    ----------
    patience : (K,) int or None
    update_tolerance : (K,) float64 or None
    """

    patience: NDArray[np.int64] | None
    update_tolerance: NDArray[np.float64] | None


def _validation_samples(
    stack: Stack, data: Sequence[Any] | None, rows: Sequence[Any] | None, training: Samples
) -> Samples | None:
    """What is evaluated after every epoch, checked before anything is trained."""
    if rows is not None:
        if data is not None:
            raise UsageError("validation_data and validation_rows are both given; give one of them")
        return replace(training, rows=checks.rows(rows, stack.models, len(training.X), "validation_rows"))
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
    X, y, *weight = data
    return Samples(*stack.checked(X, y, weight[0] if weight else None, "validation"))


def _with_class_weight(samples: Samples, class_weight: Any, stack: Stack) -> Samples:
    """Samples whose weights are multiplied by those of classes, which each network counts in the rows it uses."""
    if class_weight is None:
        return samples
    m, y = len(samples.X), samples.y
    by_class = np.zeros(m if samples.rows is None else (stack.models, m))
    for weights, rows in zip(np.atleast_2d(by_class), samples.rows or [np.arange(m)], strict=True):
        weights[rows] = checks.class_weights(class_weight, y[rows], stack.layer_sizes[-1], stack.loss)
    return replace(samples, weight=by_class if samples.weight is None else samples.weight * by_class)


def _total_weights(samples: Samples, models: int) -> NDArray[np.float64]:
    """What the rows that each network uses weigh, (K,); refused where it is nothing."""
    weight, rows, m = samples.weight, samples.rows, len(samples.X)
    if weight is None:
        total = np.full(models, float(m)) if rows is None else np.array([float(len(r)) for r in rows])
    else:
        weights = np.broadcast_to(np.atleast_2d(weight), (models, m))
        total = np.array([(w if rows is None else w[rows[k]]).sum() for k, w in enumerate(weights)])
    if not total.all():
        who = f" of network {int(np.argmin(total))}" if models > 1 else ""
        raise DataError(f"class_weight and sample_weight leave every sample{who} with weight 0; one must count")
    return total


def _unless_zero(numbers: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(K,) numbers, or None where all are 0, so that the step leaves their term out."""
    return numbers if numbers.any() else None


class _TrainingRun:
    """One call of `train`, from epoch to epoch."""

    def __init__(
        self,
        net: MLP,
        step: TrainingStep,
        planner: Planner,
        total_weight: NDArray[np.float64],
        validation: Samples | None,
        stopping: EarlyStopping,
        callbacks: Sequence[Callback],
    ) -> None:
        self.net, self.stack, self.step = net, net.stack, step
        self.planner, self.total_weight, self.validation = planner, total_weight, validation
        self.stopping, self.callbacks = stopping, callbacks
        self.history = History(net.loss.metric_name(net.layer_sizes[-1]), net.models)
        self.stopped = self.history.stopped_by_network
        self.best_loss = np.full(net.models, np.inf)
        self.best_epoch = np.zeros(net.models, np.int64)
        self.best_theta = None if stopping.patience is None else self.stack.theta.copy()
        self.monitored = np.empty((0, net.models))

    def run(self) -> History:
        """Train epoch after epoch until the last, or until no network is active."""
        history = self.history
        start = time.perf_counter()
        try:
            for epoch in range(int(self.planner.epochs.max())):
                self._train_epoch(epoch, start)
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

    def _train_epoch(self, epoch: int, start: float) -> None:
        """Take the steps of an epoch, write it into the history, and see which networks end with it."""
        step, history = self.step, self.history
        active = step.active()
        table = self.planner.table(epoch, self.monitored)
        result = step.run_epoch(table)
        trains = active & ~result.diverged
        history.steps += table.steps
        if result.overflows is not None:
            history.overflows_by_network = result.overflows
        curves = self._training_curves(table, result, trains)
        monitored = curves["loss"]
        if self.validation is not None:
            monitored, validation_metric = self._validate(self.validation, trains)
            curves |= {"validation_loss": monitored, "validation_metric": validation_metric}
        history.append(time.perf_counter() - start, **curves)
        self.monitored = np.vstack([self.monitored, monitored])
        if result.diverged.any():
            self.stopped[result.diverged] = "diverged"
            if not step.active().any() and (self.stopped == "diverged").all():
                raise divergence_error(step, result.diverged, history)
        self._stop_early(epoch, monitored, result.largest_update)

    def _training_curves(
        self, table: StepTable, result: EpochResult, trains: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float64]]:
        """What an epoch adds to the curves of the networks, (K,) each, NaN for those that do not train."""
        mean = result.totals.sum(axis=1) / self.total_weight[:, None]  # (K, 2): loss, and what makes the metric
        mean[~trains] = np.nan
        last_steps = self.planner.steps_per_epoch - 1
        return {
            "loss": mean[:, 0],
            "metric": np.array([self.stack.loss.metric.finish(v) for v in mean[:, 1]]),
            "learning_rate": table.learning_rate[np.arange(self.stack.models), last_steps],
        }

    def _validate(self, samples: Samples, trains: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss and metric (K,) of the networks that train, NaN for the others."""
        members = self.step.members
        rows = None if samples.rows is None else [samples.rows[k] for k in members.tolist()]
        weight = samples.weight if samples.weight is None or samples.weight.ndim == 1 else samples.weight[members]
        loss, metric = np.full((2, len(trains)), np.nan)
        loss[members], metric[members] = self.step.live.evaluate(samples.X, samples.y, weight, rows)
        return np.where(trains, loss, np.nan), np.where(trains, metric, np.nan)

    def _stop_early(
        self, epoch: int, monitored: NDArray[np.float64], largest_update: NDArray[np.float64] | None
    ) -> None:
        """Remember the best epoch of each network; stop those without patience left, or that hardly move."""
        patience, tolerance = self.stopping.patience, self.stopping.update_tolerance
        active = self.step.active()
        if self.validation is not None:
            better = active & (monitored < self.best_loss)
            self.best_loss[better], self.best_epoch[better] = monitored[better], epoch
            if self.best_theta is not None and patience is not None:
                self.stack.backend.assign(self.best_theta, self.stack.theta, better)
                self._stop(active & (epoch - self.best_epoch >= patience), "patience")
        if tolerance is not None and largest_update is not None:
            self._stop(self.step.active() & (largest_update <= tolerance), "update_tolerance")

    def _stop(self, networks: NDArray[np.bool_], why: str) -> None:
        self.stopped[networks] = why
        self.step.stop(networks)
