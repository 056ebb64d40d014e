"""cuBLASLt by ctypes: its numbers and widths, and that arguments arrive in C as they were meant."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpubp.backends.cuda import cublaslt
from gpubp.backends.cuda.cublaslt import (
    AlgorithmAttribute,
    Attribute,
    CublasLtError,
    CublasLtLibrary,
    HeuristicResult,
    LayoutAttribute,
    OpaqueAlgorithm,
    OperationAttribute,
    PreferenceAttribute,
)
from support.cuda_host import host_compiler

ENUMS: dict[type[Attribute], tuple[str, str]] = {  # the names of nvmath, and how the header begins a member's
    OperationAttribute: ("MatmulDescAttribute", "CUBLASLT_MATMUL_DESC"),
    LayoutAttribute: ("MatrixLayoutAttribute", "CUBLASLT_MATRIX_LAYOUT"),
    PreferenceAttribute: ("MatmulPreferenceAttribute", "CUBLASLT_MATMUL_PREF"),
    AlgorithmAttribute: ("MatmulAlgoConfigAttribute", "CUBLASLT_ALGO_CONFIG"),
}
WIDTHS = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint16_t": ctypes.c_uint16,
    "const void *": ctypes.c_void_p,
}
FAR = 0x7F12_3456_789A_BC00  # an address that does not fit into 32 bits


# -- numbers and widths --------------------------------------------------------------------------------


def test_what_nvmath_says() -> None:
    lt = pytest.importorskip("nvmath.bindings.cublasLt", reason="nvmath-python is not installed")
    cublas = pytest.importorskip("nvmath.bindings.cublas")
    nvmath = pytest.importorskip("nvmath")
    for attributes, (name, _) in ENUMS.items():
        of_nvmath = getattr(lt, name)
        words = "_".join(re.findall("[A-Z][a-z]+", name.removesuffix("Attribute"))).lower()
        dtype_of = getattr(lt, f"get_{words}_attribute_dtype")
        for attribute in attributes:
            assert int(of_nvmath[attribute.name]) == attribute.number
            assert np.dtype(dtype_of(attribute.number)).itemsize == ctypes.sizeof(attribute.ctype)
    names = {"none": "DEFAULT", "bias": "BIAS", "relu_bias": "RELU_BIAS"}
    assert {epilogue: int(lt.Epilogue[name]) for epilogue, name in names.items()} == cublaslt.EPILOGUES
    assert int(lt.ReductionScheme.COMPUTE_TYPE) == cublaslt.REDUCE_IN_COMPUTE_TYPE
    names = {"float32": "COMPUTE_32F", "float64": "COMPUTE_64F", "tf32": "COMPUTE_32F_FAST_TF32"}
    assert {kind: int(cublas.ComputeType[name]) for kind, name in names.items()} == cublaslt.COMPUTE_TYPES
    names = {"float32": "32F", "float64": "64F", "float16": "16F", "bfloat16": "16BF"}
    assert {kind: int(nvmath.CudaDataType[f"CUDA_R_{name}"]) for kind, name in names.items()} == cublaslt.DATA_TYPES
    for name in ("SUCCESS", "INVALID_VALUE", "NOT_SUPPORTED"):
        assert int(cublas.Status[name]) == getattr(cublaslt, name)
    assert (int(cublas.Operation.N), int(cublas.Operation.T)) == (0, 1)
    fields = lt.matmul_heuristic_result_dtype.fields
    assert lt.matmul_heuristic_result_dtype.itemsize == ctypes.sizeof(HeuristicResult)
    assert (fields["algo"][1], fields["state"][1]) == (HeuristicResult.algo.offset, HeuristicResult.state.offset)


@pytest.fixture(scope="module")
def headers() -> Path:
    """The folder of cublasLt.h."""
    return installed("cublasLt.h").parent


def installed(name: str, distribution: str = "nvidia-cublas") -> Path:
    """A file that one of NVIDIA's wheels brought; its name begins so."""
    for package in (distribution, f"{distribution}-cu12"):
        with suppress(importlib.metadata.PackageNotFoundError):
            for file in importlib.metadata.files(package) or []:
                if file.name.startswith(name):
                    return Path(str(file.locate()))
    pytest.skip(f"{name}: {distribution} is not installed")


@pytest.mark.parametrize("attributes", ENUMS)
def test_what_the_header_says_of_attributes(headers: Path, attributes: type[Attribute]) -> None:
    """A member's comment begins or ends with the type of its value."""
    text = (headers / "cublasLt.h").read_text(encoding="utf-8")
    prefix = ENUMS[attributes][1]
    for attribute in attributes:
        (member,) = re.finditer(rf"^  {prefix}_{attribute.name} = (\d+),", text, re.MULTILINE)
        assert int(member[1]) == attribute.number
        comment = text[text.rindex("/**", 0, member.start()) : member.start()]
        types = re.findall(r"\* (?:Bias case: )?(u?int\d+_t|const void \*)", comment)
        assert {WIDTHS[name] for name in types} == {attribute.ctype}, attribute


