"""The rules that end the training of a network before its last epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """What ends the training of a network before its last epoch; None if nothing does.

    Attributes
    ----------
    patience : (K,) int or None
    update_tolerance : (K,) float64 or None
    """

    patience: NDArray[np.int64] | None
    update_tolerance: NDArray[np.float64] | None
