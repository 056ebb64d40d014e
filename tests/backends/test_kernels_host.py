"""Every kernel on the host: against the reference's formulas, whatever the type, the shape and the alignment.

The whole training step is in test_kernels_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from math import prod
from typing import Any

import numpy as np
import pytest

from gpubp.activations import ACTIVATIONS, get_activation
from gpubp.backends import Backend, Batch, Layer, LayerCache
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.source import C_TYPES
from gpubp.backends.cuda.tiles import TILES
from gpubp.backends.reference import ReferenceBackend
from gpubp.losses import LOSSES, get_loss
from gpubp.optimizers import OPTIMIZERS
from support import kernel_checks as checks
from support.cuda_host import HostDriver
from support.kernel_parity import PLACES, ROUNDING, parameters_of, rounded
from support.kernel_variants import ON_VALUES, OTHER_OUTPUTS, OUTPUTS, STORAGES, launched_by
from support.machines import KERNEL_PRECISION, by_tier, host, host_driver, one_step, precisions_of_kernels

Case = dict[str, Any]
SIZES = (1, 3, 31, 33, 257, 1000)
NETWORKS = (1, 5)
LARGEST = 1_300_000  # elements


def covering(allowed: Callable[[Case], bool] = lambda case: True, **axes: Any) -> list[Case]:
    """Few cases in which any two values of different axes meet, unless `allowed` refuses the two together."""
    missing = {
        ((a, x), (b, y)): None
        for a, b in combinations(axes, 2)
        for x in axes[a]
        for y in axes[b]
        if allowed({a: x, b: y})
    }
    cases = []
    while missing:
        case = dict(next(iter(missing)))
        for axis in axes:
            if axis not in case:
                fitting = [v for v in axes[axis] if allowed({**case, axis: v})]
                turn = len(cases) % len(fitting)  # among equals, not always the first
                case[axis] = max(fitting[turn:] + fitting[:turn], key=lambda v: _new(missing, case, axis, v))
        cases.append({axis: case[axis] for axis in axes})
        for pair in combinations(cases[-1].items(), 2):
            missing.pop(pair, None)
    return cases


def every(**axes: Any) -> list[Case]:
    """All cases."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _new(missing: dict[Any, None], case: Case, axis: str, value: Any) -> int:
    """How many pairs the value would add."""
    return sum(((axis, value), pair) in missing or (pair, (axis, value)) in missing for pair in case.items())


def _fits(case: Case) -> bool:
    """A case that takes no long time; softmax over one output is none."""
    elements = prod(case.get(axis, 1) for axis in ("rows", "columns", "networks"))
    return elements <= LARGEST and not (case.get("columns") == 1 and {"softmax", "cross_entropy"} & set(case.values()))


BOTH = (False, True)
SHAPES = {"rows": SIZES, "columns": SIZES, "networks": NETWORKS, "place": PLACES}
TARGETS = {"targets": ("hard", "soft"), "weights": ("none", "shared", "own"), "smoothing": BOTH}
OPTIONS = dict.fromkeys(("l2", "l2_by_batch", "penalty", "weight_decay", "clipping", "tracked", "inactive"), BOTH)

