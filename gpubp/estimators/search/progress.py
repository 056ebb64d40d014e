"""The progress of a search, on the terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class ProgressBar(AbstractContextManager["ProgressBar"]):
    """A bar that counts epochs of networks.

    Parameters
    ----------
    show : bool or None
        None shows it if standard error is a terminal.
    total : int
        Epochs of all networks.
    """

    def __init__(self, show: bool | None, total: int) -> None:
        self.show, self.total = sys.stderr.isatty() if show is None else show, total
        self.bar: Any = None

    def __enter__(self) -> ProgressBar:
        if self.show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("epochs of networks"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("", total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, epochs: int) -> None:
        """Count epochs, summed over the networks that trained them."""
        if self.bar is not None:
            self.bar.advance(self.task, epochs)
