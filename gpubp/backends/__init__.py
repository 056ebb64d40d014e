"""The backends: one protocol of about a dozen operations, and the choice of a device.

Every array that an operation takes or fills has a leading axis of K networks (or of 1 if the networks share it); its
batch stride is free, so a slice of rows works like a whole buffer. Operations write into their ``out`` arguments and
allocate nothing that grows with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gpubp._typing import Array, Namespace
from gpubp.activations import Activation, Softmax
from gpubp.backends.collectives import GradientSum, Processes
from gpubp.backends.feeds import Feed
from gpubp.backends.records import (
    Batch,
    Below,
    Dropout,
    Epoch,
    Layer,
    LayerCache,
    LossScale,
    OptimizerState,
    TrainingArrays,
)
from gpubp.errors import DeviceError, UsageError, suggest
from gpubp.losses import Loss
from gpubp.precision import PRECISIONS

__all__ = [
    "CPU_PRECISIONS",
    "DEVICES",
    "Backend",
    "Batch",
    "Below",
    "Dropout",
    "Epoch",
    "Feed",
    "Layer",
    "LayerCache",
    "LossScale",
    "OptimizerState",
    "TrainingArrays",
    "get_backend",
    "loadable_precision",
]

DEVICES = ("auto", "cpu", "cpu-reference", "cuda", "cuda-unfused")
CPU_PRECISIONS = ("float32", "float64")
_CPU = ("cpu", "cpu-reference")


class Backend(Protocol):
    """The operations that `backprop` and `training` need from a device."""

    name: str
    device: str
    reason: str
    precision: str
    dtype: Any  # of parameters and gradients
    storage: Any  # of batches, activations and δ, and of weights as read by products
    accumulator: Any  # of sums over a batch: float64
    gemm_table: str | None  # the hash of the user's table of algorithms for products, if there is one
    xp: Namespace
    shuffles_rows: bool  # whether `gather` derives an epoch's order from its keys at no cost; else it is sent

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array on the device, of the backend's dtype unless another is given; contents undefined."""

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array of zeros on the device."""

    def free_memory(self) -> float:
        """Bytes that can still be allocated on the device; infinite on the CPU, which swaps before it fails."""

    def loss_scale(self, networks: int) -> LossScale | None:
        """The state of loss scaling at the start of a training; None if `storage` needs none."""

    def from_host(self, array: Any, dtype: Any = None) -> Array:
        """A host array, or one already there, on the device and contiguous; copied only if necessary."""

    def to_host(self, array: Array) -> Any:
        """A NumPy array of the same values; waits for the device."""

    def matmul(self, a: Array, b: Array, out: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """out = op(a) op(b): one GEMM per network; an operand with leading axis 1 is shared."""

    def dense(
        self, activation: Activation, a_prev: Array, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        """cache.z = a_prev W + b and cache.a = σ(z): `matmul` and `bias_activation`."""

    def bias_activation(
        self, activation: Activation, layer: Layer, cache: LayerCache, dropout: Dropout | None = None
    ) -> None:
        """cache.z += b by rows, then cache.a = σ(z); if the cache has a mask, a = mask ⊙ σ(z)/(1 − rate)."""

    def dense_backward(
        self,
        a_prev: Array,
        layer: Layer,
        cache: LayerCache,
        grad: Layer,
        below: Below | None = None,
        dropout: Dropout | None = None,
    ) -> None:
        """BP4 of a layer, then BP2 and BP3 of the one below: two products and `hadamard_derivative`, in few passes.

        grad.W (K, n_in, n_out) = a_prevᵀ δ; below.cache.delta = (δ Wᵀ) ⊙ σ′ and its sums below.grad_b, which may be
        left to the next call, for the layer below, as its grad.b.
        """

    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Array, dropout: Dropout | None = None
    ) -> None:
        """The second half of BP2, and BP3: cache.delta ⊙= σ′, now δ; grad_b (K, 1, n) = Σ_rows δ."""

    def loss_delta(self, loss: Loss, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array) -> None:
        """BP1 with the value of the loss, and the output layer's BP3.

        The logits cache.a (K, rows, n_L) become δᴸ = weight · normalizer · ∂C/∂z, cache.delta, in place;
        grad_b (K, 1, n_L) = Σ_rows δᴸ; the step's totals are written.
        """

    def dense_loss(
        self, loss: Loss, a_prev: Array, layer: Layer, cache: LayerCache, batch: Batch, epoch: Epoch, grad_b: Array
    ) -> None:
        """The output layer's logits, then BP1: `dense` and `loss_delta`, in few passes.

        grad_b may be left to the next call, `dense_backward` of this layer.
        """

    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        """Turn logits into a^L in place."""

    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        """One update of θ (K, P), with l2 and clipping of the gradient, and decoupled weight decay.

        A network whose totals or gradient norm are not finite is made inactive, and the step recorded, before anything
        of it is written. This ends the step: the cursor moves on.
        """

    def gather(self, data: Batch, epoch: Epoch, out: Batch) -> None:
        """X, y and weights of the step's rows: out[k, i] = data (K or 1, m, …)[k, the i-th row of network k], cast.

        Arrays that are None in `out` are skipped.
        """

    def feed(self, arrays: Sequence[Array]) -> Feed:
        """A feed that fills arrays (1, n, …) on the device from another thread while the device works with them."""

    def cast(self, source: Array, out: Array) -> None:
        """out = source, rounded to out's type; both have the same shape."""

    def assign(self, target: Array, values: Any, who: Any) -> None:
        """target[k] = values[k], or values if it is a number, for the networks in `who`, (K,) bool on the host."""

    def copy_networks(self, source: Array, taken: Any, target: Array, places: Any) -> None:
        """target[places[i]] = source[taken[i]] for all i; (n,) int arrays on the host, buffers without overlap."""

    def finite(self, array: Array) -> Any:
        """Whether all values of each network are finite, (K,) bool on the host."""

    def computing(self) -> AbstractContextManager[Any]:
        """A context for calling operations outside a captured step."""

    def capture(
        self, step: Callable[[int], None], prepare: Callable[[int], None] | None = None
    ) -> Callable[[int, int], None]:
        """``run(count, rows)`` takes `count` steps of `rows` rows each: calls here, a replayed graph on a GPU.

        A GPU calls the first step of each number of rows, which compiles and allocates what a graph cannot. If
        ``prepare(rows)`` does that, it is called instead, and all steps are replayed; ``run(0, rows)`` only prepares.
        """

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function between two operations of a captured step.

        On a CPU, it is called in every step; on a GPU, only at capture, when it launches its work.
        """

    def device_sum(self, processes: Processes) -> GradientSum | None:
        """The sum of arrays on the devices of several processes; None if they go through host memory."""

    def training_steps(
        self, step: Callable[[int], None], training: TrainingArrays
    ) -> tuple[str, Callable[[int, int], None]]:
        """The name of the way training steps are taken, and ``run(count, rows)``, which takes them.

        ``step(rows)`` takes one step with this backend's operations, and every backend can `capture` it. A backend may
        take the steps in another way that leaves the same results in `training`.
        """


def get_backend(device: str | Backend = "auto", precision: str = "float32") -> Backend:
    """The backend for a device and a precision.

    Parameters
    ----------
    device : {"auto", "cpu", "cpu-reference", "cuda", "cuda:1", "cuda-unfused", ...} or Backend
        "auto" is a GPU if one works, which is tested by running a kernel and a matrix product. "cpu" compiles its loops
        if Numba is installed. "cpu-reference" and "cuda-unfused" run the reference formulas, for comparison. "gpu" is
        "cuda". A backend is returned as it is, with its own precision.
    precision : {"float32", "float64", "tf32", "bfloat16", "float16"}
        The last three on a GPU only.

    Raises
    ------
    DeviceError
        For a GPU that does not work here or in this precision; the message says why, and the remedy.
    UsageError
        For an unknown device or precision, or a precision that the CPU lacks.
    """
    from gpubp.backends.cpu import on_the_cpu

    if not isinstance(device, str):
        return _backend(device)
    device, kind, index = _parse(device)
    _check(precision)
    if kind in _CPU:
        return on_the_cpu(kind, precision, "asked for")
    from gpubp.backends.cuda import open_backend, probe_device

    state = probe_device(index)
    if state.usable:
        return open_backend(device, kind, index, precision)
    if kind == "auto":
        return on_the_cpu(kind, precision, state.reason)
    raise DeviceError(f'device "{device}": {state.summary}; {state.remedy}')


def loadable_precision(device: str | Backend, precision: str) -> str:
    """`precision`, or if `device` is a CPU, which may lack it, the type of its parameters."""
    if not isinstance(device, str):
        return _backend(device).precision
    _, kind, index = _parse(device)
    _check(precision)
    if kind not in _CPU and precision not in CPU_PRECISIONS:
        from gpubp.backends.cuda import probe_device

        if kind != "auto" or probe_device(index).usable:
            return precision
    return PRECISIONS[precision].parameters


def _backend(device: Backend) -> Backend:
    """`device`, which is not a name; refused if it is not a backend either, such as PyTorch's number of a GPU."""
    if not hasattr(device, "loss_delta"):
        raise UsageError(f"device={device!r} does not fit; give one of {', '.join(DEVICES)}, or cuda:1")
    return device


def _parse(device: str) -> tuple[str, str, int]:
    """A device's name, with "cuda" for "gpu"; its entry in DEVICES, and the index of a GPU."""
    kind, colon, index = device.partition(":")
    kind = "cuda" if kind == "gpu" else kind
    if kind not in DEVICES or (colon and not (kind.startswith("cuda") and index.isdecimal())):
        raise UsageError(f'unknown device "{device}"; {suggest(device, DEVICES)}')
    return kind + colon + index, kind, int(index or 0)


def _check(precision: str) -> None:
    if not isinstance(precision, str):
        raise UsageError(f"precision={precision!r} does not fit; give one of {', '.join(PRECISIONS)}")
    if precision not in PRECISIONS:
        raise UsageError(f'unknown precision "{precision}"; {suggest(precision, PRECISIONS)}')
