"""Networks of a stack with different numbers of rows: which of them take a step together, and views of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.optimizers import Optimizer
from gpubp.stack import neighbours


class RowGroup(NamedTuple):
    """Steps `first`, first + 1, … of an epoch, in which consecutive networks have the same number of rows."""

    networks: slice
    rows: int
    first: int
    steps: int


def row_groups(counts: NDArray[np.int64], batch_size: int, borders: Iterable[int] = ()) -> list[RowGroup]:
    """The steps of an epoch in their order.

    As long as all networks have full batches, they step together; a last, smaller batch is taken together by
    consecutive networks for which it has the same size. So it pays to place networks with equally many rows next to
    each other.

    Parameters
    ----------
    counts : (K,) int
        Rows of each network.
    batch_size : int
    borders : iterable of int
        Steps that no group extends across.
    """
    full, last = counts // batch_size, -(-counts // batch_size)
    steps = sorted({0, *full.tolist(), *last.tolist(), *(b for b in borders if b < last.max())})
    groups = []
    for first, end in pairwise(steps):
        rows = np.clip(counts - first * batch_size, 0, batch_size)
        groups += [RowGroup(networks, size, first, end - first) for networks, size in neighbours(rows) if size]
    return groups


def map_arrays(value: Any, then: Callable[[Array], Array], known: dict[int, Any] | None = None) -> Any:
    """A copy of nested records with ``then(array)`` in place of every array; an array that occurs twice stays one."""
    known = {} if known is None else known
    if value is None or isinstance(value, (bool, int, float, str, Optimizer)):
        return value
    if id(value) in known:
        return known[id(value)]
    mapped: Any = value
    if isinstance(value, dict):
        mapped = {name: map_arrays(x, then, known) for name, x in value.items()}
    elif isinstance(value, (list, tuple)):
        mapped = type(value)(map_arrays(x, then, known) for x in value)
    elif is_dataclass(value) and not isinstance(value, type):
        attributes = {field.name: getattr(value, field.name) for field in fields(value)}
        mapped = type(value)(**{name: map_arrays(x, then, known) for name, x in attributes.items()})
    elif hasattr(value, "ndim"):
        mapped = then(value)
    known[id(value)] = mapped
    return mapped


def of_networks(value: Any, networks: slice) -> Any:
    """Some networks' part of a record of arrays (K or 1, …), as views without copying."""
    return map_arrays(value, lambda array: array if len(array) == 1 else array[networks])


def compacted(value: Any, networks: NDArray[np.intp]) -> Any:
    """A record of arrays (K or 1, …) with only `networks` kept, moved to the front of the same memory."""

    def move(array: Array) -> Array:
        if len(array) == 1:
            return array
        for place, k in enumerate(networks.tolist()):
            if place != k:
                array[place] = array[k]
        return array[: len(networks)]

    return map_arrays(value, move)
