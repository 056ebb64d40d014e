"""The page of a report: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import numpy as np

from gpubp import plots
from gpubp.bench.parts import StepParts
from gpubp.cli import display
from gpubp.cli.report import figures
from gpubp.cli.report.collect import Run, TestRows, cells
from gpubp.cli.run_folder import PARTS
from gpubp.data import decode
from gpubp.diagnostics.health import Health
from gpubp.plots import MOST_CLASSES, picture_shape
from gpubp.tabular.model import TabularModel

MOST_IN_SCHEMA = 40  # columns of a table
MOST_COLUMNS = 8  # of a table's row shown with a mistake
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .2rem .7rem; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f6f6f6; } th { color: #666; }
img { max-width: 100%; height: auto; } .beside { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .8rem; color: #555; } .warning { color: #a33; }
@media print { h2 { break-after: avoid; } img, table { break-inside: avoid; } }
"""


def page(run: Run, other: Run | None = None) -> str:
    """The report on a run as HTML, next to another run if given."""
    runs = [run] if other is None else [run, other]
    body = "".join(_sections(run, runs))
    title = escape(f"{run.folder.name}: report")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><h1>{escape(run.folder.name)}</h1>{body}</body></html>\n"
    )


def _sections(run: Run, runs: Sequence[Run]) -> Iterator[str]:
    yield _paragraphs(f"missing: {text}" for run_ in runs for text in run_.missing)
    yield _scores(runs)
    if any(run_.curves for run_ in runs):
        drawn = _image(figures.curves(runs), "losses by epoch")
        if run.metric_name is not None:
            scale = ", of the target as the network sees it" if run.metric_name == "rmse" else ""
            drawn += _image(figures.curves(runs, run.metric_name), f"{run.metric_name} by epoch{scale}")
        if "learning_rate" in run.curves.get("", {}):
            drawn += _image(figures.learning_rate(run), "learning rate by epoch")
        if "watched_test" in run.metrics:
            drawn += _paragraphs([f"test rows: {run.metrics['watched_test']['remark']}"], "")
        yield _section("Curves", drawn)
    if run.net is not None:
        yield _network(run)
    if run.test is not None:
        yield _predictions(run, run.test)
        yield _mistakes(run, run.test)
    if run.health_by_epoch is not None:
        yield _health_by_epoch(run, run.health_by_epoch)
    if run.health is not None:
        yield _health(run)
    if run.step is not None:
        yield _step_time(run.step)
    yield _about(run)


def _scores(runs: Sequence[Run]) -> str:
    scored = [(run, part) for run in runs for part in PARTS if part in run.metrics]
    if not scored:
        return ""
    names = list(dict.fromkeys(name for run, part in scored for name in _numbers(run.metrics[part])))
    rows = []
    for run, part in scored:
        label = part if len(runs) == 1 else f"{run.folder.name}, {part}"
        values, baseline = _numbers(run.metrics[part]), run.metrics.get("baseline", {})
        rows.append([label, *(display.figure(name, values.get(name)) for name in names)])
        if baseline.get(part):
            values = _numbers(baseline[part])
            rows.append([f"{label}, {baseline['predicts']}", *(display.figure(n, values.get(n)) for n in names)])
    return _section("Scores", _table(["", *names], rows))


def _numbers(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if isinstance(value, int | float) or value is None}


def _network(run: Run) -> str:
    net = run.net
    assert net is not None
    if isinstance(net, TabularModel):
        recipes = ", ".join(f"{member.recipe} ({member.weight:.2f})" for member in net.members)
        about = f"{net.models} networks, {net.parameters:,} parameters; recipes with their weights: {recipes}"
        title, drawn = "Networks and data", ""
    else:
        names = [*(activation.name for activation in net.activations), net.output_activation.name]
        about = repr(net)
        title, drawn = "Network and data", _image(figures.network(net.layer_sizes, names), "the network")
    lines = _paragraphs(display.describe_preprocessing(net.preprocessing), "")
    return _section(title, f"<p>{escape(about)}</p>{drawn}{lines}{_columns(net.preprocessing)}")


def _columns(preprocessing: dict[str, Any] | None) -> str:
    """What each column of a table was read as, and why."""
    columns = (preprocessing or {}).get("schema", {}).get("columns", {})
    if not columns:
        return ""
    rows = [[name, entry["kind"], entry["why"]] for name, entry in list(columns.items())[:MOST_IN_SCHEMA]]
    more = len(columns) - len(rows)
    left_out = _paragraphs([f"and {more:,} columns more"], "") if more else ""
    return _table(["column", "read as", "because of"], rows) + left_out


def _predictions(run: Run, test: TestRows) -> str:
    net, classes = run.net, run.classes
    assert net is not None and net.preprocessing is not None
    drawn = []
    if classes is not None and len(classes) > 1:
        drawn.append(_image(figures.confusion(test, classes), "rows by true and predicted class"))
        if net.loss.classification and len(classes) <= MOST_CLASSES:
            drawn.append(_image(figures.roc(test, classes), "receiver operating characteristic"))
            drawn.append(_image(figures.calibration(test), "calibration"))
    elif not net.loss.classification:
        truth, predicted = (decode(net.preprocessing, values) for values in (test.y, test.outputs))
        for name in truth:
            drawn.append(_image(figures.residuals(truth[name], predicted[name], name), f"{name}, predicted over true"))
            drawn.append(_image(figures.errors(truth[name], predicted[name]), f"errors of {name}"))
    rows = f"{len(test.rows):,} test rows of {escape(test.source.name)}"
    return _section("Predictions", f'<p>{rows}</p><div class="beside">{"".join(drawn)}</div>')


