"""Estimators fitted together: a stack for all whose networks have the same shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

from gpubp.estimators.arrays import is_on_gpu, take
from gpubp.estimators.base import STOCHASTIC_SOLVERS
from gpubp.estimators.shared_data import SharedData
from gpubp.estimators.solvers.stack_trainer import StackTrainer
from gpubp.estimators.solvers.stochastic import StochasticFit
from gpubp.stack import Stack
from gpubp.training.packing import bytes_of_one, groups, memory_for_stacks, portions

CARRIED = ("ended", "error", "best_theta", "last_theta", "places", "solver")  # of a fit, from another process
Progress = Callable[[int], None]


@dataclass
class FitTask:
    """An estimator to be fitted on some rows of a data set.

    Attributes
    ----------
    est : MLPClassifier or MLPRegressor
        Not fitted; fitted in place.
    X, y, sample_weight : as `fit` takes them
        Members that share a data set hold the same objects; it is checked and held once.
    rows : (n,) int array or None
        The rows to train on; None for all.
    done : bool
        Whether it is fitted, or cannot be.
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
    done: bool = False
    error: Exception | None = None
    seconds: float = 0.0


def fit_members(
    members: Sequence[FitTask], n_jobs: int | None = None, verbose: int = 0, progress: Progress | None = None
) -> None:
    """Fit all members, as `StackedFits.train` does."""
    StackedFits(members, n_jobs, verbose, progress).train()


