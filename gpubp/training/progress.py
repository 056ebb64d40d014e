"""How a training goes, while it goes: a bar on a terminal or in a notebook, else some lines."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from gpubp.network import MLP
    from gpubp.training.history import History

PLAIN_LINES = 20  # of a training whose output is not a terminal, however many epochs it has
PIPED_WIDTH = 120
WIDE = 105  # columns that a line of progress takes with everything in it


def make_console(*, quiet: bool = False, stderr: bool = False) -> Console:
    """A console that prints names as they are: no markup, no highlighting."""
    console = Console(quiet=quiet, stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(quiet=quiet, stderr=stderr, markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
    return console


def console_of_python() -> Console:
    """A console for whoever calls from Python; a notebook without widgets, which bars are drawn with, is a pipe."""
    console = make_console()
    if console.is_jupyter and find_spec("ipywidgets") is None:
        console = Console(force_jupyter=False, markup=False, highlight=False, emoji=False, width=PIPED_WIDTH)
    return console


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line that is wrapped by the terminal alone, so that paths can be copied."""
    console.print(text, style=style, soft_wrap=True)


class ProgressBar(AbstractContextManager[Any]):
    """A live progress bar on a terminal or in a notebook; elsewhere its owner prints a few lines instead.

    Parameters
    ----------
    console : Console
    total : float
        The value at which the bar is full.
    *columns : ProgressColumn
        Columns of rich; text columns show ``task.fields[text]``.

    Attributes
    ----------
    live : bool
    """

    def __init__(self, console: Console, total: float, *columns: ProgressColumn) -> None:
        self.console = console
        self.live = (console.is_terminal or console.is_jupyter) and not console.quiet
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("training", total=total, text="")

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.live:
            if self.console.is_jupyter:  # where the end of a bar is not drawn by itself
                self.bar.refresh()
            self.bar.stop()

    def show(self, completed: float, text: str) -> None:
        """Draw the bar up to there, beside a text."""
        self.bar.update(self.task, completed=completed, text=text)


class TrainingProgress(ProgressBar):
    """A callback of `gpubp.train` that shows how it goes: a live bar on a terminal or in a notebook, else some lines.

    Parameters
    ----------
    console : Console
    epochs : int
        How many are planned.
    rows : int
        Training rows of an epoch.
    """

    def __init__(self, console: Console, epochs: int, rows: int) -> None:
        self.epochs, self.rows = epochs, rows
        self.wide = console.width >= WIDE
        remaining = [TimeRemainingColumn(compact=True, elapsed_when_finished=True)] if self.wide else []
        bar = BarColumn(20 if self.wide else 5)
        super().__init__(console, epochs, MofNCompleteColumn(), bar, TextColumn("{task.fields[text]}"), *remaining)
        self.shown = {round(i * epochs / PLAIN_LINES) for i in range(1, PLAIN_LINES + 1)} | {1, epochs}

    def __call__(self, net: MLP, history: History) -> None:
        """After an epoch."""
        text = self._figures(history)
        if self.live:
            self.show(history.epochs, text)
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
    """A number that keeps its width from epoch to epoch; of a stack, the mean over the networks that train."""
    numbers = np.atleast_1d(values)
    value = float(numbers[~np.isnan(numbers)].mean()) if not np.isnan(numbers).all() else float("nan")
    return f"{value:#.4g}" if 1e-4 <= abs(value) < 1000 else f"{value:.3e}"
