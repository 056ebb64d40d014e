"""Recipes for networks on tables, and the presets that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpubp.errors import UsageError, suggest
from gpubp.tabular.epochs import Epochs
from gpubp.training.options import FEWEST_STEPS

MOST_EPOCHS = 200  # on small data, where an epoch is mostly its validation
OPTIMIZER = "adamw"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network for a table is made and trained.

    Attributes
    ----------
    name : str
    numbers : str
        The encoding of numbers.
    hidden : tuple of int
    activation : str
    learning_rate, weight_decay : float
        As in `gpubp.train`.
    dropout, dropout_of_classes : float
        Of networks that predict values, and of those that predict classes or labels.
    batch_size, epochs : int
    fewest_rows : int
        Training rows without which it is left out.
    """

    name: str
    numbers: str
    hidden: tuple[int, ...]
    activation: str
    learning_rate: float
    dropout: float
    dropout_of_classes: float
    weight_decay: float = 0.1
    batch_size: int = 128
    epochs: int = 60
    fewest_rows: int = 0

    def epochs_for(self, rows: int) -> int:
        """How many epochs suit so many training rows: on small data more, towards 1,000 steps."""
        steps = -(-rows // self.batch_size)
        return max(self.epochs, min(MOST_EPOCHS, -(-FEWEST_STEPS // steps)))

    def options(self, classification: bool) -> dict[str, Any]:
        """The options of the command ``train`` that make and train such a network, as they are typed."""
        network = {"hidden": ",".join(map(str, self.hidden)), "activation": self.activation}
        return network | self.training_options(classification)

    def training_options(self, classification: bool) -> dict[str, Any]:
        """The arguments of `gpubp.train` that it stands for."""
        return {
            "optimizer": OPTIMIZER,
            "learning_rate": self.learning_rate,
            "dropout": self.dropout_of_classes if classification else self.dropout,
            "weight_decay": self.weight_decay,
            "batch_size": self.batch_size,
        }


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is trained on a table.

    Attributes
    ----------
    name : str
    recipes : tuple of str
        Names of recipes, the best first.
    folds : int
        As many networks a recipe, each validated on the rows of its fold. 1 is a single split.
    validation : float
        The part of the rows that the network of a single split is validated on.
    on_all_rows : float
        The part of the epochs, at most, that networks are trained for at the end on the rows that they were validated
        on, too.
    """

    name: str
    recipes: tuple[str, ...]
    folds: int
    validation: float = 0.2
    on_all_rows: float = 0.0

    def spend(self, epochs: int) -> Epochs:
        """How so many epochs are spent."""
        return Epochs.spent(epochs, self.on_all_rows)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="leaves",
            numbers="robust+piecewise+forest(trees=16)",
            hidden=(128, 128),
            activation="mish",
            learning_rate=3e-3,
            dropout=0.1,
            dropout_of_classes=0.3,
            epochs=45,
        ),
        Recipe(
            name="trees",
            numbers="robust+piecewise+fourier",
            hidden=(128, 128),
            activation="mish",
            learning_rate=3e-3,
            dropout=0.1,
            dropout_of_classes=0.3,
        ),
        Recipe(
            name="forest",
            numbers="robust+quantile+piecewise(by=quantile)+forest",
            hidden=(128, 128),
            activation="mish",
            learning_rate=3e-3,
            dropout=0.1,
            dropout_of_classes=0.3,
        ),
        Recipe(
            name="wide",
            numbers="quantile+piecewise(bins=64)+forest",
            hidden=(256,),
            activation="relu",
            learning_rate=2e-3,
            dropout=0.2,
            dropout_of_classes=0.3,
        ),
        Recipe(
            name="steps",
            numbers="robust+piecewise(bins=64, leaf=20)+steps",
            hidden=(128, 128),
            activation="relu",
            learning_rate=2e-3,
            dropout=0.1,
            dropout_of_classes=0.3,
            fewest_rows=8000,
        ),
    )
}

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(name="fast", recipes=("leaves",), folds=1, on_all_rows=0.2),
        Preset(name="good", recipes=("forest",), folds=8),
        Preset(name="best", recipes=("trees", "forest", "wide", "steps"), folds=8),
    )
}


def get_preset(name: str) -> Preset:
    """Look up a preset.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    if name not in PRESETS:
        raise UsageError(f'unknown preset "{name}"; {suggest(str(name), PRESETS)}')
    return PRESETS[name]
