"""The update rules: by hand, against PyTorch, as scalar expressions; and what every update has in common."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import Optimizer, UsageError, train
from gpubp.backends import OptimizerState
from gpubp.layout import ALIGNMENT
from gpubp.optimizers import OPTIMIZERS, get_optimizer
from support.machines import host, on_the_reference, one_step
from support.scalar_expressions import scalar_function

LR = 0.125


def padded(size: int) -> int:
    """Elements that a tensor takes up in a buffer of parameters, as `Layout` places them."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def start(backend, rule="sgd", *, networks=1, weights=4, biases=2, options=None, **extra) -> OptimizerState:
    """The state before the first update; options and extras are numbers, or one per network."""

    def per_network(value):
        return backend.from_host(np.broadcast_to(np.asarray(value, np.float64), (networks,)).copy())

    rule = get_optimizer(rule)
    return OptimizerState(
        rule,
        {name: per_network(value) for name, value in rule.configured(options).items()},
        tuple(backend.zeros((networks, padded(weights) + padded(biases))) for _ in rule.slots),
        updates=backend.zeros((networks,), np.int64),
        active=backend.from_host(np.ones(networks, np.bool_)),
        fault_step=backend.from_host(np.full(networks, -1)),
        n_weights=padded(weights),
        largest_update=backend.zeros((networks,), np.float64),
        **{name: per_network(value) for name, value in extra.items()},
    )


def buffer(backend, values, weights=4):
    """(K, P) on the device: the first of the values are weights, the others biases; padding is zero."""
    values = np.atleast_2d(np.array(values, backend.dtype))
    laid_out = np.zeros((len(values), padded(weights) + padded(values.shape[1] - weights)), backend.dtype)
    laid_out[:, :weights] = values[:, :weights]
    laid_out[:, padded(weights) :][:, : values.shape[1] - weights] = values[:, weights:]
    return backend.from_host(laid_out)


def parameters(theta, weights=4, biases=2) -> np.ndarray:
    """The values that `buffer` laid out, (K, weights + biases), copied to the host."""
    return np.hstack([host(theta)[:, :weights], host(theta)[:, padded(weights) :][:, :biases]])


def update(backend, state, theta, gradient, *, weights=4, lr=LR, loss=0.0, step=0):
    """One update of θ (K, P) in place, taken as the training step takes it."""
    networks = theta.shape[0]
    epoch = one_step(backend, networks, learning_rate=lr, step=step)
    epoch.totals[..., 0] = backend.from_host(np.broadcast_to(np.asarray(loss, np.float64), (networks,)).copy()[:, None])
    with backend.computing():
        backend.optimizer_step(state, theta, buffer(backend, gradient, weights), epoch)


# -- the rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, expected",
    [
        # the updates that g = 2 and then g = −1 bring about, at learning rate ⅛
        ("sgd", {}, [0.25, -0.125]),
        ("momentum", {"momentum": 0.5}, [0.25, (0.5 * 2 - 1) / 8]),  # v = 2, then 0
        ("nesterov", {"momentum": 0.5}, [(2 + 0.5 * 2) / 8, (-1 + 0.5 * 0) / 8]),  # v = 2, then 0
        ("adagrad", {"eps": 1e-30}, [0.125 * 2 / 2, 0.125 * -1 / 5**0.5]),  # v = 4, then 5
        # v = 0.25·4 = 1, then 0.75·1 + 0.25·1 = 1
        ("rmsprop", {"rho": 0.75, "eps": 1e-30}, [0.125 * 2, 0.125 * -1]),
        # t = 1: m̂ = 2 and v̂ = 4, so the first update is the learning rate itself.
        # t = 2: m = 0.5·1 + 0.5·−1 = 0
        ("adam", {"beta1": 0.5, "beta2": 0.5, "eps": 1e-30}, [0.125, 0.0]),
        # t = 2: m = 0.75·0.5 + 0.25·−1 = 1/8, m̂ = (1/8)/(7/16) = 2/7;
        #        v = 0.5·2 + 0.5·1 = 3/2, v̂ = (3/2)/(3/4) = 2
        ("adamw", {"beta1": 0.75, "beta2": 0.5, "eps": 1e-30}, [0.125, 0.125 * (2 / 7) / 2**0.5]),
    ],
)
def test_hand_worked_updates(backend, name, options, expected):
    state = start(backend, name, weights=0, biases=1, options=options)
    theta = buffer(backend, [0.0], weights=0)
    before = 0.0
    tolerance = float(8 * np.finfo(backend.dtype).eps)
    for gradient, wanted in zip([2.0, -1.0], expected, strict=True):
        update(backend, state, theta, [gradient], weights=0)
        assert before - float(theta[0, 0]) == pytest.approx(wanted, rel=tolerance, abs=tolerance)
        before = float(theta[0, 0])


