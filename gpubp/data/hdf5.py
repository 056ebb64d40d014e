"""The reader of HDF5 files, which follows no link out of the file and reads no objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gpubp.data.arrays import from_arrays
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError, UsageError, suggest

# The array names of .npz files, and those of the cat pictures, whose training and test parts lie in two files.
LAYOUTS = (
    {name: name for name in ("X", "y", "X_test", "y_test")},
    {"X": "train_set_x", "y": "train_set_y", "X_test": "test_set_x", "y_test": "test_set_y"},
)


def read_hdf5(path: Path) -> RawData:
    """Read X, y, X_test and y_test from a file.

    Where the file has no test part and "train" in its name, a file beside it with "test" instead gives the test part.
    """
    arrays, classes = _read_arrays_and_classes(path)
    test_path = path.with_name(path.name.replace("train", "test"))
    if "X" in arrays and "X_test" not in arrays and test_path != path and test_path.is_file():
        test_arrays, classes = _read_arrays_and_classes(test_path)
        arrays |= {name: array for name, array in test_arrays.items() if name in ("X_test", "y_test")}
    if "X" not in arrays:  # a test file by itself
        arrays = {"X": arrays["X_test"], "y": arrays.get("y_test")}
    data = from_arrays(path.name, arrays)
    if "X_test" in arrays and path.name != test_path.name and test_path.is_file():
        data.say(f"test part: {test_path.name}, beside {path.name}")
    if classes:
        data.say("classes: " + ", ".join(f'{i} is "{name}"' for i, name in enumerate(classes)))
    return data


def read_folder(folder: Path) -> RawData:
    """Read the folder's only .h5 file, or the one with "train" in its name, and the test file beside it."""
    paths = sorted(folder.glob("*.h5"))
    training = [path for path in paths if "train" in path.name] or paths
    if len(training) > 1:
        raise DataError(f"{folder.name}: holds {', '.join(path.name for path in training)}; name one of them")
    return read_hdf5(training[0])


def _read_arrays_and_classes(path: Path) -> tuple[dict[str, NDArray[Any] | None], list[str]]:
    """Read those of X, y, X_test and y_test that the file holds, and the names of the classes, if it lists them."""
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{path.name}: reading HDF5 needs h5py; pip install 'gpubp[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            layout = next((names for names in LAYOUTS if names["X"] in file or names["X_test"] in file), None)
            if layout is None:
                raise DataError(f'{path.name}: there is no array "X" or "train_set_x"; {suggest("X", file)}')
            arrays: dict[str, NDArray[Any] | None] = {
                name: _read_array(path, file, stored) for name, stored in layout.items() if stored in file
            }
            classes = _read_array(path, file, "list_classes") if "list_classes" in file else ()
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name}: cannot be read as HDF5: {error}") from error
    return arrays, [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in classes]


def _read_array(path: Path, file: Any, name: str) -> NDArray[Any]:
    """Read one array, whose bytes must lie in this very file and be as many as it declares."""
    import h5py

    where = f'{path.name}, array "{name}"'
    link = file.get(name, getlink=True)
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise DataError(f"{where}: is not stored in this file itself, as an array; copy it into the file")
    if dataset.dtype.hasobject:
        raise DataError(f"{where}: {dataset.dtype} holds objects; save numbers, or texts of fixed length")
    check_size(where, dataset.nbytes, dataset.id.get_storage_size())
    array: NDArray[Any] = dataset[()]
    return array
