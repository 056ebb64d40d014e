"""The epoch loop: what it trains on, when it ends, what it leaves behind, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse

import gpubp
from gpubp import MLP, DataError, DivergenceError, Schedule, UsageError, train
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.training.step_table import draw_table
from support.machines import alike, but_unfused, host, in_float64


def blobs(m: int = 60, classes: int = 3, inputs: int = 4, seed: int = 0):
    """Rows around one centre per class."""
    rng = np.random.default_rng(seed)
    y = np.arange(m) % classes
    return rng.standard_normal((m, inputs)) + 3 * rng.standard_normal((classes, inputs))[y], y


def digest(net: MLP) -> str:
    return hashlib.sha256(host(net.theta).tobytes()).hexdigest()


def assert_close(net: MLP, other: MLP, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(host(net.theta), host(other.theta), rtol=rtol, atol=rtol)


def all_finite(net: MLP) -> bool:
    return bool(np.isfinite(host(net.theta)).all())


# -- it learns --------------------------------------------------------------------------------------------


@but_unfused
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_overfits_one_batch(mlp, optimizer):
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((24, 8)), rng.integers(4, size=24)  # nothing to be found but the rows themselves
    net = mlp([8, 48, 4], "tanh")
    rate = {"sgd": 1.0, "momentum": 0.2, "nesterov": 0.2, "adagrad": 0.2}.get(optimizer, 0.03)
    history = train(net, X, y, optimizer=optimizer, learning_rate=rate, batch_size=24, epochs=60)
    assert net.evaluate(X, y)["accuracy"] == 1.0
    assert history.loss[-1] < 0.1 * history.loss[0]


@pytest.mark.parametrize(
    "loss, output_activation, targets",
    [
        ("half_squared_error", "auto", lambda X: np.sin(X[:, 0])),
        ("half_squared_error", "sigmoid", lambda X: (X[:, 0] > 0).astype(float)),
        ("half_squared_error", "softmax", lambda X: np.eye(2)[(X[:, 0] > 0).astype(int)]),
        ("absolute_error", "auto", lambda X: np.sin(X[:, :2])),
        ("huber", "auto", lambda X: np.sin(X[:, 0])),
        ("quantile(0.9)", "auto", lambda X: np.sin(X[:, 0])),
        ("poisson", "auto", lambda X: np.floor(np.exp(X[:, 0]))),
        ("binary_cross_entropy", "auto", lambda X: (X > 0).astype(int)),
        ("cross_entropy", "auto", lambda X: (X[:, 0] > 0).astype(int)),
    ],
)
def test_every_loss_goes_down(mlp, loss, output_activation, targets):
    X = np.random.default_rng(0).standard_normal((80, 3))
    y = targets(X)
    outputs = 2 if loss == "cross_entropy" else 1 if y.ndim == 1 else y.shape[1]
    net = mlp([3, 16, outputs], "tanh", loss, output_activation=output_activation)
    before = net.evaluate(X, y)
    history = train(net, X, y, learning_rate=0.05, batch_size=40, epochs=12)
    after = net.evaluate(X, y)
    # an absolute scale for the poisson loss, which is below zero at its best
    assert after["loss"] < before["loss"] - 0.7 * abs(before["loss"])
    assert history.loss[-1] < history.loss[0]
    metric = history.metric_name
    assert after[metric] > before[metric] if metric.endswith("accuracy") else after[metric] < before[metric]


def test_poisson_learns_the_rate():
    """One weight and a bias: exp(0.5 x + 1) is found again, as the mean and not as its logarithm."""
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (4000, 1))
    y = rng.poisson(np.exp(0.5 * X[:, 0] + 1))
    net = MLP([1, 1], loss="poisson", precision="float64")
    train(net, X, y, optimizer="sgd", learning_rate=0.1, batch_size=4000, epochs=400)
    assert net.weights[0].item() == pytest.approx(0.5, abs=0.06)
    assert net.biases[0].item() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(net.predict([[0.0]]), np.exp(host(net.biases[0])))


def test_multi_label_targets_train_each_label_on_its_own():
    X = np.random.default_rng(0).standard_normal((200, 3))
    y = np.stack([X[:, 0] > 0, X[:, 1] + X[:, 2] > 0], axis=1)
    net = MLP([3, 16, 2], loss="binary_cross_entropy")
    train(net, X, y, learning_rate=0.01, batch_size=20, epochs=40)
    assert net.predict(X).shape == (200, 2) and set(np.unique(net.predict(X))) == {0, 1}
    accuracy = (net.predict(X) == y).mean()
    assert accuracy > 0.95 and net.evaluate(X, y)["label_accuracy"] == pytest.approx(accuracy)


# -- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size, steps", [(1, 10), (4, 3), (5, 2), (10, 1), (1000, 1)])
def test_an_epoch_is_made_of_steps_of_batch_size_rows(mlp, batch_size, steps):
    """Online, mini-batch, full batch: each step is the gradient of its own rows at the weights of then."""
    X, y = blobs(10)
    net, by_hand = mlp([4, 5, 3], "tanh"), mlp([4, 5, 3], "tanh")
    history = train(net, X, y, optimizer="sgd", learning_rate=0.1, batch_size=batch_size, epochs=2, shuffle=False)
    assert history.steps == 2 * steps
    for _ in range(2):
        for start in range(0, 10, batch_size):
            rows = slice(start, start + batch_size)
            _, grads = by_hand.gradients(X[rows], y[rows])
            for parameter, g in zip((*by_hand.weights, *by_hand.biases), (*grads.weights, *grads.biases), strict=True):
                parameter -= np.float32(0.1) * g if g.dtype == np.float32 else 0.1 * g
    alike(net.stack.backend, net.theta, by_hand.theta)


def test_the_loss_of_an_epoch_weighs_a_smaller_batch_by_its_rows(mlp):
    """With a learning rate that moves nothing, it is the loss of the whole data set, and so is the metric."""
    X, y = blobs(11)
    net = mlp([4, 5, 3])
    expected = net.evaluate(X, y)
    history = train(net, X, y, optimizer="sgd", learning_rate=1e-30, batch_size=4, epochs=1)
    assert history.loss[0] == pytest.approx(expected["loss"], rel=1e-6)
    assert history.metric[0] == pytest.approx(expected["accuracy"])


def test_the_table_of_an_epoch():
    """7 rows in threes for two networks: normalizers 1/Σw over each batch in each network's own order."""
    order, first = np.array([[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]]), np.array([9, 9])
    rates = list(np.ones((2, 3)))
    table = draw_table(list(order), 3, None, first, rates)
    assert table.steps == 3 and table.batch_size == 3
    np.testing.assert_array_equal(table.first_step, first)
    np.testing.assert_array_equal(table.order, order)
    np.testing.assert_array_equal(table.normalizer, [[1 / 3, 1 / 3, 1], [1 / 3, 1 / 3, 1]])
    weight = np.array([1.0, 1, 2, 0, 0, 0, 0])
    table = draw_table(list(order), 3, weight, first, rates)
    np.testing.assert_array_equal(table.normalizer, [[1 / 4, 0, 0], [0, 1 / 3, 1]])


