"""Tables that could be read wrong in silence, or take gigabytes: each is read right, or refused or said aloud."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from gpubp.data import decode, encode, prepare, read
from gpubp.data.source import UNCHECKED_BYTES
from gpubp.errors import DataError, UsageError


def test_a_long_text_that_a_dictionary_repeats_is_refused(tmp_path: Path) -> None:
    path, length = tmp_path / "bomb.parquet", 200_000
    rows = UNCHECKED_BYTES // length + 100
    duckdb.execute(
        f"COPY (SELECT repeat('a', {length}) AS t, i % 7 AS x, i % 3 AS y FROM range({rows}) r(i)) TO '{path}' "
        "(DICTIONARY_SIZE_LIMIT 300000)"
    )
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="bytes on disk declare"):
        read(path)
    assert read(path, ignore=["t"]).rows == rows


def test_letters_that_mean_missing_are_said_and_can_be_a_category(tmp_path: Path) -> None:
    path = tmp_path / "countries.csv"
    countries = ["NA", "DE", "FR", ""]
    path.write_text("country,y\n" + "".join(f"{countries[i % 4]},{i % 4 % 3}\n" for i in range(40)))
    prepared = prepare(read(path), test=0)
    (note,) = [note for note in prepared.notes if "country" in note and "NA" in note]
    assert '10 cells ("NA") among texts, read as missing' in note and "--kind country=category" in note
    assert prepared.preprocessing["features"]["categories"][0]["values"] == ["DE", "FR"]
    prepared = prepare(read(path, kinds={"country": "category"}), test=0)
    assert prepared.preprocessing["features"]["categories"][0]["values"] == ["DE", "FR", "NA"]
    path.write_text('country\nNA\nDE\n""\n')
    X, _ = encode(prepared.preprocessing, read(path, trained=prepared.preprocessing))
    np.testing.assert_array_equal(X, [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def test_a_date_is_predicted_as_seconds_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "deliveries.csv"
    path.write_text("x,due\n" + "".join(f"{i % 9},2024-03-{i % 28 + 1:02}\n" for i in range(60)))
    prepared = prepare(read(path), test=0)
    assert 'target: "due" holds dates; predictions are seconds since 1970, in UTC' in prepared.notes
    assert prepared.task == "regression"
    X, y = prepared.train
    seconds = decode(prepared.preprocessing, y)["prediction"]
    np.testing.assert_allclose(seconds[0], np.datetime64("2024-03-01").astype("datetime64[s]").astype(float), atol=60)
    _, again = encode(prepared.preprocessing, read(path, trained=prepared.preprocessing))
    np.testing.assert_array_equal(again, y)


def test_years_name_columns_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "years.csv"
    path.write_text("2021,2022,2023\n" + "".join(f"{i}.5,{i * 3 % 7},{i % 5}.25\n" for i in range(30)))
    with pytest.raises(DataError, match="if it does, --header; if it is a row, --no-header"):
        read(path)
    assert list(read(path, header=True).columns) == ["2021", "2022", "2023"]
    prepared = prepare(read(path, header=True), test=0)
    assert encode(prepared.preprocessing, read(path, trained=prepared.preprocessing))[0].shape[0] == 30
    assert read(path, header=False).rows == 31


def test_rows_to_predict_may_be_written_in_another_way(tmp_path: Path) -> None:
    trained, rows = tmp_path / "train.csv", tmp_path / "rows.csv"
    names = ["Köln", "Paris"]
    trained.write_text("city|y\n" + "".join(f"{names[i % 2]}|{i % 2}.5\n" for i in range(30)), encoding="latin-1")
    prepared = prepare(read(trained, encoding="latin-1", delimiter="|"), test=0)
    rows.write_text("city;y\nKöln;0.5\n", encoding="utf-8")
    with pytest.raises(DataError):
        encode(prepared.preprocessing, read(rows, trained=prepared.preprocessing))
    data = read(rows, trained=prepared.preprocessing, delimiter=";", encoding="utf-8")
    np.testing.assert_array_equal(encode(prepared.preprocessing, data)[0], [[1, 0]])


def test_options_that_contradict_each_other() -> None:
    from gpubp.cli.parsing import parse_table_options

    options = dict.fromkeys(("ignore", "kind", "missing", "decimal", "delimiter", "encoding"))
    with pytest.raises(UsageError, match="--header and --no-header contradict each other"):
        parse_table_options({**options, "header": True, "no_header": True})
    assert parse_table_options({**options, "header": True, "no_header": False})["header"] is True
    assert parse_table_options({**options, "header": False, "no_header": False})["header"] is None
