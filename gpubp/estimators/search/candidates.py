"""The candidates of a search: their estimators, and what their networks are trained on."""

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
    """An unfitted estimator with parameters of the grid.

    Attributes
    ----------
    model : MLPClassifier, MLPRegressor, or a Pipeline or TransformedTargetRegressor around one
    preprocessing : hashable
        Equal for candidates whose steps around the network have the same parameters.
    """

    model: Any
    preprocessing: Hashable

    @property
    def network(self) -> Any:
        """The network that `model` is or contains."""
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
        The steps around the network are fitted.
    X, y, rows, sample_weight
        As in `FitTask`.
    error : Exception or None
        Why those could not be fitted.
    seconds : float
        The time it took to fit them.
    shared_by : int
        The number of networks that share this.
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
        """The candidate's estimator, fitted on these rows."""
        return _with_network(self.prepared.model, self.task.est)

    @property
    def seconds(self) -> float:
        """Its share of the time that all fits took."""
        return self.task.seconds + self.prepared.seconds / self.prepared.shared_by


def with_parameters(estimator: Any, parameters: Mapping[str, Any]) -> Any:
    """An unfitted copy of an estimator with these parameters."""
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
    """The candidate made from an estimator with these parameters."""
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

    Steps before the networks and transformers of their targets are fitted here, once per split for all candidates that
    share them.
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
    """The training rows of a split as a model passes them to its network."""
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
        recorder = _network_of(around)  # may be a clone of the one put there
        prepared.X, prepared.y, prepared.sample_weight = recorder.X_, recorder.y_, _sample_weight(recorder.params_)
        del recorder.X_, recorder.y_, recorder.params_
    prepared.seconds = time.perf_counter() - start
    return prepared


class _FitRecorder(BaseEstimator):  # type: ignore[misc]
    """Takes the place of a model's network, and keeps what the network would have been fitted on."""

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
    """The only argument besides X and y that networks trained together receive."""
    if other := set(params) - {"sample_weight"}:
        raise UsageError(
            f"MLPSearchCV gives the networks X, y and sample_weight, not {', '.join(sorted(other))}; search with "
            f"sklearn.model_selection.GridSearchCV where their `fit` needs that"
        )
    return params.get("sample_weight")


def _wrapped(model: Any) -> tuple[str, Any] | None:
    """The estimator that a model passes its rows on to, with the name of that parameter; None for a plain estimator."""
    if isinstance(model, Pipeline):
        name, step = model.steps[-1]
        return str(name), step
    if isinstance(model, TransformedTargetRegressor):
        return "regressor", getattr(model, "regressor_", model.regressor)  # the former is the fitted one
    return None


def _network_of(model: Any) -> Any:
    """The network: the estimator itself, or the one inside a pipeline or a transformation of the target."""
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
    """A copy of a model with another network; it shares the steps around it."""
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
    """Equal for values that make equal steps; values that cannot be compared equal only themselves."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown parameter, whose step's name may have been left out."""
    names = list(known)
    of_a_step = [other for other in names if other.endswith(f"__{name}")]
    return f'did you mean "{of_a_step[0]}"?' if of_a_step else suggest(name, names)


def _where_expected(estimator: Any, parameters: Mapping[str, Any]) -> str:
    """The start of an error about something that is not a network: where a network was expected."""
    if isinstance(_network_of(estimator), BaseMLP):
        return f"the grid mixes them with what cannot be searched: with {', '.join(sorted(parameters))} it has"
    if isinstance(estimator, Pipeline):
        return "the pipeline ends in"
    return "estimator is" if _wrapped(estimator) is None else "the TransformedTargetRegressor is around"
