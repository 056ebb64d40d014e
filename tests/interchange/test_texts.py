"""Cells that are texts, read inside an ONNX graph and by `gpubp.data`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gpubp.data.dates import FORMATS, ISO, derived_column, parse_date
from gpubp.data.missing import is_missing
from gpubp.errors import UsageError
from gpubp.interchange import texts
from support.raw_rows import run

pytest.importorskip("onnx", reason="onnx is not installed; it is in the extra onnx")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it is in the extra test")

from gpubp.interchange.graph import TEXT, Graph  # noqa: E402

ISO_TEXTS = (
    "1970-01-01 2000-02-29 1900-03-01 2024-12-31 0001-01-01 9999-12-31 2024-03-05T10:20 2024-03-05T10:20:30 "
    "2024-03-05T10:20:30.125 2024-03-05T10:20:30Z 2024-03-05T10:20:30+02:00 2024-03-05T23:20:30-05:30 "
    "2024-03-05T10:20+0030 2024-01-01T00:20+01 2023-12-31T23:59:59.999-0100"
).split()


def read_by_graph(cells, make):
    """What a graph makes of texts (rows,), (rows,)."""
    graph = Graph()
    made = make(graph.input("cells", TEXT, 1))
    graph.output("read", made, 1)
    return run(graph.model({}), {"cells": np.array(cells, object)[:, None]})["read"][:, 0]


def test_iso_dates_as_python_reads_them():
    cells = [*ISO_TEXTS, *(text.replace("T", " ") for text in ISO_TEXTS)]
    read = read_by_graph(cells, lambda cells: texts.seconds_of_dates(cells, "when", ISO, ()))
    np.testing.assert_array_equal(read, [parse_date(text, ISO) for text in cells])


@pytest.mark.parametrize("date_format", [f for f in FORMATS if "%b" not in f])
def test_formats_as_python_reads_them(date_format, rng):
    moments = [datetime(1950, 1, 1, tzinfo=UTC) + timedelta(minutes=int(m)) for m in rng.integers(0, 10**8, 40)]
    cells = [moment.strftime(date_format) for moment in moments] + ["", "n.a.", "NaT"]
    read = read_by_graph(cells, lambda cells: texts.seconds_of_dates(cells, "when", date_format, ()))
    np.testing.assert_array_equal(read[:-3], [parse_date(text, date_format) for text in cells[:-3]])
    assert np.isnan(read[-3:]).all()


def test_names_of_months_are_refused_by_the_name_of_the_column():
    with pytest.raises(UsageError, match='column "when": dates written as %d %b %Y'):
        read_by_graph([], lambda cells: texts.seconds_of_dates(cells, "when", "%d %b %Y", ()))


@pytest.mark.parametrize("cell", ["2024-3-5", "soon", "2024-03-05T10", "2024-03-05 and later", "05.03.2024"])
def test_what_is_no_date_raises(cell):
    with pytest.raises(Exception, match="Cast"):
        read_by_graph([cell, "2024-03-05"], lambda cells: texts.seconds_of_dates(cells, "when", ISO, ()))


@pytest.mark.parametrize("part", ["month", "weekday", "hour"])
@pytest.mark.parametrize("wave", ["sine", "cosine"])
def test_parts_of_dates(part, wave, rng):
    seconds = np.append(rng.integers(-4 * 10**9, 8 * 10**9, 2000).astype(float), np.nan)
    graph = Graph()
    graph.output("wave", texts.part_of_date(graph.input("seconds", np.float64, 1), part, wave), 1)
    read = run(graph.model({}), {"seconds": seconds[:, None]})["wave"][:, 0]
    np.testing.assert_allclose(read, derived_column(seconds, part, wave), atol=1e-12)


@pytest.mark.parametrize("among_numbers", [False, True])
def test_markers_of_missing_values(among_numbers):
    cells = ["", "?", "NA", "Nan", "#N/A N/A", "-1.#ind", "None", "-", ".", r"\N", "(NULL)", "#div/0!", "none of them"]
    cells += ["-999", "-999.0", "-99", "Unknown", "unsaid", "UNSAID", "a|b"]
    declared = ("-999", "unsaid", "a|b")
    read = read_by_graph(cells, lambda cells: texts.is_missing(cells, declared, among_numbers=among_numbers))
    assert list(read) == [is_missing(text, declared, among_numbers) for text in cells]
