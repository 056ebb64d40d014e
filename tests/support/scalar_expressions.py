"""The common subset of C++ and Python, evaluated as plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def _overflowing(function: Callable[[float], float]) -> Callable[[float], float]:
    """`function` with C's answer to overflow, infinity, where Python raises."""

    def to_infinity(x: float) -> float:
        try:
            return function(x)
        except OverflowError:
            return math.inf

    return to_infinity


def _select(condition: bool, x: float, y: float) -> float:
    return x if condition else y


NAMES: dict[str, Any] = {
    "T": float,
    "select": _select,
    "exp": _overflowing(math.exp),
    "expm1": _overflowing(math.expm1),
    "log1p": math.log1p,
    "tanh": math.tanh,
    "erf": math.erf,
    "erfc": math.erfc,
    "fabs": math.fabs,
    "sqrt": math.sqrt,
    "pow": math.pow,
}


def scalar_function(expression: str, *arguments: str) -> Callable[..., float]:
    """The function that `expression` defines; a name outside the common subset is an error."""
    return eval(f"lambda {', '.join(arguments)}: {expression}", {"__builtins__": {}, **NAMES})
