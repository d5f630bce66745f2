"""A data set on the host: checked once, split by a seed."""

from dataclasses import dataclass, replace

import numpy as np

from nearlin._array import fold_in, generator, refuse_masked, within

TASKS = ("regression", "classification")
_SPLIT = 0x73706C6974  # keeps the draws of the split apart from those of other users of the same seed


class DataError(ValueError):
    """A data set or file that cannot be used; the message names it, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and targets on the host: inputs in float64, and numbers to fit or classes to tell apart.

    Parameters
    ----------
    name : str
        What messages and run folders call it.
    x : numpy.ndarray, (n, d)
        Inputs; integers, truth values, float16 and float32 are converted to float64.
    y : numpy.ndarray
        For regression numbers (n,), or (n, c) for several targets; kept in float64. For classification labels (n,) from 0 to
        c - 1, the positions in ``class_names``; kept in int64. Without ``class_names`` they may be any numbers or texts.
    task : {"regression", "classification"}
    class_names : tuple of c str, optional
        The classes, at least two; by default the distinct values of ``y`` in sorted order. A part of the data may lack some.
    feature_names : tuple of d str, optional
    target_name : str, optional
    rows : numpy.ndarray, (n,), optional
        Row numbers in the source, counted from 0, so that messages about a part of it name the right row.
    target_names : tuple of c str, optional
        Of several targets.
    reason : str, optional
        Why the targets are of this ``task``, to follow "because"; see `describe_target`.

    Raises
    ------
    DataError
        Wrong number of dimensions, no rows or columns, lengths that differ, NaN or Inf, masked arrays, or labels that are no
        positions in ``class_names``.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    task: str = "regression"
    class_names: tuple | None = None
    feature_names: tuple | None = None
    target_name: str | None = None
    rows: np.ndarray | None = None
    target_names: tuple | None = None
    reason: str | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise DataError(f"{self.name}: task is {self.task!r}; expected one of {', '.join(TASKS)}")
        x = check_inputs(self.name, self.x, self.feature_names)
        if self.task == "regression":
            y, class_names = check_targets(self.name, self.y), None
        elif self.class_names is None:
            y, class_names = class_labels(self.name, self.y)
        else:
            y, class_names = _labels(self.name, self.y, self.class_names), tuple(self.class_names)
        if x.shape[0] != y.shape[0]:
            raise DataError(f"{self.name}: x has {x.shape[0]} rows and y has {y.shape[0]}; expected one target per row")
        if self.target_names is not None and len(self.target_names) != y[:1].size:
            raise DataError(f"{self.name}: {len(self.target_names)} target_names for {y[:1].size} target(s); expected as many")
        rows = np.arange(x.shape[0]) if self.rows is None else self.rows
        for field, value in {"x": x, "y": y, "class_names": class_names, "rows": rows}.items():
            object.__setattr__(self, field, value)

    def __len__(self):
        return self.x.shape[0]

    @property
    def targets(self):
        """The number of columns of the targets."""
        return self.y.shape[1] if self.y.ndim == 2 else 1

    def take(self, rows):
        """The data set of the given row positions, in that order."""
        return replace(self, x=self.x[rows], y=self.y[rows], rows=self.rows[rows])

    def describe_target(self):
        """What the targets are taken for, why, and what decides otherwise, in one sentence."""
        subject = "the target" if self.target_name is None else f"the target {self.target_name!r}"
        if self.targets > 1:
            subject = f"the {self.targets} targets" + (f" ({shown(self.target_names)})" if self.target_names else "")
        kind = f"{len(self.class_names)} classes ({shown(self.class_names)})" if self.class_names else "numbers (regression)"
        because = f", because {self.reason}" if self.reason else ""
        other = "classification" if self.task == "regression" else "regression"
        final = self.targets > 1 or not all(map(_is_number, self.class_names or ()))
        otherwise = "" if final else f"; --task {other} decides otherwise"
        return f"{subject} {'are' if self.targets > 1 else 'is'} taken for {kind}{because}{otherwise}"


_SMALLEST, _LARGEST = 1e-100, 1e100
EXACT = 2**53  # up to here every integer is a float64


def is_rounded(text):
    """Whether a number's text is an integer too large to be a float64 for certain."""
    digits = text.lstrip("+-")
    return digits.isdigit() and int(digits) > EXACT


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
    """``y`` as float64 numbers (n,) or (n, c), or a `DataError` in the words of ``name``."""
    y = _floats(name, "y", y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or 0 in y.shape[1:]:
        raise DataError(f"{name}: y has shape {y.shape}; expected (rows,) for one target, or (rows, targets)")
    bad = np.argwhere(~np.isfinite(y))
    if len(bad):
        where = f"row {bad[0][0]}" + (f", column {bad[0][1]}" if y.ndim == 2 else "") + " (counted from 0)"
        raise DataError(f"{name}: y holds {len(bad)} NaN or Inf value(s), the first in {where}; expected finite numbers")
    return _in_range(name, "y", y) if y.size else y


def class_labels(name, y):
    """Labels (n,) in int64 from 0 to c - 1 and the c names, for the c distinct values of ``y`` (n,) in sorted order."""
    y = plain(name, y)
    if y.ndim != 1:
        raise DataError(f"{name}: y has shape {y.shape}; expected one dimension, a label per row")
    if y.dtype.kind == "f":
        check_targets(name, y)
    _refuse_missing(name, y)
    values, labels = np.unique(y, return_inverse=True)
    names = tuple(map(_text, values))
    if len(values) < 2:
        raise DataError(f"{name}: the target has {len(values)} distinct value(s) ({shown(names)}); expected at least two classes")
    if len(values) == len(y) > 2:
        found = f"the target has {len(values)} distinct values ({shown(names)}) in as many rows"
        raise DataError(f"{name}: {found}; expected classes, of which some occur more than once")
    return labels.reshape(-1).astype(np.int64), names


_UNDEFINED = ("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "-NaN", "-nan", "NaN", "nan", "NULL", "null", "None", "<NA>")
_NOT_THERE = ("", "#N/A", "#N/A N/A", "#NA", "N/A", "NA", "n/a", "?", ".")
MISSING = frozenset(_UNDEFINED + _NOT_THERE)  # what pandas reads as missing, and the marks of UCI's files, SAS and Stata


def _refuse_missing(name, y):
    if y.dtype.kind == "U" and (bad := np.flatnonzero(np.isin(np.char.strip(y), list(MISSING)))).size:
        found = f"row {bad[0]} (counted from 0) is {str(y[bad[0]])!r}, a missing value"
        raise DataError(f"{name}: the target of {found}; expected a class in every row")


def _labels(name, y, class_names):
    if len(set(class_names)) != len(class_names) or len(class_names) < 2:
        raise DataError(f"{name}: class_names are {tuple(class_names)}; expected at least two distinct names")
    y = plain(name, y)
    expected = f"expected labels from 0 to {len(class_names) - 1}, the positions in class_names"
    if y.dtype.kind not in "fiub" or y.ndim != 1:
        raise DataError(f"{name}: y has dtype {y.dtype} and shape {y.shape}; {expected}")
    bad = np.flatnonzero(~np.isin(y, np.arange(len(class_names))))
    if len(bad):
        raise DataError(f"{name}: y holds {y[bad[0]].item()!r} in row {bad[0]} (counted from 0); {expected}")
    return y.astype(np.int64)


def plain(name, y):
    """Targets as an array of numbers, truth values or text: (n, 1) becomes (n,), bytes and objects that are text become text."""
    y = _unmasked(name, "y", y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.dtype.kind == "S":
        return _decoded(name, y)
    if y.dtype.kind in "OT" and all(isinstance(value, str) for value in y.flat):
        return y.astype(str)
    if y.dtype.kind not in "fiubU":
        raise DataError(f"{name}: y has dtype {y.dtype}; expected real numbers, truth values or text")
    return y


def _decoded(name, y):
    try:
        return np.char.decode(y, "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: y holds bytes that are not UTF-8 text ({error.object!r}); expected text or numbers") from error


def _unmasked(name, argument, values):
    try:
        refuse_masked(f"{name}: {argument}", values)
    except TypeError as error:
        raise DataError(str(error)) from None
    return np.asarray(values)


def _in_range(name, argument, values):
    """``values``, if their squares neither overflow nor vanish."""
    largest = float(np.max(np.abs(values)))
    if largest != 0 and not _SMALLEST <= largest <= _LARGEST:
        expected = f"expected between {_SMALLEST:g} and {_LARGEST:g}, whose squares are numbers; choose another unit"
        raise DataError(f"{name}: the largest |{argument}| is {largest:g}; {expected}")
    return values


def _floats(name, argument, values):
    values = _unmasked(name, argument, values)
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name}: {argument} has dtype {values.dtype}; expected real numbers")
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        raise DataError(f"{name}: {argument} has dtype {values.dtype}; expected float64, as it would be rounded: convert it")
    floats = values.astype(np.float64, order="C")
    if values.dtype.kind in "iu" and values.size and max(int(np.max(values)), -int(np.min(values))) > EXACT:
        raise DataError(f"{name}: {argument} holds integers above 2^53 in size; expected smaller ones, as these would be rounded")
    return floats


def _is_number(text):
    try:
        return bool(text) and float(text) == float(text)
    except ValueError:
        return False


def _text(value):
    """A class as text: integers without a point."""
    plain_value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(plain_value, float) and plain_value.is_integer()
    return str(int(plain_value)) if whole else str(value)


def shown(names, limit=8, form=repr):
    """Names for a message, the first few of many."""
    listed = ", ".join(map(form, names[:limit]))
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"


def split(dataset, test_fraction=0.2, seed=0, stratified=False):
    """Split a data set into a training and a test part, by a permutation that depends on the seed and the size alone.

    Parameters
    ----------
    dataset : Dataset
    test_fraction : float in [0, 1)
        Share of the rows kept for testing, rounded to whole rows, at least one row on each side; 0 for no test part.
    seed : int
        Non-negative.
    stratified : bool
        Share each class between the parts as all rows are, to the nearest row; every class keeps a training row. Regression is
        split as without.

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
    labels = dataset.y if stratified and dataset.task == "classification" else None
    train, test = split_rows(len(dataset), test_fraction, seed, dataset.name, labels)
    return dataset.take(train), None if test is None else dataset.take(test)


def split_rows(n, test_fraction, seed, name="data", labels=None):
    """Sorted row positions of the training and test parts (None without a test part) of ``n`` rows; see `split`.

    With ``labels`` (n,), integers from 0, classes are shared alike.
    """
    if within("[0, 1)")("test_fraction", test_fraction) == 0:
        return np.arange(n), None
    if n < 2:
        raise DataError(f"{name} has {n} row, which cannot be split; set the test fraction to 0 to train on all rows")
    held_out = min(max(round(test_fraction * n), 1), n - 1)
    order = generator(fold_in(seed, _SPLIT)).permutation(n)
    test = order[:held_out] if labels is None else _of_every_class(order, labels, held_out)
    return np.setdiff1d(order, test), np.sort(test) if len(test) else None


def _of_every_class(order, labels, held_out):
    """The rows that are held out: of every class the first ones in ``order``, as many as is its share; one of them stays."""
    counts = np.bincount(labels)
    share, most = held_out * counts / len(labels), np.maximum(counts - 1, 0)
    quota = np.minimum(share.astype(int), most)
    while quota.sum() < min(held_out, most.sum()):
        quota[np.argmax(np.where(quota < most, share - quota, -np.inf))] += 1
    return np.concatenate([order[labels[order] == k][: quota[k]] for k in range(len(counts))])