class StackedFits:
    """Members that are trained together, and may be trained further.

    Those whose networks have the same shape are a stack, or several where one would not fit in memory or there are
    workers to share it; each is a joblib task. Results do not depend on that. Estimators that no stack can train,
    as those of solver "lbfgs", are fitted one by one.

    Parameters
    ----------
    members : sequence of FitTask
    n_jobs : int or None
        As joblib has it.
    verbose : int
        1 prints the plan.
    progress : callable, optional
        Told how many networks have had one epoch more.
    """

    def __init__(
        self,
        members: Sequence[FitTask],
        n_jobs: int | None = None,
        verbose: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.n_jobs, self.verbose, self.progress = n_jobs, verbose, progress
        self.alone = [member for member in members if not _stackable(member.est)]
        self.fits: list[tuple[FitTask, StochasticFit]] = []
        known: dict[Hashable, SharedData] = {}
        for member in members:
            if not _stackable(member.est):
                continue
            try:
                key = (id(member.X), id(member.y), type(member.est), member.est.device)
                if key not in known:
                    known[key] = SharedData(member.est, member.X, member.y)
                self.fits.append((member, known[key].begin(member.est, member.rows, member.sample_weight)))
            except Exception as error:
                member.error, member.done = error, True

    def keep(self, members: Sequence[FitTask]) -> None:
        """Train these alone from now on."""
        stay = {id(member) for member in members}
        self.alone = [member for member in self.alone if id(member) in stay]
        self.fits = [(member, fit) for member, fit in self.fits if id(member) in stay]

    def train(self, until: float = np.inf) -> None:
        """Train until each has ended, or has had so many epochs."""
        for member in self.alone:
            if not member.done:
                _fit_alone(member)
        going = [(member, fit) for member, fit in self.fits if not fit.ended]
        for member, _ in going:
            member.done = False
        stacks = self._stacks(going)
        tasks = [[fit for _, fit in stack] for stack in stacks]
        for stack, (fits, seconds) in zip(stacks, self._results(tasks, until), strict=True):
            if self.progress is not None and fits[0] is not stack[0][1]:  # nobody has told it
                self.progress(sum(fit.est.n_iter_ for fit in fits) - sum(fit.est.n_iter_ for _, fit in stack))
            for (member, mine), theirs in zip(stack, fits, strict=True):
                if theirs is not mine:
                    member.est.__dict__.update(theirs.est.__dict__)
                    mine.__dict__.update({name: getattr(theirs, name) for name in CARRIED})
                member.error, member.done = mine.error, True
                member.seconds += seconds / len(stack)

    def _stacks(self, going: Sequence[tuple[FitTask, StochasticFit]]) -> list[list[tuple[FitTask, StochasticFit]]]:
        """Who is trained with whom, with equally many rows side by side."""
        found = []
        alike = groups(going, lambda pair: _shape(pair[1]))
        workers = effective_n_jobs(self.n_jobs)
        for group in alike:
            group.sort(key=lambda pair: -pair[1].m)
            try:
                found += self._portions(group, -(-workers // len(alike)))
            except Exception as error:  # there is no such network here
                for member, fit in group:
                    member.error, member.done, fit.ended = error, True, True
        return found

    def _portions(self, group: Sequence[tuple[FitTask, StochasticFit]], at_least: int) -> Any:
        """A group cut into stacks that fit."""
        first = group[0][1]
        stack = first.est._network()
        best = any(fit.est.early_stopping for _, fit in group)
        each = bytes_of_one(stack, first.batch_size, first.rule, first.m, best)
        data = sum({id(fit.train.X): fit.train.X.nbytes for _, fit in group}.values())
        stacks = portions(group, each, max(0.0, memory_for_stacks(stack.backend) - data), at_least)
        if self.verbose:
            shape, plural = "-".join(map(str, stack.layer_sizes)), "s" if len(stacks) > 1 else ""
            size = (each * len(stacks[0]) + data) / 2**20
            print(f"{len(group)} networks {shape} in {len(stacks)} stack{plural}, {size:,.0f} MiB each with its data")
        return stacks

    def _results(self, tasks: Sequence[Sequence[StochasticFit]], until: float) -> Any:
        """What `_train_stack` gives for each task, as it becomes known."""
        if effective_n_jobs(self.n_jobs) == 1:
            return (_train_stack(fits, until, self.progress) for fits in tasks)
        parallel = Parallel(n_jobs=self.n_jobs, return_as="generator")
        return parallel(delayed(_train_stack)(fits, until, None) for fits in tasks)


def _train_stack(
    fits: Sequence[StochasticFit], until: float, progress: Progress | None
) -> tuple[Sequence[StochasticFit], float]:
    """Train a stack; the fits with what came of them, and the seconds that it took."""
    start = time.perf_counter()
    try:
        stack = _stack_of(fits)
        try:
            StackTrainer(stack, fits).run(until, progress)
        finally:
            for k, fit in enumerate(fits):
                fit.est._adopt(stack.part(slice(k, k + 1)), fit.train.home)
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
        fit.est._write_to(stack.part(slice(k, k + 1)))
    return stack


def _shape(fit: StochasticFit) -> Hashable:
    """What networks of a stack have in common."""
    est = fit.est
    return (
        type(est), tuple(est._layer_sizes), repr(est.activation), repr(est.loss), fit.rule.name,
        None if fit.steps_per_epoch == 1 else fit.batch_size, est.device, est.precision, est.coefs_[0].dtype.name,
    )  # fmt: skip


def _stackable(est: Any) -> bool:
    """Whether a stack can train it: by a stochastic solver, with nobody who wants to be called back."""
    return est.solver in STOCHASTIC_SOLVERS and not hasattr(est, "_skl_callbacks") and not hasattr(est, "coefs_")


def _fit_alone(member: FitTask) -> None:
    start, rows = time.perf_counter(), member.rows
    given = (member.X, member.y, member.sample_weight)
    try:
        member.est.fit(*(a if a is None or rows is None else _rows_of(a, rows) for a in given))
    except Exception as error:
        member.error = error
    member.done, member.seconds = True, time.perf_counter() - start


def _rows_of(array: Any, rows: NDArray[np.int64]) -> Any:
    """Rows of whatever `fit` takes: arrays, data frames, lists."""
    return take(array, rows) if is_on_gpu(array) else _safe_indexing(array, rows)
