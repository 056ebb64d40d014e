"""Every activation against 50-digit arithmetic, the complex step, its own scalar expressions, and torch."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from gpubp.activations import ACTIVATIONS, SOFTMAX, Activation, get_activation, get_output_activation
from gpubp.backends.reference import NumpyNamespace
from gpubp.errors import UsageError
from support.scalar_expressions import scalar_function

XP = NumpyNamespace()
EPS, TINY = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
SPECS = [*ACTIVATIONS, "leaky_relu(0.2)", "elu(0.5)"]

# Ordinary logits, both tails of every formula, the ends of exp's range, numbers near overflow and underflow.
SIZES = [0.0, 5e-324, 1e-300, 1e-17, 1e-8, *np.linspace(0.05, 40, 160), 100.0, 700.0, 1e4, 1e30]
POINTS = np.array([*SIZES, *(-z for z in SIZES)])


def sign_choice(positive, negative):
    """The reference of an activation with a kink: at z = 0 the branch z ≤ 0 counts."""
    return lambda z: positive(z) if z > 0 else negative(z)


def logistic(z):
    return 1 / (1 + mp.exp(-z))


def softplus(z):
    return mp.log1p(mp.exp(z))


def exact(name: str):
    """σ and σ′ at 50 digits."""
    scale, alpha = mpf(1.0507009873554805), mpf(1.6732632423543772)
    root, cubic = mp.sqrt(2 / mp.pi), mpf("0.044715")

    def mish_derivative(z):
        return mp.tanh(softplus(z)) + z * logistic(z) * mp.sech(softplus(z)) ** 2

    def gelu_tanh_derivative(z):
        u = root * (z + cubic * z**3)
        return (1 + mp.tanh(u)) / 2 + z / 2 * mp.sech(u) ** 2 * root * (1 + 3 * cubic * z**2)

    return {
        "identity": (lambda z: z, lambda z: mpf(1)),
        "sigmoid": (logistic, lambda z: logistic(z) * logistic(-z)),
        "tanh": (mp.tanh, lambda z: mp.sech(z) ** 2),
        "relu": (sign_choice(lambda z: z, lambda z: mpf(0)), sign_choice(lambda z: mpf(1), lambda z: mpf(0))),
        "leaky_relu": (
            sign_choice(lambda z: z, lambda z: mpf(0.01) * z),
            sign_choice(lambda z: mpf(1), lambda z: mpf(0.01)),
        ),
        "leaky_relu(0.2)": (
            sign_choice(lambda z: z, lambda z: mpf(0.2) * z),
            sign_choice(lambda z: mpf(1), lambda z: mpf(0.2)),
        ),
        "elu": (sign_choice(lambda z: z, mp.expm1), sign_choice(lambda z: mpf(1), mp.exp)),
        "elu(0.5)": (
            sign_choice(lambda z: z, lambda z: mp.expm1(z) / 2),
            sign_choice(lambda z: mpf(1), lambda z: mp.exp(z) / 2),
        ),
        "selu": (
            sign_choice(lambda z: scale * z, lambda z: scale * alpha * mp.expm1(z)),
            sign_choice(lambda z: scale, lambda z: scale * alpha * mp.exp(z)),
        ),
        "softplus": (softplus, logistic),
        "gelu": (lambda z: z * mp.ncdf(z), lambda z: mp.ncdf(z) + z * mp.npdf(z)),
        "gelu_tanh": (lambda z: z / 2 * (1 + mp.tanh(root * (z + cubic * z**3))), gelu_tanh_derivative),
        "silu": (lambda z: z * logistic(z), lambda z: logistic(z) * (1 + z * logistic(-z))),
        "mish": (lambda z: z * mp.tanh(softplus(z)), mish_derivative),
        "exponential": (mp.exp, mp.exp),
    }[name]


def relative(z):
    return 0.0


def absolute(z):
    return 1.0


def with_z(z):
    return max(1.0, min(abs(z), 40.0))


# An error is measured in ulp of the exact result or, where the formula subtracts numbers of size s, of s:
# sigmoid′ and tanh′ are read off a, which has lost what is below an ulp of 1; GELU's left tail is 1 − 1.
ERROR_SCALE = {
    "identity": (relative, relative),
    "sigmoid": (relative, absolute),
    "tanh": (relative, absolute),
    "relu": (relative, relative),
    "leaky_relu": (relative, relative),
    "leaky_relu(0.2)": (relative, relative),
    "elu": (relative, absolute),
    "elu(0.5)": (relative, absolute),
    "selu": (relative, absolute),
    "softplus": (relative, relative),
    "gelu": (lambda z: min(abs(z), 40.0), with_z),
    "gelu_tanh": (lambda z: min(abs(z), 40.0), with_z),
    "silu": (relative, with_z),
    "mish": (relative, with_z),
    "exponential": (relative, relative),
}
ULP = 4  # measured: 1.7 at most


def compute(activation: Activation, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a and σ′ as a backend computes them; exp may overflow where the formula says that it may."""
    with np.errstate(over="ignore"):
        a = activation.f(XP, z)
        return a, activation.derivative(XP, a if activation.derivative_from == "a" else z)


