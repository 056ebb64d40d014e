"""The machines: one protocol of about a dozen operations, and how a device is chosen.

Every array that an operation takes or fills has a leading axis of K networks (or of 1, where the networks
share it); its batch stride is free, so a slice of rows is as good as a whole buffer. Operations write into
their ``out`` arguments and allocate nothing that grows with the network.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gpubp._typing import Array, Namespace
from gpubp.activations import Activation, Softmax
from gpubp.errors import DeviceError, UsageError, suggest
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer
from gpubp.precision import PRECISIONS

DEVICES = ("auto", "cpu", "cpu-reference", "cuda", "cuda-unfused")
CPU_PRECISIONS = ("float32", "float64")
_CPU = ("cpu", "cpu-reference")


@dataclass(slots=True)
class Dropout:
    """Inverted dropout of one training step.

    Attributes
    ----------
    rate : (K,) float64
        Probability that an element of a hidden layer is dropped, 0 ≤ rate < 1.
    seeds : (K,) uint64
        Each network's own key.
    cursor, first_step : (1,) and (K,) int64
        The `Epoch`'s: masks depend on the step over the whole training, first_step + cursor.
    """

    rate: Array
    seeds: Array
    cursor: Array
    first_step: Array


@dataclass(slots=True)
class LossScale:
    """Dynamic loss scaling, per network: δ is multiplied by `scale`, the gradient divided by it again.

    A step whose gradient overflows is skipped and counted, and `scale` halved; after 2,000 steps without one
    it is doubled. Source: Micikevicius et al., "Mixed precision training", 2018.

    Attributes
    ----------
    scale : (K,) float64
    clean_steps, overflows : (K,) int64
        Steps since the last change; steps skipped so far.
    """

    scale: Array
    clean_steps: Array
    overflows: Array


@dataclass(slots=True)
class Epoch:
    """The tables of an epoch on the device, and how far it has got.

    Operations read the row that the cursor points at, and the last one of a step moves it on, so a step is
    the same function every time and can be replayed.

    Attributes
    ----------
    cursor : (1,) int64
        The step within the epoch, counted from 0.
    first_step : (K,) int64
        The number, over the whole training, of the epoch's first step.
    batch_size : int
        Step i takes rows ``order[:, i·batch_size:(i + 1)·batch_size]``.
    order : (K or 1, m) int64
        Rows of the data as each network sees them; 1 where all see the same.
    normalizer, learning_rate : (K, steps) float64
    totals : (K, steps, 2) float64
        Filled: Σ weight · (value, metric) over the rows of each step.
    loss_scale : LossScale or None
        Where the backend's storage is float16.
    """

    cursor: Array
    first_step: Array
    batch_size: int
    order: Array
    normalizer: Array
    learning_rate: Array
    totals: Array
    loss_scale: LossScale | None = None


@dataclass(slots=True)
class OptimizerState:
    """Everything an update reads and writes besides θ and its gradient. K networks, P parameters each.

    Attributes
    ----------
    rule : Optimizer
    options : dict of str to (K,) float64
        The rule's options per network.
    slots : tuple of (K, P) arrays
        The rule's state.
    updates : (K,) int64
        Updates applied so far; bias corrections count these.
    active : (K,) bool
        Nothing of a network that is not active is written.
    fault_step : (K,) int64
        The step at which a non-finite loss or gradient made a network inactive; −1 if none did.
    largest_update : (K,) float64 or None
        Where tracked, the largest |Δθ| of any parameter in any step since it was last cleared.
    n_weights : int
        θ[:, :n_weights] are weights, the rest biases: decay and l2 concern weights alone. A multiple of 128,
        as P is, so that kernels can take several parameters at a time.
    l2, weight_decay, max_grad_norm : (K,) float64 or None
        None where no network uses it.
    l2_by_batch : bool
        Whether the penalty is part of what the normalizer divides: the gradient then gains l2 · normalizer · W.
    penalty : (K, steps) float64 or None
        Where recorded, ½ l2 Σ W² of the weights that each step of the epoch read; a step that is not taken writes none.
    operands : (K, P) array or None
        Where matrix products read a copy of θ in another type, that copy, written along with θ.
    """

    rule: Optimizer
    options: dict[str, Array]
    slots: tuple[Array, ...]
    updates: Array
    active: Array
    fault_step: Array
    n_weights: int
    largest_update: Array | None = None
    l2: Array | None = None
    weight_decay: Array | None = None
    max_grad_norm: Array | None = None
    l2_by_batch: bool = False
    penalty: Array | None = None
    operands: Array | None = None


class Backend(Protocol):
    """What `backprop` and `training` ask of a machine."""

    name: str
    device: str
    reason: str
    precision: str
    dtype: Any  # of parameters and gradients
    storage: Any  # of batches, activations and δ, and of weights as products read them
    accumulator: Any  # of sums over a batch: float64
    xp: Namespace

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An array on the device, of the backend's dtype unless another is named; contents undefined."""

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """The same, zero."""

    def room(self) -> float:
        """Bytes that can still be allocated on the device; infinite on the CPU, which swaps before it fails."""

    def loss_scale(self, networks: int) -> LossScale | None:
        """The state of loss scaling at the start of a training, None where `storage` needs none."""

    def from_host(self, array: Any, dtype: Any = None) -> Array:
        """A host array, or one that is there already, on the device; copied only where it must be."""

    def to_host(self, array: Array) -> Any:
        """A NumPy array of the same values; waits for the device."""

    def matmul(self, a: Array, b: Array, out: Array, *, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """out = op(a) op(b): one GEMM per network; an operand whose leading axis is 1 is shared."""

    def dense(
        self,
        activation: Activation,
        a_prev: Array,
        W: Array,
        b: Array,
        z: Array,
        a: Array,
        dropout: Dropout | None = None,
        mask: Array | None = None,
        layer: int = 0,
    ) -> None:
        """z = a_prev W + b and a = σ(z): `matmul` and `bias_activation` in one."""

    def bias_activation(
        self,
        activation: Activation,
        z: Array,
        b: Array,
        a: Array,
        dropout: Dropout | None = None,
        mask: Array | None = None,
        layer: int = 0,
    ) -> None:
        """z += b (K, 1, n) by rows, then a = σ(z), with dropout a = mask ⊙ σ(z)/(1 − rate). `a` may be z."""

    def hadamard_derivative(
        self,
        activation: Activation,
        grad: Array,
        kept: Array,
        grad_b: Array,
        dropout: Dropout | None = None,
        mask: Array | None = None,
    ) -> None:
        """BP2 and BP3 in one: grad ⊙= σ′(kept), now δ; grad_b (K, 1, n) = Σ_rows δ. `kept` is z or a."""

    def loss_delta(
        self,
        loss: Loss,
        logits: Array,
        y: Array,
        weight: Array | None,
        smoothing: Array,
        epoch: Epoch,
        grad_b: Array,
    ) -> None:
        """BP1 with the value, and the output layer's BP3.

        logits (K, rows, n) become δᴸ = weight · normalizer · ∂C/∂z; grad_b (K, 1, n) = Σ_rows δᴸ; the
        step's totals are written. weight is (1 or K, rows) or None for ones, smoothing (K,) float64.
        """

    def output(self, activation: Activation | Softmax, logits: Array) -> None:
        """logits become a^L in place."""

    def optimizer_step(self, state: OptimizerState, theta: Array, grad: Array, epoch: Epoch) -> None:
        """One update of θ (K, P), with l2 and clipping of the gradient, and decoupled weight decay.

        A network whose totals or gradient norm are not finite is made inactive, and the step noted, before
        anything of it is written. This ends the step: the cursor moves on.
        """

    def gather(self, source: Array, epoch: Epoch, out: Array) -> None:
        """out[k, i] = source (K or 1, m, …)[k, the i-th row of network k in this step], cast to out's dtype."""

    def cast(self, source: Array, out: Array) -> None:
        """out = source, rounded to out's type; of one shape."""

    def assign(self, target: Array, values: Any, who: Any) -> None:
        """target[k] = values[k], or values if it is a number, for the networks of the host's (K,) bool `who`."""

    def finite(self, array: Array) -> Any:
        """Per network, on the host: (K,) bool, whether all its values are finite."""

    def computing(self) -> AbstractContextManager[Any]:
        """Where operations are called outside a captured step."""

    def capture(self, step: Callable[[int], None]) -> Callable[[int, int], None]:
        """``run(count, rows)`` takes `count` steps of `rows` rows each: calls here, a replayed graph on a GPU."""


def get_backend(device: str = "auto", precision: str = "float32") -> Backend:
    """The backend for a device and a precision.

    Parameters
    ----------
    device : {"auto", "cpu", "cpu-reference", "cuda", "cuda:1", "cuda-unfused", ...}
        "auto" is a GPU where one works: it is made to run a kernel and a matrix product first. "cpu" compiles its
        loops where Numba is installed. "cpu-reference" and "cuda-unfused" run the reference formulas, for
        comparison.
    precision : {"float32", "float64", "tf32", "bfloat16", "float16"}
        The last three on a GPU only.

    Raises
    ------
    DeviceError
        For a GPU that cannot work here, or not in this precision: why, and the remedy.
    UsageError
        For an unknown device or precision, or one that the CPU does not have.
    """
    from gpubp.backends.cpu import on_the_cpu

    kind, index = _parse(device)
    _check(precision)
    if kind in _CPU:
        return on_the_cpu(kind, precision, "asked for")
    from gpubp.backends.cuda import open_backend, probe_device

    state = probe_device(index)
    if state.usable:
        return open_backend(device, kind, index, precision)
    if kind == "auto":
        return on_the_cpu(kind, precision, f"no GPU: CuPy is {state.found}" if not state.installed else state.found)
    raise DeviceError(f'device "{device}": {"" if state.installed else "CuPy is "}{state.found}; {state.remedy}')


def loadable_precision(device: str, precision: str) -> str:
    """`precision`, or where `device` means the CPU and that lacks it, the type that parameters are kept in."""
    kind, index = _parse(device)
    _check(precision)
    if kind not in _CPU and precision not in CPU_PRECISIONS:
        from gpubp.backends.cuda import probe_device

        if kind != "auto" or probe_device(index).usable:
            return precision
    return PRECISIONS[precision].parameters


def _parse(device: str) -> tuple[str, int]:
    """One of DEVICES, and the index of a GPU."""
    kind, colon, index = device.partition(":")
    if kind not in DEVICES or (colon and not (kind.startswith("cuda") and index.isdecimal())):
        raise UsageError(f'unknown device "{device}"; {suggest(device, DEVICES)}')
    return kind, int(index or 0)


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f'unknown precision "{precision}"; {suggest(precision, PRECISIONS)}')
