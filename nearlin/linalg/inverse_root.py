"""Inverse p-th roots of damped symmetric matrices: by eigendecomposition, or by the coupled Newton iteration.

Formula     X = (H + λ I)^(-1/p) for symmetric positive semidefinite H (n, n)
            eigh:    H = U diag(s) Uᵀ, X = U diag((max(s, 0) + λ)^(-1/p)) Uᵀ
            newton:  Z = H + λ I, z = (1 + p) / (2 ||Z||_F), M = z Z, Y = z^(1/p) I;
                     E = (1 + 1/p) I - M/p, M ← Eᵖ M, Y ← Y E, until max |M - I| <= 1e-6
Reference   Guo, Higham, A Schur-Newton method for the matrix pth root and its inverse, SIAM J. Matrix Anal. Appl. 28 (2006);
            stopping rules as in renyiryry/tnt_neurips_2021
Cost        eigh: 11 n³ flops.  newton: 2n³ (b + 2) an iteration, b the products that Eᵖ takes (p = 2: 1, p = 4: 2, p = 6: 3)
Deviations  1. Newton takes a 1 x 1 matrix (its power), and ends on NaN with the last finite root.
"""

import math
from typing import NamedTuple

from nearlin._array import NotConverged, check, device, eigh, namespace, unguarded, widest
from nearlin.linalg.cholesky import FactorizationError

GROWTH = 1.2  # Newton ends where the error grows by more than this factor: rounding has taken over


class RootInfo(NamedTuple):
    """How an inverse root was found.

    Attributes
    ----------
    error : float
        Newton: max |Yᵖ Z - I| as the iteration carries it. Eigendecomposition: NaN, not measured.
    iterations : int
        Newton steps; 0 for the eigendecomposition.
    reason : str
        ``"eigh"``, ``"converged"``, ``"maxiter"`` or ``"stalled"`` (the error grew; the root before that is returned).
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
    xp = check(**{name: matrix})
    _check_square(matrix, name)
    for dtype in (matrix.dtype, widest(matrix)):
        try:
            values, vectors = eigh(xp.astype(matrix, dtype, copy=False))
        except NotConverged as error:
            failure = error
            continue
        values = xp.maximum(values, xp.zeros_like(values))
        return xp.astype(values, matrix.dtype, copy=False), xp.astype(vectors, matrix.dtype, copy=False)
    shape = f"{matrix.shape[-1]} x {matrix.shape[-1]}"
    raise FactorizationError(f"the eigenvalues of {name} ({shape}) do not converge ({failure}); raise the damping") from failure


def _check_square(matrix, name):
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; expected a square matrix")


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
        Newton: largest max |M - I| at the end, and most iterations.
    name : str
        What the matrix is, for messages.

    Returns
    -------
    root : array, like ``matrix``
    info : RootInfo
        Newton's certificate.

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, a matrix that is not square (Newton: a stack), a root, damping or method out of range.
    FactorizationError
        ``matrix`` + ``damping`` I is singular, or the eigenvalues do not converge.

    Notes
    -----
    eigh: 9 n³ + 2 n³ flops. newton: 2n³ (b + 2) an iteration, b = ⌊log₂ p⌋ + (ones in the binary digits of p) - 1.
    """
    _check_root(p, damping, method)
    if method == "newton":
        return _newton(matrix, p, damping, tol, maxiter, name)
    values, vectors = symmetric_eigh(matrix, name)
    xp = namespace(matrix)
    with unguarded():
        powers = (values + damping) ** (-0.5 / p)
    if not bool(xp.all(xp.isfinite(powers))):
        raise _singular(matrix, damping, name)
    half = vectors * powers[..., None, :]  # a product with its own transpose is symmetric, and half the work of a BLAS
    return half @ xp.matrix_transpose(half), RootInfo(float("nan"), 0, "eigh")


def _check_root(p, damping, method):
    if method not in ("eigh", "newton"):
        raise ValueError(f"method is {method!r}; expected 'eigh' or 'newton'")
    if not 0 < p < math.inf or (method == "newton" and p != int(p)):
        raise ValueError(f"p is {p!r}; expected a positive {'integer' if method == 'newton' else 'number'}")
    if not 0 <= damping < math.inf:
        raise ValueError(f"damping is {damping!r}; expected a finite number, at least 0")


def _singular(matrix, damping, name):
    n = matrix.shape[-1]
    return FactorizationError(f"{name} ({n} x {n}) with damping {damping:.3g} is singular; raise the damping")


# ---------------------------------------------------------------------------------------------------------- coupled Newton


def _newton(matrix, p, damping, tol, maxiter, name):
    """Y ≈ Z^(-1/p) and its certificate."""
    xp = check(ndim={name: 2}, **{name: matrix})
    _check_square(matrix, name)
    n, p = matrix.shape[0], int(p)
    eye = xp.eye(n, dtype=matrix.dtype, device=device(matrix))
    Z = matrix + damping * eye
    with unguarded():
        size = float(xp.linalg.matrix_norm(Z))
    if size == math.inf:
        raise FactorizationError(f"the norm of {name} ({n} x {n}) overflows; scale it down, or take the method 'eigh'")
    if not size > 0 or (n == 1 and not float(Z[0, 0]) > 0):
        raise _singular(matrix, damping, name)
    if n == 1:
        return Z ** (-1.0 / p), RootInfo(0.0, 0, "converged")
    z = (1 + p) / (2 * size)
    M, Y = z * Z, z ** (1 / p) * eye
    error, iterations = float(xp.max(xp.abs(M - eye))), 0
    while error > tol and iterations < maxiter:
        E = (1 + 1 / p) * eye - M / p
        with unguarded():
            M = _power(E, p) @ M
            found = float(xp.max(xp.abs(M - eye)))
        if not found <= GROWTH * error:
            return Y, RootInfo(error, iterations, "stalled")
        Y, error, iterations = Y @ E, found, iterations + 1
    return Y, RootInfo(error, iterations, "converged" if error <= tol else "maxiter")


def _power(E, p):
    """Eᵖ by squaring."""
    if p == 1:
        return E
    half = _power(E, p // 2)
    return half @ half @ E if p % 2 else half @ half
