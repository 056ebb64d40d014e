"""Accuracy on tables: ``python -m benchmarks.tables --tables PATH … --out DIR``.

Every contender that is installed is fitted on every table, on three splits of 80 to 20, each in a process of its own
with one thread, on 4,000 training rows at most. What is found goes into DIR/tables.json as it comes, and what stands
there is not measured again. A table is a CSV file whose last column, or that of ``--target TABLE=COLUMN``, is
predicted. Its error is 1 - R2 of values, and log loss of classes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import described
from benchmarks.table_contenders import CONTENDERS
from gpubp.serialization import atomic_write

FILE = "tables.json"
SPLITS = (0, 1, 2)
MOST_ROWS = 4000  # to train on, unless all are asked for
TARGETS = {
    "ames": "Sale_Price",
    "churn": "churn",
    "cps": "wage",
    "credit": "Status",
    "deliveries": "time_to_delivery",
    "diamonds": "price",
    "hpc": "class",
    "housing": "median_house_value",
    "leaf": "species",
}
NEEDS = {"LightGBM": "lightgbm", "XGBoost": "xgboost", "CatBoost": "catboost", "RealMLP-TD": "pytabkit"}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
SMALLEST = 1e-15  # probability that a logarithm is taken of
EVEN = 1.0
# What is asked of a preset: its error over another's (geometric mean), on what part of the (table, split) it is lower,
# or its processor time over another's (geometric mean).
BARS = (
    ("gpubp fast", "HGB", "error", 1.02),
    ("gpubp fast", "HGB", "lower", 0.5),
    ("gpubp good", "HGB", "error", 0.95),
    ("gpubp best", "HGB", "error", 0.88),
    ("gpubp best", "HGB", "lower", 0.8),
    ("gpubp best", "CatBoost", "lower", 0.6),
    ("gpubp best", "LightGBM", "lower", 0.8),
    ("gpubp best", "XGBoost", "lower", 0.8),
    ("gpubp best", "RealMLP-TD", "lower", 0.8),
    ("gpubp fast", "scikit-learn MLP", "seconds", 1.0),
    ("gpubp best", "RealMLP-TD", "seconds", 1.0),
)


def read_split(path: Path, seed: int, full: bool, target: str | None = None) -> tuple[Any, Any, Any, Any, bool]:
    """Training rows and targets, test rows and targets, and whether they are classes."""
    import pandas
    from sklearn.model_selection import train_test_split

    frame = pandas.read_csv(path)
    y = frame.pop(target or TARGETS.get(path.stem, frame.columns[-1]))
    classes = y.dtype.kind not in "iuf"
    parts = train_test_split(frame, y, test_size=0.2, random_state=seed, stratify=y if classes else None)
    X, X_test, y, y_test = (part.reset_index(drop=True) for part in parts)
    rows = len(X) if full else min(len(X), MOST_ROWS)
    return X.iloc[:rows].copy(), y.to_numpy()[:rows], X_test, y_test.to_numpy(), classes


def measure(path: Path, contender: str, seed: int, full: bool, target: str | None = None) -> dict[str, Any]:
    """Fit and predict in this process: error, accuracy of classes, and the processor's seconds."""
    X, y, X_test, y_test, classes = read_split(path, seed, full, target)
    started = time.process_time()
    predicted = np.asarray(CONTENDERS[contender](X, y, X_test, classes), dtype=np.float64)
    seconds = time.process_time() - started
    figure: dict[str, Any] = {"table": path.stem + (" full" if full else ""), "split": seed, "contender": contender}
    if classes:
        codes = np.searchsorted(np.unique(y), y_test)
        of_truth = predicted[np.arange(len(codes)), codes] / predicted.sum(axis=1)
        figure["accuracy"] = float((predicted.argmax(axis=1) == codes).mean())
        figure["error"] = float(-np.log(np.clip(of_truth, SMALLEST, 1)).mean())
    else:
        figure["error"] = float(((predicted.ravel() - y_test) ** 2).sum() / ((y_test - y_test.mean()) ** 2).sum())
    return figure | {"seconds": round(seconds, 2)}


def in_process_of_its_own(path: Path, contender: str, seed: int, full: bool, target: str | None) -> dict[str, Any]:
    """`measure` in a new process, with one thread and OpenBLAS's own choice of kernels."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment |= dict.fromkeys(THREADS, "1")
    call = f"measure(Path({str(path)!r}), {contender!r}, {seed}, {full}, {target!r})"
    code = f"import json; from pathlib import Path; from benchmarks.tables import measure; print(json.dumps({call}))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"table": path.stem, "split": seed, "contender": contender, "failed": last}
    return dict(json.loads(done.stdout.splitlines()[-1]))


# -- what the figures say -----------------------------------------------------------------------------------


def compare(figures: Sequence[dict[str, Any]], of: str, over: str, what: str = "error") -> list[float]:
    """The ratio of a figure of one contender to that of another, on every table and split that both have."""
    amounts = {(f["contender"], f["table"], f["split"]): f[what] for f in figures if what in f}
    cases = [case for who, *case in amounts if who == of and (over, *case) in amounts]
    return [amounts[of, *case] / amounts[over, *case] for case in cases]


def geometric_mean(ratios: Sequence[float]) -> float:
    """NaN of none."""
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")


def summary(figures: Sequence[dict[str, Any]]) -> list[str]:
    """Errors by table, then how each contender does against each of gpubp's presets, in Markdown."""
    contenders = [name for name in CONTENDERS if any(f["contender"] == name and "error" in f for f in figures)]
    tables = list(dict.fromkeys(f["table"] for f in figures))
    lines = ["Error, mean of splits: 1 - R2 of values, log loss of classes.", ""]
    lines += [f"| table | {' | '.join(contenders)} |", f"|---|{'---:|' * len(contenders)}"]
    for table in tables:
        means = [_mean(f["error"] for f in figures if _is(f, who, table)) for who in contenders]
        best = np.nanmin(means)
        cells = ["" if np.isnan(m) else f"**{m:.4f}**" if m == best else f"{m:.4f}" for m in means]
        lines.append(f"| {table} | {' | '.join(cells)} |")
    seconds = [_mean(f["seconds"] for f in figures if _is(f, who)) for who in contenders]
    lines += [f"| CPU seconds, mean | {' | '.join(f'{s:.1f}' for s in seconds)} |", ""]
    lines += ["Error over another's, geometric mean, and on how many (table, split) it is lower:", ""]
    presets = [name for name in contenders if name.startswith("gpubp")]
    lines += [f"| over | {' | '.join(presets)} |", f"|---|{'---:|' * len(presets)}"]
    for other in contenders:
        ratios = [compare(figures, one, other) for one in presets]
        cells = [f"{geometric_mean(r):.3f}, {sum(x < EVEN for x in r)} of {len(r)}" if r else "" for r in ratios]
        lines.append(f"| {other} | {' | '.join(cells)} |")
    return lines


