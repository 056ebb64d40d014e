"""Tables as people write them, and files made to do harm: how they are read, by ``tests/support`` made and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.audit import Watch
from benchmarks.process import forget_peak, status
from gpubp import GpubpError
from gpubp.data import read

ROOT = Path(__file__).resolve().parents[1]


def tables_read() -> dict[str, list[str]]:
    """The odd tables that are read right, refused by name, and read wrong without a word."""
    from tests.support.odd_tables import differences, odd_tables

    outcomes: dict[str, list[str]] = {"right": [], "refused": [], "wrong": []}
    with tempfile.TemporaryDirectory() as folder:
        for table in odd_tables():
            try:
                columns = read(table.source(Path(folder)), **table.options).columns
                outcomes["wrong" if differences(columns, table.meant) else "right"].append(table.name)
            except GpubpError:
                outcomes["refused"].append(table.name)
    return outcomes


def hostile_files_read(damages: int) -> dict[str, Any]:
    """What a process says that reads every hostile file, and every seed file damaged in so many ways.

    "files" is how many there are, "tracebacks" which end in another error than a GpubpError, "read" which are read,
    "events" the audit events by which a file could run code, and "megabytes" by how much the peak of memory grew for
    each of those made to do harm.
    """
    from tests.support.hostile_files import MADE, damaged
    from tests.support.seed_files import SEED_FILES, write_seed

    with tempfile.TemporaryDirectory() as folder:
        paths = [write_seed(name, _made(Path(folder, "seeds", str(i)))) for i, name in enumerate(SEED_FILES)]
        count = len(paths)
        for i, (name, make) in enumerate(MADE.items()):
            paths.append(write_seed(name, _made(Path(folder, "made", str(i))), make()))
        for name, content in damaged(damages).items():
            number, _, file = name.partition("/")
            paths.append(write_seed(file, _made(Path(folder, "damaged", f"{number}-{file.split('/')[-1]}")), content))
        listed = Path(folder, "paths.json")
        listed.write_text(json.dumps([count, *map(str, paths)]))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.corpora", str(listed)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        outcomes: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return outcomes


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _read_all(listed: Path) -> dict[str, Any]:
    from support.seed_files import read_whole

    count, *paths = json.loads(listed.read_text())
    for path in paths[:count]:
        read_whole(Path(path))  # which imports what reading needs
    watch, seen, tracebacks, megabytes = Watch(), [], [], {}
    sys.addaudithook(watch)
    for path in paths[count:]:
        forget_peak()
        before, watch.listens = status("VmRSS"), True
        try:
            read_whole(Path(path))
            seen.append(path)
        except GpubpError:
            pass
        except Exception as error:
            tracebacks.append(f"{path}: {error!r}")
        watch.listens = False
        megabytes[Path(path).name] = max(megabytes.get(Path(path).name, 0.0), (status("VmHWM") - before) / 1e6)
    return {
        "files": len(paths) - count,
        "read": seen,
        "tracebacks": tracebacks,
        "events": watch.events,
        "megabytes": megabytes,
    }


if __name__ == "__main__":
    print(json.dumps(_read_all(Path(sys.argv[1]))))
