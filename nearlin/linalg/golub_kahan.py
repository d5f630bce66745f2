r"""The damped Gauss-Newton step from the side of the samples, by Golub-Kahan bidiagonalisation: LSQR and CRAIG.

Formula     δ = Jᵀ g,  (J Jᵀ + λ I) g = b:  of all δ, g with J δ + λ g = b those with the least ||δ||² + λ ||g||²
            y = (δ, √λ g) is the minimum-norm solution of B y = R⁻ᵀ b,  B = R⁻ᵀ [J  √λ I]  (LSRN);  R = I where none is given
            both   β₁ u₁ = R⁻ᵀ b;  α_k v_k = Bᵀ u_k - β_k v_{k-1},  β_{k+1} u_{k+1} = B v_k - α_k u_k
            CRAIG  τ_k = -β_k τ_{k-1} / α_k, τ₀ = -1;  y ← y + τ_k v_k;  r = -τ_k β_{k+1} Rᵀ u_{k+1}
            LSQR   w ← v_k - (s α_k / ρ) w;  ρ ← √(c² α_k² + β_{k+1}²);  c ← -c α_k / ρ,  s ← β_{k+1} / ρ;
                   y ← y + (c φ / ρ) w;  r ← s² r - (c φ / ρ) β_{k+1} Rᵀ u_{k+1};  φ ← s φ
                   with c = -1, s = 0, φ = β₁, r = b at first
Reference   Golub, Kahan, SIAM J. Numer. Anal. B 2 (1965); Paige, Saunders, ACM TOMS 8 (1982), both methods; Craig (1955);
            Meng, Saunders, Mahoney, LSRN, SIAM J. Sci. Comput. 36 (2014), arXiv:1109.5981
Cost        an iteration: one product with J, one with Jᵀ, one triangular solve with R and one with Rᵀ; for p parameters and
            n samples 7 p + 18 n - 4 flops (CRAIG), 9 p + 22 n - 4 (LSQR); kept are 2 p + 5 n numbers (CRAIG), 3 p + 6 n (LSQR)
Deviations  1. The second part of v_k is kept as √λ d_k: g is a sum of the d_k, and λ = 0 is no special case. Where g overflows,
               as it may with ||J||² below the smallest normal number, δ does not; b is scaled as in `cg`.
            2. Rᵀ u_k is kept beside u_k: the tolerance is one for ||b - J δ - λ g||, whatever R is.
            3. The residual is recomputed at the end (one more product), as in `cg`.
            4. Ends as "stalled" where b is out of the range of B up to rounding: CRAIG where the next |τ_k| exceeds
               β₁ / (10 eps ||B||), LSQR where ||Bᵀ R⁻ᵀ r|| is 10 eps ||B|| φ; ||B|| by the largest α or β.
"""

import math
from itertools import islice
from typing import NamedTuple

from nearlin._array import check, check_system, namespace, solve_triangular, tridiagonal_extremes, unguarded
from nearlin.linalg.operators import axpy, normalized, safe_norm
from nearlin.linalg.solve_info import Exit, SolveInfo

NEGLIGIBLE = 10  # a singular value of B below this many eps ||B|| is rounding


class LeastNorm(NamedTuple):
    """What `craig` finds.

    Attributes
    ----------
    step : array or tuple of arrays
        δ.
    multiplier : array, shape (n,)
        g, with Jᵀ g = δ up to rounding, and (J Jᵀ + λ I) g = b to the accuracy of the solve.
    """

    step: object
    multiplier: object


