"""The driver of a real device: against stand-ins for CuPy and cuBLASLt, and, where there is a device, on it."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from gpubp.backends.cuda import gemm
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.cupy_driver import CupyDriver
from gpubp.backends.cuda.driver import EPILOGUES, TYPES, GemmSpec, NoAlgorithmError, OutOfDeviceMemoryError
from gpubp.backends.cuda.gemm_table import GemmTable, configuration, read_table
from gpubp.backends.cuda.probe import probe
from gpubp.backends.notices import say_once
from gpubp.errors import DeviceError
from support import cuda_stubs
from support.cuda_host import HostDriverError
from support.cuda_host.gemm import HostProduct
from support.cuda_stubs import CompileException, CublasLtStub, CUDARuntimeError, CupyStub, OutOfMemoryError, configured
from support.package import REPOSITORY

WITH_EVERY_TRANSPOSE = list(itertools.product([False, True], repeat=2))


@dataclass(frozen=True)
class SourceText:
    """A kernel's source."""

    name: str = "scale"
    text: str = (
        'extern "C" __global__ void scale(float* x, float c, int n) { if (threadIdx.x < n) x[threadIdx.x] *= c; }'
    )
    options: tuple[str, ...] = ()


@pytest.fixture
def lt() -> CublasLtStub:
    return CublasLtStub()


@pytest.fixture
def cupy(lt: CublasLtStub, monkeypatch: pytest.MonkeyPatch) -> CupyStub:
    stub = CupyStub()
    cuda_stubs.install(monkeypatch, stub, lt)
    return stub


