"""Training by a stochastic solver: scikit-learn's rules for what is monitored and when a training ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from gpubp._typing import Array
from gpubp.backends import Backend
from gpubp.errors import DivergenceError
from gpubp.estimators import numerics
from gpubp.estimators.callbacks import FitCallbacks
from gpubp.estimators.data import Subset
from gpubp.estimators.messages import SKLEARN_MODULE, warn
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.schedules import Progress, Schedule, get_schedule
from gpubp.stack import Stack

NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
SCHEDULES_OF_SGD = ("constant", "invscaling", "adaptive")
SMALLEST_RATE = 1e-6  # an adaptive learning rate ends the training here
# a rule's option -> the estimator's parameter
_OPTION_PARAMETERS = {"momentum": "momentum", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}


class StochasticSolver:
    """A solver with its settings, and the state that it keeps from one call to the next.

    Each `fit` makes one from the estimator's parameters; `partial_fit` continues with it unchanged, even if the
    parameters have changed since, as in scikit-learn.

    Parameters
    ----------
    est : BaseMLP
    previous : StochasticSolver or None
        The solver that has trained these weights so far; the count of steps continues from it.
    keep_moments : bool
        Whether to take over its moments too, if it has the same rule.

    Attributes
    ----------
    name, nesterov, options, learning_rate_init, learning_rate_rule, power_t
        The parameters that it was made from; `options` are those of `rule`.
    learning_rate : float
        The rate of the next epoch, before a schedule's factor.
    steps : int
        Training steps taken.
    updates : (1,) int64
    slots : tuple of (1, P) arrays
        As in `OptimizerState`.
    backend : Backend or None
        Where `updates` and `slots` are stored; None means on the host.
    """

    def __init__(self, est: Any, previous: StochasticSolver | None = None, keep_moments: bool = False) -> None:
        self.name, self.nesterov = est.solver, bool(est.nesterovs_momentum)
        chosen = {name: getattr(est, parameter) for name, parameter in _OPTION_PARAMETERS.items()}
        self.options = {name: chosen.get(name, default) for name, default in self.rule.options.items()}
        self.learning_rate = self.learning_rate_init = est.learning_rate_init
        self.learning_rate_rule, self.power_t = est.learning_rate if self.name == "sgd" else "constant", est.power_t
        self.steps: int = 0 if previous is None else previous.steps
        self.updates: Array = None
        self.slots: tuple[Array, ...] = ()
        self.backend: Backend | None = None
        if keep_moments and previous is not None and previous.rule.name == self.rule.name:
            self.updates, self.slots, self.backend = previous.updates, previous.slots, previous.backend

    @property
    def rule(self) -> Optimizer:
        """The update rule."""
        if self.name == "sgd":
            return numerics.nesterov() if self.nesterov else numerics.momentum()
        return numerics.adam() if self.name == "adam" else get_optimizer(self.name)

    def has_moments_of(self, stack: Stack) -> bool:
        """Whether it has moments that fit this network."""
        return self.updates is not None and all(slot.shape[1:] == stack.theta.shape[1:] for slot in self.slots)

    def end_epoch(self, samples: int) -> None:
        """Set the rate of the next epoch, after `samples` samples in total."""
        if self.learning_rate_rule == "invscaling":
            self.learning_rate = self.learning_rate_init / (samples + 1) ** self.power_t

    def moments_on(self, backend: Backend) -> tuple[Array, tuple[Array, ...]]:
        """`updates` and `slots` on the network's device."""
        if self.backend is not backend:
            self.updates, *slots = (backend.from_host(np.array(array)) for array in self._moments_on_host())
            self.slots, self.backend = tuple(slots), backend
        return self.updates, self.slots

    def __getstate__(self) -> dict[str, Any]:
        updates, *slots = self._moments_on_host()
        return {**self.__dict__, "updates": updates, "slots": tuple(slots), "backend": None}

    def _moments_on_host(self) -> list[Any]:
        arrays = [self.updates, *self.slots]
        return arrays if self.backend is None else [self.backend.to_host(array) for array in arrays]


