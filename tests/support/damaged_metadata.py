"""Model files whose metadata are not what gpubp writes, but whose digest is right: what no digest can notice."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from gpubp import serialization

OTHER_VALUES = (None, [], {}, "x", -1, 0, 0.5, 10**30, 10**400, True, [[]], [None], "\u0000", {"x": 1})


def variants(metadata: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every entry of the metadata deleted, replaced by another value, shortened or repeated, one at a time."""
    for place in list(_places(metadata, ())):
        *parents, last = place
        name = "/".join(map(str, place))
        for value in [*OTHER_VALUES, *_near(_at(metadata, place))]:
            yield f"{name} = {str(value)[:40]!r}", _changed(metadata, parents, last, value)
        other = copy.deepcopy(metadata)
        del _at(other, parents)[last]
        yield f"{name} deleted", other


def save_with(path: Path, original: Path, metadata: dict[str, Any]) -> None:
    """Write the tensors of a model file with other metadata."""
    serialization.save(path, load_file(original), metadata)


def metadata_of(path: Path) -> dict[str, Any]:
    """The metadata of a model file."""
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    metadata: dict[str, Any] = json.loads(header["__metadata__"]["gpubp"])
    return metadata


def _places(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The keys and indices that lead to every entry; of a long list, to the first and the last."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        if isinstance(value, dict) or key in (0, len(value) - 1):
            yield (*place, key)
            yield from _places(entry, (*place, key))


def _at(value: Any, place: Any) -> Any:
    for key in place:
        value = value[key]
    return value


def _changed(metadata: dict[str, Any], parents: list[Any], last: Any, value: Any) -> dict[str, Any]:
    other = copy.deepcopy(metadata)
    _at(other, parents)[last] = value
    return other


def _near(value: Any) -> list[Any]:
    """Values of the same type that are something else."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, -value, value * 1e290]
    if isinstance(value, list) and value:
        return [value[:-1], [*value, value[0]], value[::-1], [value]]
    if isinstance(value, str):
        return [value + "x", [value]]
    return []
