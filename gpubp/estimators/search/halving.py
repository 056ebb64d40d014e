"""Rungs of a search: successive halving trains many networks for few epochs, and the better ones for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpubp.errors import UsageError
from gpubp.estimators.search.candidates import Candidate, CandidateFit
from gpubp.estimators.search.scoring import Outcome, count_interrupted
from gpubp.estimators.stacked_fits import StackedFits, has_its_own_fit


class PlannedRung(NamedTuple):
    """How many candidates to train, and up to how many epochs."""

    candidates: int
    epochs: int


@dataclass
class Rung:
    """Candidates, by their numbers, and the epochs up to which they were trained; the outcomes of their fits."""

    candidates: list[int]
    epochs: int
    outcomes: list[Outcome]


def plan_one_rung(candidates: Sequence[Candidate]) -> list[PlannedRung]:
    """All candidates trained to their end."""
    epochs = max(candidate.network.max_iter for candidate in candidates)
    return [PlannedRung(candidates=len(candidates), epochs=epochs)]


def plan_halving(candidates: Sequence[Candidate], factor: float, min_epochs: int | None) -> list[PlannedRung]:
    """From rung to rung, `factor` times fewer candidates and `factor` times more epochs, until training is complete.

    The first rung has `min_epochs` epochs, or as many as leave fewer than `factor` candidates on the last rung.
    """
    if any(candidate.network.solver == "lbfgs" for candidate in candidates):
        raise UsageError('halving lets networks train on, which solver="lbfgs" cannot; use another, or halving=False')
    if own := [candidate.network for candidate in candidates if has_its_own_fit(candidate.network)]:
        raise UsageError(
            f"halving lets networks train on, which the fit of {type(own[0]).__name__} cannot; use halving=False"
        )
    [(count, last)] = plan_one_rung(candidates)
    if min_epochs is not None and min_epochs > last:
        raise UsageError(f"min_epochs={min_epochs} is more than max_iter={last}, the epochs of a whole training")
    cuts, left = 0, float(count)
    while left >= factor:
        cuts, left = cuts + 1, left / factor
    plan = [PlannedRung(candidates=count, epochs=min_epochs or ceil(last / factor**cuts))]
    while plan[-1].epochs < last:
        count = ceil(count / factor)
        epochs = last if count == 1 else min(ceil(plan[-1].epochs * factor), last)
        plan.append(PlannedRung(candidates=count, epochs=epochs))
    return plan


def total_epochs(plan: Sequence[PlannedRung]) -> int:
    """The sum of the epochs that the candidates of all rungs are trained for, on one split."""
    epochs_before = [0, *(rung.epochs for rung in plan)]
    return sum(rung.candidates * (rung.epochs - before) for rung, before in zip(plan, epochs_before, strict=False))


def train_rungs(
    plan: Sequence[PlannedRung],
    fits: Sequence[CandidateFit],
    stacked_fits: StackedFits,
    outcomes_of: Callable[[Sequence[CandidateFit]], list[Outcome]],
    mean_scores: Callable[[Sequence[Outcome]], NDArray[np.float64]],
) -> list[Rung]:
    """Train the candidates rung by rung, the best of each going on to the next. An interrupt makes its rung the last.

    Parameters
    ----------
    plan : sequence of PlannedRung
    fits : sequence of CandidateFit
        All candidates on all splits.
    stacked_fits : StackedFits
        The fits that can be trained.
    outcomes_of : callable
        Scores fits.
    mean_scores : callable
        The candidates' scores, from their outcomes.
    """
    rungs: list[Rung] = []
    remaining = sorted({fit.candidate for fit in fits})
    for count, epochs in plan:
        if rungs:
            best = np.argsort(-mean_scores(rungs[-1].outcomes), kind="stable")[:count]  # NaN comes last
            remaining = [remaining[place] for place in sorted(best)]
            stacked_fits.keep_only([fit.task for fit in fits if fit.candidate in remaining])
        with suppress(KeyboardInterrupt):  # unfinished fits are marked as such
            stacked_fits.train(epochs)
        outcomes = outcomes_of([fit for fit in fits if fit.candidate in remaining])
        rungs.append(Rung(candidates=remaining, epochs=epochs, outcomes=outcomes))
        if count_interrupted(outcomes):
            break
    return rungs
