"""The constants behind the elementary functions of `loops/functions.py`: the two precisions and their polynomials.

A polynomial interpolates its function at Chebyshev nodes, with a relative error of the function below half a
unit in the last place. With |r| <= ½ ln 2, s² <= ((√2 − 1)/(√2 + 1))², x² <= 1 and y = (t − c)/(t + c), c being
ERF_MIDDLE and 1 <= t <= ERF_HIGHEST:

===========  ===========================
exp_series   (e^r − 1 − r) / r²
log_series   (2 artanh s − 2s) / s³, of s²
erf_series   erf x / x − 1, of x²
erfcx_series  e^(t²) (1 − erf t), of y
erfc_series  the same, for 0 <= t <= ERFC_HIGHEST, beyond which 1 − erf t is no normal number
===========  ===========================
"""

from __future__ import annotations

from collections.abc import Sequence

# LN2_HIGH has so few digits that its product with any whole number that occurs is exact. Beyond the bounds, exp is 0
# or overflows, and expm1, tanh and erf are -1 or ±1, to the last digit.
CONSTANTS: dict[str, dict[str, str]] = {
    "float32": {
        "Bits": "np.int32",
        "MANTISSA": "Bits(23)",
        "BIAS": "Bits(127)",
        "ROUNDING": "T(1.5 * 2.0**23)",
        "LN2_HIGH": "T(0.693359375)",
        "LN2_LOW": "T(-2.12194440e-4)",
        "EXP_LOWEST": "T(-104)",
        "EXP_HIGHEST": "T(89)",
        "EXPM1_LOWEST": "T(-20)",
        "TANH_HIGHEST": "T(10)",
        "ERF_HIGHEST": "T(4)",
        "ERF_MIDDLE": "T(2)",
        "ERFC_HIGHEST": "T(9.5)",
        "ERFC_MIDDLE": "T(3)",
    },
    "float64": {
        "Bits": "np.int64",
        "MANTISSA": "Bits(52)",
        "BIAS": "Bits(1023)",
        "ROUNDING": "T(1.5 * 2.0**52)",
        "LN2_HIGH": "T(0.6931471803691238)",
        "LN2_LOW": "T(1.9082149292705877e-10)",
        "EXP_LOWEST": "T(-746)",
        "EXP_HIGHEST": "T(710)",
        "EXPM1_LOWEST": "T(-40)",
        "TANH_HIGHEST": "T(20)",
        "ERF_HIGHEST": "T(6)",
        "ERF_MIDDLE": "T(3)",
        "ERFC_HIGHEST": "T(27)",
        "ERFC_MIDDLE": "T(5)",
    },
}
DERIVED = {
    "ITEM": "np.dtype(T).itemsize",
    "ROUNDING_BITS": "ROUNDING.view(Bits)",
    "SQRT_HALF_BITS": "T(0.7071067811865476).view(Bits)",
    "MANTISSA_BITS": "Bits(2 ** int(MANTISSA) - 1)",
    "ABSOLUTE": "np.iinfo(Bits).max",
}

# fmt: off
SERIES: dict[str, dict[str, tuple[float, ...]]] = {
    "float32": {
        "exp": (
            0.500000001346581, 0.16666666681623232, 0.041666464925285904, 0.0083333109254809, 0.0013933649996309251,
            0.00019890990824673654,
        ),
        "log": (0.6666668505073791, 0.3998877599783465, 0.2958015670534363),
        "erf": (
            0.12837916584835093, -0.37612626666720334, 0.11283594715160218, -0.026854212010626412,
            0.005189087423433974, -0.000801686428716587, 7.875875062685488e-05,
        ),
        "erfcx": (
            0.25539567631050575, -0.4271859897684867, 0.2416582015255602, -0.07896830612793473, 0.0037323717589395444,
            0.006811140131085635, -0.0008379754387023134,
        ),
        "erfc": (
            0.17900115102752748, -0.3262335655838926, 0.24560382301343064, -0.15011572394377656,
            0.07166546699432, -0.024394920452654314, 0.0042707454416927955, 0.0007192700254943171,
            -0.0005965463566263479, 2.2584126523030682e-05, 5.300470731528725e-05,
        ),
    },
    "float64": {
        "exp": (
            0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326136, 0.0013888888888883748,
            0.00019841269874820627, 2.4801587325547743e-05, 2.7557255400206422e-06, 2.75572736431103e-07,
            2.5105217004720745e-08, 2.0914686968086876e-09,
        ),
        "log": (
            0.666666666666667, 0.3999999999989938, 0.28571428626031065, 0.2222221112572281, 0.18182889786191042,
            0.15331699633543858, 0.14616721179861816,
        ),
        "erf": (
            0.12837916709551256, -0.37612638903183543, 0.11283791670945006, -0.02686617064323777,
            0.0052239776071164225, -0.0008548325975389692, 0.00012055294904839707, -1.492473690741966e-05,
            1.6447424703317362e-06, -1.6208483801871705e-07, 1.3720064546777686e-08, -7.795898827002142e-10,
        ),
        "erfcx": (
            0.17900115118138996, -0.32623356004303716, 0.24560380171233195, -0.15011593650078744,
            0.07166583719774874, -0.024392499318273194, 0.004269136347508256, 0.0007077464443901538,
            -0.0005970623517093284, 4.525472635483354e-05, 6.406182073530546e-05, -1.284889451252353e-05,
            -8.008021319412685e-06, 2.023603179641757e-06, 1.2801900862962662e-06,
        ),
        "erfc": (
            0.11070463773306863, -0.2133278976482631, 0.19074099324544444, -0.15808692928813736,
            0.12121254375414982, -0.08572473565292399, 0.05568307706865715, -0.03302132305521948,
            0.01772606896702337, -0.008505945215908138, 0.0035776937095768967, -0.0012750243376472205,
            0.0003589016546761325, -6.454327071527483e-05, -1.9352804979732364e-06, 6.322976424958776e-06,
            -2.151791393368701e-06, 1.3416278167661247e-07, 1.7368179742857573e-07, -6.616034552531584e-08,
            -1.8486146436078832e-09, 8.189408396632403e-09, -8.966948742814018e-10, -7.022619353607524e-10,
        ),
    },
}
# fmt: on


def definitions(dtype: str) -> str:
    """The text that must precede `loops/functions.py`."""
    constants = [f"{name} = {value}" for name, value in (CONSTANTS[dtype] | DERIVED).items()]
    series = [
        f"@inlined\ndef {name}_series(x):\n    return {_horner(coefficients)}"
        for name, coefficients in SERIES[dtype].items()
    ]
    return "\n\n\n".join(["\n".join(constants), *series])


def _horner(coefficients: Sequence[float]) -> str:
    """c₀ + x (c₁ + x (c₂ + …))"""
    *rest, text = (f"T({c!r})" for c in coefficients)
    for c in reversed(rest):
        text = f"{c} + x * ({text})"
    return text
