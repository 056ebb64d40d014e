"""Where a step's time goes: every part has its time, and looking changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import gpubp
from gpubp.bench import parts
from gpubp.bench.parts import step_parts

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((20, 12)), np.arange(20) % 3


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROUNDS", 2)


def test_every_part_has_its_time(mlp, backend):
    net = mlp([12, 16, 3], "tanh")
    before = backend.to_host(net.theta).copy()
    timed = step_parts(net, X, Y, 32, "adam", dropout=0.2)
    on_chip = not timed.parts  # all in one launch
    assert list(timed.parts) == ["selecting the batch", "forward pass", "backward pass", "update"] or on_chip
    assert on_chip <= (backend.name == "cuda")
    assert min([*timed.parts.values(), timed.step, timed.products]) > 0 and timed.batch_size == 32
    assert (timed.device, timed.backend, timed.precision) == (backend.device, backend.name, backend.precision)
    np.testing.assert_array_equal(backend.to_host(net.theta), before)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "loss, y", [("half_squared_error", RNG.standard_normal((20, 2))), ("poisson", np.ones((20, 2)))]
)
def test_of_values_on_several_layers(loss, y):
    net = gpubp.MLP([12, 8, 8, 2], ["relu", "gelu"], loss=loss, precision="float64", device="cpu-reference")
    assert step_parts(net, X, y, 8, "sgd").step > 0
