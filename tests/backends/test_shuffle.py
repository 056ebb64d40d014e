"""The keyed order of rows: a bijection for every number of rows, uniform, and the same on every backend."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from scipy.stats import chi2

from gpubp.backends import Batch
from gpubp.backends.philox import philox4x32
from gpubp.backends.shuffle import ROUNDS, _feistel, order_keys, rows_at, shuffled
from support.machines import BACKENDS, backend_parameters, host, one_step

SEEDS = 20_000  # of the orders whose frequencies are compared
COUNTS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 33)


def keys_of(seeds: int, epoch: int = 0) -> np.ndarray:
    return order_keys(np.arange(seeds, dtype=np.uint64), epoch)


@pytest.mark.parametrize(
    "counts", [range(1, 301), [4095, 4096, 4097, 65_536, 65_537, 1_000_003]], ids=["small", "large"]
)
def test_every_row_has_one_place(counts):
    for count in counts:
        for keys in keys_of(2):
            places = shuffled(np.arange(count), keys, count)
            assert np.bincount(places, minlength=count).tolist() == [1] * count


def test_a_place_depends_on_its_position_alone():
    """Whoever asks for a part of the order gets that part of it."""
    (keys,) = keys_of(1)
    np.testing.assert_array_equal(shuffled(np.arange(70, 80), keys, 1000), shuffled(np.arange(1000), keys, 1000)[70:80])


def test_the_most_rows_of_all_are_shuffled_too():
    positions = np.array([0, 1, 2**31, 2**32 - 1])
    places = shuffled(positions, keys_of(1)[0], 2**32)
    assert len(set(places.tolist())) == 4 and (places >= 0).all() and (places < 2**32).all() and places.max() > 2**20


def test_keys_of_zero_leave_rows_in_their_places():
    np.testing.assert_array_equal(shuffled(np.arange(100), np.zeros((ROUNDS, 2), np.uint32), 100), np.arange(100))


def test_keys_are_philoxs_words():
    """Of counters (block, epoch, 0, 1) under the seed; those of dropout end with 0."""
    seed = np.array([2**40 + 3], np.uint64)
    words = philox4x32(np, tuple(np.array([[c]], np.uint64) for c in (1, 9, 0, 1)), (seed & 0xFFFFFFFF, seed >> 32))
    np.testing.assert_array_equal(order_keys(seed, 9)[0, 2:4].ravel(), np.ravel(words))


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {tuple(shuffled(np.arange(50), keys, 50)) for epoch in range(20) for keys in keys_of(20, epoch)}
    assert len(orders) == 400


# -- uniform ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orders() -> dict[int, np.ndarray]:
    """Orders (seeds, rows) by their number of rows."""
    return {count: orders_of(count) for count in COUNTS}


def orders_of(count: int) -> np.ndarray:
    """What `shuffled` makes of every seed, but of all at once: keys as columns beside the rows."""
    keys, bits = keys_of(SEEDS), max(2, (count - 1).bit_length())
    columns = keys.transpose(1, 2, 0)[..., None]
    places = _feistel(np.tile(np.arange(count, dtype=np.uint32), (SEEDS, 1)), columns, bits)
    while (outside := places >= count).any():
        places = np.where(outside, _feistel(places, columns, bits), places)
    for seed in range(5):
        np.testing.assert_array_equal(places[seed], shuffled(np.arange(count), keys[seed], count))
    return places.astype(np.int64)


def probability(frequencies: np.ndarray) -> float:
    """How likely frequencies are to differ so much by chance, where all are equally probable: χ²."""
    expected = frequencies.mean()
    return float(chi2.sf(np.square(frequencies - expected).sum() / expected, frequencies.size - 1))


@pytest.mark.parametrize("count", COUNTS)
def test_a_row_is_equally_often_at_every_position(orders, count):
    least = min(probability(np.bincount(column, minlength=count)) for column in orders[count].T)
    assert least * count > 1e-3


@pytest.mark.parametrize("count", COUNTS[1:])
def test_any_two_rows_are_neighbours_equally_often(orders, count):
    distinct = ~np.eye(count, dtype=bool).ravel()
    pairs = zip(orders[count].T[:-1], orders[count].T[1:], strict=True)
    least = min(probability(np.bincount(a * count + b, minlength=count**2)[distinct]) for a, b in pairs)
    assert least * (count - 1) > 1e-3


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_order_of_few_rows_is_equally_often(orders, count):
    _, frequencies = np.unique(orders[count], axis=0, return_counts=True)
    assert len(frequencies) == factorial(count) and probability(frequencies) > 1e-3


def test_large_orders_are_uniform_too():
    """Where rows of 1,000 go, and which come behind them, in cells of 50 rows, over an epoch of many seeds."""
    order = rows_at(np.arange(1000), None, keys_of(200), np.array([1000])) // 50
    assert probability(np.bincount((np.arange(1000) // 50 * 20 + order).ravel(), minlength=400)) > 1e-3
    pairs = np.bincount((order[:, :-1] * 20 + order[:, 1:]).ravel(), minlength=400).reshape(20, 20)
    expected = 200 * 999 * np.where(np.eye(20, dtype=bool), 50 * 49, 50 * 50) / (1000 * 999)
    assert chi2.sf((np.square(pairs - expected) / expected).sum(), 399) > 1e-3


# -- the same everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", backend_parameters(lambda name: name in BACKENDS), indirect=True)
@pytest.mark.parametrize("listed", [False, True], ids=["all rows", "rows of one's own"])
@pytest.mark.parametrize("networks", [1, 3])
def test_batches_have_the_rows_of_the_order(backend, networks, listed, rng):
    """Data row = rows[k][bijection(position)]."""
    m, batch_size = 41, 9
    keys, counts = keys_of(networks, epoch=3), np.full(networks, 30 if listed else m)
    lists = np.stack([rng.integers(0, m, 30) for _ in range(networks)]) if listed else None
    put = backend.from_host
    epoch, y = one_step(backend, networks), np.arange(m)
    epoch.batch_size, epoch.order = batch_size, None if lists is None else put(lists)
    epoch.keys, epoch.counts = put(keys), put(counts)
    X = np.stack([y, -y], axis=1).astype(backend.dtype)
    data = Batch(put(X)[None], put(y)[None], put(2.0 * y)[None], None)
    for step in range(3):
        epoch.cursor[...] = step
        shape = (networks, batch_size)
        out = Batch(backend.empty((*shape, 2)), backend.empty(shape, np.int64), backend.empty(shape, np.float64), None)
        backend.gather(data, epoch, out)
        for k in range(networks):
            positions = np.arange(step * batch_size, (step + 1) * batch_size)
            rows = shuffled(positions, keys[k], int(counts[k]))
            rows = rows if lists is None else lists[k][rows]
            np.testing.assert_array_equal(host(out.y)[k], rows)
            np.testing.assert_array_equal(host(out.X)[k], X[rows])
            np.testing.assert_array_equal(host(out.weight)[k], 2.0 * rows)
