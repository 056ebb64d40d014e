"""Training on the chip: kernels/train_on_chip.cu on the host against the reference, and which networks go there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_kernels_host import covering

from gpubp import MLP, DivergenceError, train
from gpubp.activations import ACTIVATIONS, get_activation
from gpubp.backends.cuda import on_chip
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.on_chip import STATIC, Matrices, Placement, placement, row_length
from gpubp.backends.cuda.source import C_TYPES
from gpubp.backends.reference import ReferenceBackend
from gpubp.layout import Layout
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.precision import PRECISIONS
from support.cuda_host import HostDriver
from support.kernel_variants import OTHER_OUTPUTS, loss_through
from support.machines import by_tier, host, host_driver, precisions_of_kernels
from support.on_chip_checks import Training, check_on_chip

LIMITS = {"sm_75": 64 << 10, "sm_86": 99 << 10, "sm_80": 163 << 10, "sm_90": 227 << 10}
ON_CHIP = ("float64", "float32", "tf32")  # bfloat16 is trained as tf32
types = pytest.mark.parametrize("precision", precisions_of_kernels(ON_CHIP))
BOTH = (False, True)
HIDDEN = [name for name in ACTIVATIONS if name != "exponential"]  # whose outputs overflow in exponential losses
RECORDS = [
    {**case, "activation": HIDDEN[i % len(HIDDEN)], "sizes": ((33, 31, 64, 5), (9, 20, 3))[i % 2]}
    for i, case in enumerate(
        covering(
            precision=ON_CHIP,
            loss=tuple(LOSSES),
            optimizer=tuple(OPTIMIZERS),
            networks=(1, 5),
            dropout=BOTH,
            options=BOTH,
        )
    )
]
SHAPES = covering(
    precision=ON_CHIP,
    sizes=((1, 1), (3, 33, 1), (31, 100, 3), (64, 16), (100, 31, 33, 2), (5, 4, 4, 4, 6), (20, 257, 2)),
    batch=(1, 3, 31, 32, 33, 200),
    networks=(1, 5),
    loss=("half_squared_error", "binary_cross_entropy"),
    activation=("relu", "gelu"),
    dropout=BOTH,
)
SOURCES = [
    {"source": source, "sizes": sizes} for source in C_TYPES if source not in ("bool",) for sizes in ((16, 5), (7, 3))
]
# A few with much in each, for a GPU, which takes seconds to compile one.
ON_A_GPU = [
    {"networks": 5, "dropout": True},
    {"networks": 5, "dropout": True, "batch": 300, "rows": 640, "sizes": (9, 31, 5)},
    {"activation": "relu", "loss": "binary_cross_entropy", "sizes": (31, 100, 3), "batch": 200, "rows": 501},
    {"activation": "relu", "optimizer": "sgd", "sizes": (64, 64, 64, 10), "batch": 32, "rows": 76, "options": False},
    {"precision": "float64", "activation": "gelu", "loss": "huber", "optimizer": "rmsprop", "networks": 5, "batch": 33},
    {"activation": "mish", "optimizer": "nesterov", "targets": "soft", "inactive": True, "networks": 3},
]
# Of whole numbers: with several squares of sums a warp, with rows and columns beyond them, with one of each.
WHOLE = [{"sizes": sizes, "batch": batch} for sizes in ((33, 31, 20, 5), (64, 64, 10), (3, 1)) for batch in (37, 13, 1)]
FEW = 1  # cases of a list that plain `pytest` runs


def some(cases: list[dict[str, Any]]) -> list[Any]:
    """Cases as parameters, a few of which are for plain `pytest`."""
    chosen = cases[:: max(1, len(cases) // FEW)][:FEW]
    return by_tier(cases, lambda case: case in chosen, lambda case: "-".join(map(str, case.values())))


@pytest.mark.parametrize("case", some(RECORDS))
def test_steps_are_those_of_the_reference_for_every_record(case):
    check_on_chip(host_driver(), **case)


@pytest.mark.parametrize("case", some(SHAPES))
def test_steps_are_those_of_the_reference_for_any_shape(case):
    rows = 2 * case["batch"] + case["batch"] // 2 + 1
    check_on_chip(host_driver(), rows=rows, **case)


@pytest.mark.parametrize("optimizer", by_tier(OPTIMIZERS, lambda name: name == "adam"))
@types
def test_a_step_is_that_of_the_reference(precision, optimizer):
    check_on_chip(host_driver(), precision=precision, optimizer=optimizer, batch=28, networks=5)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("networks", by_tier((1, 5), lambda networks: networks == 5))
def test_coarser_precisions_are_multiplied_by_tensor_cores(precision, networks):
    check_on_chip(host_driver(), precision=precision, networks=networks)


@pytest.mark.parametrize("case", by_tier(WHOLE, lambda case: case == WHOLE[0], str))
def test_tensor_cores_multiply_exactly_what_they_need_not_round(case):
    """Every operand is a small whole number, times a power of 2: a step has the bits of one in float64."""
    case = {"activation": "relu", "loss": "half_squared_error", "optimizer": "sgd", "options": False, **case}
    left = []
    for backend in (CudaBackend(host_driver(), "tf32"), ReferenceBackend(np.float64)):
        training, rng = Training(backend, rows=case["batch"], **case), np.random.default_rng(5)
        table, theta, (X, y, _) = training.table, training.step.stack.theta, training.step.data.device
        whole = rng.choice([-1, 0, 1], theta.shape, p=[0.1, 0.8, 0.1])
        for array, values in ((theta, whole), (X, rng.integers(-2, 3, X.shape)), (y, rng.integers(-2, 3, y.shape))):
            array[...] = backend.from_host(values, array.dtype)
        table.normalizer[...], table.learning_rate[...] = 2.0**-4, 2.0**-3
        training.step.train_epoch(table)
        left.append(host(training.step.carried()["theta"]) - whole)
    assert np.count_nonzero(left[1])
    np.testing.assert_array_equal(*left)


def test_what_reads_a_copy_of_the_parameters_in_16_bits_reads_the_trained_ones():
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-1, 1, (60, 9)).astype(np.float32), rng.integers(0, 5, 60)
    left = []
    for precision in ("bfloat16", "float32"):
        net = MLP([9, 31, 5], "silu", device=CudaBackend(host_driver(), precision), seed=1)
        history = train(net, X[:40], y[:40], validation_data=(X[40:], y[40:]), batch_size=8, epochs=2)
        left.append((history.validation_loss, host(net.forward(X))))
    np.testing.assert_allclose(left[0][0], left[1][0], rtol=2e-2)
    np.testing.assert_allclose(left[0][1], left[1][1], atol=1e-2)


@pytest.mark.parametrize("case", some(SOURCES))
def test_rows_are_taken_from_data_of_any_type(case):
    check_on_chip(host_driver(), learning_rate=1e-4, **case)


@pytest.mark.parametrize("case", by_tier(ON_A_GPU, lambda case: False, str))
def test_the_cases_of_a_gpu_hold_on_the_host(case):
    check_on_chip(host_driver(), **case)


@pytest.mark.parametrize("output", by_tier(OTHER_OUTPUTS, lambda name: False))
def test_a_loss_on_outputs_is_linked_to_the_logits(output):
    loss = loss_through("half_squared_error", output)
    check_on_chip(host_driver(), loss=loss, precision="float64", sizes=(9, 20, 3))


@types
def test_targets_may_be_distributions(precision):
    check_on_chip(host_driver(), precision=precision, targets="soft", networks=5)


@types
def test_an_inactive_network_stands_still(precision):
    check_on_chip(host_driver(), precision=precision, inactive=True, networks=5)


@pytest.mark.parametrize("limit", by_tier((46, 54, 64, 84), lambda limit: limit == 54))
@types
def test_where_little_fits_batches_come_in_chunks_and_slots_stay_outside(precision, limit):
    driver = HostDriver(host_driver().toolchain.folder)
    driver.shared_memory = limit << 10
    case = {"precision": precision, "sizes": (33, 31, 20, 5), "batch": 100, "rows": 240, "networks": 2, "dropout": True}
    case |= {"activation": "gelu"} if precision == "float32" else {"sizes": (20, 31, 5)}
    check_on_chip(driver, **case)


def test_those_cases_have_chunks_and_slots_outside():
    found = [placed((33, 31, 20, 5), 100, limit << 10, keeps_z=True, dropout=True) for limit in (46, 54, 64, 84)]
    assert {place.slots_on_chip for place in found} == {True, False} and min(place.chunk for place in found) < 100


# -- the same bits ----------------------------------------------------------------------------------------


def bits(driver: HostDriver, **case: Any) -> list[bytes]:
    """Everything that a training leaves."""
    training = Training(CudaBackend(driver, case.pop("precision")), **case)
    assert training.way == "on-chip"
    return [array.tobytes() for array in training.run().values()]


@types
def test_neither_the_order_of_threads_nor_that_of_blocks_changes_a_bit(precision):
    folder = host_driver().toolchain.folder
    drivers = (HostDriver(folder, seed=seed, multiprocessors=n) for seed, n in ((0, 4), (12345, 7)))
    first, second = (bits(driver, precision=precision, networks=3, dropout=True) for driver in drivers)
    assert first == second


@types
def test_how_many_steps_a_launch_takes_changes_no_bit(monkeypatch, precision):
    case = {"precision": precision, "networks": 3, "rows": 60}
    together = bits(host_driver(), **case)
    monkeypatch.setattr(on_chip, "MOST_IN_A_LAUNCH", 1.0)
    before = host_driver().launches
    assert bits(host_driver(), **case) == together
    assert host_driver().launches - before >= 8, "a launch for each step"


@types
def test_a_network_in_a_stack_leaves_the_bits_that_it_leaves_alone(precision):
    def trained(**options: Any) -> Any:
        net = MLP([9, 31, 5], "silu", device=CudaBackend(host_driver(), precision), **options)
        rng = np.random.default_rng(0)
        X, y = rng.uniform(-1, 1, (76, 9)).astype(np.float32), rng.integers(0, 5, 76)
        train(net, X, y, batch_size=8, epochs=2, dropout=0.2, seed=options["seed"])
        return host(net.theta)

    stacked = trained(models=3, seed=20)
    for k in range(3):
        np.testing.assert_array_equal(stacked[k], trained(seed=20 + k)[0])


# -- trouble ----------------------------------------------------------------------------------------------


@types
def test_a_network_that_diverges_in_a_launch_stands_still_and_the_others_go_on(precision):
    case = {"sizes": (9, 31, 5), "activation": "identity", "loss": "half_squared_error", "optimizer": "sgd"}
    case |= {"options": False, "rows": 76, "batch": 4, "networks": 3}
    backend = CudaBackend(host_driver(), precision)
    found = Training(backend, learning_rate=[0.01, 50.0, 0.02], **case)
    calm = Training(backend, learning_rate=[0.01, 0.01, 0.02], **case)
    reference = Training(ReferenceBackend(PRECISIONS[precision].parameters), learning_rate=[0.01, 50.0, 0.02], **case)
    left, quiet, expected = (training.run() for training in (found, calm, reference))
    for name in ("active", "fault_step", "updates"):
        np.testing.assert_array_equal(left[name], expected[name])
    assert not left["active"][1] and 1000 < left["fault_step"][1] < 1018
    assert np.isfinite(left["theta"]).all()
    np.testing.assert_array_equal(left["theta"][[0, 2]], quiet["theta"][[0, 2]])


def test_a_gradient_whose_squares_overflow_is_no_divergence():
    rng = np.random.default_rng(0)
    X, y = np.rint(rng.uniform(-9, 9, (8, 6))) * 1e20, rng.integers(0, 3, 8)
    trained = []
    for device in (CudaBackend(host_driver(), "float32"), ReferenceBackend("float64")):
        net = MLP([6, 3], device=device)
        train(net, X, y, optimizer="sgd", learning_rate=0.1, max_grad_norm=1.0, batch_size=8, epochs=1)
        trained.append(host(net.theta))
    np.testing.assert_allclose(*trained, rtol=1e-5, atol=1e-6)


def test_divergence_is_reported_with_its_step_and_layer():
    net = MLP([9, 31, 5], "identity", "half_squared_error", device=CudaBackend(host_driver(), "float32"))
    rng = np.random.default_rng(0)
    X, y = rng.uniform(-1, 1, (76, 9)), rng.uniform(-1, 1, (76, 5))
    with pytest.raises(DivergenceError, match="training diverged at step") as caught:
        train(net, X, y, optimizer="sgd", learning_rate=50.0, batch_size=2, epochs=2)
    assert 1 < caught.value.step < 38 and np.isfinite(host(net.theta)).all()


# -- which networks ---------------------------------------------------------------------------------------


def placed(
    sizes: tuple[int, ...], batch: int, limit: int, itemsize: int = 4, slots: int = 2, **kinds: bool
) -> Placement | None:
    """The placement of a network."""
    layout = Layout(sizes)
    starts = list(zip(layout.weight_starts, layout.bias_starts, strict=True))
    return placement(Matrices(layout.shapes, starts, itemsize, **kinds), batch, slots, limit)


@pytest.mark.parametrize("sizes", [(64, 64, 64, 10), (64, 100, 10), (30, 100, 1)])
def test_common_networks_fit_on_an_h100_with_their_moments(sizes):
    place = placed(sizes, 32, LIMITS["sm_90"])
    assert place is not None and place.slots_on_chip and place.chunk == 32


def test_wide_networks_and_large_batches_are_left_to_the_whole_device():
    assert placed((784, 512, 10), 32, LIMITS["sm_90"]) is None
    assert placed((64, 64, 64, 10), 2048, LIMITS["sm_90"]) is None
    assert placed((64, 64, 64, 10), 32, LIMITS["sm_75"]) is None


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("itemsize", [4, 8])
def test_nothing_overlaps_and_all_of_it_fits(limit, itemsize):
    for sizes in ((1, 1), (5, 4, 3), (33, 31, 20, 5), (64, 64, 64, 10), (20, 100, 7)):
        for batch in (1, 3, 31, 200):
            for kinds in ({}, {"keeps_z": True, "dropout": True, "with_values": True}):
                place = placed(sizes, batch, limit, itemsize, **kinds)
                if place is not None:
                    _assert_apart(place, itemsize, 2, limit, **kinds)


def _assert_apart(place: Placement, itemsize: int, slots: int, limit: int, **kinds: bool) -> None:
    """Every matrix has its rows, up to multiples of 4, for itself, and begins at a multiple of 16 bytes."""
    copies = 2 + slots * place.slots_on_chip
    regions = []
    for n_in, n_out, _, _, W, b, read, input_row, a, row, z, mask in place.table.tolist():
        assert row >= n_out and row * itemsize // 16 % 2 == 1 and row == row_length(n_out, itemsize)
        regions += [(W + copy * place.size, -(-n_in // 4) * 4 * row) for copy in range(copies)]
        regions += [(b + copy * place.size, -(-n_out // 4) * 4) for copy in range(copies)]
        regions += [(a, place.chunk * row)] + [(z, place.chunk * row)] * (z != a)
        regions += [(read, place.chunk * input_row)] * bool(read < min(place.table[:, 8]))
        regions += [(mask // itemsize, -(-place.chunk * row // itemsize))] * (mask > 0)
        assert mask % itemsize == 0
    if place.slots_on_chip:
        regions.append((place.kinds_at // itemsize, -(-place.size // 16)))
    if kinds.get("with_values"):
        regions.append((place.targets_at, place.chunk * row))
    regions.sort()
    assert all(first + size <= second for (first, size), (second, _) in zip(regions, regions[1:], strict=False))
    assert sum(regions[-1]) <= place.used and place.used * itemsize == place.nbytes <= limit - STATIC
    assert all(start * itemsize % 16 == 0 for start, _ in regions)


def way(backend: CudaBackend, **case: Any) -> str:
    return Training(backend, **{"rows": 8, **case}).way


def test_the_way_is_a_function_of_network_batch_type_and_device(monkeypatch):
    backend = CudaBackend(host_driver(), "float32")
    assert way(backend) == "on-chip" and way(backend, networks=5) == "on-chip"
    assert way(backend, activation=["tanh", "relu"]) == "graph", "one activation for all hidden layers"
    for precision in ("tf32", "bfloat16"):
        assert way(CudaBackend(host_driver(), precision)) == "on-chip"
    assert way(CudaBackend(host_driver(), "float16")) == "graph", "it has a loss scale"
    unfused = replace(get_activation("tanh"), name="mine", scalar_f=None)
    assert way(backend, activation=unfused) == "graph"
    monkeypatch.setenv("GPUBP_ON_CHIP", "0")
    assert way(CudaBackend(host_driver(), "float32")) == "graph"
    assert way(ReferenceBackend(np.float64)) == "calls"


def test_a_batch_in_parts_is_no_matter_of_the_chip():
    net = MLP([6, 3], device=CudaBackend(host_driver(), "float32"))
    rng = np.random.default_rng(0)
    before = host(net.theta).copy()
    train(net, rng.random((20, 6)), rng.integers(0, 3, 20), accumulate=2, batch_size=10, epochs=1)
    assert (host(net.theta) != before).any()
