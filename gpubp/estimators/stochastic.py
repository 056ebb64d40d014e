"""Training by a stochastic solver: the engine's step, scikit-learn's rules of what is watched and when it ends."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from gpubp._typing import Array
from gpubp.backends import Backend
from gpubp.divergence import report
from gpubp.estimators import numerics
from gpubp.estimators.callbacks import FitTasks
from gpubp.estimators.data import Data
from gpubp.history import History
from gpubp.network import MLP
from gpubp.optimizers import Optimizer, adamw
from gpubp.schedules import Progress, Schedule, get_schedule
from gpubp.step import TrainingStep, Watched
from gpubp.step_table import StepTable, draw_table
from gpubp.substep import first_state

NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
SCHEDULES_OF_SGD = ("constant", "invscaling", "adaptive")
SMALLEST_RATE = 1e-6  # an adaptive learning rate ends the training here


class StochasticSolver:
    """What a solver remembers from one call of fit or partial_fit to the next.

    Attributes
    ----------
    learning_rate : float
        Of the next epoch, before a schedule's factor.
    steps : int
        Training steps taken.
    updates : (1,) int64
    slots : tuple of (1, P) arrays
        As in `OptimizerState`.
    """

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.steps = 0
        self.updates: Array = None
        self.slots: tuple[Array, ...] = ()
        self.backend: Backend | None = None

    def fits(self, rule: Optimizer, net: MLP) -> bool:
        """Whether the moments are those of such a rule and network."""
        return len(self.slots) == len(rule.slots) and all(slot.shape == net.theta.shape for slot in self.slots)

    def on(self, backend: Backend) -> tuple[Array, tuple[Array, ...]]:
        """`updates` and `slots` where the network lies."""
        if self.backend is not backend:
            self.updates, *slots = (backend.from_host(np.array(array)) for array in self._on_the_host())
            self.slots, self.backend = tuple(slots), backend
        return self.updates, self.slots

    def __getstate__(self) -> dict[str, Any]:
        updates, *slots = self._on_the_host()
        return {**self.__dict__, "updates": updates, "slots": tuple(slots), "backend": None}

    def _on_the_host(self) -> list[Any]:
        arrays = [self.updates, *self.slots]
        return arrays if self.backend is None else [self.backend.to_host(array) for array in arrays]


def rule_and_options(est: Any) -> tuple[Optimizer, dict[str, float]]:
    """The update rule that the estimator's parameters name, and its options."""
    if est.solver == "sgd":
        rule = numerics.nesterov() if est.nesterovs_momentum else numerics.momentum()
        return rule, {"momentum": est.momentum}
    rule = numerics.adam() if est.solver == "adam" else adamw()
    return rule, {"beta1": est.beta_1, "beta2": est.beta_2, "eps": est.epsilon}


