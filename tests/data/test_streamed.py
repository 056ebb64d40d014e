"""Files that are read in blocks give what reading them as a whole gives, and what is wrong with one is named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, UsageError
from gpubp.data import blocks, csv_blocks, encode, open_large, prepare_streamed, read, streamed
from gpubp.data.blocks import RowBlocks

ROWS = 500
RNG = np.random.default_rng(3)
NUMBERS = RNG.standard_normal((ROWS, 3)).round(4)
COLOURS = RNG.choice(["red", "green", "blue"], ROWS)
CLASSES = np.where(NUMBERS[:, 0] + (COLOURS == "red") > 0, "yes", "no").astype(object)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """About 60 rows each."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 60 * 8 * 5)
    monkeypatch.setattr(csv_blocks, "PIECE", 2000)
    monkeypatch.setattr(streamed, "SHARE", 1)


def csv_text(classes: Any = CLASSES, numbers: Any = NUMBERS) -> str:
    """A table with two columns of quotes, one with a newline in some cells, and some missing numbers."""
    lines = ['a,b,c,colour,"the class"']
    for i, (row, colour, name) in enumerate(zip(numbers, COLOURS, classes, strict=True)):
        cells = ["" if i == 450 and j == 1 else str(number) for j, number in enumerate(row)]
        lines.append(",".join([*cells, f'"{colour}"' if i % 7 else f'"{colour}\n"', str(name)]))
    return "\n".join(lines) + "\n"


def write_csv(folder: Path) -> Path:
    path = folder / "large.csv"
    path.write_text(csv_text())
    return path


def write_gzipped(folder: Path) -> Path:
    path = folder / "large.csv.gz"
    path.write_bytes(gzip.compress(csv_text().encode()))
    return path


def write_parquet(folder: Path, group: int = 2048) -> Path:
    import duckdb

    path = folder / "large.parquet"
    with duckdb.connect() as connection:
        texts = f"SELECT * FROM read_csv('{write_csv(folder)}', header = true)"
        connection.execute(f"COPY ({texts}) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE {group})")
    return path


def write_table_npy(folder: Path) -> Path:
    np.save(folder / "large.npy", NUMBERS)
    return folder / "large.npy"


def write_npy(folder: Path) -> Path:
    np.save(folder / "large_X.npy", NUMBERS.astype(np.float32))
    np.save(folder / "large_y.npy", np.where(NUMBERS[:, 0] > 0, 1, 0))
    return folder / "large_X.npy"


def write_hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "large.h5", "w") as file:
        file["X"], file["y"] = NUMBERS, NUMBERS[:, :2] * 3
    return folder / "large.h5"


WRITERS = [write_csv, write_gzipped, write_parquet, write_table_npy, write_npy, write_hdf5]
QUICK_WRITERS = [  # those that take time are left to the thorough tests
    pytest.param(write, marks=[pytest.mark.thorough] if write in (write_parquet, write_hdf5) else [])
    for write in WRITERS
    if write is not write_gzipped
]


def opened(path: Path, limit: int = 5000, **options: Any) -> Any:
    data = open_large(path, limit=limit, **options)
    assert data is not None
    return data


def rows_of(parts: list[Any]) -> list[bytes]:
    """Rows of X and y beside each other, in an order of their own."""
    pairs = [np.column_stack([np.asarray(X), np.asarray(y, np.float64).reshape(len(X), -1)]) for X, y in parts]
    return sorted(row.astype(np.float32).tobytes() for pair in pairs for row in pair)


# -- what comes of a file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_every_row_is_encoded_once_as_reading_the_file_as_a_whole_would(write, tmp_path):
    path = write(tmp_path)
    data = opened(path)
    assert len(data.blocks.starts) > 4
    prepared = prepare_streamed(data, test=0.1, validation=0.1, seed=1)
    stream = prepared.stream
    assert stream is not None
    assert prepared.rows == stream.shape[0] == 400
    whole = encode(prepared.preprocessing, read(path))
    parts = [stream.read(0, 400), prepared.test, prepared.validation]
    assert rows_of(parts) == rows_of([whole])
    assert not {*rows_of([prepared.train])} - {*rows_of([stream.read(0, 400)])}  # fitted on training rows alone


