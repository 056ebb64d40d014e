"""Many networks at once: how they are put together in stacks that fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gpubp.backends import Backend
from gpubp.optimizers import Optimizer
from gpubp.stack import Stack

Item = TypeVar("Item")
ORDER_BYTES = 3 * 8  # of a row: its place in the order that is drawn, in the epoch's table and on the device


def groups(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items whose key is the same, in the order in which keys first appear."""
    found: dict[Hashable, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())


def portions(items: Sequence[Item], bytes_each: int, free: float, at_least: int = 1) -> list[list[Item]]:
    """Cut items into stacks of nearly equal size that fit into so many bytes, `at_least` of them if there are enough.

    An item that fits nowhere has a stack of its own: training refuses it with what would fit.
    """
    largest = max(1, min(len(items), int(free // bytes_each) if free < float("inf") else len(items)))
    stacks = min(len(items), max(at_least, -(-len(items) // largest)))
    borders = [len(items) * i // stacks for i in range(stacks + 1)]
    return [list(items[first:last]) for first, last in zip(borders, borders[1:], strict=False)]


def in_common(arguments: Mapping[str, Any]) -> Hashable:
    """Those arguments of `gpubp.train` of which a stack has one: networks that differ in them are trained apart."""
    return (
        arguments["optimizer"],
        arguments["batch_size"],
        arguments["patience"] is None,
        arguments["update_tolerance"] is None,
    )


def merged_arguments(arguments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of `gpubp.train` for a stack, from those of its networks, which agree in what is `in_common`."""

    def merged(name: str, own: list[Any]) -> Any:
        if name == "optimizer_options":
            return {key: [options[key] for options in own] for key in own[0]}
        if all(value == own[0] for value in own):
            return own[0]
        if name == "max_grad_norm":
            return [float("inf") if norm is None else norm for norm in own]
        return own

    return {name: merged(name, [one[name] for one in arguments]) for name in arguments[0]}


def bytes_of_one(stack: Stack, batch_size: int, optimizer: str | Optimizer, rows: int, keeps_best: bool) -> int:
    """Bytes for one more network like those of `stack`, trained on so many rows, with a copy of its best weights."""
    memory = stack.memory(min(batch_size, rows), optimizer)
    return memory["total"] + (memory["parameters"] if keeps_best else 0) + ORDER_BYTES * rows


def memory_for_stacks(backend: Backend) -> float:
    """Bytes that stacks may take: the device's, and on a CPU half of the memory that is free, as it is swapped else."""
    return min(backend.free_memory(), _system_memory() / 2)


def _system_memory() -> float:
    """Bytes that the operating system can give, infinite where it does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        return float(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
