"""Reads a data set: a built-in one by name, a file or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpubp.data import arrays, csv_copy, excel, hdf5, idx, pictures, tables
from gpubp.data.builtin import BUILTIN
from gpubp.data.schema import Kind, Schema, TableOptions
from gpubp.data.source import RawData, printable
from gpubp.data.tables import with_options
from gpubp.data.target_columns import join_columns
from gpubp.errors import DataError, UsageError, suggest

TABLES: dict[str, Callable[[Path, TableOptions, Schema | None], RawData]] = {
    ".csv": tables.read_csv,
    ".tsv": tables.read_csv,
    ".csv.gz": tables.read_csv,
    ".tsv.gz": tables.read_csv,
    ".parquet": tables.read_parquet,
    ".xlsx": excel.read_excel,
    ".xlsm": excel.read_excel,
}
TEXTS = tuple(ending for ending, reader in TABLES.items() if reader is tables.read_csv)
READERS: dict[str, Callable[[Path], RawData]] = {
    ".npz": arrays.read_npz,
    ".npy": arrays.read_npy,
    ".h5": hdf5.read_hdf5,
    ".hdf5": hdf5.read_hdf5,
}


def read(
    source: Any,
    target: str | None = None,
    *,
    ignore: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    missing: Sequence[str] = (),
    decimal: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    trained: Mapping[str, Any] | None = None,
) -> RawData:
    """Read a raw data set, without encoding it.

    The types of a table's columns are inferred when first needed, as in `prepare`; the options below supply what cannot
    be inferred, or is inferred wrongly.

    Parameters
    ----------
    source : str, Path, or pandas or polars data frame
        A built-in data set (digits, breast_cancer, wine, diabetes, iris); a .csv, .tsv, .csv.gz, .parquet, .npz
        (arrays X, y, optionally X_test, y_test; or x_train, y_train, x_test, y_test), .npy (a table without names: its
        columns are "1", "2", …; or inputs with their targets in a file beside it) or .h5/.hdf5 file (the names of .npz,
        or train_set_x, train_set_y, test_set_x, test_set_y), or an .xlsx workbook, whose first sheet is read; a folder
        of MNIST-format IDX files, of one HDF5 file for training and one for testing, or of a folder of pictures (PNG,
        JPEG) for each class; "-" for CSV on standard input; a data frame.
    target : str, optional
        The column to be predicted, for tables, or several separated by commas; `prepare` takes the last column if none
        is given.
    ignore : sequence of str
        Columns of a table that are left out.
    kinds : mapping of str to {"number", "category", "date", "ignored"}
        The kinds of single columns.
    missing : sequence of str
        Texts that mark missing values, such as "-999".
    decimal : {".", ","}, optional
        The decimal sign, where the numbers of a column leave it open.
    delimiter, encoding : str, optional
        For a CSV file; both are detected by default.
    header : bool, optional
        Whether the first line of a CSV file names the columns. By default it does, and is refused if it looks like
        data.
    trained : mapping, optional
        The preprocessing of a trained network, whose options replace these, except a given delimiter and encoding.

    Returns
    -------
    RawData

    Raises
    ------
    DataError
        If there is no such data set, or it cannot be read without guessing; the message names the file, the
        line, the column, the text and the remedy. For cells, it is raised when the columns are first used.
    UsageError
        If a target or an option on columns is given for data without named columns, or names a column that does not
        exist.
    """
    schema = saved_schema(trained)
    if schema is None:
        options = options_on_tables(ignore, kinds, missing, decimal, delimiter, encoding, header)
    else:
        saved = schema.options
        options = replace(saved, delimiter=delimiter or saved.delimiter, encoding=encoding or saved.encoding)
        options.check()
    data = read_with(source, target, options, schema)
    if unused := _without_effect(source, delimiter, encoding, header):
        data.say(f"{unused}: of CSV files, without effect on {data.name}")
    return data


def _without_effect(source: Any, delimiter: str | None, encoding: str | None, header: bool | None) -> str:
    """Which of these options have no effect as `source` is not text; a workbook's first sheet also has a header."""
    name = "" if tables.is_frame(source) else str(source).lower()
    if name == csv_copy.STANDARD_INPUT or name.endswith(TEXTS):
        return ""
    said = {"--delimiter": delimiter is not None, "--encoding": encoding is not None}
    if TABLES.get(Path(name).suffix) is not excel.read_excel:
        said |= {"--header": header is True, "--no-header": header is False}
    return ", ".join(option for option, is_given in said.items() if is_given)


