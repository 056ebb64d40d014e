"""README.md and docs/ do what they say: commands run, code runs, tables are the registries and the measured figures.

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
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gpubp
from gpubp.activations import ACTIVATIONS
from gpubp.cli.app import app
from gpubp.data.encodings import ENCODINGS
from gpubp.initializers import INITIALIZERS
from gpubp.lessons import LESSONS
from gpubp.losses import LOSSES
from gpubp.optimizers import OPTIMIZERS
from gpubp.schedules import SCHEDULES
from gpubp.tabular.recipes import RECIPES
from support.package import MODULES, PACKAGE, REPOSITORY

sys.path.append(str(REPOSITORY))  # as tests/conftest.py does, for `python tests/test_docs.py`
from benchmarks.gpu import bars, plot

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
RUNNING = [README, REPOSITORY / "CONTRIBUTING.md", *PAGES]  # their code blocks are run
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCUMENTS = [
    *RUNNING,
    *(REPOSITORY / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "kernels/README.md")),
    *sorted(RESULTS.glob("*.md")),
]
RUN_CLI = "import sys; from gpubp.cli import main; sys.exit(main())"
REGISTRIES: dict[str, Mapping[str, Callable[..., object]]] = {
    "activations": ACTIVATIONS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "initializers": INITIALIZERS,
    "schedules": SCHEDULES,
}
# Files of benchmarks/results.
MEASURED = (
    "foundation",
    "estimators",
    "cpu",
    "stacks",
    "reading",
    "streaming",
    "checkpoints",
    "ranks",
    "reproductions",
)
# Column of the table of step times -> who is measured in benchmarks/results/cpu.json; the fastest of them counts.
STEP_TIMES = {
    "gpubp": ("gpubp cpu",),
    "without Numba": ("gpubp cpu-reference",),
    "PyTorch": ("torch eager", "torch compile"),
    "JAX": ("jax jit", "jax scan"),
    "scikit-learn": ("scikit-learn",),
    "Thinc": ("thinc",),
}
PRODUCTS = "bare GEMMs cpu"
# The clone's address is the reader's to fill in, and CI is in a checkout already.
BY_THE_READER = {"git clone URL gpubp", "cd gpubp"}
BETWEEN_MARKS = re.compile(r"(<!-- ([^>]+?) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def _name(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


# -- tables that are generated ------------------------------------------------------------------------------


def registry_table(registry: Mapping[str, Callable[..., object]]) -> str:
    """The registry in Markdown: names with arguments at their defaults, and what the docstrings say."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, factory in registry.items():
        parameters = inspect.signature(factory).parameters.values()
        arguments = ", ".join(f"{p.name}={p.default}" for p in parameters if p.kind is not p.VAR_POSITIONAL)
        summary = " ".join((inspect.getdoc(factory) or "").partition("\n\n")[0].split())
        if options := getattr(factory(), "options", None):
            summary += f" Options: {', '.join(f'`{key}={value}`' for key, value in options.items())}."
        call = f"{name}({arguments})" if arguments else name
        rows.append(f"| `{call}` | {summary.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def measured_rows(name: str) -> list[tuple[Mapping[str, str], list[dict[str, str]]]]:
    """The rows of a file of results by the machine that they were measured on."""
    saved = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    if "machine" in saved:
        return [(saved["machine"], [row for part in saved["parts"].values() for row in part])]
    assert all(part["kind"] == "measured" for part in saved["parts"].values())
    machines = {json.dumps(part["machine"]): part["machine"] for part in saved["parts"].values()}
    return [
        (machine, [row for part in saved["parts"].values() if part["machine"] == machine for row in part["rows"]])
        for machine in machines.values()
    ]


def figures_table(name: str) -> str:
    """All that was measured, without the bars, under the machines."""
    tables = []
    for machine, rows in measured_rows(name):
        lines = [f"| {row['what']} | {row['measured']} |" for row in rows if not row["measured"].startswith("skipped")]
        tables.append(_under_machine(machine, ["| what | measured |", "|---|---|", *lines]))
    return "\n".join(tables)


def bars_table(name: str) -> str:
    """What had a bar, and whether it was reached, under the machines."""
    tables = []
    for machine, rows in measured_rows(name):
        lines = [
            f"| {row['what']} | {row['asked']} | {row['measured']} | {'yes' if row['met'] else '**no**'} |"
            for row in rows
            if row["asked"]
        ]
        tables.append(_under_machine(machine, ["| what | bar | measured | reached |", "|---|---|---|---|", *lines]))
    return "\n".join(tables)


def missed_bars() -> str:
    """The figures of all files that did not reach their bar."""
    missed = [
        f"| `{name}.json` | {row['what']} | {row['asked']} | {row['measured']} |"
        for name in MEASURED
        for _, rows in measured_rows(name)
        for row in rows
        if row["asked"] and not row["met"]
    ]
    return "\n".join(["| file | what | bar | measured |", "|---|---|---|---|", *missed]) + "\n"


def parts_on_a_gpu() -> dict[str, Any]:
    """The stages that were measured on one."""
    path = RESULTS / "gpu.json"
    parts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    assert all(part["kind"] == "measured" for part in parts.values())
    return parts


def step_times() -> str:
    """Microseconds of a training step on a CPU by network and library, the fastest in bold."""
    part = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))["parts"]["steps"]
    times: dict[str, dict[str, float]] = {}
    for figure in part["figures"]:
        times.setdefault(figure["network"], {})[figure["contender"]] = figure["microseconds"]
    lines = [f"| network | {' | '.join(STEP_TIMES)} | products alone |", f"|---|{'---:|' * (len(STEP_TIMES) + 1)}"]
    for network, of in times.items():
        fastest = [min(of[contender] for contender in contenders) for contenders in STEP_TIMES.values()]
        cells = [f"**{t:,.0f}**" if t == min(fastest) else f"{t:,.0f}" for t in fastest]
        lines.append(f"| {network} | {' | '.join(cells)} | {of[PRODUCTS]:,.0f} |")
    return _under_machine(part["machine"], lines)


