"""The whole training step of the CUDA backend on the host: against the reference, recorded, in stacks, in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_kernels_host import covering, each

from gpubp import MLP, DivergenceError, train
from gpubp.activations import ACTIVATIONS
from gpubp.backends import Backend, Batch, LossScale
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.graph import UNROLLED
from gpubp.backends.reference import ReferenceBackend
from gpubp.backprop import backward, forward
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from support.cuda_host import HostDriver
from support.kernel_parity import one_each
from support.kernel_variants import every_variant
from support.machines import host, host_driver, precisions_of_kernels

# How far a step may be from the same in float64, relative to the size of the array.
PARITY = {"float64": 1e-12, "float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 2e-2}
AXES = {"networks": (1, 5), "dropout": (False, True)}
STEPS = [
    {**case, "activation": tuple(ACTIVATIONS)[i % len(ACTIVATIONS)]}
    for i, case in enumerate(
        covering(precision=("float64", "float32"), loss=tuple(LOSSES), optimizer=tuple(OPTIMIZERS), **AXES)
    )
]
# Where a rounding is large it must not decide a jump of σ′ or of δ, nor the sign of an update that is normalized.
ROUNDED_STEPS = covering(
    precision=("tf32", "bfloat16", "float16"),
    loss=("half_squared_error", "poisson", "binary_cross_entropy", "cross_entropy"),
    optimizer=("sgd", "momentum", "nesterov"),
    activation=("identity", "sigmoid", "tanh", "softplus", "gelu", "gelu_tanh", "silu", "mish"),
    **AXES,
)
ROWS, BATCH = 76, 8  # ten steps, the last of them of four rows


def cuda(precision: str) -> CudaBackend:
    """The CUDA backend on the host, each operation a kernel or a product; test_on_chip.py has the other way."""
    backend = CudaBackend(host_driver(), precision)
    backend.on_chip = False
    return backend


def mlp(backend: Backend, *args: Any, **options: Any) -> MLP:
    """`MLP` on a given backend."""
    return MLP(*args, device=backend, **options)


def data(net: MLP) -> tuple[Any, Any, Any]:
    """X, y and sample weights that fit a network, always the same."""
    rng = np.random.default_rng(7)
    X, outputs = rng.uniform(-1, 1, (ROWS, net.layer_sizes[0])).astype(np.float32), net.layer_sizes[-1]
    weight = rng.uniform(0.5, 1.5, ROWS)
    if net.loss.integer_targets:
        return X, rng.integers(0, outputs, ROWS), weight
    y = rng.random((ROWS, outputs)) if net.loss.classification else rng.poisson(2.0, (ROWS, outputs)) + 0.25
    return X, y, weight


def close(found: Any, exact: Any, tolerance: float, name: str) -> None:
    error, size = np.linalg.norm(host(found).astype(np.float64) - exact), np.linalg.norm(exact)
    assert error <= tolerance * size, f"{name}: relative error {error / size:.3g}"


def passes(net: MLP, rate: Any) -> dict[str, Any]:
    """Activations, deltas, gradients and the loss of one batch, by name."""
    stack, backend, (X, y, weight) = net.stack, net.stack.backend, data(net)
    epoch = stack.single_step(1.0 / weight.sum(), 11)
    drop = stack.dropout(rate, epoch)
    caches, grads = stack.caches(ROWS, drop is not None), stack.layout.layers(backend.zeros(stack.theta.shape))
    batch = Batch(
        X=backend.from_host(X, backend.storage)[None],
        y=backend.from_host(stack.cast_targets(y))[None],
        weight=backend.from_host(weight)[None],
        smoothing=backend.from_host(np.zeros(net.models)),
    )
    stack.refresh()
    with backend.computing():
        forward(backend, stack.network, batch.X, caches, drop)
        found = {f"a of layer {l + 1}": host(cache.a).copy() for l, cache in enumerate(caches)}
        backward(backend, stack.network, batch, caches, grads, epoch, drop)
    found |= {f"delta of layer {l + 1}": host(cache.delta) for l, cache in enumerate(caches)}
    found |= {f"gradient of W of layer {l + 1}": host(grad.W) for l, grad in enumerate(grads)}
    found |= {f"gradient of b of layer {l + 1}": host(grad.b) for l, grad in enumerate(grads)}
    return found | {"loss": host(epoch.totals)[:, 0, 0]}


def trained(net: MLP, case: dict[str, Any], **options: Any) -> Any:
    """θ and the curve of the loss after an epoch with everything that an update can do."""
    X, y, weight = data(net)
    history = train(
        net,
        X,
        y,
        weight,
        optimizer=case["optimizer"],
        learning_rate=one_each(net.models, 0.005, 0.02),
        l2=0.01,
        weight_decay=0.1,
        dropout=0.25 if case["dropout"] else 0.0,
        max_grad_norm=1.0,
        batch_size=BATCH,
        epochs=1,
        **options,
    )
    return host(net.theta), np.array(history.loss)


@each(STEPS + ROUNDED_STEPS, precision="precision")
def test_ten_steps_are_those_of_the_reference(monkeypatch, case):
    monkeypatch.setattr("gpubp.backends.cuda.backend.FIRST_SCALE", 2.0**8)  # at which nothing overflows
    sizes, options = [33, 31, 64, 5], {"models": case["networks"], "seed": 3}
    made = [
        mlp(backend, sizes, case["activation"], case["loss"], **options)
        for backend in (cuda(case["precision"]), ReferenceBackend(np.float64))
    ]
    tolerance = PARITY[case["precision"]]
    rate = one_each(case["networks"], 0.0, 0.5) * case["dropout"]
    found, exact = (passes(net, rate) for net in made)
    for name in exact:
        close(found[name], exact[name], tolerance, name)
    start = host(made[1].theta).copy()
    (theta, loss), (exact_theta, exact_loss) = (trained(net, case) for net in made)
    close(loss, exact_loss, 10 * tolerance, "loss")
    close(theta - start, exact_theta - start, 10 * tolerance, "ten updates")


# -- recorded steps ---------------------------------------------------------------------------------------

LONG = 2 * UNROLLED + 5  # full batches of an epoch, for graphs of many steps and of one
types = pytest.mark.parametrize("precision", precisions_of_kernels(("float64", "float32", "float16")))


def long_run(net: MLP, optimizer: str = "adam", **options: Any) -> Any:
    """θ and the curve of the loss after two epochs of `LONG` full batches and one of a single row."""
    X, y, weight = (array[: 2 * LONG + 1] for array in data(net))
    given = {"learning_rate": 0.01, "dropout": 0.25, "l2": 0.01, "max_grad_norm": 1.0, "seed": 5, **options}
    history = train(net, X, y, weight, optimizer=optimizer, batch_size=2, epochs=2, **given)
    return host(net.theta), np.array(history.loss)


@types
def test_recorded_steps_leave_the_bits_of_called_ones(monkeypatch, precision):
    captured = []
    driver = host_driver()
    monkeypatch.setattr(driver, "capture", lambda run: captured.append(run) or HostDriver.capture(driver, run))
    recording, calling = cuda(precision), cuda(precision)
    calling.fused = False
    results = [long_run(mlp(backend, [9, 31, 5], "gelu", models=3)) for backend in (recording, calling)]
    assert len(captured) == 3, "graphs of many steps, of one, and of the last batch"
    np.testing.assert_array_equal(*(theta for theta, _ in results))
    np.testing.assert_array_equal(*(loss for _, loss in results))


@types
def test_the_order_in_which_threads_run_changes_no_bit(precision):
    """Neither that of threads and blocks, nor how many multiprocessors there are."""
    another = CudaBackend(HostDriver(host_driver().toolchain.folder, seed=12345, multiprocessors=7), precision)
    another.on_chip = False
    results = [
        long_run(mlp(backend, [9, 31, 5], "silu", "huber", models=3))[0] for backend in (cuda(precision), another)
    ]
    np.testing.assert_array_equal(*results)


@types
def test_a_network_in_a_stack_leaves_the_bits_that_it_leaves_alone(precision):
    stacked, losses = long_run(mlp(cuda(precision), [9, 31, 5], "tanh", models=3, seed=20))
    for k in range(3):
        alone, loss = long_run(mlp(cuda(precision), [9, 31, 5], "tanh", seed=20 + k), seed=5 + k)
        np.testing.assert_array_equal(stacked[k], alone[0])
        np.testing.assert_array_equal(losses[:, k], loss)


@types
def test_a_training_launches_known_variants_only(monkeypatch, precision):
    """So that what NVRTC compiles in test_kernels_nvrtc.py is all that a GPU is asked to."""
    driver, launched = host_driver(), set()
    monkeypatch.setattr(driver, "kernel", lambda source: launched.add(source.text) or HostDriver.kernel(driver, source))
    net = mlp(cuda(precision), [9, 31, 5], "mish", "cross_entropy")
    long_run(net, "rmsprop", update_tolerance=1e-9, validation_data=data(net), label_smoothing=0.1)
    net.forward(data(net)[0])
    assert launched and launched <= every_variant(precision).keys()


# -- trouble in them --------------------------------------------------------------------------------------


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[CudaBackend, LossScale]]:
    """The float16 backend, and the loss scaling of the training that follows."""

    def make(first: float, clean_steps: int, networks: int = 1) -> tuple[CudaBackend, LossScale]:
        monkeypatch.setattr("gpubp.backends.cuda.backend.FIRST_SCALE", first)
        monkeypatch.setattr("gpubp.backends.cuda.backend.CLEAN_STEPS", clean_steps)
        backend = cuda("float16")
        scaling = backend.loss_scale(networks)
        monkeypatch.setattr(backend, "loss_scale", lambda networks: scaling)
        return backend, scaling

    return make


def test_steps_that_overflow_are_skipped_and_counted(half):
    """Each network's own; the reference makes the same of a learning rate of 0 in those steps."""
    backend, scaling = half(2.0**24, clean_steps=1000, networks=2)
    net, epochs, counts = mlp(backend, [9, 31, 5], "tanh", models=2, seed=1), 20, []
    for layer in net.stack.layers:
        layer.W[1] *= 4  # so that its gradient overflows more often
    start = host(net.theta).copy()
    options = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": ROWS, "epochs": epochs}
    train(net, *data(net), callbacks=[lambda net, history: counts.append(host(scaling.overflows).copy())], **options)

    skipped = np.diff(counts, axis=0, prepend=0) > 0
    assert 0 < skipped[:, 0].sum() < skipped[:, 1].sum() < epochs
    np.testing.assert_array_equal(host(scaling.scale), 2.0 ** (24 - skipped.sum(axis=0)))
    np.testing.assert_array_equal(host(scaling.clean_steps), skipped[::-1].argmax(axis=0))
    for k in range(2):
        alone = mlp(ReferenceBackend(np.float64), [9, 31, 5], "tanh")
        alone.theta[...] = start[k]
        train(alone, *data(alone), schedule=lambda progress, k=k: ~skipped[progress.step, k], **options)
        close(host(net.theta)[k] - start[k], alone.theta[0] - start[k], PARITY["float16"], f"network {k}")


