"""MNIST for measurements, or random data of its shape where its files are not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gpubp.data import read


def pixels(source: str | Path, dtype: type = np.float32) -> tuple[Any, Any, Any, Any]:
    """Images in 0 … 1, flat, and classes: training part, test part."""
    data = read(source)
    X, X_test = (part.reshape(len(part), -1).astype(dtype) for part in (data.X, data.X_test))
    X /= 255
    X_test /= 255
    return X, data.y.reshape(-1).astype(np.int64), X_test, data.y_test.reshape(-1).astype(np.int64)


def like_mnist(m: int = 60_000) -> tuple[Any, Any, Any, Any]:
    """Ten patterns under noise, `m` rows to train on and a sixth of that to test."""
    rng = np.random.default_rng(0)
    patterns = rng.random((10, 784), dtype=np.float32)
    y = rng.integers(0, 10, m + m // 6)
    X = 0.5 * patterns[y] + 0.5 * rng.random((len(y), 784), dtype=np.float32)
    return X[:m], y[:m], X[m:], y[m:]