def step_times_on_a_gpu() -> str:
    """Microseconds of a training step on a GPU by network, precision and library, the fastest in bold."""
    parts = parts_on_a_gpu()
    lines = ["| network | precision | gpubp | PyTorch | JAX |", "|---|---|---:|---:|---:|"]
    for label, of in plot.step_times(parts).items():
        times = [of[contender] for contender in ("gpubp", "torch graph", "jax scan")]
        cells = [f"**{t:,.0f}**" if t == min(times) else f"{t:,.0f}" for t in times]
        lines.append(f"| {' | '.join([*label.split(chr(10)), *cells])} |")
    return _under_machine(parts["small"]["machine"], lines)


def figures_on_a_gpu() -> str:
    """What the stages say that show what users get, without the bars."""
    parts = parts_on_a_gpu()
    stages = ("mnist", "small", "large", "stacks", "vmap", "onchip", "search", "crossover")
    rows = [row for stage in stages for row in parts[stage]["rows"]]
    lines = [f"| {row['what']} | {row['measured']} |" for row in rows if not row["measured"].startswith("skipped")]
    return _under_machine(parts["small"]["machine"], ["| what | measured |", "|---|---|", *lines])


def lesson_code(name: str) -> str:
    """The experiment of a lesson as a block of code that runs it, from its module without what shows the result."""
    module = importlib.import_module(f"gpubp.lessons.{name}")
    source = inspect.getsource(module)
    experiment = re.sub(r'^""".*?"""\n+from __future__ import annotations\n+', "", source, flags=re.DOTALL)
    experiment = experiment.partition("def conclude(")[0].replace("from gpubp.lessons.lesson import Lesson\n", "")
    experiment = re.sub(r"\n{3,}", "\n\n\n", experiment).strip()
    return f"```python\n{experiment}\n\n\nmeasured = measure()\n```\n"


def accuracy_on_tables() -> str:
    """What `benchmarks.tables` found, and its bars, under the machine."""
    from benchmarks.tables import bars, summary

    saved = json.loads((RESULTS / "tables.json").read_text(encoding="utf-8"))
    return _under_machine(saved["machine"], [*summary(saved["figures"]), "", *bars(saved["figures"])])


def published_and_ours() -> str:
    """What `benchmarks.reproductions` found beside what was published, under the machines."""
    from benchmarks.reproductions.comparison import table

    parts = json.loads((RESULTS / "reproductions.json").read_text(encoding="utf-8"))["parts"].values()
    machines = {json.dumps(part["machine"]): part["machine"] for part in parts}.values()
    return "\n".join(
        _under_machine(machine, table(part for part in parts if part["machine"] == machine)) for machine in machines
    )


def recipes_table() -> str:
    """The recipes for networks on tables."""
    lines = [
        "| recipe | numbers | hidden layers | activation | learning rate | dropout: values, classes |",
        "|---|---|---|---|---:|---|",
    ]
    for recipe in RECIPES.values():
        name = f"{recipe.name}, from {recipe.fewest_rows:,} rows on" if recipe.fewest_rows else recipe.name
        dropout = f"{recipe.dropout}, {recipe.dropout_of_classes}"
        layers = "-".join(map(str, recipe.hidden))
        lines.append(
            f"| {name} | `{recipe.numbers}` | {layers} | {recipe.activation} | {recipe.learning_rate} | {dropout} |"
        )
    return "\n".join(lines) + "\n"


def _under_machine(machine: Mapping[str, str], lines: list[str]) -> str:
    about = "; ".join(f"{key} {value}" for key, value in machine.items())
    return "\n".join([f"{about}:", "", *lines]) + "\n"


