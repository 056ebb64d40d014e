"""What is done beside multiplying and where, what runs beside what, and how many launches a training step takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpubp import MLP, train
from gpubp.backends import Backend, Batch
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import GemmSpec, NoAlgorithmError
from gpubp.backends.reference import ReferenceBackend
from gpubp.backprop import gradients
from support.cuda_host import HostDriver, HostDriverError
from support.machines import host, host_driver, precisions_of_kernels

PRECISIONS = ("float64", "float32", "tf32", "float16", "bfloat16")
REFUSALS = [(), ("relu_bias",), ("bias",), ("relu_bias", "bias")]  # epilogues that a library may lack
SIZES, ROWS = [5, 131, 6, 3], 4

types = pytest.mark.parametrize("precision", precisions_of_kernels(PRECISIONS))


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer takes the library's products."""
    monkeypatch.setattr("gpubp.backends.cuda.backend.is_small", lambda *_: False)


@pytest.fixture(params=["small", "large", "now and then"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Layers for kernels of our own, for products, and for either by turns."""
    turns = iter(range(1000))

    def is_small(*_: Any) -> bool:
        return {"small": True, "large": False, "now and then": next(turns) % 3 == 0}[request.param]

    monkeypatch.setattr("gpubp.backends.cuda.backend.is_small", is_small)
    return request.param  # type: ignore[no-any-return]


def a_driver() -> HostDriver:
    """One of its own, with kernels that are compiled already."""
    return HostDriver(host_driver().toolchain.folder)


def refusing(driver: HostDriver, *epilogues: str) -> list[GemmSpec]:
    """Have a driver find no algorithm for products with these; what was asked for in the end, and done."""
    done: list[GemmSpec] = []
    prepare = driver.gemm

    def gemm(spec: GemmSpec) -> Callable[..., None]:
        def run(*operands: Any) -> None:
            if spec.epilogue in epilogues:
                raise NoAlgorithmError("none")
            prepare(spec)(*operands)
            done.append(spec)

        return run

    driver.gemm = gemm  # type: ignore[method-assign]
    return done


def whole_numbers(backend: Backend, networks: int = 2, sizes: list[int] = SIZES, rows: int = ROWS) -> dict[str, Any]:
    """Gradients of a batch in which every sum is exact in every type; many z are 0, where σ′ is 0."""
    net = MLP(sizes, "relu", "half_squared_error", models=networks, device=backend)
    rng, stack = np.random.default_rng(3), net.stack
    draw = {n: rng.choice([-1, 0, 0, 1], (networks, n)) for n in (stack.layout.size, rows * sizes[0])}
    for layer, drawn in zip(stack.layers, stack.layout.layers(draw[stack.layout.size]), strict=True):
        layer.W[...] = backend.from_host(drawn.W.copy(), backend.dtype)
        layer.b[...] = backend.from_host(drawn.b.copy(), backend.dtype)
    X = rng.choice([-1, 0, 1], (rows, sizes[0]))
    y = np.clip(rng.integers(-4, 5, (rows, sizes[-1])), -2, 2)
    grads = stack.layout.layers(backend.zeros(stack.theta.shape))
    batch = Batch(
        X=backend.from_host(X, backend.storage)[None],
        y=backend.from_host(y, backend.dtype)[None],
        weight=None,
        smoothing=backend.zeros((networks,), np.float64),
    )
    epoch, caches = stack.single_step(2.0**-5), stack.caches(rows)
    stack.refresh()
    with backend.computing():
        gradients(backend, stack.network, batch, caches, grads, epoch)
    return {
        **{f"W{l}": np.asarray(host(grad.W), np.float64) for l, grad in enumerate(grads)},
        **{f"b{l}": np.asarray(host(grad.b), np.float64) for l, grad in enumerate(grads)},
    }


def assert_exact(found: dict[str, Any], **shape: Any) -> None:
    expected = whole_numbers(ReferenceBackend(np.float64), **shape)
    assert any(np.count_nonzero(expected[name]) for name in ("W0", "b0"))
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)


# -- epilogues -------------------------------------------------------------------------------------------


@types
@pytest.mark.parametrize("shape", [{}, {"rows": 1}, {"sizes": [5, 9, 4, 1]}, {"networks": 1}, {"rows": 300}], ids=str)
def test_gradients_of_any_shape(precision: str, shape: dict[str, Any], size: str) -> None:
    """BP3 of a layer is its own business or that of the one above it, whichever has a kernel."""
    assert_exact(whole_numbers(CudaBackend(a_driver(), precision), **shape), **shape)


@types
@pytest.mark.parametrize("refused", REFUSALS, ids="-".join)
def test_what_the_library_lacks_kernels_do(precision: str, refused: tuple[str, ...], as_if_large: None) -> None:
    driver = a_driver()
    done = refusing(driver, *refused)
    assert_exact(whole_numbers(CudaBackend(driver, precision)))
    forward = [{"relu_bias": "relu_bias", "bias": "bias"}[name] for name in ("relu_bias", "relu_bias", "bias")]
    forward = ["none" if name in refused else name for name in forward]
    assert [spec.epilogue for spec in done] == forward + ["none"] * 5


# -- launches --------------------------------------------------------------------------------------------


def launches_of_a_step(precision: str, activation: str, rows: int, sizes: list[int], **options: Any) -> int:
    """Of steps that are replayed: the nodes of a graph of one."""
    backend = CudaBackend(a_driver(), precision)
    backend.on_chip = False
    net = MLP(sizes, activation, device=backend)
    nodes: list[int] = []
    capture = backend.driver.capture

    def counting(run: Callable[[], None]) -> Callable[[], None]:
        replay = capture(run)

        def replayed() -> None:
            before = backend.driver.launches  # type: ignore[attr-defined]
            replay()
            nodes.append(backend.driver.launches - before)  # type: ignore[attr-defined]

        return replayed

    backend.driver.capture = counting  # type: ignore[method-assign]
    X, y = np.ones((2 * rows, sizes[0])), np.zeros(2 * rows, int)
    train(net, X, y, np.ones(2 * rows), batch_size=rows, epochs=1, **options)
    (count,) = nodes  # the first step is called
    return count


EVERYTHING = {"l2": 0.01, "weight_decay": 0.1, "max_grad_norm": 1.0, "label_smoothing": 0.1}


@pytest.mark.parametrize("rows", [16, 300])
@pytest.mark.parametrize(("activation", "options"), [("relu", EVERYTHING), ("gelu", {"dropout": 0.5})], ids=str)
def test_a_step_of_three_small_layers_takes_nine_launches(activation: str, options: dict[str, Any], rows: int) -> None:
    """Gather, three layers forward, the loss, three layers back, and two kernels for the update."""
    assert launches_of_a_step("float32", activation, rows, [9, 17, 12, 5], **options) == 9


@types
@pytest.mark.parametrize(("activation", "dropout", "count"), [("relu", 0.0, 14), ("tanh", 0.0, 16), ("relu", 0.5, 16)])
def test_large_layers_take_products_and_kernels(
    precision: str, activation: str, dropout: float, count: int, as_if_large: None
) -> None:
    """A hidden layer back takes two products and a kernel; forward ReLU is part of the product."""
    assert launches_of_a_step(precision, activation, 16, [9, 17, 12, 5], dropout=dropout) == count


def test_the_sums_of_a_large_loss_take_one_more(as_if_large: None) -> None:
    assert launches_of_a_step("float32", "relu", 256, [9, 17, 12, 600]) == 15


# -- beside each other -----------------------------------------------------------------------------------


def train_a_little(backend: CudaBackend, activation: str) -> Any:
    rng = np.random.default_rng(0)
    backend.on_chip = False
    net = MLP([9, 17, 12, 5], activation, device=backend, models=2, seed=4)
    train(net, rng.normal(size=(48, 9)), rng.integers(0, 5, 48), batch_size=8, epochs=2, seed=1)
    return host(net.theta)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_order_of_what_runs_at_once_changes_no_bit(activation: str, as_if_large: None) -> None:
    first, *others = (
        train_a_little(CudaBackend(HostDriver(host_driver().toolchain.folder, seed), "float32"), activation)
        for seed in range(3)
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_products_of_weight_gradients_run_aside(
    activation: str, as_if_large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what they read is not written meanwhile: without a join, the driver finds that it is."""
    backend = CudaBackend(a_driver(), "float32")
    entered: list[int] = []
    aside = backend.driver.aside
    monkeypatch.setattr(backend.driver, "aside", lambda: entered.append(1) or aside())  # type: ignore[func-returns-value]
    train_a_little(backend, activation)
    assert len(entered) % 3 == 0 and len(entered) >= 3
    monkeypatch.setattr(backend.driver, "join", lambda: None)
    with pytest.raises(HostDriverError, match="which was launched aside and not joined"):
        train_a_little(backend, activation)
