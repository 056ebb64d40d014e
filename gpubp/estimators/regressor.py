"""MLPRegressor: converts between values and what the losses take."""

from __future__ import annotations

from collections.abc import Hashable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from gpubp import checks
from gpubp.errors import DataError, UsageError
from gpubp.estimators.arrays import as_numpy, destination_of, is_on_gpu, namespace_of, to_host
from gpubp.estimators.base import BaseMLP, is_stochastic
from gpubp.estimators.data import Subset
from gpubp.estimators.messages import warn_of_column
from gpubp.estimators.numerics import poisson_deviance, squared_error
from gpubp.estimators.sklearn_private import Interval, fit_context
from gpubp.losses import Loss, get_loss


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer Perceptron regressor: scikit-learn's, on gpubp's engine.

    Parameters, attributes and results are those of ``sklearn.neural_network.MLPRegressor`` where it has them.

    Parameters
    ----------
    loss : str or Loss
        ``"squared_error"`` (half of it) or ``"poisson"`` (half the deviance; outputs are exponentials), or any
        loss on values that gpubp knows: ``"absolute_error"``, ``"huber(1.0)"``, ``"quantile(0.9)"``, or a record.
    hidden_layer_sizes : int or sequence of int
        Neurons of each hidden layer.
    activation : str, Activation, or a sequence with one per hidden layer
        ``"identity"``, ``"logistic"``, ``"tanh"``, ``"relu"``, any other name that gpubp knows
        (``"gelu"``, ``"leaky_relu(0.2)"``, …), or a record.
    solver : str
        ``"adam"``, ``"sgd"`` or ``"lbfgs"``, as in scikit-learn, or another optimizer that gpubp knows:
        ``"adamw"``, which is Adam with decoupled weight decay, ``"rmsprop"``, ``"adagrad"``, …
    alpha : float
        The loss of a batch gains ½ alpha Σ W² divided by the batch's weight.
    batch_size : int or "auto"
        ``"auto"`` is ``min(200, n_samples)``. L-BFGS takes all rows at once.
    learning_rate : str, Schedule or callable
        ``"constant"``, ``"invscaling"`` and ``"adaptive"`` are scikit-learn's and affect only solver ``"sgd"``. gpubp's
        schedules work with every stochastic solver: ``"cosine"``, ``"warmup(cosine, 0.1)"``, …, a record, or a function
        of a `gpubp.schedules.Progress`; a training is `max_iter` epochs long.
    learning_rate_init : float
    power_t : float
        Exponent of ``"invscaling"``: the rate is ``learning_rate_init / (t_ + 1) ** power_t``.
    max_iter : int
        At most this many epochs, or iterations of L-BFGS.
    shuffle : bool
        Draw a new order every epoch.
    random_state : int, RandomState or None
        The source of the initial weights, the split for early stopping, the orders and the dropout.
    tol : float
        What counts as an improvement of the loss or of the validation score.
    verbose : bool
        Print the loss of every epoch.
    warm_start : bool
        Start from the weights of the last fit, with a new solver.
    keep_moments : bool
        With `warm_start`, the new solver also takes over the moments of the last one (Adam's averages, the velocity of
        ``"sgd"``), so that training in two calls equals training in one.
    momentum : float
        For solver ``"sgd"``.
    nesterovs_momentum : bool
    early_stopping : bool
        Set `validation_fraction` of the rows aside and stop when their score no longer improves; the weights of
        the best score are kept.
    early_stopping_metric : str, callable or None
        The name of a scorer, such as
        ``"roc_auc"``, or a scorer ``scorer(est, X, y)``, which early stopping uses instead of `score`; the estimator
        passed to it already knows its predictions, and X has no columns. If rows have weights, it receives them as
        ``sample_weight``, provided it takes that.
    validation_fraction : float
    beta_1, beta_2, epsilon : float
        For ``"adam"`` and ``"adamw"``.
    n_iter_no_change : int
        Stop after this many epochs without an improvement by `tol`.
    max_fun : int
        At most this many evaluations of the loss by L-BFGS.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …
    precision : str or None
        None keeps float32 input in float32 and computes in float64 otherwise. ``"float32"``, ``"float64"``;
        on a GPU also ``"tf32"``, ``"bfloat16"`` and ``"float16"``.
    dropout : float
        Probability with which each element of a hidden layer is dropped.
    weight_decay : float
        Decoupled: W loses learning rate · weight_decay · W at each step. 0 means 0.01 for ``"adamw"``.
    max_grad_norm : float or None
        A longer gradient is scaled down to this norm.
    init : str, Initializer, or (coefs, intercepts)
        How the initial weights are drawn: ``"auto"`` is scikit-learn's way, ``"he_normal"``, ``"orthogonal(1.4142)"``,
        … are gpubp's; or two lists with the arrays of each layer.
    quantile : float, sequence of float, or None
        With ``loss="quantile"``, the quantile of the target to predict; None is the median. Several, such as
        ``[0.1, 0.5, 0.9]``, are outputs of one network: `predict` gives a column for each. They are returned as
        learned, which may be slightly out of order where data are scarce (``np.sort(…, axis=1)`` fixes that); `score`
        and early stopping use the mean D² of their pinball losses instead of R².

    Attributes
    ----------
    loss_ : float
        The loss of the last epoch.
    best_loss_ : float or None
        The lowest of `loss_curve_`; None with early stopping.
    loss_curve_ : list of float
        The loss of every epoch, with its penalty, while the weights changed.
    validation_loss_curve_ : list of float
        The loss on ``validation_data``, or on the rows that early stopping sets aside, without the penalty, after every
        epoch; exists only if there are such rows.
    validation_scores_ : list of float or None
    best_validation_score_ : float or None
        With early stopping.
    t_ : int
        Samples trained on in all calls together.
    coefs_, intercepts_ : list of arrays
        Weights (n_in, n_out) and biases (n_out,) of each layer. They may be assigned to: further training and
        predictions use whatever they hold.
    n_features_in_, n_iter_, n_layers_, n_outputs_ : int
    feature_names_in_ : ndarray of str
        If X has column names.
    out_activation_ : str

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> X = np.linspace(-2, 2, 50)[:, None]
    >>> reg = gpubp.MLPRegressor(
    ...     hidden_layer_sizes=(16,), activation="tanh", solver="lbfgs", random_state=0, device="cpu"
    ... )
    >>> reg.fit(X, np.sin(X[:, 0])).score(X, np.sin(X[:, 0])) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "quantile": [Interval(Real, 0, 1, closed="neither"), "array-like", None],
    }
    _y_numeric = True

    def __init__(
        self,
        loss: str | Loss = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        device: str = "auto",
        precision: str | None = None,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        early_stopping_metric: Any = None,
        keep_moments: bool = False,
        init: Any = "auto",
        quantile: Any = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.device = device
        self.precision = precision
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.early_stopping_metric = early_stopping_metric
        self.keep_moments = keep_moments
        self.init = init
        self.quantile = quantile

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Any:
        """Predict using the multi-layer perceptron model.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return destination_of(X).send(self._predictions(self._forward(X, "predict")))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R² of the predictions, averaged over outputs.

        For several quantiles, the mean D² of their pinball losses, ``sklearn.metrics.d2_pinball_score``.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        """
        weight = None if sample_weight is None else to_host(sample_weight)
        return self._score_of(to_host(y), to_host(self.predict(X)), weight)

    def _score_of(self, y: Any, predictions: Any, weight: Any) -> float:
        quantiles = self._named_loss().quantiles
        if not quantiles:
            return float(r2_score(y, predictions, sample_weight=weight))
        targets = np.broadcast_to(np.reshape(y, (len(predictions), -1)), predictions.shape)
        columns = zip(targets.T, predictions.T, quantiles, strict=True)
        return float(np.mean([d2_pinball_score(*pair, alpha=q, sample_weight=weight) for *pair, q in columns]))

    def _check_targets(self, y: Any, incremental: bool) -> Any:
        if y.ndim == 1 or y.shape[1] > 1:
            return y
        if is_on_gpu(y):
            return y[:, 0]
        warn_of_column()
        return column_or_1d(y)

    @property
    def _loss_name(self) -> str | Loss:
        if self.quantile is None:
            loss: str | Loss = self.loss
            return loss
        if self.loss != "quantile":
            raise UsageError(f'quantile={self.quantile!r} is for loss="quantile", and the loss is {self.loss!r}')
        quantiles = np.asarray(self.quantile, np.float64).reshape(-1).tolist()
        if not quantiles:
            raise UsageError("quantile is empty; give one or several, such as [0.1, 0.5, 0.9]")
        return f"quantile({', '.join(map(str, quantiles))})"

    def _n_outputs(self, y: Any) -> int:
        targets, quantiles = 1 if y.ndim == 1 else int(y.shape[1]), self._named_loss().quantiles
        if quantiles and targets not in (1, len(quantiles)):
            raise UsageError(
                f"y has {targets} columns, but there are {len(quantiles)} quantiles; give one target for all of them "
                f"or one for each, or fit a network for each target by sklearn.multioutput.MultiOutputRegressor"
            )
        return len(quantiles) or targets

    def _loss_record(self, n_outputs: int) -> Loss:
        return squared_error(n_outputs) if self.loss == "squared_error" else self._named_loss()

    def _named_loss(self) -> Loss:
        """The loss, for one output where it depends on how many there are."""
        name = self._loss_name
        if name == "squared_error":
            return squared_error(1)
        if name == "poisson":
            return poisson_deviance()
        loss = get_loss(name)
        if loss.classification:
            raise UsageError(
                f'loss="{loss.name}" is for classes; MLPRegressor takes "squared_error", "poisson", "absolute_error", '
                f'"huber", "quantile(0.9)" or a Loss on values'
            )
        return loss

    def _encoding_key(self) -> Hashable:
        return str(self._loss_name)

    def _encode_any(self, y: Any) -> Any:
        return self._encode(y)

    def _encode(self, y: Any) -> Any:
        stack, shape = self._network(), (len(y), self._n_outputs(y))
        if not is_on_gpu(y):
            return checks.targets(y, *shape, stack.loss, stack.backend.precision)
        low, high = stack.loss.targets
        if not bool(((y >= low) & (y <= high)).all()):
            raise DataError(
                f'y holds values outside {low:g} … {high:g}, where loss "{stack.loss.name}" has its targets'
            )
        xp = namespace_of(y)
        return xp.ascontiguousarray(xp.broadcast_to(y.reshape(len(y), -1), shape))

    def _strata(self, targets: NDArray[Any]) -> Any:
        return None

    def _predictions(self, a: Any) -> Any:
        return a[:, 0] if a.shape[1] == 1 else a

    def _true_targets(self, data: Subset) -> Any:
        targets = as_numpy(data.targets)
        if self._named_loss().quantiles and (targets == targets[:, :1]).all():  # one target, repeated
            targets = targets[:, :1]
        return self._predictions(targets)

    def _own_score(self, a: NDArray[Any], data: Subset) -> float:
        return self._score_of(as_numpy(data.targets), a, data.row_weight)
