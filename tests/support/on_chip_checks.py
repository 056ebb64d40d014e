"""Trainings on the chip against the same ones by the reference: for tests to hand cases to, and faults to fail."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np

from gpubp import MLP
from gpubp.backends import Backend
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.driver import Driver
from gpubp.backends.reference import ReferenceBackend
from gpubp.optimizers import get_optimizer
from gpubp.precision import PRECISIONS
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table
from support.cuda_host.gemm import to_tf32
from support.kernel_parity import one_each
from support.kernel_variants import dtype
from support.machines import host

# How far what a step leaves may be from the same in float64, relative to the size of the array; several, ten times. Of
# tensor cores it is now and then an operand that is rounded the other way, and of θ, Adam's whole update by a gradient
# near 0 that turns round: a hundred times.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 5e-4, "bfloat16": 5e-4}
TURNED = 100
HITS = 0.01
CASE: dict[str, Any] = {
    "precision": "float32",
    "sizes": (33, 31, 64, 5),
    "activation": "tanh",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "batch": 8,
    "rows": 28,
    "networks": 1,
    "options": True,
    "dropout": False,
    "targets": "hard",
    "source": "float32",
    "learning_rate": 0.01,
    "inactive": False,
}


class TensorCores(ReferenceBackend):
    """In float64, but for what products multiply, which is rounded as tensor cores round it."""

    def matmul(self, a: Any, b: Any, out: Any, **transposed: bool) -> None:
        """Multiply a and b."""
        super().matmul(*(to_tf32(x.astype(np.float32)).astype(self.dtype) for x in (a, b)), out, **transposed)


class Training:
    """A training of one epoch, of a case on a backend.

    Each network of a stack has rows of its own, the last one fewer than the others, and with `options` everything that
    an update can do.
    """

    def __init__(self, backend: Backend, **given: Any) -> None:
        self.case = case = {**CASE, **given}
        K, sizes, rows, batch = case["networks"], case["sizes"], case["rows"], case["batch"]
        net = MLP(list(sizes), case["activation"], case["loss"], models=K, seed=3, device=backend)
        rng, rule = np.random.default_rng(7), get_optimizer(case["optimizer"])
        counts = np.full(K, rows)
        counts[-1] -= K > 1 and rows > 1
        steps = -(-rows // batch)
        per_network: dict[str, Any] = {}
        if case["options"]:
            per_network = {
                "l2": one_each(K, 0.01, 0.1),
                "weight_decay": one_each(K, 0.1, 0.2),
                "max_grad_norm": one_each(K, 0.5, 2.0),
                "largest_update": np.zeros(K),
                "penalty": np.zeros((K, steps)),
            }
        options = {name: np.full(K, value) for name, value in rule.options.items()}
        self.state = initial_state(net.stack, rule, options, l2_by_batch=case["options"], **per_network)
        if case["inactive"]:
            backend.assign(self.state.active, False, np.arange(K) == 1)
        X = rng.uniform(-1, 1, (rows + 3, sizes[0]))
        X = (np.rint(63 * X + 63) if "int" in case["source"] else X).astype(np.float32).astype(dtype(case["source"]))
        self.step = TrainingStep(
            net.stack,
            (X, self._targets(net, rng, rows + 3), rng.uniform(0.5, 1.5, rows + 3) if case["options"] else None),
            batch,
            self.state,
            dropout=one_each(K, 0.25, 0.5) * case["dropout"],
            label_smoothing=one_each(K, 0.0, 0.1) if net.loss.classification else np.zeros(K),
            orders=K,
            counts=counts,
        )
        orders = [rng.permutation(rows + 3)[:count] for count in counts]
        rates = [np.full(-(-count // batch), rate) for count, rate in zip(counts, self._rates(K), strict=True)]
        self.table = draw_table(orders, batch, None, np.arange(K) * 1000, rates)
        self.start = host(net.theta).copy()

    def _rates(self, networks: int) -> Any:
        """Of learning, (K,)."""
        rate = self.case["learning_rate"]
        return np.asarray(rate) if np.ndim(rate) else one_each(networks, rate, 2 * rate)

    def _targets(self, net: MLP, rng: np.random.Generator, rows: int) -> Any:
        outputs = net.layer_sizes[-1]
        if net.loss.integer_targets and self.case["targets"] == "hard":
            return rng.integers(0, outputs, rows)
        if net.loss.integer_targets:
            y = rng.random((rows, outputs))
            return y / y.sum(axis=1, keepdims=True)
        return rng.random((rows, outputs)) if net.loss.classification else rng.poisson(2.0, (rows, outputs)) + 0.25

    @property
    def way(self) -> str:
        """How steps are taken."""
        return self.step.way

    def run(self) -> dict[str, Any]:
        """What an epoch leaves on the host, by name; of θ what it changed."""
        with np.errstate(all="ignore"):
            self.step.train_epoch(self.table)
        found = {name: host(array).copy() for name, array in self.step.carried().items()}
        found["theta"] = found["theta"].astype(np.float64) - self.start
        found["cursor"] = host(self.step.state.epoch.cursor).copy()
        found["metric"] = found["totals"][..., 1]
        found["totals"] = found["totals"][..., 0]
        return found if self.state.penalty is None else {**found, "penalty": host(self.state.penalty).copy()}


def check_on_chip(driver: Driver, **case: Any) -> None:
    """Whatever a training carries and records is what the reference makes of it in float64.

    Where products are by tensor cores, in float64 but for their operands.
    """
    precision = {**CASE, **case}["precision"]
    coarse = PRECISIONS[precision].coarse
    reference_backend = TensorCores if coarse else ReferenceBackend
    with patch("gpubp.backends.cuda.on_chip.MOST_MULTIPLICATIONS", 5 << 20):  # also of batches in several chunks
        on_chip, reference = (
            Training(CudaBackend(driver, precision), **case),
            Training(reference_backend(np.float64), **case),
        )
        assert on_chip.way == "on-chip"
        found, exact = on_chip.run(), reference.run()
    if on_chip.state.operands is not None:
        theta, operands = on_chip.step.live.theta, on_chip.state.operands
        np.testing.assert_array_equal(host(operands), host(theta).astype(operands.dtype))
    tolerance = TOLERANCE[precision] * (1 if on_chip.table.steps == 1 else 10)
    assert found.keys() == exact.keys()
    for name, array in exact.items():
        if array.dtype.kind == "f":
            hits = name == "metric" and precision != "float64"  # whether a class is hit may hang on a rounding
            allowed = HITS if hits else tolerance * (TURNED if coarse and name == "theta" else 1)
            error, size = np.linalg.norm(found[name] - array), np.linalg.norm(array)
            assert error <= allowed * max(size, 1e-300), f"{name}: relative error {error / size:.3g}"
        else:
            np.testing.assert_array_equal(found[name], array, name)
