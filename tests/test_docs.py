"""README.md does what it says: its commands run, its code runs, its tables are the registries.

``python tests/test_docs.py`` writes the tables anew after a registry or a measured figure has changed.
"""

from __future__ import annotations

import doctest
import gzip
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from gpubp.activations import ACTIVATIONS
from gpubp.initializers import INITIALIZERS
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.schedules import SCHEDULES
from support.package import MODULES, PACKAGE, REPOSITORY

README = REPOSITORY / "README.md"
RESULTS = REPOSITORY / "benchmarks" / "results"
RUN_CLI = "import sys; from gpubp.cli import main; sys.exit(main())"
TABLES: dict[str, Mapping[str, Callable[..., object]]] = {
    "activations": ACTIVATIONS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "initializers": INITIALIZERS,
    "schedules": SCHEDULES,
}
BETWEEN_MARKS = r"(<!-- {0} -->\n).*?(<!-- end of {0} -->)"


def table(registry: Mapping[str, Callable[..., object]]) -> str:
    """The registry in Markdown: names with arguments at their defaults, and what the docstrings say."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, factory in registry.items():
        parameters = inspect.signature(factory).parameters.values()
        arguments = ", ".join(f"{p.name}={p.default}" for p in parameters)
        summary = " ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].split())
        if options := getattr(factory(), "options", None):
            summary += f" Options: {', '.join(f'`{key}={value}`' for key, value in options.items())}."
        call = f"{name}({arguments})" if arguments else name
        rows.append(f"| `{call}` | {summary.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def figures() -> str:
    """The measured figures in Markdown, under what they were measured on."""
    measured = json.loads((RESULTS / "foundation.json").read_text(encoding="utf-8"))
    return _measured(measured["machine"], [row for part in measured["parts"].values() for row in part])


def figures_of_parts(path: Path, *, with_bar: bool) -> str:
    """The same of a file of parts, under each machine that parts were measured on; only rows with a bar, or all."""
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"].values()
    assert all(part["kind"] == "measured" for part in parts)
    machines = {json.dumps(part["machine"]): part["machine"] for part in parts}
    found = []
    for machine in machines.values():
        rows = [row for part in parts if part["machine"] == machine for row in part["rows"]]
        rows = [row for row in rows if row["asked"] or not (with_bar or row["measured"].startswith("skipped"))]
        found.append(_measured(machine, rows))
    return "\n".join(found)


def _measured(machine: Mapping[str, str], rows: list[dict[str, str]]) -> str:
    about = "; ".join(f"{key} {value}" for key, value in machine.items())
    lines = [f"| {row['what']} | {row['asked']} | {row['measured']} |" for row in rows]
    return "\n".join([f"{about}:", "", "| what | bar | measured |", "|---|---|---|", *lines]) + "\n"


def with_tables(text: str) -> str:
    """`text` with the table of each registry, and of the measured figures, between its two marks."""
    tables = {name: table(registry) for name, registry in TABLES.items()}
    tables["figures"] = figures()
    tables["figures of a CPU"] = figures_of_parts(RESULTS / "cpu.json", with_bar=True)
    tables["figures of stacks"] = figures_of_parts(RESULTS / "stacks.json", with_bar=False)
    for name, rows in tables.items():
        text, places = re.subn(
            BETWEEN_MARKS.format(name), lambda m, rows=rows: m[1] + rows + m[2], text, flags=re.DOTALL
        )
        assert places == 1, f"README.md has {places} places for the table of {name}"
    return text


def blocks(text: str) -> list[tuple[str, str, int]]:
    """Fenced code blocks as (language, content, number of the first line)."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in fence.finditer(text)]


def commands(text: str) -> list[str]:
    """The commands of every shell block, in order, split at ``&&``."""
    lines = [line for language, content, _ in blocks(text) if language == "bash" for line in content.splitlines()]
    return [part.strip() for line in lines for part in line.partition(" #")[0].split("&&") if part.strip()]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """An empty folder with the reader's own data in it, as the README calls it."""
    monkeypatch.chdir(tmp_path)
    rooms, age = rng.integers(1, 9, 400), rng.uniform(0, 50, 400).round(1)
    district = rng.choice(["centre", "north", "south"], 400)
    price = 50_000 * rooms - 900 * age + 40_000 * (district == "centre") + rng.normal(0, 9_000, 400)
    rows = list(zip(rooms, age, district, price.round(), strict=True))
    _write_csv("houses.csv", "rooms,age,district,price", rows)
    _write_csv("new_houses.csv", "rooms,age,district", [row[:3] for row in rows[:20]])
    Path("mnist").mkdir()
    for part, count in (("train", 300), ("t10k", 50)):
        _write_idx(f"mnist/{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        _write_idx(f"mnist/{part}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def _write_csv(path: str, header: str, rows: list[tuple[object, ...]]) -> None:
    Path(path).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def _write_idx(path: str, values: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    Path(path).write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()))


def _run_shell(content: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    for command in commands(f"```bash\n{content}```"):
        if not command.startswith("gpubp "):
            continue  # held by test_other_commands_are_run_by_ci
        arguments = shlex.split(command)[1:]
        done = subprocess.run(
            [sys.executable, "-c", RUN_CLI, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_every_command_and_code_block_of_the_readme_runs(workplace: Path) -> None:
    """In the order in which they stand, in one folder and one namespace, as a reader would."""
    names: dict[str, object] = {}
    for language, content, line in blocks(README.read_text(encoding="utf-8")):
        if language == "bash":
            _run_shell(content)
        elif language == "python":
            exec(compile("\n" * (line - 1) + content, str(README), "exec"), names)


def test_other_commands_are_run_by_ci() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    lines = [re.sub(r" --quiet\b", "", line.partition(" #")[0]).strip() for line in script.splitlines()]
    for command in commands(README.read_text(encoding="utf-8")):
        assert command.startswith("gpubp ") or command in lines, command


def test_the_two_commands_stand_at_the_top() -> None:
    first = [content.strip() for language, content, _ in blocks(README.read_text(encoding="utf-8"))[:2]]
    assert first == ["pip install . && gpubp train digits", "pip install '.[test]' && pytest"]


def test_code_blocks_are_of_a_language_that_is_run() -> None:
    """A block of text shows output; anything else would escape the tests above."""
    assert {language for language, _, _ in blocks(README.read_text(encoding="utf-8"))} <= {
        "bash",
        "python",
        "text",
    }


def test_tables_are_the_registries_and_the_figures_those_measured() -> None:
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `python tests/test_docs.py` to write the tables anew"


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "kernels/README.md"])
def test_files_and_tests_that_documents_name_exist(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((REPOSITORY / document).parent / target).exists(), target
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert f"def {test}" in (REPOSITORY / path).read_text(encoding="utf-8"), (path, test)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
