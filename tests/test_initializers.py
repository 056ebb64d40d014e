"""Initial weights: the distribution of draws against each formula, and what must hold of every rule."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from gpubp.errors import UsageError
from gpubp.initializers import INITIALIZERS, Initializer, get_initializer

FAN_IN, FAN_OUT = 300, 200  # 60,000 draws: a standard deviation is off by 0.3 %, a mean by 0.4 % of one

STANDARD_DEVIATION = {
    "standard_normal": 1.0,
    "scaled_normal": sqrt(1 / FAN_IN),
    "lecun_normal": sqrt(1 / FAN_IN),
    "lecun_uniform": sqrt(1 / FAN_IN),
    "xavier_normal": sqrt(2 / (FAN_IN + FAN_OUT)),
    "xavier_uniform": sqrt(2 / (FAN_IN + FAN_OUT)),
    "he_normal": sqrt(2 / FAN_IN),
    "he_uniform": sqrt(2 / FAN_IN),
    "orthogonal": sqrt(1 / FAN_IN),
}
BOUND = {
    "lecun_uniform": sqrt(3 / FAN_IN),
    "xavier_uniform": sqrt(6 / (FAN_IN + FAN_OUT)),
    "he_uniform": sqrt(6 / FAN_IN),
}
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (40, 9), (9, 40)]


def draw(name: str, fan_in: int = FAN_IN, fan_out: int = FAN_OUT, seed: int = 0) -> np.ndarray:
    return INITIALIZERS[name]().weights(np.random.default_rng(seed), fan_in, fan_out)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", INITIALIZERS)
def test_draws_have_the_layers_shape_and_are_finite_float64(name, shape):
    initializer = INITIALIZERS[name]()
    weights = initializer.weights(np.random.default_rng(0), *shape)
    biases = initializer.biases(np.random.default_rng(0), shape[1])
    assert weights.shape == shape and weights.dtype == np.float64 and weights.flags.c_contiguous
    assert biases.shape == shape[1:] and biases.dtype == np.float64
    assert np.isfinite(weights).all() and np.isfinite(biases).all()


def test_every_rule_has_a_stated_distribution():
    assert set(STANDARD_DEVIATION) | {"zeros"} == set(INITIALIZERS)


@pytest.mark.parametrize("name", STANDARD_DEVIATION)
def test_mean_and_standard_deviation(name):
    weights = draw(name)
    assert weights.std() == pytest.approx(STANDARD_DEVIATION[name], rel=0.015)
    assert abs(weights.mean()) < 0.02 * STANDARD_DEVIATION[name]


@pytest.mark.parametrize("name", [name for name in STANDARD_DEVIATION if name.endswith("normal")])
def test_normal_draws_have_the_kurtosis_of_a_normal_distribution(name):
    scaled = draw(name) / STANDARD_DEVIATION[name]
    assert (scaled**4).mean() == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("name", BOUND)
def test_uniform_draws_fill_their_interval_evenly(name):
    weights = draw(name)
    counts, _ = np.histogram(weights, bins=10, range=(-BOUND[name], BOUND[name]))
    assert counts.sum() == weights.size
    np.testing.assert_allclose(counts, weights.size / 10, rtol=0.06)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "standard_normal"])
def test_biases_start_at_zero(name):
    assert not INITIALIZERS[name]().biases(np.random.default_rng(0), 50).any()


def test_nielsens_biases_are_normal():
    biases = INITIALIZERS["standard_normal"]().biases(np.random.default_rng(0), 20_000)
    assert biases.std() == pytest.approx(1, rel=0.03) and abs(biases.mean()) < 0.03


def test_zeros_are_zero():
    assert not draw("zeros").any()


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name != "zeros"])
def test_a_seed_gives_the_same_draw_and_another_seed_another(name):
    np.testing.assert_array_equal(draw(name, seed=3), draw(name, seed=3))
    assert (draw(name, seed=3) != draw(name, seed=4)).mean() > 0.99


@pytest.mark.parametrize("gain", [1.0, 1.4142])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_or_columns_are_orthonormal(shape, gain):
    weights = get_initializer(f"orthogonal({gain})", "").weights(np.random.default_rng(0), *shape)
    gram = weights.T @ weights if shape[0] >= shape[1] else weights @ weights.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(shape)), atol=1e-14)


def test_orthogonal_draws_are_uniform_over_the_orthogonal_group():
    """QR alone makes the first entry negative nearly always; under Haar's measure its sign is a fair coin.

    The trace of a Haar-distributed matrix has mean 0 and variance 1 in any dimension.
    """
    rng = np.random.default_rng(0)
    draws = np.array([INITIALIZERS["orthogonal"]().weights(rng, 4, 4) for _ in range(4000)])
    assert (draws[:, 0, 0] > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (np.linalg.det(draws) > 0).mean() == pytest.approx(0.5, abs=0.03)
    traces = np.trace(draws, axis1=1, axis2=2)
    assert traces.mean() == pytest.approx(0, abs=0.06) and traces.var() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)], ids=str)
def test_orthogonal_agrees_with_torch_on_the_same_normal_matrix(shape, monkeypatch):
    torch = pytest.importorskip("torch")
    normal = np.random.default_rng(1).standard_normal((max(shape), min(shape)))
    tall = torch.from_numpy(normal)

    def fill(tensor, *args, **kwargs):  # torch draws a wide matrix and transposes it, gpubp a tall one
        return tensor.copy_(tall if tensor.shape == tall.shape else tall.T)

    monkeypatch.setattr(torch.Tensor, "normal_", fill)
    expected = torch.nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64)).numpy()
    actual = INITIALIZERS["orthogonal"]().weights(np.random.default_rng(1), *shape)
    np.testing.assert_allclose(actual, expected, atol=1e-14)


@pytest.mark.parametrize(
    "name, torch_name",
    [
        ("xavier_normal", "xavier_normal_"),
        ("xavier_uniform", "xavier_uniform_"),
        ("he_normal", "kaiming_normal_"),
        ("he_uniform", "kaiming_uniform_"),
    ],
)
def test_spread_agrees_with_torch(name, torch_name):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.empty(FAN_OUT, FAN_IN)  # torch's own orientation
    options = {"nonlinearity": "relu"} if "kaiming" in torch_name else {}
    getattr(torch.nn.init, torch_name)(weight, **options)
    ours = draw(name)
    assert ours.std() == pytest.approx(float(weight.std()), rel=0.02)
    if name in BOUND:
        assert np.abs(ours).max() == pytest.approx(float(weight.abs().max()), rel=0.001)


def test_auto_is_the_activations_own_choice():
    assert get_initializer("auto", "he_normal").name == "he_normal"
    assert get_initializer("zeros", "he_normal").name == "zeros"


def test_a_record_of_ones_own_is_taken_as_it_is():
    ones = Initializer("ones", lambda rng, fan_in, fan_out: np.ones((fan_in, fan_out)))
    assert get_initializer(ones, "he_normal") is ones
    assert not ones.biases(np.random.default_rng(0), 3).any()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match='unknown initializer "he_norml"; did you mean "he_normal"'):
        get_initializer("he_norml", "he_normal")


@pytest.mark.parametrize("gain", ["0", "-1", "1e999"])
def test_a_gain_that_cannot_be_meant(gain):
    with pytest.raises(UsageError, match=r"orthogonal: gain=\S+ is not a positive number; use gain > 0"):
        get_initializer(f"orthogonal(gain={gain})", "auto")
