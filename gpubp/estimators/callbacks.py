"""scikit-learn's callbacks (1.9 and later) on our estimators; with an older one there are none."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypedDict

if find_spec("sklearn.callback"):
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
else:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """What an estimator inherits where scikit-learn has no callbacks."""


class GivenData(TypedDict):
    """What a fit was called with."""

    X: Any
    y: Any
    metadata: dict[str, Any] | None


class FitCallbacks:
    """The task "fit" and its iterations, as callbacks see them.

    Parameters
    ----------
    est : estimator
    given : dict
        X, y and metadata, a dict or None, as the user gave them.
    iterations : int
        At most so many.
    fitted : callable
        ``fitted() -> dict`` of the attributes that an estimator needs to predict as if the fit had ended now.
    """

    def __init__(self, est: Any, given: GivenData, iterations: int, fitted: Callable[[], dict[str, Any]]) -> None:
        self.given = {"estimator": est, **given}
        self.fitted = fitted
        self.root: Any = None
        self.task: Any = None
        if hasattr(est, "_skl_callbacks"):
            self.root = est._init_callback_context(max_subtasks=iterations)
            self.root.call_on_fit_task_begin(**self.given)

    def begin(self) -> None:
        """An iteration begins."""
        if self.root is not None:
            self.task = self.root.subcontext(task_name="iteration")
            self.task.call_on_fit_task_begin(**self.given)

    def end(self) -> bool:
        """An iteration has ended; whether a callback wants it to be the last."""
        if self.task is None:
            return False
        return bool(self.task.call_on_fit_task_end(**self.given, reconstruction_attributes=self.fitted))

    def finish(self) -> None:
        """The fit has ended."""
        if self.root is not None:
            self.root.call_on_fit_task_end(**self.given, reconstruction_attributes=self.fitted)
