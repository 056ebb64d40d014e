"""Stages ``parity`` and ``processes``: steps against float64, replayed graphs against eager steps, fresh processes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.devices import open_backend
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError
from benchmarks.remote import Remote, RemoteError
from gpubp.activations import Activation
from gpubp.backends import Backend, Dropout, LayerCache
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.reference import ReferenceBackend
from gpubp.network import MLP
from gpubp.optimizers import get_optimizer
from gpubp.training.slice_step import initial_state
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import draw_table

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 2e-2}
GRADIENT = {**TOLERANCE, "float16": 3e-3, "bfloat16": 3e-2}  # which sums what was rounded in several layers
COMPARED = ("loss", "gradient", "update", "theta")
STEPS, REPLAYED = 12, 21  # more than a graph holds, so that graphs of several steps and of one are replayed
FRESH, MANY = 3, 20  # processes: beside the other checks, by themselves
CACHES = ("CUPY_CACHE_DIR", "CUDA_CACHE_PATH")


@dataclass(frozen=True)
class Example:
    """A training that is followed step by step."""

    layer_sizes: tuple[int, ...]
    batch_size: int
    activations: Any = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "adam"
    learning_rate: float = 0.01
    models: int = 1
    dropout: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    @property
    def name(self) -> str:
        """64-64-10 b32 relu adam."""
        activations = self.activations if isinstance(self.activations, str) else ",".join(self.activations)
        stack = f" x{self.models}" if self.models > 1 else ""
        dropout = f" dropout {self.dropout}" if self.dropout else ""
        sizes = "-".join(map(str, self.layer_sizes))
        return f"{sizes} b{self.batch_size}{stack} {activations} {self.optimizer}{dropout}"


EXAMPLES = (
    Example((64, 64, 64, 10), 32),
    Example((784, 512, 512, 10), 128, dropout=0.2, weight_decay=0.01),
    Example((33, 65, 17, 3), 31, ("tanh", "gelu"), optimizer="momentum", learning_rate=0.5, max_grad_norm=0.1),
    Example((20, 40, 40, 4), 32, "silu", models=5, dropout=0.3),
    Example((16, 24, 2), 33, "sigmoid", "half_squared_error", "nesterov", learning_rate=0.1, models=3),
    Example((64, 1100), 16, (), optimizer="sgd", learning_rate=1.0),
)
TINY = (
    Example((6, 9, 4), 5, dropout=0.2, weight_decay=0.01, max_grad_norm=0.1),
    Example((5, 8, 7, 2), 6, ("tanh", "gelu"), "half_squared_error", "momentum", learning_rate=0.1, models=3),
)


def parity(part: Part, settings: Settings) -> None:
    """Rows by precision: the largest errors of any example in any step, then bits.

    Fresh processes compute while this one compares.
    """
    with _begun(part, 2 if part.dry_run else FRESH) as fresh:
        for precision in settings.chosen_precisions(list(TOLERANCE)):
            try:
                backend = open_backend("cuda", precision, part.dry_run)
            except UnavailableError as error:
                part.skipped(f"{precision}: steps against float64", str(error), "parity")
                continue
            _against_float64(part, backend, precision)
        _rows_on_bits(part, [_bits_of(process, part) for process in fresh])


def as_graphs(precision: str, dry_run: bool) -> CudaBackend:
    """A backend whose steps are graphs of kernels and products, which leave what is compared here."""
    backend = open_backend("cuda", precision, dry_run)
    assert isinstance(backend, CudaBackend)
    backend.on_chip = False
    return backend


def processes(part: Part, settings: Settings) -> None:
    """Rows by precision: whether many processes that compile everything anew agree."""
    with _begun(part, 2 if part.dry_run else MANY) as fresh:
        _rows_on_bits(part, [_bits_of(process, part) for process in fresh])


def _against_float64(part: Part, backend: Backend, precision: str) -> None:
    """Rows on the errors of a precision, and on its graphs."""
    examples = TINY if part.dry_run else EXAMPLES
    of_examples = [errors_of(example, backend) for example in examples]
    part.figures += [
        {"precision": precision, "example": example.name, **errors}
        for example, errors in zip(examples, of_examples, strict=True)
    ]
    for what in COMPARED:
        worst = max(errors[what] for errors in of_examples)
        limit = GRADIENT[precision] if what == "gradient" else TOLERANCE[precision]
        part.computed(
            what=f"{precision}: {what} of a step against float64",
            asked=f"<= {limit:.0e}",
            measured=f"{worst:.1e}",
            met=worst <= limit,
            bar="parity",
        )
    same = [replays_alike(example, precision, part.dry_run) for example in examples]
    measured = f"in {sum(same)} of {len(same)} trainings"
    part.computed(f"{precision}: replayed graphs give the bits of eager steps", "all", measured, all(same), "replays")


class Followed:
    """An example on a backend, its next step ready to be taken."""

    def __init__(self, example: Example, backend: Backend, steps: int) -> None:
        self.example, self.backend = example, backend
        models = example.models
        net = MLP(example.layer_sizes, example.activations, example.loss, seed=1, models=models, device=backend)
        self.stack = net.stack
        rng = np.random.default_rng(2)
        m = example.batch_size * steps - example.batch_size // 2  # the last batch is a smaller one
        X = rng.standard_normal((m, example.layer_sizes[0])).astype(np.float16).astype(backend.dtype)  # exact in most
        n_out = example.layer_sizes[-1]
        y = rng.integers(0, n_out, m) if net.loss.integer_targets else rng.standard_normal((m, n_out))

        def each(value: float | None) -> Any:
            return None if not value else np.full(models, value)

        rule = get_optimizer(example.optimizer)
        self.state = initial_state(
            self.stack,
            rule,
            {name: np.full(models, value) for name, value in rule.options.items()},
            weight_decay=each(example.weight_decay),
            max_grad_norm=each(example.max_grad_norm),
        )
        dropout, no_smoothing = np.full(models, example.dropout), np.zeros(models)
        self.step = TrainingStep(self.stack, (X, y, None), example.batch_size, self.state, dropout, no_smoothing)
        rates = [np.full(steps, example.learning_rate)] * models
        first, self.m = np.zeros(models, np.int64), m
        self.table = draw_table([rng.permutation(m)], example.batch_size, None, first, rates)
        self.step.begin(self.table)

    def rows(self, index: int) -> int:
        """Rows of a step."""
        return min(self.example.batch_size, self.m - index * self.example.batch_size)

    def activations(self, rows: int) -> list[Any]:
        """a of every hidden layer as the last step left it, in float64."""
        hidden = self.step.workspace.caches[:-1]
        return [self.backend.to_host(cache.first(rows).a).astype(np.float64) for cache in hidden]

    def host(self) -> dict[str, Any]:
        """θ, the optimizer's slots and its count of updates, in float64."""
        to_host = self.backend.to_host
        return {
            "theta": to_host(self.step.live.theta).astype(np.float64),
            "slots": [to_host(slot).astype(np.float64) for slot in self.state.slots],
            "updates": to_host(self.state.updates),
        }


