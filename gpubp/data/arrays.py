"""Readers of .npz and .npy files, which unpickle nothing and allocate no more than the file really holds."""

from __future__ import annotations

import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, GpubpError, suggest

# The names of X, y, X_test and y_test in files: gpubp's, Keras's, those of scikit-learn users, those of the cat
# pictures.
LAYOUTS = (
    {name: name for name in ("X", "y", "X_test", "y_test")},
    {"X": "x_train", "y": "y_train", "X_test": "x_test", "y_test": "y_test"},
    {"X": "X_train", "y": "y_train", "X_test": "X_test", "y_test": "y_test"},
    {"X": "train_set_x", "y": "train_set_y", "X_test": "test_set_x", "y_test": "test_set_y"},
)
# The name of the targets' file for inputs called "x_train.npy", "images.npy", …
INPUTS_AND_TARGETS = (("X", "y"), ("x", "y"), ("images", "labels"), ("data", "labels"))
LAST_CHARACTER = 0x10FFFF  # of Unicode


def read_npz(path: Path) -> RawData:
    """Read X, y and, if present, X_test and y_test, by the names of one of LAYOUTS."""
    with _damage_as_data_error(path.name), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        layout = find_layout(members, ("X",))
        if layout is None:
            raise DataError(f'{path.name}: there is no array "X" or "x_train"; {suggest("X", members)}')
        arrays: dict[str, NDArray[Any] | None] = {
            name: _read_member(archive, members[stored], f'{path.name}, array "{stored}"')
            for name, stored in layout.items()
            if stored in members
        }
    return from_arrays(path.name, arrays)


def find_layout(names: Container[str], enough: Sequence[str]) -> dict[str, str] | None:
    """Find the first of LAYOUTS for which a file with arrays of these names has at least one of those in `enough`."""
    return next((layout for layout in LAYOUTS if any(layout[part] in names for part in enough)), None)


def read_npy(path: Path) -> RawData:
    """Read a matrix as a table with columns "1", "2", …, where the last is the target; other arrays as inputs.

    Inputs are an array of more dimensions (pictures), or any array whose targets are in a file next to it:
    ``y_train.npy`` for ``x_train.npy``, ``labels.npy`` for ``images.npy``. Files next to it with "test" instead of
    "train" in their names are the test part.
    """
    array = map_npy(path)
    targets_path = file_beside(path, INPUTS_AND_TARGETS)
    if array.ndim == 2 and targets_path is None and 0 not in array.shape:
        values = np.array(array.T, dtype=np.float64, order="C")
        columns = {str(i): column for i, column in enumerate(values, start=1)}
        return RawData(name=path.name, kind="table", columns=columns)
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(
            f"{path.name}: shape {array.shape}; a matrix of rows and columns is needed, the last the target"
        )
    arrays: dict[str, NDArray[Any] | None] = {"X": np.array(array)}
    paths = {"y": targets_path, "X_test": file_beside(path, (("train", "test"),))}
    paths["y_test"] = None if targets_path is None else file_beside(targets_path, (("train", "test"),))
    if paths["y_test"] is None:
        paths["X_test"] = None
    arrays |= {
        name: np.array(map_npy(other, texts=name != "X_test")) for name, other in paths.items() if other is not None
    }
    data = from_arrays(path.name, arrays)
    for name, use in {"y": "targets", "X_test": "test part"}.items():
        if (other := paths[name]) is not None:
            data.say(f"{use}: {other.name}, beside {path.name}")
    return data


def npy_test_part(path: Path, targets_path: Path) -> dict[str, NDArray[Any]]:
    """X and y of the test part in files next to a .npy file and its targets, memory-mapped; empty if there is none."""
    test, targets = file_beside(path, (("train", "test"),)), file_beside(targets_path, (("train", "test"),))
    if test is None or targets is None:
        return {}
    return {"X": map_npy(test), "y": map_npy(targets, texts=True)}


def as_inputs(data: RawData, kind: str, width: int) -> RawData:
    """Take the matrix of a .npy file, read as a table, as the inputs of a network that was trained on `kind`.

    Parameters
    ----------
    data : RawData
    kind : {"table", "arrays", "images"}
        Of the data that the network was trained on.
    width : int
        How many numbers the network takes per row.

    Returns
    -------
    RawData
        `data` itself, unless it is such a matrix and has `width` columns, or one more, the target.
    """
    names = list(data.columns)
    if data.kind != "table" or kind == "table" or names != [str(i) for i in range(1, len(names) + 1)]:
        return data
    if len(names) not in (width, width + 1):
        return data
    y = data.columns[names[width]] if len(names) > width else None
    X = np.column_stack([data.columns[name] for name in names[:width]])
    inputs: Literal["images", "arrays"] = "images" if kind == "images" else "arrays"
    return RawData(name=data.name, kind=inputs, X=X, y=y, notes=data.notes)


