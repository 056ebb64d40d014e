"""No row's outputs depend, in any bit, on the rows beside it or on its place among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubp import MLP
from gpubp.activations import ACTIVATIONS
from gpubp.backends import row_products


def assert_rows_are_alike(sizes: list[int], activation: str, device: str, precision: str, models: int) -> None:
    loss: Any = "cross_entropy" if sizes[-1] > 1 else "half_squared_error"
    net = MLP(sizes, activation, loss=loss, device=device, precision=precision, models=models)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, sizes[0]))

    def forward(X: np.ndarray) -> np.ndarray:
        return np.asarray(net.forward(X)).reshape(models, len(X), -1)

    expected = forward(X)
    np.testing.assert_allclose(expected, net.stack.outputs(X), rtol=1e-4, atol=1e-6)
    order = rng.permutation(len(X))
    np.testing.assert_array_equal(forward(X[order]), expected[:, order])
    np.testing.assert_array_equal(forward(X[7:]), expected[:, 7:])
    several_batches = np.vstack([rng.standard_normal((3001, sizes[0])), X])
    np.testing.assert_array_equal(forward(several_batches)[:, 3001:], expected)
    for row in range(0, len(X), 13):
        np.testing.assert_array_equal(forward(X[row : row + 1]), expected[:, row : row + 1])


@pytest.mark.parametrize("device", ["cpu", "cpu-reference"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[5, 16, 3], [13, 128, 1], [100, 33, 10]])
def test_rows_are_alike(sizes: list[int], precision: str, device: str) -> None:
    assert_rows_are_alike(sizes, "relu", device, precision, models=1)


@pytest.mark.thorough
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("device", ["cpu", "cpu-reference"])
def test_rows_are_alike_with_every_activation_in_a_stack(activation: str, precision: str, device: str) -> None:
    assert_rows_are_alike([31, 129, 64, 2], activation, device, precision, models=2)


def test_products_are_cut_until_rows_are_alike(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """A product that adds the number of a row's place, from the fifth on, to its sums may take four rows at a time."""
    exact = np.matmul

    def by_place(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
        exact(a, b, out=out)
        out += np.maximum(np.arange(a.shape[-2]) - 3, 0)[:, None].astype(out.dtype)
        return out

    monkeypatch.setattr(np, "matmul", by_place)
    row_products.rows_treated_alike.cache_clear()
    try:
        assert row_products.rows_treated_alike(3, 5, "<f4") == 4
    finally:
        row_products.rows_treated_alike.cache_clear()


def test_a_batch_is_a_multiple_of_the_rows_of_a_product() -> None:
    assert [row_products.batch_rows(n) for n in (1, 10_000, 400_000, 10**9)] == [3072, 816, 48, 48]
