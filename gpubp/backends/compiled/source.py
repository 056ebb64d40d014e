"""The text of a module of loops: its formulas from the registries, then files of ``loops/``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from gpubp.activations import Activation
from gpubp.backends.compiled.elementary import definitions
from gpubp.backends.compiled.small_products import LONGEST
from gpubp.backends.shuffle import ROUNDS
from gpubp.errors import UsageError
from gpubp.losses import LABEL_ACCURACY, RMSE, Loss
from gpubp.optimizers import Optimizer

LOOPS = Path(__file__).with_name("loops")
SUBSET = {"T", "select", "exp", "expm1", "log1p", "tanh", "erf", "erfc", "fabs", "sqrt", "pow"}
NUMBERS = {"bool", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
FIRST_OPTION = 19  # index of the first option among the arguments of an optimizer's loop; the slots follow the options
Assignments = Sequence[tuple[str, str]]


class ModuleSource(NamedTuple):
    """The name of a module, and its whole text."""

    name: str
    text: str


@cache
def launch_source() -> ModuleSource:
    """The loop that calls loops, and the one that calls NumPy's products."""
    return _join("launch", "from llvmlite import ir", *_files("native", "launch"))


@cache
def gather_source(source: str, out: str) -> ModuleSource:
    """From rows of dtype `source` to a batch of dtype `out`."""
    types = "S, D = " + ", ".join(f"np.{dtype.replace('bool', 'bool_')}" for dtype in (source, out))
    return _join(f"gather_{source}_{out}", "import numpy as np", types, *_files("native", "gather"))


@cache
def order_source() -> ModuleSource:
    """The rows of the data that a step takes."""
    return _join("order", "import numpy as np", f"ROUNDS = {ROUNDS}", *_files("native", "order"))


@cache
def product_source(dtype: str, register_bytes: int) -> ModuleSource:
    """Small products, in tiles of registers of `register_bytes` bytes."""
    constants = f"T, WIDTH, LONGEST = np.{dtype}, {register_bytes}, {LONGEST}"
    head = f"import numpy as np\nfrom llvmlite import ir\n\n{constants}"
    return _join(f"product_{dtype}", head, *_files("native", "product"))


@lru_cache(maxsize=64)
def activation_source(record: Activation, dtype: str) -> ModuleSource | None:
    """Loops over an activation; None if it has no scalar expressions."""
    if record.scalar_f is None or record.scalar_derivative is None:
        return None
    owner, x = f'activation "{record.name}"', record.derivative_from
    return _module(
        f"activation_{record.name}",
        dtype,
        _formula("f", owner, ["z"], record.scalar_f),
        _formula("derivative", owner, [x], record.scalar_derivative),
        f"FROM_A = {x == 'a'}",
        *_files("dropout", "activation"),
    )


@lru_cache(maxsize=64)
def loss_source(record: Loss, dtype: str) -> ModuleSource | None:
    """Loops over a loss; None if it has neither its own loops nor scalar expressions."""
    name = f"loss_{record.name}_{record.output_activation.name}"
    if record.row_loop is not None:
        written = (LOOPS / f"{record.row_loop}.py").is_file()
        return _module(name, dtype, *_files("loss", record.row_loop)) if written else None
    formulas, output = record.values or record, record.output_activation
    if formulas.scalar_value is None or formulas.scalar_delta is None or record.metric not in (RMSE, LABEL_ACCURACY):
        return None
    if not isinstance(output, Activation) or output.scalar_f is None or output.scalar_derivative is None:
        return None
    owner, x = f'loss "{record.name}"', output.derivative_from
    through = "of_logits" if record.values is None else "of_output"
    return _module(
        name,
        dtype,
        _formula("output", f'activation "{output.name}"', ["z"], output.scalar_f),
        _formula("slope", f'activation "{output.name}"', [x], output.scalar_derivative),
        _formula("own_value", owner, ["z", "y", "s", "j"], formulas.scalar_value),
        _formula("own_delta", owner, ["z", "y", "s", "j"], formulas.scalar_delta),
        f"SLOPE_FROM_A, OF_LABELS = {x == 'a'}, {record.metric is LABEL_ACCURACY}",
        *_files("loss", f"value_{through}", "elementwise_loss"),
    )


def optimizer_source(record: Optimizer, dtype: str) -> ModuleSource | None:
    """The loop of an update rule; None if it has no scalar assignments."""
    if record.scalar_prologue is None or record.scalar_step is None:
        return None
    return _optimizer(
        record.name, tuple(record.options), record.slots, record.scalar_prologue, record.scalar_step, dtype
    )


