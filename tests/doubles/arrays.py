"""Arrays of the double: NumPy's numbers with the rules of CuPy's arrays.

There are no scalars and no implicit conversions, NumPy arrays and lists are refused, indices out of range wrap, work on an array
of another device than the current one is refused, and whatever reads a number back is counted as a synchronisation.
"""

import builtins

import numpy as np

from tests.doubles import counters
from tests.doubles.devices import Device, current

SCALARS = (bool, int, float, complex, np.generic)

# ---------------------------------------------------------------------------------------------------------- in and out


def bare(x):
    """The NumPy array of an array of the double, also within tuples and lists; refuses arrays of NumPy and of other devices."""
    if isinstance(x, ndarray):
        if x._device != current():
            where = f"array device = {x._device} while current = {current()}"
            raise ValueError(f"Array device must be same as the current device: {where}")
        return x._numbers
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list) and any(isinstance(part, ndarray | np.ndarray) for part in x):
        return [bare(part) for part in x]
    return x


def made(result):
    """NumPy's result as arrays of the current device."""
    if isinstance(result, np.ndarray | np.generic):
        return ndarray(np.asarray(result))
    if isinstance(result, tuple | list):
        parts = [made(part) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    return result


def operand(x):
    """``x`` as an operand beside an array: an array of the double or a number."""
    if not isinstance(x, (ndarray, *SCALARS)):
        raise TypeError(f"Unsupported type {type(x)}")
    return bare(x)


def elided(parts):
    """Whether there is an ellipsis among the parts of a key."""
    return any(part is Ellipsis for part in parts)


class ndarray:
    """An array on a device."""

    __slots__ = ("__weakref__", "_device", "_numbers")
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, numbers, device=None):
        self._numbers, self._device = numbers, current() if device is None else device

    def _view(self, numbers):
        return ndarray(numbers, self._device)

    device = property(lambda self: Device(self._device))
    shape = property(lambda self: self._numbers.shape)
    dtype = property(lambda self: self._numbers.dtype)
    ndim = property(lambda self: self._numbers.ndim)
    size = property(lambda self: self._numbers.size)
    nbytes = property(lambda self: self._numbers.nbytes)
    itemsize = property(lambda self: self._numbers.itemsize)
    strides = property(lambda self: self._numbers.strides)
    flags = property(lambda self: self._numbers.flags)
    T = property(lambda self: self._view(self._numbers.T))
    mT = property(lambda self: self._view(self._numbers.mT))
    real = property(lambda self: self._view(self._numbers.real))
    imag = property(lambda self: self._view(self._numbers.imag))

    # what NumPy may not do

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        found = ndarray.functions.get(ufunc.__name__)
        return found(*inputs, **kwargs) if found and method == "__call__" else NotImplemented

    def __array_function__(self, function, types, args, kwargs):
        found = ndarray.functions.get(function.__name__)
        return found(*args, **kwargs) if found else NotImplemented

    # what reads numbers back

    def _read(self, cause):
        counters.synchronize(cause)
        return self._numbers

    def get(self, stream=None, order="C", out=None, blocking=True):
        return self._read("get").copy()

    def item(self):
        return self._read("item").item()

    def tolist(self):
        return self._read("tolist").tolist()

    def tobytes(self, order="C"):
        return self._read("tobytes").tobytes()

    def __float__(self):
        return float(self._read("float").item())

    def __int__(self):
        return int(self._read("int").item())

    def __complex__(self):
        return complex(self._read("complex").item())

    def __bool__(self):
        return builtins.bool(self._read("bool"))

    def __repr__(self):
        return repr(self._read("repr"))

    def __str__(self):
        return str(self._read("str"))

    def __format__(self, spec):
        return format(self._read("format"), spec)

    def __reduce__(self):
        return ndarray, (self._read("get").copy(),)

    def __len__(self):
        return len(self._numbers)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    # entries

    def _key(self, key):
        """NumPy's key, with integers that wrap, and whether it picks by integers and by a mask."""
        parts, axis, integers, mask = [], 0, False, False
        for part in key if isinstance(key, tuple) else (key,):
            taken = part
            if isinstance(part, ndarray):
                taken = bare(part)
                mask, integers = mask or taken.dtype == np.bool_, integers or taken.dtype != np.bool_
                if taken.dtype.kind in "iu" and not elided(parts) and axis < self.ndim and self.shape[axis]:
                    taken = taken % self.shape[axis]
            elif isinstance(part, np.ndarray | list):
                counters.from_host("index")
                taken, integers = np.asarray(part), True
            masks = isinstance(taken, np.ndarray) and taken.dtype == np.bool_
            axis += taken.ndim if masks else part is not None and part is not Ellipsis
            parts.append(taken)
        return tuple(parts), integers, mask

    def __getitem__(self, key):
        key, integers, mask = self._key(key)
        if mask:
            counters.synchronize("mask")
        if mask or integers:
            bare(self)
            counters.launch("gather")
            return self._view(np.asarray(self._numbers[key]))
        return self._view(self._numbers[key if elided(key) else (*key, ...)])

    def __setitem__(self, key, value):
        numbers = bare(self)
        key, _, mask = self._key(key)
        if mask and getattr(value, "ndim", 0):
            counters.synchronize("mask")
        if isinstance(value, tuple | list | np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        with np.errstate(all="ignore"):
            numbers[key] = bare(value)
        counters.launch("setitem")

    # copies

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        counters.launch("astype")
        with np.errstate(all="ignore"):
            return self._view(bare(self).astype(dtype))

    def copy(self, order="C"):
        counters.launch("copy")
        return ndarray(self._numbers.copy())

    __copy__ = __pos__ = copy

    def __deepcopy__(self, memo):
        return self.copy()

    def fill(self, value):
        self[...] = value

    def view(self, dtype=None):
        return self._view(self._numbers.view(dtype or self.dtype))

    def reshape(self, *shape, order="C"):
        return ndarray.functions["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        return self._view(self._numbers.transpose(*axes))

    def flatten(self, order="C"):
        return self.copy().ravel()


ndarray.__module__ = "cupy"
ndarray.functions = {}  # by name: what operators, methods and NumPy's protocols call
