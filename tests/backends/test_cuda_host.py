"""The harness that runs CUDA kernels on the host: what it computes, and the faults that it must find."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubp.backends.cuda.driver import GemmSpec
from support.cuda_host import HostDriver, HostDriverError, host_compiler

BLOCK = 64


@dataclass(frozen=True)
class Text:
    name: str
    text: str


def kernel_text(parameters: str, body: str, before: str = "") -> Text:
    return Text("tested", f'{before}\nextern "C" __global__ void tested({parameters}) {{\n{body}\n}}\n')


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    if host_compiler() is None:
        pytest.skip("no C++ compiler for the host")
    assert request.config.cache is not None
    return request.config.cache.mkdir("cuda-host")


@pytest.fixture(scope="module")
def driver(folder: Path) -> HostDriver:
    return HostDriver(folder)


@pytest.fixture
def run(driver: HostDriver) -> Callable[..., Any]:
    """run(text, args, grid, block): launch once; seed= runs it in another order of threads."""

    def launch(
        text: Text, args: Any, grid: Any = (1, 1, 1), block: int = BLOCK, shared: int = 0, seed: int = 0
    ) -> None:
        driver.seed = 1000 * seed - driver.launches
        driver.kernel(text)(grid, block, args, shared)

    return launch


def device_zeros(driver: HostDriver, n: int = BLOCK, dtype: Any = np.float32) -> Any:
    return driver.zeros((n,), dtype)


# -- what it computes -----------------------------------------------------------------------------------------

PLACE = "int i = ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;\n"
ROW_SUM = kernel_text(
    "const float* x, float* out, int n",
    """float sum = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) sum += x[blockIdx.x * n + j];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    __shared__ float warps[32];
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < blockDim.x / 32; warp++) sum += warps[warp];
    out[blockIdx.x] = sum;""",
)


def test_every_thread_of_a_grid_runs_once(driver: HostDriver, run: Any) -> None:
    visits = driver.zeros((2 * 3 * 4 * 8,), np.int32)
    run(kernel_text("int* visits", PLACE + "visits[i] += 1 + i;"), (visits,), (4, 3, 2), 8)
    np.testing.assert_array_equal(visits.get(), 1 + np.arange(2 * 3 * 4 * 8))


@pytest.mark.parametrize("synchronizes", [False, True])
def test_blocks_and_threads_run_in_an_order_that_the_seed_changes(
    driver: HostDriver, run: Any, synchronizes: bool
) -> None:
    text = kernel_text(
        "unsigned* turns, unsigned* order",
        PLACE + ("__syncthreads();\n" if synchronizes else "") + "order[i] = atomicAdd(turns, 1u);",
    )
    orders = []
    for seed in (0, 0, 1):
        turns, order = driver.zeros((1,), np.uint32), driver.zeros((4 * BLOCK,), np.uint32)
        run(text, (turns, order), (4, 1, 1), seed=seed)
        orders.append(order.get())
        assert sorted(orders[-1]) == list(range(4 * BLOCK))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any()
    assert (np.diff(orders[0][:BLOCK].astype(int)) < 0).any()  # not in the order of their numbers
    assert np.argsort(orders[0][::BLOCK]).tolist() != [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_sum_over_shuffles_and_shared_memory(driver: HostDriver, run: Any, seed: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((7, 300)).astype(np.float32)
    out = driver.empty((7,), np.float32)
    run(ROW_SUM, (driver.to_device(x), out, np.int32(300)), (7, 1, 1), 96, seed=seed)
    np.testing.assert_allclose(out.get(), x.sum(axis=1), rtol=1e-4, atol=1e-4)


def test_warp_functions(driver: HostDriver, run: Any) -> None:
    body = """int i = threadIdx.x; unsigned all = 0xffffffffu;
    out[i] = __shfl_sync(all, 1000 + i, 7);
    out[64 + i] = __shfl_down_sync(all, i, 5);
    out[128 + i] = __shfl_xor_sync(all, double(i), 3);
    out[192 + i] = __ballot_sync(all, i % 3 == 0) & 0x7fffffff;
    out[256 + i] = __any_sync(all, i == 40) * 10 + __all_sync(all, i < 40);
    __syncwarp();"""
    out = driver.zeros((320,), np.int32)
    run(kernel_text("int* out", body), (out,))
    i = np.arange(64)
    warp, lane = i // 32, i % 32
    ballots = [sum(1 << (j % 32) for j in range(32 * w, 32 * w + 31) if j % 3 == 0) for w in (0, 1)]
    expected = [
        1000 + warp * 32 + 7,
        np.where(lane < 27, i + 5, i),
        i ^ 3,
        np.take(ballots, warp),
        [1] * 32 + [10] * 32,
    ]
    np.testing.assert_array_equal(out.get().reshape(5, 64), expected)


def test_a_part_of_a_warp_may_meet(driver: HostDriver, run: Any) -> None:
    body = "out[threadIdx.x] = threadIdx.x < 8 ? __shfl_xor_sync(0xffu, int(threadIdx.x), 1) : -1;"
    out = driver.zeros((32,), np.int32)
    run(kernel_text("int* out", body), (out,), block=32)
    np.testing.assert_array_equal(out.get(), [1, 0, 3, 2, 5, 4, 7, 6, *[-1] * 24])


def test_the_last_block_to_arrive_adds_up_what_the_others_left(driver: HostDriver, run: Any) -> None:
    body = """__shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = blockIdx.x + 1;
        __threadfence();
        last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0)
        for (int b = 0; b < gridDim.x; b++) *total += partial[b];"""
    partial, arrived, total = device_zeros(driver, 5), driver.zeros((1,), np.uint32), device_zeros(driver, 1)
    for _ in range(2):  # the counter is back at 0 after each launch
        run(kernel_text("float* partial, unsigned* arrived, float* total", body), (partial, arrived, total), (5, 1, 1))
    assert float(total) == 30 and int(arrived) == 0


def test_mathematics_is_done_in_the_type_of_the_argument(driver: HostDriver, run: Any) -> None:
    names = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "fabs", "rint")
    calls = ", ".join(f"{name}(x)" for name in names)
    for dtype, real in ((np.float32, "float"), (np.float64, "double")):
        body = f"{real} values[] = {{{calls}, pow(x, x), fmax(x, x / 2), fmin(x, x / 2), {real}(isfinite(x / 0))}};\n"
        body += "".join(f"static_assert(sizeof({name}(x)) == sizeof(x));\n" for name in names)
        out = driver.empty((13,), dtype)
        text = kernel_text(f"{real} x, {real}* out", body + "for (int j = 0; j < 13; j++) out[j] = values[j];")
        run(text, (dtype(0.7), out), block=1)
        from scipy.special import erf

        x = dtype(0.7)
        functions = [erf if name == "erf" else getattr(np, name) for name in names]
        expected = [*(f(x) for f in functions), x**x, x, x / 2, 0]
        np.testing.assert_allclose(out.get(), expected, rtol=4 * np.finfo(dtype).eps)


# -- faults ---------------------------------------------------------------------------------------------------


def test_missing_bounds_check_is_found_by_the_guards(driver: HostDriver, run: Any) -> None:
    x, out = device_zeros(driver), device_zeros(driver, BLOCK - 1)
    with pytest.raises(HostDriverError, match=r'"tested", argument 1: the memory behind its 252 bytes was written'):
        run(kernel_text("const float* x, float* out", "out[threadIdx.x] = x[threadIdx.x];"), (x, out))
    with pytest.raises(HostDriverError, match="argument 0: the memory before its 256 bytes was written"):
        run(kernel_text("float* x", "x[int(threadIdx.x) - 1] = 1;"), (x,))


def test_copies_of_a_guard_are_found_too(driver: HostDriver, run: Any) -> None:
    """A NaN read behind one array and written behind another passes unchanged through arithmetic."""
    text = kernel_text("const float* x, float* out", "out[threadIdx.x] = x[threadIdx.x] + 0;")
    with pytest.raises(HostDriverError, match="argument 1: the memory behind"):
        run(text, (device_zeros(driver, 60), device_zeros(driver, 60)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[1ll << 40] = 1;", "an address outside any memory"),
        ("float local[4] = {}; x[0] = local[threadIdx.x];", "an index outside an array of fixed size"),
        ("__shared__ float s[8]; s[threadIdx.x] = 1; __syncthreads(); x[0] = s[0];", "outside an array of fixed size"),
        ("struct alignas(16) Four { float x[4]; }; *reinterpret_cast<Four*>(x + 1) = {};", "a misaligned"),
        ("int big = 1 << 30; x[0] = big * int(threadIdx.x);", "or an overflow of a signed integer"),
    ],
)
def test_undefined_accesses_end_the_launch(driver: HostDriver, run: Any, body: str, message: str) -> None:
    x = device_zeros(driver)
    with pytest.raises(HostDriverError, match=rf'kernel "tested", grid \(2, 1, 1\), block 64: .*{message}.*thread \d'):
        run(kernel_text("float* x", body), (x,), (2, 1, 1))
    run(kernel_text("float* x", "x[threadIdx.x] = 3;"), (x,))  # the driver goes on
    assert (x.get() == 3).all()


def rotate(barriers: str) -> Text:
    """Three rounds in which every thread takes its neighbour's value; correct with a barrier at each /*n*/."""
    body = """__shared__ int s[64];
    int value = threadIdx.x;
    for (int round = 0; round < 3; round++) {
        s[threadIdx.x] = value;
        /*1*/
        value = s[(threadIdx.x + 1) % 64];
        /*2*/
    }
    out[threadIdx.x] = value;"""
    for barrier in barriers:
        body = body.replace(f"/*{barrier}*/", "__syncthreads();")
    return kernel_text("int* out", body)


