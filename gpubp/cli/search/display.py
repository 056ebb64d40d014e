"""The output of `search`: its plan, the leaders while it runs, and the outcome."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from gpubp.cli.display import PLAIN_LINES, figure, make_table, plural, say, size
from gpubp.cli.search.results import CandidateResult, Results
from gpubp.cli.search.trials import Search, TrialStack
from gpubp.training.history import History

LEADERS = 10  # in the live table
LONGEST = 30  # candidates in the final table
PAUSE = 0.5  # seconds between two live tables


def show_plan(console: Console, search: Search) -> None:
    """The numbers of networks and stacks, and the memory they take."""
    counts = [plural(len(search.candidates), "candidate"), plural(len(search.folds), "fold")]
    if len(search.seeds) > 1:
        counts.append(plural(len(search.seeds), "seed"))
    taken = [stack.bytes for stack in search.stacks]
    alike = "" if size(min(taken)) == size(max(taken)) else "up to "
    each = " each" if len(taken) > 1 else ""
    say(
        console,
        f"{plural(len(search.trials), 'network')} ({' x '.join(counts)}) in {plural(len(taken), 'stack')}, "
        f"{alike}{size(max(taken))}{each}, beside {size(search.data_bytes)} of data",
    )


def score_text(candidate: CandidateResult, score: str, name: str) -> str:
    """``0.9711 ± 0.0032``, or the known part of it."""
    mean, std = candidate.mean(score), candidate.std(score)
    if math.isnan(mean):
        return "-"
    spread = f"{std:.4f}" if name.endswith("accuracy") else f"{std:.2g}"
    return figure(name, mean) + (f" ± {spread}" if len(candidate.trials) > 1 else "")


def summary(candidate: CandidateResult, metric: str) -> str:
    """``learning-rate=0.001, hidden=64: accuracy 0.9711 ± 0.0032, loss 0.1021 ± 0.0041``"""
    settings = ", ".join(f"{name}={value}" for name, value in candidate.values.items())
    scores = f"{metric} {score_text(candidate, 'metric', metric)}, loss {score_text(candidate, 'loss', 'loss')}"
    return f"{settings}: {scores}"


def leaders(ranked: Sequence[CandidateResult], metric: str, limit: int) -> Table:
    """The first candidates as a table."""
    table = make_table(">", *ranked[0].values, f">{metric}", ">loss", ">after epoch", "")
    for rank, candidate in enumerate(ranked[:limit], start=1):
        scores = (score_text(candidate, "metric", metric), score_text(candidate, "loss", "loss"))
        state = "" if candidate.done else candidate.state
        table.add_row(str(rank), *candidate.values.values(), *scores, str(candidate.epochs or "-"), state)
    return table


def show_results(console: Console, results: Results) -> None:
    """The candidates in order, with the scores on their validation rows."""
    ranked = results.ranked()
    console.print(leaders(ranked, results.metric, LONGEST))
    if len(ranked) > LONGEST:
        say(console, f"and {plural(len(ranked) - LONGEST, 'candidate')} more")
    say(console, f"wrote {results.path}")


def announce_winner(console: Console, best: CandidateResult, rows: int) -> None:
    """Announce that the winner is trained on all training rows, and for how long."""
    text = f"training it on all {rows:,} training rows"
    if best.settings["patience"] is not None:
        text += f" for {plural(best.epochs, 'epoch')}, the mean of what its networks took to their best"
    say(console, text, "bold")


class SearchProgress(AbstractContextManager["SearchProgress"]):
    """Shows the progress of a search: a live table of the leaders on a terminal, otherwise some lines.

    Parameters
    ----------
    console : Console
    results : Results
    """

    def __init__(self, console: Console, results: Results) -> None:
        self.console, self.results = console, results
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal and not console.quiet else None
        self.drawn, self.lines = 0.0, 0
        self.planned = [self._most_epochs(stack) * len(stack.trials) for stack in results.search.stacks]

    def __enter__(self) -> SearchProgress:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live:
            self.live.update("")  # the final table follows
            self.live.stop()

    def __call__(self, stack: TrialStack, history: History) -> None:
        """After an epoch of a stack."""
        stacks, metric = self.results.search.stacks, self.results.metric
        number = stacks.index(stack)
        part = (sum(self.planned[:number]) + history.epochs * len(stack.trials)) / sum(self.planned)
        text = f"{part:4.0%}  stack {number + 1}/{len(stacks)}, epoch {history.epochs}/{self._most_epochs(stack)}"
        if self.live:
            if time.monotonic() - self.drawn > PAUSE:
                self.live.update(Group(text, leaders(self.results.ranked(), metric, LEADERS)), refresh=True)
                self.drawn = time.monotonic()
        elif not self.console.quiet and part * PLAIN_LINES >= self.lines:
            self.lines = int(part * PLAIN_LINES) + 1
            say(self.console, f"{text}  leading: {summary(self.results.ranked()[0], metric)}")

    def _most_epochs(self, stack: TrialStack) -> int:
        """The largest number of epochs of any network in the stack."""
        return max(int(self.results.search.candidates[trial.candidate]["epochs"]) for trial in stack.trials)