def test_the_table_of_networks_with_different_numbers_of_rows():
    """Each has its own steps, as many as it has batches; what is beyond them is zero."""
    orders = [np.array([4, 2, 0, 1, 3]), np.array([1, 1, 6])]
    weight = np.array([[1.0, 1, 2, 3, 1, 0, 0], [1, 2, 1, 1, 1, 1, 4]])
    table = draw_table(orders, 2, weight, np.array([6, 4]), [np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5])])
    np.testing.assert_array_equal(table.order, [[4, 2, 0, 1, 3], [1, 1, 6, 0, 0]])
    np.testing.assert_array_equal(table.normalizer, [[1 / 3, 1 / 2, 1 / 3], [1 / 4, 1 / 4, 0]])
    np.testing.assert_array_equal(table.learning_rate, [[0.1, 0.2, 0.3], [0.4, 0.5, 0]])


def test_every_row_is_seen_once_an_epoch_in_an_order_drawn_anew():
    """A one-hot row per sample and a zero network: the gradient of an epoch touches every weight alike."""
    m = 12
    X, seen = np.eye(m), []
    net = MLP([m, 1], loss="half_squared_error", init="zeros", device="cpu-reference", precision="float64")
    original = net.stack.backend.gather

    def gather(data, epoch, out):
        original(data, epoch, out)
        seen.append(out.X[0].argmax(axis=1).tolist())

    net.stack.backend.gather = gather
    train(net, X, np.ones(m), optimizer="sgd", learning_rate=0.1, batch_size=5, epochs=3)
    orders = [sum(seen[e * 3 : e * 3 + 3], []) for e in range(3)]
    assert [len(rows) for rows in seen] == [5, 5, 2] * 3
    assert all(sorted(order) == list(range(m)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    # each weight moved three times, once an epoch, through its own row alone (and the bias)
    assert (net.weights[0] > 0).all()


def test_shuffle_off_keeps_the_order_and_the_seed_out_of_it(mlp):
    X, y = blobs()
    nets = []
    for seed in (0, 1):
        nets.append(mlp([4, 5, 3]))
        train(nets[-1], X, y, batch_size=16, epochs=2, shuffle=False, seed=seed)
    assert digest(nets[0]) == digest(nets[1])


# -- weights of samples and classes -----------------------------------------------------------------------


@in_float64
def test_a_sample_weight_of_n_is_n_copies_of_the_row(mlp):
    X, y = blobs(10)
    weight = np.array([1, 2, 1, 3, 1, 1, 2, 0, 2, 2])
    copies = np.repeat(np.arange(10), weight)
    weighted, duplicated = (mlp([4, 5, 3], "tanh") for _ in range(2))
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 5, "shuffle": False}
    first = train(weighted, X, y, weight, batch_size=1000, **settings)
    second = train(duplicated, X[copies], y[copies], batch_size=1000, **settings)
    assert_close(weighted, duplicated)
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-12)
    np.testing.assert_allclose(first.metric, second.metric, rtol=1e-12)


@in_float64
def test_the_scale_of_sample_weights_does_not_matter(mlp):
    X, y = blobs()
    weight = np.random.default_rng(0).random(60)
    nets = [mlp([4, 5, 3], "tanh") for _ in range(2)]
    histories = [
        train(net, X, y, scale * weight, batch_size=16, epochs=3) for net, scale in zip(nets, (1, 1024), strict=True)
    ]
    assert_close(*nets)
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)


