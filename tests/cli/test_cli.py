"""The command line, as its users meet it."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubp
from gpubp.activations import ACTIVATIONS
from gpubp.cli import display, run_folder
from gpubp.cli.app import app
from gpubp.cli.parsing import parse_hidden, parse_list, parse_test
from gpubp.cli.settings import default_epochs
from gpubp.errors import UsageError
from gpubp.initializers import INITIALIZERS
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.schedules import SCHEDULES

PACKAGE = Path(gpubp.__file__).resolve().parent
RUN = [sys.executable, "-m", "gpubp"]
RUN_FILES = {"model.safetensors", "metrics.json", "history.csv", "training_rows.safetensors"}
QUICK = ["--epochs", "3", "--hidden", "4"]


def invoke(*arguments: str) -> Any:
    """Run a command in this process, on a terminal 100 columns wide."""
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(a) for a in arguments], prog_name="gpubp")


def done(*arguments: str) -> str:
    """What a command that must succeed prints."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return str(result.stdout)


def flowers(rows: int = 60, kinds: tuple[str, ...] = ("rose", "tulip")) -> str:
    """A table of two numbers, one of them sometimes missing, a category and a class that follows from them."""
    rng = np.random.default_rng(0)
    lines = ["height,width,colour,kind"]
    for i in range(rows):
        kind = kinds[i % len(kinds)]
        height, width = rng.normal(2 * (i % len(kinds)), 0.3), rng.normal()
        lines.append(f"{height:.3f},{'' if i % 20 == 7 else f'{width:.3f}'},{rng.choice(['red', 'white'])},{kind}")
    return "\n".join(lines) + "\n"


def prices() -> str:
    """A table to be regressed: price = 1000 + 300 a − 200 b."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 80))
    lines = [f"{x:.4f},{y:.4f},{1000 + 300 * x - 200 * y:.2f}" for x, y in zip(a, b, strict=True)]
    return "\n".join(["a,b,price", *lines]) + "\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with two tables in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers.csv").write_text(flowers())
    (tmp_path / "prices.csv").write_text(prices())
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a network that knows its flowers."""
    place = tmp_path_factory.mktemp("trained")
    (place / "flowers.csv").write_text(flowers())
    options = ["--hidden", "8", "--epochs", "60", "--learning-rate", "0.05", "--quiet"]
    done("train", str(place / "flowers.csv"), *options, "--out", str(place / "run"))
    return place / "run"


