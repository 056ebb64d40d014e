"""The outcomes of the fits of a search, in the form that scikit-learn's searches keep."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.estimators.arrays import take
from gpubp.estimators.search.candidates import CandidateFit
from gpubp.estimators.sklearn_private import check_method_params, score_estimator
from gpubp.training.packing import groups

Outcome = dict[str, Any]
INTERRUPTED = "interrupted"


@dataclass
class Scoring:
    """How fits are scored.

    Attributes
    ----------
    scorer : callable
        Returns one metric, or a dict of several.
    X, y : all rows
    params : dict
        Further arguments of the scorer.
    error_score : float or "raise"
    train : bool
        Whether to score the training rows too.
    """

    scorer: Any
    X: Any
    y: Any
    params: Mapping[str, Any]
    error_score: Any
    train: bool

    def outcomes(self, fits: Sequence[CandidateFit]) -> list[Outcome]:
        """The outcome of every fit: the keys of scikit-learn's `_fit_and_score`, and the "reason" of a failure or None.

        Fits that an interrupt left untrained or unscored are "interrupted" and score NaN.
        """
        scored: dict[CandidateFit, Outcome] = {}
        try:
            for of_split in groups(fits, lambda fit: fit.split):
                split = of_split[0].split
                parts = {"test": self._scoring_data(split.test)}
                if self.train:
                    parts["train"] = self._scoring_data(split.train)
                for fit in of_split:
                    scored[fit] = self._outcome(fit, parts)
        except KeyboardInterrupt:
            pass
        return fill_in_metrics([scored.get(fit) or self._failed(fit, INTERRUPTED, np.nan) for fit in fits])

    def _scoring_data(self, rows: NDArray[np.intp]) -> tuple[Any, Any, Any]:
        """X, y and the scorer's parameters for some rows."""
        return take(self.X, rows), take(self.y, rows), check_method_params(self.X, params=self.params, indices=rows)

    def _outcome(self, fit: CandidateFit, parts: Mapping[str, tuple[Any, Any, Any]]) -> Outcome:
        if not fit.task.done:
            return self._failed(fit, INTERRUPTED, np.nan)
        error = fit.task.error
        if error is not None:
            if self.error_score == "raise":
                raise error
            return self._failed(fit, f"{type(error).__name__}: {error}", self.error_score)
        outcome = {"reason": None, "fit_error": None, "fit_time": fit.seconds}
        for name, (X, y, params) in parts.items():
            start = time.perf_counter()
            outcome[f"{name}_scores"] = score_estimator(fit.model, X, y, self.scorer, params, self.error_score)
            outcome.setdefault("score_time", time.perf_counter() - start)
        return outcome

    def _failed(self, fit: CandidateFit, reason: str, score: float) -> Outcome:
        error = fit.task.error
        outcome: Outcome = {
            "reason": reason,
            "fit_error": None if error is None else "".join(traceback.format_exception(error)),
            "fit_time": fit.seconds,
            "score_time": 0.0,
            "test_scores": score,
        }
        return {**outcome, "train_scores": score} if self.train else outcome


def fill_in_metrics(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes, where failed ones get every metric that the others have."""
    metrics = next((outcome["test_scores"] for outcome in outcomes if isinstance(outcome["test_scores"], dict)), None)
    if metrics is not None:
        for outcome in outcomes:
            for name in {"test_scores", "train_scores"} & outcome.keys():
                if not isinstance(outcome[name], dict):
                    outcome[name] = dict.fromkeys(metrics, outcome[name])
    return outcomes


def failure_reasons(outcomes: Sequence[Outcome], n_splits: int) -> NDArray[Any]:
    """For each candidate, a line for each split on which it failed; "" if there is none."""
    texts = []
    for splits in _by_candidate(outcomes, n_splits):
        failed = [(i, outcome["reason"]) for i, outcome in enumerate(splits) if outcome["reason"]]
        texts.append("\n".join(f"split{i}: {reason}" for i, reason in failed))
    return np.array(texts, dtype=object)


def count_interrupted(outcomes: Sequence[Outcome]) -> int:
    """The number of unfinished fits."""
    return sum(outcome["reason"] == INTERRUPTED for outcome in outcomes)


def any_complete(outcomes: Sequence[Outcome], n_splits: int) -> bool:
    """Whether some candidate was scored on all splits."""
    return any(not any(outcome["reason"] for outcome in splits) for splits in _by_candidate(outcomes, n_splits))


def _by_candidate(outcomes: Sequence[Outcome], n_splits: int) -> list[Sequence[Outcome]]:
    return [outcomes[first : first + n_splits] for first in range(0, len(outcomes), n_splits)]
