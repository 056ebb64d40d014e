"""Coverage-guided fuzzing of every reader and of the model file: ``python -m benchmarks.fuzzing --out DIR``.

Needs atheris (extra ``fuzz``). Each format is fuzzed in a process of its own until ``--runs`` or ``--seconds`` are
over, from a valid file; what it found worth keeping lies in ``DIR/corpus/FORMAT``, and goes on from there the next
time. An input that ends in another error than a GpubpError, or in an audit event by which a file could run code, is
kept under ``DIR/failures``; once that is mended it is moved to ``DIR/mended`` by hand, and counted as such.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEGABYTES, SECONDS_AN_INPUT, LONGEST_INPUT = 2048, 30, 4096
MEMORY = Path("/dev/shm")


def fuzz(name: str, out: Path, runs: int, seconds: int) -> dict[str, Any]:
    """Fuzz one format in a process of its own, and say how often it was run and what failed."""
    corpus, failures, mended = (out / what / name.replace("/", "-") for what in ("corpus", "failures", "mended"))
    for folder in (corpus, failures, mended):
        folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.fuzzing", "--target", name, "--out", str(out)),
        *("--libfuzzer", str(corpus), f"-runs={runs}", f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}"),
        *(f"-timeout={SECONDS_AN_INPUT}", f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={failures}/", "-verbosity=1"),
    ]
    # The fuzzed file is written anew by each execution: in memory, where there is such a file system.
    with tempfile.TemporaryDirectory(prefix="gpubp-fuzzing-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, env=environment)
    counted = re.findall(r"^#(\d+)\s", done.stderr, re.MULTILINE)
    finished = re.search(r"Done (\d+) runs", done.stderr)
    executions = int(finished[1]) if finished else max(map(int, counted), default=0)
    failed, fixed = (len([path for path in folder.iterdir() if path.suffix != ".txt"]) for folder in (failures, mended))
    if not finished:
        (failures / "ended.txt").write_text(done.stderr[-5000:])
    return {
        "executions": executions,
        "failures": failed,
        "mended": fixed,
        "corpus": len(list(corpus.iterdir())),
        "whole": bool(finished),
    }


class Target:
    """What libFuzzer calls with each input."""

    def __init__(self, name: str, failures: Path) -> None:
        from benchmarks.audit import Watch
        from tests.support import seed_files

        self.name, self.failures, self.seeds = name, failures, seed_files
        self.folder = Path(tempfile.mkdtemp(prefix="gpubp-fuzzing-"))
        self.path = seed_files.write_seed(name, self.folder)
        seed_files.read_whole(self.path)  # which imports what reading needs
        self.watch = Watch()
        sys.addaudithook(self.watch)

    def __call__(self, content: bytes) -> None:
        from gpubp import GpubpError

        self.path.write_bytes(content)
        self.watch.listens, what = True, ""
        try:
            self.seeds.read_whole(self.path)
        except GpubpError:
            pass
        except BaseException as error:
            what = "".join(traceback.format_exception(error))
        self.watch.listens = False
        what = what or "\n".join(self.watch.events)
        if what:
            where = re.findall(r'File ".*", line \d+', what)[-1:] or self.watch.events[:1]
            place = hashlib.sha256(str(where).encode()).hexdigest()[:12]  # one input is kept of each line that fails
            (self.failures / place).write_bytes(content)
            (self.failures / f"{place}.txt").write_text(what)
        self.watch.events.clear()


class KeptDatabase:
    """Takes the place of ``duckdb.connect`` while Parquet files are fuzzed: connections to one database.

    To open one takes 27 ms, to read a small file 4 ms. Each reader gets a connection of its own, with settings of its
    own, and a new database where an earlier file has left this one unusable.

    Parameters
    ----------
    connect : callable
        ``duckdb.connect`` itself.
    """

    def __init__(self, connect: Callable[..., Any]) -> None:
        self._connect = connect
        self.database: Any = None

    def __call__(self, config: dict[str, Any]) -> Any:
        """Connect to the database."""
        if self.database is None or not self._answers():
            self.database = self._connect(config=config)
        return self.database.cursor()

    def _answers(self) -> bool:
        import duckdb

        try:
            return bool(self.database.cursor().execute("SELECT true").fetchone()[0])
        except duckdb.Error:
            return False


def _run_libfuzzer(name: str, out: Path, arguments: list[str]) -> None:
    """Fuzz in this process, which ends with it."""
    import atheris

    sys.path += [str(ROOT), str(ROOT / "tests")]
    with atheris.instrument_imports(include=["gpubp", "safetensors", "openpyxl"]):
        import gpubp.data.readers
        import gpubp.serialization  # noqa: F401
    import duckdb

    duckdb.connect = KeptDatabase(duckdb.connect)
    warnings.simplefilter("ignore")
    target = Target(name, out / "failures" / name.replace("/", "-"))
    seed = Path(arguments[0], "seed")
    seed.write_bytes(target.seeds.SEED_FILES[name]())
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


def main() -> None:
    """Fuzz every format, or those that are named, one after the other, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=0, help="for each format; 0 for as long as it takes")
    parser.add_argument("--only", nargs="+", metavar="FORMAT")
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--libfuzzer", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.target:
        _run_libfuzzer(asked.target, asked.out, asked.libfuzzer)
        return
    from tests.support.seed_files import SEED_FILES

    result = asked.out / "fuzzing.json"
    for name in asked.only or SEED_FILES:
        earlier = json.loads(result.read_text()) if result.exists() else {}
        counts = fuzz(name, asked.out, asked.runs, asked.seconds)
        counts["executions"] += earlier.get(name, {}).get("executions", 0)
        print(f"{name}: {counts}", flush=True)
        result.write_text(json.dumps({**earlier, name: counts}, indent=1))


if __name__ == "__main__":
    main()
