"""What the command line prints: tables, and the progress of a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gpubp.training.progress import PLAIN_LINES as PLAIN_LINES
from gpubp.training.progress import ProgressBar
from gpubp.training.progress import TrainingProgress as TrainingProgress
from gpubp.training.progress import make_console as make_console
from gpubp.training.progress import say as say

if TYPE_CHECKING:
    from gpubp.backends.cuda.gemm_table import GemmTable
    from gpubp.bench.doctor import Check, Finding
    from gpubp.bench.report import Report
    from gpubp.bench.tune import Tuned
    from gpubp.data import PreparedData
    from gpubp.diagnostics.health import Health
    from gpubp.network import MLP
    from gpubp.tabular.model import TabularModel
    from gpubp.training.history import History

HEALTHY = "health of the layers: nothing that looks wrong"
UNITS = ("B", "kB", "MB", "GB")


def show_notes(console: Console, notes: Iterable[str]) -> None:
    """What was guessed, left out or replaced, one line each."""
    for note in notes:
        say(console, f"  {note}", "dim")


def show_network(console: Console, net: MLP) -> None:
    """Layers, shapes and parameters."""
    table = make_table("layer", "activation", ">weights", ">biases", ">parameters")
    table.add_row("inputs", "", str(net.layer_sizes[0]), "", "")
    for number, (activation, W, b) in enumerate(_layers(net), start=1):
        table.add_row(str(number), activation, f"{W.shape[-2]} x {W.shape[-1]}", str(b.shape[-1]), _count(W, b, net))
    table.add_row("in all", "", "", "", f"{net.parameters:,}")
    console.print(table)


def show_weights(console: Console, net: MLP) -> None:
    """Layers, shapes and parameters, with norm and range of the weights and biases."""
    ranges = (">norm of W", ">min W", ">max W", ">min b", ">max b")
    table = make_table("layer", "activation", ">weights", ">parameters", *ranges)
    for number, (activation, W, b) in enumerate(_layers(net), start=1):
        shape = f"{W.shape[-2]} x {W.shape[-1]}"
        held = (np.linalg.norm(W.astype(np.float64)), W.min(), W.max(), b.min(), b.max())
        table.add_row(str(number), activation, shape, _count(W, b, net), *(f"{v:.4g}" for v in held))
    console.print(table)


def show_health(console: Console, health: Health) -> None:
    """The health of the layers, and problems."""
    table = make_table(
        "layer", "activation", ">mean a", ">std of a", ">norm of δ", ">norm of ∂C/∂W", ">saturated", ">dead"
    )
    for layer in health.looks[-1]:
        values = (layer.activation_mean, layer.activation_std, layer.delta_norm, layer.gradient_norm)
        shares = (layer.saturated, layer.dead)
        table.add_row(str(layer.number), layer.activation, *(f"{v:.3g}" for v in values), *(f"{v:.0%}" for v in shares))
    console.print()
    console.print(table)
    show_verdicts(console, health.verdicts())


def show_verdicts(console: Console, verdicts: Sequence[str]) -> None:
    """Problems of a network's layers, a sentence each."""
    for sentence in verdicts:
        say(console, sentence, "yellow")
    if not verdicts:
        say(console, HEALTHY)


def describe_data(name: str, prepared: PreparedData) -> str:
    """One line on what is learned, and from how many rows."""
    task = {
        "classification": f"classification into {len(prepared.classes or ())} classes",
        "multilabel": f"classification with {prepared.n_outputs} labels",
        "regression": f"regression of {plural(prepared.n_outputs, 'value')}",
    }[prepared.task]
    parts = {"validation": prepared.validation, "test": prepared.test}
    others = [f", {len(part[0]):,} {use}" for use, part in parts.items() if part is not None]
    rows = f"{prepared.rows:,} training{''.join(others)}"
    return f"{name}: {task} from {plural(prepared.n_inputs, 'input')}; rows: {rows}"


