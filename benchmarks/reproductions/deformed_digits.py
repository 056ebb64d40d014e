"""A big simple net on digits that are deformed anew in every epoch, on a schedule cut short for a CPU.

Published: D. C. Cireşan, U. Meier, L. M. Gambardella and J. Schmidhuber, "Deep Big Simple Neural Nets Excel on
Handwritten Digit Recognition" (2010): 0.49 % of MNIST's test images wrong with two hidden layers of 1,000 and 500
units, after 23 hours on a GPU.

The deformations are theirs: a rotation or a horizontal shear, scaling of both axes, and an elastic displacement, a
field of uniform noise smoothed by a Gaussian. **The training is not**: `EPOCHS` epochs instead of hundreds, batches of
128 instead of single images, Adam with a cosine schedule instead of plain gradient descent with a learning rate that is
lowered after each epoch, ReLU instead of scaled tanh, and 28×28 pixels instead of 29×29.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from benchmarks.data import like_mnist, pixels
from benchmarks.parts import Part
from benchmarks.reproductions.comparison import compare, draw_curves

SIDE = 28
ROTATION, ROTATION_OF_1_AND_7 = np.deg2rad((15.0, 7.5)).tolist()  # the largest angle, also of shear
SCALING = 0.175  # the largest change of height and width: theirs is 15 to 20 %
SIGMA, ALPHA = (5.0, 6.0), (36.0, 38.0)  # pixels that displacements are smoothed over, and how far they reach
REACH = 10  # pixels to each side that the Gaussian is cut off at: 21×21
EPOCHS = 15
PUBLISHED, BAR = 0.49, (0.0, 1.1)


def deformed(images: Any, digits: Any, rng: Any, xp: Any = np) -> Any:
    """Deform each of `images` (n, 28, 28), with values in 0 … 1, in a way of its own.

    Every pixel of the result is looked up, by linear interpolation, where an affine map around the middle of the image
    and a smooth displacement send it to; what lies outside is 0.

    Parameters
    ----------
    images, digits : (n, 28, 28) and (n,) arrays of `xp`
    rng : Generator of `xp`
    xp : namespace
        NumPy or CuPy.
    """
    # CuPy has SciPy's functions on images by the same names.
    ndimage = importlib.import_module("scipy.ndimage" if xp.ndarray is np.ndarray else "cupyx.scipy.ndimage")
    n = len(images)
    middle = (SIDE - 1) / 2
    offsets = xp.arange(SIDE, dtype=np.float32) - np.float32(middle)
    maps = affine_maps(digits, rng, xp).transpose(1, 2, 0)[..., None, None]  # (2, 2, n, 1, 1)
    places = maps[:, 0] * offsets[:, None] + maps[:, 1] * offsets + np.float32(middle)  # (2, n, 28, 28): rows, columns
    sigma, alpha = float(rng.uniform(*SIGMA)), float(rng.uniform(*ALPHA))
    noise = 2 * rng.random((2, n, SIDE, SIDE), np.float32) - 1
    smooth = ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap", radius=(0, 0, REACH, REACH))
    places += np.float32(alpha) * smooth
    which = xp.broadcast_to(xp.arange(n, dtype=np.float32)[:, None, None], (n, SIDE, SIDE))
    return ndimage.map_coordinates(images, xp.stack([which, *places]), order=1, mode="constant")


def affine_maps(digits: Any, rng: Any, xp: Any = np) -> Any:
    """Random matrices (n, 2, 2): rotations or horizontal shears by as much as each digit bears, then scalings."""
    n = len(digits)
    narrow = ((digits == 1) | (digits == 7)).astype(np.int64)
    angle = rng.uniform(-1, 1, n) * xp.asarray([ROTATION, ROTATION_OF_1_AND_7])[narrow]
    rotated = rng.random(n) < 0.5
    maps = xp.empty((n, 2, 2), np.float32)
    maps[:, 0, 0] = maps[:, 1, 1] = xp.where(rotated, xp.cos(angle), 1)
    maps[:, 0, 1] = xp.where(rotated, -xp.sin(angle), 0)
    maps[:, 1, 0] = xp.where(rotated, xp.sin(angle), xp.tan(angle))
    return maps * (1 + rng.uniform(-SCALING, SCALING, (n, 1, 2)).astype(np.float32))


class DeformedDigits:
    """Rows for ``gpubp.train(batches=)`` that are deformed anew whenever they are asked for."""

    def __init__(self, X: Any, y: Any, seed: int) -> None:
        self.X, self.y, self.rng = X, y, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        """A row as it is, for who only looks what rows are like."""
        return self.X[number], self.y[number]

    def __getitems__(self, numbers: list[int]) -> list[tuple[Any, Any]]:
        images = self.X[numbers].reshape(-1, SIDE, SIDE)
        return list(
            zip(deformed(images, self.y[numbers], self.rng).reshape(len(numbers), -1), self.y[numbers], strict=True)
        )


def reproduce(part: Part, data: Path, out: Path) -> None:
    """Train 784-1000-500-10, and count what it gets wrong of the test images."""
    X, y, X_test, y_test = like_mnist(300) if part.dry_run else pixels(data / "mnist")
    epochs = 1 if part.dry_run else EPOCHS
    errors: list[float] = []

    def judge(net: gpubp.MLP, history: Any) -> None:
        errors.append(float(100 * (net.predict(X_test) != y_test).mean()))
        print(f"epoch {len(errors)}: {errors[-1]:.2f} %", flush=True)

    begun = time.process_time()
    net = gpubp.MLP([784, 1000, 500, 10], seed=0, device="cpu")
    batches = DeformedDigits(X, y, seed=0)
    gpubp.train(net, batches=batches, schedule="cosine", epochs=epochs, callbacks=[judge])
    minutes = (time.process_time() - begun) / 60
    what = f"784-1000-500-10, {epochs} epochs of deformed digits on a CPU, of Cireşan et al.: test error, last epoch"
    compare(part, what, PUBLISHED, errors[-1:], BAR, source="2010, full schedule on a GPU")
    part.figures[-1].update({"test error by epoch": errors})
    part.timed("the same: processor time", "<= 30 min", f"{minutes:.1f} min", minutes <= 30)
    curves = {"784-1000-500-10, shortened": (errors, PUBLISHED)}
    draw_curves(out / f"reproductions-{part.name}.png", curves, ("epoch", "wrong test images, %"), ylim=(0, 3))
