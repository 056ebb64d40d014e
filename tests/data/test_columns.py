"""What a column is, is decided once, in training, and holds for every later table; what surprises is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from gpubp.data import RawData, encode, prepare, read
from gpubp.data.number_style import possible_styles
from gpubp.data.schema import ColumnSchema, Schema, TableOptions
from gpubp.errors import DataError, UsageError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a CSV file of columns, or of the text given."""

    def write(name: str, text: str = "", /, encoding: str = "utf-8", **columns: list[Any]) -> Path:
        if columns:
            rows = [
                ",".join(f'"{cell}"' if "," in str(cell) else str(cell) for cell in row)
                for row in zip(*columns.values(), strict=True)
            ]
            text = "\n".join([",".join(columns), *rows, ""])
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


def preprocessing_of(path: Path, **options: Any) -> dict[str, Any]:
    """What would be kept with a network that is trained on this file, after JSON."""
    saved = json.loads(json.dumps(prepare(read(path, **options), test=0).preprocessing, allow_nan=False))
    return dict(saved)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$1,210", None),
        ("$1,210.50", 1210.5),
        ("45%", 45),
        ("170 cm", 170),
        ("170cm", 170),
        ("2,147,603", 2147603),
        ("12,34,567", 1234567),
        ("1 234", 1234),
        ("1\u202f234,5", 1234.5),
        ("1'234", 1234),
        ("(12.50)", -12.5),
        ("\u221212.5", -12.5),
        ("1.234,56", 1234.56),
        ("2.040.919", 2040919),
        ("12,50 €", 12.5),
        ("-$5", -5),
        ("$-5", -5),
        ("36 months", 36),
        ("0,5", 0.5),
        ("1.5e3", 1500),
    ],
)
def test_numbers_as_people_write_them(text: str, number: float | None) -> None:
    styles = possible_styles([text])
    assert [style.parse(text) for style in styles] == ([1210, 1.21] if number is None else [number])


@pytest.mark.parametrize("text", ["18-25", "1.2.3.4", "12.05.2024", "A12", "<1.0", "12:30", "3rd", "Q1", "1,23,4", ""])
def test_texts_that_are_no_numbers(text: str) -> None:
    assert not possible_styles([text])


def test_plain_numbers_are_read_to_the_last_bit(write: Write, rng: np.random.Generator) -> None:
    exact = [0.1, -0.0, 1e22, 123456789012345, 0.123456789012345, 5e-324, 1.7976931348623157e308, 1 / 3, 4.35, 1e23]
    numbers = [*exact, *rng.normal(size=500), *np.round(rng.normal(size=500), 4), *(rng.normal(size=500) * 1e9)]
    texts = [*map(repr, map(float, numbers)), "+5", ".5", "7.", "-.25", "1E5", "000.5"]
    data = read(write("t.csv", x=texts, y=texts))
    expected = np.array(list(map(float, texts)))
    assert data.columns["x"].tobytes() == expected.tobytes()


MISSING = [
    "",
    "N/A",
    "#N/A",
    "None",
    "<NA>",
    "NaT",
    "nan",
    "NULL",
    "-",
    ".",
    r"\N",
    "(null)",
    "unknown",
    "#DIV/0!",
    "?",
]


@pytest.mark.parametrize("marker", MISSING)
def test_missing_markers_among_numbers(marker: str, write: Write) -> None:
    data = read(write("t.csv", x=[1, 2.5, marker, 4], y=["a", "b", "a", "b"]))
    np.testing.assert_array_equal(data.columns["x"], [1, 2.5, np.nan, 4])


def test_what_is_missing_only_among_numbers_is_a_category_elsewhere(write: Write) -> None:
    data = read(write("t.csv", state=["None", "unknown", "mild", "N/A"], y=[1, 2, 3, 4]))
    assert data.columns["state"].tolist() == ["None", "unknown", "mild", None]


def test_markers_are_said_with_their_number(write: Write) -> None:
    data = read(write("t.csv", x=[*range(30), "-", "-", "unknown"], y=range(33)))
    assert np.isnan(data.columns["x"]).sum() == 3
    assert 'column "x": 3 cells ("-", "unknown") among numbers, read as missing' in data.notes


