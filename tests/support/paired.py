"""The two sides of tests that run the same lines with our estimators and with scikit-learn's, and their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn import neural_network
from sklearn.datasets import load_iris

import gpubp

PARAMETERS = {
    "hidden_layer_sizes": (5,),
    "max_iter": 4,
    "learning_rate_init": 0.05,
    "batch_size": 16,
    "random_state": 0,
}


class WithoutLogits(gpubp.MLPClassifier):
    """Ours, but for the `decision_function` that scikit-learn's classifier lacks."""

    @property
    def decision_function(self) -> Any:
        raise AttributeError("scikit-learn's has none")


@dataclass(frozen=True)
class Side:
    """Whose estimators a case is run with."""

    classifier_class: Callable[..., Any]
    regressor_class: Callable[..., Any]
    without_logits_class: Callable[..., Any]

    def classifier(self, **changed: Any) -> Any:
        return self.classifier_class(**{**PARAMETERS, **changed})

    def regressor(self, **changed: Any) -> Any:
        return self.regressor_class(**{**PARAMETERS, **changed})

    def classifier_without_logits(self) -> Any:
        return self.without_logits_class(**PARAMETERS)


OURS = Side(*(partial(make, device="cpu") for make in (gpubp.MLPClassifier, gpubp.MLPRegressor, WithoutLogits)))
THEIRS = Side(neural_network.MLPClassifier, neural_network.MLPRegressor, neural_network.MLPClassifier)


# -- data -------------------------------------------------------------------------------------------------

_X, _classes = load_iris(return_X_y=True)
X = ((_X - _X.mean(axis=0)) / _X.std(axis=0))[::2].copy()
CLASSES = np.array(["setosa", "versicolor", "virginica"])[_classes[::2]]
BINARY = (CLASSES == "virginica").astype(int)
LABELS = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0.3]).astype(int)
VALUES, SEVERAL = X[:, 0] + np.sin(X[:, 1]), np.column_stack([X[:, 0] * X[:, 1], X[:, 2]])
WEIGHT = np.linspace(0.2, 2.0, len(X))
COLUMNS = ["a", "b", "c", "d"]
FRAME = pd.DataFrame(X, columns=COLUMNS)
HALF = np.arange(len(X)) % 2 == 0


def predictions(est: Any, X: Any = X) -> dict[str, Any]:
    """What a fitted estimator predicts, whatever it has for that."""
    methods = ("predict", "predict_proba", "predict_log_proba")
    return {method: getattr(est, method)(X) for method in methods if hasattr(est, method)}


Case = Callable[[Side], Any]
