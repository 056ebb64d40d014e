"""Dates and times become numbers that a network can use, whatever the time zone."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from gpubp.data import encode, prepare, read
from gpubp.data.dates import ISO, parse_date, part_of_date, possible_formats
from gpubp.errors import DataError

Y = [i % 3 * 1.5 for i in range(60)]


def write(path: Path, **columns: list[object]) -> Path:
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows, ""]))
    return path


@pytest.mark.parametrize(
    ("text", "date_format", "seconds"),
    [
        ("1970-01-02", ISO, 86400),
        ("1970-01-01 01:00", ISO, 3600),
        ("1970-01-01T01:00:00.5", ISO, 3600.5),
        ("1970-01-01T01:00:00Z", ISO, 3600),
        ("1970-01-01 01:00:00+01:00", ISO, 0),
        ("1970-01-01 00:00:00+00", ISO, 0),
        ("1970-01-01T00:00:00.000000000", ISO, 0),
        ("1969-12-31", ISO, -86400),
        ("31.1.1970", "%d.%m.%Y", 30 * 86400),
        ("01/31/1970 1:30", "%m/%d/%Y %H:%M", 30 * 86400 + 5400),
        ("31 Jan 1970", "%d %b %Y", 30 * 86400),
    ],
)
def test_dates_as_people_write_them(text: str, date_format: str, seconds: float) -> None:
    assert possible_formats([text]) == [date_format]
    assert parse_date(text, date_format) == seconds


@pytest.mark.parametrize("text", ["2024-13-01", "12:30", "1.2.3.4", "A12", "2024", "20240131", "31/31/2024", "", "red"])
def test_texts_that_are_no_dates(text: str) -> None:
    assert possible_formats([text]) == []


def test_parts_of_a_date() -> None:
    seconds = np.array([parse_date("2024-02-29 18:30", ISO), np.nan, parse_date("1969-12-31 06:00", ISO)], np.float64)
    np.testing.assert_array_equal(part_of_date(seconds, "month"), [1, np.nan, 11])
    np.testing.assert_array_equal(part_of_date(seconds, "weekday"), [3, np.nan, 2])
    np.testing.assert_array_equal(part_of_date(seconds, "hour"), [18.5, np.nan, 6])


def test_parts_that_vary_are_inputs_and_that_is_said(tmp_path: Path) -> None:
    days = [f"2024-03-{i % 28 + 1:02}" for i in range(60)]
    ready = prepare(read(write(tmp_path / "t.csv", day=days, y=Y)), test=0)
    names = ready.preprocessing["features"]["numbers"]["names"]
    assert names == ["day", "day (weekday, sine)", "day (weekday, cosine)"]
    said = 'column "day": dates such as "2024-03-01", read as seconds in UTC, beside weekday as sine and cosine; '
    assert said + "for categories, --kind day=category" in ready.notes
    rows = read(write(tmp_path / "rows.csv", day=["2025-12-01", "NA"]))
    X, _ = encode(ready.preprocessing, rows, dtype=np.float64)
    assert X.shape == (2, 3) and X[1, 0] == 0  # the median stands for a day that is missing


def test_dates_of_every_file_are_alike(tmp_path: Path) -> None:
    times = [f"2024-03-{i % 28 + 1:02} {i % 24:02}:00:00" for i in range(60)]
    preprocessing = prepare(read(write(tmp_path / "t.csv", t=times, y=Y)), test=0).preprocessing
    typed = tmp_path / "typed.parquet"
    duckdb.execute(
        f"COPY (SELECT t::TIMESTAMP AS t FROM read_csv('{tmp_path / 't.csv'}', all_varchar=true)) TO '{typed}'"
    )
    X = encode(preprocessing, read(tmp_path / "t.csv"))[0]
    np.testing.assert_array_equal(encode(preprocessing, read(typed))[0], X)
    pandas = pytest.importorskip("pandas")
    np.testing.assert_array_equal(encode(preprocessing, read(pandas.DataFrame({"t": pandas.to_datetime(times)})))[0], X)


def test_days_that_may_be_months_stay_categories_aloud(tmp_path: Path) -> None:
    days = [f"{i % 12 + 1:02}/{i % 7 + 1:02}/2024" for i in range(60)]
    path = write(tmp_path / "t.csv", day=days, x=[i % 7 for i in range(60)], y=Y)
    data = read(path)
    assert data.columns["day"].dtype == object
    assert any('"01/01/2024" may have the day or the month first' in note for note in data.notes)
    with pytest.raises(DataError, match='column "day": --kind day=date needs dates'):
        prepare(read(path, kinds={"day": "date"}))


def test_cells_that_are_no_dates_are_named(tmp_path: Path) -> None:
    days = [f"2024-03-{i % 28 + 1:02}" for i in range(60)]
    preprocessing = prepare(read(write(tmp_path / "t.csv", day=days, y=Y)), test=0).preprocessing
    with pytest.raises(DataError, match='rows.csv, line 3, column "day": "soon" is not a date'):
        encode(preprocessing, read(write(tmp_path / "rows.csv", day=["2024-03-01", "soon"])))
    with pytest.raises(DataError, match='lacks "day", on which'):
        encode(preprocessing, read(write(tmp_path / "rows.csv", other=["2024-03-01", "soon"])))
