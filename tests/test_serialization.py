"""Files: the digest in them, and what writers leave that were killed."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpubp import MLP, DataError, serialization
from gpubp.backends.notices import say_once
from gpubp.serialization import atomic_write, sweep

TENSORS = {
    "active": np.array([True, False, True]),
    "updates": np.arange(3),
    "theta": np.arange(6, dtype=np.float32).reshape(3, 2),
    "best": np.linspace(0, 1, 4),
    "empty": np.empty((0, 3)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    serialization.save(tmp_path / "m.safetensors", TENSORS, {"about": "é"})
    return tmp_path / "m.safetensors"


def test_what_is_saved_is_what_the_library_of_the_format_reads(path):
    read, metadata = serialization.load(path)
    assert metadata == {"format": serialization.FORMAT, "about": "é"}
    for tensors in (read, load_file(path)):
        assert tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(tensors[name], tensor, strict=True)


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.thorough)])
def test_no_flipped_bit_is_silent(path, stride):
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, stride):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read, metadata = serialization.load(path)
        except DataError as error:
            assert str(path) in str(error)
        else:  # white space of the header, or a letter of a key of JSON that stands for the same one
            assert metadata == {"format": serialization.FORMAT, "about": "é"}
            assert all(np.array_equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_a_truncated_file_an_oversized_header_and_keys_that_stand_twice_are_refused(path):
    whole = path.read_bytes()
    twice = whole.replace(b'"updates"', b'"active" ')  # of one length
    for damaged in (b"", whole[:7], whole[:100], whole[:-1], b"\xff" * 8 + whole[8:], b"\0" * 8, twice):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"m\.safetensors: .*(not a readable safetensors|damaged)"):
            serialization.load(path)


def test_a_file_from_before_there_was_a_digest_loads_with_one_line(tmp_path, caplog):
    path = tmp_path / "old.safetensors"
    save_file({"theta": TENSORS["theta"]}, path, metadata={"gpubp": json.dumps({"format": 2})})
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "gpubp"):
        for _ in range(2):
            np.testing.assert_array_equal(serialization.load(path)[0]["theta"], TENSORS["theta"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: of format 2, which has no digest, so damage would not be noticed; save it anew"
    ]


def test_a_new_file_without_its_digest_is_damaged(path):
    tensors, metadata = serialization.load(path)
    save_file(tensors, path, metadata={"gpubp": json.dumps(metadata)})
    with pytest.raises(DataError, match="damaged"):
        serialization.load(path)


WRITER = """
import os, sys, time
from gpubp.serialization import atomic_writer
with atomic_writer(sys.argv[1], 1) as file:
    file.write(b"x" * 10000)
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there, and leftovers stay")
def test_leftovers_of_a_killed_writer_are_removed_and_those_of_a_live_one_are_not(tmp_path):
    path, other = tmp_path / "model.safetensors", tmp_path / ".model.safetensors.backup"
    other.write_bytes(b"somebody else's")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    try:
        writer.stdout.readline()
        atomic_write(path, b"mine")
        sweep(tmp_path, r".*\.safetensors")
        assert len(os.listdir(tmp_path)) == 3, "the other one still writes"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        atomic_write(path, b"mine again")
        assert sorted(os.listdir(tmp_path)) == [other.name, path.name]
    finally:
        writer.kill()
        writer.communicate()


def test_a_network_with_a_flipped_weight_is_not_loaded(tmp_path):
    path = tmp_path / "net.safetensors"
    MLP([4, 3, 2], device="cpu-reference").save(path)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 16
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=re.escape(f"{path}: the file is damaged")):
        MLP.load(path)
