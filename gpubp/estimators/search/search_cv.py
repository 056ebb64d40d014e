"""MLPSearchCV: scikit-learn's hyper-parameter search with the networks trained together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.utils import get_tags, indexable

from gpubp.errors import UsageError
from gpubp.estimators.arrays import take
from gpubp.estimators.callbacks import FitCallbacks, callbacks_go_on, fit_arguments, fitted_within
from gpubp.estimators.messages import warn
from gpubp.estimators.search.candidates import CandidateFit, Split, candidate_fits, make_candidate, with_parameters
from gpubp.estimators.search.halving import PlannedRung, Rung, plan_halving, plan_one_rung, total_epochs, train_rungs
from gpubp.estimators.search.progress import ProgressBar
from gpubp.estimators.search.scoring import (
    Outcome,
    Scoring,
    any_complete,
    count_interrupted,
    failure_reasons,
    fill_in_metrics,
)
from gpubp.estimators.sklearn_private import (
    BaseSearchCV,
    Interval,
    MultimetricScorer,
    check_method_params,
    fit_context,
    warn_or_raise_about_fit_failures,
)
from gpubp.estimators.stacked_fits import StackedFits


class MLPSearchCV(BaseSearchCV):  # type: ignore[misc]
    """Search for hyper-parameters by cross-validation, with all networks trained together.

    This does what scikit-learn's ``GridSearchCV`` and ``RandomizedSearchCV`` do, and reports the same results, but
    every candidate on every fold is a network in a stack of networks of the same shape. The steps before the network in
    a pipeline, and the transformer of a ``TransformedTargetRegressor``, are fitted once for each fold and for each
    combination of their own parameters.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or a wrapper of one
        A wrapper is a ``Pipeline`` that ends in it or a ``TransformedTargetRegressor``; they may be nested.
    param_grid : dict or list of dict, optional
        Names of parameters, each with the values to try; all combinations are tried.
    param_distributions : dict or list of dict, optional
        Instead of `param_grid`: names of parameters, each with a list or a distribution that has ``rvs``;
        `n_iter` combinations are drawn with `random_state`.
    n_iter : int
    cv : int, splitter, iterable of (train, test), or None
        As in ``GridSearchCV``; group labels are passed to `fit`.
    scoring : str, callable, list, tuple, dict or None
        One metric or several; None is the estimator's own.
    refit : bool, str or callable
        Whether to fit the best candidate on all rows at the end; with several metrics, the name of the one that
        decides; or a function of `cv_results_` that returns the best candidate's index.
    n_jobs : int or None
        The number of joblib workers that share the stacks; None is one, unless a ``joblib.parallel_config`` says
        otherwise.
    error_score : "raise" or float
        The score of a network that could not be trained, which is reported with the reason; the others go on.
    return_train_score : bool
    random_state : int, RandomState or None
        For draws from `param_distributions`; the networks have their own.
    verbose : int
        1 says how many networks are trained in how many stacks.
    progress : bool or None
        Whether a bar is shown; None means on a terminal.
    halving : bool
        Successive halving: all candidates train for a few epochs, the best ``1/factor`` of them, by mean score, for
        `factor` times as many, and so on up to the estimator's ``max_iter``. Networks continue training from where they
        are. With several metrics, `refit` must name the one that decides.
    factor : float
    min_epochs : int or None
        The epochs of the first rung; None means as many as leave fewer than `factor` candidates to train to the end.

    Attributes
    ----------
    cv_results_ : dict of arrays
        As in ``GridSearchCV``. If networks failed, "error" has the reasons. With halving there is a row for each
        candidate on each rung, and "iter" and "n_epochs" say which.
    best_estimator_ : estimator
        The best candidate, fitted on all rows; missing with ``refit=False``.
    best_params_ : dict
    best_score_ : float
        Its mean score over the folds.
    best_index_ : int
        Its index in `cv_results_`; with halving, that of the best on the last rung.
    scorer_ : callable or dict
    n_splits_ : int
    refit_time_ : float
        Seconds.
    multimetric_ : bool
    classes_, n_features_in_, feature_names_in_
        Those of `best_estimator_`, if it has them.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import gpubp
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = gpubp.MLPClassifier((8,), solver="adam", max_iter=200, early_stopping=True, random_state=0, device="cpu")
    >>> search = gpubp.MLPSearchCV(clf, {"learning_rate_init": [1e-3, 1e-2]}, cv=3, progress=False).fit(X, y)
    >>> search.best_params_["learning_rate_init"] in (1e-3, 1e-2), len(search.cv_results_["params"])
    (True, 2)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: of for name, of in BaseSearchCV._parameter_constraints.items() if name != "pre_dispatch"},
        "param_grid": [dict, list, None],
        "param_distributions": [dict, list, None],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "progress": ["boolean", None],
        "halving": ["boolean"],
        "factor": [Interval(Real, 1, None, closed="neither")],
        "min_epochs": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Any = None,
        *,
        param_distributions: Any = None,
        n_iter: int = 10,
        cv: Any = 5,
        scoring: Any = None,
        refit: Any = True,
        n_jobs: int | None = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        progress: bool | None = None,
        halving: bool = False,
        factor: float = 3,
        min_epochs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.n_jobs = n_jobs
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.random_state = random_state
        self.verbose = verbose
        self.progress = progress
        self.halving = halving
        self.factor = factor
        self.min_epochs = min_epochs

    @fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, **params: Any) -> MLPSearchCV:
        """Train and score all candidates on all folds, and the best one on all rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        **params : dict
            What ``GridSearchCV.fit`` takes: ``sample_weight`` (to a pipeline, with its step's prefix), ``groups`` of
            the splitter and, with metadata routing, whatever splitter, scorers and steps ask for.

        Returns
        -------
        self
        """
        scorer, metric = self._get_scorers()
        X, y = indexable(X, y)
        params = check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        parts = 1 + (self.refit is not False)
        callbacks = FitCallbacks(self, fit_arguments(X, y, params.get("sample_weight")), parts, _no_attributes)
        candidate_parameters = self._candidate_parameters()
        candidates = [make_candidate(self.estimator, parameters) for parameters in candidate_parameters]
        splits = self._splits(X, y, routed.splitter.split)
        if not (candidates and splits):
            raise UsageError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        callbacks.begin_iteration("search", subtasks=len(candidates) * len(splits))
        plan = plan_halving(candidates, self.factor, self.min_epochs) if self.halving else plan_one_rung(candidates)
        self._print_plan(plan)
        scoring = Scoring(
            scorer=scorer,
            X=X,
            y=y,
            params=routed.scorer.score,
            error_score=self.error_score,
            train=self.return_train_score,
        )
        fits = candidate_fits(candidates, splits, X, y, routed.estimator.fit)
        end_evaluations = self._begin_evaluations(fits, callbacks, X, y, params.get("sample_weight"))
        rungs = self._train(plan, fits, scoring)
        end_evaluations()
        _raise_what_all_failed_by(fits)
        outcomes = fill_in_metrics([outcome for rung in rungs for outcome in rung.outcomes])
        self.cv_results_ = self._cv_results(candidate_parameters, rungs, outcomes)
        if unfinished := count_interrupted(outcomes):
            if not any_complete(outcomes, self.n_splits_):
                raise KeyboardInterrupt
            warn(f"interrupted: {unfinished} of {len(candidates) * len(splits)} networks are not finished")
        self._set_best(metric, outcomes[0]["test_scores"])
        self.scorer_ = scorer._scorers if isinstance(scorer, MultimetricScorer) else scorer
        callbacks.end_iteration()
        if self.refit:
            self._refit(X, y, routed.estimator.fit, callbacks)
        callbacks.end_fit()
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Search, and transform X with the best candidate: the activations of its last hidden layer.

        Parameters
        ----------
        X, y, **params
            As `fit` takes them.

        Returns
        -------
        (n_samples, n_units) array
        """
        return self.fit(X, y, **params).transform(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = get_tags(self.estimator).transformer_tags
        return tags

    # -- what is trained -------------------------------------------------------------------------------

    def _candidate_parameters(self) -> list[dict[str, Any]]:
        """The parameters of every candidate."""
        if (self.param_grid is None) == (self.param_distributions is None):
            raise UsageError("give MLPSearchCV either param_grid or param_distributions")
        if self.param_grid is not None:
            return list(ParameterGrid(self.param_grid))
        return list(ParameterSampler(self.param_distributions, self.n_iter, random_state=self.random_state))

    def _splits(self, X: Any, y: Any, params: Mapping[str, Any]) -> list[Split]:
        cv = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self.n_splits_ = cv.get_n_splits(X, y, **params)
        splits = [Split(train=_indices(train), test=_indices(test)) for train, test in cv.split(X, y, **params)]
        if len(splits) != self.n_splits_:
            raise UsageError(
                f"cv.split and cv.get_n_splits return inconsistent results. Expected {self.n_splits_} splits, "
                f"got {len(splits)}"
            )
        return splits

    def _print_plan(self, plan: Sequence[PlannedRung]) -> None:
        if self.verbose:
            rungs = ", then ".join(f"{rung.candidates} candidates for {rung.epochs} epochs" for rung in plan)
            print(f"{self.n_splits_} folds of {rungs}")

    def _train(self, plan: Sequence[PlannedRung], fits: Sequence[CandidateFit], scoring: Scoring) -> list[Rung]:
        """Train the networks, and score them."""
        errors = [fit.task.error for fit in fits if fit.task.error is not None]
        if errors and self.error_score == "raise":
            raise errors[0]
        tasks = [fit.task for fit in fits if fit.task.error is None]
        with ProgressBar(self.progress, total_epochs(plan) * self.n_splits_) as bar:
            stacked_fits = StackedFits(tasks, self.n_jobs, self.verbose, bar.advance)
            return train_rungs(plan, fits, stacked_fits, scoring.outcomes, self._mean_scores)

    def _begin_evaluations(
        self, fits: Sequence[CandidateFit], callbacks: FitCallbacks, X: Any, y: Any, sample_weight: Any
    ) -> Callable[[], None]:
        """Tell callbacks that every candidate begins on every split; the returned function tells them of the end.

        If callbacks are passed on to the networks, these are trained one by one.
        """
        if callbacks.iteration_context is None:
            return lambda: None
        go_on_to_networks = callbacks_go_on(self)
        by_split = {
            split: fit_arguments(*(take(array, split.train) for array in (X, y, sample_weight)))
            for split in {fit.split for fit in fits}
        }
        contexts = [callbacks.subtask("candidate-split-evaluation", number) for number in range(len(fits))]
        for fit, context in zip(fits, contexts, strict=True):
            arguments = {"estimator": self, **by_split[fit.split]}
            if go_on_to_networks:
                fit.task.within = fitted_within(context, fit.task.est, arguments)
            else:
                context.call_on_fit_task_begin(**arguments)

        def end() -> None:
            for fit, context in zip(fits, contexts, strict=True):
                context.call_on_fit_task_end(estimator=self, **by_split[fit.split])

        return end

    # -- what came of it -------------------------------------------------------------------------------

    def _mean_scores(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """The score of each candidate that halving uses: the mean over folds."""
        scores = [outcome["test_scores"] for outcome in outcomes]
        if isinstance(scores[0], dict):
            if not isinstance(self.refit, str):
                raise UsageError(f"halving goes by one of {', '.join(scores[0])}; name it as refit")
            scores = [several[self.refit] for several in scores]
        means: NDArray[np.float64] = np.reshape(scores, (-1, self.n_splits_)).mean(axis=1)
        return means

    def _cv_results(
        self, parameters: Sequence[dict[str, Any]], rungs: Sequence[Rung], outcomes: list[Outcome]
    ) -> dict[str, Any]:
        """`cv_results_`: a row for each candidate; with halving, for each candidate on each rung."""
        warn_or_raise_about_fit_failures(outcomes, self.error_score)
        more: dict[str, Any] = {}
        if self.halving:
            more["iter"] = [number for number, rung in enumerate(rungs) for _ in rung.candidates]
            more["n_epochs"] = [rung.epochs for rung in rungs for _ in rung.candidates]
        if any(outcome["reason"] for outcome in outcomes):
            more["error"] = failure_reasons(outcomes, self.n_splits_)
        rows = [parameters[number] for rung in rungs for number in rung.candidates]
        return self._format_results(rows, self.n_splits_, outcomes, more)  # type: ignore[no-any-return]

    def _set_best(self, metric: str, scores: Any) -> None:
        """Set the best candidate by a metric; `scores` are those of some network."""
        results = self.cv_results_
        self.multimetric_ = isinstance(scores, dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(scores)
            metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: Mapping[str, Any]) -> int:
        """The row of the best candidate; with halving, of the best on the last rung that has scores."""
        if callable(refit) or "iter" not in results:
            return BaseSearchCV._select_best_index(refit, refit_metric, results)  # type: ignore[no-any-return]
        rung = np.where(np.isnan(results[f"mean_test_{refit_metric}"]), -1, results["iter"])
        last = np.flatnonzero(rung == rung.max())
        return int(last[results[f"rank_test_{refit_metric}"][last].argmin()])

    def _refit(self, X: Any, y: Any, params: Mapping[str, Any], callbacks: FitCallbacks) -> None:
        """Fit the best candidate on all rows."""
        self.best_estimator_ = best = with_parameters(self.estimator, self.best_params_)
        start = time.time()
        with callbacks.fitting(best, "refit-with-best-params"):
            best.fit(X, y, **params)
        self.refit_time_ = time.time() - start
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_


def _no_attributes() -> Any:
    """The attributes a search could predict with before its end: none."""


def _raise_what_all_failed_by(fits: Sequence[CandidateFit]) -> None:
    """Raise the error that all fits failed with: data that no estimator takes."""
    errors = {id(fit.task.error) for fit in fits}
    if len(errors) == 1 and fits[0].task.error is not None:
        raise fits[0].task.error


def _indices(rows: Any) -> NDArray[np.intp]:
    """The indices of rows, which a splitter may give as a mask."""
    indices = np.asarray(rows)
    return np.flatnonzero(indices) if indices.dtype == np.bool_ else indices
