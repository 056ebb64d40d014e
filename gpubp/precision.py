"""The precisions: in what types parameters and activations are kept, and how products are formed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Precision:
    """What a name such as ``"bfloat16"`` stands for.

    Attributes
    ----------
    parameters : str
        dtype of parameters, gradients and optimizer slots, and of what users get back.
    storage : str
        dtype of batches, activations and δ, and of the weights as matrix products read them.
    compute : {"float64", "float32", "tf32"}
        How matrix products are formed and summed.
    largest : float
        The largest finite number of `storage`.
    capability : (int, int)
        The least compute capability of a GPU that has it.
    gradient_tolerance : float
        Relative error of a gradient that rounding explains; for `diagnostics.check_gradients`.
    """

    parameters: str
    storage: str
    compute: str
    largest: float
    capability: tuple[int, int]
    gradient_tolerance: float


_DOUBLE, _SINGLE, _BRAIN = 1.7976931348623157e308, 3.4028234663852886e38, 3.3895313892515355e38

PRECISIONS: dict[str, Precision] = {
    "float64": Precision("float64", "float64", "float64", _DOUBLE, (5, 0), 1e-12),
    "float32": Precision("float32", "float32", "float32", _SINGLE, (5, 0), 1e-4),
    "tf32": Precision("float32", "float32", "tf32", _SINGLE, (8, 0), 2e-2),
    "bfloat16": Precision("float32", "bfloat16", "float32", _BRAIN, (8, 0), 2e-1),
    "float16": Precision("float32", "float16", "float32", 65504.0, (7, 0), 2e-2),
}
