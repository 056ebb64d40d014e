"""coefs_ and intercepts_, and the network that computes with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import is_
from typing import Any

import numpy as np

from gpubp.estimators import numerics
from gpubp.estimators.arrays import Destination, as_numpy, is_on_gpu
from gpubp.losses import Loss
from gpubp.network import MLP
from gpubp.precision import PRECISIONS
from gpubp.stack import Stack

# rebuilt by a copy or after pickling
_NOT_PICKLED = ("_stack", "_stack_key", "_weight_views", "_wide_stack", "_wide_stack_key")


class WeightsMixin(ABC):
    """An estimator's `coefs_` and `intercepts_`, which define it.

    A network holds a copy on its device, filled from them whenever something is computed. If both are in the same
    memory, they are views of the network's parameters, and nothing is copied.
    """

    activation: Any
    loss: Any
    device: str
    precision: str | None
    coefs_: list[Any]
    intercepts_: list[Any]
    _weight_views: tuple[Any, ...]

    @abstractmethod
    def _loss_record(self, n_outputs: int) -> Loss:
        """The loss that the parameter `loss` stands for, with `n_outputs` outputs."""

    @property
    def _loss_name(self) -> str | Loss:
        """The loss, as a name for `get_loss` or one of the estimator's own."""
        loss: str | Loss = self.loss
        return loss

    @property
    def _layer_sizes(self) -> list[int]:
        return [self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_)]

    @property
    def _first_weights(self) -> Any:
        """An attribute that shows which library's arrays the weights are."""
        return self.coefs_[0]

    @property
    def _own_precision(self) -> str:
        """The parameter `precision`, or if it is None, that of the weights."""
        return self.precision or ("float32" if self.coefs_[0].dtype == np.float32 else "float64")

    @property
    def _network_key(self) -> tuple[Any, ...]:
        """What the network depends on besides the weights."""
        activation = tuple(self.activation) if isinstance(self.activation, list) else self.activation
        return (self.device, self._own_precision, activation, self._loss_name, self._layer_sizes)

    def _network(self) -> Stack:
        """The network, on the device that the parameters name, with the weights of coefs_ and intercepts_."""
        weights = (*self.coefs_, *self.intercepts_)
        if self.__dict__.get("_stack_key") != self._network_key:
            self._stack = self._new_network(self._own_precision)
            self._stack_key, self._weight_views = self._network_key, ()
        stack = self._stack
        if len(self._weight_views) != len(weights) or not all(map(is_, self._weight_views, weights)):
            self._write_weights_to(stack)
        return stack

    def _network_for(self, X: Any) -> Stack:
        """The network that predicts for checked X: in float64 if X is, as in a product of arrays of two dtypes.

        If the user named a precision, that one is used.
        """
        stack = self._network()
        if not self._is_wider(X):
            return stack
        if self.__dict__.get("_wide_stack_key") != self._network_key:
            self._wide_stack, self._wide_stack_key = self._new_network("float64"), self._network_key
        self._write_weights_to(self._wide_stack)
        return self._wide_stack

    def _is_wider(self, X: Any) -> bool:
        """Whether X and the weights have a wider common type than the weights, and no precision was named."""
        weights = np.dtype(PRECISIONS[self._own_precision].parameters)
        return self.precision is None and np.result_type(X.dtype, weights) != weights

    def _new_network(self, precision: str) -> Stack:
        sizes = self._layer_sizes
        per_layer = isinstance(self.activation, (list, tuple))
        names = self.activation if per_layer else [self.activation] * (len(sizes) - 2)
        network = MLP(
            sizes,
            [numerics.activation_record(name) for name in names],
            self._loss_record(sizes[-1]),
            init="zeros",
            device=self.device,
            precision=precision,
        )
        return network.stack

    def _write_weights_to(self, stack: Stack) -> None:
        """Copy coefs_ and intercepts_ into a network of the same shape."""
        parameters = stack.parameters_of(0)
        weights = (*self.coefs_, *self.intercepts_)
        for view, values in zip((*parameters.weights, *parameters.biases), weights, strict=True):
            both_on_gpu = is_on_gpu(values) and is_on_gpu(view)
            view[...] = values if both_on_gpu else stack.backend.from_host(as_numpy(values), stack.backend.dtype)

    def _use_network(self, stack: Stack, destination: Destination) -> None:
        """Make a trained network this estimator's."""
        self._stack, self._stack_key = stack, self._network_key
        self.out_activation_ = numerics.sklearn_name(stack.output_activation.name)
        self._take_weights_from(stack, destination)

    def _take_weights_from(self, stack: Stack, destination: Destination) -> None:
        """Set coefs_ and intercepts_ in the memory X came from: to views of the network's parameters, or to copies."""
        weights, biases = map(list, stack.parameters_of(0))
        on_host = destination.xp is None and isinstance(stack.theta, np.ndarray)
        if is_on_gpu(stack.theta) if destination.gpu else on_host:
            self._weight_views = (*weights, *biases)
        else:
            self._weight_views = ()
            to_host = stack.backend.to_host
            weights, biases = ([destination.send(to_host(array)) for array in arrays] for arrays in (weights, biases))
        self.coefs_, self.intercepts_ = weights, biases

    def _reconstruction_attributes(self) -> dict[str, Any]:
        """A copy of the current state that predictions depend on."""
        stack = self._stack
        parameters = stack.parameters_of(0)
        return {
            "coefs_": [np.array(stack.backend.to_host(W)) for W in parameters.weights],
            "intercepts_": [np.array(stack.backend.to_host(b)) for b in parameters.biases],
        }

    def _forget_network(self) -> None:
        for name in _NOT_PICKLED:
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, and on the host, so that an estimator trained on a GPU can be opened anywhere."""
        state: dict[str, Any] = {**super().__getstate__()}  # type: ignore[dict-item]
        for name in _NOT_PICKLED:
            state.pop(name, None)
        for name in {"coefs_", "intercepts_"} & state.keys():
            state[name] = [as_numpy(array) for array in state[name]]
        if "classes_" in state:
            state["classes_"] = as_numpy(state["classes_"])
        return state
