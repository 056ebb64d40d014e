"""Stage ``prewarm``: all kernels compiled by many processes at once, so that no later stage waits for one.

Two more processes load PyTorch and JAX and use the device a first time, which reads gigabytes of libraries.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.devices import REPOSITORY, open_backend
from benchmarks.gpu.settings import Settings
from benchmarks.parts import Part
from benchmarks.peers import UnavailableError, require
from benchmarks.remote import Remote, RemoteError
from gpubp.backends.cuda.backend import CudaBackend

PROCESSES = 14
# The types that most stages use come first.
STORAGES = ("float32", "bfloat16", "float16", "float64")


class Compiler:
    """Compiles its share of the kernels."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run

    def compile(self, number: int, of: int, seconds: float) -> dict[str, Any]:
        """Every `of`-th kernel from `number` on, for so many seconds; how many were compiled, and faults."""
        end = time.monotonic() + seconds
        backend = open_backend("cuda", "float32", self.dry_run)
        assert isinstance(backend, CudaBackend)
        mine = every_kernel(self.dry_run)[number::of]
        compiled, faults = 0, []
        for label, source in mine:
            if time.monotonic() > end:
                break
            try:
                backend.driver.kernel(source)
                compiled += 1
            except Exception as error:
                faults.append(f"{source.name} ({label}): {next(iter(str(error).splitlines()), '')}")
        return {"compiled": compiled, "of": len(mine), "faults": faults}


def every_kernel(dry_run: bool) -> list[tuple[str, Any]]:
    """What each kernel is for, and its source; a few of them in a dry run."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from support.kernel_variants import every_variant

    if dry_run:
        return list(every_variant("float32").values())[:2]
    return [variant for storage in STORAGES for variant in every_variant(storage).values()]


class Library:
    """A peer's library, loaded and used once."""

    def load(self, name: str, dry_run: bool) -> float:
        """Seconds until a product was computed on the device."""
        start = time.perf_counter()
        if name == "torch":
            torch = require("torch")
            a = torch.ones(64, 64, device="cpu" if dry_run or not torch.cuda.is_available() else "cuda")
            (a @ a).sum().item()
        else:
            jax = require("jax")
            a = jax.numpy.ones((64, 64))
            float((a @ a).sum())
        return time.perf_counter() - start


def prewarm(part: Part, settings: Settings) -> None:
    """Rows on the kernels and on each library."""
    count = 2 if part.dry_run else PROCESSES
    compilers = [Remote(Compiler, part.dry_run) for _ in range(count)]
    libraries = {name: Remote(Library) for name in ("torch", "jax")}
    try:
        for name, library in libraries.items():
            library.send("load", name, part.dry_run)
        seconds = max(5.0, part.left() - 5)
        for number, compiler in enumerate(compilers):
            compiler.send("compile", number, count, seconds)
        _row_of_kernels(part, compilers)
        for name, library in libraries.items():
            what = f"{name} loaded and used once"
            try:
                part.timed(what, "", f"{library.receive(part.left()):.1f} s", None)
            except (UnavailableError, RemoteError) as error:
                part.skipped(what, str(error))
    finally:
        for process in (*compilers, *libraries.values()):
            process.close()


def _row_of_kernels(part: Part, compilers: list[Remote]) -> None:
    compiled, of, faults = 0, 0, []
    for compiler in compilers:
        try:
            share = compiler.receive(part.left())
        except (UnavailableError, RemoteError) as error:
            faults.append(str(error))
            continue
        compiled, of, faults = compiled + share["compiled"], of + share["of"], faults + share["faults"]
    part.figures.append({"kernels": of, "compiled": compiled, "faults": faults})
    first = f"; {len(faults)} faults, the first: {faults[0]}" if faults else ""
    part.computed("kernels compiled", "without faults", f"{compiled} of {of}{first}", not faults)
