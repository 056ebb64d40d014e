"""What mypy says of arguments of `train` that cannot be meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.package import PACKAGE, REPOSITORY

CALLS = """
import numpy as np
import gpubp

net = gpubp.MLP([2, 1], loss="half_squared_error", models=2)
gpubp.train(net, [], [], learning_rate=[0.1, 0.2], l2=np.zeros(2), epochs=[3, 4], class_weight={0: 2.0}, patience=None)
gpubp.train(net, [], [], learning_rate="0.1")
gpubp.train(net, [], [], dropout=None)
gpubp.train(net, [], [], epochs=0.5)
gpubp.train(net, [], [], class_weight="balance")
gpubp.train(net, [], [], max_grad_norm="1")
"""


@pytest.mark.thorough
def test_mypy_catches_wrong_arguments(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS, encoding="utf-8")
    # With the settings and the cache of `mypy --strict gpubp` in this checkout, what that has read is not read again.
    shared = ["--config-file", str(REPOSITORY / "pyproject.toml"), "--cache-dir", str(REPOSITORY / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", "--strict", *shared, "calls.py"]
    # An installed package is found as it is; mypy refuses its folder as a path.
    path = {} if PACKAGE.parent.name == "site-packages" else {"MYPYPATH": str(PACKAGE.parent)}
    environment = {**os.environ, **path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    wrong = [line for line in done.stdout.splitlines() if line.startswith("calls.py:") and "error" in line]
    assert [int(line.split(":")[1]) for line in wrong] == [7, 8, 9, 10, 11], done.stdout
