"""Coverage-guided fuzzing of every reader and of the model file, which takes hours."""

from __future__ import annotations

import pytest

from benchmarks import fuzzing
from support.seed_files import SEED_FILES

EXECUTIONS = 200_000


@pytest.mark.slow
@pytest.mark.parametrize("name", SEED_FILES)
def test_no_input_ends_in_a_traceback_or_runs_code(name, tmp_path):
    pytest.importorskip("atheris")
    counts = fuzzing.fuzz(name, tmp_path, EXECUTIONS, 0)
    assert counts["whole"] and not counts["failures"]
    assert counts["executions"] >= EXECUTIONS


@pytest.mark.thorough
def test_what_fails_is_kept_once_for_each_line(tmp_path, monkeypatch):
    """The harness, without libFuzzer: a reader that raises what it should not."""

    def read(path):
        raise KeyError(path.read_bytes())

    target = fuzzing.Target("table.csv", tmp_path)
    monkeypatch.setattr("tests.support.seed_files.read_whole", read)
    for content in (b"a", b"b"):
        target(content)
    kept = sorted(path.suffix for path in tmp_path.iterdir())
    assert kept == ["", ".txt"]
    assert "KeyError: b'b'" in next(tmp_path.glob("*.txt")).read_text()


def test_the_kept_database_gives_readers_connections_of_their_own_and_is_opened_anew_when_unusable(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    kept = fuzzing.KeptDatabase(duckdb.connect)
    first, second = kept({"threads": 1}), kept({"threads": 1})
    first.execute("SET TimeZone = 'Asia/Tokyo'")
    zone = "SELECT current_setting('TimeZone')"
    assert first.execute(zone).fetchone() != second.execute(zone).fetchone()
    before = kept.database
    before.close()
    assert kept({"threads": 1}).execute("SELECT 1").fetchone() == (1,)
    assert kept.database is not before