def test_missing_barrier_changes_the_result(driver: HostDriver, run: Any) -> None:
    expected = (np.arange(64) + 3) % 64
    for seed in range(10):
        out = driver.zeros((64,), np.int32)
        run(rotate("12"), (out,), seed=seed)
        np.testing.assert_array_equal(out.get(), expected)
        for barriers in ("1", "2", ""):  # the second keeps a value from being overwritten before it is read
            run(rotate(barriers), (out,), seed=seed)
            assert (out.get() != expected).any()


def test_barrier_of_a_warp_is_none_for_the_others(driver: HostDriver, run: Any) -> None:
    """Between two barriers a warp may get through all its meetings before another one starts."""
    warp_wise = Text("tested", rotate("12").text.replace("__syncthreads()", "__syncwarp()"))
    wrong = 0
    for seed in range(10):
        out = driver.zeros((64,), np.int32)
        run(warp_wise, (out,), seed=seed)
        wrong += (out.get() != (np.arange(64) + 3) % 64).any()
    assert wrong >= 3


def test_buffer_that_is_used_again_too_early(driver: HostDriver, run: Any) -> None:
    """Two sums over shuffles through one buffer: the barrier between them is easily forgotten."""
    body = """for (int round = 0; round < 2; round++) {
        int sum = threadIdx.x + round;
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        __shared__ int warps[4];
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
        __syncthreads();
        out[round * 128 + threadIdx.x] = warps[0] + warps[1] + warps[2] + warps[3];
        BETWEEN
    }"""
    expected = np.repeat([8128, 8256], 128)
    wrong = 0
    for seed in range(10):
        out = driver.zeros((256,), np.int32)
        run(kernel_text("int* out", body.replace("BETWEEN", "__syncthreads();")), (out,), block=128, seed=seed)
        np.testing.assert_array_equal(out.get(), expected)
        run(kernel_text("int* out", body.replace("BETWEEN", "")), (out,), block=128, seed=seed)
        wrong += (out.get() != expected).any()
    assert wrong >= 3