def options_on_tables(
    ignore: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
    missing: Sequence[str] = (),
    decimal: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
) -> TableOptions:
    """The checked options on tables that `read` takes."""
    options = TableOptions(tuple(ignore), dict(kinds or {}), tuple(missing), decimal, delimiter, encoding, header)
    options.check()
    return options


def read_with(source: Any, target: str | None, options: TableOptions, schema: Schema | None) -> RawData:
    """Read a data set with these options, and by this schema of another table, if given."""
    if tables.is_frame(source):
        data = tables.read_frame(source, options, schema)
    elif str(source) in BUILTIN:
        data = with_options(BUILTIN[str(source)](), options, schema)
    elif str(source) == csv_copy.STANDARD_INPUT:
        data = csv_copy.read_standard_input(options, schema)
    elif not isinstance(source, str | os.PathLike) or source == "":
        shown = printable(repr(source))
        raise DataError(f"{shown} is no data set; give a file, a folder, the name of a built-in one or a data frame")
    else:
        path = Path(source)
        try:
            data = _read_path(path, options, schema)
        except OSError as error:
            raise DataError(f"{path.name}: cannot be read: {error.strerror or error}") from error
    return data if target is None else with_target(data, target)


def saved_schema(preprocessing: Mapping[str, Any] | None) -> Schema | None:
    """The schema saved with a network; None in files of format 1, and for arrays and images."""
    saved = preprocessing.get("schema") if preprocessing is not None else None
    return None if saved is None else Schema.from_json(saved)


def _read_path(path: Path, options: TableOptions, schema: Schema | None) -> RawData:
    if path.is_dir():
        return with_options(_read_folder(path), options, schema)
    endings = (*TABLES, *READERS)
    ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
    if not path.exists():
        hint = suggest(str(path), BUILTIN) if ending is None else "check the path"
        raise DataError(f'there is no file, folder or built-in data set "{path}"; {hint}')
    if ending is None:
        raise DataError(
            f'{path.name}: cannot tell the format from "{path.suffix}"; known: {", ".join(endings)}, '
            "or a folder of pictures or IDX files"
        )
    if not path.is_file():
        raise DataError(f"{path.name}: is a pipe or a device, and no file; commands read CSV from a pipe as -")
    if ending in TABLES:
        return TABLES[ending](path, options, schema)
    return with_options(READERS[ending](path), options, schema)


def _read_folder(folder: Path) -> RawData:
    """Read a folder by its contents: HDF5 files, pictures, or IDX files, which are also named if it holds none."""
    if hdf5.files_of(folder):
        return hdf5.read_folder(folder)
    return pictures.read_folder(folder) if pictures.holds_pictures(folder) else idx.read_folder(folder)


def with_target(data: RawData, target: str) -> RawData:
    """Set the target's column, or several separated by commas, which are joined into a matrix."""
    if data.kind != "table":
        raise UsageError(f'{data.name} has no named columns, so no target "{target}"; leave the target out')
    if target in data.columns:
        data.target = target
        return data
    names = [name.strip() for name in target.split(",")]
    for name in names:
        if name not in data.columns:
            raise DataError(f'{data.name}: there is no column "{name}"; {suggest(name, data.columns)}')
    return join_columns(data, list(dict.fromkeys(names)))
