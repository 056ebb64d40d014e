"""``mpiexec -n 2 gpubp train``: real processes through MPI, one log and one writer; what cannot be brought together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubp
from gpubp.backends.blas_threads import one_blas_thread
from gpubp.cli import presets, processes
from gpubp.cli.app import app
from gpubp.data.streamed import half_of_memory
from gpubp.errors import DeviceError, UsageError
from gpubp.training.ranks import ALONE, ranks_of
from support.package import REPOSITORY
from support.thread_ranks import on_ranks

LAUNCHED = [*processes.SIZES, *processes.RANKS]
TRAIN = ["train", "digits", "--device", "cpu-reference", "--hidden", "16", "--batch-size", "100", "--dropout", "0.1"]


def mpiexec(*arguments: Any) -> list[str]:
    """A command that starts processes; the test is skipped where there is no MPI."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed; pip install 'gpubp[mpi]'", exc_type=ImportError)
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("there is no mpiexec; pip install 'gpubp[mpi]'")
    return [launcher, *map(str, arguments)]


def started(command: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def run(command: list[str], folder: Path) -> tuple[int, str, str]:
    """The exit code, and what was printed."""
    process = started(command, folder)
    try:
        out, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, out, errors


def gpubp_command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "gpubp", *map(str, arguments)]


def theta(folder: Path) -> Any:
    return gpubp.MLP.load(folder / "model.safetensors", device="cpu-reference").theta


# -- real processes ---------------------------------------------------------------------------------------

PROGRAM = """
import hashlib, os, signal, sys
import numpy as np
from mpi4py import MPI
import gpubp
from gpubp.training import data_parallel

data_parallel.FEWEST_IN_SLICE = int((sys.argv[1:] or [1 << 18])[0])
rank = MPI.COMM_WORLD.rank
rng = np.random.default_rng(3)
X, y = rng.standard_normal((1000, 20)), rng.integers(0, 5, 1000)
options = {"batch_size": 100, "epochs": 5, "l2": 1e-4, "max_grad_norm": 1.0, "schedule": "cosine"}
options |= {"validation_data": (X[:77], y[:77]), "sample_weight": rng.uniform(0.5, 2, 1000)}

def trained(**more):
    net = gpubp.MLP([20, 32, 16, 5], "tanh", seed=1, device="cpu-reference", precision="float64")
    return net.theta, gpubp.train(net, X, y, **options, **more)

def die(net, history):
    if history.epochs == 3 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

"""
FIFTY_STEPS = (
    PROGRAM
    + """
theta, history = trained(communicator=MPI.COMM_WORLD)
if rank == 0:
    alone, history_alone = trained()
    difference = max(abs(theta - alone).max(), abs(np.array(history.loss) - history_alone.loss).max())
    print(history.steps, difference, hashlib.sha256(theta.tobytes()).hexdigest())
"""
)
KILLED = (
    PROGRAM
    + """
trained(communicator=MPI.COMM_WORLD, dropout=0.2, checkpoint="run", checkpoint_every="7steps", callbacks=[die])
"""
)
RESUMED = (
    PROGRAM
    + """
theta, history = trained(communicator=MPI.COMM_WORLD, dropout=0.2, resume="run", checkpoint_every=None)
if rank == 0:
    print(np.array_equal(theta, trained(dropout=0.2, accumulate=2)[0]), history.steps)
"""
)


def run_program(text: str, size: int, folder: Path, *arguments: Any) -> tuple[int, str, str]:
    """Run a program in so many processes."""
    (folder / "program.py").write_text(text, encoding="utf-8")
    return run(mpiexec("-n", size, sys.executable, "program.py", *arguments), folder)


@pytest.mark.thorough
@pytest.mark.parametrize("size, slices", [(2, [1, 1, 1 << 18]), (4, [1])])
def test_fifty_steps_of_ranks_are_those_of_one_and_have_the_same_bits_from_run_to_run(size, slices, tmp_path):
    outcomes = [run_program(FIFTY_STEPS, size, tmp_path, fewest) for fewest in slices]
    assert outcomes[0][0] == 0, outcomes
    steps, difference, _ = outcomes[0][1].split()
    assert int(steps) == 50 and float(difference) <= 1e-12
    assert len(set(outcomes)) == 1


