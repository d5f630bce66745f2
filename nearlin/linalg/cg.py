r"""Preconditioned conjugate gradients for symmetric positive definite systems A x = b.

Formula     α = <r, z>/<p, A p>;  x ← x + α p;  r ← r - α A p;  z = M⁻¹ r;  β = <r, z>₊/<r, z>;  p ← z + β p
Reference   Hestenes, Stiefel, J. Res. NBS 49 (1952); condition estimate: the Lanczos matrix of CG has diagonal
            1/α_k + β_{k-1}/α_{k-1} and off-diagonal √β_k / α_k (Golub, Van Loan, Matrix Computations)
Cost        with one product with A and one with M⁻¹ per iteration, and one with A for the certificate, beyond these:
            exact 12 n - 3 flops per iteration
            exact 7 n - 3 flops per solve: norms, inner products and the true residual, less what the last iteration leaves out
            at most 8 n floats at the peak: x, r, z, p, A p and what is added to them; 7 n without a preconditioner
Deviations  1. Stops on ||r|| <= rtol ||b||, then recomputes the true residual (one more product).
            2. Non-positive curvature ends the iteration and is reported; no abs hides it.
            3. Where squares of numbers of the size of b under- or overflow, b is divided by a power of two, and x multiplied.
            4. From a start the correction to it is summed from 0 and added at the end; the tolerance stays one for ||b||.
"""

import math

from nearlin._array import check, check_system, namespace, read, require, tridiagonal_extremes
from nearlin.linalg.operators import inner, norm, normalized, product
from nearlin.linalg.solve_info import Exit, SolveInfo


def identity(r):
    """No preconditioner: M = I."""
    return r


def cg(
    matvec, b, *, start=None, rest=None, preconditioner=identity, rtol=1e-8, maxiter=None, certify=True, on_step=None, stop=None
):
    """Solve A x = b from x = 0, or from ``start``.

    Parameters
    ----------
    matvec : callable
        A v (n,) for v (n,), A symmetric positive definite.
    b : array, shape (n,)
        Right-hand side.
    start : array, shape (n,), optional
        The first x, at one more product. The correction to it is summed from 0, and added at the end: it keeps digits that the
        sum would lose. Of b = 0 the solution is 0, whatever the start.
    rest : array, shape (n,), optional
        b - A x at the start, where it is known: it saves the product.
    preconditioner : callable
        M⁻¹ r (n,) for r (n,).
    rtol : float
        Stop at ||r|| <= rtol ||b||.
    maxiter : int, optional
        At most this many iterations; 10 n by default.
    certify : bool
        Recompute the true residual at the end. Without it ``residual`` is the recursive one: only for callers that certify
        by other means.
    on_step : callable, optional
        Called as ``on_step(alpha)`` after x += alpha p, with p the vector last given to ``matvec``: lets a caller accumulate
        another linear image of x without a further product. A start without ``rest`` counts as the first such step.
    stop : callable, optional
        Called as ``stop(x, r)`` after every iteration, x the correction where there is a start; True ends as converged before
        the tolerance is met. See `SlowProgress`.

    Returns
    -------
    x : array, shape (n,)
    info : SolveInfo

    Raises
    ------
    BackendError, TypeError, ValueError
        A b that is no vector of float32 or float64, a start or rest that does not fit it, or a tolerance outside of [0, 1). NaN
        and Inf end as non-finite.

    Examples
    --------
    >>> A = np.asarray([[4.0, 1.0], [1.0, 3.0]])
    >>> x, info = nl.linalg.cg(lambda v: A @ v, np.asarray([1.0, 2.0]))
    >>> print(x.round(4), info.iterations, info.reason)
    [0.0909 0.6364] 2 converged
    """
    check_system(b, rtol)
    _check_start(b, start=start, rest=rest)
    maxiter = 10 * b.shape[0] if maxiter is None else maxiter
    given, (b, unit, target) = b, normalized(b)
    lifted = (lambda v: v) if unit == 1 else (lambda v: unit * v)
    x, r = namespace(b).zeros_like(b), b
    alphas, betas, size = [], [], target
    reason = Exit.CONVERGED if target == 0 else Exit.MAXITER if math.isfinite(target) else Exit.NON_FINITE
    started = start is not None and reason == Exit.MAXITER
    if started:
        r = b - matvec(start if unit == 1 else start / unit) if rest is None else rest if unit == 1 else rest / unit
        if on_step and rest is None:
            on_step(unit)
        size = norm(r)
        if not size > rtol * target:
            reason = Exit.CONVERGED if math.isfinite(size) else Exit.NON_FINITE
    z = p = preconditioner(r)
    rz, previous = product(r, z), None
    while reason == Exit.MAXITER and len(alphas) < maxiter:
        q = matvec(p)
        curvature, rz = read(product(p, q), rz)
        if alphas:
            betas.append(rz / previous)
        if not math.isfinite(curvature) or not math.isfinite(rz):
            reason = Exit.NON_FINITE
        elif curvature <= 0 or rz <= 0:
            reason = Exit.NONPOSITIVE
        else:
            alpha = rz / curvature
            x, r = x + alpha * p, r - alpha * q  # x ← x + α p, r ← r - α A p
            alphas.append(alpha)
            if on_step:
                on_step(unit * alpha)
            size = norm(r)
            if not size > rtol * target or (stop and stop(lifted(x), lifted(r))):
                reason = Exit.CONVERGED if math.isfinite(size) else Exit.NON_FINITE
                break
            z = preconditioner(r)
            rz, previous = product(r, z), rz
            p = z + rz / previous * p  # p ← z + β p
    products, x = len(alphas) + (started and rest is None), start + lifted(x) if started else lifted(x)
    residual = size / target if target else 0.0
    if certify and target:
        left = given - matvec(x)
        residual, products = norm(left if unit == 1 else left / unit) / target, products + 1
        if reason == Exit.CONVERGED and residual > 1.05 * rtol and not stop:
            reason = Exit.STALLED
    smallest, largest = _ritz(alphas, betas)
    condition = largest / smallest if smallest > 0 else float("nan") if math.isnan(smallest) else float("inf")
    return x, SolveInfo(residual, len(alphas), products, reason, condition, largest=largest)