@in_float64
def test_l2_adds_to_the_gradient_of_weights_and_decay_takes_from_the_weights(mlp):
    """Which is the same for gradient descent: W − η (∂C/∂W + λ W)."""
    X, y = blobs(9)
    for option in ("l2", "weight_decay"):
        net = mlp([4, 5, 3])
        before, (_, grads) = [host(W).copy() for W in net.weights], net.gradients(X, y)
        train(net, X, y, optimizer="sgd", learning_rate=0.25, batch_size=9, epochs=1, **{option: 0.5})
        for W, W_before, grad_W in zip(net.weights, before, grads.weights, strict=True):
            np.testing.assert_allclose(host(W), W_before - 0.25 * (host(grad_W) + 0.5 * W_before), 1e-12, 1e-12)


def test_a_batch_without_weight_moves_nothing(mlp):
    X, y = blobs(8)
    net, other = mlp([4, 5, 3], "tanh"), mlp([4, 5, 3], "tanh")
    settings = {"optimizer": "sgd", "shuffle": False, "batch_size": 4, "epochs": 1}
    train(net, X, y, [0, 0, 0, 0, 1, 1, 1, 1], **settings)
    train(other, X[4:], y[4:], **settings)
    assert digest(net) == digest(other)


def test_class_weights_are_sample_weights_by_class(mlp):
    X, y = blobs()
    by_class, by_sample = mlp([4, 5, 3]), mlp([4, 5, 3])
    train(by_class, X, y, np.arange(1.0, 61), class_weight={0: 2.0, 2: 0.5}, epochs=2)
    train(by_sample, X, y, np.arange(1.0, 61) * np.array([2.0, 1.0, 0.5])[y], epochs=2)
    assert digest(by_class) == digest(by_sample)


def test_classes_of_class_weights_may_be_floats_as_those_of_y_may():
    X, y = blobs(12)
    digests = set()
    for kind in (int, float, np.float32):
        net = MLP([4, 5, 3])
        train(net, X, y.astype(kind), class_weight={kind(0): 2.0, kind(2): 0.5}, epochs=2)
        digests.add(digest(net))
    assert len(digests) == 1
    binary = MLP([4, 5, 2]), MLP([4, 5, 2])
    train(binary[0], X, y > 0, class_weight={False: 2.0, True: 0.5}, epochs=2)
    train(binary[1], X, (y > 0).astype(int), class_weight={0: 2.0, 1: 0.5}, epochs=2)
    assert digest(binary[0]) == digest(binary[1])


def test_whole_numbers_may_be_arrays_without_dimensions():
    X, y = blobs(12)
    nets = MLP([4, 5, 3], seed=np.array(3)), MLP([4, 5, 3], seed=3)
    for net, kind in zip(nets, (np.array, int), strict=True):
        history = train(net, X, y, validation_data=(X, y), epochs=kind(2), patience=kind(2), seed=kind(4))
        assert history.epochs == 2
    assert digest(nets[0]) == digest(nets[1])
    with pytest.raises(UsageError, match="epochs=.*use a whole number"):
        train(nets[0], X, y, epochs=np.array(2.5))


def test_balanced_class_weights_give_every_class_the_same_say():
    """m / (classes · count), scikit-learn's rule."""
    X, _ = blobs(12)
    y = np.array([0] * 8 + [1] * 3 + [2])
    balanced, by_hand = MLP([4, 5, 3]), MLP([4, 5, 3])
    train(balanced, X, y, class_weight="balanced", epochs=2)
    train(by_hand, X, y, np.array([12 / (3 * 8), 12 / (3 * 3), 12 / 3])[y], epochs=2)
    assert digest(balanced) == digest(by_hand)


@in_float64
def test_label_smoothing_reaches_the_step_and_not_the_validation(mlp):
    X, y = blobs(12)
    smooth = 0.9 * np.eye(3)[y] + 0.1 / 3  # what smoothing by 0.1 makes of the targets
    net, by_hand = (mlp([4, 5, 3], "tanh") for _ in range(2))
    settings = {"learning_rate": 0.01, "epochs": 5, "batch_size": 5}
    history = train(net, X, y, label_smoothing=0.1, validation_data=(X, y), **settings)
    other = train(by_hand, X, smooth, **settings)
    assert_close(net, by_hand)
    np.testing.assert_allclose(history.loss, other.loss, rtol=1e-12)
    assert history.validation_loss[-1] == net.evaluate(X, y)["loss"]


# -- the same bits ----------------------------------------------------------------------------------------


def test_the_seed_decides_the_bits(mlp):
    X, y = blobs()

    def trained(seed):
        net = mlp([4, 9, 3])
        train(net, X, y, batch_size=16, epochs=3, dropout=0.2, seed=seed)
        return digest(net)

    assert trained(4) == trained(4) != trained(5)


@pytest.mark.backends  # several processes
def test_fresh_processes_find_the_same_bits():
    program = (
        "import hashlib, numpy as np, gpubp\n"
        "rng = np.random.default_rng(0)\n"
        "X, y = rng.standard_normal((64, 20)), rng.integers(3, size=64)\n"
        "net = gpubp.MLP([20, 33, 3], 'gelu', models=2)\n"
        "gpubp.train(net, X, y, batch_size=24, epochs=3, dropout=0.2, schedule='cosine')\n"
        "print(hashlib.sha256(net.theta.tobytes()).hexdigest())\n"
    )
    found = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(found) == 1


