"""Data, options and places that no command can work with: each is refused in one line that says what to do."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from support.commands import QUICK, check_failure, invoke


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
