"""A driver that runs CUDA kernels on the host, for machines without a GPU: `HostDriver`."""

from __future__ import annotations

from support.cuda_host.driver import HostDriver
from support.cuda_host.memory import HostDriverError
from support.cuda_host.toolchain import host_compiler

__all__ = ["HostDriver", "HostDriverError", "host_compiler"]
