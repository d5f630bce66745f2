"""Inverse p-th roots of damped symmetric matrices: by eigendecomposition, or by the coupled Newton iteration.

Formula     X = (H + λ I)^(-1/p) for symmetric positive semidefinite H (n, n)
            eigh:    H = U diag(s) Uᵀ, X = U diag((max(s, 0) + λ)^(-1/p)) Uᵀ
            newton:  Z = H + λ I, z = (1 + p) / (2 ||Z||_F), M = z Z, Y = z^(1/p) I;
                     E = (1 + 1/p) I - M/p, M ← Eᵖ M, Y ← Y E, until ||M - I||_F <= 1e-6
            error:   ||Xᵃ (H + λ I) Xᵇ - X||_F / ||X||_F, a = ⌊(p + 1)/2⌋, a + b = p + 1; where X is off by F in the eigenvectors
                     of H, the norm is that of c_ij F_ij, with c_ij >= 1 from the ratio of the eigenvalues i and j, 1 for p = 1
Reference   Guo, Higham, A Schur-Newton method for the matrix pth root and its inverse, SIAM J. Matrix Anal. Appl. 28 (2006);
            stopping rules as in renyiryry/tnt_neurips_2021
Cost        eigh: 11 n³ flops.  newton: 2n³ (b + 2) an iteration, b the products that Eᵖ takes (p = 2: 1, p = 4: 2, p = 6: 3)
            n³/3 to see that H is semidefinite; error: (8 p + 21) n² + 24 n
Deviations  1. Newton takes a 1 x 1 matrix (its power), and ends on NaN with the last finite root.
            2. It stops and stalls by the Frobenius norm, which never grows in exact arithmetic; the largest entry may.
            3. It runs in float64 where the device has it: M is a recursion, which loses touch with Yᵖ Z by eps cond(Z).
"""

import math
from typing import NamedTuple

from nearlin import _array
from nearlin.linalg.cholesky import FactorizationError
from nearlin.linalg.operators import norm, safe_norm
from nearlin.linalg.precision import wide_enough

GROWTH = 1.2  # Newton ends where the error grows by more than this factor: rounding has taken over
TRUST = 10  # times the tolerance that the measured error of a converged root may be
PROBES = (2, 3, 5, 7)  # the i-th entries are √2 cos(√q i²): as good as random, and no stream of draws


class RootInfo(NamedTuple):
    """How an inverse root was found.

    Attributes
    ----------
    error : float
        Measured by four probe vectors: ||Xᵃ (H + λ I) Xᵇ - X||_F / ||X||_F, to first order at least the relative error of X and
        equal to it for p = 1; for a stack the largest; with the rounding of a result that is cast back from float64. Eigenvalues
        that were taken for 0 are part of it. NaN where p is no integer, and where it overflows.
    iterations : int
        Newton steps; 0 for the eigendecomposition.
    reason : str
        ``"eigh"``, ``"converged"``, ``"maxiter"``, ``"stalled"`` (||M - I||_F grew, and the root before that is returned; or it
        met the tolerance and ``error`` is above ten times that), or ``"indefinite"`` (it converged, but H has an eigenvalue below
        -1e-5 p λ, or ten times another tolerance, which the eigendecomposition would take for 0).
    """

    error: float
    iterations: int
    reason: str


def symmetric_eigh(matrix, name="matrix"):
    """Eigenvalues, those below 0 set to 0, and eigenvectors of symmetric positive semidefinite matrices.

    Parameters
    ----------
    matrix : array, shape (..., n, n)
        Symmetric; not changed.
    name : str
        What the matrix is, for messages.

    Returns
    -------
    values : array, shape (..., n)
        Ascending.
    vectors : array, shape (..., n, n)
        In columns.

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, or a matrix that is not square.
    FactorizationError
        The decomposition does not converge, in float64 neither where the device has it.

    Notes
    -----
    9 n³ flops (nominal); float32 stays float32 unless it does not converge.
    """
    xp = _array.check_square(name, matrix, finite=True)
    for dtype in (matrix.dtype, _array.widest(matrix)):
        try:
            values, vectors = _array.eigh(xp.astype(matrix, dtype, copy=False))
        except _array.NotConverged as error:
            failure = error
            continue
        values = xp.maximum(values, xp.zeros_like(values))
        return xp.astype(values, matrix.dtype, copy=False), xp.astype(vectors, matrix.dtype, copy=False)
    shape = f"{matrix.shape[-1]} x {matrix.shape[-1]}"
    raise FactorizationError(f"the eigenvalues of {name} ({shape}) do not converge ({failure}); raise the damping") from failure


