"""Every format is read as what it holds; what it lacks or what was guessed is noted."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from gpubp.data import encode, prepare, read

TABLE = 'a,"b, with comma",kind\n1,0.5,x\n2,,y\nNA,2.5, z \n4,nan,?\n'


def check_table(path: Path) -> None:
    data = read(path)
    assert data.kind == "table" and data.name == path.name and data.target is None and data.rows == 4
    assert list(data.columns) == ["a", "b, with comma", "kind"]
    np.testing.assert_array_equal(data.columns["a"], [1, 2, np.nan, 4])
    np.testing.assert_array_equal(data.columns["b, with comma"], [0.5, np.nan, 2.5, np.nan])
    assert data.columns["kind"].tolist() == ["x", "y", "z", None]


@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv_dialects_read_alike(delimiter: str, ending: str, start: str, tmp_path: Path) -> None:
    quoted, rest = TABLE.split('"')[1], TABLE.split('"')[2].replace(",", delimiter)
    path = tmp_path / "t.csv"
    path.write_bytes((start + f'a{delimiter}"{quoted}"{rest}'.replace("\n", ending)).encode())
    check_table(path)


def test_gzipped_csv_reads_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(TABLE.encode()))
    check_table(path)


def test_names_that_sql_and_globs_would_obey_are_plain_names(tmp_path: Path) -> None:
    (tmp_path / "it's 1ab;.csv").write_text("wrong,file\n1,2\n")
    path = tmp_path / "it's [1]*?;.csv"
    path.write_text(TABLE.replace("kind", "x'); DROP TABLE cells; --"))
    assert list(read(path).columns)[-1] == "x'); DROP TABLE cells; --"
    parquet = tmp_path / "it's [1]*.parquet"
    duckdb.execute('CREATE TEMP TABLE odd AS SELECT 1 AS "say ""a""", 2 AS y')
    duckdb.execute("COPY odd TO '" + str(parquet).replace("'", "''") + "'")
    assert list(read(parquet).columns) == ['say "a"', "y"]


def test_columns_of_codes_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text("under,mixed,truth,y\n" + "1_0,1,true,5\n1_1,A,false,6\n" * 5)
    data = read(path)
    assert set(data.columns["under"]) == {"1_0", "1_1"}
    assert set(data.columns["mixed"]) == {"1", "A"}
    assert set(data.columns["truth"]) == {"true", "false"}
    assert data.notes == ['column "mixed": 5 numbers and 5 texts, read as categories']


def test_quoted_newlines_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text('"a\nb",y\n"say ""hi""\nthere",1\n,2\n')
    data = read(path)
    assert data.columns["a\nb"].tolist() == ['say "hi"\nthere', None]
    assert [data.place(row) for row in range(2)] == ["line 3", "line 5"]


def test_rows_of_a_large_file_keep_their_order(tmp_path: Path) -> None:
    rows = 100_000  # 26 MB, several of the pieces that DuckDB reads: one piece keeps its order whatever the plan
    path = tmp_path / "large.csv"
    path.write_text("i,kind,j\n" + "".join(f"{i},{'xyz'[i % 3] * 250},{-i}\n" for i in range(rows)))
    columns = read(path).columns
    np.testing.assert_array_equal(columns["i"], np.arange(rows))
    np.testing.assert_array_equal(columns["j"], -np.arange(rows))


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.execute(
        "COPY (SELECT * FROM (VALUES (1::TINYINT, 1.5::FLOAT, 2.25::DECIMAL(5, 2), true, 'x', DATE '2024-02-29'), "
        f"(NULL, NULL, NULL, NULL, NULL, NULL)) AS t(i, f, d, b, s, day)) TO '{path}'"
    )
    columns = read(path).columns
    for name, value in {"i": 1, "f": 1.5, "d": 2.25}.items():
        np.testing.assert_array_equal(columns[name], [value, np.nan])
    for name, text in {"b": "true", "s": "x"}.items():
        assert columns[name].tolist() == [text, None]
    np.testing.assert_array_equal(columns["day"], [1709164800, np.nan])  # seconds


X, Y = np.arange(24.0).reshape(6, 4), np.array([0, 1] * 3)


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, X=X, y=Y[:, None], X_test=X[:2], y_test=Y[:2], other=np.array(["not", "read"]))
    data = read(path)
    assert data.kind == "arrays" and data.y is not None and data.test_part is not None
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, Y)
    np.testing.assert_array_equal(data.test_part.X, X[:2])
    np.testing.assert_array_equal(data.test_part.y, Y[:2])


