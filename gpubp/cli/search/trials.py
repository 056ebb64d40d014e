"""A search: every candidate on every fold with every seed, trained together in stacks, and the result of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import get_backend
from gpubp.cli import metrics
from gpubp.cli.options import NETWORK_OPTIONS
from gpubp.cli.settings import Settings
from gpubp.data.folds import Fold
from gpubp.errors import DivergenceError
from gpubp.network import MLP
from gpubp.training import packing
from gpubp.training import train as run_training
from gpubp.training.history import History

NAN = float("nan")
WAITING, UNFINISHED, DONE = "not started", "unfinished", "done"


@dataclass(eq=False)
class Trial:
    """One network of a search: a candidate on a fold, drawn from a seed.

    Attributes
    ----------
    candidate : int
    fold : Fold
    seed : int
    epochs : int
        The epoch of its weights: with patience, the best one.
    loss, metric : float
        On the fold's validation rows; NaN without a result. The metric is the accuracy, or the rmse in the target's
        own units.
    state : str
        ``WAITING``, ``UNFINISHED``, ``DONE``, or how it diverged.
    """

    candidate: int
    fold: Fold
    seed: int
    epochs: int = 0
    loss: float = NAN
    metric: float = NAN
    state: str = WAITING

    @property
    def diverged(self) -> bool:
        """Whether it diverged."""
        return self.state.startswith("diverged")

    @property
    def finished(self) -> bool:
        """Whether it needs no more training."""
        return self.state == DONE or self.diverged


@dataclass(eq=False)
class TrialStack:
    """Networks of one shape that are trained together, sorted by number of rows and fold."""

    trials: list[Trial]
    bytes: int

    @property
    def finished(self) -> bool:
        """Whether none of its networks needs more training."""
        return all(trial.finished for trial in self.trials)


@dataclass(eq=False)
class Search:
    """The candidates of a search, and the stacks in which they are trained.

    Parameters
    ----------
    candidates : sequence of Settings
        With their epochs.
    folds : sequence of Fold
    seeds : sequence of int
    n_outputs : int
    loss : str
    device, precision : str
    class_weight : optional
        As in `gpubp.train`. All validation rows count equally.

    Attributes
    ----------
    trials : list of Trial
        All trials, candidate by candidate.
    stacks : list of TrialStack
        The stacks in training order.

    Raises
    ------
    UsageError
        Before anything is trained, for settings with which no network can be made or trained.
    """

    candidates: Sequence[Settings]
    folds: Sequence[Fold]
    seeds: Sequence[int]
    n_outputs: int
    loss: str
    device: str
    precision: str
    class_weight: Any = None
    trials: list[Trial] = field(init=False)
    stacks: list[TrialStack] = field(init=False)

    def __post_init__(self) -> None:
        self.trials = [
            Trial(number, fold, seed)
            for number in range(len(self.candidates))
            for fold in self.folds
            for seed in self.seeds
        ]
        groups = packing.groups(self.trials, self._shared_by_stack)
        self.stacks = [stack for group in groups for stack in self._stacks_that_fit(group)]

    @property
    def data_bytes(self) -> int:
        """Bytes of the data that the networks are trained on."""
        return sum(array.nbytes for array in {id(array): array for f in self.folds for array in (f.X, f.y)}.values())

    def train(self, stack: TrialStack, after_epoch: Callable[[TrialStack, History], Any]) -> None:
        """Train a stack, and record the results in its trials, or their progress if interrupted.

        Parameters
        ----------
        stack : TrialStack
        after_epoch : callable
            ``after_epoch(stack, history)`` after every epoch.
        """
        trials = stack.trials
        net = self._network(trials)
        fold, last_history = trials[0].fold, History(net.loss.metric_name(net.layer_sizes[-1]), net.models)

        def follow(net: MLP, history: History) -> None:
            nonlocal last_history
            last_history = history
            self._record_progress(trials, history)
            after_epoch(stack, history)

        try:
            run_training(
                net,
                fold.X,
                fold.y,
                **packing.merged_arguments([self._settings(trial).train_arguments() for trial in trials]),
                seed=[trial.seed for trial in trials],
                rows=[trial.fold.train for trial in trials],
                validation_rows=[trial.fold.validation for trial in trials],
                class_weight=self.class_weight,
                callbacks=(follow,),
            )
        except DivergenceError as error:  # of all of them
            last_history = error.history
        except KeyboardInterrupt:
            if last_history.epochs:
                self._record_results(trials, net, last_history)
            raise
        self._record_results(trials, net, last_history)

    def _settings(self, trial: Trial) -> Settings:
        return self.candidates[trial.candidate]

    def _network(self, trials: Sequence[Trial]) -> MLP:
        settings, fold = self._settings(trials[0]), trials[0].fold
        seeds = [trial.seed for trial in trials]
        return settings.network(fold.X.shape[1], self.n_outputs, self.loss, seeds, self.device, self.precision)

    # -- before ----------------------------------------------------------------------------------------

    def _shared_by_stack(self, trial: Trial) -> tuple[Any, ...]:
        """What the networks of a stack have in common."""
        settings = self._settings(trial)
        network = tuple(settings[name] for name in NETWORK_OPTIONS)
        return *network, id(trial.fold.X), packing.in_common(settings.train_arguments())

    def _stacks_that_fit(self, group: list[Trial]) -> list[TrialStack]:
        """A group cut into stacks. Candidates are kept together where possible, so that some are done early."""
        settings = self._settings(group[0])
        bytes_each = packing.bytes_of_one(
            self._network(group[:1]).stack,
            settings["batch_size"],
            settings["optimizer"],
            rows=max(len(trial.fold.train) for trial in group),
            keeps_best=settings["patience"] is not None,
        )
        self._try_one_step(list({trial.candidate: trial for trial in group}.values()))
        free = packing.memory_for_stacks(get_backend(self.device, self.precision))
        stacks = packing.portions(group, bytes_each, max(0.0, free - self.data_bytes))
        by_rows = [sorted(stack, key=lambda trial: (len(trial.fold.train), trial.fold.number)) for stack in stacks]
        return [TrialStack(stack, bytes_each * len(stack)) for stack in by_rows]

    def _try_one_step(self, trials: list[Trial]) -> None:
        """Let small networks with these settings take a step, so that training's refusals come now."""
        X, y = np.zeros((2, 1)), trials[0].fold.y[:2]
        net = MLP([1, self.n_outputs], loss=self.loss, device="cpu-reference", precision="float64", models=len(trials))
        arguments = packing.merged_arguments([self._settings(trial).train_arguments() for trial in trials])
        with suppress(DivergenceError):
            run_training(net, X, y, validation_data=(X, y), **arguments | {"epochs": 1})

    # -- meanwhile and afterwards ----------------------------------------------------------------------

    def _record_progress(self, trials: Sequence[Trial], history: History) -> None:
        """Record the networks' progress after an epoch."""
        loss, metric = (history.curve(name)[-1] for name in ("validation_loss", "validation_metric"))
        for k in np.flatnonzero(~np.isnan(loss)).tolist():
            trial = trials[k]
            trial.state, trial.epochs = UNFINISHED, history.epochs
            trial.loss, trial.metric = float(loss[k]), float(metric[k]) * _unit(trial.fold)

    def _record_results(self, trials: Sequence[Trial], net: MLP, history: History) -> None:
        """Record the networks' results with their current weights."""
        fold = trials[0].fold
        loss, metric = net.stack.evaluate(fold.X, fold.y, None, [trial.fold.validation for trial in trials])
        if not net.loss.classification:
            metric = _metric_of_values(net, trials, np.isfinite(loss))
        epochs = np.isfinite(history.curve("loss")).sum(axis=0).tolist()
        for k, trial in enumerate(trials):
            trial.state, trial.epochs = self._outcome(trial, k, history, epochs[k], loss[k])
            trial.loss, trial.metric = (NAN, NAN) if trial.diverged else (float(loss[k]), float(metric[k]))

    def _outcome(self, trial: Trial, k: int, history: History, epochs: int, loss: float) -> tuple[str, int]:
        """The state of network k of a stack after `epochs` epochs, and the epoch of its weights."""
        settings = self._settings(trial)
        stopped, best = history.stopped_by_network[k], history.best_epoch_by_network
        if stopped == "diverged":
            rate = history.curve("learning_rate")[epochs, k]
            return _how_it_diverged(len(trial.fold.train), settings["batch_size"], epochs, rate), epochs
        if not np.isfinite(loss):
            return f"diverged: validation loss {loss:g} after epoch {epochs}", epochs
        ended = stopped in ("patience", "update_tolerance") or epochs == settings["epochs"]
        state = DONE if ended else UNFINISHED
        return state, epochs if settings["patience"] is None or best is None else int(best[k]) + 1


