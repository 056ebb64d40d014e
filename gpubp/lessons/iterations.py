"""How many iterations are enough: the training loss falls for ever, the test loss turns."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubp.lessons.lesson import Lesson

EPOCHS = 400


def measure() -> dict[str, Any]:
    """Losses by epoch of full-batch gradient descent on 30 rows of breast_cancer, and on the 539 others."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    import gpubp

    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, train_size=30, random_state=1, stratify=y)
    mean, std = X.mean(axis=0), X.std(axis=0)
    X, X_test = (X - mean) / std, (X_test - mean) / std
    net = gpubp.MLP([30, 32, 2], "relu", precision="float64", device="cpu-reference", seed=0)
    history = gpubp.train(
        net,
        X,
        y,
        validation_data=(X_test, y_test),
        optimizer="sgd",
        learning_rate=0.3,
        epochs=EPOCHS,
        batch_size=len(X),
    )
    return {"train": history.loss, "test": history.validation_loss, "best": int(np.argmin(history.validation_loss))}


def conclude(measured: dict[str, Any]) -> str:
    """Where the test loss was least."""
    best, train, test = measured["best"], measured["train"], measured["test"]
    return (
        f"The test loss is least after {best + 1} of {EPOCHS} iterations, {test[best]:.3f}; at the end it is "
        f"{test[-1]:.3f}, though the training loss went on falling, from {train[best]:.3f} to {train[-1]:.4f}. The "
        "curve of rows that are not trained on says when to stop: that is what `--validation` and `--patience` do."
    )


def draw(axes: Any, measured: dict[str, Any]) -> None:
    """Both losses over the iterations, on a logarithmic scale."""
    for part in ("train", "test"):
        axes.semilogy(measured[part], label=part)
    axes.axvline(measured["best"], color="grey", linestyle=":", label=f"best, iteration {measured['best'] + 1}")
    axes.set(xlabel="iteration", ylabel="loss")
    axes.legend()


LESSON = Lesson("How many iterations are enough", measure, conclude, draw)
