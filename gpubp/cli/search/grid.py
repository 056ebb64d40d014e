"""The language of a search's grid: ``learning-rate=1e-4,1e-3;hidden=64,128-64``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from gpubp.cli.options import OPTIONS
from gpubp.cli.parsing import dashed, parse_hidden, parse_list
from gpubp.cli.settings import Settings
from gpubp.errors import UsageError, suggest
from gpubp.optimizers import OPTIMIZERS
from gpubp.training.options import Option

Parser: TypeAlias = Callable[[str, str], Any]  # takes the option's name as written, and the text of a value

LAYERED = ("hidden", "activation")  # lists, one entry per layer: with commas as options, with "-" in a grid
BETWEEN_LAYERS = re.compile(r"-(?![^(]*\))")
FORM = "write NAME=VALUE,VALUE;NAME=VALUE,VALUE"
NOT_SEARCHED = {
    "seed": "each candidate is trained with the same seeds; --seeds N makes N of them, from --seed on",
    **{name: option.not_searched for name, option in OPTIONS.items() if option.not_searched},
}


@dataclass(frozen=True)
class Grid:
    """The grid of a search.

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
    """Every combination of the values that a grid lists; for several grids, those of each.

    Parameters
    ----------
    texts : sequence of str
    settings : Settings
        The values that the grids do not vary.
    fixed : container of str
        Options to which the user gave a value, such as ``"learning_rate"``; they cannot vary.
    others : iterable of str
        Options of the command that no grid can vary.

    Raises
    ------
    UsageError
        For anything that cannot be parsed, is unknown, or cannot be searched.
    """
    grids = [_read(text, fixed, others) for text in texts]
    candidates = [
        settings.changed(dict(zip(grid, values, strict=True)))
        for grid in grids
        for values in itertools.product(*grid.values())
    ]
    different = {tuple(candidate.as_dict().items()): candidate for candidate in candidates}
    return Grid(tuple(dict.fromkeys(name for grid in grids for name in grid)), list(different.values()))


def shown(names: Iterable[str], candidate: Settings) -> dict[str, str]:
    """The values that distinguish a candidate from others, in the grid's notation: ``{"learning-rate": "0.001"}``."""
    return {dashed(name): _shown(name, candidate.get(name)) for name in names}


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name in LAYERED:
        return "-".join(parse_list(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(text: str, fixed: Container[str], others: Iterable[str]) -> dict[str, list[Any]]:
    """The values of each option of one grid."""
    parsers = _parsers()
    grid: dict[str, list[Any]] = {}
    for part in text.split(";"):
        written, equals, values = (piece.strip() for piece in part.partition("="))
        name = written.replace("-", "_")
        if not written or not equals:
            raise UsageError(f'--grid "{text}": "{part.strip()}" has no NAME=VALUES; {FORM}')
        if name not in parsers:
            reason = NOT_SEARCHED.get(name) or f"it is one for the whole search; use --{dashed(name)}"
            if name in (*NOT_SEARCHED, *others):
                raise UsageError(f"--grid: {written} cannot be searched: {reason}")
            raise UsageError(f'--grid: unknown option "{written}"; {suggest(dashed(name), map(dashed, parsers))}')
        if name in grid:
            raise UsageError(f"--grid: {written} is there twice; list all its values once")
        if name in fixed:
            raise UsageError(f"--grid: {written} is also given as --{written}; leave one of them out")
        grid[name] = [parsers[name](written, value) for value in parse_list(values)]
    return grid


def _parsers() -> Mapping[str, Parser]:
    """The parser of values for each option that can be searched."""
    of_optimizers = {name for make in OPTIMIZERS.values() for name in make().options}
    parsers: dict[str, Parser] = dict.fromkeys(sorted(of_optimizers), _number)
    parsers |= {name: _parser(option) for name, option in OPTIONS.items() if not option.not_searched}
    return parsers | {"hidden": _hidden, "activation": _layers}


def _parser(option: Option) -> Parser:
    """The parser for one value of an option."""
    parse: Parser = _text if option.type is str else _number
    if option.type is int:
        parse = partial(_whole, low=int(option.low))
    return _or_none(parse) if option.optional_in_command else parse


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f'--grid: {name}: "{text}" is not a number') from None


def _whole(name: str, text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise UsageError(f'--grid: {name}: "{text}" is not a whole number of at least {low}')
    return int(text)


def _or_none(parse: Parser) -> Parser:
    return lambda name, text: None if text.lower() == "none" else parse(name, text)


def _text(name: str, text: str) -> str:
    if not text:
        raise UsageError(f"--grid: {name}: a value is empty; {FORM}")
    return text


def _layers(name: str, text: str) -> str:
    """One entry per layer separated by "-", in the option's notation."""
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
