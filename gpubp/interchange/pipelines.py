"""Pipelines through skl2onnx, which supports scikit-learn's transformers and here learns about gpubp's estimators."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.errors import UsageError
from gpubp.interchange.graph import OPSET, Graph, Tensor


def register_with_skl2onnx() -> None:
    """Let skl2onnx convert MLPClassifier, MLPRegressor and the ensembles, alone or inside models it supports.

    Raises
    ------
    UsageError
        If skl2onnx is not installed.

    Examples
    --------
    >>> import gpubp
    >>> gpubp.register_with_skl2onnx()  # doctest: +SKIP
    >>> import skl2onnx  # doctest: +SKIP
    >>> model = skl2onnx.to_onnx(fitted_pipeline, X[:1], options={"zipmap": False})  # doctest: +SKIP
    """
    skl2onnx = _skl2onnx()
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    from gpubp.estimators import MLPClassifier, MLPRegressor
    from gpubp.estimators.ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor

    kinds: tuple[Any, ...] = (MLPClassifier, MLPEnsembleClassifier)
    for kind in kinds:
        options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]}
        skl2onnx.update_registered_converter(
            kind, f"Gpubp{kind.__name__}", calculate_linear_classifier_output_shapes, _convert, options=options
        )
    kinds = (MLPRegressor, MLPEnsembleRegressor)
    for kind in kinds:
        skl2onnx.update_registered_converter(
            kind, f"Gpubp{kind.__name__}", calculate_linear_regressor_output_shapes, _convert
        )


def pipeline_model(pipeline: Any) -> Any:
    """The ONNX model of a fitted pipeline that takes a matrix of numbers, ``X`` (rows, n_features) in float32.

    Runtimes have some of skl2onnx's operators only in float32.

    Raises
    ------
    UsageError
        If skl2onnx is not installed.
    """
    skl2onnx = _skl2onnx()
    register_with_skl2onnx()
    X = ("X", skl2onnx.common.data_types.FloatTensorType([None, pipeline.n_features_in_]))
    options = {"zipmap": False} if hasattr(pipeline, "classes_") else None
    return skl2onnx.convert_sklearn(
        pipeline, initial_types=[X], target_opset={"": OPSET, "ai.onnx.ml": 3}, options=options
    )


def _skl2onnx() -> Any:
    try:
        import skl2onnx
    except ImportError:
        raise UsageError("pipelines are exported by skl2onnx; pip install skl2onnx") from None
    return skl2onnx


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Add an estimator to skl2onnx's graph: label and probabilities, or values."""
    from gpubp.interchange.export import Networks

    networks = Networks.of_estimator(operator.raw_operator)
    graph = Graph(scope.get_unique_variable_name)
    of_input = operator.inputs[0]
    rows = Tensor(graph, of_input.full_name, _dtype(of_input.type))
    networks.add_to(rows.cast(networks.stack.backend.dtype))
    wanted = {value.name: output for value, output in zip(graph.outputs, operator.outputs, strict=True)}
    container.initializers.extend(graph.initializers)
    for node in graph.nodes:
        attributes = {a.name: graph.onnx.helper.get_attribute_value(a) for a in node.attribute}
        (name,) = node.output
        if name in wanted:  # the last nodes, which name the outputs; skl2onnx declares their types
            to = graph.type_of(_dtype(wanted[name].type))
            container.add_node("Cast", list(node.input), wanted[name].full_name, to=to)
        else:
            container.add_node(node.op_type, list(node.input), list(node.output), op_domain=node.domain, **attributes)


def _dtype(of: Any) -> Any:
    """The NumPy type for an skl2onnx type."""
    from onnx.helper import tensor_dtype_to_np_dtype
    from skl2onnx.common.data_types import guess_proto_type

    return np.dtype(tensor_dtype_to_np_dtype(guess_proto_type(of)))
