"""Training: the epoch loop around the training step, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.diagnostics.health import HealthWatch
from gpubp.errors import CheckpointError, TrainingInterrupted, UsageError
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import ScheduleSpec, schedules_of
from gpubp.stack import Stack
from gpubp.training.accumulation import Batches
from gpubp.training.augmentation import Augment, checked_augment
from gpubp.training.batches import as_row_source
from gpubp.training.built_step import built_step
from gpubp.training.checkpoint import EVERY, Checkpoints, TrainingIdentity, TrainingState, open_checkpoints
from gpubp.training.data_parallel import check_same, check_still_same, evaluate
from gpubp.training.divergence import divergence_error, lost_error, say_if_slots_overflowed, with_finite_outputs
from gpubp.training.history import History
from gpubp.training.options import TRAINING_OPTIONS
from gpubp.training.ranks import Ranks, ranks_of
from gpubp.training.samples import Samples, samples_in_memory, total_weights, validation_samples, with_class_weight
from gpubp.training.step import EpochResult, TrainingStep
from gpubp.training.step_table import Planner, StepTable
from gpubp.training.stopping import EarlyStopping
from gpubp.training.streaming import streamed_samples
from gpubp.training.watching import checked_callbacks, shown, watchers

Callback = Callable[[MLP, History], Any]
Numbers = float | Sequence[float] | NDArray[Any]  # one for all networks of a stack, or one each


def train(
    net: MLP,
    X: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    validation_data: Sequence[Any] | None = None,
    *,
    batches: Any = None,
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
    accumulate: int = 1,
    recompute: bool = False,
    epochs: int | Sequence[int] | NDArray[Any] = 20,
    patience: int | Sequence[int] | NDArray[Any] | None = None,
    update_tolerance: Numbers | None = None,
    shuffle: bool = True,
    seed: int | Sequence[int] = 0,
    augment: Augment | None = None,
    callbacks: Sequence[Callback] = (),
    rows: Sequence[Any] | None = None,
    validation_rows: Sequence[Any] | None = None,
    diagnostics: bool = False,
    watch_test: Sequence[Any] | None = None,
    verbose: int = 0,
    checkpoint: str | Path | None = None,
    checkpoint_every: str | None = EVERY,
    resume: str | Path | None = None,
    communicator: Any = None,
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
    batches : iterable of (X, y), data set of (x, y), or callable, optional
        Instead of X and y, rows that need not fit into memory. What yields batches, or is called for it, is gone
        through once, and its rows are kept in a scratch file; a data set with ``len()``, such as PyTorch's, is asked
        for its rows in every epoch. Blocks of rows come in a seeded order, and as many as 64 MB hold are shuffled
        together; all networks of a stack see one order.
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
    accumulate : int
        Parts that each batch is gone through in, of equal size: their gradients are added up for one update, which
        takes the memory of a part. Up to rounding the result is that of whole batches; dropout draws other masks. A
        batch that does not fit on the device is cut into parts without being asked to, which is said.
    recompute : bool
        Keep the activations of about √L of L hidden layers, and run the others again in the backward pass: deep
        networks take less memory and about a third more time, and end with the same bits.
    epochs : int (K,)
    patience : int or None (K,)
        Stop after so many epochs without a lower validation loss, and return to the best weights.
    update_tolerance : float (K,) or None
        Stop when no weight or bias moved more than this in any step of an epoch.
    shuffle : bool
        Draw a new order every epoch.
    seed : int or sequence of K ints
        Of the order: network k of a stack sees the order of a single network with seed ``seed + k``.
    augment : callable, optional
        ``augment(xp, X, epoch)`` before every epoch returns the rows that it trains on, (m, n_0), made of a copy of X
        in the network's type on the device, by functions of `xp`: CuPy there, NumPy on a CPU. All networks of a stack
        see the same ones. Draws that depend on `epoch` alone, as those of ``xp.random.default_rng([7, epoch])`` do,
        are the same where a training goes on from a checkpoint. Validation and diagnostics see X as it is.
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
    watch_test : (X, y) or (X, y, sample_weight), optional
        Test rows that are only watched: ``history.watched_test_loss`` has their loss after every epoch, and nothing in
        the training looks at it.
    verbose : int
        1 shows how it goes: a bar on a terminal and in notebooks, else at most 20 lines.
    checkpoint : path, optional
        A folder for checkpoints: the last two, and the one after the epoch of the least loss. With it, Ctrl-C and
        SIGTERM end the training between two steps, once a checkpoint is written.
    checkpoint_every : str or None
        ``"500steps"``, ``"1epochs"`` or ``"10minutes"``; None for a checkpoint at an interrupt alone.
        Another than the default needs `checkpoint` or `resume`.
    resume : path, optional
        A folder with checkpoints, of which the last one is taken, or one of them: the training goes on where it was
        written, and ends with the bits of an unbroken run, if the machine and the versions are those it was begun
        with. All other arguments are as they were. Checkpoints go on in that folder, unless `checkpoint` is given.
    communicator : mpi4py.MPI.Comm, optional
        The processes that train the network together, each of which calls this with the same arguments, such as
        ``MPI.COMM_WORLD``: each goes through its equal part of every batch, on a GPU of its own or on its share of the
        cores, and their gradients are added up for one update. All end with the same weights, up to rounding those of
        one process. `callbacks` are called in each, as `augment` is; the first alone writes checkpoints.

    Returns
    -------
    History

    Raises
    ------
    DataError, UsageError
        Before anything is trained, naming what does not fit; also where `resume` is of another training.
    CheckpointError
        Where a checkpoint cannot be written. Those before it are intact, the weights so far are in `net`.
    TrainingInterrupted
        Where Ctrl-C or SIGTERM ended a training with checkpoints, in `net` likewise.
    RankError
        Where another process failed, whose error it has.
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
    with ranks_of(communicator) as ranks:
        stack, models = net.stack, net.models
        schedules, seeds = schedules_of(schedule, models), checks.seeds(seed, models)
        if batches is None:
            samples = samples_in_memory(stack, X, y, sample_weight, rows)
        else:
            at_once = {"X": X, "y": y, "sample_weight": sample_weight, "class_weight": class_weight, "rows": rows}
            at_once |= {"validation_rows": validation_rows, "diagnostics": diagnostics or None, "augment": augment}
            samples = streamed_samples(as_row_source(batches), stack, seeds[0] if shuffle else None, at_once)
        validation = validation_samples(stack, validation_data, validation_rows, samples)
        samples = with_class_weight(samples, class_weight, stack)
        total_weight = total_weights(samples, models)
        callbacks = [*watchers(stack, samples, diagnostics, watch_test), *checked_callbacks(callbacks)]
        augmented = {} if augment is None else {"augment": checked_augment(augment, samples)}
        rule = get_optimizer(optimizer)
        options = _checked_options(
            models,
            learning_rate=learning_rate,
            l2=l2,
            weight_decay=rule.weight_decay if weight_decay is None else weight_decay,
            dropout=dropout,
            label_smoothing=label_smoothing,
            max_grad_norm=max_grad_norm,
            batch_size=batch_size,
            accumulate=accumulate,
            epochs=epochs,
            patience=patience,
            update_tolerance=update_tolerance,
        )
        options["accumulate"] *= ranks.size  # parts of a batch, by all ranks together
        rule_options = _checked_options_of(rule, optimizer_options, models)
        _check_together(options, validation, stack)
        batch_size = options["batch_size"] = min(options["batch_size"], samples.most_rows)
        shuffles = rows is not None or (batches is None and batch_size < len(samples.X))
        planner = Planner(
            m=len(samples.X),
            rows=samples.rows,
            batch_size=batch_size,
            epochs=options["epochs"],
            weight=samples.weight,
            learning_rate=options["learning_rate"],
            schedules=schedules,
            seeds=seeds if shuffle and shuffles else None,
        )
        asked = Batches.asked(options, samples.most_rows, bool(recompute), ranks)
        step = built_step(stack, samples, planner, asked, (rule, rule_options), options, augment)
        settings = {"optimizer": rule.name, **rule_options, **options, "seed": list(seeds), "shuffle": bool(shuffle)}
        identity = TrainingIdentity(
            stack,
            {**settings, "schedule": [one.name for one in schedules], **augmented},
            {"training": samples.arrays(), "validation": None if validation is None else validation.arrays()},
        )
        checkpoints, state = open_checkpoints(checkpoint, checkpoint_every, resume, identity, ranks)
        check_same(ranks, stack, identity, state)
        stopping = EarlyStopping(patience=options["patience"], update_tolerance=options["update_tolerance"])
        with shown(verbose if ranks.rank == 0 else 0, int(options["epochs"].max()), samples.most_rows) as bar:
            run = _TrainingRun(net, step, planner, total_weight, validation, stopping, [*callbacks, *bar], checkpoints)
            return with_finite_outputs(run.run(state), stack, samples)


def _checked_options(models: int, **values: Any) -> dict[str, Any]:
    """Options of a training by name, as numbers for K = `models` networks."""
    return {name: TRAINING_OPTIONS[name].check(value, models) for name, value in values.items()}


def _checked_options_of(
    rule: Optimizer, asked: Mapping[str, Any] | None, models: int
) -> dict[str, NDArray[np.float64]]:
    """Options of an optimizer by name, (K,) each."""
    return {name: checks.per_network(name, value, models, 0.0) for name, value in rule.configured(asked).items()}


def _check_together(options: Mapping[str, Any], validation: Samples | None, stack: Stack) -> None:
    """Refuse options that lack what they work on."""
    if options["patience"] is not None and validation is None:
        raise UsageError("patience needs validation_data to watch; give (X, y), or leave patience out")
    if options["label_smoothing"].any() and not stack.loss.classification:
        raise UsageError(f'label_smoothing smooths classes; loss "{stack.loss.name}" has none')


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
        checkpoints: Checkpoints | None,
    ) -> None:
        self.net, self.stack, self.step = net, net.stack, step
        self.planner, self.total_weight, self.validation = planner, total_weight, validation
        self.ranks: Ranks = step.batches.ranks
        self.stopping, self.callbacks, self.checkpoints = stopping, callbacks, checkpoints
        self.history = History(net.loss.metric_name(net.layer_sizes[-1]), net.models)
        self.stopped = self.history.stopped_by_network
        self.best_loss = np.full(net.models, np.inf)
        self.best_epoch = np.zeros(net.models, np.int64)
        self.best_theta = None if stopping.patience is None else self.stack.theta.copy()
        self.monitored = np.empty((0, net.models))
        self.epoch = self.position = 0  # the epoch and the step within it that come next
        self.start = time.perf_counter()

    def run(self, state: TrainingState | None = None) -> History:
        """Train epoch after epoch, from a state on where one is given, until the last or until no network is active."""
        if state is not None:
            self.restore(state)
        history = self.history
        try:
            with self.checkpoints or nullcontext():
                while self.step.active().any():
                    self._train_epoch()
                    answers = [callback(self.net, history) for callback in self.callbacks]  # every one is called
                    if self.ranks.any(any(isinstance(answer, bool | np.bool_) and answer for answer in answers)):
                        self._stop(self.step.active(), "callback")
                    self.epoch, self.position = self.epoch + 1, 0
                    self._stop(self.step.active() & (self.planner.epochs == self.epoch), "epochs")
                    self._look_up()
        except (TrainingInterrupted, CheckpointError) as error:
            if self.position:
                self.step.give_back()
            history.steps += self.position
            self.stopped[self.step.active()] = "interrupted"
            error.history = history
            raise
        finally:
            self.step.data.close()
            if self.best_theta is not None and np.isfinite(self.best_loss).any():
                self.stack.backend.assign(self.stack.theta, self.best_theta, np.isfinite(self.best_loss))
            if self.validation is not None and history.epochs:
                history.best_epoch_by_network = self.best_epoch
        rows = float(self.planner.counts.mean()) * history.epochs
        history.samples_per_second = rows / (time.perf_counter() - self.start)
        say_if_slots_overflowed(self.step)
        return history

    def _train_epoch(self) -> None:
        """Take the steps of an epoch, write it into the history, and see which networks end with it."""
        step, history = self.step, self.history
        table = self.planner.table(self.epoch, self.monitored)
        if step.augmentation is not None:
            step.augmentation.begin_epoch(self.epoch)
        result = step.run_epoch(table, self.position, None if self.checkpoints is None else self)
        check_still_same(self.ranks, self.stack)
        trains = step.began & ~result.diverged
        history.steps += table.steps
        if result.overflows is not None:
            skipped = history.count_overflows(result.overflows)
            if result.largest_update is not None:  # of which steps that were all skipped say nothing
                result.largest_update[skipped == self.planner.steps_per_epoch] = np.inf
        curves = self._training_curves(table, result, trains)
        monitored = curves["loss"]
        if self.validation is not None:
            monitored, validation_metric = self._validate(self.validation, trains)
            curves |= {"validation_loss": monitored, "validation_metric": validation_metric}
        history.append(time.perf_counter() - self.start, **curves)
        self.monitored = np.vstack([self.monitored, monitored])
        lost = trains & ~np.isfinite(monitored)
        if result.diverged.any() or lost.any():
            self._stop(result.diverged | lost, "diverged")
            if not step.active().any() and (self.stopped == "diverged").all():
                raise lost_error(history) if lost.any() else divergence_error(step, result.diverged, history)
        self._stop_early(self.epoch, monitored, result.largest_update)

    # -- checkpoints -----------------------------------------------------------------------------------

    def most_steps(self, position: int) -> int:
        """How many steps of the epoch may be taken before a checkpoint could be due."""
        assert self.checkpoints is not None
        return self.checkpoints.most_steps(self._steps_before() + position)

    def reached(self, position: int) -> None:
        """Write a checkpoint before this step of the epoch, if one is due."""
        self.position = position
        self._look_up()

    def _look_up(self) -> None:
        """Write a checkpoint, if one is due, and end the training where that was asked for."""
        checkpoints = self.checkpoints
        ended = None if self.position else self.epoch
        if checkpoints is None or not checkpoints.due(self._steps_before() + self.position, ended):
            return
        checkpoints.write(self.state())
        signal, folder = checkpoints.interruption.signal, checkpoints.folder
        if signal is not None and folder is not None and self.step.active().any():
            checkpoints.wait()
            raise TrainingInterrupted(signal, self.history, folder.path)

    def _steps_before(self) -> int:
        """Steps of the epochs that are over, of the network that takes the most."""
        return self.epoch * int(self.planner.steps_per_epoch.max())

    def state(self) -> TrainingState:
        """All that is needed to go on from here, on the host, in memory of its own."""
        to_host, last = self.stack.backend.to_host, self.monitored[-1:]
        tensors = {
            "theta": np.array(to_host(self.stack.theta)),
            "members": self.step.members,
            "began": self.step.began,
            "monitored": self.monitored,
            "best_loss": self.best_loss.copy(),
            "best_epoch": self.best_epoch.copy(),
            **({} if self.best_theta is None else {"best_theta": np.array(to_host(self.best_theta))}),
            **{f"step.{name}": array for name, array in self.step.carried_to_host().items()},
            **{f"history.{name}": array for name, array in self.history.tensors().items()},
        }
        return TrainingState(
            epoch=self.epoch,
            position=self.position,
            step=self._steps_before() + self.position,
            score=float(last[np.isfinite(last)].mean()) if np.isfinite(last).any() else np.inf,
            tensors=tensors,
            metadata={
                "steps": self.history.steps,
                "stopped": self.stopped.tolist(),
                "seconds": time.perf_counter() - self.start,
            },
        )

    def restore(self, state: TrainingState) -> None:
        """Go on from where a training like this one stood."""
        backend, tensors = self.stack.backend, state.tensors
        self.epoch, self.position = state.epoch, state.position
        self.stack.theta[...] = backend.from_host(tensors["theta"])
        if self.best_theta is not None:
            self.best_theta[...] = backend.from_host(tensors["best_theta"])
        self.best_loss, self.best_epoch, self.monitored = (
            tensors[name] for name in ("best_loss", "best_epoch", "monitored")
        )
        of_history = {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith("history.")}
        self.history.restore(of_history)
        for callback in self.callbacks:
            if isinstance(callback, HealthWatch):
                callback.go_on(self.stack, self.history, of_history)
        self.history.steps = state.metadata["steps"]
        self.stopped[:] = state.metadata["stopped"]
        self.start = time.perf_counter() - state.metadata["seconds"]
        carried = {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith("step.")}
        self.step.restore(tensors["members"], tensors["began"], carried)

    # -- what comes of an epoch ------------------------------------------------------------------------

    def _training_curves(
        self, table: StepTable, result: EpochResult, trains: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.float64]]:
        """What an epoch adds to the curves of the networks, (K,) each, NaN for those that do not train."""
        mean = result.totals.sum(axis=1) / self.total_weight[:, None]  # (K, 2): loss, and what makes the metric
        mean[~trains] = np.nan
        last_rates = table.learning_rate[np.arange(self.stack.models), self.planner.steps_per_epoch - 1]
        return {
            "loss": mean[:, 0],
            "metric": np.array([self.stack.loss.metric.finish(v) for v in mean[:, 1]]),
            "learning_rate": np.where(trains, last_rates, np.nan),
        }

    def _validate(self, samples: Samples, trains: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss and metric (K,) of the networks that train, NaN for the others."""
        members = self.step.members
        rows = None if samples.rows is None else [samples.rows[k] for k in members.tolist()]
        weight = samples.weight if samples.weight is None or samples.weight.ndim == 1 else samples.weight[members]
        of_members = replace(samples, rows=rows, weight=weight)
        loss, metric = np.full((2, len(trains)), np.nan)
        loss[members], metric[members] = evaluate(self.ranks, self.step.live, of_members)
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
