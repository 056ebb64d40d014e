"""Checkpoints: a training that goes on from any of them ends with the bits of an unbroken one; none is ever torn."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import CheckpointError, DataError, TrainingInterrupted, UsageError, serialization
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.optimizers import OPTIMIZERS
from gpubp.training import checkpoint
from gpubp.training.checkpoint import Interval
from support.machines import but_unfused, by_tier, host, host_driver

RNG = np.random.default_rng(5)
X = RNG.standard_normal((44, 5))
Y = RNG.integers(0, 3, 44)
ROWS = slice(0, 34)
HELD_OUT = X[34:], Y[34:]
OPTIONS: dict[str, Any] = {
    "validation_data": HELD_OUT,
    "learning_rate": 0.02,
    "dropout": 0.3,
    "label_smoothing": 0.1,
    "schedule": "reduce_on_plateau(0, 0.5)",
    "max_grad_norm": 1.0,
    "update_tolerance": 1e-9,
    "batch_size": 10,
    "epochs": 4,
    "patience": 2,
    "seed": 3,
}


def network(device: Any = "cpu-reference", models: int = 1) -> gpubp.MLP:
    return gpubp.MLP([5, 6, 3], "tanh", seed=7, device=device, models=models)


def train(net: gpubp.MLP, **options: Any) -> gpubp.History:
    return gpubp.train(net, X[ROWS], Y[ROWS], **{**OPTIONS, **options})


def everything(net: gpubp.MLP, history: gpubp.History) -> list[Any]:
    """All bits that a training leaves, but for times."""
    curves = [history.curve(name).tobytes() for name in ("loss", "metric", "validation_loss", "learning_rate")]
    return [host(net.theta).tobytes(), *curves, str(history.stopped), str(history.best_epoch), history.steps]


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint is removed."""
    monkeypatch.setattr(checkpoint, "KEPT", sys.maxsize)


def resumed_everywhere(make: Any, folder: Path, **options: Any) -> int:
    """Assert that a training that goes on from any checkpoint ends as one without checkpoints; how many there were."""
    net = make()
    unbroken = everything(net, train(net, **options))
    net = make()
    assert everything(net, train(net, **options, checkpoint=folder / "all", checkpoint_every="1steps")) == unbroken
    files = checkpoint.CheckpointFolder(folder / "all").files()
    for path in files:
        net = make()
        net.theta += 1
        resumed = train(net, **options, resume=path, checkpoint=folder / "new", checkpoint_every=None)
        assert everything(net, resumed) == unbroken, path.name
    return len(files)


@but_unfused
@pytest.mark.parametrize("optimizer", by_tier(OPTIMIZERS, lambda name: name == "adam"))
def test_a_training_goes_on_from_every_checkpoint_with_the_same_bits(backend, optimizer, tmp_path, all_kept):
    assert resumed_everywhere(lambda: network(backend), tmp_path, optimizer=optimizer) >= 12


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_it_does_so_in_the_precisions_of_a_gpu(precision, tmp_path, all_kept):
    backend = CudaBackend(host_driver(), precision)
    assert resumed_everywhere(lambda: network(backend), tmp_path, learning_rate=0.05) >= 12


@but_unfused
def test_a_stack_goes_on_whose_networks_differ_in_rows_and_ends_and_one_diverges(backend, tmp_path, all_kept):
    options = {
        "rows": [range(34), range(20), range(20), range(7)],
        "validation_data": None,
        "validation_rows": [range(30, 34)] * 4,
        "learning_rate": [0.01, 1e300, 0.02, 0.05],
        "epochs": [5, 5, 1, 3],
        "schedule": "constant",
        "optimizer": "sgd",
        "max_grad_norm": None,
    }
    with np.errstate(all="ignore"):
        assert resumed_everywhere(lambda: network(backend, models=4), tmp_path, **options) >= 15


@pytest.mark.gpu
def test_graphs_on_a_gpu_go_on_with_the_same_bits(backend, tmp_path, all_kept):
    assert resumed_everywhere(lambda: network(backend), tmp_path) >= 12


