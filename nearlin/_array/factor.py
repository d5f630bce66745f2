"""Factorisations and triangular solves that fail the same way on every backend."""

import contextlib
import importlib

import array_api_compat as compat
import numpy as np
import scipy.linalg

from nearlin._array.backends import device, is_numpy, namespace
from nearlin._array.pool import FEW, SMALL, scipy_on_one_thread
from nearlin._array.reading import read, read_flag


class NotPositiveDefinite(ArithmeticError):
    """A Cholesky factorisation met a pivot that is not positive (or not finite)."""


class NotConverged(ArithmeticError):
    """An eigenvalue decomposition did not converge."""


def cholesky(a, shift=0.0):
    """Upper triangular R with RᵀR = ``a`` + ``shift`` I, for one symmetric matrix; `NotPositiveDefinite` on every backend alike.

    Cost n³/3 flops; ``a`` is not changed.
    """
    xp = namespace(a)
    if is_numpy(a):
        r = a.copy()
        r.flat[:: a.shape[0] + 1] += shift
        potrf = scipy.linalg.get_lapack_funcs("potrf", (r,))
        with scipy_on_one_thread(a.shape[0] <= SMALL):
            lower, info = potrf(r.T, lower=True, clean=True, overwrite_a=True)
        if info != 0 or not np.isfinite(lower[-1, -1]):
            raise NotPositiveDefinite(f"pivot {info} of {a.shape[0]}")
        return lower.T
    if hasattr(xp, "shifted_cholesky"):  # a namespace that has it as a primitive (operation counting)
        return xp.shifted_cholesky(a, float(shift))
    shifted = a + shift * xp.eye(a.shape[0], dtype=a.dtype, device=device(a))
    with _failing_as(NotPositiveDefinite, a):
        lower = xp.linalg.cholesky(shifted)
    if not read_flag(xp.all(xp.isfinite(lower))):
        raise NotPositiveDefinite("not finite")
    return xp.matrix_transpose(lower)


def spd_inverse(a, shift=0.0):
    """(``a`` + ``shift`` I)⁻¹ for one symmetric positive definite matrix, symmetric to the bit; `NotPositiveDefinite` else.

    A pivot below the rounding error of its diagonal entry counts as not positive. Cost n³ + n² + 2n flops (LAPACK's potrf and
    potri, and the shift); ``a`` is not changed.
    """
    xp = namespace(a)
    if hasattr(xp, "spd_inverse"):  # a namespace that has it as a primitive (operation counting)
        return xp.spd_inverse(a, float(shift))
    r = cholesky(a, shift)
    pivots = xp.linalg.diagonal(r) ** 2
    if not read_flag(xp.all(pivots > float(xp.finfo(a.dtype).eps) * (xp.linalg.diagonal(a) + shift))):
        raise NotPositiveDefinite("a pivot is rounding error")
    if is_numpy(a):
        (potri,) = scipy.linalg.get_lapack_funcs(("potri",), (r,))
        half, _ = potri(r.T, lower=True, overwrite_c=True)
        inverse = half + half.T
        np.einsum("ii->i", inverse)[...] *= 0.5
        return inverse
    if compat.is_torch_array(a):
        return importlib.import_module("torch").cholesky_inverse(r, upper=True)
    root = solve_triangular(r, xp.eye(a.shape[0], dtype=a.dtype, device=device(a)))
    return root @ xp.matrix_transpose(root)


def cholesky_pivots(stack):
    """Squared diagonals (n, k) of the Cholesky factors of finite (n, k, k); `NotPositiveDefinite` if one has none. n k³/3 flops.

    A matrix with NaN or Inf has no factor either; where its backend does not say so (CuPy, OpenBLAS) not all pivots are finite.
    """
    xp = namespace(stack)
    with _failing_as(NotPositiveDefinite, stack):
        return xp.linalg.diagonal(xp.linalg.cholesky(stack)) ** 2


