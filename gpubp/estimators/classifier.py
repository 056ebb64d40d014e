"""MLPClassifier: what users call."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target

from gpubp.estimators.arrays import as_numpy, home_of, is_numeric, is_on_gpu, to_host
from gpubp.estimators.base import is_stochastic
from gpubp.estimators.labels import Labelled
from gpubp.losses import Loss


class MLPClassifier(ClassifierMixin, Labelled):  # type: ignore[misc]
    """Multi-layer Perceptron classifier: scikit-learn's, on gpubp's engine.

    Parameters, attributes and results are those of ``sklearn.neural_network.MLPClassifier`` where it has them.
    Losses are computed from logits, never from clipped probabilities.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int
        Neurons of each hidden layer.
    activation : str, Activation, or a sequence with one per hidden layer
        ``"identity"``, ``"logistic"``, ``"tanh"``, ``"relu"``, any other name that gpubp knows
        (``"gelu"``, ``"leaky_relu(0.2)"``, …), or a record.
    solver : {"adam", "sgd", "lbfgs", "adamw"}
        ``"adamw"`` is Adam with decoupled weight decay.
    alpha : float
        The loss of a batch gains ½ alpha Σ W² divided by the batch's weight.
    batch_size : int or "auto"
        ``"auto"`` is ``min(200, n_samples)``. L-BFGS takes all rows at once.
    learning_rate : str, Schedule or callable
        ``"constant"``, ``"invscaling"`` and ``"adaptive"`` are scikit-learn's and concern solver ``"sgd"`` alone.
        gpubp's schedules concern every stochastic solver: ``"cosine"``, ``"warmup(cosine, 0.1)"``, …, a
        record, or a function of a `gpubp.schedules.Progress`; a training is `max_iter` epochs long.
    learning_rate_init : float
    power_t : float
        Exponent of ``"invscaling"``: the rate is ``learning_rate_init / (t_ + 1) ** power_t``.
    max_iter : int
        At most so many epochs, or iterations of L-BFGS.
    shuffle : bool
        Draw a new order every epoch.
    random_state : int, RandomState or None
        Of the first weights, the split for early stopping, the orders and the dropout.
    tol : float
        What counts as an improvement of the loss or of the validation score.
    verbose : bool
        Print the loss of every epoch.
    warm_start : bool
        Go on from the weights of the last fit, and from the solver's moments.
    momentum : float
        Of solver ``"sgd"``.
    nesterovs_momentum : bool
    early_stopping : bool
        Set `validation_fraction` of the rows aside and stop when their score no longer improves; the weights of
        the best score are kept.
    validation_fraction : float
    beta_1, beta_2, epsilon : float
        Of ``"adam"`` and ``"adamw"``.
    n_iter_no_change : int
        Stop after so many epochs without an improvement by `tol`.
    max_fun : int
        At most so many evaluations of the loss by L-BFGS.
    loss : str or Loss
        ``"auto"`` is the log loss: of a softmax for three classes and more, of a logistic output for two, and of
        one logistic output a label. ``"cross_entropy"`` gives two classes two outputs,
        ``"binary_cross_entropy"`` each class a logistic output of its own.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …
    precision : str or None
        None keeps float32 input in float32 and computes in float64 otherwise. ``"float32"``, ``"float64"``;
        on a GPU also ``"tf32"``, ``"bfloat16"`` and ``"float16"``.
    dropout : float
        Rate at which elements of hidden layers are dropped.
    weight_decay : float
        Decoupled: W loses learning rate · weight_decay · W at each step. 0 means 0.01 for ``"adamw"``.
    class_weight : dict, list of dict, "balanced" or None
        Multiplies the sample weights by one per class.
    label_smoothing : float
        The share of a label's probability that is spread over all classes.
    max_grad_norm : float or None
        A longer gradient is scaled down to this norm.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    loss_ : float
        Of the last epoch.
    best_loss_ : float or None
        The least of `loss_curve_`; None with early stopping.
    loss_curve_ : list of float
        The loss of every epoch, with its penalty, while the weights moved.
    validation_loss_curve_ : list of float
        The loss on ``validation_data``, without the penalty, after every epoch; there if the data were given.
    validation_scores_ : list of float or None
    best_validation_score_ : float or None
        With early stopping.
    t_ : int
        Samples trained on, over all calls.
    coefs_, intercepts_ : list of arrays
        Weights (n_in, n_out) and biases (n_out,) of each layer. They may be assigned to: whatever they hold is
        what is trained further and predicted with.
    n_features_in_, n_iter_, n_layers_, n_outputs_ : int
    feature_names_in_ : ndarray of str
        Where X has column names.
    out_activation_ : str
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Labelled._parameter_constraints,
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

    # -- fitting ---------------------------------------------------------------------------------------

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Update the model with a single iteration over the given data.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
        sample_weight : array-like of shape (n_samples,), optional
        classes : array of shape (n_classes,), optional
            All classes that any call will see. The first call needs it.

        Returns
        -------
        self
        """
        y, classes = to_host(y), to_host(classes)
        if _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    # -- predicting ------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Any:
        """Predict using the multi-layer perceptron classifier.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
            The predicted classes.
        """
        index, home = self._indices(self._forward(X, "predict")), home_of(X)
        if self._kind == "multilabel-indicator":
            return home.bring(index)
        if is_on_gpu(index) and is_numeric(self.classes_):
            return home.xp.asarray(self.classes_)[index]
        return home.bring(self.classes_[as_numpy(index)])

    def _probabilities(self, X: Any, method: str) -> Any:
        """Of each class, in the memory where they were computed."""
        a = self._forward(X, method)
        return self._of_classes(a, self._xp(a))

    def _of_classes(self, a: Any, xp: Any) -> Any:
        """Probabilities (…, n_classes) from outputs a^L (…, n_L)."""
        if a.shape[-1] == 1:
            return xp.concatenate([1 - a, a], axis=-1)
        if self._kind == "multiclass" and self.out_activation_ == "logistic":  # each class against the rest
            return a / a.sum(axis=-1, keepdims=True)
        return a

    def _xp(self, a: Any) -> Any:
        """The namespace of outputs, on the host or the network's GPU."""
        return self._stack.backend.xp if is_on_gpu(a) else np

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
        return home_of(X).bring(self._probabilities(X, "predict_proba"))

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
        return home_of(X).bring(self._xp(y_prob).log(y_prob))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on X and true labels y; with several labels a row, of whole rows.

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
