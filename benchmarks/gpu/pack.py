"""The folder that travels to a machine with a GPU and no network: MNIST, float64 references, missing packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.gpu.settings import MNIST, REFERENCES, SITE, packed_workloads, save_references
from gpubp.bench.steps import Workload, displacements

LIMIT = 64 << 20  # bytes that such a machine takes, the checkout included
WHEELS = ("pytest-xdist", "execnet")  # of pure Python: they run wherever pytest does
PYTHON = "3.12"
MNIST_FILES = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def pack(folder: Path, mnist: str | None) -> int:
    """Fill the folder; exit code 1 where something is missing or it has become too large."""
    folder.mkdir(parents=True, exist_ok=True)
    complete = [
        _mnist(folder / MNIST, mnist),
        _references(folder / REFERENCES, packed_workloads()),
        _site(folder / SITE),
    ]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + checkout_size()
    print(f"{folder}: with the checkout {size / 2**20:.1f} MiB of {LIMIT / 2**20:.0f}")
    return 0 if all(complete) and size <= LIMIT else 1


def checkout_size() -> int:
    """Bytes of the files of the checkout that git knows."""
    root = Path(__file__).resolve().parents[2]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False).stdout
    files = [root / name.decode() for name in listed.split(b"\0") if name]
    return sum(path.stat().st_size for path in files if path.is_file())


def _mnist(folder: Path, source: str | None) -> bool:
    if source is None:
        print("MNIST is left out: give its folder by --mnist")
        return False
    folder.mkdir(exist_ok=True)
    for name in MNIST_FILES:
        found = next((p for p in (Path(source) / f"{name}.gz", Path(source) / name) if p.is_file()), None)
        if found is None:
            print(f"MNIST is left out: {source} has no {name}.gz")
            shutil.rmtree(folder)
            return False
        shutil.copyfile(found, folder / found.name)
    print("MNIST: 4 files")
    return True


def _references(path: Path, workloads: Iterable[Workload]) -> bool:
    references = {}
    for workload in workloads:
        references[workload.name] = displacements(workload)
        print(f"float64 steps of {workload.name}", flush=True)
    save_references(path, references)
    return True


def _site(folder: Path) -> bool:
    """Packages of pure Python, unpacked: nothing has to be installed."""
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", PYTHON, "--dest", wheels, *WHEELS]
        if subprocess.run(command, check=False).returncode != 0:
            print(f"{', '.join(WHEELS)} are left out: pip could not bring them")
            return False
        for wheel in sorted(Path(wheels).glob("*-none-any.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            print(wheel.name)
    return True
