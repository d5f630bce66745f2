"""CIFAR-10 and CIFAR-100, the binary version and the Python version; pickles are parsed, never run."""

import io
import math
import pickle

import numpy as np

from nearlin.data.checks import check_labels
from nearlin.data.dataset import DataError
from nearlin.data.files import check_folder, find, read_bytes
from nearlin.data.images import Images

_SHAPE = (3, 32, 32)
_PIXELS = math.prod(_SHAPE)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = {"coarse": 20, "fine": 100}


def load_cifar10(folder):
    """Load CIFAR-10 from a folder with its batches; nothing is downloaded.

    Parameters
    ----------
    folder : str or path
        Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` (the binary version), or the same names without
        ``.bin`` (the Python version); or holds them in ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.

    Returns
    -------
    train, test : Images
        x (50000 or 10000, 3, 32, 32) for the published files, channels red, green, blue.

    Raises
    ------
    DataError
        A missing folder or batch, a truncated file, training batches of different length, a label above 9, or a pickle that asks
        for more than dictionaries, lists, text, bytes, integers and byte arrays.

    Notes
    -----
    A binary record is one byte for the label and 3072 for the pixels, channel by channel, row by row. What a pickle names is
    never looked up: stand-ins take the place of arrays and types, and only remember what they are given.
    """
    folder = check_folder(folder, ("cifar-10-batches-bin", "cifar-10-batches-py"))
    batches = [_batch(folder, f"data_batch_{i}", {"labels": 10}, "labels") for i in range(1, 6)]
    lengths = [len(y) for _, y in batches]
    if len(set(lengths)) > 1:
        raise DataError(f"{folder}: data_batch_1 to 5 hold {lengths} images; expected equal numbers: a batch is truncated")
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    test = _batch(folder, "test_batch", {"labels": 10}, "labels")
    return Images("CIFAR-10 train", x, y, _CIFAR10), Images("CIFAR-10 test", *test, _CIFAR10)


def load_cifar100(folder, labels="fine"):
    """Load CIFAR-100 from a folder with its two files; nothing is downloaded.

    Parameters
    ----------
    folder : str or path
        Holds ``train.bin`` and ``test.bin`` (the binary version), or ``train`` and ``test`` (the Python version); or holds them
        in ``cifar-100-binary`` or ``cifar-100-python``.
    labels : {"fine", "coarse"}
        The 100 classes, or the 20 groups of them.

    Returns
    -------
    train, test : Images
        x (50000 or 10000, 3, 32, 32) for the published files. The classes have the names in ``fine_label_names.txt`` (or
        ``coarse_...``) or ``meta``, and numbers where the folder has neither.

    Raises
    ------
    DataError
        As for `load_cifar10`.
    ValueError
        Other ``labels``.

    Notes
    -----
    A binary record is one byte for the coarse label, one for the fine label, and 3072 for the pixels.
    """
    if labels not in _CIFAR100:
        raise ValueError(f"labels is {labels!r}; expected 'fine' or 'coarse'")
    folder = check_folder(folder, ("cifar-100-binary", "cifar-100-python"))
    columns = {f"{kind}_labels": count for kind, count in _CIFAR100.items()}
    train, test = (_batch(folder, part, columns, f"{labels}_labels") for part in ("train", "test"))
    classes = _names(folder, labels)
    return Images("CIFAR-100 train", *train, classes), Images("CIFAR-100 test", *test, classes)


def _batch(folder, stem, columns, wanted):
    """Images (n, 3, 32, 32) and the ``wanted`` labels of one file; ``columns``: kinds of labels and their numbers of classes."""
    path = find(folder, f"{stem}.bin", stem)
    x, labels = (_read_binary if path.suffix == ".bin" else _read_pickle)(path, tuple(columns))
    checked = {kind: check_labels(f"{path}, {kind}", labels[kind], count) for kind, count in columns.items()}
    return x.reshape(-1, *_SHAPE), checked[wanted]


