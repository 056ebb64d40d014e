"""Backpropagation: the four equations, for one network or a stack of K.

Rows are samples. W is (K, n_in, n_out), b is (K, 1, n_out), activations are (K, rows, n). The source of
the equations and of their names is Nielsen, "Neural Networks and Deep Learning", chapter 2, with his
columns as our rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpubp._typing import Array
from gpubp.activations import Activation
from gpubp.backends import Backend, Dropout


@dataclass(frozen=True, slots=True)
class Layer:
    """The parameters of a layer, or their gradients: W (K, n_in, n_out) and b (K, 1, n_out)."""

    W: Array
    b: Array


@dataclass(frozen=True, slots=True)
class Record:
    """What the forward pass of one layer leaves for the backward pass, each (K, rows, n).

    `z` and `a` are one array where σ′ is read off a; `delta` receives δ; `mask` is None without dropout.
    """

    z: Array
    a: Array
    delta: Array
    mask: Array | None

    def first(self, rows: int) -> Record:
        """The same for a batch of fewer rows: views, nothing is copied."""
        z = self.z[:, :rows]
        a = z if self.a is self.z else self.a[:, :rows]
        return Record(z, a, self.delta[:, :rows], None if self.mask is None else self.mask[:, :rows])


def forward(
    backend: Backend,
    layers: Sequence[Layer],
    activations: Sequence[Activation],
    X: Array,
    records: Sequence[Record],
    dropout: Dropout | None = None,
) -> Array:
    """z^l = a^{l−1} W^l + b^l and a^l = σ(z^l) for every layer; returns the logits z^L (K, rows, n_L).

    `activations` ends with the identity: what the output layer's logits become is the loss's business.
    """
    a = X
    for l, (layer, activation, record) in enumerate(zip(layers, activations, records, strict=True)):
        dropped = dropout if record.mask is not None else None
        backend.dense(activation, a, layer.W, layer.b, record.z, record.a, dropped, record.mask, l)
        a = record.a
    return a


def backward(
    backend: Backend,
    layers: Sequence[Layer],
    activations: Sequence[Activation],
    X: Array,
    records: Sequence[Record],
    grads: Sequence[Layer],
    dropout: Dropout | None = None,
) -> None:
    """Fill `grads` from δ^L, which BP1 (`Backend.loss_delta`) left in place of the logits with BP3's grad_b."""
    delta = records[-1].a
    for l in range(len(layers) - 1, -1, -1):
        a_prev = records[l - 1].a if l else X
        backend.matmul(a_prev, delta, out=grads[l].W, transpose_a=True)  # BP4
        if l:
            below, activation = records[l - 1], activations[l - 1]
            kept = below.a if activation.derivative_from == "a" else below.z
            backend.matmul(delta, layers[l].W, out=below.delta, transpose_b=True)
            backend.hadamard_derivative(activation, below.delta, kept, grads[l - 1].b, dropout, below.mask)  # BP2, BP3
            delta = below.delta