def test_networks_that_have_ended_keep_the_count_of_their_skipped_steps(half):
    backend, _ = half(2.0**24, clean_steps=1000, networks=4)
    net, counts = mlp(backend, [9, 31, 5], "tanh", models=4, seed=1), []
    options = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": ROWS, "epochs": [2, 2, 5, 5]}
    train(net, *data(net), callbacks=[lambda net, history: counts.append(history.overflows.copy())], **options)
    assert (counts[1][:2] > 0).all()
    for later in counts[2:]:
        np.testing.assert_array_equal(later[:2], counts[1][:2])


def test_an_epoch_of_which_every_step_was_skipped_is_not_one_in_which_nothing_moved(half):
    backend, _ = half(2.0**24, clean_steps=1000, networks=1)
    net = mlp(backend, [9, 31, 5], "tanh", seed=1)
    options = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": ROWS, "epochs": 20}
    history = train(net, *data(net), update_tolerance=1e-9, **options)
    assert 0 < history.overflows < history.epochs == 20 and history.stopped == "epochs"


def test_the_scale_doubles_after_clean_steps(half):
    backend, scaling = half(4.0, clean_steps=3)
    net = mlp(backend, [9, 31, 5], "tanh")
    train(net, *data(net), batch_size=BATCH, epochs=1)  # ten steps
    assert host(scaling.scale) == 4 * 2**3 and host(scaling.clean_steps) == 1 and host(scaling.overflows) == 0


