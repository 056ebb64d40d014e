"""The compiled CPU backend: its functions, its text, its cache, and parity with the reference."""

from __future__ import annotations

import ast
import copy
import dataclasses
import hashlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np
import pytest

import gpubp
from gpubp import UsageError, train
from gpubp.activations import ACTIVATIONS, Activation, get_activation
from gpubp.backends import Batch, LayerCache, get_backend
from gpubp.backends.compiled import CompiledBackend, cache, numba_state, program, source
from gpubp.backends.compiled.ufunc import matmul_loop
from gpubp.backends.reference import ReferenceBackend
from gpubp.losses import LOSSES, Loss, get_loss
from gpubp.optimizers import OPTIMIZERS, Optimizer, get_optimizer
from support.machines import by_tier, one_step

pytestmark = pytest.mark.skipif(not numba_state().usable, reason=numba_state().summary)

FUNCTIONS = {  # where each is asked for its value; the bounds in which it is computed lie in between
    "exp": ((-110, 88), (-745, 709)),
    "expm1": ((-30, 88), (-50, 709)),
    "log1p": ((-0.99, 1e6), (-0.99, 1e6)),
    "tanh": ((-12, 12), (-25, 25)),
    "erf": ((-5, 5), (-7, 7)),
}


def machine(kind, *args, precision="float64", **options):
    """A network on the reference or on the compiled backend."""
    backend = {"reference": ReferenceBackend, "compiled": CompiledBackend}[kind](precision)
    return gpubp.MLP(*args, device=backend, **options)


def own(name: str, expression: str) -> Activation:
    """A record whose function is `expression`."""
    return Activation(name, lambda xp, z: z, lambda xp, a: a, "z", expression, "T(1)")


def applied(expression: str, x: np.ndarray) -> np.ndarray:
    out = x.reshape(1, 1, -1).copy()
    CompiledBackend(x.dtype, small=0).output(own("test", expression), out)
    return out[0, 0]


def targets(loss: Loss, rng, rows: int, n: int) -> np.ndarray:
    if loss.integer_targets:
        return rng.integers(0, n, rows)
    low, high = np.clip(loss.targets, -2.0, 2.0)
    values = rng.uniform(low, high, (rows, n))
    return np.rint(values) if loss.classification else values


# -- elementary functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_are_right_to_the_last_digits(name, dtype, rng):
    low, high = FUNCTIONS[name][dtype == "float64"]
    spread = [rng.uniform(low, high, 400), rng.uniform(-1, 1, 400) * 0.99, rng.uniform(-1, 1, 200) * 1e-3]
    x = np.concatenate(spread).astype(dtype)
    found = applied(f"{name}(z)", x)
    for value, result in zip(x.tolist(), found, strict=True):
        exact = getattr(mpmath, name)(mpmath.mpf(value))
        unit = mpmath.mpf(float(np.spacing(np.abs(result))))
        assert abs(mpmath.mpf(float(result)) - exact) <= 2.5 * unit, (value, result)


@pytest.mark.parametrize("dtype, end", [("float32", 9.1), ("float64", 26.5)])
def test_the_complementary_error_function_keeps_its_digits(dtype, end, rng):
    """The square of x is rounded, and exp makes x² units of that."""
    x = np.concatenate([rng.uniform(-end, end, 400), rng.uniform(-1, 1, 200)]).astype(dtype)
    for value, result in zip(x.tolist(), applied("erfc(z)", x), strict=True):
        exact = mpmath.erfc(mpmath.mpf(value))
        unit = mpmath.mpf(float(np.spacing(np.abs(result))))
        assert abs(mpmath.mpf(float(result)) - exact) <= (8 + value**2) * unit, (value, result)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*FUNCTIONS, "erfc"])
def test_elementary_functions_at_the_ends_of_the_numbers(name, dtype):
    info = np.finfo(dtype)
    x = np.array([0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, -1.0, -2.0], dtype)
    with np.errstate(all="ignore"):
        expected = getattr(ReferenceBackend(dtype).xp, name)(x)
    np.testing.assert_allclose(applied(f"{name}(z)", x), expected, rtol=4 * info.eps, atol=0)


