"""Stage ``mnist``: from the call to trained weights on the host, 784-512-512-10, ten epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gpubp
from benchmarks.contest import environment
from benchmarks.data import like_mnist, pixels
from benchmarks.devices import open_backend
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.remote import Remote, RemoteError

WARM_AT_MOST, FRESH_AT_MOST, AT_LEAST = 1.5, 3.0, 0.983  # seconds; accuracy on t10k


class MnistTraining:
    """The data in memory, as a user has them, and the training.

    Parameters
    ----------
    folder : str or None
        With MNIST's IDX files; None for random data of their shape.
    dry_run : bool
    """

    def __init__(self, folder: str | None, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.layer_sizes, self.epochs = ((784, 16, 16, 10), 2) if dry_run else ((784, 512, 512, 10), 10)
        self.X, self.y, self.X_test, self.y_test = (
            like_mnist(640 if dry_run else 60_000) if folder is None else pixels(folder)
        )
        if dry_run:
            self.X, self.y = self.X[:640], self.y[:640]

    def train(self) -> dict[str, float]:
        """Seconds of the training, and the accuracy then."""
        start = time.perf_counter()
        net = gpubp.MLP(self.layer_sizes, device=open_backend("cuda", "float32", self.dry_run))
        gpubp.train(net, self.X, self.y, batch_size=128, epochs=self.epochs, learning_rate=1e-3, schedule="cosine")
        net.stack.backend.to_host(net.theta)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "accuracy": float((net.predict(self.X_test) == self.y_test).mean())}


def end_to_end(part: Part, settings: Settings) -> None:
    """Rows on time and accuracy: of a fresh process that finds compiled kernels, and once more in it."""
    folder = settings.mnist_folder
    what = f"{'MNIST' if folder else 'data of the shape of MNIST'}, 784-512-512-10, 10 epochs"
    try:
        with _training(part, folder) as train:
            first = train()
        with _training(part, folder) as train:
            fresh = train()
            fresh_seconds = f"{fresh['seconds']:.2f} s (the first process {first['seconds']:.2f} s)"
            _row(part, f"{what}: a fresh process, compiled kernels", fresh, FRESH_AT_MOST, fresh_seconds, "mnist-fresh")
            _accuracy(part, folder, fresh["accuracy"])
            again = train()
            _row(part, f"{what}: once more", again, WARM_AT_MOST, f"{again['seconds']:.2f} s", "mnist-warm")
    except UnavailableError as error:
        return part.skipped(what, str(error), "mnist-warm")
    except RemoteError as error:
        return part.failed(what, str(error), "mnist-warm")
    part.figures.append({"mnist": bool(folder), "first process": first, "fresh process": fresh, "again": again})


def _row(part: Part, what: str, training: dict[str, float], at_most: float, measured: str, bar: str) -> None:
    part.timed(what, f"<= {at_most} s", measured, training["seconds"] <= at_most, bar)


def _accuracy(part: Part, folder: str | None, accuracy: float) -> None:
    what, bar = "MNIST, accuracy on t10k", "mnist-accuracy"
    if folder is None:
        return part.skipped(what, "no --mnist FOLDER, and no packed one", bar)
    part.timed(what, f">= {AT_LEAST:.1%}", f"{accuracy:.2%}", accuracy >= AT_LEAST, bar)


@contextmanager
def _training(part: Part, folder: str | None) -> Iterator[Callable[[], dict[str, float]]]:
    """What trains in a fresh process."""
    process = Remote(MnistTraining, folder, part.dry_run, environment=environment(part.dry_run))
    try:
        yield lambda: process.call("train", timeout=part.left())
    finally:
        process.close()
