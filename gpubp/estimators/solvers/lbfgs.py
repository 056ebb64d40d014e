"""Training by L-BFGS: SciPy's minimizer with the gradient over all rows, which the training step sums up."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize

from gpubp.errors import UsageError
from gpubp.estimators import numerics
from gpubp.estimators.callbacks import FitCallbacks
from gpubp.estimators.data import Subset
from gpubp.estimators.messages import SKLEARN_MODULE, warn
from gpubp.estimators.sklearn_private import check_optimize_result
from gpubp.estimators.solvers.stochastic import NON_FINITE
from gpubp.stack import Stack
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import StepTable

_CHUNK = 1 << 20  # elements of the widest layer in the rows processed at a time
_STOCHASTIC_ONLY = {"dropout": 0.0, "weight_decay": 0.0, "max_grad_norm": None}


class Objective:
    """Loss and gradient over all rows, as a function of the parameters in the order of the network's buffer.

    Parameters
    ----------
    stack : Stack
    train : Subset
    alpha : float
        The penalty is ½ alpha Σ W², divided like the loss by the sum of the sample weights.
    label_smoothing : float
    """

    def __init__(self, stack: Stack, train: Subset, alpha: float, label_smoothing: float) -> None:
        m = len(train.X)
        rows = min(m, max(1, _CHUNK // max(stack.layer_sizes)))
        total = float(m if train.weight is None else train.weight.sum())
        self.stack, self.penalty, self.normalizer = stack, alpha / total, 1 / total
        self.state = initial_state(stack, numerics.summing(), {})
        self.step = TrainingStep(
            stack,
            (train.X, train.y, train.weight),
            batch_size=rows,
            optimizer=self.state,
            dropout=np.zeros(1),
            label_smoothing=np.array([label_smoothing], np.float64),
        )
        steps = -(-m // rows)
        self.table = StepTable(
            first_step=np.zeros(1, np.int64),
            batch_size=rows,
            order=None,
            counts=np.array([m]),
            normalizer=np.full((1, steps), self.normalizer),
            learning_rate=np.zeros((1, steps)),
        )

    def set_parameters(self, theta: NDArray[np.float64]) -> None:
        """Set the network's parameters (P,)."""
        self.stack.theta[...] = self.stack.backend.from_host(theta[None], self.stack.backend.dtype)

    def __call__(self, theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Loss and gradient (P,) at these parameters (P,); infinite and NaN where they are not finite."""
        stack, backend = self.stack, self.stack.backend
        self.set_parameters(theta)
        (summed,) = self.state.slots
        summed[...] = 0
        backend.assign(self.state.active, True, np.ones(1, np.bool_))
        self.step.train_epoch(self.table)
        if not self.step.active()[0]:
            return np.inf, np.full(theta.shape, np.nan)
        weights = theta[: stack.layout.n_weights]
        loss = self.step.totals()[0, :, 0].sum() * self.normalizer
        gradient = np.asarray(backend.to_host(summed)[0], np.float64).copy()
        gradient[: len(weights)] += self.penalty * weights
        return float(loss + 0.5 * self.penalty * (weights @ weights)), gradient


def fit(est: Any, stack: Stack, train: Subset, validation: Subset | None, callbacks: FitCallbacks) -> None:
    """Minimize the loss over all rows, starting from the network's weights."""
    for name, default in _STOCHASTIC_ONLY.items():
        if getattr(est, name) != default:
            raise UsageError(
                f'{name}={getattr(est, name)} is for the solvers "adam", "adamw" and "sgd"; solver="lbfgs" takes none'
            )
    objective = Objective(stack, train, est.alpha, est.label_smoothing)
    iterations = 0

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        nonlocal iterations
        iterations += 1
        objective.set_parameters(intermediate_result.x)
        if est.verbose:
            print(f"Iteration {iterations}, loss = {intermediate_result.fun:.8f}")
        if validation is not None:
            loss, _ = stack.evaluate(validation.X, validation.y, validation.weight)
            est.validation_loss_curve_.append(float(loss[0]))
        ended = callbacks.end_iteration()
        callbacks.begin_iteration()
        if ended:
            raise StopIteration

    callbacks.begin_iteration()
    result = minimize(
        objective,
        np.asarray(stack.backend.to_host(stack.theta)[0], np.float64),
        method="L-BFGS-B",
        jac=True,
        callback=after_iteration,
        options={"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol},
    )
    callbacks.end_iteration()
    if not (np.isfinite(result.fun) and np.isfinite(result.x).all()):
        raise ValueError(NON_FINITE)
    objective.set_parameters(result.x)
    with warnings.catch_warnings(record=True) as convergence_warnings:  # they would point to a line of this file
        warnings.simplefilter("always")
        est.n_iter_ = check_optimize_result("lbfgs", result, est.max_iter)
    for warning in convergence_warnings:
        warn(str(warning.message), warning.category, SKLEARN_MODULE)
    est.loss_ = float(result.fun)
    callbacks.end_fit()