SHUFFLE = "x[0] = __shfl_xor_sync(0xffffffffu, x[0], 1);"


@pytest.mark.parametrize(
    ("body", "block", "message"),
    [
        ("if (threadIdx.x == 9) return;\n__syncthreads();", 64, r"waits at __syncthreads, line 4.* 9 has returned"),
        (
            "if (threadIdx.x < 9) __syncthreads();\nelse __syncthreads();",
            64,
            "__syncthreads, line 3.*__syncthreads, line 4",
        ),
        ("if (threadIdx.x < 32) __syncthreads();\nelse __syncwarp();\n__syncthreads();", 64, "line 3.*line 5"),
        (f"if (threadIdx.x % 2 == 0) return;\n{SHUFFLE}", 64, "has returned|waits at __shfl_xor_sync, line 4"),
        (
            f"if (threadIdx.x % 2)\n{SHUFFLE}\nelse\n{SHUFFLE}",
            64,
            "__shfl_xor_sync, line 4.*__shfl_xor_sync, line 6|6.*4",
        ),
        (f"if (threadIdx.x % 2)\n{SHUFFLE}\nelse\n__syncthreads();", 64, "__shfl_xor_sync, line 4"),
        (SHUFFLE, 48, "names lanes that warp 1 lacks in a block of 48 threads"),
        ("x[0] = __shfl_xor_sync(0xfeu, x[0], 1);", 8, "line 3: lane 0 is not in its own mask 0x000000fe"),
        ("if (threadIdx.x < 8) x[0] = __shfl_xor_sync(0xffu, x[0], 8);", 32, "reads lane .*, which is not in the mask"),
    ],
)
def test_threads_that_do_not_meet_are_named(driver: HostDriver, run: Any, body: str, block: int, message: str) -> None:
    for seed in range(3):
        with pytest.raises(HostDriverError, match=rf'kernel "tested".*({message})'):
            run(kernel_text("float* x", body), (device_zeros(driver),), block=block, seed=seed)
    out = driver.empty((1,), np.float32)
    run(ROW_SUM, (device_zeros(driver), out, np.int32(64)))  # threads given up in the middle are no obstacle
    assert float(out) == 0


