"""The candidates of a search: what estimators they are, and what their networks are trained on."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params

from gpubp.errors import UsageError, suggest
from gpubp.estimators.arrays import home_of
from gpubp.estimators.base import BaseMLP
from gpubp.estimators.stacked_fits import FitTask


@dataclass(frozen=True)
class Candidate:
    """An estimator with parameters of the grid, not fitted.

    Attributes
    ----------
    model : MLPClassifier, MLPRegressor, or Pipeline that ends in one
    before : hashable
        Equal for candidates whose steps before the network have the same parameters.
    """

    model: Any
    before: Hashable

    @property
    def network(self) -> Any:
        """The network that `model` is or ends in."""
        return _last(self.model)


@dataclass(frozen=True, eq=False)
class Split:
    """The rows to train on and the rows to score on."""

    train: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(eq=False)
class PreparedFold:
    """What networks of one fold are trained on.

    Attributes
    ----------
    model : estimator
        Its steps before the network are fitted.
    X, y, rows, sample_weight
        As in `FitTask`.
    error : Exception or None
        Why a step could not be fitted.
    seconds : float
        What it took to fit the steps.
    shared_by : int
        So many networks.
    """

    model: Any
    X: Any = None
    y: Any = None
    rows: NDArray[np.intp] | None = None
    sample_weight: Any = None
    error: Exception | None = None
    seconds: float = 0.0
    shared_by: int = 0


@dataclass(eq=False)
class CandidateFit:
    """A candidate, by its number, on a fold."""

    candidate: int
    fold: Split
    prepared: PreparedFold
    member: FitTask

    @property
    def model(self) -> Any:
        """The candidate's estimator as it is fitted on the fold."""
        return _ending_in(self.prepared.model, self.member.est)

    @property
    def seconds(self) -> float:
        """This trial's share of the time that the fits took."""
        return self.member.seconds + self.prepared.seconds / self.prepared.shared_by


def with_parameters(estimator: Any, parameters: Mapping[str, Any]) -> Any:
    """An unfitted copy of an estimator that has these parameters."""
    model = clone(estimator)
    try:
        return model.set_params(**clone(parameters, safe=False))
    except (ValueError, AttributeError) as error:
        known = model.get_params()
        for name in parameters:
            if name not in known:
                owner = type(estimator).__name__
                raise UsageError(f'{owner} has no parameter "{name}"; {_nearest(name, known)}') from error
        raise


def candidate(estimator: Any, parameters: Mapping[str, Any]) -> Candidate:
    """The candidate that an estimator becomes with these parameters."""
    model = with_parameters(estimator, parameters)
    network = _last(model)
    if not isinstance(network, BaseMLP):
        raise UsageError(
            f"MLPSearchCV searches over gpubp's MLPClassifier and MLPRegressor, or pipelines that end in one, but "
            f"{_where(estimator, parameters)} {network!r} of {type(network).__module__.partition('.')[0]}; "
            f"search over that with sklearn.model_selection.GridSearchCV"
        )
    name = _name(model)
    before = {k: v for k, v in parameters.items() if name and k != name and not k.startswith(f"{name}__")}
    return Candidate(model, tuple((k, _identity(before[k])) for k in sorted(before)))


def trials(candidates: Sequence[Candidate], folds: Sequence[Split], X: Any, y: Any, params: Any) -> list[CandidateFit]:
    """Every candidate on every fold, the folds of a candidate one after the other; `params` are those of `fit`.

    The steps before the networks are fitted here, once for each fold and for all candidates that have them in common.
    """
    prepared: dict[Hashable, PreparedFold] = {}
    found = []
    for (number, one), fold in product(enumerate(candidates), folds):
        key = fold, one.before
        if key not in prepared:
            prepared[key] = _prepared(one.model, fold, X, y, params)
        data = prepared[key]
        data.shared_by += 1
        member = FitTask(clone(one.network), data.X, data.y, data.rows, data.sample_weight)
        member.error, member.done = data.error, data.error is not None
        found.append(CandidateFit(number, fold, data, member))
    return found


def part(array: Any, rows: NDArray[np.intp]) -> Any:
    """Some rows of anything that `fit` takes."""
    return None if array is None else _safe_indexing(array, home_of(array).bring(rows))


def _prepared(model: Any, fold: Split, X: Any, y: Any, params: Any) -> PreparedFold:
    """The fold's training rows as the network at the end of a model is given them."""
    if not isinstance(model, Pipeline):
        return PreparedFold(model, X, y, fold.train, _weight(params))
    start = time.perf_counter()
    receiver = _Receiver(_last(model))
    pipeline = _ending_in(clone(model), receiver)
    data = PreparedFold(pipeline)
    try:
        X_train, y_train = part(X, fold.train), part(y, fold.train)
        pipeline.fit(X_train, y_train, **_check_method_params(X, params=params, indices=fold.train))
    except Exception as error:
        data.error = error
    else:
        data.X, data.y, data.sample_weight = receiver.X_, receiver.y_, _weight(receiver.params_)
        del receiver.X_, receiver.y_, receiver.params_
    data.seconds = time.perf_counter() - start
    return data


class _Receiver(BaseEstimator):  # type: ignore[misc]
    """Stands where a pipeline's network is, and keeps what the network would have been fitted on."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def fit(self, X: Any, y: Any = None, **params: Any) -> _Receiver:
        self.X_, self.y_, self.params_ = X, y, params
        return self

    def get_metadata_routing(self) -> Any:
        return self.network.get_metadata_routing()


def _weight(params: Mapping[str, Any]) -> Any:
    """The only thing besides X and y that networks trained together are given."""
    if other := set(params) - {"sample_weight"}:
        raise UsageError(
            f"MLPSearchCV gives the networks X, y and sample_weight, not {', '.join(sorted(other))}; search with "
            f"sklearn.model_selection.GridSearchCV where their `fit` needs that"
        )
    return params.get("sample_weight")


def _last(model: Any) -> Any:
    """What an estimator is, or a pipeline ends in."""
    return _last(model.steps[-1][1]) if isinstance(model, Pipeline) else model


def _name(model: Any) -> str:
    """The parameter of a model that is its network: "mlpclassifier"; "" where the model is the network."""
    if not isinstance(model, Pipeline):
        return ""
    name, step = model.steps[-1]
    return f"{name}__{inner}" if (inner := _name(step)) else str(name)


def _ending_in(model: Any, network: Any) -> Any:
    """A copy of a pipeline that shares its steps and ends in another network; the network itself for no pipeline."""
    if not isinstance(model, Pipeline):
        return network
    pipeline = copy.copy(model)
    name, step = model.steps[-1]
    pipeline.steps = [*model.steps[:-1], (name, _ending_in(step, network))]
    return pipeline


def _identity(value: Any) -> Hashable:
    """Equal for values that make equal steps; values that cannot be compared are themselves alone."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _nearest(name: str, known: Iterable[str]) -> str:
    """How the error about an unknown parameter ends; the step whose parameter it is may have been left out."""
    names = list(known)
    of_a_step = [other for other in names if other.endswith(f"__{name}")]
    return f'did you mean "{of_a_step[0]}"?' if of_a_step else suggest(name, names)


def _where(estimator: Any, parameters: Mapping[str, Any]) -> str:
    """What a network was expected of."""
    if isinstance(_last(estimator), BaseMLP):
        return f"the grid mixes them with what cannot be searched: with {', '.join(sorted(parameters))} it has"
    return "estimator is" if not isinstance(estimator, Pipeline) else "the pipeline ends in"
