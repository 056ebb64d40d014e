"""A training step standing alone, and the bare GEMMs of the same step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import gpubp
from gpubp.backends import OptimizerState
from gpubp.optimizers import get_optimizer
from gpubp.step import TrainingStep
from gpubp.step_table import draw_table


def training_step(
    layer_sizes: Sequence[int], batch_size: int, optimizer: str = "adam", batches: int = 8
) -> tuple[gpubp.MLP, Callable[[], None]]:
    """A float32 ReLU network with cross-entropy, and a function that takes its next step on random data."""
    net = gpubp.MLP(layer_sizes, device="cpu")
    rng = np.random.default_rng(0)
    m = batches * batch_size
    X = rng.standard_normal((m, layer_sizes[0]), dtype=np.float32)
    y = rng.integers(0, layer_sizes[-1], m)
    rule = get_optimizer(optimizer)
    state = OptimizerState(
        rule,
        {name: np.array([value]) for name, value in rule.options.items()},
        tuple(np.zeros_like(net.theta) for _ in rule.slots),
        updates=np.zeros(1, np.int64),
        active=np.ones(1, np.bool_),
        fault_step=np.full(1, -1),
        n_weights=net.layout.n_weights,
    )
    step = TrainingStep(net, X, y, None, batch_size, state, np.zeros(1), np.zeros(1))
    rates = np.full((batches, 1), 1e-3)
    step.begin(draw_table(rng.permutation(m)[None], batch_size, 1, None, 0, rates))

    def one() -> None:
        if step.epoch.cursor[0] == batches:
            step.epoch.cursor[0] = 0
        step.run(1, batch_size)

    return net, one


def bare_gemms(net: gpubp.MLP, batch_size: int) -> Callable[[], None]:
    """The matrix products of one step and nothing else, on NumPy: the floor under any step."""
    rng = np.random.default_rng(1)
    sizes = net.layer_sizes
    X = rng.standard_normal((batch_size, sizes[0]), dtype=np.float32)
    a = [np.empty((batch_size, n), np.float32) for n in sizes[1:]]
    deltas = [np.full((batch_size, n), 1e-3, np.float32) for n in sizes[1:]]
    W = [layer.W[0].copy() for layer in net.layers]
    grads = [np.empty_like(w) for w in W]

    def run() -> None:
        a_prev = X
        for w, out in zip(W, a, strict=True):
            a_prev = np.matmul(a_prev, w, out=out)
        for l in range(len(W) - 1, -1, -1):
            np.matmul((a[l - 1] if l else X).T, deltas[l], out=grads[l])
            if l:
                np.matmul(deltas[l], W[l].T, out=deltas[l - 1])

    return run
