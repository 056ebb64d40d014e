"""Ctrl-C and SIGTERM: as a wish that a training hears of between two steps, or both as one exception."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(AbstractContextManager["Interruption"]):
    """Takes note of the first signal; the next one does what it did before.

    Signals that are ignored stay so, and outside the main thread, which alone may handle them, nothing is noted.

    Attributes
    ----------
    signal : int or None
        The one that was received.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not one of Python's
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def let_happen(self) -> None:
        """Let the signal that was noted, here or by another process, do what it would have done."""
        assert self.signal is not None
        self._restore()
        signal.raise_signal(self.signal)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class RaisingInterruption(Interruption):
    """Takes note of the first signal, and raises KeyboardInterrupt: SIGTERM, too, then runs what Ctrl-C does."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        raise KeyboardInterrupt
