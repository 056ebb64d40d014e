"""Checks a model file's description of raw rows as a whole: nothing is used before all of it is consistent."""

from __future__ import annotations

import codecs
from typing import Any

import numpy as np

from gpubp.data import encodings, features
from gpubp.data.dates import PERIODS, derived_names
from gpubp.data.number_style import SEPARATORS
from gpubp.data.schema import KINDS, Schema
from gpubp.errors import DataError, UsageError
from gpubp.serialization import check_metadata, refuse_metadata

_TEXTS, _NUMBERS = [str], [float]
FEATURES = {
    "kind": frozenset(features.KINDS),
    "numbers": {
        "names": (None, _TEXTS),
        "width": int,
        "mean": _NUMBERS,
        "scale": _NUMBERS,
        "fill": _NUMBERS,
        "indicators": [int],
        "encodings?": [{"name": str}],
    },
    "categories": [{"name": str, "values": _TEXTS, "indicator": bool}],
    "left_out?": {str: str},
}
SCHEMA = {
    "columns": {
        str: {
            "kind": frozenset(KINDS),
            "why": str,
            "style?": {"decimal": frozenset(".,"), "thousands": frozenset(["", *SEPARATORS]), "unit": str},
            "boolean?": bool,
            "missing?": _TEXTS,
            "date_format?": str,
            "parts?": [frozenset(PERIODS)],
            "categories?": _TEXTS,
        }
    },
    "options": {
        "ignore": _TEXTS,
        "kinds?": {str: frozenset(KINDS)},
        "missing": _TEXTS,
        "decimal?": (None, str),
        "delimiter?": (None, str),
        "encoding?": (None, str),
        "header?": (None, bool),
    },
}
TARGET = {
    "name": (None, str),
    "loss": str,
    "type": frozenset(["values", "labels", "classes", "binary", "one_hot"]),
    "outputs": int,
    "columns?": _TEXTS,
    "classes?": (_TEXTS, [int]),
    "codes?": [int],
    "mean?": _NUMBERS,
    "scale?": _NUMBERS,
    "low?": _NUMBERS,
    "high?": _NUMBERS,
    "quantiles?": _NUMBERS,
    "training_mean?": _NUMBERS,
}
PREPROCESSING = {"features": FEATURES, "target": TARGET, "schema?": SCHEMA}
TRIED_ROWS = 3  # of zeros, on which encodings of numbers are tried


def check_preprocessing(where: str, preprocessing: Any, n_inputs: int | None, n_outputs: int) -> None:
    """Refuse a model file's description of raw rows unless it is consistent, and fits the network.

    Parameters
    ----------
    where : str
        The file, and the entry in it, for messages.
    preprocessing
        As made by `prepare`.
    n_inputs : int or None
        n_0 of the network that takes the encoded rows; None if several networks have encodings of their own.
    n_outputs : int

    Raises
    ------
    DataError
        Naming the entry.
    """
    check_metadata(where, preprocessing, PREPROCESSING)
    check_features(f"{where}.features", preprocessing["features"])
    if n_inputs is not None and (width := features.width(preprocessing["features"])) != n_inputs:
        raise DataError(f"{where}.features make {width} inputs, and the network takes {n_inputs}; the file is damaged")
    _check_target(f"{where}.target", preprocessing["target"], n_outputs)
    if "schema" in preprocessing:
        _check_schema(f"{where}.schema", preprocessing["schema"], preprocessing["features"])


