"""What every generated module starts with: memory by its address."""

import math

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

LOOP = {"error_model": "numpy", "fastmath": {"contract"}}  # multiply and add in one: no other liberty is taken
inlined = njit(inline="always")  # a loop is one piece, whose roundings depend on nothing else that is compiled

fabs, sqrt, pow = math.fabs, math.sqrt, math.pow


@intrinsic
def pointer(context, address):
    def to_pointer(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.intp), to_pointer


@inlined
def part(g, argument, k):
    """Where network k's part of an argument begins: among the arguments g, a stride follows its address."""
    return g[argument] + k * g[argument + 1]


@inlined
def integers(address, n):
    return carray(pointer(address), n, np.int64)


@inlined
def doubles(address, n):
    return carray(pointer(address), n, np.float64)


@inlined
def vector(address, n):
    return carray(pointer(address), n, T)


@inlined
def matrix(address, rows, n):
    return carray(pointer(address), (rows, n), T)


@inlined
def flags(address, rows, n):
    return carray(pointer(address), (rows, n), np.bool_)


@njit(forceinline=True, error_model="numpy", fastmath={"contract", "reassoc"})
def plus(total, x):
    """The next term of a sum whose order does not matter, so that sums use vectors."""
    return total + x


@inlined
def select(condition, x, y):
    return x if condition else y
