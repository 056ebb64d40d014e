"""Every kernel that a GPU may be asked for, compiled to machine code; this needs no GPU.

By default one variant of each kernel is compiled for one of three architectures, and under the mark "backends" some
for all three; with ``--all-architectures``, as CI has it, each formula of each kernel in some types for one of seven by
turns, and each kernel for all seven. Under the mark "slow", every variant.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import cycle, groupby, product
from typing import NamedTuple

import numpy as np
import pytest

from gpubp.activations import ACTIVATIONS
from gpubp.backends.cuda.cupy_driver import COMPILER_OPTIONS
from gpubp.backends.cuda.driver import Source
from gpubp.backends.cuda.source import C_TYPES, folder
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from support.kernel_variants import STORAGES, every_variant
from support.machines import KERNEL_PRECISION, by_tier

core = pytest.importorskip("cuda.core", reason="cuda-core is not installed; it comes with the extra test on Linux")
nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
pathfinder = pytest.importorskip("cuda.pathfinder")

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
SOME = (75, 90, 120)
TOGETHER = {"train_on_chip": 1}  # variants of a long kernel in one compilation
AT_MOST = 32  # of all others, since a compilation has a price of its own
# Kernels whose variants take most of the time: of formulas that others have too, each is compiled in one type.
LONG = {"dense", "dense_backward", "loss_delta", "train_on_chip"}
SOURCE_OPTIONS = {"--prec-div=false": {"prec_div": False}, "--prec-sqrt=false": {"prec_sqrt": False}}
OPTIONS = {"std": "c++17", "ftz": True}  # COMPILER_OPTIONS, and what CuPy adds
# What ptxas says of itself; any other line of a log is a warning.
INFORMATION = re.compile(r"ptxas info\s+: |ptxas\s+\. +\d+ bytes stack frame|[\0\s]*$")
ARITHMETIC = re.compile(r"\b((?:add|sub|mul|fma|mad|div|rcp|sqrt|rsqrt|min|max)\.(?:\w+\.)*f64)\b")
ACCESS = re.compile(r"\b(?:ld|st|atom|red)\.(?:\w+\.)*global")
HALVES = ("float16", "bfloat16")
# Sums over a batch or over all parameters are in float64, and so are the scalars of a step.
SUMS_IN_DOUBLE = {"dense_loss", "loss_delta", "step_begin", "train_on_chip"}


class Variant(NamedTuple):
    """A kernel's source, and what it is for."""

    label: str
    source: Source


@dataclass(frozen=True)
class Unit:
    """Variants of one kernel for one type, to be compiled together."""

    kernel: str
    storage: str
    variants: list[Variant]

    @property
    def text(self) -> str:
        """Each variant in a namespace of its own, its kernel's name followed by its number."""
        includes, parts = {}, []
        for i, (_, source) in enumerate(self.variants):
            includes |= dict.fromkeys(re.findall(r"^#include .*$", source.text, re.MULTILINE))
            text = re.sub(r"^#include .*$", "", source.text, flags=re.MULTILINE)
            macros = sorted({self.kernel, *re.findall(r"^#define (\w+)", text, re.MULTILINE)})
            text = f"#define {self.kernel} {self.kernel}_{i}\nnamespace variant_{i} {{\n{text}\n}}"
            parts += [text, *(f"#undef {macro}" for macro in macros)]
        return "\n".join([*includes, *parts])


