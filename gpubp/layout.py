"""One flat buffer for all parameters of a network, and the tensors as views into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gpubp._typing import Array
from gpubp.backends import Layer

ALIGNMENT = 128  # elements: offsets do not depend on the dtype, and every tensor allows 16-byte loads


class Gradients(NamedTuple):
    """∂C/∂W and ∂C/∂b, layer by layer, of the shapes of `MLP.weights` and `MLP.biases`.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([2, 3, 1], loss="half_squared_error", device="cpu-reference")
    >>> loss, grads = net.gradients([[1.0, 2.0]], [0.5])
    >>> [grad.shape for grad in grads.weights], [grad.shape for grad in grads.biases]
    ([(2, 3), (3, 1)], [(3,), (1,)])
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]


class Layout:
    """Where the tensors of a network lie in a buffer of P elements: all weights first, then all biases."""

    def __init__(self, layer_sizes: Sequence[int]) -> None:
        self.shapes = list(zip(layer_sizes, layer_sizes[1:], strict=False))
        sizes = [n_in * n_out for n_in, n_out in self.shapes] + [n_out for _, n_out in self.shapes]
        starts = np.cumsum([0] + [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]).tolist()
        self.weight_starts, self.bias_starts = starts[: len(self.shapes)], starts[len(self.shapes) : -1]
        self.n_weights, self.size = starts[len(self.shapes)], starts[-1]
        self.parameters = sum(sizes)

    def layers(self, buffer: Array) -> list[Layer]:
        """Views into a buffer (K, P)."""
        networks = buffer.shape[0]
        return [
            Layer(
                buffer[:, w : w + n_in * n_out].reshape(networks, n_in, n_out),
                buffer[:, b : b + n_out].reshape(networks, 1, n_out),
            )
            for (n_in, n_out), w, b in zip(self.shapes, self.weight_starts, self.bias_starts, strict=True)
        ]

    def names(self) -> Iterator[tuple[str, int, int]]:
        """(name, start, stop) of every tensor: ``weights.0``, …, ``biases.0``, …"""
        for l, ((n_in, n_out), start) in enumerate(zip(self.shapes, self.weight_starts, strict=True)):
            yield f"weights.{l}", start, start + n_in * n_out
        for l, ((_, n_out), start) in enumerate(zip(self.shapes, self.bias_starts, strict=True)):
            yield f"biases.{l}", start, start + n_out
