"""MLPClassifier: converts between labels and what the losses take."""

from __future__ import annotations

from collections.abc import Hashable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target, unique_labels

from gpubp.errors import UsageError
from gpubp.estimators.arrays import (
    Destination,
    as_numpy,
    destination_of,
    is_numeric,
    is_on_gpu,
    namespace_of,
    to_host,
)
from gpubp.estimators.base import BaseMLP, is_stochastic
from gpubp.estimators.data import Subset
from gpubp.estimators.messages import warn_of_column
from gpubp.estimators.sklearn_private import Interval, StrOptions, check_partial_fit_first_call, fit_context
from gpubp.losses import Loss, get_loss
from gpubp.stack import Stack


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """Multi-layer Perceptron classifier: scikit-learn's, on gpubp's engine.

    Parameters, attributes and results are those of ``sklearn.neural_network.MLPClassifier`` where it has them. Losses
    are computed from logits, never from clipped probabilities. Two classes use one logistic output, more classes a
    softmax, and several labels per row one logistic output each, unless the parameter `loss` says otherwise.

    Parameters
    ----------
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
    loss : str or Loss
        ``"auto"`` is the log loss: of a softmax for three or more classes, of a logistic output for two, and of one
        logistic output per label. ``"cross_entropy"`` gives two classes two outputs, ``"binary_cross_entropy"`` each
        class a logistic output of its own.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …
    precision : str or None
        None keeps float32 input in float32 and computes in float64 otherwise. ``"float32"``, ``"float64"``;
        on a GPU also ``"tf32"``, ``"bfloat16"`` and ``"float16"``.
    dropout : float
        Probability with which each element of a hidden layer is dropped.
    weight_decay : float
        Decoupled: W loses learning rate · weight_decay · W at each step. 0 means 0.01 for ``"adamw"``.
    class_weight : dict, list of dict, "balanced" or None
        Multiplies the sample weights by a weight per class.
    label_smoothing : float
        The part of a label's probability that is spread over all classes.
    max_grad_norm : float or None
        A longer gradient is scaled down to this norm.
    init : str, Initializer, or (coefs, intercepts)
        How the initial weights are drawn: ``"auto"`` is scikit-learn's way, ``"he_normal"``, ``"orthogonal(1.4142)"``,
        … are gpubp's; or two lists with the arrays of each layer.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        A NumPy array; with scikit-learn's ``array_api_dispatch``, numeric classes are in X's library.
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
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import scale
    >>> import gpubp
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = gpubp.MLPClassifier((16,), learning_rate_init=0.01, max_iter=1000, random_state=0, device="cpu")
    >>> clf.fit(scale(X), y).score(scale(X), y) > 0.95
    True
    >>> clf.predict_proba(scale(X)).shape
    (150, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
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
        loss: str | Loss = "auto",
        device: str = "auto",
        precision: str | None = None,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        max_grad_norm: float | None = None,
        early_stopping_metric: Any = None,
        keep_moments: bool = False,
        init: Any = "auto",
    ) -> None:
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
        self.loss = loss
        self.device = device
        self.precision = precision
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.max_grad_norm = max_grad_norm
        self.early_stopping_metric = early_stopping_metric
        self.keep_moments = keep_moments
        self.init = init

    # -- fitting ---------------------------------------------------------------------------------------

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    @fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
        sample_weight : array-like of shape (n_samples,), optional
        classes : array of shape (n_classes,), optional
            All classes that any call will see; required in the first call.

        Returns
        -------
        self
        """
        y, classes = to_host(y), to_host(classes)
        if not check_partial_fit_first_call(self, classes):
            return self._fit(X, y, sample_weight, incremental=True)
        try:
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
            return self._fit(X, y, sample_weight, incremental=True)
        except BaseException:
            if not hasattr(self, "coefs_"):  # the first call was refused; the next one may name other classes
                del self.classes_, self._label_binarizer
            raise

    # -- predicting ------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """Predict using the multi-layer perceptron classifier.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The predicted classes. With several labels per row, a sparse matrix if y was sparse.
        """
        index, destination = self._class_indices(self._forward(X, "predict")), destination_of(X)
        if self._target_type == "multilabel-indicator":
            return (
                self._label_binarizer.inverse_transform(as_numpy(index))
                if self._sparse_labels
                else destination.send(index)
            )
        if is_on_gpu(index) and is_numeric(self._host_classes):
            return destination.xp.asarray(self._host_classes)[index]
        return destination.send(self._host_classes[as_numpy(index)])

    def _probabilities(self, X: Any, method: str) -> Any:
        """Probabilities of the classes (m, n_classes), on the device that computed them."""
        return self._class_probabilities(self._forward(X, method))

    def _class_probabilities(self, a: Any) -> Any:
        """Probabilities (…, n_classes) from outputs a^L (…, n_L)."""
        if a.shape[-1] == 1:
            return namespace_of(a).concatenate([1 - a, a], axis=-1)
        if self._target_type == "multiclass" and self.out_activation_ == "logistic":  # one class against the rest
            return a / a.sum(axis=-1, keepdims=True)
        return a

    def predict_proba(self, X: Any) -> Any:
        """Probability estimates.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return destination_of(X).send(self._probabilities(X, "predict_proba"))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the log of probability estimates.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        y_prob = self._probabilities(X, "predict_log_proba")
        return destination_of(X).send(namespace_of(y_prob).log(y_prob))

    def decision_function(self, X: Any) -> Any:
        """The logits, from which the probabilities are computed.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, one number per row, positive for ``classes_[1]``.
        """
        z = self._logits(*self._checked_for(X, "decision_function"))
        if self._target_type == "binary":
            z = z[:, 0] if z.shape[1] == 1 else z[:, 1] - z[:, 0]
        return destination_of(X).send(z)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on X and true labels y; with several labels per row, a row counts only if all are right.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
        sample_weight : array-like of shape (n_samples,), optional
        """
        weight = None if sample_weight is None else to_host(sample_weight)
        return float(accuracy_score(to_host(y), to_host(self.predict(X)), sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # -- labels and outputs ----------------------------------------------------------------------------

    def _check_targets(self, y: Any, incremental: bool) -> Any:
        if y.ndim == 2 and y.shape[1] == 1:
            warn_of_column()
            y = column_or_1d(y)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
            return y
        classes = unique_labels(y)
        if self.warm_start and not incremental and set(classes) != set(self._host_classes):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self._host_classes}, `y` has {classes}"
            )
        if len(np.setdiff1d(classes, self._host_classes, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self._host_classes}. 'y' has {classes}."
            )
        return y

    def _sample_weights(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> NDArray[np.float64] | None:
        weight = super()._sample_weights(X, y, sample_weight, incremental)
        if self.class_weight is None:
            return weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight='balanced' is not supported for partial_fit: one call does not see how frequent the "
                "classes are. Give a dict, from sklearn.utils.class_weight.compute_class_weight over all of y"
            )
        by_class: NDArray[np.float64] = compute_sample_weight(self.class_weight, y)
        return by_class if weight is None else weight * by_class

    @property
    def _host_classes(self) -> NDArray[Any]:
        """`classes_`, which may be an array of another library, in NumPy."""
        return as_numpy(self.classes_)

    @property
    def _sparse_labels(self) -> bool:
        """Whether the labels were a sparse matrix when the estimator was fitted."""
        return bool(getattr(self._label_binarizer, "sparse_input_", False))

    def _take_weights_from(self, stack: Stack, destination: Destination) -> None:
        """As for any estimator; under ``array_api_dispatch`` the classes, too, go where X came from."""
        super()._take_weights_from(stack, destination)
        goes = get_config()["array_api_dispatch"] and is_numeric(self._host_classes)
        self.classes_ = destination.send(self._host_classes) if goes else self._host_classes

    @property
    def _target_type(self) -> str:
        """ "binary", "multiclass" or "multilabel-indicator"."""
        kind: str = self._label_binarizer.y_type_
        return kind

    def _n_outputs(self, y: Any) -> int:
        loss = self._named_loss()
        if self._target_type == "binary":
            return 2 if loss is not None and loss.integer_targets else 1
        return len(self._host_classes)

    def _named_loss(self) -> Loss | None:
        """The loss that the user named; None for the one that follows from the labels."""
        if self.loss == "auto":
            return None
        loss = get_loss(self.loss)
        if not loss.classification:
            raise UsageError(
                f'loss="{loss.name}" is for values; MLPClassifier takes "auto", "cross_entropy" or '
                f'"binary_cross_entropy", or a Loss for classes'
            )
        return loss

    def _loss_record(self, n_outputs: int) -> Loss:
        loss = self._named_loss()
        if loss is None:
            return get_loss("cross_entropy" if self._target_type == "multiclass" else "binary_cross_entropy")
        if loss.integer_targets and self._target_type == "multilabel-indicator":
            raise UsageError(
                f'loss="{loss.name}" takes one class a row, but y has several labels; use "binary_cross_entropy"'
            )
        return loss

    def _encoding_key(self) -> Hashable:
        return self._target_type, tuple(self._host_classes.tolist()), str(self.loss)

    def _encode_any(self, y: Any) -> NDArray[Any]:
        if self._target_type != "multilabel-indicator":
            y = np.where(np.isin(y, self._host_classes), y, self._host_classes[0])
        return self._encode(y)

    def _encode(self, y: Any) -> NDArray[Any]:
        if self._target_type == "multilabel-indicator":
            return np.asarray(y.toarray() if issparse(y) else y, np.bool_)
        index: NDArray[np.int64] = np.searchsorted(self._host_classes, y)
        loss = self._named_loss()
        if self._target_type == "multiclass" if loss is None else loss.integer_targets:
            return index
        if self._target_type == "binary":
            return index[:, None]
        return np.eye(len(self._host_classes))[index]

    def _strata(self, targets: NDArray[Any]) -> Any:
        return (targets[:, 0] == 1).astype(str) if targets.ndim == 2 and targets.shape[1] == 1 else None

    def _own_score(self, a: NDArray[Any], data: Subset) -> float:
        return float(accuracy_score(self._true_indices(data), self._class_indices(a), sample_weight=data.row_weight))

    def _true_targets(self, data: Subset) -> Any:
        index = self._true_indices(data)
        return index if index.ndim == 2 else self._host_classes[index]

    def _predictions(self, a: NDArray[Any]) -> Any:
        index = self._class_indices(a)
        return index if index.ndim == 2 else self._host_classes[index]

    def _true_indices(self, data: Subset) -> NDArray[np.int64]:
        """The class of each row, or the 0/1 matrix of its labels."""
        truth = as_numpy(data.targets)
        if self._target_type != "multilabel-indicator" and truth.ndim == 2:  # one column, or one-hot
            truth = truth[:, 0] if truth.shape[1] == 1 else truth.argmax(axis=1)
        return truth.astype(np.int64)

    def _class_indices(self, a: Any) -> Any:
        """The class of each row, or the 0/1 matrix of its labels."""
        if self._target_type == "multilabel-indicator":
            return (a > 0.5).astype(np.int64)
        index = (a[:, 0] > 0.5).astype(np.int64) if a.shape[1] == 1 else a.argmax(axis=1)
        return index if len(self._host_classes) > 1 else index * 0