STACKS = {
    "plain": {},
    "dropout": {"dropout": np.array([0.5, 0.1, 0.3])},
    "l2 and decay": {"l2": np.array([0.0, 0.01, 1.0]), "weight_decay": np.array([0.1, 0.0, 0.01])},
    "learning rates and options": {
        "learning_rate": np.array([0.1, 0.01, 0.001]),
        "optimizer_options": {"beta1": np.array([0.9, 0.5, 0.0])},
    },
    "clipping and smoothing": {
        "max_grad_norm": np.array([0.1, 1.0, 10.0]),
        "label_smoothing": np.array([0.0, 0.1, 0.2]),
    },
    "early stopping": {"patience": 1, "learning_rate": np.array([0.5, 0.03, 0.001])},
    "update tolerance": {"update_tolerance": np.array([3e-3, 1e9, 0.0]), "schedule": "exponential(0.8)"},
    "schedule by plateau": {"schedule": "reduce_on_plateau(patience=1)", "learning_rate": 0.3},
    "online": {"batch_size": 1, "epochs": 1},
    "full batch": {"batch_size": 60},
}


@but_unfused
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_has_the_bits_of_its_networks_alone(mlp, name):
    X, y = blobs()
    weight = np.random.default_rng(0).random(60)
    settings = {"batch_size": 16, "epochs": 6, "validation_data": blobs(20, seed=1), **STACKS[name]}
    stack = mlp([4, 11, 7, 3], ["gelu", "relu"], models=3, seed=20)
    history = train(stack, X, y, weight, seed=[7, 5, 6], **settings)

    def own(value, k):
        if isinstance(value, dict):
            return {key: own(v, k) for key, v in value.items()}
        return value[k] if isinstance(value, np.ndarray) else value

    for k, seed in enumerate([7, 5, 6]):
        solo = mlp([4, 11, 7, 3], ["gelu", "relu"], seed=20 + k)
        alone = train(solo, X, y, weight, seed=seed, **{key: own(v, k) for key, v in settings.items()})
        alike(stack.stack.backend, stack.theta[k], solo.theta[0])
        assert history.stopped[k] == alone.stopped
        assert history.best_epoch[k] == alone.best_epoch
        for curve in ("loss", "metric", "validation_loss", "validation_metric"):
            ours = [entry[k] for entry in getattr(history, curve)]
            alike(stack.stack.backend, ours[: alone.epochs], getattr(alone, curve))
            assert np.isnan(ours[alone.epochs :]).all()
    if name in ("early stopping", "update tolerance"):
        assert len(set(history.stopped)) > 1, "the case is empty if all networks end alike"


def test_one_seed_names_those_of_a_whole_stack(mlp):
    X, y = blobs()
    one, each = (mlp([4, 5, 3], models=2) for _ in range(2))
    train(one, X, y, batch_size=16, epochs=1, seed=3)
    train(each, X, y, batch_size=16, epochs=1, seed=[3, 4])
    assert digest(one) == digest(each)


# -- when it ends -----------------------------------------------------------------------------------------


