"""How the epochs of a recipe are spent: to the best on the training rows, and from there on all rows."""

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
        Epochs on the training rows, of which the best by its validation loss is kept.
    schedule : str
        Of the learning rate in these.
    patience : int
        They end where the validation loss has not fallen for so many.
    on_all_rows : int
        The most epochs that begin with the weights of the best, on training and validation rows alike.
    """

    validated: int
    schedule: str
    patience: int
    on_all_rows: int

    @classmethod
    def spent(cls, epochs: int, part_on_all_rows: float) -> Epochs:
        """So many epochs, of which a part at most is on all rows."""
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
    """The arguments of `gpubp.train` that are others where a network is trained on all rows at the end.

    Half as many epochs as led to the best are the most: what was learned by heart soon is not to be learned by heart
    now. Nothing is left to be validated on, and none of them ends early.

    Parameters
    ----------
    learning_rate : float
        Of the epochs before.
    most_epochs : int
        As `Epochs.on_all_rows`.
    best_epoch : int or (K,) int
        Counted from 0, as in `History`.
    """
    epochs = np.clip((np.asarray(best_epoch) + 1) // 2, 1, most_epochs).tolist()
    others = {"schedule": "cosine", "patience": None, "update_tolerance": None}
    return {"learning_rate": RATE_ON_ALL_ROWS * learning_rate, "epochs": epochs, **others}


class ValidatedWeights(AbstractContextManager["ValidatedWeights"]):
    """What the epochs on all rows are run in: where they fail, a network has the weights again that it was given with.

    Parameters
    ----------
    net : MLP
        At the best of its validated epochs.
    say : callable
        Told why it stays as it is, where that was to be expected.
    expected : tuple of exception classes
        What ends these epochs and nothing else; others are raised.

    Attributes
    ----------
    failure : BaseException or None
        The expected one that was met.
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
