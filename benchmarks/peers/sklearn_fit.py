"""scikit-learn's MLPClassifier, an epoch a call."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError, require

VERSIONS = ("scikit-learn", "numpy")
ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}


def prepare(task: Task) -> SklearnSteps:
    """The steps, in float32."""
    if task.device != "cpu" or task.precision != "float32":
        raise UnavailableError("scikit-learn trains on the CPU, here in float32")
    if task.workload.activation not in ACTIVATIONS:
        raise UnavailableError(f"scikit-learn has no activation {task.workload.activation}")
    return SklearnSteps(task)


class Order(np.random.RandomState):
    """Shuffles a whole data set into a given order, and leaves part of it as it is."""

    def __init__(self, order: Any) -> None:
        super().__init__(0)
        self.order = order

    def shuffle(self, x: Any) -> None:
        """In place."""
        if len(x) == len(self.order):
            x[:] = self.order


class SklearnSteps:
    """`partial_fit` of all rows is an epoch, in the task's order; of some batches, a few steps."""

    def __init__(self, task: Task) -> None:
        workload = self.workload = task.workload
        self.X, self.y, self.order = workload.rows
        self.at = 0
        self.net = require("sklearn.neural_network").MLPClassifier(
            workload.layer_sizes[1:-1],
            ACTIVATIONS[workload.activation],
            batch_size=workload.batch_size,
            alpha=0.0,
            learning_rate_init=task.learning_rate,
            beta_1=task.beta1,
            beta_2=task.beta2,
            epsilon=task.eps,
            n_iter_no_change=1 << 30,
            random_state=Order(self.order),
        )
        some = slice(0, workload.batch_size)
        self.net.partial_fit(self.X[some], self.y[some], classes=np.arange(workload.layer_sizes[-1]))
        for (W, b), coef, intercept in zip(workload.weights, self.net.coefs_, self.net.intercepts_, strict=True):
            coef[...], intercept[...] = W, b
        del self.net._optimizer  # the next call makes a new one, which has seen nothing

    def run(self, count: int) -> None:
        """Take the next steps."""
        batch_size, batches = self.workload.batch_size, self.workload.batches
        while count:
            taken = min(count, batches - self.at)
            if taken == batches:
                self.net.partial_fit(self.X, self.y)
            else:
                rows = self.order[self.at * batch_size : (self.at + taken) * batch_size]
                self.net.partial_fit(self.X[rows], self.y[rows])
            self.at, count = (self.at + taken) % batches, count - taken

    def wait(self) -> None:
        """Nothing is left to do."""

    def weights(self) -> list[Any]:
        """W and b of every layer in turn."""
        return [x for layer in zip(self.net.coefs_, self.net.intercepts_, strict=True) for x in layer]