@pytest.mark.parametrize(
    "name, options, weight_decay",
    [
        ("sgd", {}, 0.0),
        ("momentum", {"momentum": 0.9}, 0.0),
        ("nesterov", {"momentum": 0.9}, 0.0),
        ("adagrad", {"eps": 1e-10}, 0.0),
        ("rmsprop", {"rho": 0.99, "eps": 1e-8}, 0.0),
        ("adam", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, 0.0),
        ("adamw", {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}, 0.01),
    ],
)
def test_defaults_are_those_of_pytorch(name, options, weight_decay):
    rule = get_optimizer(name)
    assert rule.configured(None) == options and rule.weight_decay == weight_decay


TORCH = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
}


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_are_torchs(backend, rng, name, decay):
    """With the defaults of both; weights decay as AdamW's do, biases not."""
    torch = pytest.importorskip("torch")
    theta, gradients = rng.standard_normal(6), rng.standard_normal((10, 6))
    weights, biases = (torch.nn.Parameter(torch.tensor(part)) for part in (theta[:4], theta[4:]))
    kind, options = TORCH[name]
    if kind == "AdamW":
        options = {"weight_decay": decay}
    groups = [{"params": [weights]}, {"params": [biases], **({"weight_decay": 0.0} if options else {})}]
    if kind != "AdamW":
        groups = [{"params": [weights, biases]}]
    theirs = getattr(torch.optim, kind)(groups, lr=0.05, **options)

    ours, state = buffer(backend, theta), start(backend, name, weight_decay=decay)
    for gradient in gradients:
        if kind != "AdamW":  # PyTorch has no decoupled decay elsewhere: its definition is applied by hand
            with torch.no_grad():
                weights *= 1 - 0.05 * decay
        weights.grad, biases.grad = torch.tensor(gradient[:4]), torch.tensor(gradient[4:])
        theirs.step()
        update(backend, state, ours, gradient, lr=0.05)

    expected = np.concatenate([p.detach().numpy() for p in (weights, biases)])
    tolerance = 1e-13 if backend.precision == "float64" else 2e-5
    np.testing.assert_allclose(parameters(ours)[0], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scalar_expressions_say_what_the_array_formulas_say(rng, name):
    """Prologue and step, evaluated as plain Python over ten updates of one parameter."""
    rule = get_optimizer(name)
    slots = tuple(np.zeros(1) for _ in rule.slots)
    kept = dict.fromkeys(rule.slots, 0.0)
    for t, gradient in enumerate(rng.standard_normal(10).tolist(), start=1):
        given = {**rule.options, "lr": 0.05, "t": float(t)}
        scalars = dict(given)
        for target, expression in rule.scalar_prologue:
            scalars[target] = scalar_function(expression, *scalars)(**scalars)
        names = {**scalars, **kept, "g": gradient}
        for target, expression in rule.scalar_step:
            names[target] = scalar_function(expression, *names)(**names)
        kept = {slot: names[slot] for slot in rule.slots}

        arrays = rule.scalars({key: np.array([value]) for key, value in given.items()})
        found, slots = rule.step(np, np.array([gradient]), slots, arrays)
        assert names["update"] == pytest.approx(found[0], rel=1e-14)
        assert list(kept.values()) == pytest.approx([float(slot[0]) for slot in slots], rel=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_with_options_of_its_own_has_the_bits_of_its_networks_alone(backend, rng, name):
    rule = get_optimizer(name)
    theta, gradients = rng.standard_normal((3, 300)), rng.standard_normal((4, 3, 300))
    options = {key: np.array([0.5, 0.9, 0.99]) if key != "eps" else np.full(3, 1e-6) for key in rule.options}
    settings = {"l2": np.array([0.0, 0.1, 1.0]), "weight_decay": np.array([0.1, 0.0, 0.2])}
    rates = np.array([0.1, 0.01, 0.3])
    stack = buffer(backend, theta, weights=200)
    state = start(backend, rule, networks=3, weights=200, biases=100, options=options, max_grad_norm=9.0, **settings)
    for gradient in gradients:
        update(backend, state, stack, gradient, weights=200, lr=rates)
    for k in range(3):
        solo = buffer(backend, theta[k], weights=200)
        state = start(
            backend,
            rule,
            weights=200,
            biases=100,
            options={key: value[k] for key, value in options.items()},
            max_grad_norm=9.0,
            **{key: value[k] for key, value in settings.items()},
        )
        for gradient in gradients:
            update(backend, state, solo, gradient[k], weights=200, lr=rates[k])
        np.testing.assert_array_equal(host(stack)[k], host(solo)[0])


# -- what every update has in common ----------------------------------------------------------------------


def test_weight_decay_is_decoupled_and_spares_biases(backend):
    """W loses lr · decay · W whatever the gradient: nothing of it reaches the slots."""
    state = start(backend, "adam", weight_decay=0.5)
    theta = buffer(backend, [1, 2, 3, 4, 5, 6])
    update(backend, state, theta, np.zeros(6))
    np.testing.assert_array_equal(parameters(theta)[0], [*(w * (1 - LR * 0.5) for w in (1, 2, 3, 4)), 5, 6])
    assert not any(host(slot).any() for slot in state.slots)


def test_adamw_decays_by_a_hundredth_unless_told_otherwise():
    assert get_optimizer("adamw").weight_decay == 1e-2
    assert all(get_optimizer(name).weight_decay == 0 for name in OPTIMIZERS if name != "adamw")


def test_l2_joins_the_gradient_of_weights_alone(backend):
    state = start(backend, l2=2.0)
    theta = buffer(backend, [1, 2, 3, 4, 5, 6])
    update(backend, state, theta, np.ones(6))
    np.testing.assert_array_equal(parameters(theta)[0], [*(w - LR * (1 + 2 * w) for w in (1, 2, 3, 4)), 5 - LR, 6 - LR])


def test_the_gradient_is_clipped_to_the_norm_after_l2(backend):
    """g + l2 W = (3, 0, 0, 0 | 4, 0) has norm 5; clipped to 1 it is (0.6, … | 0.8, …)."""
    state = start(backend, l2=2.0, max_grad_norm=1.0)
    theta = buffer(backend, [1, 0, 0, 0, 0, 0])
    update(backend, state, theta, [1, 0, 0, 0, 4, 0], lr=1.0)
    np.testing.assert_allclose(parameters(theta)[0], [1 - 0.6, 0, 0, 0, -0.8, 0], rtol=1e-6)


@pytest.mark.parametrize("gradient", [[3, 0, 0, 0, 4, 0], [0] * 6], ids=["short", "zero"])
def test_a_gradient_within_the_norm_is_not_touched(backend, gradient):
    state, theta = start(backend, max_grad_norm=5.0), buffer(backend, [0] * 6)
    update(backend, state, theta, gradient, lr=1.0)
    np.testing.assert_array_equal(parameters(theta)[0], np.negative(gradient))


def test_a_norm_whose_square_overflows_float32_is_still_clipped(backend):
    state, theta = start(backend, max_grad_norm=5.0), buffer(backend, [0] * 6)
    update(backend, state, theta, [3e30, 0, 0, 0, 4e30, 0], lr=1.0)
    np.testing.assert_allclose(parameters(theta)[0], [-3, 0, 0, 0, -4, 0], rtol=1e-6)
    assert host(state.active)[0]


def test_the_norm_is_each_networks_own(backend):
    state = start(backend, networks=2, max_grad_norm=np.array([1.0, 100.0]))
    theta = buffer(backend, np.zeros((2, 6)))
    update(backend, state, theta, [[10, 0, 0, 0, 0, 0]] * 2, lr=1.0)
    np.testing.assert_allclose(parameters(theta)[:, 0], [-1, -10], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_of_an_inactive_network_is_written(backend, rng, name):
    theta = rng.standard_normal((3, 6))
    state = start(backend, name, networks=3, l2=0.1, weight_decay=0.1, max_grad_norm=1.0)
    ours = buffer(backend, theta)
    update(backend, state, ours, rng.standard_normal((3, 6)))
    before, slots = parameters(ours), [host(slot).copy() for slot in state.slots]
    largest = host(state.largest_update).copy()
    state.active[1] = False
    update(backend, state, ours, 100 * np.ones((3, 6)))
    after = parameters(ours)
    np.testing.assert_array_equal(after[1], before[1])
    for slot, old in zip(state.slots, slots, strict=True):
        np.testing.assert_array_equal(host(slot)[1], old[1])
    assert host(state.largest_update)[1] == largest[1]
    assert host(state.updates).tolist() == [2, 1, 2]
    assert (after[[0, 2]] != before[[0, 2]]).any(axis=1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_stops_its_network_and_touches_nothing(backend, rng, name, bad):
    theta = buffer(backend, rng.standard_normal((2, 6)))
    state = start(backend, name, networks=2, max_grad_norm=1.0, weight_decay=0.1)
    gradient = rng.standard_normal((2, 6))
    update(backend, state, theta, gradient, step=4)
    before, slots = parameters(theta), [host(slot).copy() for slot in state.slots]
    gradient[0, 3] = bad
    update(backend, state, theta, gradient, step=5)
    assert host(state.active).tolist() == [False, True]
    assert host(state.fault_step).tolist() == [5, -1]
    np.testing.assert_array_equal(parameters(theta)[0], before[0])
    for slot, old in zip(state.slots, slots, strict=True):
        np.testing.assert_array_equal(host(slot)[0], old[0])
    assert (parameters(theta)[1] != before[1]).any()
    update(backend, state, theta, np.ones((2, 6)), step=6)
    np.testing.assert_array_equal(parameters(theta)[0], before[0])
    assert host(state.fault_step)[0] == 5  # the first fault, not the last


def test_a_loss_that_is_not_finite_stops_its_network(backend):
    state, theta = start(backend), buffer(backend, [1.0] * 6)
    update(backend, state, theta, np.ones(6), loss=np.inf, step=3)
    assert not host(state.active)[0] and host(state.fault_step)[0] == 3
    np.testing.assert_array_equal(parameters(theta)[0], np.ones(6))


def test_bias_correction_counts_the_updates_that_were_applied(backend):
    """A network that sat out a step makes, at its first update, the first update of Adam: lr itself."""
    state, theta = start(backend, "adam", networks=2), buffer(backend, np.zeros((2, 6)))
    state.active[1] = False
    update(backend, state, theta, np.full((2, 6), 3.0))
    state.active[1] = True
    update(backend, state, theta, np.full((2, 6), 3.0))
    np.testing.assert_allclose(parameters(theta)[1], np.full(6, -LR), rtol=1e-5)
    assert host(state.updates).tolist() == [2, 1]


def test_the_largest_update_is_kept_until_it_is_cleared(backend):
    """In absolute value, over parameters and steps, weight decay included."""
    state, theta = start(backend, networks=2, weight_decay=np.array([0.0, 1.0])), buffer(backend, np.zeros((2, 6)))
    theta[1, 0] = 32.0
    for gradient in (1.0, -16.0, 2.0):
        update(backend, state, theta, np.full((2, 6), gradient))
    # the second network's first update is ⅛ · (1 + 1.0 · 32)
    np.testing.assert_array_equal(host(state.largest_update), [2.0, 33 / 8])


def test_learning_rates_are_each_networks_own(backend):
    state, theta = start(backend, networks=3), buffer(backend, np.zeros((3, 6)))
    update(backend, state, theta, np.ones((3, 6)), lr=[0.5, 0.25, 2.0])
    np.testing.assert_array_equal(parameters(theta), -np.array([[0.5], [0.25], [2.0]]) * np.ones(6))


@on_the_reference
def test_blocks_of_parameters_do_not_show(backend, rng, monkeypatch):
    """Also where a block straddles the border between weights and biases."""
    theta, gradient = rng.standard_normal((2, 100)), rng.standard_normal((2, 100))
    found = []
    for block in (10**6, 34):
        monkeypatch.setattr("gpubp.backends.reference.BLOCK", block)
        state = start(backend, "adam", networks=2, weights=60, biases=40, l2=0.1, weight_decay=0.2)
        ours = buffer(backend, theta, weights=60)
        for _ in range(3):
            update(backend, state, ours, gradient, weights=60)
        found.append((ours, state.largest_update))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_padding_stays_zero(mlp, rng, name):
    """Every tensor starts at a multiple of 128 elements; what lies between is never anything but zero."""
    net = mlp([5, 7, 3], "tanh", "half_squared_error", models=2)
    X, y = rng.standard_normal((20, 5)), rng.standard_normal((20, 3))
    train(net, X, y, optimizer=name, l2=0.1, weight_decay=0.1, max_grad_norm=1.0, batch_size=8, epochs=3)
    padding = np.ones(net.stack.layout.size, bool)
    for _, begin, end in net.stack.layout.names():
        assert begin % ALIGNMENT == 0
        padding[begin:end] = False
    assert padding.sum() == 4 * ALIGNMENT - net.parameters
    assert not np.any(host(net.theta)[:, padding])


def test_a_record_of_ones_own_trains(mlp):
    sign_descent = Optimizer(
        "sign_descent", lambda o: {"lr": o["lr"]}, lambda xp, g, slots, s: (s["lr"] * xp.sign(g), ())
    )
    net = mlp([2, 1], loss="half_squared_error", init="zeros")
    train(net, np.eye(2), [1.0, -1.0], optimizer=sign_descent, learning_rate=0.25, epochs=1)
    np.testing.assert_array_equal(host(net.weights[0]), [[0.25], [-0.25]])


# -- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("adam", {"beta_1": 0.9}, 'optimizer "adam" has no option "beta_1"; did you mean "beta1"?'),
        ("sgd", {"momentum": 0.9}, 'optimizer "sgd" has no option "momentum"; it takes none'),
        ("momentum", {"momentum": 1.0}, "momentum=1.0 does not fit; use 0 <= momentum < 1"),
        ("momentum", {"momentum": [0.5, -1.0]}, "momentum=-1.0 does not fit"),
        ("momentum", {"momentum": np.nan}, "momentum=nan does not fit"),
        ("momentum", {"momentum": "high"}, "momentum=high does not fit"),
        ("momentum", {"momentum": [0.5, None]}, "momentum=None does not fit"),
        ("adam", {"eps": 0.0}, "eps=0.0 does not fit; use eps > 0"),
    ],
)
def test_options_that_cannot_be_meant(name, options, message):
    with pytest.raises(UsageError) as caught:
        get_optimizer(name).configured(options)
    assert message in str(caught.value)


def test_an_unknown_optimizer_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match='unknown optimizer "adan"; did you mean "adam"'):
        get_optimizer("adan")


@pytest.mark.parametrize("by_batch", [False, True])
def test_the_penalty_is_recorded_and_may_be_divided_as_the_loss_is(backend, by_batch):
    """½ l2 Σ W² of the weights before each step; the gradient gains l2 W, or l2 W times the batch's normalizer."""
    values = [[1.0, -2.0, 3.0, 0.5, 7.0, 7.0], [2.0, 0.0, 0.0, 1.0, 7.0, 7.0]]
    state = start(backend, networks=2, l2=[0.5, 2.0])
    state.l2_by_batch, state.penalty = by_batch, backend.zeros((2, 1), np.float64)
    theta, epoch = buffer(backend, values), one_step(backend, 2, normalizer=0.25, learning_rate=LR)
    with backend.computing():
        backend.optimizer_step(state, theta, buffer(backend, np.zeros((2, 6))), epoch)
    weights = np.array(values)[:, :4]
    np.testing.assert_allclose(host(state.penalty)[:, 0], 0.5 * np.array([0.5, 2.0]) * (weights**2).sum(axis=1))
    shrink = 1 - LR * np.array([[0.5], [2.0]]) * (0.25 if by_batch else 1.0)
    np.testing.assert_allclose(parameters(theta), np.hstack([weights * shrink, np.array(values)[:, 4:]]))
