"""``gpubp plot``: pictures of a run, and what is said where there is nothing to draw."""

from __future__ import annotations

import builtins
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from gpubp.cli import run_folder
from gpubp.cli.report.plot import PICTURES
from support.commands import invoke


def done(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    return str(result.stderr)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it."""
    out = tmp_path_factory.mktemp("runs") / "iris"
    options = ("--epochs", 3, "--hidden", 5, "--validation", 0.2, "--diagnostics", "--watch-test")
    done("train", "iris", *options, "--out", out, "--quiet")
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoiled."""
    return Path(shutil.copytree(trained, tmp_path / "iris"))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_was_seen_is_kept_with_the_run(run: Path):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["watched_test"]["remark"].startswith("only watched")
    assert len(metrics["watched_test"]["loss"]) == len(metrics["watched_test"]["accuracy"]) == 3
    assert metrics["watched_test"]["loss"][-1] == pytest.approx(metrics["test"]["loss"], rel=1e-5)
    assert [layer["number"] for layer in metrics["health"]["layers"]] == [1, 2]
    assert not {"diagnostics", "watch_test"} & set(metrics["config"])
    assert (run / "health.csv").read_text().count("\n") == 1 + 4 * 2
    assert "watched_test_loss,watched_test_accuracy" in (run / "history.csv").read_text()


def test_watching_and_looking_change_nothing_that_is_written(tmp_path: Path, trained: Path):
    options = ("--epochs", 3, "--hidden", 5, "--validation", 0.2)
    done("train", "iris", *options, "--out", tmp_path / "plain", "--quiet")
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert not (tmp_path / "plain" / "health.csv").exists()


def test_another_run_in_the_folder_leaves_no_health_of_this_one(run: Path):
    done("train", "iris", "--epochs", 1, "--hidden", 3, "--out", run, "--overwrite", "--quiet")
    assert not (run / "health.csv").exists()


def test_verdicts_are_printed():
    sick = ("--hidden", "50,50", "--init", "standard_normal", "--epochs", 1, "--diagnostics")
    assert 'the first weights are too large, use init="auto"' in done("train", "digits", *sick)


@pytest.mark.thorough
def test_a_healthy_training_is_called_so():
    assert "health of the layers: nothing that looks wrong" in done("train", "iris", "--epochs", 30, "--diagnostics")


@pytest.mark.parametrize(
    "options, told",
    [
        (("--watch-test", "--test", 0), "--watch-test watches test rows, and there are none"),
        (("--watch-test", "--preset", "good"), "--watch-test does not go with it"),
        (("--diagnostics", "--preset", "good"), "--diagnostics does not go with it"),
    ],
)
def test_what_cannot_be_seen_is_refused(options: tuple[object, ...], told: str):
    assert told in refused("train", "iris", *options)


@pytest.mark.parametrize(
    "what",
    ["curves", *(pytest.param(what, marks=pytest.mark.thorough) for what in ("confusion", "health", "weights"))],
)
def test_a_picture_is_written_once(run: Path, what: str):
    assert done("plot", run, what) == f"wrote {run / what}.png\n"
    path = run / f"{what}.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert "there is such a file already; choose another --out, or --overwrite" in refused("plot", run, what)
    path.write_bytes(b"mine")
    refused("plot", run, what)
    assert path.read_bytes() == b"mine"
    done("plot", run, what, "--overwrite")
    assert path.read_bytes() == content


@pytest.mark.thorough
def test_of_svg_the_text_is_text(run: Path, tmp_path: Path):
    for what, said in (("curves", "test, only watched"), ("confusion", "test rows"), ("health", "1, relu")):
        done("plot", run, what, "--out", tmp_path / f"{what}.svg")
        assert said in re.sub(r"\s+", " ", (tmp_path / f"{what}.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "what, out, told",
    [
        ("curve", "a.png", 'there is no picture of "curve"; did you mean "curves"?'),
        ("curves", "a.pdf", "a picture is a .png or .svg file"),
        ("curves", "folder.png", "is a folder; choose another name"),
    ],
)
def test_pictures_that_are_none(run: Path, tmp_path: Path, what: str, out: str, told: str):
    (tmp_path / "folder.png").mkdir()
    assert told in refused("plot", run, what, "--out", tmp_path / out)


@pytest.mark.parametrize(
    "what, file, told",
    [
        ("curves", "history.csv", "curves: there is no history.csv; a run that was interrupted goes on with"),
        ("confusion", "metrics.json", "there is no metrics.json; gpubp evaluate"),
        ("health", "health.csv", "there is no health.csv; train with --diagnostics"),
        ("weights", "model.safetensors", "the network:"),
    ],
)
def test_what_is_missing_is_said_with_the_remedy(run: Path, what: str, file: str, told: str):
    (run / file).unlink()
    assert told in refused("plot", run, what)
    assert not list(run.glob("*.png"))


def test_damaged_health_is_no_picture(run: Path):
    (run / "health.csv").write_text("epoch,layer\n1,x\n")
    assert "health by epoch: health.csv is damaged" in refused("plot", run, "health")


def test_of_a_run_that_looked_at_nothing_and_predicts_values(tmp_path: Path):
    done("train", "diabetes", "--epochs", 1, "--out", tmp_path / "run", "--quiet")
    assert "the training did not look at its layers; train with --diagnostics" in refused(
        "plot", tmp_path / "run", "health"
    )
    assert "only classes" in refused("plot", tmp_path / "run", "confusion")


@pytest.mark.thorough
def test_of_the_networks_of_a_preset(tmp_path: Path):
    done("train", "iris", "--preset", "good", "--epochs", 2, "--out", tmp_path / "run", "--quiet")
    for what in ("curves", "confusion"):
        done("plot", tmp_path / "run", what)
    assert "networks, and the weights of one are drawn" in refused("plot", tmp_path / "run", "weights")


def test_without_matplotlib_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert "pip install 'gpubp[plot]'" in refused("plot", run, "curves")


def test_pictures_of_the_run_before_do_not_stay(run: Path):
    assert tuple(PICTURES) == run_folder.DRAWN
    for what in run_folder.DRAWN:
        done("plot", run, what)
        assert (run / f"{what}.png").exists()
    (run / "notes.png").touch()
    done("train", "iris", "--epochs", 1, "--hidden", 5, "--out", run, "--overwrite", "--quiet")
    assert [path.name for path in run.glob("*.png")] == ["notes.png"]


@pytest.mark.parametrize(
    "what, file, said", [("curves", "history.csv", "has no epoch"), ("confusion", "metrics.json", "")]
)
def test_a_run_without_an_epoch(run: Path, what: str, file: str, said: str):
    path = run / file
    path.write_text("{}" if file == "metrics.json" else path.read_text().splitlines()[0] + "\n")
    assert said in refused("plot", run, what)