def test_missing_markers_teach_what_empty_cells_teach(write: Write, rng: np.random.Generator) -> None:
    x = [f"{value:.3f}" for value in rng.normal(size=200)]
    holes = rng.random(200) < 0.12
    inputs = []
    for marker in MISSING:
        cells = [marker if hole else value for hole, value in zip(holes, x, strict=True)]
        inputs.append(prepare(read(write("t.csv", x=cells, other=x, y=[*range(100), *range(100)])), test=0).train[0])
    assert all(np.array_equal(X, inputs[0]) for X in inputs)


STYLES: dict[str, tuple[list[str], list[float], str]] = {
    "dollars": (["$1,210", "$990", "-$1,830.50"], [1210, 990, -1830.5], '"$" left off, "," between thousands'),
    "percent": (["45%", "7.5%", "0"], [45, 7.5, 0], '"%" left off'),
    "centimetres": (["170 cm", "165.5 cm", "180 cm"], [170, 165.5, 180], '"cm" left off'),
    "thousands": (["2,147,603", "12", "1,000"], [2147603, 12, 1000], '"," between thousands'),
    "spaces": (["1 234", "12", "5 000 000"], [1234, 12, 5e6], '" " between thousands'),
    "apostrophes": (["1'234", "12", "5'000"], [1234, 12, 5000], "between thousands"),
    "accounts": (["(12.50)", "7", "1.25"], [-12.5, 7, 1.25], ""),
    "european": (["1.234,56", "7", "1.000"], [1234.56, 7, 1000], '"," before decimals'),
    "comma": (["1,5", "2", "0,25"], [1.5, 2, 0.25], '"," before decimals'),
}


@pytest.mark.parametrize("case", STYLES)
def test_a_column_written_alike_is_numbers_and_that_is_said(case: str, write: Write) -> None:
    texts, numbers, how = STYLES[case]
    path = write("t.csv", x=texts * 9, y=["a", "b", "a"] * 9)
    data = read(path)
    np.testing.assert_array_equal(data.columns["x"], numbers * 9)
    if how:
        assert any(note.startswith('column "x": numbers, ') and how in note for note in data.notes)
    preprocessing = preprocessing_of(path)
    for text, number in zip(texts, numbers, strict=True):  # one row shows nothing of how the column is written
        one = encode(preprocessing, read(write("one.csv", x=[text])))[0]
        assert one.tobytes() == encode(preprocessing, with_numbers([number]))[0].tobytes()


def with_numbers(values: list[float]) -> RawData:
    return RawData(name="t", kind="table", columns={"x": np.array(values)})


def test_a_target_of_percents_is_values(write: Write) -> None:
    ready = prepare(read(write("t.csv", x=range(100), y=[f"{i * 0.5}%" for i in range(100)])), test=0)
    assert ready.task == "regression"


def test_other_columns_or_the_user_tell_what_a_comma_means(write: Write) -> None:
    tables = {
        "decimals_beside.csv": ("a;b\n1,500;0,5\n2,250;1,5\n", [1.5, 2.25]),
        "points_beside.csv": ("a;b\n1,500;0.5\n2,250;1.5\n", [1500, 2250]),
    }
    for name, (text, numbers) in tables.items():
        np.testing.assert_array_equal(read(write(name, text)).columns["a"], numbers)
    open_text = write("open.csv", "a;b\n1,500;x\n2,250;y\n")
    np.testing.assert_array_equal(read(open_text, decimal=",").columns["a"], [1.5, 2.25])
    np.testing.assert_array_equal(read(open_text, decimal=".").columns["a"], [1500, 2250])


def test_points_that_may_stand_between_thousands_are_said(write: Write) -> None:
    path = write("t.csv", "a;b\n205.092;0.5\n57.777;1.5\n400;2.5\n")
    data = read(path)
    assert data.columns["a"][2] == 400 and any('"205.092"' in note and "--decimal ," in note for note in data.notes)
    np.testing.assert_array_equal(read(path, decimal=",").columns["a"], [205092, 57777, 400])


def test_mostly_numbers_are_never_categories_without_a_loud_line(write: Write) -> None:
    cells = [*(str(i / 7) for i in range(1, 60)), *["<1.0"] * 8]
    ready = prepare(read(write("t.csv", x=cells, z=[i % 7 for i in range(67)], y=[i % 2 for i in range(67)])))
    (line,) = [note for note in ready.notes if note.startswith('column "x", read as categories')]
    for fragment in ("t.csv, line 61", "8 of 67 cells", '"<1.0"', "--missing '<1.0'", "--ignore x"):
        assert fragment in line


