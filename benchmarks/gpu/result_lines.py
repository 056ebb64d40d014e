"""A plugin of pytest's that writes a line of JSON for every test as soon as it has ended: ``--result-lines FILE``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LINES = "result-lines"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The file to append to."""
    parser.addoption(f"--{LINES}", metavar="FILE", default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Where tests are shared out among processes, the one that shares them out writes."""
    path = config.getoption(f"--{LINES}")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer(Path(path)))


class Writer:
    """Writes the lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failure in any phase counts; of what passed, the test itself."""
        if report.when != "call" and report.passed:
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        line = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 3),
            "message": " ".join((crash.message if crash else report.longreprtext).split())[:300],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
