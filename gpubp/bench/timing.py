"""Times functions against each other on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Any) -> Spread:
    """Median and quartiles of numbers, one from each round."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return Spread(median, low, high)


def ratio(a: Any, b: Any) -> Spread:
    """Median and quartiles of a/b, computed round by round: a slow phase of the machine affects both."""
    return spread(np.divide(a, b))


def turns(functions: Mapping[str, Callable[[], object]]) -> Iterator[dict[str, float]]:
    """In endless rounds, the seconds that each function takes, one after the other."""
    while True:
        seconds = {}
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name] = time.perf_counter() - start
        yield seconds
