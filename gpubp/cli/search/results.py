"""The results of a search: the result of each candidate, their order, and their table on disk."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from gpubp.cli.search.grid import shown
from gpubp.cli.search.trials import DONE, NAN, UNFINISHED, WAITING, Search, Trial
from gpubp.cli.settings import Settings
from gpubp.serialization import atomic_write

RESULTS = "results.csv"


@dataclass(frozen=True)
class CandidateResult:
    """A candidate with its networks.

    Attributes
    ----------
    settings : Settings
    values : dict
        Its part of the grid.
    trials : list of Trial
    """

    settings: Settings
    values: dict[str, str]
    trials: list[Trial]

    @property
    def state(self) -> str:
        """``DONE`` if all its networks are; the state of the first diverged one, if any."""
        for trial in self.trials:
            if trial.diverged:
                return f"{trial.state} (fold {trial.fold.number}, seed {trial.seed})"
        states = {trial.state for trial in self.trials}
        return states.pop() if len(states) == 1 else UNFINISHED

    @property
    def done(self) -> bool:
        """Whether all its networks are done."""
        return self.state == DONE

    @property
    def diverged(self) -> bool:
        """Whether one of its networks diverged."""
        return any(trial.diverged for trial in self.trials)

    @property
    def epochs(self) -> int:
        """The mean over its networks of the epoch whose weights are kept; with patience, the best one."""
        known = [trial.epochs for trial in self.trials if trial.epochs]
        return max(1, round(fmean(known))) if known else 0

    def final(self) -> Settings:
        """The settings for a network trained on all training rows.

        There are no rows for patience to watch: it trains for as many epochs as these networks needed to their best.
        """
        if self.settings["patience"] is None:
            return self.settings
        return self.settings.changed({"patience": None, "epochs": self.epochs})

    def mean(self, score: str) -> float:
        """The mean ``"loss"`` or ``"metric"`` of its networks, as far as known; NaN if one diverged."""
        known = self._known(score)
        return fmean(known) if known else NAN

    def std(self, score: str) -> float:
        """The standard deviation of ``"loss"`` or ``"metric"`` over its networks, dividing by their number."""
        known = self._known(score)
        return pstdev(known) if known else NAN

    def _known(self, score: str) -> list[float]:
        values = [float(getattr(trial, score)) for trial in self.trials]
        return [] if self.diverged else [value for value in values if math.isfinite(value)]


@dataclass(frozen=True)
class Results:
    """The results of a search so far.

    Attributes
    ----------
    search : Search
    names : tuple of str
        The options that its grid names.
    metric : str
        "accuracy", "label_accuracy" or "rmse".
    path : Path
        The file of the table.
    rank_by : {"loss", "metric"}
    """

    search: Search
    names: tuple[str, ...]
    metric: str
    path: Path
    rank_by: str = "loss"

    def ranked(self) -> list[CandidateResult]:
        """Every candidate, the best first.

        They are ranked by loss, or by metric and then by loss. Finished candidates come before unfinished ones, and
        diverged ones come last.
        """
        search, n = self.search, len(self.search.folds) * len(self.search.seeds)
        candidates = [
            CandidateResult(settings, shown(self.names, settings), search.trials[i * n : (i + 1) * n])
            for i, settings in enumerate(search.candidates)
        ]
        return sorted(candidates, key=self._rank)

    def _rank(self, candidate: CandidateResult) -> tuple[float, ...]:
        order = (DONE, UNFINISHED, WAITING)
        state = len(order) if candidate.diverged else order.index(candidate.state)
        loss, metric = (math.inf if math.isnan(v := candidate.mean(name)) else v for name in ("loss", "metric"))
        if self.rank_by == "loss":
            return (state, loss)
        return (state, metric if self.metric == "rmse" else -metric, loss)

    def to_csv(self) -> str:
        """A line per candidate: its settings, mean and standard deviation of its scores, and each network's scores."""
        ranked, scores = self.ranked(), {"loss": "loss", "metric": self.metric}
        parts = [f"fold{trial.fold.number}{self._seed_suffix(trial)}" for trial in ranked[0].trials]
        means = [f"{name}_{kind}" for name in scores.values() for kind in ("mean", "std")]
        each = [f"{name}_{part}" for name in scores.values() for part in parts]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["rank", *ranked[0].values, "status", "after_epoch", *means, *each])
        for rank, candidate in enumerate(ranked, start=1):
            numbers = [value for name in scores for value in (candidate.mean(name), candidate.std(name))]
            numbers += [getattr(trial, name) for name in scores for trial in candidate.trials]
            written = ("" if math.isnan(value) else f"{value:.9g}" for value in numbers)
            writer.writerow([rank, *candidate.values.values(), candidate.state, candidate.epochs or "", *written])
        return out.getvalue()

    def save(self) -> None:
        """Write the table, whole or not at all."""
        atomic_write(self.path, self.to_csv().encode())

    def _seed_suffix(self, trial: Trial) -> str:
        return f"_seed{trial.seed}" if len(self.search.seeds) > 1 else ""
