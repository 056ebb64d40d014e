"""JAX with a stack of networks: the step of one, gradient and Adam, mapped over all by `jax.vmap` and jitted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.cases import Task
from benchmarks.peers import jax_jit, jax_scan
from benchmarks.peers.jax_model import VERSIONS, JaxSteps
from benchmarks.stack_cases import network_by_network

__all__ = ["VERSIONS", "prepare"]


def prepare(task: Task, scanned: bool) -> JaxStackSteps:
    """The steps, an epoch a call by `lax.scan`, or each a call; the state's memory is given to the next one."""
    return JaxStackSteps(task, partial(_mapped, jax_scan.by_epochs if scanned else jax_jit.by_calls))


class JaxStackSteps(JaxSteps):
    """A state whose tensors are (K, …), and an order for each network."""

    def weights(self) -> list[Any]:
        """W and b of every layer of the first network, of the second, …"""
        return network_by_network(super().weights())


def _mapped(peer: Callable[..., Any], jax: Any, step: Callable[..., Any], batches: int) -> Callable[..., Any]:
    """Networks share the rows and the number of steps taken, and nothing else."""
    state, data = (0, 0, 0, None), (None, None, 0)
    return peer(jax, jax.vmap(step, in_axes=(state, data), out_axes=state), batches)
