"""Texts that stand for a missing value."""

from __future__ import annotations

from collections.abc import Iterable

# Everywhere, in upper or lower case: pandas' default markers, and "?".
ALWAYS = frozenset("|?|na|nan|-nan|nat|null|n/a|<na>|#n/a|#n/a n/a|#na|1.#ind|-1.#ind|1.#qnan|-1.#qnan".split("|"))
# Among numbers and dates only: elsewhere "none" and "unknown" may well be categories, or classes to predict.
AMONG_NUMBERS = frozenset(
    r"none|-|--|–|—|.|..|\n|(null)|unknown|missing|undefined|n.a.|n.d.|(blank)|#div/0!|#value!|#ref!|#num!|#name?".split(
        "|"
    )
)
PLAINEST = "nothing, NA, NaN, null, None, N/A or ?"  # for messages


def is_missing(text: str, declared: Iterable[str] = (), among_numbers: bool = False) -> bool:
    """Whether a cell says that its value is missing.

    Parameters
    ----------
    text : str
        Without spaces around it.
    declared : iterable of str
        Markers declared by the user; as numbers, "-999" and "-999.0" are equal.
    among_numbers : bool
        Whether the column is one of numbers or dates.
    """
    lowered = text.lower()
    if lowered in ALWAYS or (among_numbers and lowered in AMONG_NUMBERS):
        return True
    return is_declared(text, declared)


def is_declared(text: str, declared: Iterable[str]) -> bool:
    """Whether the user declared this text to mean a missing value."""
    return any(text == marker or _same_number(text, marker) for marker in declared)


def declared_numbers(declared: Iterable[str]) -> list[float]:
    """The numbers among the markers that the user declared."""
    return [number for marker in declared if (number := _as_number(marker)) is not None]


def _same_number(text: str, marker: str) -> bool:
    number = _as_number(marker)
    return number is not None and number == _as_number(text)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