def lsqr(J, b, damping=0.0, R=None, *, rtol=1e-8, maxiter=None):
    """δ = Jᵀ (J Jᵀ + λ I)⁻¹ b by LSQR, from δ = 0: ||R⁻ᵀ r|| never grows.

    Parameters
    ----------
    J : object
        With ``matvec`` (domain -> (n,)) and ``rmatvec`` ((n,) -> domain), adjoint; the domain is an array or a tuple of arrays.
    b : array, shape (n,)
        Right-hand side; not changed.
    damping : float
        λ >= 0. With 0, δ is the solution of J δ = b of least norm; where there is none, that of least ||R⁻ᵀ (b - J δ)||.
    R : array, shape (n, n), optional
        Upper triangular with RᵀR ≈ J Jᵀ + λ I. It changes the number of iterations, not the solution.
    rtol : float
        Stop at ||b - J δ - λ g|| <= rtol ||b||.
    maxiter : int, optional
        At most this many iterations; 10 n by default.

    Returns
    -------
    solution : LeastNorm
        ``step``: δ, like ``J.rmatvec(b)``; ``multiplier``: g (n,).
    info : SolveInfo
        A product is one with J Jᵀ; the certificate, with J alone, counts as one. ``"stalled"`` also where J δ = b has no
        solution. ``condition`` is that of R⁻ᵀ (J Jᵀ + λ I) R⁻¹, a lower bound.

    Raises
    ------
    BackendError, TypeError
        b and R of two backends, devices or dtypes, or of a dtype that is neither float32 nor float64.
    ValueError
        A negative damping, a tolerance outside of [0, 1), or an R that does not fit b.

    Notes
    -----
    An iteration takes a product with J and one with Jᵀ, two triangular solves of n² flops, and 9 p + 22 n flops. δ is summed up
    beside the residual, not made of g at the end: ||b - J δ - λ g|| gets down to the order of eps ||J|| ||δ||. For Jᵀ x after
    `cg` with products J (Jᵀ v) that is eps ||J||² ||x||, though its error is as small; on a J Jᵀ formed beforehand the error
    is of the order of eps cond(J)², not eps cond(J).
    """
    return _solve(J, b, damping, R, rtol, maxiter, _LSQR)


def craig(J, b, damping=0.0, R=None, *, rtol=1e-8, maxiter=None):
    """δ = Jᵀ (J Jᵀ + λ I)⁻¹ b by CRAIG, and g with it, from δ = 0: the error in (δ, √λ g) never grows.

    Parameters
    ----------
    J, b, damping, R, rtol, maxiter
        As in `lsqr`; with damping 0, b has to be in the range of J.

    Returns
    -------
    solution : LeastNorm
    info : SolveInfo
        As in `lsqr`.

    Raises
    ------
    BackendError, TypeError, ValueError
        As in `lsqr`.

    Notes
    -----
    In exact arithmetic its iterates are those of `cg` on J Jᵀ + λ I with M = RᵀR; the residual may grow on the way. An iteration
    takes a product with J and one with Jᵀ, two triangular solves of n² flops, and 7 p + 18 n flops.
    """
    return _solve(J, b, damping, R, rtol, maxiter, _CRAIG)


def _solve(J, b, damping, R, rtol, maxiter, method):
    """`LeastNorm` and its certificate by ``method``, which follows the bidiagonalisation."""
    rtol, damping = _check(b, damping, R, rtol)
    with unguarded():  # g may overflow where ||J||² underflows, and δ be fine
        return _iterated(J, b, damping, R, rtol, 10 * b.shape[0] if maxiter is None else maxiter, method)


def _iterated(J, given, damping, R, rtol, maxiter, method):
    b, unit, target = normalized(given)
    u, rounding = _left(R, b), NEGLIGIBLE * float(namespace(b).finfo(b.dtype).eps)
    first = safe_norm(u)
    iterate, alphas, betas, products = method(None, b, first), [], [], 0
    reason = Exit.CONVERGED if target == 0 else Exit.MAXITER if math.isfinite(target + first) else Exit.NON_FINITE
    for alpha, v, beta, p in islice(_bidiagonalize(J, b, u, first, damping, R), maxiter if reason == Exit.MAXITER else 0):
        products += 1
        if not math.isfinite(alpha) or not math.isfinite(beta):
            reason = Exit.NON_FINITE
            break
        if iterate.stalls(alpha, rounding * max(alphas + betas, default=0.0)):
            reason = Exit.STALLED
            break
        iterate = iterate.advance(alpha, v, beta, p)
        alphas.append(alpha)
        betas.append(beta)
        size = safe_norm(iterate.r)
        if not size > rtol * target:
            reason = Exit.CONVERGED if math.isfinite(size) else Exit.NON_FINITE
            break
    y = iterate.y if iterate.y is None or unit == 1 else _scaled(unit, iterate.y)
    return _certified(J, given, damping, rtol, unit, target, y, products, reason, alphas, betas)


def _certified(J, b, damping, rtol, unit, target, y, products, reason, alphas, betas):
    if y is None:  # no iteration
        zero = namespace(b).zeros_like(b)
        return LeastNorm(J.rmatvec(zero), zero), SolveInfo(target / target if target else 0.0, 0, products + 1, reason)
    rest = b - J.matvec(y[0])
    rest = rest - damping * y[1] if damping else rest
    residual = safe_norm(rest if unit == 1 else rest / unit) / target
    if reason == Exit.CONVERGED and not residual <= 1.05 * rtol:
        reason = Exit.STALLED
    condition, largest = _ritz(alphas, betas)
    return LeastNorm(*y), SolveInfo(residual, len(alphas), products + 1, reason, condition, largest=largest)


