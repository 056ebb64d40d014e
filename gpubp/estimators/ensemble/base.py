"""What the two ensembles share: how members are drawn, fitted together, and asked together."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, RealNotInt
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted, validate_data

from gpubp._typing import Array
from gpubp.errors import UsageError
from gpubp.estimators import arrays
from gpubp.estimators.data import rows_for
from gpubp.estimators.ensemble import file as ensemble_file
from gpubp.estimators.ensemble.network import EnsembleNetwork
from gpubp.estimators.stacked_fits import FitTask, fit_members
from gpubp.stack import Stack

Reduce = Callable[[Array, slice], tuple[Array, ...]]

_SEEDS = np.iinfo(np.int32).max


class BaseMLPEnsemble(MetaEstimatorMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Networks of one shape that differ in their random numbers; they predict together, in one pass."""

    _member: ClassVar[Any]  # the class of the members

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
        if network and estimator is not None:
            raise UsageError(f"give {', '.join(network)} to the estimator, or leave it out")
        self.estimator = self._member(**network) if network else estimator
        self.n_estimators = n_estimators
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.oob_score = oob_score
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # -- what the two differ in ------------------------------------------------------------------------

    @abstractmethod
    def _values(self, a: Array) -> Array:
        """What is averaged, of outputs a^L (K, rows, n_L)."""

    @abstractmethod
    def _keep_out_of_bag(self, mean: NDArray[Any], y: Any, seen: NDArray[np.bool_]) -> float:
        """Keep the out-of-bag means; their score over the rows that have one."""

    # -- fitting ---------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
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
            If some members could not be trained; the ensemble is made of the others.
        """
        if not self.bootstrap and (self.oob_score or self.max_samples is not None):
            name = "oob_score" if self.oob_score else "max_samples"
            raise UsageError(
                f"{name}={getattr(self, name)} needs samples of the rows, but every member sees all rows; "
                f"set bootstrap=True"
            )
        members, counts = self._drawn(X, y, sample_weight)
        fitted = self._train(members)
        self.estimators_ = [members[k].est for k in fitted]
        self._take_over_fitted_attributes()
        self._network()  # so that predicting changes nothing
        if self.oob_score:
            self._score_out_of_bag(X, y, np.stack([counts[k] == 0 for k in fitted]))
        return self

    def _take_over_fitted_attributes(self) -> None:
        """Of X and y."""
        for name in ("n_features_in_", "feature_names_in_", "classes_"):
            self.__dict__.pop(name, None)
            if hasattr(self.estimators_[0], name):
                setattr(self, name, getattr(self.estimators_[0], name))

    def _drawn(self, X: Any, y: Any, sample_weight: Any) -> tuple[list[FitTask], list[NDArray[np.float64]]]:
        """Members with seeds of their own; with `bootstrap`, also how often each drew each row.

        The counts are sample weights, as in scikit-learn's forests, and not rows drawn: so every member knows every
        class, whatever it drew, and early stopping does not validate on copies of rows that were trained on.
        """
        base = self._member() if self.estimator is None else self.estimator
        rng, m = check_random_state(self.random_state), _num_samples(X)
        if self.bootstrap and sample_weight is not None:
            like = np.empty((m, 0))
            sample_weight = _check_sample_weight(arrays.to_host(sample_weight), like, dtype=np.float64)
        members, counts = [], []
        for _ in range(self.n_estimators):
            est, weight = clone(base).set_params(random_state=int(rng.randint(_SEEDS))), sample_weight
            if self.bootstrap:
                drawn = rng.randint(0, m, self._sample_size(m))
                counts.append(np.bincount(drawn, minlength=m).astype(np.float64))
                weight = counts[-1] if weight is None else counts[-1] * weight
            members.append(FitTask(est, X, y, sample_weight=weight))
        return members, counts

    def _sample_size(self, m: int) -> int:
        if self.max_samples is None:
            return m
        return int(self.max_samples) if isinstance(self.max_samples, Integral) else max(1, round(self.max_samples * m))

    def _train(self, members: Sequence[FitTask]) -> list[int]:
        """Fit the members; those that have come to weights."""
        try:
            fit_members(members, self.n_jobs, self.verbose)
        except KeyboardInterrupt:
            if not _fitted(members):
                raise
            warnings.warn("Training interrupted by user.", stacklevel=3)
        fitted = _fitted(members)
        errors = [(k, member.error) for k, member in enumerate(members) if member.error is not None]
        if not fitted:
            raise errors[0][1]
        if errors:
            warnings.warn(
                f"{len(errors)} of {len(members)} members could not be trained and are left out; "
                f"member {errors[0][0]}: {errors[0][1]}",
                FitFailedWarning,
                stacklevel=3,
            )
        return fitted

    def _score_out_of_bag(self, X: Any, y: Any, left_out: NDArray[np.bool_]) -> None:
        """Predict each row by the members that did not draw it, (K, m) bool."""
        first = self.estimators_[0]
        X, y = first._check_data(X, y, reset=False)
        y = first._check_targets(y, incremental=True)

        def mean_of_those(a: Array, rows: slice) -> tuple[Array]:
            xp = namespace(a)
            those = xp.asarray(left_out[:, rows, None])
            with np.errstate(invalid="ignore"):  # 0 / 0 where there is none
                return (xp.where(those, a, 0).sum(axis=0) / those.sum(axis=0),)

        mean = arrays.as_numpy(self._ask(X, mean_of_those)[0])
        seen: NDArray[np.bool_] = np.any(left_out, axis=0)
        if not seen.all():
            warnings.warn(
                f"{(~seen).sum()} of {len(seen)} rows were drawn by every member: their out-of-bag predictions are "
                f"NaN, and oob_score_ is without them. Use more than {len(left_out)} members",
                stacklevel=3,
            )
        self.oob_score_ = self._keep_out_of_bag(mean, y if issparse(y) else arrays.as_numpy(y), seen)

    # -- predicting ------------------------------------------------------------------------------------

    def _averaged(self, X: Any, method: str, std: bool = False) -> list[Any]:
        """The members' mean for X, and with `std` their standard deviation, (m, n) each, where X is."""
        check_is_fitted(self)
        arrays.check_same_namespace(self, X, method)
        if self.estimators_[0]._takes(X):
            X = arrays.check_rows_on_gpu(self, X, reset=False)
        else:
            X = validate_data(self, arrays.to_host(X), accept_sparse="csr", reset=False)
        return self._ask(X, _mean_and_std if std else _mean)

    def _ask(self, X: Any, reduce: Reduce) -> list[Any]:
        """``reduce(values (K, some rows, n), those rows)`` for all rows of checked X, put together."""
        parts: list[tuple[Array, ...]] = []
        stack, on_gpu = self._network(), arrays.is_on_gpu(X)
        X = rows_for(stack.backend.precision, X)
        stack.each_output(X, lambda rows, a: parts.append(reduce(self._values(a), rows)), on_device=on_gpu)
        return [namespace(blocks[0]).concatenate(blocks) for blocks in zip(*parts, strict=True)]

    def _network(self) -> Stack:
        """The members as one stack."""
        if not hasattr(self, "_ensemble_network"):
            self._ensemble_network = EnsembleNetwork()
        return self._ensemble_network.network(self.estimators_)

    @property
    def _first_weights(self) -> Any:
        """An attribute that tells in which library the weights are."""
        return self.estimators_[0].coefs_[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Without the stack, which a copy makes anew."""
        state: dict[str, Any] = {**super().__getstate__()}
        state.pop("_ensemble_network", None)
        return state

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the ensemble to a safetensors file, whole or not at all.

        It holds what predicting needs, and the parameters that are text, numbers, None or sequences of these. Curves,
        out-of-bag results and the solvers' moments stay behind. `gpubp.MLP.load` reads it as well, as a stack.

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
            ``activations`` or ``loss``, as `gpubp.MLP.load` takes them, where the members were made with a record
            of your own.
        """
        made: Self = ensemble_file.load(path, cls, device, records)
        return made


# What scikit-learn's tools may see: the parameters that get_params knows.
_whole = signature(BaseMLPEnsemble.__init__)
_known = [parameter for parameter in _whole.parameters.values() if parameter.kind != Parameter.VAR_KEYWORD]
BaseMLPEnsemble.__init__.__signature__ = _whole.replace(parameters=_known)  # type: ignore[attr-defined]


def _fitted(members: Sequence[FitTask]) -> list[int]:
    """Which of the members have trained weights."""
    return [k for k, member in enumerate(members) if member.error is None and hasattr(member.est, "out_activation_")]


def namespace(a: Array) -> Any:
    """The namespace of outputs, on the host or a GPU."""
    return arrays.home_of(a).xp or np


def _mean(a: Array, rows: slice) -> tuple[Array]:
    return (a.mean(axis=0),)


def _mean_and_std(a: Array, rows: slice) -> tuple[Array, Array]:
    return a.mean(axis=0), namespace(a).std(a, axis=0)
