"""Readers of .npz and .npy files, which unpickle nothing and allocate no more than the file really holds."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, GpubpError, suggest


def read_npz(path: Path) -> RawData:
    """Read arrays ``X``, ``y`` and, if they are there, ``X_test`` and ``y_test``."""
    with _damage_as_data_error(path.name), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "X" not in members:
            raise DataError(f'{path.name}: there is no array "X"; {suggest("X", members)}')
        arrays: dict[str, NDArray[Any] | None] = {
            name: _read_member(archive, members[name], f'{path.name}, array "{name}"')
            for name in ("X", "y", "X_test", "y_test")
            if name in members
        }
    return from_arrays(path.name, arrays)


def read_npy(path: Path) -> RawData:
    """Read a matrix as a table whose columns are called "1", "2", …; the last is the target."""
    with _damage_as_data_error(path.name):
        # Mapped, not read, so that a header that declares more than the file holds costs nothing.
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    _require_numbers(f"{path.name}", matrix)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(
            f"{path.name}: shape {matrix.shape}; a matrix of rows and columns is needed, the last the target"
        )
    values = np.array(matrix.T, dtype=np.float64, order="C")
    columns = {str(i): column for i, column in enumerate(values, start=1)}
    return RawData(name=path.name, kind="table", columns=columns)


def from_arrays(name: str, arrays: Mapping[str, NDArray[Any] | None]) -> RawData:
    """Make a data set of the arrays X, y, X_test and y_test, of which X must be there, and check that they fit."""
    X = _check_inputs(f'{name}, array "X"', arrays["X"])
    y = _check_targets(f'{name}, array "y"', arrays.get("y"), len(X))
    X_test = arrays.get("X_test")
    y_test = None
    if X_test is not None:
        X_test = _check_inputs(f'{name}, array "X_test"', X_test)
        y_test = _check_targets(f'{name}, array "y_test"', arrays.get("y_test"), len(X_test))
        if X_test.shape[1] != X.shape[1]:
            raise DataError(f"{name}: X has {X.shape[1]} columns and X_test {X_test.shape[1]}; give both the same")
        if (X_test.dtype == np.uint8) != (X.dtype == np.uint8):
            raise DataError(
                f"{name}: X is {X.dtype} and X_test {X_test.dtype}; only pixels are uint8, give both the same"
            )
    kind: Literal["images", "arrays"] = "images" if X.dtype == np.uint8 else "arrays"
    data = RawData(name=name, kind=kind, X=X, y=y, X_test=X_test, y_test=y_test)
    if kind == "images":
        data.say("X: uint8, read as pixels and divided by 255")
    return data


def _check_inputs(where: str, X: NDArray[Any] | None) -> NDArray[Any]:
    """Return X as a matrix (rows, numbers a row); raise if it is empty or no numbers."""
    assert X is not None
    _require_numbers(where, X)
    if X.ndim < 2 or 0 in X.shape:
        raise DataError(f"{where}: shape {X.shape}; rows of at least one number each are needed")
    return X.reshape(len(X), -1)


def _check_targets(where: str, y: NDArray[Any] | None, rows: int) -> NDArray[Any] | None:
    """Return y as (rows,) or (rows, outputs), bytes decoded; raise if it is no target of so many rows of X."""
    if y is None:
        return None
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{where}: {y.dtype} cannot be predicted; save numbers or texts")
    if y.ndim not in (1, 2) or len(y) != rows:
        raise DataError(f"{where}: shape {y.shape}, for {rows} rows of X; ({rows},) or ({rows}, outputs) is needed")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y


def _require_numbers(where: str, X: NDArray[Any]) -> None:
    if X.dtype.kind not in "biuf":
        raise DataError(f"{where}: {X.dtype} is no type of real numbers; save it as float or uint8")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    """Read one .npy file of the archive, its header checked first: NumPy allocates what the header declares."""
    with archive.open(info) as stream:
        shape, dtype = _read_npy_header(stream, where)
        declared = math.prod(shape) * dtype.itemsize
        if declared > info.file_size:
            raise DataError(f"{where}: declares {declared:,} bytes and holds {info.file_size:,}; the file is damaged")
        check_size(where, declared, info.compress_size)
    with archive.open(info) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


def _read_npy_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{where}: format {version} of .npy is not read; save a plain array of numbers or texts")
    parse = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = parse(stream)
    if dtype.hasobject:
        raise DataError(f"{where}: holds Python objects, which may run code when read; save numbers or texts")
    return shape, dtype


@contextmanager
def _damage_as_data_error(name: str) -> Iterator[None]:
    """Turn what the parsers raise on damaged bytes into a DataError that names the file.

    Files made to do harm bring the parsers to raise every type of error listed here.
    """
    try:
        yield
    except GpubpError:
        raise
    except (
        *(ValueError, TypeError, SyntaxError, tokenize.TokenError, EOFError, OverflowError, MemoryError),
        *(KeyError, IndexError, RecursionError, RuntimeError, NotImplementedError, OSError),
        *(zipfile.BadZipFile, zlib.error, UnicodeError),
    ) as error:
        raise DataError(f"{name}: cannot be read: {error}; save it again with NumPy") from error