def test_what_the_headers_say_of_other_numbers(headers: Path) -> None:
    types = installed("library_types.h", "nvidia-cuda-runtime")
    text = "".join(
        path.read_text(encoding="utf-8") for path in (headers / "cublasLt.h", headers / "cublas_api.h", types)
    )
    for name, number in {
        "CUBLASLT_EPILOGUE_DEFAULT": cublaslt.EPILOGUES["none"],
        "CUBLASLT_EPILOGUE_BIAS": cublaslt.EPILOGUES["bias"],
        "CUBLASLT_EPILOGUE_RELU": cublaslt.EPILOGUES["relu_bias"] & ~cublaslt.EPILOGUES["bias"],
        "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE": cublaslt.REDUCE_IN_COMPUTE_TYPE,
        "CUBLAS_STATUS_SUCCESS": cublaslt.SUCCESS,
        "CUBLAS_STATUS_INVALID_VALUE": cublaslt.INVALID_VALUE,
        "CUBLAS_STATUS_NOT_SUPPORTED": cublaslt.NOT_SUPPORTED,
        "CUBLAS_OP_N": 0,
        "CUBLAS_OP_T": 1,
        "CUBLAS_COMPUTE_32F": cublaslt.COMPUTE_TYPES["float32"],
        "CUBLAS_COMPUTE_64F": cublaslt.COMPUTE_TYPES["float64"],
        "CUBLAS_COMPUTE_32F_FAST_TF32": cublaslt.COMPUTE_TYPES["tf32"],
        "CUDA_R_32F": cublaslt.DATA_TYPES["float32"],
        "CUDA_R_64F": cublaslt.DATA_TYPES["float64"],
        "CUDA_R_16F": cublaslt.DATA_TYPES["float16"],
        "CUDA_R_16BF": cublaslt.DATA_TYPES["bfloat16"],
    }.items():
        assert re.findall(rf"^ +{name} *= *(\d+)\b", text, re.MULTILINE) == [str(number)], name
    assert "CUBLASLT_EPILOGUE_RELU_BIAS = (CUBLASLT_EPILOGUE_RELU | CUBLASLT_EPILOGUE_BIAS)" in text


