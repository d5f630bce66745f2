"""What the data sets ask of their arguments and labels, each failure in one sentence."""

import numpy as np

from nearlin._array import integer
from nearlin.data.dataset import DataError


def check_positive(**sizes):
    """Refuse what is no integer of at least 1, by the names that messages use."""
    for name, value in sizes.items():
        integer(1)(name, value)


def float_dtype(dtype):
    """``dtype`` as a NumPy dtype, if it is float32 or float64."""
    if dtype not in ("float32", "float64", np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; expected float32 or float64")
    return np.dtype(dtype)


def check_labels(name, labels, classes):
    """Integer ``labels`` (n,) as int64, if all lie in 0, ..., ``classes`` - 1; a `DataError` in the words of ``name`` if not."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DataError(f"{name}: the labels have shape {labels.shape}; expected one dimension, a label per image")
    if labels.size and not all(isinstance(label, int) and not isinstance(label, bool) for label in set(labels.tolist())):
        raise DataError(f"{name}: the labels have dtype {labels.dtype}; expected integers from 0 to {classes - 1}")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        found = f"the label {int(labels[bad[0]])} in row {bad[0]} (counted from 0)"
        raise DataError(f"{name}: {found}; expected labels from 0 to {classes - 1}")
    return labels.astype(np.int64)
