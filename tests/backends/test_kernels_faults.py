"""Faults planted in kernels and in the records' expressions: each must make the checks of the host tests fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gpubp.activations import ACTIVATIONS
from gpubp.backends.cuda.source import KernelSource, kernel_source
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from support import kernel_checks as checks
from support.cuda_host import HostDriver, HostDriverError
from support.machines import host_driver
from support.on_chip_checks import check_on_chip

pytestmark = pytest.mark.backends  # what they check is run by default

Check = Callable[[HostDriver], None]
# A row short of full blocks, so that what is written out of bounds stays within the guard zones.
SHAPE = {"storage": "float32", "rows": 31, "columns": 33, "networks": 5, "place": "whole"}
OPTIONS = dict.fromkeys(("l2", "l2_by_batch", "penalty", "weight_decay", "clipping", "tracked", "inactive"), True)


def layer(**case: Any) -> Check:
    return partial(checks.check_layer, **{"activation": "tanh", "dropout": False, **SHAPE, **case})


def small_layer(**case: Any) -> Check:
    shape = {"inputs": 300, "tile": (16, 16), "dropout": False}
    return partial(checks.check_small_layer, **{"activation": "tanh", **shape, **SHAPE, **case})


def output(**case: Any) -> Check:
    return partial(checks.check_output, **{"activation": "softmax", **SHAPE, **case})


def loss(name: str, **case: Any) -> Check:
    given = {"targets": "hard", "weights": "own", "smoothing": True}
    return partial(checks.check_loss, **{"loss": name, **given, **SHAPE, **case})


def with_layer(name: str, **case: Any) -> Check:
    return loss(name, **{"columns": 10, "inputs": 31, **case})


def update(**case: Any) -> Check:
    shape = {"storage": "float32", "inputs": 257, "networks": 5}
    return partial(checks.check_update, **{"optimizer": "adam", **shape, **OPTIONS, **case})


def batch(**case: Any) -> Check:
    shape = {"rows": 31, "columns": 64, "networks": 5, "place": "whole", "order": "shuffled list"}
    return partial(checks.check_gather, **{"source": "float32", "target": "float32", **shape, **case})


def steps(**case: Any) -> Check:
    return partial(check_on_chip, **{"networks": 3, "dropout": True, **case})


TALL = steps(batch=100, rows=200, sizes=(9, 64, 33, 5))  # a thread has several tiles
TALL_IN_TF32 = steps(batch=100, rows=200, sizes=(9, 64, 33, 5), precision="tf32")
IN_CHUNKS = steps(batch=300, rows=640, sizes=(9, 31, 5))
IN_TF32, IN_TF32_IN_CHUNKS = steps(precision="tf32"), steps(precision="tf32", batch=300, rows=640, sizes=(9, 31, 5))
IN_16_BITS = small_layer(storage="bfloat16")
BARRIER = "        __syncthreads();"
MANY_CLASSES = loss("cross_entropy", columns=1025)
FAULTS = {
    "bounds": [
        ("bias_activation", "if (at.column >= n) return;", "", layer()),
        ("bias_activation", "min(first + rows_per_block, rows)", "first + rows_per_block", layer()),
        ("hadamard_derivative", "at.column < n && lowest < last", "lowest < last", layer()),
        ("dense", "if (row >= rows || column >= n) return;", "", small_layer()),
        ("dense_backward", "if (column < n) grad_b", "grad_b", small_layer()),
        ("dense_loss", "inside < TILE_M && row < rows", "inside < TILE_M", with_layer("huber")),
        ("hadamard_derivative", "at.lane == 0 && at.column < n)\n        for", "at.lane == 0)\n        for", layer()),
        ("column_sum", "at.lane == 0 && at.column < n", "at.lane == 0", layer(rows=1000, columns=200)),
        (
            "column_sum",
            "int row = at.lane; row < rows;",
            "int row = at.lane + 1; row < rows;",
            layer(rows=1000),
        ),
        ("output_activation", "i < size;", "i <= size;", output(activation="tanh")),
        ("softmax", "if (row >= rows) return;", "", output()),
        ("loss_delta", "min(first + rows_per_block, rows)", "first + rows_per_block", loss("huber")),
        ("loss_delta", "min(first + rows_per_block, rows)", "first + rows_per_block", loss("cross_entropy")),
        ("loss_delta", "row < last; row++", "row < last - 1; row++", loss("huber", rows=257)),
        (
            "loss_delta",
            "chunk = threadIdx.x; chunk < chunks",
            "chunk = 1; chunk < chunks",
            loss("cross_entropy"),
        ),
        ("gather", "min(rows_per_block, rows - first)", "rows_per_block", batch()),
        ("gather", "if (unit >= all) break;", "if (unit > all) break;", batch()),
        ("optimizer_step", "p < P;", "p < P + N;", update()),
        ("step_begin", "p < P;", "p < P + N;", update()),
        ("train_on_chip", "column + j < n ? value : A(0)", "value", steps(activation="sigmoid")),
        ("train_on_chip", "int count = min(TILE, n_out - column)", "int count = TILE", steps()),
        ("train_on_chip", "min(max(count - i, 0), WORD)", "min(max(count - i - 1, 0), WORD)", steps()),
        ("train_on_chip", "min(first + by.depth, k)", "min(first + by.depth, k - 1)", steps()),
        ("train_on_chip", "if (part_bits > 1) add_parts<1>(sum, 8);", "", steps()),
        ("train_on_chip", "min(chunk, rows - base)", "chunk", IN_CHUNKS),
        ("train_on_chip", "if (k + (ALONG_K ? 0 : i) >= depth) continue;", "", IN_TF32_IN_CHUNKS),
        ("train_on_chip", "row < by.rows && column", "column", IN_TF32),
    ],
    "alignment and strides": [
        ("bias_activation", "&& aligned(z) && aligned(b) && aligned(a)", "", layer(columns=64, place="shifted")),
        ("bias_activation", "packed && aligned(mask, WIDTH)", "packed", layer(columns=64, place="mixed", dropout=True)),
        ("hadamard_derivative", "&& aligned(grad) && aligned(kept)", "", layer(columns=64, place="shifted")),
        ("gather", "&& aligned(source) && aligned(out)", "", batch(place="shifted")),
        ("gather", "k * order_stride", "0", batch()),
        ("gather", "k * keys_stride", "0", batch()),
        ("gather", "if (period) row %= period;", "", batch()),
        ("gather", "X + k * X_stride", "X", batch()),
        ("gather", "y + k * y_stride", "y", batch()),
        ("gather", "weight + k * weight_stride", "weight", batch()),
        ("bias_activation", "b += k * b_stride", "b += 0", layer(place="slices")),
        ("dense", "b += k * b_stride", "b += 0", small_layer(place="slices")),
        ("dense_backward", "from += k * from_stride", "from += 0", small_layer(place="slices")),
        ("dense", "&& aligned(from)", "", small_layer(columns=64, place="shifted")),
        ("loss_delta", "k * weight_stride", "0", loss("huber")),
        ("loss_delta", "y += k * y_stride", "y += 0", loss("cross_entropy")),
        ("dense_loss", "b += k * b_stride", "b += 0", with_layer("huber", place="slices")),
        ("dense_loss", "k * weight_stride", "0", with_layer("huber")),
    ],
    "an order": [
        ("gather", "while (place >= count)", "while (place > count)", batch(order="shuffled", source="float64")),
        ("gather", "keys[2 * i + 3]", "keys[2 * i + 1]", batch(order="shuffled")),
        ("gather", "fresh(cursor) * batch_size", "0", batch(order="none")),
        ("train_on_chip", "(step + later) * batch_size", "step * batch_size", steps()),
        ("train_on_chip", "classes + place", "classes", steps()),
    ],
    "a fragment of tensor cores": [
        (
            "train_on_chip",
            "{x.at[0][0], x.at[1][0], x.at[0][1], x.at[1][1]}",
            "{x.at[0][0], x.at[0][1], x.at[1][0], x.at[1][1]}",
            IN_TF32,
        ),
        ("train_on_chip", "{y.at[unit][0], y.at[unit][1]}", "{y.at[unit][0], y.at[0][1]}", IN_TF32),
        ("train_on_chip", "words.at[ALONG_K ? i : j]", "words.at[i]", IN_TF32),
        ("train_on_chip", "sums[of / 2].x[of % 2 * 2 + unit]", "sums[of / 2].x[unit * 2 + of % 2]", IN_TF32),
        ("train_on_chip", "square += WARPS", "square += 2 * WARPS", TALL_IN_TF32),
        (
            "dense",
            "i + word % 2 * 8, k + 2 * j + word / 2 * 8",
            "i + word / 2 * 8, k + 2 * j + word % 2 * 8",
            IN_16_BITS,
        ),
        ("dense", "k += GROUPS * UNIT_K", "k += UNIT_K", IN_16_BITS),
        ("dense", "from[0] | unsigned(from[PITCH]) << 16", "from[PITCH] | unsigned(from[0]) << 16", IN_16_BITS),
        (
            "dense_backward",
            "left + piece * UNIT_N + i, k",
            "left + i, k",
            small_layer(storage="float16", tile=(64, 64)),
        ),
        ("dense_backward", "put(panel_b);\n            __syncthreads();", "put(panel_b);", IN_16_BITS),
    ],
    "a missing barrier": [
        ("hadamard_derivative", f"= sum[i];\n{BARRIER}", "= sum[i];\n", layer()),
        ("dense", f"put(panel_b);\n    {BARRIER}", "put(panel_b);\n", small_layer()),
        ("dense_backward", f"{BARRIER}  // the last panels", "  // the last panels", small_layer(rows=300)),
        ("dense_loss", "[](int, A) {});\n    __syncthreads();", "[](int, A) {});", with_layer("cross_entropy")),
        ("loss_delta", "__syncthreads();  // what the block's", "// what the block's", loss("huber", rows=257)),
        ("loss_delta", f"= x;\n{BARRIER}", "= x;\n", loss("huber", rows=257)),
        ("loss_delta", f"= x;\n{BARRIER}", "= x;\n", MANY_CLASSES),
        ("step_begin", "    __syncthreads();\n    __threadfence();", "    __threadfence();", update(inputs=600)),
        (
            "train_on_chip",
            "biases, finish);\n                __syncthreads();",
            "biases, finish);",
            steps(),
        ),
        ("train_on_chip", "normalizer, mine);\n            __syncthreads();", "normalizer, mine);", steps()),
        ("train_on_chip", "    __syncthreads();\n    if (changed) {", "    if (changed) {", steps()),
        (
            "train_on_chip",
            "of_biases;\n                }\n                __syncthreads();",
            "of_biases;\n                }",
            TALL,
        ),
        (
            "train_on_chip",
            "differentiate);\n                __syncthreads();",
            "differentiate);",
            steps(),
        ),
        (
            "train_on_chip",
            "                __syncthreads();\n            }\n            if (!brought)",
            "            }\n            if (!brought)",
            steps(),
        ),
    ],
    "a stale read across a barrier": [
        ("hadamard_derivative", f"at.inside + i];\n{BARRIER}", "at.inside + i];\n", layer()),
        ("loss_delta", f"{BARRIER}  // the last call", "  // the last call", loss("huber", rows=257)),
        ("loss_delta", f"{BARRIER}  // the last call", "  // the last call", MANY_CLASSES),
        ("step_begin", "if (last) *arrived = 0;", "", update(inputs=600)),
        (
            "train_on_chip",
            "            __syncthreads();\n\n            for (int l = 0; l < n_layers; l++) {  // forward",
            "\n            for (int l = 0; l < n_layers; l++) {  // forward",
            steps(),
        ),
    ],
    "what a network or a step has of its own": [
        ("optimizer_step", "if (!step.counts) return;", "", update()),
        ("step_begin", "cursor[0] = here + 1;", ";", update()),
        ("step_begin", "*decided = 0;", ";", update()),
        ("step_begin", "updates[k] = update;", "updates[0] = update;", update()),
        ("loss_delta", "k * steps", "0 * steps", loss("cross_entropy")),
        ("loss_delta", "totals[now] = all", "totals[0] = all", loss("huber")),
        ("loss_delta", "k * to.grad_b_stride", "0", loss("huber")),
        ("bias_activation", "random.word[(place + i) % 4]", "random.word[i % 4]", layer(dropout=True)),
        (
            "bias_activation",
            "i > 0 && (place + i) % 4 == 0",
            "false",
            layer(dropout=True, columns=64, storage="float16"),
        ),
        ("softmax", "(SPAN < 32 ? SPAN : 32) / 2", "8", output()),
        ("train_on_chip", "    theta += k * P;", "", steps()),
        ("train_on_chip", "done + 1 + later", "done + 1", steps()),
        ("train_on_chip", "first_step[k] + step, seed", "step, seed", steps()),
        ("train_on_chip", "Index(base + first_row) * n", "Index(first_row) * n", IN_CHUNKS),
        ("train_on_chip", "if (base > 0) {", "if (false) {", IN_CHUNKS),
        ("train_on_chip", "if (!trains) continue;", "", steps(inactive=True)),
        ("train_on_chip", "cursor[0] = start + steps", "cursor[0] = start", steps()),
        ("train_on_chip", "updates[k] = done", "updates[k] = done + 1", steps()),
        ("train_on_chip", "if (ends && l2)", "if (l2)", IN_CHUNKS),
        ("train_on_chip", "if (ends) squares", "if (false) squares", steps()),
    ],
}


@pytest.fixture
def driver() -> HostDriver:
    """A driver of its own, whose threads run in the same order every time."""
    return HostDriver(host_driver().toolchain.folder)


def assert_fails(check: Check, driver: HostDriver) -> None:
    """It finds the fault, and not that a kernel does not compile."""
    with pytest.raises((AssertionError, HostDriverError)) as caught:
        check(driver)
    assert "does not compile" not in str(caught.value)


def params() -> list[Any]:
    """The faults, each under its kind and kernel."""
    return [
        pytest.param(*fault, id=f"{kind}-{fault[0]}-{number}")
        for kind, faults in FAULTS.items()
        for number, fault in enumerate(faults)
    ]


@pytest.mark.parametrize("kernel, old, new, check", params())
def test_a_fault_in_a_kernel_is_found(driver, monkeypatch, kernel, old, new, check):
    check(driver)

    def faulty(name: str, *args: Any, **what: Any) -> KernelSource:
        source = kernel_source(name, *args, **what)
        if name != kernel:
            return source
        if source.text.count(old) != 1:
            raise LookupError(f'kernels/{kernel}.cu holds "{old}" {source.text.count(old)} times, not once')
        return KernelSource(name, source.text.replace(old, new))

    monkeypatch.setattr("gpubp.backends.cuda.backend.kernel_source", faulty)
    assert_fails(check, driver)


# A thousandth off: as small as a mistyped constant may be.


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("expression", ["scalar_f", "scalar_derivative"])
def test_a_wrong_activation_is_found(driver, monkeypatch, name, expression):
    record = ACTIVATIONS[name]()
    wrong = replace(record, **{expression: f"T(1.001) * ({getattr(record, expression)})"})
    monkeypatch.setitem(ACTIVATIONS, name, lambda: wrong)
    assert_fails(layer(activation=name), driver)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name]().row_loop is None])
@pytest.mark.parametrize("expression", ["scalar_value", "scalar_delta"])
def test_a_wrong_loss_is_found(driver, monkeypatch, name, expression):
    record = LOSSES[name]()
    wrong = replace(record, **{expression: f"T(1.001) * ({getattr(record, expression)})"})
    monkeypatch.setitem(LOSSES, name, lambda: wrong)
    assert_fails(loss(name), driver)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_wrong_update_is_found(driver, monkeypatch, name):
    record = OPTIMIZERS[name]()
    *steps, (last, expression) = record.scalar_step
    wrong = replace(record, scalar_step=(*steps, (last, f"T(1.001) * ({expression})")))
    monkeypatch.setitem(OPTIMIZERS, name, lambda: wrong)
    assert_fails(update(optimizer=name), driver)
