"""Mutation testing with cosmic-ray: ``python -m benchmarks.mutants --out DIR --only gpubp/backprop.py``.

Works on a copy of the checkout in DIR, one mutant after the other, until all are tested or ``--seconds`` are over, and
goes on there the next time. Mutants of ``|`` are left out: it stands in annotations, which nothing evaluates. What came
of it goes to ``benchmarks/results/mutants.json`` with the mutants that no test noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpubp.serialization import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
# The tests that are to notice mutants of a module, as arguments of pytest.
TESTS = {
    "gpubp/backprop.py": (
        "tests/test_backprop.py tests/training/test_recompute.py tests/test_gradients.py "
        "-k '(reference-float64 or recompute) and not compiled and not cuda'"
    ),
    "gpubp/activations.py": "tests/test_activations.py tests/test_gradients.py -k 'not compiled and not cuda'",
    "gpubp/losses.py": "tests/test_losses.py tests/test_gradients.py -k 'not compiled and not cuda'",
    "gpubp/optimizers.py": "tests/test_optimizers.py -k 'not compiled and not cuda'",
    "gpubp/initializers.py": "tests/test_initializers.py",
    "gpubp/schedules.py": "tests/test_schedules.py",
    "gpubp/serialization.py": "tests/test_serialization.py tests/test_network.py",
    "gpubp/data/schema.py": "tests/data/test_columns.py tests/data/test_data_errors.py",
}
CONFIG = """[cosmic-ray]
module-path = {module}
timeout = 120.0
excluded-modules = []
test-command = {command}
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def mutants_tested(module: str, out: Path, seconds: int) -> dict[str, Any]:
    """Test mutants of a module for so many seconds, and say what came of all that were tested in `out` so far."""
    checkout, session = out / "checkout", out / f"{Path(module).stem}.sqlite"
    if not checkout.is_dir():
        for name in ("gpubp", "tests", "benchmarks", "kernels"):
            shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", checkout)
    config = out / f"{Path(module).stem}.toml"
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {TESTS[module]}"
    config.write_text(CONFIG.format(module=json.dumps(module), command=json.dumps(command)))
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
    if not session.exists():
        for arguments in (["cosmic-ray", "init", config, session], ["cr-filter-operators", session, config]):
            subprocess.run([*map(str, arguments)], cwd=checkout, env=environment, check=True)
    exec_ = subprocess.Popen(["cosmic-ray", "exec", str(config), str(session)], cwd=checkout, env=environment)
    try:
        exec_.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        exec_.terminate()
        exec_.wait()
        shutil.copy(ROOT / module, checkout / module)  # the mutant that was being tested
    return summary(session)


def summary(session: Path) -> dict[str, Any]:
    """How many mutants a session has, how many of them were tested and noticed, and where those are that were not."""
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "SELECT operator_name, start_pos_row, start_pos_col, worker_outcome, test_outcome "
            "FROM mutation_specs LEFT JOIN work_results USING (job_id)"
        ).fetchall()
    mutants = [row for row in rows if row[3] != "SKIPPED"]
    tested = [row for row in mutants if row[4] is not None]
    survivors = [
        f"line {line}, column {column}: {name}" for name, line, column, _, said in tested if said == "SURVIVED"
    ]
    return {
        "mutants": len(mutants),
        "tested": len(tested),
        "killed": len(tested) - len(survivors),
        "survivors": survivors,
    }


def main() -> None:
    """Test the mutants of every module, or of those that are named, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=86_400, help="for each module")
    parser.add_argument("--only", nargs="+", metavar="MODULE", default=TESTS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for module in asked.only:
        counts = mutants_tested(module, asked.out.resolve(), asked.seconds)
        print(f"{module}: {counts}", flush=True)
        earlier = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        atomic_write(RESULT, (json.dumps({**earlier, module: counts}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
