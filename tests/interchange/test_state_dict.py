"""Weights by PyTorch's names, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import gpubp
from gpubp.cli.app import app
from gpubp.errors import DataError, UsageError


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_there_and_back_is_the_same_network(precision, rng):
    net = gpubp.MLP([4, 8, 5, 3], "gelu", precision=precision, device="cpu-reference")
    for b in net.biases:
        b[...] = rng.normal(size=b.shape)
    tensors = gpubp.to_state_dict(net)
    assert list(tensors) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert [tensor.shape for tensor in tensors.values()] == [(8, 4), (8,), (5, 8), (5,), (3, 5), (3,)]
    again = gpubp.from_state_dict(tensors, "gelu", device="cpu-reference")
    X = rng.normal(size=(20, 4))
    assert again.precision == precision
    np.testing.assert_array_equal(again.forward(X), net.forward(X))


def test_it_is_what_pytorch_computes(rng):
    torch = pytest.importorskip("torch", reason="torch is not installed; it is in the extra bench")
    net = gpubp.MLP([4, 8, 3], "tanh", "huber", precision="float64", device="cpu-reference")
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in gpubp.to_state_dict(net).items()})
    X = rng.normal(size=(20, 4))
    np.testing.assert_allclose(module(torch.from_numpy(X)).detach().numpy(), net.forward(X), atol=1e-12)
    again = gpubp.from_state_dict(module.state_dict(), "tanh", "huber", device="cpu-reference")
    np.testing.assert_array_equal(again.forward(X), net.forward(X))


def test_a_stack_has_no_state_dict():
    with pytest.raises(UsageError, match="a stack of 2"):
        gpubp.to_state_dict(gpubp.MLP([4, 3], models=2, device="cpu-reference"))


def test_the_command_writes_and_a_file_is_read_in_the_order_of_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = gpubp.MLP([2] * 13, device="cpu-reference")  # layers up to "22", which sorts before "4" as text
    net.save("model.safetensors")
    done = CliRunner().invoke(app, ["export", "model.safetensors", "torch.safetensors"], prog_name="gpubp")
    assert done.exit_code == 0 and "linear layers 2-2-" in done.output
    again = gpubp.from_state_dict("torch.safetensors", device="cpu-reference")
    assert all(np.array_equal(W, V) for W, V in zip(net.weights, again.weights, strict=True))


def test_layers_without_biases_and_half_precision():
    weights = {"hidden.weight": np.ones((3, 2), np.float16), "out.weight": np.ones((1, 3), np.float16)}
    net = gpubp.from_state_dict(weights, loss="half_squared_error", device="cpu-reference")
    assert net.precision == "float32" and net.predict([[1.0, 2.0]]).tolist() == [9.0]


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({}, "holds no linear layer"),
        ({"0.weight": np.ones((3, 2)), "1.running_mean": np.ones(3)}, '"1.running_mean" .* no weight or bias'),
        ({"0.weight": np.ones((3, 2, 5, 5))}, '"0.weight" .* no weight or bias'),
        ({"0.weight": np.ones((3, 2)), "0.bias": np.ones(2)}, '"0.bias" has shape'),
        ({"0.weight": np.ones((3, 2)), "2.weight": np.ones((1, 4))}, '"2.weight" .* takes 4 inputs'),
    ],
)
def test_what_is_no_network_is_named(tensors, message):
    with pytest.raises(DataError, match=message):
        gpubp.from_state_dict(tensors)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        gpubp.from_state_dict(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        gpubp.from_state_dict(tmp_path / "broken.safetensors")


def test_the_file_is_marked_as_pytorchs_are(tmp_path):
    from safetensors import safe_open

    from gpubp.interchange.state_dict import write_state_dict

    write_state_dict(tmp_path / "net.safetensors", gpubp.MLP([2, 3], device="cpu-reference"))
    with safe_open(tmp_path / "net.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    save_file(load_file(tmp_path / "net.safetensors"), tmp_path / "again.safetensors")
    assert gpubp.from_state_dict(tmp_path / "again.safetensors").layer_sizes == (2, 3)
