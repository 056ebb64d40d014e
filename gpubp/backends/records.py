"""The data that operations read and write: layers and their caches, batches, the tables of an epoch, optimizer state.

Every array has a leading axis of K networks, or of 1 if the networks share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpubp._typing import Array
from gpubp.activations import Activation
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer


@dataclass(frozen=True, slots=True)
class Layer:
    """The parameters of a layer, or their gradients: W (K, n_in, n_out) and b (K, 1, n_out)."""

    W: Array
    b: Array


@dataclass(slots=True)
class LayerCache:
    """What the forward pass of one layer keeps for the backward pass, arrays (K, rows, n).

    Attributes
    ----------
    index : int
        The number of the layer, counted from 0; its dropout masks depend on it.
    z, a : arrays
        The same array if σ′ is computed from a.
    delta : array
        Receives δ. For the output layer it shares the memory of `a`: its logits are not needed once δᴸ is known.
    mask : bool array or None
        The elements that dropout kept; None without dropout.
    again_from : int or None
        If layers share memory that others have overwritten by the time the backward pass gets here: the first of the
        layers to run again, of which this one is the last.
    sums_due : bool
        Whether BP3 of the layer is left to its own `dense_backward`; internal to a backend.
    """

    index: int
    z: Array
    a: Array
    delta: Array
    mask: Array | None
    again_from: int | None = None
    sums_due: bool = False

    def first(self, rows: int) -> LayerCache:
        """Views of the first `rows` rows, for a smaller batch; nothing is copied."""
        z = self.z[:, :rows]
        a = z if self.a is self.z else self.a[:, :rows]
        mask = None if self.mask is None else self.mask[:, :rows]
        return LayerCache(self.index, z, a, self.delta[:, :rows], mask, self.again_from)

    def derivative_input(self, activation: Activation) -> Array:
        """The array from which σ′ is computed: z or a."""
        return self.a if activation.derivative_from == "a" else self.z


@dataclass(frozen=True, slots=True)
class Below:
    """The hidden layer to which δ is propagated back.

    Attributes
    ----------
    activation : Activation
    cache : LayerCache
    grad_b : (K, 1, n) array
        For its BP3.
    """

    activation: Activation
    cache: LayerCache
    grad_b: Array


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows that one step takes.

    Attributes
    ----------
    X : (K or 1, rows, n_0) array
    y : (K or 1, rows) int64 classes, or (K or 1, rows, n_L) values
    weight : (K or 1, rows) float64 or None
        Sample weights; None stands for ones.
    smoothing : (K,) float64
        Label smoothing.
    """

    X: Array
    y: Array
    weight: Array | None
    smoothing: Array

    @property
    def samples(self) -> tuple[Array, Array, Array | None]:
        """X, y and the weights."""
        return self.X, self.y, self.weight


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

    Operations read the row at the cursor, and the last operation of a step advances it, so a step is
    the same function every time and can be replayed.

    Attributes
    ----------
    cursor : (1,) int64
        The step within the epoch, counted from 0.
    first_step : (K,) int64
        The number, over the whole training, of the epoch's first step.
    batch_size : int
        Step i takes the positions i·batch_size, … of the order.
    order : (K or 1, m) int64 or None
        Rows of the data as each network sees them, 1 if all see the same; None for all rows in stored order. With
        `keys`, each network's own rows, which the keys shuffle.
    normalizer, learning_rate : (K, steps) float64
    totals : (K, steps, 2) float64
        Filled: Σ weight · (value, metric) over the rows of each step.
    loss_scale : LossScale or None
        Set if the backend's storage is float16.
    keys : (K or 1, ROUNDS, 2) uint32 or None
        Keys of the bijection that shuffles a network's rows (`gpubp.backends.shuffle`): position p takes its row
        bijection(p). None keeps their order.
    counts : (K or 1,) int64 or None
        The number of rows that the bijection permutes; given with `keys`.
    period : int
        If only part of the rows is on the device at a time, the number of positions after which counting restarts;
        otherwise 0.
    """

    cursor: Array
    first_step: Array
    batch_size: int
    order: Array | None
    normalizer: Array
    learning_rate: Array
    totals: Array
    loss_scale: LossScale | None = None
    keys: Array | None = None
    counts: Array | None = None
    period: int = 0


@dataclass(slots=True)
class OptimizerState:
    """Everything that an update reads and writes besides θ and its gradient, for K networks with P parameters each.

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
        Nothing is written for an inactive network.
    fault_step : (K,) int64
        The step at which a non-finite loss or gradient made a network inactive; −1 if none did.
    largest_update : (K,) float64 or None
        If tracked, the largest |Δθ| of any parameter in any step since it was last cleared.
    n_weights : int
        θ[:, :n_weights] are weights, the rest biases: decay and l2 apply only to weights. Like P, it is a multiple of
        128, so that kernels can process several parameters at a time.
    l2, weight_decay, max_grad_norm : (K,) float64 or None
        None if no network uses it.
    l2_by_batch : bool
        Whether the normalizer also divides the penalty: the gradient then gains l2 · normalizer · W.
    penalty : (K, steps) float64 or None
        If recorded, ½ l2 Σ W² of the weights that each step of the epoch read; a step that is not taken writes none.
    operands : (K, P) array or None
        If matrix products read a copy of θ in another type, that copy, written along with θ.
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


@dataclass(frozen=True, slots=True)
class TrainingArrays:
    """What a training step reads and writes besides its own buffers, for backends with their own kind of steps.

    Attributes
    ----------
    shapes : sequence of (n_in, n_out)
        The shape of every layer's weights.
    starts : sequence of (int, int)
        Where each layer's weights and biases begin in a row of θ.
    activations : sequence of Activation
        One per layer; the last one leaves the logits as they are.
    loss : Loss
    theta : (K, P) array
    data : Batch
        All rows, from which a step gathers its batch.
    batch_size : int
        Maximum rows of a step.
    epoch : Epoch
    dropout : Dropout or None
    optimizer : OptimizerState
    """

    shapes: Sequence[tuple[int, int]]
    starts: Sequence[tuple[int, int]]
    activations: Sequence[Activation]
    loss: Loss
    theta: Array
    data: Batch
    batch_size: int
    epoch: Epoch
    dropout: Dropout | None
    optimizer: OptimizerState
