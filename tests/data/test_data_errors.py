"""Malformed data are refused by name: the file, the line or row, the column, the text and the remedy."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from gpubp.data import encode, prepare, read, tables
from gpubp.data.schema import TableOptions
from gpubp.data.source import check_size
from gpubp.errors import DataError, UsageError

GOOD = "a,b,kind\n" + "".join(f"{i},{i}.5,{'xy'[i % 2]}\n" for i in range(10))  # lines 2 to 11

CSV: dict[str, tuple[bytes | str, tuple[str, ...]]] = {
    "empty": ("", ("line 1", "is empty")),
    "blank_first_line": ("\n" + GOOD, ("line 1", "the line is empty")),
    "header_only": ("a,b,kind\n", ("names 3 column(s)", "no row")),
    "header_only_unended": ("a,b,kind", ("names 3 column(s)", "no row")),
    "no_header": ("1,2,3\n4,5,6\n", ("line 1", '"1,2,3" looks like data')),
    "duplicate_names": ("a,b,a\n1,2,3\n", ("line 1", "columns 1 and 3", '"a"', "rename")),
    "unnamed_column": ("a,,b\n0,1,2\n", ("line 1", "column 2 has no name")),
    "short_row": (GOOD + "1,2\n", ("line 12", "2 cells", "3 columns", 'no "kind"', '"1,2"')),
    "long_row": (GOOD + "1,2,x,7\n", ("line 12", "4 cells", "3 columns", '"1,2,x,7"', "quotes")),
    "unterminated_quote": (GOOD + '1,2,"x\n3,4,y\n', ("line 12", "never closed")),
    "text_after_quote": (GOOD + '1,2,"x"y\n', ("line 12", "quote")),
    "text_among_numbers": (GOOD + "n.v.,2,x\n", ("line 12", 'column "a"', '"n.v." is not a number', "NaN")),
    "text_after_quoted_newline": (
        'a,b,kind\n1,2,"x\ny"\n' + "3,4,z\n" * 9 + "3,four,z\n",
        ("line 13", 'column "b"', '"four" is not a number'),
    ),
    "text_after_blank_lines": (GOOD + "\n\n3,four,x\n", ("line 14", 'column "b"', '"four"')),
    "two_decimal_signs": ("a;b\n" + "1.5;x\n" * 9 + "2,5;y\n", ("line 11", 'column "a"', '"2,5" is not written as')),
    "comma_in_either_use": ("a;b\n" + "1,500;x\n2,750;y\n" * 9, ("line 2", '"1,500"', "--decimal , or --decimal .")),
    "two_units": ("a,b\n" + "170 cm,x\n" * 9 + "1.7 m,y\n", ("line 11", '"1.7 m" is not written', '"170 cm"')),
    "percent_and_parts": ("a,b\n" + "45%,x\n" * 9 + "0.45,y\n", ("line 11", '"0.45" is not written')),
    "target_below_a_limit": (
        "a,y\n" + "".join(f"{i / 7},{i / 3}\n" for i in range(1, 60)) + "1.5,<1.0\n2.5,<1.0\n" * 3,
        ("line 61", 'column "y"', "6 of 65 cells", '"<1.0"', "--missing '<1.0'", "--kind y=category", "--ignore y"),
    ),
    "mixed_line_endings": (GOOD + "1,2,x\r\n3,4,y\n", ("line 12", r"'\r\n'", r"'\n'")),
    "mixed_line_endings_below_a_comment": (
        "# by hand\na,b,kind\r\n1,2,x\r\n3,4,y\n",
        ("line 4", r"'\n' where line 2 ends with '\r\n'"),
    ),
    "endless_line": ("a,b\n1," + "x" * 2_100_000 + "\n", ("line 2", "longer than 2,000,000", "…")),
    "nul_in_number": (GOOD + "1,\0,x\n", ("line 12", 'column "b"', r'"\x00" is not a number')),
    "infinite": (GOOD + "1,inf,x\n", ("line 12", 'column "b"', "inf is infinite")),
    "overflow": (GOOD + "1,1e999,x\n", ("line 12", 'column "b"', "inf is infinite")),
    "huge": (GOOD + "1,-1e300,x\n", ("line 12", 'column "b"', "-1e+300", "too large")),
    "missing_target": (GOOD + "1,2,\n", ("line 12", 'column "kind"', "the target is missing")),
    "missing_numeric_target": (
        GOOD.replace("a,b,kind", "kind,b,a").replace("x", "1.5").replace("y", "NA"),
        ("line 3", 'column "a"', "missing"),
    ),
    "infinite_target": ("a,b\n1,2.5\n2,inf\n3,1\n", ("line 3", 'column "b"', "inf, too large")),
    "one_class": ("a,kind\n1,x\n2,x\n3,x\n", ('target "kind"', '3 rows are of class "x"')),
    "names_as_target": ("a,kind\n" + "".join(f"{i},n{i}\n" for i in range(30)), ("30 different", "too many")),
    "only_a_target": ("kind\nx\ny\nx\ny\n", ("no column is left", '"kind" is all there is', "--delimiter")),
    "other_delimiter": ("a b\n1 2\n2 1\n3 1\n", ("no column is left", '"a b" is all there is', "--delimiter")),
    "row_for_names": ("0,0,1\n1,2,0\n2,4,1\n", ('columns 1 and 2 are both "0"', "if the line is a row, --no-header")),
    "only_names_beside": (
        "name,y\n" + "".join(f"n{i},{i % 2}\n" for i in range(60)),
        ("no column is left", "name"),
    ),
    "one_row": ("a,b\n1,2.5\n", ("1 row(s) cannot be split",)),
}


@pytest.mark.parametrize("case", CSV)
def test_malformed_csv_is_named(case: str, tmp_path: Path) -> None:
    content, fragments = CSV[case]
    path = tmp_path / f"{case}.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        prepare(read(path))
    assert str(caught.value).startswith(path.name)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(shape: str, descr: str = "<f8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def zipped(member: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method, compresslevel=1) as archive:
        archive.writestr("X.npy", member)
    return stream.getvalue()


def bomb() -> bytes:
    return zipped(npy_header("(4096, 16384)") + bytes(2**29), zipfile.ZIP_DEFLATED)


def gzip_bomb() -> bytes:
    """Half a gigabyte of rows, in members that are compressed once."""
    return gzip.compress(b"a,b\n") + 128 * gzip.compress(b"0,0\n" * 2**20, 1)


X, Y = np.arange(40.0).reshape(10, 4), np.arange(10) % 2
WITH_INF = X.copy()
WITH_INF[6, 2] = -np.inf

ARRAYS: dict[str, tuple[str, Callable[[], bytes], tuple[str, ...]]] = {
    "no_X": (".npz", lambda: npz(x=X, y=Y), ('no array "X"', "x")),
    "no_y": (".npz", lambda: npz(X=X), ("no targets", '"y"')),
    "rows_differ": (".npz", lambda: npz(X=X, y=Y[:9]), ('array "y"', "(9,)", "10 rows")),
    "no_rows": (".npz", lambda: npz(X=X[:0], y=Y[:0]), ('array "X"', "(0, 4)")),
    "vector": (".npz", lambda: npz(X=Y, y=Y), ('array "X"', "(10,)")),
    "complex": (".npz", lambda: npz(X=X + 1j, y=Y), ('array "X"', "complex128")),
    "pickled": (".npz", lambda: npz(X=X.astype(object), y=Y), ('array "X"', "Python objects")),
    "dates": (".npz", lambda: npz(X=X, y=Y.astype("datetime64[D]")), ('array "y"', "datetime64")),
    "infinite": (".npz", lambda: npz(X=WITH_INF, y=Y), ("row 7", 'column "3"', "-inf")),
    "nan_target": (".npz", lambda: npz(X=X, y=np.where(Y, np.nan, 1.0)), ("row 2", "target is missing")),
    "test_width": (".npz", lambda: npz(X=X, y=Y, X_test=X[:, :3], y_test=Y), ("4 columns", "X_test 3")),
    "unknown_test_class": (
        ".npz",
        lambda: npz(X=X, y=Y, X_test=X, y_test=np.where(np.arange(10) == 4, 7, Y)),
        ("test part", "row 5", 'class "7"', "known: 0, 1"),
    ),
    "missing_test_targets": (".npz", lambda: npz(X=X, y=Y, X_test=X), ("test part", "no targets")),
    "declares_more": (".npz", lambda: zipped(npy_header("(1000000, 4096)")), ("declares 32,768,000,000",)),
    "bomb": (".npz", bomb, ("declare 536,870,912 bytes", "hostile")),
    "negative_shape": (".npz", lambda: zipped(npy_header("(-1, 4)")), ("cannot be read", "negative")),
    "cut_off": (".npz", lambda: npz(X=X, y=Y)[:-30], ("cannot be read",)),
    "not_a_zip": (".npz", lambda: b"PK\3\4 and nothing else", ("cannot be read",)),
    "npy_declares_more": (".npy", lambda: npy_header("(1000000, 4096)"), ("cannot be read",)),
    "npy_archive": (".npy", lambda: npz(X=X, y=Y), ("archive of arrays", ".npz")),
    "bad_character": (
        ".npz",
        lambda: npz(X=X, y=np.array([0x110000] * 10, dtype="u4").view("U1")),
        ('array "y"', "U+110000"),
    ),
    "bytes_not_utf8": (".npz", lambda: npz(X=X, y=np.array([b"\xff"] * 10)), ('array "y"', "UTF-8")),
    "npy_vector": (".npy", lambda: npy(Y), ("(10,)", "rows and columns")),
    "npy_texts": (".npy", lambda: npy(np.array([["a", "b"]])), ("<U1",)),
    "npy_pickled": (".npy", lambda: npy(X.astype(object)), ("cannot be read", "Python objects")),
    "npy_target_missing": (
        ".npy",
        lambda: npy(np.where(X == 19, np.nan, X)),
        ("row 5", 'column "4"', "target is missing"),
    ),
    "parquet_damaged": (".parquet", lambda: b"PAR1 and more PAR1", ("cannot be read as Parquet",)),
    "gzip_cut_off": (".csv.gz", lambda: gzip.compress(GOOD.encode() * 999)[:-40], ("gzip", "again")),
    "gzip_not": (".csv.gz", GOOD.encode, ("gzip", "again")),
    "gzip_bomb": (".csv.gz", gzip_bomb, ("hostile",)),
    "hdf5_not": (".h5", lambda: b"\x89HDF and nothing else", ("cannot be read as HDF5",)),
    "excel_not": (".xlsx", lambda: b"PK and nothing else", ("cannot be read as an Excel workbook", "save it again")),
    "unknown_format": (".feather", lambda: b"", ('".feather"', ".parquet")),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_malformed_files_are_named(case: str, tmp_path: Path) -> None:
    ending, content, fragments = ARRAYS[case]
    path = tmp_path / f"{case}{ending}"
    path.write_bytes(content())
    if ending == ".h5":
        pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with pytest.raises(DataError) as caught:
        prepare(read(path))
    assert str(caught.value).startswith(path.name)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "case",
    [
        "no_X",
        "external",
        "virtual",
        "soft_link",
        "external_link",
        "objects",
        "declares_more",
        "empty",
        "one_text_named_often",
    ],
)
def test_hdf5_that_reaches_elsewhere_is_refused(case: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["X"] = X
    (tmp_path / "secret").write_bytes(X.tobytes())
    path = tmp_path / f"{case}.h5"
    with h5py.File(path, "w") as file:
        file["y"] = Y
        if case == "external":
            file.create_dataset("X", X.shape, X.dtype, external=[(str(tmp_path / "secret"), 0, X.nbytes)])
        if case == "virtual":
            layout = h5py.VirtualLayout(X.shape, X.dtype)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "X", X.shape)
            file.create_virtual_dataset("X", layout)
        if case == "soft_link":
            file["X"] = h5py.SoftLink("/y")
        if case == "external_link":
            file["X"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "X")
        if case == "objects":
            file["X"] = np.array([["a"]] * 10, dtype=object)
        if case == "empty":
            file["X"] = h5py.Empty("f8")
        if case == "one_text_named_often":
            file["X"] = np.zeros((2000, 1))
            del file["y"]
            file["y"] = np.array(["a" * 10**6] + [""] * 1999, dtype=object)
        if case == "declares_more":
            file.create_dataset("X", (2**20, 2**12), "f4", chunks=True)
    reasons = {"no_X": "no array", "objects": "holds objects", "declares_more": "hostile", "empty": "holds nothing"}
    reasons["one_text_named_often"] = "hostile"
    with pytest.raises(DataError, match=f"{path.name}.*{reasons.get(case, 'not stored in this file')}"):
        read(path)


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PIXELS, LABELS = np.zeros((6, 4, 4), np.uint8), np.arange(6, dtype=np.uint8) % 2
IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("files", "fragments"),
    [
        ({}, ("no train-images file",)),
        ({IMAGES: b""}, (IMAGES, "starts with nothing", "00000803")),
        ({IMAGES: idx(LABELS)}, (IMAGES, "starts with 00000801", "00000803")),
        ({IMAGES: idx(PIXELS, code=13)}, (IMAGES, "starts with 00000d03")),
        ({IMAGES: idx(PIXELS)[:-1]}, (IMAGES, "promises 96 bytes", "holds 95")),
        ({IMAGES: idx(PIXELS) + b"!"}, (IMAGES, "promises 96 bytes", "more than 96")),
        ({IMAGES: bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**10, 2**10)}, (IMAGES, "hostile")),
        ({IMAGES + ".gz": gzip.compress(idx(PIXELS))[:-12]}, (IMAGES, "gzip")),
        ({IMAGES + ".gz": idx(PIXELS)}, (IMAGES, "gzip")),
        ({IMAGES: idx(PIXELS), IMAGES + ".gz": b""}, ("the same part", "keep one")),
        ({IMAGES: idx(PIXELS), "train-labels-idx1-ubyte": idx(LABELS[:5])}, ("(5,)", "6 rows")),
    ],
)
def test_malformed_idx_folders_are_named(files: dict[str, bytes], fragments: tuple[str, ...], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_parquet_columns_that_are_no_numbers_or_texts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lists.parquet"
    duckdb.execute(f"COPY (SELECT [1, 2] AS \"the list\", 1 AS y) TO '{path}'")
    with pytest.raises(DataError, match=r'lists.parquet, column "the list": type INTEGER\[\]'):
        read(path)


@pytest.mark.parametrize(
    ("declared", "stored", "refused"),
    [
        (2**28, 1, False),  # which any machine has
        (2**28 + 1, 1, True),
        (2**30, 2**30 // 200 + 1, False),
        (2**30, 2**30 // 200, True),
    ],
)
def test_data_of_more_than_256_mib_may_be_200_times_the_file(declared: int, stored: int, refused: bool) -> None:
    if refused:
        with pytest.raises(DataError, match=f"bomb: {stored:,} bytes on disk declare {declared:,} bytes of data"):
            check_size("bomb", declared, stored)
    else:
        check_size("bomb", declared, stored)


def test_parquet_declares_eight_bytes_a_cell_or_what_its_pages_unpack_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared: list[int] = []
    monkeypatch.setattr("gpubp.data.tables.check_size", lambda name, size, stored: declared.append(size))
    for name, cells in (("equal", "0 AS a, 1 AS b, 2 AS c"), ("texts", "i || repeat('x', 100) AS a")):
        path = tmp_path / f"{name}.parquet"
        duckdb.execute(f"COPY (SELECT {cells} FROM range(1000) t(i)) TO '{path}'")
        tables.ParquetFile(path, TableOptions())
    assert declared[0] == 8 * 1000 * 3 and declared[1] > 100_000


@pytest.mark.parametrize("said", [3, 36, 38])
def test_parquet_that_holds_another_number_of_rows_than_it_says_is_refused(tmp_path: Path, said: int) -> None:
    path = tmp_path / "rows.parquet"
    duckdb.execute(f"COPY (SELECT i AS x, i % 2 AS y FROM range(37) t(i)) TO '{path}'")
    assert read(path).rows == 37
    content = bytearray(path.read_bytes())
    number_of_rows = bytes([0x16, 2 * 37])  # a field of a 64-bit integer, and 37 as Thrift writes it
    content[content.index(number_of_rows, content.rindex(b"schema")) + 1] = 2 * said
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"^rows.parquet: says that it has {said} row\(s\), but holds 37; the file is d"
    ):
        read(path)


def test_parquet_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    duckdb.execute(f"COPY (SELECT 0 AS x, 1 AS y FROM range(40000000)) TO '{path}'")
    with pytest.raises(DataError, match="hostile"):
        read(path)


@pytest.mark.parametrize(
    ("source", "target", "fragment"),
    [
        ("digitz", None, 'no file, folder or built-in data set "digitz"; did you mean "digits"'),
        ("nowhere.csv", None, '"nowhere.csv"; check the path'),
        ("", None, "'' is no data set; give a file"),
        (None, None, "None is no data set; give a file"),
        ([[1, 2]], None, "[[1, 2]] is no data set; give a file"),
        ("iris", "specie", 'iris: there is no column "specie"; did you mean "species"'),
        ("digits", "digit", 'digits has no named columns, so no target "digit"'),
    ],
)
def test_unknown_names_are_named_with_the_nearest(source: Any, target: str | None, fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(source, target)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("source", "options", "fragment"),
    [
        ("diabetes", {"test": 1.5}, "test=1.5 is no fraction"),
        ("diabetes", {"validation": -0.1}, "validation=-0.1 is no fraction"),
        ("iris", {"loss": "huber"}, 'column "species": "setosa" is not a number'),
        ("iris", {"loss": "binary_cross_entropy"}, "3 classes, and binary_cross_entropy tells two apart"),
        ("iris", {"loss": "crossentropy"}, 'did you mean "cross_entropy"'),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(source: str, options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(read(source), **options)
    assert fragment in str(caught.value)


def test_poisson_refuses_negative_counts(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("a,n\n" + "".join(f"{i},{i - 2}\n" for i in range(30)))
    with pytest.raises(DataError, match='counts.csv, line 2, column "n": -2'):
        prepare(read(path), loss="poisson")


PREDICT: dict[str, tuple[str, tuple[str, ...]]] = {
    "lacks.csv": ("b,kind\n1,x\n", ('lacks "a"', 'it has "b", "kind"')),
    "texts.csv": ("a,b\n1,2\nred,3\nblue,4\ngreen,5\n", ("line 3", 'column "a"', '"red" is not a number')),
    "infinite.csv": ("a,b\n1,2\n1,-inf\n", ("line 3", 'column "b"', "-inf is infinite")),
    "overflows.csv": ("a,b\n1,2\n1e60,3\n", ("line 3", 'column "a"', "1e+60", "too large")),
    "class.csv": ("a,b,kind\n1,2,x\n3,4,z\n", ("line 3", 'column "kind"', 'class "z"', "known: x, y")),
    "number.csv": ("a,b,kind\n1,2,3\n3,4,5\n", ("line 2", 'column "kind"', 'class "3"', "known: x, y")),
}


@pytest.mark.parametrize("name", PREDICT)
def test_rows_that_the_network_cannot_take_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    preprocessing = prepare(read(tmp_path / "train.csv")).preprocessing
    content, fragments = PREDICT[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        encode(preprocessing, read(tmp_path / name))
    assert str(caught.value).startswith(name)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_another_kind_or_width_of_data_is_refused(tmp_path: Path) -> None:
    preprocessing = prepare(read("digits")).preprocessing
    np.savez(tmp_path / "narrow.npz", X=X)
    np.savez(tmp_path / "pixels.npz", X=np.zeros((3, 64), np.uint8))
    with pytest.raises(DataError, match="narrow.npz: 4 numbers a row; the network was trained on 64"):
        encode(preprocessing, read(tmp_path / "narrow.npz"))
    with pytest.raises(DataError, match="pixels.npz: is uint8 pixels .*; the network was trained on arrays of"):
        encode(preprocessing, read(tmp_path / "pixels.npz"))
    with pytest.raises(DataError, match="iris: is a table"):
        encode(preprocessing, read("iris"))


@pytest.mark.parametrize(("texts", "numbers"), [(5, 95), (6, 94), (3, 20), (4, 20)])
def test_texts_are_mistakes_up_to_5_percent_of_the_cells_or_3(tmp_path: Path, texts: int, numbers: int) -> None:
    cells = [*(f"word{i}" for i in range(texts)), *(f"{i}.25" for i in range(numbers))]
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{cell},{i % 3}\n" for i, cell in enumerate(cells)))
    if texts <= max(0.05 * (texts + numbers), 3):
        with pytest.raises(DataError, match='line 2, column "a": "word0"'):
            read(path, target="y").columns["a"]
    else:
        assert read(path, target="y").columns["a"].dtype == object


def test_classes_of_more_digits_than_numbers_keep_are_refused_and_read_as_texts_on_request(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,id\n" + "".join(f"{i},{12345678901234567890123 + i % 2}\n" for i in range(20)))
    with pytest.raises(DataError, match=r'line 2, column "id": 1.23\d+e\+22 has more digits .* --kind id=category'):
        prepare(read(path, target="id"), loss="cross_entropy")
    prepared = prepare(read(path, target="id", kinds={"id": "category"}))
    assert prepared.classes == ["12345678901234567890123", "12345678901234567890124"]
