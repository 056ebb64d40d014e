"""Mutation testing with cosmic-ray's mutants: ``python -m benchmarks.mutants --out DIR --only gpubp/backprop.py``.

Works on a copy of the checkout in DIR, one mutant after the other, until all are tested or ``--seconds`` are over, and
goes on there the next time; ``--again`` tests those once more that no test noticed. ``--sample 40`` tests 40 mutants of
a module, drawn by its name. Mutants of ``|`` are left out: it stands in annotations, which nothing evaluates. What came
of it goes to ``benchmarks/results/mutants.json``: each mutant that no test noticed, with a reason where one was written
there by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from gpubp.serialization import atomic_write

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mutants.json"
NOT_COPIED = shutil.ignore_patterns(".*_cache", "__pycache__", ".git", ".hypothesis", "runs", "site", "*.egg-info")
ON_THE_REFERENCE = "-k 'not compiled and not cuda'"
REGISTRY = f"tests/test_registry.py {ON_THE_REFERENCE}"  # what all registries have in common
TRAINING = f"tests/training {ON_THE_REFERENCE}"
READERS = " ".join(
    f"tests/data/test_{name}.py"
    for name in (
        "data_readers",
        "data_errors",
        "columns",
        "corpora",
        "rare_files",
        "streamed",
        "excel",
        "pictures",
        "hostile_tables",
    )
)
# The tests that are to notice mutants of a module, as arguments of pytest.
TESTS = {
    "gpubp/backprop.py": (
        "tests/test_backprop.py tests/training/test_recompute.py tests/test_gradients.py "
        "-k '(reference-float64 or recompute) and not compiled and not cuda'"
    ),
    "gpubp/activations.py": f"tests/test_activations.py tests/test_gradients.py {REGISTRY}",
    "gpubp/losses.py": f"tests/test_losses.py tests/test_gradients.py {REGISTRY}",
    "gpubp/optimizers.py": f"tests/test_optimizers.py {REGISTRY}",
    "gpubp/initializers.py": "tests/test_initializers.py tests/test_registry.py",
    "gpubp/schedules.py": "tests/test_schedules.py tests/test_registry.py",
    "gpubp/registry.py": "tests/test_registry.py tests/test_activations.py",
    "gpubp/serialization.py": (
        "tests/test_serialization.py tests/test_network.py tests/test_model_files.py tests/test_atomic_write.py "
        f"tests/training/test_rare_trainings.py {ON_THE_REFERENCE}"
    ),
    **{
        f"gpubp/data/{name}.py": READERS
        for name in (
            *("schema", "readers", "csv_text", "csv_cells", "csv_blocks", "csv_copy"),
            *("tables", "blocks", "arrays", "excel", "hdf5", "idx", "pictures", "source"),
        )
    },
    **{
        f"gpubp/training/{path.name}": TRAINING
        for path in sorted((ROOT / "gpubp" / "training").glob("*.py"))
        if path.name != "__init__.py"
    },
    "gpubp/training/options.py": (
        "tests/cli/test_train_command.py::test_default_epochs tests/training/test_options.py "
        "tests/training/test_training.py tests/training/test_sample_weights.py tests/training/test_stopping.py "
        f"tests/training/test_training_arguments.py tests/training/test_rare_trainings.py {ON_THE_REFERENCE}"
    ),
    "gpubp/training/augmentation.py": "tests/training/test_augmentation.py -k 'not compiled'",
    "gpubp/training/device_data.py": (
        "tests/training/test_rows.py tests/training/test_rare_trainings.py "
        f"tests/estimators/test_estimators.py::test_sparse_rows_are_made_dense_batch_by_batch {ON_THE_REFERENCE}"
    ),
    "gpubp/training/gradient_sums.py": "tests/training/test_rank_sums.py",
    "gpubp/training/interruption.py": "tests/training/test_interruption.py tests/training/test_checkpoints.py",
    "gpubp/training/progress.py": "tests/training/test_progress.py tests/training/test_watching.py",
    "gpubp/training/watching.py": f"tests/training/test_watching.py tests/training/test_options.py {ON_THE_REFERENCE}",
}


def mutants_tested(module: str, out: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Test mutants of a module for so many seconds, and say what came of all that were tested in `out` so far."""
    checkout = out / "checkout"
    shutil.copytree(ROOT, checkout, ignore=NOT_COPIED, dirs_exist_ok=True)
    digest = sha256((ROOT / module).read_bytes()).hexdigest()[:8]
    session = out / f"{module.replace('/', '-').removesuffix('.py')}-{digest}.sqlite"
    libraries = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout), *libraries]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benchmarks.mutants_worker", module, TESTS[module], str(session)]
    command += [str(asked.sample), "again" if asked.again else ""]
    worker = subprocess.Popen(command, cwd=checkout, env=environment)
    try:
        if worker.wait(timeout=asked.seconds):
            sys.exit(f"{module}: testing its mutants failed")
    except subprocess.TimeoutExpired:
        worker.terminate()  # which puts the module back
        worker.wait()
    return summary(session)


def summary(session: Path) -> dict[str, Any]:
    """How many mutants a session has, how many of them were tested and noticed, and those that were not."""
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "SELECT test_outcome, diff FROM mutation_specs LEFT JOIN work_results USING (job_id) "
            "WHERE operator_name NOT LIKE 'core/ReplaceBinaryOperator_BitOr_%' "
            "ORDER BY start_pos_row, start_pos_col, operator_name"
        ).fetchall()
    tested = [(outcome, diff) for outcome, diff in rows if outcome is not None]
    survivors = [diff for outcome, diff in tested if outcome == "SURVIVED"]
    return {
        "mutants": len(rows),
        "tested": len(tested),
        "killed": len(tested) - len(survivors),
        "survivors": dict.fromkeys(survivors, ""),
    }


def with_reasons(counts: dict[str, Any], earlier: Mapping[str, str]) -> dict[str, Any]:
    """What came of a module's mutants, with the reasons that were written earlier for those that survived."""
    return {**counts, "survivors": {mutant: earlier.get(mutant, "") for mutant in counts["survivors"]}}


def main() -> None:
    """Test the mutants of every module, or of those that are named, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=86_400, help="for each module")
    parser.add_argument("--sample", type=int, default=1_000_000, metavar="N", help="mutants of each module at most")
    parser.add_argument("--again", action="store_true", help="test those once more that no test noticed")
    parser.add_argument("--only", nargs="+", metavar="MODULE", default=TESTS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for module in asked.only:
        counts = mutants_tested(module, asked.out.resolve(), asked)
        earlier = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        counts = with_reasons(counts, earlier.get(module, {}).get("survivors", {}))
        print(f"{module}: {counts['killed']} of {counts['tested']} of {counts['mutants']}", flush=True)
        atomic_write(RESULT, (json.dumps({**earlier, module: counts}, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
