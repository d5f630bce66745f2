"""How long a block of a walk is, slices, and masks in bits."""

import functools
import math
import threading

import numpy as np

from nearlin._array.backends import is_numpy, namespace, on_gpu

CPU_BLOCK_BYTES = 8 * 2**20


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


def joined(parts):
    """Arrays one below the other."""
    return parts[0] if len(parts) == 1 else namespace(parts[0]).concat(parts, axis=0)


def pack_mask(mask):
    """Keep a boolean matrix in bits on NumPy, and as it is (bytes) elsewhere; `Scratch.unpack_mask` undoes it."""
    if not is_numpy(mask):
        return mask
    whole = mask.shape[1] % 8 == 0  # bytes of no two rows: then all in one go
    return np.packbits(mask).reshape(mask.shape[0], -1) if whole else np.packbits(mask, axis=1)


class Scratch(threading.local):
    """Memory of each worker of a walk, into which it unpacks mask after mask: fresh memory costs page faults."""

    _memory = np.empty(0)

    def unpack_mask(self, packed, columns, dtype):
        """The matrix of zeros and ones, in ``dtype``, that `pack_mask` packed from one with ``columns`` columns.

        On NumPy it holds until this worker's next call; other backends make new arrays.
        """
        if not is_numpy(packed):
            return namespace(packed).astype(packed, dtype)
        if self._memory.size < 8 * packed.size or self._memory.dtype != dtype:
            self._memory = None  # what is too small is let go first
            self._memory = np.empty(8 * packed.size, dtype)
        bits = self._memory[: 8 * packed.size].reshape(*packed.shape, 8)
        np.take(_bits(dtype), packed, axis=0, out=bits, mode="clip")  # the mode "raise" would go by a copy
        return bits.reshape(packed.shape[0], -1)[:, :columns]


@functools.cache
def _bits(dtype):
    """The bits of every byte as numbers, (256, 8)."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(dtype)
