"""How long a block of a walk is, what is kept for the next one, slices, and masks in bits."""

import math

import numpy as np

from nearlin._array.backends import is_numpy, namespace, on_gpu

CPU_BLOCK_BYTES = 8 * 2**20

# The C library of Linux gives freed memory back above a threshold, and its pages are made anew by the next block. The threshold
# grows with the largest array that was freed, of up to 32 MB: this one, which is never written to.
np.empty(2**25 - 2**13, dtype=np.uint8)


def block_length(row_bytes, like, parts=1):
    """How many rows of ``row_bytes`` bytes make one block: 8 MB in so many ``parts`` on a CPU, 256 MB on a GPU."""
    budget = 256 * 2**20 if on_gpu(like) else CPU_BLOCK_BYTES // parts
    return max(1, budget // max(1, row_bytes))


def slices(length, step):
    """Consecutive slices of ``step`` that cover ``length``."""
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def even_step(length, step, multiple=1):
    """The size, a multiple of ``multiple``, of as few even slices of ``length`` as there are of at most ``step``."""
    each = math.ceil(length / math.ceil(length / step)) if length else step
    return -(-each // multiple) * multiple


def pack_mask(mask):
    """Keep a boolean matrix in bits on NumPy, and as it is (bytes) elsewhere; `unpack_mask` undoes it."""
    return np.packbits(mask, axis=1) if is_numpy(mask) else mask


def unpack_mask(packed, columns, dtype):
    """The matrix of zeros and ones, in ``dtype``, that `pack_mask` packed from one with ``columns`` columns."""
    if is_numpy(packed):
        return np.unpackbits(packed, axis=1, count=columns).view(np.bool_).astype(dtype)
    return namespace(packed).astype(packed, dtype)
