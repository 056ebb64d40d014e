"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np


def describe() -> dict[str, Any]:
    """Processor, cores, BLAS with its kernel family and threads, versions."""
    import sklearn
    from threadpoolctl import threadpool_info

    import gpubp

    blas = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "blas": f"{blas.get('internal_api')} {blas.get('version')} ({blas.get('architecture')})",
        "blas_threads": blas.get("num_threads"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "gpubp": gpubp.__version__,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
