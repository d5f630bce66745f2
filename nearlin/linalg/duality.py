r"""Matrix norms induced by the vector norms 1, 2, ∞, their dual norms and duality maps, and orthogonalisation without an SVD.

Formula     ||U||_q = max ||U x||_q / ||x||_q,   ||G||_* = max <G, U> over ||U||_q <= 1,   <G, U> = sum_ij G_ij U_ij
            ρ(G): any matrix with <G, ρ> = ||G||_*² and ||ρ||_q = ||G||_*
            q   ||U||_q                    ||G||_*                          ρ(G) / ||G||_*
            2   largest singular value     sum of singular values           P Qᵀ for G = P diag(s) Qᵀ, over s > 0
            ∞   max_i sum_j |U_ij|         sum_i max_j |G_ij|               sign(G_ij) at the first largest entry of every row
            1   max_j sum_i |U_ij|         sum_j max_i |G_ij|               sign(G_ij) at the first largest entry of every column
            Newton-Schulz, X ← G / ||G||_F with rows <= columns, A = X Xᵀ:
            quintic X ← a X + (b A + c A²) X, (a, b, c) = (3.4445, -4.7750, 2.0315);   cubic X ← (3 X - A X) / 2
Reference   Flynn, arXiv:1708.00523 (duality maps); Bernstein, Newhouse, arXiv:2410.21265 (duality and Newton-Schulz);
            KellerJordan/Muon (the coefficients of the quintic step)
Cost        m x n, r = min(m, n), k = max(m, n).  q = 1, ∞: 2 m n norm, 2 m n dual norm, 7 m n map
            q = 2 (nominal): 4 k r² - 4 r³/3 norm, dual norm, 14 k r² + 8 r³ + 2 k r² map
            4 k r² + 2 r³ a quintic step, 4 k r² a cubic one
Deviations  1. Singular values of at most s₁ k ε, rounding, count as zero in the duality map and in the dual norm that it returns.
            2. A matrix of one row or column is orthogonalised exactly: G / ||G||_F, whatever the steps, where other codes run the
               quintic steps on it too.
"""

import math
from typing import NamedTuple

from nearlin._array import (
    NotConverged,
    check,
    check_finite,
    describe,
    device,
    integer,
    namespace,
    one_of,
    singular_values,
    svd,
    unguarded,
)
from nearlin.linalg.cholesky import FactorizationError
from nearlin.linalg.operators import inner, norm

QUINTIC = (3.4445, -4.7750, 2.0315)
QUINTIC_BOUND = 1.21  # the quintic step maps [0, 1.21] into [0, 1.2024], the cubic one into [0, 1]


class Orthogonalized(NamedTuple):
    """A matrix near P Qᵀ, and what is certain of it.

    Attributes
    ----------
    matrix : array, shape (m, n)
        O.
    alignment : float
        <G, O>.
    bound : float
        At least ||O||₂; hence ``alignment / bound`` is at most the sum of the singular values of G.
    """

    matrix: object
    alignment: float
    bound: float


def operator_norm(W, q=2):
    """||W||_q, the norm induced by the vector q-norm on both sides.

    Parameters
    ----------
    W : array, shape (m, n)
    q : 1, 2 or inf

    Returns
    -------
    float

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, or another q.
    FactorizationError
        The singular values do not converge.

    Notes
    -----
    q = 1 and ∞: 2 m n flops; q = 2: the singular values. `spectral_bound` is certain not to be below ||W||₂.
    """
    xp, q = _checked(W, q, "W")
    if q == 2:
        return float(_decomposed(singular_values, W, "W")[0])
    with unguarded():
        size = float(xp.max(xp.sum(xp.abs(W), axis=0 if q == 1 else 1)))
    return _finite(size, W, "W")


def dual_norm(G, q=2):
    """||G||_*, the largest <G, U> over ||U||_q <= 1, a float; it takes, raises and costs what `operator_norm` does."""
    xp, q = _checked(G, q, "G")
    if q == 2:
        with unguarded():
            return _finite(float(xp.sum(_decomposed(singular_values, G, "G"))), G, "G")
    return _sum_of_largest(xp.abs(G), 0 if q == 1 else 1, G)


def duality_map(G, q=2):
    """ρ(G), with <G, ρ> = ||G||_*² and ||ρ||_q = ||G||_*, and ||G||_* itself; takes and raises what `operator_norm` does.

    Returns
    -------
    rho : array, shape (m, n)
        q = ∞: one entry per row, q = 1: one per column, the first of equal ones; 0 for G = 0.
    dual : float
        ||G||_* of the matrix that ρ is that of: without singular values that count as zero.

    Notes
    -----
    q = 1 and ∞: 7 m n flops; q = 2: a singular value decomposition and a product.
    """
    xp, q = _checked(G, q, "G")
    if q == 2:
        P, s, Q = _decomposed(svd, G, "G")
        kept = xp.astype(s > s[0] * (max(G.shape) * float(xp.finfo(G.dtype).eps)), G.dtype)
        with unguarded():
            dual = _finite(float(xp.sum(kept * s)), G, "G")
        return (P * (dual * kept)) @ Q, dual
    axis, sizes = (0 if q == 1 else 1), xp.abs(G)
    dual = _sum_of_largest(sizes, axis, G)
    where = xp.expand_dims(xp.argmax(sizes, axis=axis), axis=axis)
    places = xp.arange(G.shape[axis], dtype=where.dtype, device=device(G))
    chosen = (places[:, None] if q == 1 else places[None, :]) == where
    return xp.where(chosen, dual * xp.sign(G), xp.zeros_like(G)), dual


