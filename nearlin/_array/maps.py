"""Rows that lie in a file: what ``numpy.load(path, mmap_mode="r")`` gives is read some rows at a time, and not by its pages.

A page that the file no longer has, or that its disk cannot give, ends the process; a read that comes short is an error. Only maps
that are open for reading alone are treated so: what is written to another one is noticed by copies, as with any array.
"""

import mmap
import os
from operator import index

import numpy as np

from nearlin._array.backends import is_numpy, namespace
from nearlin._array.blocks import block_length, even_step, joined, slices


def is_map(x):
    """Whether ``x`` is a `numpy.memmap` of whole rows one after the other, open for reading alone."""
    return isinstance(x, np.memmap) and x.mode == "r" and x.filename is not None and x.ndim > 0 and x.flags.c_contiguous


def rows_of(x, rows):
    """``x[rows, ...]`` for ``rows``, a slice or integers; of a map in fresh memory, by reading its file.

    Raises
    ------
    OSError
        A file that is shorter than it was when it was mapped, or that cannot be read.
    """
    if not is_map(x):
        if isinstance(rows, slice) or is_numpy(x):  # whose take copies all of what is not contiguous
            return x[rows, ...]
        return namespace(x).take(x, rows, axis=0)
    if isinstance(rows, slice):
        start, stop, _ = rows.indices(x.shape[0])
        spans = [(start, stop - start)]
    else:
        spans = [(index(row), 1) for row in rows]
    found, at = np.empty((sum(count for _, count in spans), *x.shape[1:]), dtype=x.dtype), 0
    with _opened(x) as file:
        for first, count in spans:
            _read(file, x, first, found[at : at + count])
            at += count
    return found


def _opened(x):
    try:
        return open(x.filename, "rb", buffering=0)
    except OSError as error:
        raise OSError(f"{x.filename} cannot be read, while rows of it are asked for: {error.strerror or error}") from error


def _read(file, x, first, out):
    """The rows of ``out``, of which row ``first`` of the map is the first."""
    row = x.strides[0] if x.shape[0] > 1 else x.nbytes
    left = memoryview(out).cast("B") if out.size else b""
    try:
        file.seek(_position(x) + first * row)
        while len(left):
            got = file.readinto(left)
            if not got:
                at = first + (out.nbytes - len(left)) // row
                raise EOFError(f"{x.filename} ends in row {at} of the {x.shape[0]} that it had when it was mapped")
            left = left[got:]
    except EOFError as error:
        raise OSError(f"{error}; expected the whole file until its rows are no longer asked for") from None
    except OSError as error:
        raise OSError(f"{x.filename} cannot be read at row {first}: {error.strerror or error}") from error


def _position(x):
    """Where in its file ``x`` begins, which may be a slice of what was mapped: in bytes."""
    return x.offset - x.offset % mmap.ALLOCATIONGRANULARITY + x.ctypes.data - np.frombuffer(x._mmap, np.uint8).ctypes.data


def row_chunks(x, multiple=1, rows=None):
    """Slices of ``rows``, by default all, that are read at a time: of a map 8 MB, a ``multiple`` of rows; else one of all."""
    start, stop, _ = (rows or slice(None)).indices(x.shape[0])
    if not is_map(x):
        return [slice(start, stop)]
    most = max(1, block_length(x.nbytes // max(1, x.shape[0]), x) // multiple) * multiple
    step = even_step(stop - start, most, multiple)  # BLAS rounds a product of few rows in another way
    return [slice(start + s.start, start + s.stop) for s in slices(stop - start, step)]


def by_rows(f, x, rows=None, multiple=1):
    """``f(x[rows, ...])`` for an f that acts on each row; of a map some rows at a time."""
    if not is_map(x):
        return f(x if rows is None else x[rows, ...])
    return joined([f(rows_of(x, some)) for some in row_chunks(x, multiple, rows)])


def in_memory(x):
    """``x``, or what a map holds."""
    return by_rows(lambda part: part, x) if is_map(x) else x


def copies(arrays):
    """Copies that share no memory with ``arrays``, a tuple; a map stands for itself, with what tells whether its file changes."""
    return tuple(_stamped(x) if is_map(x) else namespace(x).asarray(x, copy=True) for x in arrays)


def _stamped(x):
    x = x.view()
    x.stamp = _stamp(x)
    return x


def _stamp(x):
    """What of a file changes with what a map of it holds."""
    try:
        found = os.stat(x.filename)
    except OSError as error:
        raise OSError(f"{x.filename} cannot be read, while rows of it are asked for: {error.strerror or error}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, _position(x)


def same_map(kept, x):
    """Whether a map that `copies` made is of the same rows as ``x``, and its file as it was."""
    return is_map(kept) and is_map(x) and getattr(kept, "stamp", None) == _stamp(x)
