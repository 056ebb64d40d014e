"""Ranks with a GPU each, whose gradients NCCL adds up slice by slice, beside the backward pass and within its graph.

Ranks are threads, each with a stand-in for a device that runs the kernels on the host, and NCCL is a stand-in too. On a
GPU one rank runs, beside one that would do the same.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DivergenceError, RankError
from gpubp.activations import Activation, get_activation
from gpubp.backends.cuda import nccl
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.training import data_parallel
from gpubp.training.data_parallel import OverlappingRankStep
from gpubp.training.ranks import Ranks
from support.cuda_host import HostDriver, host_compiler
from support.cuda_host.memory import HostDriverError
from support.machines import by_tier, host
from support.nccl_stubs import Nccl
from support.package import REPOSITORY
from support.thread_ranks import ThreadComm, on_ranks

RNG = np.random.default_rng(29)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
OPTIONS: dict[str, Any] = {"batch_size": 16, "epochs": 3, "learning_rate": 0.01, "seed": 5}
EVERYTHING: dict[str, Any] = {
    "sample_weight": RNG.uniform(0.5, 2.0, 61),
    "max_grad_norm": 0.5,
    "l2": 1e-3,
    "dropout": 0.2,
    "label_smoothing": 0.1,
    "validation_data": (X[:13], Y[:13]),
}
FOLDER = REPOSITORY / ".pytest_cache" / "cuda_host"
ONE_SUM = 1 << 18  # the fewest elements of a slice; these networks have none

UNCAPTURED = dataclasses.replace(get_activation("tanh"), name="own", scalar_f=None, scalar_derivative=None)

Work = Callable[[CudaBackend, ThreadComm], Any]


class Devices:
    """A stand-in for a device for each of several ranks.

    Attributes
    ----------
    told : list of str
        What rank 0 launches, in order: kernels by name, sums by size, and where sums are joined.
    """

    def __init__(self, module: Nccl) -> None:
        self.module = module
        self.told: list[str] = []

    def run(self, size: int, work: Work, precision: str = "float64") -> list[Any]:
        """What ``work(backend, communicator)`` returns or raises on each rank."""

        def on_rank(communicator: ThreadComm) -> Any:
            self.module.ranks[communicator.rank] = communicator
            driver = HostDriver(FOLDER, seed=communicator.rank)
            driver.has_nccl = lambda: True  # type: ignore[method-assign]
            if communicator.rank == 0:
                self._tell(driver)
            return work(CudaBackend(driver, precision), communicator)

        return on_ranks(size, on_rank)

    def _tell(self, driver: HostDriver) -> None:
        launch, join = driver._streams.launch, driver.join_collectives

        def told_launch(accesses: Any, run: Any, stream: str = "") -> None:
            what = accesses[0].what.partition(",")[0].removeprefix("kernel ").strip('"')
            self.told.append(f"sum of {accesses[0].array.size}" if stream else what)
            launch(accesses, run, stream)

        def told_join() -> None:
            self.told.append("joined")
            join()

        driver._streams.launch, driver.join_collectives = told_launch, told_join  # type: ignore[method-assign]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """Devices whose ranks have slices of small networks too."""
    if host_compiler() is None:
        pytest.skip("no C++ compiler to run kernels with on the host; install g++ or clang++")
    module, cupy, cuda = Nccl(), types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    buses = iter(range(100))
    cuda.nccl, cupy.cuda = module, cuda  # type: ignore[attr-defined]
    cuda.runtime = types.SimpleNamespace(deviceGetPCIBusId=lambda index: next(buses))  # type: ignore[attr-defined]
    cuda.Device = lambda: types.SimpleNamespace(id=0)  # type: ignore[attr-defined]
    for name, stub in (("cupy", cupy), ("cupy.cuda", cuda), ("cupy.cuda.nccl", module)):
        monkeypatch.setitem(sys.modules, name, stub)
    monkeypatch.setattr(data_parallel, "FEWEST_IN_SLICE", 1)
    monkeypatch.setenv("GPUBP_ON_CHIP", "0")
    return Devices(module)


def training(activation: str | Activation = "tanh", **options: Any) -> Work:
    """The work of a rank: it returns θ and the losses."""

    def work(backend: CudaBackend, communicator: ThreadComm | None = None) -> Any:
        net = gpubp.MLP([6, 9, 8, 3], activation, seed=2, device=backend)
        history = gpubp.train(net, X, Y, **{**OPTIONS, **options}, communicator=communicator)
        return [host(net.theta), history.loss, history.validation_loss]

    return work


def ended_well(outcomes: list[Any]) -> list[Any]:
    """What each rank returned, which all ranks did."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        np.testing.assert_equal(outcome, outcomes[0])
    return outcomes


