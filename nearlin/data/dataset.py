"""A data set on the host: checked once, split by a seed."""

from dataclasses import dataclass, replace

import numpy as np

from nearlin._array import fold_in, generator, within

TASKS = ("regression", "classification")
_SPLIT = 0x73706C6974  # keeps the draws of the split apart from those of other users of the same seed


class DataError(ValueError):
    """A data set or file that cannot be used; the message names it, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and targets on the host, in float64.

    Parameters
    ----------
    name : str
        What messages and run folders call it.
    x : numpy.ndarray, (n, d)
        Inputs; integers and float32 are converted to float64.
    y : numpy.ndarray, (n,)
        Targets; -1 and +1 for classification.
    task : {"regression", "classification"}
    class_names : tuple of two str, optional
        What -1 and +1 mean.
    feature_names : tuple of d str, optional
    target_name : str, optional
    rows : numpy.ndarray, (n,), optional
        Row numbers in the source, counted from 0, so that messages about a part of it name the right row.

    Raises
    ------
    DataError
        Wrong number of dimensions, no rows or columns, lengths that differ, NaN or Inf, or classes other than -1 and +1.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    task: str = "regression"
    class_names: tuple | None = None
    feature_names: tuple | None = None
    target_name: str | None = None
    rows: np.ndarray | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise DataError(f"{self.name}: task is {self.task!r}; expected one of {', '.join(TASKS)}")
        x, y = check_inputs(self.name, self.x, self.feature_names), check_targets(self.name, self.y)
        if x.shape[0] != y.shape[0]:
            raise DataError(f"{self.name}: x has {x.shape[0]} rows and y has {y.shape[0]}; expected one target per row")
        if self.task == "classification" and not np.all(np.abs(y) == 1):
            raise DataError(f"{self.name}: y holds {float(y[np.abs(y) != 1][0])!r}; expected the classes -1 and +1")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(x.shape[0]))

    def __len__(self):
        return self.x.shape[0]

    def take(self, rows):
        """The data set of the given row positions, in that order."""
        return replace(self, x=self.x[rows], y=self.y[rows], rows=self.rows[rows])


_SMALLEST, _LARGEST = 1e-100, 1e100


def check_inputs(name, x, feature_names=None):
    """``x`` as a float64 matrix (n, d), or a `DataError` in the words of ``name``."""
    x = _floats(name, "x", x)
    if x.ndim != 2:
        raise DataError(f"{name}: x has shape {x.shape}; expected two dimensions, (rows, features)")
    if 0 in x.shape:
        raise DataError(f"{name}: x has shape {x.shape}; expected at least one row and one feature")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        where = f"row {row}, column {repr(feature_names[column]) if feature_names else column} (counted from 0)"
        raise DataError(f"{name}: x holds {len(bad)} NaN or Inf value(s), the first in {where}; expected finite numbers")
    return _in_range(name, "x", x)


def check_targets(name, y):
    """``y`` as a float64 vector (n,), or a `DataError` in the words of ``name``."""
    y = _floats(name, "y", y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{name}: y has shape {y.shape}; expected one dimension, a target per row")
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        where = f"row {bad[0]} (counted from 0)"
        raise DataError(f"{name}: y holds {len(bad)} NaN or Inf value(s), the first in {where}; expected finite numbers")
    return _in_range(name, "y", y)


def _in_range(name, argument, values):
    """``values``, if their squares neither overflow nor vanish."""
    largest = float(np.max(np.abs(values)))
    if largest != 0 and not _SMALLEST <= largest <= _LARGEST:
        expected = f"expected between {_SMALLEST:g} and {_LARGEST:g}, whose squares are numbers; choose another unit"
        raise DataError(f"{name}: the largest |{argument}| is {largest:g}; {expected}")
    return values


def _floats(name, argument, values):
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name}: {argument} has dtype {values.dtype}; expected real numbers")
    return values.astype(np.float64, order="C")


def two_classes(name, y):
    """Targets -1 and +1 and the two class names, for any array ``y`` (n,) with exactly two distinct values, in sorted order."""
    values, index = np.unique(np.asarray(y), return_inverse=True)
    if len(values) != 2:
        shown = ", ".join(repr(_text(v)) for v in values[:5]) + (", ..." if len(values) > 5 else "")
        raise DataError(f"{name}: the target has {len(values)} distinct value(s) ({shown}); classification expects exactly two")
    return 2.0 * index.reshape(-1) - 1.0, tuple(_text(v) for v in values)


def _text(value):
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def split(dataset, test_fraction=0.2, seed=0):
    """Split a data set into a training and a test part, by a permutation that depends on the seed and the size alone.

    Parameters
    ----------
    dataset : Dataset
    test_fraction : float in [0, 1)
        Share of the rows kept for testing, rounded to whole rows, at least one row on each side; 0 for no test part.
    seed : int
        Non-negative.

    Returns
    -------
    train : Dataset
    test : Dataset or None

    Raises
    ------
    DataError
        A single row, which cannot be on both sides.
    ValueError
        A fraction outside [0, 1) or a negative seed.
    """
    train, test = split_rows(len(dataset), test_fraction, seed, dataset.name)
    return dataset.take(train), None if test is None else dataset.take(test)


def split_rows(n, test_fraction, seed, name="data"):
    """Sorted row positions of the training and test parts (None without a test part) of ``n`` rows; see `split`."""
    if within("[0, 1)")("test_fraction", test_fraction) == 0:
        return np.arange(n), None
    if n < 2:
        raise DataError(f"{name} has {n} row, which cannot be split; set the test fraction to 0 to train on all rows")
    held_out = min(max(round(test_fraction * n), 1), n - 1)
    order = generator(fold_in(seed, _SPLIT)).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])
