"""The loss and the metric of a stack over a set of rows, without dropout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.stack import Stack
from gpubp.together import neighbours


def mean_losses(
    net: Stack, X: Array, y: Array, weight: Array | None, rows: Sequence[NDArray[np.int64]] | None = None
) -> NDArray[np.float64]:
    """Weighted means of the loss and of what its metric is made of.

    Parameters
    ----------
    net : Stack
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
        return _mean_losses(net, X, y, weight, None)
    found = []
    for networks, _ in neighbours(np.array([len(own) for own in rows])):
        mine = weight[networks] if weight is not None and len(weight) > 1 else weight
        found.append(_mean_losses(net.part(networks), X, y, mine, np.stack(rows[networks])))
    return np.concatenate(found)


def _mean_losses(
    net: Stack, X: Array, y: Array, weight: Array | None, own: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Over all rows, or over `own` (K, n) of them; weight is (K or 1, m)."""
    backend, values = net.backend, net.cast_targets(y)
    total, epoch = np.zeros((net.models, 2)), net.single_step(normalizer=1.0)
    grad_b = backend.empty((net.models, 1, net.layer_sizes[-1]))
    unsmoothed = backend.zeros((net.models,), np.float64)
    if weight is not None and own is not None:
        weight = np.take_along_axis(weight, own, axis=1) if len(weight) > 1 else weight[0][own]

    def add(rows: slice, logits: Array) -> None:
        w = None if weight is None else backend.from_host(weight[:, rows])
        target = backend.from_host(values[rows][None] if own is None else values[own[:, rows]])
        backend.loss_delta(net.loss, logits, target, w, unsmoothed, epoch, grad_b)
        total[...] += backend.to_host(epoch.totals)[:, 0]

    net.each_batch(X, add, own)
    whole = len(X) if own is None else own.shape[1]
    mean: NDArray[np.float64] = total / (whole if weight is None else weight.sum(axis=1, keepdims=True))
    return mean
