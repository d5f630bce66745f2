r"""A randomised Nyström preconditioner of A + μ I, whose rank doubles until what it leaves of A is small against μ.

Formula     A (n, n) symmetric positive semidefinite, Q (n, k) with random orthonormal columns, ν = eps ||A Q||_F
            CᵀC = Qᵀ A Q + ν I,  (A Q + ν Q) C⁻¹ = B = U Σ Vᵀ,  Λ = max(Σ² - ν I, 0);   A ≈ U Λ Uᵀ, from below
            P⁻¹ = (λ_k + μ) U (Λ + μ I)⁻¹ Uᵀ + I - U Uᵀ;   cond(P^(-1/2) (A + μ I) P^(-1/2)) <= (λ_k + μ + ||A - U Λ Uᵀ||) / μ
            effective dimension  d(μ) = Σ λ_i / (λ_i + μ) = tr A (A + μ I)⁻¹;   a rank of 2 d(μ) is enough for a small constant
Reference   Frangella, Tropp, Udell, Randomized Nyström preconditioning, SIAM J. Matrix Anal. Appl. 44 (2023), arXiv:2110.02820,
            Alg. 2.1 and the adaptive rank; the rule error <= μ/5 is that of RandLAPACK
Cost        k products with A, up to 10 more for each rank tried, 25 n k² flops (nominal; 14 of the 25 the singular value
            decomposition) and 4 n k for each of the 10;   P⁻¹ r: 4 n k flops;   memory n k, 4 n k while it is made
Deviations  1. Columns are added to Q, orthogonal to those before: no product is made twice.
            2. The power method ends as soon as its estimate, a lower bound, is above the tolerance.
            3. ν grows tenfold, up to √eps ||A Q||_F, where the Cholesky factorisation fails.
"""

import math
from dataclasses import dataclass, replace

from nearlin import _array
from nearlin.linalg.cholesky import FactorizationError
from nearlin.linalg.operators import safe_norm


@dataclass(frozen=True)
class Nystrom:
    """P⁻¹ r = (λ_k + μ) U (Λ + μ I)⁻¹ Uᵀ r + r - U Uᵀ r, with U Λ Uᵀ ≈ A; 4 n k flops a call.

    Attributes
    ----------
    U : array, shape (n, k)
        Orthonormal columns.
    values : array, shape (k,)
        Λ: descending, at least 0, none above the eigenvalue of A in its place but by rounding.
    damping : float
        μ.
    error : float
        Estimate of ||A - U Λ Uᵀ|| by the power method: a lower bound.
    products : int
        Products of A with a vector, those for ``error`` included.
    reason : str
        ``"converged"``, or ``"capped: ..."`` where the largest rank came before an error within the tolerance.
    """

    U: object
    values: object
    damping: float
    error: float
    products: int
    reason: str

    def __call__(self, r):
        """P⁻¹ r (n,) for r (n,)."""
        damped, xp = self.values + self.damping, _array.namespace(self.U)
        inner = xp.matrix_transpose(self.U) @ r
        return r + self.U @ ((damped[-1] / damped - 1) * inner)

    @property
    def rank(self):
        """k."""
        return self.values.shape[0]

    def with_damping(self, damping):
        """The same for another μ: U and Λ do not depend on it. ``reason`` stays that of the μ it was made for."""
        return replace(self, damping=_array.positive("damping", damping))

    def effective_dimension(self):
        """Σ λ_i / (λ_i + μ) over the k values: that of A, from below."""
        return float(_array.namespace(self.values).sum(self.values / (self.values + self.damping)))


def columns(matvec):
    """A ``matmat`` for `nystrom` out of a ``matvec``, which is called on one column after the other."""

    def matmat(Z):
        return _array.namespace(Z).stack([matvec(Z[:, j]) for j in range(Z.shape[1])], axis=1)

    return matmat


