"""The errors, by who can fix them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class GpubpError(Exception):
    """Any failure that gpubp anticipates; the message names the thing, the place, the value and the remedy.

    Examples
    --------
    >>> import gpubp
    >>> try:
    ...     gpubp.MLP([4, 3], activations="rleu")
    ... except gpubp.GpubpError as error:
    ...     print(type(error).__name__)
    UsageError
    """


class UsageError(GpubpError, ValueError):
    """An argument that makes no sense: the caller can fix it.

    Examples
    --------
    >>> import gpubp
    >>> gpubp.MLP([4, 3, 2], activations="rleu")
    Traceback (most recent call last):
    gpubp.errors.UsageError: unknown activation "rleu"; did you mean "relu"?
    """


class DataError(UsageError):
    """Data that cannot be trained on or predicted from: the data's owner can fix it.

    Examples
    --------
    >>> import gpubp
    >>> gpubp.MLP([2, 1], loss="half_squared_error", device="cpu-reference").forward([[1.0, float("nan")]])
    Traceback (most recent call last):
    gpubp.errors.DataError: X[0, 1] = nan; values must be finite (impute or drop such rows)
    """


class DeviceError(GpubpError, RuntimeError):
    """The requested device does not work here; the message says why.

    Examples
    --------
    >>> import gpubp
    >>> def network():
    ...     try:
    ...         return gpubp.MLP([2, 1], loss="half_squared_error", device="cuda")
    ...     except gpubp.DeviceError:  # the message says what is missing, and how to get it
    ...         return gpubp.MLP([2, 1], loss="half_squared_error", device="cpu")
    >>> network().device in ("cuda", "cpu")
    True
    """


class DivergenceError(GpubpError, ArithmeticError):
    """The loss or the gradient stopped being finite. The network still holds its last finite weights.

    Attributes
    ----------
    step : int
        The step, counted from 0 over the whole training, whose loss or gradient was not finite.
    layer : int or None
        The layer, counted from 1, in which the first non-finite value appeared.
    history : gpubp.History
        The curves up to the epoch in which it happened.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], loss="half_squared_error", device="cpu-reference")
    >>> try:
    ...     history = gpubp.train(net, [[1.0]], [1.0], optimizer="sgd", learning_rate=1e30, epochs=9)
    ... except gpubp.DivergenceError as error:
    ...     print(error.step < 9, bool(np.isfinite(net.weights[0]).all()))
    True True
    """

    def __init__(self, message: str, *, step: int, layer: int | None, history: Any) -> None:
        super().__init__(message)
        self.step = step
        self.layer = layer
        self.history = history


class CheckpointError(GpubpError, OSError):
    """A checkpoint could not be written; earlier ones are intact, and the network holds the weights so far.

    Attributes
    ----------
    history : gpubp.History or None
        The curves of the epochs that were finished.

    Examples
    --------
    >>> import tempfile
    >>> from unittest.mock import patch
    >>> import gpubp
    >>> net = gpubp.MLP([1, 1], loss="half_squared_error", device="cpu-reference")
    >>> full = OSError(28, "No space left on device")
    >>> with tempfile.TemporaryDirectory() as folder, patch("os.fsync", side_effect=full):
    ...     try:
    ...         history = gpubp.train(net, [[1.0]], [1.0], checkpoint=folder, checkpoint_every="1epochs")
    ...     except gpubp.CheckpointError as error:
    ...         print("No space left on device" in str(error))
    True
    """

    history: Any = None


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a training with checkpoints, once it had written one. The network has the weights so far.

    Attributes
    ----------
    signal : int
        The signal that ended it.
    history : gpubp.History
        The curves of the epochs that were finished.
    checkpoint : pathlib.Path
        The folder to resume from.
    """

    def __init__(self, signal: int, history: Any, checkpoint: Any) -> None:
        super().__init__(f"resume from {checkpoint}")
        self.signal, self.history, self.checkpoint = signal, history, checkpoint


class RankError(GpubpError, RuntimeError):
    """Another of the processes that train a network together failed, so this one stopped too.

    Attributes
    ----------
    rank : int
        The first that failed; that process raises its error, which the message quotes.
    usage : bool
        Whether that is a `UsageError`, such as a `DataError` of the rank that reads the data for all.
    """

    def __init__(self, message: str, *, rank: int, usage: bool = False) -> None:
        super().__init__(message)
        self.rank, self.usage = rank, usage


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown `name`: the nearest known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(names)}"
