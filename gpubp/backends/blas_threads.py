"""The number of threads that BLAS uses for the products of a training.

Threads of a product wait for each other at its end, and if other programs keep the cores busy, one of them may run
milliseconds later, many times as long as a small product takes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Multiply-adds of a product up to which one thread is used: about a tenth of a millisecond on one core.
MOST_FOR_ONE_THREAD = 1 << 21
_LIMITED = threading.RLock()  # BLAS's number of threads is per process: one thread at a time sets it
_before: int | None = None  # the number before it was set


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
    """One thread, if all products are small and the caller is the program's main thread.

    OpenBLAS does not raise again what another thread has set, so the program would be left with one thread.
    """
    if multiply_adds > MOST_FOR_ONE_THREAD or threading.current_thread() is not threading.main_thread():
        yield
        return
    with one_blas_thread():
        yield


@contextmanager
def share_of_cores(processes: int) -> Iterator[None]:
    """BLAS with at most this process's share of the cores, which `processes` processes run on.

    Only in the program's main thread, for the same reason as `threads_for_products`.
    """
    if processes == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _blas().limit(limits=min(_threads_now(), max(1, cpu_count() // processes)), user_api="blas"):
        yield


def blas_threads() -> int:
    """The threads that BLAS uses when not limited to one, at most the number of cores."""
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
