"""An object in a process of its own: what crashes, hangs or fills its memory there takes nobody else along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers import UnavailableError

START = 120.0  # seconds for a process to import what it needs


class RemoteError(Exception):
    """The object's method raised something, or its process ended; the message says what, in one line."""


class Remote:
    """A fresh process that makes one object and calls its methods.

    Parameters
    ----------
    make : callable
        A class or function at the top of a module.
    *args
        Its arguments.
    environment : mapping
        Variables that the process has besides, or has not (None).
    """

    def __init__(
        self, make: Callable[..., Any], *args: Any, environment: Mapping[str, str | None] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        with _changed(environment or {}):
            self._process.start()
        theirs.close()

    def call(self, method: str, *args: Any, timeout: float = START) -> Any:
        """``object.method(*args)``.

        Raises
        ------
        UnavailableError
            As the method raised it.
        RemoteError
            If it raised anything else, the process ended, or no answer came within `timeout` seconds.
        """
        self.send(method, *args)
        return self.receive(timeout)

    def send(self, method: str, *args: Any) -> None:
        """Ask for a call, without waiting for it."""
        try:
            self._connection.send((method, args))
        except OSError:
            raise self._ended() from None

    def receive(self, timeout: float = START) -> Any:
        """The answer to the last `send`."""
        try:
            if not self._connection.poll(max(0.0, timeout)):
                self._process.kill()
                raise RemoteError(f"no answer within {timeout:.0f} s")
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if kind == "unavailable":
            raise UnavailableError(value)
        if kind == "error":
            raise RemoteError(value)
        return value

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _ended(self) -> RemoteError:
        self._process.join(10)
        return RemoteError(f"its process ended with exit code {self._process.exitcode}")


def _serve(connection: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which ends this one
    held: Any = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            if held is None:
                held = make(*args)
            connection.send(("value", getattr(held, method)(*arguments)))
        except UnavailableError as error:
            connection.send(("unavailable", str(error)))
        except Exception as error:
            traceback.print_exc()
            first = next(iter(str(error).splitlines()), "")
            connection.send(("error", f"{type(error).__name__}: {first}"))


@contextmanager
def _changed(environment: Mapping[str, str | None]) -> Iterator[None]:
    """These variables as a process that is started inside finds them."""
    before = dict(os.environ)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