@pytest.mark.parametrize("y", [np.array(["a", "é"] * 3), np.array([b"a", "é".encode()] * 3)])
def test_npz_texts_are_classes(y: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=X, y=y)
    assert prepare(read(tmp_path / "t.npz")).classes == ["a", "é"]


def test_uint8_means_pixels(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=np.full((6, 2, 3), 51, np.uint8), y=Y)
    data = read(tmp_path / "t.npz")
    assert data.kind == "images" and data.X is not None and data.X.shape == (6, 6)
    assert "divided by 255" in data.notes[0]
    np.testing.assert_array_equal(prepare(data).train[0], np.float32(0.2))


@pytest.mark.parametrize("order", "CF")
def test_npy_is_a_table_whose_last_column_is_the_target(order: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.asarray(np.column_stack([X, Y]), order=order))
    data = read(tmp_path / "t.npy")
    assert list(data.columns) == ["1", "2", "3", "4", "5"]
    np.testing.assert_array_equal(data.columns["5"], Y)
    assert prepare(data).preprocessing["target"]["name"] == "5"


@pytest.mark.parametrize("prefix", ["x", "X"])
def test_npz_with_the_names_of_keras_and_of_scikit_learns_users(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    np.savez(path, **{f"{prefix}_train": pixels, "y_train": Y, f"{prefix}_test": pixels[:2], "y_test": Y[:2]})
    data = read(path)
    assert data.kind == "images" and data.X is not None and data.X.shape == (6, 4)
    assert data.test_part is not None and data.test_part.rows == 2


def test_npy_of_pictures_takes_its_targets_and_test_part_from_files_beside_it(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    for name, array in {"x_train": pixels, "y_train": Y, "x_test": pixels[:2], "y_test": Y[:2]}.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = read(tmp_path / "x_train.npy")
    assert data.kind == "images" and data.test_part is not None and data.test_part.rows == 2
    np.testing.assert_array_equal(data.y, Y)
    assert "targets: y_train.npy, beside x_train.npy" in data.notes
    assert "test part: x_test.npy, beside x_train.npy" in data.notes
    np.save(tmp_path / "new.npy", pixels[:3])
    new = read(tmp_path / "new.npy")
    assert new.kind == "images" and new.rows == 3 and new.y is None


@pytest.mark.parametrize("targets", [False, True])
def test_a_matrix_in_npy_fits_a_network_that_was_trained_on_arrays(targets: bool, tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    np.savez(tmp_path / "t.npz", X=pixels, y=Y)
    ready = prepare(read(tmp_path / "t.npz"), test=0)
    flat = pixels.reshape(6, 4)
    np.save(tmp_path / "new.npy", np.column_stack([flat, Y]) if targets else flat)
    X, y = encode(ready.preprocessing, read(tmp_path / "new.npy"))
    np.testing.assert_array_equal(X, ready.train[0])
    assert (y is not None) == targets
    if targets:
        np.testing.assert_array_equal(y, Y)


def test_a_row_of_targets_is_a_column_of_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=X, y=Y[None])
    np.testing.assert_array_equal(read(tmp_path / "t.npz").y, Y)


def test_texts_of_no_length_are_read_as_empty_ones(tmp_path: Path) -> None:
    header = str({"descr": "<U0", "fortran_order": False, "shape": (4,)}).ljust(117) + "\n"
    numbers = io.BytesIO()
    np.save(numbers, X[:4])
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("X.npy", numbers.getvalue())
        archive.writestr("y.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode())
    data = read(tmp_path / "t.npz")
    assert data.y is not None and data.y.tolist() == [""] * 4


def test_hdf5_texts_of_any_length_declare_what_an_array_of_the_longest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    declared: list[int] = []
    monkeypatch.setattr("gpubp.data.hdf5.check_size", lambda where, size, stored: declared.append(size))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["X"] = np.ones((300, 2))
        file.create_dataset("y", data=["no", "maybe", "yes"] * 100, dtype=h5py.string_dtype())
    data = read(tmp_path / "t.h5")
    assert data.rows == 300 and 4 * 300 * len("maybe") in declared and 100 * len("nomaybeyes") in declared


def test_hdf5_texts_of_any_length_are_classes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    texts = ["é" * (1 + i % 2) for i in range(300)]
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["X"] = np.arange(600.0).reshape(300, 2)
        file["y"] = np.array(texts, dtype=object)
    data = read(tmp_path / "t.h5")
    assert data.y is not None and data.y.tolist() == texts


def test_hdf5_with_our_names_and_with_the_cats_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs h5py")
    with h5py.File(tmp_path / "ours.hdf5", "w") as file:
        file["X"], file["y"] = X, Y
    np.testing.assert_array_equal(read(tmp_path / "ours.hdf5").X, X)
    folder = tmp_path / "pets"
    folder.mkdir()
    with h5py.File(folder / "train_pets.h5", "w") as file:
        file["train_set_x"], file["train_set_y"] = np.zeros((6, 2, 2, 3), np.uint8), Y[:, None]
    with h5py.File(folder / "test_pets.h5", "w") as file:
        file["test_set_x"], file["test_set_y"] = np.ones((2, 2, 2, 3), np.uint8), Y[:2, None]
        file["list_classes"] = np.array([b"dog", b"cat"])
    for source in (folder, folder / "train_pets.h5"):
        data = read(source)
        assert data.kind == "images" and data.rows == 6 and data.test_part is not None
        assert data.test_part.rows == 2
        assert 'classes: 0 is "dog", 1 is "cat"' in data.notes
    alone = read(folder / "test_pets.h5")
    assert alone.rows == 2 and alone.test_part is None


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder(zipped: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels, labels = rng.integers(0, 256, (6, 4, 3), np.uint8), Y.astype(np.uint8)
    parts = {"train": (pixels, labels), "t10k": (pixels[:2], labels[:2])}
    for part, (images, classes) in parts.items():
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", classes)):
            content = gzip.compress(idx(array)) if zipped else idx(array)
            (tmp_path / f"{name}{'.gz' * zipped}").write_bytes(content)
    data = read(tmp_path)
    assert data.kind == "images" and data.test_part is not None
    np.testing.assert_array_equal(data.X, pixels.reshape(6, 12))
    np.testing.assert_array_equal(data.y, Y)
    np.testing.assert_array_equal(data.test_part.X, pixels[:2].reshape(2, 12))


def test_idx_files_may_lie_beside_the_downloads_they_were_unpacked_from(tmp_path: Path) -> None:
    (tmp_path / "train-images").mkdir()  # some archives unpack to folders of these names
    for name, array in (("images-idx3", np.ones((6, 4, 3), np.uint8)), ("labels-idx1", Y.astype(np.uint8))):
        (tmp_path / f"train-{name}-ubyte").write_bytes(idx(array))
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    assert read(tmp_path).rows == 6


@pytest.mark.parametrize(
    ("name", "shape", "target"),
    [
        ("breast_cancer", (569, 30), "diagnosis"),
        ("wine", (178, 13), "cultivar"),
        ("diabetes", (442, 10), "progression"),
        ("iris", (150, 4), "species"),
    ],
)
def test_builtin_tables(name: str, shape: tuple[int, int], target: str) -> None:
    data = read(name)
    assert (data.rows, len(data.columns) - 1) == shape and data.target == target
    assert read(name, next(iter(data.columns))).target == next(iter(data.columns))


def test_digits() -> None:
    data = read("digits")
    assert data.kind == "arrays" and data.X is not None and data.X.shape == (1797, 64)


def test_mnist_cats_and_housing_read_as_they_are(shared_data: Path) -> None:
    mnist = read(shared_data / "mnist")
    assert mnist.X is not None and mnist.X.shape == (60000, 784) and mnist.X.dtype == np.uint8
    assert mnist.test_part is not None and mnist.test_part.rows == 10000
    housing = read(shared_data / "housing.csv", "median_house_value")
    assert housing.rows == 20640 and np.isnan(housing.columns["total_bedrooms"]).sum() == 207
    assert housing.columns["ocean_proximity"][0] == "NEAR BAY"
    pytest.importorskip("h5py", reason="HDF5 needs h5py")
    cats = read(shared_data / "cats" / "train_catvnoncat.h5")
    assert cats.X is not None and cats.X.shape == (209, 12288)
    assert cats.test_part is not None and cats.test_part.rows == 50


def test_reading_one_format_loads_no_other_library(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", X=X, y=Y)
    code = (
        "import sys; from gpubp.data import read; read(sys.argv[1]); "
        "print({'duckdb', 'h5py', 'sklearn', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "t.npz")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"
