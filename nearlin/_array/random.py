"""Random draws: by key, from one counter-based generator, so that every backend gets the same.

Uniform draws and signs are made where they are needed, on CuPy by `nearlin._array.philox`; all others on the host.
"""

import hashlib
import math

import array_api_compat as compat
import numpy as np

from nearlin._array import philox
from nearlin._array.backends import asarray, device, namespace
from nearlin._array.checks import integer

_KEY, MOST = integer(0), 1 - 2**-24
_UNIFORM, _SIGNS = 4, 32  # draws in a block of 256 bits


def fold_in(key, *data):
    """A new key from ``key`` and integers, independent of other keys for all practical purposes."""
    path = tuple(_KEY("key", value) for value in (key, *data))
    digest = hashlib.blake2b(repr(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(key, blocks=0):
    """A NumPy generator, on the host, on the counter-based Philox stream of ``key``, after ``blocks`` blocks of 256 bits."""
    return np.random.Generator(np.random.Philox(key=fold_in(key)).advance(blocks))


def uniform(key, shape, like, first=0):
    """Uniform draws on [0, 1) in float64, then cast to the dtype of ``like`` and moved next to it; at most 1 - 2⁻²⁴.

    Float32 would round what is above that to 1. The draws are those from number ``first`` on, without the ones before.
    """
    if compat.is_cupy_array(like):
        return philox.uniform(fold_in(key), MOST, namespace(like).empty(shape, dtype=like.dtype, device=device(like)), first)
    skipped, count = first % _UNIFORM, math.prod(shape)
    drawn = generator(key, first // _UNIFORM).random(skipped + count)[skipped:]
    return asarray(np.minimum(np.reshape(drawn, shape), MOST), like=like)


def normal(key, shape, like):
    """Standard normal draws in float64, then cast to the dtype of ``like`` and moved next to it.

    Each takes as many random bits as it happens to: all before a draw have to be made.
    """
    return asarray(generator(key).standard_normal(shape), like=like)


def signs(key, n, like, first=0):
    """``n`` independent signs +1 or -1, next to ``like``: those from number ``first`` on."""
    if compat.is_cupy_array(like):
        return philox.signs(fold_in(key), namespace(like).empty((n,), dtype=like.dtype, device=device(like)), first)
    skipped = first % _SIGNS
    drawn = generator(key, first // _SIGNS).integers(0, 2, size=skipped + n, dtype=np.int8)[skipped:]
    return asarray(drawn * 2 - 1, like=like)


def permutation(key, n, like):
    """A random permutation of 0, ..., n - 1 as int64, next to ``like``."""
    return asarray(generator(key).permutation(n), like=like, dtype="int64")
