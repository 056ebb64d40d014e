"""What came of the trials of a search, in the form in which scikit-learn's searches keep it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection._validation import _score
from sklearn.utils.validation import _check_method_params

from gpubp.estimators.search.candidates import CandidateFit, part
from gpubp.training.packing import groups

Outcome = dict[str, Any]
INTERRUPTED = "interrupted"


@dataclass
class Scoring:
    """How trials are scored.

    Attributes
    ----------
    scorer : callable
        Of one metric or of several.
    X, y : all rows
    params : dict
        What the scorer is given besides.
    error_score : float or "raise"
    train : bool
        Whether the rows that were trained on are scored too.
    """

    scorer: Any
    X: Any
    y: Any
    params: Mapping[str, Any]
    error_score: Any
    train: bool

    def outcomes(self, trials: Sequence[CandidateFit]) -> list[Outcome]:
        """Of every trial, with the keys of scikit-learn's `_fit_and_score`, and the "reason" why it failed or None.

        Trials that an interrupt left untrained or unscored are "interrupted" and score nan.
        """
        scored: dict[CandidateFit, Outcome] = {}
        try:
            for of_fold in groups(trials, lambda trial: trial.fold):
                fold = of_fold[0].fold
                parts = {"test": self._part(fold.test)}
                if self.train:
                    parts["train"] = self._part(fold.train)
                for trial in of_fold:
                    scored[trial] = self._outcome(trial, parts)
        except KeyboardInterrupt:
            pass
        return with_metrics([scored.get(trial) or self._failed(trial, INTERRUPTED, np.nan) for trial in trials])

    def _part(self, rows: NDArray[np.intp]) -> tuple[Any, Any, Any]:
        return part(self.X, rows), part(self.y, rows), _check_method_params(self.X, params=self.params, indices=rows)

    def _outcome(self, trial: CandidateFit, parts: Mapping[str, tuple[Any, Any, Any]]) -> Outcome:
        if not trial.member.done:
            return self._failed(trial, INTERRUPTED, np.nan)
        error = trial.member.error
        if error is not None:
            if self.error_score == "raise":
                raise error
            return self._failed(trial, f"{type(error).__name__}: {error}", self.error_score)
        outcome = {"reason": None, "fit_error": None, "fit_time": trial.seconds}
        for name, (X, y, params) in parts.items():
            start = time.perf_counter()
            outcome[f"{name}_scores"] = _score(trial.model, X, y, self.scorer, params, self.error_score)
            outcome.setdefault("score_time", time.perf_counter() - start)
        return outcome

    def _failed(self, trial: CandidateFit, reason: str, score: float) -> Outcome:
        error = trial.member.error
        outcome: Outcome = {
            "reason": reason,
            "fit_error": None if error is None else "".join(traceback.format_exception(error)),
            "fit_time": trial.seconds,
            "score_time": 0.0,
            "test_scores": score,
        }
        return {**outcome, "train_scores": score} if self.train else outcome


def with_metrics(outcomes: list[Outcome]) -> list[Outcome]:
    """Outcomes of which those that failed have every metric that the others have."""
    metrics = next((outcome["test_scores"] for outcome in outcomes if isinstance(outcome["test_scores"], dict)), None)
    if metrics is not None:
        for outcome in outcomes:
            for part in {"test_scores", "train_scores"} & outcome.keys():
                if not isinstance(outcome[part], dict):
                    outcome[part] = dict.fromkeys(metrics, outcome[part])
    return outcomes


def reasons(outcomes: Sequence[Outcome], n_splits: int) -> NDArray[Any]:
    """For each candidate a line for each fold that failed; "" where none did."""
    texts = []
    for folds in _by_candidate(outcomes, n_splits):
        texts.append("\n".join(f"split{i}: {found['reason']}" for i, found in enumerate(folds) if found["reason"]))
    return np.array(texts, dtype=object)


def interrupted(outcomes: Sequence[Outcome]) -> int:
    """How many trials were not finished."""
    return sum(outcome["reason"] == INTERRUPTED for outcome in outcomes)


def any_whole(outcomes: Sequence[Outcome], n_splits: int) -> bool:
    """Whether some candidate was scored on all folds."""
    return any(all(not found["reason"] for found in folds) for folds in _by_candidate(outcomes, n_splits))


def _by_candidate(outcomes: Sequence[Outcome], n_splits: int) -> list[Sequence[Outcome]]:
    return [outcomes[first : first + n_splits] for first in range(0, len(outcomes), n_splits)]
