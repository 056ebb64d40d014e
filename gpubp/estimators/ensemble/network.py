"""Fitted estimators of one shape as one stack of networks, so that they predict in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from gpubp.stack import Stack


class EnsembleNetwork:
    """The stack, with the weights that the members have at the time of each request.

    Where both are in the same memory, the members' `coefs_` and `intercepts_` are made views of the stack's
    parameters: weights are held once, and changes to them take effect.
    """

    _stack: Stack
    _wide_stack: Stack

    def __init__(self) -> None:
        self._stack_key: Any = None
        self._wide_stack_key: Any = None
        self._weight_views: list[Any] = []

    def network_for(self, X: Any, members: Sequence[Any]) -> Stack:
        """The stack that predicts for checked X: in float64 if a member by itself would."""
        stack = self.network(members)
        if not members[0]._is_wider(X):
            return stack
        if self._wide_stack_key != self._stack_key:
            one = members[0]._new_network("float64")
            self._wide_stack = one.like(one.backend.zeros((len(members), one.layout.size)), one.backend)
            self._wide_stack_key = self._stack_key
        for k, est in enumerate(members):
            est._write_weights_to(self._wide_stack.part(slice(k, k + 1)))
        return self._wide_stack

    def network(self, members: Sequence[Any]) -> Stack:
        """The members as one stack."""
        weights = [array for est in members for array in (*est.coefs_, *est.intercepts_)]
        key = (len(members), members[0]._network_key)
        fits = self._stack_key == key
        if fits and len(self._weight_views) == len(weights) and all(map(is_, self._weight_views, weights)):
            return self._stack
        if not fits or self._weight_views:  # members, here or elsewhere, may use views of the old stack as weights
            one = members[0]._network()
            self._stack = one.like(one.backend.zeros((len(members), one.layout.size)), one.backend)
            self._stack_key = key
        stack, self._weight_views = self._stack, []
        for k, est in enumerate(members):
            est._write_weights_to(stack.part(slice(k, k + 1)))
        if all(isinstance(array, type(stack.theta)) for array in weights):
            for k, est in enumerate(members):
                est._forget_network()
                est.coefs_, est.intercepts_ = map(list, stack.parameters_of(k))
                self._weight_views += [*est.coefs_, *est.intercepts_]
        return stack
