"""Text tables, ``.csv`` and ``.tsv``: from a file to named columns of cells, with a header line or without."""

import csv
import io
import itertools
import re

from nearlin.data.columns import Column, feature_columns, is_number, matching_columns, number_columns, target_column
from nearlin.data.dataset import MISSING, DataError, shown
from nearlin.data.files import read_text
from nearlin.data.table import Table

_DELIMITERS = ",;\t|"
_RECORDS = 5  # that tell the delimiter
_LAST = "label"  # the last column of a file without a header line; the others are x1, x2, ...
_UNNAMED = re.compile(rf"x\d+|{_LAST}")


def read_delimited(path, target=None, task=None):
    """A `Table` with the columns ``target``, a name or several, as its targets, and all others as features."""
    return as_table(path, *_columns(path), target, task)


def as_table(path, columns, headed, target=None, task=None):
    """The `Table` of columns by name, which ``headed`` says whether the source names."""
    if target is None:
        raise DataError(f"{path}: name the target column (--target); {_listed(columns, headed)}")
    targets = _targets(path, target, columns, headed)
    names, x = feature_columns(path, _others(path, columns, targets))
    if len(targets) == 1:
        return Table(x, target_column(path, columns[targets[0]], task), names, targets)
    return Table(x, number_columns(path, [columns[name] for name in targets]), names, targets)


def read_delimited_features(path, target=None, feature_names=None, features=None):
    """A `Table` without targets; its columns are those of ``feature_names``, where there are any, in that order."""
    return as_features(path, *_columns(path), target, feature_names)


def as_features(path, columns, headed, target=None, feature_names=None):
    """The `Table` of the features of columns by name."""
    kept = _others(path, columns, () if target is None else _targets(path, target, columns, headed))
    if not feature_names:
        return Table(number_columns(path, kept))
    if not headed and len(kept) == len(feature_names) and all(map(_UNNAMED.fullmatch, feature_names)):
        kept = [column._replace(name=name) for column, name in zip(kept, feature_names, strict=True)]
    return Table(matching_columns(path, kept, feature_names))


def _listed(columns, headed):
    listed = shown(tuple(columns), 30, lambda name: name if name.isprintable() else repr(name))
    return f"the columns are {listed}" if headed else f"without a header line the columns are called {listed}, or first and last"


def _targets(path, target, columns, headed):
    """The names of the columns that ``target`` means: a name, names between commas, or a sequence of names."""
    wanted = tuple(target) if not isinstance(target, str) else (target,) if target in columns else tuple(target.split(","))
    if not headed:
        names = tuple(columns)
        wanted = tuple({"first": names[0], "last": names[-1]}.get(name, name) for name in wanted)
    if not wanted:
        raise DataError(f"{path}: the target names no column; expected at least one: {_listed(columns, headed)}")
    for j, name in enumerate(wanted):
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}; {_listed(columns, headed)}")
        if name in wanted[:j]:
            raise DataError(f"{path}: the target {name!r} is named twice; expected distinct columns")
    return wanted


def _others(path, columns, targets):
    left = [column for name, column in columns.items() if name not in targets]
    if not left:
        raise DataError(f"{path} has no column besides {shown(targets)}; expected at least one feature")
    return left


# ------------------------------------------------------------------------------------------------------- lines and header


def _columns(path):
    """The columns by name, and whether the file names them."""
    rows = _rows(path, read_text(path, "a header line and rows of numbers").encode())
    names = _names(path, rows)
    headed = names is not None
    if headed:
        rows = rows[1:]
    if not rows:
        raise DataError(f"{path} holds a header line and no rows")
    names = names or (*(f"x{j}" for j in range(1, len(rows[0][1]))), _LAST)
    for line, row in rows:
        if len(row) != len(names):
            expected = f"expected {len(names)}, as in the {'header' if headed else 'first'} line"
            raise DataError(f"{path}, line {line}: {len(row)} field(s); {expected}")
    lines = [line for line, _ in rows]
    cells = zip(*(row for _, row in rows), strict=True)
    return {name: Column(name, column, lines) for name, column in zip(names, cells, strict=True)}, headed


def _rows(path, data):
    """The records that are not blank, each with the number of its line."""
    reader = _reader(data, "\t" if ".tsv" in path.name.lower() else _delimiter(data))
    try:
        rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
        return [(line, row) for line, row in rows if any(row)]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}, is not of a CSV file: {error}") from error


def _reader(data, delimiter):
    lines = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")  # four times less memory than a StringIO
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter != "\t")


def _delimiter(data):
    """What parts the first records into most fields, as many in each; a space where nothing else parts them."""

    def counts(delimiter):
        try:
            records = (len(row) for row in _reader(data, delimiter) if any(map(str.strip, row)))
            return list(itertools.islice(records, _RECORDS))
        except csv.Error:
            return []

    def rank(delimiter):
        found = counts(delimiter)
        return len(set(found)) == 1 and found[0] > 1, max(found[:1], default=0)

    best = max(_DELIMITERS, key=rank)
    return best if max(counts(best), default=2) > 1 else " "


def _names(path, rows):
    """The names in the first line, or None where it is one of data."""
    first = rows[0][1]
    numbers = [cell for cell in first if is_number(cell)]
    texts = [j for j, cell in enumerate(first) if not is_number(cell) and cell not in MISSING]
    below = lambda j: [row[j] for _, row in rows[1:] if j < len(row)]  # noqa: E731
    if any(_are_numbers(below(j)) for j in texts):
        return _checked(path, first)
    if any(first[j] in below(j) for j in texts):
        return None
    running = numbers in ([str(i) for i in range(start, start + len(numbers))] for start in (0, 1))
    if not numbers or (texts and running):
        return _checked(path, first)
    if texts or (numbers == [str(i) for i in range(len(first))] and len(first) > 1):
        found = "holds numbers and texts" if texts else f"holds the numbers from 0 to {len(first) - 1} in order"
        raise DataError(f"{path}: the first line {found}, which may be names or data; expected names that are no numbers")
    return None


def _are_numbers(cells):
    return all(is_number(cell) or cell in MISSING for cell in cells) and any(map(is_number, cells))


def _checked(path, header):
    seen = set()
    for j, name in enumerate(header):
        if not name:
            raise DataError(f"{path}: column {j} (counted from 0) has no name in the header line")
        if name in seen:
            raise DataError(f"{path} has two columns called {name!r}; expected distinct names")
        seen.add(name)
    return tuple(header)