# -- parity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "activation", by_tier(ACTIVATIONS, ("relu", "gelu").__contains__)
)  # with all losses, optimizers
def test_every_activation_loss_and_optimizer_trains_as_in_the_reference(rng, activation):
    """Three steps with all that a step can have, the last of fewer rows."""
    X, weight = rng.standard_normal((11, 5)), rng.random(11) + 0.1
    for loss in LOSSES:
        y = targets(get_loss(loss), rng, 11, 3)
        for optimizer in OPTIMIZERS:
            found = []
            for kind in ("reference", "compiled"):
                net = machine(kind, [5, 7, 4, 3], activation, loss, models=2)
                options = {"l2": 0.01, "weight_decay": 0.1, "max_grad_norm": [0.1, 10.0], "dropout": [0.3, 0.0]}
                history = train(
                    net, X, y, weight, optimizer=optimizer, batch_size=4, epochs=1, update_tolerance=0.0, **options
                )
                found.append((net.theta, np.array(history.loss), np.array(history.metric)))
            for expected, ours in zip(*found, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12, err_msg=f"{loss}, {optimizer}")


@pytest.mark.parametrize("output", ["sigmoid", "tanh", "gelu", "softmax"])
def test_a_loss_through_another_output_activation(rng, output):
    X, y = rng.standard_normal((9, 4)), rng.random((9, 3))
    nets = [
        machine(kind, [4, 3], loss="half_squared_error", output_activation=output) for kind in ("reference", "compiled")
    ]
    (expected, grads), (value, own_grads) = (net.gradients(X, y) for net in nets)
    assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(own_grads.weights[0], grads.weights[0], rtol=1e-12)
    np.testing.assert_allclose(nets[1].forward(X), nets[0].forward(X), rtol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n", [1, 2, 10, 5000])
def test_softmax_and_its_loss_for_few_and_many_classes(rng, n, smoothing):
    """Classes and distributions; rows longer and shorter than what is worked on at a time."""
    z = 3 * rng.standard_normal((2, 7, n))
    classes, distribution = rng.integers(0, n, (1, 7)), rng.dirichlet(np.ones(n), 7)[None]
    for y in (classes, distribution):
        results = []
        for backend in (ReferenceBackend("float64"), CompiledBackend("float64", small=0)):
            logits, grad_b, epoch = z.copy(), np.empty((2, 1, n)), one_step(backend, 2, normalizer=[0.5, 0.25])
            batch = Batch(X=None, y=y, weight=np.full((1, 7), 0.5), smoothing=np.full(2, smoothing))
            output = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
            backend.loss_delta(get_loss("cross_entropy"), output, batch, epoch, grad_b)
            results.append((logits, grad_b, epoch.totals))
        for expected, ours in zip(*results, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["cross_entropy", "half_squared_error", "binary_cross_entropy", "poisson"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_totals_of_its_network_alone(rng, name, bad):
    loss, z = get_loss(name), rng.standard_normal((3, 4, 3))
    z[1, 2, 1] = bad
    y, results = targets(loss, rng, 4, 3)[None], []
    for backend in (ReferenceBackend("float64"), CompiledBackend("float64", small=0)):
        logits, grad_b, epoch = z.copy(), np.empty((3, 1, 3)), one_step(backend, 3)
        with backend.computing():
            output = LayerCache(0, z=logits, a=logits, delta=logits, mask=None)
            backend.loss_delta(loss, output, Batch(None, y, None, np.zeros(3)), epoch, grad_b)
        finite = np.isfinite(epoch.totals[:, 0, 0])
        assert finite[0] and finite[2]
        results.append((logits[[0, 2]], grad_b[[0, 2]], epoch.totals[[0, 2], 0], finite))
    for expected, ours in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-13)


@pytest.mark.parametrize(
    "X",
    [
        np.arange(60, dtype=np.uint8).reshape(20, 3),
        np.arange(60, dtype=np.float16).reshape(20, 3),
        np.asfortranarray(np.arange(60.0).reshape(20, 3)),
        np.arange(60, dtype=">f8").reshape(20, 3),
        np.arange(120, dtype=np.int32).reshape(20, 6)[:, ::2],
        np.arange(120, dtype=np.int64).reshape(40, 3)[::2],
        np.arange(60).reshape(20, 3) % 3 == 0,
    ],
    ids=lambda X: f"{X.dtype}-{X.strides}",
)
def test_rows_of_any_kind_of_array_are_gathered(X, rng):
    """Also of those that no loop is made for: the reference does that operation."""
    y, thetas = rng.integers(0, 2, 20), []
    for kind in ("reference", "compiled"):
        net = machine(kind, [3, 2], loss="cross_entropy")
        train(net, X, y, batch_size=7, epochs=2)
        thetas.append(net.theta)
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_numpys_own(rng, dtype):
    """NumPy's loop is found in it, and called as NumPy calls it."""
    assert matmul_loop(np.dtype(dtype))
    backend, out = CompiledBackend(dtype, small=0), np.empty((2, 6, 5), dtype)
    a, b = rng.standard_normal((1, 4, 6)).astype(dtype), rng.standard_normal((2, 5, 4)).astype(dtype)
    run = backend.capture(lambda rows: backend.matmul(a, b, out, transpose_a=True, transpose_b=True))
    assert not (out == a.swapaxes(1, 2) @ b.swapaxes(1, 2)).all()
    run(1, 4)
    np.testing.assert_array_equal(out, a.swapaxes(1, 2) @ b.swapaxes(1, 2))


# -- records of one's own ---------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The operations that fell back on the reference."""
    names, original = set(), CompiledBackend._call

    def spy(self, operation, *arguments, **options):
        names.add(operation.__name__)
        original(self, operation, *arguments, **options)

    monkeypatch.setattr(CompiledBackend, "_call", spy)
    return names


def plain(record):
    """The record without what loops are made from."""
    scalars = [f.name for f in dataclasses.fields(record) if f.name.startswith("scalar_") or f.name == "row_loop"]
    return dataclasses.replace(record, **dict.fromkeys(scalars))


@pytest.mark.parametrize(
    "records, expected",
    [
        ({}, set()),
        ({"activation": plain(get_activation("tanh"))}, {"bias_activation", "hadamard_derivative"}),
        ({"loss": plain(get_loss("cross_entropy"))}, {"loss_delta"}),
        ({"loss": plain(get_loss("huber"))}, {"loss_delta"}),
        ({"optimizer": plain(get_optimizer("adam"))}, {"optimizer_step"}),
    ],
    ids=["none", "activation", "row-wise loss", "elementwise loss", "optimizer"],
)
def test_a_record_without_scalar_expressions_falls_back_for_its_operations_alone(rng, calls, records, expected):
    activation, loss = records.get("activation", "relu"), records.get("loss", "cross_entropy")
    X, y = rng.standard_normal((20, 4)), targets(get_loss(loss), rng, 20, 3)
    thetas = []
    for kind in ("reference", "compiled"):
        net = machine(kind, [4, 6, 5, 3], [activation, "relu"], loss)
        train(net, X, y, optimizer=records.get("optimizer", "adam"), batch_size=8, epochs=3, dropout=0.2)
        thetas.append(net.theta)
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-11, atol=1e-13)
    assert calls == expected


def test_a_record_of_ones_own_is_compiled(rng, calls):
    """Whatever its names: loops give none away."""
    cube = Activation("z", lambda xp, z: z**3, lambda xp, z: 3 * z * z, "z", "z * z * z", "T(3) * z * z")
    rule = Optimizer(
        "theta",
        lambda o: {"lr": o["lr"], "start": 2 * o["grad"]},
        lambda xp, g, slots, s: (s["lr"] * (slots[0] + s["start"] * g), (slots[0] + s["start"] * g,)),
        slots=("i",),
        options={"grad": 0.5},
        scalar_prologue=(("start", "2 * grad"),),
        scalar_step=(("i", "i + start * g"), ("update", "lr * i")),
    )
    X, y, thetas = rng.standard_normal((20, 4)), rng.integers(0, 3, 20), []
    for kind in ("reference", "compiled"):
        net = machine(kind, [4, 6, 3], cube)
        train(net, X, y, optimizer=rule, batch_size=8, epochs=2)
        thetas.append(net.theta)
    np.testing.assert_allclose(thetas[1], thetas[0], rtol=1e-12)
    assert not calls


@pytest.mark.parametrize("expression, what", [("cos(z)", "cos"), ("z +", "no expression"), ("a * z", "uses a")])
def test_an_expression_outside_the_common_subset_is_refused_by_name(expression, what):
    with pytest.raises(UsageError, match=f'activation "mine": .*{what}'):
        source.activation_source(own("mine", expression), "float32")


# -- stacks and portions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_result_depends_on_cores_or_portions(monkeypatch, rng, shuffle):
    """The same bits on any number of threads, in one portion or many, and as the networks have alone."""
    X, y = rng.standard_normal((40, 6)), rng.integers(0, 3, 40)

    def trained(**options):
        net = machine("compiled", [6, 16, 3], "tanh", precision="float32", **options)
        train(net, X, y, batch_size=8, epochs=4, shuffle=shuffle, dropout=0.1, seed=options["seed"])
        return net.theta.copy()

    solo = np.concatenate([trained(seed=s) for s in range(5)])
    for threads in (1, 2, 5, 8):
        for patience, worth in ((0.05, 0.001), (0.0, 0.0)):
            monkeypatch.setattr(program, "blas_threads", lambda threads=threads: threads)
            monkeypatch.setattr(program, "PATIENCE", patience)
            monkeypatch.setattr(program, "WORTH_SPREADING", worth)
            np.testing.assert_array_equal(trained(models=5, seed=0), solo)


def test_blas_has_its_threads_back_after_a_stack(rng):
    from threadpoolctl import threadpool_info

    before = [library["num_threads"] for library in threadpool_info()]
    train(machine("compiled", [3, 2], models=4), rng.standard_normal((9, 3)), rng.integers(0, 2, 9), epochs=1)
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_copies_of_a_network_which_share_a_backend_do_not_meet_in_what_a_thread_records(rng, monkeypatch):
    net = machine("compiled", [6, 5, 3], "tanh")
    X, y = rng.standard_normal((40, 6)), rng.integers(0, 3, 40)
    trained, copied, evaluated = copy.deepcopy(net), copy.deepcopy(net), net.evaluate(X, y)
    train(trained, X, y, batch_size=8, epochs=3)
    record, records, goes_on = CompiledBackend._record, threading.Event(), threading.Event()

    def in_two_parts(self, step):
        def when_told():
            records.set()
            assert goes_on.wait(60)
            step()

        return record(self, when_told)

    monkeypatch.setattr(CompiledBackend, "_record", in_two_parts)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, copied, X, y, batch_size=8, epochs=3)
        assert records.wait(60)
        meanwhile = net.evaluate(X, y)
        goes_on.set()
        training.result()
    assert meanwhile == evaluated
    np.testing.assert_array_equal(copied.theta, trained.theta)


