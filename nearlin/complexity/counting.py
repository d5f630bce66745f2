"""Counting arrays: NumPy numbers behind an array-API namespace that counts what is done to them, exactly.

``xp`` is the namespace and `Array` its array. Functions take their namespace from the arrays they are given, so that they run
on counting arrays unchanged, make the same NumPy calls and give the same numbers. Every way out of the namespace that is not
`nearlin.to_numpy`, ``float``, ``int`` or ``bool`` raises: nothing is computed uncounted.

Cost model, in flops (one addition, multiplication, division, comparison or elementary function each; k the length of a sum):

================================================  =======================================================================
elementwise operations, comparisons, ``where``    1 per entry of the output; in-place ones alike
``sum``, ``prod``, ``max``, ``any``, ``argmax``   entries in - entries out; ``mean`` 1 per entry in; ``var``, ``std`` 4
``cumulative_sum``, ``cumulative_prod``, ``diff`` 1 per entry of the output
``matmul``, ``vecdot``, ``tensordot``             2 k per entry of the output (A Aᵀ is counted in full)
``vector_norm``, ``matrix_norm`` (Frobenius)      2 per entry in
``trace``                                         n - 1
``sort``, ``argsort``                             ⌈log₂ n⌉ per entry; ``searchsorted`` ⌈log₂(n + 1)⌉ per query
``nonzero``, ``count_nonzero``                    1 per entry in
creation, copies, casts, gathers, views           0
``cholesky``                                      n (n + 1) (2n + 1) / 6, roots and divisions included (LAPACK Working Note 41)
``shifted_cholesky``                              the same + n for the shift
``spd_inverse``                                   n³ + n² + n, potrf + potri (Note 41), + n for the shift
``solve_triangular``                              n² per column
``solve``                                         LU n (n - 1)/2 + n (n - 1)(2n - 1)/3, then 2n² - n per column
``inv``, ``det``, ``slogdet``                     2 n³; LU + n; LU + n
``qr``                                            (12 m n² - 4 n³ + 6 m n + 3 n² + 10 n) / 3, m >= n: geqrf + orgqr (Note 41)
``eigh``, ``eigvalsh``                            9 n³; 4 n³/3              (Golub, Van Loan, Matrix Computations, nominal)
``svd``, ``svdvals``, ``pinv``                    14 m n² + 8 n³; 4 m n² - 4 n³/3; svd + 2 m n² (m >= n, nominal)
================================================  =======================================================================

Bytes are those of the arrays read and written; a gather reads what it writes and its index; a view moves none. Live bytes
are those of the arrays made inside the block and still alive: a view keeps its owner alive, temporaries inside one NumPy
call do not show. Random draws are made on the host and count 0; bringing them in makes live bytes.
"""

import math
import operator
import threading
import types
import weakref
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction

import array_api_compat.numpy as compat
import numpy as np

from nearlin import _array

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
    """

    def __init__(self):
        self.flops, self.bytes, self.calls = Counter(), Counter(), Counter()
        self.live = self.peak = 0

    @property
    def total(self):
        return _integer(sum(self.flops.values()))

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
        self.peak = max(self.peak, self.live)

    def _shrink(self, nbytes):
        self.live -= nbytes


def _integer(value):
    """A Fraction without a denominator as an int."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


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


def _owner(a):
    """The array whose memory ``a`` shows."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _watch(a):
    """Count the memory of a new array as live until its owner dies."""
    owner = _owner(a)
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
        return _call("getitem", operator.getitem, _nothing, _gathered, self, key)

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


def _bare(x):
    """The NumPy arrays inside of arguments; arrays and scalars of other backends, NumPy's included, are refused."""
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


def _leaves(x):
    """The NumPy arrays and scalars inside of arguments or results."""
    if isinstance(x, np.ndarray | np.generic):
        yield np.asarray(x)
    elif isinstance(x, tuple | list):
        for item in x:
            yield from _leaves(item)


