r"""Fixed-parameter iterations for A x = b with a preconditioner M⁻¹: the inner iterations of arXiv:2006.11648 and two kin.

With M = RᵀR from a sketch of distortion γ = √(n/s), the eigenvalues of M⁻¹A lie in [(1+γ)⁻², (1-γ)⁻²].

Formula     double product   x ← x + M⁻¹ A M⁻¹ (b - A x)               factor max|1 - μ²|; unit step needs s > 39.5 n
            Richardson       x ← x + ω M⁻¹ (b - A x)                   factor max|1 - ω μ|; ω = 1 needs s > 11.66 n
            Chebyshev        the three-term recurrence on [lo, hi]     factor (√κ - 1)/(√κ + 1), no inner product but ||r||
Reference   arXiv:2006.11648 (double product, as gradient descent on ½||RᵀAᵀARz - Rᵀr||² in the paper's letters);
            Saad, Iterative Methods for Sparse Linear Systems, Alg. 12.1 (Chebyshev)
Cost        one product with A per iteration (double product: two) and one (two) with M⁻¹
Deviations  1. Written in x = R z instead of the paper's z, so that only M⁻¹ = R Rᵀ is needed.
            2. Stops on the residual of the current x, which each iteration computes anyway; growth by 1e4 ends as "stalled".
"""

import math

from nearlin._array import check_system, namespace
from nearlin.linalg.cg import identity
from nearlin.linalg.operators import norm, normalized
from nearlin.linalg.solve_info import Exit, SolveInfo


def sketch_spectrum(gamma):
    """The interval ((1+γ)⁻², (1-γ)⁻²) that holds the eigenvalues of the preconditioned operator, for 0 <= γ = √(n/s) < 1."""
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma is {gamma!r}; expected a number in [0, 1), the square root of n/s with s > n")
    return (1 + gamma) ** -2, (1 - gamma) ** -2


def best_step(gamma):
    """The Richardson step ω* = 2 / (lo + hi) = (1 - γ²)² / (1 + γ²) for `sketch_spectrum`."""
    lo, hi = sketch_spectrum(gamma)
    return 2 / (lo + hi)


def double_product(matvec, b, *, preconditioner=identity, rtol=1e-8, maxiter=1000):
    """Solve A x = b by the paper's double-product iteration with unit step; see `cg` for the arguments."""

    def advance(x, r, k, memory):
        return x + preconditioner(matvec(preconditioner(r))), None

    return _iterate(matvec, b, advance, rtol, maxiter, products_each=2)


def richardson(matvec, b, *, preconditioner=identity, rtol=1e-8, maxiter=1000, step=1.0):
    """Solve A x = b by Richardson's iteration with step ω; see `cg` for the other arguments."""

    def advance(x, r, k, memory):
        return x + step * preconditioner(r), None

    return _iterate(matvec, b, advance, rtol, maxiter)


def chebyshev(matvec, b, *, bounds, preconditioner=identity, rtol=1e-8, maxiter=1000):
    """Solve A x = b by Chebyshev's iteration for eigenvalues of M⁻¹A in ``bounds`` = (lo, hi), 0 < lo < hi."""
    lo, hi = bounds
    if not 0 < lo < hi:
        raise ValueError(f"bounds are {bounds!r}; expected 0 < lo < hi")
    theta, delta = (hi + lo) / 2, (hi - lo) / 2

    def advance(x, r, k, memory):
        if k == 0:
            rho, d = delta / theta, preconditioner(r) / theta
        else:
            previous, d = memory
            rho = 1 / (2 * theta / delta - previous)
            d = rho * previous * d + (2 * rho / delta) * preconditioner(r)
        return x + d, (rho, d)

    return _iterate(matvec, b, advance, rtol, maxiter)


def _iterate(matvec, b, advance, rtol, maxiter, products_each=1):
    """Repeat x ← advance(x, b - A x) until the true residual meets the tolerance."""
    check_system(b, rtol)
    b, unit, target = normalized(b)
    x, r, size = namespace(b).zeros_like(b), b, target
    k, memory = 0, None
    while rtol * target < size < 1e4 * target and k < maxiter:
        x, memory = advance(x, r, k, memory)
        k += 1
        r = b - matvec(x)
        size = norm(r)
    if not math.isfinite(size):
        reason = Exit.NON_FINITE
    elif size <= rtol * target:
        reason = Exit.CONVERGED
    else:
        reason = Exit.MAXITER if k == maxiter else Exit.STALLED
    return x if unit == 1 else unit * x, SolveInfo(size / target if target else 0.0, k, products_each * k, reason)
