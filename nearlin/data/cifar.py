"""CIFAR-10 and CIFAR-100, the binary version and the Python version; pickles are parsed, never run."""

import math

import numpy as np

from nearlin.data.checks import check_labels
from nearlin.data.cifar_pickle import entry, read_pickle, unpickled
from nearlin.data.dataset import DataError
from nearlin.data.files import check_folder, find, read_bytes
from nearlin.data.images import Images

_SHAPE = (3, 32, 32)
_PIXELS = math.prod(_SHAPE)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = {"coarse": 20, "fine": 100}
_LABELS10, _LABELS100 = {"labels": 10}, {f"{kind}_labels": count for kind, count in _CIFAR100.items()}
_FOLDERS10, _FOLDERS100 = ("cifar-10-batches-bin", "cifar-10-batches-py"), ("cifar-100-binary", "cifar-100-python")


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
    folder = check_folder(folder, _FOLDERS10)
    batches = [_batch(find(folder, f"data_batch_{i}.bin", f"data_batch_{i}"), _LABELS10, "labels") for i in range(1, 6)]
    lengths = [len(y) for _, y in batches]
    if len(set(lengths)) > 1:
        raise DataError(f"{folder}: data_batch_1 to 5 hold {lengths} images; expected equal numbers: a batch is truncated")
    x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    test = _batch(find(folder, "test_batch.bin", "test_batch"), _LABELS10, "labels")
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
    folder = check_folder(folder, _FOLDERS100)
    train, test = (_batch(find(folder, f"{part}.bin", part), _LABELS100, f"{labels}_labels") for part in ("train", "test"))
    classes = _names(folder, labels)
    return Images("CIFAR-100 train", *train, classes), Images("CIFAR-100 test", *test, classes)


def read_batch(path):
    """The `Images` of one file of CIFAR-10 (``data_batch_1.bin``, ``test_batch``, ...) or CIFAR-100 (``train``, ``test.bin``)."""
    if path.stem in ("train", "test"):
        return Images(str(path), *_batch(path, _LABELS100, "fine_labels"), _names(path.parent, "fine"))
    return Images(str(path), *_batch(path, _LABELS10, "labels"), _CIFAR10)


def _batch(path, columns, wanted):
    """Images (n, 3, 32, 32) and the ``wanted`` labels of one file; ``columns``: kinds of labels and their numbers of classes."""
    x, labels = (_read_binary if path.suffix == ".bin" else read_pickle)(path, tuple(columns), _PIXELS)
    checked = {kind: check_labels(f"{path}, {kind}", labels[kind], count) for kind, count in columns.items()}
    return x.reshape(-1, *_SHAPE), checked[wanted]


def _read_binary(path, columns, pixels):
    data, record = read_bytes(path), len(columns) + pixels
    if len(data) % record:
        found = f"{len(data)} bytes, which is {len(data) // record} records of {record} and {len(data) % record} bytes"
        raise DataError(f"{path} holds {found}; expected whole records: it is truncated, or of another data set")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return records[:, len(columns) :].copy(), {kind: records[:, j] for j, kind in enumerate(columns)}


def _names(folder, kind):
    text, meta = folder / f"{kind}_label_names.txt", folder / "meta"
    if text.is_file():
        path, names = text, read_bytes(text).decode("utf-8", errors="replace").split()
    elif meta.is_file():
        path, names = meta, entry(meta, unpickled(meta), f"{kind}_label_names")
    else:
        return tuple(map(str, range(_CIFAR100[kind])))
    if not isinstance(names, list) or len(names) != _CIFAR100[kind] or not all(isinstance(name, bytes | str) for name in names):
        found = f"{len(names)} entries" if isinstance(names, list) else "no list"
        raise DataError(f"{path}: the names of the {kind} labels are {found}; expected {_CIFAR100[kind]} names")
    return tuple(name.decode("utf-8", errors="replace") if isinstance(name, bytes) else name for name in names)
