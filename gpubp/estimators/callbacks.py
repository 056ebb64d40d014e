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


class FitArguments(TypedDict):
    """What a fit was called with."""

    X: Any
    y: Any
    metadata: dict[str, Any] | None


def fit_arguments(X: Any, y: Any, sample_weight: Any) -> FitArguments:
    """The arguments of a fit as callbacks see them."""
    return FitArguments(X=X, y=y, metadata=None if sample_weight is None else {"sample_weight": sample_weight})


class FitCallbacks:
    """The task "fit" and its iterations, as callbacks see them.

    Parameters
    ----------
    est : estimator
    arguments : FitArguments
    iterations : int
        At most so many.
    reconstruction_attributes : callable
        ``reconstruction_attributes() -> dict`` of the attributes that an estimator needs to predict as if the fit had
        ended now.
    """

    def __init__(
        self,
        est: Any,
        arguments: FitArguments,
        iterations: int,
        reconstruction_attributes: Callable[[], dict[str, Any]],
    ) -> None:
        self.arguments = {"estimator": est, **arguments}
        self.reconstruction_attributes = reconstruction_attributes
        self.fit_context: Any = None
        self.iteration_context: Any = None
        if hasattr(est, "_skl_callbacks"):
            self.fit_context = est._init_callback_context(max_subtasks=iterations)
            self.fit_context.call_on_fit_task_begin(**self.arguments)

    def begin_iteration(self) -> None:
        """An iteration begins."""
        if self.fit_context is not None:
            self.iteration_context = self.fit_context.subcontext(task_name="iteration")
            self.iteration_context.call_on_fit_task_begin(**self.arguments)

    def end_iteration(self) -> bool:
        """An iteration has ended; whether a callback wants it to be the last."""
        return self.iteration_context is not None and bool(self._end(self.iteration_context))

    def end_fit(self) -> None:
        """The fit has ended."""
        if self.fit_context is not None:
            self._end(self.fit_context)

    def _end(self, context: Any) -> Any:
        return context.call_on_fit_task_end(**self.arguments, reconstruction_attributes=self.reconstruction_attributes)
