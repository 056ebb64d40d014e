"""The working parts of a stack of networks: parameters, buffers, and the passes over them.

`network.MLP` puts on it what users call; `training` and `diagnostics` drive it directly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpubp import checks
from gpubp._typing import Array
from gpubp.activations import Activation, Softmax, get_activation, identity
from gpubp.backends import Backend, Dropout, Epoch
from gpubp.backprop import Layer, Record, forward
from gpubp.errors import UsageError
from gpubp.initializers import get_initializer
from gpubp.layout import Gradients, Layout
from gpubp.losses import Loss

_LOGITS = identity()  # one record, so that what backends make of it is made once
_CHUNK = 1 << 20  # elements of the widest layer in a batch when predicting


@dataclass(frozen=True, slots=True)
class Forward:
    """Buffers for batches of up to `rows` rows."""

    rows: int
    records: list[Record]

    def first(self, rows: int) -> list[Record]:
        """The records for a batch of `rows` rows."""
        return self.records if rows == self.rows else [record.first(rows) for record in self.records]


class Stack:
    """K networks of one shape on a backend.

    Attributes
    ----------
    layer_sizes, activations, output_activation, loss, seeds, models
        As `network.MLP` takes them, resolved.
    backend : Backend
    layout : Layout
    theta : (K, P) array
        All parameters.
    layers : list of Layer
        Views into it.
    operand_buffer : (K, P) array
        θ as matrix products read it: θ itself, or a copy in the backend's storage type; see `refresh`.
    operands : list of Layer
        W from there, b from θ: what `backprop` computes with.
    """

    layer_sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    output_activation: Activation | Softmax
    loss: Loss
    models: int
    seeds: tuple[int, ...]
    backend: Backend
    layout: Layout
    theta: Array
    layers: list[Layer]
    operand_buffer: Array
    operands: list[Layer]

    def like(self, theta: Array, backend: Backend) -> Self:
        """A stack of len(theta) networks that shares all but θ and the machine with this one."""
        twin = copy.copy(self)
        twin.models, twin.seeds = len(theta), self.seeds[:1] * len(theta)
        twin._hold(backend, theta)
        return twin

    def part(self, networks: slice) -> Self:
        """Some neighbours in the stack, whose parameters are views of these."""
        some = copy.copy(self)
        some.seeds = self.seeds[networks]
        some.models = len(some.seeds)
        copied = self.operand_buffer is not self.theta
        some._hold(self.backend, self.theta[networks], self.operand_buffer[networks] if copied else None)
        return some

    def twin(self) -> Self:
        """The same stack with parameters of its own."""
        other = copy.copy(self)
        other._hold(self.backend, self.theta.copy())
        return other

    def _hold(self, backend: Backend, theta: Array, operand_buffer: Array | None = None) -> None:
        self.backend, self.theta = backend, theta
        self.layers = self.layout.layers(theta)
        if operand_buffer is None:
            own = backend.storage == backend.dtype
            operand_buffer = theta if own else backend.empty(theta.shape, backend.storage)
        self.operand_buffer = operand_buffer
        read = self.layout.layers(self.operand_buffer)
        self.operands = [Layer(r.W, layer.b) for r, layer in zip(read, self.layers, strict=True)]

    def refresh(self) -> None:
        """Bring what matrix products read up to date with θ, which anyone may have written."""
        if self.operand_buffer is not self.theta:
            self.backend.cast(self.theta, self.operand_buffer)

    @property
    def stack_activations(self) -> list[Activation]:
        """One per layer; the output layer's logits stay as they are."""
        return [*self.activations, _LOGITS]

    def workspace(self, rows: int, dropout: bool) -> Forward:
        """Buffers for the forward and backward pass of batches of up to `rows` rows.

        δ of one layer and of the next lie in two buffers by turns: more are never alive at once.
        """
        widest = max(self.layer_sizes[1:])
        storage = self.backend.storage
        deltas = [
            self.backend.empty((self.models, rows * widest), storage) for _ in range(min(2, len(self.activations)))
        ]
        records = []
        for l, activation in enumerate(self.stack_activations):
            shape = (self.models, rows, self.layer_sizes[l + 1])
            hidden = l < len(self.activations)
            z = self.backend.empty(shape, storage)
            a = z if activation.derivative_from == "a" else self.backend.empty(shape, storage)
            delta = deltas[l % 2][:, : rows * shape[2]].reshape(shape) if hidden else a
            mask = self.backend.empty(shape, np.bool_) if dropout and hidden else None
            records.append(Record(z, a, delta, mask))
        return Forward(rows, records)

    def epoch(self, rows: int, batch_size: int, orders: int = 1) -> Epoch:
        """Tables for epochs over `rows` rows, zero, with the cursor at the beginning."""
        backend, steps = self.backend, -(-rows // batch_size)
        return Epoch(
            backend.zeros((1,), np.int64),
            backend.zeros((self.models,), np.int64),
            batch_size,
            backend.zeros((orders, rows), np.int64),
            backend.zeros((self.models, steps), np.float64),
            backend.zeros((self.models, steps), np.float64),
            backend.zeros((self.models, steps, 2), backend.accumulator),
        )

    def single_step(self, normalizer: float, step: int = 0) -> Epoch:
        """An epoch of one step, on rows where they lie, for what is computed outside training."""
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

    def each_batch(self, X: Array, then: Callable[[slice, Array], None], rows: Array | None = None) -> None:
        """Run the forward pass without dropout, and ``then(those rows, logits (K, some rows, n_L))``.

        Over all of X, or each network over its own rows of it, (K, m) int.
        """
        backend, m = self.backend, len(X) if rows is None else rows.shape[1]
        height = max(1, min(m, _CHUNK // (max(self.layer_sizes) * self.models)))
        work = self.workspace(height, dropout=False)
        self.refresh()

        for start in range(0, m, height):
            some = slice(start, min(start + height, m))
            count = some.stop - start
            given = X[some][None] if rows is None else X[rows[:, some].ravel()].reshape(self.models, count, -1)
            batch = backend.from_host(given, backend.storage)
            with backend.computing():
                logits = forward(backend, self.operands, self.stack_activations, batch, work.first(count))
                then(some, logits)

    def mean_losses(
        self, X: Array, y: Array, weight: Array | None, rows: Sequence[NDArray[np.int64]] | None = None
    ) -> NDArray[np.float64]:
        """Weighted means of the loss and of what its metric is made of.

        Parameters
        ----------
        X, y : (m, n_0) and (m,) or (m, n_L) arrays
        weight : (m,) or (K, m) array, or None
        rows : K arrays of int, optional
            The rows of each network, where they do not all have all.

        Returns
        -------
        (K, 2) array
        """
        weight = None if weight is None else np.atleast_2d(weight)
        if rows is None:
            return self._mean_losses(X, y, weight, None)
        found = []
        for networks, _ in neighbours(np.array([len(own) for own in rows])):
            mine = weight[networks] if weight is not None and len(weight) > 1 else weight
            found.append(self.part(networks)._mean_losses(X, y, mine, np.stack(rows[networks])))
        return np.concatenate(found)

    def _mean_losses(
        self, X: Array, y: Array, weight: Array | None, own: NDArray[np.int64] | None
    ) -> NDArray[np.float64]:
        """Over all rows, or over `own` (K, n) of them; weight is (K or 1, m)."""
        backend, values = self.backend, self.cast_targets(y)
        total, epoch = np.zeros((self.models, 2)), self.single_step(normalizer=1.0)
        grad_b = backend.empty((self.models, 1, self.layer_sizes[-1]))
        unsmoothed = backend.zeros((self.models,), np.float64)
        if weight is not None and own is not None:
            weight = np.take_along_axis(weight, own, axis=1) if len(weight) > 1 else weight[0][own]

        def add(rows: slice, logits: Array) -> None:
            w = None if weight is None else backend.from_host(weight[:, rows])
            target = backend.from_host(values[rows][None] if own is None else values[own[:, rows]])
            backend.loss_delta(self.loss, logits, target, w, unsmoothed, epoch, grad_b)
            total[...] += backend.to_host(epoch.totals)[:, 0]

        self.each_batch(X, add, own)
        whole = len(X) if own is None else own.shape[1]
        mean: NDArray[np.float64] = total / (whole if weight is None else weight.sum(axis=1, keepdims=True))
        return mean

    def _public(self, layers: Sequence[Layer]) -> Gradients:
        if self.models > 1:
            return Gradients(tuple(x.W for x in layers), tuple(x.b[:, 0] for x in layers))
        return Gradients(tuple(x.W[0] for x in layers), tuple(x.b[0, 0] for x in layers))

    def _one_or_all(self, values: Array) -> Any:
        return values if self.models > 1 else float(values[0])

    def _draw(self, init: Any) -> None:
        initializers = [get_initializer(init, a.init) for a in (*self.activations, self.output_activation)]
        for k, seed in enumerate(self.seeds):
            rng = np.random.default_rng(seed)
            for layer, initializer, (n_in, n_out) in zip(self.layers, initializers, self.layout.shapes, strict=True):
                layer.W[k] = self.backend.from_host(initializer.weights(rng, n_in, n_out), self.backend.dtype)
                layer.b[k, 0] = self.backend.from_host(initializer.biases(rng, n_out), self.backend.dtype)


def neighbours(values: NDArray[np.int64]) -> Iterator[tuple[slice, int]]:
    """(where, value) of each stretch of equal values."""
    borders = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for first, end in pairwise(borders):
        yield slice(first, end), int(values[first])


def seeds_of(seed: int | Sequence[int], models: int) -> tuple[int, ...]:
    """One seed per network: seed, seed + 1, …, or those given."""
    if not isinstance(seed, (Sequence, np.ndarray)):
        first = checks.whole("seed", seed, 0)
        return tuple(range(first, first + models))
    seeds = tuple(checks.whole(f"seed[{k}]", s, 0) for k, s in enumerate(seed))
    if len(seeds) != models:
        raise UsageError(f"seed names {len(seeds)} seeds for {models} networks; give one number, or one per network")
    return seeds


def sizes_of(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    """Inputs, hidden layers and outputs: whole numbers, two at least."""
    if not isinstance(layer_sizes, (Sequence, np.ndarray)):
        raise UsageError(f"layer_sizes={layer_sizes!r} does not make a network; give a list, such as [64, 10]")
    sizes = tuple(checks.whole(f"layer_sizes[{i}]", n, 1) for i, n in enumerate(layer_sizes))
    if len(sizes) < 2:
        raise UsageError(
            f"layer_sizes={list(sizes)} does not make a network; give inputs and outputs at least, [64, 10]"
        )
    return sizes


def hidden_of(activations: Any, n_hidden: int) -> tuple[Activation, ...]:
    """One activation per hidden layer, from one for all or from a sequence."""
    if isinstance(activations, str) or not isinstance(activations, Sequence):
        return (get_activation(activations),) * n_hidden
    records = tuple(get_activation(a) for a in activations)
    if len(records) != n_hidden:
        raise UsageError(f"activations names {len(records)}, but there are {n_hidden} hidden layers; give one each")
    return records
