"""Files: the digest in them, and what writers leave that were killed."""

from __future__ import annotations

import hashlib
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

import gpubp
from gpubp import MLP, DataError, UsageError, serialization
from gpubp.backends.notices import say_once
from gpubp.serialization import atomic_write, check_metadata, class_values, sweep

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


# -- metadata ---------------------------------------------------------------------------------------------

DAMAGED = "; the file is damaged or from another version"


@pytest.mark.parametrize(
    "value, schema",
    [
        ("a", str),
        (True, bool),
        (2**63 - 1, int),
        (-(2**63) + 1, int),
        (3, float),
        (-2.5, float),
        (None, None),
        ("b", frozenset({"a", "b"})),
        ([], [int]),
        ([1, 2], [int]),
        ([1, "a", None], []),
        ({"x": 1, "y": 2}, {str: int}),
        ({}, {str: int}),
        ({"a": 1, "more": "…"}, {"a": int, "b?": str}),
        ({"a": 1, "b": "x"}, {"a": int, "b?": str}),
        (None, (None, [int])),
        ([3], (None, [int])),
        ({"a": [1]}, ([str], {"a": [int]})),
    ],
)
def test_metadata_that_are_as_they_should_be(value, schema):
    check_metadata("m", value, schema)


@pytest.mark.parametrize(
    "value, schema, message",
    [
        (1, str, "m is 1, not text"),
        (1, bool, "m is 1, not true or false"),
        (True, int, "m is true, not a whole number"),
        (True, float, "m is true, not a finite number"),
        ("1", int, 'm is "1", not a whole number'),
        (1.0, int, "m is 1.0, not a whole number"),
        (2**63, int, "m is 9223372036854775808, not a whole number"),
        (-(2**63), float, "m is -9223372036854775808, not a finite number"),
        (float("inf"), float, "m is Infinity, not a finite number"),
        (0, None, "m is 0, not null"),
        ("c", frozenset({"b", "a"}), 'm is "c", not one of "a", "b"'),
        (["a"], frozenset({"a"}), 'm is ["a"], not one of "a"'),
        ({}, [int], "m is {}, not a list"),
        ([1, 2, "x"], [int], 'm[2] is "x", not a whole number'),
        ([], {"a": int}, "m is [], not a record"),
        ({"a": {"b": []}}, {"a": {"b": str}}, "m.a.b is [], not text"),
        ({"b": 1}, {"a": int, "b": int}, "m: 'a' is missing"),
        ({"a": 1, "b": 2}, {"a": int, "b?": str}, "m.b is 2, not text"),
        ({"x": 1, "y": "z"}, {str: int}, 'm.y is "z", not a whole number'),
        ([1], (None, [str]), "m[0] is 1, not text"),
        ({"a": 1}, (None, [str], {"a": str}), "m.a is 1, not text"),
        (5, (str, None), "m is 5, not text"),
        (["x" * 54], str, f'm is ["{"x" * 54}"], not text'),
        (["x" * 56], str, f'm is ["{"x" * 56}"], not text'),
        (["x" * 57], str, f'm is ["{"x" * 55}..., not text'),
    ],
)
def test_metadata_that_are_not_are_named_with_what_is_needed(value, schema, message):
    with pytest.raises(DataError) as caught:
        check_metadata("m", value, schema)
    assert str(caught.value) == message + DAMAGED


@pytest.mark.parametrize(
    "values, dtype",
    [
        (["no", "yes"], "<U3"),
        (["no", "yes"], "<U4099"),  # 4096 more than the longest has
        ([0, 1, 2], "<i8"),
        ([0.5, 1.5], "<f4"),
        ([False, True], "|b1"),
        (["a", 1], "O"),
    ],
)
def test_classes_come_back_in_their_type(values, dtype):
    classes = class_values("classes", values, dtype)
    assert classes.tolist() == values and classes.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    "values, dtype, message",
    [
        (["no", None], "O", "classes[1] is null, not text"),
        (["a"], "M8[s]", 'classes.dtype is "M8[s]", not a type of texts or numbers'),
        (["a"], "<U2;os", 'classes.dtype is "<U2;os", not a type of texts or numbers'),
        (["no", "yes"], "<U4100", 'classes.dtype is "<U4100", not a type of texts that have 3 characters at most'),
        ([1, 2], "<U4097", 'classes.dtype is "<U4097", not a type of texts that have 0 characters at most'),
        ([300], "|u1", "classes: "),
        ([1], "|b7", "classes: "),
    ],
)
def test_classes_that_are_none_are_named(values, dtype, message):
    with pytest.raises(DataError) as caught:
        class_values("classes", values, dtype)
    assert str(caught.value).startswith(message) and str(caught.value).endswith(DAMAGED)


def test_the_first_value_that_is_not_finite_is_named_with_its_network():
    tensor = np.zeros((3, 1000))
    serialization.check_finite("m", tensor)
    tensor[1, 7], tensor[2, 3] = -np.inf, np.nan
    with pytest.raises(
        DataError, match=r"m: 2 of 3,000 values are not finite, the first, number 7 of network 1, is -inf"
    ):
        serialization.check_finite("m", tensor)