@pytest.fixture
def table(cupy: CupyStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GemmTable:
    """The user's for the device, in which nothing is; its folder is there."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    say_once.cache_clear()
    empty = read_table("GPU X", 4, 130100)
    empty.path.parent.mkdir(parents=True)
    return empty


def dtype_of(name: str) -> Any:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass
class Product:
    """Operands for a spec, on the host, with gaps between networks, and what must come out."""

    spec: GemmSpec
    a: Any
    b: Any
    bias: Any
    expected: Any


def product(spec: GemmSpec, seed: int = 0) -> Product:
    """Small whole numbers, of which every type here holds sums exactly."""
    rng = np.random.default_rng(seed)

    def operand(rows: int, columns: int, transpose: bool, stride: int) -> tuple[Any, Any]:
        shape = (columns, rows) if transpose else (rows, columns)
        flat = rng.integers(-2, 3, (spec.networks - 1) * stride + rows * columns).astype(float)
        matrices = np.stack([flat[k * stride :][: rows * columns].reshape(shape) for k in range(spec.networks)])
        return flat.astype(dtype_of(spec.in_type)), matrices.swapaxes(1, 2) if transpose else matrices

    a, op_a = operand(spec.m, spec.k, spec.transpose_a, spec.a_stride)
    b, op_b = operand(spec.k, spec.n, spec.transpose_b, spec.b_stride)
    bias = rng.integers(-3, 4, (spec.networks - 1) * spec.bias_stride + spec.n).astype(float)
    expected = op_a @ op_b
    if spec.adds_bias:
        expected += np.stack([bias[k * spec.bias_stride :][None, : spec.n] for k in range(spec.networks)])
    if spec.epilogue == "relu_bias":
        expected = np.maximum(expected, 0)
    return Product(spec, a, b, bias.astype(dtype_of(spec.out_type)), expected)


def run(driver: CupyDriver, of: Product) -> tuple[Any, Any]:
    """What the driver makes of it, (K, m, n), and what it wrote into the gaps between networks."""
    spec = of.spec
    size = spec.m * spec.n
    canary = np.full((spec.networks - 1) * spec.out_stride + size, 77.0).astype(dtype_of(spec.out_type))
    operands = operands_of(driver, of, canary)
    driver.gemm(spec)(*operands)
    flat = np.asarray(driver.to_host(operands[2]), float)
    places = np.arange(spec.networks)[:, None] * spec.out_stride + np.arange(size)
    return flat[places].reshape(-1, spec.m, spec.n), np.delete(flat, places.ravel())


def operands_of(driver: CupyDriver, of: Product, out: Any) -> tuple[Any, ...]:
    """a, b, out, and a bias where there is one, on the device; `out` is what out holds before."""
    bias = (of.bias,) if of.spec.adds_bias else ()
    return tuple(map(driver.to_device, (of.a, of.b, out, *bias)))


def spec_of(
    networks: int = 1,
    transpose: tuple[bool, bool] = (False, False),
    types: tuple[str, str] = ("float32", "float32"),
    shared: str = "",
    **named: Any,
) -> GemmSpec:
    m, n, k = 3, 4, 6
    strides = {"a_stride": m * k + 2, "b_stride": k * n + 6, "out_stride": m * n + 1, "bias_stride": n + 3}
    strides |= dict.fromkeys((f"{name}_stride" for name in shared.split()), 0)
    compute = "float64" if types[0] == "float64" else "float32"
    return replace(GemmSpec(networks, m, n, k, *transpose, 0, 0, 0, *types, compute), **strides, **named)


# -- products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose", WITH_EVERY_TRANSPOSE)
@pytest.mark.parametrize(("networks", "shared"), [(1, ""), (5, ""), (5, "a"), (5, "b bias"), (1, "a b out bias")])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_products_through_cublaslt(
    cupy: CupyStub, transpose: tuple[bool, bool], networks: int, shared: str, epilogue: str
) -> None:
    of = product(spec_of(networks, transpose, shared=shared, epilogue=epilogue))
    result, gaps = run(CupyDriver(), of)
    np.testing.assert_array_equal(result, of.expected)
    assert (gaps == 77).all()


@pytest.mark.parametrize("types", TYPES)
def test_every_type_has_its_compute_type(cupy: CupyStub, lt: CublasLtStub, types: tuple[str, str]) -> None:
    of = product(spec_of(2, types=types, epilogue="relu_bias"))
    np.testing.assert_array_equal(run(CupyDriver(), of)[0], of.expected)
    codes = {"float64": (70, 1)}
    assert (lt.products[0]["compute"], lt.products[0]["scale"]) == codes.get(types[0], (68, 0))


def test_tf32(cupy: CupyStub, lt: CublasLtStub) -> None:
    run(CupyDriver(), product(spec_of(compute="tf32")))
    assert (lt.products[0]["compute"], lt.products[0]["scale"]) == (77, 0)


def test_what_cublaslt_may_choose_from(cupy: CupyStub, lt: CublasLtStub) -> None:
    run(CupyDriver(), product(spec_of(5)))
    (asked,) = lt.asked
    assert asked["REDUCTION_SCHEME_MASK"] == 2  # in the compute type; 1 is in place, 4 in the output's type
    assert asked["MAX_WORKSPACE_BYTES"] == 32 << 20


@pytest.mark.parametrize(("capability", "size"), [((7, 5), 4), ((8, 9), 4), ((9, 0), 32), ((10, 0), 32), ((12, 0), 32)])
def test_the_workspace_is_fixed(capability: tuple[int, int], size: int) -> None:
    assert gemm.workspace_size(capability) == size << 20


def test_one_workspace_serves_all_products_of_a_stream(cupy: CupyStub) -> None:
    driver = CupyDriver()
    before = cupy.log.count("allocation")
    for transpose in WITH_EVERY_TRANSPOSE:
        assert driver.gemm(spec_of(2, transpose)) is driver.gemm(spec_of(2, transpose))
    assert cupy.log.count("allocation") == before == 2


def test_alignment_is_that_of_the_operands(cupy: CupyStub, lt: CublasLtStub) -> None:
    """And an algorithm is chosen once for each way in which operands lie."""
    prepared = CupyDriver().gemm(spec_of(1, epilogue="bias"))
    a, b, out, bias = (cuda_stubs.zeros((64,), np.float32, offset) for offset in (8, 512, 64, 4))
    prepared(a, b, out, bias)
    prepared(a, b, out, bias)
    names = ("A", "B", "C", "D")
    assert [[asked[f"MIN_ALIGNMENT_{name}_BYTES"] for name in names] for asked in lt.asked] == [[256, 8, 64, 64]]
    assert lt.asked[0]["BIAS_POINTER"] == bias.ctypes.data
    prepared(a, b, out, cuda_stubs.zeros((64,), np.float32, 8))
    prepared(b, b, out, bias)
    assert len(lt.asked) == 3
    stacked = CupyDriver().gemm(spec_of(2))  # the second network's matrices start 20, 30 and 13 elements later
    stacked(*(cuda_stubs.zeros((64,), np.float32) for _ in range(3)))
    assert [lt.asked[3][f"MIN_ALIGNMENT_{name}_BYTES"] for name in names] == [8, 16, 4, 4]


@pytest.mark.parametrize("refusal", ["none", 15])
def test_no_algorithm(cupy: CupyStub, lt: CublasLtStub, refusal: str | int) -> None:
    driver, spec = CupyDriver(), spec_of(types=("bfloat16", "bfloat16"), transpose=(True, False))
    lt.refusal = refusal
    with pytest.raises(DeviceError, match="no algorithm") as caught:
        run(driver, product(spec))
    for part in ("3 x 6 transposed", "6 x 4", "bfloat16 to bfloat16", "GPU X", "use another precision"):
        assert part in str(caught.value)
    assert not any("MAX_WORKSPACE_BYTES" in descriptor for descriptor in lt.live.values())
    lt.refusal = ""
    with pytest.raises(DeviceError, match="no algorithm"):  # what was decided stays
        run(driver, product(spec))
    assert (len(lt.asked), driver.prepared()) == (1, [])
    run(CupyDriver(), product(spec))


def test_no_algorithm_with_the_epilogue(cupy: CupyStub, lt: CublasLtStub) -> None:
    lt.no_epilogue, driver = True, CupyDriver()
    with pytest.raises(NoAlgorithmError, match="epilogue bias: cuBLASLt has no algorithm"):
        run(driver, product(spec_of(epilogue="bias")))
    run(driver, product(spec_of()))
    assert driver.prepared() == [spec_of()]


@pytest.mark.parametrize("status", [7, 15])
@pytest.mark.parametrize("call", ["cublasLtMatmul", "cublasLtMatmulAlgoGetHeuristic"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_an_epilogue_that_the_library_refuses_is_left_to_kernels(
    cupy: CupyStub, lt: CublasLtStub, call: str, status: int, epilogue: str
) -> None:
    """Whether it says so where an algorithm is chosen or where it is used; a product without one cannot be left."""
    driver, spec = CupyDriver(), spec_of(epilogue=epilogue)
    operands = operands_of(driver, product(spec), np.zeros(12, np.float32))
    lt.statuses[call] = status
    without = epilogue == "none" and not (call.endswith("Heuristic") and status == 15)
    for _ in range(2):
        with pytest.raises(DeviceError, match=f"CUBLAS_STATUS_{status}" if without else "no algorithm") as caught:
            driver.gemm(spec)(*operands)
        assert isinstance(caught.value, NoAlgorithmError) is not without
    assert spec not in driver.prepared() or without


def test_another_failure_of_the_choice_is_not_taken_for_a_refusal(cupy: CupyStub, lt: CublasLtStub) -> None:
    driver = CupyDriver()
    lt.refusal = 1
    with pytest.raises(DeviceError, match="CUBLAS_STATUS_1"):
        run(driver, product(spec_of()))


def test_descriptors_go_with_their_product(cupy: CupyStub, lt: CublasLtStub) -> None:
    driver = CupyDriver()
    run(driver, product(spec_of(epilogue="bias")))
    assert len(lt.live) == 4
    driver._gemms.clear()
    gc.collect()
    assert not lt.live

    lt.statuses["cublasLtMatrixLayoutCreate"] = 3
    with pytest.raises(DeviceError, match="CUBLAS_STATUS_3") as caught:
        driver.gemm(spec_of())
    del caught
    gc.collect()
    assert not lt.live


# -- the user's table ------------------------------------------------------------------------------------


def test_a_table_chooses_among_what_cublaslt_proposes(cupy: CupyStub, lt: CublasLtStub, table: GemmTable) -> None:
    lt.algorithms = [configured(1), configured(2, 5), configured(2, 6), configured(3, 0, 2, 1)]
    kinds = {name: spec_of(epilogue=name) for name in EPILOGUES}
    wanted = {kinds["bias"]: configured(2, 6).config, kinds["relu_bias"]: configured(3, 0, 2, 1).config}
    table.path.write_text(replace(table, algorithms=wanted).text)
    driver = CupyDriver()
    for spec in kinds.values():
        np.testing.assert_array_equal(run(driver, product(spec))[0], product(spec).expected)
    # no entry; its entry; an entry that is not proposed, since it adds up in place
    assert [used.config[:2] for used in lt.used] == [(1, 0), (2, 6), (1, 0)]
    assert [asked["count"] for asked in lt.asked] == [1, gemm.PROPOSALS, gemm.PROPOSALS]
    digest = replace(table, algorithms=dict(reversed(wanted.items()))).digest
    assert driver.gemm_table == CudaBackend(driver, "float32").gemm_table == digest is not None


def test_the_hash_of_a_table_is_that_of_its_choices_in_every_version(table: GemmTable) -> None:
    """Metrics of earlier runs hold it."""
    spec = GemmSpec(2, 3, 4, 6, False, True, 18, 24, 12, "float32", "float32", "float32", "bias", 4)
    assert replace(table, algorithms={spec: tuple(range(1, 10))}).digest == "3c506445eacfccb9"


def test_a_table_holds_products_with_every_epilogue(table: GemmTable) -> None:
    wanted = {spec_of(epilogue=name): tuple(range(number, number + 9)) for number, name in enumerate(EPILOGUES)}
    table.path.write_text(replace(table, algorithms=wanted).text)
    assert read_table("GPU X", 4, 130100).algorithms == wanted


def test_another_device_or_version_has_a_table_of_its_own(table: GemmTable) -> None:
    others = [("GPU Y", 4, 130100), ("GPU X", 5, 130100), ("GPU X", 4, 130200)]
    assert len({table.path, *(read_table(*other).path for other in others)}) == 4


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-20], "JSONDecodeError"),
        (lambda text: "[]", "TypeError"),
        (lambda text: text.replace("GPU X", "GPU Y"), "made for {"),
        (lambda text: text.replace("TILE_ID", "TILE"), "TILE_ID"),
        (lambda text: text.replace('"networks"', '"models"'), "models"),
    ],
)
def test_what_is_not_a_table_of_this_device_is_not_used_and_that_is_said_once(
    lt: CublasLtStub, table: GemmTable, damage: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    lt.algorithms = [configured(1), configured(2)]
    table.path.write_text(damage(replace(table, algorithms={spec_of(): configured(2).config}).text))
    run(CupyDriver(), product(spec_of()))
    assert (lt.used[0].config[0], CupyDriver().gemm_table) == (1, None)
    (message,) = caplog.messages
    for part in (str(table.path), said, "not used; delete it, or make it anew with gpubp bench --tune"):
        assert part in message


def test_the_host_driver_refuses_products_that_cublaslt_has_not() -> None:
    for epilogue in EPILOGUES:
        for types in TYPES:
            HostProduct(replace(spec_of(epilogue=epilogue), in_type=types[0], out_type=types[1]))
        for types in (("float32", "float16"), ("float64", "float32")):
            with pytest.raises(HostDriverError, match="no product of these types with this epilogue"):
                HostProduct(replace(spec_of(epilogue=epilogue), in_type=types[0], out_type=types[1]))
    with pytest.raises(HostDriverError, match="no product of these types with this epilogue"):
        HostProduct(replace(spec_of(), epilogue="gelu_bias"))


# -- two streams -----------------------------------------------------------------------------------------


def work_aside(driver: CupyDriver, products: list[tuple[GemmSpec, tuple[Any, ...]]]) -> None:
    """The first and the third in the driver's stream, the second aside."""
    (first, a), (second, b), (third, c) = products
    driver.gemm(first)(*a)
    with driver.aside():
        driver.gemm(second)(*b)
    driver.gemm(third)(*c)


def three_products(driver: CupyDriver) -> list[tuple[GemmSpec, tuple[Any, ...]]]:
    made = [product(spec_of(), seed) for seed in range(3)]
    return [(of.spec, operands_of(driver, of, np.zeros(12, np.float32))) for of in made]


def test_work_aside_has_a_stream_and_a_workspace_of_its_own(cupy: CupyStub, lt: CublasLtStub) -> None:
    driver = CupyDriver()
    products = three_products(driver)
    work_aside(driver, products)
    assert len(set(lt.workspaces.values())) == len(lt.workspaces) == 2 and cupy.log.count("wait_event") == 1
    driver.join()
    driver.join()
    assert cupy.log.count("wait_event") == 2
    work_aside(driver, products)
    driver.to_host(products[1][1][2])  # waits for it too
    work_aside(driver, products)
    driver.synchronize()
    assert cupy.log.count("wait_event") == 6


def test_threads_take_turns(cupy: CupyStub) -> None:
    """At whatever launches, allocates or copies, and a thread that has its turn may launch."""
    cupy.kernels["scale"] = lambda *launch: None
    driver = CupyDriver()
    products, launch = three_products(driver), driver.kernel(SourceText())
    array = driver.to_device(np.zeros(3, np.float32))
    uses: dict[str, Callable[[], Any]] = {
        "a kernel": lambda: launch((1, 1, 1), 32, (array,)),
        "a copy": lambda: driver.to_host(array),
        "an allocation": lambda: driver.empty((3,), np.float32),
        "work aside": lambda: work_aside(driver, products),
        "a capture": lambda: driver.capture(lambda: None),
        "a mark": driver.mark,
    }
    used: list[str] = []
    for what, use in uses.items():
        thread = Thread(target=lambda what=what, use=use: (use(), used.append(what)))
        with driver.turn():
            use()
            there = len(cupy.log)
            thread.start()
            thread.join(0.05)
            assert thread.is_alive() and len(cupy.log) == there, what
        thread.join()
        assert used[-1:] == [what]


@pytest.mark.parametrize("joined", [False, True])
def test_a_captured_step_has_what_was_launched_aside(cupy: CupyStub, joined: bool) -> None:
    """Joined by the step, or by the end of the capture."""
    driver = CupyDriver()
    products = three_products(driver)
    work_aside(driver, products)  # and what is not joined by then is no part of it

    def step() -> None:
        work_aside(driver, products)
        if joined:
            driver.join()

    replay = driver.capture(step)
    for _, operands in products:
        operands[2].fill(77)
    replay()
    for seed, (_, operands) in enumerate(products):
        np.testing.assert_array_equal(driver.to_host(operands[2]).reshape(1, 3, 4), product(spec_of(), seed).expected)


def test_a_failure_aside_leaves_the_driver_fit(cupy: CupyStub) -> None:
    driver = CupyDriver()
    products = three_products(driver)

    def fail() -> None:
        with driver.aside():
            raise ValueError("mine")

    for attempt in (fail, lambda: driver.capture(fail)):
        with pytest.raises(ValueError, match="mine"):
            attempt()
        assert not cupy.stream.capturing
    driver.capture(lambda: work_aside(driver, products))()


def add_up(cupy: CupyStub, driver: CupyDriver, array: Any) -> None:
    """What NCCL does for two devices with the same array."""
    with driver.collective(array) as stream:
        cupy.streams[stream].send(lambda: np.multiply(array, 2, out=array))


@pytest.mark.parametrize("captured", [False, True])
def test_sums_over_several_devices_have_a_stream_of_their_own(cupy: CupyStub, captured: bool) -> None:
    """Work aside is joined before they begin, since it may write what they add up; they are joined by themselves."""
    driver = CupyDriver()
    products = three_products(driver)
    arrays = [operands[2] for _, operands in products]

    def step() -> None:
        work_aside(driver, products)
        before = cupy.log.count("wait_event")
        add_up(cupy, driver, arrays[1])
        assert cupy.log.count("wait_event") == before + 2  # for what is aside, then for what is there
        driver.join()
        assert cupy.log.count("wait_event") == before + 2
        driver.join_collectives()
        driver.join_collectives()
        assert cupy.log.count("wait_event") == before + 3

    step()
    if captured:
        replay = driver.capture(step)
        for array in arrays:
            array.fill(77)
        replay()
    assert len(cupy.streams) == 3  # a third one, once it is needed
    for seed, array in enumerate(arrays):
        expected = product(spec_of(), seed).expected * (2 if seed == 1 else 1)
        np.testing.assert_array_equal(driver.to_host(array).reshape(1, 3, 4), expected)


def test_what_waits_for_all_waits_for_sums_over_several_devices(cupy: CupyStub) -> None:
    driver = CupyDriver()
    array = driver.zeros((4,), np.float32)
    waits = [lambda: driver.to_host(array), lambda: driver.zeros((4,), np.float32), driver.synchronize, driver.mark]
    for wait in (*waits, lambda: driver.capture(lambda: None)):
        add_up(cupy, driver, array)
        before = cupy.log.count("wait_event")
        wait()
        assert cupy.log.count("wait_event") == before + 1
    driver.capture(lambda: add_up(cupy, driver, array))()  # joined by the end of the capture


def test_a_failed_capture_of_sums_leaves_the_driver_fit(cupy: CupyStub) -> None:
    driver = CupyDriver()
    array = driver.zeros((4,), np.float32)

    def fail() -> None:
        add_up(cupy, driver, array)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        driver.capture(fail)
    driver.capture(lambda: add_up(cupy, driver, array))()
    driver.synchronize()


def test_a_graph_is_given_up_before_what_it_was_captured_from(cupy: CupyStub) -> None:
    """A communicator of NCCL that is closed waits for all graphs with sums of its own; here the two are in a cycle."""
    driver, given_up = CupyDriver(), []

    class Step:
        def __init__(self) -> None:
            self.communicator = np.empty(0)  # which the collector of cycles does not see, as it does not see a graph
            self.replay: Any = driver.capture(self.run)
            self.replay.graph = np.empty(0)
            weakref.finalize(self.communicator, given_up.append, "communicator")
            weakref.finalize(self.replay.graph, given_up.append, "graph")

        def run(self) -> None:
            """Nothing."""

    Step()
    gc.collect()
    assert given_up == ["graph", "communicator"]


# -- kernels, memory and capture -------------------------------------------------------------------------


def test_what_a_driver_says_of_its_device(cupy: CupyStub) -> None:
    driver = CupyDriver()
    assert (driver.name, driver.compute_capability, driver.multiprocessors) == ("GPU X", (9, 0), 4)
    assert not cupy.stream.non_blocking  # array arithmetic is ordered with kernels
    assert driver.xp.maximum is cupy.maximum


def test_free_memory_counts_what_cupy_keeps(cupy: CupyStub) -> None:
    assert CupyDriver().free_memory() == (3 << 20) + (1 << 20)


def test_arithmetic_happens_on_the_device_that_was_opened_last(cupy: CupyStub) -> None:
    CupyDriver(1).use()
    assert cuda_stubs.Device.used == 1
    CupyDriver(0).use()
    assert cuda_stubs.Device.used == 0


def test_a_kernel_is_compiled_once(cupy: CupyStub) -> None:
    driver, launched = CupyDriver(), []
    cupy.kernels["scale"] = lambda *arguments: launched.append(arguments)
    assert driver.kernel(SourceText()) is driver.kernel(SourceText())
    args = (driver.zeros((4,), np.float32), np.float32(2), np.int32(4))
    driver.kernel(SourceText())((5, 2, 1), 64, args)
    assert launched == [((5, 2, 1), (64,), args)]
    assert cupy.sources == [SourceText().text]


def test_copies(cupy: CupyStub) -> None:
    driver = CupyDriver()
    host = np.arange(6.0).reshape(2, 3)
    device = driver.to_device(host)
    host[0, 0] = 9
    np.testing.assert_array_equal(driver.to_host(device), [[0, 1, 2], [3, 4, 5]])
    assert driver.empty((2, 0), np.int32).shape == (2, 0)
    driver.synchronize()


def test_a_copy_beside_other_work_waits_for_a_moment_and_nothing_for_the_copy(cupy: CupyStub) -> None:
    driver = CupyDriver()
    host, out = driver.pinned((2, 3), np.float32), driver.zeros((2, 3), np.float32)
    assert (host.shape, host.dtype, host.flags.writeable) == ((2, 3), np.float32, True)
    host[...] = 5
    moment = driver.mark()
    cupy.log.clear()
    for _ in range(2):
        driver.copy_beside(host, out, moment)
    calls = [name for name in cupy.log if name != "Device"]
    assert calls == ["Stream", *["wait_event", "set", "synchronize"] * 2]
    assert max(cupy.streams.items())[1].non_blocking
    np.testing.assert_array_equal(out, host)


def test_a_captured_step_is_a_graph_and_keeps_what_it_launches(cupy: CupyStub) -> None:
    driver = CupyDriver()
    seen = []
    replay = driver.capture(lambda: seen.append(cupy.stream.capturing and not cuda_stubs.Stream.current))
    assert seen == [True]  # and CuPy's own arithmetic would have gone elsewhere, which the device refuses
    assert replay.captured is not None  # type: ignore[attr-defined]
    replay()
    replay()
    assert seen == [True]
    assert cupy.log.count("launch of a graph") == 2


def launches(driver: CupyDriver) -> Any:
    """Something that launches a kernel, four blocks of 64 threads, on two numbers."""
    args = (driver.zeros((4,), np.float32), np.float32(2), np.int32(4))
    return lambda: driver.kernel(SourceText())((4, 1, 1), 64, args, 128)


def calls(cupy: CupyStub) -> list[str]:
    return [name for name in cupy.log if "launch of scale" in name]


def test_in_a_capture_a_kernel_is_launched_before_the_one_before_it_has_ended(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.kernels["scale"] = lambda *arguments: None
    launch = launches(driver)
    launch()
    cupy.log.clear()

    def step() -> None:
        launch()
        launch()
        with driver.aside():
            launch()
            launch()
        launch()
        driver.join()
        launch()
        launch()

    driver.capture(step)
    main, early = "launch of scale", "dependent launch of scale"
    # Not the first of a graph, nor what is launched aside, nor what comes after two streams.
    assert calls(cupy) == [main, early, main, main, early, main, early]
    name, grid, block, shared, arguments = cupy.library.launched[0]
    assert (name, grid, block, shared) == ("scale", (4, 1, 1), (64, 1, 1), 128)
    at = [arguments[i] for i in range(3)]
    assert ctypes.c_uint64.from_address(at[0]).value % 512 == 0
    assert ctypes.c_float.from_address(at[1]).value == 2
    assert ctypes.c_int32.from_address(at[2]).value == 4
    cupy.log.clear()
    launch()
    launch()
    assert calls(cupy) == [main, main]  # outside


def test_no_kernel_is_launched_early_after_a_product(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.kernels["scale"] = lambda *arguments: None
    launch, ((spec, operands), *_) = launches(driver), three_products(driver)
    launch()
    driver.gemm(spec)(*operands)
    cupy.log.clear()
    driver.capture(lambda: [launch(), driver.gemm(spec)(*operands), launch(), launch()])
    assert calls(cupy) == ["launch of scale", "launch of scale", "dependent launch of scale"]


def test_older_devices_have_no_early_launches(lt: CublasLtStub, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = CupyStub(capability=(8, 9))
    cuda_stubs.install(monkeypatch, cupy, lt)
    driver = CupyDriver()
    cupy.kernels["scale"] = lambda *arguments: None
    launch = launches(driver)
    driver.capture(lambda: [launch(), launch()])
    assert calls(cupy) == ["launch of scale"] * 2


def test_an_early_launch_that_fails_is_a_fault(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.kernels["scale"] = lambda *arguments: None
    launch, cupy.library.status = launches(driver), 1
    with pytest.raises(DeviceError, match='GPU X, kernel "scale": .*cuLaunchKernelEx: CUDA_ERROR_INVALID_VALUE'):
        driver.capture(lambda: [launch(), launch()])
    assert not cuda_stubs.Device.current
    cupy.library.status = 0
    driver.capture(launch)


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_failed_capture_is_ended(cupy: CupyStub, error: BaseException, spoiled: bool) -> None:
    driver = CupyDriver()
    if spoiled:
        cupy.faults["end_capture"] = CUDARuntimeError("cudaErrorStreamCaptureInvalidated")

    def step() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        driver.capture(step)
    assert caught.value is error
    assert not cupy.stream.capturing
    cupy.faults.clear()
    driver.capture(lambda: None)()


def test_arithmetic_inside_a_captured_step(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.faults["end_capture"] = CUDARuntimeError("cudaErrorStreamCaptureImplicit: legacy stream")
    with pytest.raises(DeviceError, match="GPU X, capture of a step: something other than kernels"):
        driver.capture(lambda: None)
    assert not cupy.stream.capturing


START = """
import time
import numpy, pytest
begin = time.process_time()
from support import cuda_stubs
cuda_stubs.install(pytest.MonkeyPatch(), cuda_stubs.CupyStub(), cuda_stubs.CublasLtStub())
from gpubp.backends.cuda import open_backend
open_backend("cuda", "cuda", 0, "float32")
print(time.process_time() - begin)
"""


def test_the_backend_starts_soon_after_cupy(tmp_path: Path) -> None:
    """What CuPy brings, NumPy, is there already; libraries that take long to load would show."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}
    env |= dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), str(tmp_path))
    done = subprocess.run([sys.executable, "-c", START], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 0.6  # of the processor's time, over importing CuPy


# -- faults --------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much_was_asked_for_and_what_is_free(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.faults["allocation"] = OutOfMemoryError("Out of memory allocating 6,291,456 bytes")
    for allocate in (driver.empty, driver.zeros):
        with pytest.raises(
            OutOfDeviceMemoryError, match="6.0 MiB were asked for, 3.0 MiB of 8,192.0 MiB are free"
        ) as e:
            allocate((3, 2**19), np.float32)
        assert (e.value.asked, e.value.free) == (6 << 20, 3 << 20)
    cupy.faults = {"copy": OutOfMemoryError("Out of memory")}
    with pytest.raises(OutOfDeviceMemoryError, match="asked for"):
        driver.to_device(np.zeros(5))
    cupy.faults.clear()
    driver.to_device(np.zeros(5))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("launch of scale", CUDARuntimeError("cudaErrorIllegalAddress: x"), 'kernel "scale": the device\'s work was'),
        ("launch of scale", CUDARuntimeError("cudaErrorWhatever: x"), 'kernel "scale": CUDARuntimeError: cudaErrorWh'),
        ("compile", CompileException("\nk.cu(3): error: no y\n x = y;\n\n ^\n1 error"), "error: no y / x = y; / ^)"),
        ("compile", CompileException('could not open source file "cuda_fp16.h"'), "CUDA headers are missing"),
        ("compile", ImportError("Failure finding libnvrtc.so.13"), "a library of the CUDA toolkit is missing"),
        ("compile", PermissionError(13, "Permission denied", "/x"), "set CUPY_CACHE_DIR to"),
        ("synchronize", CUDARuntimeError("cudaErrorIllegalAddress: x"), "CUDA_LAUNCH_BLOCKING=1"),
    ],
)
def test_a_fault_names_the_device_the_work_and_the_remedy(
    cupy: CupyStub, call: str, error: Exception, said: str
) -> None:
    driver = CupyDriver()
    cupy.kernels["scale"] = lambda *arguments: None
    cupy.faults[call] = error
    with pytest.raises(DeviceError) as caught:
        driver.kernel(SourceText())((1, 1, 1), 32, ())
        driver.synchronize()
    assert str(caught.value).startswith("GPU X, ")
    assert said in str(caught.value)
    assert caught.value.__cause__ is error
    assert not cuda_stubs.Device.current
    assert not cuda_stubs.Stream.current


def test_a_mistake_in_a_call_is_not_taken_for_a_fault(cupy: CupyStub) -> None:
    driver = CupyDriver()
    cupy.faults["launch of scale"] = TypeError("Unsupported type <class 'str'>")
    with pytest.raises(TypeError):
        driver.kernel(SourceText())((1, 1, 1), 32, ("x",))


# -- on a device ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device() -> CupyDriver:
    state = probe()
    if not state.usable:
        pytest.skip(f"no CUDA device: {state.summary}")
    return CupyDriver()


@pytest.mark.gpu
def test_gpu_kernel(device: CupyDriver) -> None:
    x = device.to_device(np.arange(40, dtype=np.float32))
    device.kernel(SourceText())((1, 1, 1), 64, (x, np.float32(3), np.int32(33)))
    expected = np.arange(40.0)
    expected[:33] *= 3
    np.testing.assert_array_equal(device.to_host(x), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(("networks", "shared"), [(1, ""), (5, ""), (5, "a"), (5, "b bias")])
def test_gpu_products(device: CupyDriver, types: tuple[str, str], networks: int, shared: str) -> None:
    """Exact in every type; strides are odd, so that matrices are aligned to an element or two."""
    for transpose, epilogue in itertools.product(WITH_EVERY_TRANSPOSE, EPILOGUES):
        of = product(spec_of(networks, transpose, types, shared, epilogue=epilogue))
        result, gaps = run(device, of)
        np.testing.assert_array_equal(result, of.expected, str(of.spec))
        assert (gaps == 77).all(), of.spec


@pytest.mark.gpu
@pytest.mark.parametrize(("compute", "least", "most"), [("float32", 0, 2e-6), ("tf32", 2e-5, 2e-3)])
def test_gpu_precision(device: CupyDriver, compute: str, least: float, most: float) -> None:
    """At a size at which cuBLAS uses TF32 where it may: from m ≥ 16 and min(n, k) ≥ 512 on."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1024, 1024)).astype(np.float32)
    out = device.empty((1024, 1024), np.float32)
    spec = GemmSpec(1, 1024, 1024, 1024, False, False, 0, 0, 0, "float32", "float32", compute)
    if compute == "tf32" and device.compute_capability < (8, 0):
        pytest.skip("TF32 came with compute capability 8.0")
    device.gemm(spec)(device.to_device(a), device.to_device(b), out)
    exact = a.astype(float) @ b.astype(float)
    error = np.linalg.norm(device.to_host(out) - exact) / np.linalg.norm(exact)
    assert least < error < most


@pytest.mark.gpu
def test_gpu_unaligned_operands(device: CupyDriver) -> None:
    spec = GemmSpec(1, 64, 64, 64, False, True, 0, 0, 0, "float32", "float32", "float32", "bias")
    rng = np.random.default_rng(0)
    a, b, bias = (rng.integers(-2, 3, size).astype(np.float32) for size in (4096, 4096, 64))
    for shift in (0, 1, 2, 3, 4, 5):
        operands = [device.to_device(np.concatenate([np.zeros(shift, np.float32), x]))[shift:] for x in (a, b, bias)]
        out = device.zeros((4096 + shift,), np.float32)[shift:]
        device.gemm(spec)(operands[0], operands[1], out, operands[2])
        expected = a.reshape(64, 64) @ b.reshape(64, 64).T + bias
        np.testing.assert_array_equal(device.to_host(out).reshape(64, 64), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_gpu_what_is_proposed_is_found_again_and_right(
    device: CupyDriver, types: tuple[str, str], epilogue: str
) -> None:
    of = product(spec_of(types=types, epilogue=epilogue))
    operands = operands_of(device, of, np.zeros(12, dtype_of(types[1])))
    for proposed in gemm.LtGemm(device.cublas, of.spec).proposals(*operands):
        by = gemm.LtGemm(device.cublas, of.spec, proposed)
        by(*operands)
        np.testing.assert_array_equal(np.asarray(device.to_host(operands[2]), float).reshape(1, 3, 4), of.expected)
        (used,) = by._algorithms.values()
        assert configuration(device.cublas.library, used) == proposed


@pytest.mark.gpu
def test_gpu_relu_epilogue_keeps_what_is_not_a_number(device: CupyDriver) -> None:
    """Else a network that diverges would look as if it were learning."""
    of = product(spec_of(epilogue="relu_bias"))
    of.bias[1] = np.nan
    assert np.isnan(run(device, of)[0][:, :, 1]).all()


@pytest.mark.gpu
def test_gpu_replay_has_the_bits_of_a_call(device: CupyDriver) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 64, 64)).astype(np.float32)
    w = device.to_device(rng.normal(size=(3, 64, 64)).astype(np.float32) / 8)
    x, y = device.to_device(start), device.zeros((3, 64, 64), np.float32)
    spec = GemmSpec(3, 64, 64, 64, False, True, 4096, 4096, 4096, "float32", "float32", "tf32")

    def step() -> None:
        device.gemm(spec)(x, w, y)
        device.gemm(spec)(y, w, x)
        device.kernel(SourceText())((1, 1, 1), 64, (x, np.float32(1.5), np.int32(64)))

    for _ in range(3):
        step()
    called = device.to_host(x)
    replay = device.capture(step)
    np.testing.assert_array_equal(device.to_host(x), called)  # capturing runs nothing
    x[...] = device.to_device(start)
    for _ in range(3):
        replay()
    np.testing.assert_array_equal(device.to_host(x), called)


@pytest.mark.gpu
def test_gpu_arithmetic_in_a_capture_is_refused_and_leaves_the_device_fit(device: CupyDriver) -> None:
    x = device.to_device(np.ones(64, np.float32))
    x += 1  # compiles it

    def arithmetic() -> None:
        x[...] += 1

    with pytest.raises(DeviceError):
        device.capture(arithmetic)
    scale = device.kernel(SourceText())
    replay = device.capture(lambda: scale((1, 1, 1), 64, (x, np.float32(2), np.int32(64))))
    replay()
    np.testing.assert_array_equal(device.to_host(x), np.full(64, 4))


@pytest.mark.gpu
def test_gpu_out_of_memory(device: CupyDriver) -> None:
    with pytest.raises(OutOfDeviceMemoryError, match="are free") as caught:
        device.empty((1 << 50,), np.float32)
    assert caught.value.asked == 1 << 52
    assert 0 < caught.value.free < 1 << 45
    assert device.to_host(device.zeros((3,), np.float32)).sum() == 0