class FollowingBackend(ReferenceBackend):
    """The reference in float64, with ReLU's derivative where another backend's rounding had it.

    A z near 0 that rounding puts on the other side changes a derivative from 0 to 1: that is no error of the
    step, but would hide one.
    """

    def __init__(self) -> None:
        super().__init__(np.float64)
        self.others: list[Any] = []  # the other backend's activations of every hidden layer

    def hadamard_derivative(
        self, activation: Activation, cache: LayerCache, grad_b: Any, dropout: Dropout | None = None
    ) -> None:
        """BP2 and BP3."""
        a = self.others.pop()
        if activation.name == "relu":
            cache = replace(cache, z=a, a=a)
        super().hadamard_derivative(activation, cache, grad_b, dropout)


def errors_of(example: Example, backend: Backend) -> dict[str, Any]:
    """The largest relative error of loss, gradient, update and θ in any step.

    Each step of the reference begins where the device's began, so errors do not add up. Its gradient comes from
    the four equations, its update from the device's gradient: Adam's update of a small gradient hangs on the
    rounding of that.
    """
    if isinstance(backend, CudaBackend):
        backend.on_chip = False  # steps on the chip leave no gradient to compare
    following = FollowingBackend()
    measured, reference = Followed(example, backend, STEPS), Followed(example, following, STEPS)
    errors: dict[str, list[float]] = {what: [] for what in COMPARED}
    overflows = 0
    for index in range(STEPS):
        before = measured.host()
        scaling = measured.step.state.epoch.loss_scale
        scale = 1.0 if scaling is None else backend.to_host(scaling.scale)[:, None]
        measured.step.run_steps(1, measured.rows(index))
        after = measured.host()
        grad = backend.to_host(measured.step.workspace.grad).astype(np.float64) / scale
        updated = after["updates"] > before["updates"]  # a float16 gradient that overflowed makes no update
        overflows += int((~updated).sum())
        reference.stack.theta[...] = before["theta"]
        for slot, values in zip(reference.state.slots, before["slots"], strict=True):
            slot[...] = values
        reference.state.updates[...] = before["updates"]
        following.others = measured.activations(measured.rows(index))
        again, _ = reference.step.replay(index, 0)
        expected, expected_grad = again.stack.theta, again.workspace.grad
        loss, expected_loss = (one.step.totals()[:, index, :1] for one in (measured, reference))
        errors["loss"] += _relative(loss, expected_loss, updated)
        errors["gradient"] += _relative(grad, expected_grad, updated)
        expected_grad[...] = np.where(updated[:, None], grad, 0)
        following.optimizer_step(reference.state, expected, expected_grad, again.state.epoch)
        errors["update"] += _relative(after["theta"] - before["theta"], expected - before["theta"], updated)
        errors["theta"] += _relative(after["theta"], expected, updated)
    return {what: float(np.max(each)) for what, each in errors.items()} | {"steps": STEPS, "overflows": overflows}


