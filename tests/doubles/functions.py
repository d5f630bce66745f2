"""Functions of the double: what CuPy's signatures take, computed by NumPy's function of that name, counted as launches."""

import numpy as np

from tests.doubles import counters, signatures
from tests.doubles.arrays import SCALARS, bare, made, ndarray, operand
from tests.doubles.devices import current

VIEWS = {
    *("reshape", "transpose", "swapaxes", "moveaxis", "rollaxis", "expand_dims", "squeeze", "broadcast_to", "broadcast_arrays"),
    *("diagonal", "ravel", "atleast_1d", "atleast_2d", "flip", "matrix_transpose", "permute_dims", "unstack", "split"),
}
SEVERAL = {"eye": 2, "var": 3, "std": 4, "sort": 2, "argsort": 2, "empty_like": 0}  # launches of a call, where they are not one
READ_BACK = {"nonzero", "flatnonzero", "argwhere", "unique", "extract", "array_equal", "allclose", "compress", "bincount"}
ABOUT_TYPES = {"shape", "ndim", "size", "result_type", "can_cast", "promote_types", "issubdtype", "isdtype", "broadcast_shapes"}
SEQUENCES = {"tup", "arys", "arrays", "args", "xi"}  # first parameters that are sequences of arrays
NUMBERS = {"shape", "N", "start", "fill_value", "dtype", "M"}  # first parameters that are no arrays


def flushed(result):
    """``result`` as CuPy's kernels leave it: compiled with -ftz=true, they make float32 denormals 0."""
    if getattr(result, "dtype", None) == np.float32:
        return np.where(np.abs(result) < np.finfo(np.float32).smallest_normal, np.float32(0), result)
    return result


class Ufunc:
    """An elementwise function."""

    def __init__(self, name, loops):
        self.__name__ = name
        self.types = loops
        self._inputs = [[np.dtype(char) for char in loop.split("->")[0]] for loop in loops]
        self._compute = getattr(np, name, None)

    def __repr__(self):
        return f"<ufunc 'cupy_{self.__name__}'>"

    def _check_types(self, operands):
        kinds = [np.result_type(x) for x in operands]
        strong = [kind for kind, x in zip(kinds, operands, strict=True) if isinstance(x, np.ndarray | np.generic)]
        fits = any(all(np.can_cast(kind, loop[0]) for kind in strong) for loop in self._inputs)
        if strong and not fits:
            raise TypeError(f"Wrong type {kinds} of arguments for cupy_{self.__name__}")

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        operands = [operand(x) for x in args]
        if not any(isinstance(x, ndarray) for x in args) and not all(isinstance(x, SCALARS) for x in args):
            raise TypeError(f"Unsupported type {type(args[0])}")
        self._check_types(operands)
        counters.launch(self.__name__)
        kind = {} if dtype is None else {"dtype": dtype}
        with np.errstate(all="ignore"):
            if out is None:
                return made(tuple(map(flushed, r)) if isinstance(r := self._compute(*operands, **kind), tuple) else flushed(r))
            if not isinstance(out, ndarray):
                raise TypeError("return arrays must be of cupy.ndarray type")
            self._compute(*operands, out=bare(out), casting=casting, **kind)
        bare(out)[...] = flushed(bare(out))
        return out


def function(name, parameters, numpy=np):
    """CuPy's function ``name`` by way of NumPy's."""
    bind = signatures.binder(name, parameters)
    first = parameters.split(",")[0].partition("=")[0]
    compute = getattr(numpy, name, None)
    takes_array = first.isidentifier() and first not in SEQUENCES | NUMBERS

    def call(*args, **kwargs):
        bind(*args, **kwargs)
        if compute is None:
            raise NotImplementedError(f"the double has no {name}: NumPy has none")
        given = args[0] if args else kwargs.get(first)
        if takes_array and name not in ABOUT_TYPES:
            operand(given)
        if name in READ_BACK:
            counters.synchronize(name)
        options = {key: bare(value) for key, value in kwargs.items() if key != "blocking"}
        with np.errstate(all="ignore"):
            result = compute(*map(bare, args), **options)
        if name in ABOUT_TYPES:
            return result
        if name not in VIEWS or not shares(result, given):
            counters.launch(name, SEVERAL.get(name, 1))
        return kwargs["out"] if kwargs.get("out") is not None else made(result)

    call.__name__ = name
    return call


def shares(result, given):
    """Whether a view is one: NumPy copies where the strides do not allow it, and so does CuPy."""
    parts = result if isinstance(result, tuple | list) else (result,)
    return not isinstance(given, ndarray) or all(not part.size or np.shares_memory(part, bare(given)) for part in parts)


# ------------------------------------------------------------------------------------- where CuPy and NumPy differ


def _numbers(x):
    return [_numbers(part) for part in x] if isinstance(x, tuple | list) else x._numbers if isinstance(x, ndarray) else x


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """An array of the current device, from the host, from another device, or from a list of arrays."""
    same = isinstance(obj, ndarray) and obj._device == current() and dtype in (None, obj.dtype) and obj.ndim >= ndmin
    if same and not copy:
        return obj
    if isinstance(obj, ndarray):
        counters.launch("copy")
    else:
        counters.from_host("array")
    return ndarray(np.array(_numbers(obj), dtype=dtype, ndmin=ndmin))


def asarray(a, dtype=None, order=None, *, blocking=False):
    """An array of the current device; copied only where it must be."""
    return array(a, dtype, copy=False)


def take(a, indices, axis=None, out=None):
    """Entries by integers, which wrap."""
    operand(a)
    counters.launch("take")
    return made(np.take(bare(a), bare(indices), axis, mode="wrap"))


def repeat(a, repeats, axis=None):
    """Entries several times."""
    if isinstance(repeats, ndarray):
        raise ValueError("`repeats` must be int, sequence of int, or numpy array")
    counters.launch("repeat")
    return made(np.repeat(operand(a), repeats, axis))


def matmul(x1, x2, /, out=None, **options):
    """The product of two arrays."""
    for x in (x1, x2):
        if not isinstance(x, ndarray):
            raise TypeError(f"Argument has incorrect type (expected cupy.ndarray, got {type(x).__name__})")
    counters.launch("matmul")
    with np.errstate(all="ignore"):
        if out is None:
            return made(np.matmul(bare(x1), bare(x2), **options))
        np.matmul(bare(x1), bare(x2), out=bare(out), **options)
    return out


def empty(shape, dtype=float, order="C"):
    """Memory as it is found: NaN where that can be said."""
    numbers = np.empty(shape, dtype or float)
    if numbers.dtype.kind == "f":
        numbers.fill(np.nan)
    return ndarray(numbers)


OWN = (array, asarray, take, repeat, matmul, empty)


def namespace(module="cupy", numpy=np):
    """Name -> object of one of CuPy's modules."""
    found = {}
    for name, (kind, detail) in signatures.listed(module).items():
        if kind == "ufunc":
            found[name] = Ufunc(name, detail)
        elif kind == "function":
            found[name] = function(name, detail, numpy)
        elif hasattr(numpy, name):
            found[name] = getattr(numpy, name)
    return found | ({own.__name__: own for own in OWN} if module == "cupy" else {})