def test_a_network_is_copied_with_its_backend(rng):
    net = machine("compiled", [3, 2])
    X = rng.standard_normal((4, 3))
    np.testing.assert_array_equal(copy.deepcopy(net).forward(X), net.forward(X))


# -- text and cache ---------------------------------------------------------------------------------------


def expressions():
    """Every scalar expression of the registries that is more than a name."""
    for table in (ACTIVATIONS, LOSSES, OPTIMIZERS):
        for make in table.values():
            record = make()
            for field in dataclasses.fields(record):
                value = getattr(record, field.name) if field.name.startswith("scalar_") else None
                for text in [value] if isinstance(value, str) else [e for _, e in value or ()]:
                    if not text.isidentifier() and text != "T(1)":
                        yield record, text


def test_loops_hold_no_formula_and_modules_hold_the_registries():
    loops = "\n".join(code(path.read_text(encoding="utf-8")) for path in source.LOOPS.glob("*.py"))
    makers = {Activation: source.activation_source, Loss: source.loss_source, Optimizer: source.optimizer_source}
    found = list(expressions())
    assert len(found) > 30
    for record, text in found:
        assert code(text) not in loops, (record.name, text)
        assert f"T({text})" in makers[type(record)](record, "float32").text


def code(text: str) -> str:
    """Python without comments and docstrings, spelled in one way."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)


SCRIPT = """
import sys, numpy as np, gpubp
from gpubp.backends.compiled import cache
def theta(seed=0):
    rng = np.random.default_rng(0)
    net = gpubp.MLP([4, 3], device="cpu", seed=seed)
    gpubp.train(net, rng.standard_normal((20, 4)), rng.integers(0, 3, 20), batch_size=8, epochs=2, l2=0.1)
    return net.theta.tobytes().hex()