@pytest.mark.parametrize("write", QUICK_WRITERS)
def test_what_fits_into_the_limit_is_not_read_in_blocks(write, tmp_path):
    assert open_large(write(tmp_path), limit=10**6) is None


@pytest.mark.parametrize("source", ["digits", "-", "nothing.csv", "folder"])
def test_nor_is_what_is_no_such_file(source, tmp_path):
    assert open_large(tmp_path / source if source == "folder" else source, limit=1) is None


@pytest.mark.thorough
def test_the_seed_decides_which_rows_are_drawn(tmp_path):
    path = write_parquet(tmp_path)
    one, same, other = (prepare_streamed(opened(path), seed=seed) for seed in (1, 1, 2))
    assert one.test is not None and same.test is not None and other.test is not None
    assert rows_of([one.test]) == rows_of([same.test]) != rows_of([other.test])
    assert one.preprocessing == same.preprocessing


def test_parts_in_memory_have_as_many_rows_as_their_share_of_the_limit_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "SHARE", 32)
    prepared = prepare_streamed(opened(write_table_npy(tmp_path), limit=9600), test=0.5, validation=0.5)
    assert [len(part[0]) for part in (prepared.train, prepared.validation, prepared.test) if part] == [12, 12, 12]
    assert prepared.rows == ROWS - 24
    assert "test: 12 rows, drawn with seed 0" in prepared.notes


@pytest.mark.thorough
def test_a_class_that_no_drawn_row_has_is_known_nevertheless(tmp_path):
    path = tmp_path / "rare.csv"
    classes = CLASSES.copy()
    classes[321] = "rare"
    path.write_text(csv_text(classes))
    for seed in range(3):
        prepared = prepare_streamed(opened(path, limit=1500), test=0.2, seed=seed)
        assert prepared.classes == ["no", "rare", "yes"]


def test_what_later_rows_hold_that_no_drawn_one_does_is_said(tmp_path):
    prepared = prepare_streamed(opened(write_csv(tmp_path), limit=2500), test=0)
    lacking = [note for note in prepared.notes if "lack a value, where every training row has one" in note]
    assert len(lacking) == 1 and 'column "b": 1 cells' in lacking[0]
    assert any(note.startswith("read in blocks, since as a whole it would take more memory") for note in prepared.notes)


@pytest.mark.thorough
def test_several_target_columns_and_options_on_columns(tmp_path):
    data = opened(write_parquet(tmp_path), target="a,c", ignore=["colour"], kinds={"the class": "category"})
    prepared = prepare_streamed(data, test=0)
    assert (prepared.task, prepared.n_outputs, prepared.n_inputs) == ("regression", 2, 3)


@pytest.mark.thorough
def test_large_row_groups_are_cut(tmp_path):
    starts = opened(write_parquet(tmp_path, group=100_000)).blocks.starts
    assert starts[-1] == ROWS and np.diff(starts).max() <= 60


@pytest.mark.thorough
def test_it_trains_a_network(tmp_path):
    prepared = prepare_streamed(opened(write_csv(tmp_path)))
    net = gpubp.MLP([prepared.n_inputs, 16, prepared.n_outputs], seed=0, device="cpu-reference")
    gpubp.train(net, **prepared.training_arguments, epochs=20, batch_size=16, learning_rate=0.01)
    assert prepared.test is not None
    assert net.evaluate(*prepared.test)["accuracy"] > 0.9


@pytest.mark.thorough
def test_encodings_that_are_large_and_mostly_zeros_are_written_as_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("gpubp.data.features.LARGEST_DENSE", 10)
    monkeypatch.setattr(streamed, "BATCH_BYTES", 100)
    path = tmp_path / "categories.csv"
    path.write_text("\n".join(["kind,y", *(f"k{i % 40:02d},{i / 7:.2f}" for i in range(ROWS)), ""]))
    prepared = prepare_streamed(opened(path, limit=3000), test=0)
    assert prepared.stream is not None
    X, _ = prepared.stream.read(0, ROWS)
    assert X.shape == (ROWS, 40) and (X.sum(axis=1) == 1).all()


