"""What seldom happens when files are read: libraries that are missing, an interrupt, a download that broke off."""

from __future__ import annotations

import io
import sys
from datetime import date, datetime, time
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from gpubp.data import read
from gpubp.errors import DataError, UsageError
from support.seed_files import SEED_FILES, read_whole, write_seed


@pytest.mark.parametrize(
    ("library", "name", "extra"),
    [("h5py", "arrays.h5", "hdf5"), ("PIL", "pictures/cat.png", "images"), ("openpyxl", "table.xlsx", "excel")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(library, name, extra, tmp_path: Path, monkeypatch):
    path = write_seed(name, tmp_path)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"pip install 'gpubp\[{extra}\]'"):
        read_whole(path)


@pytest.mark.parametrize(("said", "raised"), [("Query interrupted", KeyboardInterrupt), ("a fault", RuntimeError)])
def test_an_interrupt_while_a_parquet_file_is_read_is_one(said, raised, tmp_path: Path, monkeypatch):
    class Connection:
        def execute(self, *_):
            raise RuntimeError(said)

    monkeypatch.setattr("duckdb.connect", lambda *_, **__: Connection())
    with pytest.raises(raised):
        read(write_seed("table.parquet", tmp_path, b"PAR1"))


def test_a_download_that_broke_off_beside_its_contents_is_another_file(tmp_path: Path):
    path = write_seed("idx/train-images-idx3-ubyte", tmp_path)
    path.with_name(f"{path.name}.gz").write_bytes(SEED_FILES["table.csv.gz"]()[:-9])
    with pytest.raises(DataError, match="hold the same part"):
        read(path.parent)


def test_times_in_a_workbook_are_read_as_they_are_shown(tmp_path: Path):
    book, file = openpyxl.Workbook(), io.BytesIO()
    rows = [("day", "moment", "hour", "yes", "y"), (date(2024, 1, 2), datetime(2024, 1, 2, 3, 4), time(5, 6), True, 1)]
    for row in (*rows, (date(2024, 1, 3), datetime(2024, 1, 3, 4, 5), time(6, 7), False, 2)):
        book.active.append(row)
    book.save(file)
    path = write_seed("table.xlsx", tmp_path, file.getvalue())
    cells = {
        name: column.tolist() for name, column in read(path, kinds=dict.fromkeys(["hour"], "category")).columns.items()
    }
    assert cells["hour"] == ["05:06:00", "06:07:00"] and cells["yes"] == ["true", "false"]
    assert cells["moment"][1] - cells["moment"][0] == pytest.approx((24 * 60 + 61) * 60)


@pytest.mark.parametrize(
    "frame, message",
    [
        (pd.DataFrame({"a": []}), "data frame: holds no row; give at least one"),
        (pd.DataFrame(np.ones((2, 3)), columns=["b", "a", "a"]), 'data frame: two columns are called "a"; rename one'),
        (pd.DataFrame(np.ones((2, 2)), columns=["", ""]), 'data frame: two columns are called ""; rename one'),
        (pd.DataFrame(np.ones((2, 2)), columns=[1, "1"]), 'data frame: two columns are called "1"; rename one'),
    ],
    ids=["no row", "two names", "no names", "a name as number and text"],
)
def test_data_frames_without_rows_or_with_one_name_twice_are_refused(frame, message):
    with pytest.raises(DataError, match=message):
        read(frame)


def test_bytes_that_cp1252_does_not_know_are_latin_1(tmp_path: Path):
    data = read(write_seed("table.csv", tmp_path, b"a,b\nx\x81\xe9,1\ny,2\n"))
    assert data.columns["a"].tolist() == ["x\x81\xe9", "y"]
    assert any("latin-1" in note for note in data.notes)


def test_an_encoding_that_does_not_fit_or_is_none_is_named(tmp_path: Path):
    path = write_seed("table.csv", tmp_path, b"a,b\n\xff,1\n")
    with pytest.raises(DataError, match="line 2: is not written in utf-8"):
        read(path, encoding="utf-8")
    with pytest.raises(UsageError, match="there is none"):
        read(path, encoding="utf-99")