# -- what is known of a file without loading it -----------------------------------------------------------


def test_the_header_and_the_digest_are_read_without_the_tensors(path, tmp_path):
    assert serialization.header(path) == {"format": serialization.FORMAT, "about": "é"}
    first = serialization.digest(path)
    assert re.fullmatch("[0-9a-f]{64}", first) and path.read_bytes().count(first.encode()) == 1
    serialization.save(path, TENSORS, {"about": "e"})
    assert serialization.digest(path) != first
    serialization.save(path, {**TENSORS, "updates": np.arange(1, 4)}, {"about": "é"})
    assert serialization.digest(path) != first
    serialization.save(path, TENSORS, {"about": "é"})
    assert serialization.digest(path) == first


@pytest.mark.parametrize(
    "metadata", [None, {"other": "x"}, {"gpubp": "no JSON"}, {"gpubp": "[1]"}, {"gpubp": "[" * 10**5}]
)
def test_what_save_did_not_write_has_no_header_of_ours(metadata, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(2)}, path, metadata=metadata)
    assert serialization.header(path) == {} and serialization.digest(path) is None
    with pytest.raises(DataError, match=r"other\.safetensors: not (written by gpubp|a readable safetensors file)"):
        serialization.load(path)


def test_what_is_no_file_has_neither(tmp_path):
    with pytest.raises(DataError, match="absent: no such file"):
        serialization.load(tmp_path / "absent")
    (tmp_path / "text").write_text("no tensors")
    for name in ("absent", "text", "."):
        assert serialization.header(tmp_path / name) == {} and serialization.digest(tmp_path / name) is None


def test_a_network_is_a_file_or_lies_in_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"there is no model\.safetensors in this folder"):
        serialization.model_file(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        serialization.model_file(tmp_path / ("x" * 300))
    path = tmp_path / "model.safetensors"
    path.touch()
    assert serialization.model_file(tmp_path) == serialization.model_file(str(path)) == path


@pytest.mark.parametrize("chunk", [1, 64, 1 << 22])
def test_the_digest_of_an_array_is_that_of_its_values_in_their_order(chunk, monkeypatch):
    monkeypatch.setattr(serialization, "_CHUNK", chunk)
    array = np.arange(60.0).reshape(10, 6)
    expected = hashlib.sha256(array.tobytes()).hexdigest()
    for same in (array, np.asfortranarray(array), array[::-1][::-1]):
        assert serialization.digest_of_array(same) == expected
    assert serialization.digest_of_array(array[::-1]) != expected
    assert serialization.digest_of_array(array[:0]) == hashlib.sha256().hexdigest()


# -- folders ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_filled_is_renamed_or_goes(tmp_path):
    target = tmp_path / "run"
    with serialization.folder_beside(target) as folder:
        (folder / "file").write_text("whole")
        assert folder.parent == tmp_path and re.fullmatch(r"\.run\.[0-9a-f]{8}", folder.name)
        sweep(tmp_path, "run")
        assert folder.exists(), "it is locked while it is filled"
        folder.rename(target)
    assert (target / "file").read_text() == "whole"
    with pytest.raises(ZeroDivisionError), serialization.folder_beside(target) as folder:
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["run"]


def test_leftovers_of_folders_go_and_what_only_looks_like_them_stays(tmp_path):
    names = [".run.0badcafe", ".run.0badcaf", ".run.0badcafe0", ".other.0badcafe", "run.0badcafe", ".run.0badcafe.old"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".run.12345678").symlink_to(tmp_path / "run.0badcafe")
    with serialization.folder_beside(tmp_path / "run"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])


def test_a_folder_that_is_swept_away_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    made: list[Path] = []
    locked = serialization.locked

    def swept(folder: Path):
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
        return locked(folder)

    monkeypatch.setattr(serialization, "locked", swept)
    with serialization.folder_beside(tmp_path / "run") as folder:
        assert folder == made[1] != made[0] and folder.is_dir()


def test_a_file_that_is_swept_away_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    import fcntl

    flock, calls = fcntl.flock, []

    def swept(handle: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (leftover,) = tmp_path.iterdir()
            leftover.unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", swept)
    atomic_write(tmp_path / "file", b"whole")
    assert len(calls) == 2 and (tmp_path / "file").read_bytes() == b"whole" and os.listdir(tmp_path) == ["file"]


def test_long_names_have_leftovers_of_names_that_fit(tmp_path):
    path = tmp_path / ("n" * 250)
    path.with_name(f".{'n' * 240}.0badcafe").touch()
    atomic_write(path, b"x")
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_that_was_there_keeps_its_permissions_and_a_link_what_it_leads_to(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.touch()
    path.chmod(0o604)
    link.symlink_to(path)
    atomic_write(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("use", [MLP([2, 2]).save, MLP.load, gpubp.load], ids=["save", "MLP.load", "load"])
def test_what_is_no_path_is_refused_by_name(use):
    with pytest.raises(UsageError, match="path=3 does not fit; use a path, as text or pathlib's"):
        use(3)
