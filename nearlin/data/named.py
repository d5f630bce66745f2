"""Data sets by name: four that ship inside scikit-learn (extra ``cli``), and synthetic ones."""

import functools
import importlib

import numpy as np

from nearlin._array import fold_in, generator, integer
from nearlin.data.checks import check_positive
from nearlin.data.dataset import DataError, Dataset
from nearlin.data.images import Images

_SPHERE = 0x737068657265  # keeps these draws apart from the weights that a network draws from the same seed


def sphere(n=512, d=16, seed=0):
    """Points uniform on the unit sphere with independent standard normal labels: the hardest data to memorise.

    Parameters
    ----------
    n, d : int
        Samples and dimension, at least 1.
    seed : int
        Non-negative.

    Returns
    -------
    x : numpy.ndarray, (n, d), float64
        Rows of unit length.
    y : numpy.ndarray, (n,), float64
    """
    check_positive(n=n, d=d)
    draw = generator(fold_in(seed, _SPHERE))
    x = draw.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True), draw.standard_normal(n)


def digits(seed=0):
    """The 1797 handwritten digits that ship inside scikit-learn (extra ``cli``), as images of ten classes.

    Parameters
    ----------
    seed : int
        Of the split, non-negative.

    Returns
    -------
    train, test : Images
        x (1437, 1, 8, 8) and (360, 1, 8, 8) with values from 0 to 16, which ``floats`` divides by 16 (``floats(flat=True)`` are
        rows of 64 numbers in [0, 1], for auto-encoders); y from 0 to 9. Each part keeps the order of the source. With seed 0 the
        training rows, read as probabilities, have a mean entropy of 13.671 nats: the least logistic loss of an auto-encoder.

    Raises
    ------
    DataError
        scikit-learn is missing.
    ValueError
        A negative seed.
    """
    source = _sklearn("digits").load_digits()
    images = Images("digits", source.images[:, None].astype(np.uint8), source.target, tuple("0123456789"), levels=16)
    order = np.random.default_rng(integer(0)("seed", seed)).permutation(
        len(images)
    )  # not `split`: the entropy above is of these rows
    return images.take(np.sort(order[:1437])), images.take(np.sort(order[1437:]))


def load_named(name):
    """The `Dataset` called ``name``, one of `NAMES`."""
    return _MAKERS[name]()


def _sphere():
    return Dataset("sphere", *sphere())


def _digits_4v9():
    digits = _sklearn("digits-4v9").load_digits()
    rows = np.flatnonzero((digits.target == 4) | (digits.target == 9))
    y = (digits.target[rows] == 9).astype(np.int64)
    return Dataset("digits-4v9", digits.data[rows], y, "classification", ("4", "9"), tuple(digits.feature_names), "digit")


def _digits_parity():
    digits = _sklearn("digits-parity").load_digits()
    y = (digits.target % 2).astype(np.int64)
    return Dataset("digits-parity", digits.data, y, "classification", ("even", "odd"), tuple(digits.feature_names), "parity")


def _breast_cancer():
    data = _sklearn("breast-cancer").load_breast_cancer()
    names = tuple(str(name) for name in data.target_names)
    features = tuple(str(name) for name in data.feature_names)
    return Dataset("breast-cancer", data.data, data.target, "classification", names, features, "diagnosis")


def _diabetes():
    data = _sklearn("diabetes").load_diabetes()
    return Dataset("diabetes", data.data, data.target, "regression", None, tuple(data.feature_names), "progression")


@functools.cache
def _sklearn_datasets():
    return importlib.import_module("sklearn.datasets")


def _sklearn(name):
    try:
        return _sklearn_datasets()
    except ImportError as error:
        raise DataError(f'the data set {name!r} comes with scikit-learn, which is missing: pip install "nearlin[cli]"') from error


_MAKERS = {
    "digits-4v9": _digits_4v9,
    "digits-parity": _digits_parity,
    "diabetes": _diabetes,
    "breast-cancer": _breast_cancer,
    "sphere": _sphere,
}
NAMES = tuple(_MAKERS)
