"""What can go wrong, by who can mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class GpubpError(Exception):
    """Any failure that gpubp foresaw; the message names the thing, the place, the value and the remedy."""


class UsageError(GpubpError, ValueError):
    """An argument that cannot be meant: the caller mends it."""


class DataError(UsageError):
    """Data that cannot be trained on or predicted from: the data's owner mends it."""


class DeviceError(GpubpError, RuntimeError):
    """The device that was asked for cannot work here, and why."""


class DivergenceError(GpubpError, ArithmeticError):
    """Training left the finite numbers. The network still holds its last finite weights.

    Attributes
    ----------
    step : int
        The step, counted from 0 over the whole training, whose loss or gradient was not finite.
    layer : int or None
        The layer, counted from 1, in which the first non-finite value appeared.
    history : gpubp.History
        The curves up to the epoch in which it happened.
    """

    def __init__(self, message: str, *, step: int, layer: int | None, history: Any) -> None:
        super().__init__(message)
        self.step = step
        self.layer = layer
        self.history = history


def suggest(name: str, known: Iterable[str]) -> str:
    """How an error about an unknown `name` ends: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(names)}"