def _call(name, function, flops, moved, *args, **kwargs):
    """``function`` on the NumPy arrays behind the arguments, counted as ``name``."""
    args, kwargs = _bare(args), {key: _bare(value) for key, value in kwargs.items()}
    result = function(*args, **kwargs)
    if _active:
        given, made = list(_leaves((*args, *kwargs.values()))), list(_leaves(result))
        _record(name, flops(given, made, **kwargs), moved(given, made))
    return _counting(result)


def _counted(name, function, flops, moved):
    """The namespace's version of a NumPy function."""

    def counted(*args, **kwargs):
        return _call(name, function, flops, moved, *args, **kwargs)

    counted.__name__ = counted.__qualname__ = name
    return counted


# ----------------------------------------------------------------------------------- bytes, from the arrays given and made


def _bytes(arrays):
    return sum(a.nbytes for a in arrays)


def _read_and_written(given, made):
    return _bytes(given) + _bytes(made)


def _written(given, made):
    return _bytes(made)


def _copied(given, made):
    """0 for a view, which shares the memory of what it shows."""
    owners = {id(_owner(a)) for a in given}
    return 0 if all(id(_owner(a)) in owners for a in made) else _read_and_written(given, made)


def _gathered(given, made):
    """A gather reads what it writes, and its index."""
    source, *index = given
    return 0 if _owner(made[0]) is _owner(source) else 2 * _bytes(made) + _bytes(index)


# ----------------------------------------------------------------------------------- flops, from the arrays given and made


def _nothing(given, made, **_):
    return 0


def _each_output(given, made, **_):
    return max(a.size for a in made)


def _each_input(given, made, **_):
    return given[0].size


def _reduction(given, made, **_):
    return given[0].size - made[0].size


def _spread(given, made, **_):
    return 4 * given[0].size


def _square_and_add(given, made, **_):
    return 2 * given[0].size


def _sorting(given, made, axis=-1, **_):
    return given[0].size * max(0, given[0].shape[axis] - 1).bit_length()


def _search(given, made, **_):
    return given[1].size * given[0].size.bit_length()


def _product(given, made, **_):
    return 2 * made[0].size * given[0].shape[-1]


def _vector_product(given, made, axis=-1, **_):
    return 2 * made[0].size * given[0].shape[axis]


def _tensor_product(given, made, **_):
    a, b = given
    return 2 * math.isqrt(a.size * b.size * made[0].size)


def _batch(a):
    """Rows, columns and number of the matrices in a stack."""
    return *a.shape[-2:], math.prod(a.shape[:-2])


def _stack(flops):
    """The cost model of a stack of matrices, from that of one (m, n) matrix."""

    def cost(given, made, **_):
        m, n, number = _batch(given[0])
        return number * flops(m, n)

    return cost


def _cholesky(m, n):
    return n * (n + 1) * (2 * n + 1) // 6


def _lu(m, n):
    return n * (n - 1) // 2 + n * (n - 1) * (2 * n - 1) // 3


def _qr(m, n):
    m, n = max(m, n), min(m, n)
    return _integer(Fraction(12 * m * n * n - 4 * n**3 + 6 * m * n + 3 * n * n + 10 * n, 3))


def _svd(m, n):
    m, n = max(m, n), min(m, n)
    return 14 * m * n * n + 8 * n**3


def _svdvals(m, n):
    m, n = max(m, n), min(m, n)
    return _integer(4 * m * n * n - Fraction(4 * n**3, 3))


def _pinv(m, n):
    return _svd(m, n) + 2 * m * n * min(m, n)


def _solve(given, made, **_):
    _, n, number = _batch(given[0])
    return number * _lu(n, n) + (2 * n - 1) * made[0].size


def _triangular(given, made, **_):
    return given[0].shape[0] * made[0].size


def _shifted(given, made, **_):
    n = given[0].shape[0]
    return n + _cholesky(n, n)


def _spd_inverse(given, made, **_):
    n = given[0].shape[0]
    return n**3 + n**2 + 2 * n


# ---------------------------------------------------------------------------------------------------------- the namespace

xp = types.ModuleType("counting", "The array-API namespace of counting arrays.")
xp.linalg = types.ModuleType("counting.linalg", "Linear algebra on counting arrays.")
xp.__array_api_version__ = "2024.12"
xp.__array_namespace_info__ = compat.__array_namespace_info__