def _metric_of_values(net: MLP, trials: Sequence[Trial], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The rmse (K,) in the units of the target, or the accuracy of one-hot classes; NaN unless `finite`."""
    metric, first = np.full(len(trials), NAN), 0
    for fold, members in itertools.groupby(trials, lambda trial: trial.fold):
        last = first + len(list(members))
        outputs = net.stack.part(slice(first, last)).outputs(fold.X[fold.validation])
        truth = fold.y[fold.validation]
        for k in first + np.flatnonzero(finite[first:last]):
            figures = metrics.measure(fold.preprocessing, truth, outputs[k - first])
            metric[k] = figures["rmse" if "rmse" in figures else "accuracy"]
        first = last
    return metric


def _unit(fold: Fold) -> float:
    """The factor that converts a network's metric to the units of its target; NaN if there is none.

    There is none if several targets differ in their units, or if classes are learned with a loss on values.
    """
    if fold.preprocessing["target"]["type"] == "one_hot":
        return NAN
    scale = fold.preprocessing["target"].get("scale", [1.0])
    return float(scale[0]) if len(scale) == 1 else NAN


def _how_it_diverged(rows: int, batch_size: int, epochs: int, rate: float) -> str:
    """``diverged at step 24 to 35, epoch 3, learning rate 0.1``: a stack remembers the epoch."""
    steps = -(-rows // batch_size)
    first, last = epochs * steps, (epochs + 1) * steps - 1
    return f"diverged at step {first}{f' to {last}' if steps > 1 else ''}, epoch {epochs + 1}, learning rate {rate:.3g}"
