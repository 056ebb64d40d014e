"""Excel workbooks are read as the CSV file of their first sheet would be."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubp.data import read
from gpubp.errors import DataError

openpyxl = pytest.importorskip("openpyxl", reason="Excel files need openpyxl")


def save(path: Path, *rows: list[Any], others: int = 0) -> Path:
    book = openpyxl.Workbook()
    book.active.title = "prices"
    for row in rows:
        book.active.append(row)
    for i in range(others):
        book.create_sheet(f"other {i}")
    book.save(path)
    return path


def test_cells_are_what_they_are(tmp_path: Path) -> None:
    rows = [[1, 2.5, "red", True, datetime(2024, 2, 29)], [None, "3", 'say "a,\nb"', False, None]]
    data = read(save(tmp_path / "t.xlsx", ["a", "b", "c, d", "e", "day"], *rows), "b")
    assert data.kind == "table" and data.name == "t.xlsx" and data.target == "b" and data.rows == 2
    np.testing.assert_array_equal(data.columns["a"], [1, np.nan])
    np.testing.assert_array_equal(data.columns["b"], [2.5, 3])
    assert data.columns["c, d"].tolist() == ["red", 'say "a, b"']
    assert list(data.columns) == ["a", "b", "c, d", "e", "day"]


def test_rows_and_columns_that_are_empty_to_the_end_are_none(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", ["a", "b"], [1, 2], [3, 4], others=2)
    book = openpyxl.load_workbook(path)
    book.worksheets[0]["F40"].font = openpyxl.styles.Font(bold=True)
    book.save(path)
    data = read(path)
    assert data.rows == 2 and list(data.columns) == ["a", "b"]
    assert 'sheet "prices", the first of 3' in data.notes


def test_rows_are_named_as_in_the_sheet(tmp_path: Path) -> None:
    data = read(save(tmp_path / "t.xlsx", ["a", "b"], *([i, i] for i in range(30))))
    assert data.where(3, "b") == 't.xlsx, line 5, column "b"'


def test_rows_without_cells_between_others_have_no_values(tmp_path: Path) -> None:
    data = read(save(tmp_path / "t.xlsx", ["a", "b"], [1, 2], [None, None], [None, None], [3, 4]))
    np.testing.assert_array_equal(data.columns["a"], [1, np.nan, np.nan, 3])
    assert data.place(3) == "line 5"


def test_eight_bytes_are_declared_by_each_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[int] = []
    monkeypatch.setattr("gpubp.data.excel.check_size", lambda name, size, stored: declared.append(size))
    read(save(tmp_path / "t.xlsx", ["a", "b", "c"], [1, 2, 3], [4, 5, 6]))
    assert declared[1:] == [24, 48, 72], "behind what the archive unpacks to"


def test_a_workbook_that_unpacks_to_too_much_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, size: int, stored: int) -> None:
        raise DataError(f"{name}: would unpack to too much")

    monkeypatch.setattr("gpubp.data.excel.check_size", refuse)
    with pytest.raises(DataError, match=r"^t\.xlsx: would unpack to too much$"):
        read(save(tmp_path / "t.xlsx", ["a", "b"], [1, 2]))


def test_formulas_without_values_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", ["a", "b"], [1, "=A2+1"], [2, 5])
    with pytest.raises(
        DataError, match=r"t.xlsx, line 2, column 2: the value of the formula =A2\+1 was never computed"
    ):
        read(path)


def test_cells_beside_the_table_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "t.xlsx", ["a", "b"], [1, 2])
    book = openpyxl.load_workbook(path)
    book.worksheets[0]["XFD9000"] = 1
    book.save(path)
    with pytest.raises(DataError, match="t.xlsx, line 9000: 16384 cells where the first row names 2 column"):
        read(path)
    with pytest.raises(DataError, match="line 2: 2 cells where the first row names 1 .* above or beside the table"):
        read(save(tmp_path / "title.xlsx", ["Sales"], ["a", "b"], [1, 2]))


def test_an_empty_sheet_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="t.xlsx"):
        read(save(tmp_path / "t.xlsx"))
