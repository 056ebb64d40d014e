"""The reader of HDF5 files, which follows no links out of the file and reads no objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.arrays import find_layout, from_arrays
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, UsageError, suggest

ENDINGS = (".h5", ".hdf5")
PARTS = ("X", "y", "X_test", "y_test")
TEXTS_AT_ONCE = 128  # variable-length texts read at a time: each may be as long as the file


def read_hdf5(path: Path) -> RawData:
    """Read X, y, X_test and y_test from a file.

    If the file has no test part and "train" in its name, the file next to it with "test" instead is the test part.
    """
    arrays, classes = _read_arrays_and_classes(path)
    test_path = path.with_name(path.name.replace("train", "test"))
    if "X" in arrays and "X_test" not in arrays and test_path != path and test_path.is_file():
        test_arrays, test_classes = _read_arrays_and_classes(test_path)
        classes = classes or test_classes
        arrays |= {name: array for name, array in test_arrays.items() if name in ("X_test", "y_test")}
    if "X" not in arrays:  # a test file by itself
        arrays = {"X": arrays["X_test"], "y": arrays.get("y_test")}
    data = from_arrays(path.name, arrays, classes or None)
    if "X_test" in arrays and path.name != test_path.name and test_path.is_file():
        data.say(f"test part: {test_path.name}, beside {path.name}")
    if classes:
        data.say("classes: " + ", ".join(f'{i} is "{name}"' for i, name in enumerate(classes)))
    return data


def hdf5_test_part(path: Path) -> dict[str, Any]:
    """X and y of the test part in a file, or in the one next to it with "test" for "train"; empty if there is none."""
    test_path = path.with_name(path.name.replace("train", "test"))
    for place in dict.fromkeys((path, test_path)):
        if place.is_file():
            arrays, _ = _read_arrays_and_classes(place, ("X_test", "y_test"))
            if len(arrays) == 2:
                return {"X": arrays["X_test"], "y": arrays["y_test"]}
    return {}


def read_folder(folder: Path) -> RawData:
    """Read the folder's only HDF5 file, or the one with "train" in its name, and the test file next to it."""
    paths = files_of(folder)
    training = [path for path in paths if "train" in path.name] or paths
    if len(training) > 1:
        raise DataError(f"{folder.name}: holds {', '.join(path.name for path in training)}; name one of them")
    return read_hdf5(training[0])


def files_of(folder: Path) -> list[Path]:
    """List the HDF5 files of a folder."""
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS) and path.is_file())


def _read_arrays_and_classes(
    path: Path, names: Sequence[str] = PARTS
) -> tuple[dict[str, NDArray[Any] | None], list[str]]:
    """Read the arrays of these names that exist in the file, and the class names if it lists them."""
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{path.name}: reading HDF5 needs h5py; pip install 'gpubp[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            layout = find_layout(file, ("X", "X_test"))
            if layout is None:
                raise DataError(f'{path.name}: there is no array "X" or "train_set_x"; {suggest("X", file)}')
            arrays: dict[str, NDArray[Any] | None] = {
                name: _read_array(path, file, stored, texts=name.startswith("y"))
                for name, stored in layout.items()
                if name in names and stored in file
            }
            classes = _read_array(path, file, "list_classes", texts=True) if "list_classes" in file else ()
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name}: cannot be read as HDF5: {error}") from error
    return arrays, [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in classes]


def _read_array(path: Path, file: Any, name: str, texts: bool = False) -> NDArray[Any]:
    """Read one array, whose bytes must be in this file and as many as it declares.

    Variable-length texts, as pandas and h5py write them, are read only if `texts` are expected.
    """
    import h5py

    where, dataset = f'{path.name}, array "{name}"', stored_array(path, file, name)
    if texts and h5py.check_string_dtype(dataset.dtype) is not None and dataset.dtype.hasobject and dataset.ndim == 1:
        return _read_texts(where, dataset, path.stat().st_size)
    if dataset.dtype.hasobject:
        raise DataError(f"{where}: {dataset.dtype} holds objects; save numbers, or texts of fixed length")
    check_size(where, dataset.nbytes, dataset.id.get_storage_size())
    array: NDArray[Any] = dataset[()]
    return array


def stored_array(path: Path, file: Any, name: str) -> Any:
    """The data set of this name, whose bytes must be in this file."""
    import h5py

    where = f'{path.name}, array "{name}"'
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise DataError(f"{where}: is not stored in this file itself, as an array; copy it into the file")
    if dataset.shape is None:
        raise DataError(f"{where}: is declared and holds nothing; write the file again")
    return dataset


def _read_texts(where: str, dataset: Any, stored: int) -> NDArray[Any]:
    """Read variable-length texts (rows,); a malicious file may refer to one long text many times."""
    blocks, size = [], 0
    for start in range(0, len(dataset), TEXTS_AT_ONCE):
        block = dataset[start : start + TEXTS_AT_ONCE]
        size += sum(map(len, block))
        check_size(where, size, stored)
        blocks.append([text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in block])
    texts = [text for block in blocks for text in block]
    longest = max(map(len, texts), default=0)
    check_size(where, 4 * longest * len(texts), stored)  # each element of an array takes the longest text's size
    return np.array(texts, dtype=str)