def _read_binary(path, columns):
    data, record = read_bytes(path), len(columns) + _PIXELS
    if len(data) % record:
        found = f"{len(data)} bytes, which is {len(data) // record} records of {record} and {len(data) % record} bytes"
        raise DataError(f"{path} holds {found}; expected whole records: it is truncated, or of another data set")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, len(columns) :].copy(), {kind: records[:, j] for j, kind in enumerate(columns)}


def _read_pickle(path, columns):
    content = _unpickle(path)
    x, labels = _array(path, _entry(path, content, "data")), {kind: _entry(path, content, kind) for kind in columns}
    if x.ndim != 2 or x.shape[1] != _PIXELS or len(x) == 0:
        raise DataError(f"{path}: 'data' has shape {x.shape}; expected (n, {_PIXELS}), n > 0")
    for kind, values in labels.items():
        if not isinstance(values, list) or len(values) != len(x):
            found = f"has {len(values)} entries" if isinstance(values, list) else "is no list"
            raise DataError(f"{path}: {kind!r} {found}; expected a list of {len(x)} integers, as many as images")
    return x, labels


def _names(folder, kind):
    text, meta = folder / f"{kind}_label_names.txt", folder / "meta"
    if text.is_file():
        path, names = text, read_bytes(text).decode("utf-8", errors="replace").split()
    elif meta.is_file():
        path, names = meta, _entry(meta, _unpickle(meta), f"{kind}_label_names")
    else:
        return tuple(map(str, range(_CIFAR100[kind])))
    if not isinstance(names, list) or len(names) != _CIFAR100[kind] or not all(isinstance(name, bytes | str) for name in names):
        found = f"{len(names)} entries" if isinstance(names, list) else "no list"
        raise DataError(f"{path}: the names of the {kind} labels are {found}; expected {_CIFAR100[kind]} names")
    return tuple(name.decode("utf-8", errors="replace") if isinstance(name, bytes) else name for name in names)


def _entry(path, content, key):
    """What a dictionary written by Python 2 (keys are bytes) or 3 has under ``key``."""
    for form in (key.encode(), key):
        if form in content:
            return content[form]
    shown = ", ".join(sorted(form.decode(errors="replace") if isinstance(form, bytes) else str(form) for form in content))
    raise DataError(f"{path} has no entry {key!r}; found {shown or 'none'}")


class _Refused(pickle.UnpicklingError):
    """A pickle asks for what no CIFAR batch holds."""


class _Remembered:
    """Stands in for an array or a dtype of a pickle: keeps what it is made from, and does nothing."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state


def _latin1(text, encoding):
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
        raise _Refused(f"it holds bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "ndarray"): _Remembered,
    ("numpy", "dtype"): _Remembered,
    ("numpy.core.multiarray", "_reconstruct"): _Remembered,
    ("numpy._core.multiarray", "_reconstruct"): _Remembered,
    ("_codecs", "encode"): _latin1,
}


class _Parser(pickle.Unpickler):
    """Knows the names that byte arrays are pickled under, and refuses every other."""

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise _Refused(f"the pickle asks for {module}.{name}")
        return _KNOWN[module, name]


def _unpickle(path):
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


def _array(path, remembered):
    """The byte array that a `_Remembered` was to become."""
    state = getattr(remembered, "state", None)
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple) or not isinstance(state[4], bytes):
        raise DataError(f"{path}: 'data' is no pickled array; expected one of bytes, (n, {_PIXELS})")
    _, shape, dtype, fortran, raw = state
    code = getattr(dtype, "arguments", ("?",))[:1]
    if code not in (("u1",), (b"u1",)):
        raise DataError(f"{path}: 'data' is an array of type {code}; expected bytes (u1)")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) != len(raw):
        raise DataError(f"{path}: 'data' states the shape {shape} and holds {len(raw)} bytes; expected as many bytes as entries")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C").copy(order="C")
