"""Writes predictions where the user asks: to a file, through a link, to a pipe or device, to standard output."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gpubp._typing import Array
from gpubp.errors import UsageError
from gpubp.serialization import atomic_write

STANDARD_OUTPUT = Path("-")


def check(out: Path, source: str) -> None:
    """Refuse an output to which predictions cannot be written, before computing anything.

    Parameters
    ----------
    out : Path
        A file, a link to one, a pipe, a device, or "-", standard output.
    source : str
        The source of the rows, which must not be overwritten.

    Raises
    ------
    UsageError
        Naming the obstacle.
    """
    if goes_to_standard_output(out):
        return
    if out.is_dir():
        raise UsageError(f"{out}: cannot be written, for it is a folder; choose a file as --out")
    if out.exists() and os.path.exists(source) and os.path.samefile(out, source):
        raise UsageError(f"{out}: is what is predicted from, and would be lost; choose another --out")
    if not _is_stream(out) and _ending(out) is None:
        raise UsageError(
            f'{out}: cannot tell the format from "{out.suffix}"; predictions are written as {", ".join(FORMATS)}, '
            'or as CSV to "-", standard output'
        )


def goes_to_standard_output(out: Path) -> bool:
    """Whether `out` is standard output, as "-" or under another name, so that nothing else may be printed there."""
    if out == STANDARD_OUTPUT:
        return True
    try:
        return os.path.samestat(out.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such file, or standard output is not a file
        return False


def write(out: Path, columns: Mapping[str, Array]) -> None:
    """Write columns of predictions (m,): to a file whole or not at all, to a stream as they come.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    if goes_to_standard_output(out):
        _write_to_standard_output(_csv(columns))
    elif _is_stream(out):
        try:
            out.write_bytes(_csv(columns))
        except OSError as error:
            raise UsageError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error
    else:
        atomic_write(out, FORMATS[_ending(out) or ".csv"](columns))


def _is_stream(out: Path) -> bool:
    """Whether `out` is a pipe or a device, which must be written to and cannot be replaced by a file."""
    return out.exists() and not stat.S_ISREG(out.stat().st_mode)


def _ending(out: Path) -> str | None:
    return next((ending for ending in FORMATS if out.name.lower().endswith(ending)), None)


def _write_to_standard_output(text: bytes) -> None:
    """Write and flush; a reader that stops early, such as ``head``, is not an error."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python exits


def _csv(columns: Mapping[str, Array]) -> bytes:
    """Write columns as CSV text, with as few digits per float as identify it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.astype(str) for column in columns.values()), strict=True))
    return text.getvalue().encode()


def _gzipped_csv(columns: Mapping[str, Array]) -> bytes:
    return gzip.compress(_csv(columns), mtime=0)  # a timestamp would make equal predictions differ


def _parquet(columns: Mapping[str, Array]) -> bytes:
    """Write columns as a Parquet file, each in its own type."""
    import duckdb

    (name, times), *_ = Counter(name.casefold() for name in columns).most_common(1)
    if times > 1:
        alike = ", ".join(f'"{column}"' for column in columns if column.casefold() == name)
        raise UsageError(f"columns {alike} differ in case alone, which Parquet's readers confuse; write .csv")
    arrays = {
        f"c{i}": np.asarray(column, dtype=object) if column.dtype.kind == "U" else np.ascontiguousarray(column)
        for i, column in enumerate(columns.values())
    }
    quoted = ('"' + name.replace('"', '""') + '"' for name in columns)
    named = ", ".join(f"{cell} AS {name}" for cell, name in zip(arrays, quoted, strict=True))
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "predictions.parquet")
        connection.register("predictions", arrays)
        literal = str(path).replace("'", "''")
        connection.execute(f"COPY (SELECT {named} FROM predictions) TO '{literal}' (FORMAT parquet)")
        return path.read_bytes()


FORMATS: dict[str, Callable[[Mapping[str, Array]], bytes]] = {
    ".csv": _csv,
    ".csv.gz": _gzipped_csv,
    ".parquet": _parquet,
}
