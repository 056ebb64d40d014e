"""Fitted estimators of one shape as one stack of networks, so that they predict in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

import numpy as np

from gpubp._typing import Array
from gpubp.estimators.arrays import is_on_gpu
from gpubp.estimators.data import rows_for
from gpubp.network import MLP


class EnsembleNetwork:
    """The stack, with the weights that the members have whenever it is asked for.

    Where both are in the same memory, the members' `coefs_` and `intercepts_` are made views of the stack's
    parameters: weights are held once, and changing them counts.
    """

    _net: MLP

    def __init__(self) -> None:
        self._net_is_for: Any = None
        self._views: list[Any] = []

    def network(self, members: Sequence[Any]) -> MLP:
        """The members as one stack."""
        given = [array for est in members for array in (*est.coefs_, *est.intercepts_)]
        wanted = (len(members), members[0]._wanted)
        made = self._net_is_for == wanted
        if made and len(self._views) == len(given) and all(map(is_, self._views, given)):
            return self._net
        if not made or self._views:  # views of the old one may be weights of members, here or elsewhere
            one = members[0]._network()
            self._net = one.like(one.backend.zeros((len(members), one.layout.size)), one.backend)
            self._net_is_for = wanted
        net, self._views = self._net, []
        for k, est in enumerate(members):
            est._write_to(net.part(slice(k, k + 1)))
        if all(isinstance(array, type(net.theta)) for array in given):
            for k, est in enumerate(members):
                est._forget_network()
                est.coefs_, est.intercepts_ = _places(net, k)
                self._views += [*est.coefs_, *est.intercepts_]
        return net


def _places(net: MLP, k: int) -> tuple[list[Array], list[Array]]:
    """Views of the weights and biases of network k."""
    return [layer.W[k] for layer in net.layers], [layer.b[k, 0] for layer in net.layers]


def each_output(net: MLP, X: Any, then: Callable[[slice, Array], None]) -> None:
    """``then(rows, a^L (K, rows, n_L))``, some of checked X at a time; on the GPU for X there, else on the host."""
    backend, on_gpu = net.backend, is_on_gpu(X)

    def collect(rows: slice, logits: Array) -> None:
        backend.output(net.output_activation, logits)
        if on_gpu:
            a = backend.empty(logits.shape)
            backend.cast(logits, a)
        else:
            a = np.asarray(backend.to_host(logits), backend.dtype)
        then(rows, a)

    net.each_batch(rows_for(net.precision, X), collect)
