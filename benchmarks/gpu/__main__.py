"""The CUDA backend on a GPU, by one command: ``python -m benchmarks.gpu --seconds 530 --out DIR``.

Stages run one after the other, each in a process of its own with a limit of its own; what they find goes into
DIR/gpu.json after every row, what they print into DIR/log.txt, and the account of it into DIR/gpu.md. The smoke
test is always first, and if it fails nothing else is begun (exit code 3).

``--rest`` runs the other half, ``--stages`` some by name, ``--plan`` lists them with their times. ``--pack FOLDER``
makes a folder to take along to a machine without a network, which ``--packed FOLDER`` then uses. ``--report FILE …``
puts saved files together. ``--dry-run`` runs the same program without a GPU, on tiny networks: the kernels on the host,
peers on the CPU; its figures mean nothing, are marked, and never stand beside measured ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bars import report, summary
from benchmarks.gpu.schedule import LOG, STAGES, Schedule, Stage, chosen, plan
from benchmarks.gpu.settings import PACKAGES, SITE, Settings
from benchmarks.machine import PINS
from benchmarks.parts import FILE, MixedError, kind, load, write
from gpubp.serialization import atomic_write

REPOSITORY = Path(__file__).resolve().parents[2]
PACKED = REPOSITORY / "gpu-pack"  # where the folder that travels is looked for; git ignores it
REPORT = "gpu.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0; 1 if a bar was missed or a stage did not end by itself; 2 for options; 3 if nothing works here."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.pack:
        from benchmarks.gpu.pack import pack

        return pack(options.pack, options.mnist)
    if options.report:
        return _report(options.report, options.out, options.plots)
    stages = chosen(options.stages, options.rest, options.dry_run)
    if options.plan:
        print(plan(stages))
        return 0
    if options.out is None:
        parser.error("--out DIR is needed")
    packed = options.packed or (PACKED if PACKED.is_dir() else None)
    settings = Settings(
        tuple(options.precision), tuple(options.contenders), options.rounds, options.mnist, packed and packed.resolve()
    )
    if options.stage:
        from benchmarks.gpu.stage import run_stage

        return run_stage(STAGES[options.stage], options.seconds, options.out, options.dry_run, settings)
    seconds = options.seconds or sum(stage.seconds for stage in stages)
    return _run(stages, seconds, options.out.resolve(), options.dry_run, settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, help="that all stages may take together; by default, as planned")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of results")
    parser.add_argument("--stages", nargs="+", default=[], choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--rest", action="store_true", help="the other half of the stages")
    parser.add_argument("--precision", nargs="+", default=[], help="the only precisions in which steps are timed")
    parser.add_argument("--contenders", nargs="+", default=[], help='the only peers, such as "torch graph" "jax scan"')
    parser.add_argument("--rounds", type=int, help="turns of every contender")
    parser.add_argument("--mnist", metavar="FOLDER", help="with MNIST's IDX files; without it, data of their shape")
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help=f"what --pack made; by default {PACKED.name}/")
    parser.add_argument("--dry-run", action="store_true", help="on the host, to see that everything runs")
    parser.add_argument("--plan", action="store_true", help="print the stages with their times, and run none")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="make the folder to take along")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FILE", help="the account of files of results")
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="with --report: pictures of step times, and of a CPU's over the GPU's",
    )
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    return parser


def _run(stages: Sequence[Stage], seconds: float, out: Path, dry_run: bool, settings: Settings) -> int:
    """Run the stages, then print the account."""
    start = time.monotonic()
    try:
        load(out, dry_run)
    except MixedError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2

    def command(stage: Stage, limit: float) -> list[str]:
        arguments = ["--stage", stage.name, "--seconds", f"{limit:.1f}", "--out", str(out), *settings.arguments()]
        return [sys.executable, "-m", "benchmarks.gpu", *arguments, *(["--dry-run"] if dry_run else [])]

    print(f"{kind(dry_run)}: {len(stages)} stages within {seconds:.0f} s", flush=True)
    schedule = Schedule(stages, seconds, out, dry_run, command, environment(settings.packed))
    try:
        code = schedule.run()
    except KeyboardInterrupt:
        print("interrupted: the rows until then are saved")
        code = 130
    parts = load(out, dry_run)
    atomic_write(out / REPORT, report(parts).encode())
    if "smoke" in parts:
        print("\n" + "; ".join(f"{subject} {text}" for subject, text in parts["smoke"]["machine"].items()))
    if code == 3:
        print("\nthe smoke test failed; the end of its output:\n" + (out / LOG).read_text(encoding="utf-8")[-5000:])
    else:
        print("\n" + summary(parts))
    print(f"\n{time.monotonic() - start:.0f} s; exit code {code}; all of it is in {out / FILE} and {out / REPORT}")
    return code


def environment(packed: Path | None) -> dict[str, str]:
    """Variables of the stages' processes: the checkout and missing packages are found, OpenBLAS is not pinned."""
    variables = {name: value for name, value in os.environ.items() if name not in PINS}
    paths = [str(REPOSITORY), *filter(None, [variables.get("PYTHONPATH")])]
    if packed is not None and any(importlib.util.find_spec(name) is None for name in PACKAGES):
        paths.append(str(packed / SITE))
    if not os.access(os.path.expanduser("~"), os.W_OK):
        variables.setdefault("CUPY_CACHE_DIR", tempfile.mkdtemp())  # else CuPy would fail to keep its first kernel
    return {
        **variables,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share the device
    }


def _report(files: Sequence[Path], out: Path | None, pictures: Path | None) -> int:
    """The account of all files together; with a folder, also put there."""
    parts: dict[str, Mapping[str, Any]] = {}
    try:
        for path in files:
            parts |= load(path.parent, False, path.name)
    except MixedError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    print(summary(parts))
    if out is not None:
        write(out / FILE, dict(parts))
        atomic_write(out / REPORT, report(parts).encode())
    if pictures is not None:
        from benchmarks.gpu.plot import plot

        plot(parts, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