def test_what_the_header_says_of_structures(headers: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", (headers / "cublasLt.h").read_text(encoding="utf-8"), flags=re.DOTALL)

    def fields(name: str) -> list[str]:
        (body,) = re.findall(rf"typedef struct {{([^{{}}]*)}} {name};", text)
        return [" ".join(field.split()) for field in body.split(";") if field.strip()]

    assert fields("cublasLtMatmulAlgo_t") == ["uint64_t data[8]"]
    assert fields("cublasLtMatmulHeuristicResult_t") == [
        "cublasLtMatmulAlgo_t algo",
        "size_t workspaceSize",
        "cublasStatus_t state",
        "float wavesCount",
        "int reserved[4]",
    ]
    assert [(name, ctypes.sizeof(ctype)) for name, ctype in HeuristicResult._fields_] == [
        ("algo", 64),
        ("workspaceSize", 8),
        ("state", 4),
        ("wavesCount", 4),
        ("reserved", 16),
    ]


def test_the_installed_library_takes_what_it_is_given() -> None:
    """Descriptors live on the host: no device is needed to create them, and widths that are wrong are refused."""
    try:
        lt = CublasLtLibrary(ctypes.CDLL(str(installed("libcublasLt.so"))))
    except OSError as error:
        pytest.skip(f"libcublasLt cannot be loaded here: {error}")
    operation = lt.create_operation("float32", "float32")
    layout = lt.create_layout("bfloat16", 64, 32, 64)
    preference = lt.create_preference()
    for value, attribute in enumerate(OperationAttribute):
        lt.set_operation(operation, attribute, FAR if attribute is OperationAttribute.BIAS_POINTER else value % 2)
    for attribute in LayoutAttribute:
        lt.set_layout(layout, attribute, 3)
    for attribute in PreferenceAttribute:
        lt.set_preference(preference, attribute, 2)
    for attribute in AlgorithmAttribute:
        assert lt.algorithm_attribute(OpaqueAlgorithm(7), attribute) == (7 if attribute.name == "ID" else 0)
    with pytest.raises(CublasLtError, match="cublasLtMatmulDescSetAttribute: CUBLAS_STATUS_INVALID_VALUE") as refused:
        lt._set("cublasLtMatmulDescSetAttribute", operation, LayoutAttribute.STRIDED_BATCH_OFFSET, 1)
    assert refused.value.status == 7
    lt.destroy_operation(operation)
    lt.destroy_layout(layout)
    lt.destroy_preference(preference)


# -- the way into C ------------------------------------------------------------------------------------

# A library of these functions as cublasLt.h declares them, which notes down what arrives.
LIBRARY = r"""
#include <cstdint>
#include <cstdio>
#include <cstring>

#ifndef VERSION
#define VERSION 130100
#endif
static char arrived[4096];
static int status_to_return = 0;

template <class... Values>
static int note(const char* format, Values... values) {
    snprintf(arrived, sizeof arrived, format, values...);
    return status_to_return;
}
static unsigned long long content(const void* from, size_t size) {
    unsigned long long value = 0;
    memcpy(&value, from, size);
    return value;
}

struct Algorithm { uint64_t data[8]; };
struct Result { Algorithm algo; size_t workspace; int state; float waves; int reserved[4]; };

extern "C" {
const char* test_arrived() { return arrived; }
void test_return(int status) { status_to_return = status; }

size_t cublasLtGetVersion() { return VERSION; }
const char* cublasLtGetStatusName(int status) {
    return status == 15 ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_X";
}

#define MAKES(name, parameters, ...) \
    int name parameters { *made = reinterpret_cast<void*>(0x7F123456789ABC00ull); return note(__VA_ARGS__); }
#define SETS(name) \
    int name(void* of, int attribute, const void* value, size_t size) { \
        return note("%p %d %llx %zu", of, attribute, content(value, size), size); }
#define DESTROYS(name) int name(void* it) { return note("%p", it); }

MAKES(cublasLtCreate, (void** made), "made")
MAKES(cublasLtMatmulDescCreate, (void** made, int compute, int scale), "%d %d", compute, scale)
MAKES(cublasLtMatrixLayoutCreate, (void** made, int type, uint64_t rows, uint64_t columns, int64_t ld),
      "%d %llu %llu %lld", type, (unsigned long long)rows, (unsigned long long)columns, (long long)ld)
MAKES(cublasLtMatmulPreferenceCreate, (void** made), "made")
DESTROYS(cublasLtMatmulDescDestroy)
DESTROYS(cublasLtMatrixLayoutDestroy)
DESTROYS(cublasLtMatmulPreferenceDestroy)
SETS(cublasLtMatmulDescSetAttribute)
SETS(cublasLtMatrixLayoutSetAttribute)
SETS(cublasLtMatmulPreferenceSetAttribute)

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                   int most, Result* results, int* returned) {
    for (int i = 0; i < most; i++)
        for (int j = 0; j < 8; j++) results[i].algo.data[j] = 0x1000000000000000ull * (i + 1) + j;
    for (int i = 0; i < most; i++) results[i].state = i == 1 ? 15 : 0;
    *returned = most - 1;
    return note("%p %p %p %p %p %p %p %d", handle, operation, a, b, c, d, preference, most);
}
int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute, void* value, size_t size,
                                         size_t* written) {
    memset(value, 0x12, size);
    *written = size;
    return note("%llx %d %zu", (unsigned long long)algorithm->data[7], attribute, size);
}
#ifndef NO_MATMUL
int cublasLtMatmul(void* handle, void* operation, const void* alpha, const void* A, void* a, const void* B, void* b,
                   const void* beta, const void* C, void* c, void* D, void* d, const Algorithm* algorithm,
                   void* workspace, size_t size, void* stream) {
    return note("%p %p %g %p %p %p %p %g %p %p %p %p %llx %p %zu %p", handle, operation, *(const double*)alpha, A, a, B,
                b, *(const double*)beta, C, c, D, d, (unsigned long long)algorithm->data[7], workspace, size, stream);
}
#endif
}
"""


def compiler() -> list[str]:
    found = host_compiler()
    if found is None:
        pytest.skip("no C++ compiler; install g++ or clang++")
    return found


def built(folder: Path, *options: str) -> Any:
    """The library above."""
    source, library = folder / "cublaslt.cpp", folder / "libcublasLt.so"
    source.write_text(LIBRARY)
    command = [*compiler(), "-std=c++17", "-shared", "-fPIC", *options, str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = built(tmp_path_factory.mktemp("cublaslt"))
    library.test_arrived.restype = ctypes.c_char_p
    return library


@pytest.fixture
def lt(in_c: Any) -> Iterator[CublasLtLibrary]:
    yield CublasLtLibrary(in_c)
    in_c.test_return(0)


def arrived(in_c: Any) -> list[str]:
    return list(in_c.test_arrived().decode().split())


def test_the_version(lt: CublasLtLibrary) -> None:
    assert lt.version == 130100


def test_what_creates_gives_a_whole_address(in_c: Any, lt: CublasLtLibrary) -> None:
    assert lt.create() == FAR
    assert lt.create_operation("tf32", "float64") == FAR
    assert arrived(in_c) == ["77", "1"]
    assert lt.create_layout("bfloat16", 2**40 + 1, 2**41 + 1, 2**42 + 1) == FAR
    assert arrived(in_c) == ["14", str(2**40 + 1), str(2**41 + 1), str(2**42 + 1)]
    assert lt.create_preference() == FAR


def test_a_descriptor_is_destroyed_by_its_whole_address(in_c: Any, lt: CublasLtLibrary) -> None:
    for destroy in (lt.destroy_operation, lt.destroy_layout, lt.destroy_preference):
        destroy(FAR)
        assert arrived(in_c) == [hex(FAR)]


def test_an_attribute_arrives_with_its_width(in_c: Any, lt: CublasLtLibrary) -> None:
    for put, attribute, value, size in (
        (lt.set_operation, OperationAttribute.TRANSA, 1, 4),
        (lt.set_operation, OperationAttribute.BIAS_POINTER, FAR, 8),
        (lt.set_operation, OperationAttribute.BIAS_BATCH_STRIDE, 2**40, 8),
        (lt.set_layout, LayoutAttribute.BATCH_COUNT, 2**31 - 1, 4),
        (lt.set_layout, LayoutAttribute.STRIDED_BATCH_OFFSET, 2**40, 8),
        (lt.set_preference, PreferenceAttribute.MAX_WORKSPACE_BYTES, 32 << 20, 8),
        (lt.set_preference, PreferenceAttribute.MIN_ALIGNMENT_D_BYTES, 256, 4),
    ):
        put(FAR, attribute, value)  # type: ignore[operator]
        assert arrived(in_c) == [hex(FAR), str(attribute.number), f"{value:x}", str(size)]


def test_proposals_are_those_that_can_be_used(in_c: Any, lt: CublasLtLibrary) -> None:
    """The second of the three that are returned cannot, and a fourth was asked for."""
    found = lt.propose(FAR, FAR + 1, (FAR + 2, FAR + 3, FAR + 4, FAR + 5), FAR + 6, 4)
    assert arrived(in_c) == [*(hex(FAR + i) for i in range(7)), "4"]
    assert [list(each) for each in found] == [[(i << 60) + j for j in range(8)] for i in (1, 3)]


def test_no_proposals(in_c: Any, lt: CublasLtLibrary) -> None:
    in_c.test_return(15)
    assert not lt.propose(1, 2, (3, 4, 5, 6), 7, 0)
    in_c.test_return(7)
    with pytest.raises(CublasLtError, match="cublasLtMatmulAlgoGetHeuristic"):
        lt.propose(1, 2, (3, 4, 5, 6), 7, 1)


def test_the_configuration_of_an_algorithm(in_c: Any, lt: CublasLtLibrary) -> None:
    for attribute in AlgorithmAttribute:
        size = ctypes.sizeof(attribute.ctype)
        assert lt.algorithm_attribute(OpaqueAlgorithm(*range(8)), attribute) == int("12" * size, 16)
        assert arrived(in_c) == ["7", str(attribute.number), str(size)]


def test_a_product(in_c: Any, lt: CublasLtLibrary) -> None:
    one, zero = np.array([1.5]), np.array([0.25])
    operands = tuple((FAR + 16 * i, FAR + 16 * i + 8) for i in range(4))
    lt.matmul(
        handle=FAR - 1,
        operation=FAR - 2,
        scales=(one.ctypes.data, zero.ctypes.data),
        operands=operands,
        algorithm=OpaqueAlgorithm(*range(8)),
        workspace=(FAR - 3, 2**33),
        stream=FAR - 4,
    )
    a, b, c, d = ([hex(address) for address in operand] for operand in operands)
    scaled = [hex(FAR - 1), hex(FAR - 2), "1.5", *a, *b, "0.25", *c, *d]
    assert arrived(in_c) == [*scaled, "7", hex(FAR - 3), str(2**33), hex(FAR - 4)]


def test_a_status_is_an_error_with_its_name(in_c: Any, lt: CublasLtLibrary) -> None:
    in_c.test_return(15)
    with pytest.raises(CublasLtError, match="^cublasLtCreate: CUBLAS_STATUS_NOT_SUPPORTED$") as refused:
        lt.create()
    assert refused.value.status == 15


def test_a_library_that_is_too_old_or_lacks_a_function(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="cuBLASLt 111103 is too old"):
        CublasLtLibrary(built(tmp_path, "-DVERSION=111103"))
    (other := tmp_path / "other").mkdir()
    with pytest.raises(AttributeError, match="undefined symbol: cublasLtMatmul"):
        CublasLtLibrary(built(other, "-DNO_MATMUL"))