def _mistakes(run: Run, test: TestRows) -> str:
    assert run.net is not None and run.net.preprocessing is not None
    worst = test.worst
    predicted = _shown_predictions(run, test, worst)
    truth = _shown_truth(run, test, worst)
    places = [test.source.place(int(test.rows[w])) for w in worst]
    if run.pictures and test.source.X is not None and picture_shape(int(np.prod(test.source.X.shape[1:]))):
        drawn = [
            _image(figures.picture(np.asarray(test.source.X[test.rows[w]])), f"{place}: {t}, predicted {p}", form="png")
            for w, place, t, p in zip(worst, places, truth, predicted, strict=True)
        ]
        return _section("Worst predictions", f'<div class="beside">{"".join(drawn)}</div>')
    names = [name for name in test.source.columns if name != test.source.target][:MOST_COLUMNS]
    rows = [
        [place, t, p, f"{test.row_loss[w]:.4g}", *cells(test.source, int(test.rows[w]), names)]
        for w, place, t, p in zip(worst, places, truth, predicted, strict=True)
    ]
    return _section("Worst predictions", _table(["", "true", "predicted", "loss", *names], rows))


def _shown_predictions(run: Run, test: TestRows, worst: Any) -> list[str]:
    assert run.net is not None and run.net.preprocessing is not None
    decoded = decode(run.net.preprocessing, test.outputs[worst])
    if run.classes is not None:
        chosen = figures.predicted_classes(test)[worst]
        probabilities = figures.class_probabilities(test)[worst]
        certain = run.net.loss.classification
        return [
            f"{run.classes[index]}{f' ({row[index]:.0%})' if certain else ''}"
            for index, row in zip(chosen, probabilities, strict=True)
        ]
    return _joined({name: values for name, values in decoded.items() if not name.startswith("probability")})


def _shown_truth(run: Run, test: TestRows, worst: Any) -> list[str]:
    assert run.net is not None and run.net.preprocessing is not None
    if run.classes is not None:
        return [run.classes[index] for index in figures.true_classes(test)[worst]]
    if run.net.loss.classification:
        return [" ".join(str(int(label)) for label in row) for row in test.y[worst]]
    return _joined(decode(run.net.preprocessing, test.y[worst]))


def _joined(columns: dict[str, Any]) -> list[str]:
    """The values of each row, one after the other."""
    shown = (
        f"{v:.6g}" if isinstance(v, float | np.floating) else str(v) for values in columns.values() for v in values
    )
    flat = list(shown)
    rows = len(next(iter(columns.values())))
    return [", ".join(flat[row::rows]) for row in range(rows)]


def _health_by_epoch(run: Run, health: Health) -> str:
    sentences = run.metrics.get("health", {}).get("verdicts")
    said = "" if sentences is None else _paragraphs(sentences, "warning") or _paragraphs([display.HEALTHY], "")
    drawn = _image(plots.health_maps(health), "layers by epoch, on some training rows")
    return _section("Health of the layers, by epoch", drawn + said)


def _health(run: Run) -> str:
    health = run.health
    assert health is not None
    heads = ["layer", "activation", "mean of a", "std of a", "norm of ∂C/∂W", "saturated", "dead"]
    rows = [
        [
            str(layer.number),
            layer.activation,
            *(f"{v:.3g}" for v in (layer.activation_mean, layer.activation_std, layer.gradient_norm)),
            *(f"{v:.0%}" for v in (layer.saturated, layer.dead)),
        ]
        for layer in health.looks[-1]
    ]
    sentences = health.verdicts() or [display.HEALTHY]
    return _section("Health of the layers, on test rows", _table(heads, rows) + _paragraphs(sentences, ""))


def _step_time(step: StepParts) -> str:
    words = (
        f"a training step on {step.batch_size:,} rows takes {1e3 * step.step:.3g} ms, its matrix products alone take "
        f"{1e3 * step.products:.3g} ms; measured for this page on {step.device} by the backend {step.backend}, in "
        f"{step.precision}"
    )
    drawn = _image(figures.step_time(step), "parts of a training step, each timed by itself") if step.parts else ""
    return _section("Where a training step's time goes", _paragraphs([words], "") + drawn)


def _about(run: Run) -> str:
    metrics = run.metrics
    if not metrics:
        return ""
    plain = ("task", "epochs", "steps", "seconds", "device", "precision", "seed", "parameters")
    rows = [[name, str(metrics[name])] for name in plain if name in metrics]
    rows += [[name, str(value)] for name, value in metrics.get("config", {}).items() if value not in (None, False)]
    rows += [[name, str(value)] for name, value in metrics.get("versions", {}).items()]
    return _section("Configuration and versions", _table(["", ""], rows))


# -- HTML ------------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _paragraphs(lines: Iterable[str], style: str = "warning") -> str:
    named = f' class="{style}"' if style else ""
    return "".join(f"<p{named}>{escape(line)}</p>" for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(drawn: Any, caption: str, form: str = "svg") -> str:
    """A picture with its caption, from axes or a figure."""
    source, said = figures.address(drawn.figure, form), escape(caption, quote=True)
    return f'<figure><img src="{source}" alt="{said}"><figcaption>{said}</figcaption></figure>'