def overfitting():
    """Noise as targets: the validation loss soon rises."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((2, 40, 5)), rng.integers(2, size=(2, 40))
    return (X[0], y[0]), (X[1], y[1])


def test_patience_stops_and_keeps_the_best_weights(mlp):
    data, validation = overfitting()
    net, best = mlp([5, 30, 2]), {}

    def remember(net, history):
        best[history.validation_loss[-1]] = digest(net)

    history = train(
        net, *data, validation_data=validation, learning_rate=0.02, epochs=200, patience=4, callbacks=[remember]
    )
    assert history.stopped == "patience"
    losses = history.validation_loss
    assert history.best_epoch == int(np.argmin(losses)) == history.epochs - 1 - 4
    assert digest(net) == best[min(losses)]
    assert net.evaluate(*validation)["loss"] == min(losses)


def test_patience_keeps_the_best_weights_also_when_it_was_never_exhausted():
    data, validation = overfitting()
    net = MLP([5, 30, 2])
    history = train(net, *data, validation_data=validation, learning_rate=0.02, epochs=60, patience=1000)
    assert history.stopped == "epochs" and history.best_epoch < 59
    assert net.evaluate(*validation)["loss"] == min(history.validation_loss)


def test_without_patience_the_last_weights_stay_and_the_best_epoch_is_told():
    data, validation = overfitting()
    net = MLP([5, 30, 2])
    history = train(net, *data, validation_data=validation, learning_rate=0.02, epochs=60)
    assert history.best_epoch == int(np.argmin(history.validation_loss)) < 59
    assert net.evaluate(*validation)["loss"] == history.validation_loss[-1] > min(history.validation_loss)


def test_validation_data_may_carry_weights(mlp):
    data, (X, y) = overfitting()
    net, weight = mlp([5, 4, 2]), np.arange(1.0, 41)
    history = train(net, *data, validation_data=(X, y, weight), epochs=1)
    assert history.validation_loss[0] == net.evaluate(X, y, weight)["loss"] != net.evaluate(X, y)["loss"]


@in_float64
def test_update_tolerance_stops_once_an_epoch_moves_nothing_by_more(mlp):
    """sgd with the learning rate halved every epoch: the largest update of an epoch falls below 1e-3."""
    X, y = blobs(12)
    net, largest = mlp([4, 5, 3]), []
    before = host(net.theta).copy()

    def measure(net, history):
        largest.append(np.abs(host(net.theta) - before).max())
        before[...] = host(net.theta)

    history = train(
        net, X, y, optimizer="sgd", learning_rate=0.5, schedule="exponential(0.5)", batch_size=12, epochs=100,
        update_tolerance=1e-3, callbacks=[measure],
    )  # fmt: skip
    assert history.stopped == "update_tolerance"
    assert largest[-1] <= 1e-3 < min(largest[:-1])


def test_update_tolerance_looks_at_every_step_of_an_epoch(mlp):
    """Steps there and back leave no change over an epoch, but did move."""
    X, y = np.ones((2, 1)), np.array([1.0, -1.0])
    net = mlp([1, 1], loss="half_squared_error", init="zeros")
    history = train(
        net, X, y, optimizer="sgd", learning_rate=0.25, batch_size=1, epochs=4, shuffle=False, update_tolerance=0.1
    )
    assert history.stopped == "epochs" and history.epochs == 4


def test_callbacks_run_after_every_epoch_and_may_end_the_training(mlp):
    X, y = blobs()
    net, seen = mlp([4, 5, 3]), []

    def note(net, history):
        seen.append((digest(net), history.epochs, history.steps))
        return "not True"

    def enough(net, history):
        return history.epochs == 3

    history = train(net, X, y, batch_size=30, epochs=10, callbacks=[enough, note])
    assert history.stopped == "callback" and history.epochs == 3
    assert [(epochs, steps) for _, epochs, steps in seen] == [(1, 2), (2, 4), (3, 6)]
    assert seen[-1][0] == digest(net) != seen[0][0]


@pytest.mark.parametrize("answer", [True, np.True_, False, np.False_, None, 1, "stop"])
def test_a_callback_ends_the_training_by_a_truth_value_of_python_or_numpy(answer):
    history = train(MLP([4, 5, 3]), *blobs(12), epochs=2, callbacks=[lambda net, history: answer])
    assert history.epochs == (1 if isinstance(answer, bool | np.bool_) and answer else 2)


def test_an_exception_in_a_callback_leaves_the_best_weights():
    data, validation = overfitting()
    net, losses = MLP([5, 30, 2]), []

    def fail(net, history):
        losses.append(history.validation_loss[-1])
        if history.epochs == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(net, *data, validation_data=validation, learning_rate=0.05, epochs=50, patience=50, callbacks=[fail])
    assert losses[-1] > min(losses)
    assert net.evaluate(*validation)["loss"] == min(losses)


# -- schedules --------------------------------------------------------------------------------------------


@in_float64
def test_a_schedule_reaches_every_step(mlp):
    """sgd on a loss of constant slope: the weight moves by the learning rate at each step."""
    rates = []

    def factor(progress):
        rates.extend(1.0 / (1 + progress.step))
        return 1.0 / (1 + progress.step)

    net = mlp([1, 1], loss="absolute_error", init="zeros")
    history = train(
        net, np.ones((6, 1)), np.full(6, 100.0), optimizer="sgd", learning_rate=0.5, batch_size=2, epochs=2,
        schedule=factor,
    )  # fmt: skip
    assert rates == [1 / (1 + t) for t in range(6)]
    assert net.biases[0].item() == pytest.approx(0.5 * sum(rates), rel=1e-14)
    assert history.learning_rate == [0.5 / 3, 0.5 / 6]


def test_a_schedule_sees_where_it_is_and_what_was_monitored():
    X, y = blobs()
    seen = []

    def factor(progress):
        seen.append(progress)
        return np.ones(len(progress.step))

    history = train(
        MLP([4, 5, 3]), X, y, validation_data=blobs(9, seed=2), batch_size=25, epochs=3,
        schedule=Schedule("spy", factor),
    )  # fmt: skip
    assert [progress.step.tolist() for progress in seen] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert {(progress.steps_per_epoch, progress.total_steps) for progress in seen} == {(3, 9)}
    assert [list(progress.losses) for progress in seen] == [history.validation_loss[:e] for e in range(3)]


def test_without_validation_the_training_loss_is_monitored():
    X, y = blobs(6)
    history = train(
        MLP([4, 5, 3]), X, y, optimizer="sgd", learning_rate=1e-9, epochs=6,
        schedule="reduce_on_plateau(patience=1, gamma=0.5)",
    )  # fmt: skip
    assert history.learning_rate[0] == 1e-9 and history.learning_rate[-1] < 0.6e-9


# -- history ----------------------------------------------------------------------------------------------


def test_history_holds_a_number_per_epoch():
    X, y = blobs()
    history = train(MLP([4, 5, 3]), X, y, validation_data=(X, y), epochs=3)
    for curve in ("loss", "metric", "validation_loss", "validation_metric", "learning_rate", "seconds"):
        values = getattr(history, curve)
        assert len(values) == 3 and all(type(value) is float for value in values), curve
    assert history.epochs == 3 and history.steps == 3 and history.metric_name == "accuracy"
    assert history.seconds == sorted(history.seconds) and history.samples_per_second > 0


def test_samples_per_second_are_the_rows_of_all_epochs_over_the_time_they_took():
    X, y = blobs(60)
    net, start = MLP([4, 3], device="cpu-reference"), time.perf_counter()
    history = train(net, X, y, epochs=3)
    assert 180 / (time.perf_counter() - start) <= history.samples_per_second <= 180 / history.seconds[-1]


def test_history_as_csv():
    X, y = blobs()
    history = train(MLP([4, 5, 3]), X, y, validation_data=(X, y), epochs=2)
    rows = list(csv.DictReader(io.StringIO(history.to_csv())))
    assert list(rows[0]) == [
        "epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds",
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["loss"]) for row in rows] == pytest.approx(history.loss, rel=1e-8)


def test_history_of_a_stack_has_a_line_per_epoch_and_network():
    X, y = blobs()[0], np.zeros(60)
    history = train(MLP([4, 5, 1], loss="half_squared_error", models=3), X, y, epochs=2)
    rows = list(csv.reader(io.StringIO(history.to_csv())))
    assert rows[0] == ["epoch", "network", "loss", "rmse", "learning_rate", "seconds"]
    assert [row[:2] for row in rows[1:]] == [["1", "0"], ["1", "1"], ["1", "2"], ["2", "0"], ["2", "1"], ["2", "2"]]
    assert float(rows[5][2]) == pytest.approx(history.loss[1][1], rel=1e-8)


# -- divergence -------------------------------------------------------------------------------------------


def line(m: int = 20):
    X = np.linspace(-1, 1, m)[:, None]
    return X, 3 * X[:, 0]


def test_divergence_names_step_layer_and_advice_and_keeps_the_last_finite_weights(mlp):
    X, y = line()
    net, states = mlp([1, 4, 1], "identity", "half_squared_error"), []

    def remember(net, history):
        states.append(digest(net))

    with pytest.raises(DivergenceError) as caught:
        train(net, X, y, optimizer="sgd", learning_rate=50.0, batch_size=20, epochs=5000, callbacks=[remember])
    error = caught.value
    assert error.step == len(states) > 2 and error.layer in (1, 2)
    assert digest(net) == states[-1] and all_finite(net)
    for part in (f"step {error.step}", f"layer {error.layer} of 2", "learning rate 50", "ten times smaller"):
        assert part in str(error)


def test_divergence_is_found_in_the_epoch_in_which_it_happens(mlp):
    X, y = line()
    net = mlp([1, 4, 1], "identity", "half_squared_error")
    with pytest.raises(DivergenceError) as caught:
        train(net, X, y, optimizer="sgd", learning_rate=50.0, batch_size=1, epochs=5000)
    assert caught.value.step < 20 and "(epoch 1," in str(caught.value)
    assert all_finite(net)


@pytest.mark.parametrize("batch_size", [20, 5], ids=["last step", "inner step"])
def test_an_update_that_itself_overflows_goes_back_to_the_epochs_start(mlp, batch_size):
    """Loss and gradient are finite, the weights after the step are not."""
    X, y = line()
    net = mlp([1, 4, 1], "tanh", "half_squared_error")
    before, rate = digest(net), 0.9 * float(np.finfo(net.stack.backend.dtype).max)
    with pytest.raises(DivergenceError, match="an update overflowed") as caught:
        train(net, X, 10 * y, optimizer="sgd", learning_rate=rate, batch_size=batch_size, epochs=3)
    assert caught.value.layer is None
    assert digest(net) == before


def test_divergence_in_a_hidden_layer_names_that_layer(mlp):
    X, y = blobs()
    net = mlp([4, 3, 5, 3], ["tanh", "exponential"])
    net.weights[1][...] = 1e4
    net.weights[0][...] = 1.0
    with pytest.raises(DivergenceError, match="activations overflowed in layer 2 of 3") as caught:
        train(net, X, y, epochs=1)
    assert caught.value.layer == 2 and caught.value.step == 0


@in_float64
def test_a_norm_that_overflows_is_found_in_the_layer_of_the_largest_gradient(mlp):
    """Inputs of 1e300 leave loss and gradient finite, but not the gradient's square."""
    X, y = blobs()
    net = mlp([4, 5, 3], "identity")
    net.weights[0][...] *= 1e-250  # so that only what the inputs multiply is large
    with pytest.raises(DivergenceError, match="the norm of the gradient overflowed in layer 1 of 2") as caught:
        train(net, X * 1e300, y, epochs=1)
    assert caught.value.layer == 1 and "inputs scaled to about unit variance" in str(caught.value)


