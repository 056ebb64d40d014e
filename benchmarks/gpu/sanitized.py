"""What compute-sanitizer watches: every kernel, launched one by one, at sizes that fill no block and no vector.

``python -m benchmarks.gpu.sanitized [--dry-run]``
"""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

import numpy as np

import gpubp
from benchmarks.devices import open_backend
from benchmarks.gpu.kernel_cases import NotingDriver
from benchmarks.gpu.parity import Example, Followed, Uncaptured
from benchmarks.peers import UnavailableError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.source import folder

PRECISIONS = ("float32", "bfloat16", "float16", "float64")
EXAMPLES = (
    Example((33, 65, 17, 3), 31, ("tanh", "gelu"), dropout=0.2, weight_decay=0.01, max_grad_norm=0.1),
    Example((20, 41, 7), 29, "relu", "half_squared_error", "momentum", learning_rate=0.1, models=3),
    Example((5, 37, 2), 1100, "silu", learning_rate=0.1),  # sums over rows in two stages
)
ON_CHIP = (  # of one kernel, which takes seconds to compile
    Example((33, 65, 17, 3), 31, "gelu", dropout=0.2, weight_decay=0.01, max_grad_norm=0.1),
    Example((20, 41, 7), 300, "gelu", dropout=0.2, models=3),  # in chunks of a batch
)
STEPS = 2


def launched(dry_run: bool) -> set[str]:
    """Train and predict; the names of the kernels that were launched."""
    names: set[str] = set()
    for precision in PRECISIONS:
        try:
            backend = open_backend("cuda", precision, dry_run)
        except UnavailableError as error:
            print(f"{precision}: {error}")
            continue
        assert isinstance(backend, CudaBackend)
        noting = NotingDriver(Uncaptured(backend.driver))
        backend.driver = noting
        for on_chip, small, examples in ((False, True, EXAMPLES), (False, False, EXAMPLES), (True, True, ON_CHIP)):
            backend.on_chip = on_chip
            with patch("gpubp.backends.cuda.backend.is_small", lambda *_, small=small: small):
                for example in examples:
                    followed = Followed(example, backend, STEPS)
                    followed.step.train_epoch(followed.table)
        _predict(backend)
        backend.driver.synchronize()
        names |= noting.launches.keys()
        print(f"{precision}: {len(noting.launches)} kernels", flush=True)
    return names


def _predict(backend: Any) -> None:
    """The output activations, which no training step computes."""
    X = np.random.default_rng(0).standard_normal((13, 7)).astype(np.float32)
    for loss, outputs in (("cross_entropy", 3), ("binary_cross_entropy", 5)):
        gpubp.MLP((7, 9, outputs), loss=loss, device=backend).forward(X)


def main() -> int:
    """Print what was launched; 1 if that is not every kernel."""
    dry_run = "--dry-run" in sys.argv[1:]
    if not dry_run:
        import cupy

        # The pool hands out parts of larger allocations, inside which nothing counts as out of bounds.
        cupy.cuda.set_allocator(None)
        cupy.cuda.set_pinned_memory_allocator(None)
    names = launched(dry_run)
    left_out = {path.stem for path in folder().glob("*.cu")} - names
    print(f"launched {len(names)} kernels, {len(left_out)} left out: {' '.join(sorted(left_out))}")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
