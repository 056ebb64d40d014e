"""Estimators fitted together: networks of the same shape form a stack."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

from gpubp.backends.notices import say_once
from gpubp.checks import SparseRows
from gpubp.estimators.arrays import take
from gpubp.estimators.base import STOCHASTIC_SOLVERS, BaseMLP
from gpubp.estimators.shared_data import SharedData
from gpubp.estimators.solvers.stack_trainer import StackTrainer
from gpubp.estimators.solvers.stochastic import StochasticFit
from gpubp.stack import Stack
from gpubp.training.packing import bytes_of_one, groups, memory_for_stacks, portions

# of a StochasticFit that comes from a worker
_RESULTS = ("ended", "error", "first_theta", "best_theta", "last_theta", "monitored_curve", "order", "solver")
Progress = Callable[[int], None]


@dataclass
class FitTask:
    """An estimator to be fitted on some rows of a data set.

    Attributes
    ----------
    est : MLPClassifier or MLPRegressor
        Unfitted; it is fitted in place.
    X, y, sample_weight : as `fit` takes them
        Tasks that share a data set hold the same objects; it is checked and held once.
    rows : (n,) int array or None
        The rows to train on; None for all.
    within : context manager or None
        Entered while the estimator is fitted, which is then done separately.
    done : bool
        Whether the estimator is fitted, or cannot be.
    error : Exception or None
        Why it could not be fitted.
    seconds : float
        Its share of the time.
    """

    est: Any
    X: Any
    y: Any
    rows: NDArray[np.int64] | None = None
    sample_weight: Any = None
    within: AbstractContextManager[None] | None = None
    done: bool = False
    error: Exception | None = None
    seconds: float = 0.0

    def fail(self, error: Exception) -> None:
        """Record that the estimator cannot be fitted."""
        self.error, self.done = error, True


TaskFit = tuple[FitTask, StochasticFit]


def fit_together(
    tasks: Sequence[FitTask], n_jobs: int | None = None, verbose: int = 0, progress: Progress | None = None
) -> None:
    """Fit all estimators, as `StackedFits.train` does."""
    StackedFits(tasks, n_jobs, verbose, progress).train()


class StackedFits:
    """Estimators that are trained together, and may be trained further.

    Networks of the same shape form a stack, or several if one would not fit in memory or workers share the work; each
    stack is a joblib task. Results do not depend on that. Estimators that no stack can train, such as those with solver
    "lbfgs", are fitted one by one.

    Parameters
    ----------
    tasks : sequence of FitTask
    n_jobs : int or None
        As in joblib.
    verbose : int
        1 prints the plan.
    progress : callable, optional
        Called with the number of networks that have trained one more epoch.
    """

    def __init__(
        self,
        tasks: Sequence[FitTask],
        n_jobs: int | None = None,
        verbose: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.n_jobs, self.verbose, self.progress = n_jobs, verbose, progress
        self.one_by_one = [task for task in tasks if not _stackable(task)]
        self.fits: list[TaskFit] = []
        data_sets: dict[Hashable, SharedData | Exception] = {}
        for task in tasks:
            if not _stackable(task):
                continue
            key = (id(task.X), id(task.y), type(task.est), task.est.device)
            if key not in data_sets:
                data_sets[key] = _checked_once(task)
            data = data_sets[key]
            if isinstance(data, Exception):
                task.fail(data)
                continue
            try:
                self.fits.append((task, data.begin_fit(task.est, task.rows, task.sample_weight)))
            except Exception as error:
                task.fail(error)

    def keep_only(self, tasks: Sequence[FitTask]) -> None:
        """Train only these from now on."""
        stay = {id(task) for task in tasks}
        self.one_by_one = [task for task in self.one_by_one if id(task) in stay]
        self.fits = [(task, fit) for task, fit in self.fits if id(task) in stay]

    def train(self, until: float = np.inf) -> None:
        """Train until each has ended, or has had `until` epochs."""
        for task in self.one_by_one:
            if not task.done:
                _fit_by_itself(task)
        unfinished = [(task, fit) for task, fit in self.fits if not fit.ended]
        for task, _ in unfinished:
            task.done = False
        stacks = self._pack(unfinished)
        for stack, (trained, seconds) in zip(stacks, self._train_stacks(stacks, until), strict=True):
            in_a_worker = trained[0] is not stack[0][1]
            if self.progress is not None and in_a_worker:  # a worker could not report it
                self.progress(sum(fit.est.n_iter_ for fit in trained) - sum(fit.est.n_iter_ for _, fit in stack))
            for (task, fit), result in zip(stack, trained, strict=True):
                if in_a_worker:
                    task.est.__dict__.update(result.est.__dict__)
                    fit.__dict__.update({name: getattr(result, name) for name in _RESULTS})
                task.error, task.done = fit.error, True
                task.seconds += seconds / len(stack)

    def _pack(self, unfinished: Sequence[TaskFit]) -> list[list[TaskFit]]:
        """The stacks in which they are trained, with those of equally many rows next to each other."""
        stacks: list[list[TaskFit]] = []
        of_one_shape = groups(unfinished, lambda pair: _stack_key(pair[1]))
        workers = effective_n_jobs(self.n_jobs)
        for group in of_one_shape:
            group.sort(key=lambda pair: -pair[1].m)
            try:
                stacks += self._cut_to_memory(group, -(-workers // len(of_one_shape)))
            except Exception as error:  # there is no such network on this machine
                for task, fit in group:
                    task.fail(error)
                    fit.ended = True
        return stacks

    def _cut_to_memory(self, group: Sequence[TaskFit], at_least: int) -> list[list[TaskFit]]:
        """A group cut into stacks that fit, `at_least` of them."""
        first = group[0][1]
        stack = first.est._network()
        keeps_best = any(fit.est.early_stopping for _, fit in group)
        bytes_each = bytes_of_one(stack, first.batch_size, first.rule, first.m, keeps_best)
        data = sum({id(fit.train.X): fit.train.X.nbytes for _, fit in group}.values())
        stacks = portions(group, bytes_each, max(0.0, memory_for_stacks(stack.backend) - data), at_least)
        if self.verbose:
            shape, plural = "-".join(map(str, stack.layer_sizes)), "s" if len(stacks) > 1 else ""
            size = (bytes_each * len(stacks[0]) + data) / 2**20
            print(f"{len(group)} networks {shape} in {len(stacks)} stack{plural}, {size:,.0f} MiB each with its data")
        return stacks

    def _train_stacks(self, stacks: Sequence[Sequence[TaskFit]], until: float) -> Any:
        """The results of `_train_stack` for each stack, as they become available if joblib's backend supports that."""
        of_each = [[fit for _, fit in stack] for stack in stacks]
        if effective_n_jobs(self.n_jobs) == 1:
            return (_train_stack(fits, until, self.progress) for fits in of_each)
        backend, _ = get_active_backend()
        as_they_come = getattr(backend, "supports_return_generator", False)  # not with Ray or multiprocessing
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator" if as_they_come else "list")
        return parallel(delayed(_train_stack)(fits, until, None) for fits in of_each)


