"""What the classifier and the regressor share: their parameters, and fitting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from gpubp import checks
from gpubp.activations import Activation
from gpubp.errors import UsageError
from gpubp.estimators import arrays, file, numerics, validation_metric
from gpubp.estimators.callbacks import CallbackSupportMixin, FitCallbacks, fit_arguments
from gpubp.estimators.data import Subset, network_inputs
from gpubp.estimators.layers import LayersMixin
from gpubp.estimators.messages import SKLEARN_MODULE, invalid_names, warn
from gpubp.estimators.sklearn_private import Interval, Options, StrOptions, check_sample_weight, fit_context
from gpubp.estimators.solvers import lbfgs
from gpubp.estimators.solvers.stack_trainer import StackTrainer
from gpubp.estimators.solvers.stochastic import SCHEDULES_OF_SGD, StochasticFit, StochasticSolver
from gpubp.estimators.weights import WeightsMixin
from gpubp.initializers import Initializer, get_initializer
from gpubp.losses import Loss, get_loss
from gpubp.optimizers import OPTIMIZERS
from gpubp.precision import PRECISIONS
from gpubp.schedules import Schedule, get_schedule
from gpubp.stack import Stack

STOCHASTIC_SOLVERS = ("sgd", "adam", *(name for name in OPTIMIZERS if name not in ("sgd", "adam")))


def is_stochastic(est: Any) -> bool:
    """Whether there is partial_fit; the error, on which `hasattr` relies, is scikit-learn's."""
    if est.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {est.solver} is not stochastic."
        )
    return True


