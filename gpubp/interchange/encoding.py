"""The encoding of raw rows inside an ONNX graph: what `gpubp.data.encode` does, one input per column of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpubp.data.dates import derived_names
from gpubp.data.features import has_few
from gpubp.data.missing import declared_numbers, is_missing
from gpubp.data.prepare import schema_of_network
from gpubp.data.schema import Schema
from gpubp.interchange import texts
from gpubp.interchange.graph import TEXT, Graph, Tensor
from gpubp.interchange.numbers import encoded


def encoded_rows(graph: Graph, preprocessing: Mapping[str, Any], dtype: DTypeLike) -> Tensor:
    """The network's input X (rows, n_0), from inputs that take raw rows.

    Parameters
    ----------
    graph : Graph
    preprocessing : dict
        As stored in the model file.
    dtype : dtype
        The network's dtype.

    Raises
    ------
    UsageError
        Naming a column that ONNX operators cannot read.
    """
    encoding = preprocessing["features"]
    numbers = encoding["numbers"]
    if encoding["kind"] != "table":
        raw = graph.input("X", np.uint8 if encoding["kind"] == "images" else np.float64, numbers["width"])
        return _encoded_numbers(raw.cast(np.float64), numbers, None, dtype)
    columns = _Columns(graph, encoding, schema_of_network(preprocessing))
    one_hot = [columns.one_hot(category) for category in encoding["categories"]]
    blocks = [block.cast(dtype) for block in one_hot]
    if numbers["width"]:
        values = graph.concatenate([columns.numbers(name) for name in numbers["names"]], axis=1)
        few = [block for block, category in zip(one_hot, encoding["categories"], strict=True) if has_few(category)]
        categories = graph.concatenate(few, axis=1) if few else None
        blocks.insert(0, _encoded_numbers(values, numbers, categories, dtype))
    return graph.concatenate(blocks, axis=1)


def _encoded_numbers(values: Tensor, numbers: Mapping[str, Any], categories: Tensor | None, dtype: DTypeLike) -> Tensor:
    """Numbers (rows, n) in float64, with missing ones filled, encoded, followed by their indicators."""
    graph = values.graph

    def fitted(name: str) -> Tensor:
        return graph.constant(np.array(numbers[name], np.float64))

    missing = values.apply("IsNaN", dtype=np.bool_)
    filled = graph.where(missing, fitted("fill"), values)
    if "encodings" in numbers:
        inputs = [encoded(entry, filled, categories).cast(dtype) for entry in numbers["encodings"]]
    else:
        inputs = [((filled - fitted("mean")) / fitted("scale")).cast(dtype)]
    if numbers["indicators"]:
        inputs.append(graph.take(missing, graph.constant(np.array(numbers["indicators"])), axis=1).cast(dtype))
    return graph.concatenate(inputs, axis=1) if len(inputs) > 1 else inputs[0]


class _Columns:
    """The columns of a table that the network needs, each (rows, 1); those in the table's file become inputs."""

    def __init__(self, graph: Graph, encoding: Mapping[str, Any], schema: Schema) -> None:
        self.graph, self.schema = graph, schema
        self.missing = schema.options.missing
        self.derived = {
            derived: (name, *what)
            for name, column in schema.columns.items()
            if column.kind == "date"
            for derived, what in derived_names(name, column.parts).items()
            if derived not in schema.columns
        }
        needed = [*encoding["numbers"]["names"], *(category["name"] for category in encoding["categories"])]
        needed_in_file = {self.derived[name][0] if name in self.derived else name for name in needed}
        self.inputs = {
            name: graph.input(name, np.float64 if column.kind == "number" else TEXT, 1)
            for name, column in schema.columns.items()
            if name in needed_in_file
        }
        self._numbers: dict[str, Tensor] = {}

    def numbers(self, name: str) -> Tensor:
        """A column of numbers, of dates as seconds, or for part of a date; NaN where it is missing."""
        if name not in self._numbers:
            self._numbers[name] = self._read_numbers(name)
        return self._numbers[name]

    def _read_numbers(self, name: str) -> Tensor:
        if name in self.derived:
            date, part, wave = self.derived[name]
            return texts.part_of_date(self.numbers(date), part, wave)
        cells, column = self.inputs[name], self.schema.columns[name]
        if column.kind == "date":
            return texts.seconds_of_dates(cells, name, column.date_format, self.missing)
        for number in declared_numbers(self.missing):
            cells = self.graph.where(cells.equals(number), self.graph.constant(np.array(np.nan)), cells)
        return cells

    def one_hot(self, category: Mapping[str, Any]) -> Tensor:
        """The block of a column of categories (rows, categories + indicator), bool."""
        name, values, indicator = category["name"], category["values"], category["indicator"]
        if self.schema.columns[name].kind != "category":  # one number or nothing
            numbers = self.numbers(name)
            block = [numbers.equals(self.graph.constant(np.array([[float(value) for value in values]])))]
            block += [numbers.apply("IsNaN", dtype=np.bool_)] * indicator
            return self.graph.concatenate(block, axis=1)
        codes = self._codes(name, values)
        places: NDArray[np.int64] = np.arange(len(values) + indicator)[None]
        return codes.equals(self.graph.constant(places))

    def _codes(self, name: str, values: list[str]) -> Tensor:
        """The number of the category in each row; their count for a missing value, another for an unknown one."""
        graph, column, cells = self.graph, self.schema.columns[name], self.inputs[name]
        no_place = dict.fromkeys(column.categories, len(values) + 1)  # texts that are not missing values here
        code_of = no_place | {
            value: code
            for code, value in enumerate(values)
            if value in column.categories or not is_missing(value, self.missing)
        }
        spelled = {text: code for value, code in code_of.items() for text in texts.spellings(value, column.boolean)}
        codes = texts.codes(cells, spelled | code_of)
        unknown = codes < graph.constant(np.array(0))
        missing = graph.node("And", [unknown, texts.is_missing(cells, self.missing)], np.bool_)
        return graph.where(missing, graph.constant(np.array(len(values))), codes)
