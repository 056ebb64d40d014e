"""Stacks of networks to train: for everyone the same weights, rows, orders and rate of learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.cases import Task
from benchmarks.contest import Contest, Entrant
from benchmarks.remote import RemoteError
from gpubp.backends.reference import ReferenceBackend
from gpubp.bench.steps import TOLERANCE, VERIFIED, Steps, Workload, error, first_weights, sample

CHECKED = 256  # networks at most


@dataclass(frozen=True)
class StackMember(Workload):
    """One network of a stack: all learn from the same rows, each in its own order and from its own weights."""

    number: int = 0

    @property
    def weights(self) -> list[tuple[Any, Any]]:
        """Those of a network by itself, moved on by its number."""
        return [(np.roll(W, self.number), np.roll(b, self.number)) for W, b in _alone(self).weights]

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """X (m, n_0), y (m,), and the order (m,)."""
        X, y, _ = _alone(self).rows
        return X, y, np.random.default_rng([2, self.number]).permutation(len(X))


@dataclass(frozen=True)
class StackWorkload(Workload):
    """`models` networks of one shape, numbered 0, `spacing`, …"""

    models: int = 2
    spacing: int = 1

    @property
    def name(self) -> str:
        """256 of 64-256-256-10 b128."""
        return f"{self.models} of {super().name}"

    @property
    def members(self) -> list[StackMember]:
        """Its networks, each as a network by itself."""
        shape = self.layer_sizes, self.batch_size, self.batches, self.activation
        return [StackMember(*shape, number=number * self.spacing) for number in range(self.models)]

    @property
    def weights(self) -> list[tuple[Any, Any]]:
        """W (K, n_in, n_out) and b (K, n_out) of every layer, float32, before the first step."""
        layers = zip(*(member.weights for member in self.members), strict=True)
        return [(np.stack([W for W, _ in layer]), np.stack([b for _, b in layer])) for layer in layers]

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """X (m, n_0) and y (m,), which all share, and the orders (K, m)."""
        X, y, _ = _alone(self).rows
        return X, y, np.stack([member.rows[2] for member in self.members])


def _alone(workload: Workload) -> Workload:
    """The plain network of these sizes, whose numbers are drawn once."""
    return Workload(workload.layer_sizes, workload.batch_size, workload.batches, workload.activation)


def network_by_network(tensors: Sequence[Any]) -> list[Any]:
    """The tensors (K, …) of a stack as those of its first network, of its second, …"""
    return [tensor[k] for k in range(len(tensors[0])) for tensor in tensors]


def checked(workload: StackWorkload) -> StackWorkload:
    """The networks whose steps are compared with float64's: all of them, or of more than CHECKED evenly spread ones."""
    spacing = max(1, workload.models // CHECKED)
    return replace(workload, models=min(workload.models, CHECKED), spacing=spacing)


def references(workload: StackWorkload) -> list[list[Any]]:
    """What the first steps add to each checked network's tensors, in float64, where they are as by themselves."""
    stack = checked(workload)
    steps = Steps(stack, ReferenceBackend(np.float64))
    steps.run(VERIFIED)
    weights = steps.weights()
    tensors = len(weights) // stack.models
    return [
        [
            sample(tensor) - first
            for tensor, first in zip(weights[k * tensors : (k + 1) * tensors], first_weights(member), strict=True)
        ]
        for k, member in enumerate(stack.members)
    ]


def worst(workload: StackWorkload, weights: Sequence[Any], expected: Sequence[Sequence[Any]]) -> tuple[float, int]:
    """The largest error of a network after its first steps, and whose it is; `expected` is from `references`."""
    tensors, members = len(weights) // workload.models, checked(workload).members
    errors = [
        error(member, weights[member.number * tensors : (member.number + 1) * tensors], reference)
        for member, reference in zip(members, expected, strict=True)
    ]
    largest = int(np.argmax(errors))
    return errors[largest], members[largest].number


class StackContest(Contest):
    """A contest whose tasks are stacks: a contender's checked networks must take the steps that they take alone."""

    def _reference(self, workload: Any) -> list[Any]:
        return references(workload)

    def _verify(self, entrant: Entrant, task: Task) -> None:
        assert isinstance(task.workload, StackWorkload)
        weights = self._ask(entrant, "weights_after", VERIFIED)
        off, k = worst(task.workload, weights, self.references[task.workload.name])
        entrant.figure["error after two steps"] = off
        if not off <= TOLERANCE[task.precision]:
            raise RemoteError(f"its steps are not these networks': number {k} is off by {off:.2g}")