def _bidiagonalize(J, p, u, beta, damping, R):
    """Yield α_k, v_k as (δ part, d_k), β_{k+1} and β_{k+1} Rᵀ u_{k+1}, until one of α and β is 0 or not finite."""
    v = None
    while beta > 0:
        p, u = p / beta, u / beta
        z = u if R is None else solve_triangular(R, u)
        v = _axpy(-beta, v, (J.rmatvec(z), z))  # α v = Bᵀ u - β v, √λ d its second part
        alpha = math.hypot(safe_norm(v[0]), math.sqrt(damping) * safe_norm(v[1]))
        if not 0 < alpha < math.inf:
            yield alpha, v, alpha, p
            return
        v = _scaled(1 / alpha, v)
        p = J.matvec(v[0]) + damping * v[1] - alpha * p  # β Rᵀ u = Rᵀ (B v - α u)
        u = _left(R, p)
        beta = safe_norm(u)
        yield alpha, v, beta, p


class _CRAIG(NamedTuple):
    """y = (δ, g), the residual r, β₁, τ_k / β₁, and β_{k+1}."""

    y: object
    r: object
    first: float
    tau: float = -1.0
    beta: float = 1.0

    def advance(self, alpha, v, beta, p):
        tau = -self.beta / alpha * self.tau
        return _CRAIG(_axpy(self.first * tau, v, self.y), (-self.first * tau) * p, self.first, tau, beta)

    def stalls(self, alpha, rounding):
        """Whether the next |τ| / β₁ is more than the inverse of any singular value of B that is not rounding."""
        return self.beta * abs(self.tau) * rounding >= alpha


class _LSQR(NamedTuple):
    """y = (δ, g), the residual r, φ = ||R⁻ᵀ r||, the last rotation, the last diagonal entry, and the direction w."""

    y: object
    r: object
    phi: float
    c: float = -1.0
    s: float = 0.0
    rho: float = 1.0
    w: object = None

    def advance(self, alpha, v, beta, p):
        w = _axpy(-self.s * alpha / self.rho, self.w, v)
        rho = math.hypot(self.c * alpha, beta)
        c, s = -self.c * alpha / rho, beta / rho
        length = c * self.phi / rho
        return _LSQR(_axpy(length, w, self.y), s * s * self.r - length * p, s * self.phi, c, s, rho, w)

    def stalls(self, alpha, rounding):
        """Whether Bᵀ R⁻ᵀ r, of norm φ |c| α, is rounding: then r is the least there is."""
        return alpha * abs(self.c) <= rounding


def _check(b, damping, R, rtol):
    system = check_system(b, rtol, damping)
    if R is None:
        return system
    check(ndim={"R": 2}, finite=False, beside=("b", b), R=R)
    if tuple(R.shape) != (b.shape[0], b.shape[0]):
        raise ValueError(f"R has shape {tuple(R.shape)}; expected {(b.shape[0], b.shape[0])}, as b has {b.shape[0]} entries")
    return system


def _left(R, p):
    """R⁻ᵀ p."""
    return p if R is None else solve_triangular(R, p, trans=True)


def _axpy(alpha, x, y):
    """alpha x + y for arrays and tuples of them; None is zero."""
    if x is None:
        return y
    return _scaled(alpha, x) if y is None else axpy(alpha, x, y)


def _scaled(alpha, x):
    return tuple(_scaled(alpha, part) for part in x) if isinstance(x, tuple) else alpha * x


def _ritz(alphas, betas):
    """Condition number and largest eigenvalue of L Lᵀ, L with α on its diagonal and β below: the Lanczos matrix of `cg`."""
    unit = max(alphas)  # squares may underflow
    alphas, betas = [alpha / unit for alpha in alphas], [beta / unit for beta in betas]
    diagonal = [alpha**2 + beta**2 for alpha, beta in zip(alphas, [0.0, *betas], strict=False)]
    off_diagonal = [alpha * beta for alpha, beta in zip(alphas, betas[:-1], strict=False)]
    smallest, largest = tridiagonal_extremes(diagonal, off_diagonal)
    return largest / smallest if smallest > 0 else math.inf, unit * unit * largest
