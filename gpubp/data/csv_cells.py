"""The rows of a CSV file as cells of text, and the first line that is not a row, for the error message."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubp.data.cells import TextCells, join_texts
from gpubp.data.csv_text import LONGEST_LINE, CsvText
from gpubp.data.source import printable
from gpubp.errors import DataError

NEWLINE, QUOTE = ord("\n"), b'"'
CELLS_PER_PIECE = 2**18  # of a file with quotes, held as Python strings at a time
INDEX_NAME = "Unnamed: 0"  # pandas' name for an unnamed first column: the row numbers that it wrote


def read_cells(text: CsvText, header: bool | None = None) -> tuple[TextCells, NDArray[np.int64]]:
    """Split the text into cells.

    Parameters
    ----------
    text : CsvText
    header : bool or None
        Whether the first line names the columns; if not, they are called "1", "2", …. None means that it does, but a
        line of only numbers is refused.

    Returns
    -------
    cells : TextCells
    lines : (rows,) int
        The line on which each row starts.

    Raises
    ------
    DataError
        For a column without a name or with another's name, and for the first line that is not a row.
    """
    _check_lines(text)
    width, names = _read_names(text, header)
    if QUOTE in text.body:
        buffer, starts, ends, lines = _quoted_cells(text, width, names)
    else:
        buffer, starts, ends, lines = _unquoted_cells(text, width, names)
    skip = 0 if header is False else 1
    if len(lines) <= skip:
        raise DataError(f"{text.name}: names {width} column(s) and holds no row; give at least two rows")
    return TextCells(names, buffer, starts[skip:], ends[skip:], text.delimiter), lines[skip:]


def _read_names(text: CsvText, header: bool | None) -> tuple[int, list[str]]:
    _, cells = next(_records(text))
    if header is False:
        return len(cells), [str(i) for i in range(1, len(cells) + 1)]
    names = [cell.strip() for cell in cells]
    line = f"{text.name}, line {text.skipped + 1}"
    if len(names) > 1 and not names[0]:
        names[0] = INDEX_NAME
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"{line}: column {i + 1} has no name; name it, or delete it (a row index?)")
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        if first.setdefault(name, i) != i:
            row = "; if the line is a row, --no-header" if name[0] in "+-.0123456789" else ""
            raise DataError(f'{line}: columns {first[name] + 1} and {i + 1} are both "{name}"; rename one{row}')
    if header is None and all(map(_is_number, names)):
        raise DataError(
            f'{line}: "{printable(text.line(text.skipped + 1))}" looks like data; the first line must name the '
            "columns; if it does, --header; if it is a row, --no-header"
        )
    return len(names), names


def _unquoted_cells(
    text: CsvText, width: int, names: list[str]
) -> tuple[bytes, NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Find the cells of a file without quotes: the text between delimiters and newlines."""
    body = text.body if text.body.endswith(b"\n") else text.body + b"\n"
    characters = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero((characters == ord(text.delimiter)) | (characters == NEWLINE))
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = np.flatnonzero(characters[ends] == NEWLINE)  # cells at the end of a line
    cells_of_line = np.diff(last, prepend=-1)
    first = last - cells_of_line + 1
    is_blank = (cells_of_line == 1) & (starts[last] == ends[last])
    is_row = ~is_blank
    is_row[: text.skipped] = False
    if (cells_of_line[is_row] != width).any():
        _raise_for_malformed_line(text, width, names)
    lines = np.flatnonzero(is_row)
    if width == 1 or not is_row.all():
        cells = first[lines][:, None] + np.arange(width)
        return body, starts[cells], ends[cells], _numbers(text, lines + 1)
    return body, starts.reshape(-1, width), ends.reshape(-1, width), _numbers(text, lines + 1)


def _numbers(text: CsvText, lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """The line numbers in the file for lines of the text."""
    return lines + text.left_out * (lines > text.head)


def _quoted_cells(
    text: CsvText, width: int, names: list[str]
) -> tuple[bytes, NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Read a file in which cells have quotes, record by record."""
    lines: list[int] = []
    pieces: list[tuple[bytes, NDArray[Any], NDArray[Any]]] = []
    texts: list[str] = []
    for line, cells in _records(text):
        if not cells:
            continue
        if len(cells) != width:
            _raise_for_width(text, line, cells, names)
        lines.append(line)
        texts += cells
        if len(texts) >= CELLS_PER_PIECE:
            pieces.append(join_texts(texts, width))
            texts = []
    pieces.append(join_texts(texts, width))
    offsets = np.cumsum([0, *(len(buffer) for buffer, _, _ in pieces)])
    starts = np.concatenate([starts + offset for (_, starts, _), offset in zip(pieces, offsets, strict=False)])
    ends = np.concatenate([ends + offset for (_, _, ends), offset in zip(pieces, offsets, strict=False)])
    return b"".join(buffer for buffer, _, _ in pieces), starts, ends, np.array(lines, np.int64)


def _records(text: CsvText) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which a record starts and its cells, for every record; a blank line has no cells."""
    csv.field_size_limit(LONGEST_LINE)
    stream = io.TextIOWrapper(io.BytesIO(text.body), "utf-8", "surrogatepass", newline="")
    for _ in range(text.skipped):
        stream.readline()
    reader = csv.reader(stream, delimiter=text.delimiter, strict=True)
    while True:
        line = text.number(text.skipped + reader.line_num + 1)
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise DataError(
                f'{text.name}, line {line}: {problem}; close the quote, and write a quote inside a cell as ""'
            ) from None


def _check_lines(text: CsvText) -> None:
    """Raise for a line that is too long."""
    characters = np.frombuffer(text.body, np.uint8)
    ends = np.flatnonzero(characters == NEWLINE)
    lengths = np.diff(ends, prepend=-1, append=len(characters))
    if lengths.max() > LONGEST_LINE:
        number = int(np.flatnonzero(lengths > LONGEST_LINE)[0]) + 1
        raise DataError(
            f"{text.name}, line {text.number(number)}: longer than {LONGEST_LINE:,} characters: "
            f'"{printable(text.line(number))}"; is this a CSV file?'
        )


def _raise_for_malformed_line(text: CsvText, width: int, names: list[str]) -> None:
    line, cells = next((line, cells) for line, cells in _records(text) if cells and len(cells) != width)
    _raise_for_width(text, line, cells, names)


def _raise_for_width(text: CsvText, line: int, cells: list[str], names: list[str]) -> None:
    width = len(names)
    missing = f' (no "{names[len(cells)]}")' if len(cells) < width else ""
    raise DataError(
        f"{text.name}, line {line}: {len(cells)} cells where the header names {width} columns"
        f'{missing}: "{printable(text.delimiter.join(cells))}"; correct the line; a cell that holds '
        f'"{text.delimiter}" needs quotes'
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