# -- what is wrong with a file ----------------------------------------------------------------------------


def replaced(text: str, line: int, by: str) -> str:
    lines = text.split("\n")
    lines[line - 1] = by
    return "\n".join(lines)


PLAIN = "\n".join(["a,b,c", *(f"{i},{i * i % 17},{i % 3}" for i in range(400)), ""])


@pytest.mark.parametrize(
    "text, message",
    [
        (replaced(PLAIN, 301, "1,2"), r'large.csv, line 301: 2 cells where the header names 3 columns \(no "c"\)'),
        (replaced(PLAIN, 301, "1,oops,2"), r'large.csv, line 301, column "b": "oops" is not a number'),
        (replaced(PLAIN, 301, "1,1e999,2"), 'large.csv, line 301, column "b": inf is infinite or too large'),
        (replaced(PLAIN, 301, "1,2,"), 'large.csv, line 301, column "c": the target is missing'),
        (replaced(PLAIN, 301, '1,"2,3'), r"large.csv.*quote"),
        (replaced(PLAIN, 301, "1,\xff,3"), r"large.csv, line 30\d: is not written in utf-8"),
        (PLAIN.replace("\n", "\r"), "has no lines|lines that end"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_before_anything_is_trained(text, message, tmp_path):
    path = tmp_path / "large.csv"
    path.write_text(text, encoding="latin-1", newline="")
    with pytest.raises(DataError, match=message):
        prepare_streamed(opened(path, limit=1500), test=0.1)


def after_blocks(data: Any, count: int, then: Callable[[], Any]) -> None:
    """Let something happen once so many blocks were read."""
    read_block, seen = data.blocks.read, []

    def read(block: int) -> Any:
        seen.append(block)
        if len(seen) == count:
            then()
        return read_block(block)

    data.blocks.read = read


@pytest.mark.parametrize("write", QUICK_WRITERS)
@pytest.mark.parametrize("change", ["longer", "shorter", "gone", "anew"])
def test_a_file_that_changes_while_it_is_read_is_named(write, change, tmp_path):
    path = write(tmp_path)
    size = path.stat().st_size

    def happen() -> None:
        if change == "gone":
            return path.unlink()
        content = path.read_bytes()
        if change == "longer":
            content += content[-100:]
        path.write_bytes(content[: size // 2] if change == "shorter" else content)
        return None

    data = opened(path)
    after_blocks(data, 7, happen)
    said = {"longer": "bytes then", "shorter": "bytes then", "gone": "it is gone", "anew": "written anew"}[change]
    with pytest.raises(DataError, match=rf"{path.name}: changed while it was read, at row \d+ or before \(.*{said}"):
        prepare_streamed(data)


@pytest.mark.thorough
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_files_are_damaged(part, tmp_path):
    for write in (write_parquet, write_npy, write_gzipped):
        path = write(tmp_path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(DataError, match=path.name):
            open_large(path, limit=3000)


def test_a_matrix_that_is_written_column_by_column_is_refused(tmp_path):
    np.save(tmp_path / "large.npy", np.asfortranarray(NUMBERS))
    with pytest.raises(DataError, match="large.npy: is written column by column"):
        open_large(tmp_path / "large.npy", limit=3000)


def test_a_file_with_fewer_rows_than_it_says_is_named(tmp_path):
    path = write_npy(tmp_path)
    data = opened(path)
    data.blocks.stretch = lambda first, end: (NUMBERS[first:300], NUMBERS[first:300, 0])
    with pytest.raises(DataError, match="large_X.npy"):
        prepare_streamed(data)


@pytest.mark.parametrize("write", [write_table_npy, write_npy, write_parquet, write_hdf5])
def test_rows_of_every_block_are_counted_from_the_first_of_the_file(write, tmp_path):
    rows = opened(write(tmp_path)).blocks
    for block, start in enumerate(rows.starts[:-1]):
        data = rows.read(block)
        assert [data.place(row) for row in (0, 7)] == [f"row {start + 1}", f"row {start + 8}"]


def test_pieces_may_end_in_texts_of_several_lines(tmp_path):
    path = tmp_path / "texts.csv"
    texts = ["\n".join(f"line {line} of {row}" for line in range(row % 9)) for row in range(ROWS)]
    path.write_text("# said before\ntext,number\n" + "".join(f'"{text}",{row}\n' for row, text in enumerate(texts)))
    whole, large = read(path, kinds={"text": "category"}), open_large(path, limit=1, kinds={"text": "category"})
    read_in_blocks = [large.blocks.read(block) for block in range(len(large.blocks.starts) - 1)]
    assert len(read_in_blocks) > 10
    for name in ("text", "number"):
        column = np.concatenate([block.columns[name] for block in read_in_blocks])
        np.testing.assert_array_equal(column, whole.columns[name])
    places = [block.place(row) for block in read_in_blocks for row in range(block.rows)]
    assert places == [whole.place(row) for row in range(whole.rows)]


def test_a_quote_that_is_never_closed_ends_the_search_for_rows(tmp_path):
    path = tmp_path / "large.csv"
    path.write_text(replaced(PLAIN, 30, '1,"2,3') + PLAIN * 10)
    with pytest.raises(DataError, match=r"large.csv, (from )?line \d+"):
        open_large(path, limit=1500)


def test_a_quote_that_no_piece_closes_is_named_by_the_line_on_which_it_may_be(tmp_path):
    path = tmp_path / "large.csv"
    path.write_text(replaced(PLAIN, 301, '1,"2,3') + PLAIN * 10)
    message = r"large.csv, from line 301 on: no row ends in [\d,]+ bytes; close the quote that is open there"
    with pytest.raises(DataError, match=message):
        open_large(path, limit=1500)


@pytest.mark.parametrize("header", [None, True])
def test_a_row_may_be_longer_than_a_piece(header, tmp_path):
    path = tmp_path / "large.csv"
    text = "a\nlong, long\nrow\n" * 300
    path.write_text(replaced(PLAIN, 301, f'1,"{text}",2').replace("a,b,c", "a,text,c"))
    data = opened(path, limit=1500, header=header)
    blocks_read = [data.blocks.read(block) for block in range(len(data.blocks.starts) - 1)]
    assert sum(part.rows for part in blocks_read) == 400
    assert (data.blocks.header is None) == (header is not None)


def test_a_gzipped_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    def refuse(name: str, *_: int) -> None:
        raise DataError(f"{name}: would unpack to too much")

    monkeypatch.setattr(csv_blocks, "check_size", refuse)
    with pytest.raises(DataError, match="large.csv.gz: would unpack to too much"):
        open_large(write_gzipped(tmp_path), limit=1500)


def test_a_file_that_cannot_be_read_any_more_is_named_with_the_row(tmp_path):
    def fail(first: int, end: int) -> Any:
        raise OSError("Input/output error")

    data = opened(write_npy(tmp_path))
    data.blocks.stretch = fail
    with pytest.raises(DataError, match=r"large_X.npy, from row 1 on: cannot be read: Input/output error"):
        data.blocks.read(0)


def test_arrays_of_more_axes_and_files_without_them_are_read_as_a_whole_or_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "pictures.npy", np.zeros((50, 10, 10)))
    (tmp_path / "damaged.h5").write_bytes(b"no HDF5")
    with h5py.File(tmp_path / "others.h5", "w") as file:
        file["Z"] = NUMBERS
    for name in ("pictures.npy", "damaged.h5", "others.h5"):
        assert open_large(tmp_path / name, limit=100) is None


def test_targets_beside_a_large_array_may_be_texts(tmp_path):
    path = write_npy(tmp_path)
    np.save(tmp_path / "large_y.npy", CLASSES.astype(str))
    assert prepare_streamed(opened(path)).classes == ["no", "yes"]


@pytest.mark.parametrize("fraction", [1.0, -0.1, 7.5])
def test_fractions(fraction, tmp_path):
    with pytest.raises(UsageError, match="is no fraction"):
        prepare_streamed(opened(write_table_npy(tmp_path)), test=fraction)


def test_a_target_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match='there is no column "clas"'):
        open_large(write_csv(tmp_path), "clas", 3000)
    with pytest.raises(UsageError, match="there is no column"):
        open_large(write_csv(tmp_path), limit=3000, ignore=["colours"])


def test_options_on_columns_are_refused_for_arrays(tmp_path):
    np.save(tmp_path / "X.npy", np.ones((5000, 4)))
    np.save(tmp_path / "y.npy", np.arange(5000) % 2)
    with pytest.raises(UsageError, match=r"X\.npy: --missing is of tables"):
        open_large(tmp_path / "X.npy", limit=100_000, missing=["-999"])


def test_a_scratch_file_that_will_not_fit_is_refused(tmp_path, monkeypatch):
    class Usage:
        free = 100

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(UsageError, match=r"takes 0\.\d MB, and 0.0 MB are free; make room, or name another folder"):
        prepare_streamed(opened(write_table_npy(tmp_path)))


def test_half_of_memory_is_the_limit_where_none_is_given(monkeypatch, tmp_path):
    assert 0 < streamed.half_of_memory() < 1 << 50
    seen: list[RowBlocks | None] = []
    monkeypatch.setattr(streamed, "half_of_memory", lambda: 3000)
    data = open_large(write_table_npy(tmp_path))
    seen.append(None if data is None else data.blocks)
    assert seen[0] is not None


# -- a test part of their own -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "h5", "beside"])
def test_the_test_part_that_a_data_set_keeps_is_used(kind, tmp_path):
    X, y = NUMBERS.astype(np.float32), np.where(NUMBERS[:, 0] > 0, 1, 0)
    arrays = {"x_train": X[:450], "y_train": y[:450], "x_test": X[450:], "y_test": y[450:]}
    if kind == "npy":
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        path = tmp_path / "x_train.npy"
    else:
        h5py = pytest.importorskip("h5py")
        path = tmp_path / "train.h5"
        for name, array in arrays.items():
            place = path if kind == "h5" or "train" in name else tmp_path / "test.h5"
            with h5py.File(place, "a") as file:
                file[name] = array
    prepared = prepare_streamed(opened(path, limit=8000))
    assert prepared.rows == 450 and prepared.test is not None
    np.testing.assert_array_equal(prepared.test[1], y[450:])
    assert "test: the 50 rows that the data set keeps for it" in prepared.notes
    with pytest.raises(DataError, match="its test part takes too much memory, too"):
        open_large(path, limit=2000)


def test_what_is_said_of_a_file_in_blocks_is_said_of_its_columns_in_prediction_too(tmp_path):
    """How a CSV file is written is no option of the user's, so later files may be written otherwise."""
    path = tmp_path / "large.csv"
    path.write_text("\n".join(["a;b;y", *(f"{i % 9},{i % 7};{i % 5};{i % 3}" for i in range(400)), ""]))
    prepared = prepare_streamed(opened(path, limit=1500))
    assert prepared.preprocessing["schema"]["options"]["delimiter"] is None
    other = tmp_path / "other.csv"
    other.write_text('a,b,y\n"1,5",2,0\n"2,5",3,1\n')
    np.testing.assert_allclose(
        encode(prepared.preprocessing, read(other, trained=prepared.preprocessing))[0].shape, (2, prepared.n_inputs)
    )


@pytest.mark.thorough
def test_a_later_parquet_file_is_read_without_the_columns_that_training_ignored(tmp_path):
    path = write_parquet(tmp_path)
    prepared = gpubp.data.prepare(read(path, ignore=["colour"]))
    X, _ = encode(prepared.preprocessing, read(path, trained=prepared.preprocessing))
    assert X.shape == (ROWS, prepared.n_inputs)