def test_codes_stay_the_texts_they_are(write: Write) -> None:
    codes = ["007", "010", "A12", "2.0", "1.50", "3E2"] * 10
    path = write("codes.csv", code=codes, y=[i % 6 * 1.5 for i in range(60)])
    preprocessing = preprocessing_of(path)
    X = encode(preprocessing, read(path))[0]
    for i in range(6):
        row = read(write("row.csv", code=codes[i : i + 1]))
        np.testing.assert_array_equal(encode(preprocessing, row)[0], X[i : i + 1])
        assert not row.notes
    only = [code.zfill(5) for code in ("42", "7", "123")] * 10
    data = read(write("zip.csv", zip=only, y=range(30)))
    assert data.columns["zip"][0] == "00042" and any("begins with zero" in note for note in data.notes)
    np.testing.assert_array_equal(
        read(write("zip.csv", zip=only, y=range(30)), kinds={"zip": "number"}).columns["zip"][:3], [42, 7, 123]
    )


def test_classes_that_begin_with_zero_are_evaluated_as_trained(write: Write) -> None:
    x = [i % 3 for i in range(60)]
    preprocessing = preprocessing_of(write("t.csv", x=x, label=[["01", "02", "1A"][i] for i in x]))
    assert preprocessing["target"]["classes"] == ["01", "02", "1A"]
    rows = write("rows.csv", x=[1, 0], label=["02", "01"])
    np.testing.assert_array_equal(encode(preprocessing, read(rows))[1], [1, 0])