def test_a_stack_goes_on_without_the_networks_that_diverged(mlp):
    X, y = line()
    settings = {"optimizer": "sgd", "batch_size": 7, "epochs": 40}
    stack = mlp([1, 4, 1], "identity", "half_squared_error", models=3)
    history = train(stack, X, y, learning_rate=[0.01, 50.0, 0.05], **settings)
    assert history.stopped == ["epochs", "diverged", "epochs"] and history.epochs == 40
    assert all_finite(stack)
    assert np.isnan(history.loss[-1][1]) and np.isfinite(history.loss[-1][[0, 2]]).all()
    for k, rate in ((0, 0.01), (2, 0.05)):
        solo = mlp([1, 4, 1], "identity", "half_squared_error", seed=k)
        train(solo, X, y, learning_rate=rate, seed=k, **settings)
        alike(stack.stack.backend, stack.theta[k], solo.theta[0])


def test_a_stack_that_diverges_to_the_last_network_raises(mlp):
    X, y = line()
    stack = mlp([1, 4, 1], "identity", "half_squared_error", models=2)
    with pytest.raises(DivergenceError, match="network [01]: training diverged"):
        train(stack, X, y, optimizer="sgd", learning_rate=[50.0, 60.0], epochs=5000)
    assert all_finite(stack)