def test_shared_memory_is_poisoned_for_each_block(driver: HostDriver, run: Any) -> None:
    static = """__shared__ float s[64];
    if (keep) s[threadIdx.x] = 1;
    x[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];"""
    dynamic = static.replace("__shared__ float s[64]", "extern __shared__ float s[]")
    in_template = static.replace("__shared__ float s[64]", "auto s = buffer<float>()")
    before = "template <class V> __device__ V* buffer() { __shared__ V s[64]; return s; }"
    for body in (static, dynamic, in_template):
        text = kernel_text("float* x, int keep", body, before)
        x = device_zeros(driver, 128)
        for keep in (1, 0):
            run(text, (x, np.int32(keep)), (2, 1, 1), shared=256)
            assert np.isnan(x.get()).all() == (not keep)


def test_dynamic_shared_memory_ends_where_it_was_said_to(driver: HostDriver, run: Any) -> None:
    text = kernel_text("float* x", "extern __shared__ float s[];\ns[threadIdx.x] = 1; x[0] = s[0];")
    run(text, (device_zeros(driver),), shared=256)
    with pytest.raises(HostDriverError, match="byte 252 of 252 bytes of dynamic shared memory is written"):
        run(text, (device_zeros(driver),), shared=252)
    run(text, (device_zeros(driver),), shared=driver.shared_memory)
    with pytest.raises(HostDriverError, match=r"a block needs 2324\d\d bytes of shared memory; it has 232448"):
        run(text, (device_zeros(driver),), shared=driver.shared_memory + 16)


def test_new_memory_is_poison(driver: HostDriver) -> None:
    assert np.isnan(driver.empty((3,), np.float16).get()).all()
    assert (driver.empty((3,), np.int64).get() > 1 << 60).all()
    assert driver.empty((0, 4), np.float32).shape == (0, 4)
    assert driver.empty((3,), np.float32).data.ptr % 512 == 0


# -- arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({}, None),
        ({0: np.uint64(0)}, None),  # a null pointer
        ({3: None}, "has 4 parameters; given 3"),
        ({2: np.int64(5)}, r"argument 2 is .*5.* \(i8\); the parameter is i4"),
        ({2: np.float32(5)}, r"argument 2 .* \(f4\); the parameter is i4"),
        ({3: np.float64(5)}, r"argument 3 .* \(f8\); the parameter is f4"),
        ({0: np.uint64(4096)}, r"argument 0 .* \(u8\); the parameter is a pointer to f4"),
        ({0: np.float64}, "argument 0 is an array of float64; the parameter points to f4"),
        ({1: np.int32}, "argument 1 is an array of int32; the parameter points to i8"),
        ({2: np.int32}, r"argument 2 is an array; the parameter is a number \(i4\)"),
        ({2: 5}, "argument 2 is 5 of int; use a device array or one of NumPy's int32"),
        ({0: np.zeros(3, np.float32)}, "argument 0 is .* of ndarray; use a device array"),
    ],
)
def test_arguments_must_be_what_the_kernel_takes(
    driver: HostDriver, run: Any, replaced: dict[int, Any], message: str | None
) -> None:
    args: list[Any] = [device_zeros(driver), driver.zeros((1,), np.int64), np.int32(1), np.float32(2)]
    for i, value in replaced.items():
        args[i] = driver.zeros((1,), value) if isinstance(value, type) else value
    args = [arg for arg in args if arg is not None]
    text = kernel_text("const float* x, long long* n, int i, float f", "*n = i + f + (x ? 1 : 0);")
    if message is None:
        run(text, tuple(args))
        assert int(args[1]) == (4 if 0 not in replaced else 3)
    else:
        with pytest.raises((HostDriverError, TypeError), match=message):
            run(text, tuple(args))


