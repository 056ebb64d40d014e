"""The language of a search's grid: ``learning-rate=1e-4,1e-3;hidden=64,128-64``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from gpubp.cli.parsing import parse_hidden, parse_list
from gpubp.cli.settings import Settings
from gpubp.errors import UsageError, suggest
from gpubp.optimizers import OPTIMIZERS

LAYERED = ("hidden", "activation")  # lists, one entry per layer: with commas as options, with "-" in a grid
BETWEEN_LAYERS = re.compile(r"-(?![^(]*\))")
FORM = "write NAME=VALUE,VALUE;NAME=VALUE,VALUE"
WHY_NOT = {
    "loss": "values of different losses cannot be compared; search with each --loss by itself",
    "seed": "each candidate is trained with the same seeds; --seeds N makes N of them, from --seed on",
}


@dataclass(frozen=True)
class Grid:
    """What is searched.

    Attributes
    ----------
    names : tuple of str
        The options that a grid names: "learning_rate".
    candidates : list of Settings
        Every combination, once.
    """

    names: tuple[str, ...]
    candidates: list[Settings]


def parse_grid(
    texts: Sequence[str], settings: Settings, fixed: Container[str] = (), others: Iterable[str] = ()
) -> Grid:
    """Every combination of the values that a grid lists; of several grids, those of each.

    Parameters
    ----------
    texts : sequence of str
    settings : Settings
        What the grids leave as it is.
    fixed : container of str
        Options that the user gave a value, ``"learning_rate"``: they cannot vary as well.
    others : iterable of str
        Options of the command that no grid can vary.

    Raises
    ------
    UsageError
        For what cannot be read, is unknown, or cannot be searched.
    """
    grids = [_read(text, fixed, others) for text in texts]
    found = [
        settings.having(dict(zip(grid, values, strict=True)))
        for grid in grids
        for values in itertools.product(*grid.values())
    ]
    return Grid(tuple(dict.fromkeys(name for grid in grids for name in grid)), list(dict.fromkeys(found)))


def shown(names: Iterable[str], candidate: Settings) -> dict[str, str]:
    """What tells a candidate from others, as a grid writes it: ``{"learning-rate": "0.001"}``."""
    return {_dashed(name): _shown(name, candidate.get(name)) for name in names}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name in LAYERED:
        return "-".join(parse_list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(text: str, fixed: Container[str], others: Iterable[str]) -> dict[str, list[Any]]:
    """The values of each option of one grid."""
    parsers, found = _parsers(), {}
    for part in text.split(";"):
        given, equals, values = (piece.strip() for piece in part.partition("="))
        name = given.replace("-", "_")
        if not given or not equals:
            raise UsageError(f'--grid "{text}": "{part.strip()}" has no NAME=VALUES; {FORM}')
        if name not in parsers:
            reason = WHY_NOT.get(name) or f"it is one for the whole search; use --{_dashed(name)}"
            if name in (*WHY_NOT, *others):
                raise UsageError(f"--grid: {given} cannot be searched: {reason}")
            raise UsageError(f'--grid: unknown option "{given}"; {suggest(_dashed(name), map(_dashed, parsers))}')
        if name in found:
            raise UsageError(f"--grid: {given} is there twice; list all its values once")
        if name in fixed:
            raise UsageError(f"--grid: {given} is also given as --{given}; leave one of them out")
        found[name] = [parsers[name](given, value) for value in parse_list(values)]
    return found


def _parsers() -> Mapping[str, Callable[[str, str], Any]]:
    """How the values of each option that can be searched are read, by the types of `Settings`."""
    by_type = {str: _text, int: _whole, float: _number, int | None: _or_none(_whole), float | None: _or_none(_number)}
    types = get_type_hints(Settings)
    found = {name: by_type[types[name]] for name in types if types[name] in by_type and name not in WHY_NOT}
    of_optimizers = {name for make in OPTIMIZERS.values() for name in make().options}
    return dict.fromkeys(sorted(of_optimizers), _number) | found | {"hidden": _hidden, "activation": _layers}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f'--grid: {name}: "{text}" is not a number') from None


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f'--grid: {name}: "{text}" is not a whole number of at least 1')
    return int(text)


def _or_none(parse: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    return lambda name, text: None if text.lower() == "none" else parse(name, text)


def _text(name: str, text: str) -> str:
    if not text:
        raise UsageError(f"--grid: {name}: a value is empty; {FORM}")
    return text


def _layers(name: str, text: str) -> str:
    """One entry per layer with "-" between them, as the option has them."""
    return ",".join(part.strip() for part in BETWEEN_LAYERS.split(_text(name, text)))


def _hidden(name: str, text: str) -> str:
    sizes = _layers(name, text)
    try:
        parse_hidden(sizes)
    except UsageError:
        raise UsageError(
            f'--grid: hidden: "{text}" is not the sizes of hidden layers; write "-" between layers and "," between '
            "candidates, such as hidden=none,64,128-64"
        ) from None
    return sizes


def _dashed(name: str) -> str:
    return name.replace("_", "-")