ELEMENTWISE = """abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide equal exp expm1 floor floor_divide greater greater_equal
    hypot isfinite isinf isnan less less_equal log log1p log2 log10 logaddexp logical_and logical_not logical_or logical_xor
    maximum minimum multiply negative nextafter not_equal positive pow reciprocal remainder round sign signbit sin sinh sqrt
    square subtract tan tanh trunc where cumulative_sum cumulative_prod diff"""
COPIES = """astype broadcast_arrays broadcast_to concat expand_dims flip matrix_transpose moveaxis permute_dims repeat reshape
    roll squeeze stack tile tril triu unstack"""
CREATION = "arange empty empty_like eye full full_like linspace meshgrid ones ones_like zeros zeros_like"
CONSTANTS = """bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128 e inf nan newaxis pi
    can_cast finfo iinfo isdtype result_type"""

FUNCTIONS = {  # cost model in flops, bytes moved, names
    (_each_output, _read_and_written): ELEMENTWISE,
    (_reduction, _read_and_written): "sum prod max min all any argmax argmin",
    (_each_input, _read_and_written): "mean nonzero count_nonzero",
    (_spread, _read_and_written): "std var",
    (_sorting, _read_and_written): "sort argsort",
    (_search, _read_and_written): "searchsorted",
    (_product, _read_and_written): "matmul",
    (_vector_product, _read_and_written): "vecdot",
    (_tensor_product, _read_and_written): "tensordot",
    (_nothing, _copied): COPIES,
    (_nothing, _gathered): "take take_along_axis",
    (_nothing, _written): CREATION,
}
LINALG = {
    (_product, _read_and_written): "matmul",
    (_vector_product, _read_and_written): "vecdot",
    (_tensor_product, _read_and_written): "tensordot",
    (_each_output, _read_and_written): "outer",
    (_square_and_add, _read_and_written): "vector_norm matrix_norm",
    (_nothing, _copied): "matrix_transpose diagonal",
    (_stack(lambda m, n: min(m, n) - 1), _read_and_written): "trace",
    (_stack(_cholesky), _read_and_written): "cholesky",
    (_stack(_qr), _read_and_written): "qr",
    (_stack(lambda m, n: 9 * n**3), _read_and_written): "eigh",
    (_stack(lambda m, n: _integer(Fraction(4 * n**3, 3))), _read_and_written): "eigvalsh",
    (_stack(_svd), _read_and_written): "svd",
    (_stack(_svdvals), _read_and_written): "svdvals",
    (_stack(_pinv), _read_and_written): "pinv",
    (_stack(lambda m, n: 2 * n**3), _read_and_written): "inv",
    (_stack(lambda m, n: _lu(m, n) + n), _read_and_written): "det slogdet",
    (_solve, _read_and_written): "solve",
}
PRIMITIVES = {  # what _array asks a namespace for, done there on NumPy arrays
    "solve_triangular": (_array.solve_triangular, _triangular),
    "shifted_cholesky": (_array.cholesky, _shifted),
    "spd_inverse": (_array.spd_inverse, _spd_inverse),
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
    return _call("asarray", lambda a: np.array(a, dtype=dtype), _nothing, _copied, obj)


def _give_operator(symbol, name):
    """Operators act as NumPy's do on the arrays behind, so that the numbers are the same to the bit."""
    flops = _product if symbol == "matmul" else _each_output
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
        result = _call(name, function, flops, _read_and_written, self, *other)
        return self if in_place else result

    return apply


_fill(xp, compat, FUNCTIONS)
_fill(xp.linalg, compat.linalg, LINALG)
for _name, (_function, _flops) in PRIMITIVES.items():
    setattr(xp, _name, _counted(_name, _function, _flops, _read_and_written))
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
    """Flops of ``f(*args, **kwargs)``, with NumPy arrays in the arguments made countable: an int, or a Fraction."""
    args, kwargs = wrap(args), wrap(kwargs)
    with count() as tally:
        f(*args, **kwargs)
    return tally.total
