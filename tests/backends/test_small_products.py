"""Small products of the compiled backend: NumPy's at all edges of a tile, and the same bits whatever is beside."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends import compiled
from gpubp.backends.compiled import CompiledBackend, numba_state
from gpubp.backends.compiled.small_products import LONGEST, is_small, register_bytes, widest_register

pytestmark = pytest.mark.skipif(not numba_state().usable, reason=numba_state().summary)

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # of an element, relative to the sum of its terms' sizes
FORMS = [(False, False), (True, False), (False, True)]  # of A Wˡ, aᵀ δ and δ Wᵀ: which operand is transposed
SIZES = (1, 3, 31, 33, 64, 100, 128)
FEW_SIZES = (1, 3, 10, 33)


@pytest.fixture
def loops(monkeypatch) -> list[str]:
    """Products of every size go through the loops, where there is room for a register; the names of those launched."""

    def fits(m: int, inner: int, n: int, dtype: np.dtype, register_bytes: int) -> bool:
        return n * dtype.itemsize >= register_bytes and inner <= LONGEST

    monkeypatch.setattr(compiled, "is_small", fits)
    return watched(monkeypatch)


def watched(monkeypatch) -> list[str]:
    """The names of the loops that are launched from now on."""
    names: list[str] = []
    launch = CompiledBackend._launch

    def noting(self, module, name, networks, arguments):
        names.append(name)
        launch(self, module, name, networks, arguments)

    monkeypatch.setattr(CompiledBackend, "_launch", noting)
    return names


def backend_with(dtype: str, width: int = 32) -> CompiledBackend:
    backend = CompiledBackend(np.dtype(dtype))
    backend.register_bytes = width
    return backend


def multiply(backend: CompiledBackend, a: Any, b: Any, out: Any, form: tuple[bool, bool] = (False, False)) -> Any:
    """The product as a step has it: recorded, then run."""
    backend.capture(lambda rows: backend.matmul(a, b, out, transpose_a=form[0], transpose_b=form[1]))(1, out.shape[1])
    return out


def operands(rng, dtype: str, m: int, inner: int, n: int, form: tuple[bool, bool], networks: int = 2) -> Any:
    a = rng.standard_normal((networks, inner, m) if form[0] else (networks, m, inner)).astype(dtype)
    b = rng.standard_normal((networks, n, inner) if form[1] else (networks, inner, n)).astype(dtype)
    return a, b


def assert_right(
    backend: CompiledBackend, rng, dtype: str, sizes: tuple[int, int, int], form: tuple[bool, bool]
) -> None:
    """Against NumPy's product in float64; memory on both sides of C stays as it is."""
    m, inner, n = sizes
    a, b = operands(rng, dtype, m, inner, n, form)
    memory = np.full(2 * m * n + 128, 7, dtype)
    out = multiply(backend, a, b, memory[64:-64].reshape(2, m, n), form)
    left, right = (
        x.astype(np.float64) for x in (a.swapaxes(1, 2) if form[0] else a, b.swapaxes(1, 2) if form[1] else b)
    )
    error = np.abs(out - left @ right) / (np.abs(left) @ np.abs(right))
    assert error.max() <= TOLERANCE[dtype], (sizes, form)
    assert (memory[:64] == 7).all() and (memory[-64:] == 7).all(), (sizes, form)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_products_are_numpys_at_the_edges_of_tiles(loops, rng, dtype):
    backend = backend_with(dtype)
    for sizes in itertools.product(FEW_SIZES, repeat=3):
        for form in FORMS:
            assert_right(backend, rng, dtype, sizes, form)
    assert "product" in loops