def test_whole_numbers_with_a_point_are_the_trained_codes(write: Write) -> None:
    preprocessing = preprocessing_of(write("t.csv", code=["1", "2", "A"] * 10, y=[0.5, 1.5, 3] * 10))
    rows = read(write("rows.csv", code=["1.0", "2.0", "02"]))
    np.testing.assert_array_equal(encode(preprocessing, rows)[0], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("spelling", [("True", "False"), ("TRUE", "FALSE"), ("true", "false"), ("1", "0")])
def test_truth_values_in_any_spelling_are_one(spelling: tuple[str, str], write: Write, tmp_path: Path) -> None:
    duckdb.execute(f"COPY (SELECT i % 3 = 0 AS b, i * 1.5 AS y FROM range(30) t(i)) TO '{tmp_path / 't.parquet'}'")
    for path in (tmp_path / "t.parquet", write("t.csv", b=["True", "False", "False"] * 10, y=[0.5, 1, 3] * 10)):
        rows = read(write("rows.csv", b=spelling))
        np.testing.assert_array_equal(encode(preprocessing_of(path), rows)[0], [[0, 1], [1, 0]])
        assert not rows.notes
    as_numbers = preprocessing_of(write("n.csv", b=[1, 0, 0] * 10, y=[0.5, 1, 3] * 10))
    X = encode(as_numbers, read(write("rows.csv", b=["1", "0"])))[0]
    np.testing.assert_array_equal(encode(as_numbers, read(write("rows.csv", b=spelling)))[0], X)


def test_only_what_the_network_needs_is_read(write: Write) -> None:
    preprocessing = preprocessing_of(write("t.csv", a=[i % 7 for i in range(60)], y=[i / 3 for i in range(60)]))
    rows = read(write("rows.csv", a=["1", "2"], y=["TBD", "3"], note=["1,5", "x"]))
    assert encode(preprocessing, rows, with_target=False)[0].shape == (2, 1)
    with pytest.raises(DataError, match=r'rows.csv, line 2, column "y": "TBD" is not a number'):
        encode(preprocessing, read(write("rows.csv", a=["1", "2"], y=["TBD", "3"])))


def test_a_test_file_is_read_as_the_training_table(write: Write) -> None:
    train = write("train.csv", code=["007", "010", "A12"] * 20, y=[i % 3 * 1.5 for i in range(60)])
    ready = prepare(read(train), test=write("test.csv", code=["010", "007"], y=["1.5", "0"]))
    assert ready.test is not None
    np.testing.assert_array_equal(ready.test[0], ready.train[0][[1, 0]])


def test_an_empty_parquet_column_is_left_out_as_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.execute(
        f"COPY (SELECT i % 7 AS x, NULL::INTEGER AS e, NULL::VARCHAR AS f, i / 3 AS y FROM range(30) t(i)) TO '{path}'"
    )
    ready = prepare(read(path))
    assert ready.n_inputs == 1
    assert {
        'column "e": no value in the training rows, not used',
        'column "f": no value in the training rows, not used',
    } <= set(ready.notes)


def test_the_schema_survives_json(write: Write) -> None:
    path = write(
        "t.csv", price=["$1,5", "$2"] * 15, flag=["True", "FALSE"] * 15, code=["01", "02"] * 15, y=[0.5, 1, 3] * 10
    )
    schema = prepare(read(path, missing=["-999"])).preprocessing["schema"]
    assert Schema.from_json(json.loads(json.dumps(schema))).to_json() == schema
    assert schema["columns"]["price"]["style"] == {"decimal": ",", "thousands": "", "unit": "$"}
    assert [column["kind"] for column in schema["columns"].values()] == ["number", "category", "category", "number"]


def test_networks_saved_without_a_schema_read_rows_as_they_did(write: Write) -> None:
    table = write("t.csv", x=[f"{i % 7}.5" for i in range(60)], c=["1", "A", "N/A"] * 20, y=["u", "v"] * 30)
    preprocessing = preprocessing_of(table)
    del preprocessing["schema"], preprocessing["features"]["left_out"]
    preprocessing["features"]["categories"] = [{"name": "c", "values": ["1", "A", "N/A"], "indicator": False}]
    X, y = encode(preprocessing, read(write("rows.csv", x=["1.5"] * 3, c=["1.0", "N/A", "A"], y=["v", "u", "v"])))
    np.testing.assert_array_equal(X[:, 1:], [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(y, [1, 0, 1])


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16-LE"), ("latin-1", "cp1252"), ("cp1252", "cp1252")],
)
def test_encodings_are_detected_and_said(encoding: str, said: str, write: Write) -> None:
    data = read(write("t.csv", "größe\tstadt\n1\tMünchen\n2\tKöln\n", encoding=encoding))
    assert data.columns["stadt"].tolist() == ["München", "Köln"] and list(data.columns) == ["größe", "stadt"]
    assert any(said in note and "--encoding" in note for note in data.notes)
    named = read(write("t.csv", "größe,stadt\n1,München\n2,Köln\n", encoding="cp850"), encoding="cp850")
    assert named.columns["stadt"].tolist() == ["München", "Köln"] and not named.notes


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ignore": ["1"]}, "--ignore"),
        ({"kinds": {"1": "category"}}, "--kind"),
        ({"missing": ["-999"]}, "--missing"),
        ({"decimal": ","}, "--decimal"),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_options_on_columns_are_refused_for_arrays(
    options: dict[str, Any], named: str, dtype: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", X=np.ones((4, 2), dtype), y=[0, 1, 0, 1])
    with pytest.raises(UsageError, match=rf"a\.npz: {named} is of tables, .* leave it out"):
        read(tmp_path / "a.npz", **options)


@pytest.mark.parametrize("record", [TableOptions, ColumnSchema, Schema])
def test_what_training_said_of_columns_cannot_be_changed(record: type) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(object.__new__(record), fields(record)[0].name, None)


@pytest.mark.parametrize("delimiter", ["", ";;", "\r", "\n", '"', *"0123456789"])
def test_a_delimiter_is_one_character_that_is_no_part_of_numbers_and_quotes(delimiter: str) -> None:
    with pytest.raises(UsageError, match=f'--delimiter "{delimiter}": name one character'):
        TableOptions(delimiter=delimiter).check()


@pytest.mark.parametrize("delimiter", [";", "\t", "|", "x", None])
def test_any_other_character_may_be_the_delimiter(delimiter: str | None) -> None:
    TableOptions(delimiter=delimiter).check()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delimiter": ";"}, "--delimiter"),
        ({"encoding": "latin-1"}, "--encoding"),
        ({"header": True}, "--header"),
        ({"header": False, "delimiter": "\t"}, "--delimiter, --no-header"),
    ],
)
def test_options_of_csv_files_are_said_to_do_nothing_elsewhere(
    options: dict[str, Any], said: str, write: Write, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", X=np.ones((4, 2)), y=[0, 1, 0, 1])
    for source, name in ((tmp_path / "a.npz", "a.npz"), ("iris", "iris"), (pd.DataFrame({"a": [1, 2]}), "data frame")):
        assert f"{said}: of CSV files, without effect on {name}" in read(source, **options).notes
        assert not read(source).notes
    assert not any("without effect" in note for note in read(write("t.csv", "a;b\n1;2\n3;x\n"), delimiter=";").notes)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"ignore": ["z"]}, '--ignore: there is no column "z"'),
        ({"kinds": {"z": "number"}}, '--kind: there is no column "z"'),
        ({"kinds": {"a": "numbr"}}, 'did you mean "number"'),
        ({"decimal": ";"}, '--decimal ";"'),
        ({"delimiter": "::"}, '--delimiter "::"'),
        ({"encoding": "utf-9"}, '--encoding "utf-9": there is none'),
    ],
)
def test_options_that_name_nothing_are_refused(options: dict[str, Any], fragment: str, write: Write) -> None:
    with pytest.raises(UsageError) as caught:
        read(write("t.csv", a=[1, 2], y=[3, 4]), **options)
    assert fragment in str(caught.value)


