"""Why a step does not fit into memory, and what would."""

from dataclasses import replace

import numpy as np

from nearlin._array import blas_threads, memory_next_to, on_gpu, prototype, resident, unusable
from nearlin.experiments.estimated_ranks import check
from nearlin.experiments.registry import OPTIMIZERS


def refusal(estimate, there):
    """Why the step of an `Estimate` does not fit into ``there`` bytes, and the changes with which it would."""
    part, largest = max(estimate.bytes.items(), key=lambda item: item[1])
    needs = f"a step of {estimate.optimizer} needs {in_words(estimate.peak)} ({part}: {in_words(largest)})"
    fitting = [f"{words} ({in_words(other.peak)})" for words, other in alternatives(estimate, there) if _fits(other, there)]
    advice = f"what would fit: {'; '.join(fitting)}" if fitting else "no smaller variant fits: expected less data"
    return f"{needs} and {'the GPU' if estimate.on_gpu else 'this machine'} has {in_words(there)}; {advice}"


def bytes_there(backend):
    """Bytes that arrays of a backend can take here, or None: of a GPU, or of this machine beside the interpreter."""
    if backend == "cupy" and unusable(backend):
        return None
    like = np.empty(0) if unusable(backend) else prototype(backend)
    there = memory_next_to(like)
    return there if there is None or on_gpu(like) else max(0, there - (resident() or 0))


def _fits(estimate, there):
    """Whether ranks take a step, and each has room for it."""
    try:
        check(estimate)
    except ValueError:
        return False
    return estimate.peak <= there


def alternatives(estimate, there):
    """Variants of a step that need less memory, by the option that makes them."""
    if estimate.dtype == "float64":
        yield "--dtype float32", replace(estimate, dtype="float32")
    if estimate.backend != "numpy" and estimate.activation == "relu":
        yield "--backend numpy, which keeps masks in bits", replace(estimate, backend="numpy", workers=blas_threads())
    for name in OPTIMIZERS if not estimate.hidden else ():
        if name != estimate.optimizer and name in ("near-linear-gauss-newton", "sgd"):
            yield f"--optimizer {name}", replace(estimate, optimizer=name, iterations=None, settings=())
    yield from _shared(estimate, there)
    yield from _smaller(estimate, "rows", "--batch-size", there)
    if not estimate.hidden:
        yield from _smaller(estimate, "width", "--width", there)


def _shared(estimate, there):
    """The least number of ranks, a power of two times those that there are, by which a step fits, if there is one."""
    ranks, most = 2 * estimate.ranks, estimate.rows if estimate.hidden else estimate.width
    while ranks <= most:
        other = replace(estimate, ranks=ranks)
        if _fits(other, there):
            yield f"--ranks {ranks}, each on a machine of its own", other
            return
        ranks *= 2


def _smaller(estimate, name, option, there):
    """The largest power of two of one size that fits, if there is one."""
    value, least = 1 << (getattr(estimate, name).bit_length() - 1), estimate.outputs if name == "width" else 1
    while value >= least:
        more = {"always_fresh": True, "all_rows": estimate.all_rows or estimate.rows} if name == "rows" else {}
        other = replace(estimate, **{name: value}, **more)
        if value < getattr(estimate, name) and _fits(other, there):
            yield f"{option} {value}", other
            return
        value //= 2


def in_words(count):
    """Bytes in words: ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
