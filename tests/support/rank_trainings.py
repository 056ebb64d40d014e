"""Trainings of ranks that are threads, and what they are compared by."""

from __future__ import annotations

from typing import Any

import numpy as np

import gpubp
from support.machines import host
from support.thread_ranks import on_ranks

RNG = np.random.default_rng(17)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
WEIGHT = RNG.uniform(0.5, 2.0, 61)
OPTIONS: dict[str, Any] = {"batch_size": 16, "epochs": 13, "learning_rate": 0.01, "seed": 5}  # 52 steps
EVERYTHING: dict[str, Any] = {
    "sample_weight": WEIGHT,
    "schedule": "reduce_on_plateau(0, 0.5)",
    "max_grad_norm": 0.5,
    "l2": 1e-3,
    "label_smoothing": 0.1,
    "patience": 4,
    "update_tolerance": 1e-9,
    "validation_data": (X[:13], Y[:13], WEIGHT[:13]),
}


def network(device: Any = "cpu-reference", models: int = 1, precision: str = "float64") -> gpubp.MLP:
    return gpubp.MLP([6, 9, 8, 3], "tanh", seed=2, device=device, precision=precision, models=models)


def trained(make: Any = network, **options: Any) -> tuple[Any, gpubp.History]:
    net = make()
    history = gpubp.train(net, X, Y, **{**OPTIONS, **options})
    return host(net.theta), history


def trained_on(size: int, make: Any = network, **options: Any) -> list[tuple[Any, gpubp.History]]:
    """What each rank ends with; raises what one of them raised."""
    outcomes = on_ranks(size, lambda communicator: trained(make, communicator=communicator, **options))
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def curves(history: gpubp.History) -> list[Any]:
    names = ("loss", "metric", "learning_rate", *(["validation_loss"] if history.validation_loss else []))
    return [history.curve(name) for name in names]


def assert_same(one: tuple[Any, gpubp.History], other: tuple[Any, gpubp.History], tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(curves(one[1]), curves(other[1]), rtol=tolerance, atol=tolerance)
    assert (one[1].steps, one[1].stopped) == (other[1].steps, other[1].stopped)


def errors_of(size: int, work: Any) -> list[BaseException]:
    outcomes = on_ranks(size, work)
    assert all(isinstance(outcome, BaseException) for outcome in outcomes), outcomes
    return outcomes
