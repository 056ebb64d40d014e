"""From a kernel's text to a shared library of the host, compiled once and kept."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from gpubp.backends.cuda.driver import Source
from support.cuda_host.memory import HostDriverError

HERE = Path(__file__).resolve().parent
COMMON_FLAGS = ("-std=c++17", "-fPIC", "-shared", "-fno-exceptions", "-U_FORTIFY_SOURCE")
# -Og, because compiling takes most of the time: half as long as with -O1, and the kernels run as fast.
# No contraction: an FMA on some hosts and not on others would make results differ between them. Indices outside
# arrays of fixed size, misaligned 16-byte accesses and overflowing integers trap.
KERNEL_FLAGS = (
    *("-Og", "-nostdlib", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing"),
    *("-fsanitize=bounds,alignment,signed-integer-overflow", "-fsanitize-undefined-trap-on-error"),
    *("-I", str(HERE / "include"), "-include", str(HERE / "host.hpp")),
)
HEADERS = (HERE / "host.hpp", HERE / "runtime.hpp", *sorted((HERE / "include").iterdir()))
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;")


def host_compiler() -> list[str] | None:
    """The command of the host's C++ compiler: CXX, g++ or clang++; None if there is none."""
    given = shlex.split(os.environ.get("CXX", ""))
    for command in (given, ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    return None


@cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout


class Toolchain:
    """The host's C++ compiler, and the folder that keeps what it made."""

    def __init__(self, folder: Path) -> None:
        command = host_compiler()
        if command is None:
            raise HostDriverError("no C++ compiler for the host: install g++ or clang++, or name one in CXX")
        self.command = command
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        runtime = self._compile("runtime", (HERE / "runtime.cpp").read_text(), ("-O2", "-I", str(HERE)))
        self.runtime = ctypes.CDLL(str(runtime), ctypes.RTLD_GLOBAL)  # kernels find its functions by name

    def library(self, source: Source) -> Path:
        """The shared library of one kernel."""
        text = DYNAMIC_SHARED.sub(r"\1* const \2 = reinterpret_cast<\1*>(host_dynamic_shared);", source.text)
        return self._compile(source.name, f'{text}\n#line 1 "host.hpp"\nHOST_KERNEL({source.name})\n', KERNEL_FLAGS)

    def prefetch(self, sources: Iterable[Source]) -> None:
        """Compile many at once."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self.library, sources):
                pass

    def _compile(self, name: str, text: str, flags: tuple[str, ...]) -> Path:
        flags = (*COMMON_FLAGS, *flags)
        content = "\0".join((*flags, *self.command, _version(tuple(self.command)), text))
        digest = hashlib.sha256(content.encode())
        for header in HEADERS:
            digest.update(header.read_bytes())
        library = self.folder / f"{name}-{digest.hexdigest()[:24]}.so"
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                path = Path(folder, f"{name}.cpp")
                path.write_text(text)
                made = Path(folder, "made.so")
                command = [*self.command, *flags, str(path), "-o", str(made), "-lm", "-lgcc", "-lc"]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    lines = "\n".join(run.stderr.splitlines()[:30])
                    raise HostDriverError(f'kernel "{name}" does not compile on the host:\n{lines}')
                os.replace(made, library)  # so that another process sees all of it or nothing
        return library