LAYERS = covering(_fits, activation=tuple(ACTIVATIONS), storage=STORAGES, dropout=BOTH, **SHAPES)
SMALL_SIZES = {
    "rows": (1, 33, 70),
    "inputs": (1, 40, 300),
    "columns": (1, 31, 64),
    "networks": NETWORKS,
    "place": PLACES,
}
SMALL_LAYERS = covering(activation=tuple(ACTIVATIONS), storage=STORAGES, dropout=BOTH, tile=tuple(TILES), **SMALL_SIZES)
OUTPUT_LAYERS = covering(_fits, activation=OUTPUTS, storage=STORAGES, **SHAPES)
DELTAS = covering(_fits, loss=tuple(LOSSES), storage=STORAGES, **TARGETS, **SHAPES)
MANY = {**SHAPES, "rows": SIZES[:4], "columns": (1024, 1025, 3000)}  # a block shares a row of more than 1024
DELTAS_OF_MANY = covering(_fits, loss=("cross_entropy",), storage=STORAGES, **TARGETS, **MANY)
DELTAS_THROUGH = covering(_fits, loss=ON_VALUES, output=OTHER_OUTPUTS, storage=STORAGES, **TARGETS, **SHAPES)
WITH_LAYER = {**SHAPES, "rows": SIZES[:5], "columns": (1, 2, 10, 16), "inputs": SIZES[:5]}
DELTAS_WITH_LAYER = covering(_fits, loss=tuple(LOSSES), storage=STORAGES, **TARGETS, **WITH_LAYER)
UPDATES = covering(optimizer=tuple(OPTIMIZERS), storage=STORAGES, inputs=SIZES, networks=NETWORKS, **OPTIONS)
ORDERS = {"order": ("listed", "shuffled", "shuffled list", "none"), "targets": ("hard", "soft")}
BATCHES = covering(_fits, source=tuple(C_TYPES), target=STORAGES, **ORDERS, **SHAPES)


# Pieces of 16 bytes are taken only of whole rows that lie so: each type, with and without.
PIECES = {"rows": (33,), "columns": (64,), "networks": (5,), "place": PLACES}
NO_WEIGHTS = {"targets": ("hard",), "weights": ("none",), "smoothing": (False,)}
LAYERS += every(activation=("tanh", "gelu"), storage=STORAGES, dropout=BOTH, **PIECES)
QUANTILES = "quantile(0.1, 0.5, 0.9)"  # a constant for each output
DELTAS += every(loss=(QUANTILES,), storage=STORAGES, **{**PIECES, "columns": (3,), "place": ("whole",)}, **NO_WEIGHTS)
DELTAS += every(loss=("huber",), storage=STORAGES, **NO_WEIGHTS, **PIECES)
BY_TYPE = {**PIECES, "order": ("shuffled list",), "targets": ("hard",), "place": ("whole", "shifted")}
BATCHES += every(source=tuple(C_TYPES), target=STORAGES, **BY_TYPE)


def each(cases: list[Case], precision: str = "storage") -> pytest.MarkDecorator:
    """Run a test on every case; by default, on those alone whose `precision` is `KERNEL_PRECISION`.

    They hold every kernel, activation, loss and optimizer, since each meets each precision in some case.
    """

    def name(case: Case) -> str:
        return "-".join(value if isinstance(value, str) else f"{axis}={value}" for axis, value in case.items())

    return pytest.mark.parametrize("case", by_tier(cases, lambda case: case[precision] == KERNEL_PRECISION, name))


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest) -> HostDriver:
    """The host driver, with the kernels of all cases that run compiled at once."""
    driver = host_driver()
    tests = (item for item in request.session.items if item.path == request.path)
    cases = (test.callspec.params["case"] for test in tests if "case" in test.fixturenames)
    driver.prefetch({source.text: source for case in cases for source in launched_by(case)}.values())
    return driver


def test_a_covering_meets_every_pair_that_is_allowed():
    axes = {"a": (1, 2, 3), "b": ("x", "y"), "c": (False, True), "d": (1, 2, 3, 4)}
    cases = covering(lambda case: (case.get("a"), case.get("d")) != (3, 4), **axes)
    met = {pair for case in cases for pair in combinations(case.items(), 2)}
    every_pair = {pair for case in every(**axes) for pair in combinations(case.items(), 2)}
    assert every_pair - met == {(("a", 3), ("d", 4))}
    assert len(cases) < 16 and cases == covering(lambda case: (case.get("a"), case.get("d")) != (3, 4), **axes)


# -- operations -------------------------------------------------------------------------------------------


@each(LAYERS)
def test_a_layer(driver, case):
    checks.check_layer(driver, **case)


