"""Pictures of step times: everyone's over gpubp's on a GPU, by network; a CPU's over a GPU's, by width and batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.step_times import OURS

STAGES = ("small", "large", "compiled", "precisions")
SHOWN = {  # contender: its name in the picture, and its colour
    OURS: ("gpubp", "#1f4e79"),
    "jax scan": ("JAX, jit and scan", "#e08a1e"),
    "torch graph": ("PyTorch, CUDA graph", "#c23b22"),
    "torch compile": ("torch.compile", "#d98880"),
}


def step_times(parts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Microseconds of a step by network with precision, then by contender."""
    times: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        for figure in parts.get(stage, {}).get("figures", []):
            if figure.get("contender") in SHOWN and "microseconds" in figure:
                label = f"{figure['network']}\n{figure['precision']}"
                times.setdefault(label, {})[figure["contender"]] = float(figure["microseconds"])
    return {label: of for label, of in times.items() if OURS in of and len(of) > 1}


def cpu_over_gpu(parts: Mapping[str, Any]) -> dict[int, dict[int, float]]:
    """A step on the CPU over one on the GPU, by batch size, then by width."""
    times: dict[tuple[int, int], dict[str, float]] = {}
    for figure in parts.get("crossover", {}).get("figures", []):
        if "width" in figure:
            place = figure["batch size"], figure["width"]
            times.setdefault(place, {})[figure["contender"]] = float(figure["microseconds"])
    ratios: dict[int, dict[int, float]] = {}
    for (batch_size, width), of in sorted(times.items()):
        ratios.setdefault(batch_size, {})[width] = of["gpubp cpu"] / of[OURS]
    return ratios


def plot(parts: Mapping[str, Any], folder: Path) -> None:
    """Write the pictures into a folder."""
    _plot_step_times(step_times(parts), _device(parts), folder / "gpu_steps.png")
    if ratios := cpu_over_gpu(parts):
        _plot_crossover(ratios, _device(parts), folder / "gpu_crossover.png")


def _device(parts: Mapping[str, Any]) -> str:
    device: str = next((part["machine"].get("device", "") for part in parts.values()), "")
    return device.split(",")[0]


def _plot_crossover(ratios: Mapping[int, Mapping[int, float]], device: str, path: Path) -> None:
    """A line for each batch size; above 1 the GPU is faster."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for batch_size, of in ratios.items():
        axes.plot(list(of), list(of.values()), marker="o", label=f"batch of {batch_size}")
    axes.axhline(1, color="black", linewidth=0.8)
    widths = sorted({width for of in ratios.values() for width in of})
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_yscale("log")
    ticks = [
        tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= max(max(of.values()) for of in ratios.values())
    ]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xlabel("width of two hidden layers between 64 inputs and 10 outputs")
    axes.set_ylabel(f"a training step on the CPU\nover one on the {device}")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_step_times(times: Mapping[str, Mapping[str, float]], device: str, path: Path) -> None:
    """The shorter a bar, the faster."""
    import matplotlib.pyplot as plt

    contenders = [name for name in SHOWN if any(name in of for of in times.values())]
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(times) + 1.2))
    height = 0.8 / len(contenders)
    for position, contender in enumerate(contenders):
        label, colour = SHOWN[contender]
        places = [i + position * height for i, of in enumerate(times.values()) if contender in of]
        ratios = [of[contender] / of[OURS] for of in times.values() if contender in of]
        axes.barh(places, ratios, height, color=colour, label=label)
    axes.axvline(1, color="black", linewidth=0.8)
    labels = [f"{label}, {of[OURS]:,.0f} µs" for label, of in times.items()]
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(times))], labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    most = max(value / of[OURS] for of in times.values() for value in of.values())
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50, 100) if tick <= 1.2 * most]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.7, 1.1 * max(most, ticks[-1]))
    axes.set_xlabel(f"a training step with Adam, its time over gpubp's (which is written out); {device}")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
