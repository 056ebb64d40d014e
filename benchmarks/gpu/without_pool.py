"""A plugin of pytest's that takes every array of CuPy's from the driver: ``-p benchmarks.gpu.without_pool``."""

from __future__ import annotations


def pytest_configure() -> None:
    """Before any test allocates."""
    import cupy

    cupy.cuda.set_allocator(None)
    cupy.cuda.set_pinned_memory_allocator(None)
