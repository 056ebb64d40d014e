"""The layers of a stack of networks as nodes of an ONNX graph, activations from their scalar expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpubp.activations import Activation, Softmax, exponential, identity, relu, sigmoid, tanh
from gpubp.errors import UsageError
from gpubp.interchange.graph import Tensor
from gpubp.stack import Stack

# Activations that are a single ONNX operator, by their scalar expressions: a record's formula matters, not its name.
OPERATORS: Mapping[str | None, str] = {
    identity().scalar_f: "Identity",
    relu().scalar_f: "Relu",
    sigmoid().scalar_f: "Sigmoid",
    tanh().scalar_f: "Tanh",
    exponential().scalar_f: "Exp",
}


def _erf(x: Tensor) -> Tensor:
    return x.cast(np.float32).apply("Erf").cast(x.dtype)  # runtimes only have it in float32


def _log1p(x: Tensor) -> Tensor:
    """ln(1 + x) without loss for small x: ln u / (u − 1) compensates for the rounding of 1 + x. After Kahan."""
    u = 1.0 + x
    one = u.equals(1.0)
    divisor = x.graph.where(one, u, u - 1.0)  # avoids division by 0
    return x.graph.where(one, x, u.apply("Log") * x / divisor)


def _expm1(x: Tensor) -> Tensor:
    """eˣ − 1 = 2t / (1 − t) with t = tanh ½x, without loss for small x."""
    t = (0.5 * x).apply("Tanh")
    return 2.0 * t / (1.0 - t)


# The functions of scalar expressions.
FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "select": lambda condition, x, y: condition.graph.where(condition, x, y),
    "exp": lambda x: x.apply("Exp"),
    "expm1": _expm1,
    "log1p": _log1p,
    "tanh": lambda x: x.apply("Tanh"),
    "erf": _erf,
    "erfc": lambda x: 1.0 - _erf(x),
    "fabs": lambda x: x.apply("Abs"),
    "sqrt": lambda x: x.apply("Sqrt"),
    "pow": lambda x, y: x.graph.node("Pow", [x, y], x.dtype),
}


def outputs(X: Tensor, stack: Stack, output_activation: Activation | Softmax) -> Tensor:
    """The outputs aᴸ (rows, n_L) of encoded rows X (rows, n_0), (K, rows, n_L) for a stack of several.

    Parameters
    ----------
    X : Tensor
        In the networks' dtype.
    stack : Stack
    output_activation : Activation or Softmax

    Raises
    ------
    UsageError
        Naming an activation that ONNX cannot express.
    """
    graph, backend = X.graph, stack.backend
    a = X
    for l, (layer, activation) in enumerate(zip(stack.layers, (*stack.activations, output_activation), strict=True)):
        W, b = backend.to_host(layer.W), backend.to_host(layer.b)  # (K, n_in, n_out), (K, 1, n_out)
        if stack.models == 1:
            W, b = W[0], b[0]
        z = graph.node("MatMul", [a, graph.constant(W, f"weights.{l}")], a.dtype) + graph.constant(b, f"biases.{l}")
        a = activate(activation, z)
    return a


def activate(activation: Activation | Softmax, z: Tensor) -> Tensor:
    """σ(z), elementwise or over the last axis.

    Raises
    ------
    UsageError
        If it is a record without a scalar expression, or with one that ONNX cannot express.
    """
    if isinstance(activation, Softmax):
        return z.apply("Softmax", axis=-1)
    if activation.scalar_f in OPERATORS:
        return z.apply(OPERATORS[activation.scalar_f])
    if activation.scalar_f is None:
        raise UsageError(
            f'activation "{activation.name}" has no scalar expression, from which its ONNX form is made; give the '
            "record a scalar_f"
        )
    names: dict[str, Any] = {"z": z, "T": lambda value: z.graph.constant(np.array(value, z.dtype)), **FUNCTIONS}
    try:
        a: Tensor = eval(activation.scalar_f, {"__builtins__": {}}, names)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        known = ", ".join(FUNCTIONS)
        raise UsageError(
            f'activation "{activation.name}": {activation.scalar_f!r} has no ONNX form ({error}); it is made of '
            f"arithmetic, comparisons and {known}"
        ) from None
    return a