def with_one_sum(devices: Devices, monkeypatch: pytest.MonkeyPatch, size: int, work: Work, *precision: str) -> Any:
    """What ranks return whose gradients are added up once, after the backward pass."""
    monkeypatch.setattr(data_parallel, "FEWEST_IN_SLICE", ONE_SUM)
    started = len(devices.module.calls)
    outcomes = ended_well(devices.run(size, work, *precision))
    assert 768 in {call[2] for call in devices.module.calls[started:]} or size == 1
    return outcomes[0]


@pytest.mark.backends
def test_sums_are_begun_before_the_layers_below_and_joined_before_they_are_used(devices):
    ended_well(devices.run(2, training(epochs=1)))
    prepared = devices.told.index("joined")
    begun = devices.told.index("sum of 128", prepared)  # in the capture
    assert devices.told[begun - 2 : begun + 6] == [
        *("dense_loss", "dense_backward", "sum of 128"),  # of the last layer's weights
        *("dense_backward", "sum of 128", "dense_backward"),
        *("joined", "step_begin"),
    ]
    last = devices.told.index("sum of 128", begun + 3)  # of the first layer's; and of all biases
    assert devices.told[last : last + 4] == ["sum of 128", "sum of 384", "joined", "step_begin"]


@pytest.mark.backends
@pytest.mark.parametrize("precision", by_tier(["float64", "float32", "bfloat16"], lambda precision: False))
@pytest.mark.parametrize("by_library", [False, True], ids=["own kernels", "products of a library"])
def test_slices_have_the_bits_of_one_sum(devices, precision, by_library, monkeypatch):
    if by_library:  # whose weight gradients are computed aside
        monkeypatch.setattr(CudaBackend, "has_kernels_for", lambda *arguments, **options: False)
    work = training(**EVERYTHING)
    outcomes = ended_well(devices.run(2, work, precision))
    assert ("gemm: a" in devices.told) == by_library
    np.testing.assert_equal(outcomes[0], with_one_sum(devices, monkeypatch, 2, work, precision))
    alone = training(**EVERYTHING, accumulate=2)(CudaBackend(HostDriver(FOLDER), precision))
    np.testing.assert_equal(outcomes[0][:2], alone[:2])


@pytest.mark.backends
@pytest.mark.parametrize(
    "size, batch_size, rows, overlaps",
    [(4, 16, 59, True), (2, 1000, 61, True), (4, 5, 5, False)],
    ids=["last", "whole", "few"],
)
def test_ranks_some_of_which_have_no_rows(devices, size, batch_size, rows, overlaps, monkeypatch):
    """In the last batch of 11 rows rank 3 has none; of all in one batch of 5, which is refused to overlap, neither."""
    work = training(batch_size=batch_size, rows=[range(rows)])
    outcomes = ended_well(devices.run(size, work))
    assert ("sum of 128" in devices.told) == overlaps
    np.testing.assert_equal(outcomes[0], with_one_sum(devices, monkeypatch, size, work))


@pytest.mark.backends
def test_records_that_cannot_be_captured_begin_sums_between_calls(devices, monkeypatch):
    outcomes = ended_well(devices.run(2, training(UNCAPTURED)))
    steps = 3 * 4
    assert devices.told.count("sum of 128") == 2 * 2 + 3 * steps  # prepared for batches of two sizes
    begun = devices.told.index("sum of 128", devices.told.index("joined"))
    assert devices.told.index("joined", begun) < devices.told.index("step_begin", begun)
    np.testing.assert_equal(outcomes[0], with_one_sum(devices, monkeypatch, 2, training(UNCAPTURED)))


