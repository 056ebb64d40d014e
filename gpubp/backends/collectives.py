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

    def beside(self, first: Sequence[Array], last: Sequence[Array]) -> AbstractContextManager[None]:
        """Where a step is run that begins sums; entered and left by all processes together.

        Parameters
        ----------
        first : sequence of Array
            Each is zero, of one piece and as large as one of the arrays whose sums the step begins, in this order.
            After `join` the step adds that array to it. In the end these are the sums of all processes.
        last : sequence of Array
            Added up at the end, where they lie.
        """

    def begin(self, array: Array) -> None:
        """Begin to add up an array, in one piece, which is left alone until `join`."""

    def join(self) -> None:
        """Let what comes next in the step run after those sums that change the arrays that they are of."""