@types
def test_a_network_that_diverges_in_recorded_steps_stands_still(precision):
    """It keeps the last finite weights, as it does where steps are called, and the others go on as without it."""
    recording, calling = cuda(precision), cuda(precision)
    calling.fused = False
    thetas = {}
    for name, backend, rate in (("", recording, 50.0), ("called", calling, 50.0), ("calm", recording, 0.01)):
        net = mlp(backend, [9, 31, 5], "identity", "half_squared_error", models=3)
        X, y, weight = data(net)
        rates = [0.01, rate, 0.02]
        history = train(net, X, y, weight, optimizer="sgd", learning_rate=rates, batch_size=2, epochs=2)
        assert history.stopped[1] == ("epochs" if name == "calm" else "diverged")
        thetas[name] = host(net.theta)
    assert np.isfinite(thetas[""]).all()
    np.testing.assert_array_equal(thetas[""], thetas["called"])
    np.testing.assert_array_equal(thetas[""][[0, 2]], thetas["calm"][[0, 2]])


@types
def test_divergence_in_recorded_steps_is_reported_and_leaves_a_usable_backend(precision):
    backend, results = cuda(precision), []
    for trouble in (False, True, False):
        net = mlp(backend, [9, 31, 5], "identity", "half_squared_error")
        if trouble:
            with pytest.raises(DivergenceError, match="training diverged at step") as caught:
                long_run(net, "sgd", learning_rate=50.0, max_grad_norm=None)
            assert 1 < caught.value.step < LONG and np.isfinite(host(net.theta)).all()
        else:
            results.append(long_run(net)[0])
    np.testing.assert_array_equal(*results)
