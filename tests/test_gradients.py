"""Whole-network gradients against the complex step, PyTorch, and deliberate mistakes.

The complex step, ∂C/∂θ = Im C(θ + ih)/h with h = 1e-200, has no subtraction in it and shares no formula
with the backward pass: it is exact to rounding. Errors are normwise, ‖g − g*‖ / ‖g*‖.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, product

import numpy as np
import pytest

from gpubp import MLP, Activation, UsageError, check_gradients
from gpubp.activations import ACTIVATIONS, get_activation
from gpubp.backends.reference import ReferenceBackend
from gpubp.diagnostics import complex_step
from gpubp.losses import LOSSES, get_loss
from support.machines import by_tier, host, in_float64

WHOLE = 1e-13  # for the gradient of the whole network
WORST = 1e-12  # for each of its tensors, which may be small beside the rest and left over from cancellation
ROWS, INPUTS, WIDTH, OUTPUTS = 4, 2, 3, 3
DEPTHS = (1, 2, 4)  # hidden layers
VARIANTS = {
    "plain": {},
    "l2": {"l2": 0.7},
    "sample weights": {"sample_weight": np.array([1.0, 0.0, 2.5, 0.3])},
    "dropout": {"dropout": 0.3},
}


# A record that is changed runs by its array formulas alone.
UNFUSED = {"scalar_f": None, "scalar_derivative": None}
UNFUSED_LOSS = {"scalar_value": None, "scalar_delta": None, "row_loop": None, "values": None}


def smoothed(name: str):
    """A classification loss with label smoothing 0.2 built in: `gradients` has no argument for it."""
    loss = get_loss(name)
    return replace(loss, formula=lambda xp, z, y, s: loss.formula(xp, z, y, s + 0.2), **UNFUSED_LOSS)


# name -> loss, output activation, kind of targets. Every loss of the registry, and those on values through
# the output activations that are not their own.
CASES = {
    **{name: (name, "auto", "values") for name in LOSSES},
    "huber(delta=0.3)": ("huber(delta=0.3)", "auto", "values"),
    "quantile(q=0.9)": ("quantile(q=0.9)", "auto", "values"),
    "quantile(0.1, 0.5, 0.9)": ("quantile(0.1, 0.5, 0.9)", "auto", "values"),
    "quantile(0.1, 0.5, 0.9), softmax": ("quantile(0.1, 0.5, 0.9)", "softmax", "distributions"),
    "poisson": ("poisson", "auto", "counts"),
    "binary_cross_entropy": ("binary_cross_entropy", "auto", "labels"),
    "binary_cross_entropy, smoothed": (smoothed("binary_cross_entropy"), "auto", "labels"),
    "cross_entropy": ("cross_entropy", "auto", "classes"),
    "cross_entropy, smoothed": (smoothed("cross_entropy"), "auto", "classes"),
    "cross_entropy, distributions": ("cross_entropy", "auto", "distributions"),
    "cross_entropy, distributions, smoothed": (smoothed("cross_entropy"), "auto", "distributions"),
    "half_squared_error, sigmoid": ("half_squared_error", "sigmoid", "labels"),
    "half_squared_error, softmax": ("half_squared_error", "softmax", "distributions"),
    "half_squared_error, tanh": ("half_squared_error", "tanh", "values"),
    "half_squared_error, gelu": ("half_squared_error", "gelu", "values"),
    "absolute_error, sigmoid": ("absolute_error", "sigmoid", "labels"),
    "absolute_error, softmax": ("absolute_error", "softmax", "distributions"),
    "huber, sigmoid": ("huber(delta=0.3)", "sigmoid", "labels"),
    "huber, softmax": ("huber(delta=0.3)", "softmax", "distributions"),
    "quantile, softplus": ("quantile(q=0.9)", "softplus", "values"),
}


def targets(kind: str, rows: int = ROWS, outputs: int = OUTPUTS, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "classes":
        return rng.integers(outputs, size=rows)
    if kind == "labels":
        return rng.integers(2, size=(rows, outputs))
    if kind == "counts":
        return rng.poisson(2, size=(rows, outputs))
    y = rng.standard_normal((rows, outputs))
    return np.exp(y) / np.exp(y).sum(axis=1, keepdims=True) if kind == "distributions" else y


def inputs(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((rows, INPUTS))


def network(activation, case: str, depth: int, precision: str = "float64", width: int = WIDTH, make=MLP) -> MLP:
    """A network with weights small enough for a tower of exponentials and biases that are not zero.

    It is on the reference backend, or on that of the fixture `mlp`, given as `make`.
    """
    loss, output, _ = CASES[case]
    net = make(
        [INPUTS, *[width] * depth, OUTPUTS], activation, loss, "standard_normal", seed=1, device="cpu-reference",
        precision=precision, output_activation=output,
    )  # fmt: skip
    net.theta *= 0.45
    return net


def exact_gradient(net: MLP, X, y, sample_weight=None, l2=0.0, dropout=0.0) -> list[np.ndarray]:
    """The complex-step derivative of every tensor: all perturbations of the network are one stack."""
    places = [np.arange(start, stop) for _, start, stop in net.stack.layout.names()]
    batch = net.stack.checked(X, y, sample_weight)
    derivative = complex_step(net.stack, np.concatenate(places), batch, l2, dropout)
    return np.split(derivative, np.cumsum([len(place) for place in places])[:-1])


def tensors(grads) -> list[np.ndarray]:
    """∂C/∂θ tensor by tensor, flattened."""
    return [host(g).ravel().astype(np.float64) for part in grads for g in part]


def error(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Of the worst tensor; where the exact gradient is zero, so must the other be."""
    return max(
        float(np.linalg.norm(f - e)) / (np.linalg.norm(e) or np.finfo(float).tiny)
        for f, e in zip(found, exact, strict=True)
    )


