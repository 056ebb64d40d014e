"""The multilayer perceptron: sizes, one flat parameter buffer, and what can be asked of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import checks, serialization
from gpubp._typing import Array
from gpubp.activations import Activation, Softmax, get_activation, get_output_activation
from gpubp.backends import Backend, Layer, get_backend, loadable_precision
from gpubp.errors import DataError, DeviceError, UsageError
from gpubp.layout import Gradients, Layout
from gpubp.losses import Loss, get_loss, with_output_activation
from gpubp.optimizers import Optimizer
from gpubp.stack import Stack
from gpubp.trace import Trace, summary, trace


class MLP:
    """A multilayer perceptron, or a stack of K of one shape.

    Parameters
    ----------
    layer_sizes : sequence of int
        n_0 (inputs), the hidden layers, n_L (outputs).
    activations : str, Activation, or a sequence with one per hidden layer
        A name, ``"relu"``, ``"leaky_relu(0.2)"``, or a record.
    loss : str or Loss
        It implies the output activation.
    init : str or Initializer
        ``"auto"`` picks by activation. Biases start at zero, except for ``"standard_normal"``.
    seed : int or sequence of K ints
        Network k of a stack draws its weights as a single network with seed ``seed + k`` (or ``seed[k]``).
    device : str or Backend
    precision : str
        Both as `gpubp.backends.get_backend` takes them.
    models : int
        K. With 1, arrays have no leading axis.
    output_activation : str or Activation
        ``"auto"`` is the loss's own. A loss on values allows another: Nielsen's first network is
        ``loss="half_squared_error", output_activation="sigmoid"``.

    Attributes
    ----------
    weights, biases : tuple of arrays
        Views of the parameters, (n_in, n_out) and (n_out,), with a leading axis K for a stack. Writable.
    theta : (K, P) array
        The buffer behind them.
    stack : gpubp.stack.Stack
        The networks on their backend, which training, estimators and measurements work on; its arrays always have a
        leading axis K.
    preprocessing : dict or None
        JSON-serializable; saved in the model file. The command line stores in it how raw rows are encoded.

    Examples
    --------
    Exclusive or, which no network without a hidden layer can learn:

    >>> import gpubp
    >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]
    >>> net = gpubp.MLP([2, 8, 2], "tanh", seed=1, device="cpu-reference")
    >>> net
    MLP(2-8-2, activations=tanh, loss=cross_entropy, 42 parameters, float32 on cpu)
    >>> history = gpubp.train(net, X, y, learning_rate=0.1, epochs=100)
    >>> net.predict(X).tolist()
    [0, 1, 1, 0]
    >>> net.forward(X).shape  # a probability for each row and class
    (4, 2)

    Three networks at once, each from a seed of its own:

    >>> stack = gpubp.MLP([2, 8, 2], "tanh", seed=1, models=3, device="cpu-reference")
    >>> stack.weights[0].shape
    (3, 2, 8)
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: str | Activation | Sequence[str | Activation] = "relu",
        loss: str | Loss = "cross_entropy",
        init: Any = "auto",
        seed: int | Sequence[int] = 0,
        device: str | Backend = "auto",
        precision: str = "float32",
        models: int = 1,
        *,
        output_activation: Any = "auto",
    ) -> None:
        sizes = checks.layer_sizes(layer_sizes)
        hidden = checks.hidden_activations(activations, len(sizes) - 2)
        named = get_loss(loss)
        output = named.output_activation if output_activation == "auto" else get_output_activation(output_activation)
        if output.name == "softmax" and sizes[-1] < 2:
            raise UsageError(
                f"layer_sizes end with {sizes[-1]}, but softmax needs two outputs or more; use loss="
                f'"binary_cross_entropy" for two classes with one output'
            )
        if named.quantiles and sizes[-1] != len(named.quantiles):
            raise UsageError(
                f'layer_sizes end with {sizes[-1]}, but loss "{named.name}" is for {len(named.quantiles)} outputs'
            )
        seeds = checks.seeds(seed, checks.whole("models", models, 1))
        loss = with_output_activation(named, output)
        self.stack = Stack(sizes, hidden, output, loss, get_backend(device, precision), seeds)
        self.stack.draw(init)
        self.preprocessing: dict[str, Any] | None = None

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """n_0 (inputs), the hidden layers, n_L (outputs)."""
        return self.stack.layer_sizes

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The record of each hidden layer."""
        return self.stack.activations

    @property
    def output_activation(self) -> Activation | Softmax:
        """What turns the logits into aᴸ."""
        return self.stack.output_activation

    @property
    def loss(self) -> Loss:
        """The record of the loss, with the output activation in it."""
        return self.stack.loss

    @property
    def models(self) -> int:
        """The number of networks; 1 unless this is a stack."""
        return self.stack.models

    @property
    def weights(self) -> tuple[Array, ...]:
        """Views of the weights of each layer, (n_in, n_out), (K, n_in, n_out) for a stack."""
        return self._parameters.weights

    @property
    def biases(self) -> tuple[Array, ...]:
        """Views of the biases of each layer, (n_out,), (K, n_out) for a stack."""
        return self._parameters.biases

    @property
    def theta(self) -> Array:
        """The buffer (K, P) that holds all parameters; assigning to it writes into it."""
        return self.stack.theta

    @theta.setter
    def theta(self, values: Array) -> None:
        if values is not self.stack.theta:  # `net.theta += 1` assigns the buffer itself
            self.stack.theta[...] = values

    @property
    def parameters(self) -> int:
        """Weights and biases of one network."""
        return self.stack.layout.parameters

    @property
    def precision(self) -> str:
        """The name of the precision it computes in."""
        return self.stack.backend.precision

    @property
    def device(self) -> str:
        """The device it computes on."""
        return self.stack.backend.device

    def __repr__(self) -> str:
        return repr(self.stack)

    def summary(self) -> str:
        """The layers in a table: activation, shape of W, parameters, norm of W.

        Returns
        -------
        str

        Examples
        --------
        >>> import gpubp
        >>> print(gpubp.MLP([2, 8, 3], init="zeros", device="cpu-reference").summary())
        layer  activation  weights  parameters  norm of W
            1  relu        2 x 8            24          0
            2  softmax     8 x 3            27          0
        in all                              51
        """
        return summary(self.stack)

    def memory(
        self, batch_size: int = 128, optimizer: str | Optimizer = "adam", recompute: bool = False
    ) -> dict[str, int]:
        """Bytes of memory that training takes besides the data.

        Parameters
        ----------
        batch_size : int
            Rows processed at once.
        optimizer : str or Optimizer
        recompute : bool
            As in `gpubp.train`.

        Returns
        -------
        dict of str to int
            "parameters", "optimizer", "activations" and "total".
        """
        rows = checks.whole("batch_size", batch_size, 1)
        return self.stack.memory(rows, optimizer, checks.flag("recompute", recompute))

    # -- what it computes ------------------------------------------------------------------------------

    def forward(self, X: Any) -> Array:
        """The outputs aᴸ: probabilities, or values for regression.

        On the CPU, a row's outputs are the same to the last bit, whatever other rows are in X.

        Parameters
        ----------
        X : (m, n_0) array
            Finite real numbers of any dtype.

        Returns
        -------
        (m, n_L) array, (K, m, n_L) for a stack
            On the host, in the dtype of the parameters.

        Raises
        ------
        DataError
            Naming the shape, dtype or cell of X that does not fit.
        """
        checks.require_encoded(X, self.layer_sizes[0], self.preprocessing)
        a = self.stack.reproducible_outputs(checks.inputs(X, self.layer_sizes[0], self.precision))
        return a if self.models > 1 else a[0]

    def predict(self, X: Any) -> Array:
        """Class indices (m,), 0/1 labels (m, n_L), or values (m,) or (m, n_L).

        Parameters
        ----------
        X : (m, n_0) array

        Returns
        -------
        array
            With a leading axis K for a stack.
        """
        a = self.forward(X)
        if self.loss.integer_targets or self.output_activation.name == "softmax":
            return a.argmax(axis=-1)
        if self.loss.classification:
            labels = (a > 0.5).astype(np.int64)
            return labels[..., 0] if labels.shape[-1] == 1 else labels
        return a[..., 0] if a.shape[-1] == 1 else a

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The weighted mean loss, and the metric that goes with it.

        Parameters
        ----------
        X : (m, n_0) array
        y : (m,) or (m, n_L) array
            As `gpubp.train` takes it.
        sample_weight : (m,) array, optional

        Returns
        -------
        dict
            "loss", and "accuracy", "label_accuracy" (several labels) or "rmse": numbers, or arrays (K,) for a stack.
        """
        checks.require_encoded(X, self.layer_sizes[0], self.preprocessing)
        loss, metric = self.stack.evaluate(*self.stack.checked(X, y, sample_weight))
        return {"loss": self._one_or_all(loss), self.loss.metric_name(self.layer_sizes[-1]): self._one_or_all(metric)}

    def gradients(
        self, X: Any, y: Any, sample_weight: Any = None, l2: Any = 0.0, dropout: Any = 0.0, step: int = 0
    ) -> tuple[Any, Gradients]:
        """The loss on one batch and its gradient by the four equations.

        Parameters
        ----------
        X, y, sample_weight : arrays
            The batch: the loss is Σ w C / Σ w over its rows.
        l2 : float or (K,)
            Adds ½ l2 Σ W² to the loss and l2 · W to the gradient of weights.
        dropout : float or (K,)
            Rate for the hidden layers.
        step : int
            The training step, counted from 0, whose dropout mask is used.

        Returns
        -------
        loss : float or (K,) array
        grads : Gradients
        """
        penalty = checks.per_network("l2", l2, self.models, 0.0)
        rate = checks.per_network("dropout", dropout, self.models, 0.0, 1.0)
        loss, grads = self.stack.gradients(*self.stack.checked(X, y, sample_weight), penalty, rate, step)
        return self._one_or_all(loss), self._public(grads)

    def trace(self, X: Any, y: Any, sample_weight: Any = None, *, per_sample: bool = False) -> Trace:
        """One pass of backpropagation, with everything it computes on the way: every z, a, σ′(z), δ, ∂C/∂W and ∂C/∂b.

        Parameters
        ----------
        X, y, sample_weight : arrays
            The batch, as for `gradients`. A few rows are enough.
        per_sample : bool
            Gradients of each row's own cost, (m, n_in, n_out), instead of those of the mean; not with sample weights.

        Returns
        -------
        Trace
            Arrays on the host, in the dtype of the parameters, computed by the reference formulas, which define what
            every backend computes. ``print`` shows a small trace number by number, next to BP1 to BP4.

        Raises
        ------
        UsageError
            For a stack of several networks, or for weights with `per_sample`.

        Examples
        --------
        >>> import gpubp
        >>> net = gpubp.MLP([2, 2, 1], "sigmoid", "half_squared_error", precision="float64", device="cpu-reference")
        >>> traced = net.trace([[0.05, 0.1]], [0.01])
        >>> hidden, output = traced.layers
        >>> (output.delta == traced.grad_a * output.derivative).all()  # BP1
        np.True_
        >>> (hidden.grad_W == traced.X.T @ hidden.delta).all()  # BP4
        np.True_
        """
        if self.models > 1:
            raise UsageError(f"trace takes a single network; this is a stack of {self.models}")
        if per_sample and sample_weight is not None:
            raise UsageError("per_sample shows each row's own cost, which no weight changes; leave out sample_weight")
        return trace(self.stack, *self.stack.checked(X, y, sample_weight), per_sample=per_sample)

    # -- one network has no leading axis ---------------------------------------------------------------

    @property
    def _parameters(self) -> Gradients:
        return self._public(self.stack.layers)

    def _public(self, layers: Sequence[Layer]) -> Gradients:
        if self.models > 1:
            return Gradients(tuple(x.W for x in layers), tuple(x.b[:, 0] for x in layers))
        return Gradients(tuple(x.W[0] for x in layers), tuple(x.b[0, 0] for x in layers))

    def _one_or_all(self, values: Array) -> Any:
        return values if self.models > 1 else float(values[0])

    # -- copies ----------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> MLP:
        """A network with its own copy of the parameters, on the same backend."""
        other = copy.copy(self)
        other.stack, other.preprocessing = self.stack.copy(), copy.deepcopy(self.preprocessing, memo)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Records by name, and the parameters on the host; a record of your own is itself pickled."""
        stack, backend = self.stack, self.stack.backend
        loss, output = stack.loss.values or stack.loss, stack.output_activation
        return {
            "layer_sizes": stack.layer_sizes,
            "activations": [_by_name(get_activation, record) for record in stack.activations],
            "loss": _by_name(get_loss, loss),
            "output_activation": _by_name(get_output_activation, output),
            "seed": stack.seeds,
            "device": "cpu-reference" if backend.name == "reference" else backend.device,
            "precision": backend.precision,
            "models": stack.models,
            "theta": backend.to_host(stack.theta),
            "preprocessing": self.preprocessing,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the network on its device or, where that does not work, on one that does."""
        theta, preprocessing = state.pop("theta"), state.pop("preprocessing")
        try:
            backend = get_backend(state["device"], state["precision"])
        except (DeviceError, UsageError):
            backend = get_backend("auto", loadable_precision("auto", state["precision"]))
        del state["precision"]
        MLP.__init__(self, init="zeros", **{**state, "device": backend})
        self.theta = backend.from_host(theta)
        self.preprocessing = preprocessing

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a safetensors file, whole or not at all. Records are saved by name."""
        metadata = {**self.stack.describe(), "preprocessing": self.preprocessing}
        serialization.save(path, self.stack.tensors(), metadata)

    @classmethod
    def load(cls, path: str | Path, device: str | Backend = "auto", **records: Any) -> MLP:
        """Read a network that `save` wrote.

        Parameters
        ----------
        path : path
            The file, or the folder that ``gpubp train`` wrote. `gpubp.load` reads a model that predicts raw rows.
        device : str or Backend
        **records
            ``activations``, ``loss`` or ``output_activation``, for a network made with a record of your own that is in
            no registry.
        """
        if unknown := records.keys() - {"activations", "loss", "output_activation"}:
            raise UsageError(f"load takes activations, loss and output_activation, not {', '.join(sorted(unknown))}")
        path = serialization.model_file(path)
        tensors, saved = serialization.load(path)
        if "layer_sizes" not in saved and "tabular" in saved:
            raise DataError(
                f"{path}: holds the networks of a preset for tables; load it with gpubp.TabularClassifier.load or "
                "gpubp.TabularRegressor.load"
            )
        net = from_tensors(cls, path, tensors, saved, device, records)
        net.preprocessing = saved.get("preprocessing")
        return net


def from_tensors(
    kind: type[MLP],
    path: str | Path,
    tensors: Mapping[str, Array],
    saved: Mapping[str, Any],
    device: str | Backend = "auto",
    records: Mapping[str, Any] | None = None,
) -> MLP:
    """Build the networks that a file holds.

    Parameters
    ----------
    kind : type
        The class of what is returned.
    path : path
        That of the file, for messages.
    tensors : mapping of str to (K, size) array
    saved : mapping
        The file's description of them, as `gpubp.stack.Stack.describe` makes it.
    device : str or Backend
    records : mapping, optional
        As in `MLP.load`.

    Raises
    ------
    DataError
        If something is missing, or does not fit.
    """
    records = records or {}
    serialization.check_metadata(f"{path}", saved, serialization.NETWORK)
    try:
        for name, start, stop in Layout(checks.layer_sizes(saved["layer_sizes"])).names():  # before memory is allocated
            if tensors[name].shape != (saved["models"], stop - start):
                raise DataError(f"{path}: {name} has shape {tensors[name].shape}; the file is damaged")
        net = kind(
            saved["layer_sizes"],
            records.get("activations", saved["activations"]),
            records.get("loss", saved["loss"]),
            init="zeros",
            seed=saved["seeds"],
            device=device,
            precision=loadable_precision(device, saved["precision"]),
            models=saved["models"],
            output_activation=records.get("output_activation", saved["output_activation"]),
        )
        backend = net.stack.backend
        for name, start, stop in net.stack.layout.names():
            if tensors[name].dtype != backend.dtype:
                raise DataError(f"{path}: {name} has dtype {tensors[name].dtype}; the file is damaged")
            serialization.check_finite(f"{path}: {name}", tensors[name])
            net.theta[:, start:stop] = backend.from_host(tensors[name])
    except KeyError as error:
        raise DataError(f"{path}: {error} is missing; the file is damaged or from another version") from None
    except DataError:
        raise
    except UsageError as error:
        hint = "; a record of your own is passed to MLP.load as activations=, loss= or output_activation="
        raise DataError(f"{path}: {error}{hint}") from None
    return net


def _by_name(lookup: Callable[[str], Any], record: Any) -> Any:
    """The name of a registered record; any other record is returned as it is."""
    try:
        return record.name if lookup(record.name).name == record.name else record
    except UsageError:
        return record
