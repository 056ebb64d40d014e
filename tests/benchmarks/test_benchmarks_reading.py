"""``python -m benchmarks.reading``: a dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reading import FILE, main


def test_dry_run(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    assert main(["--out", str(tmp_path), "--dry-run"]) == 0
    parts = json.loads((tmp_path / FILE).read_text())["parts"]
    assert [len(part["rows"]) for part in parts.values()] == [3, 1]
    assert all(row["met"] is None for part in parts.values() for row in part["rows"])
