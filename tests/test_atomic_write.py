"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gpubp import MLP, UsageError
from gpubp.serialization import atomic_write
from support.machines import host


def test_atomic_write_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    atomic_write(path, b"old")
    atomic_write(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(path.parent) == ["file.bin"]


def test_atomic_write_gives_the_permissions_that_open_would(tmp_path):
    previous = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


class FullDisk:
    """A file that takes three bytes and then no more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[:3])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["write", "fsync", "replace", "open", "interrupt"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, fault):
    path = tmp_path / "m.safetensors"
    net = MLP([4, 5, 3])
    net.save(path)
    before = path.read_bytes()

    def fail(*arguments, **keywords):
        if fault == "interrupt":
            raise KeyboardInterrupt
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    open_file = os.fdopen
    if fault == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(open_file(handle, mode)))
    else:
        monkeypatch.setattr(os, "fsync" if fault == "interrupt" else fault, fail)
    net.theta += 1
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else UsageError) as caught:
        net.save(path)
    monkeypatch.undo()

    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]
    if fault != "interrupt":
        assert str(path) in str(caught.value) and f"{len(before):,} bytes needed" in str(caught.value)
        expected = "No space left on device" if fault == "write" else "Input/output error"
        assert expected in str(caught.value)


def test_a_real_limit_on_the_size_of_files_is_survived(tmp_path):
    """RLIMIT_FSIZE in a process of its own: the same as a disk that fills up while writing."""
    path = tmp_path / "m.safetensors"
    MLP([4, 5, 3]).save(path)
    before = path.read_bytes()
    program = (
        "import resource, sys, gpubp\n"
        "net = gpubp.MLP([200, 200, 3])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    net.save(sys.argv[1])\n"
        "except gpubp.UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert f"{path}: cannot be written" in done.stdout and "bytes needed" in done.stdout
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    """SIGKILL at moments unrelated to the writing, which goes on all the time."""
    path = tmp_path / "m.safetensors"
    program = (
        "import sys, gpubp\n"
        "net = gpubp.MLP([100, 200, 3])\n"
        "while True:\n"
        "    net.theta += 1\n"
        "    net.save(sys.argv[1])\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program, str(path)]) as writer:
            deadline = time.monotonic() + 20
            start = path.stat().st_mtime_ns if path.exists() else 0
            while (not path.exists() or path.stat().st_mtime_ns == start) and time.monotonic() < deadline:
                time.sleep(0.003)
            writer.send_signal(signal.SIGKILL)
        net = MLP.load(path)
        assert np.unique(host(net.theta)[0, net.stack.layout.bias_starts[0] :][:200]).size == 1  # all of one moment


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    blocked = Path(tmp_path / "file")
    blocked.write_text("not a folder")
    with pytest.raises(UsageError, match="cannot be written"):
        MLP([3, 2]).save(blocked / "m.safetensors")
    with pytest.raises(UsageError, match="cannot be written"):
        MLP([3, 2]).save(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
