"""Converts fitted MLPs from scikit-learn to gpubp and back."""

from __future__ import annotations

import copy
from typing import Any

from sklearn import neural_network
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Bunch

from gpubp.errors import UsageError
from gpubp.estimators.arrays import as_numpy
from gpubp.estimators.classifier import MLPClassifier
from gpubp.estimators.messages import warn
from gpubp.estimators.regressor import MLPRegressor
from gpubp.estimators.solvers.stochastic import SCHEDULES_OF_SGD

PAIRS = ((MLPClassifier, neural_network.MLPClassifier), (MLPRegressor, neural_network.MLPRegressor))
for _ours, _theirs in PAIRS:  # so that isinstance accepts ours as scikit-learn's, as far as its abstract classes allow
    _theirs.register(_ours)
_PRIVATE_ATTRIBUTES = {"_label_binarizer", "_no_improvement_count"}  # besides fitted ones, which end with an underscore
_ONLY_GPUBP = {"validation_loss_curve_"}
_ACTIVATIONS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
_OUTPUTS = {"binary": "logistic", "multiclass": "softmax", "multilabel-indicator": "logistic"}


def from_sklearn(mlp: Any, device: str = "auto") -> Any:
    """gpubp's estimator with the parameters, weights and curves of a scikit-learn MLPClassifier or MLPRegressor.

    Further training starts with a new solver: moments are not copied. Nor are parameters that a subclass adds to
    scikit-learn's; a warning names them.

    Parameters
    ----------
    mlp : sklearn.neural_network.MLPClassifier or MLPRegressor
    device : str
        The device of the new estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> import gpubp
    >>> X, y = load_iris(return_X_y=True)
    >>> theirs = MLPClassifier((8,), solver="lbfgs", max_iter=500, random_state=0).fit(X, y)
    >>> ours = gpubp.from_sklearn(theirs, device="cpu")
    >>> bool((ours.predict(X) == theirs.predict(X)).all())
    True
    """
    for ours, theirs in PAIRS:
        if isinstance(mlp, theirs) and not isinstance(mlp, ours):
            parameters = mlp.get_params(deep=False)
            known = {name: value for name, value in parameters.items() if name in theirs._get_param_names()}
            if left_out := sorted(parameters.keys() - known.keys()):
                names = ", ".join(left_out)
                warn(f"{names} of {type(mlp).__name__} are left out: {ours.__name__} has no such parameters")
            return _copy_fitted(ours(**known, device=device), mlp)
    raise UsageError(f"{mlp!r} is neither an MLPClassifier nor an MLPRegressor of scikit-learn")


def to_sklearn(mlp: Any) -> Any:
    """scikit-learn's MLPClassifier or MLPRegressor with the parameters, weights and curves of gpubp's.

    Settings that only affect training and that scikit-learn lacks, such as dropout, are left out.

    Parameters
    ----------
    mlp : MLPClassifier or MLPRegressor, or what contains them
        A pipeline becomes one that shares its other steps, and a ``TransformedTargetRegressor`` one with the same
        transformer; a fitted search becomes its best estimator, and an ensemble a
        ``VotingClassifier`` (of the mean probabilities) or a ``VotingRegressor``.

    Raises
    ------
    UsageError
        If scikit-learn would predict something else: it has four activations, and no choice of output activation.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import gpubp
    >>> X, y = load_iris(return_X_y=True)
    >>> ours = gpubp.MLPClassifier((8,), solver="lbfgs", max_iter=500, random_state=0, device="cpu").fit(X, y)
    >>> theirs = gpubp.to_sklearn(ours)
    >>> type(theirs).__module__.partition(".")[0], bool((theirs.predict(X) == ours.predict(X)).all())
    ('sklearn', True)
    """
    if isinstance(mlp, Pipeline):
        pipeline = copy.copy(mlp)
        pipeline.steps = [*mlp.steps[:-1], (mlp.steps[-1][0], to_sklearn(mlp.steps[-1][1]))]
        return pipeline
    if isinstance(mlp, TransformedTargetRegressor):
        transformed = copy.copy(mlp)
        for name in {"regressor", "regressor_"} & vars(mlp).keys():
            setattr(transformed, name, to_sklearn(getattr(mlp, name)))
        return transformed
    if hasattr(mlp, "best_estimator_"):
        return to_sklearn(mlp.best_estimator_)
    if hasattr(mlp, "estimators_"):
        return _voting(mlp)
    for ours, theirs in PAIRS:
        if isinstance(mlp, ours):
            known = theirs._get_param_names()
            parameters = {name: value for name, value in mlp.get_params(deep=False).items() if name in known}
            parameters["activation"] = _activation(mlp)
            if mlp.solver not in ("adam", "sgd", "lbfgs"):
                parameters["solver"] = "adam"
            if mlp.learning_rate not in SCHEDULES_OF_SGD:
                parameters["learning_rate"] = "constant"
            if "loss" in parameters and parameters["loss"] not in ("squared_error", "poisson"):
                parameters["loss"] = "poisson" if getattr(mlp, "out_activation_", "") == "exp" else "squared_error"
            return _copy_fitted(theirs(**parameters), mlp)
    raise UsageError(f"{mlp!r} is neither an MLPClassifier nor an MLPRegressor of gpubp")


