"""From scikit-learn's fitted MLPs to ours and back."""

from __future__ import annotations

import copy
from typing import Any

from sklearn import neural_network

from gpubp.errors import UsageError
from gpubp.estimators.arrays import as_numpy
from gpubp.estimators.classifier import MLPClassifier
from gpubp.estimators.regressor import MLPRegressor
from gpubp.estimators.solvers.stochastic import SCHEDULES_OF_SGD

PAIRS = ((MLPClassifier, neural_network.MLPClassifier), (MLPRegressor, neural_network.MLPRegressor))
_KEPT = {"_label_binarizer", "_no_improvement_count"}  # beside what ends with an underscore
_OURS = {"validation_loss_curve_"}
_ACTIVATIONS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}
_OUTPUTS = {"binary": "logistic", "multiclass": "softmax", "multilabel-indicator": "logistic"}


def from_sklearn(mlp: Any, device: str = "auto") -> Any:
    """Ours, with the parameters, weights and curves of a scikit-learn MLPClassifier or MLPRegressor.

    Solvers start anew where it is trained on: their moments stay behind.

    Parameters
    ----------
    mlp : sklearn.neural_network.MLPClassifier or MLPRegressor
    device : str
        Where ours computes.
    """
    for ours, theirs in PAIRS:
        if isinstance(mlp, theirs):
            return _filled(ours(**mlp.get_params(deep=False), device=device), mlp)
    raise UsageError(f"{mlp!r} is neither an MLPClassifier nor an MLPRegressor of scikit-learn")


def to_sklearn(mlp: MLPClassifier | MLPRegressor) -> Any:
    """scikit-learn's MLPClassifier or MLPRegressor with the parameters, weights and curves of ours.

    What concerns training alone and scikit-learn lacks, such as dropout, is left out.

    Raises
    ------
    UsageError
        Where scikit-learn would predict something else: it has four activations, and no choice of the output's.
    """
    for ours, theirs in PAIRS:
        if isinstance(mlp, ours):
            given = {name: value for name, value in mlp.get_params(deep=False).items() if name in _names(theirs)}
            given["activation"] = _activation(mlp)
            if mlp.solver == "adamw":
                given["solver"] = "adam"
            if mlp.learning_rate not in SCHEDULES_OF_SGD:
                given["learning_rate"] = "constant"
            if "loss" in given and given["loss"] not in ("squared_error", "poisson"):
                given["loss"] = "poisson" if getattr(mlp, "out_activation_", "") == "exp" else "squared_error"
            return _filled(theirs(**given), mlp)
    raise UsageError(f"{mlp!r} is neither an MLPClassifier nor an MLPRegressor of gpubp")


def _names(estimator: Any) -> list[str]:
    names: list[str] = estimator._get_param_names()
    return names


def _activation(mlp: Any) -> str:
    """The one activation of the hidden layers, by scikit-learn's name."""
    if not hasattr(mlp, "coefs_"):
        names = {str(getattr(mlp.activation, "name", mlp.activation))}
    else:
        names = {record.name for record in mlp._network().activations} or {"relu"}
        kind, output = getattr(mlp, "_kind", None), mlp.out_activation_
        if kind is not None and (output != _OUTPUTS[kind] or (kind == "binary" and mlp.n_outputs_ != 1)):
            raise UsageError(f'scikit-learn has no loss="{mlp.loss}"; fit with loss="auto" to convert')
    name = _ACTIVATIONS.get(next(iter(names)), next(iter(names)))
    if len(names) > 1 or name not in _ACTIVATIONS.values():
        raise UsageError(
            f"scikit-learn has no activation {mlp.activation!r}; it has one of {', '.join(_ACTIVATIONS.values())} for "
            f"all hidden layers"
        )
    return name


def _filled(made: Any, source: Any) -> Any:
    for name, value in vars(source).items():
        if name in _KEPT or (name.endswith("_") and not name.startswith("_") and name not in _OURS):
            setattr(made, name, copy.deepcopy(value))
    for name in {"coefs_", "intercepts_"} & vars(source).keys():
        setattr(made, name, [as_numpy(array).copy() for array in getattr(source, name)])
    return made
