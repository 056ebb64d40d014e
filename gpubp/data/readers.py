"""Reading a data set by the name of a built-in one, a file or a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpubp.data import arrays, csv_copy, excel, hdf5, idx, pictures, tables, targets
from gpubp.data.builtin import BUILTIN
from gpubp.data.source import RawData
from gpubp.errors import DataError, UsageError, suggest

READERS: dict[str, Callable[[Path], RawData]] = {
    ".csv": tables.read_csv,
    ".csv.gz": tables.read_csv,
    ".parquet": tables.read_parquet,
    ".npz": arrays.read_npz,
    ".npy": arrays.read_npy,
    ".h5": hdf5.read_hdf5,
    ".hdf5": hdf5.read_hdf5,
    ".xlsx": excel.read_excel,
    ".xlsm": excel.read_excel,
}


def read(source: str | Path, target: str | None = None) -> RawData:
    """Read a data set as it stands, nothing encoded yet.

    Parameters
    ----------
    source : str or Path
        A built-in data set (digits, breast_cancer, wine, diabetes, iris); a .csv, .csv.gz, .parquet, .npz (arrays X, y,
        optionally X_test, y_test; or x_train, y_train, x_test, y_test), .npy (a table without names: its columns are
        "1", "2", …; or inputs with their targets in a file beside it) or .h5/.hdf5 file (the names of .npz, or
        train_set_x, train_set_y, test_set_x, test_set_y), or an .xlsx workbook, whose first sheet is read; a folder of
        MNIST-format IDX files, of one HDF5 file for training and one for testing, or of a folder of pictures (PNG,
        JPEG) for each class; "-" for CSV on standard input.
    target : str, optional
        The column to be predicted, for tables, or several with commas between them; `prepare` takes the last column
        where none is given.

    Returns
    -------
    RawData

    Raises
    ------
    DataError
        If there is no such data set, or it cannot be read without guessing; the message names the file, the
        line, the column, the text and the remedy.
    UsageError
        If a target is named for data without named columns.
    """
    if str(source) in BUILTIN:
        data = BUILTIN[str(source)]()
    elif str(source) == csv_copy.STANDARD_INPUT:
        data = csv_copy.read_standard_input()
    else:
        path = Path(source)
        try:
            data = _read_path(path)
        except OSError as error:
            raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    return data if target is None else _with_target(data, target)


def _read_path(path: Path) -> RawData:
    if path.is_dir():
        return _read_folder(path)
    ending = next((ending for ending in READERS if path.name.lower().endswith(ending)), None)
    if not path.exists():
        hint = suggest(str(path), BUILTIN) if ending is None else "check the path"
        raise DataError(f'there is no file, folder or built-in data set "{path}"; {hint}')
    if ending is None:
        raise DataError(
            f'{path.name}: cannot tell the format from "{path.suffix}"; known: {", ".join(READERS)}, '
            "or a folder of pictures or IDX files"
        )
    return READERS[ending](path)


def _read_folder(folder: Path) -> RawData:
    """Read a folder by what it holds: HDF5 files, pictures, or IDX files, which are also named where it holds none."""
    if hdf5.files_of(folder):
        return hdf5.read_folder(folder)
    return pictures.read_folder(folder) if pictures.holds_pictures(folder) else idx.read_folder(folder)


def _with_target(data: RawData, target: str) -> RawData:
    """Set the target's column, or several with commas between them, which become one that is a matrix."""
    if data.kind != "table":
        raise UsageError(f'{data.name} has no named columns, so no target "{target}"; leave the target out')
    if target in data.columns:
        data.target = target
        return data
    names = [name.strip() for name in target.split(",")]
    for name in names:
        if name not in data.columns:
            raise DataError(f'{data.name}: there is no column "{name}"; {suggest(name, data.columns)}')
    return targets.join_columns(data, list(dict.fromkeys(names)))
