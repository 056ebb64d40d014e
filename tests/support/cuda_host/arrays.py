"""Arrays on the stand-in for a device, as strict as CuPy's: they and NumPy's never mix by themselves."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from support.cuda_host.memory import Allocation, Device, Pointer, poison

Scalar = bool | int | float | complex | np.generic


class DeviceArray:
    """An array of `Allocation`'s memory. What is not defined here, CuPy's arrays may have but gpubp does not use."""

    __slots__ = ("_allocation", "_host")
    __array_ufunc__ = None  # NumPy leaves operators to this class, and refuses functions
    __hash__ = None

    def __init__(self, host: Any, allocation: Allocation) -> None:
        self._host = host
        self._allocation = allocation

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("implicit conversion of a device array to a NumPy array; copy it with to_host")

    def __array_function__(self, function: Any, *args: Any) -> Any:
        raise TypeError(f"NumPy's {function.__name__} on a device array; use the driver's namespace")

    # -- what it is ---------------------------------------------------------------------------------------

    allocation = property(lambda self: self._allocation)
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    strides = property(lambda self: self._host.strides)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: self._host.flags)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    T = property(lambda self: self.transpose())
    real = property(lambda self: DeviceArray(self._host.real, self._allocation))

    def pointer(self, what: str) -> Pointer:
        """Its first element's address, under a name for messages."""
        return Pointer(what, self._allocation, self._host.ctypes.data)

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"DeviceArray({self._host!r})"

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    # -- copies to the host -------------------------------------------------------------------------------

    def get(self) -> Any:
        """A NumPy array of the same values."""
        self._allocation.device.work("a copy to the host")
        return self._host.copy()

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    # -- parts --------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> DeviceArray:
        key, gathers = _index(key)
        if gathers:
            self._allocation.device.work("an array as index")
            return to_device(self._allocation.device, self._host[key])
        return DeviceArray(self._host[key], self._allocation)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._allocation.device.work("an assignment")
        if isinstance(value, np.ndarray) and value.ndim > 0:
            raise ValueError("a NumPy array is assigned to part of a device array; copy it with to_device first")
        self._host[_index(key)[0]] = _operand(value)


def _index(key: Any) -> tuple[tuple[Any, ...], bool]:
    """A key for NumPy under which single elements are views too, and whether arrays in it call for a copy."""
    parts = key if isinstance(key, tuple) else (key,)
    gathers = any(isinstance(part, DeviceArray | np.ndarray | list) for part in parts)
    parts = tuple(part._host if isinstance(part, DeviceArray) else part for part in parts)
    return (parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)), gathers


