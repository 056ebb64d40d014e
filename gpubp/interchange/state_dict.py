"""Weights under the names of PyTorch's ``state_dict`` for an ``nn.Sequential`` of linear layers and activations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.activations import Activation
from gpubp.errors import DataError, UsageError
from gpubp.losses import Loss
from gpubp.network import MLP
from gpubp.serialization import atomic_write


def to_state_dict(net: MLP) -> dict[str, NDArray[Any]]:
    """The parameters of a network under PyTorch's names: ``0.weight`` (n_1, n_0), ``0.bias`` (n_1,), ``2.weight``, …

    In an ``nn.Sequential``, an activation follows each linear layer, so layers have even numbers.

    Parameters
    ----------
    net : MLP
        A single network.

    Returns
    -------
    dict of str to ndarray
        Copies on the host, in the dtype of the parameters, in PyTorch's layout: outputs by inputs.

    Raises
    ------
    UsageError
        For a stack of several networks.

    Examples
    --------
    >>> import gpubp
    >>> net = gpubp.MLP([4, 8, 3], device="cpu-reference")
    >>> {name: tensor.shape for name, tensor in gpubp.to_state_dict(net).items()}
    {'0.weight': (8, 4), '0.bias': (8,), '2.weight': (3, 8), '2.bias': (3,)}

    ``torch.nn.Sequential(Linear(4, 8), ReLU(), Linear(8, 3))`` loads it once its arrays are tensors.
    """
    if net.models > 1:
        raise UsageError(f"a state_dict holds a single network, and this is a stack of {net.models}")
    tensors = {}
    to_host = net.stack.backend.to_host
    for l, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        tensors[f"{2 * l}.weight"] = np.ascontiguousarray(to_host(W).T)
        tensors[f"{2 * l}.bias"] = np.array(to_host(b))
    return tensors


def from_state_dict(
    source: Mapping[str, Any] | str | Path,
    activations: str | Activation | Sequence[str | Activation] = "relu",
    loss: str | Loss = "cross_entropy",
    *,
    output_activation: Any = "auto",
    device: str = "auto",
) -> MLP:
    """Make a network with the weights of PyTorch's linear layers.

    Parameters
    ----------
    source : dict of str to array or tensor, or path
        A ``state_dict``, or a safetensors file of one. Layers are in the order of the dict; in a file, which has no
        order, by the numbers in their names. A layer without a bias gets zeros.
    activations, loss, output_activation
        As in `MLP`; a state_dict does not hold them.
    device : str

    Returns
    -------
    MLP
        In float64 if the weights are, else in float32.

    Raises
    ------
    DataError
        For a file that cannot be read, a tensor that is not a weight or bias of a linear layer, and layers whose sizes
        do not match.

    Examples
    --------
    >>> import numpy as np
    >>> import gpubp
    >>> weights = {"fc1.weight": np.ones((8, 4)), "fc1.bias": np.zeros(8), "fc2.weight": np.ones((3, 8))}
    >>> gpubp.from_state_dict(weights, "tanh", device="cpu-reference")
    MLP(4-8-3, activations=tanh, loss=cross_entropy, 67 parameters, float64 on cpu)
    """
    if isinstance(source, str | Path):
        what, tensors = str(source), _read(Path(source))
    else:
        what, tensors = "state_dict", {name: _as_array(value) for name, value in source.items()}
    layers = _linear_layers(what, tensors)
    sizes = [layers[0][0].shape[1], *(W.shape[0] for W, _ in layers)]
    net = MLP(
        sizes,
        activations,
        loss,
        init="zeros",
        device=device,
        precision="float64" if layers[0][0].dtype == np.float64 else "float32",
        output_activation=output_activation,
    )
    backend = net.stack.backend
    for W, b, (weight, bias) in zip(net.weights, net.biases, layers, strict=True):
        W[...] = backend.from_host(np.ascontiguousarray(weight.T), backend.dtype)
        if bias is not None:
            b[...] = backend.from_host(bias, backend.dtype)
    return net


def write_state_dict(path: str | Path, net: MLP) -> None:
    """Write what `to_state_dict` returns as a safetensors file, whole or not at all.

    Parameters
    ----------
    path : path
    net : MLP
        A single network.
    """
    from safetensors.numpy import save as to_bytes

    atomic_write(path, to_bytes(to_state_dict(net), metadata={"format": "pt"}))  # as PyTorch programs mark their files


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, in the order of the numbers in their names."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a safetensors file of a state_dict") from None
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error!r})") from None

    def by_numbers(name: str) -> list[tuple[bool, int, str]]:
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name) if part]

    return {name: tensors[name] for name in sorted(tensors, key=by_numbers)}


def _as_array(value: Any) -> NDArray[Any]:
    """An array, or a PyTorch tensor on any device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    return np.asarray(value)


def _linear_layers(what: str, tensors: Mapping[str, NDArray[Any]]) -> list[tuple[NDArray[Any], NDArray[Any] | None]]:
    """(weight (n_out, n_in), bias (n_out,) or None) of each layer."""
    names = [name.removesuffix("weight") for name, W in tensors.items() if name.endswith("weight") and W.ndim == 2]
    belonging = {f"{name}{kind}" for name in names for kind in ("weight", "bias")}
    foreign = next((name for name in tensors if name not in belonging), None)
    if foreign is not None:
        shape = tensors[foreign].shape
        raise DataError(f'{what}: "{foreign}" {shape} is no weight or bias of a linear layer, of which an MLP is made')
    if not names:
        raise DataError(f'{what}: holds no linear layer; their weights are called "0.weight", "2.weight", …')
    layers = [(tensors[f"{name}weight"], tensors.get(f"{name}bias")) for name in names]
    for name, (W, b) in zip(names, layers, strict=True):
        if b is not None and b.shape != W.shape[:1]:
            raise DataError(f'{what}: "{name}bias" has shape {b.shape}, and "{name}weight" {W.shape}')
    for (name, (W, _)), (following, (V, _)) in pairwise(zip(names, layers, strict=True)):
        if V.shape[1] != W.shape[0]:
            raise DataError(
                f'{what}: "{following}weight" {V.shape} takes {V.shape[1]} inputs, and "{name}weight" {W.shape} gives '
                f"{W.shape[0]}; give the layers in their order"
            )
    return layers
