"""JAX with all steps of an epoch in one call, by `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cases import Task
from benchmarks.peers.jax_model import VERSIONS, JaxSteps

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task) -> JaxSteps:
    """The steps, an epoch a call; single steps where fewer are asked for."""
    return JaxSteps(task, by_epochs)


def by_epochs(jax: Any, step: Callable[..., Any], batches: int) -> Callable[..., Any]:
    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def scanned(state: Any, data: Any, length: int) -> Any:
        return jax.lax.scan(lambda state, _: (step(state, data), None), state, None, length)[0]

    def advance(state: Any, data: Any, count: int) -> Any:
        for length in (batches, 1):
            calls, count = divmod(count, length)
            for _ in range(calls):
                state = scanned(state, data, length)
        return state

    return advance
