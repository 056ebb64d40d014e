"""Where things are: the checkout, the installed package and its modules, real data beside the checkout."""

from __future__ import annotations

from pathlib import Path

import gpubp

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = Path(gpubp.__file__).resolve().parent
# Every module by its dotted name, without importing any; the package itself only resolves names, and the compiled
# backend's loops are text for the modules that it writes.
MODULES = {
    ".".join(("gpubp", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py" and path.parent.name != "loops"
}
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
