"""Walks over blocks by workers of one BLAS thread each, how long a block is, and masks in bits."""

import contextlib
import contextvars
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import array_api_compat as compat
import numpy as np
from threadpoolctl import ThreadpoolController

from nearlin._array.backends import device, is_numpy


@functools.cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def blas_threads():
    """Number of threads that the BLAS libraries may use now (the smallest over the loaded ones)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([library["num_threads"] for library in _blas().info()] or [cores])


SMALL, FEW = 1024, 64  # sizes of factorisations, and columns of triangular solves, that one thread is enough for


@functools.cache
def _scipy_blas():
    """SciPy's own BLAS, where NumPy brings another; else None."""
    own = [library.filepath for library in _blas().lib_controllers if "scipy.libs" in library.filepath]
    return _blas().select(filepath=own) if own else None


def scipy_on_one_thread(when):
    """A context in which SciPy's BLAS uses one thread, if ``when``.

    After a call its threads spin for a while, beside those of NumPy's: a product that follows takes 30 ms more.
    """
    return _scipy_blas().limit(limits=1) if when and _scipy_blas() else contextlib.nullcontext()


@functools.cache
def _pool(workers, _pid):
    return ThreadPoolExecutor(workers, thread_name_prefix="nearlin")


_inside = threading.local()


def _as_worker(f, block, context):
    _inside.worker = True
    return context.run(f, block)


def map_blocks(f, blocks, like):
    """Yield ``f(block)`` for every block, in order.

    On NumPy the blocks are walked by one worker per BLAS thread, each with one BLAS thread: BLAS's own threads make thin
    products slower. Limiting the BLAS threads (threadpoolctl, OPENBLAS_NUM_THREADS) limits the workers. Results come in
    block order, so that sums do not depend on scheduling, and `unguarded` holds in workers too. Other backends walk serially.
    """
    workers = blas_threads() if is_numpy(like) else 1
    if workers == 1 or len(blocks) == 1 or getattr(_inside, "worker", False):
        yield from map(f, blocks)
        return
    contexts = [contextvars.copy_context() for _ in blocks]  # one each: a context cannot be entered twice at a time
    with _blas().limit(limits=1):
        yield from _pool(workers, os.getpid()).map(functools.partial(_as_worker, f), blocks, contexts)


def block_length(row_bytes, like):
    """How many rows of ``row_bytes`` bytes make one block: a share of the cache on a CPU, 256 MB on a GPU."""
    budget = 256 * 2**20 if "cuda" in str(device(like)).lower() or compat.is_cupy_array(like) else CPU_BLOCK_BYTES
    return max(1, budget // max(1, row_bytes))


CPU_BLOCK_BYTES = 8 * 2**20


def slices(length, step):
    """Consecutive slices of ``step`` that cover ``length``."""
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def pack_mask(mask):
    """Keep a boolean matrix in bits on NumPy, and as it is (bytes) elsewhere; `unpack_mask` undoes it."""
    return np.packbits(mask, axis=1) if is_numpy(mask) else mask


def unpack_mask(packed, columns, dtype):
    """The matrix of zeros and ones, in ``dtype``, that `pack_mask` packed from one with ``columns`` columns."""
    if is_numpy(packed):
        return np.unpackbits(packed, axis=1, count=columns).view(np.bool_).astype(dtype)
    return compat.array_namespace(packed).astype(packed, dtype)
