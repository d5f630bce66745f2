"""Data sets by name: three that ship inside scikit-learn (extra ``cli``), and synthetic ones."""

import functools
import importlib

import numpy as np

from nearlin._array import fold_in, generator
from nearlin.data.dataset import DataError, Dataset

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
    for name, value in (("n", n), ("d", d)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a positive integer")
    draw = generator(fold_in(seed, _SPHERE))
    x = draw.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True), draw.standard_normal(n)


def load_named(name):
    """The `Dataset` called ``name``, one of `NAMES`."""
    return _MAKERS[name]()


def _sphere():
    return Dataset("sphere", *sphere())


def _digits_4v9():
    digits = _sklearn("digits-4v9").load_digits()
    rows = np.flatnonzero((digits.target == 4) | (digits.target == 9))
    y = np.where(digits.target[rows] == 9, 1.0, -1.0)
    return Dataset("digits-4v9", digits.data[rows], y, "classification", ("4", "9"), tuple(digits.feature_names), "digit")


def _breast_cancer():
    data = _sklearn("breast-cancer").load_breast_cancer()
    names = tuple(str(name) for name in data.target_names)
    features = tuple(str(name) for name in data.feature_names)
    return Dataset("breast-cancer", data.data, 2.0 * data.target - 1.0, "classification", names, features, "diagnosis")


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


_MAKERS = {"digits-4v9": _digits_4v9, "diabetes": _diabetes, "breast-cancer": _breast_cancer, "sphere": _sphere}
NAMES = tuple(_MAKERS)
