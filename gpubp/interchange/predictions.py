"""The meaning of networks' outputs, and the ONNX outputs for it: labels and probabilities, or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpubp.interchange.graph import TEXT, Tensor
from gpubp.network import MLP


@dataclass(frozen=True)
class Meaning:
    """The meaning of a network's outputs aᴸ.

    Attributes
    ----------
    kind : {"classes", "labels", "values"}
        One class per row, several labels per row, or values.
    classes : (n_classes,) array or None
        In the order of the outputs; two for a single output, which is the probability of the second.
    each_against_the_rest : bool
        Whether to divide the probabilities of classes by their sum.
    are_probabilities : bool
        Whether a classifier's outputs are probabilities, which those of squared errors are not.
    mean, scale : (n_L,) array or None
        The standardization of values.
    names : list of str or None
        The names of the labels or values.
    bounds : pair of (n_L,) arrays, or None
        The lowest and the highest predicted value, in original units.
    """

    kind: Literal["classes", "labels", "values"]
    classes: NDArray[Any] | None = None
    each_against_the_rest: bool = False
    are_probabilities: bool = True
    mean: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    names: list[str] | None = None
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @classmethod
    def of_network(cls, net: MLP) -> Meaning:
        """The meaning that `MLP.predict` gives the outputs."""
        n = net.layer_sizes[-1]
        if net.loss.integer_targets or net.output_activation.name == "softmax":
            return cls("classes", np.arange(n), are_probabilities=net.loss.classification)
        if not net.loss.classification:
            return cls("values")
        return cls("classes", np.arange(2)) if n == 1 else cls("labels")

    @classmethod
    def of_target(cls, target: Mapping[str, Any]) -> Meaning:
        """The meaning that `gpubp.data.decode` gives the outputs, from the encoding of the target."""
        names = target.get("columns")
        if target["type"] == "values":
            if "quantiles" in target:
                names = [str(q) for q in target["quantiles"]]
            bounds = (np.array(target["low"]), np.array(target["high"])) if "low" in target else None
            mean, scale = np.array(target["mean"]), np.array(target["scale"])
            return cls("values", mean=mean, scale=scale, names=names, bounds=bounds)
        if target["type"] == "labels":
            return cls("labels", names=names)
        classes = np.array(target["classes"])
        return cls("classes", classes, are_probabilities=target["type"] != "one_hot")

    @classmethod
    def of_estimator(cls, est: Any) -> Meaning:
        """The meaning that `predict` and `predict_proba` of a fitted estimator give the outputs."""
        if not hasattr(est, "classes_"):
            return cls("values")
        if est._target_type == "multilabel-indicator":
            return cls("labels")
        against_the_rest = est._target_type == "multiclass" and est.out_activation_ == "logistic"
        return cls("classes", est._host_classes, each_against_the_rest=against_the_rest)

    @property
    def metadata(self) -> dict[str, Any]:
        """What to keep in the model: the order of the classes, or the names of the columns of an output."""
        classes = {} if self.classes is None else {"classes": self.classes.tolist()}
        return classes | ({} if self.names is None else {"columns": self.names})

    def add_outputs(self, a: Tensor, n_outputs: int, models: int) -> None:
        """Add the meaning of the outputs, averaged over networks, as the outputs of the graph.

        Parameters
        ----------
        a : Tensor
            aᴸ, (rows, n_L), or (K, rows, n_L) for several networks.
        n_outputs : int
            n_L.
        models : int
            K.
        """
        graph = a.graph
        if self.kind == "classes":
            a = self._probabilities(a, n_outputs)
        mean = a.mean(0) if models > 1 else a
        if self.kind == "values":
            return graph.output("values", self._in_own_units(mean), n_outputs)
        name = "probabilities" if self.are_probabilities else "outputs"
        if self.classes is None:
            graph.output("label", (mean > 0.5).cast(np.int64), n_outputs)
            return graph.output(name, mean, n_outputs)
        label = graph.take(
            graph.constant(_plain(self.classes)), mean.apply("ArgMax", dtype=np.int64, axis=-1, keepdims=0)
        )
        graph.output("label", label)
        graph.output(name, mean, len(self.classes))

    def _probabilities(self, a: Tensor, n_outputs: int) -> Tensor:
        """A column for each class."""
        if n_outputs == 1:
            return a.graph.concatenate([1.0 - a, a], axis=-1)
        return a / a.sum(-1) if self.each_against_the_rest else a

    def _in_own_units(self, values: Tensor) -> Tensor:
        """Standardized values converted back to their original units, in float64; others unchanged."""
        if self.mean is None or self.scale is None:
            return values
        graph = values.graph
        raw = values.cast(np.float64) * graph.constant(self.scale) + graph.constant(self.mean)
        if self.bounds is None:
            return raw
        low, high = (graph.constant(bound) for bound in self.bounds)
        return graph.node("Min", [graph.node("Max", [raw, low], np.float64), high], np.float64)


def _plain(classes: NDArray[Any]) -> NDArray[Any]:
    """Classes as text, int64, bool or float64."""
    if classes.dtype.kind in "biu":
        return classes if classes.dtype.kind == "b" else classes.astype(np.int64)
    return classes.astype(np.float64) if classes.dtype.kind == "f" else classes.astype(str).astype(TEXT)
