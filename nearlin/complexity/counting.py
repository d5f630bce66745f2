"""Counting arrays: NumPy numbers behind an array-API namespace that counts what is done to them, exactly.

``xp`` is the namespace and `Array` its array. Functions take their namespace from the arrays they are given, so that they run
on counting arrays unchanged, make the same NumPy calls and give the same numbers. Every way out of the namespace that is not
`nearlin.to_numpy`, ``float``, ``int`` or ``bool`` raises: nothing is computed uncounted.

`nearlin.complexity.flop_models` says what an operation costs. Live bytes are those of the arrays made inside the block and still
alive: a view keeps its owner alive, temporaries inside one NumPy call do not show. Random draws are made on the host and count 0;
bringing them in makes live bytes.
"""

import operator
import threading
import types
import weakref
from collections import Counter
from contextlib import contextmanager

import array_api_compat.numpy as compat
import numpy as np

from nearlin import _array
from nearlin.complexity import flop_models as models

# ------------------------------------------------------------------------------------------------------------- the tally


class Tally:
    """What was counted inside one ``with count()`` block.

    Attributes
    ----------
    flops, bytes, calls : Counter
        By primitive, by the names of the array API standard. Flops are exact: integers, or Fractions where a cost model has
        thirds.
    total : int or Fraction
        All flops.
    live, peak : int
        Bytes of the arrays made inside the block that are alive now, and the most that ever were.
    largest : int
        Bytes of the largest of them.
    """

    def __init__(self):
        self.flops, self.bytes, self.calls = Counter(), Counter(), Counter()
        self.live = self.peak = self.largest = 0

    @property
    def total(self):
        """All flops: an int, or a Fraction where a cost model has thirds."""
        return models.integer(sum(self.flops.values()))

    def __repr__(self):
        return f"Tally(total={self.total}, bytes={sum(self.bytes.values())}, peak={self.peak})"

    def __str__(self):
        rows = [f"{'primitive':<18}{'calls':>8}{'flops':>16}{'bytes':>16}"]
        for name, flops in self.flops.most_common():
            rows.append(f"{name:<18}{self.calls[name]:>8}{flops!s:>16}{self.bytes[name]:>16}")
        return "\n".join([*rows, f"{'total':<26}{self.total!s:>16}{sum(self.bytes.values()):>16}", f"peak {self.peak} bytes"])

    def _record(self, name, flops, moved):
        self.flops[name] += flops
        self.bytes[name] += moved
        self.calls[name] += 1

    def _grow(self, nbytes):
        self.live += nbytes
        self.largest = max(self.largest, nbytes)
        self.peak = max(self.peak, self.live)

    def _shrink(self, nbytes):
        self.live -= nbytes


_active = []  # tallies of the blocks that are open, whichever thread works on counting arrays
_lock = threading.RLock()


@contextmanager
def count():
    """Count what is done to counting arrays inside a block: ``with count() as tally: ...; tally.total``.

    Yields
    ------
    Tally

    Notes
    -----
    Blocks nest: each counts all that happens while it is open. Arrays are made countable by `wrap` or `counting_like`.

    Examples
    --------
    >>> A = nl.complexity.wrap(np.ones((3, 4)))
    >>> with nl.complexity.count() as tally:
    ...     G = A @ A.mT
    >>> tally.total, dict(tally.flops), tally.peak  # 3 · 3 sums of 4 products; bytes of G
    (72, {'matmul': 72}, 72)
    """
    tally = Tally()
    _active.append(tally)
    try:
        yield tally
    finally:
        _active.remove(tally)


def _record(name, flops, moved):
    with _lock:
        for tally in _active:
            tally._record(name, flops, moved)


# ------------------------------------------------------------------------------------------------------------- the array

_owners = weakref.WeakValueDictionary()  # the arrays that own the memory of counting arrays, by id


def _watch(a):
    """Count the memory of a new array as live until its owner dies."""
    owner = models.owner(a)
    if _owners.get(id(owner)) is owner:
        return
    _owners[id(owner)] = owner
    if _active:
        with _lock:
            tallies = tuple(_active)
            for tally in tallies:
                tally._grow(owner.nbytes)
        weakref.finalize(owner, _release, tallies, owner.nbytes).atexit = False


def _release(tallies, nbytes):
    with _lock:
        for tally in tallies:
            tally._shrink(nbytes)


