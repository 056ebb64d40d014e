"""What Linux says of this process."""

from __future__ import annotations

from pathlib import Path


def forget_peak() -> None:
    """The recorded peak of resident memory starts anew from what is resident."""
    Path("/proc/self/clear_refs").write_text("5")


def status(field: str) -> float:
    """Bytes: "VmRSS" is what is resident, "VmHWM" its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) * 1024