def test_rows_that_are_sent_in_segments_go_on_with_the_same_bits(tmp_path, all_kept, monkeypatch):
    monkeypatch.setattr("gpubp.training.step._memory_for_data", lambda *_: 900.0)
    assert resumed_everywhere(network, tmp_path) >= 12


def test_batches_in_parts_go_on_with_the_same_bits(tmp_path, all_kept):
    assert resumed_everywhere(network, tmp_path, accumulate=2) >= 12


def test_settings_that_are_infinite_are_kept_and_compared(tmp_path):
    make, options = lambda: network(models=2), {"seed": 0, "patience": None, "max_grad_norm": [np.inf, 1.0]}
    train(make(), checkpoint=tmp_path, checkpoint_every="1epochs", **options)
    assert train(make(), resume=tmp_path, **options).epochs == 4
    with pytest.raises(DataError, match=r"max_grad_norm is \['inf', 1.0\] there and \[1.0, 1.0\] here"):
        train(make(), resume=tmp_path, **options | {"max_grad_norm": 1.0})


def test_a_full_batch_and_the_end_of_a_training_are_checkpoints_too(tmp_path, all_kept):
    assert resumed_everywhere(network, tmp_path, batch_size=34, patience=None) == 4
    last = checkpoint.CheckpointFolder(tmp_path / "all").files()[-1]
    assert train(network(), batch_size=34, patience=None, resume=last).epochs == 4


