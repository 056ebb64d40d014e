"""Big simple nets on digits that are deformed anew in every epoch, on a GPU, for as long as there is time.

Published: D. C. Cireşan, U. Meier, L. M. Gambardella and J. Schmidhuber, "Deep Big Simple Neural Nets Excel on
Handwritten Digit Recognition" (2010), table 1: the test error at the epoch of the least validation error.

All 60,000 images are deformed on the device before each epoch, by the formulas of `deformed_digits`, and stay there. As
there, the deformations are theirs and the training is not: a few hundred epochs, batches of 128, AdamW with a cosine
schedule, ReLU, 28×28 pixels, and all training images, since nothing is chosen by a validation error: what counts is the
error after the last epoch. How many epochs the schedule has is decided by the time that one takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.data import like_mnist, pixels
from benchmarks.devices import open_backend
from benchmarks.parts import Part
from benchmarks.reproductions.comparison import compare, draw_curves
from benchmarks.reproductions.deformed_digits import SIDE, deformed
from gpubp.backends import Backend

PRECISION = "tf32"
BLOCK = 10_000  # images that are deformed together
TRIED = 8  # epochs that are timed beforehand, the first of them apart, since kernels are compiled in it
FEWEST, MOST = 20, 1000  # epochs
EVERY = 10  # epochs between two looks at the test images
RESERVE = 6.0  # seconds to end in
SLOWER = 1.1  # how much longer an epoch may take than one that was tried, looks at the test images included


@dataclass(frozen=True)
class Experiment:
    """A network, and what it is to reach.

    Attributes
    ----------
    layer_sizes : tuple of int
    learning_rate, dropout : float
    published, bar : float
        Wrong test images in per cent.
    """

    layer_sizes: tuple[int, ...]
    learning_rate: float
    dropout: float
    published: float
    bar: float


EXPERIMENTS = {
    "ciresan-1000-500": Experiment((784, 1000, 500, 10), 1e-3, 0.0, 0.49, 0.60),
    "ciresan-largest": Experiment((784, 2500, 2000, 1500, 1000, 500, 10), 5e-4, 0.3, 0.35, 0.45),
}


class Deformation:
    """For ``gpubp.train(augment=)``: digits that are deformed anew in every epoch, where they lie."""

    def __init__(self, digits: Any, seed: int) -> None:
        self.digits, self.seed = digits, seed
        self.rng: Any = None  # goes on from epoch to epoch

    def __call__(self, xp: Any, X: Any, epoch: int) -> Any:
        if self.rng is None:
            self.rng, self.digits = xp.random.default_rng(self.seed), xp.asarray(self.digits)
        images = X.reshape(-1, SIDE, SIDE)
        for start in range(0, len(images), BLOCK):
            block = slice(start, start + BLOCK)
            images[block] = deformed(images[block], self.digits[block], self.rng, xp)
        return X


def on_host(augment: Deformation) -> Callable[[Any, Any, int], Any]:
    """What deforms by NumPy, for the stand-in of a dry run, which has no random numbers of its own."""
    return lambda xp, X, epoch: xp.asarray(augment(np, xp.asnumpy(X), epoch))


class Training:
    """The training of a part's network, which looks at the test images now and then and keeps what it sees."""

    def __init__(self, part: Part, backend: Backend, data: tuple[Any, Any, Any, Any]) -> None:
        self.part, self.backend, self.data = part, backend, data
        self.experiment = EXPERIMENTS[part.name]
        self.layer_sizes = (784, 16, 16, 10) if part.dry_run else self.experiment.layer_sizes
        self.errors: dict[int, float] = {}  # by epoch, counted from 1

    def tried(self) -> float:
        """Seconds of an epoch of a network that is not used again."""
        seconds = self._train(TRIED, []).seconds
        return float(seconds[-1] - seconds[0]) / (TRIED - 1)

    def run(self, epochs: int) -> Any:
        """Train the network for so many epochs, fewer where the time is over before; the history."""
        part = self.part
        part.figures.append({"epochs of the schedule": epochs, "test error by epoch": self.errors})

        def look(net: gpubp.MLP, history: Any) -> bool:
            done = len(history.loss)
            is_over = part.left() < RESERVE / 2
            if done % EVERY == 0 or done == epochs or is_over:
                X_test, y_test = self.data[2:]
                self.errors[done] = float(100 * (net.predict(X_test) != y_test).mean())
                print(f"epoch {done} of {epochs}: {self.errors[done]:.2f} %, loss {history.loss[-1]:.5f}", flush=True)
                part.save()
            return is_over

        return self._train(epochs, [look])

    def _train(self, epochs: int, callbacks: list[Any]) -> Any:
        X, y = self.data[:2]
        net = gpubp.MLP(self.layer_sizes, seed=0, device=self.backend)
        augment = Deformation(y, seed=0)
        return gpubp.train(
            net,
            X,
            y,
            optimizer="adamw",
            learning_rate=self.experiment.learning_rate,
            dropout=self.experiment.dropout,
            schedule="warmup(cosine, 0.02)",
            batch_size=128,
            epochs=epochs,
            augment=on_host(augment) if self.part.dry_run else augment,
            callbacks=callbacks,
        )