def bars(figures: Sequence[dict[str, Any]]) -> list[str]:
    """What is asked of the presets, and whether it was reached, in Markdown."""
    small = [figure for figure in figures if not figure["table"].endswith("full")]
    lines = ["| what | bar | measured | on (table, split) | reached |", "|---|---|---:|---:|---|"]
    for one, other, what, bound in BARS:
        ratios = compare(small, one, other, "seconds" if what == "seconds" else "error")
        name, sign = f"{one}: {what} over {other}'s", "<="
        measured = geometric_mean(ratios)
        if what == "lower":
            name, sign = f"{one}: lower error than {other}, part", ">="
            measured = float(np.mean(np.less(ratios, EVEN))) if ratios else float("nan")
        reached = "not measured"
        if ratios:
            reached = "yes" if (measured >= bound if what == "lower" else measured <= bound) else "**no**"
        lines.append(f"| {name} | {sign} {bound} | {measured:.3f} | {len(ratios)} | {reached} |")
    return lines


def _is(figure: dict[str, Any], contender: str, table: str | None = None) -> bool:
    return figure["contender"] == contender and table in (None, figure["table"]) and "error" in figure


def _mean(values: Any) -> float:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else float("nan")


def plot(path: Path, figures: Sequence[dict[str, Any]]) -> None:
    """Error over HGB's against processor time, geometric means, a point a contender."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ratios = {who: compare(figures, who, "HGB") for who in CONTENDERS}
    most = max(map(len, ratios.values()))
    drawing, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axes.axhline(1, color="0.8", zorder=0)
    for who in (who for who in CONTENDERS if ratios[who]):
        seconds = geometric_mean([f["seconds"] for f in figures if _is(f, who)])
        ours, measured_on = who.startswith("gpubp"), len(ratios[who])
        axes.plot(seconds, geometric_mean(ratios[who]), "o" if ours else "s", color="C0" if ours else "0.5")
        name = who if measured_on == most else f"{who}, on {measured_on}"
        place = (seconds, geometric_mean(ratios[who]))
        axes.annotate(name, place, xytext=(0, 6), textcoords="offset points", ha="center")
    axes.margins(0.18, 0.12)
    axes.set(xscale="log", xlabel="CPU seconds of a fit", ylabel="error over HGB's (lower is better)")
    axes.set_title(f"Geometric means over {most} (table, split), or as many as are named", fontsize="medium")
    axes.xaxis.set_major_formatter("{x:g}")
    drawing.savefig(path)
    plt.close(drawing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet, print what it says, and draw it where matplotlib is installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--tables", required=True, nargs="+", type=Path, metavar="PATH", help="CSV files, or folders")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help=f"folder of {FILE}")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--splits", nargs="+", type=int, default=SPLITS, metavar="SEED")
    parser.add_argument("--target", nargs="+", default=[], metavar="TABLE=COLUMN")
    parser.add_argument("--full", action="store_true", help="all training rows")
    parser.add_argument("--again", action="store_true", help="measure anew what stands there")
    options = parser.parse_args(arguments)
    paths = [path for place in options.tables for path in (sorted(place.glob("*.csv")) if place.is_dir() else [place])]
    targets = dict(pair.split("=", 1) for pair in options.target)
    file = options.out / FILE
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"figures": []}
    figures = saved["figures"]
    for contender in options.contenders:
        if contender in NEEDS and importlib.util.find_spec(NEEDS[contender]) is None:
            print(f"{contender}: skipped, {NEEDS[contender]} is not installed; pip install 'gpubp[bench-tables]'")
            continue
        for path in paths:
            for seed in options.splits:
                key = (path.stem + (" full" if options.full else ""), seed, contender)
                there = [f for f in figures if (f["table"], f["split"], f["contender"]) == key and "error" in f]
                if there and not options.again:
                    continue
                figure = in_process_of_its_own(path, contender, seed, options.full, targets.get(path.stem))
                figures = [f for f in figures if (f["table"], f["split"], f["contender"]) != key] + [figure]
                print(*figure.values(), flush=True)
                content = {"machine": described(), "date": time.strftime("%Y-%m-%d"), "figures": figures}
                atomic_write(file, (json.dumps(content, indent=1) + "\n").encode())
    print("\n".join(["", *summary(figures), "", *bars(figures)]))
    if importlib.util.find_spec("matplotlib") is not None:
        plot(options.out / "tables.png", figures)
    return 1 if any("failed" in figure for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
