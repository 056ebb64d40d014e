"""Tables that do not come as CSV files: they are written to one, and read by the rules of CSV files."""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

from gpubp.data import tables
from gpubp.data.schema import Schema, TableOptions
from gpubp.data.source import RawData

STANDARD_INPUT = "-"


def read_standard_input(options: TableOptions, schema: Schema | None) -> RawData:
    """Read standard input as a CSV file."""
    return read_copy("standard input", lambda file: shutil.copyfileobj(sys.stdin.buffer, file), options, schema)


def read_copy(name: str, write: Callable[[IO[bytes]], object], options: TableOptions, schema: Schema | None) -> RawData:
    """Read what `write` writes into a CSV file called `name`, also in messages.

    The file is in a folder of its own and stays as long as the lines of rows can be requested.
    """
    folder = Path(tempfile.mkdtemp(prefix="gpubp-"))
    try:
        with (folder / name).open("wb") as file:
            write(file)
        data = tables.read_csv(folder / name, options, schema)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    place_in_file = data.place

    def place(row: int) -> str:
        return place_in_file(row)

    data.place = place
    weakref.finalize(place, shutil.rmtree, folder, ignore_errors=True)
    return data
