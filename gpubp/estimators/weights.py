"""coefs_ and intercepts_, and the network that computes with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import is_
from typing import Any

import numpy as np

from gpubp.estimators import numerics
from gpubp.estimators.arrays import Home, as_numpy, is_on_gpu
from gpubp.losses import Loss
from gpubp.network import MLP
from gpubp.stack import Stack

_NOT_KEPT = ("_stack", "_stack_is_for", "_views")  # what a copy or a pickle makes anew


class Weights(ABC):
    """What an estimator is: `coefs_` and `intercepts_`.

    A network holds a copy on its device, filled from them whenever something is computed. Where both are in the
    same memory they are views of it, and nothing is copied.
    """

    activation: Any
    loss: Any
    device: str
    precision: str | None
    coefs_: list[Any]
    intercepts_: list[Any]
    _views: tuple[Any, ...]

    @abstractmethod
    def _loss_record(self, n_outputs: int) -> Loss:
        """The loss that the parameter `loss` means, for so many outputs."""

    @property
    def _layer_sizes(self) -> list[int]:
        return [self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_)]

    @property
    def _first_weights(self) -> Any:
        """An attribute that tells in which library the weights are."""
        return self.coefs_[0]

    def _network(self) -> Stack:
        """The network, where the parameters say, with the weights of coefs_ and intercepts_."""
        weights = (*self.coefs_, *self.intercepts_)
        if self.__dict__.get("_stack_is_for") != self._wanted:
            self._stack = self._new_network(self._layer_sizes)
            self._stack_is_for, self._views = self._wanted, ()
        stack = self._stack
        if len(self._views) != len(weights) or not all(map(is_, self._views, weights)):
            self._write_to(stack)
        return stack

    def _write_to(self, stack: Stack) -> None:
        """Give a network of the same shape the weights of coefs_ and intercepts_."""
        parameters = stack.parameters_of(0)
        weights = (*self.coefs_, *self.intercepts_)
        for view, values in zip((*parameters.weights, *parameters.biases), weights, strict=True):
            there = is_on_gpu(values) and is_on_gpu(view)
            view[...] = values if there else stack.backend.from_host(as_numpy(values), stack.backend.dtype)

    @property
    def _wanted(self) -> tuple[Any, ...]:
        """What the network depends on besides the weights."""
        activation = tuple(self.activation) if isinstance(self.activation, list) else self.activation
        return (self.device, self.precision, activation, self.loss, self._layer_sizes)

    def _adopt(self, stack: Stack, home: Home) -> None:
        """Take a trained network as its own."""
        self._stack, self._stack_is_for = stack, self._wanted
        self.out_activation_ = numerics.sklearn_name(stack.output_activation.name)
        self._hand_out(stack, home)

    def _new_network(self, sizes: list[int]) -> Stack:
        per_layer = isinstance(self.activation, (list, tuple))
        names = self.activation if per_layer else [self.activation] * (len(sizes) - 2)
        network = MLP(
            sizes,
            [numerics.activation_record(name) for name in names],
            self._loss_record(sizes[-1]),
            init="zeros",
            device=self.device,
            precision=self.precision or ("float32" if self.coefs_[0].dtype == np.float32 else "float64"),
        )
        return network.stack

    def _hand_out(self, stack: Stack, home: Home) -> None:
        """coefs_ and intercepts_ where X came from: views of the network's parameters, or copies."""
        weights, biases = map(list, stack.parameters_of(0))
        if is_on_gpu(stack.theta) if home.gpu else home.xp is None and isinstance(stack.theta, np.ndarray):
            self._views = (*weights, *biases)
        else:
            self._views = ()
            weights, biases = ([home.bring(stack.backend.to_host(x)) for x in part] for part in (weights, biases))
        self.coefs_, self.intercepts_ = weights, biases

    def _fitted(self) -> dict[str, Any]:
        """A copy of what predictions depend on, as it is now."""
        stack = self._stack
        parameters = stack.parameters_of(0)
        return {
            "coefs_": [np.array(stack.backend.to_host(W)) for W in parameters.weights],
            "intercepts_": [np.array(stack.backend.to_host(b)) for b in parameters.biases],
        }

    def _forget_network(self) -> None:
        for name in _NOT_KEPT:
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, and on the host: what was trained on a GPU is opened anywhere."""
        state: dict[str, Any] = {**super().__getstate__()}  # type: ignore[dict-item]
        for name in _NOT_KEPT:
            state.pop(name, None)
        for name in {"coefs_", "intercepts_"} & state.keys():
            state[name] = [as_numpy(array) for array in state[name]]
        return state
