"""The networks of Michael Nielsen's "Neural Networks and Deep Learning" (2015) on MNIST.

Published figures are those of the book (chapters 1 and 3) and of the curves from which its figures were drawn, in the
folder ``fig`` of its repository, mnielsen/neural-networks-and-deep-learning.

How his settings (``src/network2.py``) become gpubp's, with n training images and mini-batches of m:

====================================================  ==============================================================
his                                                   gpubp's
====================================================  ==============================================================
quadratic cost ½ ‖a − y‖²: a sum over outputs         ``loss="half_squared_error", output_activation="sigmoid"``
cross-entropy −Σⱼ y ln a + (1 − y) ln(1 − a)          ``loss="binary_cross_entropy"``: a sum over the outputs too
``eta / m`` times the sum of the gradients            ``optimizer="sgd", learning_rate=eta``: of their mean
``(1 - eta * lmbda / n) * w``                         ``l2=lmbda / n``: l2 · W is added to the gradient of weights
``large_weight_initializer``: W, b ~ N(0, 1)          ``init="standard_normal"``
``default_weight_initializer``: W ~ N(0, 1)/√fan_in,  ``scaled_normal``, whose biases are zero, with the biases of
b ~ N(0, 1)                                           ``standard_normal``
training, validation and test images                  the first 50,000 and the last 10,000 of the training file, t10k
====================================================  ==============================================================

So learning rates stay as they are. gpubp computes in float32 here and he in float64; orders of images and random
weights are other ones. Each network is trained three times, from seeds 0, 1 and 2, as a stack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.data import like_mnist, pixels
from benchmarks.parts import Part
from benchmarks.reproductions.comparison import compare, draw_curves
from gpubp.initializers import scaled_normal, standard_normal

MODELS = 3  # seeds 0, 1 and 2
BATCH = 10
VALIDATION = 10_000
COSTS: dict[str, dict[str, str]] = {
    "quadratic": {"loss": "half_squared_error", "output_activation": "sigmoid"},
    "cross-entropy": {"loss": "binary_cross_entropy"},
}
INITIAL_WEIGHTS = {
    "N(0, 1)": standard_normal(),
    "1/√n": replace(scaled_normal(), name="scaled_normal_with_biases", biases=standard_normal().biases),
}


@dataclass(frozen=True)
class Experiment:
    """One of Nielsen's trainings.

    Attributes
    ----------
    hidden : int
        Units of the one hidden layer.
    cost, weights : str
        Keys of `COSTS` and `INITIAL_WEIGHTS`.
    eta, lmbda : float
        His learning rate η and regularization λ.
    images, epochs : int
    judged_on : str
        "test" or "validation", the images that accuracy was published for.
    judged_at : str
        "last epoch" or "best epoch", likewise.
    published : float
        Accuracy in percent.
    bar : (float, float)
        Between which ours has to lie.
    source : str
    """

    hidden: int
    cost: str
    eta: float
    lmbda: float
    weights: str
    images: int
    epochs: int
    judged_on: str
    judged_at: str
    published: float
    bar: tuple[float, float]
    source: str

    @property
    def name(self) -> str:
        """What is trained, and how."""
        regularized = f", λ {self.lmbda:g}" if self.lmbda else ""
        how = f"{self.cost}, {self.weights}, η {self.eta:g}{regularized}"
        return f"Nielsen 784-{self.hidden}-10, {how}, {self.images:,} images"


TEST, VALIDATED = "test", "validation"
LAST, BEST = "last epoch", "best epoch"
THIRTY = (94.8, 96.1)  # half a point around 95.3 … 95.6 %
HUNDRED = (97.3, 98.5)  # half a point around 97.8 … 98.0 %
_OF_30 = Experiment(
    hidden=30,
    cost="cross-entropy",
    eta=0.5,
    lmbda=0.0,
    weights="N(0, 1)",
    images=50_000,
    epochs=30,
    judged_on=TEST,
    judged_at=LAST,
    published=95.31,
    bar=THIRTY,
    source="fig/overfitting_full.json",
)
_OF_100 = replace(
    _OF_30,
    hidden=100,
    lmbda=5.0,
    judged_on=VALIDATED,
    judged_at=BEST,
    published=97.92,
    bar=HUNDRED,
    source="chapter 3, regularization",
)
_OF_1000_IMAGES = replace(
    _OF_30, images=1000, epochs=400, published=82.23, bar=(80.73, 83.73), source="fig/overfitting.json"
)
EXPERIMENTS: dict[str, list[Experiment]] = {
    "nielsen-30": [
        replace(_OF_30, cost="quadratic", eta=3.0, judged_at=BEST, published=95.42, source="chapter 1, best of 3 runs"),
        _OF_30,
        replace(_OF_30, lmbda=5.0, published=95.61, source="fig/regularized_full.json"),
    ],
    "nielsen-100": [
        _OF_100,
        replace(_OF_100, weights="1/√n", source="chapter 3, regularization: with weights N(0, 1)"),
        replace(
            _OF_100,
            weights="1/√n",
            eta=0.1,
            judged_at=LAST,
            published=97.77,
            source="fig/weight_initialization_100.json",
        ),
    ],
    "nielsen-1000-images": [
        _OF_1000_IMAGES,
        replace(_OF_1000_IMAGES, lmbda=0.1, published=86.95, bar=(85.45, 88.45), source="fig/regularized.json"),
    ],
}


def network(experiment: Experiment, layer_sizes: tuple[int, ...], **options: Any) -> gpubp.MLP:
    """The network of an experiment before its training."""
    return gpubp.MLP(
        layer_sizes,
        "sigmoid",
        init=INITIAL_WEIGHTS[experiment.weights],
        device="cpu",
        **COSTS[experiment.cost],
        **options,
    )


def training(experiment: Experiment, images: int) -> dict[str, Any]:
    """Arguments of `gpubp.train` for an experiment on so many training images."""
    return {
        "optimizer": "sgd",
        "learning_rate": experiment.eta,
        "l2": experiment.lmbda / images,
        "batch_size": BATCH,
        "epochs": experiment.epochs,
    }


def accuracies(experiment: Experiment, train: tuple[Any, Any], judged: tuple[Any, Any]) -> Any:
    """Percent of `judged` after each epoch of `train`: (epochs, `MODELS`)."""
    (X, y), (X_judged, y_judged) = train, judged
    by_epoch: list[Any] = []

    def judge(net: gpubp.MLP, history: Any) -> None:
        by_epoch.append(100 * (net.forward(X_judged).argmax(axis=-1) == y_judged).mean(axis=-1))

    net = network(experiment, (784, experiment.hidden, 10), models=MODELS, seed=0)
    gpubp.train(net, X, np.eye(10)[y], callbacks=[judge], **training(experiment, len(X)))
    return np.array(by_epoch)


def reproduce(part: Part, data: Path, out: Path) -> None:
    """Train the networks of a part of `EXPERIMENTS`, and draw how their accuracy rose."""
    X, y, X_test, y_test = like_mnist(300) if part.dry_run else pixels(data / "mnist")
    validation = min(VALIDATION, len(X) // 3)
    judged = {TEST: (X_test, y_test), VALIDATED: (X[-validation:], y[-validation:])}
    curves = {}
    for experiment in EXPERIMENTS[part.name]:
        if part.dry_run:
            experiment = replace(experiment, images=200, epochs=2)
        train = X[: experiment.images], y[: experiment.images]
        by_epoch = accuracies(experiment, train, judged[experiment.judged_on])
        each = by_epoch.max(axis=0) if experiment.judged_at == BEST else by_epoch[-1]
        what = f"{experiment.name}: {experiment.judged_on} accuracy, {experiment.judged_at} of {experiment.epochs}"
        compare(part, what, experiment.published, each.tolist(), experiment.bar, source=experiment.source)
        part.figures[-1].update({LAST: by_epoch[-1].tolist(), BEST: by_epoch.max(axis=0).tolist()})
        part.save()
        curves[experiment.name] = by_epoch.mean(axis=1), experiment.published
    lowest = min(published for _, published in curves.values())
    draw_curves(out / f"reproductions-{part.name}.png", curves, ("epoch", "accuracy, %"), ylim=(lowest - 8, None))
