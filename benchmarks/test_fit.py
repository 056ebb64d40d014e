"""From arrays to a trained network: two epochs of 8,192 rows of MNIST's shape."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

import gpubp
from benchmarks.data import like_mnist
from gpubp.backends import Backend

ROWS, HIDDEN, BATCH_SIZE, EPOCHS = 8192, (100,), 128, 2

pytestmark = pytest.mark.benchmark(group="fit, 784-100-10 b128", max_time=2.0, min_rounds=3)


def test_gpubp(benchmark: Any, backend: Backend) -> None:
    """`gpubp.train` on the device of every backend."""
    X, y, _, _ = like_mnist(ROWS)

    def train() -> None:
        net = gpubp.MLP([784, *HIDDEN, 10], device=backend)
        gpubp.train(net, X, y, batch_size=BATCH_SIZE, epochs=EPOCHS)

    benchmark.extra_info["contender"] = backend.name
    benchmark(train)


def test_scikit_learn(benchmark: Any) -> None:
    """`MLPClassifier.fit`."""
    from sklearn.neural_network import MLPClassifier

    X, y, _, _ = like_mnist(ROWS)

    def fit() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            MLPClassifier(HIDDEN, batch_size=BATCH_SIZE, max_iter=EPOCHS, alpha=0.0, random_state=0).fit(X, y)

    benchmark.extra_info["contender"] = "scikit-learn"
    benchmark(fit)
