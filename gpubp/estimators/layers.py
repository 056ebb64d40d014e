"""The outputs of a fitted estimator's layers, and the private names under which code for scikit-learn asks for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from gpubp.backends import Batch
from gpubp.backprop import backward, forward
from gpubp.estimators import arrays, numerics
from gpubp.estimators.arrays import namespace_of
from gpubp.estimators.data import network_inputs
from gpubp.stack import Stack


class HiddenFeaturesMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):  # type: ignore[misc]
    """An estimator whose `transform` gives hidden activations, in float64 or float32."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class LayersMixin(HiddenFeaturesMixin):
    """Hidden activations and outputs; a mixin for `BaseMLP`."""

    # Provided by `BaseMLP`.
    coefs_: list[Any]
    intercepts_: list[Any]
    out_activation_: str
    alpha: float
    _network: Any
    _network_for: Any
    _stays_on_gpu: Any

    def transform(self, X: Any, layer: int = -1) -> Any:
        """The activations of a hidden layer.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        layer : int
            Which hidden layer: 0 is the first, -1 the last.

        Returns
        -------
        a : ndarray of shape (n_samples, n_neurons)

        Raises
        ------
        UsageError
            If there is no such hidden layer.
        """
        stack, inputs = self._checked_for(X, "transform")
        a = stack.layer_values(inputs, stack.hidden(layer), on_device=arrays.is_on_gpu(inputs))[0]
        return arrays.destination_of(X).send(a)

    @property
    def _n_features_out(self) -> int:
        """The width of the last hidden layer."""
        return int(self.coefs_[-1].shape[0])

    # -- the outputs -----------------------------------------------------------------------------------

    def _checked_for(self, X: Any, method: str) -> tuple[Stack, Any]:
        """The network that predicts for X, and X as it takes it; `method` is what the user called."""
        check_is_fitted(self)
        X = arrays.check_rows_to_predict(self, X, method, stays_on_gpu=self._stays_on_gpu(X))
        stack = self._network_for(X)
        return stack, network_inputs(X, stack.backend.precision)

    def _forward(self, X: Any, method: str) -> Any:
        """a^L of X (m, n_L), on the host or on the GPU where X is; `method` is what the user called."""
        return self._outputs(*self._checked_for(X, method))

    def _outputs(self, stack: Stack, inputs: Any) -> Any:
        """a^L (m, n_L) through `out_activation_`, which users may have assigned."""
        output = numerics.output_activation_record(self.out_activation_)
        if output.name == stack.output_activation.name:
            return stack.outputs(inputs, on_device=arrays.is_on_gpu(inputs))[0]
        z = self._logits(stack, inputs)
        return output.f(namespace_of(z), z)

    @staticmethod
    def _logits(stack: Stack, inputs: Any) -> Any:
        """z^L (m, n_L)."""
        return stack.layer_values(inputs, -1, on_device=arrays.is_on_gpu(inputs))[0]

    # -- scikit-learn's private methods, which others call -----------------------------------------------

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Any:
        """a^L (m, n_L) of X."""
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        stack = self._network_for(X)
        return self._outputs(stack, network_inputs(X, stack.backend.precision))

    def _forward_pass(self, activations: list[Any]) -> list[Any]:
        """Fill a list whose first element is X with the activations of every layer."""
        stack = self._network_for(activations[0])
        inputs = network_inputs(activations[0], stack.backend.precision)
        for l in range(len(self.coefs_) - 1):
            activations[l + 1] = stack.layer_values(inputs, l)[0]
        activations[len(self.coefs_)] = self._outputs(stack, inputs)
        return activations

    def _backprop(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        activations: list[Any],
        deltas: list[Any],
        coef_grads: list[Any],
        intercept_grads: list[Any],
    ) -> tuple[float, list[Any], list[Any]]:
        """The loss with its penalty on encoded y (m, n_L), and its gradients; the lists are filled.

        δ of a layer is ∂/∂z of the sum of the rows' losses, multiplied by their weights.
        """
        self._forward_pass(activations)
        stack: Stack = self._network()
        backend = stack.backend
        inputs = network_inputs(X, backend.precision)
        *hidden, output = stack.caches(len(y))  # only in the output layer's does δ share memory with a
        caches = [replace(cache, delta=backend.empty(cache.a.shape, backend.storage)) for cache in hidden] + [output]
        batch = Batch(
            X=backend.from_host(inputs[np.arange(len(y))], backend.storage)[None],
            y=backend.from_host(np.asarray(y, backend.dtype))[None],
            weight=None if sample_weight is None else backend.from_host(np.asarray(sample_weight, np.float64))[None],
            smoothing=backend.zeros((1,), np.float64),
        )
        grads, epoch = stack.layout.layers(backend.zeros(stack.theta.shape)), stack.single_step(normalizer=1.0)
        stack.refresh()
        with backend.computing():
            forward(backend, stack.network, batch.X, caches)
            backward(backend, stack.network, batch, caches, grads, epoch)
        total = len(y) if sample_weight is None else np.sum(sample_weight)
        square = 0.0
        for l, (layer, grad) in enumerate(zip(stack.layers, grads, strict=True)):
            W = backend.to_host(layer.W)[0]
            square += float((W * W).sum())
            coef_grads[l] = (backend.to_host(grad.W)[0] + self.alpha * W) / total
            intercept_grads[l] = backend.to_host(grad.b)[0, 0] / total
            deltas[l] = backend.to_host(caches[l].delta)[0]
        loss = (float(backend.to_host(epoch.totals)[0, 0, 0]) + 0.5 * self.alpha * square) / total
        return loss, coef_grads, intercept_grads

    def _loss_grad_lbfgs(
        self, packed_coef_inter: NDArray[Any], X: Any, y: Any, sample_weight: Any, *buffers: list[Any]
    ) -> tuple[float, NDArray[Any]]:
        """Loss and packed gradient at packed weights and biases, which become `coefs_` and `intercepts_`."""
        self._unpack(packed_coef_inter)
        loss, coef_grads, intercept_grads = self._backprop(X, y, sample_weight, *buffers)
        return loss, np.hstack([grad.ravel() for grad in (*coef_grads, *intercept_grads)])

    def _unpack(self, packed_parameters: NDArray[Any]) -> None:
        """Set `coefs_` and `intercepts_` from weights and biases packed in one array."""
        pieces = np.split(packed_parameters, np.cumsum([a.size for a in (*self.coefs_, *self.intercepts_)])[:-1])
        shaped = [a.reshape(old.shape) for a, old in zip(pieces, (*self.coefs_, *self.intercepts_), strict=True)]
        self.coefs_, self.intercepts_ = shaped[: len(self.coefs_)], shaped[len(self.coefs_) :]