def left_out(path: Path, **options: Any) -> list[str]:
    """Columns that a network trained on this file does not use."""
    columns = prepare(read(path, **options), test=0).preprocessing["schema"]["columns"]
    return [name for name, column in columns.items() if column["kind"] == "ignored"]


Y = [i % 3 * 1.5 for i in range(60)]
SOME = [i * 7 % 11 for i in range(60)]


def test_the_user_says_what_columns_are(write: Write) -> None:
    path = write("t.csv", zip=[1000 + i % 5 for i in range(60)], age=["-999", "30", "40"] * 20, name=SOME, y=Y)
    options = {"ignore": ["name"], "kinds": {"zip": "category"}, "missing": ["-999"]}
    preprocessing = preprocessing_of(path, **options)
    assert [c["name"] for c in preprocessing["features"]["categories"]] == ["zip"]
    numbers = preprocessing["features"]["numbers"]
    assert (numbers["names"], numbers["fill"], numbers["indicators"]) == (["age"], [35], [0])
    rows = read(write("rows.csv", zip=["1003"], age=["-999.0"]), trained=preprocessing)
    np.testing.assert_array_equal(encode(preprocessing, rows)[0], [[0, 1, 0, 0, 0, 1, 0]])
    assert read(write("rows.csv", zip=["1003"], age=["4"])).columns["zip"].dtype == float  # of a table of its own


def test_kinds_that_cells_contradict_are_refused(write: Write) -> None:
    path = write("t.csv", a=["1", "x", "2"] * 20, y=Y)
    with pytest.raises(DataError, match=r't.csv, line 3, column "a": "x" is not a number .* --missing x'):
        prepare(read(path, kinds={"a": "number"}))
    np.testing.assert_array_equal(read(path, kinds={"a": "number"}, missing=["x"]).columns["a"][:3], [1, np.nan, 2])


@pytest.mark.parametrize("value", ["2023", "red"])
def test_a_constant_column_is_left_out_aloud(value: str, write: Write) -> None:
    path = write("t.csv", year=[value] * 60, x=SOME, y=Y)
    assert left_out(path) == ["year"]
    assert any(
        'column "year": ' in note and "in all training rows, not used" in note for note in prepare(read(path)).notes
    )
    later = read(write("later.csv", year=["2030"] * 60, x=SOME, y=Y))
    np.testing.assert_array_equal(encode(preprocessing_of(path), later)[0], prepare(read(path), test=0).train[0])


