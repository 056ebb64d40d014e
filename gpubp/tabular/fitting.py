"""Presets fitted: a stack of networks for each recipe, one a fold, and the weights of the recipes."""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import get_backend
from gpubp.data import features
from gpubp.data.folds import Fold
from gpubp.data.prepare import with_schema
from gpubp.errors import DivergenceError, UsageError
from gpubp.network import MLP
from gpubp.tabular import fold_rows
from gpubp.tabular.epochs import ValidatedWeights, arguments_on_all_rows
from gpubp.tabular.fold_rows import TrainingRows
from gpubp.tabular.model import Member, TabularModel, rescaled
from gpubp.tabular.recipes import RECIPES, Preset, Recipe
from gpubp.tabular.selection import greedy_weights, row_losses
from gpubp.training import train
from gpubp.training.history import History

FEWEST_OF_EPOCHS = 0.25  # of a recipe's epochs; where there is time for fewer, recipes are left out
TRIAL_STEPS = 8  # an epoch of those steps that time is estimated by


def silent(text: str) -> None:
    """Say nothing."""


def unseen(done: float, text: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a preset is run.

    Attributes
    ----------
    seed : int
    device, precision : str
    time_limit : float or None
        Seconds.
    epochs : int or None
        None is the number that each recipe has.
    say : callable
        Takes what the user should be told.
    progress : callable
        ``progress(done, text)`` after each epoch, with the part of all work that is done.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    time_limit: float | None = None
    epochs: int | None = None
    say: Callable[[str], Any] = silent
    progress: Callable[[float, str], Any] = unseen


@dataclass(frozen=True, eq=False)
class FittedPreset:
    """A model, and how it predicts rows that its networks were not trained on.

    Attributes
    ----------
    model : TabularModel
    oof_outputs : (m, n_L) float64
        Out-of-fold outputs of the weighed networks, on the model's scale; NaN for rows that no network was validated
        on.
    weights : dict of str to float
        Of each recipe that was trained; they sum to 1.
    losses : dict of str to float
        The out-of-fold loss of each.
    history : TabularHistory
    """

    model: TabularModel
    oof_outputs: NDArray[np.float64]
    weights: dict[str, float]
    losses: dict[str, float]
    history: TabularHistory


@dataclass(eq=False)
class TabularHistory:
    """The curves of all recipes, means over their networks.

    Attributes
    ----------
    curves : list of dict
        ``recipe``, ``epoch``, ``loss`` and ``validation_loss``, an entry an epoch.
    steps : int
        Training steps of the stacks.
    seconds : list of float
        Of the whole fit, at its end.
    """

    curves: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: list[float] = field(default_factory=lambda: [0.0])

    @property
    def epochs(self) -> int:
        """Epochs of all stacks."""
        return len(self.curves)

    @property
    def stopped(self) -> str:
        """Why it ended; what a time limit leaves out is said while training."""
        return "epochs"

    def add(self, recipe: str, history: History) -> None:
        """Take the curves of a stack over."""
        self.steps += history.steps
        for epoch in range(history.epochs):
            means = {name: _mean(history.curve(name)[epoch]) for name in ("loss", "validation_loss")}
            self.curves.append({"recipe": recipe, "epoch": epoch + 1, **means})

    def to_csv(self) -> str:
        """Write a line an epoch, under a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ("recipe", "epoch", "loss", "validation_loss"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.curves)
        return text.getvalue()


def fit(table: TrainingRows, preset: Preset, run: Run) -> FittedPreset:
    """Train all that a preset has on the rows of a table.

    Raises
    ------
    UsageError
        If there is not time for an epoch.
    DataError
        If there are too few rows.
    DivergenceError
        If the networks of every recipe left the finite numbers.
    """
    return _PresetFit(table, preset, run).result()


class _PresetFit:
    """One call of `fit`, from recipe to recipe."""

    def __init__(self, table: TrainingRows, preset: Preset, run: Run) -> None:
        self.table, self.preset, self.run, self.started = table, preset, run, time.perf_counter()
        self.splits = fold_rows.split(table, preset.folds, preset.validation, run.seed, run.say)
        self.history = TabularHistory()
        self.members: list[Member] = []
        self.oof: list[NDArray[np.float64]] = []

    def result(self) -> FittedPreset:
        """Train recipe after recipe, and weigh them."""
        recipes = self._recipes()
        folds = self._encoded(recipes[0])
        recipes = self._within_time(recipes, folds)
        work, failure = [self._work(recipe, folds) for recipe in recipes], None
        for number, recipe in enumerate(recipes):
            if number and self._seconds_left() <= 0:
                self._say_left_out(recipes[number:])
                break
            folds = self._encoded(recipe) if number else folds
            try:
                self._train(recipe, folds, sum(work[:number]) / sum(work), work[number] / sum(work))
            except DivergenceError as error:
                self.run.say(f"recipe {recipe.name}: left out, for {error}")
                failure = error
        if failure is not None and not self.members:
            raise failure
        return self._weighed()

    # -- before ----------------------------------------------------------------------------------------

    def _recipes(self) -> list[Recipe]:
        """Those that suit so many rows, with their epochs."""
        rows = min(len(train) for train, _ in self.splits)
        suited = [r for name in self.preset.recipes if (r := RECIPES[name]).fewest_rows <= len(self.table.rows)]
        return [replace(r, epochs=self.run.epochs or r.epochs_for(rows)) for r in suited]

    def _encoded(self, recipe: Recipe) -> list[Fold]:
        """The folds as a recipe has them, those with equally many training rows side by side."""
        dtype = get_backend(self.run.device, self.run.precision).dtype
        folds = fold_rows.encode(self.table, self.splits, recipe.numbers, self.run.seed, dtype, self.run.say)
        return sorted(folds, key=lambda fold: (len(fold.train), fold.number))

    def _work(self, recipe: Recipe, folds: Sequence[Fold]) -> float:
        """Rows times weights, over all networks and epochs."""
        sizes = [folds[0].X.shape[1], *recipe.hidden, self.table.target["outputs"]]
        weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
        return float(weights * recipe.epochs * sum(len(fold.train) for fold in folds))

    def _within_time(self, recipes: list[Recipe], folds: list[Fold]) -> list[Recipe]:
        """The recipes and their epochs that there is time for, by the time of some steps of the first; this is said."""
        limit = self.run.time_limit
        if limit is None and self.run.say is silent:
            return recipes
        first = recipes[0]
        by_first = self._seconds_of_epoch(first, folds) * first.epochs / self._work(first, folds)
        seconds = [by_first * self._work(recipe, folds) for recipe in recipes]
        networks = len(folds) * len(recipes)
        self.run.say(f"{networks} network(s) in {len(recipes)} stack(s): about {duration(sum(seconds))}")
        if limit is None:
            return recipes
        left = self._seconds_left()
        if seconds[0] / first.epochs > left:
            raise UsageError(
                f"time limit {limit:g} s: is too short for one epoch of the first networks, which would end after "
                f"about {duration(limit - left + seconds[0] / first.epochs)}; give more time"
            )
        chosen = max([1, *(n for n in range(1, len(recipes) + 1) if FEWEST_OF_EPOCHS * sum(seconds[:n]) <= left)])
        part = min(1.0, left / sum(seconds[:chosen]))
        if recipes[chosen:]:
            self._say_left_out(recipes[chosen:])
        if part < 1:
            self.run.say(f"time limit: {part:.0%} of the epochs")
        return [replace(recipe, epochs=max(1, int(part * recipe.epochs))) for recipe in recipes[:chosen]]

    def _seconds_of_epoch(self, recipe: Recipe, folds: list[Fold]) -> float:
        """Seconds of an epoch of a stack, from one of a few steps behind another that warms it up."""
        steps = -(-len(folds[0].train) // recipe.batch_size)
        rows = [fold.train[: TRIAL_STEPS * recipe.batch_size] for fold in folds]
        net = self._network(recipe, folds)
        history = train(net, folds[0].X, folds[0].y, rows=rows, **_arguments(recipe, net), epochs=2)
        return (history.seconds[1] - history.seconds[0]) * steps / min(steps, TRIAL_STEPS)

    def _seconds_left(self) -> float:
        limit = self.run.time_limit
        return math.inf if limit is None else limit - (time.perf_counter() - self.started)

    def _say_left_out(self, recipes: Sequence[Recipe]) -> None:
        self.run.say(f"time limit: no time for the recipes {', '.join(recipe.name for recipe in recipes)}")

    # -- training --------------------------------------------------------------------------------------

    def _network(self, recipe: Recipe, folds: Sequence[Fold]) -> MLP:
        """A network for each fold, with seeds that no other recipe of the preset has."""
        first = self.run.seed + self.preset.recipes.index(recipe.name) * self.preset.folds
        return MLP(
            [folds[0].X.shape[1], *recipe.hidden, self.table.target["outputs"]],
            recipe.activation,
            self.table.loss,
            seed=[first + fold.number for fold in folds],
            device=self.run.device,
            precision=self.run.precision,
            models=len(folds),
        )

    def _train(self, recipe: Recipe, folds: list[Fold], done: float, part: float) -> None:
        """Train the networks of a recipe, each to the best of its epochs on the rows of its fold.

        Where the preset says so, they then go on with all rows.
        """
        net, table, epochs = self._network(recipe, folds), self.table, self.preset.spend(recipe.epochs)
        X = folds[0].X
        history = train(
            net,
            **self._rows_to_train_on(folds),
            **_arguments(recipe, net),
            **epochs.arguments(),
            rows=[fold.train for fold in folds],
            validation_rows=[fold.validation for fold in folds],
            callbacks=(self._after_epoch(recipe, done, part),),
        )
        self.history.add(recipe.name, history)
        scalings = [_scaling(fold.preprocessing["target"]) for fold in folds]
        oof = np.full((len(table.rows), table.target["outputs"]), np.nan)
        for k, fold in enumerate(folds):
            outputs = net.stack.part(slice(k, k + 1)).outputs(X[fold.validation])[0]
            oof[fold.validation % len(table.rows)] = rescaled(outputs, scalings[k], table.target)
        if epochs.on_all_rows and self._seconds_left() > 0:
            others = arguments_on_all_rows(recipe.learning_rate, epochs.on_all_rows, history.best_epoch)
            with ValidatedWeights(net, self.run.say):
                history = train(
                    net,
                    **self._rows_to_train_on(folds),
                    **_arguments(recipe, net) | others,
                    rows=[np.concatenate([fold.train, fold.validation]) for fold in folds],
                    callbacks=(self._after_epoch(recipe, done, part),),
                )
                self.history.steps += history.steps
        self.members.append(Member(recipe.name, net, [fold.preprocessing["features"] for fold in folds], scalings))
        self.oof.append(oof)

    def _rows_to_train_on(self, folds: list[Fold]) -> dict[str, Any]:
        """The arguments X, y and sample_weight of `gpubp.train`."""
        X, table = folds[0].X, self.table
        weight = None if table.weight is None else np.tile(table.weight, len(X) // len(table.rows))
        return {"X": X, "y": folds[0].y, "sample_weight": weight}

    def _after_epoch(self, recipe: Recipe, done: float, part: float) -> Callable[[MLP, History], bool]:
        """A callback that shows progress, and ends a training whose time is up."""

        def after_epoch(net: MLP, history: History) -> bool:
            epoch, state = history.epochs, "on all rows"
            if history.validation_loss:
                state = f"validation loss {_mean(history.curve('validation_loss')[-1]):.4g}"
            else:
                epoch += self.preset.spend(recipe.epochs).validated
            text = f"{recipe.name}, epoch {epoch}/{recipe.epochs}, {state}"
            self.run.progress(done + part * epoch / recipe.epochs, text)
            return self._seconds_left() <= 0

        return after_epoch

    # -- afterwards ------------------------------------------------------------------------------------

    def _weighed(self) -> FittedPreset:
        """The model of the recipes that count, and its out-of-fold outputs."""
        table = self.table
        validated = ~np.isnan(self.oof[0]).any(axis=1)
        y, weight = table.y[validated], None if table.weight is None else table.weight[validated]
        if weight is not None and not weight.any():
            weight = None
        of_rows = [oof[validated] for oof in self.oof]
        weights = greedy_weights(table.loss, of_rows, y, weight).tolist()
        losses = [float(np.average(row_losses(table.loss, oof, y), weights=weight)) for oof in of_rows]
        for member, its_weight in zip(self.members, weights, strict=True):
            member.weight = its_weight
        names = [member.recipe for member in self.members]
        of_all = sum(its_weight * oof for its_weight, oof in zip(weights, self.oof, strict=True))
        recipe_weights, recipe_losses = dict(zip(names, weights, strict=True)), dict(zip(names, losses, strict=True))
        about = {"preset": self.preset.name, "recipe_weights": recipe_weights, "recipe_losses": recipe_losses}
        encoding = features.fit(table.data, table.rows)
        preprocessing = with_schema(encoding, table.data) | {"target": table.target}
        model = TabularModel([member for member in self.members if member.weight], preprocessing, about)
        self.history.seconds = [time.perf_counter() - self.started]
        return FittedPreset(model, np.asarray(of_all), recipe_weights, recipe_losses, self.history)


def _arguments(recipe: Recipe, net: MLP) -> dict[str, Any]:
    """The keyword arguments of `gpubp.train` that a recipe stands for."""
    return {**recipe.training_options(net.loss.classification), "seed": list(net.stack.seeds)}


def _scaling(target: features.Encoding) -> dict[str, Any]:
    return {"mean": target["mean"], "scale": target["scale"]} if target["type"] == "values" else {}


def _mean(values: Any) -> float:
    """The mean over the networks that still train."""
    numbers = np.atleast_1d(values)
    numbers = numbers[np.isfinite(numbers)]
    return float(numbers.mean()) if len(numbers) else math.nan


def duration(seconds: float) -> str:
    """Write seconds as people say them: ``40 s``, ``6 min``."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
