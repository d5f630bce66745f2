"""What is refused at a public boundary, once and in one sentence: arrays, systems, and hyper-parameters."""

import contextlib
import math
import operator
from numbers import Integral, Real

import array_api_compat as compat
import numpy as np

from nearlin._array.backends import BackendError, describe, device, is_array, namespace, on_gpu, refuse_masked, unguarded
from nearlin._array.maps import is_map, row_chunks, rows_of
from nearlin._array.reading import checked_together, look, read


def check(ndim=None, finite=True, beside=None, **arrays):
    """Check named arrays once, at a public boundary, and return their namespace.

    Parameters
    ----------
    ndim : dict[str, int or tuple of int], optional
        Allowed numbers of dimensions by name.
    finite : bool
        Also refuse NaN and Inf (costs one pass and one synchronisation).
    beside : tuple, optional
        Name and array, checked already, that the others must share backend, device and dtype with.
    **arrays
        The arrays, by the names that messages use.

    Raises
    ------
    BackendError
        Not an array, one that requires grad, two backends, two devices, or two dtypes.
    TypeError
        A dtype other than float32 or float64, or a masked array.
    ValueError
        A wrong number of dimensions, an empty array, or a value that is not finite.
    """
    first_name, first = beside or next(iter(arrays.items()))
    with checked_together() if on_gpu(first) else contextlib.nullcontext():
        _check(first_name, first, ndim or {}, finite, arrays)
    return namespace(first)


def _check(first_name, first, ndim, finite, arrays):
    for name, x in arrays.items():
        refuse_masked(name, x)
        if not is_array(x):
            raise BackendError(f"{name} is a {type(x).__name__}; expected a NumPy, CuPy, PyTorch or other array-API array")
        if namespace(x) is not namespace(first) or device(x) != device(first):
            raise BackendError(
                f"{first_name} is a {describe(first)}, {name} is a {describe(x)}: arrays of one call share one backend and "
                "device; nothing is moved silently, convert with nearlin.asarray(a, like=b)"
            )
        if getattr(x, "requires_grad", False):
            raise BackendError(f"{name} requires grad; expected an array without a history: pass {name}.detach()")
        _check_dtype(name, x)
        if x.dtype != first.dtype:
            found = f"{first_name} has dtype {first.dtype}, {name} has {x.dtype}"
            raise BackendError(f"{found}: expected the same; nothing is cast silently")
        _check_shape(name, x, ndim.get(name))
        if finite:
            check_finite(name, x)


def _check_dtype(name, x):
    xp = namespace(x)
    if x.dtype not in (xp.float32, xp.float64):
        short = str(x.dtype).split(".")[-1]
        why = {
            "float16": "half precision cannot carry the linear solves; convert to float32",
            "bfloat16": "half precision cannot carry the linear solves; convert to float32",
        }.get(short, "convert to float32 or float64 first, so that rounding is your choice")
        raise TypeError(f"{name} has dtype {short}; expected float32 or float64 ({why})")


def _check_shape(name, x, ndim):
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed and x.ndim not in allowed:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {' or '.join(map(str, allowed))} dimension(s)")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected at least one entry")


def check_finite(name, x):
    """Raise `ValueError` naming ``name`` and the number of NaN or Inf entries, if there are any."""
    if type(x) is np.ndarray and math.isfinite(square_sum(x)):
        return

    def judge(square):
        if math.isfinite(square):
            return
        xp = namespace(x)  # squares of finite numbers may overflow
        bad = sum(int(xp.sum(xp.astype(~xp.isfinite(part), xp.int64))) for part in _parts(x))
        if bad:
            raise ValueError(f"{name} holds {bad} NaN or Inf value(s) among {compat.size(x)}; expected finite numbers")

    look(judge, square_sum(x))


def square_sum(x):
    """The sum of squares of ``x``, a 0-d array, by one dot product on NumPy; finite only where all entries are.

    2 p - 1 flops for p entries.
    """
    if type(x) is np.ndarray:
        return np.vdot(x, x)
    if is_map(x):
        return sum(float(square_sum(part)) for part in _parts(x))
    with unguarded():
        return namespace(x).sum(x * x)


def finite_squares(*arrays):
    """Whether the sums of squares of all ``arrays`` are finite; one synchronisation on a GPU."""
    if on_gpu(arrays[0]):
        return all(map(math.isfinite, read(*map(square_sum, arrays))))
    return all(math.isfinite(square_sum(x)) for x in arrays)


def check_range(name, x):
    """`ValueError` where squares of entries of ``x``, summed over all, overflow in its dtype, or where all of them vanish."""
    xp = namespace(x)
    largest, numbers = max(float(xp.max(xp.abs(part))) for part in _parts(x)), xp.finfo(x.dtype)
    vanish = 0 < largest < math.sqrt(float(numbers.smallest_normal))
    if vanish or not largest < math.sqrt(float(numbers.max) / math.prod(x.shape)):
        words = "vanish" if vanish else "overflow"
        found = f"{name} holds numbers up to {largest:.3g} in size, whose squares {words} in {str(x.dtype).split('.')[-1]}"
        raise ValueError(f"{found}; expected another unit, or each feature divided by its deviation (--scale)")


def _parts(x):
    """What ``x`` holds, some rows at a time if it is a map."""
    return (rows_of(x, rows) for rows in row_chunks(x)) if is_map(x) else (x,)