class Array:
    """A NumPy array whose operations are counted. Made by `wrap`, ``xp.asarray`` or `nearlin.asarray`, not by hand."""

    __slots__ = ("__weakref__", "_a")
    __array_ufunc__ = None  # NumPy's operators give way to ours, its functions refuse
    __hash__ = None

    def __init__(self, a):
        self._a = a
        _watch(a)

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    device = property(lambda self: "cpu")
    T = property(lambda self: _counting(self._a.T))
    mT = property(lambda self: _counting(self._a.mT))

    def __array_namespace__(self, *, api_version=None):
        return xp

    def to_numpy(self):
        """A NumPy copy: the explicit way back, not counted."""
        return self._a.copy()

    def to_device(self, device, /, *, stream=None):
        """The array itself: there is one device."""
        if device != "cpu":
            raise ValueError(f"device is {device!r}; expected 'cpu'")
        return self

    def __repr__(self):
        return f"counting {self._a!r}"

    def __getitem__(self, key):
        return _call("getitem", operator.getitem, models.nothing, models.gathered, self, key)

    def __setitem__(self, key, value):
        key, value = _bare(key), _bare(value)
        self._a[key] = value
        if _active:
            _record("setitem", 0, 2 * np.asarray(self._a[key]).nbytes)

    def __bool__(self):
        return bool(self._a)

    def __float__(self):
        return float(self._a)

    def __int__(self):
        return int(self._a)

    def __index__(self):
        return operator.index(self._a)

    def __array__(self, *args, **kwargs):
        raise TypeError("a counting array does not turn into a NumPy array by itself; nearlin.to_numpy is the way back")

    def __dlpack__(self, **kwargs):
        raise BufferError("a counting array is not exported; nearlin.to_numpy is the way back")

    def __dlpack_device__(self):
        raise BufferError("a counting array is not exported; nearlin.to_numpy is the way back")


PLAIN = {bool, int, float, complex, str, slice, type(None), type(...)}  # by far the most


def _bare(x):
    """The NumPy arrays inside of arguments; arrays and scalars of other backends, NumPy's included, are refused."""
    if type(x) in PLAIN:
        return x
    if isinstance(x, Array):
        return x._a
    if isinstance(x, tuple | list):
        return type(x)(map(_bare, x))
    if _array.is_array(x) and not isinstance(x, type):  # dtypes are classes that know their namespace
        raise TypeError(f"a {_array.describe(x)} met a counting array; bring it in with nearlin.asarray(a, like=b)")
    return x


def _counting(result):
    """The result of a NumPy call with its arrays made countable."""
    if isinstance(result, np.ndarray | np.generic):
        return Array(np.asarray(result))
    if isinstance(result, tuple | list):
        made = map(_counting, result)
        return type(result)(*made) if hasattr(result, "_fields") else type(result)(made)
    return result


def _leaves(items):
    """The NumPy arrays and scalars among arguments or results."""
    found = []
    for x in items:
        if isinstance(x, np.ndarray | np.generic):
            found.append(np.asarray(x))
        elif isinstance(x, tuple | list):
            found += _leaves(x)
    return found


def _call(name, function, flops, moved, *args, **kwargs):
    """``function`` on the NumPy arrays behind the arguments, counted as ``name``."""
    args, kwargs = _bare(args), {key: _bare(value) for key, value in kwargs.items()}
    result = function(*args, **kwargs)
    if _active:
        given, made = _leaves((*args, *kwargs.values())), _leaves((result,))
        _record(name, flops(given, made, **kwargs), moved(given, made))
    return _counting(result)


def _counted(name, function, flops, moved):
    """The namespace's version of a NumPy function."""

    def counted(*args, **kwargs):
        return _call(name, function, flops, moved, *args, **kwargs)

    counted.__name__ = counted.__qualname__ = name
    return counted


# ---------------------------------------------------------------------------------------------------------- the namespace

xp = types.ModuleType("counting", "The array-API namespace of counting arrays.")
xp.linalg = types.ModuleType("counting.linalg", "Linear algebra on counting arrays.")
xp.__array_api_version__ = "2024.12"
xp.__array_namespace_info__ = compat.__array_namespace_info__

CONSTANTS = """bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128 e inf nan newaxis pi
    can_cast finfo iinfo isdtype result_type"""

PRIMITIVES = {  # what _array asks a namespace for, done there on NumPy arrays
    "solve_triangular": (_array.solve_triangular, models.triangular),
    "shifted_cholesky": (_array.cholesky, models.shifted),
    "spd_inverse": (_array.spd_inverse, models.spd_inverse),
}
OPERATORS = {  # the function of the namespace that each operator is counted as
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide", "mod": "remainder",
    "pow": "pow", "matmul": "matmul", "and_": "bitwise_and", "or_": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift", "lt": "less", "le": "less_equal", "gt": "greater",
    "ge": "greater_equal", "eq": "equal", "ne": "not_equal", "neg": "negative", "pos": "positive", "abs": "abs",
    "invert": "bitwise_invert",
}  # fmt: skip
UNARY_OR_COMPARISON = ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert")