def _operand(value: Any) -> Any:
    """What may stand beside a device array in arithmetic: another one, or a number."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, Scalar) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value
    raise TypeError(f"{type(value)} beside a device array; copy it with to_device first")


def _unwrap(value: Any, found: list[DeviceArray]) -> Any:
    """Arguments as NumPy wants them; the device arrays among them go to `found`."""
    if isinstance(value, DeviceArray):
        found.append(value)
        return value._host
    if isinstance(value, list | tuple):
        return type(value)(_unwrap(part, found) for part in value)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("a NumPy array is given to a function of the device; copy it with to_device first")
    return value


def _wrap(result: Any, device: Device, arguments: list[DeviceArray]) -> Any:
    """Results as device arrays: views of their arguments, or new ones."""
    if isinstance(result, list | tuple):
        return type(result)(_wrap(part, device, arguments) for part in result)
    if not isinstance(result, np.ndarray | np.generic):
        return result
    for argument in arguments:
        if isinstance(result, np.ndarray) and np.may_share_memory(result, argument._host):
            return DeviceArray(result, argument.allocation)
    return to_device(device, result)


def to_device(device: Device, host: Any) -> DeviceArray:
    """A copy of a host array."""
    host = np.asarray(host)
    array = empty(device, host.shape, host.dtype)
    array._host[...] = host
    return array


def empty(device: Device, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """An array full of poison."""
    dtype = np.dtype(dtype)
    allocation = Allocation(device, math.prod(shape) * dtype.itemsize)
    host = allocation.array(shape, dtype)
    poison(host)
    return DeviceArray(host, allocation)


# -- arithmetic and methods -------------------------------------------------------------------------------

BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
UNARY = ("neg", "pos", "abs", "invert")
METHODS = "all any argmax argmin clip copy cumsum fill max mean min prod sum take".split()
RESHAPING = "astype ravel reshape squeeze swapaxes transpose view".split()  # views, where they can be


def _operation(function: Callable[..., Any], name: str, *, reflected: bool = False) -> Callable[..., DeviceArray]:
    def method(self: DeviceArray, *others: Any) -> DeviceArray:
        device = self.allocation.device
        device.work(f"an array's {name}")
        operands = (self._host, *(_operand(other) for other in others))
        with np.errstate(all="ignore"):
            return to_device(device, function(*(reversed(operands) if reflected else operands)))

    return method


def _in_place(function: Callable[..., Any], name: str) -> Callable[..., DeviceArray]:
    def method(self: DeviceArray, other: Any) -> DeviceArray:
        self.allocation.device.work(f"an array's {name}")
        with np.errstate(all="ignore"):
            self._host = function(self._host, _operand(other))
        return self

    return method


def _delegated(name: str, *, reshaping: bool) -> Callable[..., Any]:
    def method(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
        device = self.allocation.device
        if not reshaping:
            device.work(f"an array's {name}()")
        if "where" in kwargs:
            raise TypeError(f"{name}(where=...) does not exist on the device")
        found = [self]
        with np.errstate(all="ignore"):
            result = getattr(self._host, name)(
                *_unwrap(args, found), **{k: _unwrap(v, found) for k, v in kwargs.items()}
            )
        return _wrap(result, device, found)

    return method


for _name in BINARY:
    _function = getattr(operator, f"__{_name}__")
    setattr(DeviceArray, f"__{_name}__", _operation(_function, _name))
    setattr(DeviceArray, f"__r{_name}__", _operation(_function, _name, reflected=True))
    setattr(DeviceArray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__"), _name))
for _name in COMPARISONS + UNARY:
    setattr(DeviceArray, f"__{_name}__", _operation(getattr(operator, f"__{_name}__"), _name))
for _name in METHODS + RESHAPING:
    setattr(DeviceArray, _name, _delegated(_name, reshaping=_name in RESHAPING))


# -- functions --------------------------------------------------------------------------------------------


class DeviceNamespace:
    """The functions of a module like CuPy, on device arrays."""

    ndarray = DeviceArray

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        if name in ("erf", "erfc"):
            from scipy import special

            found = getattr(special, name)
        else:
            found = getattr(np, name)
        if isinstance(found, ModuleType):
            raise AttributeError(f"the device's namespace has no module {name}")
        if callable(found) and not isinstance(found, type):
            found = self._function(name, found)
        setattr(self, name, found)  # found at once from now on
        return found

    def asarray(self, value: Any, dtype: Any = None) -> DeviceArray:
        """The array itself where it is one already, else a copy on the device."""
        if isinstance(value, DeviceArray):
            return value if dtype is None or value.dtype == dtype else value.astype(dtype)
        return to_device(self._device, np.asarray(value, dtype))

    def array(self, value: Any, dtype: Any = None) -> DeviceArray:
        """A copy on the device."""
        return to_device(self._device, np.asarray(value._host if isinstance(value, DeviceArray) else value, dtype))

    def empty(self, shape: Any, dtype: Any = float) -> DeviceArray:
        """Poison."""
        return empty(self._device, tuple(np.atleast_1d(shape)), dtype)

    def asnumpy(self, array: DeviceArray) -> Any:
        """A copy on the host."""
        return array.get()

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def on_device(*args: Any, **kwargs: Any) -> Any:
            self._device.work(f"{name}()")
            if "where" in kwargs and name != "copyto":
                raise TypeError(f"{name}(where=...) does not exist on the device")
            if isinstance(function, np.ufunc):
                for arg in args:
                    _operand(arg)
            found: list[DeviceArray] = []
            args = _unwrap(args, found)
            kwargs = {key: _unwrap(value, found) for key, value in kwargs.items()}
            with np.errstate(all="ignore"):
                return _wrap(function(*args, **kwargs), self._device, found)

        return on_device
