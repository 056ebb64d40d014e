"""What is to be shown on a GPU: every bar, the stages that measure it, and what they found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_YET = "not yet"


@dataclass(frozen=True)
class Bar:
    """Something that rows of stages answer to, by its key.

    Attributes
    ----------
    key, what, asked : str
    stages : tuple of str
        Where it is measured; any of them may be the one that was run.
    """

    key: str
    what: str
    asked: str
    stages: tuple[str, ...]


BARS = (
    Bar("tests", "tests on the device: driver, kernels, backend, training", "0 failed", ("tests",)),
    Bar(
        "parity",
        "every step against float64: loss, gradient, update, θ",
        "float64 1e-12, float32 1e-5, tf32 2e-3, float16 2e-3, bfloat16 2e-2; gradients in 16 bits 3e-3 and 3e-2",
        ("parity",),
    ),
    Bar("replays", "replayed graphs against eager steps", "identical bits", ("parity",)),
    Bar("bits", "3 fresh processes; with `--rest`, 20 with empty caches", "identical bits", ("parity", "processes")),
    Bar(
        "mnist-warm", "MNIST, 784-512-512-10, 10 epochs, to weights on the host: a warm process", "<= 1.5 s", ("mnist",)
    ),
    Bar("mnist-fresh", "the same, a fresh process with compiled kernels", "<= 3 s", ("mnist",)),
    Bar("mnist-accuracy", "its accuracy on t10k", ">= 98.3%", ("mnist",)),
    Bar(
        "peers-small",
        "step: fastest of PyTorch's graph and compile and JAX's scan over gpubp, small networks",
        ">= 1.5 for 64-64-64-10 b32 and 64-256-256-10 b128, >= 1.2 for 784-512-512-10 b128",
        ("small", "compiled", "precisions"),
    ),
    Bar(
        "peers-large",
        "the same, 784-1024x3-10 b256, 1024-4096x4-1000 b4096 and b256",
        ">= 0.95",
        ("large", "precisions"),
    ),
    Bar(
        "floor",
        "step over bare GEMMs + optimizer at copy rate, 1024-4096x4-1000 b4096",
        "<= 1.10 in tf32, <= 1.13 in bfloat16",
        ("large",),
    ),
    Bar("unfused", "step: cuda-unfused over gpubp, small networks", ">= 4", ("compiled",)),
    Bar(
        "stack-equality",
        "24 networks of a stack on folds of digits against themselves alone, a step",
        "<= 1e-12",
        ("stacks",),
    ),
    Bar("one-by-one", "20 epochs of 256 networks 64-256-256-10 b128: one by one over the stack", ">= 20", ("stacks",)),
    Bar("stack-memory", "their memory in CuPy's pool", "<= MLP.memory + data + 100 MB", ("stacks",)),
    Bar(
        "vmap",
        "step of 256 networks: fastest vmap over gpubp",
        ">= 1.1 for 64-256-256-10 b128, >= 2 for 64-64-64-10 b32",
        ("vmap",),
    ),
    Bar(
        "search-scores",
        "a search of 32 candidates on 5 folds of digits: scores against the CPU's",
        "<= 0.01",
        ("search",),
    ),
    Bar("search", "the same, 30 epochs: from the call to results", "<= 1.0 s", ("search",)),
    Bar(
        "onchip-parity",
        "a step on the chip against the graph's: loss, optimizer's slots, θ",
        "float64 1e-12, float32 1e-5, tf32 3e-3",
        ("onchip",),
    ),
    Bar("onchip-bits", "trainings on the chip, 3 fresh processes", "identical bits", ("onchip",)),
    Bar("onchip-step", "step: graph over on the chip, 64-64-64-10 b32", ">= 3", ("onchip",)),
    Bar(
        "bandwidth",
        "ReLU kernels, Adam, gather of rows of 128 B and more, column sums, 256 MiB, float32 and bfloat16",
        ">= 85% of the measured copy rate",
        ("kernels",),
    ),
    Bar(
        "bandwidth-activations",
        "kernels of tanh and GELU, likewise",
        ">= 85% in float32, >= 60% in bfloat16",
        ("kernels",),
    ),
    Bar("sanitizer", "compute-sanitizer: memcheck, racecheck, initcheck", "0 errors", ("memcheck", "racecheck")),
)


@dataclass(frozen=True)
class Answer:
    """What was found of a bar.

    Attributes
    ----------
    bar : Bar
    rows : sequence of dict
        The rows that answer to it.
    reached : bool or None
        None where nothing was judged.
    measured : str
        In a few words; of several rows, the first that missed, or else the last.
    """

    bar: Bar
    rows: Sequence[Mapping[str, Any]]
    reached: bool | None
    measured: str


def answers(parts: Mapping[str, Any]) -> Iterator[Answer]:
    """Every bar with what parts of a file of results say of it."""
    for bar in BARS:
        rows = [row for part in parts.values() for row in part["rows"] if row.get("bar") == bar.key]
        judged = [row for row in rows if row["met"] is not None]
        missed = [row for row in judged if not row["met"]]
        if not judged:
            yield Answer(bar, rows, None, _why_not(bar, rows, parts))
            continue
        shown = (missed or judged)[0 if missed else -1]
        count = f"{len(judged) - len(missed)} of {len(judged)} reached; " if len(judged) > 1 else ""
        measured = f"{count}{shown['what']}: {shown['measured']}" if len(judged) > 1 else shown["measured"]
        yield Answer(bar, rows, not missed, measured)


def _why_not(bar: Bar, rows: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> str:
    """Why nothing was measured."""
    if rows:
        return str(rows[-1]["measured"])
    ran = [parts[stage] for stage in bar.stages if stage in parts]
    return (ran[0].get("broken off") or "no row of it") if ran else NOT_YET


def summary(parts: Mapping[str, Any]) -> str:
    """A line for each bar, short enough for the end of a long output."""
    marks = {True: "reached", False: "MISSED", None: "-"}
    return "\n".join(
        f"{marks[answer.reached]:<8}{answer.bar.what[:78]:<79}{answer.bar.asked[:34]:<35}{answer.measured[:110]}"
        for answer in answers(parts)
    )


def table(parts: Mapping[str, Any]) -> str:
    """The account in Markdown: bar, measured, reached, stage."""
    marks = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | bar | measured | reached | stage |", "|---|---|---|---|---|"]
    for answer in answers(parts):
        bar = answer.bar
        stages = ", ".join(f"`{stage}`" for stage in bar.stages)
        lines.append(
            f"| {bar.what} | {_sign(bar.asked)} | {_sign(answer.measured)} | {marks[answer.reached]} | {stages} |"
        )
    return "\n".join(lines) + "\n"


def report(parts: Mapping[str, Any]) -> str:
    """All of it in Markdown: the account, how every stage ended, and every row."""
    lines = ["# Measured on a GPU", "", table(parts), "## Stages", "", "| stage | seconds | ended |", "|---|---:|---|"]
    lines += [
        f"| `{name}` | {part.get('seconds', 0)} | {part.get('broken off') or 'done'} |" for name, part in parts.items()
    ]
    for name, part in parts.items():
        about = "; ".join(f"{subject} {text}" for subject, text in part["machine"].items())
        lines += [
            "",
            f"## {name}, {part['kind']}",
            "",
            about,
            "",
            "| what | bar | measured | reached |",
            "|---|---|---|---|",
        ]
        marks = {True: "yes", False: "**no**", None: ""}
        lines += [
            f"| {_cell(row['what'])} | {_sign(row['asked'])} | {_sign(row['measured'])} | {marks[row['met']]} |"
            for row in part["rows"]
        ]
    return "\n".join(lines) + "\n"


def _sign(text: str) -> str:
    return _cell(text).replace(">=", "≥").replace("<=", "≤")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