def _voting(ensemble: Any) -> Any:
    """A fitted ensemble as scikit-learn's vote of its members."""
    members = [to_sklearn(est) for est in ensemble.estimators_]
    named = [(f"member{number}", member) for number, member in enumerate(members)]
    classes = getattr(ensemble, "classes_", None)
    if classes is None:
        if members[0].n_outputs_ > 1:
            raise UsageError("scikit-learn's VotingRegressor has one output; convert the members, ensemble.estimators_")
        voting = VotingRegressor(named)
    elif ensemble.estimators_[0]._target_type == "multilabel-indicator":
        raise UsageError("scikit-learn's VotingClassifier has no labels; convert the members, ensemble.estimators_")
    else:
        voting = VotingClassifier(named, voting="soft")
        voting.le_ = LabelEncoder().fit(as_numpy(classes))
        voting.classes_ = voting.le_.classes_
    voting.estimators_, voting.named_estimators_ = members, Bunch(**dict(named))
    if hasattr(ensemble, "feature_names_in_"):
        voting.feature_names_in_ = ensemble.feature_names_in_
    return voting


def _activation(mlp: Any) -> str:
    """The one activation of the hidden layers, by scikit-learn's name."""
    if not hasattr(mlp, "coefs_"):
        names = {str(getattr(mlp.activation, "name", mlp.activation))}
    else:
        names = {record.name for record in mlp._network().activations} or {"relu"}
        targets, output = getattr(mlp, "_target_type", None), mlp.out_activation_
        if targets is not None and (output != _OUTPUTS[targets] or (targets == "binary" and mlp.n_outputs_ != 1)):
            raise UsageError(f'scikit-learn has no loss="{mlp.loss}"; fit with loss="auto" to convert')
    name = _ACTIVATIONS.get(next(iter(names)), next(iter(names)))
    if len(names) > 1 or name not in _ACTIVATIONS.values():
        raise UsageError(
            f"scikit-learn has no activation {mlp.activation!r}; it has one of {', '.join(_ACTIVATIONS.values())} for "
            f"all hidden layers"
        )
    return name


def _copy_fitted(estimator: Any, source: Any) -> Any:
    """An unfitted estimator with the fitted attributes of another."""
    for name, value in vars(source).items():
        if name in _PRIVATE_ATTRIBUTES or (name.endswith("_") and name[0] != "_" and name not in _ONLY_GPUBP):
            setattr(estimator, name, copy.deepcopy(value))
    for name in {"coefs_", "intercepts_"} & vars(source).keys():
        setattr(estimator, name, [as_numpy(array).copy() for array in getattr(source, name)])
    return estimator
