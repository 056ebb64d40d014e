"""The encodings of numbers (`gpubp.data.encodings`) as ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from gpubp.data.encodings import ENCODINGS, FURTHEST
from gpubp.errors import UsageError
from gpubp.interchange.graph import Tensor
from gpubp.registry import parse


def encoded(fitted: Mapping[str, Any], values: Tensor, categories: Tensor | None) -> Tensor:
    """The inputs (rows, width) that an encoding makes of columns of numbers (rows, n) in float64.

    `categories` (rows, c) says which category each row is in, for encodings that look at them too.

    Raises
    ------
    UsageError
        For an encoding that ONNX cannot express.
    """
    name, _, arguments = parse("encoding of numbers", fitted["name"])
    if name not in FORMS:
        raise UsageError(
            f'the encoding of numbers "{name}" has no form in ONNX; train with --numbers of {", ".join(FORMS)}'
        )
    if categories is not None and ENCODINGS[name]().sees_categories:
        values = values.graph.concatenate([values, categories.cast(np.float64)], axis=1)
    return FORMS[name](fitted, values, arguments)


def _standard(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return _scaled(fitted, values)


def _robust(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return _smoothly_clipped(fitted, values, float(arguments.get("clip", 3.0)))


def _fourier(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    graph, frequencies = values.graph, np.array(fitted["frequencies"])
    columns = np.repeat(np.arange(len(frequencies)), frequencies.shape[1])
    clipped = graph.take(_smoothly_clipped(fitted, values, 3.0), graph.constant(columns), axis=1)
    turns = clipped * graph.constant(2 * np.pi * frequencies.reshape(1, -1))
    return (turns + graph.constant(np.array(fitted["phases"]).reshape(1, -1))).apply("Cos")


def _piecewise(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    graph, (columns, lower, upper) = values.graph, _bins(fitted)
    cells = graph.take(values, graph.constant(columns), axis=1)
    within = (cells - graph.constant(lower)) / graph.constant(upper - lower)
    zero, one = (graph.constant(np.array(bound)) for bound in (0.0, 1.0))
    return graph.node("Clip", [within, zero, one], np.float64)


def _steps(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """1 where lower < value ≤ upper; the outermost bins are unbounded."""
    graph, (columns, lower, upper) = values.graph, _bins(fitted)
    widths = [len(edges) - 1 for edges in fitted["edges"]]
    last = np.cumsum(widths) - 1
    lower[last - np.array(widths) + 1], upper[last] = -np.inf, np.inf
    cells = graph.take(values, graph.constant(columns), axis=1)
    above, below = cells > graph.constant(lower), cells <= graph.constant(upper)
    return graph.node("And", [above, below], np.bool_).cast(np.float64)


def _forest(fitted: Mapping[str, Any], values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """A row is in the leaf where the splits that it is above, minus those it should be below, are as many as needed."""
    graph = values.graph
    cells = graph.take(values, graph.constant(np.array(fitted["columns"], np.int64)), axis=1)
    above = (cells > graph.constant(np.array(fitted["borders"], np.float64))).cast(np.float64)
    signs = np.zeros((len(fitted["columns"]), len(fitted["leaves"])))  # (splits, leaves)
    for leaf, path in enumerate(fitted["leaves"]):
        for split in path:  # s above it, ~s below
            signs[max(split, ~split), leaf] = 1 if split >= 0 else -1
    passed_of_leaf = graph.node("MatMul", [above, graph.constant(signs)], np.float64)
    inside = passed_of_leaf.equals(graph.constant((signs > 0).sum(axis=0).astype(np.float64)))
    return inside.cast(np.float64) * float(arguments.get("height", 0.25))


FORMS: dict[str, Callable[[Mapping[str, Any], Tensor, Mapping[str, Any]], Tensor]] = {
    "standard": _standard,
    "robust": _robust,
    "piecewise": _piecewise,
    "steps": _steps,
    "fourier": _fourier,
    "forest": _forest,
}
assert FORMS.keys() < ENCODINGS.keys()


def _scaled(fitted: Mapping[str, Any], values: Tensor) -> Tensor:
    graph = values.graph
    return (values - graph.constant(np.array(fitted["center"]))) / graph.constant(np.array(fitted["scale"]))


def _smoothly_clipped(fitted: Mapping[str, Any], values: Tensor, clip: float) -> Tensor:
    graph = values.graph
    furthest = [graph.constant(np.array(bound)) for bound in (-FURTHEST, FURTHEST)]
    u = graph.node("Clip", [_scaled(fitted, values), *furthest], np.float64)
    return u / (1.0 + (u / clip) * (u / clip)).apply("Sqrt")


def _bins(fitted: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """For every bin of all columns: its column, its lower and its upper edge."""
    edges = fitted["edges"]
    columns = np.repeat(np.arange(len(edges)), [len(of_column) - 1 for of_column in edges])
    lower = np.array(list(chain.from_iterable(of_column[:-1] for of_column in edges)))
    upper = np.array(list(chain.from_iterable(of_column[1:] for of_column in edges)))
    return columns, lower, upper
