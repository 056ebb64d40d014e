"""The reader of folders of MNIST-format IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.arrays import from_arrays
from gpubp.data.source import RawData, check_size
from gpubp.errors import DataError

UNSIGNED_BYTES = 0x08


def read_folder(folder: Path) -> RawData:
    """Read ``train-images…``, ``train-labels…`` and, if present, ``t10k-`` or ``test-`` files."""
    name = folder.resolve().name
    arrays: dict[str, NDArray[Any] | None] = {
        "X": _read_part(folder, ("train-images",), dimensions=3),
        "y": _read_part(folder, ("train-labels",), dimensions=1),
        "X_test": _read_part(folder, ("t10k-images", "test-images"), dimensions=3),
        "y_test": _read_part(folder, ("t10k-labels", "test-labels"), dimensions=1),
    }
    if arrays["X"] is None:
        raise DataError(f"{name}: the folder holds no train-images file; a folder of MNIST-format IDX files is needed")
    return from_arrays(name, arrays)


def _read_part(folder: Path, names: tuple[str, ...], dimensions: int) -> NDArray[Any] | None:
    """Read the one file of the folder whose name contains one of these names; None if there is no such file."""
    paths = sorted({path for name in names for path in folder.glob(f"*{name}*") if path.is_file()})
    if not paths:
        return None
    if len(paths) == 2 and paths[1].name == f"{paths[0].name}.gz":  # a download next to its unpacked file
        array = _read_file(paths[0], dimensions)
        if _unpacks_to(paths[1], paths[0]):
            return array
    if len(paths) > 1:
        raise DataError(f"{folder.name}: {paths[0].name} and {paths[1].name} hold the same part; keep one of them")
    return _read_file(paths[0], dimensions)


def _unpacks_to(packed: Path, plain: Path) -> bool:
    """Whether a gzipped file holds the unpacked file next to it."""
    expected = plain.read_bytes()
    try:
        with gzip.open(packed) as stream:
            return stream.read(len(expected) + 1) == expected
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False


def _read_file(path: Path, dimensions: int) -> NDArray[Any]:
    """Read the array of one file, gzipped or not."""
    try:
        opener: Callable[[Path], Any] = gzip.open if path.suffix == ".gz" else partial(open, mode="rb")
        with opener(path) as stream:
            return _read_stream(stream, path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip data are damaged ({error}); download or copy it again") from error


def _read_stream(stream: IO[bytes], path: Path, dimensions: int) -> NDArray[Any]:
    """Read the array of one file, whose size is known from the header, so that no more is ever unpacked."""
    magic = bytes([0, 0, UNSIGNED_BYTES, dimensions])
    header = stream.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != magic:
        raise DataError(
            f"{path.name}: starts with {header[:4].hex() or 'nothing'}, not with {magic.hex()}, "
            f"the magic number of unsigned bytes in {dimensions} dimension(s)"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    stored = path.stat().st_size
    check_size(path.name, size, stored)
    body = stream.read(size + 1)
    if len(body) != size:
        more = "more than " if len(body) > size else ""
        raise DataError(
            f"{path.name}: the header promises {size:,} bytes for shape {shape}, and the file holds "
            f"{more}{min(len(body), size):,}; download or copy it again"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
