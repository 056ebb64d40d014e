"""One stage, in the process that was started for it."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.devices import open_backend
from benchmarks.gpu.hardware import machine
from benchmarks.gpu.schedule import Stage
from benchmarks.gpu.settings import Settings
from benchmarks.parts import MixedError, Part, load, saving
from benchmarks.peers import UnavailableError

MARGIN = 3.0  # seconds before the limit, for which a stage plans nothing


def run_stage(stage: Stage, limit: float | None, out: Path, dry_run: bool, settings: Settings) -> int:
    """Exit code: 0; 1 if something that was asked for was not met; 2 if nothing can be measured here; 4 for a fault."""
    limit = limit or stage.seconds
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, limit - MARGIN / 2))  # where it hangs, in the log
    part = Part(stage.name, dry_run, seconds=limit - MARGIN)
    try:
        about = _machine(stage, out, dry_run)
    except (MixedError, UnavailableError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    try:
        with saving(part, out, about):
            _function(stage)(part, settings)
    except Exception:
        traceback.print_exc()
        return 4
    return 1 if any(row.met is False for row in part.rows) else 0


def _function(stage: Stage) -> Callable[[Part, Settings], None]:
    module, _, name = stage.function.partition(":")
    function: Callable[[Part, Settings], None] = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)
    return function


def _machine(stage: Stage, out: Path, dry_run: bool) -> dict[str, str]:
    """What the smoke test has found before, or found now."""
    parts = load(out, dry_run)
    if stage.name != "smoke" and (about := parts.get("smoke", {}).get("machine")):
        return dict(about)
    if stage.name != "smoke":
        open_backend("cuda", "float32", dry_run)
    return machine(dry_run)