def test_divergence_under_early_stopping_returns_to_the_best_weights(mlp):
    """Good epochs, then a learning rate that breaks them."""
    X, y = line()
    net = mlp([1, 4, 1], "identity", "half_squared_error")

    def factor(progress):
        return np.where(progress.step < 10, 0.01, 1e6)

    losses = []
    with pytest.raises(DivergenceError):
        train(
            net, X, y, validation_data=(X, y), optimizer="sgd", learning_rate=1.0, schedule=factor,
            batch_size=20, epochs=200, patience=100, callbacks=[lambda net, h: losses.append(h.validation_loss[-1])],
        )  # fmt: skip
    assert net.evaluate(X, y)["loss"] == min(losses)


# -- refusals ---------------------------------------------------------------------------------------------

X3, Y3 = np.arange(18.0).reshape(6, 3) / 18, np.array([0, 1, 0, 1, 0, 1])
WITH_NAN = X3.copy()
WITH_NAN[4, 1] = np.nan

BAD = [
    ({"X": X3[:, :2]}, DataError, "X has 2 columns, but the network has 3 inputs"),
    ({"X": X3[0]}, DataError, "X has shape (3,); it must be (rows, 3); one row is X.reshape(1, -1)"),
    ({"X": X3[:0], "y": Y3[:0]}, DataError, "X has no rows"),
    ({"X": WITH_NAN}, DataError, "X[4, 1] = nan; values must be finite"),
    ({"X": X3 * 1e300}, DataError, "is too large for float32; scale it"),
    ({"X": X3.astype(str)}, DataError, "it must be real numbers"),
    ({"X": X3 + 1j}, DataError, "X has dtype complex128"),
    ({"X": [[1, 2, 3], [1, 2]]}, DataError, "X is not an array"),
    ({"y": Y3[:5]}, DataError, "y has shape (5,), but there are 6 rows of X"),
    ({"y": Y3 + 1}, DataError, "y[1] = 2 is no class of this network: classes are 0 … 1"),
    ({"y": Y3 - 1}, DataError, "y[0] = -1 is no class"),
    ({"y": Y3 + 0.5}, DataError, "y[0] = 0.5 is continuous, but loss"),
    ({"y": Y3 * np.nan}, DataError, "y[0] = nan; values must be finite"),
    ({"y": np.ones((6, 2))}, DataError, 'y[0] sums to 2; a row of "cross_entropy" targets is one-hot'),
    ({"y": np.eye(3)[Y3]}, DataError, "y has shape (6, 3), but the network has 2 outputs"),
    ({"y": 2 * np.eye(2)[Y3]}, DataError, "y[0, 0] = 2.0 is outside 0 … 1"),
    ({"y": list("ababab")}, DataError, "y has dtype"),
    ({"sample_weight": np.ones(5)}, DataError, "sample_weight has shape (5,); it must be (6,)"),
    ({"sample_weight": [1, 1, -1, 1, 1, 1]}, DataError, "sample_weight[2] = -1 is negative"),
    ({"sample_weight": np.zeros(6)}, DataError, "sample_weight is all zeros"),
    ({"sample_weight": [1, np.inf, 1, 1, 1, 1]}, DataError, "sample_weight[1] = inf"),
    ({"validation_data": (X3,)}, UsageError, "give (X, y) or (X, y, sample_weight)"),
    ({"validation_data": 0.1}, UsageError, "validation_data does not fit"),
    ({"validation_data": (X3[:, :1], Y3)}, DataError, "validation X has 1 columns"),
    ({"validation_data": (X3, Y3[:2])}, DataError, "validation y has shape (2,)"),
    ({"validation_data": (X3, Y3, [1])}, DataError, "validation sample_weight has shape (1,)"),
    ({"optimizer": "adaam"}, UsageError, 'unknown optimizer "adaam"; did you mean "adam"?'),
    ({"optimizer": 3}, UsageError, "optimizer 3 is neither a name nor"),
    ({"optimizer_options": {"momentum": 0.9}}, UsageError, 'optimizer "adam" has no option "momentum"'),
    ({"optimizer_options": {"beta1": 1.0}}, UsageError, "beta1=1.0 does not fit; use 0 <= beta1 < 1"),
    ({"optimizer_options": {"beta1": "high"}}, UsageError, "beta1=high does not fit"),
    ({"optimizer_options": {"beta1": [0.1, 0.2]}}, UsageError, "beta1 has shape (2,); give one number"),
    ({"learning_rate": 0}, UsageError, "learning_rate=0 does not fit; use learning_rate > 0 and finite"),
    ({"learning_rate": np.inf}, UsageError, "learning_rate=inf does not fit"),
    ({"learning_rate": "fast"}, UsageError, "learning_rate='fast' does not fit; give one number"),
    ({"optimizer_options": {3: 0.5}}, UsageError, 'optimizer "adam" has no option "3"'),
    ({"shuffle": "no"}, UsageError, "shuffle='no' does not fit; use True or False"),
    ({"recompute": 2}, UsageError, "recompute=2 does not fit; use True or False"),
    ({"diagnostics": None}, UsageError, "diagnostics=None does not fit; use True or False"),
    ({"checkpoint": 3}, UsageError, "checkpoint=3 does not fit; use a path"),
    ({"resume": 3}, UsageError, "resume=3 does not fit; use a path"),
    ({"learning_rate": [0.1, 0.2]}, UsageError, "learning_rate has shape (2,); give one number, or 1"),
    ({"schedule": "cosin"}, UsageError, 'unknown schedule "cosin"; did you mean "cosine"?'),
    ({"l2": -1e-3}, UsageError, "l2=-0.001 does not fit; use l2 >= 0 and finite"),
    ({"weight_decay": -1}, UsageError, "weight_decay=-1 does not fit"),
    ({"dropout": 1.0}, UsageError, "dropout=1 does not fit; use dropout >= 0 and < 1"),
    ({"dropout": np.nan}, UsageError, "dropout=nan does not fit"),
    ({"label_smoothing": 1.5}, UsageError, "label_smoothing=1.5 does not fit"),
    ({"class_weight": {2: 1.0}}, UsageError, "class_weight names class 2; classes are 0 … 1"),
    ({"X": scipy.sparse.csr_array(X3)}, DataError, "X is a sparse matrix, and dense rows are needed; pass X.toarray()"),
    ({"checkpoint_every": "2steps"}, UsageError, "checkpoint_every='2steps' needs a folder to write to"),
    ({"class_weight": 3}, UsageError, 'class_weight=3 does not fit; use "balanced" or a dict {class: weight}'),
    ({"optimizer_options": 3}, UsageError, "optimizer_options=3 does not fit; give a dict, such as {'beta1': 0.9}"),
    ({"class_weight": {0: -1.0}}, UsageError, "class_weight[0] = -1.0 must be finite and not negative"),
    ({"class_weight": "balance"}, UsageError, 'class_weight "balance" is unknown; use "balanced"'),
    ({"class_weight": {0: 0, 1: 0}}, DataError, "leave every sample with weight 0"),
    ({"max_grad_norm": 0}, UsageError, "max_grad_norm=0 does not fit; use max_grad_norm > 0"),
    ({"batch_size": 0}, UsageError, "batch_size=0 does not fit; use a whole number of at least 1"),
    ({"batch_size": 2.0}, UsageError, "batch_size=2.0 does not fit"),
    ({"epochs": 0}, UsageError, "epochs=0 does not fit"),
    ({"epochs": True}, UsageError, "epochs=True does not fit"),
    ({"patience": 3}, UsageError, "patience needs validation_data to watch"),
    ({"patience": 0, "validation_data": (X3, Y3)}, UsageError, "patience=0 does not fit"),
    ({"update_tolerance": -1}, UsageError, "update_tolerance=-1 does not fit"),
    ({"seed": -1}, UsageError, "seed=-1 does not fit; use a whole number of at least 0"),
    ({"seed": 0.5}, UsageError, "seed=0.5 does not fit"),
    ({"seed": [1, 2]}, UsageError, "seed names 2 seeds for 1 networks"),
    ({"callbacks": print}, UsageError, "give a list of functions of (net, history)"),
    ({"callbacks": [3]}, UsageError, "callbacks=[3] does not fit"),
]