def eigh(a):
    """Eigenvalues (..., n) and eigenvectors (..., n, n) of symmetric matrices; `NotConverged` on every backend alike."""
    xp = namespace(a)
    with _failing_as(NotConverged, a):
        values, vectors = _eigh_in_float32(a) if is_numpy(a) and a.dtype == np.float32 and a.ndim == 2 else xp.linalg.eigh(a)
    if not all(read(xp.all(xp.isfinite(values)), xp.all(xp.isfinite(vectors)))):
        raise NotConverged("not finite")
    if is_numpy(vectors):  # where units have no inputs LAPACK leaves denormal entries, which make products 15 times slower
        vectors[np.abs(vectors) < float(np.finfo(vectors.dtype).eps) ** 2] = 0
    return values, vectors


def _eigh_in_float32(a):
    """NumPy computes in float64 whatever the dtype, which takes twice as long."""
    return scipy.linalg.eigh(a, driver="evd", check_finite=False)


def flushed(x):
    """``x`` without entries so near to underflow that products with rounding errors are denormal: NumPy alone is slow there."""
    if not is_numpy(x):
        return x
    kind = np.finfo(x.dtype)
    return np.where(np.abs(x) < float(kind.smallest_normal) / float(kind.eps) ** 2, x.dtype.type(0), x)


def svd(a):
    """P (m, r), s (r,) descending, Qᵀ (r, n) with ``a`` = P diag(s) Qᵀ, r = min(m, n); `NotConverged` on every backend alike."""
    return _decomposed(a, lambda xp: tuple(xp.linalg.svd(a, full_matrices=False)))


def singular_values(a):
    """Singular values (r,) of ``a`` (m, n), descending; `NotConverged` on every backend alike."""
    return _decomposed(a, lambda xp: (xp.linalg.svdvals(a),))[0]


def _decomposed(a, decompose):
    xp = namespace(a)
    with _failing_as(NotConverged, a):
        parts = decompose(xp)
    if not all(read(*(xp.all(xp.isfinite(part)) for part in parts))):
        raise NotConverged("not finite")
    return parts


@contextlib.contextmanager
def _failing_as(kind, a):
    """A context in which a factorisation of ``a`` that fails raises ``kind``; a device that fails raises its own error.

    CuPy returns garbage from an indefinite matrix unless told to raise. What CUDA says, memory that is spent and torch's error of
    linear algebra are all RuntimeErrors.
    """
    failure = importlib.import_module("torch").linalg.LinAlgError if compat.is_torch_array(a) else np.linalg.LinAlgError
    told = importlib.import_module("cupyx").errstate(linalg="raise") if compat.is_cupy_array(a) else contextlib.nullcontext()
    try:
        with told:
            yield
    except failure as error:
        raise kind(str(error).splitlines()[0]) from error


def solve_triangular(r, b, *, trans=False):
    """Solve R x = b, or Rᵀ x = b with ``trans``, for upper triangular ``r`` (n, n) and ``b`` (n,) or (n, k). Cost n² k flops."""
    xp = namespace(r, b)
    if hasattr(xp, "solve_triangular"):  # a namespace that has it as a primitive (operation counting)
        return xp.solve_triangular(r, b, trans=trans)
    if is_numpy(r):
        with scipy_on_one_thread(b.ndim == 2 and b.shape[1] <= FEW):
            return scipy.linalg.solve_triangular(r, b, trans=int(trans), check_finite=False)
    if compat.is_cupy_array(r):
        return importlib.import_module("cupyx.scipy.linalg").solve_triangular(r, b, trans=int(trans))
    if compat.is_torch_array(r):
        columns = b[:, None] if b.ndim == 1 else b
        x = xp.linalg.solve_triangular(r.mT if trans else r, columns, upper=not trans)
        return x[:, 0] if b.ndim == 1 else x
    return xp.linalg.solve(xp.matrix_transpose(r) if trans else r, b)  # array-api-strict: correct, O(n³)


def tridiagonal_extremes(diagonal, off_diagonal):
    """Smallest and largest eigenvalue of a symmetric tridiagonal matrix given as two lists of floats."""
    values = scipy.linalg.eigvalsh_tridiagonal(np.asarray(diagonal), np.asarray(off_diagonal)) if off_diagonal else diagonal
    return float(min(values)), float(max(values))
