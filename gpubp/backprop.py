"""Backpropagation: the four equations, for one network or a stack of K.

Rows are samples. W is (K, n_in, n_out), b is (K, 1, n_out), activations are (K, rows, n). The source of
the equations and of their names is Nielsen, "Neural Networks and Deep Learning", chapter 2, with his
columns as our rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpubp._typing import Array
from gpubp.activations import Activation
from gpubp.backends import Backend, Batch, Below, Dropout, Epoch, Layer, LayerCache
from gpubp.losses import Loss


@dataclass(frozen=True, slots=True)
class Network:
    """Layers, an activation for each, and the loss.

    The last activation is the identity: the loss decides what becomes of the output layer's logits.
    """

    layers: Sequence[Layer]
    activations: Sequence[Activation]
    loss: Loss


def no_action(layer: int) -> None:
    """Do nothing: nothing waits for a layer's gradients."""


def gradients(
    backend: Backend,
    network: Network,
    batch: Batch,
    caches: Sequence[LayerCache],
    grads: Sequence[Layer],
    epoch: Epoch,
    dropout: Dropout | None = None,
    done: Callable[[int], None] = no_action,
) -> None:
    """Write ∂C/∂W and ∂C/∂b of one batch to `grads`, and add its loss and metric to the totals of `epoch`.

    ``done(l)`` is called as soon as those of layer l are ready, the last layer first.
    """
    last = len(network.layers) - 1
    hidden = Network(network.layers[:last], network.activations[:last], network.loss)
    a = forward(backend, hidden, batch.X, caches[:last], dropout)
    # zᴸ, and in the same pass BP1: δᴸ = ∇ₐC ⊙ σ′(zᴸ)
    backend.dense_loss(network.loss, a, network.layers[last], caches[last], batch, epoch, grads[last].b)
    _below_the_loss(backend, network, batch, caches, grads, dropout, done)


def forward(
    backend: Backend,
    network: Network,
    X: Array,
    caches: Sequence[LayerCache],
    dropout: Dropout | None = None,
) -> Array:
    """zˡ = aˡ⁻¹ Wˡ + bˡ and aˡ = σ(zˡ) for every layer; returns the logits zᴸ (K, rows, n_L)."""
    a = X
    for layer, activation, cache in zip(network.layers, network.activations, caches, strict=True):
        backend.dense(activation, a, layer, cache, dropout)
        a = cache.a
    return a


def backward(
    backend: Backend,
    network: Network,
    batch: Batch,
    caches: Sequence[LayerCache],
    grads: Sequence[Layer],
    epoch: Epoch,
    dropout: Dropout | None = None,
) -> None:
    """BP1 to BP4, from what `forward` left in `caches`."""
    backend.loss_delta(network.loss, caches[-1], batch, epoch, grads[-1].b)  # BP1: δᴸ = ∇ₐC ⊙ σ′(zᴸ); BP3
    _below_the_loss(backend, network, batch, caches, grads, dropout)


def _below_the_loss(
    backend: Backend,
    network: Network,
    batch: Batch,
    caches: Sequence[LayerCache],
    grads: Sequence[Layer],
    dropout: Dropout | None,
    done: Callable[[int], None] = no_action,
) -> None:
    """BP2 to BP4, from δᴸ on."""
    for l in reversed(range(len(network.layers))):
        if l and (start := caches[l - 1].again_from) is not None:  # their memory was used by layers above
            again = Network(network.layers[start:l], network.activations[start:l], network.loss)
            forward(backend, again, caches[start - 1].a if start else batch.X, caches[start:l], dropout)
        a_prev, below = batch.X, None
        if l:
            a_prev, below = caches[l - 1].a, Below(network.activations[l - 1], caches[l - 1], grads[l - 1].b)
        # BP4: ∂C/∂Wˡ = aˡ⁻¹ᵀ δˡ. BP2: δˡ⁻¹ = (δˡ Wˡᵀ) ⊙ σ′(zˡ⁻¹). BP3 in the same pass: ∂C/∂bˡ⁻¹ = Σ_rows δˡ⁻¹.
        backend.dense_backward(a_prev, network.layers[l], caches[l], grads[l], below, dropout)
        done(l)
