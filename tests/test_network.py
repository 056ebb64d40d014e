"""The network: what it is made of, how it starts, what it answers, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import MLP, DataError, DeviceError, UsageError
from gpubp.backends.cuda.probe import CudaState
from support.machines import host, in_float64

# -- what it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [1, 3])
def test_weights_and_biases_are_writable_views_of_one_buffer(mlp, models):
    net = mlp([4, 5, 3], models=models)
    stack = (models,) if models > 1 else ()
    assert [W.shape for W in net.weights] == [(*stack, 4, 5), (*stack, 5, 3)]
    assert [b.shape for b in net.biases] == [(*stack, 5), (*stack, 3)]
    assert net.parameters == 4 * 5 + 5 + 5 * 3 + 3
    before = net.forward(np.ones((1, 4)))
    theta = host(net.theta).copy()
    for parameter in (*net.weights, *net.biases):
        assert parameter.dtype == net.stack.backend.dtype
        parameter += 1
    moved = host(net.theta) - theta
    assert np.count_nonzero(moved) == models * net.parameters and moved.max() == pytest.approx(1)
    assert (net.forward(np.ones((1, 4))) != before).any()


def test_what_the_network_says_about_itself():
    net = MLP([784, 30, 20, 10], ["relu", "tanh"], device="cpu", precision="float64", models=2)
    text = repr(net)
    for part in ("784-30-20-10", "relu, tanh", "cross_entropy", "24,380 parameters", "float64 on cpu", "models=2"):
        assert part in text
    assert net.layer_sizes == (784, 30, 20, 10)
    assert (net.device, net.precision, net.models) == ("cpu", "float64", 2)
    assert [a.name for a in net.activations] == ["relu", "tanh"]
    assert net.output_activation.name == "softmax" and net.loss.name == "cross_entropy"
    assert isinstance(net.stack.backend.reason, str) and net.preprocessing is None
    assert "activations=none" in repr(MLP([3, 2]))


def test_memory_adds_up():
    net = MLP([10, 20, 5], "gelu", models=3)
    memory = net.memory(batch_size=7, optimizer="adam")
    assert set(memory) == {"parameters", "optimizer", "activations", "total"}
    assert memory["parameters"] == net.theta.nbytes
    assert memory["optimizer"] == 4 * net.theta.nbytes  # gradient, the epoch's start, m, v
    assert memory["total"] == sum(memory[part] for part in ("parameters", "optimizer", "activations"))
    assert net.memory(7, "sgd")["optimizer"] == 2 * net.theta.nbytes
    assert net.memory(14)["activations"] == 2 * memory["activations"]


# -- how it starts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation, spread",
    [
        ("relu", (2 / 400) ** 0.5),  # he_normal
        ("selu", (1 / 400) ** 0.5),  # lecun_normal
        ("tanh", (2 / 700) ** 0.5),  # xavier_uniform
    ],
)
def test_auto_initialization_follows_the_layers_activation(activation, spread):
    net = MLP([400, 300, 2], activation, seed=1)
    assert host(net.weights[0]).std() == pytest.approx(spread, rel=0.02)
    assert not any(host(b).any() for b in net.biases)


def test_standard_normal_draws_biases_too_and_zeros_nothing():
    net = MLP([400, 300, 2], init="standard_normal")
    assert host(net.weights[0]).std() == pytest.approx(1, rel=0.02)
    assert host(net.biases[0]).std() == pytest.approx(1, rel=0.2)
    assert not host(MLP([4, 3, 2], init="zeros").theta).any()


def test_seeds_decide_the_weights_and_each_network_of_a_stack_has_its_own(mlp):
    assert np.array_equal(host(mlp([4, 3, 2], seed=5).theta), host(mlp([4, 3, 2], seed=5).theta))
    stack = mlp([4, 3, 2], seed=5, models=3)
    chosen = mlp([4, 3, 2], seed=(7, 5, 6), models=3)
    assert stack.stack.seeds == (5, 6, 7) and chosen.stack.seeds == (7, 5, 6)
    for k in range(3):
        np.testing.assert_array_equal(host(stack.theta)[k], host(mlp([4, 3, 2], seed=5 + k).theta)[0])
    np.testing.assert_array_equal(host(chosen.theta), host(stack.theta)[[2, 0, 1]])
    assert mlp([4, 3, 2], seed=np.int64(5)).stack.seeds == (5,)


def test_both_precisions_start_from_the_same_numbers():
    double, single = MLP([4, 3, 2], precision="float64"), MLP([4, 3, 2], precision="float32")
    np.testing.assert_array_equal(host(double.theta).astype(np.float32), host(single.theta))


# -- what it answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize(
    "loss, output, outputs, shape, check",
    [
        ("cross_entropy", "auto", 3, (5,), lambda a, p: (p == a.argmax(-1)).all()),
        ("half_squared_error", "softmax", 3, (5,), lambda a, p: (p == a.argmax(-1)).all()),
        ("binary_cross_entropy", "auto", 3, (5, 3), lambda a, p: (p == (a > 0.5)).all()),
        ("binary_cross_entropy", "auto", 1, (5,), lambda a, p: (p == (a[..., 0] > 0.5)).all()),
        ("half_squared_error", "auto", 3, (5, 3), lambda a, p: (p == a).all()),
        ("half_squared_error", "sigmoid", 1, (5,), lambda a, p: (p == a[..., 0]).all()),
        ("poisson", "auto", 1, (5,), lambda a, p: (p == a[..., 0]).all() and (a > 0).all()),
    ],
)
def test_predictions(mlp, models, loss, output, outputs, shape, check):
    net = mlp([4, 6, outputs], loss=loss, output_activation=output, models=models)
    X = np.random.default_rng(0).standard_normal((5, 4))
    stack = (models,) if models > 1 else ()
    a, prediction = net.forward(X), net.predict(X)
    assert a.shape == (*stack, 5, outputs) and a.dtype == net.stack.backend.dtype
    assert prediction.shape == (*stack, *shape) and check(a, prediction)
    if net.output_activation.name == "softmax":
        np.testing.assert_allclose(a.sum(axis=-1), 1, rtol=1e-6)


@in_float64
def test_evaluation_is_the_weighted_mean_of_loss_and_metric(mlp):
    net = mlp([4, 6, 3])
    rng = np.random.default_rng(0)
    X, y, weight = rng.standard_normal((50, 4)), rng.integers(3, size=50), rng.random(50)
    a = net.forward(X)
    losses, hits = -np.log(a[np.arange(50), y]), a.argmax(axis=1) == y
    assert net.evaluate(X, y) == pytest.approx({"loss": losses.mean(), "accuracy": hits.mean()})
    assert net.evaluate(X, np.eye(3)[y]) == net.evaluate(X, y)
    weighted = {"loss": weight @ losses / weight.sum(), "accuracy": weight @ hits / weight.sum()}
    assert net.evaluate(X, y, weight) == pytest.approx(weighted)


@in_float64
@pytest.mark.parametrize("weight", [None, np.linspace(0.0, 2.0, 50)], ids=["plain", "weighted"])
def test_evaluation_of_values_reports_the_root_mean_square(mlp, weight):
    net = mlp([4, 6, 2], loss="absolute_error", models=2)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 4)), rng.standard_normal((50, 2))
    error = net.forward(X) - y
    found = net.evaluate(X, y, weight)
    np.testing.assert_allclose(found["loss"], np.average(np.abs(error).sum(axis=2), axis=1, weights=weight))
    squares = np.average((error**2).mean(axis=2), axis=1, weights=weight)
    np.testing.assert_allclose(found["rmse"], np.sqrt(squares))


def test_evaluation_of_labels_reports_how_many_of_them_are_right(mlp):
    net = mlp([4, 6, 3], loss="binary_cross_entropy")
    rng = np.random.default_rng(0)
    X, y, weight = rng.standard_normal((50, 4)), rng.integers(2, size=(50, 3)), rng.random(50)
    hits = (net.predict(X) == y).mean(axis=1)
    assert net.evaluate(X, y, weight)["label_accuracy"] == pytest.approx(np.average(hits, weights=weight), rel=1e-6)


def test_large_inputs_are_taken_in_parts(mlp, monkeypatch):
    """The parts do not show but in the last bit, which BLAS rounds by the number of rows."""
    net = mlp([4, 6, 3], models=2)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 4)), rng.integers(3, size=50)
    whole = net.forward(X), net.evaluate(X, y)
    monkeypatch.setattr("gpubp.stack._CHUNK", 100)
    np.testing.assert_allclose(net.forward(X), whole[0], rtol=1e-5)
    np.testing.assert_allclose(net.evaluate(X, y)["loss"], whole[1]["loss"], rtol=1e-5)


def test_inputs_in_any_order_of_memory_give_the_same_answer(mlp):
    net = mlp([4, 6, 3])
    X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    expected = net.forward(X)
    for same in (np.asfortranarray(X), X.astype(np.float64), X.tolist(), np.repeat(X, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(net.forward(same), expected)


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layer_sizes": [3]}, "layer_sizes=[3] does not make a network"),
        ({"layer_sizes": 3}, "layer_sizes=3 does not make a network"),
        ({"layer_sizes": [3, 0, 2]}, "layer_sizes[1]=0 does not fit; use a whole number of at least 1"),
        ({"layer_sizes": [3, 2.5]}, "layer_sizes[1]=2.5 does not fit"),
        ({"layer_sizes": [3, 4, 1]}, "softmax needs two outputs or more; use loss="),
        ({"activations": "rellu"}, 'unknown activation "rellu"; did you mean "relu"?'),
        ({"activations": ["relu", "relu"]}, "activations names 2, but there are 1 hidden layers"),
        ({"activations": 3}, "activation 3 is neither a name nor"),
        ({"activations": "leaky_relu(-1)"}, "slope"),
        ({"loss": "cross_entropi"}, 'unknown loss "cross_entropi"; did you mean "cross_entropy"?'),
        ({"loss": "quantile(2)"}, "q=2 does not fit"),
        ({"init": "he_normall"}, 'unknown initializer "he_normall"; did you mean "he_normal"?'),
        ({"seed": -1}, "seed=-1 does not fit"),
        ({"seed": 1.5}, "seed=1.5 does not fit"),
        ({"seed": [1, 2]}, "seed names 2 seeds for 1 networks"),
        ({"seed": [1.5]}, "seed[0]=1.5 does not fit"),
        ({"models": 0}, "models=0 does not fit"),
        ({"device": "cdua"}, 'unknown device "cdua"; did you mean "cuda"?'),
        ({"precision": "float8"}, 'unknown precision "float8"; did you mean'),
        ({"precision": np.float32}, "does not fit; give one of float64, float32"),
        ({"device": 0}, "device=0 does not fit; give one of auto, cpu"),
        ({"device": None}, "device=None does not fit; give one of auto, cpu"),
        ({"output_activation": "sigmoid"}, 'implies output activation "softmax"; "sigmoid" cannot replace it'),
        ({"output_activation": "sigmoyd"}, 'did you mean "sigmoid"?'),
    ],
)
def test_constructor_arguments_that_cannot_be_meant(arguments, message):
    with pytest.raises(UsageError) as caught:
        MLP(**{"layer_sizes": [3, 4, 2], **arguments})
    assert message in str(caught.value)


NO_CUPY = CudaState(False, "CuPy is not installed", "pip install cupy", installed=False)
NO_DRIVER = CudaState(False, "cupy 14.0, but no NVIDIA driver", "install the NVIDIA driver")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cuda-unfused", "gpu", "gpu:1"])
@pytest.mark.parametrize(
    "state, message",
    [
        (NO_CUPY, "CuPy is not installed; pip install cupy"),
        (NO_DRIVER, "cupy 14.0, but no NVIDIA driver; install the NVIDIA driver"),
    ],
)
def test_a_gpu_that_cannot_work_is_refused_with_cause_and_remedy(monkeypatch, device, state, message):
    monkeypatch.setattr("gpubp.backends.cuda.probe_device", lambda index: state)
    with pytest.raises(DeviceError) as caught:
        MLP([3, 2], device=device)
    assert str(caught.value) == f'device "{device.replace("gpu", "cuda")}": {message}'


@pytest.mark.parametrize("state, cause", [(NO_CUPY, "CuPy is not installed"), (NO_DRIVER, "no NVIDIA driver")])
def test_where_no_gpu_works_auto_is_the_cpu_and_says_why(monkeypatch, state, cause):
    monkeypatch.setattr("gpubp.backends.cuda.probe_device", lambda index: state)
    net = MLP([3, 2], device="auto")
    assert net.device == "cpu" and cause in net.stack.backend.reason


@pytest.mark.parametrize("method", ["forward", "predict"])
def test_inputs_that_do_not_fit(method):
    net = MLP([3, 4, 2])
    for X, message in (
        (np.ones((2, 4)), "X has 4 columns, but the network has 3 inputs"),
        ([1.0, 2.0, 3.0], "one row is X.reshape(1, -1)"),
        ([[1.0, np.inf, 3.0]], "X[0, 1] = inf; values must be finite"),
        ([[1.0, 1e39, 3.0]], "X[0, 1] = 1e+39 is too large for float32"),
        ([["a", "b", "c"]], "it must be real numbers"),
    ):
        with pytest.raises(DataError) as caught:
            getattr(net, method)(X)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"l2": -1}, "l2=-1 does not fit"),
        ({"dropout": 1}, "dropout=1 does not fit"),
        ({"sample_weight": [1]}, "sample_weight has shape (1,)"),
        ({"y": [0]}, "y has shape (1,), but there are 2 rows of X"),
    ],
)
def test_gradients_refuse_what_does_not_fit(settings, message):
    with pytest.raises(UsageError) as caught:
        MLP([3, 4, 2]).gradients(**{"X": np.ones((2, 3)), "y": [0, 1], **settings})
    assert message in str(caught.value)