@pytest.mark.thorough
def test_a_rank_that_is_killed_ends_all_and_they_go_on_with_the_same_bits(tmp_path):
    start = time.monotonic()
    code, out, errors = run_program(KILLED, 2, tmp_path)
    assert code != 0 and time.monotonic() - start < 60
    assert "KILLED" in (out + errors).upper()  # says the launcher
    assert run_program(RESUMED, 2, tmp_path) == (0, "True 50\n", "")


def theta_of_one_process(options: list[str]) -> np.ndarray:
    """Weights that one process has, in the current folder, after each batch in two parts."""
    with one_blas_thread():
        assert CliRunner().invoke(app, [*options, "--accumulate", "2", "--out", "one"]).exit_code == 0
    return theta(Path("one"))


@pytest.mark.thorough
def test_a_run_of_two_ranks_is_one_run(tmp_path, monkeypatch):
    ranks = [*TRAIN, "--epochs", "3", "--validation", "0.1", "--checkpoint-every", "1epochs"]
    code, out, errors = run(mpiexec("-n", 2, *gpubp_command(*ranks, "--out", "ranks")), tmp_path)
    assert (code, errors) == (0, "")
    assert out.count("epoch 3/3") == out.count("wrote model.safetensors") == 1
    assert (
        "2 ranks; if one is lost, all end, to go on: mpiexec -n 2 gpubp train digits" in out and "--resume ranks" in out
    )
    assert json.loads((tmp_path / "ranks" / "metrics.json").read_text())["config"]["ranks"] == 2
    assert len(list((tmp_path / "ranks" / "checkpoints").iterdir())) == 2
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(theta(tmp_path / "ranks"), theta_of_one_process(ranks))


