"""Every loss against 50-digit arithmetic, the complex step, its own scalar expressions, and torch."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from gpubp.activations import ACTIVATIONS, SOFTMAX, get_activation
from gpubp.backends.reference import NumpyNamespace
from gpubp.errors import UsageError
from gpubp.losses import LOSSES, Loss, get_loss, with_output_activation
from support.scalar_expressions import scalar_function

XP = NumpyNamespace()
EPS, TINY = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
SPECS = [*LOSSES, "huber(delta=0.3)", "quantile(q=0.9)"]
ELEMENTWISE = [spec for spec in SPECS if spec != "cross_entropy"]
CLASSIFICATION = ["binary_cross_entropy", "cross_entropy"]
ON_VALUES = [spec for spec in SPECS if get_loss(spec).output_activation.name == "identity"]

LOGITS = [0.0, 1e-300, 1e-8, 0.3, 1.0, 2.5, 36.7, 40.0, 700.0, 750.0, 1e4]
LOGITS += [-z for z in LOGITS]
VALUES = [0.0, 1e-12, 0.1, 0.3, 1.0, 2.5, 12.0, -0.7, -3.0]
SMOOTHINGS = [0.0, 0.1, 1.0]


def sample(spec: str, rows: int = 6, outputs: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets that suit a loss; classes as one-hot rows."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.standard_normal((rows, outputs))
    if spec == "cross_entropy":
        return z, np.eye(outputs)[rng.integers(outputs, size=rows)]
    if spec == "binary_cross_entropy":
        return z, rng.integers(2, size=z.shape).astype(np.float64)
    if spec == "poisson":
        return z, rng.poisson(3, size=z.shape).astype(np.float64)
    return z, rng.standard_normal(z.shape)


def per_row(value: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The loss of each row, however far the formula has summed."""
    return value.sum(axis=-1) if value.ndim == z.ndim else value


# -- exact arithmetic -----------------------------------------------------------------------------------


def exact(spec: str, z, y, s):
    """Value, delta, and the size of the numbers that the formula adds for each."""
    e = z - y
    if spec == "half_squared_error":
        return e * e / 2, e, 0, 0
    if spec == "absolute_error":
        return abs(e), mp.sign(e), 0, 0
    if spec.startswith("huber"):
        d = mpf(0.3) if "(" in spec else mpf(1)
        return (e * e / 2, e, 0, 0) if abs(e) <= d else (d * (abs(e) - d / 2), d * mp.sign(e), 0, 0)
    if spec.startswith("quantile"):
        q = mpf(0.9) if "(" in spec else mpf(0.5)
        return max(-q * e, (1 - q) * e), 0 if e == 0 else (1 - q if e > 0 else -q), 0, 0
    if spec == "poisson":
        return mp.exp(z) - y * z, mp.exp(z) - y, max(mp.exp(z), abs(y * z)), max(mp.exp(z), y)
    t = y + s * (mpf(0.5) - y)
    value = t * mp.log1p(mp.exp(-z)) + (1 - t) * mp.log1p(mp.exp(z))
    return value, 1 / (1 + mp.exp(-z)) - t, abs(z) if s else 0, 1


def grid(spec: str) -> list[tuple[float, float, float]]:
    if spec == "binary_cross_entropy":
        return list(itertools.product(LOGITS, [0.0, 1.0], SMOOTHINGS))
    if spec == "poisson":
        return list(itertools.product([z for z in LOGITS if z <= 700], [0.0, 1.0, 17.0], [0.0]))
    return list(itertools.product([*VALUES, 1e6, -1e6], VALUES, [0.0]))


