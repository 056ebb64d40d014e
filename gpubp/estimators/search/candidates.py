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
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from gpubp.errors import UsageError, suggest
from gpubp.estimators.arrays import take
from gpubp.estimators.base import BaseMLP
from gpubp.estimators.sklearn_private import check_method_params
from gpubp.estimators.stacked_fits import FitTask


@dataclass(frozen=True)
class Candidate:
    """An estimator with parameters of the grid, not fitted.

    Attributes
    ----------
    model : MLPClassifier, MLPRegressor, or a Pipeline or TransformedTargetRegressor around one
    preprocessing : hashable
        Equal for candidates in which what is around the network has the same parameters.
    """

    model: Any
    preprocessing: Hashable

    @property
    def network(self) -> Any:
        """The network that `model` is or is around."""
        return _network_of(self.model)


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
        What is around the network is fitted.
    X, y, rows, sample_weight
        As in `FitTask`.
    error : Exception or None
        Why that could not be fitted.
    seconds : float
        What it took to fit it.
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
    """A candidate, by its number, fitted on the training rows of a split."""

    candidate: int
    split: Split
    prepared: PreparedFold
    task: FitTask

    @property
    def model(self) -> Any:
        """The candidate's estimator as it is fitted on these rows."""
        return _with_network(self.prepared.model, self.task.est)

    @property
    def seconds(self) -> float:
        """Its share of the time that all fits took."""
        return self.task.seconds + self.prepared.seconds / self.prepared.shared_by


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
                raise UsageError(f'{owner} has no parameter "{name}"; {_suggestion(name, known)}') from error
        raise


def make_candidate(estimator: Any, parameters: Mapping[str, Any]) -> Candidate:
    """The candidate that an estimator becomes with these parameters."""
    model = with_parameters(estimator, parameters)
    network = _network_of(model)
    if not isinstance(network, BaseMLP):
        raise UsageError(
            f"MLPSearchCV searches over gpubp's MLPClassifier and MLPRegressor, and pipelines and "
            f"TransformedTargetRegressors around one, but "
            f"{_where_expected(estimator, parameters)} {network!r} of {type(network).__module__.partition('.')[0]}; "
            f"search over that with sklearn.model_selection.GridSearchCV"
        )
    network_name = _network_name(model)
    of_steps = sorted(
        name
        for name in parameters
        if network_name and name != network_name and not name.startswith(f"{network_name}__")
    )
    return Candidate(model=model, preprocessing=tuple((name, _comparable(parameters[name])) for name in of_steps))


def candidate_fits(
    candidates: Sequence[Candidate], splits: Sequence[Split], X: Any, y: Any, params: Any
) -> list[CandidateFit]:
    """Every candidate on every split, the splits of a candidate one after the other; `params` are those of `fit`.

    What is around the networks, steps before them and transformers of their targets, is fitted here, once for each
    split and for all candidates that have it in common.
    """
    prepared_folds: dict[Hashable, PreparedFold] = {}
    fits = []
    for (number, candidate), split in product(enumerate(candidates), splits):
        key = split, candidate.preprocessing
        if key not in prepared_folds:
            prepared_folds[key] = _prepare_fold(candidate.model, split, X, y, params)
        prepared = prepared_folds[key]
        prepared.shared_by += 1
        task = FitTask(
            est=clone(candidate.network),
            X=prepared.X,
            y=prepared.y,
            rows=prepared.rows,
            sample_weight=prepared.sample_weight,
        )
        if prepared.error is not None:
            task.fail(prepared.error)
        fits.append(CandidateFit(candidate=number, split=split, prepared=prepared, task=task))
    return fits