@dataclass(frozen=True)
class Compiled:
    """What came of a unit on an architecture: the compiler's words, and its intermediate language."""

    unit: Unit
    architecture: int
    log: str
    ptx: str

    def __str__(self) -> str:
        return f"{self.unit.kernel} in {self.unit.storage} for sm_{self.architecture}"

    def numbers(self) -> Iterator[tuple[str, int, int, int, int]]:
        """Of each variant its label, registers, and bytes of shared memory, of local memory, and spilled to it."""
        entries = re.split(r"Compiling entry function '\w+_(\d+)'", self.log)[1:]
        for i, said in zip(entries[::2], entries[1::2], strict=True):
            patterns = (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes stack", r"(\d+) bytes spill")
            found = (sum(map(int, re.findall(pattern, said))) for pattern in patterns)
            yield self.unit.variants[int(i)].label, *found

    def functions(self) -> Iterator[tuple[str, str]]:
        """Of each variant its label and its code, after the code of functions that several may call."""
        shared, *entries = re.split(r"\.entry \w+_(\d+)\(", self.ptx)
        yield "a function", shared
        for i, ptx in zip(entries[::2], entries[1::2], strict=True):
            yield self.unit.variants[int(i)].label, ptx


def variants_by_type() -> dict[str, dict[str, list[Variant]]]:
    """All variants: of each kernel, those of each type that it has, in the same order of formulas."""
    by_kernel: dict[str, dict[str, list[Variant]]] = {}
    for storage in STORAGES:
        for label, source in every_variant(storage).values():
            by_kernel.setdefault(source.name, {}).setdefault(storage, []).append(Variant(label, source))
    return by_kernel


def types_in_turn(kernel: str, i: int, types: list[str]) -> set[str]:
    """The types in which a kernel's i-th variant is compiled: double precision and another, or one of these two.

    What a formula computes with is double or single precision; in 16 bits it is only stored. Dropout is in every second
    variant, so the two precisions change places in the next pair.
    """
    double, *others = types
    pair = double, others[i % len(others)]
    return {pair[(i + i // 2) % 2]} if kernel in LONG else set(pair)


def units(every: bool = True) -> list[Unit]:
    """All variants, or each formula in some types by turns."""
    chosen = []
    for kernel, by_type in sorted(variants_by_type().items()):
        together, types = TOGETHER.get(kernel, AT_MOST), list(by_type)
        for storage, variants in sorted(by_type.items()):
            alone = len(variants) == 1  # without a formula
            kept = [v for i, v in enumerate(variants) if every or alone or storage in types_in_turn(kernel, i, types)]
            chosen += [Unit(kernel, storage, kept[i : i + together]) for i in range(0, len(kept), together)]
    return chosen


def jobs(extent: str) -> Iterator[tuple[Unit, int]]:
    """What to compile for which architecture."""
    architectures, all_by_turns = cycle(SOME), cycle(ARCHITECTURES)
    for _, group in groupby(units(every=extent in ("one variant", "every variant")), key=lambda unit: unit.kernel):
        of_kernel = list(group)
        if extent in ("every variant", "every formula"):
            yield from zip(of_kernel, all_by_turns, strict=False)
            yield from product([replace(of_kernel[0], variants=of_kernel[0].variants[-1:])], ARCHITECTURES)
        elif extent == "one variant":  # of layers, one with dropout, which computes in double
            unit = next((unit for unit in of_kernel if unit.storage == KERNEL_PRECISION), of_kernel[0])
            yield replace(unit, variants=unit.variants[-1:]), next(architectures)
        elif len(of_kernel) < len(SOME):
            yield from product(of_kernel, SOME)
        else:  # spread over types and formulas, which are in order
            spread = np.linspace(0, len(of_kernel) - 1, len(SOME)).astype(int)
            yield from zip([of_kernel[i] for i in spread], SOME, strict=True)


def compiled_by_nvrtc(unit: Unit, architecture: int, headers: str) -> Compiled:
    log = io.StringIO()
    options = {"arch": f"sm_{architecture}", "include_path": headers, "ptxas_options": ["-v"], **OPTIONS}
    for option in unit.variants[0].source.options:  # of a kernel's variants all alike
        options |= SOURCE_OPTIONS[option]
    program = core.Program(unit.text, "c++", core.ProgramOptions(**options))
    program.compile("cubin", logs=log)
    status, size = nvrtc.nvrtcGetPTXSize(program.handle)
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    ptx = bytearray(size)
    nvrtc.nvrtcGetPTX(program.handle, ptx)
    return Compiled(unit, architecture, log.getvalue(), ptx.decode())


EXTENTS = [
    *by_tier(("one variant", "some"), lambda extent: extent == "one variant"),
    pytest.param("every variant", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=EXTENTS)
def compiled(request: pytest.FixtureRequest) -> list[Compiled]:
    """Variants of every kernel."""
    headers = pathfinder.find_nvidia_header_directory("cudart")
    if headers is None:
        pytest.skip("CUDA's headers are not installed; pip install nvidia-cuda-runtime")
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except pathfinder.DynamicLibNotFoundError:
        pytest.skip("NVRTC is not installed; pip install nvidia-cuda-nvrtc")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        everywhere = request.param == "some" and request.config.getoption("--all-architectures")
        todo = jobs("every formula" if everywhere else request.param)
        return list(pool.map(lambda job: compiled_by_nvrtc(*job, headers), todo))


def test_some_variants_are_every_formula_in_both_precisions_and_every_kernel_in_every_type():
    chosen = [(unit.kernel, unit.storage, label) for unit in units(every=False) for label, _ in unit.variants]
    for kernel, by_type in variants_by_type().items():
        assert {storage for name, storage, _ in chosen if name == kernel} == set(by_type), kernel
    double = [label for _, storage, label in chosen if storage == "float64"]
    single = [label for _, storage, label in chosen if storage != "float64"]
    for name in {*ACTIVATIONS, *LOSSES, *OPTIMIZERS, *C_TYPES} - {"adamw"}:  # which has adam's kernels
        for labels in (double, single):  # what dropout may compute in double says nothing of a formula's constants
            assert [label for label in labels if re.match(rf"{name}\b(?! with dropout)", label)], name
        assert name not in ACTIVATIONS or f"{name} with dropout" in {*double, *single}


def test_the_options_are_those_of_the_driver():
    assert COMPILER_OPTIONS == (f"-std={OPTIONS['std']}",)


def test_every_kernel_compiles_without_a_warning(compiled):
    assert {one.unit.kernel for one in compiled} == {path.stem for path in folder().glob("*.cu")}
    for one in compiled:
        warnings = [line for line in one.log.splitlines() if not INFORMATION.match(line)]
        assert not warnings, f"{one}: {warnings}"


def test_no_kernel_spills_registers(compiled, capsys):
    """Nor keeps anything in local memory. What each kernel takes is printed."""
    rows = [("kernel", "type", "compiled", "registers", "shared bytes", "local bytes", "spilled bytes")]
    for (kernel, storage), group in groupby(compiled, key=lambda one: (one.unit.kernel, one.unit.storage)):
        numbers = [found for one in group for found in one.numbers()]
        _, registers, *memory = zip(*numbers, strict=True)
        rows.append(
            (
                kernel,
                storage,
                str(len(numbers)),
                f"{min(registers)} to {max(registers)}",
                *(str(max(m)) for m in memory),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    with capsys.disabled():
        print()
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    numbers = [(one, *found) for one in compiled for found in one.numbers()]
    assert len(numbers) == sum(len(one.unit.variants) for one in compiled)
    assert all(registers for _, _, registers, *_ in numbers)
    assert not [f"{one}: {label}" for one, label, _, _, stack, spilled in numbers if stack or spilled]


def test_small_layers_in_16_bits_are_multiplied_by_tensor_cores(compiled):
    """On all devices that have them; on the chip, in TF32."""
    for one in compiled:
        by_tensor_cores = one.unit.kernel.startswith(("dense", "train_on_chip")) and one.unit.storage in HALVES
        instruction = r"mma\.sync\S+\.tf32" if one.unit.kernel == "train_on_chip" else r"mma\.sync\S+16"
        for label, ptx in list(one.functions())[1:]:
            there = re.search(instruction, ptx) is not None
            assert there == (by_tensor_cores and one.architecture >= 80), f"{one}: {label}"


def test_arithmetic_is_in_double_only_where_it_must_be(compiled):
    """A constant without its T() would make it so, at half the speed, or at a 64th of it."""
    for one in compiled:
        for label, ptx in one.functions():
            found = sorted(set(ARITHMETIC.findall(ptx)))
            allowed = one.unit.storage == "float64" or one.unit.kernel in SUMS_IN_DOUBLE or "dropout" in label
            assert allowed or not found, f"{one}: {label} computes in double: {found}"
    in_double = {one.unit.kernel for one in compiled if ARITHMETIC.search(one.ptx)}
    assert in_double >= {"hadamard_derivative", *SUMS_IN_DOUBLE}, "the test sees no arithmetic at all"


def test_nothing_is_read_ahead_of_the_wait_for_the_last_kernel(compiled):
    """The compiler moves no load but ld.global.nc; a kernel that may be launched early has none."""
    may = {"gather", "step_begin"}  # what is older than the last kernel, past the multiprocessor's cache
    for one in compiled:
        if one.unit.kernel == "train_on_chip":  # is never part of a captured step
            continue
        for label, ptx in list(one.functions())[1:]:
            assert one.architecture < 90 or "ld.global.nc" not in ptx, f"{one}: {label}"  # before, none waits
            before, wait, _ = ptx.partition("griddepcontrol.wait")
            assert bool(wait) == (one.architecture >= 90), (
                f"{one}: {label} waits in a wrong architecture, or not at all"
            )
            early = one.unit.kernel not in may and wait and ACCESS.search(before)
            assert not early, f"{one}: {label} does not wait"
            assert ("griddepcontrol.launch_dependents" in ptx) == bool(wait), f"{one}: {label}"