@pytest.mark.parametrize("spec", ELEMENTWISE)
def test_value_and_delta_to_a_few_ulp(spec):
    """Without smoothing, the loss of a well-classified example is accurate to its last digits too."""
    points = grid(spec)
    z, y, s = np.array(points).T[:, :, None]
    value, delta = get_loss(spec).formula(XP, z, y, s)
    with mpmath.workdps(50):
        for point, v, d in zip(points, value.ravel().tolist(), delta.ravel().tolist(), strict=True):
            true_value, true_delta, value_size, delta_size = exact(spec, *map(mpf, point))
            bound = 4 * EPS * max(abs(true_value), value_size, mpf(TINY))
            assert abs(mpf(v) - true_value) <= bound, f"z, y, s = {point}: {v!r}, not {true_value}"
            bound = 4 * EPS * max(abs(true_delta), delta_size, mpf(TINY))
            assert abs(mpf(d) - true_delta) <= bound, f"z, y, s = {point}: {d!r}, not {true_delta}"


ROWS = [
    [0.0, 0.0, 0.0],
    [1.0, 2.0, 3.0],
    [1e4, -1e4, 0.0],
    [-1e4, 1e4, 1e4],
    [-1e4, -1e4, -1e4],
    [40.0, 0.0, -40.0],
    [0.1, 0.1 + 1e-9, 0.1],
    [700.0, 710.0, -745.0],
    [1e-300, -1e-300, 0.0],
]


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("s", SMOOTHINGS)
def test_cross_entropy_to_a_few_ulp(s, target):
    """Errors are relative to the spread of the logits, from which the largest is subtracted."""
    z, y = np.array(ROWS), np.full(len(ROWS), target)
    value, delta = get_loss("cross_entropy").formula(XP, z, y, s)
    with mpmath.workdps(50):
        for row, v, d in zip(ROWS, value.tolist(), delta.tolist(), strict=True):
            e = [mp.exp(mpf(x)) for x in row]
            t = [(1 - mpf(s)) * (j == target) + mpf(s) / 3 for j in range(3)]
            true_value = mp.log(mpmath.fsum(e)) - mpmath.fdot(t, map(mpf, row))
            assert abs(mpf(v) - true_value) <= 4 * EPS * max(1, max(row) - min(row)), row
            for computed, e_j, t_j in zip(d, e, t, strict=True):
                assert abs(mpf(computed) - (e_j / mpmath.fsum(e) - t_j)) <= 4 * EPS, row


# -- derivatives ----------------------------------------------------------------------------------------


def complex_step_delta(loss: Loss, z: np.ndarray, y: np.ndarray, s) -> np.ndarray:
    """∂C/∂z of every row, one output at a time, without taking a difference."""
    columns = []
    for j in range(z.shape[-1]):
        step = np.zeros(z.shape, np.complex128)
        step[..., j] = 1e-200j
        value, _ = loss.formula(XP, z + step, y, s)
        columns.append(per_row(value, z).imag / 1e-200)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("s", SMOOTHINGS)
