"""IDX files: MNIST and what has its form (Fashion-MNIST, KMNIST, ...)."""

import math

import numpy as np

from nearlin.data.checks import check_labels
from nearlin.data.dataset import DataError
from nearlin.data.files import check_folder, find, read_bytes
from nearlin.data.images import Images

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LONGEST = 4 + 4 * 255  # bytes of a header
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
    return _read(path)


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
    x, y = _read(images, _IMAGES, "images"), _read(labels, _LABELS, "labels")
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} image(s) and {labels} {len(y)} label(s); expected as many of both")
    if 0 in x.shape:
        raise DataError(f"{images} states the shape {x.shape}; expected at least one image with at least one pixel")
    return Images(name, x[:, None], check_labels(labels, y, len(classes)), classes)


def find_idx(folder, stem, kind):
    """The file of a folder that is called so, in any of the spellings of `load_mnist`, or None."""
    return next((folder / name for name in _spellings(stem, kind) if (folder / name).is_file()), None)


def _spellings(stem, kind):
    return [f"{stem}{dot}{kind}-ubyte{suffix}" for suffix in ("", ".gz") for dot in ("-", ".")]


def _read(path, magic=None, what=""):
    header = read_bytes(path, _LONGEST)
    dtype, shape, start = _promised(path, header, magic, what)
    expected = start + math.prod(shape) * dtype.itemsize
    data = read_bytes(path, expected + 1)
    promise = f"expected {expected} for {dtype.name} of shape {shape}"
    if len(data) < expected:
        raise DataError(f"{path} is truncated: {len(data)} bytes; {promise}")
    if len(data) > expected:
        raise DataError(f"{path} is too long: {expected + 1} bytes or more; {promise}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _promised(path, header, magic, what):
    """Type and shape of the entries, and where they start."""
    found = int.from_bytes(header[:4], "big")
    kind, ndim = divmod(found, 256)
    if magic is not None and found != magic:
        raise DataError(f"{path}: the magic number is {found}; expected {magic} ({what})")
    if len(header) < 4 or kind not in _DTYPES or ndim == 0:
        expected = f"256 t + d with t among {', '.join(map(str, _DTYPES))} and d dimensions (2051 for images, 2049 for labels)"
        raise DataError(f"{path}: the magic number is {found}; expected {expected}")
    start = 4 + 4 * ndim
    if len(header) < start:
        raise DataError(f"{path} is truncated: {len(header)} bytes; expected a header of {start}")
    return np.dtype(_DTYPES[kind]), tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4)), start