@pytest.mark.parametrize(("grid", "block"), [((1, 1, 1), 1025), ((1, 1, 1), 0), ((1, 65536, 1), 32), ((0, 1, 1), 32)])
def test_launches_that_no_device_takes(driver: HostDriver, run: Any, grid: Any, block: int) -> None:
    with pytest.raises(HostDriverError, match="a device takes 1 to"):
        run(kernel_text("", ""), (), grid, block)


def test_kernel_that_does_not_compile_is_named(driver: HostDriver) -> None:
    with pytest.raises(HostDriverError, match=re.compile('kernel "tested" does not compile.*undeclared_name', re.S)):
        driver.kernel(kernel_text("float* x", "x[0] = undeclared_name;"))


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(HostDriverError, match=r"no C\+\+ compiler for the host: install g\+\+ or clang\+\+"):
        HostDriver(tmp_path)


def test_a_text_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [kernel_text("int* x", f"x[0] = {i};") for i in range(4)]
    HostDriver(folder).prefetch(texts)
    driver = HostDriver(folder)
    monkeypatch.setattr(
        "support.cuda_host.toolchain.subprocess.run", lambda *args, **kwargs: pytest.fail("it compiles")
    )
    x = driver.zeros((1,), np.int32)
    for i, text in enumerate(texts):
        kernel = driver.kernel(text)
        kernel((1, 1, 1), 1, (x,))
        assert int(x) == i and driver.kernel(text) is kernel


# -- 16-bit types ---------------------------------------------------------------------------------------------