def is_integer(x):
    """Whether ``x`` is an array of integers."""
    return is_array(x) and bool(namespace(x).isdtype(x.dtype, "integral"))


def check_indices(name, x, like, below=None):
    """Check that ``x`` (n,) holds integers next to ``like``, of [0, ``below``) where that is known; raises as `check` does."""
    if not is_array(x):
        raise BackendError(f"{name} is a {type(x).__name__}; expected an array of integers next to a {describe(like)}")
    if namespace(x) is not namespace(like) or device(x) != device(like):
        raise BackendError(f"{name} is a {describe(x)}; expected integers next to a {describe(like)}: nothing is moved silently")
    xp = namespace(x)
    if x.dtype not in (xp.int32, xp.int64):
        raise TypeError(f"{name} has dtype {str(x.dtype).split('.')[-1]}; expected int32 or int64")
    _check_shape(name, x, 1)
    if below is None:
        return

    def judge(least, most):
        if least < 0 or most >= below:
            raise ValueError(f"{name} holds {least if least < 0 else most:.0f}; expected integers in [0, {below})")

    look(judge, xp.min(x), xp.max(x))


def check_square(name, matrix, *, finite=False, stack=True):
    """The namespace of symmetric matrices (..., n, n), or of one (n, n) without ``stack``; raises as `nearlin._array.check`."""
    xp = check(ndim=None if stack else {name: 2}, finite=finite, **{name: matrix})
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; expected a square matrix")
    return xp


def check_system(b, rtol, damping=0.0):
    """The tolerance and the damping of a solve as floats, and whether b is a vector; NaN and Inf in b are for its certificate."""
    check(ndim={"b": 1}, finite=False, b=b)
    return within("[0, 1)")("rtol", rtol), not_negative("damping", damping)


# ------------------------------------------------------------------------------------------------- hyper-parameters, by kind


def settle(self, **kinds):
    """Store fields of a frozen dataclass as their kinds convert them; `ValueError` naming field, value and expectation.

    A kind is called with a name and a value, and returns the value as a Python number, text or truth value: a float64 scalar of
    NumPy would widen float32 arrays.
    """
    for name, kind in kinds.items():
        object.__setattr__(self, name, kind(name, getattr(self, name)))


def require(holds, sentence):
    """`ValueError` with the sentence unless ``holds``."""
    if not holds:
        raise ValueError(sentence)


def _require(holds, name, value, expected, verb="is"):
    found = f"a {describe(value)}" if getattr(value, "ndim", 0) else repr(value)
    require(holds, f"{name} {verb} {found}; expected {expected}")


def _float(value):
    """A real number as a float, NaN for anything else."""
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.inf


def number(expected, holds):
    """The kind of the real numbers that ``holds`` is true of, as floats."""

    def convert(name, value):
        x = _float(value)
        _require(holds(x), name, value, expected)
        return x

    return convert


def within(interval):
    """The kind of the numbers in an interval such as ``"[0, 1)"``."""
    low, high = map(float, interval[1:-1].split(","))
    above, below = (operator.le if end in "[]" else operator.lt for end in (interval[0], interval[-1]))
    return number(f"a number in {interval}", lambda x: above(low, x) and below(x, high))


def integer(least, why=""):
    """The kind of the integers of at least ``least``; ``why`` ends the sentence."""

    def convert(name, value):
        holds = isinstance(value, Integral) and not isinstance(value, bool) and value >= least
        _require(holds, name, value, f"an integer of at least {least}{why}")
        return operator.index(value)

    return convert


def one_of(*known):
    """The kind of these texts and numbers, and of None where it is among them."""
    words = list(map(repr, known))
    expected = " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"

    def convert(name, value):
        plain = isinstance(value, str | Real | None) and not isinstance(value, bool)
        found = [one for one in known if plain and one == value]
        _require(found, name, value, expected)
        return found[0]

    return convert


def having(expected, *attributes):
    """The kind of objects, no classes, that have these attributes."""

    def convert(name, value):
        holds = all(hasattr(value, attribute) for attribute in attributes) and not isinstance(value, type)
        _require(holds, name, value, expected)
        return value

    return convert


def optional(kind):
    """The kind that also takes None."""
    return lambda name, value: None if value is None else kind(name, value)


def flag(name, value):
    """The kind of True and False."""
    _require(isinstance(value, bool | np.bool_), name, value, "True or False")
    return bool(value)


def step_size(name, value):
    """The kind of positive numbers and of schedules, callables of the step counter."""
    return value if callable(value) else _RATE(name, value)


def pair(expected, holds, verb="is"):
    """The kind of pairs, as tuples, of real numbers that ``holds`` is true of."""

    def convert(name, value):
        two = tuple(map(_float, value)) if isinstance(value, tuple | list) else ()
        _require(len(two) == 2 and all(map(holds, two)), name, value, expected, verb)
        return two

    return convert


betas = pair("two numbers in [0, 1)", lambda x: 0 <= x < 1, "are")
positive = number("a positive number", lambda x: 0 < x < math.inf)
not_negative = number("a finite number, at least 0", lambda x: 0 <= x < math.inf)
_RATE = number("a positive number or a schedule of the step counter", lambda x: 0 < x < math.inf)
