"""What the two ensembles share: how members are drawn, are fitted together, and predict together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from gpubp._typing import Array
from gpubp.errors import UsageError
from gpubp.estimators import arrays
from gpubp.estimators.arrays import namespace_of
from gpubp.estimators.data import network_inputs
from gpubp.estimators.ensemble import file as ensemble_file
from gpubp.estimators.ensemble.network import EnsembleNetwork
from gpubp.estimators.layers import HiddenFeaturesMixin
from gpubp.estimators.messages import SKLEARN_MODULE, warn
from gpubp.estimators.sklearn_private import Interval, RealNotInt, check_sample_weight, fit_context, num_samples
from gpubp.estimators.stacked_fits import FitTask, fit_together
from gpubp.stack import Stack

Reduce = Callable[[Array, slice], tuple[Array, ...]]

_SEEDS = np.iinfo(np.int32).max


class BaseMLPEnsemble(MetaEstimatorMixin, HiddenFeaturesMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Networks of one shape that differ in their random numbers; they predict together, in one pass."""

    _member_class: ClassVar[Any]  # the class of the members
    _averaged_method: ClassVar[str]  # the members' method whose results are averaged

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "max_samples": [Interval(RealNotInt, 0, 1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
        "oob_score": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator: Any = None,
        n_estimators: int = 32,
        *,
        bootstrap: bool = False,
        max_samples: float | None = None,
        oob_score: bool = False,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: Any = 0,
        **network: Any,
    ) -> None:
        if isinstance(estimator, Integral | list | tuple | np.ndarray):  # meant as the network's first parameter
            if "hidden_layer_sizes" in network:
                raise UsageError(f"hidden_layer_sizes are given twice: {estimator} and {network['hidden_layer_sizes']}")
            network, estimator = {"hidden_layer_sizes": estimator, **network}, None
        if network and estimator is not None:
            raise UsageError(f"give {', '.join(network)} to the estimator, or leave it out")
        self.estimator = self._member_class(**network) if network else estimator
        self.n_estimators = n_estimators
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.oob_score = oob_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # -- what the two differ in ------------------------------------------------------------------------

    @abstractmethod
    def _member_predictions(self, a: Array) -> Array:
        """Each member's predictions, which are averaged, from outputs a^L (K, rows, n_L)."""

    @abstractmethod
    def _set_oob_score_and_attributes(self, mean: NDArray[Any], y: Any, has_mean: NDArray[np.bool_]) -> None:
        """Set the attribute of the out-of-bag means, and `oob_score_`, over the rows that have one."""

    # -- fitting ---------------------------------------------------------------------------------------

    @fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit all members to data matrix X and target(s) y, together.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        self

        Warns
        -----
        FitFailedWarning
            If some members could not be trained; the ensemble consists of the others.
        """
        if not self.bootstrap and (self.oob_score or self.max_samples is not None):
            name = "oob_score" if self.oob_score else "max_samples"
            raise UsageError(
                f"{name}={getattr(self, name)} needs samples of the rows, but every member sees all rows; "
                f"set bootstrap=True"
            )
        tasks, counts = self._draw_tasks(X, y, sample_weight)
        fitted = self._fit_members(tasks)
        self.estimators_ = [tasks[k].est for k in fitted]
        self._copy_data_attributes()
        self._network()  # so that predicting changes nothing
        if self.oob_score:
            self._score_out_of_bag(X, y, np.stack([counts[k] == 0 for k in fitted]))
        return self

    def _copy_data_attributes(self) -> None:
        """Copy what the members have learned about X and y."""
        for name in ("n_features_in_", "feature_names_in_", "classes_"):
            self.__dict__.pop(name, None)
            if hasattr(self.estimators_[0], name):
                setattr(self, name, getattr(self.estimators_[0], name))

    def _draw_tasks(self, X: Any, y: Any, sample_weight: Any) -> tuple[list[FitTask], list[NDArray[np.float64]]]:
        """Unfitted members with seeds of their own; with `bootstrap`, also how often each drew each row.

        The counts are sample weights, as in scikit-learn's forests, not repeated rows: so every member knows every
        class, whatever it drew, and early stopping does not validate on copies of training rows.
        """
        base = self._member_class() if self.estimator is None else self.estimator
        rng, m = check_random_state(self.random_state), num_samples(X)
        if self.bootstrap and sample_weight is not None:
            without_columns = np.empty((m, 0))  # only the number of rows is looked at
            sample_weight = check_sample_weight(arrays.to_host(sample_weight), without_columns, dtype=np.float64)
        tasks, counts = [], []
        for _ in range(self.n_estimators):
            est, weight = clone(base).set_params(random_state=int(rng.randint(_SEEDS))), sample_weight
            if self.bootstrap:
                drawn = rng.randint(0, m, self._sample_size(m))
                counts.append(np.bincount(drawn, minlength=m).astype(np.float64))
                weight = counts[-1] if weight is None else counts[-1] * weight
            tasks.append(FitTask(est=est, X=X, y=y, sample_weight=weight))
        return tasks, counts

    def _sample_size(self, m: int) -> int:
        if self.max_samples is None:
            return m
        return int(self.max_samples) if isinstance(self.max_samples, Integral) else max(1, round(self.max_samples * m))

    def _fit_members(self, tasks: Sequence[FitTask]) -> list[int]:
        """Fit the members; returns the numbers of those that have trained weights."""
        try:
            fit_together(tasks, self.n_jobs, self.verbose)
        except KeyboardInterrupt:
            if not _with_weights(tasks):
                raise
            warn("Training interrupted by user.", module=SKLEARN_MODULE)
        fitted = _with_weights(tasks)
        errors = [(k, task.error) for k, task in enumerate(tasks) if task.error is not None]
        if not fitted:
            raise errors[0][1]
        if errors:
            warn(
                f"{len(errors)} of {len(tasks)} members could not be trained and are left out; "
                f"member {errors[0][0]}: {errors[0][1]}",
                FitFailedWarning,
            )
        return fitted

    def _score_out_of_bag(self, X: Any, y: Any, left_out: NDArray[np.bool_]) -> None:
        """Predict each row with the members that did not draw it, (K, m) bool."""
        first = self.estimators_[0]
        X, y = first._check_data(X, y, reset=False)
        y = first._check_targets(y, incremental=True)

        def mean_where_left_out(a: Array, rows: slice) -> tuple[Array]:
            xp = namespace_of(a)
            counted = xp.asarray(left_out[:, rows, None])
            with np.errstate(invalid="ignore"):  # 0 / 0 where there is none
                return (xp.where(counted, a, 0).sum(axis=0) / counted.sum(axis=0),)

        mean = arrays.as_numpy(self._reduce_over_members(X, mean_where_left_out)[0])
        has_mean: NDArray[np.bool_] = np.any(left_out, axis=0)
        if not has_mean.all():
            warn(
                f"{(~has_mean).sum()} of {len(has_mean)} rows were drawn by every member: their out-of-bag predictions "
                f"are NaN, and oob_score_ is without them. Use more than {len(left_out)} members"
            )
        self._set_oob_score_and_attributes(mean, y if issparse(y) else arrays.as_numpy(y), has_mean)

    # -- predicting ------------------------------------------------------------------------------------

    def _averaged(self, X: Any, method: str, std: bool = False) -> list[Any]:
        """The members' mean for X, and with `std` their standard deviation, (m, n) each, in the memory that holds X."""
        check_is_fitted(self)
        reduce = _mean_and_std if std else _mean
        if self._members_predict_by_themselves():
            predictions = [arrays.as_numpy(getattr(est, self._averaged_method)(X)) for est in self.estimators_]
            values = np.stack([a.reshape(len(a), -1) for a in predictions])
            return list(reduce(values, slice(0, values.shape[1])))
        X = arrays.check_rows_to_predict(self, X, method, stays_on_gpu=self.estimators_[0]._stays_on_gpu(X))
        return self._reduce_over_members(X, reduce)

    def transform(self, X: Any, layer: int = -1) -> Any:
        """The activations of a hidden layer of every member, side by side.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        layer : int
            Which hidden layer: 0 is the first, -1 the last.

        Returns
        -------
        a : ndarray of shape (n_samples, n_members · n_neurons)
            The neurons of the first member, then those of the second, …
        """
        check_is_fitted(self)
        rows = arrays.check_rows_to_predict(self, X, "transform", self.estimators_[0]._stays_on_gpu(X))
        stack = self._members_network().network_for(rows, self.estimators_)
        inputs = network_inputs(rows, stack.backend.precision)
        a = stack.layer_values(inputs, stack.hidden(layer), on_device=arrays.is_on_gpu(rows))
        return arrays.destination_of(X).send(a.swapaxes(0, 1).reshape(a.shape[1], -1))

    @property
    def _n_features_out(self) -> int:
        """The width of the last hidden layers of all members together."""
        return sum(est._n_features_out for est in self.estimators_)

    def _members_predict_by_themselves(self) -> bool:
        """Whether some member's subclass overrides prediction, which a stack would bypass."""
        names = {"_forward", "_class_probabilities", self._averaged_method} & set(dir(self._member_class))
        return any(
            getattr(type(est), name) is not getattr(self._member_class, name)
            for est in self.estimators_
            for name in names
        )

    def _reduce_over_members(self, X: Any, reduce: Reduce) -> list[Any]:
        """Concatenated results of ``reduce(values (K, some rows, n), those rows)`` over all rows of checked X."""
        parts: list[tuple[Array, ...]] = []
        stack, on_gpu = self._members_network().network_for(X, self.estimators_), arrays.is_on_gpu(X)
        X = network_inputs(X, stack.backend.precision)
        stack.each_output(X, lambda rows, a: parts.append(reduce(self._member_predictions(a), rows)), on_device=on_gpu)
        return [namespace_of(blocks[0]).concatenate(blocks) for blocks in zip(*parts, strict=True)]

    def _network(self) -> Stack:
        """The members as one stack."""
        return self._members_network().network(self.estimators_)

    def _members_network(self) -> EnsembleNetwork:
        if not hasattr(self, "_ensemble_network"):
            self._ensemble_network = EnsembleNetwork()
        return self._ensemble_network

    @property
    def _first_weights(self) -> Any:
        """An attribute that shows which library's arrays the weights are."""
        return self.estimators_[0].coefs_[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Without the stack, which a copy builds again."""
        state: dict[str, Any] = {**super().__getstate__()}
        state.pop("_ensemble_network", None)
        return state

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the ensemble to a safetensors file, whole or not at all.

        It holds what predicting needs, and the parameters that are strings, numbers, None or sequences of these.
        Curves, out-of-bag results and the solvers' moments are not saved. `gpubp.MLP.load` reads the file as well, as a
        stack.

        Parameters
        ----------
        path : path
        """
        check_is_fitted(self)
        ensemble_file.save(path, self, self._network())

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", **records: Any) -> Self:
        """Read an ensemble that `save` wrote.

        Parameters
        ----------
        path : path
        device : str
            Where it computes.
        **records
            ``activations`` or ``loss``, as `gpubp.MLP.load` takes them, for members made with a record of your own.
        """
        ensemble: Self = ensemble_file.load(path, cls, device, records)
        return ensemble


# What scikit-learn's tools may see: the parameters that get_params knows.
_signature = signature(BaseMLPEnsemble.__init__)
_parameters = [parameter for parameter in _signature.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
BaseMLPEnsemble.__init__.__signature__ = _signature.replace(parameters=_parameters)  # type: ignore[attr-defined]


def _with_weights(tasks: Sequence[FitTask]) -> list[int]:
    """The numbers of the members that have trained weights."""
    return [k for k, task in enumerate(tasks) if task.error is None and hasattr(task.est, "out_activation_")]


def _mean(a: Array, rows: slice) -> tuple[Array]:
    return (a.mean(axis=0),)


def _mean_and_std(a: Array, rows: slice) -> tuple[Array, Array]:
    return a.mean(axis=0), namespace_of(a).std(a, axis=0)
