"""scikit-learn's scorers on predictions of a network during its training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer
from sklearn.utils.metaestimators import available_if

from gpubp.estimators.sklearn_private import scorer_takes_weights


class PredictedRows(BaseEstimator):  # type: ignore[misc]
    """A fitted estimator whose predictions for some rows are known; a scorer may use it like any other.

    Parameters
    ----------
    est : MLPClassifier or MLPRegressor
    outputs : (n, n_L) array
        a^L of the rows.
    """

    def __init__(self, est: Any, outputs: NDArray[Any]) -> None:
        self.est, self.outputs = est, outputs

    def __sklearn_tags__(self) -> Any:
        return self.est.__sklearn_tags__()

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes of a classifier."""
        classes: NDArray[Any] = self.est._host_classes
        return classes

    def predict(self, X: Any) -> Any:
        """What the estimator would predict for the rows."""
        return self.est._predictions(self.outputs)

    @available_if(lambda self: hasattr(self.est, "predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """The probabilities that the estimator would predict for the rows."""
        return self.est._class_probabilities(self.outputs)


def score(metric: Any, est: Any, outputs: NDArray[Any], y: Any, sample_weight: Any) -> float:
    """The score of outputs a^L (n, n_L) for true y, by a scorer or its name; weighted if the scorer takes weights."""
    scorer = get_scorer(metric)
    weighted = sample_weight is not None and scorer_takes_weights(scorer)
    weight = {"sample_weight": sample_weight} if weighted else {}
    without_columns = np.empty((len(outputs), 0))  # X itself is not needed to predict
    return float(scorer(PredictedRows(est, outputs), without_columns, y, **weight))
