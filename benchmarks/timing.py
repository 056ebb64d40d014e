"""Functions timed by turns, a number of rounds that is known before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gpubp.bench.timing import turns


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each function, (rounds,), by turns, after `warm_up` rounds that are not measured."""
    measured = list(islice(turns(functions), warm_up, warm_up + rounds))
    return {name: np.array([seconds[name] for seconds in measured]) for name in functions}
