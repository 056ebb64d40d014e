"""What figures were measured on: device, driver, processor, versions."""

from __future__ import annotations

import platform
import shutil
import subprocess

from benchmarks.devices import host_driver
from benchmarks.machine import described
from benchmarks.peers import version
from gpubp.backends.cuda.probe import probe

ASKED = {  # of nvidia-smi, and how it is said
    "name": "{}",
    "driver_version": "driver {}",
    "memory.total": "{}",
    "power.limit": "{}",
    "clocks.max.sm": "{}",
    "clocks.max.memory": "memory {}",
}
SUBJECTS = ("gpubp", "Python", "numpy", "processor", "BLAS")  # of what gpubp doctor says
LIBRARIES = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "nvidia-cuda-nvrtc", "torch", "jax")


def machine(dry_run: bool) -> dict[str, str]:
    """One line per subject."""
    versions = {name: number for name in LIBRARIES if (number := version(name))}
    device = host_driver().name if dry_run else _smi() or probe().summary
    return {
        "device": device,
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        **described(SUBJECTS),
        **versions,
    }


def _smi() -> str:
    """What the driver says of the first device; empty without its tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    run = subprocess.run(
        [tool, "--id=0", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"], capture_output=True, text=True
    )
    values = run.stdout.strip().split(", ")
    known = run.returncode == 0 and len(values) == len(ASKED)
    return ", ".join(form.format(value) for form, value in zip(ASKED.values(), values, strict=True)) if known else ""
