"""The networks of estimators trained as one stack: each epoch, its rows and what came of it, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import OptimizerState
from gpubp.errors import DivergenceError
from gpubp.estimators.arrays import is_on_gpu
from gpubp.estimators.data import concatenate_data_sets
from gpubp.estimators.solvers.stochastic import StochasticFit
from gpubp.stack import Stack, neighbours
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
        They have one update rule and one batch size in common.
    """

    def __init__(self, stack: Stack, fits: Sequence[StochasticFit]) -> None:
        self.stack, self.fits = stack, fits
        self.X, y, self.weight, self.offsets = concatenate_data_sets([fit.train for fit in fits])
        state = _optimizer_state(stack, fits)
        for k, fit in enumerate(fits):
            if fit.last_theta is not None:
                stack.theta[k] = fit.last_theta
            if fit.est.early_stopping and fit.first_theta is None:
                fit.first_theta = stack.theta[k].copy()
        stack.seeds = tuple(getattr(fit.est, "_dropout_seed", 0) for fit in fits)
        every_row = len(fits) == 1 and fits[0].m == len(self.X)
        self.step = TrainingStep(
            stack,
            (self.X, y, self.weight),
            max(fit.batch_size for fit in fits),
            state,
            dropout=_per_network(fits, "dropout"),
            label_smoothing=_per_network(fits, "label_smoothing"),
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
            self._return_moments()
            self._return_to_best_weights()

    def _epoch(self, training: Sequence[int]) -> None:
        """Take the steps of an epoch, and let those that train look at what came of it."""
        fits, step = self.fits, self.step
        orders = [np.zeros(fit.m, np.int64) for fit in fits]
        rates = [np.zeros(fit.steps_per_epoch) for fit in fits]
        for k in training:
            fits[k].callbacks.begin_iteration()
            rows, rates[k] = fits[k].next_epoch()
            orders[k] = rows + self.offsets[k]
        first_steps = np.array([fit.solver.steps for fit in fits])
        table = draw_table(orders, step.batch_size, self.weight, first_steps, rates)
        result = step.run_epoch(table)
        totals = result.totals[..., 0]
        if result.penalty is not None:
            totals = totals + result.penalty
        losses, outputs = self._validate(training, result)
        for k in training:
            fit, steps = fits[k], slice(0, fits[k].steps_per_epoch)
            fit.finish_epoch(
                totals[k, steps],
                table.normalizer[k, steps],
                error=self._divergence(k) if result.diverged[k] else None,
                validation_loss=losses[k],
                outputs=outputs[k],
                theta=self.stack.theta[k],
            )
        ended = np.array([fit.ended for fit in fits])
        if ended.any() and not ended.all():
            step.stop(ended)

    def _validate(self, training: Sequence[int], result: EpochResult) -> tuple[list[Any], list[Any]]:
        """For each network the loss on data that users gave for validation, and its outputs for early stopping."""
        fits = self.fits
        nothing: list[Any] = [None] * len(fits)
        data = fits[0].validation
        if data is not None and data.from_user:  # a network by itself
            loss, _ = self.stack.evaluate(data.X, data.y, data.weight)
            if not fits[0].est.early_stopping:
                return [float(loss[0])], nothing
            if result.diverged[0]:
                return [float(loss[0])], [self._first_outputs(0)]
            return [float(loss[0])], self._outputs(self.stack, data.X, [data.rows])
        rows = [_NO_ROWS] * len(fits)
        for k in training:
            validation = fits[k].validation
            if validation is not None and not result.diverged[k]:
                rows[k] = validation.rows + self.offsets[k]
        outputs = self._outputs(self.stack, self.X, rows) if any(map(len, rows)) else list(nothing)
        for k in training:
            if result.diverged[k] and fits[k].validation is not None:
                outputs[k] = self._first_outputs(k)
        return nothing, outputs

    def _first_outputs(self, k: int) -> NDArray[Any]:
        """a^L (n, n_L) of network k, as it was before the first step, for its rows of validation."""
        validation: Any = self.fits[k].validation
        first = self.stack.like(self.fits[k].first_theta[None], self.stack.backend)
        rows = validation.rows if validation.from_user else validation.rows + self.offsets[k]
        outputs: NDArray[Any] = self._outputs(first, validation.X if validation.from_user else self.X, [rows])[0]
        return outputs

    @staticmethod
    def _outputs(stack: Stack, X: Any, rows: Sequence[NDArray[np.int64]]) -> list[Any]:
        """a^L (n, n_L) of each network for its own rows of X, which may be none, on the host."""
        outputs: list[Any] = []
        for networks, _ in neighbours(np.array([len(of_network) for of_network in rows])):
            part, their_rows = stack.part(networks), np.stack(rows[networks])
            outputs.extend(part.outputs(X, part.backend.from_host(their_rows) if is_on_gpu(X) else their_rows))
        return outputs

    def _divergence(self, k: int) -> DivergenceError:
        """Where network k left the finite numbers."""
        history = History(self.stack.loss.metric_name(self.stack.layer_sizes[-1]))
        history.loss += self.fits[k].est.loss_curve_
        return divergence_error(self.step, np.arange(len(self.fits)) == k, history, numbered=False)

    def _return_moments(self) -> None:
        """Give the solvers of networks that still have a place in the stack their moments."""
        for k, fit in enumerate(self.fits):
            moments = self.step.optimizer_slots(k)
            if moments is not None:
                fit.solver.updates, fit.solver.slots = moments
                fit.solver.backend = self.stack.backend

    def _return_to_best_weights(self) -> None:
        """With early stopping, give networks their best weights; those that may go on keep the last ones too."""
        theta = self.stack.theta
        for k, fit in enumerate(self.fits):
            best_theta = fit.weights_to_keep()
            if best_theta is not None:
                fit.last_theta = None if fit.ended else theta[k].copy()
                theta[k] = best_theta


def _per_network(fits: Sequence[StochasticFit], parameter: str) -> NDArray[np.float64]:
    """A parameter of the estimators, (K,)."""
    return np.array([getattr(fit.est, parameter) for fit in fits], np.float64)


def _optimizer_state(stack: Stack, fits: Sequence[StochasticFit]) -> OptimizerState:
    """The state of the updates, with the moments of solvers that have some already."""
    first, alpha = fits[0], _per_network(fits, "alpha")
    decay = np.array([fit.weight_decay for fit in fits], np.float64)
    norms = [fit.est.max_grad_norm for fit in fits]
    state = initial_state(
        stack,
        first.rule,
        {name: np.array([fit.options[name] for fit in fits], np.float64) for name in first.options},
        l2=alpha if alpha.any() else None,
        l2_by_batch=True,
        penalty=np.zeros((len(fits), max(fit.steps_per_epoch for fit in fits))) if alpha.any() else None,
        weight_decay=decay if decay.any() else None,
        max_grad_norm=np.array([np.inf if norm is None else norm for norm in norms]) if any(norms) else None,
    )
    for k, fit in enumerate(fits):
        if fit.solver.has_moments_of(stack):
            updates, slots = fit.solver.moments_on(stack.backend)
            state.updates[k : k + 1] = updates
            for slot, of_network in zip(state.slots, slots, strict=True):
                slot[k : k + 1] = of_network
    return state