@pytest.mark.thorough
def test_ranks_that_read_different_data_are_refused_with_both_sides_named(tmp_path):
    rows = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(200)]
    for name, lines in (("a.csv", rows), ("b.csv", ["5,1,yes", *rows[1:]])):
        (tmp_path / name).write_text("x,y,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    options = ["--device", "cpu-reference", "--numbers", "standard", "--out", "run"]  # as many inputs on both
    one, other = (gpubp_command("train", name, *options) for name in ("a.csv", "b.csv"))
    code, _, errors = run(mpiexec("-n", 1, *one, ":", "-n", 1, *other), tmp_path)
    assert code == 2
    assert errors.count("Error: rank 1 would not train what rank 0 does: data.training.X is") == 1
    assert "on rank 0 and" in errors and not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_two_ranks_train_on_a_file_that_one_reads_in_blocks(tmp_path, monkeypatch):
    X = np.random.default_rng(2).standard_normal((3000, 8))
    np.save(tmp_path / "rows.npy", np.column_stack([X, X[:, :4].argmax(axis=1)]))
    options = ["train", "rows.npy", "--loss", "cross_entropy", "--device", "cpu-reference", "--hidden", "16"]
    options += ["--batch-size", "100", "--epochs", "3", "--validation", "0.1", "--memory-limit", "200kB"]
    code, out, errors = run(mpiexec("-n", 2, *gpubp_command(*options, "--out", "ranks")), tmp_path)
    assert (code, errors) == (0, "") and out.count("read in blocks") == 1
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(theta(tmp_path / "ranks"), theta_of_one_process(options))


@pytest.mark.thorough
def test_what_is_wrong_with_the_data_is_said_once_with_the_exit_code_of_one_process(tmp_path):
    (tmp_path / "bad.csv").write_text("x,label\n1,yes\n2\n", encoding="utf-8")
    code, out, errors = run(mpiexec("-n", 2, *gpubp_command("train", "bad.csv")), tmp_path)
    assert (code, out) == (2, "") and errors.startswith("Error: bad.csv, line 3:") and errors.count("\n") == 1


@pytest.mark.thorough
def test_ctrl_c_ends_all_between_two_steps_with_a_checkpoint(tmp_path):
    train = [*TRAIN, "--epochs", "100000", "--checkpoint-every", "20steps", "--out", "run"]
    process = started(mpiexec("-n", 2, *gpubp_command(*train)), tmp_path)
    try:
        until = time.monotonic() + 60
        while not list((tmp_path / "run").glob("checkpoints/*.safetensors")) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, (out, errors)
    assert errors.count("to go on: mpiexec -n 2 gpubp train") == 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["stopped"] == "interrupted"


# -- what is refused --------------------------------------------------------------------------------------


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def four_processes(no_launcher: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of a launcher that started four, of which this is the first."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    return monkeypatch


def mpi_of(size: int) -> Any:
    communicator = types.SimpleNamespace(Get_size=lambda: size)
    MPI = types.SimpleNamespace(COMM_WORLD=communicator, Get_library_version=lambda: "MPICH Version:      5.0\nmore")
    return types.SimpleNamespace(MPI=MPI)


def test_without_a_launcher_mpi_is_not_loaded(no_launcher, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert processes.joined() is ALONE and processes.speaks()


def test_processes_without_mpi4py_are_told_how_to_install_it(four_processes):
    four_processes.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(DeviceError, match=r"started 4 processes, but mpi4py is not installed .*'gpubp\[mpi\]'"):
        processes.joined()


def test_an_mpi_that_cannot_be_loaded_is_named(four_processes):
    class Broken(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file")

    four_processes.setitem(sys.modules, "mpi4py", Broken("mpi4py"))
    four_processes.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(DeviceError, match=r"no MPI to load \(.*cannot load MPI library / libmpi\.so: cannot open"):
        processes.joined()


def test_a_launcher_of_another_mpi_is_named(four_processes):
    four_processes.setitem(sys.modules, "mpi4py", mpi_of(1))
    with pytest.raises(DeviceError, match=r"started 4 .* \(MPICH Version:      5\.0\) knows of 1: .* different"):
        processes.joined()


def test_the_error_is_one_line_and_of_the_first_process_alone(four_processes):
    four_processes.setitem(sys.modules, "mpi4py", mpi_of(1))
    first = CliRunner().invoke(app, ["train", "digits"])
    four_processes.setenv("OMPI_COMM_WORLD_RANK", "3")
    other = CliRunner().invoke(app, ["train", "digits"])
    assert (first.exit_code, other.exit_code) == (2, 2)
    assert first.output.startswith("Error: a launcher started 4 processes") and other.output == ""


def test_only_train_is_for_several_processes():
    def work(communicator: Any) -> None:
        processes.check(ranks_of(communicator), "train")
        processes.check(ranks_of(communicator), "search")

    for error in on_ranks(2, work):
        assert isinstance(error, UsageError) and "2 processes run gpubp search, which is for one" in str(error)
    processes.check(ALONE, "search")


def test_a_preset_of_several_networks_is_refused():
    assert presets.are_several_networks("good") and not presets.are_several_networks("fast")
    assert not presets.are_several_networks("none") and not presets.are_several_networks(None)
    presets.check_processes("good", 1)
    with pytest.raises(UsageError, match="--preset good trains . networks or more, and 2 processes train one together"):
        presets.check_processes("good", 2)


def test_a_share_of_the_memory_for_each_rank():
    half = half_of_memory()
    assert processes.memory_limit(ALONE, None) is None and processes.memory_limit(ALONE, 5) == 5
    assert on_ranks(2, lambda communicator: processes.memory_limit(ranks_of(communicator), None)) == [half // 2] * 2
    assert on_ranks(2, lambda communicator: processes.memory_limit(ranks_of(communicator), 5)) == [5, 5]


def test_a_device_for_each_rank(monkeypatch):
    def devices(device: str, gpus: int | None) -> list[Any]:
        def own(place: int, count: int) -> int | None:
            return None if gpus is None else place

        monkeypatch.setattr("gpubp.backends.cuda.nccl.own_device", own)
        return on_ranks(2, lambda communicator: processes.device_of(ranks_of(communicator), device))

    assert devices("cpu", 2) == ["cpu", "cpu"]
    assert devices("auto", 2) == devices("cuda", 2) == devices("gpu", 2) == ["cuda:0", "cuda:1"]
    assert devices("auto", None) == ["auto", "auto"] and devices("cuda", None) == ["cuda", "cuda"]
    assert all("is one GPU for 2 ranks" in str(error) for error in devices("cuda:1", 2))
    assert processes.device_of(ALONE, "cuda:1") == "cuda:1"