def test_one_number_or_none_is_two_categories(write: Write) -> None:
    preprocessing = preprocessing_of(write("t.csv", x=["5", "", "5.0"] * 20, y=Y))
    rows = read(write("rows.csv", x=["5", "", "7e9"], extra=["1", "2", "3"]))
    np.testing.assert_array_equal(encode(preprocessing, rows)[0], [[1, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("id", list(range(60))),
        ("id", list(range(1, 61))),
        ("passenger", [1000 + 3 * i for i in range(60)]),
        ("Unnamed: 0", [i * 7 % 61 for i in range(60)]),
        ("__index_level_0__", [i * 7 % 61 for i in range(60)]),
        ("", list(range(60))),
    ],
)
def test_counters_of_rows_are_left_out_aloud(name: str, cells: list[int], write: Write) -> None:
    path = write("t.csv", **{name: cells}, x=SOME, y=Y)
    shown = name or "Unnamed: 0"
    assert left_out(path) == [shown]
    assert any(f'column "{shown}": counts the rows, not used' in note for note in prepare(read(path)).notes)
    assert left_out(path, kinds={shown: "number"}) == []
    last = write("t.csv", x=SOME, y=Y, **{name or "Unnamed: 0": cells})
    assert prepare(read(last)).preprocessing["target"]["name"] == "y"


def test_numbers_that_do_not_count_rows_stay(write: Write) -> None:
    columns = {
        "falling": list(range(60, 0, -1)),
        "halves": [i / 2 for i in range(60)],
        "twice": [i // 2 for i in range(60)],
    }
    assert left_out(write("t.csv", **columns, y=Y)) == []
    assert left_out(write("only.csv", x=range(60), y=Y)) == []  # else nothing would be left


HEADERS: dict[str, tuple[str, bool]] = {
    "flowers": ("5.1,3.5,setosa\n4.9,3.0,setosa\n6.0,2.5,virginica\n", True),
    "only texts": ("a,b\nb,b\na,c\na,b\n", True),
    "numbers and a new name": ("5.1,3.5,Ann\n4.9,3.0,Bob\n6.0,2.5,Cal\n", True),
    "money": ("$5,setosa\n$4,setosa\n$3,virginica\n", True),
    "names": ("x,y\n1,a\n2,b\n", False),
    "years": ("country,2019,2020\nFrance,1.5,2\nSpain,2.5,3\n", False),
    "a number among names": ("1,name\n5,a\n6,b\n", False),
    "texts and names": ("colour,kind\nred,a\nblue,b\n", False),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_first_row_is_not_taken_for_names_without_asking(case: str, write: Write) -> None:
    text, is_row = HEADERS[case]
    path = write("t.csv", text)
    if is_row:
        with pytest.raises(DataError, match="t.csv, line 1: .* looks like data; .* --no-header"):
            list(read(path).columns.items())
        data = read(path, header=False)
        width = text.partition("\n")[0].count(",") + 1
        assert list(data.columns) == [str(i) for i in range(1, width + 1)] and data.rows == 3 + (case == "only texts")
        assert data.place(0) == "line 1"
    else:
        assert [len(values) for values in read(path).columns.values()]


@pytest.mark.parametrize(
    "start",
    [
        "sep=;\n",
        "# made by hand\n",
        "# by hand; 2024\n",
        "Sales of 2024\n",
        "# one\r\n# two\r\n",
        "# x; y; z\n# of 2024\n",  # as many delimiters as the header, which does not follow at once
    ],
)
def test_lines_before_the_header_are_skipped_and_lines_counted(start: str, write: Write) -> None:
    data = read(write("t.csv", start + "a;b;c\n" + "1;2;x\n3;4;y\n" * 9))
    assert list(data.columns) == ["a", "b", "c"]
    skipped = start.count("\n")
    assert data.place(0) == f"line {skipped + 2}"
    lines = [] if start.startswith("sep") else start.splitlines()
    assert data.notes == [
        f't.csv, line {i}: "{x}" is skipped: it is no row of the table' for i, x in enumerate(lines, 1)
    ]
    broken = write("t.csv", start + "a;b;c\n" + "1;2;x\n3;4;y\n" * 9 + "1;2\n")
    with pytest.raises(DataError, match=f"line {skipped + 20}: 2 cells where"):
        read(broken)


def test_what_training_did_not_have_is_said_with_counts(write: Write) -> None:
    path = write("t.csv", x=SOME, z=[i % 5 for i in range(60)], c=["a", "b", "a"] * 20, holes=["", "1", "2"] * 20, y=Y)
    preprocessing = preprocessing_of(path)
    rows = read(
        write(
            "r.csv", x=["1", "", "-9e5", "700"], z=["", "", "", ""], c=["a", "", "new", "b"], holes=["", "", "1", "2"]
        )
    )
    encode(preprocessing, rows)
    assert rows.notes == [
        'column "x": 1 cells of r.csv lack a value, where every training row has one; read as the median of training',
        'column "x": 2 cells of r.csv are more than 10 standard deviations from the mean of training (-900000 in '
        "line 4); predictions there are guesses",
        'column "z": no value in any of the 4 rows of r.csv, read as the median of training',
        'column "c": 1 cells of r.csv lack a value, where every training row has one; read as none of the known '
        "categories",
        'column "c": 1 cells of r.csv hold categories that did not occur in training ("new"), encoded as none of the '
        "known ones",
    ]
    known = read(path)
    encode(preprocessing, known)
    assert not known.notes
