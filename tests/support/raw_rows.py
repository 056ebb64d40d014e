"""Tables with every kind of column that is encoded, and their cells as an ONNX model takes them."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.dates import ISO

FORMATS = {"when": ISO, "day": "%d.%m.%Y", "moment": "%m/%d/%Y %H:%M"}
ZONES = ("", "Z", "+02:00", "-0530", "+0030")
NO_VALUE = ("", "NA", "nan", "?")


def write_table(path: Path, rows: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """Write a CSV file of so many rows; its cells by column."""
    table = _columns(rows, rng)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return table


def feeds(model: Any, table: dict[str, list[str]]) -> dict[str, NDArray[Any]]:
    """What an ONNX model is fed of a table: texts as they are, numbers as numbers, (rows, 1) each."""
    by_name = {}
    for value in model.graph.input:
        texts = table[value.name]
        if value.type.tensor_type.elem_type == 8:  # TensorProto.STRING
            by_name[value.name] = np.array(texts, object)[:, None]
        else:
            by_name[value.name] = np.array([_number(text) for text in texts])[:, None]
    return by_name


def run(model: Any, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs of a model by their names, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs), strict=True))


def _number(text: str) -> float:
    text = text.strip("$").replace(",", "")
    return float("nan") if text in NO_VALUE else float(text)


def _columns(rows: int, rng: np.random.Generator) -> dict[str, list[str]]:
    """Columns of numbers, categories, truth values and dates, some of which lack values, and two targets."""
    size, price = rng.normal(100, 30, rows), rng.lognormal(7, 1, rows)
    city = rng.choice(["Paris", "Lagos", "São Paulo", "1", "2"], rows)
    when = [datetime(1960, 1, 1, tzinfo=UTC) + timedelta(seconds=int(s)) for s in rng.integers(0, 4 * 10**9, rows)]
    years = np.array([moment.year for moment in when])
    score = size / 30 + 2 * (city == "Paris") + (years - 2020) / 30 + rng.normal(0, 0.3, rows)
    table = {
        "size": _with_gaps([f"{value:.2f}" for value in size], rng),
        "price": [f"${value:,.0f}" for value in price],
        "reading": ["-999" if rng.random() < 0.1 else f"{value:.3f}" for value in rng.normal(0, 1, rows)],
        "only": ["7" if rng.random() < 0.5 else "" for _ in range(rows)],
        "city": _with_gaps(["1.0" if name == "1" and rng.random() < 0.5 else str(name) for name in city], rng),
        "paid": [str(rng.choice(["true", "TRUE", "False", "0", "1"])) for _ in range(rows)],
        "when": _with_gaps([_iso(moment, rng) for moment in when], rng),
        "day": [moment.strftime(FORMATS["day"]) for moment in when],
        "moment": [moment.strftime(FORMATS["moment"]) for moment in when],
        "kind": ["small" if value < 2.5 else "medium" if value < 4 else "large" for value in score],
        "value": [f"{value:.4f}" for value in 1e4 * score],
    }
    table["only"][0], table["only"][1] = "7", ""
    return table


def _with_gaps(texts: list[str], rng: np.random.Generator) -> list[str]:
    return [str(rng.choice(NO_VALUE)) if rng.random() < 0.1 else text for text in texts]


def _iso(moment: datetime, rng: np.random.Generator) -> str:
    """A moment in one of ISO 8601's spellings."""
    if rng.random() < 0.2:
        return moment.strftime("%Y-%m-%d")
    seconds = str(rng.choice(["", ":%S", ":%S.250"]))
    return moment.strftime(f"%Y-%m-%d{rng.choice(['T', ' '])}%H:%M{seconds}") + str(rng.choice(ZONES))