class BaseMLP(WeightsMixin, LayersMixin, CallbackSupportMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A multilayer perceptron with scikit-learn's interface."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [str, list, tuple, Activation],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [str, Schedule, callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "keep_moments": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "early_stopping_metric": [StrOptions(set(get_scorer_names())), callable, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "loss": [str, Loss],
        "init": [str, Initializer, list, tuple],
        "device": [str],
        "precision": [StrOptions(set(PRECISIONS)), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
    }
    _y_numeric = False
    label_smoothing = 0.0  # a parameter of the classifier alone

    # -- what the two differ in ------------------------------------------------------------------------

    @abstractmethod
    def _check_targets(self, y: Any, incremental: bool) -> Any:
        """y, with a single column flattened; a classifier also learns or compares its classes."""

    @abstractmethod
    def _encode(self, y: Any) -> Any:
        """Checked y as the loss takes it: integers (m,) or an array (m, n_L)."""

    @abstractmethod
    def _encode_any(self, y: Any) -> Any:
        """Like `_encode`, for y with rows that were not fitted on; an unknown class in these may become any other."""

    @abstractmethod
    def _encoding_key(self) -> Hashable:
        """What `_encode` depends on besides y."""

    @abstractmethod
    def _n_outputs(self, y: Any) -> int:
        """n_L, for checked y."""

    @abstractmethod
    def _strata(self, targets: NDArray[Any]) -> Any:
        """What stratifies the split for early stopping, or None."""

    @abstractmethod
    def _own_score(self, a: NDArray[Any], data: Subset) -> float:
        """What `score` returns, from a^L (n, n_L) of the rows."""

    @abstractmethod
    def _true_targets(self, data: Subset) -> Any:
        """y of the rows as the user gave it."""

    @abstractmethod
    def _predictions(self, a: NDArray[Any]) -> Any:
        """What `predict` returns, from a^L (n, n_L) on the host."""

    def _validation_score(self, a: NDArray[Any], data: Subset) -> float:
        """The score that early stopping monitors, from a^L (n, n_L) of the rows."""
        metric = self.early_stopping_metric
        if metric is None:
            return self._own_score(a, data)
        return validation_metric.score(metric, self, a, self._true_targets(data), data.row_weight)

    # -- fitting ---------------------------------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None, validation_data: Sequence[Any] | None = None) -> Any:
        """Fit the model to data matrix X and target(s) y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        validation_data : (X, y) or (X, y, sample_weight), optional
            The loss on it after each epoch is recorded in ``validation_loss_curve_``; with
            ``early_stopping=True`` its score is watched too, and no rows of X are set aside.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Sequence[Any] | None = None,
        incremental: bool = False,
    ) -> Any:
        arguments, destination = fit_arguments(X, y, sample_weight), arrays.destination_of(X)
        with _unchanged_by_failure(self):
            stack, train, validation = self._prepare(X, y, sample_weight, validation_data, incremental)
            iterations = self.max_iter + 1 if self.solver == "lbfgs" else self.max_iter
            callbacks = FitCallbacks(self, arguments, iterations, self._reconstruction_attributes)
            fit = None
            if self.solver != "lbfgs":
                fit = self._stochastic_fit(train, validation, callbacks, incremental)
        try:
            if fit is None:
                lbfgs.fit(self, stack, train, validation, callbacks)
            else:
                self._fit_stochastic(stack, fit)
        finally:
            self._take_weights_from(stack, destination)
        return self

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, validation_data: Sequence[Any] | None, incremental: bool
    ) -> tuple[Stack, Subset, Subset | None]:
        """Check what is to be fitted; return the networks to train, the rows, and the validation rows."""
        hidden = hidden_sizes(self.hidden_layer_sizes)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        anew = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._check_data(X, y, reset=anew)
        y = self._check_targets(y, incremental)
        weight = self._sample_weights(X, y, sample_weight, incremental)
        self.n_outputs_ = self._n_outputs(y)
        sizes = [X.shape[1], *hidden, self.n_outputs_]
        self._random_state = check_random_state(self.random_state)
        if anew:
            self._initialize(y, sizes, X.dtype)
        elif self._layer_sizes != sizes:
            raise UsageError(
                f"the weights are of layers {self._layer_sizes}, but the parameters and data ask for {sizes}; "
                f"fit with warm_start=False to begin anew"
            )
        stack = self._network()
        self.out_activation_ = numerics.sklearn_name(stack.output_activation.name)
        return stack, self._all_rows(stack, X, y, weight), self._validation_subset(stack, validation_data)

    def _initialize(self, y: Any, layer_units: Sequence[int], dtype: Any) -> None:
        """Draw new weights for layers of these sizes, and forget earlier fits; y are the targets."""
        sizes = list(layer_units)
        self._forget_network()
        for name in ("_optimizer", "_dropout_seed", "loss_curve_", "validation_loss_curve_"):
            self.__dict__.pop(name, None)
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.n_outputs_ = len(sizes), sizes[-1]
        self.out_activation_ = numerics.sklearn_name(self._loss_record(sizes[-1]).output_activation.name)
        dtype = np.dtype(PRECISIONS[self._precision_for(dtype)].parameters)
        layers = [self._init_coef(fan_in, fan_out, dtype) for fan_in, fan_out in pairwise(sizes)]
        if isinstance(self.init, list | tuple):
            layers = _given_layers(self.init, sizes)
        self.coefs_ = [np.array(W, dtype) for W, _ in layers]
        self.intercepts_ = [np.array(b, dtype) for _, b in layers]

    def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """The initial weights (fan_in, fan_out) and biases (fan_out,) of a layer; a subclass may choose others."""
        activation = self.activation if isinstance(self.activation, str) else "per layer"
        init = "auto" if isinstance(self.init, list | tuple) else self.init
        W, b = numerics.draw_layer(self._random_state, fan_in, fan_out, activation, init)
        return W.astype(dtype, copy=False), b.astype(dtype, copy=False)

    def _precision_for(self, dtype: Any) -> str:
        """The parameter `precision`, or if it is None, what fits X."""
        return self.precision or ("float32" if dtype == np.float32 else "float64")

    def _fit_stochastic(self, stack: Stack, fit: StochasticFit) -> None:
        try:
            StackTrainer(stack, [fit]).run()
        except KeyboardInterrupt:
            warn("Training interrupted by user.", module=SKLEARN_MODULE)
        if fit.error is not None:
            raise fit.error
        fit.callbacks.end_fit()

    def _stochastic_fit(
        self, train: Subset, validation: Subset | None, callbacks: FitCallbacks, incremental: bool
    ) -> StochasticFit:
        """This estimator's side of a training that begins or goes on."""
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_: list[float] = []
            self._begin_monitoring()
        elif self.early_stopping == (
            getattr(self, "validation_scores_", None) is None
        ):  # something else is monitored than before
            self._begin_monitoring()
        if self.early_stopping and validation is None:
            strata = self._strata(train.targets)
            train, validation = train.split(self.validation_fraction, self._random_state, strata)
            self._begin_validation_curve()
        solver = getattr(self, "_optimizer", None)
        if solver is None or not incremental:
            solver = self._optimizer = StochasticSolver(self, solver, self.keep_moments)
        if self.dropout and not hasattr(self, "_dropout_seed"):
            self._dropout_seed = int(self._random_state.randint(np.iinfo(np.int32).max))
        return StochasticFit(self, solver, train, validation, callbacks, incremental)

    def _begin_monitoring(self) -> None:
        """Start counting epochs without an improvement of the loss, or of the validation score."""
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else np.inf
        self.validation_scores_: list[float] | None = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None

    def _begin_validation_curve(self) -> None:
        """Begin the curve of the validation loss, which warm starts continue."""
        if not hasattr(self, "validation_loss_curve_"):
            self.validation_loss_curve_: list[float] = []

    # -- parameters ------------------------------------------------------------------------------------

    def _validate_params(self) -> None:
        """Refuse invalid parameters, such as unknown names."""
        super()._validate_params()
        with invalid_names():
            self._check_names()

    def _check_names(self) -> None:
        """Refuse names that no registry knows."""
        for activation in self.activation if isinstance(self.activation, (list, tuple)) else [self.activation]:
            numerics.activation_record(activation)
        if self._loss_name not in ("auto", "squared_error"):
            get_loss(self._loss_name)
        if not (isinstance(self.learning_rate, str) and self.learning_rate in SCHEDULES_OF_SGD):
            get_schedule(self.learning_rate)
        if isinstance(self.init, str) and self.init != "auto":
            get_initializer(self.init, "auto")

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to a safetensors file, whole or not at all.

        It holds what predicting needs, and the parameters that are strings, numbers, None or sequences of these. Curves
        and the solver's moments are not saved. `gpubp.MLP.load` reads the file as well.

        Parameters
        ----------
        path : path
        """
        check_is_fitted(self)
        file.save(path, self, self._network())

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", **records: Any) -> Self:
        """Read an estimator that `save` wrote.

        Parameters
        ----------
        path : path
        device : str
            Where it computes.
        **records
            ``activations`` or ``loss``, as `gpubp.MLP.load` takes them, for an estimator made with a record of your
            own.
        """
        est: Self = file.load(path, cls, device, records)
        return est

    # -- data ------------------------------------------------------------------------------------------

    def _check_data(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        """X and y as scikit-learn checks them, with its messages: on the host, but for X on the network's GPU."""
        if not self._stays_on_gpu(X):
            return validate_data(  # type: ignore[no-any-return]
                self,
                X=arrays.to_host(X),
                y=arrays.to_host(y),
                accept_sparse="csr",
                multi_output=True,
                y_numeric=self._y_numeric,
                dtype=(np.float64, np.float32),
                order="C",
                reset=reset,
            )
        X = arrays.check_rows_on_gpu(self, X, reset)
        if self._y_numeric and arrays.is_on_gpu(y):
            y = arrays.check_values_on_gpu(y)
        else:
            y = arrays.to_host(y)
            y = check_array(y, accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y", estimator=self)
        check_consistent_length(X, y)
        return X, y

    def _stays_on_gpu(self, X: Any) -> bool:
        """Whether X is where the network can use it without a copy."""
        return arrays.is_on_gpu(X) and self.device != "cpu"

    def _sample_weights(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> NDArray[np.float64] | None:
        """A weight for each row of checked data, or None."""
        if sample_weight is None:
            return None
        without_columns = np.empty((X.shape[0], 0))  # only the number of rows is looked at
        weight: NDArray[np.float64]
        weight = check_sample_weight(arrays.to_host(sample_weight), without_columns, dtype=np.float64)
        return weight

    def _validation_subset(self, stack: Stack, data: Sequence[Any] | None) -> Subset | None:
        """The user's validation data, checked."""
        if data is None:
            return None
        if not isinstance(data, Sequence) or len(data) not in (2, 3):
            raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
        X, y = self._check_data(data[0], data[1], reset=False)
        y = self._check_targets(y, incremental=True)
        sample_weight = arrays.to_host(data[2]) if data[2:] else None
        weight = checks.sample_weight(sample_weight, X.shape[0], "validation sample_weight")
        self._begin_validation_curve()
        return self._all_rows(stack, X, y, weight, from_user=True)

    def _all_rows(
        self, stack: Stack, X: Any, y: Any, weight: NDArray[np.float64] | None, from_user: bool = False
    ) -> Subset:
        """Checked data in the form that the network takes."""
        inputs, targets = network_inputs(X, stack.backend.precision), self._encode(y)
        return Subset(X=inputs, y=targets, weight=weight, rows=np.arange(X.shape[0]), from_user=from_user)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


def _given_layers(init: Sequence[Any], sizes: Sequence[int]) -> list[tuple[Any, Any]]:
    """The parameter `init` that holds arrays, as (W, b) of each layer."""
    shapes = [(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)]
    try:
        coefs, intercepts = init
        layers = [(np.asarray(W), np.asarray(b)) for W, b in zip(coefs, intercepts, strict=True)]
    except (TypeError, ValueError):
        raise UsageError("init does not fit; give (coefs, intercepts), two lists with an array per layer") from None
    if [W.shape for W, _ in layers] != shapes or [b.shape for _, b in layers] != [(n,) for _, n in shapes]:
        given = [(W.shape, b.shape) for W, b in layers]
        raise UsageError(f"init holds arrays of shapes {given}, but the layers are of shapes {shapes}")
    return layers


def hidden_sizes(sizes: Any) -> list[int]:
    """The parameter as a list of neurons."""
    hidden = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if np.any(np.array(hidden) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
    return hidden


@contextmanager
def _unchanged_by_failure(est: Any) -> Iterator[None]:
    """A refused fit leaves the previous one as it was: else its classes would be mixed with the other's weights."""
    before = dict(vars(est))
    try:
        yield
    except BaseException:
        vars(est).clear()
        vars(est).update(before)
        raise