def read_csv(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def tree(place: Path) -> dict[str, bytes]:
    """Every file under a folder with its contents, hidden ones too, and every folder."""
    return {str(p.relative_to(place)): p.read_bytes() if p.is_file() else b"" for p in place.rglob("*")}


# -- train ---------------------------------------------------------------------------------------------


def test_train_says_everything_and_writes_a_run(folder: Path) -> None:
    text = done("train", "flowers.csv", "--hidden", "6,5", "--activation", "relu,elu(0.5)", "--epochs", "5")
    assert "classification into 2 classes" in text
    assert 'target: last column, "kind"' in text
    assert re.search(r"2\s+elu\(alpha=0.5\)\s+6 x 5\s+5\s+35", text)
    assert "loss cross_entropy; memory" in text
    assert "device cpu (" in text
    assert re.search(r"epoch 5/5 .*loss .*accuracy .*samples/s", text)
    (run,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"flowers-\d{8}-\d{6}", run.name)
    assert {p.name for p in run.iterdir()} == RUN_FILES
    assert text.rstrip().endswith(f"in runs/{run.name}")


def test_metrics_are_those_of_the_design(folder: Path) -> None:
    done("train", "flowers.csv", *QUICK, "--validation", "0.25", "--seed", "3", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    keys = (
        "task train validation test baseline classes confusion epochs steps stopped seconds device precision "
        "gemm_table seed parameters layer_sizes config versions model_digest"
    )
    assert list(metrics) == keys.split()
    for part in ("train", "validation", "test"):
        assert list(metrics[part]) == ["loss", "accuracy", "balanced_accuracy", "auc"]
        assert list(metrics["baseline"][part]) == ["accuracy", "balanced_accuracy", "auc"]
    assert (metrics["task"], metrics["epochs"], metrics["seed"]) == ("classification", 3, 3)
    assert (metrics["device"], metrics["precision"], metrics["gemm_table"]) == ("cpu", "float32", None)
    n_inputs = metrics["layer_sizes"][0]
    assert metrics["layer_sizes"][1:] == [4, 2]
    assert metrics["parameters"] == n_inputs * 4 + 4 + 4 * 2 + 2
    assert metrics["versions"]["gpubp"] == gpubp.__version__
    assert metrics["config"]["target"] == "kind"
    assert metrics["config"]["loss"] == "cross_entropy"
    assert metrics["config"]["learning_rate"] == 1e-3
    assert not {"out", "overwrite", "quiet", "help"} & set(metrics["config"])
    history = read_csv("run/history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert {"loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"} <= set(history[0])


def test_regression_is_measured_in_the_targets_own_units(folder: Path) -> None:
    text = done("train", "prices.csv", "--hidden", "16", "--epochs", "150", "--learning-rate", "0.01", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert "validation" not in metrics
    assert list(metrics["test"]) == ["loss", "rmse", "mae", "r2"]
    assert metrics["test"]["r2"] > 0.9
    done("predict", "run", "prices.csv")
    predicted = np.array([float(row["prediction"]) for row in read_csv("predictions.csv")])
    truth = np.loadtxt("prices.csv", delimiter=",", skiprows=1)[:, 2]
    rmse = math.sqrt(np.mean((predicted - truth) ** 2))
    found = json.loads(done("evaluate", "run", "prices.csv", "--json"))
    assert found["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert found["rows"] == 80
    assert min(metrics["train"]["rmse"], metrics["test"]["rmse"]) <= rmse * 1.0001
    assert rmse <= max(metrics["train"]["rmse"], metrics["test"]["rmse"]) * 1.0001
    assert "not in its own units" in text


def test_small_data_gets_a_thousand_steps_and_it_is_said(folder: Path) -> None:
    text = done("train", "flowers.csv", "--hidden", "none", "--out", "run")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["steps"] == metrics["epochs"] == metrics["config"]["epochs"] == 1000
    assert "epochs: 1000, the data being small" in text
    assert len([line for line in text.splitlines() if line.startswith("epoch ")]) <= 22


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"), [(60_000, 128, 20), (1437, 128, 84), (100, 128, 1000), (1, 1, 1000)]
)
def test_default_epochs(rows: int, batch_size: int, epochs: int) -> None:
    assert default_epochs(rows, batch_size) == epochs


def test_quiet_prints_the_result_alone(folder: Path) -> None:
    text = done("train", "flowers.csv", *QUICK, "--out", "run", "--quiet")
    figures = r"test accuracy \d\.\d{4}, balanced_accuracy \d\.\d{4}, auc \d\.\d{4}, loss \S+"
    assert re.fullmatch(figures + r'; always "rose": accuracy 0\.5000; run\n', text)


def test_early_stopping_says_which_weights_are_kept(folder: Path) -> None:
    arguments = ["--validation", "0.3", "--patience", "2", "--learning-rate", "0.1", "--epochs", "500"]
    text = done("train", "prices.csv", *arguments, "--out", "run")
    match = re.search(r"(\d+) epochs, .* for 2 epochs; the weights are those after epoch (\d+)", text)
    assert match
    assert int(match[1]) == int(match[2]) + 2


def test_a_test_file_is_used(folder: Path) -> None:
    (folder / "more.csv").write_text(flowers(10))
    text = done("train", "flowers.csv", *QUICK, "--test", "more.csv", "--out", "run")
    assert "60 training, 10 test" in text
    text = done("train", "flowers.csv", *QUICK, "--test", "0.5", "--out", "run", "--overwrite")
    assert "30 training, 30 test" in text


def test_runs_of_one_second_do_not_overwrite_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for _ in range(3):
        names.append(run_folder.default_folder("flowers.csv.gz"))
        names[-1].mkdir(parents=True)
    assert len(set(names)) == 3
    assert all(name.name.startswith("flowers-2") for name in names)


def test_an_existing_run_is_replaced_only_by_a_finished_one(folder: Path) -> None:
    done("train", "flowers.csv", *QUICK, "--out", "run")
    (folder / "run" / "notes.txt").write_text("mine")
    before = tree(folder)
    for command in ("train", "search"):
        grid = ["--grid", "dropout=0"] if command == "search" else []
        result = invoke(command, "flowers.csv", *grid, "--out", "run")
        assert result.exit_code == 2
        assert "run: holds a run already (model.safetensors)" in result.stderr and "--overwrite" in result.stderr
    diverging = ["--learning-rate", "1e30", "--schedule", "constant", "--out", "run", "--overwrite"]
    assert invoke("train", "prices.csv", *diverging).exit_code == 1
    assert tree(folder) == before
    done("train", "flowers.csv", *QUICK, "--seed", "1", "--out", "run", "--overwrite")
    after = tree(folder)
    assert set(after) == set(before)
    assert after["run/notes.txt"] == b"mine"
    assert all(after[f"run/{name}"] != before[f"run/{name}"] for name in RUN_FILES)


def test_nothing_is_left_where_writing_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise UsageError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(run_folder, "atomic_write", full)
    before = tree(folder)
    result = invoke("train", "flowers.csv", *QUICK, "--out", "run")
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert tree(folder) == before


def test_every_option_reaches_the_training(folder: Path) -> None:
    arguments = """--loss half_squared_error --output-activation identity --init orthogonal --optimizer nesterov
        --learning-rate 0.01 --schedule warmup(step,0.1) --momentum 0.8 --l2 1e-4 --weight-decay 1e-3 --dropout 0.1
        --max-grad-norm 1 --batch-size 16 --update-tolerance 1e9 --precision float64 --target price""".split()
    text = done("train", "prices.csv", *arguments, *QUICK, "--out", "run")
    assert "stopped as no weight or bias moved more than 1e+09" in text
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert (metrics["epochs"], metrics["steps"], metrics["precision"]) == (1, 4, "float64")
    config = metrics["config"]
    assert (config["momentum"], config["l2"], config["dropout"]) == (0.8, 1e-4, 0.1)


def test_the_same_seed_gives_the_same_model(folder: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        done("train", "flowers.csv", *QUICK, "--dropout", "0.2", "--seed", seed, "--out", name)
    a, b, c = (Path(name, "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


# -- predict, evaluate, inspect ------------------------------------------------------------------------


def test_predict_takes_raw_rows_in_any_order_of_columns(trained: Path, folder: Path) -> None:
    rows = list(csv.DictReader(flowers().splitlines()))
    with Path("rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["colour", "width", "height"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    text = done("predict", str(trained), "rows.csv", "--out", "sub/found.csv")
    assert "wrote 60 predictions to sub/found.csv" in text
    found = read_csv("sub/found.csv")
    assert list(found[0]) == ["prediction", "probability_rose", "probability_tulip"]
    right = np.mean([f["prediction"] == r["kind"] for f, r in zip(found, rows, strict=True)])
    assert right > 0.9
    assert all(abs(float(f["probability_rose"]) + float(f["probability_tulip"]) - 1) < 1e-5 for f in found)
    accuracy = json.loads(done("evaluate", str(trained), "flowers.csv", "--json"))["accuracy"]
    assert accuracy == pytest.approx(right)


def test_evaluate_shows_a_table(trained: Path, folder: Path) -> None:
    text = done("evaluate", str(trained / "model.safetensors"), "flowers.csv")
    assert re.search(r"flowers.csv, 60 rows\s+\S+\s+\d\.\d{4}", text)


def test_data_with_a_test_part_of_its_own_is_evaluated_on_it(folder: Path, rng: np.random.Generator) -> None:
    X, y = rng.normal(size=(50, 3)), np.arange(50) % 2
    np.savez("arrays.npz", X=X, y=y, X_test=X[:8], y_test=y[:8])
    done("train", "arrays.npz", *QUICK, "--out", "run")
    assert "using the 8 rows that the data set keeps for testing" in done("evaluate", "run", "arrays.npz")
    assert "wrote 8 predictions" in done("predict", "run", "arrays.npz")


def test_inspect_shows_what_the_file_holds(trained: Path, folder: Path) -> None:
    text = done("inspect", str(trained))
    net = gpubp.MLP.load(trained / "model.safetensors")
    assert f"-8-2, {net.parameters} parameters" in text
    assert f"{np.linalg.norm(net.weights[0]):.4g}" in text
    assert "2 numbers, standardized: height, width" in text
    assert "1 indicator of missing numbers" in text
    assert '"colour", one-hot: red, white' in text
    assert 'predicts "kind": 2 classes: rose, tulip' in text


def test_inspect_takes_a_network_from_python(folder: Path) -> None:
    gpubp.MLP([3, 2, 1], loss="huber(0.5)", models=4).save("stack.safetensors")
    text = done("inspect", "stack.safetensors")
    assert "3-2-1, 11 parameters, a stack of 4" in text
    assert "huber(delta=0.5)" in text
    assert "no preprocessing" in text


# -- help ----------------------------------------------------------------------------------------------


def test_the_version_is_said() -> None:
    assert done("--version") == f"gpubp {gpubp.__version__}\n"


def test_help_lists_the_commands_that_exist() -> None:
    text = done("--help")
    for command in ("train", "predict", "evaluate", "search", "doctor", "bench", "inspect"):
        assert f" {command} " in text
    assert "resume" in done("train", "--help")


def test_help_lists_the_registries() -> None:
    text = done("train", "--help")
    for registry in (ACTIVATIONS, LOSSES, OPTIMIZERS, INITIALIZERS, SCHEDULES):
        assert all(re.search(rf"\b{name}\b", text) for name in registry)


# -- bad input -----------------------------------------------------------------------------------------


def table(*lines: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "bad.csv").write_text("".join(f"{line}\n" for line in lines))


def arrays(**found: Any) -> Callable[[Path], object]:
    return lambda folder: np.savez(folder / "bad.npz", **found)


def text_file(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def nothing(folder: Path) -> None:
    """The tables of every test are enough."""


X = np.arange(40.0).reshape(20, 2)
BAD_DATA: list[tuple[str, Callable[[Path], object], str, int, list[str]]] = [
    ("missing file", nothing, "train nowhere.csv", 2, ["nowhere.csv"]),
    ("misspelt data set", nothing, "train digit", 2, ["digit", 'did you mean "digits"']),
    ("unknown format", text_file("data.txt", "1 2 3"), "train data.txt", 2, ["data.txt", ".csv"]),
    ("unknown column", nothing, "train flowers.csv --target kinds", 2, ["kinds", 'did you mean "kind"']),
    ("ragged row", table("a,b,c", "1,2,x", "1,2", "1,2,y"), "train bad.csv", 2, ["bad.csv", "line 3"]),
    (
        "text among numbers",
        table("a,b", *(f"{i},{i + 0.5}" for i in range(30)), "oops,3"),
        "train bad.csv",
        2,
        ["bad.csv", "line 32", '"a"', "oops"],
    ),
    ("empty file", text_file("bad.csv", ""), "train bad.csv", 2, ["bad.csv"]),
    ("header only", table("a,b,c"), "train bad.csv", 2, ["bad.csv", "row"]),
    ("one class", table("a,b", *(f"{i},x" for i in range(9))), "train bad.csv", 2, ["bad.csv", '"x"']),
    ("missing target", table("a,b", "1,x", "2,", "3,y", "4,x"), "train bad.csv", 2, ["line 3", '"b"', "missing"]),
    ("target alone", table("b", "1", "2", "3", "4"), "train bad.csv", 2, ["bad.csv", "no column"]),
    ("continuous labels", nothing, "train prices.csv --loss cross_entropy", 2, ["line 2", "no class"]),
    ("texts for regression", nothing, "train flowers.csv --loss huber", 2, ["rose", "huber"]),
    ("infinity", arrays(X=np.where(X == 7, np.inf, X), y=np.arange(20) % 2), "train bad.npz", 2, ["bad.npz", "inf"]),
    ("negative counts", nothing, "train prices.csv --loss poisson --target a", 2, ["poisson", '"a"']),
    ("no X", arrays(data=X), "train bad.npz", 2, ["bad.npz", '"X"']),
    ("shapes that differ", arrays(X=X, y=np.arange(3)), "train bad.npz", 2, ["bad.npz", "(3,)"]),
    ("no archive", text_file("bad.npz", b"PK not really"), "train bad.npz", 2, ["bad.npz"]),
    ("no parquet", text_file("bad.parquet", b"PAR1 not really"), "train bad.parquet", 2, ["bad.parquet"]),
    ("empty folder", lambda folder: (folder / "images").mkdir(), "train images", 2, ["images"]),
    ("missing test file", nothing, "train flowers.csv --test nowhere.csv", 2, ["nowhere.csv"]),
    ("test beyond 1", nothing, "train flowers.csv --test 1.5", 2, ["1.5"]),
    ("validation beyond 1", nothing, "train flowers.csv --validation 2", 2, ["2"]),
    ("target of arrays", arrays(X=X, y=np.arange(20) % 2), "train bad.npz --target y", 2, ["bad.npz", "target"]),
]
BAD_OPTIONS: list[tuple[str, int, list[str]]] = [
    ("--activation rleu", 2, ["rleu", 'did you mean "relu"']),
    ("--activation relu,relu", 2, ["2", "1 hidden"]),
    ("--activation leaky_relu(x=1)", 2, ["leaky_relu(x=1)"]),
    ("--activation softmax", 2, ["softmax"]),
    ("--output-activation sigmoyd", 2, ["sigmoyd", '"sigmoid"']),
    ("--output-activation sigmoid", 2, ["cross_entropy", "sigmoid"]),
    ("--loss cross_entropi", 2, ["cross_entropi", '"cross_entropy"']),
    ("--optimizer adem", 2, ["adem", '"adam"']),
    ("--optimizer adam --momentum 0.9", 2, ["--momentum", "adam", "--optimizer momentum or nesterov"]),
    ("--optimizer momentum --momentum 1.5", 2, ["momentum=1.5"]),
    ("--schedule cosin", 2, ["cosin", '"cosine"']),
    ("--schedule step(every=0)", 2, ["every=0"]),
    ("--init he", 2, ["he"]),
    ("--hidden 12x", 2, ["--hidden", "12x", "512,256"]),
    ("--hidden 64,,32", 2, ["--hidden", "64,,32"]),
    ("--hidden 0", 2, ["--hidden", '"0"']),
    ("--hidden=-5", 2, ["--hidden", '"-5"']),
    ("--device cuda", 2, ["cuda"]),
    ("--device cpuu", 2, ["cpuu", '"cpu"']),
    ("--precision float16", 2, ["float16", "float32"]),
    ("--patience 3", 2, ["--patience", "--validation"]),
    ("--epochs 0", 2, ["--epochs"]),
    ("--epochs many", 2, ["--epochs"]),
    ("--batch-size 0", 2, ["--batch-size"]),
    ("--learning-rate 0", 2, ["learning_rate"]),
    ("--learning-rate nan", 2, ["learning_rate"]),
    ("--dropout 1", 2, ["dropout"]),
    ("--max-grad-norm=-1", 2, ["max_grad_norm"]),
    ("--l2=-1", 2, ["l2"]),
    ("--seed=-1", 2, ["--seed"]),
    ("--out flowers.csv", 2, ["flowers.csv", "--out"]),
    ("--out flowers.csv/run", 2, ["flowers.csv", "--out"]),
    ("--optimiser adam", 2, ["--optimiser"]),
    ("--learning-rate 1e30 --schedule constant --target height --optimizer sgd", 1, ["step", "learning rate"]),
]
BAD_USE: list[tuple[str, Callable[[Path], object], str, int, list[str]]] = [
    ("no such model", nothing, "predict nowhere flowers.csv", 2, ["nowhere"]),
    ("no model in the folder", lambda folder: (folder / "run").mkdir(), "inspect run", 2, ["run", "model.safetensors"]),
    ("no model file", nothing, "inspect flowers.csv", 2, ["flowers.csv", "safetensors"]),
    ("column missing", table("height,colour", "1,red"), "predict MODEL bad.csv", 2, ["bad.csv", '"width"']),
    (
        "text for a number",
        table("height,width,colour", "1,2,red", "tall,3,red"),
        "predict MODEL bad.csv",
        2,
        ["bad.csv", "tall"],
    ),
    ("another kind of data", arrays(X=X), "predict MODEL bad.npz", 2, ["bad.npz", "table"]),
    ("no rows", table("height,width,colour"), "predict MODEL bad.csv", 2, ["bad.csv", "row"]),
    (
        "class unseen in training",
        table("height,width,colour,kind", "1,2,red,rose", "1,2,red,lily"),
        "evaluate MODEL bad.csv",
        2,
        ["line 3", "lily", "rose"],
    ),
    ("no target", table("height,width,colour", "1,2,red"), "evaluate MODEL bad.csv", 2, ["bad.csv", '"kind"']),
    ("a folder to write to", nothing, "predict MODEL flowers.csv --out .", 2, ["cannot be written"]),
    (
        "a network without preprocessing",
        lambda folder: gpubp.MLP([2, 2]).save(folder / "bare.safetensors"),
        "predict bare.safetensors flowers.csv",
        2,
        ["bare.safetensors", "gpubp.MLP.load"],
    ),
    (
        "a stack",
        lambda folder: gpubp.MLP([2, 2], models=2).save(folder / "stack.safetensors"),
        "evaluate stack.safetensors flowers.csv",
        2,
        ["stack.safetensors", "2 networks"],
    ),
    ("missing argument", nothing, "predict MODEL", 2, ["DATA"]),
    ("misspelt command", nothing, "trian flowers.csv", 2, ["trian"]),
]


def check_failure(folder: Path, command: list[str], code: int, words: list[str]) -> None:
    """One clear message, the right exit code, no traceback, nothing written."""
    before = tree(folder)
    result = invoke(*command)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *usage, message = result.stderr.splitlines()
    assert message.startswith("Error: ")
    assert all(line.startswith(("Usage: ", "Try ")) or not line for line in usage)
    assert "Traceback" not in result.output
    for word in words:
        assert word in message
    assert tree(folder) == before


@pytest.mark.parametrize(("make", "command", "code", "words"), [c[1:] for c in BAD_DATA], ids=[c[0] for c in BAD_DATA])
def test_bad_data(folder: Path, make: Callable[[Path], object], command: str, code: int, words: list[str]) -> None:
    make(folder)
    check_failure(folder, command.split(), code, words)


@pytest.mark.parametrize(("options", "code", "words"), BAD_OPTIONS, ids=[c[0] for c in BAD_OPTIONS])
def test_bad_options(folder: Path, options: str, code: int, words: list[str]) -> None:
    check_failure(folder, ["train", "flowers.csv", "--epochs", "5", *options.split()], code, words)


@pytest.mark.parametrize(("make", "command", "code", "words"), [c[1:] for c in BAD_USE], ids=[c[0] for c in BAD_USE])
def test_bad_use(
    folder: Path, trained: Path, make: Callable[[Path], object], command: str, code: int, words: list[str]
) -> None:
    make(folder)
    check_failure(folder, command.replace("MODEL", str(trained)).split(), code, words)


# -- as a process --------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}


@pytest.mark.backends  # by default, README.md's commands are processes: test_docs.py
def test_a_process_trains_and_fails_like_a_program(folder: Path) -> None:
    command = [*RUN, "train", "flowers.csv", *QUICK, "--out", "run"]
    good = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert {p.name for p in Path("run").iterdir()} == RUN_FILES
    command = [*RUN, "train", "prices.csv", "--learning-rate", "1e30", "--schedule", "constant"]
    bad = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert bad.returncode == 1
    assert bad.stderr.startswith("Error: training diverged at step ")
    assert len(bad.stderr.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.backends
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a process otherwise")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_network_and_what_to_go_on_from(folder: Path, number: int, code: int) -> None:
    command = [*RUN, "train", "prices.csv", "--epochs", "1000000", "--out", "run"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )
    try:
        assert process.stdout
        while "epoch " not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()  # one that does not hear the signal would train for ever
        process.wait()
    assert process.returncode == code
    again = "gpubp train prices.csv --epochs 1000000 --resume run"
    assert re.fullmatch(rf"Interrupted after [\d,]+ steps?; to go on: {again}\n", stderr)
    assert {path.name for path in (folder / "run").iterdir()} == RUN_FILES | {"checkpoints"}
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert metrics["stopped"] == "interrupted" and metrics["steps"] > 0 and math.isfinite(metrics["test"]["rmse"])
    assert len(list((folder / "run" / "checkpoints").iterdir())) == 1


# -- checkpoints ---------------------------------------------------------------------------------------


def test_a_run_goes_on_in_its_folder_with_the_same_bits(folder: Path) -> None:
    options = [*QUICK, "--checkpoint-every", "1epochs", "--dropout", "0.2"]
    done("train", "prices.csv", *options, "--out", "whole")
    assert len(list(Path("whole/checkpoints").iterdir())) in (2, 3)
    Path("run").mkdir()
    shutil.copytree("whole/checkpoints", "run/checkpoints")
    for path in sorted(Path("run/checkpoints").iterdir())[1:]:
        path.unlink()
    printed = done("train", "prices.csv", *options, "--resume", "run")
    assert "going on from run/checkpoints/step-" in printed
    assert {path.name for path in Path("run").iterdir()} == RUN_FILES | {"checkpoints"}
    whole, resumed = (gpubp.MLP.load(f"{run}/model.safetensors", device="cpu") for run in ("whole", "run"))
    np.testing.assert_array_equal(resumed.theta, whole.theta)


def test_a_run_that_was_killed_is_not_overwritten_unless_asked(folder: Path) -> None:
    done("train", "prices.csv", *QUICK, "--checkpoint-every", "1epochs", "--out", "run")
    for name in RUN_FILES:
        Path("run", name).unlink()
    refused = invoke("train", "prices.csv", *QUICK, "--out", "run")
    assert refused.exit_code == 2 and "run: holds a run already (checkpoints)" in refused.stderr
    done("train", "prices.csv", *QUICK, "--out", "run", "--overwrite")
    assert {path.name for path in Path("run").iterdir()} == RUN_FILES


@pytest.mark.parametrize(
    "options, message",
    [
        (["--resume", "run", "--out", "other"], "--resume run goes on in that folder; leave out --out and --overwrite"),
        (["--resume", "nowhere"], "nowhere: holds no checkpoint"),
        (["--resume", "run", "--hidden", "5"], "network.layer_sizes is"),
        (["--resume", "run", "--seed", "9"], "belongs to another training"),
        (["--checkpoint-every", "often"], "checkpoint_every='often' does not fit"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(folder: Path, options: list[str], message: str) -> None:
    done("train", "prices.csv", *QUICK, "--checkpoint-every", "1epochs", "--out", "run")
    before = tree(folder)
    refused = invoke("train", "prices.csv", *QUICK, *options)
    assert (refused.exit_code, message in refused.stderr) == (2, True), refused.stderr
    assert tree(folder) == before


def test_a_checkpoint_that_cannot_be_written_ends_with_one_line_and_exit_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    failed = invoke("train", "prices.csv", *QUICK, "--checkpoint-every", "1epochs")
    assert failed.exit_code == 1
    assert re.fullmatch(
        r"Error: runs/prices-[\d-]+/checkpoints/step-\d+\.safetensors: cannot be written \(No space left on device; "
        r"[\d,]+ bytes needed\); of the checkpoints, there is none before it\n",
        failed.stderr,
    )


def test_where_only_a_checkpoint_fails_the_network_so_far_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("run").mkdir()
    Path("run/checkpoints").write_text("in the way")
    failed = invoke("train", "prices.csv", *QUICK, "--checkpoint-every", "1epochs", "--out", "run", "--overwrite")
    assert failed.exit_code == 1 and "run/checkpoints/step-" in failed.stderr
    assert {path.name for path in Path("run").iterdir()} == RUN_FILES | {"checkpoints"}
    assert json.loads(Path("run/metrics.json").read_text())["stopped"] in ("interrupted", "epochs")


def test_commands_at_once_have_folders_of_their_own(folder: Path) -> None:
    with run_folder.claimed(None, "prices.csv") as first, run_folder.claimed(None, "prices.csv") as second:
        assert first != second
        (second / "file").touch()
    assert not first.exists() and second.exists()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("Unable to allocate 9 GiB"), True),
        (ImportError("_qhull.so: failed to map segment from shared object"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (ImportError("No module named x"), False),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
def test_where_there_is_no_memory_one_line_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("gpubp.data.read", fails)
    result = invoke("train", "flowers.csv", *QUICK)
    assert (result.exception is error) is not told
    assert ("Error: not enough memory" in result.stderr) is told


LONG = "n" * 256


@pytest.mark.parametrize(
    "command",
    [
        f"predict MODEL flowers.csv --out {LONG}.csv",
        f"export MODEL {LONG}.onnx",
        f"evaluate {LONG} flowers.csv",
        f"inspect {LONG}",
        f"train {LONG}.csv",
        f"train flowers.csv --resume {LONG}",
    ],
)
def test_a_name_that_is_too_long_is_said_in_one_line(folder: Path, trained: Path, command: str) -> None:
    result = invoke(*command.replace("MODEL", str(trained)).split())
    assert result.exit_code == 2 and LONG in result.stderr and result.stderr.startswith("Error: "), result.output


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
@pytest.mark.parametrize(
    "command", ["train pipe.csv", "evaluate pipe.csv flowers.csv", "predict MODEL pipe.csv --out -"]
)
def test_nobody_waits_for_a_pipe_without_a_writer(folder: Path, trained: Path, command: str) -> None:
    os.mkfifo("pipe.csv")
    result = invoke(*command.replace("MODEL", str(trained)).split())
    assert result.exit_code == 2 and "pipe.csv" in result.stderr, result.output


# -- small things --------------------------------------------------------------------------------------


def test_a_list_keeps_arguments_together() -> None:
    assert parse_list("relu") == ["relu"]
    assert parse_list("relu, elu(0.5) ,x(1, b=2)") == ["relu", "elu(0.5)", "x(1, b=2)"]


def test_hidden_sizes() -> None:
    assert parse_hidden("512, 256") == [512, 256]
    assert parse_hidden("None") == []


def test_a_number_is_a_fraction_and_anything_else_a_place() -> None:
    assert parse_test(None) is None
    assert parse_test("0.25") == 0.25
    assert parse_test("0.25.csv") == "0.25.csv"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("accuracy", 1.0, "1.0000"), ("loss", 0.123456, "0.1235"), ("rmse", 52137.44, "52,137.4"), ("r2", None, "-")],
)
def test_figures(name: str, value: float | None, text: str) -> None:
    assert display.figure(name, value) == text


@pytest.mark.parametrize(("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (3_400_000, "3.4 MB"), (5e12, "5000.0 GB")])
def test_sizes(n_bytes: float, text: str) -> None:
    assert display.size(n_bytes) == text
