"""Shows the progress of a training: a bar on a terminal or in a notebook, otherwise some lines."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gpubp.network import MLP
    from gpubp.training.history import History

PLAIN_LINES = 20  # at most, if the output is not a terminal, for any number of epochs
PIPED_WIDTH = 120
WIDE = 105  # columns of a complete progress line


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """A console that prints names unchanged: no markup, no highlighting."""
    console = Console(quiet=quiet, stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(quiet=quiet, stderr=stderr, markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
    return console


def console_of_python() -> Console:
    """A console for callers from Python; a notebook without widgets, which bars need, counts as a pipe."""
    console = make_console()
    if console.is_jupyter and find_spec("ipywidgets") is None:
        console = Console(force_jupyter=False, markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
    return console


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line that only the terminal wraps, so that paths can be copied."""
    console.print(text, style=style, soft_wrap=True)


class TrainingProgress(AbstractContextManager["TrainingProgress"]):
    """A callback of `gpubp.train` that shows its progress: a live bar on a terminal or in a notebook, else some lines.

    Parameters
    ----------
    console : Console
    epochs : int
        The number of planned epochs.
    rows : int
        Training rows of an epoch.
    """

    def __init__(self, console: Console, epochs: int, rows: int) -> None:
        self.console, self.epochs, self.rows = console, epochs, rows
        self.live = (console.is_terminal or console.is_jupyter) and not console.quiet
        self.wide = console.width >= WIDE
        figures = TextColumn("{task.fields[figures]}")
        remaining = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        self.bar = Progress(
            MofNCompleteColumn(),
            *(BarColumn(20 if self.wide else 5), figures),
            *([remaining] if self.wide else []),
            console=console,
        )
        self.task = self.bar.add_task("training", total=epochs, figures="")
        self.shown = {round(i * epochs / PLAIN_LINES) for i in range(1, PLAIN_LINES + 1)} | {1, epochs}

    def __enter__(self) -> TrainingProgress:
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live:
            if self.console.is_jupyter:  # which does not draw the end of a bar by itself
                self.bar.refresh()
            self.bar.stop()

    def __call__(self, net: MLP, history: History) -> None:
        """After an epoch."""
        text = self._figures(history)
        if self.live:
            self.bar.update(self.task, completed=history.epochs, figures=text)
        elif history.epochs in self.shown:
            say(self.console, f"epoch {history.epochs:>{len(str(self.epochs))}}/{self.epochs}  {text}")

    def _figures(self, history: History) -> str:
        many = "" if history.models == 1 else "mean "
        text = f"{many}loss {_steady(history.loss[-1])} {history.metric_name} {_steady(history.metric[-1])}"
        if history.validation_loss:
            named = "validation" if self.wide else "val"
            text += f" {named} {_steady(history.validation_loss[-1])} {_steady(history.validation_metric[-1])}"
        before = history.seconds[-2] if history.epochs > 1 else 0.0
        return f"{text} {self.rows / max(history.seconds[-1] - before, 1e-9):,.0f} samples/s"


def _steady(values: Any) -> str:
    """A number of constant width from epoch to epoch; for a stack, the mean over the networks that train."""
    numbers = np.atleast_1d(values)
    value = float(numbers[~np.isnan(numbers)].mean()) if not np.isnan(numbers).all() else float("nan")
    return f"{value:#.4g}" if 1e-4 <= abs(value) < 1000 else f"{value:.3e}"
