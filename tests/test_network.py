"""The network: what it is made of, what it answers, and its files."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpubp import MLP, Activation, DataError, DeviceError, UsageError, train
from gpubp.activations import ACTIVATIONS
from gpubp.backends.cuda.probe import CudaState
from gpubp.losses import LOSSES, Loss, get_loss
from gpubp.serialization import FORMAT, atomic_write
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


# -- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation, models", [*zip([*ACTIVATIONS, "leaky_relu(0.2)", "elu(alpha=0.5)"], cycle([1, 3]), strict=False)]
)
def test_a_network_comes_back_from_its_file_bit_for_bit(mlp, tmp_path, activation, models):
    net = mlp([4, 5, 6, 3], [activation, "tanh"], models=models, seed=3)
    net.preprocessing = {"columns": ["a", "ü"], "mean": [0.1, 2.0], "nested": {"none": None}}
    net.save(tmp_path / "m.safetensors")
    twin = mlp.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(host(twin.theta), host(net.theta))
    assert repr(twin) == repr(net) and twin.stack.seeds == net.stack.seeds
    assert twin.preprocessing == net.preprocessing
    assert [a.name for a in twin.activations] == [a.name for a in net.activations]
    X = np.random.default_rng(0).standard_normal((7, 4))
    np.testing.assert_array_equal(twin.forward(X), net.forward(X))
    train(net, X, np.arange(7) % 3, epochs=1, dropout=0.3)
    train(twin, X, np.arange(7) % 3, epochs=1, dropout=0.3)
    np.testing.assert_array_equal(host(twin.theta), host(net.theta))


@pytest.mark.parametrize("loss", [*LOSSES, "quantile(q=0.9)", "huber(delta=2.0)"])
def test_the_loss_comes_back_too(mlp, tmp_path, loss):
    net = mlp([4, 5, 2], loss=loss)
    net.save(tmp_path / "m.safetensors")
    twin = mlp.load(tmp_path / "m.safetensors")
    assert (twin.loss.name, twin.output_activation.name) == (net.loss.name, net.output_activation.name)
    y = [0, 1] if net.loss.integer_targets else [[0, 1], [1, 0]]
    assert twin.evaluate(np.ones((2, 4)), y) == net.evaluate(np.ones((2, 4)), y)


def test_a_loss_through_another_output_comes_back(tmp_path):
    net = MLP([4, 5, 2], "sigmoid", "half_squared_error", output_activation="sigmoid")
    net.save(tmp_path / "m.safetensors")
    twin = MLP.load(tmp_path / "m.safetensors")
    assert twin.gradients(np.ones((2, 4)), np.eye(2))[0] == net.gradients(np.ones((2, 4)), np.eye(2))[0]


def test_records_of_ones_own_are_given_again_when_loading(mlp, tmp_path):
    square = Activation("square", lambda xp, z: z * z, lambda xp, z: 2 * z, "z")
    cubic = Loss("cubic", lambda xp, z, y, s: ((z - y) ** 3, 3 * (z - y) ** 2), get_loss("huber").output_activation)
    net = mlp([4, 5, 2], square, cubic)
    path = tmp_path / "m.safetensors"
    net.save(path)
    with pytest.raises(UsageError, match='unknown activation "square"'):
        mlp.load(path)
    with pytest.raises(UsageError, match='unknown loss "cubic"'):
        mlp.load(path, activations=square)
    twin = mlp.load(path, activations=square, loss=cubic)
    np.testing.assert_array_equal(twin.forward(np.ones((1, 4))), net.forward(np.ones((1, 4))))
    X, y = np.ones((2, 4)), np.eye(2)
    train(net, X, y, epochs=2)
    train(twin, X, y, epochs=2)
    np.testing.assert_array_equal(host(twin.theta), host(net.theta))
    with pytest.raises(UsageError, match="load takes activations, loss and output_activation, not optimizer"):
        mlp.load(path, activations=square, loss=cubic, optimizer="adam")


def test_the_file_is_plain_safetensors_with_json_and_holds_no_padding(tmp_path):
    from safetensors import safe_open

    net = MLP([4, 5, 3])
    net.save(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["gpubp"])
    assert {name: t.size for name, t in tensors.items()} == {
        "weights.0": 20, "weights.1": 15, "biases.0": 5, "biases.1": 3,
    }  # fmt: skip
    assert header["format"] == FORMAT and header["layer_sizes"] == [4, 5, 3]


def header_of(net: MLP, **changes) -> dict:
    """What `save` wrote about a [4, 5, 3] network before files had a digest, changed; ... takes a key away."""
    known = {
        "format": 2, "layer_sizes": [4, 5, 3], "activations": ["relu"], "loss": "cross_entropy",
        "output_activation": "softmax", "precision": "float32", "models": 1, "seeds": [0], "preprocessing": None,
    }  # fmt: skip
    return {key: value for key, value in {**known, **changes}.items() if value is not ...}


DAMAGES = {
    "another format": ({"format": 4}, {}, "format 4, but this gpubp reads up to 3; update gpubp"),
    "no format": ({"format": ...}, {}, "not written by gpubp"),
    "a key missing": ({"loss": ...}, {}, "'loss' is missing; the file is damaged"),
    "a tensor missing": ({}, {"biases.1": None}, "'biases.1' is missing; the file is damaged"),
    "a tensor too small": ({}, {"biases.1": np.zeros((1, 2), np.float32)}, "biases.1 has shape (1, 2)"),
    "another dtype": ({}, {"biases.1": np.zeros((1, 3))}, "biases.1 has dtype float64; the file is damaged"),
    "another size": ({"layer_sizes": [4, 5, 9]}, {}, "the file is damaged"),
    "a size beyond all memory": ({"layer_sizes": [10**9, 10**9, 3]}, {}, "the file is damaged"),
    "a size that is none": ({"layer_sizes": "4-5-3"}, {}, "layer_sizes[0]='4' does not fit"),
    "another count": ({"models": 2, "seeds": [0, 1]}, {}, "the file is damaged"),
    "unknown loss": ({"loss": "entropy"}, {}, 'unknown loss "entropy"'),
    "unknown precision": ({"precision": "float8"}, {}, 'unknown precision "float8"'),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_with_its_path_or_its_fault(tmp_path, name):
    changes, tensors, message = DAMAGES[name]
    net, path = MLP([4, 5, 3]), tmp_path / "m.safetensors"
    found = {name: host(net.theta)[:, start:stop].copy() for name, start, stop in net.stack.layout.names()} | tensors
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    save_file(kept, path, metadata={"gpubp": json.dumps(header_of(net, **changes))})
    with pytest.raises(UsageError) as caught:
        MLP.load(path)
    assert message in str(caught.value)


def test_a_network_trained_in_16_bits_loads_where_there_is_no_gpu(tmp_path):
    net, path = MLP([4, 5, 3]), tmp_path / "m.safetensors"
    tensors = {name: host(net.theta)[:, start:stop].copy() for name, start, stop in net.stack.layout.names()}
    save_file(tensors, path, metadata={"gpubp": json.dumps(header_of(net, precision="bfloat16"))})
    assert MLP.load(path, device="cpu").precision == "float32"


def test_the_untouched_header_of_the_table_above_loads(tmp_path):
    """The test of the test."""
    net, path = MLP([4, 5, 3]), tmp_path / "m.safetensors"
    found = {name: host(net.theta)[:, start:stop].copy() for name, start, stop in net.stack.layout.names()}
    save_file(found, path, metadata={"gpubp": json.dumps(header_of(net))})
    np.testing.assert_array_equal(host(MLP.load(path).theta), host(net.theta))


def test_foreign_torn_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(DataError, match=r"m\.safetensors: no such file"):
        MLP.load(path)
    MLP([4, 5, 3]).save(path)
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="not a readable safetensors file"):
            MLP.load(path)
    path.write_bytes(b"\x80\x04\x95pickled, by the look of it" * 10)
    with pytest.raises(DataError, match="not a readable safetensors file"):
        MLP.load(path)
    for metadata in (None, {"made by": "someone else"}, {"gpubp": "{"}, {"gpubp": "[1]"}):
        save_file({"x": np.zeros(3)}, path, metadata=metadata)
        with pytest.raises(DataError, match=r"m\.safetensors: not (written by gpubp|a readable)"):
            MLP.load(path)


def test_loading_unpickles_runs_and_connects_to_nothing(tmp_path):
    """An audit hook in a fresh interpreter refuses every event by which a file could run code."""
    net = MLP([4, 5, 3], "leaky_relu(0.2)")
    net.preprocessing = {"__reduce__": "os.system('true')"}
    net.save(tmp_path / "m.safetensors")
    program = (
        "import sys\n"
        "import gpubp, gpubp.network, gpubp.serialization, numpy, safetensors.numpy\n"
        "gpubp.MLP([2, 2], device='cpu-reference')\n"  # loads what is loaded lazily; Numba would unpickle its own cache
        "banned = ('pickle.', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'subprocess.', 'socket.',\n"
        "          'ctypes.dlopen', 'marshal.')\n"
        "def hook(event, arguments):\n"
        "    if event.startswith(banned):\n"
        "        raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(hook)\n"
        "net = gpubp.MLP.load(sys.argv[1], device='cpu-reference')\n"
        "print(net.activations[0].name, net.predict(numpy.ones((1, 4))).shape)\n"
        "assert 'pickle' not in vars(gpubp.serialization)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.safetensors")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "leaky_relu(slope=0.2)"


# -- writing without tearing ------------------------------------------------------------------------------


def test_atomic_write_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    atomic_write(path, b"old")
    atomic_write(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(path.parent) == ["file.bin"]


def test_atomic_write_gives_the_permissions_that_open_would(tmp_path):
    previous = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


class FullDisk:
    """A file that takes three bytes and then no more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[:3])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["write", "fsync", "replace", "open", "interrupt"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, fault):
    path = tmp_path / "m.safetensors"
    net = MLP([4, 5, 3])
    net.save(path)
    before = path.read_bytes()

    def fail(*arguments, **keywords):
        if fault == "interrupt":
            raise KeyboardInterrupt
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    open_file = os.fdopen
    if fault == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(open_file(handle, mode)))
    else:
        monkeypatch.setattr(os, "fsync" if fault == "interrupt" else fault, fail)
    net.theta += 1
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else UsageError) as caught:
        net.save(path)
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]
    if fault != "interrupt":
        assert str(path) in str(caught.value) and f"{len(before):,} bytes needed" in str(caught.value)
        expected = "No space left on device" if fault == "write" else "Input/output error"
        assert expected in str(caught.value)