SIXTEEN_BITS = {
    "float16": ("cuda_fp16.h", "__half", "__half2float", "__float2half_rn"),
    "bfloat16": ("cuda_bf16.h", "__nv_bfloat16", "__bfloat162float", "__float2bfloat16_rn"),
}


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_sixteen_bit_conversions(driver: HostDriver, run: Any, rng: np.random.Generator, name: str) -> None:
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    header, short, widen, narrow = SIXTEEN_BITS[name]
    include = f"#include <{header}>"
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    wide = driver.empty((1 << 16,), np.float32)
    text = kernel_text(f"const {short}* x, float* out", PLACE + f"out[i] = {widen}(x[i]);", include)
    run(text, (driver.to_device(every), wide), (1024, 1, 1))
    np.testing.assert_array_equal(wide.get(), every.astype(np.float32))
    assert (np.signbit(wide.get()) == np.signbit(every.astype(np.float32))).all()

    with np.errstate(all="ignore"):
        exact = every.astype(np.float32)
        between = (exact[:-1].astype(np.float64) + exact[1:]) / 2  # ties, among them those to zero and infinity
        values = [exact, between, np.nextafter(between.astype(np.float32), np.float32(0)), rng.standard_normal(1000)]
        bits = rng.integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
        floats = np.concatenate([*(v.astype(np.float32) for v in values), bits, [np.inf, -np.inf, np.nan, 65519.996]])
        floats = np.resize(floats, -(-len(floats) // 64) * 64).astype(np.float32)
        expected = floats.astype(dtype)
    out = driver.empty((len(floats),), dtype)
    text = kernel_text(f"const float* x, {short}* out", PLACE + f"out[i] = {narrow}(x[i]);", include)
    run(text, (driver.to_device(floats), out), (len(floats) // 64, 1, 1))
    found, nan = out.get(), np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


# -- products -------------------------------------------------------------------------------------------------


SPEC = GemmSpec(3, 4, 5, 6, False, False, 24, 30, 20, "float32", "float32", "float32")


def spec(**changed: Any) -> GemmSpec:
    return replace(SPEC, **changed)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("networks", [1, 3])
@pytest.mark.parametrize("epilogue", ["none", "bias", "relu_bias"])
def test_products(
    driver: HostDriver,
    rng: np.random.Generator,
    transpose_a: bool,
    transpose_b: bool,
    networks: int,
    epilogue: str,
) -> None:
    s = spec(
        networks=networks, transpose_a=transpose_a, transpose_b=transpose_b, a_stride=40, b_stride=0, out_stride=21,
        in_type="float64", out_type="float64", compute="float64", epilogue=epilogue, bias_stride=7,
    )  # fmt: skip
    a, b, bias = rng.standard_normal((networks, 40)), rng.standard_normal(30), rng.standard_normal((networks, 7))
    out = driver.zeros((networks, 21), np.float64)
    last = () if epilogue == "none" else (driver.to_device(bias),)
    driver.gemm(s)(driver.to_device(a), driver.to_device(b), out, *last)
    for i in range(networks):
        A = a[i, :24].reshape(6, 4).T if transpose_a else a[i, :24].reshape(4, 6)
        B = b.reshape(5, 6).T if transpose_b else b.reshape(6, 5)
        expected = A @ B + (0 if epilogue == "none" else bias[i, :5])
        expected = np.maximum(expected, 0) if epilogue == "relu_bias" else expected
        np.testing.assert_allclose(out.get()[i, :20].reshape(4, 5), expected, rtol=1e-13, atol=1e-13)
        assert out.get()[i, 20] == 0  # the gap between two networks


def test_products_round_as_tensor_cores_do(driver: HostDriver) -> None:
    def product(a: Any, b: Any, **changed: Any) -> Any:
        s = spec(networks=1, m=1, n=1, k=len(a), **changed)
        out = driver.empty((1,), s.out_type)
        driver.gemm(s)(driver.to_device(a), driver.to_device(b), out)
        return out.item()

    ones = np.ones(1, np.float32)
    for value, kept in ((1 + 2**-10, 1 + 2**-10), (1 + 2**-11, 1.0), (1 + 3 * 2**-11, 1 + 2**-9), (np.inf, np.inf)):
        assert product(np.float32([value]), ones, compute="tf32") == kept
        assert product(np.float32([value]), ones) == value
    halves = np.float16([2048, 1, 1])  # summed in float32, rounded once
    assert product(halves, np.ones(3, np.float16), in_type="float16", out_type="float32") == 2050
    assert product(halves, np.ones(3, np.float16), in_type="float16", out_type="float16") == 2050
    assert product(np.float16([2048, 1]), np.ones(2, np.float16), in_type="float16", out_type="float16") == 2048


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"b_stride": 31}, "gemm: b: 3 matrices of 6 x 5 float32, 31 elements apart, end at byte 368 of .* 360"),
        ({"out_stride": 0}, "0 elements apart and overlap"),
        ({"in_type": "float16"}, "gemm: a is float32, not float16 as its spec says"),
        ({"out_type": "float64"}, "no product of these types"),
        ({"epilogue": "bias"}, 'bias=None with the epilogue "bias"'),
    ],
)
def test_products_that_are_refused(driver: HostDriver, changed: dict[str, Any], message: str) -> None:
    a, b, out = (driver.zeros((n,), np.float32) for n in (72, 90, 60))
    with pytest.raises(HostDriverError, match=message):
        driver.gemm(spec(**changed))(a, b, out)


def test_product_must_not_write_its_operand(driver: HostDriver) -> None:
    a, b = driver.zeros((72,), np.float32), driver.zeros((90,), np.float32)
    with pytest.raises(HostDriverError, match="out shares memory with an operand"):
        driver.gemm(spec())(a, b, a)


# -- capture --------------------------------------------------------------------------------------------------

ADD_ONE = kernel_text("float* x", "x[threadIdx.x] += 1;")


def test_capture_records_and_replays(driver: HostDriver) -> None:
    x, a, b, out = device_zeros(driver), *(driver.zeros((n,), np.float32) for n in (72, 90, 60))

    def work() -> None:
        driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (x,))
        driver.gemm(spec())(a, b, out)

    work()
    replay = driver.capture(work)
    assert (x.get() == 1).all()  # recorded, not run
    a[...] = 1
    b[...] = 2
    replay()
    replay()
    assert (x.get() == 3).all() and (out.get() == 12).all()


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda driver, x: driver.to_host(x),
        lambda driver, x: driver.to_device(np.zeros(3)),
        lambda driver, x: driver.empty((3,), np.float32),
        lambda driver, x: driver.zeros((3,), np.float32),
        lambda driver, x: driver.synchronize(),
        lambda driver, x: driver.capture(lambda: None),
        lambda driver, x: x + 1,
        lambda driver, x: x.__iadd__(1),
        lambda driver, x: x.__setitem__(0, 1),
        lambda driver, x: x.fill(1),
        lambda driver, x: x.sum(),
        lambda driver, x: x.copy(),
        lambda driver, x: x.astype(np.float64),
        lambda driver, x: bool(x[0]),
        lambda driver, x: float(x[0]),
        lambda driver, x: x[np.array([1, 2])],
        lambda driver, x: driver.xp.exp(x),
        lambda driver, x: driver.kernel(kernel_text("float* x", "x[0] = 17;")),
        lambda driver, x: driver.gemm(spec(m=17)),
    ],
)
def test_capture_refuses_what_is_no_launch(driver: HostDriver, forbidden: Callable[[Any, Any], Any]) -> None:
    x = device_zeros(driver)
    with pytest.raises(HostDriverError, match="during a capture: only kernels and GEMMs"):
        driver.capture(lambda: forbidden(driver, x))
    assert (x.get() == 0).all()  # the driver works again


