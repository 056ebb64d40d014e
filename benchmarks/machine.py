"""The machine that figures are measured on, as it stands beside them."""

from __future__ import annotations

import os
from collections.abc import Collection

from gpubp.bench.doctor import findings

SUBJECTS = ("gpubp", "Python", "numpy", "scikit-learn", "processor", "BLAS", "BLAS kernels")
PINS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # variables that hold OpenBLAS to slower kernels


def described(subjects: Collection[str] = SUBJECTS) -> dict[str, str]:
    """What ``gpubp doctor`` finds on these subjects, a line each."""
    return {finding.subject: finding.found for finding in findings() if finding.subject in subjects}


def pinned() -> str:
    """The variable that holds OpenBLAS to slower kernels in this process; empty where none does."""
    return next((name for name in PINS if name in os.environ), "")
