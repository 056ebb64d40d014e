"""A file larger than memory, encoded block by block into a scratch file from which a training streams.

There are two passes: the first draws rows with a seed; the schema and the encoding are fitted on some of them, and
others are kept for testing and validating. The second pass encodes all other rows. So any error in a row is reported
before training begins, and no epoch reads or encodes a raw row again.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.checks import SparseRows
from gpubp.data.blocks import ArrayBlocks, ParquetBlocks, RowBlocks, release
from gpubp.data.csv_blocks import CsvBlocks
from gpubp.data.drawn_rows import take
from gpubp.data.prepare import TEST_FRACTION, Part, PreparedData, encode, prepare, with_default_target
from gpubp.data.readers import options_on_tables, with_target
from gpubp.data.source import RawData
from gpubp.errors import DataError, UsageError
from gpubp.scratch import ScratchRows, scratch_folder

SHARE = 32  # the fraction 1/32 of the limit is for the rows of each part held in memory
MOST_ROWS = 100_000  # of such a part
WINDOW_SHARE = 16  # the fraction 1/16 of the limit is for rows shuffled together
BATCH_BYTES = 1 << 25  # of encoded rows made dense at a time

OPENERS = {
    ".parquet": ParquetBlocks.open,
    ".csv": CsvBlocks.open,
    ".tsv": CsvBlocks.open,
    ".csv.gz": CsvBlocks.open,
    ".tsv.gz": CsvBlocks.open,
    ".npy": ArrayBlocks.open_npy,
    ".h5": ArrayBlocks.open_hdf5,
    ".hdf5": ArrayBlocks.open_hdf5,
}


@dataclass
class LargeData:
    """A file that is read in blocks because as a whole it would take more memory than allowed.

    Attributes
    ----------
    blocks : RowBlocks
    target : str or None
        The column of a table to be predicted, or several separated by commas; None for the last one.
    limit : int
        Bytes.
    head : RawData
        The first block, with the notes on all blocks.
    """

    blocks: RowBlocks
    target: str | None
    limit: int
    head: RawData = field(init=False)

    def __post_init__(self) -> None:
        head = self.blocks.read(0)
        self.head = with_default_target(head) if self.target is None else with_target(head, self.target)
        self.head.notes = [note for note in self.head.notes if note.startswith("target: last column")]

    @property
    def target_column(self) -> str | None:
        """The column of a table to be predicted, or several separated by commas; None for arrays."""
        return self.target or self.head.target

    @property
    def rows(self) -> int:
        """The rows of all blocks."""
        return int(self.blocks.starts[-1])


def open_large(source: Any, target: str | None = None, limit: int | None = None, **options: Any) -> LargeData | None:
    """A data set to be read in blocks; None if reading it as a whole stays below the limit, or is the only way.

    Parameters
    ----------
    source : str or Path
    target : str, optional
    limit : int, optional
        Bytes of memory; by default, half of the machine's.
    **options
        Options on tables, as in `read`.

    Raises
    ------
    DataError
        If the file is damaged, or has a format that cannot be read in blocks.
    UsageError
        If an option names a column that the table lacks.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from gpubp.data import open_large, prepare_streamed
    >>> path = Path(tempfile.mkdtemp(), "table.npy")
    >>> np.save(path, np.random.default_rng(0).standard_normal((5000, 4)))
    >>> large = open_large(path, limit=400_000)  # bytes
    >>> prepared = prepare_streamed(large, test=0.05)
    >>> prepared.rows, len(prepared.train[0]), len(prepared.test[0])
    (4750, 390, 250)
    """
    path = Path(source)
    opener = next((OPENERS[ending] for ending in OPENERS if path.name.lower().endswith(ending)), None)
    if opener is None or not path.is_file():
        return None
    limit = half_of_memory() if limit is None else limit
    blocks = opener(path, options_on_tables(**options), limit)
    return None if blocks is None else LargeData(blocks, target, limit)


def prepare_streamed(
    data: LargeData,
    *,
    test: float | str | Path | None = None,
    validation: float | None = None,
    seed: int = 0,
    dtype: Any = np.float32,
    **options: Any,
) -> PreparedData:
    """Encode a file larger than memory, as `prepare` does with smaller ones.

    Parameters
    ----------
    data : LargeData
    test, validation, seed, dtype, **options
        As in `prepare`. Rows for testing and validating are drawn from all, on average stratified by class, and at most
        100,000, or as many as fit in a 32nd of the limit; a note says so.

    Returns
    -------
    PreparedData
        Its `stream` has the training rows, and its `train` those on which the encoding was fitted.

    Raises
    ------
    DataError
        As in `prepare`, for any row of the file; also if the file changes while it is read.
    UsageError
        If there is no room for the scratch file.
    """
    blocks, rows = data.blocks, data.rows
    own_test = blocks.test_part if test is None else None
    file = test if isinstance(test, str | Path) else None
    fractions = {"test": TEST_FRACTION if test is None else 0.0, "validation": validation or 0.0}
    if isinstance(test, int | float) or own_test is not None:
        fractions["test"] = test if isinstance(test, int | float) else 0.0
    parts = _draw(data, fractions, seed)
    drawn = take(blocks, data.head.target or "y", parts, "sample")
    raw = {name: drawn[name].data(data.target_column) for name in parts if len(parts[name])}
    sample = raw["sample"]
    prepared = prepare(sample, test=0.0 if file is None else file, seed=seed, dtype=dtype, **options)
    held = np.sort(np.concatenate([parts[name] for name in fractions]))
    stream = ScratchRows(blocks.name, data.limit // WINDOW_SHARE)
    row_bytes = prepared.n_inputs * np.dtype(dtype).itemsize + prepared.train[1][:1].nbytes
    size = (rows - len(held)) * row_bytes
    _check_room(blocks.name, size)
    notes = _encode_all(data, prepared.preprocessing, held, stream, dtype)
    encoded: dict[str, Part | None] = {}
    if own_test is not None:
        raw["test"] = own_test
    for name in fractions:
        X, y = encode(prepared.preprocessing, raw[name], dtype=dtype) if name in raw else (None, None)
        encoded[name] = None if y is None else (X, y)
    said = [
        f"read in blocks, since as a whole it would take more memory than {_size(data.limit)}: {rows:,} rows, encoded "
        f"into a scratch file of {_size(size)} in {scratch_folder()} (elsewhere: TMPDIR)",
        f"columns, their encoding, and the figures of training: of {sample.rows:,} training rows, drawn with seed "
        f"{seed}",
        *(f"{name}: {len(parts[name]):,} rows, drawn with seed {seed}" for name in fractions if len(parts[name])),
        *([] if own_test is None else [f"test: the {own_test.rows} rows that the data set keeps for it"]),
    ]
    return replace(
        prepared,
        test=prepared.test if file is not None else encoded["test"],
        validation=encoded["validation"],
        stream=stream.whole(),
        notes=list(dict.fromkeys([*said, *data.head.notes, *prepared.notes, *notes])),
    )


def _draw(data: LargeData, fractions: dict[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """The rows kept in memory, in order: those of each part, and a sample of those left for training."""
    rows = data.rows
    most = min(MOST_ROWS, max(2, data.limit // SHARE // data.blocks.row_bytes))
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise UsageError(f"{name}={fraction} is no fraction; choose one from 0 (none) to below 1")
    counts = {name: min(most, ceil(fraction * rows)) for name, fraction in fractions.items()}
    counts["sample"] = min(most, rows - sum(counts.values()))
    if counts["sample"] < 1:
        raise DataError(f"{data.blocks.name}: {rows} rows leave none to train on; give more rows, or test=0")
    drawn = np.random.default_rng(seed).choice(rows, sum(counts.values()), replace=False)
    ends = np.cumsum(list(counts.values()))
    return {name: np.sort(drawn[end - count : end]) for (name, count), end in zip(counts.items(), ends, strict=True)}


def _encode_all(
    data: LargeData, preprocessing: dict[str, Any], held: NDArray[np.int64], stream: ScratchRows, dtype: Any
) -> list[str]:
    """Write all rows except those held in memory to the stream; returns notes on them, one per column."""
    blocks = data.blocks
    notes: dict[str, list[str]] = {}
    for block in range(len(blocks.starts) - 1):
        raw, (first, end) = blocks.read(block), blocks.starts[block : block + 2].tolist()
        kept = np.ones(end - first, np.bool_)
        kept[held[np.searchsorted(held, first) : np.searchsorted(held, end)] - first] = False
        X, y = encode(preprocessing, raw, dtype=dtype)
        assert y is not None
        for note in raw.notes:
            notes.setdefault(note.partition(":")[0], []).append(note)
        rows = np.flatnonzero(kept)
        at_once = max(1, BATCH_BYTES // (X.shape[1] * np.dtype(dtype).itemsize)) if isinstance(X, SparseRows) else end
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            stream.append(X[some], y[some])
        release(raw)
    return [
        f"{said[0]} (one of {len(said)} blocks with such cells)" if said[1:] else said[0] for said in notes.values()
    ]


def half_of_memory() -> int:
    """Half the bytes of the machine's memory, or of the process's limit; always the same on a machine."""
    limits = [1 << 62]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # "max" if there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits) // 2


def _check_room(name: str, size: int) -> None:
    """Refuse to begin if the scratch file will not fit."""
    folder = scratch_folder()
    if (free := shutil.disk_usage(folder).free) < size:
        raise UsageError(
            f"{folder}: the scratch file with the rows of {name} takes {_size(size)}, and {_size(free)} are free; make "
            "room, or name another folder by TMPDIR"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
