"""gpubp with a stack of networks, on a GPU as a captured graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.devices import open_backend
from benchmarks.peers.gpubp_steps import VERSIONS
from benchmarks.stack_cases import StackOf, network_by_network
from gpubp.backends import Backend
from gpubp.bench.steps import Steps, mlp_on
from gpubp.optimizers import get_optimizer
from gpubp.training.slice_step import first_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task, device: str) -> StackSteps:
    """The steps on a device of gpubp's."""
    return StackSteps(task.network, open_backend(device, task.precision, task.dry_run), task.learning_rate)


class StackSteps(Steps):
    """Steps of all networks, each on its own batch."""

    def __init__(self, network: StackOf, backend: Backend, learning_rate: float = 1e-3) -> None:
        self.network, self.backend = network, backend
        K, sizes = network.models, network.layer_sizes
        self.net = mlp_on(backend, sizes, network.activation, loss=network.loss, init="zeros", models=K)
        for layer, (W, b) in zip(self.net.layers, network.weights, strict=True):
            layer.W[...] = backend.from_host(W, backend.dtype)
            layer.b[...] = backend.from_host(b[:, None], backend.dtype)
        X, y, orders = network.rows
        rule, none = get_optimizer("adam"), np.zeros(K)
        state = first_state(self.net, rule, {name: np.full(K, value) for name, value in rule.options.items()})
        self.step = TrainingStep(self.net, X, y, None, network.batch_size, state, none, none, orders=K)
        rates = [np.full(network.batches, learning_rate)] * K
        self.step.begin(draw_table(list(orders), network.batch_size, None, np.zeros(K, np.int64), rates))
        self.first, self.at = backend.from_host(np.zeros(1, np.int64)), 0

    def weights(self) -> list[Any]:
        """W and b of every layer of the first network, of the second, …"""
        layers, to_host = self.step.live.layers, self.backend.to_host
        return network_by_network([to_host(x) for layer in layers for x in (layer.W, layer.b[:, 0])])