@each(SMALL_LAYERS)
def test_a_small_layer(driver, case):
    checks.check_small_layer(driver, **case)


@each(OUTPUT_LAYERS)
def test_an_output_layer(driver, case):
    checks.check_output(driver, **case)


@each(DELTAS + DELTAS_OF_MANY)
def test_a_loss(driver, case):
    checks.check_loss(driver, **case)


@each(DELTAS_THROUGH)
def test_a_loss_on_values_through_another_output(driver, case):
    checks.check_loss(driver, **case)


@each(DELTAS_WITH_LAYER)
def test_a_loss_in_one_kernel_with_the_last_layer(driver, case):
    checks.check_loss(driver, **case)


@each(UPDATES)
def test_ten_updates(driver, case):
    checks.check_update(driver, **case)


@each(BATCHES, precision="target")
def test_a_batch(driver, case):
    checks.check_gather(driver, **case)


# -- what is not finite -----------------------------------------------------------------------------------

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 20.0, -20.0, 200.0, -200.0, 3e4, -3e4])


@pytest.mark.parametrize("storage", precisions_of_kernels(STORAGES))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_layer_makes_of_extremes_what_the_reference_makes_of_them(driver, activation, storage):
    """And what is not finite there is not here: otherwise divergence would be found on one of them only."""
    record, shape = get_activation(activation), (1, 1, SPECIAL.size)
    reference = ReferenceBackend(np.dtype(parameters_of(storage)))

    def forward(backend: Backend) -> Any:
        z = backend.from_host(SPECIAL.reshape(shape).astype(backend.storage))
        b = backend.zeros(shape, backend.storage)
        a = z if record.derivative_from == "a" else backend.empty(shape, backend.storage)
        with backend.computing():
            backend.bias_activation(record, Layer(W=b, b=b), LayerCache(0, z=z, a=a, delta=a, mask=None))
        return rounded(host(a), storage)

    kept = forward(reference) if record.derivative_from == "a" else SPECIAL.reshape(shape)

    def backward(backend: Backend) -> Any:
        delta, grad_b = backend.from_host(np.ones(shape).astype(backend.storage)), backend.empty(shape)
        with backend.computing():
            z_or_a = backend.from_host(kept.astype(backend.storage))
            cache = LayerCache(0, z=z_or_a, a=z_or_a, delta=delta, mask=None)
            backend.hadamard_derivative(record, cache, grad_b)
        return rounded(host(delta), storage)

    for run in (forward, backward):
        found, expected = run(CudaBackend(driver, storage)), run(reference)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(found), finite)
        # Two libraries square the argument of erfc with more or fewer digits: 1e-88 is not the same in the last three.
        far = 1e-30 if activation == "gelu" else 0
        np.testing.assert_allclose(found[finite], expected[finite], rtol=8 * ROUNDING[storage], atol=far)
        assert np.isnan(found[0, 0, 0]) == np.isnan(expected[0, 0, 0])


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_finite_where_the_references_is(driver, loss, special):
    record, logits = get_loss(loss), np.zeros((3, 2, 4))  # of the second network, one is special
    logits[1, 1, 2] = special

    def run(backend: Backend) -> Any:
        y = np.zeros((1, 2), np.int64) if record.integer_targets else np.ones((1, 2, 4), backend.dtype)
        epoch, z = one_step(backend, 3), backend.from_host(logits.astype(backend.dtype))
        with backend.computing():
            batch = Batch(X=None, y=backend.from_host(y), weight=None, smoothing=backend.zeros((3,), np.float64))
            cache = LayerCache(0, z=z, a=z, delta=z, mask=None)
            backend.loss_delta(record, cache, batch, epoch, backend.empty((3, 1, 4)))
        return np.isfinite(host(epoch.totals)[:, 0, 0])

    found, expected = run(CudaBackend(driver, "float32")), run(ReferenceBackend(np.float32))
    assert expected[[0, 2]].all()
    np.testing.assert_array_equal(found, expected)