"""


def run(tmp_path: Path, script: str, **environment: str) -> str:
    """What a script prints in a process of its own, whose cache is in tmp_path."""
    keys = {"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path), "HOME": str(tmp_path)}
    repository = str(Path(gpubp.__file__).resolve().parents[1])
    paths = os.pathsep.join([*environment.pop("first", "").split(), repository])
    environment = {**os.environ, **keys, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.backends  # it compiles from an empty cache
def test_processes_share_what_was_compiled_and_get_the_same_bits(tmp_path):
    """One that compiles, one that finds everything, and two workers of joblib."""
    first = run(tmp_path, f"{SCRIPT}\nprint(theta())")
    assert "compiling loops" in first
    folder = next(path for path in tmp_path.rglob("gpubp") if path.is_dir())
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert any(path.suffix == ".nbc" for path in files)  # machine code
    second = run(tmp_path, f"{SCRIPT}\nprint(theta())")
    assert second == first.splitlines(keepends=True)[0]
    both = "from joblib import Parallel, delayed\nprint(*Parallel(2)(delayed(theta)(s) for s in (0, 0)))"
    assert run(tmp_path, f"{SCRIPT}\n{both}").split() == [second.strip()] * 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == files
    module = next(path for path in files if path.name.startswith("gpubp_optimizer"))
    text = module.read_text()
    module.write_text("raise SystemExit('not the text that was asked for')")
    assert run(tmp_path, f"{SCRIPT}\nprint(theta())").startswith(second)
    assert module.read_text() == text


ONE_LOOP = """
import numpy as np
from gpubp.backends.compiled import cache, source
module = cache.load(source.activation_source(__import__("gpubp.activations").activations.relu(), "float64"))
cache.address(module, "output")
"""

THE_CALLING_LOOP = "from gpubp.backends.compiled import program; program.run_loops()"


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-200] + bytes([data[-200] ^ 4]) + data[-199:]


DAMAGES = (lambda data: b"", half, flipped, lambda data: b"\x80\x04no pickle")


@pytest.mark.backends  # it compiles from an empty cache
@pytest.mark.parametrize("loop", [ONE_LOOP, THE_CALLING_LOOP], ids=["one loop", "the loop that calls others"])
def test_a_damaged_file_of_machine_code_is_compiled_anew(tmp_path, loop):
    """Each damage in turn is done to what was compiled after the one before."""
    run(tmp_path, loop)
    (folder,) = (path for path in tmp_path.rglob("gpubp") if path.is_dir())
    files = [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]
    whole = {path: path.with_name(f"{path.name}.sha256").read_text() for path in files}
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for damage in DAMAGES:
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        next(folder.glob("*.py")).write_bytes(b"\xff\0 no text")
        run(tmp_path, loop)
        for path in whole:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.with_name(f"{path.name}.sha256").read_text()
    run(tmp_path, loop)


@pytest.mark.backends  # it compiles
def test_a_full_disk_only_costs_the_cache(tmp_path):
    full = """
