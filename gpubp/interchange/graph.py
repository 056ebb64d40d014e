"""An ONNX graph under construction, whose tensors support arithmetic like NumPy's arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

import gpubp
from gpubp.errors import UsageError

OPSET, ML_OPSET = 20, 4  # the first with RegexFullMatch and StringSplit; of the domains "" and ai.onnx.ml
ML = "ai.onnx.ml"
MOST_BYTES = 2**31 - 2**20  # of a protobuf message, less room for all but the weights
ROWS = "rows"  # the name of the free dimension
TEXT = np.dtype(object)

Number: TypeAlias = "Tensor | float"


def onnx_package() -> ModuleType:
    """The package onnx.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("ONNX models are written by the package onnx; pip install 'gpubp[onnx]'") from None
    return onnx


class Tensor:
    """A named value in a graph.

    Attributes
    ----------
    graph : Graph
    name : str
    dtype : dtype
        TEXT for strings.
    """

    def __init__(self, graph: Graph, name: str, dtype: DTypeLike) -> None:
        self.graph, self.name, self.dtype = graph, name, np.dtype(dtype)

    def __add__(self, other: Number) -> Tensor:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Tensor:
        return self._constant(other) + self

    def __sub__(self, other: Number) -> Tensor:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Tensor:
        return self._constant(other) - self

    def __mul__(self, other: Number) -> Tensor:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Tensor:
        return self._constant(other) * self

    def __truediv__(self, other: Number) -> Tensor:
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> Tensor:
        return self._constant(other) / self

    def __neg__(self) -> Tensor:
        return self.apply("Neg")

    def __gt__(self, other: Number) -> Tensor:
        return self._with("Greater", other, np.bool_)

    def __lt__(self, other: Number) -> Tensor:
        return self._with("Less", other, np.bool_)

    def __ge__(self, other: Number) -> Tensor:
        return self._with("GreaterOrEqual", other, np.bool_)

    def __le__(self, other: Number) -> Tensor:
        return self._with("LessOrEqual", other, np.bool_)

    def equals(self, other: Tensor | float | str) -> Tensor:
        """Whether elements are equal; ``==`` stays Python's own."""
        return self._with("Equal", other, np.bool_)

    def apply(self, op_type: str, *, dtype: DTypeLike | None = None, **attributes: Any) -> Tensor:
        """The result of a unary operator, of this tensor's dtype unless another is given."""
        return self.graph.node(op_type, [self], self.dtype if dtype is None else dtype, **attributes)

    def cast(self, dtype: DTypeLike) -> Tensor:
        """The values as another type."""
        if self.dtype == np.dtype(dtype):
            return self
        return self.apply("Cast", dtype=dtype, to=self.graph.type_of(dtype))

    def mean(self, axis: int) -> Tensor:
        """The mean over an axis, which is removed."""
        axes = self.graph.constant(np.array([axis]))
        return self.graph.node("ReduceMean", [self, axes], self.dtype, keepdims=0)

    def sum(self, axis: int) -> Tensor:
        """The sum over an axis, which is kept with length 1."""
        axes = self.graph.constant(np.array([axis]))
        return self.graph.node("ReduceSum", [self, axes], self.dtype, keepdims=1)

    def _with(self, op_type: str, other: Any, dtype: DTypeLike | None = None) -> Tensor:
        operand = other if isinstance(other, Tensor) else self._constant(other)
        return self.graph.node(op_type, [self, operand], self.dtype if dtype is None else dtype)

    def _constant(self, value: float | str) -> Tensor:
        return self.graph.constant(np.array(value, self.dtype))


class Graph:
    """Nodes and constants in the order in which they are added.

    Parameters
    ----------
    name_for : callable, optional
        ``name_for(stem)`` returns an unused name, for a graph that becomes part of another.
    """

    def __init__(self, name_for: Callable[[str], str] | None = None) -> None:
        self.onnx = onnx_package()
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._name_for = name_for or self._unused_name
        self._names: set[str] = set()

    def type_of(self, dtype: DTypeLike) -> int:
        """ONNX's number for a type."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def input(self, name: str, dtype: DTypeLike, columns: int) -> Tensor:
        """Add an input: a tensor (rows, columns)."""
        self._names.add(name)
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, self.type_of(dtype), [ROWS, columns]))
        return Tensor(self, name, dtype)

    def output(self, name: str, values: Tensor, columns: int | None = None) -> None:
        """Add an output: a tensor (rows, columns), or (rows,); its name gets a suffix if an input has the same."""
        shape = [ROWS] if columns is None else [ROWS, columns]
        while name in self._names:
            name += "_output"
        self._names.add(name)
        self.nodes.append(self.onnx.helper.make_node("Identity", [values.name], [name]))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, self.type_of(values.dtype), shape))

    def constant(self, values: NDArray[Any], stem: str = "constant") -> Tensor:
        """An array stored in the model, under a name that starts with `stem`."""
        name = self._name_for(stem)
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
        return Tensor(self, name, values.dtype)

    def node(
        self, op_type: str, inputs: Sequence[Tensor], dtype: DTypeLike, *, domain: str = "", **attributes: Any
    ) -> Tensor:
        """Add an operator; returns its first output."""
        name = self._name_for(op_type)
        names = [name, self._name_for("pieces")] if op_type == "StringSplit" else [name]  # its second output: counts
        made = self.onnx.helper.make_node(op_type, [x.name for x in inputs], names, name, domain=domain, **attributes)
        self.nodes.append(made)
        return Tensor(self, name, dtype)

    def where(self, condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
        """Elements of one tensor where a condition holds, of the other elsewhere."""
        return self.node("Where", [condition, chosen, other], chosen.dtype)

    def concatenate(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Concatenate tensors of one type."""
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, parts[0].dtype, axis=axis)

    def take(self, values: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
        """The elements at these places along an axis."""
        return self.node("Gather", [values, indices], values.dtype, axis=axis)

    def model(self, metadata: dict[str, Any]) -> Any:
        """The model, checked.

        Parameters
        ----------
        metadata : dict
            JSON-serializable values by name, stored in the model.

        Returns
        -------
        onnx.ModelProto

        Raises
        ------
        UsageError
            If it is larger than one file of this format can be.
        """
        size = sum(len(tensor.raw_data) for tensor in self.initializers)
        if size > MOST_BYTES:
            raise UsageError(
                f"the weights take {size:,} bytes, and an ONNX model in one file holds 2 GB; export a smaller network"
            )
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "gpubp", self.inputs, self.outputs, self.initializers)
        domains = {node.domain for node in self.nodes}
        opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(ML, ML_OPSET)] * (ML in domains)
        model = helper.make_model_gen_version(
            graph, opset_imports=opsets, producer_name="gpubp", producer_version=gpubp.__version__
        )
        helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _unused_name(self, stem: str) -> str:
        name, n = stem, 0
        while name in self._names:
            n += 1
            name = f"{stem}_{n}"
        self._names.add(name)
        return name
