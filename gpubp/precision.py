"""The precisions: which types hold parameters and activations, and how products are computed."""

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
        How matrix products are multiplied and summed.
    largest : float
        The largest finite number of `storage`.
    capability : (int, int)
        The lowest compute capability of a GPU that supports it.
    gradient_tolerance : float
        Relative error of a gradient that rounding can explain; for `diagnostics.check_gradients`.
    """

    parameters: str
    storage: str
    compute: str
    largest: float
    capability: tuple[int, int]
    gradient_tolerance: float

    @property
    def coarse(self) -> bool:
        """Whether products may round their operands to 10 fraction bits, as TF32 does, or to fewer."""
        return self.compute == "tf32" or self.storage != self.parameters


_DOUBLE, _SINGLE, _BRAIN = 1.7976931348623157e308, 3.4028234663852886e38, 3.3895313892515355e38

PRECISIONS: dict[str, Precision] = {
    "float64": Precision(
        parameters="float64",
        storage="float64",
        compute="float64",
        largest=_DOUBLE,
        capability=(5, 0),
        gradient_tolerance=1e-12,
    ),
    "float32": Precision(
        parameters="float32",
        storage="float32",
        compute="float32",
        largest=_SINGLE,
        capability=(5, 0),
        gradient_tolerance=1e-4,
    ),
    "tf32": Precision(
        parameters="float32",
        storage="float32",
        compute="tf32",
        largest=_SINGLE,
        capability=(8, 0),
        gradient_tolerance=2e-2,
    ),
    "bfloat16": Precision(
        parameters="float32",
        storage="bfloat16",
        compute="float32",
        largest=_BRAIN,
        capability=(8, 0),
        gradient_tolerance=2e-1,
    ),
    "float16": Precision(
        parameters="float32",
        storage="float16",
        compute="float32",
        largest=65504.0,
        capability=(7, 0),
        gradient_tolerance=2e-2,
    ),
}
