"""What gpubp imports of scikit-learn beyond its public interface stands in one file."""

from __future__ import annotations

import ast

from gpubp.estimators import sklearn_private
from support.package import MODULES, PACKAGE

PRIVATE = "gpubp.estimators.sklearn_private"


def private_names(text: str) -> list[str]:
    """Underscore names and modules of scikit-learn that a module's text imports or reaches through its modules."""
    tree, modules, private = ast.parse(text), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sklearn":
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
            modules |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names if alias.name.partition(".")[0] == "sklearn"]
            modules |= {alias.asname or "sklearn" for alias in node.names if alias.name in imported}
        else:
            continue
        private += [name for name in imported if any(part.startswith("_") for part in name.split("."))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules and root.id.islower():  # a module, not a class
                private.append(ast.unparse(node))
    return private


def test_every_way_to_a_private_name_is_seen():
    """The test of the test below."""
    text = (
        "import sklearn\nimport sklearn.utils._array_api as api\nfrom sklearn import utils\n"
        "from sklearn.base import _fit_context, clone\n"
        "def f():\n    from sklearn.model_selection._search import BaseSearchCV\n"
        "    return utils._safe_indexing, sklearn.utils.validation._num_samples, clone.__name__, self._private\n"
    )
    assert private_names(text) == [
        "sklearn.utils._array_api",
        "sklearn.base._fit_context",
        "sklearn.model_selection._search.BaseSearchCV",
        "utils._safe_indexing",
        "sklearn.utils.validation._num_samples",
    ]


def test_no_other_module_imports_private_names():
    others = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items() if name != PRIVATE}
    assert not {name: private for name, text in others.items() if (private := private_names(text))}
    assert len(private_names(MODULES[PRIVATE].read_text(encoding="utf-8"))) > 15


def test_none_of_them_is_there_for_nothing():
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path != MODULES[PRIVATE]]
    for name in sklearn_private.__all__:
        assert any(name in text for text in texts), name
