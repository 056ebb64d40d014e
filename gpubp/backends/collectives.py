"""Sums over several processes: what the training of ranks asks of whatever adds up their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from gpubp._typing import Array


class Processes(Protocol):
    """What a sum needs of the processes that take part in it."""

    rank: int
    size: int

    def texts(self, text: str) -> list[str]:
        """The texts that the processes give, in their order."""

    def meet(self) -> None:
        """Wait until all have come here, or hear that one has failed."""


class GradientSum(Protocol):
    """Puts the sums of all processes' arrays into each of them.

    Attributes
    ----------
    overlapping : bool
        Whether it is an `OverlappingSum`.
    """

    overlapping: bool

    def __call__(self, *arrays: Array) -> None:
        """Add up arrays, each of them in one piece."""


class OverlappingSum(GradientSum, Protocol):
    """A `GradientSum` that a captured step can begin between its operations, and that goes on beside them."""

    def beside(self, arrays: Sequence[Array]) -> AbstractContextManager[None]:
        """Where a step is run that begins sums: entered by all processes together, and left once the sums are there.

        Parameters
        ----------
        arrays : sequence of Array
            One for each sum that the step begins, of its size. A process that fails before it has begun all may have to
            give them instead, so that the others do not wait.
        """

    def begin(self, array: Array) -> None:
        """Begin to add up an array, in one piece, where it lies; nothing else touches it until `beside` is left."""