class StochasticFit:
    """One call of fit or partial_fit.

    Parameters
    ----------
    est : BaseMLP
    net : MLP
        With the estimator's weights.
    solver : StochasticSolver
    train : Data
    validation : Data or None
        Scored after each epoch where ``est.early_stopping``; its loss is recorded where the user gave it.
    tasks : FitTasks
        The estimator's callbacks.
    incremental : bool
        One epoch.
    """

    def __init__(
        self,
        est: Any,
        net: MLP,
        solver: StochasticSolver,
        train: Data,
        validation: Data | None,
        tasks: FitTasks,
        incremental: bool,
    ) -> None:
        self.est, self.net, self.solver, self.validation = est, net, solver, validation
        self.tasks, self.incremental = tasks, incremental
        self.monitored = est.loss_curve_ if validation is None or not validation.given else est.validation_loss_curve_
        self.m, self.weight = len(train.X), train.weight
        # A schedule begins anew with every fit, and goes on over the calls of partial_fit.
        self.begun, self.seen = (0, 0) if incremental else (solver.steps, len(self.monitored))
        self.batch_size = _batch_size(est.batch_size, self.m)
        self.schedule = _schedule(est.learning_rate)
        rule, options = rule_and_options(est)
        state = first_state(
            net, rule, {name: np.array([value], np.float64) for name, value in options.items()},
            l2=np.array([est.alpha], np.float64) if est.alpha else None,
            l2_by_batch=True,
            penalty=np.zeros((1, -(-self.m // self.batch_size))) if est.alpha else None,
            weight_decay=np.array([decay], np.float64) if (decay := est.weight_decay or rule.weight_decay) else None,
            max_grad_norm=None if est.max_grad_norm is None else np.array([est.max_grad_norm], np.float64),
        )  # fmt: skip
        if solver.fits(rule, net):
            state.updates, state.slots = solver.on(net.backend)
        else:
            solver.updates, solver.slots, solver.backend = state.updates, state.slots, net.backend
        self.step = TrainingStep(
            net, train.X, train.y, train.weight, self.batch_size, state,
            np.array([est.dropout], np.float64), np.array([est.label_smoothing], np.float64),
        )  # fmt: skip

    def run(self) -> None:
        """Train epoch after epoch until a rule ends it; with early stopping, return to the best weights."""
        est, net = self.est, self.net
        self.best_theta = net.theta.copy() if est.early_stopping else None
        self.order = np.arange(self.m)
        est.n_iter_ = 0
        try:
            for _ in range(1 if self.incremental else est.max_iter):
                self.tasks.begin()
                ended = self._epoch()
                if self.tasks.end() or ended:  # callbacks hear of the last one too
                    break
            else:
                if not self.incremental:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization "
                        f"hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        finally:
            if self.best_theta is not None:
                net.theta[...] = self.best_theta

    def _epoch(self) -> bool:
        """Take the steps of an epoch and watch what came of it; whether the training ends."""
        est, step = self.est, self.step
        table = self._table()
        watched = step.watched_epoch(table)
        diverged = watched.diverged
        self.solver.steps += table.steps
        est.n_iter_ += 1
        est.t_ += self.m
        est.loss_ = float("nan") if diverged.any() else self._loss(table, watched)
        est.loss_curve_.append(est.loss_)
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        if self.validation is not None:
            self._validate(self.validation, bool(diverged.any()))
        if diverged.any():
            self._diverged(diverged)
            return True
        self._count_no_improvement()
        if est.solver == "sgd" and est.learning_rate == "invscaling":
            self.solver.learning_rate = est.learning_rate_init / (est.t_ + 1) ** est.power_t
        return est._no_improvement_count > est.n_iter_no_change and self._ends()

    def _table(self) -> StepTable:
        """The next epoch's: rows in an order from the estimator's random numbers."""
        est, first = self.est, self.solver.steps
        if est.shuffle:
            places = np.arange(self.m)
            est._random_state.shuffle(places)
            self.order = self.order[places]
        per_epoch = -(-self.m // self.batch_size)
        steps = np.arange(first, first + per_epoch) - self.begun
        total = max(est.max_iter * per_epoch, int(steps[-1]) + 1)
        progress = Progress(steps, per_epoch, total, tuple(self.monitored[self.seen :]))
        rates = self.solver.learning_rate * self.schedule.factor(progress)
        return draw_table([self.order], self.batch_size, self.weight, np.array([first]), [rates])

    def _loss(self, table: StepTable, watched: Watched) -> float:
        """Mean over batches, by their rows, of a batch's loss with its penalty, both divided by its weight."""
        totals = watched.totals[0, :, 0]
        if watched.penalty is not None:
            totals = totals + watched.penalty[0]
        rows = np.full(table.steps, self.batch_size)
        rows[-1] = self.m - self.batch_size * (table.steps - 1)
        return float((totals * table.normalizer[0]) @ rows / self.m)

    def _validate(self, data: Data, diverged: bool) -> None:
        est, net = self.est, self.net
        if data.given:
            loss = float("nan") if diverged else net.measure(data.X, data.y, data.weight)["loss"]
            est.validation_loss_curve_.append(loss)
        if not est.early_stopping:
            return
        score = float("nan") if diverged else float(est._score_of(net, data))
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")

    def _count_no_improvement(self) -> None:
        """By the validation score where there is early stopping, by the training loss otherwise."""
        est = self.est
        if est.early_stopping:
            score = est.validation_scores_[-1]
            worse = score < est.best_validation_score_ + est.tol
            if score > est.best_validation_score_:
                est.best_validation_score_ = score
                self.best_theta = self.net.theta.copy()
        else:
            worse = est.loss_ > est.best_loss_ - est.tol
            est.best_loss_ = min(est.best_loss_, est.loss_)
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0

    def _ends(self) -> bool:
        """Whether no improvement for so long ends the training; an adaptive learning rate is lowered first."""
        est, solver = self.est, self.solver
        watched = "Validation score" if est.early_stopping else "Training loss"
        said = f"{watched} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
        adaptive = est.solver == "sgd" and est.learning_rate == "adaptive"
        ends = not adaptive or solver.learning_rate <= SMALLEST_RATE
        if ends:
            said += " Learning rate too small. Stopping." if adaptive else " Stopping."
        else:
            solver.learning_rate /= 5.0
            said += f" Setting learning rate to {solver.learning_rate:f}"
            est._no_improvement_count = 0
        if est.verbose:
            print(said)
        return ends

    def _diverged(self, diverged: NDArray[np.bool_]) -> None:
        """Raise; with early stopping only warn, since there are best weights to return to."""
        history = History(self.net.loss.metric.name, loss=list(self.est.loss_curve_))
        error = report(self.step, diverged, history)
        if not self.est.early_stopping:
            raise ValueError(f"{NON_FINITE} {error}") from error
        warnings.warn(f"{error} The weights of the best validation score are kept.", ConvergenceWarning, stacklevel=2)


def _batch_size(batch_size: Any, m: int) -> int:
    if batch_size == "auto":
        return min(200, m)
    if batch_size > m:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(batch_size), m)


def _schedule(learning_rate: Any) -> Schedule:
    """gpubp's, for any solver; scikit-learn's three are rules of solver "sgd", watched after each epoch."""
    plain = isinstance(learning_rate, str) and learning_rate in SCHEDULES_OF_SGD
    return get_schedule(None if plain else learning_rate)
