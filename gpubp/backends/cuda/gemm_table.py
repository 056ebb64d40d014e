"""The user's table of cuBLASLt algorithms, made by ``gpubp bench --tune``: a file per device and library version.

It names algorithms by what cuBLASLt says of their configuration. The one that runs is always taken from what the
heuristic proposes in this very process, so whatever a table says, it can choose but not break anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gpubp._typing import Array
from gpubp.backends.cuda.driver import GemmSpec
from gpubp.backends.cuda.faults import one_line
from gpubp.backends.notices import say_once
from gpubp.backends.user_cache import user_cache

FORMAT = 1

# cublasLtMatmulAlgoConfigAttributes_t, all of them; an `Algorithm` is their values in this order.
ATTRIBUTES = (
    "ID",
    "TILE_ID",
    "SPLITK_NUM",
    "REDUCTION_SCHEME",
    "CTA_SWIZZLING",
    "CUSTOM_OPTION",
    "STAGES_ID",
    "INNER_SHAPE_ID",
    "CLUSTER_SHAPE_ID",
)
Algorithm: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GemmTable:
    """The algorithms of the products that were tuned; of no product where the user made no table.

    Attributes
    ----------
    path : Path
    made_for : dict
        Device, its multiprocessors, and cuBLASLt's version: a table is used for the same alone.
    algorithms : dict of GemmSpec to Algorithm
    """

    path: Path
    made_for: Mapping[str, Any]
    algorithms: Mapping[GemmSpec, Algorithm]

    @property
    def text(self) -> str:
        """The file: the same for the same choices, whatever the order in which they were made."""
        choices = sorted(self.algorithms.items(), key=lambda choice: astuple(choice[0]))
        products = [
            {"spec": asdict(spec), "algorithm": dict(zip(ATTRIBUTES, algorithm, strict=True))}
            for spec, algorithm in choices
        ]
        return json.dumps({"made_for": self.made_for, "products": products}, indent=1, sort_keys=True) + "\n"

    @property
    def digest(self) -> str | None:
        """16 digits of the SHA-256 of its text; None where there is no table."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16] if self.algorithms else None


def configuration(bindings: Any, algorithm: Array) -> Algorithm:
    """What cuBLASLt, through ``nvmath.bindings.cublasLt``, says of an algorithm: the same in every process."""
    written, values = np.zeros(1, np.uint64), []
    for name in ATTRIBUTES:
        attribute = int(bindings.MatmulAlgoConfigAttribute[name])
        value = np.zeros(1, bindings.get_matmul_algo_config_attribute_dtype(attribute))
        bindings.matmul_algo_config_get_attribute(
            algorithm.ctypes.data, attribute, value.ctypes.data, value.nbytes, written.ctypes.data
        )
        values.append(int(value[0]))
    return tuple(values)


def read_table(device: str, multiprocessors: int, cublaslt: int) -> GemmTable:
    """The user's table for a device and a version of cuBLASLt; a file that is not one is not used, and said so."""
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