def from_arrays(
    name: str, arrays: Mapping[str, NDArray[Any] | None], class_names: Sequence[str] | None = None
) -> RawData:
    """Make a data set of the arrays X, y, X_test and y_test, check that they fit, and require X.

    Parameters
    ----------
    name : str
        The name of the file, for messages.
    arrays : dict of str to ndarray or None
    class_names : list of str, optional
        The classes that the numbers 0, 1, … in y stand for.
    """
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
    data = RawData(name=name, kind=kind, X=X, y=y, X_test=X_test, y_test=y_test, class_names=class_names)
    if kind == "images":
        data.say("X: uint8, read as pixels and divided by 255")
    return data


def _check_inputs(where: str, X: NDArray[Any] | None) -> NDArray[Any]:
    """Return X as a matrix (rows, numbers per row); raise if it is empty or holds no numbers."""
    assert X is not None
    _require_numbers(where, X)
    if X.ndim < 2 or 0 in X.shape:
        raise DataError(f"{where}: shape {X.shape}; rows of at least one number each are needed")
    return X.reshape(len(X), -1)


def _check_targets(where: str, y: NDArray[Any] | None, rows: int) -> NDArray[Any] | None:
    """Return y as (rows,) or (rows, outputs), with bytes decoded; raise if it is not a target for `rows` rows of X."""
    if y is None:
        return None
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{where}: {y.dtype} cannot be predicted; save numbers or texts")
    if y.shape == (1, rows):  # a row of targets, as in the cat pictures
        y = y[0]
    if y.ndim not in (1, 2) or len(y) != rows:
        raise DataError(f"{where}: shape {y.shape}, for {rows} rows of X; ({rows},) or ({rows}, outputs) is needed")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind in "US":
        _require_text(where, y)
    return np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y


def _require_text(where: str, y: NDArray[Any]) -> None:
    """Raise for bytes that are not UTF-8, and for invalid characters."""
    if y.dtype.kind == "S":
        try:
            np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: is not UTF-8 ({error.reason}); save texts, or bytes in UTF-8") from None
    elif y.dtype.itemsize:
        # NumPy does not check characters; those beyond Unicode's last break Python wherever they are used.
        code_points = np.ascontiguousarray(y).view(f"{y.dtype.str[0]}u4")
        wrong = (code_points > LAST_CHARACTER) | ((code_points >= 0xD800) & (code_points < 0xE000))
        if wrong.any():
            raise DataError(
                f"{where}: holds U+{int(code_points[wrong][0]):X}, which is no character; the file is damaged"
            )


def _require_numbers(where: str, X: NDArray[Any]) -> None:
    if X.dtype.kind not in "biuf":
        raise DataError(f"{where}: {X.dtype} is no type of real numbers; save it as float or uint8")


def map_npy(path: Path, texts: bool = False) -> NDArray[Any]:
    """Open an array of numbers, or of strings if `texts` allows them, without reading it.

    It is memory-mapped, so that a header that declares more than the file holds costs nothing.
    """
    with _damage_as_data_error(path.name), np.errstate(over="ignore"):  # shapes whose product overflows are refused
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise DataError(f"{path.name}: is an archive of arrays, not one array; rename it to end in .npz")
    if not (texts and array.dtype.kind in "US"):
        _require_numbers(path.name, array)
    return array


def file_beside(path: Path, words: Sequence[tuple[str, str]]) -> Path | None:
    """Find the file whose name has the first word of a pair replaced by the second; None if there is no such file."""
    for word, other in words:
        stem = re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", other, path.stem)
        if stem != path.stem and (sibling := path.with_name(stem + path.suffix)).is_file():
            return sibling
    return None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    """Read one .npy file of the archive after checking its header: NumPy allocates what the header declares."""
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
    """Turn errors that parsers raise on damaged bytes into a DataError that names the file.

    Malicious files can make the parsers raise every type of error listed here.
    """
    try:
        yield
    except GpubpError:
        raise
    except (
        *(ValueError, TypeError, SyntaxError, tokenize.TokenError, EOFError, OverflowError, MemoryError),
        *(KeyError, IndexError, RecursionError, RuntimeError, NotImplementedError, OSError, SystemError),
        *(zipfile.BadZipFile, zlib.error, UnicodeError),
    ) as error:
        raise DataError(f"{name}: cannot be read: {error}; save it again with NumPy") from error
