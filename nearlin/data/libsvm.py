"""Text files of LIBSVM and SVMlight."""

import math
from array import array

import numpy as np

from nearlin.data.checks import check_positive, float_dtype
from nearlin.data.dataset import EXACT, DataError, is_rounded
from nearlin.data.files import read_text
from nearlin.data.table import Table


def load_libsvm(path, zero_based=False, features=None, dtype="float64"):
    """Load a file in the text format of libsvm into dense arrays.

    A line is ``target index:value index:value ...``; what follows a # is a comment.

    Parameters
    ----------
    path : str or path
        Plain or packed with gzip. What a line does not name is zero.
    zero_based : bool
        Whether the first feature is called 0 and not 1. It is never guessed: a guess moves the columns of a test file against
        those of a training file.
    features : int, optional
        Number of columns, for instance that of the training file; without it, as many as the largest index needs.
    dtype : {"float32", "float64"}

    Returns
    -------
    x : numpy.ndarray, (n, features)
    y : numpy.ndarray, (n,)

    Raises
    ------
    DataError
        A missing, empty or damaged file; with its line number, a field that is no pair of index and value, an index below the
        first or above ``features``, an index given twice, a number that is not finite, several targets, or ``qid`` (ranking).
    ValueError
        ``features`` that is no positive integer, or another dtype.

    Notes
    -----
    Memory: n x features floats; a set with millions of features wants a sparse reader.
    """
    dtype = float_dtype(dtype)
    if features is not None:
        check_positive(features=features)
    text = read_text(path, "a LIBSVM file, lines like '1 1:0.5 7:2'")
    y, rows, columns, values = array("d"), array("q"), array("q"), array("d")
    for number, line in enumerate(text.split("\n"), start=1):
        if fields := line.partition("#")[0].split():
            where = f"{path}, line {number}"
            entries = _entries(where, fields[1:], 0 if zero_based else 1, features)
            rows.extend([len(y)] * len(entries))
            columns.extend(entries.keys())
            values.extend(entries.values())
            y.append(_number(where, "target", fields[0]))
    if not y:
        raise DataError(f"{path} holds no samples; expected lines like '1 1:0.5 7:2'")
    x = _zeros(path, len(y), features or max(columns, default=0) + 1, dtype)
    x[np.asarray(rows), np.asarray(columns)] = np.asarray(values)
    return x, np.asarray(y, dtype=dtype)


def _entries(where, fields, first, features):
    """The pairs of one line as a dictionary from columns, counted from 0, to values."""
    entries = {}
    for field in fields:
        index, colon, value = field.partition(":")
        if index == "qid":
            raise DataError(f"{where}: {field!r} belongs to a ranking; expected regression or classification, index:value alone")
        if not colon or not (index.isascii() and index.isdigit()):
            raise DataError(f"{where}: {field!r}; expected index:value with a whole number before the colon")
        column = int(index) - first
        if column < 0:
            raise DataError(f"{where}: the index 0; expected indices from 1 (zero_based=True reads files that count from 0)")
        if features is not None and column >= features:
            raise DataError(f"{where}: the index {index}; expected at most {features - 1 + first}, for {features} feature(s)")
        if column >= 2**62:
            raise DataError(f"{where}: the index {index} is too large; expected the number of a feature")
        if column in entries:
            raise DataError(f"{where}: the index {index} twice; expected every index once")
        entries[column] = _number(where, f"value of index {index}", value)
    return entries


def _number(where, what, text):
    try:
        value = float(text.replace("_", "?"))  # Python reads 1_0 as ten
    except ValueError:
        raise DataError(f"{where}: the {what} is {text!r}; expected one number") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: the {what} is {text!r}; expected a finite number")
    if abs(value) >= EXACT and is_rounded(text):
        raise DataError(f"{where}: the {what} is {text}, above 2^53 in size; expected smaller integers, as it would be rounded")
    return value


def _zeros(path, n, features, dtype):
    try:
        return np.zeros((n, features), dtype)
    except (MemoryError, ValueError) as error:
        size = f"{n} x {features} {dtype} numbers ({n * features * dtype.itemsize / 2**30:.3g} GB)"
        raise DataError(f"{path} makes {size} as a dense matrix, which does not fit in memory; expected a smaller set") from error


def read_libsvm(path, target=None, task=None):
    """The `Table` of a file in the text format of libsvm, whose features count from 1."""
    _refuse_target(path, target)
    return Table(*load_libsvm(path))


def read_libsvm_features(path, target=None, feature_names=None, features=None):
    """The same without its targets, with the columns of the training data."""
    _refuse_target(path, target)
    return Table(load_libsvm(path, features=features)[0])


def _refuse_target(path, target):
    if target is not None:
        raise DataError(f"{path}: target {target!r} is for .csv and .tsv files; a LIBSVM file has its target first in every line")
