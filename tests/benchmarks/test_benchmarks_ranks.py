"""``python -m benchmarks.ranks``: a dry run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.ranks import FILE, HERE, main


@pytest.mark.thorough
def test_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed; pip install 'gpubp[mpi]'")
    if not HERE.exists() and shutil.which("mpiexec") is None:
        pytest.skip("there is no mpiexec; pip install 'gpubp[mpi]'")
    assert main(["--out", str(tmp_path), "--dry-run", "--part", "throughput", "slices", "memory"]) == 0
    parts = json.loads((tmp_path / FILE).read_text())["parts"]
    assert [row["met"] for part in parts.values() for row in part["rows"]] == [None] * 5