@pytest.mark.thorough
@pytest.mark.parametrize("width, sizes", [(16, FEW_SIZES), (32, SIZES), (64, FEW_SIZES)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_products_are_numpys_on_registers_of_any_width(loops, rng, dtype, width, sizes):
    """A processor without such registers takes two for one, or a half."""
    backend = backend_with(dtype, width)
    for shape in itertools.product(sizes, repeat=3):
        for form in [*FORMS, (True, True)]:
            assert_right(backend, rng, dtype, shape, form)
    assert "product" in loops


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
def test_no_element_depends_on_what_is_beside_it(loops, rng, dtype, form):
    """Networks of a stack, rows and columns have the same bits by themselves and every time."""
    backend = backend_with(dtype)
    a, b = operands(rng, dtype, 33, 20, 43, form, networks=3)
    out = multiply(backend, a, b, np.empty((3, 33, 43), dtype), form).copy()
    np.testing.assert_array_equal(multiply(backend, a, b, np.empty((3, 33, 43), dtype), form), out)
    alone = multiply(backend, a[1:2], b[1:2], np.empty((1, 33, 43), dtype), form)
    np.testing.assert_array_equal(alone, out[1:2])
    rows = np.ascontiguousarray(a[..., 5:12] if form[0] else a[:, 5:12])
    np.testing.assert_array_equal(multiply(backend, rows, b, np.empty((3, 7, 43), dtype), form), out[:, 5:12])
    columns = np.ascontiguousarray(b[:, 11:30] if form[1] else b[..., 11:30])
    np.testing.assert_array_equal(multiply(backend, a, columns, np.empty((3, 33, 19), dtype), form), out[..., 11:30])
    assert set(loops) == {"product"}


def test_an_operand_that_networks_share_is_read_by_all(loops, rng):
    a, b = rng.standard_normal((1, 9, 6)), rng.standard_normal((4, 6, 12))
    np.testing.assert_allclose(multiply(backend_with("float64"), a, b, np.empty((4, 9, 12))), a @ b, rtol=1e-12)
    assert loops == ["product"]


def test_what_is_not_finite_stays_in_its_rows_and_columns(loops, rng):
    a, b = rng.standard_normal((1, 9, 6)), rng.standard_normal((1, 6, 13))
    a[0, 4, 2], b[0, 3, 12] = np.nan, np.inf
    out = multiply(backend_with("float64"), a, b, np.empty((1, 9, 13)))
    np.testing.assert_array_equal(np.isfinite(out), np.isfinite(a @ b))


def test_operands_that_do_not_lie_in_one_piece_are_numpys(monkeypatch, rng):
    names, backend = watched(monkeypatch), backend_with("float64")
    a, b, out = rng.standard_normal((1, 32, 16)), rng.standard_normal((1, 16, 32)), np.empty((1, 32, 32))
    wide = np.empty((1, 32, 40))
    for x, y, z in ((a.repeat(2, 2)[..., ::2], b, out), (a, b.repeat(2, 1)[:, ::2], out), (a, b, wide[..., :32])):
        np.testing.assert_allclose(multiply(backend, x, y, z), a @ b, rtol=1e-12)
    assert names == ["matmul"] * 3
    multiply(backend, a, b, out)
    assert names[3:] == ["product"]


def test_which_products_are_small_is_a_matter_of_shape_and_type():
    taken = {
        "float32": [(32, 64, 64), (64, 32, 64), (32, 64, 10), (32, 10, 64), (32, 1, 100), (64, 64, 64), (4, 128, 8)],
        "float64": [(32, 64, 32), (64, 32, 64), (32, 64, 10), (32, 1, 100), (64, 64, 32)],
    }
    left = {
        "float32": [(3, 64, 64), (32, 100, 1), (32, 64, 7), (32, 129, 8), (32, 64, 65), (65, 64, 64), (4, 2, 32)],
        "float64": [(32, 64, 64), (32, 64, 3), (65, 64, 32)],
    }
    for dtype in TOLERANCE:
        for m, inner, n in taken[dtype]:
            assert is_small(m, inner, n, np.dtype(dtype), 32), (m, inner, n)
            assert not is_small(m, inner, n, np.dtype(dtype), 0), "no registers"
        for m, inner, n in left[dtype]:
            assert not is_small(m, inner, n, np.dtype(dtype), 32), (m, inner, n)


@pytest.mark.parametrize(
    "features, widest, taken",
    [({"avx2": True, "fma": True}, 32, 32), ({"avx2": True}, 0, 0), ({}, 0, 0), ({"neon": True}, 0, 0)]
    + [({"avx2": True, "fma": True, "avx512f": True}, 64, 0)],
)
def test_loops_take_products_where_that_was_measured_to_be_faster(monkeypatch, features, widest, taken):
    from llvmlite import binding

    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)
    assert (widest_register(), register_bytes()) == (widest, taken)
    assert CompiledBackend("float32").register_bytes == taken
    monkeypatch.setenv("GPUBP_SMALL_PRODUCTS", "0")
    assert CompiledBackend("float32").register_bytes == 0


def test_a_processor_that_llvm_does_not_know_leaves_products_to_numpy(monkeypatch):
    from llvmlite import binding

    def unknown():
        raise RuntimeError("not implemented")

    monkeypatch.setattr(binding, "get_host_cpu_features", unknown)
    assert CompiledBackend("float64").register_bytes == 0


def test_a_training_differs_from_that_by_numpys_products_in_rounding_alone(monkeypatch, rng):
    X, y, names = rng.standard_normal((70, 12)), rng.integers(0, 9, 70), watched(monkeypatch)

    def weights(width: int, **options: Any) -> Any:
        net = gpubp.MLP([12, 33, 9], "tanh", device=backend_with("float64", width), **options)
        gpubp.train(net, X, y, batch_size=32, epochs=2, seed=options["seed"], optimizer="sgd")
        return net.theta

    by_loops = weights(32, seed=3)
    assert "product" in names
    names.clear()
    np.testing.assert_allclose(by_loops, weights(0, seed=3), rtol=1e-11, atol=1e-13)
    assert "product" not in names
    stack = weights(32, models=3, seed=[1, 3, 5])
    np.testing.assert_array_equal(stack[1:2], by_loops)


def test_memory_begins_with_a_line_of_the_caches():
    backend = CompiledBackend("float32")
    for make, dtype in itertools.product((backend.empty, backend.zeros), (None, np.float64, np.bool_, np.int64)):
        for shape in ((0,), (3,), (2, 5, 7)):
            array = make(shape, dtype)
            assert array.shape == shape and array.dtype == (dtype or np.float32) and array.flags.c_contiguous
            assert not array.size or array.ctypes.data % 64 == 0
    assert not backend.zeros((1000,)).any()
