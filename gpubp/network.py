"""The multilayer perceptron: sizes, one flat parameter buffer, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp import checks, serialization
from gpubp._typing import Array
from gpubp.activations import Activation, get_output_activation
from gpubp.backends import get_backend, loadable_precision
from gpubp.backprop import backward, forward
from gpubp.errors import DataError, UsageError
from gpubp.layout import Gradients, Layout
from gpubp.losses import Loss, get_loss, with_output_activation
from gpubp.optimizers import Optimizer, get_optimizer
from gpubp.stack import Stack, hidden_of, seeds_of, sizes_of


class MLP(Stack):
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
        ``"auto"`` picks by activation. Biases start at zero, but for ``"standard_normal"``.
    seed : int or sequence of K ints
        Network k of a stack draws its weights as a single network with seed ``seed + k`` (or ``seed[k]``).
    device, precision : str
        As `gpubp.backends.get_backend` has them.
    models : int
        K. With 1, arrays have no leading axis.
    output_activation : str or Activation
        ``"auto"``, or another than the loss's own for a loss on values: Nielsen's first network is
        ``loss="half_squared_error", output_activation="sigmoid"``.

    Attributes
    ----------
    weights, biases : tuple of arrays
        Views of the parameters, (n_in, n_out) and (n_out,), with a leading axis K for a stack. Writable.
    theta : (K, P) array
        The buffer behind them.
    parameters : int
        Weights and biases of one network.
    preprocessing : dict or None
        JSON-able; travels in the model file. The command line keeps there how raw rows are encoded.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: str | Activation | Sequence[str | Activation] = "relu",
        loss: str | Loss = "cross_entropy",
        init: Any = "auto",
        seed: int | Sequence[int] = 0,
        device: str = "auto",
        precision: str = "float32",
        models: int = 1,
        *,
        output_activation: Any = "auto",
    ) -> None:
        self.layer_sizes = sizes_of(layer_sizes)
        self.activations = hidden_of(activations, len(self.layer_sizes) - 2)
        named = get_loss(loss)
        self.output_activation = (
            named.output_activation if output_activation == "auto" else get_output_activation(output_activation)
        )
        self.loss = with_output_activation(named, self.output_activation)
        if self.output_activation.name == "softmax" and self.layer_sizes[-1] < 2:
            raise UsageError(
                f"layer_sizes end with {self.layer_sizes[-1]}, but softmax needs two outputs or more; use loss="
                f'"binary_cross_entropy" for two classes with one output'
            )
        self.models = checks.whole("models", models, 1)
        self.seeds = seeds_of(seed, self.models)
        self.layout = Layout(self.layer_sizes)
        backend = get_backend(device, precision)
        self._hold(backend, backend.zeros((self.models, self.layout.size)))
        self.preprocessing: dict[str, Any] | None = None
        self._draw(init)

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def weights(self) -> tuple[Array, ...]:
        return self._public(self.layers).weights

    @property
    def biases(self) -> tuple[Array, ...]:
        return self._public(self.layers).biases

    @property
    def parameters(self) -> int:
        return self.layout.parameters

    @property
    def precision(self) -> str:
        return self.backend.precision

    @property
    def device(self) -> str:
        return self.backend.device

    @property
    def device_reason(self) -> str:
        return self.backend.reason

    def __repr__(self) -> str:
        stack = f", models={self.models}" if self.models > 1 else ""
        hidden = ", ".join(dict.fromkeys(a.name for a in self.activations)) or "none"
        return (
            f"MLP({'-'.join(map(str, self.layer_sizes))}, activations={hidden}, loss={self.loss.name}, "
            f"{self.parameters:,} parameters, {self.precision} on {self.device}{stack})"
        )

    def memory(self, batch_size: int = 128, optimizer: str | Optimizer = "adam") -> dict[str, int]:
        """Bytes that training takes beside the data: parameters, optimizer, activations, total."""
        item, storage = (self.models * int(np.dtype(t).itemsize) for t in (self.backend.dtype, self.backend.storage))
        copied = storage if self.operand_buffer is not self.theta else 0
        slots = len(get_optimizer(optimizer).slots)
        per_row = sum(
            n * (2 + (a.derivative_from == "z")) for n, a in zip(self.layer_sizes[1:-1], self.activations, strict=True)
        )
        found = {
            "parameters": (item + copied) * self.layout.size,
            "optimizer": item * self.layout.size * (2 + slots),  # gradients, a copy from the epoch's start, slots
            "activations": storage * batch_size * (self.layer_sizes[0] + per_row + self.layer_sizes[-1]),
        }
        return {**found, "total": sum(found.values())}

    # -- what it computes ------------------------------------------------------------------------------

    def forward(self, X: Any) -> Array:
        """a^L (m, n_L), (K, m, n_L) for a stack: probabilities, or values for regression. X (m, n_0)."""
        out = self.outputs(checks.inputs(X, self.layer_sizes[0], self.precision))
        return out if self.models > 1 else out[0]

    def outputs(self, X: Array) -> Array:
        """a^L (K, m, n_L) on the host, of rows that are known to be sound."""
        out = np.empty((self.models, len(X), self.layer_sizes[-1]), self.backend.dtype)

        def collect(rows: slice, logits: Array) -> None:
            self.backend.output(self.output_activation, logits)
            out[:, rows] = self.backend.to_host(logits)

        self.each_batch(X, collect)
        return out

    def predict(self, X: Any) -> Array:
        """The class index (m,), the 0/1 matrix (m, n_L) of labels, or the value (m,) or (m, n_L)."""
        a = self.forward(X)
        if self.loss.integer_targets or self.output_activation.name == "softmax":
            return a.argmax(axis=-1)
        if self.loss.classification:
            labels = (a > 0.5).astype(np.int64)
            return labels[..., 0] if labels.shape[-1] == 1 else labels
        return a[..., 0] if a.shape[-1] == 1 else a

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The weighted mean loss, and the metric that goes with it: "accuracy" or "rmse".

        Numbers, or arrays (K,) for a stack.
        """
        X = checks.inputs(X, self.layer_sizes[0], self.precision)
        y = checks.targets(y, len(X), self.layer_sizes[-1], self.loss, self.precision)
        return self.measure(X, y, checks.sample_weight(sample_weight, len(X)))

    def measure(
        self, X: Array, y: Array, weight: Array | None, rows: Sequence[NDArray[np.int64]] | None = None
    ) -> dict[str, Any]:
        """What `evaluate` gives, of data that are known to be sound: of all rows, or of each network's own."""
        mean = self.mean_losses(X, y, weight, rows)
        metric = np.array([self.loss.metric.finish(v) for v in mean[:, 1]])
        return {"loss": self._one_or_all(mean[:, 0]), self.loss.metric.name: self._one_or_all(metric)}

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
            Rate for the hidden layers; the mask is that of training step `step`.

        Returns
        -------
        loss : float or (K,) array
        grads : Gradients
        """
        X = checks.inputs(X, self.layer_sizes[0], self.precision)
        y = checks.targets(y, len(X), self.layer_sizes[-1], self.loss, self.precision)
        weight = checks.sample_weight(sample_weight, len(X))
        penalty = checks.per_network("l2", l2, self.models, 0.0)
        rate = checks.per_network("dropout", dropout, self.models, 0.0, 1.0)
        backend, activations = self.backend, self.stack_activations
        grads = self.layout.layers(backend.zeros(self.theta.shape))
        epoch = self.single_step(1.0 / (len(X) if weight is None else weight.sum()), step)
        drop = self.dropout(rate, epoch)
        records = self.workspace(len(X), drop is not None).records
        batch = backend.from_host(X, backend.storage)[None]
        target = backend.from_host(self.cast_targets(y))[None]
        row_weight = None if weight is None else backend.from_host(weight)[None]
        unsmoothed = backend.zeros((self.models,), np.float64)
        self.refresh()
        with backend.computing():
            logits = forward(backend, self.operands, activations, batch, records, drop)
            backend.loss_delta(self.loss, logits, target, row_weight, unsmoothed, epoch, grads[-1].b)
            backward(backend, self.operands, activations, batch, records, grads, drop)
        loss = backend.to_host(epoch.totals)[:, 0, 0] * backend.to_host(epoch.normalizer)[:, 0]
        if penalty.any():
            scale = backend.from_host(penalty, backend.dtype)[:, None, None]
            for layer, g in zip(self.layers, grads, strict=True):
                square = np.square(backend.to_host(layer.W), dtype=backend.accumulator)
                loss = loss + 0.5 * penalty * square.sum(axis=(1, 2))
                g.W[...] += scale * layer.W
        return self._one_or_all(loss), self._public(grads)

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a safetensors file, whole or not at all. Records are saved by name."""
        serialization.save(path, *self.contents())

    def contents(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """What a file of the network holds: tensors (K, size) on the host, and JSON-able metadata."""
        host = self.backend.to_host(self.theta)
        tensors = {name: host[:, start:stop] for name, start, stop in self.layout.names()}
        metadata = {
            "layer_sizes": list(self.layer_sizes),
            "activations": [a.name for a in self.activations],
            "loss": self.loss.name,
            "output_activation": self.output_activation.name,
            "precision": self.precision,
            "models": self.models,
            "seeds": list(self.seeds),
            "preprocessing": self.preprocessing,
        }
        return tensors, metadata

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", **records: Any) -> MLP:
        """Read a network that `save` wrote.

        Parameters
        ----------
        path : path
        device : str
        **records
            ``activations``, ``loss`` or ``output_activation``, where the network was made with a record of
            your own that no registry knows.
        """
        if unknown := records.keys() - {"activations", "loss", "output_activation"}:
            raise UsageError(f"load takes activations, loss and output_activation, not {', '.join(sorted(unknown))}")
        tensors, saved = serialization.load(path)
        try:
            for name, start, stop in Layout(sizes_of(saved["layer_sizes"])).names():  # before memory is taken
                if tensors[name].shape != (saved["models"], stop - start):
                    raise DataError(f"{path}: {name} has shape {tensors[name].shape}; the file is damaged")
            net = cls(
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
            for name, start, stop in net.layout.names():
                if tensors[name].dtype != net.backend.dtype:
                    raise DataError(f"{path}: {name} has dtype {tensors[name].dtype}; the file is damaged")
                net.theta[:, start:stop] = net.backend.from_host(tensors[name])
        except KeyError as error:
            raise DataError(f"{path}: {error} is missing; the file is damaged or from another version") from None
        except DataError:
            raise
        except UsageError as error:
            own = "; a record of your own is passed to MLP.load as activations=, loss= or output_activation="
            raise DataError(f"{path}: {error}{own}") from None
        net.preprocessing = saved.get("preprocessing")
        return net
