"""Workers of one BLAS thread each beside BLAS's own threads: walks over blocks, sums over blocks, dense products.

A BLAS thread spins for about 30 ms after a product that it had a part in, so that threads of two kinds in turn take each other's
cores. While workers work, and as long as `pooled` is held, BLAS has one thread.
"""

import contextlib
import contextvars
import functools
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from threadpoolctl import ThreadpoolController

from nearlin._array.backends import is_numpy

SMALL, FEW = 1024, 64  # sizes of factorisations, and columns of triangular solves, that one thread is enough for
LOOKS = 20  # a second, at how crowded the machine is
SUMS = 16  # runs of blocks that are summed up by themselves: how many must not depend on the workers
POOL_FLOPS = 2**26  # products below it are faster without workers
TILE = 48  # rows or columns of a product that a worker takes are a multiple of it: BLAS has tiles of 4 to 48


@functools.cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def blas_threads():
    """Number of threads that the BLAS libraries may use now (the smallest over the loaded ones)."""
    return min([one.get_num_threads() for one in _blas().lib_controllers] or [_cores()])


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@contextlib.contextmanager
def _one_thread(libraries):
    """A context in which these libraries have one thread: threadpoolctl's own takes three times as long as a small product."""
    before = [one.get_num_threads() for one in libraries]
    try:
        for one in libraries:
            one.set_num_threads(1)
        yield
    finally:
        for one, threads in zip(libraries, before, strict=True):
            one.set_num_threads(threads)


def crowded():
    """Whether more threads are ready to run than cores, and one: those of BLAS wait for each other by spinning, and for a turn.

    As Linux says, which is asked `LOOKS` times a second at most; elsewhere never. What it decides may move the last bits of
    products, where BLAS has several threads.
    """
    return _ready(int(LOOKS * time.monotonic())) > os.cpu_count() + 1


@functools.lru_cache(maxsize=1)
def _ready(_now):
    """Threads that are ready to run, this one among them."""
    try:
        with open("/proc/loadavg") as said:
            return int(said.read().split()[3].split("/")[0])
    except OSError:
        return 1


@functools.cache
def _scipy_blas():
    """SciPy's own BLAS, where NumPy brings another, in a list."""
    return [library for library in _blas().lib_controllers if "scipy.libs" in library.filepath]


def scipy_on_one_thread(when):
    """A context in which SciPy's BLAS uses one thread, if ``when``.

    After a call its threads spin for a while, beside those of NumPy's: a product that follows takes 30 ms more.
    """
    return _one_thread(_scipy_blas()) if when else contextlib.nullcontext()


@functools.cache
def _pool(workers, _pid):
    return ThreadPoolExecutor(workers, thread_name_prefix="nearlin")


_here = threading.local()  # workers: how many this thread may put to work, while `pooled` is held; 1 within a worker


def workers(like):
    """How many tasks run at a time: on NumPy one per BLAS thread, one within a worker and on other backends.

    Limiting the BLAS threads (threadpoolctl, OPENBLAS_NUM_THREADS) limits the workers.
    """
    if not is_numpy(like):
        return 1
    return getattr(_here, "workers", None) or blas_threads()


@contextlib.contextmanager
def pooled(like):
    """A context in which BLAS has one thread, and walks and `matmul` have as many workers as BLAS had threads; NumPy alone."""
    if getattr(_here, "workers", None) or not is_numpy(like):
        yield
        return
    _here.workers = blas_threads()
    try:
        with _one_thread(_blas().lib_controllers) if _here.workers > 1 else contextlib.nullcontext():
            yield
    finally:
        _here.workers = None


def by_one_worker(work):
    """``work()``, in which walks are serial."""
    before, _here.workers = getattr(_here, "workers", None), 1
    try:
        return work()
    finally:
        _here.workers = before


def map_blocks(f, blocks, like):
    """The list of ``f(block)`` for every block, in order.

    On NumPy the `workers`, this thread among them, take block after block within one task each: a task takes longer than a small
    block. Results do not depend on who makes them, and `unguarded` holds in all workers. Other backends walk serially.
    """
    blocks, results, lock = list(blocks), [None] * len(blocks), threading.Lock()
    count, waiting = min(workers(like), len(blocks)), iter(range(len(blocks)))
    if count <= 1:
        return list(map(f, blocks))

    def take():
        with lock:
            return next(waiting, None)

    def work():
        while (i := take()) is not None:
            results[i] = f(blocks[i])

    with pooled(like):
        others = [
            _pool(count - 1, os.getpid()).submit(contextvars.copy_context().run, by_one_worker, work) for _ in range(count - 1)
        ]
        try:
            by_one_worker(work)
        finally:
            wait(others)
    for other in others:
        other.result()
    return results


def runs(blocks, count):
    """``blocks`` in at most ``count`` runs of consecutive ones, as even as possible."""
    k, count = len(blocks), min(len(blocks), count)
    return [blocks[k * i // count : k * (i + 1) // count] for i in range(count)]


def sum_blocks(f, blocks, like):
    """The sum of ``f(block)``, an array or a tuple of arrays, over blocks walked by `map_blocks`; see `sums_of_blocks`."""
    return sums_of_blocks(f, [blocks], like)[0]


def sums_of_blocks(f, lists, like):
    """For every list of blocks the sum of ``f(block)``, an array or a tuple of arrays, all in one walk.

    Neighbours are summed in order into runs, `SUMS` in all or one a list, and these in order: alike with any number of workers.
    """
    sums, count = [None] * len(lists), max(1, SUMS // max(1, len(lists)))
    tasks = [(k, run) for k, blocks in enumerate(lists) for run in runs(blocks, count)]

    def add(task, part):
        k, _ = task
        sums[k] = part if sums[k] is None else _plus(sums[k], part)

    fold_blocks(lambda task: functools.reduce(_plus, map(f, task[1])), tasks, add, like)
    return sums


def fold_blocks(f, blocks, add, like):
    """Call ``add(block, f(block))`` for every block, in order and one at a time; `map_blocks` makes ``f(block)``.

    About one result a worker is kept at a time.
    """
    blocks, waiting, done, lock = list(blocks), {}, [], threading.Lock()

    def part(i):
        made = f(blocks[i])
        with lock:
            waiting[i] = made
            while len(done) in waiting:
                add(blocks[len(done)], waiting.pop(len(done)))
                done.append(True)

    map_blocks(part, range(len(blocks)), like)


def _plus(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b


def matmul(a, b):
    """``a`` (m, k) times ``b`` (k, n); where `pooled` is held, large products are made by the workers, rows or columns each."""
    (m, k), n = a.shape, b.shape[1]
    count = getattr(_here, "workers", None) or 1
    if count == 1 or 2 * m * k * n < POOL_FLOPS or not is_numpy(a):
        return a @ b
    product = np.empty((m, n), dtype=np.result_type(a, b))
    rows = m > n
    step = math.ceil(max(m, n) / count / TILE) * TILE

    def part(start):
        taken = slice(start, start + step)
        np.matmul(a[taken] if rows else a, b if rows else b[:, taken], out=product[taken] if rows else product[:, taken])

    map_blocks(part, range(0, max(m, n), step), a)
    return product
