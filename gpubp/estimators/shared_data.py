"""A data set shared by several estimators: checked once, held once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from gpubp.estimators import arrays
from gpubp.estimators.base import BaseMLP, hidden_sizes
from gpubp.estimators.callbacks import FitCallbacks, fit_arguments
from gpubp.estimators.data import Subset, network_inputs
from gpubp.estimators.solvers.stochastic import StochasticFit


class SharedData:
    """X and y as `fit` takes them.

    Parameters
    ----------
    est : BaseMLP
        One of the estimators to be fitted; all check data as it does.
    X, y : as `fit` takes them
    """

    def __init__(self, est: BaseMLP, X: Any, y: Any) -> None:
        template = clone(est)
        self.destination = arrays.destination_of(X)
        self.X, y = template._check_data(X, y, reset=True)
        self.y = template._check_targets(y, incremental=False)  # a single column is flattened
        self.input_attributes = {name: value for name, value in vars(template).items() if name.endswith("in_")}
        # What estimators share is made once, keyed by the identity or the value of what it depends on.
        self._row_weights: dict[int, NDArray[np.float64] | None] = {}
        self._targets_of_rows: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
        self._network_inputs: dict[str, Any] = {}
        self._encoded_targets: dict[Hashable, Any] = {}

    def begin_fit(self, est: BaseMLP, rows: NDArray[np.int64] | None, sample_weight: Any) -> StochasticFit:
        """Draw an estimator's weights, as `fit` would on these rows alone, and prepare to train it."""
        est._validate_params()
        rows, y = self._learn_targets(est, rows)
        weight = self._weight_of(est, y, rows, sample_weight)
        est.n_outputs_ = est._n_outputs(y)
        est._random_state = check_random_state(est.random_state)
        est._initialize(y, [self.X.shape[1], *hidden_sizes(est.hidden_layer_sizes), est.n_outputs_], self.X.dtype)
        precision, encoding = est._precision_for(self.X.dtype), est._encoding_key()
        if precision not in self._network_inputs:
            self._network_inputs[precision] = network_inputs(self.X, precision)
        if encoding not in self._encoded_targets:
            self._encoded_targets[encoding] = est._encode_any(self.y)
        X, y = self._network_inputs[precision], self._encoded_targets[encoding]
        train = Subset(X=X, y=y, weight=weight, rows=rows, destination=self.destination)
        no_callbacks = FitCallbacks(est, fit_arguments(None, None, None), est.max_iter, est._reconstruction_attributes)
        return est._stochastic_fit(train, validation=None, callbacks=no_callbacks, incremental=False)

    def _learn_targets(self, est: BaseMLP, rows: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], Any]:
        """Rows and their targets, and what an estimator learns from these: shared by all estimators with these rows."""
        est.__dict__.update(self.input_attributes)
        key = id(rows)
        if key not in self._targets_of_rows:
            indices = np.arange(self.X.shape[0]) if rows is None else np.asarray(rows, np.int64)
            before = set(vars(est))
            y = est._check_targets(arrays.take(self.y, indices), incremental=False)
            learnt = {name: value for name, value in vars(est).items() if name not in before}
            self._targets_of_rows[key] = indices, y, learnt
        indices, y, learnt = self._targets_of_rows[key]
        est.__dict__.update(learnt)
        return indices, y

    def _weight_of(
        self, est: BaseMLP, y: Any, rows: NDArray[np.int64], sample_weight: Any
    ) -> NDArray[np.float64] | None:
        """A weight for each row of the data set: the sample's weight times that of its class among these rows."""
        key = id(sample_weight)
        if key not in self._row_weights:
            self._row_weights[key] = BaseMLP._sample_weights(est, self.X, self.y, sample_weight, False)
        sample_weights = self._row_weights[key]
        if getattr(est, "class_weight", None) is None:
            return sample_weights
        of_rows = None if sample_weights is None else sample_weights[rows]
        weight = np.zeros(self.X.shape[0])
        weight[rows] = est._sample_weights(np.empty((len(rows), 0)), y, of_rows, False)
        return weight