@pytest.mark.backends
@pytest.mark.parametrize("options", [{"accumulate": 2}, {"models": 2}], ids=str)
def test_several_parts_or_networks_have_one_sum(devices, options):
    models = options.pop("models", 1)

    def work(backend: CudaBackend, communicator: ThreadComm) -> Any:
        net = gpubp.MLP([6, 9, 8, 3], seed=2, device=backend, models=models)
        gpubp.train(net, X, Y, **OPTIONS, **options, communicator=communicator)
        return [host(net.theta)]

    ended_well(devices.run(2, work))
    assert {told for told in devices.told if told.startswith("sum")} == {f"sum of {models * 768}"}


# -- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("row", [2, 40])
def test_a_training_that_diverges_on_one_rank(devices, row):
    data = X.copy()
    data[row] = 1e200

    def diverging(backend: CudaBackend, communicator: ThreadComm | None, **options: Any) -> None:
        net = gpubp.MLP([6, 9, 8, 3], "relu", seed=2, device=backend)
        options |= {"optimizer": "sgd", "learning_rate": 1e200, "batch_size": 16, "shuffle": False}
        gpubp.train(net, data, Y, **options, communicator=communicator)

    with pytest.raises(DivergenceError) as alone:
        diverging(CudaBackend(HostDriver(FOLDER), "float64"), None, accumulate=2)
    errors = devices.run(2, diverging)
    assert [str(error) for error in errors] == [str(alone.value)] * 2


@pytest.mark.backends
@pytest.mark.parametrize("in_step", [0, 1, 2], ids=["prepared", "captured", "small batch"])
def test_a_rank_that_fails_ends_all(devices, in_step):
    """Before its sums are captured or launched, or where the last batch of an epoch is prepared."""

    def work(backend: CudaBackend, communicator: ThreadComm) -> None:
        backward, called = backend.dense_backward, [0]

        def failing(*arguments: Any) -> None:
            called[0] += 1
            if communicator.rank == 1 and called[0] == 3 * in_step + 2:
                raise MemoryError("no room")
            backward(*arguments)

        backend.dense_backward = failing  # type: ignore[method-assign]
        training()(backend, communicator)

    there, here = devices.run(2, work)
    assert isinstance(here, MemoryError) and isinstance(there, RankError) and "MemoryError: no room" in str(there)


# Faults planted into the step, and what notices them.


def begun_too_early(step: OverlappingRankStep) -> None:
    """Each slice's sum is begun one layer before its gradients are there."""
    step.after_layer = {layer + 1: part for layer, part in step.after_layer.items() if layer + 1 in step.after_layer}


def another_slice(step: OverlappingRankStep) -> None:
    """Sums are of the slice above."""
    step.after_layer = dict(zip(step.after_layer, reversed(step.after_layer.values()), strict=True))


def never_begun(step: OverlappingRankStep) -> None:
    """One slice is left to each rank."""
    step.after_layer.popitem()


def twice(step: OverlappingRankStep) -> None:
    """What was added up beside the backward pass is added up once more."""
    step.summed_last.append(step.summed_beside[0])


def never_joined(step: OverlappingRankStep) -> None:
    """The captured step writes the next gradients without waiting for the sums of these."""
    gradients = step.gradients

    def twice_gradients(*arguments: Any) -> None:
        gradients(*arguments)
        if len(arguments) > 1:  # and sums are begun
            gradients(arguments[0])

    step.gradients = twice_gradients  # type: ignore[method-assign]


@pytest.mark.backends
@pytest.mark.parametrize(
    "fault, error, message",
    [
        (begun_too_early, HostDriverError, "which was added up over several devices and not joined"),
        (another_slice, HostDriverError, "which was added up over several devices and not joined"),
        (never_begun, RankError, "has come to other weights"),
        (twice, AssertionError, "not equal"),
        (never_joined, HostDriverError, "which was added up over several devices and not joined"),
    ],
)
def test_planted_faults_are_noticed(devices, fault, error, message, monkeypatch):
    init, work = OverlappingRankStep.__init__, training()
    right = ended_well(devices.run(2, work))[0]

    def faulty(step: OverlappingRankStep, *arguments: Any) -> None:
        init(step, *arguments)
        fault(step)

    monkeypatch.setattr(OverlappingRankStep, "__init__", faulty)
    with pytest.raises(error, match=message):
        np.testing.assert_equal(ended_well(devices.run(2, work))[0], right)


# -- on a GPU -----------------------------------------------------------------------------------------------