def all_tables() -> dict[str, str]:
    """What stands between the marks of each name, in whichever document they are."""
    return {
        **{name: registry_table(registry) for name, registry in REGISTRIES.items()},
        **{f"figures of {name}": figures_table(name) for name in MEASURED},
        **{f"bars of {name}": bars_table(name) for name in MEASURED},
        "figures of reproductions": published_and_ours(),
        "missed bars": missed_bars(),
        "bars on a GPU": bars.table(parts_on_a_gpu()),
        "step times": step_times(),
        "step times on a GPU": step_times_on_a_gpu(),
        "figures on a GPU": figures_on_a_gpu(),
        **{f"code of {lesson}": lesson_code(lesson) for lesson in LESSONS},
        "encodings": registry_table(ENCODINGS),
        "recipes": recipes_table(),
        "accuracy on tables": accuracy_on_tables(),
    }


def with_tables(text: str) -> str:
    """`text` with every table that it has marks for."""
    tables = all_tables()
    return BETWEEN_MARKS.sub(lambda m: m[1] + tables[m[2]] + m[4], text)


# -- code blocks --------------------------------------------------------------------------------------------


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
    """An empty folder with the reader's own data in it, as the documents call it."""
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


def _run_shell(content: str, in_processes: bool) -> None:
    for command in commands(f"```bash\n{content}```"):
        if not command.startswith("gpubp "):
            continue  # held by test_other_commands_are_run_by_ci
        arguments = shlex.split(command)[1:]
        if in_processes:
            _run_process(command, arguments)
        else:
            done = CliRunner().invoke(app, arguments, prog_name="gpubp")
            assert done.exit_code == 0, f"{command}\n{done.output}{done.exception!r}"


def _run_process(command: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_CLI, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def _with_tiers(documents: list[Path]) -> list[Any]:
    """Documents with commands, each of which takes some seconds, and lessons are for `-m thorough`."""

    def takes_long(document: Path) -> bool:
        return document.parent.name == "lessons" or bool(commands(document.read_text(encoding="utf-8")))

    return [pytest.param(each, marks=pytest.mark.thorough if takes_long(each) else ()) for each in documents]


@pytest.mark.parametrize("document", _with_tiers(RUNNING), ids=_name)
def test_every_command_and_code_block_runs(document: Path, workplace: Path) -> None:
    """In the order in which they stand, in a folder and a namespace of the document's own, as a reader would.

    README.md's commands are processes of their own; those of the pages are run in this one, which has imported all.
    """
    names: dict[str, object] = {}
    for language, content, line in blocks(document.read_text(encoding="utf-8")):
        if language == "bash":
            _run_shell(content, in_processes=document == README)
        elif language == "python":
            exec(compile("\n" * (line - 1) + content, str(document), "exec"), names)


@pytest.mark.parametrize("document", RUNNING, ids=_name)
def test_other_commands_are_run_by_ci(document: Path) -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    script = re.sub(r'"\$scratch/venv([^"]*)"', r".venv\1", script)
    script = re.sub(r' --(quiet|no-compile)\b| --site-dir "[^"]*"', "", script)
    lines = {line.partition(" #")[0].strip() for line in script.splitlines()} | BY_THE_READER
    for command in commands(document.read_text(encoding="utf-8")):
        assert command.startswith("gpubp ") or command in lines, command


def test_the_two_commands_stand_at_the_top() -> None:
    first = [content.strip() for language, content, _ in blocks(README.read_text(encoding="utf-8"))[:2]]
    install = "python3 -m venv .venv && . .venv/bin/activate && pip install . && gpubp train digits"
    assert first == [f"git clone URL gpubp && cd gpubp && {install}", "pip install '.[test]' && pytest"]


def test_the_readme_is_for_a_first_visit() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("document", RUNNING, ids=_name)
def test_code_blocks_are_of_a_language_that_is_run(document: Path) -> None:
    """A block of text shows output; anything else would escape the tests above."""
    languages = {language for language, _, _ in blocks(document.read_text(encoding="utf-8"))}
    assert languages <= {"bash", "python", "text"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_tables_are_the_registries_and_the_figures_those_measured(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run `python tests/test_docs.py` to write the tables anew"


def test_every_table_stands_in_one_document() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert Counter(match[2] for text in texts for match in BETWEEN_MARKS.finditer(text)) == Counter(list(all_tables()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_files_and_tests_that_documents_name_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (document.parent / target).exists(), target
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert f"def {test}" in (REPOSITORY / path).read_text(encoding="utf-8"), (path, test)


def test_the_api_has_every_public_name_once() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "api"]
    documented = Counter(name for text in texts for name in re.findall(r"^::: gpubp\.(\w+)$", text, re.MULTILINE))
    assert documented == Counter([*(name for name in gpubp.__all__ if name != "__version__"), *REGISTRIES])


def test_a_network_shows_what_the_documents_name() -> None:
    """And not much: the rest is its stack's."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [name for name in dir(gpubp.MLP([2, 2])) if not name.startswith("_")]
    assert len(names) <= 22
    assert [name for name in names if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text)] == []


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
