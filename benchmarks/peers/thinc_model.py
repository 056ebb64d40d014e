"""Thinc, whose layers are differentiated by hand as gpubp's are."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError, require

VERSIONS = ("thinc", "blis")
LAYERS = {"relu": "Relu", "sigmoid": "Sigmoid"}  # its GELU is an approximation of its own


def prepare(task: Task) -> ThincSteps:
    """The steps, in float32."""
    if task.device != "cpu" or task.precision != "float32":
        raise UnavailableError("Thinc is measured on the CPU, where it computes in float32")
    if task.workload.activation not in LAYERS:
        raise UnavailableError(f"Thinc has no activation {task.workload.activation}")
    return ThincSteps(task)


class ThincSteps:
    """Forward and backward pass of a chain of layers, then its Adam, without clipping or averages."""

    def __init__(self, task: Task) -> None:
        thinc, workload = require("thinc.api"), task.workload
        self.workload, self.at = workload, 0
        self.X, self.y, self.order = workload.rows
        self.ones = np.eye(workload.layer_sizes[-1], dtype=np.float32)
        hidden = getattr(thinc, LAYERS[workload.activation])
        *below, last = workload.shapes
        self.net = thinc.chain(
            *(hidden(nO=n_out, nI=n_in) for n_in, n_out in below), thinc.Softmax(nO=last[1], nI=last[0])
        )
        self.net.initialize()
        for layer, (W, b) in zip(self.net.layers, workload.weights, strict=True):
            layer.set_param("W", np.ascontiguousarray(W.T))
            layer.set_param("b", b.copy())
        self.optimizer = thinc.Adam(
            task.learning_rate,
            beta1=task.beta1,
            beta2=task.beta2,
            eps=task.eps,
            L2=0.0,
            grad_clip=0.0,
            use_averages=False,
        )

    def run(self, count: int) -> None:
        """Take the next steps."""
        batch_size = self.workload.batch_size
        for _ in range(count):
            rows = self.order[self.at * batch_size : (self.at + 1) * batch_size]
            outputs, backward = self.net.begin_update(self.X[rows])
            backward((outputs - self.ones[self.y[rows]]) / batch_size)
            self.net.finish_update(self.optimizer)
            self.at = (self.at + 1) % self.workload.batches

    def wait(self) -> None:
        """Nothing is left to do."""

    def weights(self) -> list[Any]:
        """W and b of every layer in turn; Thinc's W is the transpose."""
        return [x for layer in self.net.layers for x in (layer.get_param("W").T, layer.get_param("b"))]
