"""What the CUDA backend makes of operations beside kernels: fallbacks, limits, copies, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gpubp import MLP
from gpubp.activations import get_activation
from gpubp.backends import Backend, Layer, LayerCache
from gpubp.backends.cuda import backend as backend_module
from gpubp.backends.cuda import unfused
from gpubp.backends.cuda.backend import MOST_BLOCKS, CudaBackend
from gpubp.backends.cuda.driver import GemmSpec, NoAlgorithmError
from gpubp.backends.cuda.unfused import UnfusedBackend
from gpubp.errors import UsageError
from support.cuda_host import HostDriver
from support.cuda_host.memory import Allocation
from support.kernel_variants import Recorder
from support.machines import host, host_driver, precisions_of_kernels

# -- products without an algorithm -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_where_no_algorithm_has_the_epilogue_product_and_kernel_do_it(
    monkeypatch: pytest.MonkeyPatch, activation: str
) -> None:
    """Each time, so that the same operands give the same bits."""
    monkeypatch.setattr("gpubp.backends.cuda.backend.is_small", lambda *_: False)
    refused: list[GemmSpec] = []

    def gemm(driver: HostDriver, spec: GemmSpec) -> Callable[..., None]:
        def refuse(*operands: Any) -> None:
            refused.append(spec)
            raise NoAlgorithmError("none")

        return prepare(driver, spec) if spec.epilogue == "none" else refuse

    prepare = HostDriver.gemm
    X = np.random.default_rng(0).normal(size=(11, 5))
    with_epilogue, without = (
        MLP([5, 7, 3], activation, "half_squared_error", device=CudaBackend(driver, "float32"), models=2, seed=1)
        for driver in (host_driver(), HostDriver(host_driver().toolchain.folder))
    )
    expected = host(with_epilogue.forward(X))
    monkeypatch.setattr(HostDriver, "gemm", gemm)
    for _ in range(2):
        np.testing.assert_allclose(host(without.forward(X)), expected, rtol=1e-6, atol=1e-6)
    assert len(refused) == 4 and {spec.n for spec in refused} == {7, 3}


def test_a_product_without_any_algorithm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gemm(driver: HostDriver, spec: GemmSpec) -> Callable[..., None]:
        def refuse(*operands: Any) -> None:
            raise NoAlgorithmError(f"{spec}: none")

        return refuse

    monkeypatch.setattr(HostDriver, "gemm", gemm)
    monkeypatch.setattr("gpubp.backends.cuda.backend.is_small", lambda *_: False)
    net = MLP([5, 3], loss="half_squared_error", device=CudaBackend(host_driver(), "float32"))
    with pytest.raises(NoAlgorithmError, match="epilogue none: none"):
        net.forward(np.zeros((2, 5)))


# -- threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", precisions_of_kernels(("float32", "bfloat16")))
def test_threads_that_predict_at_once_get_what_they_get_alone(precision: str) -> None:
    """From one network and from another, in predictions and in scores."""
    driver = HostDriver(host_driver().toolchain.folder, threads=True)
    backend, rng = CudaBackend(driver, precision), np.random.default_rng(0)
    nets = [MLP([5, width, 3], seed=width, device=backend) for width in (7, 9)]
    X, y = rng.normal(size=(40, 5)), rng.integers(3, size=40)

    def uses(number: int) -> list[Any]:
        net, some = nets[number % 2], slice(number, number + 20)
        return [(net.forward(X[some]).tobytes(), net.evaluate(X[some], y[some])) for _ in range(3)]

    alone = [uses(number) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(uses, range(4))) == alone


def test_what_belongs_together_is_launched_in_a_turn() -> None:
    """An operation's kernels outside of captured steps, and steps, captured or not."""
    driver = HostDriver(host_driver().toolchain.folder, threads=True)
    backend = CudaBackend(driver, "float32")
    held: list[bool] = []

    def look(rows: int = 0) -> None:
        with ThreadPoolExecutor(1) as another:
            acquired = another.submit(driver.one_thread.acquire, blocking=False).result()
        held.append(not acquired)

    with backend.computing():
        look()
    backend.capture(look)(2, 5)  # the first is called, the second captured
    assert held == [True] * 3


# -- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", [MOST_BLOCKS, MOST_BLOCKS + 1])
def test_more_networks_than_a_grid_has_blocks_are_refused(networks: int) -> None:
    backend, logits = CudaBackend(host_driver(), "float32"), host_driver().zeros((networks, 1, 1), np.float32)
    if networks <= MOST_BLOCKS:
        return backend.output(get_activation("tanh"), logits)
    with pytest.raises(UsageError, match="at most 65,535 networks in one stack, and this one has 65,536; train them"):
        backend.output(get_activation("tanh"), logits)


def test_any_number_of_rows_fits_a_grid() -> None:
    """Those of a block grow with them."""
    grids = []
    backend = CudaBackend(Recorder(), "float32")
    backend._launch = lambda name, grid, *args, **records: grids.append(grid)  # type: ignore[method-assign]
    rows = 128 * MOST_BLOCKS + 1
    z = np.broadcast_to(np.zeros((), np.float32), (1, rows, 1))
    backend.bias_activation(get_activation("tanh"), Layer(W=z, b=z[:, :1]), LayerCache(0, z=z, a=z, delta=z, mask=None))
    ((_, blocks, _),) = grids
    assert rows // 256 < blocks <= MOST_BLOCKS