def epochs_within(seconds: float, of_an_epoch: float) -> int:
    """How many epochs a schedule may have."""
    return int(min(MOST, max(FEWEST, seconds / (SLOWER * of_an_epoch))))


def reproduce(part: Part, data: Path, out: Path) -> None:
    """Train one of the networks for as long as the part may take, and count what it gets wrong of the test images.

    Raises
    ------
    UnavailableError
        Where there is no GPU.
    """
    backend = open_backend("cuda", PRECISION, part.dry_run)
    training = Training(part, backend, like_mnist(300) if part.dry_run else pixels(data / "mnist"))
    of_an_epoch = training.tried()
    epochs = 2 if part.dry_run else epochs_within(part.left() - RESERVE, of_an_epoch)
    print(f"{part.name}: {1e3 * of_an_epoch:.0f} ms an epoch, {epochs} epochs in {part.left():.0f} s", flush=True)
    begun = time.monotonic()
    history = training.run(epochs)
    _conclude(part, training, epochs, time.monotonic() - begun)
    figure = {"precision": PRECISION, "stopped": history.stopped, "seconds by epoch": history.seconds}
    part.figures[-1].update({**figure, "loss by epoch": history.loss, "seconds of a tried epoch": of_an_epoch})
    part.save()
    _draw(part, training, out)


def _conclude(part: Part, training: Training, epochs: int, seconds: float) -> None:
    """The row of the error after the last epoch, in place of the errors so far."""
    sizes = "-".join(map(str, training.layer_sizes))
    done = max(training.errors)
    cut = "" if done == epochs else f", cut off after {done}"
    what = f"{sizes}, {epochs} epochs of deformed digits on a GPU, {seconds:.0f} s{cut}, of Cireşan et al.: test error"
    kept = part.figures.pop()
    experiment = training.experiment
    error = training.errors[done]
    compare(part, f"{what}, last epoch", experiment.published, [error], (0.0, experiment.bar), source="2010, table 1")
    part.figures[-1].update(kept)


def _draw(part: Part, training: Training, out: Path) -> None:
    """A picture of the errors, where there is Matplotlib: they are in the file of results in any case."""
    epochs = list(training.errors)
    curves = {"-".join(map(str, training.layer_sizes)): (list(training.errors.values()), training.experiment.published)}
    labels = ("epoch", "wrong test images, %")
    try:
        draw_curves(out / f"reproductions-{part.name}.png", curves, labels, epochs=epochs, ylim=(0, 2))
    except gpubp.UsageError as error:
        print(f"no picture: {error}", flush=True)
