"""How many threads BLAS uses inside of a training, and has back after it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import gpubp
from gpubp.backends import blas_threads as module
from gpubp.backends.blas_threads import blas_threads, one_blas_thread, share_of_cores, threads_for_products
from gpubp.backends.reference import ReferenceBackend


def counts() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


class Watched(ReferenceBackend):
    """Notes how many threads there are at every product of BP4."""

    def __init__(self) -> None:
        super().__init__(np.float64)
        self.seen: set[int] = set()

    def matmul(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("transpose_a"):
            self.seen |= set(counts())
        super().matmul(*args, **kwargs)


@pytest.mark.parametrize(("batch_size", "expected"), [(4, {1}), (8, {2})])
def test_trainings_of_small_products_have_one_thread(
    batch_size: int, expected: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_FOR_ONE_THREAD", 4 * 5 * 7)
    backend = Watched()
    net = gpubp.MLP([5, 7, 3], device=backend)
    with threadpool_limits(2, user_api="blas"):
        before = counts()
        gpubp.train(net, np.ones((16, 5)), np.zeros(16, int), batch_size=batch_size, epochs=2)
        assert backend.seen == expected
        assert counts() == before


def test_within_the_limit_it_is_known_how_many_there_were() -> None:
    with threadpool_limits(2, user_api="blas"):
        before, allowed = counts(), blas_threads()
        with one_blas_thread(), one_blas_thread():
            assert set(counts()) == {1}
            assert blas_threads() == allowed
        assert counts() == before


def test_a_thread_of_a_program_leaves_its_threads_alone() -> None:
    seen: list[int] = []

    def other() -> None:
        with threads_for_products(1):
            seen.extend(counts())

    with threadpool_limits(2, user_api="blas"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert seen == counts()


@pytest.mark.parametrize(("cores", "processes", "expected"), [(2, 1, 2), (2, 2, 1), (2, 5, 1), (8, 2, 2)])
def test_processes_on_the_same_cores_have_a_share_each(
    cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_count", lambda: cores)
    with threadpool_limits(2, user_api="blas"):
        before = counts()
        with share_of_cores(processes):
            assert set(counts()) == {expected}
        assert counts() == before


def test_a_users_own_limit_stays() -> None:
    with threadpool_limits(1, user_api="blas"):
        with one_blas_thread():
            assert set(counts()) == {1}
        assert set(counts()) == {1}


def test_threads_are_given_back_after_an_error() -> None:
    before = counts()
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        _ = 1 / 0
    assert counts() == before
    assert blas_threads() <= max(before)
