"""``gpubp train`` that was interrupted or cannot write: what is kept, and what goes on from there."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import UsageError, serialization
from support.commands import QUICK, RUN, RUN_FILES, done, environment, invoke, tree


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
    def full(path: Path, *what: Any) -> None:
        raise UsageError(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr(
        "gpubp.training.checkpoint.serialization", SimpleNamespace(**{**vars(serialization), "save": full})
    )
    failed = invoke("train", "prices.csv", *QUICK, "--checkpoint-every", "1epochs", "--out", "run")
    assert failed.exit_code == 1 and "run/checkpoints/step-" in failed.stderr
    assert {path.name for path in Path("run").iterdir()} == RUN_FILES
    assert json.loads(Path("run/metrics.json").read_text())["stopped"] in ("interrupted", "epochs")