def _checked(x, q, name):
    if q not in (1, 2, math.inf):
        raise ValueError(f"q is {q!r}; expected 1, 2 or inf")
    return check(ndim={name: 2}, finite=False, **{name: x}), q


def _sum_of_largest(sizes, axis, G):
    xp = namespace(G)
    with unguarded():
        dual = float(xp.sum(xp.max(sizes, axis=axis)))
    return _finite(dual, G, "G")


def _finite(value, x, name):
    """``value``, or a `ValueError` that says why it is not finite: one pass less than to look at all entries beforehand."""
    if not math.isfinite(value):
        check_finite(name, x)
        raise ValueError(f"the norm of {name}, a {describe(x)}, overflows; expected smaller numbers")
    return value


def _decomposed(decompose, x, name):
    try:
        return decompose(x)
    except NotConverged as error:
        check_finite(name, x)
        raise FactorizationError(f"the singular values of {name} ({x.shape[0]} x {x.shape[1]}) do not converge") from error


# -------------------------------------------------------------------------------------------------------- without an SVD


def spectral_bound(W, method="gram", squarings=4):
    """A number that is certain to be at least ||W||₂, rounding included, and not much more.

    Parameters
    ----------
    W : array, shape (m, n)
    method : str
        ``"svd"``; or ``"gram"``, the smaller of √(||W||₁ ||W||∞) and (tr Aᵗ)^(1/2t), A the smaller of W Wᵀ and Wᵀ W and
        t = 2^(squarings + 1), which is at most r^(1/2t) ||W||₂: 1.075 times for r = 100 and 4 squarings.
    squarings : int
        At least 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, another method, or a negative number of squarings.

    Notes
    -----
    gram: 2 k r² + 2 r³ squarings flops and no singular value decomposition.
    """
    method, squarings = one_of("svd", "gram")("method", method), integer(0)("squarings", squarings)
    xp, _ = _checked(W, 2, "W")
    rounding = 1 + 10 * max(W.shape) * float(xp.finfo(W.dtype).eps)
    if method == "svd":
        return rounding * operator_norm(W, 2)
    product = math.sqrt(operator_norm(W, 1)) * math.sqrt(operator_norm(W, math.inf))  # the roots do not underflow
    return rounding * min(product, _trace_bound(W, squarings)) if product else 0.0


def _trace_bound(W, squarings):
    """(tr Aᵗ)^(1/2t), where every power is divided by its trace and the logarithms are added up."""
    X, size = _normalized(W)
    X = X if W.shape[0] <= W.shape[1] else namespace(W).matrix_transpose(X)
    A, log = X @ namespace(W).matrix_transpose(X), 0.0
    for _ in range(squarings):
        A = A @ A
        trace = float(namespace(W).linalg.trace(A))
        A, log = A / trace, 2 * log + math.log(trace)
    log = 2 * log + math.log(inner(A, A))
    return size * math.exp(log / 2 ** (squarings + 2))


def _normalized(G):
    """G / ||G||_F, and ||G||_F without overflow or underflow; G itself where it is 0."""
    largest = _finite(float(namespace(G).max(namespace(G).abs(G))), G, "G")
    if largest == 0:
        return G, 0.0
    scaled = G / largest
    size = norm(scaled)
    return scaled / size, largest * size


def orthogonalize(G, steps=5, polish=2):
    """P Qᵀ of G = P diag(s) Qᵀ approximately, by Newton-Schulz steps: matrix products alone.

    Parameters
    ----------
    G : array, shape (m, n)
    steps : int
        Quintic steps: five bring singular values of at least 0.0015 ||G||_F into [0.68, 1.21]; smaller ones grow at most
        485 times.
    polish : int
        Cubic steps after them, which converge to P Qᵀ itself.

    Returns
    -------
    Orthogonalized
        With ``bound`` 1.21 after quintic steps and 1 after a cubic one, times 1 + 10 max(m, n) ε for rounding.

    Raises
    ------
    ValueError
        NaN or Inf in the matrix, or a negative number of steps.

    Notes
    -----
    4 k r² + 2 r³ flops a quintic step, 4 k r² a cubic one.
    """
    steps, polish = integer(0)("steps", steps), integer(0)("polish", polish)
    xp, _ = _checked(G, 2, "G")
    X, size = _normalized(G)
    bound = 1 + 10 * max(G.shape) * float(xp.finfo(G.dtype).eps)
    if size > 0 and min(G.shape) > 1:
        X = X if G.shape[0] <= G.shape[1] else xp.matrix_transpose(X)
        for step in (_quintic,) * steps + (_cubic,) * polish:
            X = step(X)
        X = X if G.shape[0] <= G.shape[1] else xp.matrix_transpose(X)
        bound *= QUINTIC_BOUND if steps and not polish else 1.0
    return Orthogonalized(X, inner(G, X), bound)


def _quintic(X):
    a, b, c = QUINTIC
    A = X @ namespace(X).matrix_transpose(X)
    return a * X + (b * A + c * (A @ A)) @ X


def _cubic(X):
    return 1.5 * X - 0.5 * ((X @ namespace(X).matrix_transpose(X)) @ X)
