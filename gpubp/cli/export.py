"""``gpubp export``: a trained network for other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gpubp.cli import options
from gpubp.errors import UsageError

Out = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A .onnx file, which takes raw rows, or a .safetensors file of the weights by PyTorch's names.",
        show_default=False,
    ),
]


def export(model: options.Model, out: Out) -> None:
    """Write a trained network, estimator or ensemble for other programs: an ONNX model, or PyTorch's state_dict."""
    from gpubp.cli import display
    from gpubp.serialization import model_file

    if out.suffix not in WRITERS:
        raise UsageError(f'{out}: cannot tell the format from "{out.suffix}"; choose a file that ends in {ENDINGS}')
    path = model_file(model)
    if out.exists() and os.path.samefile(path, out):
        raise UsageError(f"{out}: is the model itself, and would be lost; choose another file")
    display.say(display.make_console(), f"wrote {out}: {WRITERS[out.suffix](path, out)}")


def _write_onnx(path: Path, out: Path) -> str:
    """Write the ONNX model of a model file; returns a description of its inputs and outputs."""
    from gpubp.interchange.export import to_onnx
    from gpubp.interchange.saved import load
    from gpubp.network import MLP
    from gpubp.serialization import atomic_write

    loaded = load(path, "cpu")
    model = to_onnx(loaded, raw_rows=isinstance(loaded, MLP) and loaded.preprocessing is not None)
    atomic_write(out, model.SerializeToString())
    return f"takes {_names(model.graph.input)}; gives {_names(model.graph.output)}"


def _names(values: Any) -> str:
    names = [value.name for value in values]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, … ({len(names)} inputs)"


def _write_state_dict(path: Path, out: Path) -> str:
    """Write the weights of a model file under PyTorch's names; returns a description of the network."""
    from gpubp.interchange.state_dict import write_state_dict
    from gpubp.network import MLP

    net = MLP.load(path, "cpu")
    write_state_dict(out, net)
    hidden = ", ".join(activation.name for activation in net.activations) or "none"
    sizes = "-".join(map(str, net.layer_sizes))
    return f"linear layers {sizes}, activations {hidden}; outputs are logits, of {net.output_activation.name}"


WRITERS = {".onnx": _write_onnx, ".safetensors": _write_state_dict}
ENDINGS = " or ".join(WRITERS)