def _prepare_fold(model: Any, split: Split, X: Any, y: Any, params: Any) -> PreparedFold:
    """The training rows of a split as the network of a model is given them."""
    if _wrapped(model) is None:
        return PreparedFold(model=model, X=X, y=y, rows=split.train, sample_weight=_sample_weight(params))
    start = time.perf_counter()
    around = _with_network(clone(model), _FitRecorder(_network_of(model)))
    prepared = PreparedFold(model=around)
    try:
        X_train, y_train = take(X, split.train), take(y, split.train)
        around.fit(X_train, y_train, **check_method_params(X, params=params, indices=split.train))
    except Exception as error:
        prepared.error = error
    else:
        recorder = _network_of(around)  # perhaps a clone of what was put there
        prepared.X, prepared.y, prepared.sample_weight = recorder.X_, recorder.y_, _sample_weight(recorder.params_)
        del recorder.X_, recorder.y_, recorder.params_
    prepared.seconds = time.perf_counter() - start
    return prepared


class _FitRecorder(BaseEstimator):  # type: ignore[misc]
    """Stands where a model's network is, and keeps what the network would have been fitted on."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def fit(self, X: Any, y: Any = None, **params: Any) -> _FitRecorder:
        self.X_, self.y_, self.params_ = X, y, params
        return self

    def predict(self, X: Any) -> Any:
        raise NotImplementedError("TransformedTargetRegressor wants it to be there; nothing is predicted yet")

    def get_metadata_routing(self) -> Any:
        return self.network.get_metadata_routing()


def _sample_weight(params: Mapping[str, Any]) -> Any:
    """The only thing besides X and y that networks trained together are given."""
    if other := set(params) - {"sample_weight"}:
        raise UsageError(
            f"MLPSearchCV gives the networks X, y and sample_weight, not {', '.join(sorted(other))}; search with "
            f"sklearn.model_selection.GridSearchCV where their `fit` needs that"
        )
    return params.get("sample_weight")


def _wrapped(model: Any) -> tuple[str, Any] | None:
    """What a model hands its rows on to, with the name of that parameter; None where it is around nothing."""
    if isinstance(model, Pipeline):
        name, step = model.steps[-1]
        return str(name), step
    if isinstance(model, TransformedTargetRegressor):
        return "regressor", getattr(model, "regressor_", model.regressor)  # the former is what was fitted
    return None


def _network_of(model: Any) -> Any:
    """What an estimator is, or a pipeline or a transformation of the target is around."""
    wrapped = _wrapped(model)
    return model if wrapped is None else _network_of(wrapped[1])


def _network_name(model: Any) -> str:
    """The parameter of a model that is its network: "mlpclassifier"; "" where the model is the network."""
    wrapped = _wrapped(model)
    if wrapped is None:
        return ""
    name, inner = wrapped[0], _network_name(wrapped[1])
    return f"{name}__{inner}" if inner else name


def _with_network(model: Any, network: Any) -> Any:
    """A copy of a model that shares what is around its network, and is around another one."""
    wrapped = _wrapped(model)
    if wrapped is None:
        return network
    name, inner = wrapped
    other, changed = copy.copy(model), _with_network(inner, network)
    if isinstance(model, Pipeline):
        other.steps = [*model.steps[:-1], (name, changed)]
    else:
        other.regressor = changed
        if hasattr(model, "regressor_"):
            other.regressor_ = changed
    return other


def _comparable(value: Any) -> Hashable:
    """Equal for values that make equal steps; values that cannot be compared are themselves alone."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _suggestion(name: str, known: Iterable[str]) -> str:
    """How the error about an unknown parameter ends; the step whose parameter it is may have been left out."""
    names = list(known)
    of_a_step = [other for other in names if other.endswith(f"__{name}")]
    return f'did you mean "{of_a_step[0]}"?' if of_a_step else suggest(name, names)


def _where_expected(estimator: Any, parameters: Mapping[str, Any]) -> str:
    """How the error about something else than a network begins: where the network was expected."""
    if isinstance(_network_of(estimator), BaseMLP):
        return f"the grid mixes them with what cannot be searched: with {', '.join(sorted(parameters))} it has"
    if isinstance(estimator, Pipeline):
        return "the pipeline ends in"
    return "estimator is" if _wrapped(estimator) is None else "the TransformedTargetRegressor is around"
