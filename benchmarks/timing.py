"""Timing two or more things against each other on a machine that is not quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> dict[str, np.ndarray]:
    """Seconds of each function, (rounds,), taken by turns so that a slow spell hits all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warm_up + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Median of a/b over the rounds, with its quartiles."""
    low, middle, high = np.percentile(a / b, [25, 50, 75])
    return float(middle), float(low), float(high)
