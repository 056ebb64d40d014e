"""A recorded step: loops by their addresses, run for many steps without Python in between.

Like a graph on a GPU, a program holds a step's launches with their arrays. Networks of a stack share only what they
read, so each takes many steps before the next one does: its parameters stay in a core's cache, and every core can work
on its own networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.backends.blas_threads import blas_threads, one_blas_thread
from gpubp.backends.compiled.cache import dispatcher, load
from gpubp.backends.compiled.source import launch_source

WORTH_SPREADING = 0.001  # seconds of work
PATIENCE = 0.05  # seconds of machine code after which Python checks for an interrupt


class Arguments:
    """The arguments of a loop: numbers and addresses, and the arrays that keep the addresses valid."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.arrays: list[Array] = []

    def numbers(self, *values: int) -> Arguments:
        """Append numbers."""
        self.values += values
        return self

    def parts(self, dtype: Any, *arrays: Array | None) -> Arguments:
        """Append the start of each array and the bytes from one network's part to the next, 0 if it is shared."""
        for array in arrays:
            assert array is None or (array.dtype == dtype and array[0].flags.c_contiguous)
            self._append(array)
            self.values.append(0 if array is None or len(array) == 1 else array.strides[0])
        return self

    def tables(self, dtype: Any, *arrays: Array | None) -> Arguments:
        """Append the start of contiguous arrays; 0 for None."""
        for array in arrays:
            assert array is None or (array.dtype == dtype and array.flags.c_contiguous)
            self._append(array)
        return self

    def _append(self, array: Array | None) -> None:
        self.arrays.append(array)
        self.values.append(0 if array is None else address_of(array))


class Launches:
    """Loops to be called one after the other for each network, each with its arguments.

    Attributes
    ----------
    networks : int
    shares : bool
        Whether a loop fills what all networks read; it is then called, and fills it, once for each of them.
    """

    def __init__(self, function: int, networks: int, arguments: Arguments) -> None:
        self.networks, self.shares = networks, False
        values = np.array(arguments.values, np.int64)
        self._arrays = [values, *arguments.arrays]  # keeps the addresses valid
        self._functions, self._arguments = (np.array([x], np.int64) for x in (function, address_of(values)))

    def add(self, following: Launches) -> None:
        """Append the loops of another."""
        self.shares |= self.networks != following.networks or following.shares
        self.networks = max(self.networks, following.networks)
        self._arrays += following._arrays
        self._functions = np.append(self._functions, following._functions)
        self._arguments = np.append(self._arguments, following._arguments)

    def run(self, first: int, last: int, count: int) -> None:
        """Take `count` steps with each of the networks first … last − 1."""
        run_loops()(self._functions, self._arguments, first, last, count)


class Program:
    """The work of a step: launches, and calls of uncompiled functions in between.

    Attributes
    ----------
    cursor : (2,) int64 or None
        The counter of steps; None if one of the calls counts them.
    """

    def __init__(self) -> None:
        self.cursor: Array | None = None
        self._parts: list[Launches | Callable[[], None]] = []

    def launch(self, launches: Launches) -> None:
        """Append loops."""
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Launches):
            last.add(launches)
        else:
            self._parts.append(launches)

    def call(self, function: Callable[[], None]) -> None:
        """Append a call."""
        self._parts.append(function)

    def run(self, count: int) -> None:
        """Take `count` steps."""
        only = self._parts[0] if len(self._parts) == 1 else None
        if isinstance(only, Launches):
            self._run_launches(only, count)
            return
        for _ in range(count):
            for part in self._parts:
                if isinstance(part, Launches):
                    part.run(0, part.networks, 1)
                else:
                    part()
            self._advance(1)

    def _run_launches(self, launches: Launches, count: int) -> None:
        """Take as many steps per call as PATIENCE allows, on all cores if the remaining work is worth waking them.

        The first step shows how long one takes. If each core takes a network, a call is for one network.
        """
        networks, taken, seconds = launches.networks, 1, 0.0  # seconds of one network's step
        with _cores_for(launches) as pool:
            while count > 0:
                start = time.perf_counter()
                if pool is not None and seconds * networks * count > WORTH_SPREADING:
                    list(pool.map(partial(_run_one, launches, taken), range(networks)))
                else:
                    launches.run(0, networks, taken)
                self._advance(taken)
                count -= taken
                seconds = seconds or (time.perf_counter() - start) / networks
                longest = PATIENCE / (seconds * (networks if pool is None else 1))
                taken = max(1, min(count, int(longest)))

    def _advance(self, count: int) -> None:
        if self.cursor is not None:
            self.cursor += count


@contextmanager
def _cores_for(launches: Launches) -> Iterator[ThreadPoolExecutor | None]:
    """Threads that take one network each, with one BLAS thread; none if there are fewer networks than cores.

    The number of BLAS threads can affect the last bits, so it does not depend on the amount of work.
    """
    if launches.networks == 1:
        yield None
        return
    threads = blas_threads()
    if launches.networks < threads:
        yield None
        return
    with one_blas_thread():
        if launches.shares:
            yield None
            return
        with ThreadPoolExecutor(threads) as pool:
            yield pool


def _run_one(launches: Launches, count: int, k: int) -> None:
    launches.run(k, k + 1, count)


def address_of(array: Array) -> int:
    """The address of an array."""
    address: int = array.__array_interface__["data"][0]
    return address


@cache
def run_loops() -> Callable[..., None]:
    """The compiled loop that calls loops; raises `LoopsFailedError` if there is none."""
    return dispatcher(load(launch_source()), "run", "void(int64[::1], int64[::1], int64, int64, int64)")