import os, tempfile
from gpubp.backends.compiled import cache
cache.folder()
def no_room(*_, **__):
    raise OSError(28, "No space left on device")
tempfile.mkstemp = os.replace = no_room
"""
    said = run(tmp_path, f"{full}\n{ONE_LOOP}\nprint('done')")
    assert "done" in said and "cannot be kept there" in said and "No space left on device" in said


WITHOUT_A_COMPILER = """
import numpy as np, numba, gpubp
def theta(device):
    net = gpubp.MLP([4, 6, 3], device=device, precision="float64")
    rng = np.random.default_rng(0)
    gpubp.train(net, rng.standard_normal((20, 4)), rng.integers(0, 3, 20), batch_size=8, epochs=2, l2=0.1, dropout=0.1)
    return net.theta
reference = theta("cpu-reference")
FAULT
np.testing.assert_array_equal(theta("cpu"), reference)
print("trained")
"""
FAULTS = {
    "no loop is compiled": "numba.cfunc = broken",
    "the loop that calls others is not": "numba.njit = broken",
    "memory runs out": "numba.cfunc = broken; error = MemoryError",
    "a module's first decorator fails": "import numba.extending; numba.extending.intrinsic = broken",
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_where_the_compiler_fails_the_reference_trains_and_one_line_says_why(tmp_path, fault):
    broken = "error = RuntimeError\ndef broken(*_, **__):\n    raise error('LLVM has no such\\nprocessor')\n"
    said = run(tmp_path, WITHOUT_A_COMPILER.replace("FAULT", broken + FAULTS[fault])).splitlines()
    assert said[0] == "trained"
    (line,) = (line for line in said[1:] if "cannot be compiled" in line)
    assert "(LLVM has no such processor); NumPy runs" in line
    assert all("compiling loops" in line for line in said[1:] if "cannot be compiled" not in line)


def test_a_loop_that_fails_half_way_through_leaves_the_others_to_the_reference(monkeypatch, rng, caplog):
    """The loss cannot be compiled: what came before it in the step is recorded as loops already."""

    def fail_for_losses(module: object, name: str) -> int:
        if name in ("loss_delta", "classes", "distributions"):
            raise cache._say_failed(RuntimeError("no register is left"))
        return address(module, name)

    address, say_once = cache.address, []
    monkeypatch.setattr("gpubp.backends.compiled.address", fail_for_losses)
    monkeypatch.setattr(cache, "_failed", False)
    monkeypatch.setattr(cache, "say_once", say_once.append)
    X, y = rng.standard_normal((20, 4)), rng.integers(0, 3, 20)
    nets = [gpubp.MLP([4, 6, 3], device=device, precision="float64") for device in ("cpu", "cpu-reference")]
    for net in nets:
        gpubp.train(net, X, y, batch_size=8, epochs=2)
    np.testing.assert_allclose(nets[0].theta, nets[1].theta, rtol=1e-12)
    assert len(say_once) == 1 and "no register is left" in say_once[0]


def test_modules_beyond_the_last_256_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(cache, "MOST_MODULES", 3)
    (tmp_path / "__pycache__").mkdir()
    texts = [source.ModuleSource(f"slope {number}", f"SLOPE = {number}\n") for number in range(5)]
    for time, text in enumerate(texts):
        module = cache.load.__wrapped__(text)
        os.utime(module.__file__, (10**9 + time, 0))
        (tmp_path / "__pycache__" / f"{module.__name__}.loop-3.py311.1.nbc").touch()
        assert module.SLOPE == time
    assert sorted(path.read_text() for path in tmp_path.glob("*.py")) == [f"SLOPE = {k}\n" for k in (2, 3, 4)]
    assert len(os.listdir(tmp_path / "__pycache__")) == 3


def test_a_folder_that_cannot_be_written_only_costs_the_cache(tmp_path):
    (tmp_path / "gpubp").write_text("in the way")
    (tmp_path / ".cache").write_text("in the way")
    (tmp_path / "Library").write_text("in the way")
    said = run(tmp_path, "from gpubp.backends.compiled import cache; print(cache.folder().is_dir())")
    assert "True" in said and "cannot be written" in said


def test_numba_is_asked_only_where_it_is_used(tmp_path):
    script = "import sys; from gpubp.backends import compiled; print('numba' in sys.modules)"
    assert run(tmp_path, script) == "False\n"


# -- choosing ---------------------------------------------------------------------------------------------


def test_the_cpu_is_compiled_where_numba_is_and_the_reference_on_request():
    for device in ("cpu", "cpu-reference"):
        backend = get_backend(device, "float64")
        assert (backend.name, backend.device, backend.precision) == (
            "compiled" if device == "cpu" else "reference",
            "cpu",
            "float64",
        )
    assert "Numba" in get_backend("cpu").reason and "Numba" not in get_backend("cpu-reference").reason


@pytest.mark.parametrize(
    "text, said",
    [
        ("raise ModuleNotFoundError(\"No module named 'numba'\", name='numba')", "pip install 'gpubp[cpu]'"),
        ("raise ImportError('Numba needs NumPy 2.2 or less')", "Numba needs NumPy 2.2 or less"),
        ("import absent_dependency", "absent_dependency"),
    ],
)
def test_without_a_numba_that_works_the_reference_runs_and_says_why(tmp_path, text, said):
    (tmp_path / "numba.py").write_text(text)
    script = "from gpubp.backends import get_backend as g\nfor d in ('auto', 'cpu'): b = g(d); print(b.name, b.reason)"
    lines = run(tmp_path, script, first=str(tmp_path)).splitlines()
    assert len(lines) == 2 and all(line.startswith("reference ") and said in line for line in lines)
