"""The networks of estimators trained as one stack: each epoch, its rows and what came of it, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import DivergenceError
from gpubp.estimators.data import joined, outputs_of_each
from gpubp.estimators.solvers.stochastic import StochasticFit
from gpubp.stack import Stack
from gpubp.training.divergence import divergence_error
from gpubp.training.history import History
from gpubp.training.slice_step import initial_state
from gpubp.training.step import EpochResult, TrainingStep
from gpubp.training.step_table import draw_table

_NO_ROWS = np.empty(0, np.int64)


class StackTrainer:
    """Trainings that take their steps together.

    Parameters
    ----------
    stack : Stack
        A stack of K, with the estimators' weights.
    fits : K StochasticFit
        Of one rule and batch size.
    """

    def __init__(self, stack: Stack, fits: Sequence[StochasticFit]) -> None:
        self.stack, self.fits, first = stack, fits, fits[0]
        self.X, y, self.weight, self.offsets = joined([fit.train for fit in fits])

        def each(name: str) -> NDArray[np.float64]:
            return np.array([getattr(fit.est, name) for fit in fits], np.float64)

        alpha, decay = each("alpha"), np.array([fit.weight_decay for fit in fits], np.float64)
        norms = [fit.est.max_grad_norm for fit in fits]
        state = initial_state(
            stack,
            first.rule,
            {name: np.array([fit.options[name] for fit in fits], np.float64) for name in first.options},
            l2=alpha if alpha.any() else None,
            l2_by_batch=True,
            penalty=np.zeros((len(fits), max(fit.steps_per_epoch for fit in fits))) if alpha.any() else None,
            weight_decay=decay if decay.any() else None,
            max_grad_norm=np.array([np.inf if n is None else n for n in norms]) if any(norms) else None,
        )
        for k, fit in enumerate(fits):
            if fit.solver.fits(fit.rule, stack):
                updates, slots = fit.solver.on(stack.backend)
                state.updates[k : k + 1] = updates
                for slot, own in zip(state.slots, slots, strict=True):
                    slot[k : k + 1] = own
            if fit.last_theta is not None:
                stack.theta[k] = fit.last_theta
        stack.seeds = tuple(getattr(fit.est, "_dropout_seed", 0) for fit in fits)
        every_row = len(fits) == 1 and fit.m == len(self.X)
        self.step = TrainingStep(
            stack,
            (self.X, y, self.weight),
            max(fit.batch_size for fit in fits),
            state,
            dropout=each("dropout"),
            label_smoothing=each("label_smoothing"),
            orders=len(fits),
            counts=None if every_row else np.array([fit.m for fit in fits]),
        )

    def run(self, until: float = np.inf, after_epoch: Callable[[int], None] | None = None) -> None:
        """Train until all have ended, or have so many epochs; with early stopping, return to the best weights.

        `after_epoch` is told how many networks have had one more.
        """
        try:
            while training := [k for k, fit in enumerate(self.fits) if not fit.ended and fit.est.n_iter_ < until]:
                self._epoch(training)
                if after_epoch is not None:
                    after_epoch(len(training))
        finally:
            self._finish()

    def _epoch(self, training: Sequence[int]) -> None:
        """Take the steps of an epoch, and let those that train look at what came of it."""
        fits, step = self.fits, self.step
        orders = [np.zeros(fit.m, np.int64) for fit in fits]
        rates = [np.zeros(fit.steps_per_epoch) for fit in fits]
        for k in training:
            fits[k].tasks.begin()
            rows, rates[k] = fits[k].next_epoch()
            orders[k] = rows + self.offsets[k]
        firsts = np.array([fit.solver.steps for fit in fits])
        table = draw_table(orders, step.batch_size, self.weight, firsts, rates)
        result = step.run_epoch(table)
        totals = result.totals[..., 0]
        if result.penalty is not None:
            totals = totals + result.penalty
        losses, outputs = self._validated(training, result)
        for k in training:
            fit, steps = fits[k], slice(0, fits[k].steps_per_epoch)
            error = self._reported(k) if result.diverged[k] else None
            fit.watch(totals[k, steps], table.normalizer[k, steps], error, losses[k], outputs[k], self.stack.theta[k])
        ended = np.array([fit.ended for fit in fits])
        if ended.any() and not ended.all():
            step.stop(ended)

    def _validated(self, training: Sequence[int], result: EpochResult) -> tuple[list[Any], list[Any]]:
        """For each network the loss on data that were given for validation, and its outputs for early stopping."""
        stack, fits = self.stack, self.fits
        nothing: list[Any] = [None] * len(fits)
        data = fits[0].validation
        if data is not None and data.given:  # a network by itself
            loss, _ = stack.evaluate(data.X, data.y, data.weight)
            return [float(loss[0])], outputs_of_each(stack, data.X, [data.rows]) if fits[
                0
            ].est.early_stopping else nothing
        rows = [_NO_ROWS] * len(fits)
        for k in training:
            validation = fits[k].validation
            if validation is not None and not result.diverged[k]:
                rows[k] = validation.rows + self.offsets[k]
        return nothing, outputs_of_each(stack, self.X, rows) if any(map(len, rows)) else nothing

    def _reported(self, k: int) -> DivergenceError:
        """Where network k left the finite numbers."""
        history = History(self.stack.loss.metric.name)
        history.loss += self.fits[k].est.loss_curve_
        return divergence_error(self.step, np.arange(len(self.fits)) == k, history, numbered=False)

    def _finish(self) -> None:
        """Leave the moments of those that have a place to their solvers, and every network at its best weights."""
        stack = self.stack
        for k, fit in enumerate(self.fits):
            moments = self.step.optimizer_slots(k)
            if moments is not None:
                fit.solver.updates, fit.solver.slots = moments
                fit.solver.backend = stack.backend
            if fit.best_theta is not None:
                fit.last_theta = None if fit.ended else stack.theta[k].copy()
                stack.theta[k] = fit.best_theta
