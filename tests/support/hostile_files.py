"""Files that are damaged, or made to do harm, by code: what a reader has to refuse by name."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import duckdb
import h5py
import numpy as np

from support.seed_files import SEED_FILES

Maker = Callable[[], bytes]
GIGABYTE = 2**30


def _npy(dtype: str, shape: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with this header, whatever it says."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + body


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def _hdf5(fill: Callable[[h5py.File], None]) -> Maker:
    def make() -> bytes:
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            fill(h5)
        return file.getvalue()

    return make


def _fill_huge(h5: h5py.File) -> None:
    h5.create_dataset("X", (10**9, 10), "f8", chunks=(1000, 10))


def _fill_compressed(h5: h5py.File) -> None:
    h5.create_dataset("X", data=np.zeros((40_000, 1000), "f8"), compression="gzip", compression_opts=9)


def _fill_elsewhere(h5: h5py.File) -> None:
    h5["X"] = h5py.ExternalLink("/etc/hostname", "/X")


def _fill_loop(h5: h5py.File) -> None:
    h5["X"] = h5py.SoftLink("/X")


def _fill_references(h5: h5py.File) -> None:
    h5["X"] = np.array([[h5.ref]], dtype=h5py.ref_dtype)


def _fill_without_data(h5: h5py.File) -> None:
    h5["X"] = h5py.Empty("f8")


def _fill_group(h5: h5py.File) -> None:
    h5.create_group("X")


def _fill_complex(h5: h5py.File) -> None:
    h5["X"] = np.ones((2, 2), complex)


def _parquet(select: str, options: str = "") -> Maker:
    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "t.parquet")
            duckdb.execute(f"COPY ({select}) TO '{path}' {options or '(FORMAT parquet)'}")
            return path.read_bytes()

    return make


def _excel(part: str, content: bytes) -> Maker:
    """A workbook with one of its parts replaced."""

    def make() -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(SEED_FILES["table.xlsx"]())) as whole, zipfile.ZipFile(file, "w", 8) as changed:
            for info in whole.infolist():
                changed.writestr(info.filename, content if info.filename == part else whole.read(info))
        return file.getvalue()

    return make


def _picture(width: int, height: int, body: bytes = b"\0") -> bytes:
    """A PNG of so many pixels, whatever it holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def _model(change: Callable[[dict], object], length: int | None = None) -> Maker:
    """A model file whose header is changed, or said to have another length."""

    def make() -> bytes:
        whole = SEED_FILES["model.safetensors"]()
        (size,) = struct.unpack("<Q", whole[:8])
        header = json.loads(whole[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + whole[8 + size :]

    return make


def _tensor_says(**said: object) -> Maker:
    """A model file whose first tensor says something else of itself."""

    def change(header: dict) -> None:
        header[next(name for name in header if name != "__metadata__")].update(said)

    return _model(change)


def _metadata_says(text: str) -> Maker:
    """A model file of which every entry of the metadata has this text."""

    def change(header: dict) -> None:
        header["__metadata__"] = dict.fromkeys(header["__metadata__"], text)

    return _model(change)


BOMB = b"<!DOCTYPE a [<!ENTITY b0 'ha'>" + b"".join(
    b"<!ENTITY b%d '%s'>" % (i, b"&b%d;" % (i - 1) * 10) for i in range(1, 10)
)
SHEET_OF = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData></worksheet>'
SHEET = "xl/worksheets/sheet1.xml"
# Found by fuzzing: a header that makes Python's tokenizer raise SystemError.
ZERO_IN_HEADER = (
    "k05VTVBZAQB2ACAgICBXICAgICAgICAgICAgIDPoICAgICAKAHseHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHgEAAA"
    "AAAK8AAB4eHh4eHiAgyCAgICAgICAgICAgICAgICAgICAgGiAgIAAAVwAAEEAAAAAAAAAAAAAAABhAAAAAAAAAHA=="
)
# Files made to do harm, by a name that ends as the reader wants it.
MADE: dict[str, Maker] = {
    "pickled.npy": lambda: _npy("'|O'", "(1, 1)", b"cos\nsystem\n(S'echo'\ntR."),
    "code_in_header.npy": lambda: _npy("__import__('os').system('true')", "(1, 1)"),
    "huge.npy": lambda: _npy("'<f8'", "(1000000000, 1000)"),
    "negative.npy": lambda: _npy("'<f8'", "(-1, 3)", bytes(24)),
    "overflowing.npy": lambda: _npy("'<f8'", "(9223372036854775807, 9223372036854775807)"),
    "many_dimensions.npy": lambda: _npy("'<f8'", f"({'1, ' * 70})", bytes(8)),
    "nested.npy": lambda: _npy("'<f8'", "(" * 300 + ")" * 300),
    "complex.npy": lambda: _npy("'<c16'", "(2, 2)", bytes(64)),
    "zero_in_header.npy": lambda: base64.b64decode(ZERO_IN_HEADER),
    "no_such_type.npy": lambda: _npy("'<f7'", "(2, 2)", bytes(28)),
    "version_9.npy": lambda: _npy("'<f8'", "(2, 2)", bytes(32), b"\x09\x00"),
    "archive.npy": SEED_FILES["arrays.npz"],
    "scalar.npy": lambda: _npy("'<f8'", "()", bytes(8)),
    "no_rows.npy": lambda: _npy("'<f8'", "(0, 5)"),
    "objects.npz": lambda: _npz(X=np.array([[print, 1]], dtype=object)),
    "object_targets.npz": lambda: _npz(X=np.ones((2, 2)), y=np.array([None, {}], dtype=object)),
    "wide_text.npz": lambda: _zip(X=SEED_FILES["matrix.npy"](), y=_npy("'<U60000000'", "(4,)")),
    "zeros.npz": lambda: _zip(X=_npy("'<f8'", "(60000, 1000)", bytes(60_000 * 8000))),
    "huge.npz": lambda: _zip(X=_npy("'<f8'", "(1000000000, 1000)")),
    "no_characters.npz": lambda: _zip(X=_npy("'<f8'", "(1, 1)", bytes(8)), y=_npy("'<U1'", "(1,)", b"\xff" * 4)),
    "surrogate.npz": lambda: _zip(X=_npy("'<f8'", "(1, 1)", bytes(8)), y=_npy("'<U1'", "(1,)", b"\0\xd8\0\0")),
    "bytes.npz": lambda: _npz(X=np.ones((1, 1)), y=np.array([b"\xff"])),
    "other_names.npz": lambda: _npz(a=np.ones((2, 2))),
    "fewer_targets.npz": lambda: _npz(X=np.ones((3, 2)), y=np.ones(2)),
    "other_width.npz": lambda: _npz(X=np.ones((3, 2)), y=np.ones(3), X_test=np.ones((3, 4)), y_test=np.ones(3)),
    "version_9.npz": lambda: _zip(X=_npy("'<f8'", "(1, 1)", bytes(8), b"\x09\x00")),
    "pixels_and_numbers.npz": lambda: _npz(
        X=np.ones((2, 2), np.uint8), y=np.ones(2), X_test=np.ones((2, 2)), y_test=np.ones(2)
    ),
    "dates.npz": lambda: _npz(X=np.ones((2, 2)).astype("M8[s]")),
    "records.npz": lambda: _npz(X=np.zeros((2, 2), [("a", "f8"), ("b", "f8")])),
    "huge.h5": _hdf5(_fill_huge),
    "compressed.h5": _hdf5(_fill_compressed),
    "elsewhere.h5": _hdf5(_fill_elsewhere),
    "loop.h5": _hdf5(_fill_loop),
    "references.h5": _hdf5(_fill_references),
    "no_data.h5": _hdf5(_fill_without_data),
    "group.h5": _hdf5(_fill_group),
    "complex.h5": _hdf5(_fill_complex),
    "lists.parquet": _parquet("SELECT [i] AS a, i AS b FROM range(3) r(i)"),
    "records.parquet": _parquet("SELECT {'x': i} AS a, i AS b FROM range(3) r(i)"),
    "bytes.parquet": _parquet("SELECT '\\xAA'::BLOB AS a, i AS b FROM range(3) r(i)"),
    "no_rows.parquet": _parquet("SELECT 1 AS a, 2 AS b WHERE false"),
    "dictionary.parquet": _parquet(
        f"SELECT repeat('a', 200000) AS a, i AS b FROM range({GIGABYTE // 200_000}) r(i)",
        "(FORMAT parquet, DICTIONARY_SIZE_LIMIT 300000)",
    ),
    "zeros.csv.gz": lambda: gzip.compress(b"a,b\n" + b"0,0\n" * (80 * 2**20), 1, mtime=0),
    "no_gzip.csv.gz": SEED_FILES["table.csv"],
    "nothing.csv": lambda: b"",
    "mark_only.csv": lambda: b"\xef\xbb\xbf",
    "zeros.csv": lambda: bytes(1000),
    "names_only.csv": lambda: b"a,b,c\n",
    "same_names.csv": lambda: b"a,a,b\n1,2,3\n4,5,6\n",
    "no_names.csv": lambda: b"a,,b\n1,2,3\n4,5,6\n",
    "ragged.csv": lambda: b"a,b\n1,2\n3,4,5\n",
    "short.csv": lambda: b"a,b\n1,2\n3\n",
    "open_quote.csv": lambda: b'a,b\n"1,2\n3,4\n',
    "text_after_quote.csv": lambda: b'a,b\n"1"x,2\n3,4\n',
    "odd_utf16.csv": lambda: "a,b\n1,2\n".encode("utf-16") + b"\0",
    "half_a_character.csv": lambda: b"a,b\n\xe2\x82,2\n1,\xe2",
    "long_line.csv": lambda: b"a,b\n" + b"1" * 3_000_000 + b",2\n",
    "sql.csv": lambda: b"a,b\n1,2\n'); ATTACH 'x.db'; --,3,4\n",
    "pdf.csv": lambda: b"%PDF-1.4\n\x00\x01\x02\xff" * 50,
    "program.csv": lambda: b"\x7fELF\x02\x01\x01" + bytes(range(256)),
    "entities.xlsx": _excel(SHEET, BOMB + b"]><worksheet>&b9;</worksheet>"),
    "outside.xlsx": _excel(
        SHEET, b"<!DOCTYPE a [<!ENTITY f SYSTEM 'file:///etc/hostname'>]><worksheet>&f;</worksheet>"
    ),
    "breaks_off.xlsx": _excel(SHEET, (SHEET_OF % b"<row r='1'><c r='A1'><v>1</v></c></row>")[:-30]),
    "no_numbers.xlsx": _excel(SHEET, SHEET_OF % b"<row r='x'><c r='?'><v>1</v></c></row>"),
    "no_such_text.xlsx": _excel(
        SHEET,
        SHEET_OF % b"<row><c t='s'><v>99</v></c></row><row><c t='s'><v>x</v></c></row>",
    ),
    "no_xml.xlsx": _excel(SHEET, b"\0\1\2"),
    "no_workbook.xlsx": _excel("xl/workbook.xml", b"<workbook/>"),
    "zeros.xlsx": lambda: _excel(SHEET, b"<worksheet><sheetData>" + b" " * (400 * 2**20))(),
    "text.xlsx": SEED_FILES["table.csv"],
    "pictures/wide.png": lambda: _picture(2**31 - 1, 2**31 - 1),
    "pictures/pixels.png": lambda: _picture(30_000, 30_000, bytes(1000)),
    "pictures/none.png": lambda: _picture(0, 0),
    "pictures/text.png": SEED_FILES["table.csv"],
    "idx/train-images-idx3-ubyte": lambda: struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2**31),
    "idx/train-labels-idx1-ubyte": lambda: struct.pack(">4BI", 0, 0, 8, 1, 2**32 - 1),
    "header_of_exabytes.safetensors": _model(lambda header: None, 2**62),
    "header_beyond.safetensors": _model(lambda header: None, 10**6),
    "nested.safetensors": lambda: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "offsets_backwards.safetensors": _tensor_says(data_offsets=[8, 0]),
    "offsets_beyond.safetensors": _tensor_says(data_offsets=[0, 2**40]),
    "offsets_negative.safetensors": _tensor_says(data_offsets=[-8, 8]),
    "shape_of_exabytes.safetensors": _tensor_says(shape=[2**40, 2**40]),
    "no_such_type.safetensors": _tensor_says(dtype="OBJECT"),
    "metadata_empty.safetensors": _metadata_says(""),
    "metadata_code.safetensors": _metadata_says("__import__('os').system('true')"),
    "metadata_nested.safetensors": _metadata_says("[" * 100_000),
    "no_metadata.safetensors": _model(lambda header: header.pop("__metadata__")),
    "pickle.safetensors": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "nothing.safetensors": lambda: b"",
}


def damaged(count: int, seed: int = 0) -> dict[str, bytes]:
    """Every seed file damaged in so many ways: cut, with bytes changed, left out, doubled or put in."""
    generator, files = random.Random(seed), {}
    for (name, make), number in itertools.product(SEED_FILES.items(), range(count)):
        folder, _, file = name.rpartition("/")
        content = bytearray(make())
        at, length = generator.randrange(len(content)), generator.choice((1, 2, 4, 16, 64))
        way = generator.choice(("cut", "change", "leave out", "double", "put in"))
        if way == "cut":
            del content[at:]
        elif way == "leave out":
            del content[at : at + length]
        elif way == "double":
            content[at:at] = content[at : at + length]
        elif way == "put in":
            content[at:at] = generator.choice((bytes(length), b"\xff" * length, generator.randbytes(length)))
        else:
            content[at : at + length] = generator.randbytes(len(content[at : at + length]))
        place = f"{folder}/" if folder else ""
        files[f"{number}/{place}{file}"] = bytes(content)
    return files
