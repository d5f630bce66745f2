"""What is refused at a public boundary, once and in one sentence: arrays, systems, and hyper-parameters."""

import math
from numbers import Real

import array_api_compat as compat

from nearlin._array.backends import BackendError, describe, device, is_array


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
        Not an array, two backends, two devices, or two dtypes.
    TypeError
        A dtype other than float32 or float64.
    ValueError
        A wrong number of dimensions, an empty array, or a value that is not finite.
    """
    first_name, first = beside or next(iter(arrays.items()))
    for name, x in arrays.items():
        if not is_array(x):
            raise BackendError(f"{name} is a {type(x).__name__}; expected a NumPy, CuPy, PyTorch or other array-API array")
        if compat.array_namespace(x) is not compat.array_namespace(first) or device(x) != device(first):
            raise BackendError(
                f"{first_name} is a {describe(first)}, {name} is a {describe(x)}: arrays of one call share one backend and "
                "device; nothing is moved silently, convert with nearlin.asarray(a, like=b)"
            )
        _check_dtype(name, x)
        if x.dtype != first.dtype:
            found = f"{first_name} has dtype {first.dtype}, {name} has {x.dtype}"
            raise BackendError(f"{found}: expected the same; nothing is cast silently")
        _check_shape(name, x, (ndim or {}).get(name))
        if finite:
            check_finite(name, x)
    return compat.array_namespace(first)


def _check_dtype(name, x):
    xp = compat.array_namespace(x)
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
    xp = compat.array_namespace(x)
    bad = int(xp.sum(xp.astype(~xp.isfinite(x), xp.int64)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or Inf value(s) among {compat.size(x)}; expected finite numbers")


def is_integer(x):
    """Whether ``x`` is an array of integers."""
    return is_array(x) and bool(compat.array_namespace(x).isdtype(x.dtype, "integral"))


def check_indices(name, x, like, below=None):
    """Check that ``x`` (n,) holds integers of [0, ``below``) next to ``like``; raises as `check` does."""
    if not is_array(x):
        raise BackendError(f"{name} is a {type(x).__name__}; expected an array of integers next to a {describe(like)}")
    if compat.array_namespace(x) is not compat.array_namespace(like) or device(x) != device(like):
        raise BackendError(f"{name} is a {describe(x)}; expected integers next to a {describe(like)}: nothing is moved silently")
    xp = compat.array_namespace(x)
    if x.dtype not in (xp.int32, xp.int64):
        raise TypeError(f"{name} has dtype {str(x.dtype).split('.')[-1]}; expected int32 or int64")
    _check_shape(name, x, 1)
    least, most = int(xp.min(x)), int(xp.max(x))
    if least < 0 or (below is not None and most >= below):
        found, bound = (least, below) if least < 0 else (most, below)
        raise ValueError(f"{name} holds {found}; expected integers " + ("of at least 0" if bound is None else f"in [0, {bound})"))


def check_square(name, matrix, *, finite=False, stack=True):
    """The namespace of symmetric matrices (..., n, n), or of one (n, n) without ``stack``; raises as `nearlin._array.check`."""
    xp = check(ndim=None if stack else {name: 2}, finite=finite, **{name: matrix})
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; expected a square matrix")
    return xp


def check_system(b, rtol, damping=0.0):
    """The right-hand side b (n,), the tolerance and the damping of a solve; NaN and Inf in b are for its certificate."""
    check(ndim={"b": 1}, finite=False, b=b)
    check_damping(damping)
    if not 0 <= rtol < 1:
        raise ValueError(f"rtol is {rtol!r}; expected a number in [0, 1)")


def check_damping(damping):
    """A damping that may be zero."""
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping is {damping!r}; expected a finite number, at least 0")


def check_shares(optimizer, *names):
    """`ValueError` unless these fields are numbers in [0, 1)."""
    for name in names:
        if not _is_share(getattr(optimizer, name)):
            raise ValueError(f"{name} is {getattr(optimizer, name)!r}; expected a number in [0, 1)")


def check_fractions(optimizer, *names):
    """`ValueError` unless these fields are numbers in (0, 1)."""
    for name in names:
        value = getattr(optimizer, name)
        if not (is_number(value) and 0 < value < 1):
            raise ValueError(f"{name} is {value!r}; expected a number in (0, 1)")


def check_betas(betas):
    """`ValueError` unless ``betas`` are two numbers in [0, 1)."""
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(map(_is_share, betas))):
        raise ValueError(f"betas are {betas!r}; expected two numbers in [0, 1)")


def _is_share(value):
    return is_number(value) and 0 <= value < 1


def is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(optimizer, *names):
    """`ValueError` unless these fields are positive finite numbers."""
    for name in names:
        value = getattr(optimizer, name)
        if not (is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a positive number")


def check_not_negative(optimizer, *names):
    """`ValueError` unless these fields are finite numbers >= 0."""
    for name in names:
        value = getattr(optimizer, name)
        if not (is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a number >= 0")


def check_counts(optimizer, *names, least=1):
    """`ValueError` unless these fields are integers of at least ``least``, 1 or 0."""
    kind = "positive" if least == 1 else "non-negative"
    for name in names:
        value = getattr(optimizer, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected a {kind} integer")


def check_flags(optimizer, *names):
    """`ValueError` unless these fields are True or False."""
    for name in names:
        if not isinstance(getattr(optimizer, name), bool):
            raise ValueError(f"{name} is {getattr(optimizer, name)!r}; expected True or False")


def check_words(optimizer, **words):
    """`ValueError` unless each field is one of its ``words``, a sequence of texts, and None where that is allowed."""
    for name, known in words.items():
        value = getattr(optimizer, name)
        if not isinstance(value, str | None) or value not in known:
            known = list(map(repr, known))
            expected = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
            raise ValueError(f"{name} is {value!r}; expected {expected}")


def check_lr(lr):
    """Raise `ValueError` unless ``lr`` is a positive finite number or a callable schedule of the step counter."""
    if not callable(lr) and not (is_number(lr) and 0 < lr < math.inf):
        raise ValueError(f"lr is {lr!r}; expected a positive number or a schedule of the step counter")


def check_weight_decay(optimizer):
    """`ValueError` unless ``weight_decay`` is a finite number >= 0, and ``exempt_bias`` True or False."""
    check_not_negative(optimizer, "weight_decay")
    check_flags(optimizer, "exempt_bias")