@pytest.mark.parametrize("change, kind, message", BAD, ids=[message[:40] for _, _, message in BAD])
def test_bad_arguments_are_refused_before_anything_is_trained(change, kind, message):
    net = MLP([3, 4, 2])
    before = digest(net)
    arguments = {"X": X3, "y": Y3, "epochs": 1, **change}
    with pytest.raises(kind) as caught:
        train(net, **arguments)
    assert message in str(caught.value)
    assert digest(net) == before


@pytest.mark.parametrize("net", [gpubp.MLPClassifier((4,)), None], ids=["an estimator", "None"])
def test_only_networks_are_trained(net):
    with pytest.raises(UsageError, match="an MLP, not a (MLPClassifier|NoneType); an estimator has a fit of its own"):
        train(net, X3, Y3)


@pytest.mark.parametrize(
    "loss, change, message",
    [
        ("half_squared_error", {"label_smoothing": 0.1}, 'smooths classes; loss "half_squared_error" has none'),
        ("half_squared_error", {"class_weight": "balanced"}, "class_weight needs one class per row"),
        ("binary_cross_entropy", {"y": 2 * Y3}, "y[1, 0] = 2 is outside 0 … 1"),
        ("poisson", {"y": Y3 - 1}, 'y[0, 0] = -1 is outside 0 … inf, where loss "poisson" has its targets'),
    ],
)
def test_arguments_that_do_not_fit_the_loss(loss, change, message):
    net = MLP([3, 4, 1], loss=loss)
    with pytest.raises(UsageError) as caught:
        train(net, **{"X": X3, "y": Y3, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int64", "bool"])
def test_any_real_dtype_trains_as_its_values(mlp, dtype):
    X, y = np.random.default_rng(0).integers(2, size=(20, 3)), np.arange(20) % 2
    net, reference = mlp([3, 4, 2]), mlp([3, 4, 2])
    train(net, X.astype(dtype), y.astype(dtype) if dtype != "float16" else y, batch_size=8, epochs=2)
    train(reference, X.astype(np.float32), y, batch_size=8, epochs=2)
    assert digest(net) == digest(reference)


def test_the_data_is_left_as_it_was(mlp):
    X, y = blobs()
    before = X.copy(), y.copy()
    for batch_size in (16, 60):
        train(mlp([4, 5, 3]), X, y, batch_size=batch_size, epochs=1, dropout=0.5)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_every_loss_is_named_in_this_file_or_trains_by_default(mlp):
    """A loss that is added is trained here too."""
    X = np.random.default_rng(0).standard_normal((10, 3))
    for name in LOSSES:
        net = mlp([3, 4, 2], loss=name)
        y = np.arange(10) % 2 if net.loss.integer_targets else np.tile([0.0, 1.0], (10, 1))
        assert np.isfinite(train(net, X, y, epochs=1).loss[0])


def test_training_is_exported():
    assert gpubp.train is train
