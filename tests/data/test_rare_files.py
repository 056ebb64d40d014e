"""What seldom happens when files are read: libraries that are missing, an interrupt, a download that broke off."""

from __future__ import annotations

import gzip
import io
import os
import sys
from datetime import date, datetime, time
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pandas as pd
import pytest

from gpubp.data import read
from gpubp.data.arrays import as_inputs
from gpubp.data.hdf5 import hdf5_test_part
from gpubp.data.schema import ColumnSchema, Schema
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


@pytest.mark.parametrize("packed", ["others", "half", "none"])
def test_a_download_that_broke_off_beside_its_contents_is_another_file(packed, tmp_path: Path):
    path = write_seed("idx/train-images-idx3-ubyte", tmp_path)
    whole = gzip.compress(path.read_bytes())
    content = {"others": SEED_FILES["table.csv.gz"](), "half": whole[: len(whole) // 2], "none": path.read_bytes()}
    path.with_name(f"{path.name}.gz").write_bytes(content[packed])
    with pytest.raises(DataError, match="hold the same part"):
        read(path.parent)
    path.with_name(f"{path.name}.gz").write_bytes(whole)
    assert read(path.parent).rows == 3


def test_pictures_beside_folders_of_pictures_are_refused(tmp_path: Path):
    path = write_seed("pictures/cat.png", tmp_path)
    write_seed("pictures/cat.png", path.parent / "cats")
    (path.parent / "cats" / "pictures" / "cat.png").rename(path.parent / "cats" / "cat.png")
    with pytest.raises(DataError, match="pictures: holds pictures beside folders of pictures; move cat.png into"):
        read(path.parent)


def test_a_folder_with_two_files_of_arrays_is_ambiguous_and_the_test_part_may_lie_beside(tmp_path: Path):
    path = write_seed("arrays.h5", tmp_path)
    path.rename(tmp_path / "train_a.h5")
    write_seed("arrays.h5", tmp_path).rename(tmp_path / "train_b.h5")
    with pytest.raises(DataError, match=r"holds train_a\.h5, train_b\.h5; name one of them"):
        read(tmp_path)


def test_standard_input_is_read_as_a_csv_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a,b\n1,2\n3,4\n")))
    data = read("-")
    assert data.name == "standard input" and data.columns["b"].tolist() == [2, 4]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(DataError, match=r"table\.csv: is a pipe or a device, and no file"):
        read(tmp_path / "table.csv")


def test_a_file_that_may_not_be_read_is_named_with_the_reason(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(DataError, match=r"table\.csv: cannot be read: Permission denied"):
        read(tmp_path / "table.csv")


def test_columns_of_built_in_tables_can_be_chosen_too():
    data = read("wine", ignore=["alcohol"], kinds={"ash": "category"})
    assert data.columns.schema.columns["alcohol"].kind == "ignored"
    assert data.columns["cultivar"].tolist()[0] == "class_0" and data.columns["ash"].dtype == object


def test_quoted_cells_are_put_together_from_pieces_and_blank_lines_are_none(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gpubp.data.csv_cells.CELLS_PER_PIECE", 4)
    lines = [f'"{chr(97 + i)}{i}",{i}\n' + "\n" * (i % 3) for i in range(11)]
    data = read(write_seed("table.csv", tmp_path, "".join(["name,x\n", *lines]).encode()), kinds={"name": "category"})
    assert data.columns["name"].tolist() == [f"{chr(97 + i)}{i}" for i in range(11)]
    assert data.columns["x"].tolist() == list(range(11))


def test_a_row_of_a_workbook_may_end_before_the_table_does(tmp_path: Path):
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (("a", "b", None), (1, None, None), (2, 3, ""), (4, 5, None)):
        book.active.append(row)
    book.active["C3"].number_format = "0.00"
    book.save(file)
    data = read(write_seed("table.xlsx", tmp_path, file.getvalue()))
    np.testing.assert_array_equal(data.columns["b"], [np.nan, 3, 5])


@pytest.mark.parametrize("width, kind", [(3, "arrays"), (2, "arrays"), (1, "table"), (5, "table")])
def test_a_matrix_is_taken_as_the_inputs_of_a_network_that_they_fit(width, kind, tmp_path: Path):
    np.save(tmp_path / "m.npy", np.arange(12.0).reshape(4, 3))
    data = as_inputs(read(tmp_path / "m.npy"), "arrays", width)
    assert data.kind == kind
    if kind == "arrays":
        assert data.X.shape == (4, width) and (data.y is None) == (width == 3)


def test_texts_of_no_length_are_texts(tmp_path: Path):
    header = b"{'descr': '<U0', 'fortran_order': False, 'shape': (4,)}".ljust(117) + b"\n"
    np.save(tmp_path / "X.npy", np.zeros((4, 2, 1)))
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert read(tmp_path / "X.npy").y.tolist() == [""] * 4


def test_the_sign_before_decimals_may_be_another_in_prediction():
    schema = Schema({"a": ColumnSchema("number", "all cells are numbers")})
    assert schema.with_decimal(",").options.decimal == "," and schema.options.decimal != ","
    with pytest.raises(UsageError, match="decimal"):
        schema.with_decimal("x")


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
    (note,) = (note for note in data.notes if "latin-1" in note)
    assert note.startswith("table.csv, line 2: ")


def test_an_encoding_that_does_not_fit_or_is_none_is_named(tmp_path: Path):
    path = write_seed("table.csv", tmp_path, b"a,b\n\xff,1\n")
    with pytest.raises(DataError, match="line 2: is not written in utf-8"):
        read(path, encoding="utf-8")
    with pytest.raises(UsageError, match="there is none"):
        read(path, encoding="utf-99")


@pytest.mark.parametrize("option", [{"ignore": ["pixel"]}, {"missing": ["?"]}], ids=["ignore", "missing"])
def test_options_on_columns_are_refused_where_there_are_none(option):
    with pytest.raises(UsageError, match="arrays without named columns"):
        read("digits", **option)


def test_a_part_without_pictures_is_named(tmp_path: Path):
    write_seed("pictures/cat.png", tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"test: holds no pictures"):
        read(tmp_path)


def test_a_training_file_of_arrays_needs_no_test_file_beside_it(tmp_path: Path):
    path = write_seed("arrays.h5", tmp_path).rename(tmp_path / "train.h5")
    assert set(hdf5_test_part(path)) in (set(), {"X", "y"})
    with h5py.File(tmp_path / "train_more.h5", "w") as file:
        file["X"], file["y"] = np.zeros((3, 2)), np.arange(3)
    assert hdf5_test_part(tmp_path / "train_more.h5") == {}
