"""A search: every candidate on every fold with every seed, trained together in stacks, and what came of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import get_backend
from gpubp.cli import run_folder
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
    """One network of a search.

    Attributes
    ----------
    candidate : int
    fold : Fold
    seed : int
    epochs : int
        After which its weights are those it has: with patience, its best.
    loss, metric : float
        On the fold's validation rows; NaN where it has none. The metric is the accuracy, or the rmse in the target's
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
        """Whether it left the finite numbers."""
        return self.state.startswith("diverged")


@dataclass(eq=False)
class TrialStack:
    """Networks of one shape that are trained together, by number of rows and fold."""

    trials: list[Trial]
    bytes: int


@dataclass(eq=False)
class Search:
    """What is searched, and the stacks in which it is trained.

    Parameters
    ----------
    candidates : sequence of Settings
        With their epochs.
    folds : sequence of Fold
    seeds : sequence of int
    n_outputs : int
    loss : str
    device, precision : str

    Attributes
    ----------
    trials : list of Trial
        Candidate by candidate.
    stacks : list of TrialStack
        In the order in which they are to be trained.

    Raises
    ------
    UsageError
        For settings that no network can be made of or trained with, before anything is trained.
    """

    candidates: Sequence[Settings]
    folds: Sequence[Fold]
    seeds: Sequence[int]
    n_outputs: int
    loss: str
    device: str
    precision: str
    trials: list[Trial] = field(init=False)
    stacks: list[TrialStack] = field(init=False)

    def __post_init__(self) -> None:
        self.trials = [
            Trial(number, fold, seed)
            for number in range(len(self.candidates))
            for fold in self.folds
            for seed in self.seeds
        ]
        self.stacks = [stack for group in packing.groups(self.trials, self._kind) for stack in self._planned(group)]

    @property
    def data_bytes(self) -> int:
        """Bytes of what the networks are trained on."""
        return sum(array.nbytes for array in {id(array): array for f in self.folds for array in (f.X, f.y)}.values())

    def train(self, stack: TrialStack, watch: Callable[[TrialStack, History], Any]) -> None:
        """Train a stack; ``watch(stack, history)`` after every epoch. Its trials know then what came of them.

        Interrupted, they know how far they came.
        """
        trials = stack.trials
        net = self._network(trials)
        fold, seen = trials[0].fold, History(net.loss.metric.name, net.models)

        def follow(net: MLP, history: History) -> None:
            nonlocal seen
            seen = history
            self._note(stack, history)
            watch(stack, history)

        try:
            run_training(
                net,
                fold.X,
                fold.y,
                **packing.merged_arguments([self.candidates[trial.candidate].arguments() for trial in trials]),
                seed=[trial.seed for trial in trials],
                rows=[trial.fold.train for trial in trials],
                validation_rows=[trial.fold.validation for trial in trials],
                callbacks=(follow,),
            )
        except DivergenceError as error:  # of all of them
            seen = error.history
        except KeyboardInterrupt:
            if seen.epochs:
                self._conclude(trials, net, seen)
            raise
        self._conclude(trials, net, seen)

    # -- before ----------------------------------------------------------------------------------------

    def _kind(self, trial: Trial) -> tuple[Any, ...]:
        """What the networks of a stack have in common."""
        settings = self.candidates[trial.candidate]
        shape = settings.hidden, settings.activation, settings.output_activation, settings.init
        return *shape, id(trial.fold.X), packing.in_common(settings.arguments())

    def _planned(self, group: list[Trial]) -> list[TrialStack]:
        """A group as stacks that fit. Candidates stay whole as far as they can, so that some are done early."""
        first = self.candidates[group[0].candidate]
        rows = max(len(trial.fold.train) for trial in group)
        each = packing.bytes_of_one(
            self._network(group[:1]).stack, first.batch_size, first.optimizer, rows, first.patience is not None
        )
        self._rehearse(list({trial.candidate: trial for trial in group}.values()))
        free = packing.memory_for_stacks(get_backend(self.device, self.precision))
        stacks = packing.portions(group, each, max(0.0, free - self.data_bytes))
        by_rows = [sorted(stack, key=lambda trial: (len(trial.fold.train), trial.fold.number)) for stack in stacks]
        return [TrialStack(stack, each * len(stack)) for stack in by_rows]

    def _rehearse(self, trials: list[Trial]) -> None:
        """Let stand-ins for these networks take a step: what training refuses is refused before any is trained."""
        settings = [self.candidates[trial.candidate] for trial in trials]
        X, y = np.zeros((2, 1)), trials[0].fold.y[:2]
        net = MLP([1, self.n_outputs], loss=self.loss, device="cpu-reference", precision="float64", models=len(trials))
        arguments = packing.merged_arguments([one.arguments() for one in settings]) | {"epochs": 1}
        with suppress(DivergenceError):
            run_training(net, X, y, validation_data=(X, y), **arguments)

    def _network(self, trials: Sequence[Trial]) -> MLP:
        settings, fold = self.candidates[trials[0].candidate], trials[0].fold
        seeds = [trial.seed for trial in trials]
        return settings.network(fold.X.shape[1], self.n_outputs, self.loss, seeds, self.device, self.precision)

    # -- meanwhile and afterwards ----------------------------------------------------------------------

    def _note(self, stack: TrialStack, history: History) -> None:
        """Where the networks stand after an epoch."""
        loss, metric = (history.curve(name)[-1] for name in ("validation_loss", "validation_metric"))
        for k in np.flatnonzero(~np.isnan(loss)):
            trial = stack.trials[k]
            trial.state, trial.epochs = UNFINISHED, history.epochs
            trial.loss, trial.metric = float(loss[k]), float(metric[k]) * _unit(trial.fold)

    def _conclude(self, trials: list[Trial], net: MLP, history: History) -> None:
        """What came of the networks, by the weights they have now."""
        fold = trials[0].fold
        loss, metric = net.stack.evaluate(fold.X, fold.y, None, [trial.fold.validation for trial in trials])
        if not net.loss.classification:
            metric = _rmse(net, trials, np.isfinite(loss))
        stopped, best = history.stopped_by_network, history.best_epoch_by_network
        trained = np.isfinite(history.curve("loss")).sum(axis=0)
        for k, trial in enumerate(trials):
            settings, epochs = self.candidates[trial.candidate], int(trained[k])
            trial.loss, trial.metric, trial.epochs = NAN, NAN, epochs
            if stopped[k] == "diverged":
                rate = history.curve("learning_rate")[epochs, k]
                trial.state = _how_it_diverged(len(trial.fold.train), settings.batch_size, epochs, rate)
            elif not np.isfinite(loss[k]):
                trial.state = f"diverged: validation loss {loss[k]:g} after epoch {epochs}"
            else:
                ended = stopped[k] in ("patience", "update_tolerance") or epochs == settings.epochs
                trial.state = DONE if ended else UNFINISHED
                trial.loss, trial.metric = float(loss[k]), float(metric[k])
                if settings.patience is not None and best is not None:
                    trial.epochs = int(best[k]) + 1