# -- when, and which are kept -----------------------------------------------------------------------------


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, which holds nothing else."""
    files = checkpoint.CheckpointFolder(folder).files()
    assert len(files) == len(os.listdir(folder))
    return [int(path.name[5:17]) for path in files]


@pytest.mark.parametrize(
    "every, written",
    [
        ("3steps", [3, 6, 9, 12, 15]),
        ("2 epochs", [8, 16]),
        ("1e-9minutes", None),
        (None, []),
        ("1 epoch", [4, 8, 12, 16]),
    ],
)
def test_checkpoints_are_written_as_often_as_asked(tmp_path, all_kept, every, written):
    (tmp_path / "run").mkdir()
    if every == "1e-9minutes":
        with pytest.raises(UsageError, match="checkpoint_every='1e-9minutes' does not fit"):
            Interval.parse(every)
        every, written = "0.0000001 minutes", range(1, 17)
    train(network(), patience=None, checkpoint=tmp_path / "run", checkpoint_every=every)
    assert set(steps(tmp_path / "run")) <= set(written)
    assert len(written) != 5 or steps(tmp_path / "run") == written


@pytest.mark.parametrize("text", ["", "5", "0steps", "1.5 epochs", "-1 minutes", "2 hours", "steps", 10])
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(UsageError, match=r"checkpoint_every=.* does not fit; give a number of steps, epochs or"):
        train(network(), checkpoint="unused", checkpoint_every=text)


def test_the_last_two_and_the_best_are_kept(tmp_path):
    net = network()
    y = np.where(np.arange(34) < 30, 0, 1)  # it learns one class, and then does worse and worse on the others
    validation = (X[34:], np.full(10, 2))
    history = gpubp.train(
        net, X[ROWS], y, validation_data=validation, epochs=6, checkpoint=tmp_path, checkpoint_every="1epochs"
    )
    best = int(np.argmin(history.validation_loss)) + 1
    assert best < 5 and steps(tmp_path) == [best, 5, 6]


def test_a_training_that_goes_on_writes_into_its_folder_and_what_lay_beyond_goes(tmp_path, all_kept, monkeypatch):
    train(network(), patience=None, checkpoint=tmp_path, checkpoint_every="4steps")
    monkeypatch.undo()
    litter = tmp_path / ".step-000000000005.safetensors.0badcafe"
    litter.write_bytes(b"of a writer that was killed")
    train(
        network(), patience=None, epochs=4, resume=tmp_path / "step-000000000004.safetensors", checkpoint_every="7steps"
    )
    assert set(steps(tmp_path)) >= {7, 14} and set(steps(tmp_path)) <= {4, 7, 14}


def test_a_training_goes_on_while_its_checkpoint_is_written(tmp_path, monkeypatch):
    written = threading.Event()
    save = serialization.save
    epochs: list[int] = []

    def slow(*arguments: Any) -> None:
        assert written.wait(30)
        save(*arguments)

    def look(net: gpubp.MLP, history: gpubp.History) -> None:
        epochs.append(history.epochs)
        if history.epochs == 3:
            written.set()

    monkeypatch.setattr(serialization, "save", slow)
    train(network(), patience=None, checkpoint=tmp_path, checkpoint_every="2epochs", callbacks=[look])
    assert epochs == [1, 2, 3, 4] and steps(tmp_path) == [8, 16]


# -- interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("within", [True, False])
def test_a_signal_ends_a_training_between_two_steps_and_it_goes_on_with_the_same_bits(
    tmp_path, monkeypatch, number, within
):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests were started so that this signal is ignored")
    net = network()
    unbroken = everything(net, train(net))
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    net, drawn = network(), host(network().theta).copy()
    if within:
        monkeypatch.setattr(checkpoint, "LOOK", 0.0)  # one step at a time
        most_steps, calls = checkpoint.Checkpoints.most_steps, []

        def send(self: Any, step: int) -> int:
            calls.append(step)
            if step == 6:
                os.kill(os.getpid(), number)
            return most_steps(self, step)

        monkeypatch.setattr(checkpoint.Checkpoints, "most_steps", send)
        callbacks = []
    else:
        callbacks = [lambda net, history: os.kill(os.getpid(), number) if history.epochs == 2 else None]
    with pytest.raises(TrainingInterrupted, match="resume from") as caught:
        train(net, checkpoint=tmp_path, checkpoint_every=None, callbacks=callbacks)
    assert before == {one: signal.getsignal(one) for one in before}
    interrupted = caught.value
    assert interrupted.signal == number and interrupted.checkpoint == tmp_path
    assert interrupted.history.stopped == "interrupted" and interrupted.history.epochs == (1 if within else 2)
    assert not np.array_equal(host(net.theta), drawn)
    monkeypatch.undo()
    net = network()
    assert everything(net, train(net, resume=tmp_path)) == unbroken


def test_a_training_that_is_ended_in_its_first_epoch_goes_on_without_a_best(tmp_path, monkeypatch):
    net = network()
    unbroken = everything(net, train(net))

    def send(self: Any, step: int) -> int:
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
        return 1

    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted):
        patch.setattr(checkpoint.Checkpoints, "most_steps", send)
        train(network(), checkpoint=tmp_path, checkpoint_every=None)
    _, about = serialization.load(checkpoint.newest(tmp_path))
    assert about["checkpoint"]["best"] is None and about["checkpoint"]["epoch"] == 0
    net = network()
    assert everything(net, train(net, resume=tmp_path)) == unbroken


def test_outside_the_main_thread_nothing_is_caught_and_checkpoints_are_written(tmp_path):
    thread = threading.Thread(
        target=train, args=[network()], kwargs={"checkpoint": tmp_path, "checkpoint_every": "1epoch"}
    )
    thread.start()
    thread.join()
    assert steps(tmp_path)


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt = [lambda net, history: os.kill(os.getpid(), signal.SIGINT)]
        assert train(network(), checkpoint=tmp_path, checkpoint_every=None, callbacks=interrupt).epochs
    finally:
        signal.signal(signal.SIGINT, previous)


# -- faults -----------------------------------------------------------------------------------------------


class FaultyFile:
    """A file whose k-th write fails."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FaultyFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.file.close()

    def write(self, data: Any) -> None:
        self.faults.happen("write")
        self.file.write(data)


