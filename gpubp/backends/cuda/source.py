"""The text of a kernel: types, ``common.cuh``, formulas from the registries, then the kernel's file.

The kernels hold loops and no formula; the registries hold formulas and no loop. None of our files are included by path,
because CuPy's compile cache does not look into included files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gpubp
from gpubp.activations import Activation
from gpubp.losses import Loss
from gpubp.optimizers import Optimizer

C_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "int64": "long long",
    "int32": "int",
    "int16": "short",
    "int8": "signed char",
    "uint64": "unsigned long long",
    "uint32": "unsigned",
    "uint16": "unsigned short",
    "uint8": "unsigned char",
    "bool": "bool",
}
# Kernels whose float32 divisions and square roots may be off by two units in the last place, and take a third of the
# instructions: they compute thousands of Adam updates on one multiprocessor.
_OPTIONS = {"train_on_chip": ("--prec-div=false", "--prec-sqrt=false")}
_HALVES = ("float16", "bfloat16")
_HEADERS = {"__half": ("FLOAT16", "cuda_fp16.h"), "__nv_bfloat16": ("BFLOAT16", "cuda_bf16.h")}


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel's name, which is that of its file, its whole text, and further compiler options."""

    name: str
    text: str
    options: tuple[str, ...] = ()


def kernel_source(
    name: str,
    storage: str,
    *,
    activation: Activation | None = None,
    output: Activation | None = None,
    loss: Loss | None = None,
    rule: Optimizer | None = None,
    defines: Mapping[str, str | int] | None = None,
) -> KernelSource:
    """Assemble a kernel.

    Parameters
    ----------
    name : str
        A file of ``kernels/`` without its extension.
    storage : {"float64", "float32", "float16", "bfloat16"}
        T, the type of activations; arithmetic is in float64 for float64, else in float32.
    activation, output, loss, rule
        Become the structs Act, Out, Loss and Rule; they need scalar expressions. With Act comes ``layer.cuh``.
    defines : mapping
        Further macros; one whose value is a dtype's name becomes that C++ type. TILE_M, TILE_N and AHEAD add the
        ``product*.cuh`` of the type. With TF32, products on the chip use tensor cores.
    """
    macros = {key: C_TYPES.get(str(value), str(value)) for key, value in (defines or {}).items()}
    T = C_TYPES[storage]
    headers = [_HEADERS[t] for t in dict.fromkeys([T, *macros.values()]) if t in _HEADERS]
    parts = [
        *(f"#include <{file}>\n#define {macro}" for macro, file in headers),
        f"using T = {T};\nusing A = {'double' if storage == 'float64' else 'float'};",
        *(f"#define {key} {value}" for key, value in macros.items()),
        _file("common.cuh"),
    ]
    if activation is not None:
        parts.append(_activation("Act", activation))
    if output is not None:
        parts.append(_activation("Out", output))
    if loss is not None:
        parts.append(_loss(loss))
    if loss is not None or "SOFTMAX_CROSS_ENTROPY" in macros:
        parts.append(_file("row_loss.cuh"))
    if rule is not None:
        parts.append(_rule(rule))
    if activation is not None:
        parts.append(_file("layer.cuh"))
    if "TILE_M" in macros:
        parts += [_file("product_panels.cuh"), *_products("product", storage in _HALVES), _file("product.cuh")]
    if name == "train_on_chip":
        parts += [_file("on_chip.cuh"), *_products("on_chip", "TF32" in macros)]
    return KernelSource(name, "\n".join([*parts, _file(f"{name}.cu")]), _OPTIONS.get(name, ()))


@cache
def folder() -> Path:
    """The folder of the kernels: in the package if installed, next to it in a checkout."""
    package = Path(gpubp.__file__).resolve().parent
    return next(path for path in (package / "kernels", package.parent / "kernels") if (path / "common.cuh").is_file())


@cache
def _file(name: str) -> str:
    return f'#line 1 "{name}"\n{(folder() / name).read_text(encoding="utf-8")}'


def _products(kind: str, by_tensor_cores: bool) -> list[str]:
    """The files for matrix products: by a multiprocessor's threads, or by its tensor cores."""
    if by_tensor_cores:
        return [_file("tensor_cores.cuh"), _file(f"{kind}_tensor_cores.cuh")]
    return [_file(f"{kind}_threads.cuh")]


def _activation(struct: str, record: Activation) -> str:
    x = record.derivative_from
    return f"""struct {struct} {{
    using T = A;
    static constexpr bool from_a = {"true" if x == "a" else "false"};
    static __device__ __forceinline__ A f(A z) {{ return {record.scalar_f}; }}
    static __device__ __forceinline__ A derivative(A {x}) {{ return {record.scalar_derivative}; }}
}};"""


def _loss(record: Loss) -> str:
    return f"""struct Loss {{
    using T = A;
    static __device__ __forceinline__ A value(A z, A y, A s, int j) {{ return {record.scalar_value}; }}
    static __device__ __forceinline__ A delta(A z, A y, A s, int j) {{ return {record.scalar_delta}; }}
}};"""


def _rule(record: Optimizer) -> str:
    """Scalars of the step in float64, as arguments and members; the elementwise rule over its slots."""
    prologue, steps = record.scalar_prologue or (), record.scalar_step or ()
    options = list(record.options)
    members = ["lr", *options, *(name for name, _ in prologue)]
    locals_ = [name for name, _ in steps if name not in record.slots]
    return f"""struct Rule {{
    using T = A;
    static constexpr int slots = {len(record.slots)};
    A {", ".join(members)};
    static __device__ Rule of({", ".join(f"double {name}" for name in ["lr", "t", *options])}) {{
        using T = double;
        [[maybe_unused]] const auto pow = power;
        {" ".join(f"const T {name} = {expression};" for name, expression in prologue)}
        return {{{", ".join(f"A({name})" for name in members)}}};
    }}
    __device__ __forceinline__ A update(A g, A* slot) const {{
        {" ".join(f"A {name} = slot[{j}];" for j, name in enumerate(record.slots))}
        {" ".join(f"A {name};" for name in dict.fromkeys(locals_))}
        {" ".join(f"{name} = {expression};" for name, expression in steps)}
        {" ".join(f"slot[{j}] = {name};" for j, name in enumerate(record.slots))}
        return update;
    }}
}};
#define OPTION_PARAMETERS {"".join(f", const double* option_{name}" for name in options)}
#define OPTION_VALUES {"".join(f", option_{name}[k]" for name in options)}
#define SLOT_PARAMETERS {"".join(f", A* __restrict__ slot_{name}" for name in record.slots)}
#define SLOT_POINTERS {"".join(f"slot_{name}, " for name in record.slots)}"""