def _rmse(net: MLP, trials: Sequence[Trial], sound: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of each sound network, in the target's own units."""
    found, first = np.full(len(trials), NAN), 0
    for fold, members in itertools.groupby(trials, lambda trial: trial.fold):
        last = first + len(list(members))
        outputs = net.stack.part(slice(first, last)).outputs(fold.X[fold.validation])
        for k in first + np.flatnonzero(sound[first:last]):
            found[k] = run_folder.regression_metrics(fold.preprocessing, fold.y[fold.validation], outputs[k - first])[
                "rmse"
            ]
        first = last
    return found


def _unit(fold: Fold) -> float:
    """What the network's own rmse is multiplied by for the target's units; NaN where targets differ in theirs."""
    scale = fold.preprocessing["target"].get("scale", [1.0])
    return float(scale[0]) if len(scale) == 1 else NAN


def _how_it_diverged(rows: int, batch_size: int, epochs: int, rate: float) -> str:
    """``diverged at step 24 to 35, epoch 3, learning rate 0.1``: a stack remembers the epoch."""
    steps = -(-rows // batch_size)
    first, last = epochs * steps, (epochs + 1) * steps - 1
    return f"diverged at step {first}{f' to {last}' if steps > 1 else ''}, epoch {epochs + 1}, learning rate {rate:.3g}"