# -- copies ----------------------------------------------------------------------------------------------


def test_assignment_reaches_the_networks_that_are_named(backend: Backend) -> None:
    values = np.arange(24.0).reshape(4, 6)
    who = np.array([True, False, True, False])
    target = backend.zeros((4, 6))
    backend.assign(target, backend.from_host(values, backend.dtype), who)
    np.testing.assert_array_equal(host(target), values * who[:, None])
    flags = backend.from_host(np.ones(4, np.bool_))
    backend.assign(flags, False, who)
    np.testing.assert_array_equal(host(flags), ~who)
    backend.assign(target, -1.0, np.ones(4, np.bool_))
    np.testing.assert_array_equal(host(target), np.full((4, 6), -1.0))


@pytest.mark.parametrize("moved", [1, 12, 1 << 22])  # elements at once: one network, two, all of them
def test_networks_are_copied_from_stack_to_stack(backend: Backend, monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    monkeypatch.setattr(unfused, "MOVED", moved)
    values, target = np.arange(30.0).reshape(5, 6), backend.zeros((4, 6))
    source = backend.from_host(values, backend.dtype)
    backend.copy_networks(source, np.array([4, 0, 3]), target, np.array([0, 3, 1]))
    np.testing.assert_array_equal(host(target), [values[4], values[3], np.zeros(6), values[0]])
    backend.copy_networks(source, np.zeros(0, np.int64), target, np.zeros(0, np.int64))


@pytest.mark.parametrize("size", [128 * 5, 130, 7, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_in_any_place(backend: Backend, size: int, bad: float) -> None:
    largest = float(np.finfo(np.float32).max)
    values = np.tile([largest, -largest, 0.0], (4, size))[:, :size]
    for k, place in ((1, 0), (3, size - 1)):
        values[k, place] = bad
    np.testing.assert_array_equal(backend.finite(backend.from_host(values, backend.dtype)), [True, False, True, False])


# -- what they cost --------------------------------------------------------------------------------------


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each allocation on the host's "device" from now on."""
    sizes: list[int] = []
    init = Allocation.__init__

    def counting(allocation: Allocation, device: Any, nbytes: int) -> None:
        sizes.append(nbytes)
        init(allocation, device, nbytes)

    monkeypatch.setattr(Allocation, "__init__", counting)
    return sizes


@pytest.mark.parametrize("make", [CudaBackend, UnfusedBackend])
def test_looking_for_what_is_not_finite_takes_hardly_any_memory(allocated: list[int], make: Any) -> None:
    backend = make(host_driver(), "float32")
    theta = backend.zeros((3, 128 * 500))
    allocated.clear()
    assert backend.finite(theta).all()
    assert sum(allocated) <= 2 * theta.nbytes / 100


def test_assignment_and_copies_take_no_memory_that_grows_with_the_stack(
    allocated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = CudaBackend(host_driver(), "float32")
    monkeypatch.setattr(unfused, "MOVED", 2 * 128)
    source, target = backend.zeros((40, 128)), backend.zeros((40, 128))
    allocated.clear()
    backend.assign(target, source, np.arange(40) % 2 == 0)
    assert sum(allocated) == 40
    allocated.clear()
    backend.copy_networks(source, np.arange(40), target, np.arange(40))
    assert max(allocated) == 2 * 128 * 4


def test_on_a_device_the_reference_formulas_are_not_cut_into_blocks() -> None:
    calls = []
    tanh = get_activation("tanh")
    counted = type(tanh)(**{**fields_of(tanh), "f": lambda xp, z: calls.append(z.shape) or xp.tanh(z)})
    backend = UnfusedBackend(host_driver(), "float32")
    z = backend.zeros((2, 700, 60))
    parameters = Layer(W=z, b=backend.zeros((2, 1, 60)))
    backend.bias_activation(counted, parameters, LayerCache(0, z=z, a=z, delta=z, mask=None))
    assert calls == [(2, 700, 60)]


def test_a_kernel_is_assembled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another record of the same name, which is the user's, is not taken for it."""
    assembled = []
    source = backend_module.kernel_source
    monkeypatch.setattr(
        backend_module, "kernel_source", lambda *args, **named: assembled.append(args) or source(*args, **named)
    )
    backend, (relu, tanh) = CudaBackend(host_driver(), "float32"), map(get_activation, ("relu", "tanh"))
    logits = [backend.from_host(np.full((1, 2, 3), -2.0), np.float32) for _ in range(4)]
    imposter = type(relu)(**{**fields_of(tanh), "name": "relu"})
    for record, x in zip((relu, relu, imposter, relu), logits, strict=True):
        backend.output(record, x)
    assert len(assembled) == 2
    np.testing.assert_allclose([host(x)[0, 0, 0] for x in logits], [0, 0, np.tanh(-2.0), 0], rtol=1e-6)


def fields_of(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
