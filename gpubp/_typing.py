"""Names for the types that gpubp passes around."""

from __future__ import annotations

from typing import Any, TypeAlias

# NumPy and CuPy arrays share an interface but no base class, and a namespace is a module or an
# object that stands for one; annotations therefore document, and docstrings give shapes and dtypes.
Array: TypeAlias = Any
Namespace: TypeAlias = Any