def describe_preprocessing(preprocessing: Mapping[str, Any] | None) -> list[str]:
    """Lines on how raw rows become inputs, and how outputs become predictions."""
    if preprocessing is None:
        return ["no preprocessing: inputs and outputs are the network's own"]
    features, target = preprocessing["features"], preprocessing["target"]
    numbers, categories = features["numbers"], features["categories"]
    if features["kind"] == "images":
        lines = [f"inputs: {numbers['width']} pixels, divided by 255"]
    else:
        named = f": {_some(numbers['names'])}" if numbers["names"] else ""
        how = "+".join(one["name"] for one in numbers.get("encodings", [])) or "standardized"
        lines = [f"inputs: {plural(numbers['width'], 'number')}, {how}{named}"]
    if numbers["indicators"]:
        lines.append(f"inputs: {plural(len(numbers['indicators']), 'indicator')} of missing numbers")
    lines += [f'inputs: "{c["name"]}", one-hot: {_some(c["values"])}' for c in categories]
    what = f'"{target["name"]}"' if target["name"] else "the target"
    if target.get("classes"):
        lines.append(f"predicts {what}: {len(target['classes'])} classes: {_some(target['classes'])}")
    else:
        kind = "label" if target["type"] == "labels" else "value"
        lines.append(f"predicts {what}: {plural(target['outputs'], kind)}")
    return lines


def show_preset(console: Console, model: TabularModel) -> None:
    """The stacks of a preset, their weights, and the meaning of their inputs and outputs."""
    about = model.about
    counted = f"{plural(model.models, 'network')}, {model.parameters:,} parameters"
    say(console, f"preset {about['preset']}: {counted}", "bold")
    table = make_table("recipe", "layers", "activations", ">networks", ">weight", ">out-of-fold loss")
    for member in model.members:
        net = member.net
        layers, activations = "-".join(map(str, net.layer_sizes)), ", ".join(dict.fromkeys(_names(net)))
        weight, loss = f"{member.weight:.2f}", f"{about['recipe_losses'][member.recipe]:.4g}"
        table.add_row(member.recipe, layers, activations, str(net.models), weight, loss)
    console.print(table)
    say(console, f"loss {model.loss.name}; {model.precision}")
    for line in describe_preprocessing(model.preprocessing):
        say(console, line)


def _names(net: MLP) -> list[str]:
    return [*(activation.name for activation in net.activations), net.output_activation.name]


def show_metrics(console: Console, parts: Mapping[str, Mapping[str, float | None]]) -> None:
    """A row per part of the data, a column per metric."""
    names = list(next(iter(parts.values())))
    table = make_table("", *(f">{name}" for name in names))
    for part, values in parts.items():
        table.add_row(part, *(figure(name, values.get(name)) for name in names))
    console.print(table)


def with_baseline(
    parts: Mapping[str, Mapping[str, float | None]], baseline: Mapping[str, Any]
) -> dict[str, Mapping[str, float | None]]:
    """The metrics of parts of the data, with the baseline's on the last part below; `baseline` is from metrics.json."""
    last = list(parts)[-1]
    if baseline.get(last) is None:
        return dict(parts)
    return {**parts, f"{last}, {baseline['predicts']}": baseline[last]}


def baseline_in_short(baseline: Mapping[str, Any], part: str) -> str:
    """``always "cat": accuracy 0.5012``: the most telling figure of the baseline on a part of the data."""
    name = next(iter(baseline[part]))
    return f"{baseline['predicts']}: {name} {figure(name, baseline[part][name])}"


def show_confusion(console: Console, classes: Sequence[Any], matrix: Sequence[Sequence[int]]) -> None:
    """The number of rows of each class predicted as each class."""
    table = make_table("class", *(f">as {name}" for name in classes))
    for name, counts in zip(classes, matrix, strict=True):
        table.add_row(str(name), *(f"{count:,}" for count in counts))
    console.print(table)


