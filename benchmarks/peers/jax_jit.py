"""JAX, one jitted call per step; the state's memory is given to the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Task
from benchmarks.peers.jax_model import VERSIONS, JaxSteps

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task) -> JaxSteps:
    """The steps, each a call."""
    return JaxSteps(task, by_calls)


def by_calls(jax: Any, step: Callable[..., Any], batches: int) -> Callable[..., Any]:
    jitted = jax.jit(step, donate_argnums=0)

    def advance(state: Any, data: Any, count: int) -> Any:
        for _ in range(count):
            state = jitted(state, data)
        return state

    return advance
