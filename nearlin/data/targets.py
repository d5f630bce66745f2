"""What targets are, where nobody says: numbers to fit, or classes to tell apart."""

import numpy as np

from nearlin.data.dataset import DataError, check_targets, class_labels, plain

_MOST = 20  # distinct integers that are still taken for classes


def settle_targets(name, y, task=None):
    """Targets as a `Dataset` wants them.

    Parameters
    ----------
    name : str
        What messages call the data.
    y : array (n,), (n, 1) or (n, c)
        Numbers, truth values or text, as they stand in the file.
    task : {"regression", "classification"}, optional
        What they are; inferred by `infer_task` where it is None.

    Returns
    -------
    y : numpy.ndarray
        Numbers (n,) or (n, c) for regression, labels (n,) in int64 for classification.
    task : str
    class_names : tuple of str or None
    reason : str
        Why, to follow "because".

    Raises
    ------
    DataError
        Text for regression, several targets for classification, a value that is missing, a single class, or no class twice.
    """
    y = plain(name, y)
    reason = "task (--task) says so"
    if task is None:
        task, reason = infer_task(y)
    if task == "regression":
        if y.dtype.kind == "U" and y.ndim == 1:
            raise DataError(f"{name}: the target holds text; regression expects numbers")
        return check_targets(name, y), task, None, reason
    if y.ndim != 1:
        raise DataError(f"{name}: y has shape {y.shape}; classification expects one target, (n,)")
    labels, class_names = class_labels(name, y)
    return labels, task, class_names, reason


def infer_task(y):
    """The task of targets ``y``, an array (n,) or (n, c), and the reason, to follow "because".

    Text and truth values are classes. Integers are classes if they are -1 and 1, or run without gaps from 0 or 1, are at most
    20, and occur at least twice each. All else is regression.
    """
    if y.ndim != 1:
        return "regression", "there are several targets" if y.dtype.kind != "U" else "they are no column"
    if y.dtype.kind in "Ub":
        return "classification", "it holds text" if y.dtype.kind == "U" else "it holds truth values"
    if not y.size or not np.all(np.isfinite(y) & (y == np.round(y))):
        return "regression", "its values are not all integers"
    values, counts = np.unique(y, return_counts=True)
    low, high = int(values[0]), int(values[-1])
    if values.tolist() == [-1, 1]:
        return "classification", "its values are -1 and 1"
    if low not in (0, 1) or high - low != len(values) - 1 or len(values) == 1:
        return "regression", "its integers do not run without gaps from 0 or 1"
    if len(values) > _MOST:
        return "regression", f"it has more than {_MOST} distinct integers"
    if counts.min() < 2:
        return "regression", "some of its integers occur only once"
    return "classification", f"its values are the integers from {low} to {high}, each at least twice"
