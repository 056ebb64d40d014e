"""Callbacks that observe a training after every epoch without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpubp.diagnostics.health import HealthWatch
from gpubp.errors import UsageError
from gpubp.stack import Stack
from gpubp.training.history import History
from gpubp.training.samples import Samples, evaluated_samples


class WatchedRows:
    """A callback that records loss and metric on test rows in the history; nothing in a training depends on them.

    Parameters
    ----------
    rows : Samples
        The test rows, checked.
    """

    def __init__(self, rows: Samples) -> None:
        self.rows = rows

    def __call__(self, net: Any, history: History) -> None:
        """After an epoch: NaN for networks of a stack that no longer trained in it."""
        trained = np.isfinite(history.loss[-1])
        loss, metric = net.stack.evaluate(self.rows.X, self.rows.y, self.rows.weight)
        history.watch_test(np.where(trained, loss, np.nan), np.where(trained, metric, np.nan))


def watchers(stack: Stack, samples: Samples, diagnostics: bool, watch_test: Sequence[Any] | None) -> list[Any]:
    """Callbacks that observe the layers and test rows, as requested.

    Raises
    ------
    DataError, UsageError
        If the test rows do not fit, or diagnostics are requested for a stack.
    """
    chosen: list[Any] = []
    if diagnostics:
        if stack.models > 1:
            raise UsageError(f"diagnostics looks at a single network; this is a stack of {stack.models}")
        rows = None if samples.rows is None else samples.rows[0]
        chosen.append(HealthWatch(stack, samples.X, samples.y, samples.weight, rows))
    test = evaluated_samples(stack, watch_test, "watch_test", "test")
    if test is not None:
        chosen.append(WatchedRows(test))
    return chosen


def checked_callbacks(callbacks: Sequence[Callable[..., Any]]) -> Sequence[Callable[..., Any]]:
    """The functions that users want called after every epoch.

    Raises
    ------
    UsageError
        If it is not a sequence of functions.
    """
    if not isinstance(callbacks, Sequence) or not all(callable(callback) for callback in callbacks):
        raise UsageError(f"callbacks={callbacks!r} does not fit; give a list of functions of (net, history)")
    return callbacks


@contextmanager
def shown(verbose: int, epochs: int, rows: int) -> Iterator[list[Any]]:
    """Callbacks that show a training's progress: none, or a bar that ends with it.

    Parameters
    ----------
    verbose : int
        0 for none.
    epochs : int
        The number of planned epochs.
    rows : int
        Training rows of an epoch.

    Raises
    ------
    UsageError
        If `verbose` is neither 0 nor 1.
    """
    if verbose not in (0, 1):
        raise UsageError(f"verbose={verbose!r} does not fit; give 0 or 1")
    if not verbose:
        yield []
        return
    from gpubp.training.progress import TrainingProgress, console_of_python

    with TrainingProgress(console_of_python(), epochs, rows) as progress:
        yield [progress]
