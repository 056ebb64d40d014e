"""Networks as text: one pass of backpropagation with every z, a, σ′(z), δ and gradient; the layers in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp._typing import Array
from gpubp.activations import Activation
from gpubp.backends import Batch, Epoch, LayerCache
from gpubp.backends.reference import ReferenceBackend
from gpubp.backprop import backward, forward
from gpubp.losses import LOSSES
from gpubp.stack import Stack

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_WIDEST, _MOST_ROWS = 8, 8  # a larger matrix is printed as a summary
_INDENT = 34  # characters before the numbers


@dataclass(frozen=True)
class LayerTrace:
    """What one pass over m rows computed in one layer, whose n_out units are fed by n_in.

    Attributes
    ----------
    number : int
        l, counted from 1 for the first hidden layer to L for the output layer.
    activation : str
        The name of σ.
    W, b : (n_in, n_out) and (n_out,) arrays
        The parameters that the pass used.
    z, a : (m, n_out) arrays
        zˡ = aˡ⁻¹ Wˡ + bˡ and aˡ = σ(zˡ).
    derivative : (m, n_out) array or None
        σ′(zˡ); None for softmax, whose derivative is a Jacobian instead of an array of this shape.
    delta : (m, n_out) array
        δˡ = ∂C/∂zˡ. C is the mean over the batch, so each row holds a part of it: 1/m of that row's own.
        With `per_sample`, ∂C_x/∂zˡ of that row's own cost.
    grad_W, grad_b : (n_in, n_out) and (n_out,) arrays
        ∂C/∂Wˡ = aˡ⁻¹ᵀ δˡ and ∂C/∂bˡ = Σ_rows δˡ; with `per_sample`, (m, n_in, n_out) and (m, n_out), of each row.
    """

    number: int
    activation: str
    W: NDArray[Any]
    b: NDArray[Any]
    z: NDArray[Any]
    a: NDArray[Any]
    derivative: NDArray[Any] | None
    delta: NDArray[Any]
    grad_W: NDArray[Any]
    grad_b: NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """What `MLP.trace` returns; ``print`` shows it next to the four equations.

    Attributes
    ----------
    network : str
        A one-line description of the network.
    X : (m, n_0) array
        The inputs a⁰.
    y : (m,) or (m, n_L) array
        The targets.
    layers : tuple of LayerTrace
        The hidden layers, then the output layer.
    grad_a : (m, n_L) array or None
        ∇ₐC of BP1. None for a loss that is computed from logits together with its output activation.
    loss_name : str
    loss : float or (m,) array
        C, or with `per_sample` the cost of each row.
    metric : float or (m,) array
        The metric that goes with the loss.
    metric_name : str
    per_sample : bool
    """

    network: str
    X: NDArray[Any]
    y: NDArray[Any]
    layers: tuple[LayerTrace, ...]
    grad_a: NDArray[Any] | None
    loss_name: str
    loss: Any
    metric: Any
    metric_name: str
    per_sample: bool

    def __str__(self) -> str:
        return "\n".join([self.network, *self._forward(), *self._backward()])

    def _forward(self) -> Iterator[str]:
        yield "\nforward: zˡ = aˡ⁻¹Wˡ + bˡ, aˡ = σ(zˡ)"
        yield from _lines("a⁰ = x", self.X)
        for layer in self.layers:
            l, below = _superscript(layer.number), _superscript(layer.number - 1)
            yield from _lines(f"W{l}", layer.W)
            yield from _lines(f"b{l}", layer.b)
            yield from _lines(f"z{l} = a{below}W{l} + b{l}", layer.z)
            yield from _lines(f"a{l} = {layer.activation}(z{l})", layer.a)
        yield from _lines("y", self.y)
        yield from _lines("C", self.loss)
        yield from _lines(self.metric_name, self.metric)

    def _backward(self) -> Iterator[str]:
        rows = "the row's own cost" if self.per_sample else "C"
        yield f"\nbackward: δˡ = ∂C/∂zˡ, of {rows}"
        last = len(self.layers)
        for layer in reversed(self.layers):
            l, above, below = (_superscript(layer.number + step) for step in (0, 1, -1))
            if layer.number == last and self.grad_a is not None:
                yield from _lines("∇ₐC", self.grad_a)
            if layer.derivative is not None and (layer.number < last or self.grad_a is not None):
                yield from _lines(f"σ′(z{l})", layer.derivative)
            equation = f"BP2  δ{l} = (δ{above}W{above}ᵀ) ⊙ σ′(z{l})" if layer.number < last else self._bp1(l)
            yield from _lines(equation, layer.delta)
            summed = "" if self.per_sample else "Σ_rows "
            yield from _lines(f"BP3  ∂C/∂b{l} = {summed}δ{l}", layer.grad_b)
            yield from _lines(f"BP4  ∂C/∂W{l} = a{below}ᵀδ{l}", layer.grad_W)

    def _bp1(self, l: str) -> str:
        if self.grad_a is not None:
            return f"BP1  δ{l} = ∇ₐC ⊙ σ′(z{l})"
        if self.loss_name not in LOSSES:
            return f"BP1  δ{l} = ∂C/∂z{l}"
        # A registered loss is computed from logits where it matches its output activation, so that σ′ cancels.
        by_itself = self.per_sample or len(self.X) == 1
        return f"BP1  δ{l} = {f'a{l} − y' if by_itself else f'(a{l} − y)/m'}, σ′ cancels"


def trace(stack: Stack, X: Array, y: Array, weight: Array | None, *, per_sample: bool = False) -> Trace:
    """One pass of a single-network stack over checked rows, by the reference formulas in the parameters' dtype.

    With `per_sample`, the network is copied m times into a stack, and each copy gets a batch of one row: axis K then
    separates the rows, and the same lines of code compute the equations.
    """
    m = len(X)
    backend = ReferenceBackend(stack.backend.dtype)
    theta = np.asarray(stack.backend.to_host(stack.theta))
    copies = stack.like(np.repeat(theta, m if per_sample else 1, axis=0), backend)
    batch = _batch(copies, X, y, weight, per_sample)
    caches = _caches(copies, batch.X.shape[1])
    grads = copies.layout.layers(backend.zeros(copies.theta.shape))
    epoch = copies.single_step(1.0 if per_sample else 1.0 / (m if weight is None else weight.sum()))
    with backend.computing():
        forward(backend, copies.network, batch.X, caches)
        backward(backend, copies.network, batch, caches, grads, epoch)
        outputs = copies.output_activation.f(backend.xp, caches[-1].a)
        grad_a = _grad_a(copies, outputs, batch, epoch)
        layers = _layers(copies, caches, outputs, grads, per_sample)
    totals = epoch.totals[:, 0] * epoch.normalizer[:, :1]
    metric = np.array([copies.loss.metric.finish(value) for value in totals[:, 1]])
    return Trace(
        network=repr(stack),
        X=X,
        y=y,
        layers=layers,
        grad_a=None if grad_a is None else _rows(grad_a),
        loss_name=copies.loss.name,
        loss=totals[:, 0] if per_sample else float(totals[0, 0]),
        metric=metric if per_sample else float(metric[0]),
        metric_name=copies.loss.metric_name(copies.layer_sizes[-1]),
        per_sample=per_sample,
    )


def _batch(copies: Stack, X: Array, y: Array, weight: Array | None, per_sample: bool) -> Batch:
    """The rows as one batch, or each as a batch of its own, in which weights have no meaning."""
    X, y = np.asarray(X[:], copies.backend.dtype), copies.cast_targets(y)
    smoothing = np.zeros(copies.models)
    if per_sample:
        return Batch(X[:, None], y[:, None], None, smoothing)
    return Batch(X[None], y[None], None if weight is None else weight[None], smoothing)


def _caches(copies: Stack, rows: int) -> list[LayerCache]:
    """Buffers without shared memory, so that z, a and δ of every layer are still there after the pass."""
    caches = []
    for l, n in enumerate(copies.layer_sizes[1:]):
        z, a, delta = (np.empty((copies.models, rows, n), copies.backend.dtype) for _ in range(3))
        caches.append(LayerCache(l, z, a, delta, None))
    return caches


def _grad_a(copies: Stack, outputs: Array, batch: Batch, epoch: Epoch) -> Array | None:
    """∇ₐC (K, rows, n_L) of a loss on values, or None of one that is computed from logits."""
    loss = copies.loss.values or copies.loss
    if loss.output_activation.name != "identity":
        return None
    _, grad_a = loss.formula(copies.backend.xp, outputs, batch.y, np.zeros(1))
    factor = epoch.normalizer[:, :1] if batch.weight is None else batch.weight * epoch.normalizer[:, :1]
    return grad_a * factor[..., None]


def _layers(copies: Stack, caches: list[LayerCache], outputs: Array, grads: Any, per_sample: bool) -> Any:
    layers = []
    activations = [*copies.activations, copies.output_activation]
    for cache, grad, layer, activation in zip(caches, grads, copies.layers, activations, strict=True):
        a = outputs if cache is caches[-1] else cache.a
        derivative = None
        if isinstance(activation, Activation):
            x = a if activation.derivative_from == "a" else cache.z
            derivative = _rows(np.asarray(activation.derivative(copies.backend.xp, x), a.dtype))
        layers.append(
            LayerTrace(
                number=cache.index + 1,
                activation=activation.name,
                W=layer.W[0],
                b=layer.b[0, 0],
                z=_rows(cache.z),
                a=_rows(a),
                derivative=derivative,
                delta=_rows(cache.delta),
                grad_W=grad.W if per_sample else grad.W[0],
                grad_b=grad.b[:, 0] if per_sample else grad.b[0, 0],
            )
        )
    return tuple(layers)


def _rows(array: Array) -> Array:
    """(1, m, n), or (m, 1, n) of m copies, as (m, n)."""
    return array.reshape(-1, array.shape[-1])


# -- in print ------------------------------------------------------------------------------------------


def summary(stack: Stack) -> str:
    """The layers in a table: activation, shape of W, parameters, norm of W."""
    names = [*(activation.name for activation in stack.activations), stack.output_activation.name]
    width = max(10, *map(len, names))
    lines = [f"layer  {'activation':<{width}}  weights  parameters  norm of W"]
    for number, (name, layer, (n_in, n_out)) in enumerate(
        zip(names, stack.layers, stack.layout.shapes, strict=True), 1
    ):
        norm = float(np.linalg.norm(stack.backend.to_host(layer.W)))
        shape = f"{n_in} x {n_out}"
        lines.append(f"{number:>5}  {name:<{width}}  {shape:<7}  {n_in * n_out + n_out:>10,}  {norm:>9.4g}")
    return "\n".join([*lines, f"in all {'':<{width}}           {stack.layout.parameters:>10,}"])


def _superscript(number: int) -> str:
    return str(number).translate(_SUPERSCRIPTS)


def _lines(name: str, values: Any) -> Iterator[str]:
    """A name and its numbers: all of them where they are few, otherwise a summary of their distribution."""
    array = np.asarray(values)
    if array.ndim == 3:
        for number, matrix in enumerate(array[:_MOST_ROWS], 1):
            yield from _lines(f"{name}, row {number}", matrix)
        return
    table = array.reshape(1, -1) if array.ndim < 2 else array
    if table.shape[0] > _MOST_ROWS or table.shape[1] > _WIDEST:
        yield f"  {name:<{_INDENT}}{_spread(array)}"
        return
    for number, row in enumerate(table):
        yield f"  {name if number == 0 else '':<{_INDENT}}" + " ".join(f"{_number(value):>12}" for value in row)


def _number(value: Any) -> str:
    return str(value) if isinstance(value, np.integer | np.bool_) else f"{value:.6g}"


def _spread(array: NDArray[Any]) -> str:
    shape = " × ".join(map(str, array.shape))
    zeros = f", {100 * np.mean(array == 0):.0f} % of them 0" if (array == 0).any() else ""
    norm = np.linalg.norm(array.astype(np.float64))
    return f"{shape} numbers, {array.min():.4g} to {array.max():.4g}, norm {norm:.4g}{zeros}"