def check_features(where: str, encoding: Any) -> None:
    """Refuse an inconsistent encoding of inputs, which `gpubp.data.features.fit` makes.

    Raises
    ------
    DataError
        Naming the entry.
    """
    check_metadata(where, encoding, FEATURES)
    numbers = encoding["numbers"]
    width, of_table = numbers["width"], encoding["kind"] == "table"
    if (numbers["names"] is not None) != of_table:
        refuse_metadata(f"{where}.numbers.names", numbers["names"], f"that of {features.KINDS[encoding['kind']]}")
    if not 0 <= width < 2**31:
        refuse_metadata(f"{where}.numbers.width", width, "a number of columns")
    if of_table:
        _check_lengths(f"{where}.numbers", numbers, width, "names")
    shared = 1 if len(numbers["mean"]) == 1 and not of_table else width
    _check_lengths(f"{where}.numbers", numbers, shared, "mean", "scale", "fill")
    if 0 in numbers["scale"]:
        refuse_metadata(f"{where}.numbers.scale", numbers["scale"], "a scale, which is not 0")
    if any(not 0 <= j < width for j in numbers["indicators"]):
        refuse_metadata(f"{where}.numbers.indicators", numbers["indicators"], f"numbers of {width} columns")
    for i, column in enumerate(encoding["categories"]):
        _check_distinct(f"{where}.categories[{i}].values", column["values"])
    _check_distinct(f"{where}: the names of its columns", _names(encoding))
    if "encodings" in numbers:
        indicators = features.width_of_indicators(encoding)
        _try_encodings(f"{where}.numbers.encodings", numbers["encodings"], width, indicators)


def _try_encodings(where: str, fitted: list[dict[str, Any]], columns: int, indicators: int) -> None:
    """Refuse encodings of numbers that cannot encode zeros."""
    try:
        out = np.zeros((TRIED_ROWS, encodings.width(fitted)))
        with np.errstate(all="ignore"):
            categories = np.zeros((TRIED_ROWS, indicators), np.bool_)
            encodings.apply(fitted, np.zeros((TRIED_ROWS, columns)), out, categories)
        if not np.isfinite(out).all():
            raise UsageError("they make numbers that are not finite")
    except (UsageError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}; the file is damaged or from another version") from None


def _check_target(where: str, target: dict[str, Any], n_outputs: int) -> None:
    """Refuse an inconsistent encoding of a target, which `gpubp.data.targets.fit` makes."""
    if target["outputs"] != n_outputs:
        refuse_metadata(f"{where}.outputs", target["outputs"], f"{n_outputs}, the outputs of the network")
    kind = target["type"]
    needed = {"values": ("mean", "scale"), "labels": ()}.get(kind, ("classes",))
    if ("low" in target) != ("high" in target):
        raise DataError(f"{where} has only one of low and high; the file is damaged")
    check_metadata(where, target, {name: TARGET[f"{name}?"] for name in needed})
    _check_lengths(where, target, n_outputs, "mean", "scale", "low", "high", "quantiles", "columns", "training_mean")
    if kind in ("classes", "binary", "one_hot"):
        _check_lengths(where, target, 2 if kind == "binary" else n_outputs, "classes", "codes")
    for name in ("classes", "codes"):
        _check_distinct(f"{where}.{name}", target.get(name, []))
    if 0 in target.get("scale", ()):
        refuse_metadata(f"{where}.scale", target["scale"], "a scale, which is not 0")


def _check_schema(where: str, saved: dict[str, Any], encoding: dict[str, Any]) -> None:
    """Refuse a table's schema that lacks a column of the encoding, or has unknown options."""
    try:
        schema = Schema.from_json(saved)
        schema.options.check()
        codecs.lookup(schema.options.encoding or "utf-8")
    except (TypeError, ValueError, LookupError) as error:
        raise DataError(f"{where}: {error}; the file is damaged or from another version") from None
    derived = {part for name, column in schema.columns.items() for part in derived_names(name, column.parts)}
    for name in _names(encoding):
        if name not in schema.columns and name not in derived:
            raise DataError(f'{where}.columns: lacks "{name}"; the file is damaged')


def _names(encoding: dict[str, Any]) -> list[str]:
    """The columns of a table that are encoded."""
    return [*(encoding["numbers"]["names"] or ()), *(column["name"] for column in encoding["categories"])]


def _check_lengths(where: str, record: dict[str, Any], length: int, *names: str) -> None:
    """Refuse lists in a record that do not have this length."""
    for name in names:
        if name in record and len(record[name]) != length:
            raise DataError(f"{where}.{name} has {len(record[name])} entries, not {length}; the file is damaged")


def _check_distinct(where: str, values: list[Any]) -> None:
    if len(set(values)) != len(values):
        refuse_metadata(where, values, "different ones")
