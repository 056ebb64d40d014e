"""Activations that are computed again in the backward pass: the bits of kept ones, in less memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DivergenceError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.reference import ReferenceBackend
from support.machines import but_unfused, host, host_driver

RNG = np.random.default_rng(12)
X, Y = RNG.standard_normal((50, 6)), RNG.integers(0, 3, 50)
MIXED = ["relu", "gelu", "tanh", "silu", "relu", "softplus", "tanh"]
DEEP = [6, 9, 7, 12, 5, 8, 11, 10, 3]


def trained(make: Any, recompute: bool, **options: Any) -> tuple[bytes, bytes]:
    sizes, activations = options.pop("sizes", DEEP), options.pop("activations", "tanh")
    net = make(sizes, activations, seed=2, models=len(options.get("rows", [0])))
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, **options}
    history = gpubp.train(net, X, Y, recompute=recompute, **settings)
    return host(net.theta).tobytes(), np.asarray(history.loss).tobytes()


@but_unfused
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3, "activations": MIXED},
        {"accumulate": 2},
        {
            "rows": [range(50), range(50), range(20)],
            "epochs": [2, 1, 2],
            "activations": "gelu",
            "dropout": [0, 0.1, 0.2],
        },
    ],
    ids=["dropout", "in parts", "a stack"],
)
def test_the_bits_are_those_of_kept_activations(mlp, options):
    assert trained(mlp, True, **options) == trained(mlp, False, **options)


@pytest.mark.parametrize("hidden", range(13))
def test_they_are_whatever_the_depth(hidden):
    """With widths and activations that differ from layer to layer, so that none can be taken for another."""
    options = {"sizes": [*(DEEP[:-1] * 2)[: 1 + hidden], 3], "activations": (MIXED * 2)[:hidden]}
    assert trained(gpubp.MLP, True, **options) == trained(gpubp.MLP, False, **options)


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_they_are_in_the_precisions_of_a_gpu(precision):
    backend = CudaBackend(host_driver(), precision)

    def make(*sizes: Any, **options: Any) -> gpubp.MLP:
        return gpubp.MLP(*sizes, **options, device=backend)

    assert trained(make, True, dropout=0.2) == trained(make, False, dropout=0.2)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_deep_network_takes_less_memory_as_it_says(activation):
    peaks, said = [], []
    for recompute in (False, True):
        net = gpubp.MLP([20, *[64] * 16, 2], activation, device="cpu-reference")
        said.append(net.memory(1024, "adam", recompute)["total"])
        tracemalloc.start()
        gpubp.train(net, np.ones((1024, 20)), np.zeros(1024, int), batch_size=1024, epochs=1, recompute=recompute)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.7 * peaks[0] and said[1] < 0.7 * said[0]


def test_a_divergence_is_still_found():
    with pytest.raises(DivergenceError, match="the loss or the gradient overflowed"), np.errstate(all="ignore"):
        trained(gpubp.MLP, True, optimizer="sgd", learning_rate=1e30, activations="relu", epochs=9)


def test_layers_that_are_kept_run_once(monkeypatch):
    runs, dense = [], ReferenceBackend.dense
    monkeypatch.setattr(ReferenceBackend, "dense", lambda *arguments: runs.append(1) or dense(*arguments))
    gpubp.MLP(DEEP, seed=0, device="cpu-reference").gradients(X, Y)
    assert len(runs) == len(DEEP) - 1