def _checked_once(task: FitTask) -> SharedData | Exception:
    """The data that tasks share, or why none of them can be fitted on it."""
    try:
        return SharedData(task.est, task.X, task.y)
    except Exception as error:
        return error


def _train_stack(
    fits: Sequence[StochasticFit], until: float, progress: Progress | None
) -> tuple[Sequence[StochasticFit], float]:
    """Train a stack; returns the fits with their outcomes, and the seconds it took."""
    start = time.perf_counter()
    try:
        stack = _stack_of(fits)
        try:
            StackTrainer(stack, fits).run(until, progress)
        finally:
            for k, fit in enumerate(fits):
                fit.est._use_network(stack.part(slice(k, k + 1)), fit.train.destination)
    except Exception as error:
        for fit in fits:
            fit.error = fit.error or (None if fit.ended else error)
    return fits, time.perf_counter() - start


def _stack_of(fits: Sequence[StochasticFit]) -> Stack:
    """A stack with the estimators' weights."""
    first: Stack = fits[0].est._network()
    backend = first.backend
    stack = first.like(backend.zeros((len(fits), first.layout.size)), backend)
    for k, fit in enumerate(fits):
        fit.est._write_weights_to(stack.part(slice(k, k + 1)))
    return stack


def _stack_key(fit: StochasticFit) -> Hashable:
    """What networks of a stack have in common."""
    est = fit.est
    batch_size = None if fit.steps_per_epoch == 1 else fit.batch_size
    network = (type(est), tuple(est._layer_sizes), repr(est.activation), repr(est._loss_name))
    machine = (est.device, est.precision, est.coefs_[0].dtype.name)
    return *network, fit.rule.name, batch_size, *machine, isinstance(fit.train.X, SparseRows)


def _stackable(task: FitTask) -> bool:
    """Whether a stack can train it: it needs a stochastic solver and no callbacks."""
    est = task.est
    if task.within is not None or has_its_own_fit(est):
        return False
    return est.solver in STOCHASTIC_SOLVERS and not hasattr(est, "_skl_callbacks") and not hasattr(est, "coefs_")


def has_its_own_fit(est: Any) -> bool:
    """Whether a subclass overrides fitting, which a stack would bypass."""
    own = any(getattr(type(est), name) is not getattr(BaseMLP, name) for name in ("fit", "_fit", "_fit_stochastic"))
    if own:
        say_once(f"{type(est).__name__} has a fit of its own: its networks are fitted one by one, by that")
    return own


def _fit_by_itself(task: FitTask) -> None:
    start = time.perf_counter()
    arguments = {"X": task.X, "y": task.y}
    if task.sample_weight is not None:  # a subclass's fit may not take it
        arguments["sample_weight"] = task.sample_weight
    try:
        if task.rows is not None:
            arguments = {name: take(array, task.rows) for name, array in arguments.items()}
        with task.within or nullcontext():
            task.est.fit(arguments.pop("X"), arguments.pop("y"), **arguments)
    except Exception as error:
        task.error = error
    task.done, task.seconds = True, time.perf_counter() - start
