"""A picture of step times on a GPU: each network and precision, everyone's step over gpubp's."""

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


def plot(parts: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the shorter a bar, the faster."""
    import matplotlib.pyplot as plt

    times = step_times(parts)
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
    device = next((part["machine"].get("device", "") for part in parts.values()), "").split(",")[0]
    axes.set_xlabel(f"a training step with Adam, its time over gpubp's (which is written out); {device}")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
