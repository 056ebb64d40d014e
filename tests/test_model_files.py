"""Files of networks: what comes back from them, what is in them, and that damaged ones are refused and run nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import cycle

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpubp import MLP, Activation, DataError, UsageError, train
from gpubp.activations import ACTIVATIONS
from gpubp.losses import LOSSES, Loss, get_loss
from gpubp.serialization import FORMAT
from support.machines import host


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
