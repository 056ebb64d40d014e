"""Rungs of a search: with successive halving many networks for few epochs, the better ones for more."""

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
from gpubp.estimators.search.scoring import Outcome, interrupted
from gpubp.estimators.stacked_fits import StackedFits


class Planned(NamedTuple):
    """A rung: so many candidates, trained until they have had so many epochs."""

    candidates: int
    epochs: int


@dataclass
class Rung:
    """Candidates, by their numbers, that were trained until they had so many epochs; the outcomes of their trials."""

    candidates: list[int]
    epochs: int
    outcomes: list[Outcome]


def one_rung(candidates: Sequence[Candidate]) -> list[Planned]:
    """All candidates trained to their end."""
    return [Planned(len(candidates), max(one.network.max_iter for one in candidates))]


def halved(candidates: Sequence[Candidate], factor: float, min_epochs: int | None) -> list[Planned]:
    """From rung to rung `factor` times fewer candidates and more epochs, until they are trained to their end.

    The first rung is of `min_epochs`, or of as many as leave fewer than `factor` candidates on the last one.
    """
    if any(one.network.solver == "lbfgs" for one in candidates):
        raise UsageError('halving lets networks train on, which solver="lbfgs" cannot; use another, or halving=False')
    [(count, last)] = one_rung(candidates)
    if min_epochs is not None and min_epochs > last:
        raise UsageError(f"min_epochs={min_epochs} is more than max_iter={last}, the epochs of a whole training")
    cuts, left = 0, float(count)
    while left >= factor:
        cuts, left = cuts + 1, left / factor
    plan = [Planned(count, min_epochs or ceil(last / factor**cuts))]
    while plan[-1].epochs < last:
        count = ceil(count / factor)
        plan.append(Planned(count, last if count == 1 else min(ceil(plan[-1].epochs * factor), last)))
    return plan


def epochs_in_all(plan: Sequence[Planned]) -> int:
    """Epochs that the candidates of all rungs train together, on one fold."""
    before = [0, *(rung.epochs for rung in plan)]
    return sum(rung.candidates * (rung.epochs - had) for rung, had in zip(plan, before, strict=False))


def climb(
    plan: Sequence[Planned],
    trials: Sequence[CandidateFit],
    trainees: StackedFits,
    outcomes: Callable[[Sequence[CandidateFit]], list[Outcome]],
    means: Callable[[Sequence[Outcome]], NDArray[np.float64]],
) -> list[Rung]:
    """The rungs as they came out; `means` are candidates' scores. An interrupt makes one of them the last."""
    rungs: list[Rung] = []
    alive = sorted({trial.candidate for trial in trials})
    for count, epochs in plan:
        if rungs:
            best = np.argsort(-means(rungs[-1].outcomes), kind="stable")[:count]  # nan comes last
            alive = [alive[place] for place in sorted(best)]
            trainees.keep([trial.member for trial in trials if trial.candidate in alive])
        with suppress(KeyboardInterrupt):  # what is not finished says so
            trainees.train(epochs)
        rungs.append(Rung(alive, epochs, outcomes([trial for trial in trials if trial.candidate in alive])))
        if interrupted(rungs[-1].outcomes):
            break
    return rungs
