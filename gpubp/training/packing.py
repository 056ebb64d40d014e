"""Many networks at once: grouping them into stacks that fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gpubp.backends import Backend
from gpubp.optimizers import Optimizer
from gpubp.stack import Stack
from gpubp.training.options import TRAINING_OPTIONS

Item = TypeVar("Item")
ORDER_BYTES = 3 * 8  # at most, per row: in a network's own list, in an epoch's table, and on the device


def groups(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items grouped by key, in the order in which keys first appear."""
    groups_by_key: dict[Hashable, list[Item]] = {}
    for item in items:
        groups_by_key.setdefault(key(item), []).append(item)
    return list(groups_by_key.values())


def portions(items: Sequence[Item], bytes_each: int, free: float, at_least: int = 1) -> list[list[Item]]:
    """Cut items into stacks of nearly equal size that fit into `free` bytes, `at_least` of them if there are enough.

    An item that does not fit gets a stack of its own: training refuses it and says what would fit.
    """
    largest = max(1, min(len(items), int(free // bytes_each) if free < float("inf") else len(items)))
    stacks = min(len(items), max(at_least, -(-len(items) // largest)))
    borders = [len(items) * i // stacks for i in range(stacks + 1)]
    return [list(items[first:last]) for first, last in zip(borders, borders[1:], strict=False)]


def in_common(arguments: Mapping[str, Any]) -> Hashable:
    """Those arguments of `gpubp.train` that networks must share to be trained in one stack."""
    shared: list[Any] = []
    for option in TRAINING_OPTIONS.values():
        if option.of_optimizer:
            continue
        value = arguments[option.name]
        if not option.per_network:
            shared.append(value)
        elif option.optional and option.off is None:
            shared.append(value is None)
    return tuple(shared)


def merged_arguments(arguments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of `gpubp.train` for a stack, from those of its networks, which agree in `in_common`."""

    def merged(name: str, values: list[Any]) -> Any:
        if name == "optimizer_options":
            return {key: [options[key] for options in values] for key in values[0]}
        if all(value == values[0] for value in values):
            return values[0]
        off = TRAINING_OPTIONS[name].off
        return [off if value is None else value for value in values]

    return {name: merged(name, [each[name] for each in arguments]) for name in arguments[0]}


def bytes_of_one(stack: Stack, batch_size: int, optimizer: str | Optimizer, rows: int, keeps_best: bool) -> int:
    """Bytes for one more network like those of `stack`, trained on `rows` rows, with a copy of its best weights."""
    memory = stack.memory(min(batch_size, rows), optimizer)
    return memory["total"] + (memory["parameters"] if keeps_best else 0) + ORDER_BYTES * rows


def memory_for_stacks(backend: Backend) -> float:
    """Bytes that stacks may take: the device's, or on a CPU half of the free memory, to avoid swapping."""
    return min(backend.free_memory(), system_memory() / 2)


def system_memory() -> float:
    """Bytes that the operating system can provide; infinite if it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            amounts = dict(line.split(":", 1) for line in file)
        return float(amounts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
