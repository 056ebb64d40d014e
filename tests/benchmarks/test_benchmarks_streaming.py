"""``python -m benchmarks.streaming``: a dry run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.streaming import FILE, PARTS, main


@pytest.mark.thorough
def test_dry_run(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    assert main(["--out", str(tmp_path), "--scratch", str(tmp_path / "scratch"), "--dry-run"]) == 0
    parts = json.loads((tmp_path / FILE).read_text())["parts"]
    assert list(parts) == list(PARTS)
    assert all(row["met"] is None for part in parts.values() for row in part["rows"])
    assert sorted(os.listdir(tmp_path)) == ["scratch", FILE]
    assert not os.listdir(tmp_path / "scratch")