@lru_cache(maxsize=64)
def _optimizer(
    name: str,
    options: tuple[str, ...],
    slots: tuple[str, ...],
    prologue: tuple[tuple[str, str], ...],
    step: tuple[tuple[str, str], ...],
    dtype: str,
) -> ModuleSource:
    """Takes the parts of a record, which as a whole is not hashable."""
    owner = f'optimizer "{name}"'
    scalars = ["lr", *options, *(scalar for scalar, _ in prologue)]
    rule = [*(f"s{i}" for i in range(len(scalars)))]
    return _module(
        f"optimizer_{name}",
        dtype,
        _procedure("scalars", owner, ["lr", "t", *options], prologue, scalars, "np.float64"),
        _procedure("rule", owner, ["g", *slots, *scalars], step, ["update", *slots], f"np.{dtype}"),
        _rule_loop(len(options), len(slots), rule),
        *_files("optimizer"),
    )


def _rule_loop(options: int, slots: int, scalars: list[str]) -> str:
    """`scalars_of` and `apply` for a rule with this many options and slots, and these scalars."""
    places = range(FIRST_OPTION, FIRST_OPTION + options)
    arguments = "".join(f", doubles(g[{place}], k + 1)[k]" for place in places)
    rounded = "".join(f"T(values[{i}]), " for i in range(len(scalars)))
    before = "".join(f", slot{j}[i]" for j in range(slots))
    after = "".join(f", new{j}" for j in range(slots))
    lines = [
        f"LENGTH = {FIRST_OPTION + options + slots}",
        "",
        "",
        "@inlined",
        "def scalars_of(g, k, lr, t):",
        f"    values = scalars(lr, t{arguments})",
        f"    return ({rounded})",
        "",
        "",
        "@inlined",
        "def apply(g, offset, n, factor, decay, scalars):",
        "    theta, grad = vector(g[THETA] + offset, n), vector(g[GRAD] + offset, n)",
        f"    {', '.join(scalars)}, = scalars",
        *(f"    slot{j} = vector(g[{places.stop + j}] + offset, n)" for j in range(slots)),
        "    largest = Bits(0)",
        "    for i in range(n):",
        f"        update{after}, = rule(grad[i] * factor{before}, {', '.join(scalars)})",
        "        change = update + decay * theta[i]",
        "        theta[i] -= change",
        *(f"        slot{j}[i] = new{j}" for j in range(slots)),
        "        largest = max(largest, Bits(bits_of(change) & ABSOLUTE))",
        "    return largest",
    ]
    return "\n".join(lines)


def _module(name: str, dtype: str, *parts: str) -> ModuleSource:
    shared = [*_files("native"), definitions(dtype), *_files("functions")]
    return _join(f"{name}_{dtype}", f"import numpy as np\n\nT = np.{dtype}", *shared, *parts)


def _join(name: str, *parts: str) -> ModuleSource:
    return ModuleSource(name, "\n\n\n".join(['"""Written by gpubp from its loops and formulas."""', *parts]) + "\n")


@cache
def _file(name: str) -> str:
    return (LOOPS / f"{name}.py").read_text(encoding="utf-8").strip()


def _files(*names: str) -> list[str]:
    return [_file(name) for name in names]


def _formula(name: str, owner: str, arguments: list[str], expression: str) -> str:
    _check(owner, expression, arguments)
    return f"@inlined\ndef {name}({', '.join(arguments)}):\n    return T({expression})"


def _procedure(
    name: str, owner: str, arguments: list[str], assignments: Assignments, results: list[str], type_: str
) -> str:
    """A function of ordered assignments; each is rounded to `type_`, which T stands for."""
    known, lines = list(arguments), [f"    T = {type_}"]
    for target, expression in assignments:
        _check(owner, expression, known)
        known.append(target)
        lines.append(f"    {target} = T({expression})")
    head = f"@inlined\ndef {name}({', '.join(arguments)}):\n"
    return head + "\n".join([*lines, f"    return ({''.join(f'{r}, ' for r in results)})"])


def _check(owner: str, expression: str, arguments: Iterable[str]) -> None:
    """Refuse what is not in the common subset of C++ and Python.

    Raises
    ------
    UsageError
        Naming the record, the expression and what is not allowed.
    """
    try:
        names = {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError as error:
        raise UsageError(f'{owner}: "{expression}" is no expression ({error.msg})') from None
    if unknown := names - SUBSET - set(arguments):
        raise UsageError(
            f'{owner}: "{expression}" uses {", ".join(sorted(unknown))}; scalar expressions know '
            f"{', '.join(arguments)} and {', '.join(sorted(SUBSET))}"
        )
