"""The multilayer perceptron: sizes, one flat parameter buffer, and what can be asked of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpubp import checks, serialization
from gpubp._typing import Array
from gpubp.activations import Activation, get_activation, get_output_activation, identity
from gpubp.backends import Backend, Dropout, get_backend
from gpubp.backprop import Layer, Record, backward, forward
from gpubp.errors import DataError, UsageError
from gpubp.initializers import get_initializer
from gpubp.layout import Gradients, Layout
from gpubp.losses import Loss, get_loss, through
from gpubp.optimizers import get_optimizer

_CHUNK = 1 << 20  # elements of the widest layer in a batch when predicting


@dataclass(frozen=True, slots=True)
class Forward:
    """Buffers for batches of up to `rows` rows."""

    rows: int
    records: list[Record]

    def first(self, rows: int) -> list[Record]:
        """The records for a batch of `rows` rows."""
        return self.records if rows == self.rows else [record.first(rows) for record in self.records]


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
        ``"auto"`` picks by activation. Biases start at zero, but for ``"standard_normal"``.
    seed : int or sequence of K ints
        Network k of a stack draws its weights as a single network with seed ``seed + k`` (or ``seed[k]``).
    device : {"auto", "cpu"}
    precision : {"float32", "float64"}
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
        self.layer_sizes = _sizes(layer_sizes)
        self.activations = _hidden(activations, len(self.layer_sizes) - 2)
        named = get_loss(loss)
        self.output_activation = (
            named.output_activation if output_activation == "auto" else get_output_activation(output_activation)
        )
        self.loss = through(named, self.output_activation)
        if self.output_activation.name == "softmax" and self.layer_sizes[-1] < 2:
            raise UsageError(
                f"layer_sizes end with {self.layer_sizes[-1]}, but softmax needs two outputs or more; use loss="
                f'"binary_cross_entropy" for two classes with one output'
            )
        self.models = checks.whole("models", models, 1)
        self.seeds = seeds_of(seed, self.models)
        self.backend: Backend = get_backend(device, precision)
        self.layout = Layout(self.layer_sizes)
        self.theta = self.backend.zeros((self.models, self.layout.size))
        self.layers = self.layout.layers(self.theta)
        self.preprocessing: dict[str, Any] | None = None
        self._draw(init)

    def _draw(self, init: Any) -> None:
        initializers = [get_initializer(init, a.init) for a in (*self.activations, self.output_activation)]
        for k, seed in enumerate(self.seeds):
            rng = np.random.default_rng(seed)
            for layer, initializer, (n_in, n_out) in zip(self.layers, initializers, self.layout.shapes, strict=True):
                layer.W[k] = self.backend.from_host(initializer.weights(rng, n_in, n_out), self.backend.dtype)
                layer.b[k, 0] = self.backend.from_host(initializer.biases(rng, n_out), self.backend.dtype)

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

    def memory(self, batch_size: int = 128, optimizer: str = "adam") -> dict[str, int]:
        """Bytes that training takes beside the data: parameters, optimizer, activations, total."""
        item = np.dtype(self.precision).itemsize * self.models
        slots = len(get_optimizer(optimizer).slots)
        per_row = sum(
            n * (2 + (a.derivative_from == "z")) for n, a in zip(self.layer_sizes[1:-1], self.activations, strict=True)
        )
        found = {
            "parameters": item * self.layout.size,
            "optimizer": item * self.layout.size * (2 + slots),  # gradients, a copy from the epoch's start, slots
            "activations": item * batch_size * (self.layer_sizes[0] + per_row + self.layer_sizes[-1]),
        }
        return {**found, "total": sum(found.values())}

    # -- what it computes ------------------------------------------------------------------------------

    def forward(self, X: Any) -> Array:
        """a^L (m, n_L), (K, m, n_L) for a stack: probabilities, or values for regression. X (m, n_0)."""
        X = checks.inputs(X, self.layer_sizes[0], self.precision)
        out = np.empty((self.models, len(X), self.layer_sizes[-1]), self.precision)

        def collect(rows: slice, logits: Array) -> None:
            self.backend.output(self.output_activation, logits)
            out[:, rows] = self.backend.to_host(logits)

        self._each_batch(X, collect)
        return out if self.models > 1 else out[0]

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
        weight = checks.sample_weight(sample_weight, len(X))
        backend, values = self.backend, self.cast_targets(y)
        total, part = np.zeros((self.models, 2)), backend.empty((self.models, 2), np.float64)
        grad_b = backend.empty((self.models, 1, self.layer_sizes[-1]))
        one, none = backend.from_host(np.ones(self.models)), backend.zeros((self.models, 1, 1))

        def add(rows: slice, logits: Array) -> None:
            w = None if weight is None else backend.from_host(weight[rows])[None]
            target = backend.from_host(values[rows])[None]
            backend.loss_delta(self.loss, logits, target, w, one, none, grad_b, part)
            total[...] += backend.to_host(part)

        self._each_batch(X, add)
        mean = total / (len(X) if weight is None else weight.sum())
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
        grad = self.backend.zeros(self.theta.shape)
        grads = self.layout.layers(grad)
        totals = self.backend.empty((self.models, 2), self.backend.accumulator)
        drop = self.dropout(rate, step)
        work = self.workspace(len(X), drop is not None)
        normalizer = np.full(self.models, 1.0 / (len(X) if weight is None else weight.sum()))

        def run(_: int) -> None:
            batch = self.backend.from_host(X, self.backend.dtype)[None]
            logits = forward(self.backend, self.layers, self.stack_activations, batch, work.records, drop)
            row_weight = None if weight is None else self.backend.from_host(weight)[None]
            self.backend.loss_delta(
                self.loss,
                logits,
                self.backend.from_host(self.cast_targets(y))[None],
                row_weight,
                self.backend.from_host(normalizer),
                self.backend.zeros((self.models, 1, 1)),
                grads[-1].b,
                totals,
            )
            backward(self.backend, self.layers, self.stack_activations, batch, work.records, grads, drop)

        self.backend.capture(run)(step)
        loss = self.backend.to_host(totals)[:, 0] * normalizer
        if penalty.any():
            scale = self.backend.from_host(penalty, self.backend.dtype)[:, None, None]
            for layer, g in zip(self.layers, grads, strict=True):
                loss = loss + 0.5 * penalty * np.square(
                    self.backend.to_host(layer.W), dtype=self.backend.accumulator
                ).sum(axis=(1, 2))
                g.W[...] += scale * layer.W
        return self._one_or_all(loss), self._public(grads)

    # -- files -----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the network to a safetensors file, whole or not at all. Records are saved by name."""
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
        serialization.save(path, tensors, metadata)

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
        tensors, saved = serialization.load(path)
        try:
            net = cls(
                saved["layer_sizes"],
                records.pop("activations", saved["activations"]),
                records.pop("loss", saved["loss"]),
                init="zeros",
                seed=saved["seeds"],
                device=device,
                precision=saved["precision"],
                models=saved["models"],
                output_activation=records.pop("output_activation", saved["output_activation"]),
            )
            for name, start, stop in net.layout.names():
                if tensors[name].shape != (net.models, stop - start) or tensors[name].dtype != net.precision:
                    raise DataError(
                        f"{path}: {name} is {tensors[name].dtype} {tensors[name].shape}; the file is damaged"
                    )
                net.theta[:, start:stop] = net.backend.from_host(tensors[name])
        except KeyError as error:
            raise DataError(f"{path}: {error} is missing; the file is damaged or from another version") from None
        if records:
            raise UsageError(f"load takes activations, loss and output_activation, not {', '.join(records)}")
        net.preprocessing = saved.get("preprocessing")
        return net

    def like(self, theta: Array, backend: Backend) -> MLP:
        """A stack of len(theta) networks that shares all but θ and the machine with this one."""
        twin = copy.copy(self)
        twin.backend, twin.theta, twin.models = backend, theta, len(theta)
        twin.layers = self.layout.layers(theta)
        twin.seeds = self.seeds[:1] * len(theta)
        return twin

    # -- shared with training --------------------------------------------------------------------------

    @property
    def stack_activations(self) -> list[Activation]:
        """One per layer; the output layer's logits stay as they are."""
        return [*self.activations, identity()]

    def workspace(self, rows: int, dropout: bool) -> Forward:
        """Buffers for the forward and backward pass of batches of up to `rows` rows.

        δ of one layer and of the next lie in two buffers by turns: more are never alive at once.
        """
        widest = max(self.layer_sizes[1:])
        deltas = [self.backend.empty((self.models, rows * widest)) for _ in range(min(2, len(self.activations)))]
        records = []
        for l, activation in enumerate(self.stack_activations):
            shape = (self.models, rows, self.layer_sizes[l + 1])
            hidden = l < len(self.activations)
            z = self.backend.empty(shape)
            a = z if activation.derivative_from == "a" else self.backend.empty(shape)
            delta = deltas[l % 2][:, : rows * shape[2]].reshape(shape) if hidden else a
            mask = self.backend.empty(shape, np.bool_) if dropout and hidden else None
            records.append(Record(z, a, delta, mask))
        return Forward(rows, records)

    def dropout(self, rate: Array, step: int = 0) -> Dropout | None:
        """Dropout at `rate` (K,), or None where no network uses it."""
        if not rate.any():
            return None
        seeds = np.array([s & (2**64 - 1) for s in self.seeds], np.uint64)
        return Dropout(self.backend.from_host(rate), self.backend.from_host(seeds), step)

    def cast_targets(self, y: Array) -> Array:
        """Integer classes as they are, values in the network's dtype."""
        return y if y.ndim == 1 else y.astype(self.backend.dtype, copy=False)

    def _each_batch(self, X: Array, then: Callable[[slice, Array], None]) -> None:
        """Run the forward pass over all of X without dropout, and ``then(rows, logits (K, rows, n_L))``."""
        backend = self.backend
        rows = int(np.clip(_CHUNK // (max(self.layer_sizes) * self.models), 1, len(X)))
        work = self.workspace(rows, dropout=False)

        def step(start: int) -> None:
            batch = backend.from_host(X[start : start + rows], backend.dtype)[None]
            records = work.first(batch.shape[1])
            logits = forward(backend, self.layers, self.stack_activations, batch, records)
            then(slice(start, start + batch.shape[1]), logits)

        run = backend.capture(step)
        for start in range(0, len(X), rows):
            run(start)

    def _public(self, layers: Sequence[Layer]) -> Gradients:
        if self.models > 1:
            return Gradients(tuple(x.W for x in layers), tuple(x.b[:, 0] for x in layers))
        return Gradients(tuple(x.W[0] for x in layers), tuple(x.b[0, 0] for x in layers))

    def _one_or_all(self, values: Array) -> Any:
        return values if self.models > 1 else float(values[0])


def seeds_of(seed: int | Sequence[int], models: int) -> tuple[int, ...]:
    """One seed per network: seed, seed + 1, …, or those given."""
    if not isinstance(seed, (Sequence, np.ndarray)):
        first = checks.whole("seed", seed, 0)
        return tuple(range(first, first + models))
    seeds = tuple(checks.whole(f"seed[{k}]", s, 0) for k, s in enumerate(seed))
    if len(seeds) != models:
        raise UsageError(f"seed names {len(seeds)} seeds for {models} networks; give one number, or one per network")
    return seeds


def _sizes(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(layer_sizes, (Sequence, np.ndarray)):
        raise UsageError(f"layer_sizes={layer_sizes!r} does not make a network; give a list, such as [64, 10]")
    sizes = tuple(checks.whole(f"layer_sizes[{i}]", n, 1) for i, n in enumerate(layer_sizes))
    if len(sizes) < 2:
        raise UsageError(
            f"layer_sizes={list(sizes)} does not make a network; give inputs and outputs at least, [64, 10]"
        )
    return sizes


def _hidden(activations: Any, n_hidden: int) -> tuple[Activation, ...]:
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        return (get_activation(activations),) * n_hidden
    records = tuple(get_activation(a) for a in activations)
    if len(records) != n_hidden:
        raise UsageError(f"activations names {len(records)}, but there are {n_hidden} hidden layers; give one each")
    return records
