"""MLPEnsembleClassifier and MLPEnsembleRegressor: what users call."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score

from gpubp._typing import Array
from gpubp.estimators.arrays import as_numpy, destination_of, namespace_of, to_host
from gpubp.estimators.classifier import MLPClassifier
from gpubp.estimators.ensemble.base import BaseMLPEnsemble
from gpubp.estimators.regressor import MLPRegressor


class MLPEnsembleClassifier(ClassifierMixin, BaseMLPEnsemble):  # type: ignore[misc]
    """A deep ensemble of classifiers: networks of one shape that differ in their random numbers.

    They are trained together and predict together, in one pass. The ensemble's probabilities are the means of its
    members', and tell more than a single network's about how sure they are. After Lakshminarayanan, Pritzel and
    Blundell, 2017.

    Parameters
    ----------
    estimator : MLPClassifier, int, sequence of int, or None
        The members, apart from their `random_state`; None means ``MLPClassifier()``. Numbers are their
        `hidden_layer_sizes`.
    n_estimators : int
        The number of members.
    bootstrap : bool
        Draw rows with replacement for every member. How often a row was drawn multiplies its sample weight, so a
        smaller `max_samples` makes members differ more, but does not shorten training.
    max_samples : int, float or None
        With `bootstrap`, the number or the fraction of rows that a member draws; None means as many as there are.
    oob_score : bool
        With `bootstrap`, score each row's predictions by the members that did not draw it.
    n_jobs : int or None
        The maximum number of joblib tasks.
    random_state : int, RandomState or None
        The source of the members' random numbers and of the rows they draw. The first members of a larger
        ensemble are those of a smaller one.
    verbose : int
    **network
        Parameters of `MLPClassifier`, instead of `estimator`: ``hidden_layer_sizes=(64,)`` is
        ``estimator=MLPClassifier(hidden_layer_sizes=(64,))``. On tables, ``early_stopping=True`` keeps members from
        memorizing their rows.

    Attributes
    ----------
    estimators_ : list of MLPClassifier
        The members. Weights assigned to them take effect; members removed from the list no longer count.
    classes_ : ndarray of shape (n_classes,)
    oob_score_ : float
        Accuracy, over the rows that some member did not draw.
    oob_decision_function_ : ndarray of shape (n_samples, n_classes)
        Mean probabilities by those members; NaN for rows that every member drew.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If X has column names.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import gpubp
    >>> X, y = load_iris(return_X_y=True)
    >>> ensemble = gpubp.MLPEnsembleClassifier(
    ...     n_estimators=4, hidden_layer_sizes=(8,), early_stopping=True, random_state=0, device="cpu"
    ... )
    >>> mean, std = ensemble.fit(X, y).predict_proba(X, return_std=True)
    >>> mean.shape, std.shape, len(ensemble.estimators_)
    ((150, 3), (150, 3), 4)
    """

    _member_class, _averaged_method = MLPClassifier, "predict_proba"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLPEnsemble._parameter_constraints,
        "estimator": [MLPClassifier, None],
    }

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict the class with the largest mean probability, or the labels whose mean probability is above ½.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool
            Whether to return the spread of the members too.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_classes)
        y_std : ndarray of the same shape
            If `return_std`: the members' standard deviation of the probability of that class, or of each label.
        """
        mean, *std = (as_numpy(a) for a in self._averaged(X, "predict", return_std))
        labels = self._labels(mean)
        if labels.ndim == 1:
            std = [np.take_along_axis(a, mean.argmax(axis=1)[:, None], axis=1)[:, 0] for a in std]
        results = [destination_of(X).send(a) for a in (labels, *std)]
        return tuple(results) if return_std else results[0]

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """Probabilities of the classes: the members' mean.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool
            Whether to return the members' standard deviation too.

        Returns
        -------
        y_prob : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        y_std : ndarray of shape (n_samples, n_classes)
            If `return_std`.
        """
        destination = destination_of(X)
        results = [destination.send(a) for a in self._averaged(X, "predict_proba", return_std)]
        return tuple(results) if return_std else results[0]

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of the mean probabilities.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        log_y_prob : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        (mean,) = self._averaged(X, "predict_log_proba")
        return destination_of(X).send(namespace_of(mean).log(mean))

    def decision_function(self, X: Any) -> Any:
        """The logits of the mean probabilities: their logarithms, or their log odds.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, one number per row, positive for ``classes_[1]``; with several labels per row, one for
            each.
        """
        (mean,) = self._averaged(X, "decision_function")
        xp, kind = namespace_of(mean), self.estimators_[0]._target_type
        tiny = xp.finfo(mean.dtype).tiny  # avoids ln 0
        z = xp.log(xp.maximum(mean, tiny))
        if kind == "multilabel-indicator":
            z = z - xp.log(xp.maximum(1 - mean, tiny))
        return destination_of(X).send(z[:, 1] - z[:, 0] if kind == "binary" else z)

    def _member_predictions(self, a: Array) -> Array:
        return self.estimators_[0]._class_probabilities(a)

    def _labels(self, mean: NDArray[Any]) -> Any:
        """The class of each row, or the 0/1 matrix of its labels."""
        first = self.estimators_[0]
        index = first._class_indices(mean)
        if first._target_type != "multilabel-indicator":
            return first._host_classes[index]
        return first._label_binarizer.inverse_transform(index) if first._sparse_labels else index

    def _set_oob_score_and_attributes(self, mean: NDArray[Any], y: Any, has_mean: NDArray[np.bool_]) -> None:
        self.oob_decision_function_, self.oob_score_ = mean, float("nan")
        if has_mean.any():
            self.oob_score_ = float(accuracy_score(y[has_mean], self._labels(mean[has_mean])))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPEnsembleRegressor(RegressorMixin, BaseMLPEnsemble):  # type: ignore[misc]
    """A deep ensemble of regressors: networks of one shape that differ in their random numbers.

    They are trained together and predict together, in one pass. Where the members disagree, they had little to learn
    from. After Lakshminarayanan, Pritzel and Blundell, 2017.

    Parameters
    ----------
    estimator : MLPRegressor, int, sequence of int, or None
        The members, apart from their `random_state`; None means ``MLPRegressor()``. Numbers are their
        `hidden_layer_sizes`.
    n_estimators : int
        The number of members.
    bootstrap : bool
        Draw rows with replacement for every member. How often a row was drawn multiplies its sample weight, so a
        smaller `max_samples` makes members differ more, but does not shorten training.
    max_samples : int, float or None
        With `bootstrap`, the number or the fraction of rows that a member draws; None means as many as there are.
    oob_score : bool
        With `bootstrap`, score each row's predictions by the members that did not draw it.
    n_jobs : int or None
        The maximum number of joblib tasks.
    random_state : int, RandomState or None
        The source of the members' random numbers and of the rows they draw. The first members of a larger
        ensemble are those of a smaller one.
    verbose : int
    **network
        Parameters of `MLPRegressor`, instead of `estimator`: ``hidden_layer_sizes=(64,)`` is
        ``estimator=MLPRegressor(hidden_layer_sizes=(64,))``. On tables, ``early_stopping=True`` keeps members from
        memorizing their rows.

    Attributes
    ----------
    estimators_ : list of MLPRegressor
        The members. Weights assigned to them take effect; members removed from the list no longer count.
    oob_score_ : float
        `score`, over the rows that some member did not draw.
    oob_prediction_ : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Mean predictions by those members; NaN for rows that every member drew.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If X has column names.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> X = np.linspace(-2, 2, 50)[:, None]
    >>> ensemble = gpubp.MLPEnsembleRegressor(
    ...     n_estimators=4, hidden_layer_sizes=(8,), learning_rate_init=0.1, random_state=0, device="cpu"
    ... )
    >>> mean, std = ensemble.fit(X, np.sin(X[:, 0])).predict(X, return_std=True)
    >>> mean.shape, bool((std >= 0).all())
    ((50,), True)
    """

    _member_class, _averaged_method = MLPRegressor, "predict"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLPEnsemble._parameter_constraints,
        "estimator": [MLPRegressor, None],
    }

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict the members' mean.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        return_std : bool
            Whether to return the members' standard deviation too.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        y_std : ndarray of the same shape
            If `return_std`.
        """
        destination = destination_of(X)
        results = [destination.send(_column(a)) for a in self._averaged(X, "predict", return_std)]
        return tuple(results) if return_std else results[0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """`MLPRegressor.score` for the members' mean.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional
        """
        predictions = to_host(self.predict(X))
        weight = None if sample_weight is None else to_host(sample_weight)
        score: float = self.estimators_[0]._score_of(to_host(y), predictions, weight)
        return score

    def _member_predictions(self, a: Array) -> Array:
        return a

    def _set_oob_score_and_attributes(self, mean: NDArray[Any], y: Any, has_mean: NDArray[np.bool_]) -> None:
        self.oob_prediction_, self.oob_score_ = _column(mean), float("nan")
        if has_mean.any():
            self.oob_score_ = self.estimators_[0]._score_of(y[has_mean], self.oob_prediction_[has_mean], None)


def _column(a: Any) -> Any:
    """(m,) if there is one output."""
    return a[:, 0] if a.shape[1] == 1 else a
