"""Files of NumPy, ``.npz`` and ``.npy``: what a header promises is compared with what is there. Nothing is unpickled.

A folder with ``x.npy`` and ``y.npy`` is a pair that need not fit in memory: its rows are mapped, and not read.
"""

import contextlib
import math
import os
from pathlib import Path

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


def is_pair(path):
    """Whether a path is a folder with ``x.npy``."""
    return isinstance(path, str | Path) and (Path(path) / "x.npy").is_file()


def map_pair(folder):
    """x (n, d), mapped, and y (n,) or (n, c), read, of a folder with ``x.npy`` and ``y.npy``; d in float32 or float64.

    Raises
    ------
    DataError
        A file that is missing, truncated or damaged, or of another dtype, shape or order.
    """
    x_path, y_path = (Path(folder) / name for name in ("x.npy", "y.npy"))
    x, y = _mapped(x_path), np.array(_mapped(y_path))
    if x.dtype not in (np.float32, np.float64):
        raise DataError(f"{x_path} holds {x.dtype}; expected float32 or float64 of this machine, as rows are mapped and not cast")
    if x.ndim != 2 or 0 in x.shape:
        raise DataError(f"{x_path} has shape {x.shape}; expected (rows, features)")
    if not x.flags.c_contiguous:
        raise DataError(f"{x_path} lies column by column (Fortran order); expected rows, as numpy.ascontiguousarray makes them")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise DataError(f"{y_path} has shape {y.shape}; expected a target for each of the {len(x)} rows of x.npy")
    return x, y


def _mapped(path):
    with _numpy_file(path, mmap_mode="r") as found:
        if not isinstance(found, np.ndarray):
            raise DataError(f"{path} holds an .npz archive; expected a single array")
        return found


@contextlib.contextmanager
def _numpy_file(path, **options):
    """What `numpy.load` makes of a file that stays open meanwhile (it leaks the handle where it fails on a path)."""
    check_not_empty(path)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "rb"))
            if file.peek(6)[:6] == np.lib.format.MAGIC_PREFIX:
                _check_promise(path, "the array", file, os.fstat(file.fileno()).st_size)
            loaded = np.load(path if options else file, allow_pickle=False, **options)
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