def test_capture_allows_views(driver: HostDriver) -> None:
    x = driver.zeros((2, BLOCK), np.float32)
    driver.kernel(ADD_ONE)
    driver.capture(lambda: driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (x.reshape(-1)[BLOCK:],)))()
    np.testing.assert_array_equal(x.get(), [[0] * BLOCK, [1] * BLOCK])


def test_replay_does_not_keep_memory_alive(driver: HostDriver) -> None:
    arrays = [device_zeros(driver)]
    driver.kernel(ADD_ONE)
    replay = driver.capture(lambda: driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, tuple(arrays)))
    arrays.clear()
    gc.collect()
    with pytest.raises(HostDriverError, match='"tested", argument 0 was freed between its capture and this replay'):
        replay()


# -- two streams ----------------------------------------------------------------------------------------------

COPY = kernel_text("const float* x, float* y", "y[threadIdx.x] = x[threadIdx.x];")


def copy_aside(driver: HostDriver, x: Any, y: Any) -> None:
    with driver.aside():
        driver.kernel(COPY)((1, 1, 1), BLOCK, (x, y))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_launched_aside_runs_before_the_join(folder: Path, seed: int) -> None:
    """Called or replayed; at once or later, by the seed."""
    driver = HostDriver(folder, seed)
    x, y, z = (device_zeros(driver) for _ in range(3))

    def work() -> None:
        copy_aside(driver, x, y)
        driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (z,))
        driver.join()
        driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (x,))
        driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (y,))

    work()
    np.testing.assert_array_equal([x.get(), y.get(), z.get()], np.full((3, BLOCK), 1))
    replay = driver.capture(work)
    replay()
    replay()
    np.testing.assert_array_equal([x.get(), y.get(), z.get()], np.full((3, BLOCK), 3))


def test_what_collides_with_work_aside_is_refused(driver: HostDriver) -> None:
    """Reading what it writes, writing what it reads; but not reading what it reads, nor other parts of its memory."""
    whole = driver.zeros((4, BLOCK), np.float32)
    x, y, z, other = whole

    def launch(kernel: Any, *args: Any) -> None:
        driver.kernel(kernel)((1, 1, 1), BLOCK, args)

    for collides in (lambda: launch(ADD_ONE, x), lambda: launch(COPY, y, z), lambda: launch(COPY, z, y)):
        copy_aside(driver, x, y)
        with pytest.raises(HostDriverError, match="is that of .* which was launched aside and not joined"):
            collides()
        driver.join()
        collides()
    copy_aside(driver, x, y)
    launch(COPY, x, z)
    launch(ADD_ONE, other)
    assert (y.get() == x.get()).all()  # a copy to the host waits
    launch(ADD_ONE, x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("captured", [False, True])
def test_sums_over_several_devices_are_joined_by_themselves(folder: Path, seed: int, captured: bool) -> None:
    """They begin after what was launched before, aside too; what uses them before they are joined is refused."""
    driver = HostDriver(folder, seed)
    x, y, z = (device_zeros(driver) for _ in range(3))

    def double() -> None:
        y._host *= 2

    def work() -> None:
        copy_aside(driver, x, y)
        with driver.collective(y) as stream:
            stream(double)
        copy_aside(driver, x, z)
        driver.join()
        for uses in (lambda: copy_aside(driver, y, z), lambda: driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (y,))):
            with pytest.raises(HostDriverError, match="which was added up over several devices and not joined"):
                uses()
        driver.join_collectives()
        driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (y,))

    driver.kernel(ADD_ONE)((1, 1, 1), BLOCK, (x,))
    driver.kernel(COPY)((1, 1, 1), BLOCK, (z, y))
    (driver.capture(work) if captured else work)()
    np.testing.assert_array_equal([y.get(), z.get()], [np.full(BLOCK, 3), np.full(BLOCK, 1)])


