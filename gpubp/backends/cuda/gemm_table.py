"""The user's table of cuBLASLt algorithms, made by ``gpubp bench --tune``: a file per device and library version.

It identifies algorithms by their cuBLASLt configuration. The one that runs is always among those that the heuristic
proposes in this process, so a table can only choose, and cannot break anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from gpubp.backends.cuda.cublaslt import AlgorithmAttribute, CublasLtLibrary
from gpubp.backends.cuda.driver import GemmSpec
from gpubp.backends.cuda.faults import one_line
from gpubp.backends.notices import say_once
from gpubp.backends.user_cache import user_cache

FORMAT = 1

ATTRIBUTES = tuple(attribute.name for attribute in AlgorithmAttribute)
Algorithm: TypeAlias = tuple[int, ...]  # the values of all attributes, in their order


@dataclass(frozen=True, slots=True)
class GemmTable:
    """The algorithms of the tuned products; empty if the user made no table.

    Attributes
    ----------
    path : Path
    made_for : dict
        Device, its multiprocessors, and cuBLASLt's version: a table is used only for the same ones.
    algorithms : dict of GemmSpec to Algorithm
    """

    path: Path
    made_for: Mapping[str, Any]
    algorithms: Mapping[GemmSpec, Algorithm]

    @property
    def text(self) -> str:
        """The content of the file, which depends only on the choices, not on their order."""
        choices = sorted(self.algorithms.items(), key=lambda choice: astuple(choice[0]))
        products = [
            {"spec": asdict(spec), "algorithm": dict(zip(ATTRIBUTES, algorithm, strict=True))}
            for spec, algorithm in choices
        ]
        return json.dumps({"made_for": self.made_for, "products": products}, indent=1, sort_keys=True) + "\n"

    @property
    def digest(self) -> str | None:
        """16 digits of the SHA-256 of its text; None if there is no table."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16] if self.algorithms else None


def configuration(library: CublasLtLibrary, algorithm: Any) -> Algorithm:
    """cuBLASLt's configuration of an algorithm, which is the same in every process."""
    return tuple(library.algorithm_attribute(algorithm, attribute) for attribute in AlgorithmAttribute)


def read_table(device: str, multiprocessors: int, cublaslt: int) -> GemmTable:
    """The user's table for a device and a version of cuBLASLt; an invalid file is reported and not used."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = user_cache() / f"gemm-{slug}-{multiprocessors}-cublaslt-{cublaslt}.json"
    made_for = {"format": FORMAT, "device": device, "multiprocessors": multiprocessors, "cublasLt": cublaslt}
    algorithms: dict[GemmSpec, Algorithm] = {}
    try:
        algorithms = _algorithms(json.loads(path.read_text(encoding="utf-8")), made_for)
    except FileNotFoundError:
        pass  # most users never make one
    except (OSError, ValueError, TypeError, KeyError) as error:
        say_once(
            f"{path}: not a table of matrix products for {device} ({one_line(error)}), so it is not used; delete it, "
            "or make it anew with gpubp bench --tune"
        )
    return GemmTable(path, made_for, algorithms)


def _algorithms(content: Any, made_for: Mapping[str, Any]) -> dict[GemmSpec, Algorithm]:
    if content["made_for"] != made_for:
        raise ValueError(f"made for {content['made_for']}")
    return {
        GemmSpec(**product["spec"]): tuple(int(product["algorithm"][name]) for name in ATTRIBUTES)
        for product in content["products"]
    }