def test_a_real_limit_on_the_size_of_files_is_survived(tmp_path):
    """RLIMIT_FSIZE in a process of its own: the same as a disk that fills up while writing."""
    path = tmp_path / "m.safetensors"
    MLP([4, 5, 3]).save(path)
    before = path.read_bytes()
    program = (
        "import resource, sys, gpubp\n"
        "net = gpubp.MLP([200, 200, 3])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    net.save(sys.argv[1])\n"
        "except gpubp.UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert f"{path}: cannot be written" in done.stdout and "bytes needed" in done.stdout
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    """SIGKILL at moments unrelated to the writing, which goes on all the time."""
    path = tmp_path / "m.safetensors"
    program = (
        "import sys, gpubp\n"
        "net = gpubp.MLP([100, 200, 3])\n"
        "while True:\n"
        "    net.theta += 1\n"
        "    net.save(sys.argv[1])\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
            deadline = time.monotonic() + 20
            start = path.stat().st_mtime_ns if path.exists() else 0
            while (not path.exists() or path.stat().st_mtime_ns == start) and time.monotonic() < deadline:
                time.sleep(0.003)
            writer.send_signal(signal.SIGKILL)
        net = MLP.load(path)
        assert np.unique(host(net.theta)[0, net.stack.layout.bias_starts[0] :][:200]).size == 1  # all of one moment


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    blocked = Path(tmp_path / "file")
    blocked.write_text("not a folder")
    with pytest.raises(UsageError, match="cannot be written"):
        MLP([3, 2]).save(blocked / "m.safetensors")
    with pytest.raises(UsageError, match="cannot be written"):
        MLP([3, 2]).save(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
