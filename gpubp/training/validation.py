"""What a training is validated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp.errors import UsageError
from gpubp.network import MLP


@dataclass(frozen=True)
class Validation:
    """What is evaluated after every epoch: X, y and weights (m,) or (K, m), or of each network its `rows` of them."""

    X: Any
    y: Any
    weight: Any
    rows: Sequence[NDArray[np.int64]] | None = None


def validation_of(
    net: MLP, data: Sequence[Any] | None, rows: Sequence[Any] | None, training: tuple[Any, Any, Any]
) -> Validation | None:
    """Checked before anything is trained."""
    if rows is not None:
        if data is not None:
            raise UsageError("validation_data and validation_rows are both given; give one of them")
        return Validation(*training, checks.rows(rows, net.models, len(training[0]), "validation_rows"))
    if data is None:
        return None
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise UsageError("validation_data does not fit; give (X, y) or (X, y, sample_weight)")
    X = checks.inputs(data[0], net.layer_sizes[0], net.precision, "validation X")
    y = checks.targets(data[1], len(X), net.layer_sizes[-1], net.loss, net.precision, "validation y")
    weight = checks.sample_weight(data[2], len(X), "validation sample_weight") if len(data) == 3 else None
    return Validation(X, y, weight)
