"""What JAX's peers share: one step as a pure function from a state to the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.peers import UnavailableError, require

VERSIONS = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin")


class JaxSteps:
    """Steps through ``advance(state, data, count) -> state``, which a peer makes of `step`.

    Parameters
    ----------
    task : Task
    peer : callable
        ``peer(jax, step, batches) -> advance``; ``step(state, data) -> state`` is the function below.
    """

    def __init__(self, task: Task, peer: Callable[[Any, Callable[..., Any], int], Callable[..., Any]]) -> None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others compute on the device too
        self.jax = jax = require("jax")
        try:
            device = jax.devices("gpu" if task.device == "cuda" else "cpu")[0]
        except RuntimeError as error:
            raise UnavailableError(f"jax {jax.__version__}: {str(error).splitlines()[0]}") from None
        weights = [x.copy() for layer in task.workload.weights for x in layer]  # its memory may be given away
        first, second = ([np.zeros_like(x) for x in weights] for _ in range(2))
        self.state = jax.device_put((weights, first, second, np.int32(0)), device)
        self.data = jax.device_put(task.workload.rows, device)
        self.advance = peer(jax, _step(jax, task), task.workload.batches)
        spare = jax.tree.map(jax.numpy.copy, self.state)
        # An epoch and a step compile whatever there is to compile, while others get ready too.
        jax.block_until_ready(self.advance(spare, self.data, task.workload.batches + 1))

    def run(self, count: int) -> None:
        """Launch the next steps."""
        self.state = self.advance(self.state, self.data, count)

    def wait(self) -> None:
        """Until the state is computed."""
        self.jax.block_until_ready(self.state)

    def weights(self) -> list[Any]:
        """W and b of every layer in turn."""
        return [np.asarray(x) for x in self.state[0]]


def _step(jax: Any, task: Task) -> Callable[..., Any]:
    """The step of a task; the number of steps taken so far says which batch is next."""
    jnp, dot, activation = jax.numpy, _dot(jax, task), _activation(jax, task.workload.activation)
    storage = jnp.bfloat16 if task.precision == "bfloat16" else jnp.float32
    batch_size, batches = task.workload.batch_size, task.workload.batches

    def loss(weights: list[Any], X: Any, y: Any) -> Any:
        z = X.astype(storage)
        for l in range(0, len(weights), 2):
            a = activation(z) if l else z
            z = dot(a, weights[l].astype(storage)) + weights[l + 1].astype(storage)
        logits = z.astype(jnp.float32)
        hot = jax.nn.one_hot(y, logits.shape[1])
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - (hot * logits).sum(axis=1))

    def step(state: Any, data: Any) -> Any:
        (weights, first, second, taken), (X, y, order) = state, data
        rows = jax.lax.dynamic_slice(order, (taken % batches * batch_size,), (batch_size,))
        grads = jax.grad(loss)(weights, X[rows], y[rows])
        t = (taken + 1).astype(jnp.float32)
        rate = task.learning_rate / (1 - task.beta1**t)
        root = (1 - task.beta2**t) ** -0.5
        first = [task.beta1 * m + (1 - task.beta1) * g for m, g in zip(first, grads, strict=True)]
        second = [task.beta2 * v + (1 - task.beta2) * g * g for v, g in zip(second, grads, strict=True)]
        weights = [
            w - rate * m / (root * jnp.sqrt(v) + task.eps) for w, m, v in zip(weights, first, second, strict=True)
        ]
        return weights, first, second, taken + 1

    return step


def _activation(jax: Any, name: str) -> Callable[[Any], Any]:
    if name in ("gelu", "gelu_tanh"):
        return partial(jax.nn.gelu, approximate=name == "gelu_tanh")
    if name == "relu":
        return partial(jax.numpy.maximum, 0)
    return {"sigmoid": jax.nn.sigmoid, "tanh": jax.numpy.tanh, "softplus": jax.nn.softplus}[name]


def _dot(jax: Any, task: Task) -> Callable[[Any, Any], Any]:
    """The matrix product in the task's precision; JAX's own default would be TF32 on a GPU that has it."""
    lax = jax.lax
    if task.precision == "tf32" and task.device == "cuda":
        precision = lax.DotAlgorithmPreset.TF32_TF32_F32
    else:
        precision = lax.Precision.DEFAULT if task.precision == "bfloat16" else lax.Precision.HIGHEST
    return lambda a, b: lax.dot(a, b, precision=precision)
