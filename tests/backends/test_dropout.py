"""Dropout: the generator's known answers, the mask's definition, and what networks make of it."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import train
from gpubp.activations import get_activation
from gpubp.backends import Dropout, Layer, LayerCache
from gpubp.backends.philox import dropout_mask, philox4x32
from gpubp.backends.reference import NumpyNamespace
from support.machines import alike, host

XP = NumpyNamespace()


def words(counter, key) -> tuple[int, ...]:
    """Philox for one counter and one key, as plain integers."""
    arrays = (tuple(np.array([word], np.uint64) for word in given) for given in (counter, key))
    return tuple(int(word[0]) for word in philox4x32(np, *arrays))


def mask(seeds, rate, layer=0, step=0, rows=6, columns=5, first_row=0) -> np.ndarray:
    seeds, rate = np.array(seeds, np.uint64), np.broadcast_to(np.float64(rate), len(seeds))
    return dropout_mask(np, seeds, rate, layer, step, rows, columns, first_row)


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # kat_vectors of Random123 (Salmon et al., 2011), philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    assert words(counter, key) == tuple(int(word, 16) for word in expected.split())


@pytest.mark.parametrize("columns", [1, 3, 4, 7])
@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3])
def test_the_mask_is_its_definition_element_by_element(seed, columns):
    """Kept iff word ≥ round(p·2³²): counter (element // 4, layer, step, 0), word element % 4, key the seed."""
    found = mask([seed, 1], [0.37, 0.5], layer=2, step=11, rows=5, columns=columns)
    assert found.shape == (2, 5, columns) and found.dtype == bool
    threshold = round(0.37 * 2**32)
    for row in range(5):
        for column in range(columns):
            element = row * columns + column
            word = words((element // 4, 2, 11, 0), (seed % 2**32, seed // 2**32))[element % 4]
            assert found[0, row, column] == (word >= threshold)


def test_a_word_equal_to_the_threshold_is_kept():
    """The first word of seed 0 is known; a rate of exactly word / 2³² keeps it, the next larger drops it."""
    word = 0x6627E8D5
    assert mask([0], word / 2**32)[0, 0, 0] and not mask([0], (word + 1) / 2**32)[0, 0, 0]


@pytest.mark.parametrize("columns", [1, 3, 4, 7])
@pytest.mark.parametrize("first", [1, 2, 3, 5])
def test_any_part_of_a_batch_draws_its_part_of_the_mask(columns, first):
    whole = mask([3, 4], 0.5, rows=11, columns=columns)
    part = mask([3, 4], 0.5, rows=11 - first, columns=columns, first_row=first)
    np.testing.assert_array_equal(whole[:, first:], part)


def test_networks_layers_and_steps_draw_masks_of_their_own():
    masks = [mask([s], 0.5, layer, step, rows=40) for s in (0, 1) for layer in (0, 1) for step in (0, 1)]
    assert len({m.tobytes() for m in masks}) == len(masks)


def test_a_stack_draws_what_its_networks_draw_alone():
    stack = mask([5, 9, 2**63], [0.1, 0.5, 0.9])
    for k, (seed, rate) in enumerate([(5, 0.1), (9, 0.5), (2**63, 0.9)]):
        np.testing.assert_array_equal(stack[k], mask([seed], rate)[0])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_are_dropped_at_the_rate_and_independently(rate):
    """Frequencies over 200,000 elements, and of pairs of neighbours, within 5 standard deviations."""
    n = 200_000
    dropped = ~mask([17], rate, rows=n // 10, columns=10).reshape(-1)
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    for distance in (1, 4, 10):
        both = (dropped[:-distance] & dropped[distance:]).mean()
        assert abs(both - rate**2) < 5 * np.sqrt(rate**2 * (1 - rate**2) * 3 / n)


def test_rate_zero_keeps_everything_and_a_rate_near_one_almost_nothing():
    assert mask([1], 0.0, rows=1000).all()
    assert mask([1], 1 - 1e-9, rows=1000).sum() <= 1


# -- in a network -----------------------------------------------------------------------------------------


def test_survivors_are_scaled_by_one_over_one_minus_rate(backend, rng):
    """ã = mask ⊙ σ(z) / (1 − p); the mask says which, never ã ≠ 0."""
    z = np.abs(rng.standard_normal((2, 9, 6))).astype(backend.dtype)
    rate, seeds = np.array([0.5, 0.75]), np.array([1, 2], np.uint64)
    cursor, first_step = backend.from_host(np.array([2])), backend.from_host(np.array([1, 5]))
    dropout = Dropout(backend.from_host(rate), backend.from_host(seeds), cursor, first_step)
    a, kept = backend.from_host(z.copy()), backend.empty(z.shape, np.bool_)
    cache = LayerCache(1, z=a, a=a, delta=a, mask=kept)
    backend.bias_activation(get_activation("relu"), Layer(W=None, b=backend.zeros((2, 1, 6))), cache, dropout)
    expected = np.stack([dropout_mask(np, seeds, rate, 1, step, 9, 6)[k] for k, step in enumerate((3, 7))])
    np.testing.assert_array_equal(host(kept), expected)
    np.testing.assert_array_equal(host(a), z * expected * np.array([2, 4], z.dtype)[:, None, None])


@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "elu", "silu"])
def test_the_slope_is_that_of_the_undropped_activation(backend, rng, activation):
    """σ′((1 − p)·ã) ⊙ mask / (1 − p), where σ′ is read off a; sigmoid's a is not zero where z is."""
    record = get_activation(activation)
    z, grad = rng.standard_normal((2, 1, 8, 6)).astype(backend.dtype)
    settings = np.array([0.4]), np.array([5], np.uint64), np.array([0]), np.array([0])
    dropout = Dropout(*map(backend.from_host, settings))
    kept = backend.empty(z.shape, np.bool_)
    buffer = backend.from_host(z.copy())
    a = buffer if record.derivative_from == "a" else backend.empty(z.shape)
    delta, grad_b = backend.from_host(grad.copy()), backend.empty((1, 1, 6))
    cache = LayerCache(0, z=buffer, a=a, delta=delta, mask=kept)
    backend.bias_activation(record, Layer(W=None, b=backend.zeros((1, 1, 6))), cache, dropout)
    backend.hadamard_derivative(record, cache, grad_b, dropout)

    plain = record.f(XP, z)
    slope = record.derivative(XP, plain if record.derivative_from == "a" else z)
    expected = grad * slope * host(kept) / (1 - 0.4)
    eps = np.finfo(backend.dtype).eps
    np.testing.assert_allclose(host(delta), expected, rtol=40 * eps, atol=40 * eps)
    np.testing.assert_allclose(host(grad_b)[:, 0], expected.sum(axis=1), rtol=1e-4, atol=40 * eps)


def test_a_network_at_rate_zero_inside_a_stack_is_a_network_without_dropout(mlp, rng):
    X, y = rng.standard_normal((30, 4)), rng.integers(3, size=30)
    stack, solo = mlp([4, 9, 8, 3], "gelu", models=3, seed=2), mlp([4, 9, 8, 3], "gelu", seed=3)
    train(stack, X, y, dropout=[0.5, 0.0, 0.2], batch_size=7, epochs=2, seed=10)
    train(solo, X, y, batch_size=7, epochs=2, seed=11)
    for W, b, solo_W, solo_b in zip(stack.weights, stack.biases, solo.weights, solo.biases, strict=True):
        alike(stack.stack.backend, W[1], solo_W)
        alike(stack.stack.backend, b[1], solo_b)


def test_each_training_step_draws_anew(mlp, rng):
    net = mlp([4, 50, 3], "tanh")
    X, y = rng.standard_normal((5, 4)), rng.integers(3, size=5)
    losses = [net.gradients(X, y, dropout=0.5, step=step)[0] for step in (0, 1, 2, 0)]
    assert len(set(losses)) == 3 and losses[0] == losses[3]


def test_predictions_are_made_without_dropout(mlp, rng):
    net = mlp([4, 50, 3], "tanh")
    X, y = rng.standard_normal((5, 4)), rng.integers(3, size=5)
    before = net.forward(X)
    net.gradients(X, y, dropout=0.9)
    np.testing.assert_array_equal(net.forward(X), before)


def test_dropout_leaves_the_expected_activation_unchanged(mlp, rng):
    """The mean over 100 masks of a linear network's loss derivative is that without dropout."""
    net = mlp([3, 64, 1], "identity", "half_squared_error")
    X, y = rng.standard_normal((4, 3)), np.full(4, -100.0)  # far away: the derivative is all but linear in a
    wanted = host(net.gradients(X, y)[1].biases[1])[0]
    found = np.mean([host(net.gradients(X, y, dropout=0.5, step=step)[1].biases[1])[0] for step in range(100)])
    assert found == pytest.approx(wanted, rel=1e-2)
