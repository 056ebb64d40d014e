"""``gpubp report``: what stands on the page, of whole runs and of what is left of others."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp.cli.app import app
from gpubp.cli.report.collect import collect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def run(*arguments: object) -> str:
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")
    assert result.exit_code == 0, result.output
    return result.stdout


def train(folder: Path, data: object, *options: object) -> Path:
    out = folder / "run"
    run("train", data, "--epochs", 3, "--hidden", 6, "--out", out, "--quiet", *options)
    return out


def table(folder: Path, values: bool = False) -> Path:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 90)).round(3)
    y = (a + 2 * b).round(3) if values else np.where(a + b > 0, "high", "<low>")
    path = folder / "points.csv"
    path.write_text("a,b,y\n" + "".join(f"{p},{q},{t}\n" for p, q, t in zip(a, b, y, strict=True)))
    return path


def page(model: Path, *options: object) -> str:
    run("report", model, *options)
    return (model / "report.html").read_text(encoding="utf-8")


def captions(text: str) -> list[str]:
    return re.findall(r"<figcaption>(.*?)</figcaption>", text)


def test_of_classes(tmp_path: Path):
    model = train(tmp_path, table(tmp_path), "--validation", 0.2)
    text = page(model)
    metrics = json.loads((model / "metrics.json").read_text())
    assert f"<td>{metrics['test']['accuracy']:.4f}</td>" in text
    assert captions(text) == [
        "losses by epoch",
        "accuracy by epoch",
        "learning rate by epoch",
        "the network",
        "rows by true and predicted class",
        "receiver operating characteristic",
        "calibration",
        "parts of a training step, each timed by itself",
    ]
    assert "&lt;low&gt;" in text and "<low>" not in text  # names from the data are text, not HTML
    assert "18 test rows of points.csv" in text
    assert "http" not in re.sub(r"data:image[^\"]*", "", text)  # nothing is fetched


def test_the_test_rows_are_those_of_the_training(tmp_path: Path):
    model = train(tmp_path, table(tmp_path), "--seed", 3)
    test = collect(model).test
    metrics = json.loads((model / "metrics.json").read_text())
    assert test.row_loss.mean() == pytest.approx(metrics["test"]["loss"], rel=1e-5)
    assert test.row_loss[test.worst[0]] == test.row_loss.max()


@pytest.mark.thorough
def test_of_layers_and_test_rows_that_were_watched(tmp_path: Path):
    model = train(tmp_path, table(tmp_path), "--diagnostics", "--watch-test", "--learning-rate", 0.01)
    text = page(model)
    assert "layers by epoch, on some training rows" in captions(text)
    assert "test rows: only watched: no weights, epoch or setting was chosen by these rows" in text
    assert "test, only watched" in drawn(text, "losses by epoch") and "test, only watched" in drawn(
        text, "accuracy by epoch"
    )
    verdicts = json.loads((model / "metrics.json").read_text())["health"]["verdicts"]
    assert all(verdict in text for verdict in verdicts) and verdicts == []
    assert "nothing that looks wrong" in text
    (model / "health.csv").unlink()
    assert "missing: health by epoch: there is no health.csv" in run("report", model)


def drawn(text: str, caption: str) -> str:
    """The picture of this caption, as SVG."""
    (source,) = re.findall(rf'base64,([^"]*)" alt="{caption}"', text)
    return base64.b64decode(source).decode()


@pytest.mark.thorough
def test_every_score_stands_beside_its_baseline_and_every_column_is_named(tmp_path: Path):
    model = train(tmp_path, table(tmp_path), "--validation", 0.2)
    text = page(model)
    metrics = json.loads((model / "metrics.json").read_text())
    for part in ("train", "validation", "test"):
        label = (
            f"{part}, {metrics['baseline']['predicts']}".replace("<", "&lt;")
            .replace(">", "&gt;")
            .replace('"', "&quot;")
        )
        assert f"<td>{label}</td>" in text and f"<td>{metrics['baseline'][part]['accuracy']:.4f}</td>" in text
    assert "<tr><td>a</td><td>number</td>" in text and "<th>read as</th>" in text
    assert "a training step on 128 rows takes" in text and "selecting the batch" in drawn(text, captions(text)[-1])


@pytest.mark.thorough
def test_a_training_writes_its_page_and_another_in_its_folder_takes_it_away(tmp_path: Path):
    model = train(tmp_path, table(tmp_path), "--report")
    assert "losses by epoch" in captions((model / "report.html").read_text(encoding="utf-8"))
    assert "report" not in json.loads((model / "metrics.json").read_text())["config"]
    train(tmp_path, table(tmp_path), "--overwrite")
    assert not (model / "report.html").exists()


def test_of_a_training_on_standard_input(tmp_path: Path):
    """Whatever lies on standard input now is not what the network was trained on."""
    out = tmp_path / "run"
    csv = table(tmp_path).read_text()
    arguments = ["train", "-", "--epochs", "1", "--hidden", "2", "--out", str(out), "--quiet"]
    assert CliRunner().invoke(app, arguments, input=csv).exit_code == 0
    result = CliRunner().invoke(app, ["report", str(out)], input=csv)
    assert result.exit_code == 0
    assert "missing: predictions of the test rows: the training read standard input, which is gone; give DATA" in (
        result.stdout
    )
    assert "missing" not in run("report", out, tmp_path / "points.csv")


def test_a_page_is_html(tmp_path: Path):
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "points.csv")])
    assert result.exit_code == 2 and "the page is HTML; choose a file that ends in .html" in result.stderr


@pytest.mark.thorough
def test_of_a_training_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def die(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gpubp.cli.train.save", die)
        arguments = ("train", table(tmp_path), "--epochs", 3, "--hidden", 6, "--out", tmp_path / "run")
        result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--checkpoint-every", "1epochs", "--quiet")])
        assert result.exit_code == 130
    printed = run("report", tmp_path / "run")
    assert (
        "those shown are of the last checkpoint, step-000000000003.safetensors" in printed
        and "--resume goes on" in printed
    )
    assert captions((tmp_path / "run" / "report.html").read_text())[0] == "losses by epoch"


@pytest.mark.thorough
def test_of_values(tmp_path: Path):
    text = page(train(tmp_path, table(tmp_path, values=True)))
    assert captions(text)[4:6] == ["prediction, predicted over true", "errors of prediction"]
    assert captions(text)[1] == "rmse by epoch, of the target as the network sees it" and len(captions(text)) == 7
    assert "Worst predictions" in text and "rmse" in text


@pytest.mark.thorough
def test_of_pictures(tmp_path: Path):
    rng = np.random.default_rng(1)
    for part, count in (("train", 40), ("t10k", 12)):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 5, 5))),
            ("labels-idx1", np.arange(count) % 2),
        ):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    text = page(train(tmp_path, tmp_path))
    assert text.count("data:image/png") == 12 and "predicted" in captions(text)[-2]


@pytest.mark.thorough
def test_beside_another_run(tmp_path: Path):
    data = table(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    text = page(train(first, data), "--compare", train(second, data, "--learning-rate", 0.1))
    assert text.count("<td>run, test</td>") == 2


def test_what_is_missing_is_said_and_the_rest_shown(tmp_path: Path):
    data = table(tmp_path)
    model = train(tmp_path, data)
    data.unlink()
    (model / "history.csv").unlink()
    printed = run("report", model)
    assert "missing: curves: there is no history.csv" in printed
    assert "missing: predictions of the test rows:" in printed and "points.csv" in printed
    text = (model / "report.html").read_text()
    assert "Scores" in text and "the network" in captions(text) and "missing: curves" in text
    (model / "model.safetensors").write_bytes(b"torn")
    assert "missing: the network:" in run("report", model)


@pytest.mark.thorough
def test_rows_that_are_given(tmp_path: Path):
    data = table(tmp_path)
    assert "90 test rows of points.csv" in page(train(tmp_path, data), data)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    for folder, told in ((tmp_path / "none", "there is no such folder"), (tmp_path, "holds nothing of a run")):
        result = CliRunner().invoke(app, ["report", str(folder)])
        assert result.exit_code == 2 and told in result.stderr


@pytest.mark.thorough
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_it(tmp_path: Path):
    model = train(tmp_path, table(tmp_path))
    text = page(model)
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={picture}", (model / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert picture.stat().st_size > 10_000
    assert "CONSOLE" not in done.stderr
    shown = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", (model / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.stdout.count("<img ") == text.count("<img ")
