"""scikit-learn's callbacks (1.9 and later) on our estimators; older versions have none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypedDict

if find_spec("sklearn.callback"):
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
else:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """What an estimator inherits if scikit-learn has no callbacks."""


class FitArguments(TypedDict):
    """The arguments of a fit."""

    X: Any
    y: Any
    metadata: dict[str, Any] | None


def callbacks_go_on(est: Any) -> bool:
    """Whether a meta-estimator's callbacks are passed on to the estimators that it fits."""
    callbacks = getattr(est, "_skl_callbacks", [])
    if not callbacks:
        return False
    from sklearn.callback import AutoPropagatedCallback

    return any(isinstance(callback, AutoPropagatedCallback) for callback in callbacks)


@contextmanager
def fitted_within(context: Any, est: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Within this context, an estimator is fitted on behalf of another, whose callbacks are passed on to it."""
    with context.propagate_callback_context(est):
        context.call_on_fit_task_begin(**arguments)
        yield


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
        The maximum number of iterations.
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

    def begin_iteration(self, task_name: str = "iteration", subtasks: int = 0) -> None:
        """An iteration, or another part of the fit, begins; it has `subtasks` parts."""
        if self.fit_context is not None:
            more = {"max_subtasks": subtasks, "sequential_subtasks": False} if subtasks else {}
            self.iteration_context = self.fit_context.subcontext(task_name=task_name, **more)
            self.iteration_context.call_on_fit_task_begin(**self.arguments)

    @contextmanager
    def fitting(self, est: Any, task_name: str) -> Iterator[None]:
        """A part of the fit in which another estimator is fitted, with the callbacks that are passed on to it."""
        if self.fit_context is None:
            yield
            return
        context = self.fit_context.subcontext(task_name=task_name)
        with fitted_within(context, est, self.arguments):
            yield
        self._end(context)

    def subtask(self, task_name: str, number: int) -> Any:
        """The context of a part of the iteration; None where there are no callbacks."""
        context = self.iteration_context
        return None if context is None else context.subcontext(task_name=task_name, task_id=number)

    def end_iteration(self) -> bool:
        """An iteration has ended; returns whether a callback wants it to be the last."""
        return self.iteration_context is not None and bool(self._end(self.iteration_context))

    def end_fit(self) -> None:
        """The fit has ended."""
        if self.fit_context is not None:
            self._end(self.fit_context)

    def _end(self, context: Any) -> Any:
        return context.call_on_fit_task_end(**self.arguments, reconstruction_attributes=self.reconstruction_attributes)
