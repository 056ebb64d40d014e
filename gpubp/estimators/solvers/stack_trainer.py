"""Trains the networks of estimators as one stack, with each estimator's own rows and epoch results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.backends import OptimizerState
from gpubp.errors import DivergenceError
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
    """Several trainings whose steps are taken together.

    Parameters
    ----------
    stack : Stack
        A stack of K, with the estimators' weights.
    fits : K StochasticFit
        They share one update rule and one batch size.
    """

    def __init__(self, stack: Stack, fits: Sequence[StochasticFit]) -> None:
        self.stack, self.fits = stack, fits
        self.X, self.y, self.weight, self.offsets = concatenate_data_sets([fit.train for fit in fits])
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
            (self.X, self.y, self.weight),
            max(fit.batch_size for fit in fits),
            state,
            dropout=_per_network(fits, "dropout"),
            label_smoothing=_per_network(fits, "label_smoothing"),
            orders=len(fits),
            counts=None if every_row else np.array([fit.m for fit in fits]),
        )

    def run(self, until: float = np.inf, after_epoch: Callable[[int], None] | None = None) -> None:
        """Train until all have ended, or have had `until` epochs; with early stopping, return to the best weights.

        `after_epoch` is called with the number of networks that have had one more.
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
        """Take the steps of an epoch, and pass each training network its results."""
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
            for k in training:
                if ended[k]:
                    self._keep_moments(k)
            step.stop(ended)

    def _validate(self, training: Sequence[int], result: EpochResult) -> tuple[list[Any], list[Any]]:
        """For each network, its loss on its validation rows and its outputs for them; None without such rows.

        The outputs are for early stopping. After a divergence, both are from the weights before the first step.
        """
        losses: list[Any] = [None] * len(self.fits)
        outputs: list[Any] = [None] * len(self.fits)
        data = self.fits[0].validation
        if data is not None and data.from_user and not self.fits[0].est.early_stopping:
            loss, _ = self.stack.evaluate(data.X, data.y, data.weight)
            return [float(loss[0])], outputs
        rows = [_NO_ROWS] * len(self.fits)
        validated = [k for k in training if self.fits[k].validation is not None]
        for k in validated:
            rows[k] = _NO_ROWS if result.diverged[k] else self._validation_rows(k)
        for networks, count in neighbours(np.array(list(map(len, rows)))):
            if count:
                evaluated = self._evaluate(self.stack.part(networks), networks, np.stack(rows[networks]))
                losses[networks], outputs[networks] = map(list, evaluated)
        for k in validated:
            if not result.diverged[k]:
                continue
            first = self.stack.like(self.fits[k].first_theta[None], self.stack.backend)
            (losses[k],), (outputs[k],) = self._evaluate(first, slice(k, k + 1), self._validation_rows(k)[None])
        return losses, outputs

    def _validation_rows(self, k: int) -> NDArray[np.int64]:
        """The validation rows of network k: in the data that the user gave for it, or in those of all networks."""
        validation: Any = self.fits[k].validation
        rows: NDArray[np.int64] = validation.rows if validation.from_user else validation.rows + self.offsets[k]
        return rows

    def _evaluate(
        self, stack: Stack, networks: slice, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Loss and a^L of consecutive networks, or of their earlier weights, on validation rows (K, n)."""
        data = self.fits[0].validation
        if data is not None and data.from_user:  # a network by itself
            return stack.evaluate_with_outputs(data.X, data.y, data.weight, rows)
        weight = self.weight if self.weight is None or self.weight.ndim == 1 else self.weight[networks]
        return stack.evaluate_with_outputs(self.X, self.y, weight, rows)

    def _divergence(self, k: int) -> DivergenceError:
        """The error that says where network k diverged."""
        history = History(self.stack.loss.metric_name(self.stack.layer_sizes[-1]))
        history.loss += self.fits[k].est.loss_curve_
        return divergence_error(self.step, np.arange(len(self.fits)) == k, history, numbered=False)

    def _keep_moments(self, k: int) -> None:
        """Copy a network's moments to its solver, since another network may take its place in the stack."""
        moments, to_host = self.step.optimizer_slots(k), self.stack.backend.to_host
        assert moments is not None, "it has trained until now"
        updates, slots = moments
        solver = self.fits[k].solver
        solver.updates, solver.slots = np.array(to_host(updates)), tuple(np.array(to_host(slot)) for slot in slots)
        solver.backend = None

    def _return_moments(self) -> None:
        """Give the solvers of networks that are still in the stack their moments."""
        for k, fit in enumerate(self.fits):
            moments = self.step.optimizer_slots(k)
            if moments is not None:
                fit.solver.updates, fit.solver.slots = moments
                fit.solver.backend = self.stack.backend

    def _return_to_best_weights(self) -> None:
        """With early stopping, give networks their best weights; those that may continue keep the last ones too."""
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
    """The state of the updates, with the moments of solvers that already have some."""
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