class StochasticFit:
    """One estimator's side of a training: its orders and rates, what it monitors, and when it ends.

    Parameters
    ----------
    est : BaseMLP
    solver : StochasticSolver
    train : Subset
    validation : Subset or None
        Its loss is recorded after each epoch, and with ``est.early_stopping`` its score.
    callbacks : FitCallbacks
    incremental : bool
        Whether this is a call of partial_fit: one epoch.

    Attributes
    ----------
    m : int
        Rows to train on.
    order : (m,) int
        The order in which the last epoch saw these rows; the next epoch shuffles it.
    first_step, first_epoch : int
        Where a schedule begins, in the steps of the solver and in the epochs of the monitored curve.
    ended : bool
    error : Exception or None
        Why it could not go on.
    first_theta, best_theta, last_theta : (P,) array or None
        With early stopping, the weights before the first step, those of the best validation score, and those to
        continue from.
    """

    def __init__(
        self,
        est: Any,
        solver: StochasticSolver,
        train: Subset,
        validation: Subset | None,
        callbacks: FitCallbacks,
        incremental: bool,
    ) -> None:
        self.est, self.solver, self.train, self.validation = est, solver, train, validation
        self.callbacks, self.incremental = callbacks, incremental
        self.rule, self.options = solver.rule, solver.options
        self.weight_decay = est.weight_decay or self.rule.weight_decay
        from_user = validation is not None and validation.from_user
        self.monitored_curve = est.validation_loss_curve_ if from_user else est.loss_curve_
        self.m, self.order = len(train.rows), np.arange(len(train.rows))
        # A schedule restarts with every fit, and continues across calls of partial_fit.
        self.first_step, self.first_epoch = (0, 0) if incremental else (solver.steps, len(self.monitored_curve))
        self.batch_size = _batch_size(est.batch_size, self.m)
        self.steps_per_epoch = -(-self.m // self.batch_size)
        self.schedule = _schedule(est.learning_rate)
        self.epochs = 1 if incremental else est.max_iter
        self.ended = False
        self.error: Exception | None = None
        self.first_theta: Array = None
        self.best_theta: Array = None
        self.last_theta: Array = None
        est.n_iter_ = 0

    def next_epoch(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows of the data set in an order from the estimator's random numbers, and the rate of each step."""
        est = self.est
        if est.shuffle:
            permutation = np.arange(self.m)
            est._random_state.shuffle(permutation)
            self.order = self.order[permutation]
        steps = self.solver.steps - self.first_step + np.arange(self.steps_per_epoch)
        total = max(est.max_iter * self.steps_per_epoch, int(steps[-1]) + 1)
        progress = Progress(steps, self.steps_per_epoch, total, tuple(self.monitored_curve[self.first_epoch :]))
        rows = self.train.rows if self.steps_per_epoch == 1 else self.train.rows[self.order]  # one batch needs no order
        return rows, self.solver.learning_rate * self.schedule.factor(progress)

    def finish_epoch(
        self,
        totals: NDArray[np.float64],
        normalizer: NDArray[np.float64],
        error: DivergenceError | None,
        validation_loss: float | None,
        outputs: NDArray[Any] | None,
        theta: Array,
    ) -> None:
        """Record the results of an epoch, and decide whether it was the last.

        Parameters
        ----------
        totals, normalizer : (steps,) float64
            The loss of each batch with its penalty, and its multiplier.
        error : DivergenceError or None
        validation_loss : float or None
            The loss on the validation rows.
        outputs : (n, n_L) array or None
            a^L of the validation rows, with early stopping. After an error, loss and outputs are from the weights
            before the first step.
        theta : (P,) array
            The parameters, to be copied if they are the best.
        """
        est = self.est
        self.solver.steps += self.steps_per_epoch
        est.n_iter_ += 1
        est.t_ += self.m
        est.loss_ = float("nan") if error else self._loss(totals, normalizer)
        est.loss_curve_.append(est.loss_)
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        if validation_loss is not None:
            est.validation_loss_curve_.append(float("nan") if error else float(validation_loss))
        if est.early_stopping:
            self._score_validation(None if error else outputs)
        if error is not None:
            self.ended = True
            self._report_divergence(error, outputs)
            if self.error is not None:
                return
        else:
            self._count_no_improvement(theta)
            self.solver.end_epoch(est.t_)
            self.ended = est._no_improvement_count > est.n_iter_no_change and self._stop_or_lower_rate()
        self.ended = self.callbacks.end_iteration() or self.ended  # callbacks are told of the last one too
        if not self.ended and est.n_iter_ == self.epochs:
            self.ended = True
            if not self.incremental:
                warn(
                    f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization "
                    f"hasn't converged yet.",
                    ConvergenceWarning,
                    SKLEARN_MODULE,
                )

    def _loss(self, totals: NDArray[np.float64], normalizer: NDArray[np.float64]) -> float:
        """Mean over batches, weighted by rows, of a batch's loss with its penalty, both divided by its weight."""
        rows = np.full(self.steps_per_epoch, self.batch_size)
        rows[-1] = self.m - self.batch_size * (self.steps_per_epoch - 1)
        return float((totals * normalizer) @ rows / self.m)

    def _score_validation(self, outputs: NDArray[Any] | None) -> None:
        est = self.est
        score = float("nan") if outputs is None else self._score(outputs)
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")

    def _score(self, outputs: NDArray[Any]) -> float:
        """The score of outputs for the validation rows; NaN if they are not finite."""
        finite = bool(np.isfinite(outputs).all())
        return float(self.est._validation_score(outputs, self.validation)) if finite else float("nan")

    def _count_no_improvement(self, theta: Array) -> None:
        """Count epochs without improvement of the validation score with early stopping, otherwise of the loss."""
        est = self.est
        if est.early_stopping:
            score = est.validation_scores_[-1]
            worse = score < est.best_validation_score_ + est.tol
            if score > est.best_validation_score_:
                est.best_validation_score_ = score
                self.best_theta = theta.copy()
        else:
            worse = est.loss_ > est.best_loss_ - est.tol
            est.best_loss_ = min(est.best_loss_, est.loss_)
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0

    def weights_to_keep(self) -> Array:
        """With early stopping, the weights (P,) of the best score, or the initial ones if no score was a number.

        None means those after the last epoch, which are also kept if a warm start has not beaten the score of earlier
        fits.
        """
        scores = self.est.validation_scores_ if self.est.early_stopping else None
        if self.best_theta is None and scores and not np.isfinite(scores[-self.est.n_iter_ :]).any():
            return self.first_theta
        return self.best_theta

    def _stop_or_lower_rate(self) -> bool:
        """Whether the epochs without improvement end the training; an adaptive learning rate is lowered first."""
        est, solver = self.est, self.solver
        monitored = "Validation score" if est.early_stopping else "Training loss"
        message = (
            f"{monitored} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
        )
        adaptive = solver.learning_rate_rule == "adaptive"
        stops = not adaptive or solver.learning_rate <= SMALLEST_RATE
        if stops:
            message += " Learning rate too small. Stopping." if adaptive else " Stopping."
        else:
            solver.learning_rate /= 5.0
            message += f" Setting learning rate to {solver.learning_rate:f}"
            est._no_improvement_count = 0
        if est.verbose:
            print(message)
        return stops

    def _report_divergence(self, divergence: DivergenceError, first_outputs: NDArray[Any] | None) -> None:
        """Report an error; with early stopping only a warning, since there are weights to return to.

        It returns to those of the best finite score, or to the initial ones if there is none or it is below theirs.
        """
        est = self.est
        if est.early_stopping and first_outputs is not None:
            kept, score = "weights of the best validation score", self._score(first_outputs)
            if self.best_theta is None or not est.best_validation_score_ > score:
                kept, self.best_theta = "first weights, which no epoch made better,", self.first_theta
                est.best_validation_score_ = score
            said = str(divergence).replace("The last finite weights are kept", f"The {kept} are kept")
            warn(said, ConvergenceWarning, SKLEARN_MODULE)
            return
        self.error = ValueError(f"{NON_FINITE} {divergence}")
        self.error.__cause__ = divergence


def _batch_size(batch_size: Any, m: int) -> int:
    if batch_size == "auto":
        return min(200, m)
    if batch_size > m:
        warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", module=SKLEARN_MODULE
        )
    return min(int(batch_size), m)


def _schedule(learning_rate: Any) -> Schedule:
    """gpubp's schedule, for any solver; scikit-learn's three are rules of solver "sgd" for the next epoch's rate."""
    of_sgd = isinstance(learning_rate, str) and learning_rate in SCHEDULES_OF_SGD
    return get_schedule(None if of_sgd else learning_rate)
