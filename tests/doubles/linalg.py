"""Factorisations and solves of the double: as CuPy's, they leave garbage and say nothing unless ``errstate`` says "raise".

Only then does CuPy read cuSOLVER's devInfo, which is a synchronisation. A call counts as one launch.
"""

import contextlib
import threading

import numpy as np
import scipy.linalg

from tests.doubles import counters
from tests.doubles.arrays import bare, made, ndarray

LinAlgError = np.linalg.LinAlgError
_thread = threading.local()


@contextlib.contextmanager
def errstate(*, divide=None, over=None, under=None, invalid=None, linalg=None):
    """``cupyx.errstate``: with ``linalg="raise"`` factorisations say that they failed."""
    if linalg not in (None, "ignore", "raise") or any(v is not None for v in (divide, over, under, invalid)):
        raise NotImplementedError
    before = getattr(_thread, "linalg", "ignore")
    _thread.linalg = linalg or before
    try:
        yield
    finally:
        _thread.linalg = before


def _arrays(*arrays):
    if not all(isinstance(x, ndarray) for x in arrays):
        raise LinAlgError("cupy.linalg only supports cupy.ndarray")
    return map(bare, arrays)


def _square(a):
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise LinAlgError("Last 2 dimensions of the array must be square")


def _ask(routine, failed):
    if getattr(_thread, "linalg", "ignore") == "raise":
        counters.synchronize("devInfo")
        if failed:
            raise LinAlgError(f"Error reported by {routine} in cuSOLVER. devInfo = [1].")


def _like(shape):
    """NaN in all parts of a result with this shape or these shapes."""
    return tuple(np.full(s, np.nan) for s in shape) if isinstance(shape[0], tuple) else np.full(shape, np.nan)


def _computed(routine, compute, x, shape):
    """NumPy's result; NaN, in the dtype of ``x``, where it has none or ``x`` is not finite."""
    counters.launch(routine)
    result, failed = None, False
    if np.isfinite(x).all():
        try:
            result = compute()
        except LinAlgError:
            failed = True
    _ask(routine, failed)
    if result is None:
        result = _like(shape)
    parts = tuple(np.asarray(part, dtype=x.dtype) for part in (result if isinstance(result, tuple) else (result,)))
    return made(parts if isinstance(result, tuple) else parts[0])


def cholesky(a):
    """L (..., n, n) with L Lᵀ = ``a``; finite garbage, or NaN, where there is none."""
    (x,) = _arrays(a)
    _square(x)
    counters.launch("cholesky")
    lower, failed = np.tril(x), False
    for i in np.ndindex(x.shape[:-2]):
        if not np.isfinite(x[i]).all():  # comparisons with NaN are false, so that devInfo stays 0
            lower[i] = np.tril(np.full_like(x[i], np.nan))
            continue
        try:
            lower[i] = np.linalg.cholesky(x[i])
        except LinAlgError:
            failed = True
    _ask("potrf", failed)
    return made(lower)


def eigh(a, UPLO="L"):
    """Eigenvalues and eigenvectors."""
    (x,) = _arrays(a)
    _square(x)
    return _computed("syevd", lambda: tuple(np.linalg.eigh(x, UPLO)), x, (x.shape[:-1], x.shape))


def eigvalsh(a, UPLO="L"):
    """Eigenvalues."""
    (x,) = _arrays(a)
    _square(x)
    return _computed("syevd", lambda: np.linalg.eigvalsh(x, UPLO), x, x.shape[:-1])


def svd(a, full_matrices=True, compute_uv=True):
    """Singular values, with vectors or without."""
    (x,) = _arrays(a)
    *batch, m, n = x.shape
    k = min(m, n)
    if not compute_uv:
        return _computed("gesvd", lambda: np.linalg.svd(x, compute_uv=False), x, (*batch, k))
    shapes = (*batch, m, m if full_matrices else k), (*batch, k), (*batch, n if full_matrices else k, n)
    return _computed("gesvd", lambda: tuple(np.linalg.svd(x, full_matrices=full_matrices)), x, shapes)


def qr(a, mode="reduced"):
    """Q and R; a QR factorisation cannot fail."""
    (x,) = _arrays(a)
    *batch, m, n = x.shape
    k = m if mode == "complete" else min(m, n)
    return _computed("geqrf", lambda: tuple(np.linalg.qr(x, mode)), x, ((*batch, m, k), (*batch, k, n)))


def inv(a):
    """The inverse; matrices of a stack do not notice each other."""
    (x,) = _arrays(a)
    _square(x)
    counters.launch("getrf")
    inverse, failed = np.full_like(x, np.nan), False
    for i in np.ndindex(x.shape[:-2]):
        try:
            inverse[i] = np.linalg.inv(x[i]) if np.isfinite(x[i]).all() else np.nan
        except LinAlgError:
            inverse[i], failed = np.inf, True
    _ask("getrf", failed)
    return made(inverse)


def solve(a, b):
    """A⁻¹ b."""
    x, y = _arrays(a, b)
    _square(x)
    if y.shape[: x.ndim - 1] != x.shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b")
    columns = y[..., None] if y.ndim == x.ndim - 1 else y
    return _computed("gesv", lambda: np.linalg.solve(x, columns).reshape(y.shape), x, y.shape)


def norm(x, ord=None, axis=None, keepdims=False):
    """A norm of vectors or matrices."""
    (numbers,) = _arrays(x)
    counters.launch("norm", 2)
    with np.errstate(all="ignore"):
        return made(np.linalg.norm(numbers, ord, axis, keepdims))


def solve_triangular(a, b, trans=0, lower=False, unit_diagonal=False, overwrite_b=False, check_finite=False):
    """R⁻¹ b or R⁻ᵀ b, as ``cupyx.scipy.linalg`` has it; a pivot 0 is not noticed."""
    r, y = _arrays(a, b)
    if r.ndim != 2 or r.shape[0] != r.shape[1]:
        raise ValueError("expected square matrix")
    if len(r) != len(y):
        raise ValueError("incompatible dimensions")
    counters.launch("trsm")
    with np.errstate(all="ignore"):
        try:
            x = scipy.linalg.solve_triangular(r, y, trans, lower, unit_diagonal, check_finite=False)
        except LinAlgError:
            x = np.full(y.shape, np.inf)
    return made(np.asarray(x, dtype=r.dtype))


OWN = (cholesky, eigh, eigvalsh, svd, qr, inv, solve, norm)
