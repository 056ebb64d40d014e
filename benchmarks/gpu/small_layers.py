"""Stage ``small-layers``: a layer forward and back by our own kernels, in every tile, against cuBLASLt's products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.devices import open_backend
from benchmarks.gpu.kernels import by_turns, repeated
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.step_times import NO_TIME
from benchmarks.parts import Part
from gpubp.activations import relu
from gpubp.backends import Below, Layer, LayerCache
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.backends.cuda.tiles import TILES, tile_of

# Networks, rows, n_in, n_out.
SHAPES = ((1, 32, 64, 64), (1, 128, 256, 256), (1, 128, 512, 512), (1, 128, 784, 512), (1, 256, 784, 1024))
SHAPES += ((1, 256, 1024, 1024), (1, 1024, 512, 512), (16, 128, 256, 256), (256, 32, 64, 64), (256, 128, 256, 256))
LIBRARY = "cuBLASLt"
ROUNDS, LAUNCHES, A_CASE = 7, 20, 1.0


def small_layers(part: Part, settings: Settings) -> None:
    """A row for each layer, precision and direction; where time is short, layers are left out in all precisions."""
    backends: dict[str, CudaBackend] = {}
    for precision in settings.chosen_precisions(("float32", "bfloat16")):
        backend = open_backend("cuda", precision, part.dry_run)
        assert isinstance(backend, CudaBackend)
        backends[precision] = backend
    shapes = ((1, 5, 4, 3),) if part.dry_run else SHAPES
    for shape, (precision, backend), direction in product(shapes, backends.items(), (forward, backward)):
        what = f"{shape[0]} x ({shape[1]}, {shape[2]}, {shape[3]}) {precision} {direction.__name__}"
        if not part.dry_run and part.left() < A_CASE:
            part.skipped(what, NO_TIME)
            continue
        _measure(part, what, backend, shape, direction, settings.rounds or ROUNDS)


def _measure(
    part: Part, what: str, backend: CudaBackend, shape: tuple[int, ...], direction: Callable[..., Any], rounds: int
) -> None:
    run, repeats = direction(backend, *shape), 1 if part.dry_run else LAUNCHES
    runs = {}
    for name in (LIBRARY, *TILES):
        kernels, tile = name != LIBRARY, lambda *_, tile=name: tile
        with (
            patch("gpubp.backends.cuda.backend.is_small", lambda *_, kernels=kernels: kernels),
            patch("gpubp.backends.cuda.backend.tile_of", tile),
        ):
            run()  # compiles, and chooses algorithms
            runs[str(name)] = backend.driver.capture(repeated(run, repeats))
    seconds = by_turns(backend.driver, runs, 1 if part.dry_run else rounds, part.dry_run)
    microseconds = {name: float(np.median(values)) / repeats * 1e6 for name, values in seconds.items()}
    networks, rows, n_in, n_out = shape
    products = {"forward": [(rows, n_out, n_in)], "backward": [(n_in, n_out, rows), (rows, n_in, n_out)]}
    chosen = str(tile_of(networks, products[direction.__name__]))
    part.figures.append({"what": what, "us": microseconds, "chosen": chosen})
    each = ", ".join(f"{name} {value:.1f}" for name, value in microseconds.items())
    part.timed(what, "", f"{microseconds[LIBRARY] / microseconds[chosen]:.2f} by {chosen}; us: {each}", None)


def forward(backend: CudaBackend, networks: int, rows: int, n_in: int, n_out: int) -> Callable[[], None]:
    """A layer of ReLU."""
    x, W, b, a = (_drawn(backend, networks, *shape) for shape in _shapes(rows, n_in, n_out))
    return partial(backend.dense, relu(), x, Layer(W, b), LayerCache(0, z=a, a=a, delta=a, mask=None))


def backward(backend: CudaBackend, networks: int, rows: int, n_in: int, n_out: int) -> Callable[[], None]:
    """And back to another one."""
    x, W, b, delta = (_drawn(backend, networks, *shape) for shape in _shapes(rows, n_in, n_out))
    grad = Layer(*(backend.empty(array.shape) for array in (W, b)))
    to = LayerCache(0, z=x, a=x, delta=_drawn(backend, networks, rows, n_in), mask=None)
    below = Below(relu(), to, backend.empty((networks, 1, n_in)))
    cache = LayerCache(1, z=delta, a=delta, delta=delta, mask=None)
    return partial(backend.dense_backward, x, Layer(W, b), cache, grad, below)


def _shapes(rows: int, n_in: int, n_out: int) -> tuple[tuple[int, int], ...]:
    return (rows, n_in), (n_in, n_out), (1, n_out), (rows, n_out)


def _drawn(backend: CudaBackend, networks: int, rows: int, columns: int) -> Any:
    values = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    return backend.from_host(np.broadcast_to(values, (networks, rows, columns)).copy(), backend.storage)
