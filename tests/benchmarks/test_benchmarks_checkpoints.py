"""``python -m benchmarks.checkpoints``: a dry run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks.checkpoints import FILE, main


def test_dry_run(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--dry-run"]) == 0
    part = json.loads((tmp_path / FILE).read_text())["parts"]["cost"]
    assert [row["met"] for row in part["rows"]] == [None] * 3
    assert os.listdir(tmp_path) == [FILE]
