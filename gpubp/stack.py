"""K networks of one shape on a backend: their parameters, their buffers, and the passes over them.

Users call `network.MLP`; training, estimators and measurements work on its stack directly. Here every array has its
leading axis K, even where K is 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp._typing import Array
from gpubp.activations import Activation, Softmax, identity
from gpubp.backends import Backend, Batch, Dropout, Epoch, Layer, LayerCache, row_products
from gpubp.backprop import Network, forward, gradients
from gpubp.errors import UsageError
from gpubp.initializers import get_initializer
from gpubp.layout import Gradients, Layout
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer, get_optimizer

_LOGITS = identity()  # one record, so that backends build what they need for it once
_CHUNK = 1 << 20  # elements of the widest layer in a batch when predicting


class Stack:
    """K networks of one shape on a backend.

    Parameters
    ----------
    layer_sizes : tuple of int
    activations : tuple of Activation
        One per hidden layer.
    output_activation : Activation or Softmax
    loss : Loss
    backend : Backend
    seeds : tuple of K int
    theta : (K, P) array, optional
        The parameters; zeros by default.

    Attributes
    ----------
    models : int
        K.
    layout : Layout
    theta : (K, P) array
        All parameters.
    layers : list of Layer
        Views into it.
    operand_buffer : (K, P) array
        θ as matrix products read it: θ itself, or a copy in the backend's storage type; see `refresh`.
    network : backprop.Network
        What `backprop` computes with: W and b from the operands; an activation per layer, where the output layer's
        leaves the logits as they are; the loss.
    """

    models: int
    backend: Backend
    theta: Array
    layers: list[Layer]
    operand_buffer: Array
    network: Network

    def __init__(
        self,
        layer_sizes: tuple[int, ...],
        activations: tuple[Activation, ...],
        output_activation: Activation | Softmax,
        loss: Loss,
        backend: Backend,
        seeds: tuple[int, ...],
        theta: Array | None = None,
    ) -> None:
        self.layer_sizes, self.activations = layer_sizes, activations
        self.output_activation, self.loss = output_activation, loss
        self.layout = Layout(layer_sizes)
        self._hold(backend, seeds, backend.zeros((len(seeds), self.layout.size)) if theta is None else theta)

    def __repr__(self) -> str:
        stack = f", models={self.models}" if self.models > 1 else ""
        hidden = ", ".join(dict.fromkeys(a.name for a in self.activations)) or "none"
        return (
            f"MLP({'-'.join(map(str, self.layer_sizes))}, activations={hidden}, loss={self.loss.name}, "
            f"{self.layout.parameters:,} parameters, {self.backend.precision} on {self.backend.device}{stack})"
        )

    # -- stacks like this one --------------------------------------------------------------------------

    def like(self, theta: Array, backend: Backend, seeds: tuple[int, ...] | None = None) -> Self:
        """A stack of len(theta) networks that shares everything with this one except θ and the backend."""
        other = copy.copy(self)
        other._hold(backend, self.seeds[:1] * len(theta) if seeds is None else seeds, theta)
        return other

    def part(self, networks: slice) -> Self:
        """Consecutive networks of the stack, whose parameters are views of these."""
        some = copy.copy(self)
        copied = self.operand_buffer is not self.theta
        operand_buffer = self.operand_buffer[networks] if copied else None
        some._hold(self.backend, self.seeds[networks], self.theta[networks], operand_buffer)
        return some

    def copy(self) -> Self:
        """A stack with its own copy of the parameters."""
        return self.like(self.theta.copy(), self.backend, self.seeds)

    def _hold(
        self, backend: Backend, seeds: tuple[int, ...], theta: Array, operand_buffer: Array | None = None
    ) -> None:
        self.backend, self.seeds, self.models, self.theta = backend, seeds, len(seeds), theta
        self.layers = self.layout.layers(theta)
        if operand_buffer is None:
            as_they_are = backend.storage == backend.dtype
            operand_buffer = theta if as_they_are else backend.empty(theta.shape, backend.storage)
        self.operand_buffer = operand_buffer
        layers = self.layout.layers(operand_buffer)
        self.network = Network(layers, [*self.activations, _LOGITS], self.loss)

    # -- parameters ------------------------------------------------------------------------------------

    def draw(self, init: Any) -> None:
        """Draw the initial weights and biases, each network's from its own seed."""
        initializers = [get_initializer(init, a.init) for a in (*self.activations, self.output_activation)]
        theta = np.zeros(self.theta.shape, self.backend.dtype)  # on the host, sent in one transfer
        layers = self.layout.layers(theta)
        for k, seed in enumerate(self.seeds):
            rng = np.random.default_rng(seed)
            for layer, initializer, (n_in, n_out) in zip(layers, initializers, self.layout.shapes, strict=True):
                layer.W[k] = initializer.weights(rng, n_in, n_out)
                layer.b[k, 0] = initializer.biases(rng, n_out)
        self.theta[...] = self.backend.from_host(theta)

    def refresh(self) -> None:
        """Update what matrix products read from θ, which anyone may have written."""
        if self.operand_buffer is not self.theta:
            self.backend.cast(self.theta, self.operand_buffer)

    def parameters_of(self, k: int) -> Gradients:
        """Views of the weights (n_in, n_out) and biases (n_out,) of network k."""
        return Gradients(tuple(layer.W[k] for layer in self.layers), tuple(layer.b[k, 0] for layer in self.layers))

    def tensors(self) -> dict[str, Array]:
        """All parameters on the host by name, (K, size) each."""
        host = self.backend.to_host(self.theta)
        return {name: host[:, start:stop] for name, start, stop in self.layout.names()}

    def describe(self) -> dict[str, Any]:
        """What a file says about the networks besides their parameters; records by name."""
        return {
            "layer_sizes": list(self.layer_sizes),
            "activations": [a.name for a in self.activations],
            "loss": self.loss.name,
            "output_activation": self.output_activation.name,
            "precision": self.backend.precision,
            "models": self.models,
            "seeds": list(self.seeds),
        }

    # -- buffers ---------------------------------------------------------------------------------------

    def memory(
        self, batch_size: int = 128, optimizer: str | Optimizer = "adam", recompute: bool = False
    ) -> dict[str, int]:
        """Bytes of memory that training takes besides the data: parameters, optimizer, activations, total."""
        item, storage = (self.models * int(np.dtype(t).itemsize) for t in (self.backend.dtype, self.backend.storage))
        copied = storage if self.operand_buffer is not self.theta else 0
        slots = len(get_optimizer(optimizer).slots)
        hidden = self.layer_sizes[1:-1]
        arrays = [1 + (a.derivative_from == "z") for a in self.activations]
        per_row = sum(n * (1 + count) for n, count in zip(hidden, arrays, strict=True))
        length = _segment_length(len(hidden), recompute)
        if length < len(hidden):
            kept = sum(hidden[length - 1 : -1 : length])
            shared = max(arrays) * sum(max(hidden[place::length]) for place in range(length))
            per_row = min(per_row, kept + shared + 2 * max(hidden))
        parts = {
            "parameters": (item + copied) * self.layout.size,
            "optimizer": item * self.layout.size * (2 + slots),  # gradients, a copy from the epoch's start, slots
            "activations": batch_size * storage * (self.layer_sizes[0] + per_row + self.layer_sizes[-1]),
        }
        return {**parts, "total": sum(parts.values())}

    def caches(
        self, rows: int, dropout: bool = False, *, backward: bool = True, recompute: bool = False
    ) -> list[LayerCache]:
        """Buffers for the forward pass and, unless it is left out, the backward pass of batches of up to `rows` rows.

        One per layer. δ alternates between two buffers from layer to layer: no more than two are ever alive at once. To
        `recompute`, hidden layers are cut into segments that share the memory of one segment, except for a of each
        segment's last layer; the backward pass runs a segment again when it reaches it.
        """
        widest = max(self.layer_sizes[1:])
        storage, hidden = self.backend.storage, len(self.activations)
        buffers = min(2, hidden) if backward else 0
        deltas = [self.backend.empty((self.models, rows * widest), storage) for _ in range(buffers)]
        length = _segment_length(hidden, recompute)
        shared: dict[tuple[str, int], Array] = {}

        def buffer(kind: str, l: int, dtype: Any) -> Array:
            """z, a or the mask of layer l: its own buffer, or its place in that of its segment."""
            shape = (self.models, rows, self.layer_sizes[l + 1])
            if l >= hidden or length >= hidden:
                return self.backend.empty(shape, dtype)
            place = l % length
            if (kind, place) not in shared:
                most = rows * max(self.layer_sizes[1:-1][place::length])
                shared[kind, place] = self.backend.empty((self.models, most), dtype)
            return shared[kind, place][:, : rows * shape[2]].reshape(shape)

        caches = []
        for l, activation in enumerate(self.network.activations):
            shape = (self.models, rows, self.layer_sizes[l + 1])
            one = activation.derivative_from == "a"
            last_of_segment = l < hidden - 1 and l % length == length - 1
            a = self.backend.empty(shape, storage) if last_of_segment or l >= hidden else buffer("a", l, storage)
            z = a if one else buffer("z", l, storage)
            delta = deltas[l % 2][:, : rows * shape[2]].reshape(shape) if l < hidden and backward else a
            mask = buffer("mask", l, np.bool_) if dropout and l < hidden else None
            caches.append(LayerCache(l, z, a, delta, mask, l - length + 1 if last_of_segment else None))
        return caches

    def epoch(self, rows: int, batch_size: int) -> Epoch:
        """Zeroed tables for epochs over `rows` rows in stored order, with the cursor at the start."""
        backend, steps = self.backend, -(-rows // batch_size)
        return Epoch(
            cursor=backend.zeros((1,), np.int64),
            first_step=backend.zeros((self.models,), np.int64),
            batch_size=batch_size,
            order=None,
            normalizer=backend.zeros((self.models, steps), np.float64),
            learning_rate=backend.zeros((self.models, steps), np.float64),
            totals=backend.zeros((self.models, steps, 2), backend.accumulator),
        )

    def single_step(self, normalizer: float, step: int = 0) -> Epoch:
        """An epoch of one step, on rows in place, for what is computed outside training."""
        epoch = self.epoch(rows=1, batch_size=1)
        epoch.normalizer[...] = normalizer
        epoch.first_step[...] = step
        return epoch

    def dropout(self, rate: Array, epoch: Epoch) -> Dropout | None:
        """Dropout at `rate` (K,) in the steps of an epoch, or None where no network uses it."""
        if not rate.any():
            return None
        seeds = np.array([s & (2**64 - 1) for s in self.seeds], np.uint64)
        return Dropout(self.backend.from_host(rate), self.backend.from_host(seeds), epoch.cursor, epoch.first_step)

    def cast_targets(self, y: Array) -> Array:
        """Integer classes as they are, values in the network's dtype."""
        return y if y.ndim == 1 else y.astype(self.backend.dtype, copy=False)

    # -- passes ----------------------------------------------------------------------------------------

    def checked(
        self, X: Any, y: Any, sample_weight: Any = None, name: str = "", *, weight_per_network: bool = False
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """X, y and sample weights from users, checked and converted by `checks`; errors put `name` before theirs.

        Weights are (m,), or also (K, m) with `weight_per_network`.
        """
        precision, prefix = self.backend.precision, f"{name} " if name else ""
        X = checks.inputs(X, self.layer_sizes[0], precision, f"{prefix}X")
        y = checks.targets(y, len(X), self.layer_sizes[-1], self.loss, precision, f"{prefix}y")
        networks = self.models if weight_per_network else 1
        return X, y, checks.sample_weight(sample_weight, len(X), f"{prefix}sample_weight", networks)

    def gradients(
        self, X: Array, y: Array, weight: Array | None, l2: Array, dropout: Array, step: int = 0
    ) -> tuple[Array, list[Layer]]:
        """The loss (K,) of one batch of checked rows, and its gradient; `l2` and `dropout` are (K,) on the host."""
        backend = self.backend
        grads = self.layout.layers(backend.zeros(self.theta.shape))
        epoch = self.single_step(1.0 / (len(X) if weight is None else weight.sum()), step)
        drop = self.dropout(dropout, epoch)
        batch = Batch(
            X=backend.from_host(X, backend.storage)[None],
            y=backend.from_host(self.cast_targets(y))[None],
            weight=None if weight is None else backend.from_host(weight)[None],
            smoothing=backend.zeros((self.models,), np.float64),
        )
        self.refresh()
        with backend.computing():
            gradients(backend, self.network, batch, self.caches(len(X), drop is not None), grads, epoch, drop)
        loss = backend.to_host(epoch.totals)[:, 0, 0] * backend.to_host(epoch.normalizer)[:, 0]
        if l2.any():
            scale = backend.from_host(l2, backend.dtype)[:, None, None]
            for layer, grad in zip(self.layers, grads, strict=True):
                square = np.square(backend.to_host(layer.W), dtype=backend.accumulator)
                loss = loss + 0.5 * l2 * square.sum(axis=(1, 2))
                grad.W[...] += scale * layer.W
        return loss, grads

    def each_batch(self, X: Array, then: Callable[[slice, list[LayerCache]], None], rows: Array | None = None) -> None:
        """Run the forward pass without dropout, and call ``then(rows, caches of all layers)`` after each batch.

        Over all of X, or for each network over its own `rows` of it, (K, m) int on the host.
        """
        backend, m = self.backend, len(X) if rows is None else rows.shape[1]
        height = max(1, min(m, _CHUNK // (max(self.layer_sizes) * self.models)))
        caches = self.caches(height, backward=False)
        self.refresh()

        for start in range(0, m, height):
            some = slice(start, min(start + height, m))
            count = some.stop - start
            if rows is None:
                batch = X[some][None]
            else:
                batch = self._take(X, rows[:, some].ravel()).reshape(self.models, count, -1)
            fitting = caches if count == height else [cache.first(count) for cache in caches]
            with backend.computing():
                forward(backend, self.network, backend.from_host(batch, backend.storage), fitting)
                then(some, fitting)

    def each_output(self, X: Array, then: Callable[[slice, Array], None], *, on_device: bool = False) -> None:
        """Call ``then(rows, aᴸ (K, rows, n_L))`` on each batch, on the host or the device, in the networks' dtype."""

        def collect(some: slice, caches: list[LayerCache]) -> None:
            self.backend.output(self.output_activation, caches[-1].a)
            then(some, self._in_own_dtype(caches[-1].a, on_device))

        self.each_batch(X, collect)

    def layer_values(self, X: Array, layer: int, *, on_device: bool = False) -> Array:
        """aˡ (K, m, n_l) of checked rows for a hidden layer, counted from 0; for the last layer, its logits."""
        shape = (self.models, X.shape[0], self.layer_sizes[1:][layer])
        out = self.backend.empty(shape) if on_device else np.empty(shape, self.backend.dtype)

        def collect(some: slice, caches: list[LayerCache]) -> None:
            out[:, some] = self._in_own_dtype(caches[layer].a, on_device)

        if X.shape[0]:
            self.each_batch(X, collect)
        return out

    def hidden(self, layer: int) -> int:
        """A hidden layer's number, 0 for the first, from one that may count from the end."""
        layers = range(len(self.activations))
        try:
            return layers[layer]
        except (IndexError, TypeError):
            have = f"hidden layers 0 to {len(layers) - 1}" if layers else "no hidden layer"
            raise UsageError(f"layer={layer!r} does not fit; the network has {have}") from None

    def _take(self, array: Array, rows: NDArray[np.int64]) -> Array:
        """Rows of an array on the host or the device, by indices on the host."""
        on_device = not isinstance(self.theta, np.ndarray) and isinstance(array, type(self.theta))
        return array[self.backend.from_host(rows) if on_device else rows]

    def _in_own_dtype(self, values: Array, on_device: bool) -> Array:
        """Values of a cache in the networks' dtype, in new memory on the device or on the host."""
        backend = self.backend
        if not on_device:
            return np.asarray(backend.to_host(values), backend.dtype)
        copied = backend.empty(values.shape)
        backend.cast(values, copied)
        return copied

    def reproducible_outputs(self, X: Array) -> Array:
        """aᴸ (K, m, n_L) of checked rows, on the host. On the CPU, no row's bits depend on the other rows.

        Rows go through the network in batches of one size, the last filled up with rows of the one before it, using
        products that treat all rows alike.
        """
        if self.backend.device != "cpu":
            return self.outputs(X)
        size = row_products.batch_rows(self.layout.parameters * self.models)
        batch, caches = self.backend.zeros((1, size, self.layer_sizes[0])), self.caches(size)
        out = self.backend.empty((self.models, len(X), self.layer_sizes[-1]))
        for start in range(0, len(X), size):
            rows = X[start : start + size]
            batch[0, : len(rows)] = rows
            out[:, start : start + size] = self._outputs_of_batch(batch, caches)[:, : len(rows)]
        return out

    def _outputs_of_batch(self, batch: Array, caches: list[LayerCache]) -> Array:
        """aᴸ (K, size, n_L) as `backprop.forward` computes it, but with the products of `row_products`."""
        backend, network, a = self.backend, self.network, batch
        with backend.computing():
            for layer, activation, cache in zip(network.layers, network.activations, caches, strict=True):
                row_products.product(a, layer.W, cache.z)
                backend.bias_activation(activation, layer, cache)
                a = cache.a
            backend.output(self.output_activation, a)
        return a

    def outputs(self, X: Array, *, on_device: bool = False) -> Array:
        """aᴸ (K, m, n_L) of checked rows."""
        shape = (self.models, len(X), self.layer_sizes[-1])
        out = self.backend.empty(shape) if on_device else np.empty(shape, self.backend.dtype)

        def collect(some: slice, a: Array) -> None:
            out[:, some] = a

        if len(X):
            self.each_output(X, collect, on_device=on_device)
        return out

    def evaluate(
        self, X: Array, y: Array, weight: Array | None = None, rows: Sequence[NDArray[np.int64]] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The weighted mean loss (K,) and the metric (K,) over checked rows, without dropout.

        Parameters
        ----------
        X, y : (m, n_0) and (m,) or (m, n_L) arrays
        weight : (m,) or (K, m) array, or None
        rows : K arrays of int, optional
            The rows of each network, where they do not all use all rows.
        """
        means = self.mean_losses(X, y, weight, rows)
        return means[:, 0], np.array([self.loss.metric.finish(value) for value in means[:, 1]])

    def mean_losses(
        self, X: Array, y: Array, weight: Array | None = None, rows: Sequence[NDArray[np.int64]] | None = None
    ) -> NDArray[np.float64]:
        """Means (K, 2) of the loss and of the quantity behind the metric, over what `evaluate` takes."""
        weight = None if weight is None else np.atleast_2d(weight)
        if rows is None:
            return self._mean_losses(X, y, weight, None)
        parts = []
        for networks, _ in neighbours(np.array([len(own_rows) for own_rows in rows])):
            their_weight = weight[networks] if weight is not None and len(weight) > 1 else weight
            parts.append(self.part(networks)._mean_losses(X, y, their_weight, np.stack(rows[networks])))
        return np.concatenate(parts)

    def evaluate_with_outputs(
        self, X: Array, y: Array, weight: Array | None, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """The weighted mean loss (K,) over each network's own rows (K, n), and aᴸ (K, n, n_L) of these on the host.

        X, y and weight are as `evaluate` takes them; one pass gives both.
        """
        outputs = np.empty((*rows.shape, self.layer_sizes[-1]), self.backend.dtype)
        weight = None if weight is None else np.atleast_2d(weight)
        return self._mean_losses(X, y, weight, rows, outputs)[:, 0], outputs

    def _mean_losses(
        self,
        X: Array,
        y: Array,
        weight: Array | None,
        rows: NDArray[np.int64] | None,
        outputs: NDArray[Any] | None = None,
    ) -> NDArray[np.float64]:
        """Means (K, 2) of the loss and of the quantity behind its metric, over all rows or over `rows` (K, n) of them.

        weight is (K or 1, m). `outputs` (K, n, n_L) are filled with aᴸ.
        """
        backend, targets = self.backend, self.cast_targets(y)
        total, epoch = np.zeros((self.models, 2)), self.single_step(normalizer=1.0)
        grad_b = backend.empty((self.models, 1, self.layer_sizes[-1]))
        unsmoothed = backend.zeros((self.models,), np.float64)
        if weight is not None and rows is not None:
            weight = np.take_along_axis(weight, rows, axis=1) if len(weight) > 1 else weight[0][rows]

        def add(some: slice, caches: list[LayerCache]) -> None:
            w = None if weight is None else backend.from_host(weight[:, some])
            target = backend.from_host(targets[some][None] if rows is None else self._take(targets, rows[:, some]))
            if outputs is not None:
                a = caches[-1].a.copy()  # of the logits, which become δ
                backend.output(self.output_activation, a)
                outputs[:, some] = self._in_own_dtype(a, on_device=False)
            backend.loss_delta(self.loss, caches[-1], Batch(None, target, w, unsmoothed), epoch, grad_b)
            total[...] += backend.to_host(epoch.totals)[:, 0]

        self.each_batch(X, add, rows)
        m = len(X) if rows is None else rows.shape[1]
        means: NDArray[np.float64] = total / (m if weight is None else weight.sum(axis=1, keepdims=True))
        return means


def _segment_length(hidden: int, recompute: bool) -> int:
    """Layers of a segment: all hidden layers, or about the square root of their number where segments are run again."""
    return math.isqrt(hidden - 1) + 1 if recompute and hidden > 2 else max(hidden, 1)


def neighbours(values: NDArray[np.int64]) -> Iterator[tuple[slice, int]]:
    """(where, value) of each stretch of equal values."""
    borders = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for first, end in pairwise(borders):
        yield slice(first, end), int(values[first])
