"""Columns of text tables: cells become numbers, categories or classes, and what is neither is named by line and column."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from nearlin.data.dataset import EXACT, MISSING, DataError, is_rounded, shown

_MOST = 20  # categories of a text column
_TRUTH = {"true": 1.0, "false": 0.0}


class Column(NamedTuple):
    """Cells (n,) as text, under a name, and the numbers of their lines."""

    name: str
    cells: tuple
    lines: list

    def where(self, row):
        """How messages call a cell."""
        return f"line {self.lines[row]}, column {self.name!r}"

    @property
    def numbers(self):
        """The cells as float64 where they need not be read, else None."""
        return None


def is_number(cell):
    """Whether a cell is a number, infinite or not: what Python reads, but for digits parted by underscores, and NaN."""
    try:
        return "_" not in cell and not math.isnan(float(cell))
    except ValueError:
        return False


def _means_number(cell):
    """Whether a cell is a number, or one with a decimal comma: no text to make a category of."""
    return is_number(cell.replace(",", "."))


def feature_columns(path, columns):
    """Names and matrix of features: a column of text becomes one of 0 and 1 for each of its texts, called ``column=text``.

    Raises
    ------
    DataError
        A cell that is missing or infinite, a text among numbers, more than 20 texts in a column, or two features of one name.
    """
    found = [_features(path, column) for column in columns]
    names = tuple(name for names, _ in found for name in names)
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise DataError(f"{path} gives two features the name {twice!r}, one of them for a text; expected distinct names")
    return names, np.column_stack([values for _, values in found])


def _features(path, column):
    if not _is_text(column):
        return (column.name,), _numbers(path, column)
    _refuse_missing(path, column, "a text")
    kinds = sorted(set(column.cells))
    if len(kinds) > _MOST or "=" in column.name:
        found = f"{len(kinds)} distinct texts ({shown(kinds, 3)})" if len(kinds) > _MOST else "texts, and its name holds a '='"
        expected = f"expected numbers, or at most {_MOST} distinct texts under a name without '='; leave it out of the file"
        raise DataError(f"{path}: the column {column.name!r} holds {found}; {expected}")
    return tuple(f"{column.name}={kind}" for kind in kinds), _one_hot(column, kinds)


def _one_hot(column, kinds):
    return (np.array(column.cells)[:, None] == np.array(kinds)).astype(np.float64)


def matching_columns(path, columns, feature_names):
    """The matrix of the features of these names, as `feature_columns` made them of the training data.

    Raises
    ------
    DataError
        As there, columns that lack or are too many, or a text that the training data had not.
    """
    present, wanted, kinds = {column.name: column for column in columns}, set(feature_names), {}
    for name in feature_names:
        column, equals, kind = name.partition("=")
        if name not in present and equals and column in present:
            kinds.setdefault(column, []).append(kind)
    missing = [name for name in feature_names if name not in present and name.partition("=")[0] not in kinds]
    extra = [name for name in present if name not in kinds and name not in wanted]
    if missing:
        found = shown(tuple(present))
        raise DataError(f"{path} lacks the column(s) {shown(missing)} of the training data; found {found}")
    if extra:
        hint = "; a target column is dropped with target (--target)" if len(extra) == 1 else ""
        raise DataError(f"{path} has the column(s) {shown(extra)}, which the training data had not{hint}")
    made = {name: _numbers(path, column) for name, column in present.items() if name not in kinds}
    for name, known in kinds.items():
        made |= dict(zip((f"{name}={kind}" for kind in known), _known(path, present[name], known).T, strict=True))
    return np.column_stack([made[name] for name in feature_names])


def _known(path, column, kinds):
    _refuse_missing(path, column, "a text")
    new = next((row for row, cell in enumerate(column.cells) if cell not in kinds), None)
    if new is not None:
        found = f"the text {column.cells[new]!r}, which the training data had not"
        raise DataError(f"{path}, {column.where(new)}: {found}; expected one of {shown(kinds, _MOST)}")
    return _one_hot(column, kinds)


def number_columns(path, columns):
    """The matrix of columns that hold numbers."""
    return np.column_stack([_numbers(path, column) for column in columns])


def target_column(path, column, task=None):
    """Numbers where every cell is one; text where none is, not even by a decimal comma, or where the task is classification."""
    if (
        column.numbers is not None
        or all(map(is_number, column.cells))
        or (task != "classification" and any(map(_means_number, column.cells)))
    ):
        return _numbers(path, column, "; text among numbers makes classes only with --task classification")
    _refuse_missing(path, column, "a class")
    return np.array(column.cells)


def _is_text(column):
    """Whether no cell is a number, not even by a decimal comma, and some is neither missing nor a truth value."""
    if column.numbers is not None:
        return False
    known = set(column.cells) - MISSING
    return any(cell.lower() not in _TRUTH for cell in known) and not any(map(_means_number, known))


def _numbers(path, column, hint=""):
    """Cells as float64; truth values, where all cells are such, are 0 and 1."""
    if column.numbers is not None:
        return column.numbers
    cells = column.cells
    if cells[0].lower() in _TRUTH and all(cell.lower() in _TRUTH for cell in cells):
        return np.array([_TRUTH[cell.lower()] for cell in cells])
    try:
        values = np.array(list(map(float, cells)))
        plain = "_" not in "".join(cells)
    except ValueError:
        plain = False
    if not plain or not np.all(np.isfinite(values)):
        _refuse_missing(path, column, "a number")
        _refuse(path, column, hint)
    for row in np.flatnonzero(np.abs(values) >= EXACT):
        if is_rounded(cells[row]):
            found = f"the integer {cells[row]}, above 2^53 in size"
            raise DataError(f"{path}, {column.where(row)}: {found}; expected smaller ones, as it would be rounded")
    return values


def _refuse(path, column, hint):
    row = next(row for row, cell in enumerate(column.cells) if not is_number(cell) or not math.isfinite(float(cell)))
    cell = column.cells[row]
    if is_number(cell):
        raise DataError(f"{path}, {column.where(row)}: {cell!r}; expected a finite number")
    hint = " (with a decimal point)" if _means_number(cell) else hint
    raise DataError(f"{path}, {column.where(row)}: the text {cell!r}; expected a number{hint}")


def _refuse_missing(path, column, expected):
    row = next((row for row, cell in enumerate(column.cells) if cell in MISSING), None)
    if row is not None:
        found = "an empty field" if not column.cells[row] else f"{column.cells[row]!r}, a missing value"
        raise DataError(f"{path}, {column.where(row)}: {found}; expected {expected}")
