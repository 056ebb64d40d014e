"""The command line's own small languages: lists, sizes, a file or a fraction."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpubp.data.encodings import ENCODINGS
from gpubp.data.source import option
from gpubp.errors import UsageError, suggest
from gpubp.precision import PRECISIONS

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"0*[1-9][0-9]*", re.ASCII)


def parse_list(text: str) -> list[str]:
    """The parts of a comma-separated list; commas inside parentheses belong to a part.

    >>> parse_list("elu(alpha=0.5), huber(1,2)")
    ['elu(alpha=0.5)', 'huber(1,2)']
    """
    return [part.strip() for part in re.split(r",(?![^(]*\))", text)]


def parse_hidden(text: str) -> list[int]:
    """The sizes of the hidden layers: ``512,256``, or ``none``.

    Raises
    ------
    UsageError
        If a part is not a whole number of at least 1.
    """
    if text.strip().lower() == "none":
        return []
    parts = parse_list(text)
    wrong = next((part for part in parts if not _SIZE.fullmatch(part)), None)
    if wrong is not None:
        named = f' ("{wrong}")' if len(parts) > 1 else ""
        raise UsageError(
            f'--hidden "{text}"{named}: not the sizes of hidden layers; write whole numbers of at least 1 '
            'with commas, such as 128 or 512,256, or "none"'
        )
    return [int(part) for part in parts]


def parse_layers(text: str) -> list[int]:
    """The sizes of all layers, inputs and outputs included: ``784,512,10``.

    Raises
    ------
    UsageError
        If there are fewer than two, or a part is not a whole number of at least 1.
    """
    parts = parse_list(text)
    wrong = next((part for part in parts if not _SIZE.fullmatch(part)), None)
    if wrong is not None or len(parts) < 2:
        named = f' ("{wrong}")' if wrong is not None and len(parts) > 1 else ""
        raise UsageError(
            f'--layers "{text}"{named}: not the sizes of layers; write inputs, hidden layers and outputs, whole '
            "numbers of at least 1, with commas, such as 784,512,10"
        )
    return [int(part) for part in parts]


def parse_precisions(text: str) -> list[str]:
    """``float32`` or ``float32,tf32``, each once.

    Raises
    ------
    UsageError
        If one is unknown.
    """
    names = list(dict.fromkeys(parse_list(text)))
    for name in names:
        if name not in PRECISIONS:
            raise UsageError(f'--precision "{text}": unknown precision "{name}"; {suggest(name, PRECISIONS)}')
    return names


def parse_size(text: str | None) -> int | None:
    """A number of bytes: ``4GB``, ``500 MB``, ``1.5GiB``; None stays None. The unit is required.

    Raises
    ------
    UsageError
        If it is not such a number.
    """
    if text is None:
        return None
    match = _BYTES.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f'--memory-limit "{text}": no size; write it with its unit, as 4GB or 500MB')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index((match[2] or " ").upper()))


def parse_test(text: str | None) -> float | str | None:
    """``--test``: a number is a fraction of the rows, anything else the path of the test data."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def parse_class_weight(text: str | None, classes: Sequence[Any] | None) -> Any:
    """``--class-weight``: "balanced", or weights by class name, converted to weights by class index.

    Raises
    ------
    UsageError
        If there are no classes, a name is not a class, or a weight is missing.
    """
    if text is None or classes is None:
        if text is not None:
            raise UsageError("--class-weight: the target has no classes; leave it out")
        return None
    if text == "balanced":
        return text
    numbers = {str(name): number for number, name in enumerate(classes)}
    weights = {}
    for part in _parse_texts(text):
        name, _, weight = part.rpartition("=")
        if name not in numbers:
            raise UsageError(f'--class-weight "{part}": write "balanced", or CLASS=WEIGHT; {suggest(name, numbers)}')
        try:
            weights[numbers[name]] = float(weight)
        except ValueError:
            raise UsageError(f'--class-weight "{part}": "{weight}" is no number') from None
        if not 0 <= weights[numbers[name]] < float("inf"):
            raise UsageError(f'--class-weight "{part}": weights are finite and not negative')
    return weights


def parse_table_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `gpubp.data.read` for a command's options on reading a table.

    Parameters
    ----------
    values : mapping
        The command's parameters by name; a column name with a comma is quoted.

    Raises
    ------
    UsageError
        If ``--kind`` does not name columns and kinds, or ``--encoding`` names an encoding of numbers.
    """
    asked = values.get("header", False)
    header = False if values["no_header"] else True if asked else None
    if asked and values["no_header"]:
        raise UsageError("--header and --no-header contradict each other; leave out one of them")
    kinds = {}
    for part in _parse_texts(values["kind"]):
        column, equals, kind = part.rpartition("=")
        if not equals:
            raise UsageError(f'--kind "{part}": not COLUMN=KIND; write, for example, zip=category,age=number')
        kinds[column] = kind
    if (values["encoding"] or "").partition("+")[0].partition("(")[0] in ENCODINGS:
        raise UsageError(
            f'--encoding "{values["encoding"]}": that is how a CSV file writes its characters; for how numbers are '
            f"encoded, {option('--numbers', values['encoding'])}"
        )
    return {
        "ignore": _parse_texts(values["ignore"]),
        "kinds": kinds,
        "missing": _parse_texts(values["missing"]),
        "decimal": values["decimal"],
        "delimiter": parse_delimiter(values["delimiter"]),
        "encoding": values["encoding"],
        "header": header,
    }


def parse_delimiter(text: str | None) -> str | None:
    """``--delimiter``: a character, or "tab"."""
    return "\t" if text in ("tab", r"\t") else text


def _parse_texts(text: str | None) -> list[str]:
    """The parts of a comma-separated list; a part with a comma is quoted."""
    return next(csv.reader([text], skipinitialspace=True)) if text else []


def dashed(name: str) -> str:
    """The name of an option on the command line: ``batch-size``."""
    return name.replace("_", "-")
