"""``gpubp explain``: one pass of backpropagation through a network, number by number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from gpubp.errors import UsageError

if TYPE_CHECKING:
    from gpubp.data.source import RawData
    from gpubp.network import MLP

Model = Annotated[
    Path | None,
    typer.Argument(metavar="MODEL_DIR", help='The folder that "gpubp train" wrote, or the model file in it.'),
]
Data = Annotated[
    str | None, typer.Argument(metavar="DATA", help="Data in the form of what the network was trained on.")
]
Row = Annotated[int, typer.Option(help="Which row of DATA; the first is 1.", metavar="N", min=1)]
Demo = Annotated[bool, typer.Option("--demo", help="Show a 2-2-1 network on one sample instead.")]

# The demonstration: numbers short enough to follow on paper. tests/cli/test_explain.py works them out by hand.
DEMO_WEIGHTS = ([[0.1, -0.4], [0.3, 0.2]], [[0.5], [-0.6]])
DEMO_BIASES = ([0.1, -0.2], [0.3])
DEMO_SAMPLE = ([[1.0, 2.0]], [[1.0]])


def explain(model: Model = None, data: Data = None, row: Row = 1, demo: Demo = False) -> None:
    """Show one pass of backpropagation: every z, a, σ′(z), δ and gradient of a trained network on one row."""
    if demo:
        if model is not None or row != 1:
            raise UsageError("--demo shows a network and a row of its own; leave out MODEL_DIR, DATA and --row")
        typer.echo(demo_network().trace(*DEMO_SAMPLE))
        return
    if model is None or data is None:
        raise UsageError('give a MODEL_DIR and DATA, such as "gpubp explain runs/digits data.csv --row 3"; or --demo')
    _explain_row(model, data, row)


def demo_network() -> MLP:
    """A 2-2-1 network with sigmoid units and half the squared error as its cost, in float64."""
    from gpubp.network import MLP

    net = MLP(
        [2, 2, 1],
        "sigmoid",
        "half_squared_error",
        precision="float64",
        device="cpu-reference",
        output_activation="sigmoid",
    )
    for parameters, values in ((net.weights, DEMO_WEIGHTS), (net.biases, DEMO_BIASES)):
        for parameter, value in zip(parameters, values, strict=True):
            parameter[...] = value
    return net


def _explain_row(model: Path, data: str, row: int) -> None:
    from gpubp import data as reading
    from gpubp.cli import run_folder
    from gpubp.tabular.model import TabularModel
    from gpubp.tabular.predictor import encode

    net, preprocessing = run_folder.load_predictor(model)
    if isinstance(net, TabularModel):
        raise UsageError(f"{model}: holds {net.models} networks, and one is explained; train one with --preset fast")
    source = run_folder.unseen_part(reading.read(data, trained=preprocessing))
    X, y = encode(net, source)
    if y is None:
        raise UsageError(f"{source.name}: has no target, without which there is no error to propagate back")
    if row > len(X):
        raise UsageError(f"--row {row}: {source.name} has {len(X):,} rows")
    only = slice(row - 1, row)
    typer.echo(f"{source.name}, {source.place(row - 1)}{_cells(source, row - 1)}\n")
    typer.echo(net.trace(X[only], y[only]))
    predicted = reading.decode(preprocessing, net.forward(X[only]))
    typer.echo("\n" + ", ".join(f"{name} {_shown(values[0])}" for name, values in predicted.items()))


def _cells(source: RawData, row: int, limit: int = 12) -> str:
    """A table's row before it is encoded."""
    names = list(source.columns)
    if not names:
        return ""
    cells = [f"{name} {_shown(source.columns[name][row])}" for name in names[:limit]]
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ": " + ", ".join(cells) + more


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
