"""The pickles of CIFAR's Python version, of every protocol: parsed, never run."""

import io
import math
import pickle

import numpy as np

from nearlin.data.dataset import DataError
from nearlin.data.files import read_bytes

_INTEGERS = tuple(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))


def read_pickle(path, columns, pixels):
    """Images (n, ``pixels``) in bytes and labels by kind, those of ``columns``, from a pickled dictionary."""
    content = unpickled(path)
    x, labels = _bytes(path, entry(path, content, "data"), pixels), {kind: entry(path, content, kind) for kind in columns}
    if x.ndim != 2 or x.shape[1] != pixels or len(x) == 0:
        raise DataError(f"{path}: 'data' has shape {x.shape}; expected (n, {pixels}), n > 0")
    return x, {kind: _list(path, kind, values, len(x)) for kind, values in labels.items()}


def _list(path, kind, values, rows):
    """Labels as a list: pickled as one, of Python's integers or NumPy's, or as an array of integers."""
    if isinstance(values, _Remembered):
        values = _built(path, kind, values, _INTEGERS, "integers").ravel().tolist()
    if not isinstance(values, list) or len(values) != rows:
        found = f"has {len(values)} entries" if isinstance(values, list) else "is no list"
        raise DataError(f"{path}: {kind!r} {found}; expected a list of {rows} integers, as many as images")
    return [_built(path, kind, v, _INTEGERS, "integers").item() if isinstance(v, _Remembered) else v for v in values]


def entry(path, content, key):
    """What a dictionary written by Python 2 (keys are bytes) or 3 has under ``key``."""
    for form in (key.encode(), key):
        if form in content:
            return content[form]
    names = ", ".join(sorted(form.decode(errors="replace") if isinstance(form, bytes) else str(form) for form in content))
    raise DataError(f"{path} has no entry {key!r}; found {names or 'none'}")


class _Refused(pickle.UnpicklingError):
    """A pickle asks for what no CIFAR batch holds."""


class _Remembered:
    """Stands in for an array, a number or a dtype of NumPy: keeps what it is made from, and does nothing."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state


class _Array(_Remembered):
    """Made empty, and filled by its state: (version, shape, dtype, columns first, bytes)."""

    def parts(self):
        _, shape, dtype, fortran, raw = self.state
        return raw, dtype, shape, "F" if fortran else "C"


class _Buffer(_Remembered):
    """Made by protocol 5, from (bytes, dtype, shape, order)."""

    def parts(self):
        return self.arguments


class _Scalar(_Remembered):
    """Made from (dtype, bytes)."""

    def parts(self):
        dtype, raw = self.arguments
        return raw, dtype, (), "C"


def _latin1(text, encoding):
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
        raise _Refused(f"it holds bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_OF_NUMPY = {
    "multiarray": {"_reconstruct": _Array, "scalar": _Scalar},
    "numeric": {"_frombuffer": _Buffer},
}
_KNOWN = {
    ("numpy", "ndarray"): _Remembered,
    ("numpy", "dtype"): _Remembered,
    ("_codecs", "encode"): _latin1,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")  # before NumPy 2 and since
        for module, names in _OF_NUMPY.items()
        for name, stand_in in names.items()
    },
}


class _Parser(pickle.Unpickler):
    """Knows the names that arrays are pickled under, and refuses every other."""

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise _Refused(f"the pickle asks for {module}.{name}")
        return _KNOWN[module, name]


def unpickled(path):
    """The dictionary in a pickle, with a `_Remembered` in the place of every array."""
    try:
        content = _Parser(io.BytesIO(read_bytes(path)), encoding="bytes").load()
    except DataError:
        raise
    except _Refused as error:
        allowed = "a CIFAR batch holds only dictionaries, lists, text, bytes, integers and byte arrays, and nothing else is read"
        raise DataError(f"{path} cannot be read: {error}; {allowed}, because a pickle can run any code") from error
    except Exception as error:  # a damaged pickle raises errors of many kinds
        raise DataError(f"{path} is no pickle, or is truncated ({type(error).__name__}); expected a CIFAR batch") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a pickled {type(content).__name__}; expected the dictionary of a CIFAR batch")
    return content


def _bytes(path, remembered, pixels):
    if not isinstance(remembered, _Array | _Buffer):
        raise DataError(f"{path}: 'data' is no pickled array; expected one of bytes, (n, {pixels})")
    return _built(path, "data", remembered, ("u1",), "bytes (u1)")


def _built(path, key, remembered, codes, expected):
    """The array, of one of the types ``codes``, that a `_Remembered` was to become."""
    try:
        raw, dtype, shape, order = remembered.parts()
        code = dtype.arguments[:1]
        kept = isinstance(raw, bytes | bytearray) and all(isinstance(size, int) and size >= 0 for size in shape)
    except (AttributeError, TypeError, ValueError):
        kept = False
    if not kept or order not in ("C", "F"):
        raise DataError(f"{path}: {key!r} is no pickled array; expected one of {expected}")
    name = code[0].decode(errors="replace") if code and isinstance(code[0], bytes) else code[0] if code else "?"
    if name not in codes:
        raise DataError(f"{path}: {key!r} is an array of type {code}; expected {expected}")
    big = isinstance(dtype.state, tuple) and dtype.state[1:2] in ((">",), (b">",))
    dtype = np.dtype(name).newbyteorder(">" if big else "<")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise DataError(f"{path}: {key!r} states the shape {shape} and holds {len(raw)} bytes; expected as many bytes as entries")
    return np.frombuffer(raw, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="), order="C")
