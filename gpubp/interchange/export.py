"""Networks, estimators and ensembles as ONNX models."""

from __future__ import annotations

from typing import Any

from gpubp.activations import Activation, Softmax
from gpubp.errors import UsageError
from gpubp.interchange import layers
from gpubp.interchange.encoding import encoded_rows
from gpubp.interchange.graph import Graph, Tensor
from gpubp.interchange.predictions import Meaning
from gpubp.network import MLP
from gpubp.stack import Stack


def to_onnx(model: Any, *, raw_rows: bool = False) -> Any:
    """Convert a network, a fitted estimator or an ensemble to an ONNX model, checked by onnx's checker.

    Its input ``X`` (rows, n_inputs) is what `predict` takes, in the dtype of the weights. It has the outputs ``label``
    (rows,) and ``probabilities`` (rows, n_classes) for classes; both are (rows, n_labels) with several labels per row;
    or ``values`` (rows, n_outputs). The outputs of a stack or an ensemble are the means over its networks. Models that
    compute in 16 bits are exported in float32.

    Parameters
    ----------
    model : MLP, MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor, search or Pipeline
        A search stands for its best estimator. A pipeline is converted by skl2onnx, if installed.
    raw_rows : bool
        For a network with its encoding of raw rows, as `gpubp train` saves it: put the encoding into the model, which
        then takes raw rows (for a table, one input (rows, 1) per column, float64 or text) and returns classes by name
        and values in their own units.

    Returns
    -------
    onnx.ModelProto
        ``onnx.save(model, path)`` writes it. Its ``metadata_props`` hold the order of the classes.

    Raises
    ------
    UsageError
        If onnx is not installed, or if the model is of another kind or cannot be expressed: a user's activation without
        a scalar expression, a column of dates with month names, more than 2 GB.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([4, 8, 3], "gelu", device="cpu-reference")
    >>> model = gpubp.to_onnx(net)
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    if isinstance(model, MLP):
        return _network_model(model, raw_rows)
    if raw_rows:
        raise UsageError("raw_rows is for a network with its encoding of raw rows; leave it out")
    from sklearn.pipeline import Pipeline

    if isinstance(model, Pipeline):
        from gpubp.interchange.pipelines import pipeline_model

        return pipeline_model(model)
    if hasattr(model, "best_estimator_"):
        return to_onnx(model.best_estimator_)
    graph, networks = Graph(), Networks.of_estimator(model)
    X = graph.input("X", networks.stack.backend.dtype, networks.stack.layer_sizes[0])
    networks.add_to(X)
    return graph.model(networks.meaning.metadata)


class Networks:
    """A stack of networks with the meaning of its outputs.

    Attributes
    ----------
    stack : Stack
    output_activation : Activation or Softmax
    meaning : Meaning
    """

    def __init__(self, stack: Stack, output_activation: Activation | Softmax, meaning: Meaning) -> None:
        self.stack, self.output_activation, self.meaning = stack, output_activation, meaning

    @classmethod
    def of_estimator(cls, model: Any) -> Networks:
        """The network of a fitted estimator, or those of an ensemble.

        Raises
        ------
        UsageError
            If it is of another class, or overrides prediction.
        """
        from sklearn.utils.validation import check_is_fitted

        from gpubp.estimators import MLPClassifier, MLPRegressor
        from gpubp.estimators.ensemble import MLPEnsembleClassifier, MLPEnsembleRegressor
        from gpubp.estimators.numerics import output_activation_record

        kinds: tuple[Any, ...] = (MLPClassifier, MLPRegressor, MLPEnsembleClassifier, MLPEnsembleRegressor)
        kind = next((kind for kind in kinds if isinstance(model, kind)), None)
        if kind is None:
            known = ", ".join(kind.__name__ for kind in (MLP, *kinds))
            raise UsageError(
                f"{type(model).__name__} cannot be exported; give an {known}, a search or a Pipeline of these"
            )
        check_is_fitted(model)
        _require_usual_predictions(model, kind)
        stack = model._network()
        if not hasattr(model, "estimators_"):
            return cls(stack, output_activation_record(model.out_activation_), Meaning.of_estimator(model))
        for member in model.estimators_:
            _require_usual_predictions(member, kind._member_class)
        return cls(stack, stack.output_activation, Meaning.of_estimator(model.estimators_[0]))

    def add_to(self, X: Tensor) -> None:
        """Add the networks, applied to encoded rows X, and the outputs to the graph."""
        a = layers.outputs(X, self.stack, self.output_activation)
        self.meaning.add_outputs(a, self.stack.layer_sizes[-1], self.stack.models)


def _require_usual_predictions(est: Any, kind: Any) -> None:
    """Raise if an estimator predicts differently than its gpubp class."""
    for name in ("predict", "predict_proba", "_forward", "_class_probabilities"):
        if getattr(type(est), name, None) is not getattr(kind, name, None):
            raise UsageError(f"{type(est).__name__} has a {name} of its own, of which an ONNX model knows nothing")


def _network_model(net: MLP, raw_rows: bool) -> Any:
    """The model of a network or a stack."""
    if raw_rows and net.preprocessing is None:
        raise UsageError(
            "the network does not say how raw rows are encoded, as gpubp train did not write it; leave out raw_rows"
        )
    graph, dtype = Graph(), net.stack.backend.dtype
    if raw_rows and net.preprocessing is not None:
        X = encoded_rows(graph, net.preprocessing, dtype)
        meaning = Meaning.of_target(net.preprocessing["target"])
    else:
        X = graph.input("X", dtype, net.layer_sizes[0])
        meaning = Meaning.of_network(net)
    Networks(net.stack, net.output_activation, meaning).add_to(X)
    return graph.model(meaning.metadata)