def _relative(measured: Any, expected: Any, who: Any) -> list[float]:
    """The relative error of each of these networks, in the Euclidean norm."""
    pairs = zip(measured[who], expected[who], strict=True)
    return [float(np.linalg.norm(m - e) / np.linalg.norm(e)) for m, e in pairs]


def replays_alike(example: Example, precision: str, dry_run: bool) -> bool:
    """Whether steps that are replayed leave the same bits behind as steps that are launched one by one."""
    captured, eager = (as_graphs(precision, dry_run) for _ in range(2))
    eager.driver = Uncaptured(eager.driver)
    return bits_of(Followed(example, captured, REPLAYED)) == bits_of(Followed(example, eager, REPLAYED))


def bits_of(followed: Followed) -> str:
    """A digest of θ and the optimizer's slots after an epoch."""
    followed.step.train_epoch(followed.table)
    digest = hashlib.sha256()
    for array in (followed.step.live.theta, *followed.state.slots):
        digest.update(followed.backend.to_host(array).tobytes())
    return digest.hexdigest()


class Uncaptured:
    """A driver whose captures are calls."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def capture(self, run: Any) -> Any:
        """Nothing is captured."""
        return run


class FreshProcess:
    """One of many that should all compute the same."""

    def bits(self, dry_run: bool) -> dict[str, list[str]]:
        """By the precisions that the device has, a digest for each training."""
        digests, examples = {}, TINY[:1] if dry_run else EXAMPLES[1:4]  # a process compiles every kernel anew
        for precision in TOLERANCE:
            try:
                backend = as_graphs(precision, dry_run)
            except UnavailableError:
                continue  # its row has been written
            digests[precision] = [bits_of(Followed(example, backend, REPLAYED)) for example in examples]
        return digests


@contextmanager
def _begun(part: Part, count: int) -> Iterator[list[Remote]]:
    """Processes at work on their bits, each with empty caches of kernels."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            Remote(FreshProcess, environment={cache: f"{folder}/{number}/{cache}" for cache in CACHES})
            for number in range(count)
        ]
        try:
            for process in processes:
                process.send("bits", part.dry_run)
            yield processes
        finally:
            for process in processes:
                process.close()


def _bits_of(process: Remote, part: Part) -> dict[str, list[str]] | None:
    """What a process computed; None where it failed, which has a row then."""
    try:
        bits: dict[str, list[str]] = process.receive(part.left())
    except (UnavailableError, RemoteError) as error:
        part.failed("bits of the final weights, a fresh process", str(error), "bits")
        return None
    return bits


def _rows_on_bits(part: Part, of_processes: list[dict[str, list[str]] | None]) -> None:
    computed = [digests for digests in of_processes if digests is not None]
    for precision in dict.fromkeys(precision for digests in computed for precision in digests):
        digests = [of_process[precision] for of_process in computed]
        different = len({tuple(digest) for digest in digests})
        part.computed(
            what=f"{precision}: bits of the final weights, {len(digests)} fresh processes",
            asked="identical",
            measured=f"{different} kind{'s' * (different > 1)}",
            met=different == 1 and len(digests) == len(of_processes),
            bar="bits",
        )
        part.figures.append({"precision": precision, "digests": digests})