class Twins(Ranks):
    """One of two ranks, the other of which has the same gradients."""

    size = 2

    def gather(self, *numbers: float) -> Any:
        return np.array([numbers, numbers], np.float64)

    def texts(self, text: str) -> list[str]:
        return [text, text]

    def sum(self, array: Any) -> None:
        array *= 2


TWICE = """
extern "C" __global__ void twice(TYPE* x, long long n) {
    const long long start = clock64();
    while (clock64() - start < 100000) {}  // so that whoever does not wait for it shows
    for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) x[i] *= 2;
}
"""


class TwinsNccl(Nccl):
    """NCCL of twins: it doubles on the device what it adds up."""

    def NcclCommunicator(self, size: int, identity: bytes, rank: int) -> Any:  # noqa: N802
        import cupy

        types_of_kinds = {self.NCCL_FLOAT32: "float", self.NCCL_FLOAT64: "double"}
        kernels = {kind: cupy.RawKernel(TWICE.replace("TYPE", name), "twice") for kind, name in types_of_kinds.items()}

        def double(sent: int, received: int, count: int, kind: int, operation: int, stream: int) -> None:
            self.calls.append((count,))
            with cupy.cuda.ExternalStream(stream):
                kernels[kind]((16,), (256,), (np.uint64(sent), np.int64(count)))

        return types.SimpleNamespace(allReduce=double)


def trained_on_gpu(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch, fewest: int) -> Any:
    """θ and losses of one of twins, of whose gradient slices of so many elements are added up beside."""
    monkeypatch.setattr(data_parallel, "FEWEST_IN_SLICE", fewest)
    backend.driver.use()
    net = gpubp.MLP([64, 256, 256, 10], "relu", seed=2, device=backend)
    rng = np.random.default_rng(3)
    data = rng.standard_normal((1000, 64)), rng.integers(0, 10, 1000)  # 40 rows in the last batch of an epoch
    history = gpubp.train(net, *data, batch_size=64, epochs=2, seed=5, communicator=Twins())
    return [host(net.theta), history.loss]


on_a_gpu = pytest.mark.parametrize("backend", ["cuda-float64", "cuda-float32"], indirect=True)


@pytest.mark.backends
@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("by_library", [False, True], ids=["own kernels", "products of a library"])
def test_gpu_slices_have_the_bits_of_one_sum(backend, by_library, monkeypatch):
    import cupy

    module = TwinsNccl()
    monkeypatch.setitem(vars(cupy.cuda), "nccl", module)  # which may not be there to be replaced
    monkeypatch.setattr(nccl, "_check_apart", lambda devices: None)
    if by_library:
        monkeypatch.setattr(CudaBackend, "has_kernels_for", lambda *arguments, **options: False)
    slices = trained_on_gpu(backend, monkeypatch, 1)
    begun = [count for (count,) in module.calls if count == 65536]
    assert len(begun) == 2 * 2  # to prepare batches of two sizes, and in their graphs, which were replayed 32 times
    np.testing.assert_equal(slices, trained_on_gpu(backend, monkeypatch, 1 << 40))


@pytest.mark.backends
@pytest.mark.gpu
@on_a_gpu
def test_gpu_sums_of_nccl_are_captured(backend, monkeypatch):
    """Of one rank, whose sums are what it has."""
    if not nccl.available():
        pytest.skip("NCCL is missing; pip install 'gpubp[nccl13]'")
    sums: list[nccl.NcclSum] = []

    def alone(ranks: Ranks, stack: Any) -> nccl.NcclSum:
        sums.append(nccl.NcclSum(Ranks(), stack.backend.driver, overlapping=True))
        return sums[-1]

    def nothing(ranks: Ranks, stack: Any) -> Any:
        def add_nothing(*arrays: Any) -> None:
            """What one rank adds up."""

        add_nothing.overlapping = False  # type: ignore[attr-defined]
        return add_nothing

    monkeypatch.setattr("gpubp.training.step.adding_up", alone)
    captured = trained_on_gpu(backend, monkeypatch, 1)
    monkeypatch.setattr("gpubp.training.step.adding_up", nothing)
    np.testing.assert_equal(captured, trained_on_gpu(backend, monkeypatch, 1 << 40))
    assert len(sums) == 1