def test_nothing_is_launched_aside_of_work_aside(driver: HostDriver) -> None:
    with pytest.raises(HostDriverError, match="aside of work"), driver.aside(), driver.aside():
        pass


# -- arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, host: np.asarray(x),
        lambda x, host: np.add(x, host),
        lambda x, host: np.exp(x),
        lambda x, host: np.concatenate([x, x]),
        lambda x, host: x + host,
        lambda x, host: host + x,
        lambda x, host: x.__iadd__(host),
        lambda x, host: host.__iadd__(x),
        lambda x, host: x < host,
        lambda x, host: x + [1, 2, 3],
        lambda x, host: x.sum(out=host),
        lambda x, host: x.sum(where=x > 0),
        lambda x, host: host.__setitem__(slice(None), x),
    ],
)
def test_device_arrays_and_host_arrays_do_not_mix(driver: HostDriver, mixed: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(TypeError):
        mixed(driver.zeros((3,), np.float64), np.ones(3))


@pytest.mark.parametrize("function", ["add", "where", "stack", "copyto", "sum"])
def test_functions_of_the_device_refuse_host_arrays(driver: HostDriver, function: str) -> None:
    x, host = driver.zeros((3,), np.float64), np.ones(3)
    args = {"add": (x, host), "where": (x > 0, host, x), "stack": ([x, host],), "copyto": (x, host), "sum": (host,)}
    with pytest.raises(TypeError, match="to_device first"):
        getattr(driver.xp, function)(*args[function])


def test_assignment_takes_device_arrays_and_numbers(driver: HostDriver) -> None:
    x = driver.zeros((2, 3), np.float32)
    x[0] = driver.to_device(np.arange(3.0))
    x[1, 1:] = np.float64(7)
    x[1, 0] = np.array(5)  # without dimensions: a number
    np.testing.assert_array_equal(x.get(), [[0, 1, 2], [5, 7, 7]])
    with pytest.raises(ValueError, match="to_device first"):
        x[0] = np.ones(3)
    with pytest.raises(TypeError, match="to_device first"):
        x[0] = [1, 2, 3]


def test_parts_are_views_and_gathered_rows_are_copies(driver: HostDriver) -> None:
    x = driver.to_device(np.arange(6.0).reshape(2, 3))
    one = x[1, 2]
    assert one.shape == () and one.data.ptr == x.data.ptr + 40
    one[...] = 9
    x[0, 1:] += 10
    x.T[0, 0] = -1
    for index in (np.array([1, 0]), driver.to_device(np.array([1, 0]))):
        rows = x[index]
        rows[...] = 0
    np.testing.assert_array_equal(x.get(), [[-1, 11, 12], [3, 4, 9]])
    np.testing.assert_array_equal(x[x > 10].get(), [11, 12])


def test_arithmetic_is_numpys(driver: HostDriver) -> None:
    host = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    x = driver.to_device(host)
    for found, expected in (
        (2 / x - x**2, 2 / host - host**2),
        (np.float64(2) * x, np.float64(2) * host),  # a NumPy scalar keeps its type, a Python number has none
        (x / 0, host / np.inf + np.inf),
        (-x @ x.T, -host @ host.T),
        ((x > 2) & ~(x == 4), (host > 2) & ~(host == 4)),
        (x.sum(axis=1, keepdims=True), host.sum(axis=1, keepdims=True)),
        (x.reshape(3, 2).swapaxes(0, 1), host.reshape(3, 2).swapaxes(0, 1)),
        (driver.xp.maximum(driver.xp.exp(x), 20), np.maximum(np.exp(host), 20)),
        (driver.xp.stack([x, x], axis=-1), np.stack([host, host], axis=-1)),
        (driver.xp.asarray(host, dtype=np.int32), host.astype(np.int32)),
        (driver.xp.erf(driver.xp.zeros((2,))), np.zeros(2)),
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.get(), expected)
    assert bool(x.any()) and float(x[0, 1]) == 2 and int(x.max()) == 6 and len(x) == 2 and x.flags.c_contiguous
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