class Faults:
    """Lets the call number `at` of all writes, fsyncs and renames fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int, at: int) -> None:
        self.code, self.at, self.calls = code, at, []
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))
        fdopen = os.fdopen
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: FaultyFile(fdopen(handle, mode), self))

    def happen(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.at:
            raise OSError(self.code, os.strerror(self.code))

    def _failing(self, name: str, call: Any) -> Any:
        def failing(*arguments: Any) -> Any:
            self.happen(name)
            return call(*arguments)

        return failing


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, *(pytest.param(code, marks=pytest.mark.thorough) for code in (errno.EIO, errno.EACCES))],
    ids=errno.errorcode.get,
)
def test_a_fault_at_any_write_fsync_or_rename_leaves_the_checkpoint_before(tmp_path, monkeypatch, code):
    monkeypatch.setattr(serialization, "_LARGE", 0)  # flushed before the digest is there, and after
    first = tmp_path / "first"
    train(network(), epochs=2, checkpoint=first, checkpoint_every="4steps")
    expected = {path.name: path.read_bytes() for path in first.iterdir()}
    at, failed = 0, []
    while True:
        at += 1
        folder = tmp_path / f"fault {at}"
        shutil.copytree(first, folder)
        net = network()
        with monkeypatch.context() as patch:
            faults = Faults(patch, code, at)
            try:
                train(net, epochs=2, resume=folder / "step-000000000004.safetensors", checkpoint_every="4steps")
            except CheckpointError as error:
                failed.append(faults.calls[-1])
                text = str(error)
            else:
                if len(faults.calls) < at:
                    break
                assert code == errno.EACCES and faults.calls[at - 1] == "fsync", "a folder that cannot be flushed"
                continue
        assert f"{folder / 'step-000000000008.safetensors'}: cannot be written ({os.strerror(code)}; " in text
        assert f" bytes needed); of the checkpoints, {folder / 'step-000000000004.safetensors'} is intact" in text
        before = folder / "step-000000000004.safetensors"
        assert before.read_bytes() == expected[before.name]
        assert not [name for name in os.listdir(folder) if name.startswith(".")]
        assert np.isfinite(host(net.theta)).all()
        assert train(network(), epochs=2, resume=before).epochs == 2
    assert failed[:2] == ["write", "write"] and {"fsync", "replace"} <= set(failed) and failed.count("write") > 10
    assert failed.count("fsync") >= 2


@pytest.mark.thorough
def test_a_full_disk_in_a_process_of_its_own_keeps_the_checkpoint_before(tmp_path):
    """RLIMIT_FSIZE: what the system does itself where a disk is full."""
    pytest.importorskip("resource")
    program = (
        "import resource, sys, numpy as np, gpubp\n"
        "X, y = np.ones((8, 50)), np.arange(8) % 2\n"
        "def limit(net, history):\n"
        "    if history.epochs == 1:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "net = gpubp.MLP([50, 50, 2], device='cpu-reference')\n"
        "try:\n"
        "    gpubp.train(net, X, y, epochs=3, checkpoint=sys.argv[1], checkpoint_every='1epochs', callbacks=[limit])\n"
        "except gpubp.CheckpointError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "File too large" in run.stdout and "bytes needed" in run.stdout
    assert os.listdir(tmp_path) in ([], ["step-000000000001.safetensors"])


# -- kills ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed that were forked")
@pytest.mark.parametrize(
    "kills", [pytest.param(8, marks=pytest.mark.thorough), pytest.param(200, marks=pytest.mark.slow)]
)
def test_kills_at_random_moments_tear_nothing_lose_nothing_and_leave_no_litter(tmp_path, kills):
    program = Path(__file__).parents[1] / "support" / "killed_trainings.py"
    run = subprocess.run(
        [sys.executable, str(program), str(tmp_path), str(kills)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].startswith(
        f"{kills} kills: 0 unreadable, 0 older, 0 litter after a restart, same bits"
    )


# -- what is refused --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoints of a training."""
    train(network(), checkpoint=tmp_path / "run", checkpoint_every="1steps")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learning_rate": 0.5}, r"settings.learning_rate is \[0.02\] there and \[0.5\] here"),
        ({"optimizer": "sgd"}, "settings.optimizer is adam there and sgd here"),
        ({"schedule": "cosine"}, r"settings.schedule is \['reduce.*'\] there and \['cosine'\] here"),
        ({"epochs": 5}, r"settings.epochs is \[4\] there and \[5\] here"),
        ({"patience": None}, r"settings.patience is \[2\] there and None here"),
        ({"seed": 4}, r"settings.seed is \[3\] there and \[4\] here"),
        ({"optimizer_options": {"beta2": 0.9}}, r"settings.beta2 is \[0.999\] there and \[0.9\] here"),
        ({"validation_data": (X[33:43], Y[34:])}, r"data.validation.X is \(10, 5\) float64 with digest \w+ there and"),
        ({"sample_weight": np.ones(34)}, r"data.training.weight is None there and \(34,\) float64 with digest"),
        ({"rows": [range(30)]}, r"data.training.rows is None there and \{'lengths': "),
    ],
)
def test_checkpoints_of_another_training_are_refused_with_both_sides_named(folder, options, message):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    net = network()
    drawn = host(net.theta).copy()
    with pytest.raises(DataError, match=rf"step-\d+.safetensors: belongs to another training: {message}"):
        train(net, resume=folder, **options)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}
    np.testing.assert_array_equal(host(net.theta), drawn)


