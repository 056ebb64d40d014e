"""What the errors of CUDA, CuPy, NVRTC and cuBLASLt mean, and what to do about them."""

from __future__ import annotations

import os
import re

from gpubp.backends.cuda.cublaslt import CublasLtError
from gpubp.backends.cuda.dependent_launch import CudaDriverError

INSTALL = "pip install 'gpubp[cuda13]' (or 'gpubp[cuda12]' for drivers before CUDA 13)"
UPDATE = "update the NVIDIA driver, or install the CuPy wheel for the CUDA version that nvidia-smi shows"
OTHERS = "end other programs on the device (nvidia-smi lists them)"
INSTALL_DRIVER = "install the NVIDIA driver, if there is a GPU"
SEE_DEVICES = "see what nvidia-smi -L says"
NO_DEVICE = "no such device is visible"
NO_DRIVER = "no NVIDIA driver is installed"

# (text in `one_line` of the error, cause, remedy): the first match is used.
FAULTS: tuple[tuple[str, str, str], ...] = (
    (
        r"OutOfMemory|MemoryAllocation|OUT_OF_MEMORY|ALLOC_FAILED",
        "the device is out of memory",
        f"{OTHERS}, or train with smaller batches, a smaller network or less data on it",
    ),
    (
        r"DevicesUnavailable|DEVICE_UNAVAILABLE",
        "the device is busy",
        f"{OTHERS}, or choose another one",
    ),
    (
        r"cudaErrorNoDevice|ERROR_NO_DEVICE|InvalidDevice|ERROR_INVALID_DEVICE",
        NO_DEVICE,
        SEE_DEVICES,
    ),
    (
        r"InsufficientDriver|UnsupportedPtxVersion|UNSUPPORTED_PTX|SystemDriverMismatch|SYSTEM_DRIVER_MISMATCH",
        "the NVIDIA driver is too old",
        UPDATE,
    ),
    (
        r"libcuda\.so|CUDA driver is not found",
        NO_DRIVER,
        INSTALL_DRIVER,
    ),
    (
        r"open source file",
        "the CUDA headers are missing",
        INSTALL,
    ),
    (
        r"cuBLASLt \d+ is too old|undefined symbol: cublasLt|function 'cublasLt\w+' not found",
        "cuBLASLt is too old",
        f"update it: {INSTALL}",
    ),
    (
        r"cuda-pathfinder",
        "a part of CuPy is missing or broken",
        f"pip install --upgrade cuda-pathfinder, or {INSTALL}",
    ),
    (
        r"DynamicLibNotFound|Failure finding|cannot open shared object|[Ff]ailed to load.*lib",
        "a library of the CUDA toolkit is missing",
        INSTALL,
    ),
    (
        r"cuBLASLt cannot be loaded",
        "a library of the CUDA toolkit is broken",
        INSTALL,
    ),
    (
        r"NoKernelImage|NO_BINARY_FOR_GPU|CUBLAS_STATUS_ARCH_MISMATCH|invalid value for --gpu-architecture",
        "this CUDA toolkit does not know the device's architecture",
        f"{INSTALL}, in the version that supports the device",
    ),
    (
        r"PermissionError|Read-only file system|No space left",
        "CuPy cannot write to its cache of compiled kernels",
        "set CUPY_CACHE_DIR to a folder that can be written to",
    ),
    (
        r"CompileException|NVRTC_ERROR",
        "the kernel does not compile",
        "report it, with what gpubp doctor says",
    ),
    (
        r"StreamCapture|STREAM_CAPTURE",
        "something other than kernels and matrix products ran inside a captured step",
        "report it, with what gpubp doctor says",
    ),
    (
        r"IllegalAddress|ILLEGAL_ADDRESS|Misaligned|MISALIGNED|LaunchFailure|LAUNCH_FAILED|IllegalInstruction"
        r"|ILLEGAL_INSTRUCTION|HardwareStackError|cudaErrorAssert|ERROR_ASSERT|ECC",
        "the device's work was broken off, and this process cannot use it any more",
        "start again; if it comes back, report it with what the same run says under CUDA_LAUNCH_BLOCKING=1",
    ),
)
UNKNOWN = "see whether gpubp doctor finds anything, and report it"

# Where the classes of such errors are defined. An error of Python's own is a bug, unless a library could not be loaded
# or a file could not be opened.
LIBRARIES = {"cupy", "cupy_backends", "cuda"}


def is_fault(error: BaseException) -> bool:
    """Whether an error is about the machine rather than a bug in gpubp."""
    library = type(error).__module__.partition(".")[0] in LIBRARIES
    return library or isinstance(error, CublasLtError | CudaDriverError | ImportError | OSError)


def explain(error: BaseException) -> tuple[str, str]:
    """Cause and remedy, in one line each."""
    said = one_line(error)
    for pattern, cause, remedy in FAULTS:
        if re.search(pattern, said):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            if cause == NO_DEVICE and visible is not None:
                remedy = f'CUDA_VISIBLE_DEVICES="{visible}" may hide it: unset it; else {remedy}'
            return f"{cause} ({said})", remedy
    return said, UNKNOWN


def one_line(error: BaseException) -> str:
    """The error's class and the first meaningful line of its message; for a compiler, the first three."""
    name = type(error).__name__
    lines = [text for line in str(error).splitlines() if (text := line.strip(" ="))]
    return ": ".join([name, " / ".join(lines[: 3 if name == "CompileException" else 1])]) if lines else name
