"""How the gradients of ranks are added up: by MPI in the memory of their hosts, or by NCCL on their devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.backends import Backend
from gpubp.backends.collectives import GradientSum
from gpubp.backends.notices import say_once
from gpubp.errors import DeviceError
from gpubp.stack import Stack
from gpubp.training.ranks import Ranks


def adding_up(ranks: Ranks, stack: Stack) -> GradientSum:
    """What puts the sums of all ranks' arrays, which lie where those of a stack do, into each of them."""
    on_device = hasattr(stack.theta, "__cuda_array_interface__")
    if (differing := ranks.gather(on_device)[:, 0] != on_device).any():
        where = f"rank {ranks.rank} computes on {stack.backend.device}"
        raise DeviceError(f"{where}, rank {int(np.argmax(differing))} does not; give all a GPU, or none")
    if isinstance(stack.theta, np.ndarray):
        return HostSum(ranks)
    if (device_sum := stack.backend.device_sum(ranks)) is not None:
        return device_sum
    if on_device:
        from gpubp.backends.cuda.nccl import INSTALL

        say_once(f"NCCL is missing: gradients are added up in the host's memory, which takes longer; {INSTALL}")
    return SumByWayOfHost(ranks, stack.backend)


class HostSum:
    """Adds up arrays on the host, in the order of the ranks; an `OverlappingSum`.

    Once a sum is begun MPI sends, while the step goes on. Elements are added up at the end, into arrays to which the
    step has added what was sent: the sums take their place.

    Parameters
    ----------
    ranks : Ranks
    """

    overlapping = True

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._ends: list[Callable[[NDArray[Any]], None]] = []  # of the sums that are begun

    def __call__(self, *arrays: NDArray[Any]) -> None:
        with self.beside([], arrays):
            pass  # nothing is computed beside them

    @contextmanager
    def beside(self, first: Sequence[NDArray[Any]], last: Sequence[NDArray[Any]]) -> Iterator[None]:
        sums = [*first, *last]
        self._ranks.meet()
        try:
            yield
        finally:  # if this rank has failed, the others may have begun sums that it has not, and wait
            for array in sums[len(self._ends) :]:
                self.begin(array)
            ends, self._ends = self._ends, []
            for array, end in zip(sums, ends, strict=True):
                end(array)

    def begin(self, array: NDArray[Any]) -> None:
        self._ends.append(self._ranks.begin_sum(array))

    def join(self) -> None:
        """Nothing: the arrays that are added up stay as they are."""


class SumByWayOfHost:
    """Adds up arrays of devices on the host, one after the other; a `GradientSum`.

    Parameters
    ----------
    ranks : Ranks
    backend : Backend
        Of the arrays.
    """

    overlapping = False

    def __init__(self, ranks: Ranks, backend: Backend) -> None:
        self._ranks, self._backend = ranks, backend

    def __call__(self, *arrays: Array) -> None:
        for array in arrays:
            host = np.array(self._backend.to_host(array))
            self._ranks.sum(host)
            array[...] = self._backend.from_host(host)