def test_checkpoints_of_another_network_or_format_are_refused(folder, monkeypatch):
    with pytest.raises(DataError, match=r"network.layer_sizes is \[5, 6, 3\] there and \[5, 7, 3\] here"):
        train(gpubp.MLP([5, 7, 3], "tanh", seed=7, device="cpu-reference"), resume=folder)
    with pytest.raises(DataError, match="network.precision is float32 there and float64 here"):
        train(gpubp.MLP([5, 6, 3], "tanh", seed=7, device="cpu-reference", precision="float64"), resume=folder)
    monkeypatch.setattr(serialization, "FORMAT", 2)
    with pytest.raises(DataError, match="format 3, but this gpubp reads up to 2"):
        train(network(), resume=folder)


def test_a_damaged_checkpoint_is_named_with_the_one_before_and_nothing_is_overwritten(folder):
    older, newest = checkpoint.CheckpointFolder(folder).files()[-2:]
    whole = newest.read_bytes()
    flipped = bytearray(whole)
    flipped[-9] ^= 1
    twice = whole.replace(b'"began"', b'"theta"')
    for damaged in (whole[:-5], whole[:50], b"", bytes(flipped), b"\xff" * 8 + whole[8:], twice):
        newest.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{newest.name}: .*an older one is .*{older.name}"):
            train(network(), resume=folder)
        assert newest.read_bytes() == damaged
    assert train(network(), resume=older).epochs >= 1


def test_a_model_a_pickle_and_nothing_at_all_are_no_checkpoints(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: holds no checkpoint; train without resume"):
        train(network(), resume=tmp_path / "nowhere")
    network().save(tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="is a model, and no checkpoint"):
        train(network(), resume=tmp_path / "model.safetensors")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04\x95pickled" * 9)
    with pytest.raises(DataError, match=r"model\.pkl: not a readable safetensors file"):
        train(network(), resume=tmp_path / "model.pkl")


def test_a_file_is_no_folder_for_checkpoints(tmp_path: Path) -> None:
    """It is refused before the training, not at the first interrupt."""
    (tmp_path / "rows.csv").write_text("")
    for place in (tmp_path / "rows.csv", tmp_path / "rows.csv" / "below"):
        with pytest.raises(UsageError, match=r"rows\.csv is a file; give a folder for checkpoints"):
            gpubp.train(gpubp.MLP([1, 1], loss="half_squared_error"), [[1.0]], [1.0], checkpoint=place)


def test_a_new_training_does_not_begin_among_the_checkpoints_of_another(folder):
    with pytest.raises(UsageError, match="holds checkpoints already .*; go on from them with resume="):
        train(network(), checkpoint=folder)
    with pytest.raises(UsageError, match="holds checkpoints already"):
        train(network(), checkpoint=folder, resume=shutil.copytree(folder, folder.with_name("copy")))


def test_another_machine_is_said_and_goes_on(folder, monkeypatch, caplog):
    monkeypatch.setattr(np, "__version__", "9.9")
    assert train(network(), resume=folder).epochs
    assert "numpy is " in caplog.text and "there and 9.9 here; the training goes on, but perhaps not" in caplog.text