def inverse_root(matrix, p, damping, method="eigh", *, tol=1e-6, maxiter=100, name="matrix"):
    """(``matrix`` + ``damping`` I)^(-1/p) of a symmetric positive semidefinite matrix.

    Parameters
    ----------
    matrix : array, shape (n, n); with ``"eigh"`` also (..., n, n)
        Symmetric; not changed. Eigenvalues that rounding made negative count as 0 (``"eigh"``).
    p : int
        Order of the root; 1 is the inverse. ``"eigh"`` also takes a positive float.
    damping : float
        Added to the eigenvalues; at least 0.
    method : str
        ``"eigh"`` or ``"newton"``.
    tol, maxiter : float, int
        Newton: largest ||M - I||_F at the end, at least 4 n eps, and most iterations.
    name : str
        What the matrix is, for messages.

    Returns
    -------
    root : array, like ``matrix``
    info : RootInfo
        The measured error, and how Newton's iteration ended.

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, a matrix that is not square (Newton: a stack), a root, damping or method out of range.
    FactorizationError
        ``matrix`` + ``damping`` I is singular, or the eigenvalues do not converge.

    Notes
    -----
    eigh: 9 n³ + 2 n³ flops. newton: 2n³ (b + 2) an iteration, b = ⌊log₂ p⌋ + (ones in the binary digits of p) - 1. The error:
    (8 p + 21) n² + 24 n. float32 is rooted in float64, and cast back, by Newton always and by ``"eigh"`` where the
    damping is below 1e-5 of a trace (`nearlin.linalg.precision`), if the device has float64.
    """
    _array.one_of("eigh", "newton")("method", method)
    p, damping = _array.positive("p", p), _array.not_negative("damping", damping)
    _array.require(method == "eigh" or p == int(p), f"p is {p!r}; expected a positive integer")
    xp = _array.check_square(name, matrix, finite=method == "newton", stack=method == "eigh")  # `symmetric_eigh` looks as well
    work = wide_enough(matrix, damping if method == "eigh" else 0.0)
    if method == "newton":
        root, iterations, reason = _newton(work, int(p), damping, tol, maxiter, name)
    else:
        root, iterations, reason = _by_eigenvalues(work, p, damping, name), 0, "eigh"
    error = _error(root, work, damping, int(p)) if p == int(p) else math.nan
    if reason == "converged" and not error <= TRUST * tol:
        reason = "stalled"
    if reason == "converged" and not _is_semidefinite(work, TRUST * tol * p * damping):
        reason = "indefinite"
    if work.dtype != matrix.dtype:
        error += float(xp.finfo(matrix.dtype).eps) / 2
        with _array.unguarded():
            root = xp.astype(root, matrix.dtype)
        if not _array.read_flag(xp.all(xp.isfinite(root))):
            raise _singular(matrix, damping, name)
    return root, RootInfo(error, iterations, reason)


def _by_eigenvalues(matrix, p, damping, name):
    values, vectors = symmetric_eigh(matrix, name)
    xp = _array.namespace(matrix)
    with _array.unguarded():
        powers = (values + damping) ** (-0.5 / p)
    if not _array.read_flag(xp.all(xp.isfinite(powers))):
        raise _singular(matrix, damping, name)
    half = vectors * powers[..., None, :]  # a product with its own transpose is symmetric, and half the work of a BLAS
    return half @ xp.matrix_transpose(half)


def _singular(matrix, damping, name):
    n = matrix.shape[-1]
    return FactorizationError(f"{name} ({n} x {n}) with damping {damping:.3g} is singular; raise the damping")


def _is_semidefinite(matrix, slack):
    """Whether no eigenvalue is below -``slack``; n³/3 flops."""
    try:
        _array.cholesky(matrix, slack)
    except _array.NotPositiveDefinite:
        return False
    return True


def _error(X, matrix, damping, p):
    """||Xᵃ (H + λ I) Xᵇ - X||_F / ||X||_F, estimated by products with the probes; in float64 where the device has it."""
    xp, n = _array.namespace(X), X.shape[-1]
    X, matrix = (xp.astype(a, _array.widest(a), copy=False) for a in (X, matrix))
    probes = [[2**0.5 * math.cos(q**0.5 * i * i) for q in PROBES] for i in range(1, n + 1)]
    left = (p + 1) // 2
    with _array.unguarded():
        size = xp.max(xp.abs(X), axis=(-2, -1), keepdims=True)  # powers of X / size do not overflow
        X = X / size
        once = image = X @ _array.asarray(probes, like=X)
        for _ in range(p - left):
            image = X @ image
        image = size**p * (matrix @ image + damping * image)
        for _ in range(left):
            image = X @ image
        square = xp.sum((image - once) ** 2, axis=(-2, -1)) / len(PROBES)
        return _array.read_number(xp.max(xp.sqrt(square / xp.sum(X * X, axis=(-2, -1)))))


# ---------------------------------------------------------------------------------------------------------- coupled Newton


def _newton(matrix, p, damping, tol, maxiter, name):
    """Y ≈ Z^(-1/p), the iterations, and how they ended."""
    xp, n = _array.namespace(matrix), matrix.shape[0]
    eye = xp.eye(n, dtype=matrix.dtype, device=_array.device(matrix))
    Z = matrix + damping * eye
    size = safe_norm(Z)
    if not size > 0 or (n == 1 and not float(Z[0, 0]) > 0):
        raise _singular(matrix, damping, name)
    if n == 1:
        return Z ** (-1.0 / p), 0, "converged"
    z = (1 + p) / (2 * size)
    M, Y = z * Z, z ** (1 / p) * eye
    error, iterations, tol = norm(M - eye), 0, max(tol, 4 * n * float(xp.finfo(Z.dtype).eps))
    while error > tol and iterations < maxiter:
        E = (1 + 1 / p) * eye - M / p
        with _array.unguarded():
            M = _power(E, p) @ M
            found = norm(M - eye)
        if not found <= GROWTH * error:
            return Y, iterations, "stalled"
        Y, error, iterations = Y @ E, found, iterations + 1
    return Y, iterations, "converged" if error <= tol else "maxiter"


def _power(E, p):
    """Eᵖ by squaring."""
    if p == 1:
        return E
    half = _power(E, p // 2)
    return half @ half @ E if p % 2 else half @ half
