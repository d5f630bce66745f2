"""Readers: a file becomes a `Table` of inputs and raw targets; one function per suffix. Nothing is unpickled."""

import contextlib
import csv
import zipfile
from typing import NamedTuple

import numpy as np

from nearlin.data.dataset import MISSING, DataError, check_inputs, shown


class Table(NamedTuple):
    """Inputs (n, d) in float64, targets (n,) or (n, c) as they stand in the file (numbers or text) or None, and the names."""

    x: np.ndarray
    y: np.ndarray | None
    feature_names: tuple | None = None
    target_names: tuple | None = None


def read_npz(path, target=None, features_only=False):
    """Arrays ``x`` and ``y`` of an ``.npz`` file."""
    if target is not None:
        raise DataError(f"{path}: target {target!r} is for .csv files; an .npz file has its target in the array 'y'")
    with _numpy_file(path) as archive:
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} holds a single array; expected an .npz archive with arrays 'x' and 'y'")
        wanted = ("x",) if features_only else ("x", "y")
        missing = [name for name in wanted if name not in archive.files]
        if missing:
            raise DataError(f"{path} lacks the array(s) {', '.join(missing)}; found {', '.join(archive.files) or 'none'}")
        arrays = [_exact(path, name, _member(path, archive, name)) for name in wanted]
    return Table(check_inputs(path, arrays[0]), None if features_only else arrays[1])


def read_npy(path, target=None, features_only=False):
    """An ``.npy`` matrix (n, d + 1) with the target in the last column, or features alone."""
    if target not in (None, "last"):
        raise DataError(f"{path}: target is {target!r}; an .npy file has its target in the last column (give 'last' or nothing)")
    with _numpy_file(path) as matrix:
        if not isinstance(matrix, np.ndarray):
            raise DataError(f"{path} holds an .npz archive; expected a single array, or the suffix .npz")
    _exact(path, "the array", matrix)
    if features_only and target is None:
        return Table(check_inputs(path, matrix), None)
    if matrix.ndim != 2 or matrix.shape[1] < 2:
        raise DataError(
            f"{path}: the array has shape {matrix.shape}; expected (rows, features + 1), the target in the last column"
        )
    return Table(check_inputs(path, matrix[:, :-1]), matrix[:, -1])


@contextlib.contextmanager
def _numpy_file(path):
    """What `numpy.load` makes of a file that stays open meanwhile (it leaks the handle where it fails on a path)."""
    _refuse_empty(path)
    with contextlib.ExitStack() as stack:
        try:
            loaded = np.load(stack.enter_context(open(path, "rb")), allow_pickle=False)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no NumPy file, or is truncated, or holds pickled objects (never loaded here)") from error
        yield loaded


def _exact(path, argument, values):
    """``values``, unless their dtype is a number type that training would have to convert silently."""
    if values.dtype.kind in "fiuc" and values.dtype not in (np.float32, np.float64):
        raise DataError(f"{path}: {argument} has dtype {values.dtype}; expected float32 or float64: convert it when you save it")
    return values


def _member(path, archive, name):
    try:
        return archive[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: the array {name!r} is damaged or holds pickled objects (never loaded here)") from error


def _refuse_empty(path):
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes)")


def read_csv(path, target=None, features_only=False):
    """A text table with a header line; every column but the targets must be numeric."""
    header, rows, lines = _csv_rows(path)
    if target is None and not features_only:
        raise DataError(f"{path}: name the target column (--target); the columns are {shown(header, 30, str)}")
    targets = () if target is None else _targets(path, target, header)
    features = [j for j, name in enumerate(header) if name not in targets]
    if not features:
        raise DataError(f"{path} has no column besides {shown(targets)}; expected at least one feature")
    x = np.column_stack([_numbers(path, header[j], [row[j] for row in rows], lines) for j in features])
    names = tuple(header[j] for j in features)
    if features_only or target is None:
        return Table(x, None, names)
    columns = [[row[header.index(name)] for row in rows] for name in targets]
    if len(targets) == 1:
        return Table(x, _target_column(path, target, columns[0], lines), names, targets)
    y = np.column_stack([_numbers(path, name, cells, lines) for name, cells in zip(targets, columns, strict=True)])
    return Table(x, y, names, targets)


def _targets(path, target, header):
    """The columns that ``target`` names: a name, names between commas, or a sequence of names."""
    names = (target,) if target in header else tuple(target.split(",") if isinstance(target, str) else target)
    for j, name in enumerate(names):
        if name not in header:
            raise DataError(f"{path} has no column {name!r}; the columns are {shown(header, 30, str)}")
        if name in names[:j]:
            raise DataError(f"{path}: the target {name!r} is named twice; expected distinct columns")
    return names


def _csv_rows(path):
    _refuse_empty(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); expected a CSV file") from error
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    table = [(line, row) for line, row in table if any(row)]
    return _header(path, table), *_body(path, table)


def _delimiter(line):
    """The separator that occurs most often in the header line; a comma where none does."""
    return max(",;\t", key=line.count)


def _header(path, table):
    header = table[0][1] if table else []
    if not header:
        raise DataError(f"{path} is empty; expected a header line and rows of numbers")
    if all(_is_number(cell) for cell in header):
        raise DataError(f"{path}: the first line holds numbers only; expected a header line with the names of the columns")
    for j, name in enumerate(header):
        if not name:
            raise DataError(f"{path}: column {j} (counted from 0) has no name in the header line")
        if name in header[:j]:
            raise DataError(f"{path} has two columns called {name!r}; expected distinct names")
    return header


def _body(path, table):
    if len(table) < 2:
        raise DataError(f"{path} holds a header line and no rows")
    columns = len(table[0][1])
    for line, row in table[1:]:
        if len(row) != columns:
            raise DataError(f"{path}, line {line}: {len(row)} field(s); expected {columns}, as in the header line")
    return [row for _, row in table[1:]], [line for line, _ in table[1:]]


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path, name, cells, lines):
    try:
        column = np.array([float(cell) for cell in cells])
    except ValueError:
        line, cell = next((line, cell) for line, cell in zip(lines, cells, strict=True) if not _is_number(cell))
        found = f"the text {cell!r}" if cell else "an empty field"
        raise DataError(f"{path}, line {line}, column {name!r}: {found}; expected a number") from None
    bad = np.flatnonzero(~np.isfinite(column))
    if len(bad):
        raise DataError(f"{path}, line {lines[bad[0]]}, column {name!r}: {cells[bad[0]]!r}; expected a finite number")
    return column


def _target_column(path, name, cells, lines):
    """Numbers, or text where no field is a number."""
    if any(_is_number(cell) for cell in cells):
        return _numbers(path, name, cells, lines)
    missing = next((j for j, cell in enumerate(cells) if cell in MISSING), None)
    if missing is not None:
        found = "an empty field" if not cells[missing] else f"{cells[missing]!r}, a missing value"
        raise DataError(f"{path}, line {lines[missing]}, column {name!r}: {found}; expected a target")
    return np.array(cells)


READERS = {".csv": read_csv, ".npy": read_npy, ".npz": read_npz}
