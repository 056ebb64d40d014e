"""How many threads BLAS uses for the products of a training.

Threads of a product wait for each other at its end, and where other programs keep the cores busy, one of them gets its
turn milliseconds later: many times as long as a small product takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Multiply-adds of a product up to which one thread is used: about a tenth of a millisecond of one core.
MOST_FOR_ONE_THREAD = 1 << 21
_LIMITED = threading.RLock()  # BLAS has one number of threads for the whole process: one thread at a time sets it
_before: int | None = None  # how many there were before it was set


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for every product of the process."""
    global _before
    with _LIMITED:
        if _before is not None:
            yield
            return
        _before = _threads_now()
        try:
            with _blas().limit(limits=1, user_api="blas"):
                yield
        finally:
            _before = None


@contextmanager
def threads_for_products(multiply_adds: int) -> Iterator[None]:
    """One thread where no product is larger than small, and in a program's main thread.

    What another thread sets, OpenBLAS does not raise again, and the program would be left with one.
    """
    if multiply_adds > MOST_FOR_ONE_THREAD or threading.current_thread() is not threading.main_thread():
        yield
        return
    with one_blas_thread():
        yield


@contextmanager
def share_of_cores(processes: int) -> Iterator[None]:
    """BLAS with no more threads than this process's share of the cores, which so many processes run on.

    In a program's main thread, for the reason that `threads_for_products` has.
    """
    if processes == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _blas().limit(limits=min(_threads_now(), max(1, cpu_count() // processes)), user_api="blas"):
        yield


def blas_threads() -> int:
    """As many as BLAS uses where it is not limited to one, but no more than there are cores."""
    return _before or _threads_now()


@cache
def cpu_count() -> int:
    """Cores that this process may run on."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _threads_now() -> int:
    threads: list[int] = [library.num_threads for library in _blas().lib_controllers if library.user_api == "blas"]
    return min([cpu_count(), *threads])


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
