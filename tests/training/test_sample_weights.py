"""What rows, classes and weights of a network count in a training: weights, penalties and smoothed labels."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import MLP, UsageError, train
from support.machines import host, in_float64
from support.trainings import assert_close, blobs, digest


@in_float64
def test_a_sample_weight_of_n_is_n_copies_of_the_row(mlp):
    X, y = blobs(10)
    weight = np.array([1, 2, 1, 3, 1, 1, 2, 0, 2, 2])
    copies = np.repeat(np.arange(10), weight)
    weighted, duplicated = (mlp([4, 5, 3], "tanh") for _ in range(2))
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 5, "shuffle": False}
    first = train(weighted, X, y, weight, batch_size=1000, **settings)
    second = train(duplicated, X[copies], y[copies], batch_size=1000, **settings)
    assert_close(weighted, duplicated)
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-12)
    np.testing.assert_allclose(first.metric, second.metric, rtol=1e-12)


@in_float64
def test_the_scale_of_sample_weights_does_not_matter(mlp):
    X, y = blobs()
    weight = np.random.default_rng(0).random(60)
    nets = [mlp([4, 5, 3], "tanh") for _ in range(2)]
    histories = [
        train(net, X, y, scale * weight, batch_size=16, epochs=3) for net, scale in zip(nets, (1, 1024), strict=True)
    ]
    assert_close(*nets)
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)


@in_float64
def test_l2_adds_to_the_gradient_of_weights_and_decay_takes_from_the_weights(mlp):
    """Which is the same for gradient descent: W − η (∂C/∂W + λ W)."""
    X, y = blobs(9)
    for option in ("l2", "weight_decay"):
        net = mlp([4, 5, 3])
        before, (_, grads) = [host(W).copy() for W in net.weights], net.gradients(X, y)
        train(net, X, y, optimizer="sgd", learning_rate=0.25, batch_size=9, epochs=1, **{option: 0.5})
        for W, W_before, grad_W in zip(net.weights, before, grads.weights, strict=True):
            np.testing.assert_allclose(host(W), W_before - 0.25 * (host(grad_W) + 0.5 * W_before), 1e-12, 1e-12)


def test_a_batch_without_weight_moves_nothing(mlp):
    X, y = blobs(8)
    net, other = mlp([4, 5, 3], "tanh"), mlp([4, 5, 3], "tanh")
    settings = {"optimizer": "sgd", "shuffle": False, "batch_size": 4, "epochs": 1}
    train(net, X, y, [0, 0, 0, 0, 1, 1, 1, 1], **settings)
    train(other, X[4:], y[4:], **settings)
    assert digest(net) == digest(other)


def test_class_weights_are_sample_weights_by_class(mlp):
    X, y = blobs()
    by_class, by_sample = mlp([4, 5, 3]), mlp([4, 5, 3])
    train(by_class, X, y, np.arange(1.0, 61), class_weight={0: 2.0, 2: 0.5}, epochs=2)
    train(by_sample, X, y, np.arange(1.0, 61) * np.array([2.0, 1.0, 0.5])[y], epochs=2)
    assert digest(by_class) == digest(by_sample)


def test_classes_of_class_weights_may_be_floats_as_those_of_y_may():
    X, y = blobs(12)
    digests = set()
    for kind in (int, float, np.float32):
        net = MLP([4, 5, 3])
        train(net, X, y.astype(kind), class_weight={kind(0): 2.0, kind(2): 0.5}, epochs=2)
        digests.add(digest(net))
    assert len(digests) == 1
    binary = MLP([4, 5, 2]), MLP([4, 5, 2])
    train(binary[0], X, y > 0, class_weight={False: 2.0, True: 0.5}, epochs=2)
    train(binary[1], X, (y > 0).astype(int), class_weight={0: 2.0, 1: 0.5}, epochs=2)
    assert digest(binary[0]) == digest(binary[1])


def test_whole_numbers_may_be_arrays_without_dimensions():
    X, y = blobs(12)
    nets = MLP([4, 5, 3], seed=np.array(3)), MLP([4, 5, 3], seed=3)
    for net, kind in zip(nets, (np.array, int), strict=True):
        history = train(net, X, y, validation_data=(X, y), epochs=kind(2), patience=kind(2), seed=kind(4))
        assert history.epochs == 2
    assert digest(nets[0]) == digest(nets[1])
    with pytest.raises(UsageError, match="epochs=.*use a whole number"):
        train(nets[0], X, y, epochs=np.array(2.5))


def test_balanced_class_weights_give_every_class_the_same_say():
    """m / (classes · count), scikit-learn's rule."""
    X, _ = blobs(12)
    y = np.array([0] * 8 + [1] * 3 + [2])
    balanced, by_hand = MLP([4, 5, 3]), MLP([4, 5, 3])
    train(balanced, X, y, class_weight="balanced", epochs=2)
    train(by_hand, X, y, np.array([12 / (3 * 8), 12 / (3 * 3), 12 / 3])[y], epochs=2)
    assert digest(balanced) == digest(by_hand)


@in_float64
def test_label_smoothing_reaches_the_step_and_not_the_validation(mlp):
    X, y = blobs(12)
    smooth = 0.9 * np.eye(3)[y] + 0.1 / 3  # what smoothing by 0.1 makes of the targets
    net, by_hand = (mlp([4, 5, 3], "tanh") for _ in range(2))
    settings = {"learning_rate": 0.01, "epochs": 5, "batch_size": 5}
    history = train(net, X, y, label_smoothing=0.1, validation_data=(X, y), **settings)
    other = train(by_hand, X, smooth, **settings)
    assert_close(net, by_hand)
    np.testing.assert_allclose(history.loss, other.loss, rtol=1e-12)
    assert history.validation_loss[-1] == net.evaluate(X, y)["loss"]