def _check_start(b, **given):
    for name, x in given.items():
        if x is not None:
            check(ndim={name: 1}, finite=False, beside=("b", b), **{name: x})
            require(x.shape == b.shape, f"{name} has shape {tuple(x.shape)}; expected {tuple(b.shape)}, that of b")


class SlowProgress:
    """The stop of Martens, Deep learning via Hessian-free optimization, ICML 2010, section 4.4, for `cg`.

    With φ(x) = ½ xᵀA x - bᵀx, which is -½ xᵀ(b + r): after i iterations, stop where φ(x_i) < 0 and
    (φ(x_i) - φ(x_{i-k})) / φ(x_i) < k ``epsilon``, k = max(10, ⌈i / 10⌉).
    """

    def __init__(self, b, epsilon=5e-4):
        self._b, self._epsilon, self._values = b, epsilon, [0.0]

    def __call__(self, x, r):
        self._values.append(-0.5 * inner(x, self._b + r))
        i, now = len(self._values) - 1, self._values[-1]
        k = max(10, math.ceil(i / 10))
        return i > k and now < 0 and (now - self._values[i - k]) / now < k * self._epsilon


def _ritz(alphas, betas):
    """The smallest and the largest eigenvalue of the Lanczos matrix."""
    betas = betas[: len(alphas) - 1]
    if not alphas or any(beta < 0 for beta in betas):
        return float("nan"), float("nan")
    diagonal = [1 / alpha for alpha in alphas]
    for k, beta in enumerate(betas):
        diagonal[k + 1] += beta / alphas[k]
    off_diagonal = [math.sqrt(beta) / alpha for alpha, beta in zip(alphas, betas, strict=False)]
    return tridiagonal_extremes(diagonal, off_diagonal)