def assert_exact(found: list[np.ndarray], exact: list[np.ndarray], where: str = "") -> None:
    whole = error([np.concatenate(found)], [np.concatenate(exact)])
    assert whole <= WHOLE, f"{where}: error {whole:.1e} of the whole gradient"
    worst = error(found, exact)
    assert worst <= WORST, f"{where}: error {worst:.1e} of a tensor"


# Each activation, case and depth, in pairs: the grid for every other backend, and for this one by default.
PAIRS = list(zip(cycle(ACTIVATIONS), CASES, cycle(DEPTHS), strict=False))
GRID = by_tier(product(ACTIVATIONS, CASES), {(activation, case) for activation, case, _ in PAIRS}.__contains__)


# -- the grid ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, case", GRID)
def test_gradients_are_exact(activation, case):
    X, y = inputs(), targets(CASES[case][2])
    for depth in DEPTHS:
        net = network(activation, case, depth)
        for variant, settings in VARIANTS.items():
            _, grads = net.gradients(X, y, **settings)
            if variant == "plain":  # the comparison would be empty if a tensor's gradient were zero
                assert all(g.any() for g in tensors(grads))
            assert_exact(tensors(grads), exact_gradient(net, X, y, **settings), f"depth {depth}, {variant}")


@pytest.mark.parametrize("activation, case, depth", PAIRS)
def test_every_backend_has_the_gradients(mlp, activation, case, depth):
    X, y = inputs(), targets(CASES[case][2])
    net = network(activation, case, depth, make=mlp)
    for variant, settings in VARIANTS.items():
        _, grads = net.gradients(X, y, **settings)
        exact = exact_gradient(net, X, y, **settings)
        if net.precision == "float64":
            assert_exact(tensors(grads), exact, variant)
        else:
            assert error(tensors(grads), exact) <= 1e-5, variant


def test_the_pairs_leave_nothing_out():
    assert {activation for activation, _, _ in PAIRS} == set(ACTIVATIONS)
    assert [case for _, case, _ in PAIRS] == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_exact_without_a_hidden_layer(case):
    X, y = inputs(), targets(CASES[case][2])
    net = network("relu", case, depth=0)
    for variant, settings in VARIANTS.items():
        _, grads = net.gradients(X, y, **settings)
        assert_exact(tensors(grads), exact_gradient(net, X, y, **settings), variant)


@in_float64
def test_gradients_are_exact_with_everything_at_once_and_mixed_activations(mlp):
    X, y = inputs(), targets("classes")
    net = network(["gelu", "leaky_relu(0.2)", "elu(0.5)"], "cross_entropy", depth=3, make=mlp)
    settings = {"l2": 0.3, "dropout": 0.4, "sample_weight": np.arange(4.0)}
    _, grads = net.gradients(X, y, **settings)
    assert_exact(tensors(grads), exact_gradient(net, X, y, **settings))


