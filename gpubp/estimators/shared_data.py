"""A data set that several estimators are fitted on: checked once, held once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from gpubp.estimators import arrays
from gpubp.estimators.base import BaseMLP, hidden_sizes
from gpubp.estimators.callbacks import FitCallbacks, GivenData
from gpubp.estimators.data import Subset, rows_for
from gpubp.estimators.solvers.stochastic import StochasticFit


class SharedData:
    """X and y as `fit` takes them.

    Parameters
    ----------
    est : BaseMLP
        One of those that are to be fitted: how it checks data is how all of them do.
    X, y : as `fit` takes them
    """

    def __init__(self, est: BaseMLP, X: Any, y: Any) -> None:
        template = clone(est)
        self.home = arrays.home_of(X)
        self.X, y = template._check_data(X, y, reset=True)
        self.y = template._check_targets(y, incremental=False)  # in one column, where it has one
        self.learnt = {name: value for name, value in vars(template).items() if name.endswith("in_")}
        self._weights: dict[int, NDArray[np.float64] | None] = {}
        self._folds: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
        self._inputs: dict[str, Any] = {}
        self._targets: dict[Hashable, Any] = {}

    def begin(self, est: BaseMLP, rows: NDArray[np.int64] | None, sample_weight: Any) -> StochasticFit:
        """Draw an estimator's weights, as `fit` would on these rows alone, and be ready to train it."""
        est._validate_params()
        rows, y = self._fold(est, rows)
        weight = self._weight_of(est, y, rows, sample_weight)
        est.n_outputs_ = est._outputs(y)
        est._random_state = check_random_state(est.random_state)
        est._begin([self.X.shape[1], *hidden_sizes(est.hidden_layer_sizes), est.n_outputs_], self.X.dtype)
        precision, key = est._precision_for(self.X.dtype), est._encoding()
        if precision not in self._inputs:
            self._inputs[precision] = rows_for(precision, self.X)
        if key not in self._targets:
            self._targets[key] = est._encoded_beyond(self.y)
        train = Subset(self._inputs[precision], self._targets[key], weight, rows, home=self.home)
        nobody = FitCallbacks(est, GivenData(X=None, y=None, metadata=None), est.max_iter, est._fitted)
        return est._stochastic_fit(train, None, nobody, incremental=False)

    def _fold(self, est: BaseMLP, given: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], Any]:
        """Rows and their targets, which the estimator learns about; estimators on the same rows learn the same."""
        est.__dict__.update(self.learnt)
        if id(given) not in self._folds:
            rows = np.arange(self.X.shape[0]) if given is None else np.asarray(given, np.int64)
            before = set(vars(est))
            y = est._check_targets(arrays.take(self.y, rows), incremental=False)
            found = {name: value for name, value in vars(est).items() if name not in before}
            self._folds[id(given)] = rows, y, found
        rows, y, found = self._folds[id(given)]
        est.__dict__.update(found)
        return rows, y

    def _weight_of(
        self, est: BaseMLP, y: Any, rows: NDArray[np.int64], sample_weight: Any
    ) -> NDArray[np.float64] | None:
        """A weight for each row of the data set: the sample's, times that of its class among these rows."""
        if id(sample_weight) not in self._weights:
            self._weights[id(sample_weight)] = BaseMLP._weights(est, self.X, self.y, sample_weight, False)
        weight = self._weights[id(sample_weight)]
        if getattr(est, "class_weight", None) is None:
            return weight
        own = est._weights(np.empty((len(rows), 0)), y, None if weight is None else weight[rows], False)
        found = np.zeros(self.X.shape[0])
        found[rows] = own
        return found