@pytest.mark.parametrize("spec", SPECS)
def test_delta_is_the_derivative_of_the_value(spec, s):
    loss = get_loss(spec)
    z, y = sample(spec)
    _, delta = loss.formula(XP, z, y, s)
    np.testing.assert_allclose(delta, complex_step_delta(loss, z, y, s), rtol=1e-14, atol=1e-14)
    _, complex_delta = loss.formula(XP, z.astype(np.complex128), y, s)
    np.testing.assert_allclose(complex_delta, delta, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("output", [*ACTIVATIONS, "softmax"])
@pytest.mark.parametrize("spec", ON_VALUES)
def test_a_loss_on_values_goes_through_any_output_activation(spec, output):
    activation = SOFTMAX if output == "softmax" else get_activation(output)
    loss = with_output_activation(get_loss(spec), activation)
    z, y = sample(spec)
    value, delta = loss.formula(XP, z, y, 0.0)
    np.testing.assert_allclose(delta, complex_step_delta(loss, z, y, 0.0), rtol=1e-13, atol=1e-13)
    expected, _ = get_loss(spec).formula(XP, activation.f(XP, z), y, 0.0)
    np.testing.assert_array_equal(value, expected)
    assert loss.output_activation.name == output and loss.name == spec


def test_squared_error_with_sigmoid_is_slow_where_cross_entropy_is_not():
    """Nielsen, chapter 3: at z = 10 with target 0 the one gradient is 4.5e-5, the other nearly 1."""
    z, y = np.array([[10.0]]), np.array([[0.0]])
    a = 1 / (1 + math.exp(-10))
    slow = with_output_activation(get_loss("half_squared_error"), get_activation("sigmoid")).formula(XP, z, y, 0.0)[1]
    fast = get_loss("binary_cross_entropy").formula(XP, z, y, 0.0)[1]
    np.testing.assert_allclose([slow[0, 0], fast[0, 0]], [a * a * (1 - a), a], rtol=1e-12)


def test_a_loss_with_its_own_output_activation_is_itself():
    for name in LOSSES:
        assert with_output_activation(get_loss(name), get_loss(name).output_activation).name == name


@pytest.mark.parametrize(
    "name, output",
    [
        ("cross_entropy", "sigmoid"),
        ("binary_cross_entropy", "identity"),
        ("poisson", "relu"),
    ],
)
def test_a_loss_on_logits_keeps_its_output_activation(name, output):
    with pytest.raises(UsageError, match=f'loss "{name}".*"{output}" cannot replace it.*half_squared_error'):
        with_output_activation(get_loss(name), get_activation(output))


# -- scalar expressions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ELEMENTWISE)
def test_scalar_expressions_say_the_same(spec):
    loss = get_loss(spec)
    points = grid(spec)
    z, y, s = np.array(points).T
    value, delta = loss.formula(XP, z, y, s)
    scalar_value = scalar_function(loss.scalar_value, "z", "y", "s")
    scalar_delta = scalar_function(loss.scalar_delta, "z", "y", "s")
    np.testing.assert_allclose([scalar_value(*p) for p in points], value, rtol=8 * EPS, atol=TINY)
    np.testing.assert_allclose([scalar_delta(*p) for p in points], delta, rtol=8 * EPS, atol=EPS)


def test_several_quantiles_are_each_the_loss_of_its_own():
    """Formula, scalar expressions, and with another output activation: column j is of the j-th quantile."""
    quantiles = (0.1, 0.5, 0.9, 0.25)
    loss = get_loss(f"quantile{quantiles}")
    assert loss.quantiles == with_output_activation(loss, get_activation("sigmoid")).quantiles == quantiles
    z, y, s = np.array(grid("quantile")).T[:, :, None] * np.ones((1, 1, len(quantiles)))
    value, delta = loss.formula(XP, z, y, s)
    scalars = [scalar_function(text, "z", "y", "s", "j") for text in (loss.scalar_value, loss.scalar_delta)]
    for j, q in enumerate(quantiles):
        for found, expected in zip((value, delta), get_loss(f"quantile({q})").formula(XP, z, y, s), strict=True):
            np.testing.assert_array_equal(found[:, j], expected[:, j])
        for found, scalar in zip((value, delta), scalars, strict=True):
            points = zip(z[:, j].tolist(), y[:, j].tolist(), s[:, j].tolist(), strict=True)
            np.testing.assert_allclose([scalar(*p, j) for p in points], found[:, j], rtol=8 * EPS, atol=EPS)
    assert loss.formula(XP, z.astype(np.float32), y.astype(np.float32), 0.0)[1].dtype == np.float32


@pytest.mark.parametrize("arguments", ["0.1, 1.0", "0.1, [0.5]", "'a', 0.5", "0, 0.5"])
def test_a_quantile_lies_between_0_and_1(arguments):
    with pytest.raises(UsageError, match="quantile"):
        get_loss(f"quantile({arguments})")


def test_only_the_row_wise_loss_has_none():
    assert [name for name in LOSSES if get_loss(name).scalar_value is None] == ["cross_entropy"]
    assert [name for name in LOSSES if get_loss(name).scalar_delta is None] == ["cross_entropy"]


@pytest.mark.parametrize("spec", SPECS)
def test_not_a_number_is_handed_on(spec):
    loss = get_loss(spec)
    z, y = sample(spec)
    z[2, 1] = np.nan
    value, delta = loss.formula(XP, z, y, 0.0)
    assert np.isnan(per_row(value, z)).tolist() == [row == 2 for row in range(len(z))]
    assert np.isnan(delta[2, 1])
    if loss.scalar_value and loss.scalar_delta:
        assert math.isnan(scalar_function(loss.scalar_value, "z", "y", "s")(math.nan, 1.0, 0.0))
        assert math.isnan(scalar_function(loss.scalar_delta, "z", "y", "s")(math.nan, 1.0, 0.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_that_is_sure_has_a_loss_all_the_same(dtype):
    """ln(1 + e^−40) is 4e-18, and not the 0 that ln(1 + 4e-18) is."""
    z, truth = np.array([[40.0, 0.0, -80.0], [0.0, 39.0, 3.0]], dtype), np.array([0, 1])
    expected = [np.log1p(np.exp(-40.0)), np.log1p(np.exp(-39.0) + np.exp(-36.0))]
    for y in (truth, np.eye(3, dtype=dtype)[truth]):
        value, _ = get_loss("cross_entropy").formula(XP, z, y, 0.0)
        np.testing.assert_allclose(value, expected, rtol=4 * np.finfo(dtype).eps)
    value, _ = get_loss("binary_cross_entropy").formula(XP, np.array([[40.0], [-40.0]], dtype), truth[::-1, None], 0.0)
    np.testing.assert_allclose(value[:, 0], expected[0], rtol=4 * np.finfo(dtype).eps)


def test_losses_overflow_where_the_truth_does_and_not_before():
    z = np.array([[1e308, -1e308]])
    with np.errstate(all="ignore"):
        value, delta = get_loss("quantile(0.25)").formula(XP, z, -z, 0.0)
        np.testing.assert_allclose(value, [[1.5e308, 5e307]])
        np.testing.assert_array_equal(delta, [[0.75, -0.25]])
        value, _ = get_loss("poisson").formula(XP, np.array([[800.0, 2.0]]), np.array([[1e306, 1.0]]), 0.0)
    np.testing.assert_allclose(value, [[np.inf, np.exp(2.0) - 2]])


# -- torch ----------------------------------------------------------------------------------------------


def torch_loss(functional, spec: str, z, y, s: float):
    """The sum over all rows of what torch calls the same loss."""
    if spec == "half_squared_error":
        return functional.mse_loss(z, y, reduction="sum") / 2
    if spec == "absolute_error":
        return functional.l1_loss(z, y, reduction="sum")
    if spec.startswith("huber"):
        return functional.huber_loss(z, y, reduction="sum", delta=0.3 if "(" in spec else 1.0)
    if spec == "poisson":
        return functional.poisson_nll_loss(z, y, log_input=True, full=False, reduction="sum")
    if spec == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(z, y * (1 - s) + s / 2, reduction="sum")
    return functional.cross_entropy(z, y.argmax(dim=-1), label_smoothing=s, reduction="sum")


@pytest.mark.parametrize(
    "spec, s",
    [
        *((spec, 0.0) for spec in SPECS if not spec.startswith("quantile")),
        *((spec, s) for spec in CLASSIFICATION for s in (0.1, 0.5)),
    ],
)
def test_value_and_delta_agree_with_torch(spec, s):
    torch = pytest.importorskip("torch")
    z, y = sample(spec, rows=50)
    if spec in CLASSIFICATION:
        z[::5] *= 1000  # logits in the thousands, right and wrong
    logits = torch.tensor(z, requires_grad=True)
    expected = torch_loss(torch.nn.functional, spec, logits, torch.tensor(y), s)
    expected.backward()
    value, delta = get_loss(spec).formula(XP, z, y, s)
    np.testing.assert_allclose(value.sum(), expected.item(), rtol=1e-13)
    np.testing.assert_allclose(delta, logits.grad.numpy(), rtol=1e-12, atol=1e-14)


# -- targets, shapes, memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3)], ids=["one", "stack"])
@pytest.mark.parametrize("s", [0.0, 0.1, 1.0, "per network"])
def test_integer_classes_mean_one_hot_rows(s, shape):
    rng = np.random.default_rng(0)
    z, classes = 5 * rng.standard_normal(shape), rng.integers(3, size=shape[:-1])
    if s == "per network":
        s = np.linspace(0, 0.3, z.size // 15).reshape(-1, 1, 1) if z.ndim == 3 else np.array([[0.2]])
    formula = get_loss("cross_entropy").formula
    value, delta = formula(XP, z, classes, s)
    one_hot_value, one_hot_delta = formula(XP, z, np.eye(3)[classes], s)
    np.testing.assert_allclose(value, one_hot_value, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(delta, one_hot_delta, rtol=1e-14, atol=1e-15)
    assert value.shape == shape[:-1]


@pytest.mark.parametrize("spec", CLASSIFICATION)
def test_a_stack_with_its_own_smoothings_is_its_networks_one_by_one(spec):
    z, y = sample(spec, rows=12)
    z, y, s = z.reshape(3, 4, 4), y.reshape(3, 4, 4), np.array([0.0, 0.1, 0.5])
    value, delta = get_loss(spec).formula(XP, z, y, s[:, None, None])
    for k in range(3):
        alone, alone_delta = get_loss(spec).formula(XP, z[k], y[k], s[k])
        np.testing.assert_array_equal(value[k], alone)
        np.testing.assert_array_equal(delta[k], alone_delta)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec, integers", [*((spec, False) for spec in SPECS), ("cross_entropy", True)])
def test_input_is_left_alone_and_its_dtype_and_shape_kept(spec, integers, dtype):
    z, y = sample(spec)
    z, y = z.astype(dtype).reshape(2, 3, 4), y.astype(dtype).reshape(2, 3, 4)
    y = y.argmax(axis=-1) if integers else y
    z.setflags(write=False)
    y.setflags(write=False)
    value, delta = get_loss(spec).formula(XP, z, y, dtype(0.1) if get_loss(spec).classification else 0.0)
    assert value.dtype == delta.dtype == dtype
    assert delta.shape == z.shape and value.shape in (z.shape, z.shape[:-1])
    assert delta.flags.writeable


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("s", SMOOTHINGS)
@pytest.mark.parametrize("spec", CLASSIFICATION)
def test_finite_logits_give_finite_losses(spec, s, dtype):
    """Nothing overflows either: a floating-point warning would fail this test."""
    z = np.array([list(row) for row in itertools.product(LOGITS[::2], repeat=2)], dtype)
    for column in (0, 1):
        y = np.zeros_like(z)
        y[:, column] = 1
        value, delta = get_loss(spec).formula(XP, z, y, s)
        assert np.isfinite(value).all() and np.isfinite(delta).all()
        assert (value >= 0).all() and (np.abs(delta) <= 1).all()


# -- hand-worked numbers and records --------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, z, y, s, value, delta",
    [
        ("half_squared_error", 3, 1, 0, 2, 2),
        ("absolute_error", 1, 3, 0, 2, -1),
        ("absolute_error", 3, 3, 0, 0, 0),
        ("huber", 1.5, 1, 0, 0.125, 0.5),
        ("huber", 5, 1, 0, 3.5, 1),
        ("huber(2)", -4, 1, 0, 8, -2),
        ("quantile", 1, 3, 0, 1, -0.5),
        ("quantile(0.9)", 1, 3, 0, 1.8, -0.9),
        ("quantile(0.9)", 3, 1, 0, 0.2, 0.1),
        ("quantile(0.9)", 3, 3, 0, 0, 0),
        ("poisson", 0, 3, 0, 1, -2),
        ("binary_cross_entropy", 0, 1, 0, math.log(2), -0.5),
        ("binary_cross_entropy", math.log(3), 1, 0, math.log(4 / 3), -0.25),
        ("binary_cross_entropy", math.log(3), 0, 0.2, math.log(4) - 0.1 * math.log(3), 0.65),
    ],
)
def test_hand_worked_numbers(spec, z, y, s, value, delta):
    computed = get_loss(spec).formula(XP, np.array([[float(z)]]), np.array([[float(y)]]), s)
    np.testing.assert_allclose(np.ravel(computed), [value, delta], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("y", [np.array([2]), np.array([[0.0, 0.0, 1.0]])], ids=["integer", "one-hot"])
def test_hand_worked_cross_entropy(y):
    z = np.log([[1.0, 2.0, 5.0]])  # probabilities 1/8, 2/8, 5/8
    value, delta = get_loss("cross_entropy").formula(XP, z, y, 0.0)
    np.testing.assert_allclose(value, [math.log(8 / 5)], rtol=1e-14)
    np.testing.assert_allclose(delta, [[1 / 8, 2 / 8, -3 / 8]], rtol=1e-14)
    value, delta = get_loss("cross_entropy").formula(XP, z, y, 0.3)  # targets 0.1, 0.1, 0.8
    np.testing.assert_allclose(value, [math.log(8) - 0.1 * math.log(2) - 0.8 * math.log(5)], rtol=1e-14)
    np.testing.assert_allclose(delta, [[0.025, 0.15, -0.175]], rtol=1e-14)


def test_the_quantile_minimizes_its_loss():
    y = np.sort(np.random.default_rng(0).exponential(size=(1001, 1)), axis=0)
    candidates = [get_loss("quantile(0.9)").formula(XP, np.full_like(y, z), y, 0.0)[0].sum() for z in y[:, 0]]
    assert int(np.argmin(candidates)) == 900


@pytest.mark.parametrize("y", [np.array([[0, 2, 1, 1, 0]]), np.eye(3)[[[0, 2, 1, 1, 0]]]], ids=["integer", "rows"])
def test_accuracy_of_classes(y):
    logits = np.array([[[3.0, 1, 2], [0, 0, 1], [5, 4, 3], [-1, 0, -1], [0, 1, 0]]])
    metric = get_loss("cross_entropy").metric
    rows = metric.per_row(XP, logits, lambda: None, y)
    assert rows.tolist() == [[True, True, False, True, False]]
    assert metric.name == "accuracy" and metric.finish(rows.mean()) == 0.6


def test_accuracy_of_labels_is_their_mean():
    metric = get_loss("binary_cross_entropy").metric
    rows = metric.per_row(XP, np.array([[1.0, -1], [2, 2]]), lambda: None, np.array([[1.0, 0], [1, 0]]))
    assert rows.tolist() == [1, 0.5] and metric.name == "accuracy"


def test_rmse_is_that_of_outputs_not_logits():
    metric = get_loss("poisson").metric
    output = np.array([[3.0, 4.0], [0.0, 0.0]])
    rows = metric.per_row(XP, np.log(output + 1), lambda: output, np.zeros((2, 2)))
    assert metric.name == "rmse" and metric.finish(rows.mean()) == pytest.approx(2.5)


def test_records_say_what_their_targets_are():
    assert [name for name in LOSSES if get_loss(name).classification] == CLASSIFICATION
    assert [name for name in LOSSES if get_loss(name).integer_targets] == ["cross_entropy"]
    assert get_loss("poisson").targets == (0, math.inf)
    assert get_loss("binary_cross_entropy").targets == get_loss("cross_entropy").targets == (0, 1)


@pytest.mark.parametrize(
    "spec, complaint",
    [
        ("huber(0)", "huber: delta=0 does not fit; use delta > 0, such as 1.0"),
        ("huber(delta=-1)", "huber: delta=-1 does not fit; use delta > 0, such as 1.0"),
        ("quantile(0)", "quantile: q=0 does not fit; use 0 < q < 1, such as 0.9"),
        ("quantile(1.0)", "quantile: q=1 does not fit; use 0 < q < 1, such as 0.9"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, complaint):
    with pytest.raises(UsageError) as caught:
        get_loss(spec)
    assert str(caught.value) == complaint
