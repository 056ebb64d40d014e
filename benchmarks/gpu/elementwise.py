"""What the kernels do, by CuPy's own means: its ElementwiseKernel, made of the same formulas, and its reductions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.peers import UnavailableError, require
from gpubp.activations import Activation
from gpubp.optimizers import Optimizer

# As kernels/common.cuh has them: T for constants, arithmetic in float32 whatever the arrays hold.
PREAMBLE = "__device__ inline float select(bool c, float x, float y) { return c ? x : y; }"
T = "typedef float T; "


def bias_activation(activation: Activation, z: Any, b: Any, a: Any) -> Callable[[], None]:
    """z += b and a = σ(z)."""
    if a is z:
        kernel = _kernel("B b", "S y", f"T z = T(y) + T(b); y = S({activation.scalar_f});", "bias_activation")
        return lambda: kernel(b, z)
    kernel = _kernel(
        "B b", "S x, S y", f"T z = T(x) + T(b); x = S(z); y = S({activation.scalar_f});", "bias_activation"
    )
    return lambda: kernel(b, z, a)


def hadamard_derivative(activation: Activation, delta: Any, z_or_a: Any) -> Callable[[], None]:
    """delta *= σ′, then its column sums; σ′ is read off z or a."""
    kernel = _kernel(
        "S z_or_a",
        "S delta",
        f"T {activation.derivative_from} = T(z_or_a); delta = S(T(delta) * T({activation.scalar_derivative}));",
        "hadamard_derivative",
    )

    def run() -> None:
        kernel(z_or_a, delta)
        delta.sum(axis=1)

    return run


def gather(source: Any, order: Any, out: Any) -> Callable[[], None]:
    """Rows in an order."""
    kernel = _kernel(
        inputs="raw S source, raw int64 order, int64 columns",
        outputs="D out",
        operation="out = D(T(source[order[i / columns] * columns + i % columns]));",
        name="gather",
    )
    return lambda: kernel(source, order, out.shape[2], out)


def cast(source: Any, out: Any) -> Callable[[], None]:
    """To another type."""
    kernel = _kernel("S x", "D y", "y = D(T(x));", "cast")
    return lambda: kernel(source, out)


def optimizer_step(rule: Optimizer, theta: Any, grad: Any, slots: tuple[Any, ...]) -> Callable[[], None]:
    """The rule over all parameters at once, with scalars of its first step."""
    scalars = rule.scalars({**rule.options, "lr": 1e-3, "t": 1})
    steps = "".join(
        f"{'' if name in rule.slots else 'T '}{name} = {expression}; " for name, expression in rule.scalar_step or ()
    )
    kernel = _kernel(
        inputs=", ".join(["float32 g", *(f"float32 {name}" for name in scalars)]),
        outputs=", ".join(["float32 theta", *(f"float32 {name}" for name in rule.slots)]),
        operation=f"{steps} theta -= update;",
        name="optimizer_step",
    )
    return lambda: kernel(grad, *scalars.values(), theta, *slots)


def _kernel(inputs: str, outputs: str, operation: str, name: str) -> Any:
    return _cupy().ElementwiseKernel(inputs, outputs, T + operation, f"elementwise_{name}", preamble=PREAMBLE)


def _cupy() -> Any:
    cupy = require("cupy")
    if not cupy.cuda.is_available():
        raise UnavailableError("CuPy finds no CUDA device")
    return cupy
