"""How a recipe spends its epochs: first on the training rows, then, from the best weights, on all rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import DivergenceError
from gpubp.training.ranks import described

if TYPE_CHECKING:
    from gpubp.network import MLP

PATIENCE = 0.4  # of the epochs: without a lower validation loss for so many, a network goes back to its best weights
RATE_ON_ALL_ROWS = 0.3  # of the learning rate, at the first of the epochs on all rows


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How a recipe's epochs are spent.

    Attributes
    ----------
    validated : int
        Epochs on the training rows; the weights with the lowest validation loss are kept.
    schedule : str
        The learning-rate schedule of these epochs.
    patience : int
        Stop after this many epochs without a lower validation loss.
    on_all_rows : int
        The most epochs that follow from the best weights, on training and validation rows together.
    """

    validated: int
    schedule: str
    patience: int
    on_all_rows: int

    @classmethod
    def spent(cls, epochs: int, part_on_all_rows: float) -> Epochs:
        """Divide `epochs` so that at most the given part is on all rows."""
        on_all_rows = round(part_on_all_rows * epochs)
        if not on_all_rows:
            return cls(validated=epochs, schedule="cosine", patience=epochs, on_all_rows=0)
        return cls(
            validated=epochs - on_all_rows,
            schedule="cosine(0.1)",
            patience=round(PATIENCE * epochs),
            on_all_rows=on_all_rows,
        )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `gpubp.train` for the epochs on the training rows."""
        return {"epochs": self.validated, "schedule": self.schedule, "patience": self.patience}


def arguments_on_all_rows(learning_rate: float, most_epochs: int, best_epoch: Any) -> dict[str, Any]:
    """The arguments of `gpubp.train` that differ when a network is trained on all rows at the end.

    There are at most half as many epochs as led to the best weights: rows that the network soon memorized should not be
    memorized now. No rows are left for validation, so nothing stops these epochs early.

    Parameters
    ----------
    learning_rate : float
        That of the epochs before.
    most_epochs : int
        `Epochs.on_all_rows`.
    best_epoch : int or (K,) int
        Counted from 0, as in `History`.
    """
    epochs = np.clip((np.asarray(best_epoch) + 1) // 2, 1, most_epochs).tolist()
    others = {"schedule": "cosine", "patience": None, "update_tolerance": None}
    return {"learning_rate": RATE_ON_ALL_ROWS * learning_rate, "epochs": epochs, **others}


class ValidatedWeights(AbstractContextManager["ValidatedWeights"]):
    """A context for the epochs on all rows: if they fail, the network gets its validated weights back.

    Parameters
    ----------
    net : MLP
        With the weights of its best validated epoch.
    say : callable
        Receives the reason if an expected failure leaves the network as it was.
    expected : tuple of exception classes
        Exceptions that end only these epochs; all others are raised.

    Attributes
    ----------
    failure : BaseException or None
        The expected exception, if there was one.
    """

    def __init__(
        self,
        net: MLP,
        say: Callable[[str], Any],
        expected: tuple[type[BaseException], ...] = (DivergenceError,),
    ) -> None:
        self._net, self._say, self._expected = net, say, expected
        self.failure: BaseException | None = None

    def __enter__(self) -> ValidatedWeights:
        self._theta = self._net.stack.theta.copy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        self._net.stack.theta[...] = self._theta
        self._net.stack.refresh()
        if not isinstance(error, self._expected):
            return False
        self.failure = error
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else described(error)
        self._say(f"not trained on the validation rows as well: {why}")
        return True
