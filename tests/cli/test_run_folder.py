"""A run folder: whole or not at all, one command's alone, proved before the training, and never lost after it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.cli import run_folder, training_rows
from gpubp.errors import UsageError
from gpubp.serialization import digest, load
from support.commands import invoke

FILES = {*run_folder.FILES, training_rows.FILE}
QUICK = ["--epochs", "1", "--hidden", "3", "--device", "cpu-reference"]


def write(folder: Path, run: int) -> None:
    """Write a run whose every file says which it is of."""
    net = gpubp.MLP([2, 2], seed=run, device="cpu-reference")
    history = gpubp.History("accuracy")
    history.to_csv = lambda: f"run\n{run}\n"  # type: ignore[method-assign]
    run_folder.write(folder, net, history, {"run": run}, [np.array([run], np.uint64)])


def runs_in(folder: Path) -> set[int]:
    """The runs that the files in a folder are of."""
    runs = set()
    if (folder / "metrics.json").exists():
        runs.add(json.loads((folder / "metrics.json").read_text())["run"])
    if (folder / "history.csv").exists():
        runs.add(int((folder / "history.csv").read_text().split()[1]))
    if (folder / training_rows.FILE).exists():
        runs |= set(load(folder / training_rows.FILE)[0]["numbers"].tolist())
    if (folder / "model.safetensors").exists():
        runs.add(gpubp.MLP.load(folder).stack.seeds[0])
    return runs


class Killed(BaseException):
    pass


def kill_after(moments: int, patched: pytest.MonkeyPatch) -> None:
    """Let so many changes of names happen and no more."""
    left = iter(range(moments))

    def limited(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in ("replace", "rename", "unlink", "rmdir"):
        patched.setattr(os, name, limited(getattr(os, name)))


@pytest.mark.parametrize("beside", [(), ("notes.txt",)])
def test_a_process_that_is_killed_at_any_moment_leaves_files_of_one_run(tmp_path, monkeypatch, beside):
    """Killed before each change of a name, after which nothing more of the process happens."""
    states = set()
    for moment in range(24):
        folder = tmp_path / f"{moment}" / "run"
        write(folder, 1)
        for name in beside:
            (folder / name).write_text("mine")
        with monkeypatch.context() as patched:
            kill_after(moment, patched)
            try:
                write(folder, 2)
                states.add("written")
            except Killed:
                pass
        assert len(runs_in(folder)) <= 1
        states.add((tuple(sorted(runs_in(folder))), len(list(folder.glob("[!.]*"))) - len(beside)))
        write(folder, 3)
        assert runs_in(folder) == {3}
    whole = {((run,), len(FILES)) for run in (1, 2)}
    assert {"written", *whole} <= states, "the test of the test"


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2], sys.argv[2] + "/tests"
from tests.cli.test_run_folder import write
for run in range(10**6):
    write(Path(sys.argv[1]), run)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there, and leftovers stay")
def test_processes_that_are_killed_leave_one_run_and_no_litter(tmp_path):
    folder, checkout = tmp_path / "run", str(Path(__file__).resolve().parents[2])
    rng = np.random.default_rng(0)
    for kill in range(6):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), checkout])
        deadline, mine = time.monotonic() + 30, folder / "mine"
        while not folder.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        mine.touch() if kill % 2 else None
        time.sleep(2 + rng.uniform(0, 0.05))
        writer.kill()
        writer.wait()
        assert len(runs_in(folder)) <= 1
    write(folder, 1)
    assert runs_in(folder) == {1}
    assert {path.name for path in folder.iterdir()} == {*FILES, "mine"}
    assert os.listdir(tmp_path) == ["run"]


def test_what_killed_commands_left_among_runs_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = [Path("runs", name) for name in (".iris-20260101-101010.0123abcd", "iris-20260101-101011")]
    stays = [
        Path("runs", name) for name in (".mine.0123abcd", "iris", "iris-20260101-101012/file", "iris-20260101-1013")
    ]
    for path in (*left, *stays):
        path.mkdir(parents=True)
    Path(left[0], "model.safetensors").touch()
    long_ago = time.time() - 1000
    os.utime(left[1], (long_ago, long_ago))
    with run_folder.claimed(None, "iris"):
        assert all(path.exists() for path in stays)
        if sys.platform != "win32":
            assert not any(path.exists() for path in left)


def test_commands_that_begin_at_once_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def claim(number: int) -> Path:
        with run_folder.claimed(None, "iris.csv") as folder:
            write(folder, number)
            return folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(claim, range(24)))
    assert [runs_in(folder) for folder in folders] == [{number} for number in range(24)]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{i % 5},{'yes' if i % 7 > 3 else 'no'}" for i in range(40)]
    Path("table.csv").write_text("\n".join(["a,b,c", *rows]))


def test_a_link_that_leads_to_nothing_is_followed_and_a_name_of_250_characters_is_taken(table):
    Path("link").symlink_to("target")
    for name in ("link", "n" * 250):
        assert invoke("train", "table.csv", *QUICK, "--out", name).exit_code == 0
        assert set(os.listdir(name)) == FILES
    assert Path("link").is_symlink() and Path("target").is_dir()


@pytest.mark.parametrize("command", [["train"], ["search", "--grid", "dropout=0"]])
def test_a_place_where_nothing_can_be_written_is_known_before_the_training(table, monkeypatch, command):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    training = {"train": "gpubp.training.train", "search": "gpubp.cli.search.trials.Search.train"}[command[0]]
    monkeypatch.setattr(training, lambda *_, **__: pytest.fail("the training began"))
    too_long = invoke(*command, "table.csv", *QUICK, "--out", "n" * 256)
    assert (too_long.exit_code, "File name too long" in too_long.stderr) == (2, True), too_long.stderr
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    failed = invoke(*command, "table.csv", *QUICK, "--out", "new/run")
    assert failed.exit_code == 2
    assert failed.stderr == ("Error: new/run: cannot be written to (No space left on device); choose another --out\n")
    assert not Path("new").exists()


def test_a_network_that_cannot_be_written_where_it_belongs_is_kept_elsewhere(table, tmp_path, monkeypatch):
    save, temporary = gpubp.MLP.save, tmp_path / "temporary"
    temporary.mkdir()

    def fails_in_its_place(net: gpubp.MLP, path: Path) -> None:
        if temporary not in Path(path).parents:
            raise UsageError(f"{path}: cannot be written (No space left on device)")
        save(net, path)

    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(gpubp.MLP, "save", fails_in_its_place)
    failed = invoke("train", "table.csv", *QUICK, "--out", "run")
    (kept,) = temporary.iterdir()
    assert failed.exit_code == 2
    assert "No space left on device" in failed.stderr and f"the run is in {kept} instead" in failed.stderr
    assert set(os.listdir(kept)) == FILES and not Path("run").exists()


def test_metrics_name_the_network_that_they_are_of(table):
    from gpubp.cli.report.collect import collect

    for seed in (0, 1):
        invoke("train", "table.csv", *QUICK, "--out", f"run{seed}", "--seed", seed)
    metrics = json.loads(Path("run0/metrics.json").read_text())
    assert metrics["model_digest"] == digest("run0/model.safetensors")
    Path("run1/model.safetensors").replace("run0/model.safetensors")
    run = collect(Path("run0"), None)
    assert run.metrics == {}
    assert "scores and configuration: metrics.json is of another network than model.safetensors" in run.missing