def show_findings(console: Console, findings: Iterable[Finding]) -> None:
    """The findings of doctor, with warnings below their lines."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        table.add_row(finding.subject, finding.found)
        if finding.warning:
            table.add_row("", Text(f"-> {finding.warning}", "yellow"))
    console.print(table)


def show_checks(console: Console, checks: Iterable[Check]) -> None:
    """The checks, while they run."""
    table = make_table("check on this machine", ">error", ">limit", "")
    for check in checks:
        verdict = Text("ok", "green") if check.ok else Text("FAILED", "bold red")
        table.add_row(check.name, f"{check.error:.1e}", f"{check.limit:.0e}", verdict)
    console.print(table)


def show_bench(console: Console, report: Report) -> None:
    """The measurements, the machine, why backends are missing, and the advice."""
    about = Table.grid(padding=(0, 2))
    for subject, description in report.machine.items():
        about.add_row(subject, description)
    console.print(about)
    columns = (">ms per step", ">quartiles", ">samples/s", ">GFLOP/s", ">of bare GEMMs", ">memory")
    table = make_table("backend", "precision", *columns)
    for row in report.rows:
        if row.measured:
            ms, low, high = (value * 1e3 for value in row.step)
            samples, part = report.network.batch_size / row.step.median, row.of_floor.median
            figures = (f"{ms:.3g}", f"{low:.3g}-{high:.3g}", f"{samples:,.0f}", f"{report.gflops(row):,.3g}")
            table.add_row(row.backend, row.precision, *figures, f"{part:.0%}", size(row.memory))
    console.print()
    console.print(table)
    for row in report.rows:
        if not row.measured:
            say(console, f"{row.backend}, {row.precision}: {row.reason or 'not reached'}", "dim")
    for sentence in report.advice:
        say(console, sentence)
    if report.interrupted:
        say(console, "interrupted: the figures are of the rounds until then", "yellow")


def show_tuned(console: Console, table: GemmTable, tuned: Sequence[Tuned]) -> None:
    """The choice for each product and its gain, and where the choices are saved."""
    rows = make_table("product", ">tried", ">refused", ">first, us", ">chosen, us")
    for product in tuned:
        name = str(product.spec).removeprefix("product of 1 x ").removesuffix(", epilogue none")
        us = (f"{1e6 * spread.median:.3g}" for spread in (product.first, product.best))
        rows.add_row(name, str(product.proposals), str(product.refused), *us)
    console.print(rows)
    faster = sum(product.best.median < product.first.median for product in tuned)
    say(console, f"{faster} of {plural(len(tuned), 'product')} are faster by another algorithm than cuBLASLt's first")
    say(console, f"table {table.digest} is used by all later runs; delete it to go back: {table.path}")


def figure(name: str, value: float | None) -> str:
    """A printed metric: accuracies and r2 with four decimals, others with four or more digits."""
    if value is None:
        return "-"
    if name in ("accuracy", "balanced_accuracy", "auc", "exact_match", "label_accuracy", "r2"):
        return f"{value:.4f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def figures(values: Mapping[str, float | None]) -> str:
    """Metrics on one line: ``accuracy 0.9722, loss 0.1043``."""
    names = sorted(values, key=lambda name: name == "loss")
    return ", ".join(f"{name} {figure(name, values[name])}" for name in names)


def plural(n: int, noun: str) -> str:
    """``1 value``, ``12,288 inputs``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def size(n_bytes: float) -> str:
    """Bytes in a readable unit: ``3.4 MB``."""
    unit = 0
    while n_bytes >= 1000 and unit < len(UNITS) - 1:
        n_bytes, unit = n_bytes / 1000, unit + 1
    return f"{n_bytes:.1f} {UNITS[unit]}" if unit else f"{n_bytes:.0f} B"


class PresetProgress(ProgressBar):
    """One bar for everything that a preset trains: live on a terminal, otherwise some lines.

    Parameters
    ----------
    console : Console
    """

    def __init__(self, console: Console) -> None:
        remaining = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        super().__init__(console, 1.0, BarColumn(20), TextColumn("{task.fields[text]}"), remaining)
        self.lines = 0

    def __call__(self, done: float, text: str) -> None:
        """After an epoch, with the finished fraction of all work."""
        if self.live:
            self.show(done, text)
        elif int(done * PLAIN_LINES) > self.lines:
            self.lines = int(done * PLAIN_LINES)
            say(self.console, f"{done:4.0%}  {text}")


def how_it_ended(history: History, patience: int | None, tolerance: float | None) -> str:
    """One line on a finished training."""
    text = f"{plural(history.epochs, 'epoch')}, {plural(history.steps, 'step')} in {history.seconds[-1]:.1f} s"
    text += f", {history.samples_per_second:,.0f} samples/s"
    if history.overflows:
        text += f"; {plural(history.overflows, 'step')} skipped for overflow in float16"
    if history.stopped == "patience":
        text += f"; stopped as the validation loss had not fallen for {patience} epochs"
    elif history.stopped == "update_tolerance":
        text += f"; stopped as no weight or bias moved more than {tolerance:g}"
    if patience is not None:
        text += f"; the weights are those after epoch {history.best_epoch + 1}"
    return text


def _layers(net: MLP) -> Iterable[tuple[str, Any, Any]]:
    return zip(_names(net), net.weights, net.biases, strict=True)


def _count(W: Any, b: Any, net: MLP) -> str:
    return f"{(W.size + b.size) // net.models:,}"


def _some(names: Sequence[Any], limit: int = 12) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(str(name) for name in names[:limit]) + more


def make_table(*columns: str) -> Table:
    """A table with only a line below its head; columns named ``>…`` are right-aligned."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table
