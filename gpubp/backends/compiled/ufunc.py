"""The loop inside np.matmul: NumPy's own products, with its BLAS, for code that bypasses Python."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np


class _UFunc(ctypes.Structure):
    """The beginning of PyUFuncObject, which is part of NumPy's C interface (numpy/ufuncobject.h)."""

    _fields_ = [
        ("head", ctypes.c_char * object.__basicsize__),
        ("inputs", ctypes.c_int),
        ("outputs", ctypes.c_int),
        ("operands", ctypes.c_int),
        ("identity", ctypes.c_int),
        ("loops", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("n_loops", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("types", ctypes.POINTER(ctypes.c_char)),
    ]


@cache
def matmul_loop(dtype: np.dtype) -> int:
    """The address of np.matmul's loop for a dtype: (operands, sizes, strides, nothing) -> nothing."""
    ufunc = _UFunc.from_address(id(np.matmul))
    assert (ufunc.inputs, ufunc.outputs, ufunc.operands, ufunc.name) == (2, 1, 3, b"matmul")
    types = [ufunc.types[3 * i : 3 * i + 3] for i in range(ufunc.n_loops)]
    address: int = ufunc.loops[types.index(bytes([dtype.num] * 3))]
    return address
