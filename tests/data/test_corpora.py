"""Corpora made by code: odd tables are read right, hostile and damaged files are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import corpora
from benchmarks.audit import Watch
from gpubp import GpubpError
from gpubp.data import read
from support.hostile_files import MADE, damaged
from support.odd_tables import GAPS, MEANT, differences, odd_tables
from support.seed_files import SEED_FILES, read_whole, write_seed

# Text may be in any encoding, so these are read, and what was taken for it is said.
GUESSED = {"half_a_character.csv", "pdf.csv"}
# What takes seconds to be made, as it unpacks to hundreds of megabytes.
BOMBS = {"zeros.csv.gz", "zeros.npz", "zeros.xlsx", "compressed.h5", "dictionary.parquet", "entities.xlsx"}
ALLOWED_MEGABYTES = 200  # beyond the data that a file declares


def test_the_corpora_are_as_large_as_promised():
    assert len(odd_tables()) >= 100 and len(MADE) >= 80


@pytest.mark.parametrize("table", odd_tables(), ids=lambda table: table.name)
def test_odd_tables_are_read_right(table, tmp_path: Path):
    assert not differences(read(table.source(tmp_path), **table.options).columns, table.meant)


def test_what_is_read_wrong_would_be_seen():
    columns = {name: np.array(cells, object) for name, cells in MEANT.items()}
    assert not differences(columns, MEANT)
    assert "None is meant" in differences(columns, GAPS)
    assert "are meant" in differences(dict(reversed(columns.items())), MEANT)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.thorough] * (name in BOMBS), id=name) for name in MADE]
)
def test_hostile_files_are_refused_by_name(name, tmp_path: Path):
    path = write_seed(name, tmp_path, MADE[name]())
    if name in GUESSED:
        assert any("latin" in note.lower() or "cp1252" in note.lower() for note in read_whole(path).notes)
        return
    with pytest.raises(GpubpError) as caught:
        read_whole(path)
    assert path.name in str(caught.value)


def test_seed_files_are_read(tmp_path: Path):
    for name in SEED_FILES:
        read_whole(write_seed(name, tmp_path))


def test_damaged_files_are_read_or_refused(tmp_path: Path):
    for name, content in damaged(3).items():
        file = name.partition("/")[2]
        try:
            read_whole(write_seed(file, tmp_path, content))
        except GpubpError:
            pass


@pytest.mark.thorough
def test_no_file_runs_code_or_takes_memory_that_it_does_not_declare():
    outcomes = corpora.hostile_files_read(5)
    assert not outcomes["events"] and not outcomes["tracebacks"]
    declared = {"zeros.csv.gz": 4 * 80 * 2**20 / 1e6}  # text, which is unpacked until it is too much
    assert all(grown <= ALLOWED_MEGABYTES + declared.get(name, 0) for name, grown in outcomes["megabytes"].items())


def test_code_that_is_run_would_be_heard():
    watch = Watch()
    for listens in (False, True):
        watch.listens = listens
        for event in ("pickle.find_class", "os.system", "socket.connect", "open"):
            watch(event, ())
    assert watch.events == ["pickle.find_class", "os.system", "socket.connect"]
