"""Where a step's time goes: every part has its time, and looking changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import gpubp
from gpubp.bench.parts import step_parts

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((20, 12)), np.arange(20) % 3


@pytest.mark.parametrize("device", ["cpu-reference", pytest.param("cpu", marks=pytest.mark.thorough)])
def test_every_part_has_its_time(device):
    net = gpubp.MLP([12, 16, 3], "tanh", device=device)
    before = net.theta.copy()
    timed = step_parts(net, X, Y, 32, "adam", dropout=0.2)
    assert list(timed.parts) == ["selecting the batch", "forward pass", "backward pass", "update"]
    assert min([*timed.parts.values(), timed.step, timed.products]) > 0 and timed.batch_size == 32
    assert (timed.device, timed.precision) == ("cpu", "float32")
    np.testing.assert_array_equal(net.theta, before)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "loss, y", [("half_squared_error", RNG.standard_normal((20, 2))), ("poisson", np.ones((20, 2)))]
)
def test_of_values_on_several_layers(loss, y):
    net = gpubp.MLP([12, 8, 8, 2], ["relu", "gelu"], loss=loss, precision="float64", device="cpu-reference")
    assert step_parts(net, X, y, 8, "sgd").step > 0
