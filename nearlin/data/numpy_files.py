"""Files of NumPy, ``.npz`` and ``.npy``: what a header promises is compared with what is there. Nothing is unpickled."""

import contextlib
import math
import os

import numpy as np

from nearlin.data.dataset import DataError, check_inputs
from nearlin.data.files import check_not_empty
from nearlin.data.table import Table

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path, target=None, task=None):
    """Arrays ``x`` and ``y`` of an ``.npz`` file."""
    x, y = _members(path, target, "x", "y")
    return Table(check_inputs(path, x), y)


def read_npz_features(path, target=None, feature_names=None, features=None):
    """The array ``x`` of an ``.npz`` file."""
    return Table(check_inputs(path, *_members(path, target, "x")))


def _members(path, target, *names):
    if target is not None:
        raise DataError(f"{path}: target {target!r} is for .csv and .tsv files; an .npz file has its target in the array 'y'")
    with _numpy_file(path) as archive:
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} holds a single array; expected an .npz archive with arrays 'x' and 'y'")
        missing = [name for name in names if name not in archive.files]
        if missing:
            raise DataError(f"{path} lacks the array(s) {', '.join(missing)}; found {', '.join(archive.files) or 'none'}")
        return [_member(path, archive, name) for name in names]


def read_npy(path, target=None, task=None):
    """An ``.npy`` matrix (n, d + 1) with the target in the last column."""
    matrix = _matrix(path, target)
    if matrix.ndim != 2 or matrix.shape[1] < 2:
        raise DataError(
            f"{path}: the array has shape {matrix.shape}; expected (rows, features + 1), the target in the last column"
        )
    return Table(check_inputs(path, matrix[:, :-1]), matrix[:, -1])


def read_npy_features(path, target=None, feature_names=None, features=None):
    """An ``.npy`` matrix (n, d) of features, or with ``target`` "last" one as `read_npy` takes it."""
    return Table(check_inputs(path, _matrix(path, target))) if target is None else Table(read_npy(path, target).x)


def _matrix(path, target):
    if target not in (None, "last"):
        raise DataError(f"{path}: target is {target!r}; an .npy file has its target in the last column (give 'last' or nothing)")
    with _numpy_file(path) as matrix:
        if not isinstance(matrix, np.ndarray):
            raise DataError(f"{path} holds an .npz archive; expected a single array, or the suffix .npz")
        return matrix


@contextlib.contextmanager
def _numpy_file(path):
    """What `numpy.load` makes of a file that stays open meanwhile (it leaks the handle where it fails on a path)."""
    check_not_empty(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            if file.peek(6)[:6] == np.lib.format.MAGIC_PREFIX:
                _check_promise(path, "the array", file, os.fstat(file.fileno()).st_size)
            loaded = np.load(file, allow_pickle=False)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except (DataError, MemoryError):
            raise
        except Exception as error:  # a damaged file raises errors of many kinds
            raise DataError(f"{path} is no NumPy file, or is truncated, or holds pickled objects (never loaded here)") from error
        yield loaded


def _member(path, archive, name):
    try:
        info = archive.zip.getinfo(f"{name}.npy")
        with archive.zip.open(info) as file:
            _check_promise(path, f"the array {name!r}", file, info.file_size)
        return archive[name]
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{path}: the array {name!r} is damaged or holds pickled objects (never loaded here)") from error


def _check_promise(path, what, file, size):
    """Refuse an array whose header promises other than there is, before memory is taken for it; ends at the start of the file."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("objects")
    promised, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if promised != there:
        found = f"{what} states {dtype} of shape {shape}, {promised} bytes, and {there} bytes follow"
        raise DataError(f"{path}: {found}; expected as many: the file is truncated or damaged")
    file.seek(0)
