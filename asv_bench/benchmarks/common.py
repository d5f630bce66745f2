"""What the suites share: backends, problems, and how long a measurement may take."""

import os
import time

from threadpoolctl import threadpool_limits

import nearlin as nl
from nearlin._array import prototype, unusable

BACKENDS = os.environ.get("NEARLIN_BENCH_BACKENDS", "numpy").split(",")  # numpy,torch,cupy takes three times as long
WIDTHS = [2**k for k in range(13, 19)]  # where blocks of neurons are whole: below that, times are those of allocation


class Timed:
    """Bounds that keep the suites short, with six sizes a curve: one round, four to sixteen samples in .4 seconds.

    NumPy alone is timed in processor seconds, in which other processes do not show; devices work while the processor waits.
    """

    rounds = 1
    repeat = (4, 16, 0.4)
    warmup_time = 0.1
    timeout = 120
    timer = time.process_time if BACKENDS == ["numpy"] else time.perf_counter


def geometric(first, last, count):
    """``count`` odd multiples of 8 from about ``first`` to ``last``: powers of two make strided access slow."""
    ratio = (last / first) ** (1 / (count - 1))
    return [16 * round(first * ratio**i / 16) + 8 for i in range(count)]


threadpool_limits(1)  # asv passes no environment variables on to an existing environment


def like(backend, dtype="float32"):
    """An empty array of ``backend``; `NotImplementedError`, which skips the benchmark, where it cannot be used."""
    if reason := unusable(backend):
        raise NotImplementedError(reason)
    threadpool_limits(1)  # libraries that this backend has brought in
    return prototype(backend, dtype)


def normal(backend, *shape, seed=0):
    """Normal draws on ``backend``."""
    return nl._array.normal(seed, shape, like(backend))


def problem(backend, n, m, d=16, seed=0, outputs=1):
    """Points on the sphere, with normal targets where there are several: objective, parameters, batch."""
    x, y = (nl.asarray(a, like=like(backend)) for a in nl.data.sphere(n=n, d=d, seed=seed))
    network = nl.nn.TwoLayer(d, m, outputs=outputs)
    y = y if outputs == 1 else normal(backend, n, outputs, seed=seed)
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(seed, x), (x, y)


def wait(*results):
    """Let the device finish ``results``."""
    for result in results:
        nl.synchronize(result)