# -- the test of the test ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_relative_error_of_1e_10_in_one_slope_is_caught(activation):
    """In the derivative of one hidden layer of four; the same network without it passes."""
    X, y = inputs(), targets("classes")
    right = get_activation(activation)
    wrong = replace(right, derivative=lambda xp, x: right.derivative(xp, x) * (1 + 1e-10), **UNFUSED)
    net = network([right, right, wrong, right], "cross_entropy", depth=4)
    _, grads = net.gradients(X, y)
    assert error(tensors(grads), exact_gradient(net, X, y)) > 10 * WORST


@pytest.mark.parametrize("case", CASES)
def test_a_relative_error_of_1e_10_in_bp1_is_caught(case):
    X, y = inputs(), targets(CASES[case][2])
    net = network("tanh", case, depth=1)
    right = net.loss

    def formula(xp, z, y, smoothing):
        value, delta = right.formula(xp, z, y, smoothing)
        return value, delta * (1 + 1e-10)

    net.stack.loss = replace(right, formula=formula, **UNFUSED_LOSS)
    net.stack.network = replace(net.stack.network, loss=net.stack.loss)
    _, grads = net.gradients(X, y)
    assert error(tensors(grads), exact_gradient(net, X, y)) > 10 * WORST


def test_a_relative_error_of_1e_10_in_one_entry_is_caught():
    X, y = inputs(), targets("classes")
    net = network("tanh", "cross_entropy", depth=2)
    gradient, exact = tensors(net.gradients(X, y)[1]), exact_gradient(net, X, y)
    assert_exact(gradient, exact)
    gradient[0][np.argmax(np.abs(gradient[0]))] *= 1 + 1e-10
    assert error(gradient, exact) > 10 * WORST


# -- precision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation, case", GRID)
def test_float32_gradients_agree_with_float64(activation, case):
    X, y = inputs().astype(np.float32), targets(CASES[case][2])
    single, double = network(activation, case, 2, "float32"), network(activation, case, 2)
    double.theta[...] = double.stack.backend.from_host(host(single.theta))
    loss, grads = single.gradients(X, y)
    true_loss, true_grads = double.gradients(X, y)
    assert grads.weights[0].dtype == np.float32
    assert loss == pytest.approx(true_loss, rel=1e-5)
    assert error(tensors(grads), tensors(true_grads)) <= 1e-5


# -- PyTorch as a second oracle ---------------------------------------------------------------------------


def torch_loss(torch, case: str, z, y):
    """C per row, from PyTorch's own losses, on logits."""
    nn = torch.nn.functional
    name = case.split(",")[0]
    a = {"sigmoid": torch.sigmoid, "softmax": lambda z: torch.softmax(z, 1), "tanh": torch.tanh,
         "gelu": nn.gelu, "softplus": nn.softplus}.get(CASES[case][1], lambda z: z)(z)  # fmt: skip
    smoothing = 0.2 if "smoothed" in case else 0.0
    if name == "cross_entropy":
        return nn.cross_entropy(z, y, reduction="none", label_smoothing=smoothing)
    if name == "binary_cross_entropy":
        y = y + smoothing * (0.5 - y)
        return nn.binary_cross_entropy_with_logits(z, y, reduction="none").sum(1)
    if name == "poisson":
        return nn.poisson_nll_loss(z, y, reduction="none").sum(1)
    if name == "half_squared_error":
        return 0.5 * nn.mse_loss(a, y, reduction="none").sum(1)
    if name == "absolute_error":
        return nn.l1_loss(a, y, reduction="none").sum(1)
    if name.startswith("huber"):
        delta = 0.3 if case != "huber" else 1.0
        return nn.huber_loss(a, y, reduction="none", delta=delta).sum(1)
    q = 0.9 if case != "quantile" else 0.5
    return torch.maximum(q * (y - a), (q - 1) * (y - a)).sum(1)


