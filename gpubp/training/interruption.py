"""Ctrl-C and SIGTERM: as a request that a training handles between two steps, or both as one exception."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(AbstractContextManager["Interruption"]):
    """Records the first signal; the next one has its usual effect.

    Ignored signals stay ignored, and nothing is recorded outside the main thread, which alone may handle signals.

    Attributes
    ----------
    signal : int or None
        The signal that was received.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: the handler is not one of Python's
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def let_happen(self) -> None:
        """Let the signal recorded here or by another process have its usual effect."""
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
    """Records the first signal and raises KeyboardInterrupt, so that SIGTERM is handled like Ctrl-C."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        raise KeyboardInterrupt
