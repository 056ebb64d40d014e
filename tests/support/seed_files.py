"""Small valid files of every format that is read, made by code, and the reading of them to the last cell."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import h5py
import numpy as np
import openpyxl
from PIL import Image

import gpubp
from gpubp.data import read
from gpubp.data.source import RawData

TABLE = "a,b,c\n1,x,0.5\n2,y,\n-3e2,x,NA\n4,'z',1.25\n"
LABELS = np.array([0, 1, 1])


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, X=np.arange(6.0).reshape(3, 2), y=LABELS)
    return file.getvalue()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(12.0).reshape(4, 3))
    return file.getvalue()


def _hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        h5["X"], h5["y"] = np.arange(6.0).reshape(3, 2), LABELS
    return file.getvalue()


def _parquet() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.parquet")
        duckdb.execute(
            f"COPY (SELECT i AS a, i / 3 AS b, 'x' || i % 2 AS c, i = 2 AS d FROM range(5) r(i)) TO '{path}'"
        )
        return path.read_bytes()


def _excel() -> bytes:
    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (["a", "b"], [1, "x"], [2.5, "y"], [None, "x"]):
        book.active.append(row)
    book.save(file)
    return file.getvalue()


def _picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(file, "png")
    return file.getvalue()


def _idx(dimensions: int) -> bytes:
    shape = (3, 2, 2)[:dimensions]
    return struct.pack(f">4B{dimensions}I", 0, 0, 8, dimensions, *shape) + bytes(range(int(np.prod(shape))))


def _model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        gpubp.MLP([2, 3, 2], seed=0, device="cpu-reference").save(path)
        return path.read_bytes()


# What a file is called, and how its bytes are made. Those with a folder in their name are read as the whole folder.
SEED_FILES: dict[str, Callable[[], bytes]] = {
    "table.csv": TABLE.encode,
    "table.csv.gz": lambda: gzip.compress(TABLE.encode(), mtime=0),
    "table.parquet": _parquet,
    "table.xlsx": _excel,
    "arrays.npz": _npz,
    "matrix.npy": _npy,
    "arrays.h5": _hdf5,
    "idx/train-images-idx3-ubyte": lambda: _idx(3),
    "idx/train-labels-idx1-ubyte": lambda: _idx(1),
    "pictures/cat.png": _picture,
    "model.safetensors": _model,
}


def read_whole(path: Path) -> Any:
    """Read a file, or the folder that it lies in where that is how it is read, to the last cell; or load a network."""
    if path.suffix == ".safetensors":
        return gpubp.MLP.load(path, device="cpu-reference")
    in_folder = path.suffix == ".png" or "ubyte" in path.name
    data: RawData = read(path.parent if in_folder else path)
    for name in data.columns:
        data.columns[name]
    return data


def write_seed(name: str, folder: Path, content: bytes | None = None) -> Path:
    """Write a seed file, or other bytes under its name, with what must lie beside it; return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.startswith("idx/"):
        for other in SEED_FILES:
            if other.startswith("idx/"):
                (folder / other).write_bytes(SEED_FILES[other]())
    path.write_bytes(SEED_FILES[name]() if content is None else content)
    return path