@pytest.mark.parametrize("case", CASES)
def test_torch_finds_the_same_loss_and_gradient(case):
    torch = pytest.importorskip("torch")
    hidden = {"tanh": torch.tanh, "silu": torch.nn.functional.silu}
    X, y = inputs(), targets(CASES[case][2])
    net = network(list(hidden), case, depth=2)
    weight = VARIANTS["sample weights"]["sample_weight"]
    loss, grads = net.gradients(X, y, weight, l2=0.3)

    parameters = [torch.tensor(host(p), requires_grad=True) for p in (*net.weights, *net.biases)]
    W, b = parameters[:3], parameters[3:]
    a = torch.tensor(X)
    for l, f in enumerate(hidden.values()):
        a = f(a @ W[l] + b[l])
    truth = torch.tensor(y if CASES[case][2] == "classes" else y.astype(np.float64))
    rows = torch_loss(torch, case, a @ W[2] + b[2], truth)
    total = (rows * torch.tensor(weight)).sum() / weight.sum() + 0.15 * sum((w**2).sum() for w in W)
    total.backward()

    assert loss == pytest.approx(total.item(), rel=1e-13)
    assert_exact(tensors(grads), [p.grad.numpy().ravel() for p in parameters])


# -- what users call --------------------------------------------------------------------------------------


def test_check_gradients_reports_every_tensor_and_approves(mlp):
    net = network("gelu", "cross_entropy", 2, make=mlp)
    check = check_gradients(net, inputs(), targets("classes"), sample_weight=np.arange(1.0, 5), l2=0.1, dropout=0.2)
    assert list(check.errors) == ["weights.0", "weights.1", "weights.2", "biases.0", "biases.1", "biases.2"]
    assert check.ok and max(check.errors.values()) <= check.tolerance
    assert str(check).splitlines()[0].startswith("weights.0")
    assert "gradients are right" in str(check)


@in_float64
def test_check_gradients_names_the_tensors_behind_a_wrong_derivative(mlp):
    """A record of one's own whose σ′ forgets a factor: what lies above the layer is right, the rest is not."""
    wrong = Activation("my_square", lambda xp, z: z * z, lambda xp, z: z, "z")
    net = network(["tanh", wrong], "half_squared_error", depth=2, make=mlp)
    check = check_gradients(net, inputs(), targets("values"))
    assert not check.ok
    wrongs = {name for name, value in check.errors.items() if value > check.tolerance}
    assert wrongs == {"weights.0", "weights.1", "biases.0", "biases.1"}
    assert "GRADIENTS ARE WRONG" in str(check) and "5.0e-01" in str(check)
    assert check.errors["weights.1"] == pytest.approx(0.5)


def test_check_gradients_approves_a_right_record_of_ones_own(mlp):
    square = Activation("my_square", lambda xp, z: z * z, lambda xp, z: 2 * z, "z")
    net = network(square, "half_squared_error", depth=2, make=mlp)
    assert check_gradients(net, inputs(), targets("values")).ok


def test_check_gradients_samples_large_tensors():
    net = network("tanh", "cross_entropy", depth=1, width=400)
    assert check_gradients(net, inputs(), targets("classes"), per_tensor=10).ok


def test_check_gradients_changes_nothing():
    net = network("tanh", "cross_entropy", depth=1)
    before = host(net.theta).copy()
    check_gradients(net, inputs(), targets("classes"))
    np.testing.assert_array_equal(host(net.theta), before)


def test_check_gradients_refuses_a_stack_by_name():
    net = MLP([3, 2], models=2)
    with pytest.raises(UsageError, match="single network; this is a stack of 2"):
        check_gradients(net, inputs(), targets("classes", outputs=2))


def test_a_zero_gradient_is_not_a_wrong_one():
    """A dead layer: all its gradients are exactly zero, and so is the difference."""
    net = network("relu", "half_squared_error", depth=1)
    net.weights[0][...], net.biases[0][...] = 0, -1
    check = check_gradients(net, inputs(), targets("values"))
    assert check.ok and check.errors["weights.0"] == 0


def test_the_complex_step_runs_on_the_backend_of_complex_numbers():
    """All perturbations are one stack: the loss of network k moves only by its own parameter."""
    net = network("tanh", "half_squared_error", depth=1)
    backend = ReferenceBackend(np.complex128)
    theta = np.repeat(host(net.theta).astype(np.complex128), 3, axis=0)
    theta[1, 0] += 1e-200j
    batch = net.stack.checked(inputs(), targets("values"))
    loss, _ = net.stack.like(theta, backend).gradients(*batch, l2=np.zeros(3), dropout=np.zeros(3))
    assert loss[0].imag == loss[2].imag == 0 != loss[1].imag