def _fill(space, source, table):
    for (flops, moved), names in table.items():
        for name in names.split():
            setattr(space, name, _counted(name, getattr(source, name), flops, moved))


def _asarray(obj, /, *, dtype=None, device=None, copy=None):
    """Counting arrays are copied (counted) where asked or cast; NumPy arrays and numbers are copied in (not counted)."""
    if device not in (None, "cpu"):
        raise ValueError(f"device is {device!r}; expected 'cpu'")
    if not isinstance(obj, Array):
        return Array(np.array(obj, dtype=dtype))
    if copy is not True and dtype in (None, obj.dtype):
        return obj
    if copy is False:
        raise ValueError(f"copy is False and dtype is {dtype}; expected {obj.dtype}, as a cast makes a copy")
    return _call("asarray", lambda a: np.array(a, dtype=dtype), models.nothing, models.copied, obj)


def _give_operator(symbol, name):
    """Operators act as NumPy's do on the arrays behind, so that the numbers are the same to the bit."""
    flops = models.product if symbol == "matmul" else models.each_output
    plain, function = symbol.rstrip("_"), getattr(operator, symbol)
    setattr(Array, f"__{plain}__", _operator(name, function, flops))
    if symbol not in UNARY_OR_COMPARISON:
        setattr(Array, f"__r{plain}__", _operator(name, lambda a, b: function(b, a), flops))
        setattr(Array, f"__i{plain}__", _operator(name, getattr(operator, f"i{plain}"), flops, in_place=True))


def _operator(name, function, flops, in_place=False):
    def apply(self, *other):
        for operand in other:
            if not isinstance(operand, Array | bool | int | float | complex):
                raise TypeError(
                    f"{name} of a counting array and a {type(operand).__name__}; nearlin.asarray(a, like=b) brings it in"
                )
        result = _call(name, function, flops, models.read_and_written, self, *other)
        return self if in_place else result

    return apply


_fill(xp, compat, models.FUNCTIONS)
_fill(xp.linalg, compat.linalg, models.LINALG)
for _name, (_function, _flops) in PRIMITIVES.items():
    setattr(xp, _name, _counted(_name, _function, _flops, models.read_and_written))
for _name in CONSTANTS.split():
    setattr(xp, _name, getattr(compat, _name))
for _symbol, _name in OPERATORS.items():
    _give_operator(_symbol, _name)
xp.asarray = _asarray


# ------------------------------------------------------------------------------------------------------------ the way in


def counting_like(dtype="float64"):
    """An empty counting array, to be passed as ``like``: to `nearlin.asarray`, to ``network.init``, to ``sketch.sample``."""
    if str(dtype) not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}; expected 'float32' or 'float64'")
    return xp.empty((0,), dtype=getattr(xp, str(dtype)))


def wrap(x):
    """``x`` with the NumPy arrays in it copied into counting arrays.

    Parameters
    ----------
    x : array, or a tuple, list or dict of such
        Named tuples keep their type; what is no array is left as it is.

    Raises
    ------
    BackendError
        An array of another backend: go through `nearlin.to_numpy`.
    """
    if isinstance(x, np.ndarray | np.generic):
        return _asarray(x)
    if isinstance(x, dict):
        return {key: wrap(value) for key, value in x.items()}
    if isinstance(x, tuple | list):
        made = map(wrap, x)
        return type(x)(*made) if hasattr(x, "_fields") else type(x)(made)
    if _array.is_array(x) and not isinstance(x, Array):
        raise _array.BackendError(f"x is a {_array.describe(x)}; expected NumPy arrays (nearlin.to_numpy makes them)")
    return x


def flops_of(f, *args, **kwargs):
    """Flops of ``f(*args, **kwargs)``, with NumPy arrays in the arguments made countable: an int, or a Fraction.

    Examples
    --------
    >>> nl.complexity.degree(lambda n: nl.complexity.flops_of(nl.linalg.damped_cholesky, np.eye(n), 0.1), [4, 8, 12, 16, 20])
    3
    """
    args, kwargs = wrap(args), wrap(kwargs)
    with count() as tally:
        f(*args, **kwargs)
    return tally.total