def finite_points(spec: str) -> np.ndarray:
    return POINTS[POINTS <= 700] if spec == "exponential" else POINTS


@pytest.mark.parametrize("spec", SPECS)
def test_function_and_derivative_to_a_few_ulp(spec):
    points = finite_points(spec)
    results = compute(get_activation(spec), points)
    with mpmath.workdps(50):
        for computed, reference, scale in zip(results, exact(spec), ERROR_SCALE[spec], strict=True):
            for z, value in zip(points.tolist(), computed.astype(np.float64).tolist(), strict=True):
                truth = reference(mpf(z))
                size = max(abs(truth), mpf(scale(z)), mpf(TINY))
                assert abs(mpf(value) - truth) <= ULP * EPS * size, f"z = {z!r}: {value!r}, not {truth}"


TAILS = {  # how far below 0 an activation keeps its digits, in float32 and float64; then e^−z overflows
    "sigmoid": (-87.0, -708.0),
    "silu": (-88.0, -709.0),
    "softplus": (-87.0, -708.0),
    "gelu": (-12.9, -37.4),
    "gelu_tanh": (-10.1, -21.0),
    "mish": (-87.0, -708.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", TAILS)
def test_digits_are_kept_far_below_0(spec, dtype):
    """Relatively: an error in the argument of exp counts as often as the argument is large."""
    points = np.linspace(TAILS[spec][dtype == np.float64], -1, 60).astype(dtype)
    a = get_activation(spec).f(XP, points)
    with mpmath.workdps(400):  # 1 + tanh u is 1e-301
        for z, value in zip(points.tolist(), a.tolist(), strict=True):
            truth = exact(spec)[0](mpf(z))
            assert abs(mpf(value) / truth - 1) <= 4 * max(1, -float(mp.log(abs(truth)))) * np.finfo(dtype).eps, z


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", SPECS)
def test_large_numbers_have_finite_derivatives(spec, dtype):
    z = np.array([-1e30, -1e19, -1e10, 1e10, 1e19, 1e30], dtype)
    activation = get_activation(spec)
    with np.errstate(over="ignore"):
        a = activation.f(XP, z)
        slope = activation.derivative(XP, a if activation.derivative_from == "a" else z)
    if spec != "exponential":
        assert np.isfinite(a).all() and np.isfinite(slope).all()


@pytest.mark.parametrize("spec", SPECS)
def test_derivative_against_the_complex_step(spec):
    """σ(z + ih) = σ(z) + ihσ′(z) to all digits for h = 1e-200: no difference is taken, nothing cancels."""
    activation = get_activation(spec)
    z = np.linspace(-12, 12, 400)  # an even number of points: none at 0, where some have a kink
    step = 1e-200
    a, derivative = compute(activation, z + 1j * step)
    np.testing.assert_allclose(a.imag / step, derivative.real, rtol=0, atol=1e-14 * max(1, derivative.max()))
    real_a, real_derivative = compute(activation, z)
    np.testing.assert_allclose(a.real, real_a, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(derivative.real, real_derivative, rtol=1e-14, atol=5e-14)


@pytest.mark.parametrize("spec", SPECS)
def test_scalar_expressions_say_the_same(spec):
    activation = get_activation(spec)
    f = scalar_function(activation.scalar_f, "z")
    slope = scalar_function(activation.scalar_derivative, activation.derivative_from)
    z = finite_points(spec)
    a, derivative = compute(activation, z)
    scalar_a = np.array([f(v) for v in z.tolist()])
    scalar_derivative = np.array([slope(v) for v in (a if activation.derivative_from == "a" else z).tolist()])
    np.testing.assert_allclose(scalar_a, a, rtol=8 * EPS, atol=8 * EPS)
    np.testing.assert_allclose(scalar_derivative, derivative.astype(np.float64), rtol=8 * EPS, atol=40 * EPS)


@pytest.mark.parametrize("spec", SPECS)
def test_not_a_number_is_handed_on(spec):
    """A diverging network is noticed by its loss: no activation may turn NaN into a number."""
    activation = get_activation(spec)
    assert np.isnan(activation.f(XP, np.array([np.nan]))).all()
    assert math.isnan(scalar_function(activation.scalar_f, "z")(math.nan))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_input_is_left_alone_and_its_dtype_and_shape_kept(spec, dtype):
    activation = get_activation(spec)
    z = np.linspace(-3, 3, 24).astype(dtype).reshape(2, 3, 4)
    z.setflags(write=False)
    a = activation.f(XP, z)
    derivative = activation.derivative(XP, a if activation.derivative_from == "a" else z)
    assert a.dtype == dtype and a.shape == z.shape and derivative.shape == z.shape
    assert derivative.dtype in (dtype, np.bool_)
    grad = np.full(z.shape, 2, dtype)
    grad.setflags(write=False)
    grad_z = activation.grad_z(XP, grad, z, a)
    np.testing.assert_array_equal(grad_z, 2 * derivative.astype(dtype))
    assert grad_z.dtype == dtype


@pytest.mark.parametrize("spec", SPECS)
def test_float32_is_finite_at_extreme_logits(spec):
    z = np.float32([-1e4, -100, -88, 0, 80, 88, *([] if spec == "exponential" else [100, 1e4])])
    a, derivative = compute(get_activation(spec), z)
    assert np.isfinite(a).all() and np.isfinite(derivative).all()


@pytest.mark.parametrize(
    "spec, torch_name, options",
    [
        ("sigmoid", "sigmoid", {}),
        ("tanh", "tanh", {}),
        ("relu", "relu", {}),
        ("leaky_relu(0.2)", "leaky_relu", {"negative_slope": 0.2}),
        ("elu(0.5)", "elu", {"alpha": 0.5}),
        ("selu", "selu", {}),
        ("softplus", "softplus", {"threshold": 1e9}),
        ("gelu", "gelu", {}),
        ("gelu_tanh", "gelu", {"approximate": "tanh"}),
        ("silu", "silu", {}),
        ("mish", "mish", {}),
    ],
)
def test_function_and_derivative_agree_with_torch(spec, torch_name, options):
    torch = pytest.importorskip("torch")
    z = torch.linspace(-20, 20, 81, dtype=torch.float64, requires_grad=True)  # 0 among them
    expected = getattr(torch.nn.functional, torch_name)(z, **options)
    expected.sum().backward()
    a, derivative = compute(get_activation(spec), z.detach().numpy())
    np.testing.assert_allclose(a, expected.detach().numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(derivative.astype(np.float64), z.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_hand_worked_numbers():
    at_zero = {
        "identity": (0, 1),
        "sigmoid": (0.5, 0.25),
        "tanh": (0, 1),
        "relu": (0, 0),
        "leaky_relu": (0, 0.01),
        "elu": (0, 1),
        "softplus": (math.log(2), 0.5),
        "gelu": (0, 0.5),
        "gelu_tanh": (0, 0.5),
        "silu": (0, 0.5),
        "mish": (0, 0.6),
        "exponential": (1, 1),
    }
    for name, numbers in at_zero.items():
        a, derivative = compute(get_activation(name), np.zeros(1))
        np.testing.assert_allclose([a[0], float(derivative[0])], numbers, rtol=1e-15, atol=1e-15)


def test_selu_keeps_mean_zero_and_variance_one():
    """The fixed point that defines λ and α: E σ(z) = 0 and E σ(z)² = 1 for z ~ N(0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    f = get_activation("selu")
    mean = square = 0.0
    for low in (-12, 0):  # the two sides of the kink
        z = low + 6 * (nodes + 1)
        density = 6 * weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        mean += (density * f.f(XP, z)).sum()
        square += (density * f.f(XP, z) ** 2).sum()
    np.testing.assert_allclose([mean, square], [0, 1], atol=1e-12)


EXTREME_ROWS = np.array([[0, 0, 0], [1, 2, 3], [1e4, -1e4, 0], [1e4, 1e4, 1e4], [-1e4, -1e4, 9e3], [700, 710, -745]])


@pytest.mark.parametrize("rows", [EXTREME_ROWS, EXTREME_ROWS + 0.3], ids=["whole", "fractions"])
def test_softmax_to_a_few_ulp(rows):
    probabilities = SOFTMAX.f(XP, rows)
    with mpmath.workdps(50):
        for z, computed in zip(rows.tolist(), probabilities.tolist(), strict=True):
            total = mpmath.fsum(mp.exp(mpf(v)) for v in z)
            for v, value in zip(z, computed, strict=True):
                truth = mp.exp(mpf(v)) / total
                assert abs(mpf(value) - truth) <= 4 * EPS * max(truth, mpf(TINY))
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=2 * EPS)


def test_softmax_leaves_its_input_alone_and_keeps_shape_and_dtype():
    z = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    z.setflags(write=False)
    a = SOFTMAX.f(XP, z)
    assert a.shape == z.shape and a.dtype == np.float32
    assert SOFTMAX.grad_z(XP, z, z, a).dtype == np.float32


def test_softmax_jacobian_against_the_complex_step():
    rng = np.random.default_rng(0)
    z, grad_a = rng.standard_normal((2, 5))
    steps = z + 1e-200j * np.eye(5)  # row j perturbs logit j
    expected = (SOFTMAX.f(XP, steps).imag / 1e-200) @ grad_a
    np.testing.assert_allclose(SOFTMAX.grad_z(XP, grad_a, z, SOFTMAX.f(XP, z)), expected, atol=1e-15)


def test_softmax_is_for_output_layers_only():
    assert get_output_activation("softmax") is SOFTMAX
    assert get_output_activation(SOFTMAX) is SOFTMAX
    assert get_output_activation("relu").name == "relu"
    with pytest.raises(UsageError, match="softmax"):
        get_activation("softmax")


@pytest.mark.parametrize(
    "spec, complaint",
    [
        ("leaky_relu(-0.1)", r"leaky_relu: slope=-0\.1 .*; use slope >= 0"),
        ("elu(alpha=-1)", r"elu: alpha=-1 .*; use alpha >= 0"),
    ],
)
def test_a_parameter_that_breaks_the_derivative_is_refused(spec, complaint):
    with pytest.raises(UsageError, match=complaint):
        get_activation(spec)


def test_every_activation_names_an_initializer():
    from gpubp.initializers import INITIALIZERS

    assert {get_activation(name).init for name in ACTIVATIONS} | {SOFTMAX.init} <= set(INITIALIZERS)


@pytest.mark.parametrize("spec", [*SPECS, "leaky_relu(0)"])
def test_bounds_are_the_least_and_the_largest_number_given(spec):
    activation = get_activation(spec)
    a = activation.f(XP, np.linspace(-60.0, 60.0, 120_001))
    for bound, reached in zip(activation.bounds, (a.min(), a.max()), strict=True):
        assert abs(reached - bound) < 1e-6 if np.isfinite(bound) else abs(reached) > 0.5
