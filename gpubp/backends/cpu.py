"""The backend for the CPU: compiled loops if Numba is installed and works, otherwise the reference."""

from __future__ import annotations

import numpy as np

from gpubp.backends import CPU_PRECISIONS, Backend
from gpubp.backends.compiled import CompiledBackend, numba_state
from gpubp.backends.reference import ReferenceBackend
from gpubp.errors import UsageError


def on_the_cpu(device: str, precision: str, reason: str) -> Backend:
    """The backend for "cpu-reference", or for any other name that resolved to the CPU.

    Raises
    ------
    UsageError
        For a precision that the CPU lacks.
    """
    if precision not in CPU_PRECISIONS:
        raise UsageError(
            f'precision "{precision}" needs a GPU; on the CPU ({reason}) use {" or ".join(CPU_PRECISIONS)}'
        )
    if device == "cpu-reference":
        return ReferenceBackend(np.dtype(precision), reason)  # without loading Numba, which takes 50 MB
    numba = numba_state()
    if not numba.usable:
        return ReferenceBackend(np.dtype(precision), f"{reason}; {numba.summary}")
    return CompiledBackend(np.dtype(precision), f"{reason}; {numba.summary}")
