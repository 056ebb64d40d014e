"""Planning an epoch on the host, before a device gets anything to do: its order of rows and its learning rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpubp.schedules import schedules_of
from gpubp.training.step_table import Planner

ROWS, BATCH, EPOCHS = 8192, 128, 20


@pytest.mark.parametrize("networks, asked", [(256, 10), (4096, 100)], ids=["256", "4096"])
def test_planning(benchmark: Any, networks: int, asked: int) -> None:
    """A stack over 8,192 rows with cosine; in the benchmark's extra information, the ms that it may take."""
    planner = Planner(
        m=ROWS,
        rows=None,
        batch_size=BATCH,
        epochs=np.full(networks, EPOCHS),
        weight=None,
        learning_rate=np.full(networks, 1e-3),
        schedules=schedules_of("cosine", networks),
        seeds=tuple(range(networks)),
    )
    benchmark.group = f"planning, {networks} networks x {ROWS} rows"
    benchmark.extra_info |= {"ms asked": asked}
    benchmark(lambda: planner.table(3, np.ones((3, networks))))
