"""Whether each network of a stack is trained as it would be by itself: folds of digits, every setting individual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpubp
from benchmarks.parts import Part
from gpubp.backends import Backend
from gpubp.backends.reference import ReferenceBackend

K, EPOCHS, BATCH_SIZE = 24, 20, 64
LAYER_SIZES, ACTIVATIONS = (64, 32, 16, 10), ("relu", "silu")
CURVES = ("loss", "metric", "validation_loss", "validation_metric", "learning_rate")
TOLERANCE = 1e-12  # of a step, where sums may be cut otherwise


@dataclass
class Trained:
    """How a network ended: its θ before and after, why it stopped, and its curves (epochs,)."""

    before: NDArray[Any]
    theta: NDArray[Any]
    stopped: str
    best_epoch: int
    curves: dict[str, NDArray[Any]]

    def same_as(self, other: Trained) -> bool:
        """To the last bit."""
        ended = (self.stopped, self.best_epoch) == (other.stopped, other.best_epoch)
        return ended and all(
            np.array_equal(a, b)
            for a, b in ((self.theta, other.theta), *((self.curves[name], other.curves[name]) for name in CURVES))
        )

    def off(self, other: Trained) -> float:
        """Relative difference of what the training added to θ."""
        moved, expected = self.theta - self.before, other.theta - other.before
        return float(np.linalg.norm(moved - expected) / np.linalg.norm(expected))


class Folds:
    """Trainings on folds of digits that have nothing in common but the networks' shape.

    Parameters
    ----------
    models : int
    rows : int
        How many rows of digits are cut into folds.
    """

    def __init__(self, models: int, rows: int) -> None:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        self.X, self.y, self.models = X[:rows] / 16, y[:rows], models
        rng = np.random.default_rng(0)
        borders = np.sort(rng.choice(np.arange(10, rows - 10), models - 1, replace=False))
        held_out = sorted(np.split(rng.permutation(rows), borders), key=len)  # neighbours have nearly as many rows
        training = [rng.permutation(np.setdiff1d(np.arange(rows), fold)) for fold in held_out]
        training[1] = rng.choice(training[1], len(training[1]))  # a bootstrap sample

        def some(*values: Any) -> list[Any]:
            return [values[k % len(values)] for k in range(models)]

        # Lists of different lengths, so that hardly two networks share two settings.
        self.settings: dict[str, Any] = {
            "learning_rate": np.geomspace(3e-4, 3e-2, models),
            "optimizer_options": {"beta1": np.linspace(0.8, 0.95, models), "eps": np.geomspace(1e-8, 1e-4, models)},
            "l2": np.array(some(0, 1e-3, 0, 1e-2)),
            "weight_decay": np.array(some(0, 0, 0.1, 0, 0.01)),
            "dropout": np.array(some(0, 0.2, 0.5)),
            "label_smoothing": np.array(some(0, 0, 0, 0.1, 0, 0.2, 0)),
            "max_grad_norm": np.array(some(np.inf, 1, 0.1, np.inf, 0.5)),
            "seed": rng.permutation(models).tolist(),
            "schedule": some("cosine", None, "exponential", "warmup(cosine, 0.1)", "reduce_on_plateau"),
            "patience": some(1, 3, 30, 2),
            "epochs": some(20, 20, 17, 20, 12, 20),
            "sample_weight": rng.random((models, rows)),
            "rows": training,
            "validation_rows": held_out,
        }

    def cut(self, rows: Sequence[int]) -> None:
        """Leave each network so many rows."""
        self.settings["rows"] = [fold[:count] for fold, count in zip(self.settings["rows"], rows, strict=True)]

    def together(self, backend: Backend, epochs: int) -> list[Trained]:
        """All as one stack."""
        net = _network(backend, list(range(self.models)))
        before = backend.to_host(net.theta).copy()
        settings = self.settings | {"epochs": np.minimum(epochs, self.settings["epochs"])}
        history = gpubp.train(net, self.X, self.y, batch_size=BATCH_SIZE, **settings)
        theta = backend.to_host(net.theta)
        curves = {name: np.array(getattr(history, name)) for name in CURVES}
        networks = []
        for k in range(self.models):
            epochs = int(np.isfinite(curves["loss"][:, k]).sum())  # NaN once it has stopped
            curves_of_k = {name: curve[:epochs, k] for name, curve in curves.items()}
            networks.append(Trained(before[k], theta[k], history.stopped[k], int(history.best_epoch[k]), curves_of_k))
        return networks

    def alone(self, backend: Backend, epochs: int) -> list[Trained]:
        """One after the other."""
        return [self._alone(backend, epochs, k) for k in range(self.models)]

    def _alone(self, backend: Backend, epochs: int, k: int) -> Trained:
        settings = {name: _of_network(value, k) for name, value in self.settings.items()}
        weight, rows, held_out = (settings.pop(name) for name in ("sample_weight", "rows", "validation_rows"))
        net = _network(backend, [k])
        before = backend.to_host(net.theta)[0].copy()
        validation = self.X[held_out], self.y[held_out], weight[held_out]
        settings["epochs"] = min(epochs, settings["epochs"])
        history = gpubp.train(
            net, self.X[rows], self.y[rows], weight[rows], validation, batch_size=BATCH_SIZE, **settings
        )
        curves = {name: np.array(getattr(history, name)) for name in CURVES}
        return Trained(before, backend.to_host(net.theta)[0], history.stopped, history.best_epoch, curves)


def _of_network(value: Any, k: int) -> Any:
    """A setting of network k."""
    return {name: v[k] for name, v in value.items()} if isinstance(value, dict) else value[k]


def _network(backend: Backend, seeds: list[int]) -> gpubp.MLP:
    return gpubp.MLP(LAYER_SIZES, ACTIVATIONS, seed=seeds, models=len(seeds), device=backend)


def folds_of(part: Part) -> Folds:
    """K networks, fewer in a dry run."""
    return Folds(4, 100) if part.dry_run else Folds(K, 1797)


def bits(part: Part) -> None:
    """The whole training on the reference backend."""
    folds, epochs = folds_of(part), 3 if part.dry_run else EPOCHS
    backend = ReferenceBackend(np.float64)
    pairs = list(zip(folds.together(backend, epochs), folds.alone(backend, epochs), strict=True))
    same = sum(one.same_as(other) for one, other in pairs)
    lengths = [len(one.curves["loss"]) for one, _ in pairs]
    part.computed(
        f"{len(pairs)} networks, cpu-reference, float64, {epochs} epochs: as by themselves, to the last bit",
        "all",
        f"{same} of {len(pairs)}; they stopped after {min(lengths)} to {max(lengths)} epochs",
        same == len(pairs),
    )


def one_step(part: Part, backend: Backend, bar: str = "") -> None:
    """The first step of every network, each with another number of rows, and for information an epoch."""
    folds = folds_of(part)
    what = f"{folds.models} networks, {backend.name}, float64, largest relative difference from those by themselves"
    whole = _largest(folds, backend)
    folds.cut(np.linspace(BATCH_SIZE // 2, BATCH_SIZE, folds.models).astype(int).tolist())
    off = _largest(folds, backend)
    measured = f"{off:.1e}; in an epoch {whole:.1e}"
    part.computed(f"{what}: a step", f"<= {TOLERANCE:.0e}", measured, off <= TOLERANCE, bar)


def _largest(folds: Folds, backend: Backend) -> float:
    """Difference after one epoch."""
    together, alone = folds.together(backend, 1), folds.alone(backend, 1)
    return max(one.off(other) for one, other in zip(together, alone, strict=True))
