"""IDX files: MNIST and what has its form (Fashion-MNIST, KMNIST, ...)."""

import math

import numpy as np

from nearlin.data.checks import check_labels
from nearlin.data.dataset import DataError
from nearlin.data.files import check_folder, find, read_bytes
from nearlin.data.images import Images

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGES, _LABELS = 0x0803, 0x0801  # bytes in three dimensions, bytes in one
_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def read_idx(path):
    """Read an IDX file, plain or packed with gzip.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    numpy.ndarray
        Of the shape and type that the file states, in the byte order of this machine.

    Raises
    ------
    DataError
        A missing or empty file, a wrong magic number, more or fewer bytes than the header promises.

    Notes
    -----
    The format, all numbers big-endian: two zero bytes, one byte for the type of the entries, one for the number of dimensions
    d (together the magic number: 2051 for images, 2049 for labels), d sizes of four bytes, the entries in C order.
    """
    return _parse(path, read_bytes(path))


def load_mnist(folder):
    """Load MNIST from a folder with its four files; nothing is downloaded.

    Parameters
    ----------
    folder : str or path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, plain or with ``.gz``, with ``.idx`` in place of ``-idx`` or not; or holds them in ``raw`` or
        ``MNIST/raw``.

    Returns
    -------
    train, test : Images
        x (60000 or 10000, 1, 28, 28) for the published files; any number and size is read.

    Raises
    ------
    DataError
        A missing folder or file, a wrong magic number, a truncated file, numbers of images and labels that differ, a label above
        9: one sentence that names the file, what was found and what was expected.
    """
    return _load(check_folder(folder, ("MNIST/raw", "raw")), "MNIST", _DIGITS)


def load_fashion_mnist(folder):
    """Load Fashion-MNIST from a folder with its four files, which are named like those of MNIST.

    Parameters
    ----------
    folder : str or path
        As for `load_mnist`; subfolders looked into are ``FashionMNIST/raw`` and ``raw``.

    Returns
    -------
    train, test : Images

    Raises
    ------
    DataError
        As for `load_mnist`.
    """
    return _load(check_folder(folder, ("FashionMNIST/raw", "raw")), "Fashion-MNIST", _CLOTHES)


def _load(folder, name, classes):
    return tuple(_part(folder, f"{name} {part}", stem, classes) for part, stem in (("train", "train"), ("test", "t10k")))


def _part(folder, name, stem, classes):
    images, labels = find(folder, *_spellings(f"{stem}-images", "idx3")), find(folder, *_spellings(f"{stem}-labels", "idx1"))
    x = _parse(images, read_bytes(images), _IMAGES, "images")
    y = _parse(labels, read_bytes(labels), _LABELS, "labels")
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} image(s) and {labels} {len(y)} label(s); expected as many of both")
    if 0 in x.shape:
        raise DataError(f"{images} states the shape {x.shape}; expected at least one image with at least one pixel")
    return Images(name, x[:, None], check_labels(labels, y, len(classes)), classes)


def _spellings(stem, kind):
    return [f"{stem}{dot}{kind}-ubyte{suffix}" for suffix in ("", ".gz") for dot in ("-", ".")]


def _parse(path, data, magic=None, what=""):
    found = int.from_bytes(data[:4], "big")
    kind, ndim = divmod(found, 256)
    if magic is not None and found != magic:
        raise DataError(f"{path}: the magic number is {found}; expected {magic} ({what})")
    if len(data) < 4 or kind not in _DTYPES or ndim == 0:
        expected = f"256 t + d with t among {', '.join(map(str, _DTYPES))} and d dimensions (2051 for images, 2049 for labels)"
        raise DataError(f"{path}: the magic number is {found}; expected {expected}")
    dtype, start = np.dtype(_DTYPES[kind]), 4 + 4 * ndim
    if len(data) < start:
        raise DataError(f"{path} is truncated: {len(data)} bytes; expected a header of {start}")
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        state = "is truncated" if len(data) < expected else "is too long"
        raise DataError(f"{path} {state}: {len(data)} bytes; expected {expected} for {dtype.name} of shape {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
