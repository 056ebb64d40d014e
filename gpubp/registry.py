"""Looking up a record by name, with or without arguments."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gpubp.errors import UsageError, suggest

R = TypeVar("R")


def resolve(kind: str, table: Mapping[str, Callable[..., R]], spec: str | R, record: type[R]) -> R:
    """The record that `spec` means.

    Parameters
    ----------
    kind : str
        What the table holds, for error messages: "activation", "loss", …
    table : mapping of str to factory
        A factory called without arguments makes the record of the plain name.
    spec : str or record
        A record is returned as it is. A string is a name, ``"relu"``, or a name with arguments,
        ``"quantile(0.9)"``, ``"warmup(cosine, fraction=0.1)"``; bare words among the arguments are strings.
    record : type
        What the table's factories return.

    Raises
    ------
    UsageError
        If the name is unknown (the nearest is suggested), the arguments do not fit, or `spec` is neither a
        string nor such a record.
    """
    if isinstance(spec, record):
        return spec
    if not isinstance(spec, str):
        raise UsageError(f"{kind} {spec!r} is neither a name nor a {record.__name__}; known: {', '.join(table)}")
    name, args, kwargs = parse(kind, spec)
    if name not in table:
        raise UsageError(f'unknown {kind} "{name}"; {suggest(name, table)}')
    try:
        return table[name](*args, **kwargs)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f'{kind} "{spec}": {error}') from None


def require(owner: str, parameter: str, value: float, valid: bool, rule: str) -> None:
    """Refuse a record's parameter that does not fit, naming it and the rule."""
    if not valid:
        raise UsageError(f"{owner}: {parameter}={value:g} does not fit; use {rule}")


def canonical(name: str, **parameters: tuple[Any, Any]) -> str:
    """The spelling of a record's name that `resolve` reads back; parameters at their defaults are left out.

    >>> canonical("quantile", q=(0.9, 0.5))
    'quantile(q=0.9)'
    >>> canonical("quantile", q=(0.5, 0.5))
    'quantile'
    """
    changed = [f"{key}={value}" for key, (value, default) in parameters.items() if value != default]
    return f"{name}({', '.join(changed)})" if changed else name


def parse(kind: str, spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Read a spelling such as ``name`` or ``name(1, word, key=2)``: name, positional and keyword arguments.

    Parameters
    ----------
    kind : str
        What is named, for error messages.
    spec : str
    """

    def literal(node: ast.expr) -> Any:
        return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)

    try:
        node = ast.parse(spec.strip(), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kwargs = {str(k.arg): literal(k.value) for k in node.keywords}
            if len(kwargs) < len(node.keywords):
                raise ValueError("an argument is given twice")
            return node.func.id, [literal(a) for a in node.args], kwargs
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        if "(" in spec:
            raise UsageError(f'{kind} "{spec}" cannot be read; write it as name(0.1) or name(key=0.1)') from None
    return spec.strip(), [], {}