def nystrom(matmat, n, key, damping, *, like, rank=16, max_rank=None, accuracy=0.2, power=10):
    """A `Nystrom` preconditioner of A + μ I, of rank ``rank``, twice that, ..., until ||A - U Λ Uᵀ|| <= ``accuracy`` μ.

    Parameters
    ----------
    matmat : callable
        A Z (n, k) for Z (n, k), A symmetric positive semidefinite; `columns` makes one of a product with a vector.
    n : int
        Size of A.
    key : int
        Key of the draws, which are made on the host: one key, one preconditioner on all backends, up to rounding (and so
        up to a rank, where an estimate of the error meets the tolerance to the last digit).
    damping : float
        μ > 0.
    like : array
        Backend, device and dtype.
    rank : int
        The first rank; at most n and ``max_rank`` are taken.
    max_rank : int, optional
        The largest rank; by default n/2, or ``rank`` where that is more.
    accuracy : float
        Largest error over damping; 0 goes to the largest rank.
    power : int
        Steps of the power method that estimates the error.

    Returns
    -------
    Nystrom

    Raises
    ------
    FactorizationError
        A is not positive semidefinite, or the singular values do not converge.
    BackendError, TypeError, ValueError
        A damping, rank, ``max_rank``, ``accuracy`` or ``power`` out of range; products that do not fit Z, or are not finite.

    Notes
    -----
    k products with A, and up to ``power`` for each rank tried: a rank that is far too small takes one or two. 25 n k² flops
    (nominal). Errors below eps ||A|| are not seen: a damping below that takes the rank to its largest.
    """
    _array.namespace(like)  # refuses what is no array
    damping, accuracy = _array.positive("damping", damping), _array.not_negative("accuracy", accuracy)
    n, rank, power = (_array.integer(1)(*one) for one in (("n", n), ("rank", rank), ("power", power)))
    max_rank = _array.optional(_array.integer(1))("max_rank", max_rank)
    most = min(n, max(rank, n // 2) if max_rank is None else max_rank)
    Q = Y = None
    k, products, error, tolerance = 0, 0, math.inf, accuracy * damping
    while error > tolerance and k < most:
        new = min(2 * k or rank, most) - k
        draws = _array.normal(_array.fold_in(key, 0, k), (n, new), like)
        _array.check(finite=False, like=draws)
        Z = _orthonormal(draws, Q)
        Q, Y = _beside(Q, Z), _beside(Y, _product(matmat, Z))
        k += new
        B, shift = _root(Q, Y)
        start = _array.normal(_array.fold_in(key, 1, k), (n,), like)
        error, steps = _error(matmat, B, start, power, tolerance if k < most else math.inf)
        products += new + steps
    reason = "converged" if error <= tolerance else f"capped: error {error:.2g} > {tolerance:.2g} at the largest rank, {most}"
    U, values = _eigenpairs(B, shift)
    return Nystrom(U, values, damping, error, products, reason)


def _product(matmat, Z):
    """A Z, looked at."""
    Y = matmat(Z)
    _array.check(ndim={"matmat(Z)": 2}, beside=("Z", Z), **{"matmat(Z)": Y})
    if Y.shape != Z.shape:
        raise ValueError(f"matmat(Z) has shape {tuple(Y.shape)}; expected {tuple(Z.shape)}, that of Z")
    return Y


def _beside(left, right):
    return right if left is None else _array.namespace(right).concat([left, right], axis=1)


def _orthonormal(Z, Q):
    """An orthonormal basis of the range of Z, less that of Q; twice, as once leaves rounding over small remainders."""
    xp = _array.namespace(Z)
    for _ in range(2):
        Z = Z if Q is None else Z - Q @ (xp.matrix_transpose(Q) @ Z)
        Z = xp.linalg.qr(Z).Q
    return Z


def _root(Q, Y):
    """B (n, k) with B Bᵀ = (Y + ν Q) (Qᵀ Y + ν I)⁻¹ (Y + ν Q)ᵀ, and ν; Y = A Q."""
    xp, size = _array.namespace(Y), safe_norm(Y)
    if size == 0:
        return Y, 0.0
    eps = float(xp.finfo(Y.dtype).eps)
    core = xp.matrix_transpose(Q) @ Y
    core, shift = (core + xp.matrix_transpose(core)) / 2, eps * size
    while shift <= eps**0.5 * size:
        try:
            C = _array.cholesky(core, shift=shift)
        except _array.NotPositiveDefinite:
            shift *= 10
            continue
        return xp.matrix_transpose(_array.solve_triangular(C, xp.matrix_transpose(Y + shift * Q), trans=True)), shift
    smallest = float(xp.min(xp.linalg.eigvalsh(core)))
    raise FactorizationError(
        f"Qᵀ A Q ({core.shape[0]} x {core.shape[0]}, ||A Q||_F = {size:.3g}) has the eigenvalue {smallest:.3g}; expected A "
        "symmetric positive semidefinite, up to rounding"
    )


def _error(matmat, B, v, steps, enough):
    """||A - B Bᵀ|| from below by ``steps`` of the power method, fewer where it is more than ``enough``; and those made."""
    error, Bt = 0.0, _array.namespace(B).matrix_transpose(B)
    for step in range(steps):
        size = safe_norm(v)
        if size == 0:
            return 0.0, step
        v = v / size
        v = _product(matmat, v[:, None])[:, 0] - B @ (Bt @ v)
        error = safe_norm(v)
        if error > enough:
            return error, step + 1
    return error, steps


def _eigenpairs(B, shift):
    """U and Λ."""
    try:
        U, s, _ = _array.svd(B)
    except _array.NotConverged as error:
        raise FactorizationError(f"the singular values of B ({B.shape[0]} x {B.shape[1]}) do not converge") from error
    values = s * s - shift
    return U, _array.namespace(s).maximum(values, _array.namespace(s).zeros_like(values))
