"""How fast a backend does the primitives that `nearlin.linalg.Rates` holds, measured here; and the JSON file that keeps it."""

import json
import time
import warnings
from pathlib import Path
from statistics import median
from typing import NamedTuple

from nearlin._array import card, cholesky, device, eigh, itemsize, namespace, normal, on_gpu, prototype, synchronize, widest
from nearlin.experiments import folders
from nearlin.linalg import Rates, TriangularPreconditioner
from nearlin.linalg.rates import DTYPES, PAIRED
from nearlin.nn import TwoLayer

FEWEST, SPAN, PATIENCE = 5, 0.25, 1.0  # a body runs so many times, for so many seconds; no more of it after PATIENCE seconds
MEASUREMENTS = 2 * len(PAIRED) + 1


class Sizes(NamedTuple):
    """What is timed: matrix sizes; samples, neurons and inputs of the thin walk; bytes of an array; rounds of small calls."""

    matmul: int = 1500
    thin: tuple = (2048, 16384, 32)
    cholesky: int = 1500
    triangular: int = 2048
    eigh: int = 300
    memory: int = 50 * 10**6
    calls: int = 50


SIZES = Sizes()
ON_GPU = Sizes(8192, (8192, 131072, 32), 8192, 8192, 1500, 2**30, 200)


def measure_rates(backend="numpy", progress=None, sizes=None):
    """Time every primitive on this machine, in both dtypes: medians of several runs, in about 10 seconds on two cores.

    Nothing else should run: BLAS threads that wait for a core that another process has make factorisations many times slower.

    Parameters
    ----------
    backend : {"numpy", "cupy", "torch", "array_api_strict"}
    progress : callable, optional
        Called as ``progress(primitive, dtype)`` before each of the `MEASUREMENTS`.
    sizes : Sizes, optional
        By default those of the kind of device.

    Returns
    -------
    Rates
        Rounded to three digits. On a device without float64 those of float32 stand for it, and a warning says so.

    Raises
    ------
    BackendError
        The backend cannot be used here.
    """
    return rates_of(prototype(backend, "float32"), progress, sizes)


def rates_of(like, progress=None, sizes=None):
    """`measure_rates` on the backend and device of ``like``, a float32 array."""
    progress, sizes = progress or (lambda primitive, dtype: None), sizes or (ON_GPU if on_gpu(like) else SIZES)
    likes = [like, namespace(like).empty((0,), dtype=widest(like), device=device(like))]
    if likes[1].dtype == like.dtype:
        warnings.warn(f"the device {device(like)} has no float64; the rates of float32 stand for it", UserWarning, stacklevel=2)
        likes.pop()
    found = {}
    for primitive in PAIRED:
        rates = []
        for dtype, one in zip(DTYPES, likes, strict=False):
            progress(primitive, dtype)
            rates.append(_rate(*BODIES[primitive](getattr(sizes, primitive), one), one))
        found[primitive] = (rates[0], rates[-1])
    progress("calls", DTYPES[0])
    return Rates(**found, calls=_rate(*_calls(sizes.calls, like), like), device=card(like) or "cpu")


def _rate(amount, body, like):
    """Units of ``amount`` per second: the median over runs of ``body``, after one that is not timed."""
    body()
    synchronize(like)
    seconds, end = [], time.perf_counter() + SPAN
    while not seconds or time.perf_counter() < end or (len(seconds) < FEWEST and sum(seconds) < PATIENCE):
        begun = time.perf_counter()
        body()
        synchronize(like)
        seconds.append(time.perf_counter() - begun)
    return float(f"{amount / max(median(seconds), 1e-9):.3g}")


# Each gives the amount of work of a body, and the body.


def _matmul(n, like):
    a = normal(1, (n, n), like)
    return 2 * n**3, lambda: a @ a


def _thin(size, like):
    n, m, d = size
    network = TwoLayer(d, m)
    params, x, u = network.init(1, like), normal(2, (n, d), like), normal(3, (n,), like)
    jacobian = network.jacobian(params, network.forward(params, x)[1])
    return 4 * n * m * d, lambda: jacobian.gram_matvec(u)


def _definite(n, like):
    """A well-conditioned matrix."""
    xp = namespace(like)
    return 2 * xp.eye(n, dtype=like.dtype, device=device(like)) + 1 / n


def _cholesky(n, like):
    a = _definite(n, like)
    return n**3 / 3, lambda: cholesky(a, 1.0)


def _triangular(n, like):
    solve, b = TriangularPreconditioner(cholesky(_definite(n, like))), normal(1, (n,), like)
    return 2 * n**2, lambda: solve(b)


def _eigh(n, like):
    a = normal(1, (n, n), like)
    a = a + namespace(a).matrix_transpose(a)
    return 9 * n**3, lambda: eigh(a)


def _memory(size, like):
    xp, item = namespace(like), itemsize(like.dtype)
    a = xp.ones((size // item,), dtype=like.dtype, device=device(like))
    b = 2 * a
    return 3 * item * a.shape[0], lambda: a * b


def _calls(rounds, like):
    a = namespace(like).ones((8, 8), dtype=like.dtype, device=device(like))

    def body():
        for _ in range(rounds):
            xp = namespace(a)
            b = xp.matrix_transpose(a) @ a
            xp.sum(xp.sqrt(b) * a[:, 0], axis=1)

    return 6 * rounds, body


BODIES = {
    "matmul": _matmul,
    "thin": _thin,
    "cholesky": _cholesky,
    "triangular": _triangular,
    "eigh": _eigh,
    "memory": _memory,
}


# ------------------------------------------------------------------------------------------------------------------ the file


def check_out(path):
    """Prove that the file ``path`` can be written, before anything is measured."""
    if Path(path).is_dir():
        raise ValueError(f"{path} (--out) is a folder; expected the name of a file")
    folders.writable(Path(path).parent)


def write_rates(path, rates):
    """Write ``rates`` as JSON, atomically; an existing file is replaced."""
    folders.write_json(path, rates.to_dict())


def read_rates(path):
    """The plain dict in a file of `write_rates`; `ValueError` in one sentence where it is missing or another file."""
    foreign = f"{path} is no file of rates that nearlin info --measure wrote"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"the file of rates {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{foreign}: it is not JSON") from error
    try:
        return Rates.from_dict(content).to_dict()
    except ValueError as error:
        raise ValueError(f"{foreign}: {error}") from error
