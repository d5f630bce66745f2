"""Inverse BFGS updates with damping, as a matrix and in limited memory.

Formula     H (n, n) inverse curvature, s (n,) step, y (n,) change of the gradient
            update:   ρ = 1/sᵀy,   H ← H + (ρ² yᵀHy + ρ) s sᵀ - ρ (s (Hy)ᵀ + (Hy) sᵀ);   then H y = s
            damping:  (a) sᵀy <= μ₁ yᵀHy:  s ← θ s + (1 - θ) Hy,  θ = (1 - μ₁) yᵀHy / (yᵀHy - sᵀy);   then sᵀy = μ₁ yᵀHy
                      (b) sᵀy <= μ₂ sᵀs:   y ← θ y + (1 - θ) s,   θ = (1 - μ₂) sᵀs / (sᵀs - sᵀy);     then sᵀy = μ₂ sᵀs
            compact:  H = I + [S Y] [R⁻ᵀ (D + YᵀY) R⁻¹, -R⁻ᵀ; -R⁻¹, 0] [S Y]ᵀ,  R the upper triangle of SᵀY, D its diagonal
Reference   Powell (1978); Goldfarb, Ren, Bahamou, Practical Quasi-Newton Methods for Training Deep Neural Networks, NeurIPS 2020,
            arXiv:2006.08877 (double damping, K-BFGS);  Byrd, Nocedal, Schnabel, Math. Programming 63 (1994) (compact);
            Nocedal, Math. of Computation 35 (1980) (two loops)
Cost        update: 9n² flops.  compact with h pairs on M (n, k): 8hnk + 4h²k + 4h²n.  two loops: 8hnk
Deviations  1. Pairs with yᵀHy or sᵀs at most the smallest normal number are skipped: the formulas divide by them. So are pairs
               whose y may be rounding alone: damping would swap s for it.
            2. For μ₂ >= 1, where θ may be infinite, (b) is y ← y + (μ₂ - sᵀy / sᵀs) s; it gives the same sᵀy.
"""

import math
from enum import StrEnum
from typing import NamedTuple

from nearlin._array import check, integer, namespace, positive, read, read_flag, solve_triangular, unguarded, within

CURVATURE = 1e-4  # a pair is skipped where sᵀy <= CURVATURE sᵀs ||g||


class Pairing(StrEnum):
    """What became of a pair, in the words that are reported."""

    KEPT = "kept"
    S_DAMPED = "s damped"
    Y_DAMPED = "y damped"
    BOTH_DAMPED = "s and y damped"
    UPDATED = "updated"
    LITTLE_CURVATURE = "skipped: curvature"
    NO_CURVATURE = "skipped: no curvature"
    NON_FINITE = "rejected: non-finite"

    __repr__ = str.__repr__


class DampedPair(NamedTuple):
    """A pair after damping, and what was done to it.

    Attributes
    ----------
    s, y : array, shape (n,)
        The pair.
    word : Pairing
        ``"kept"``, ``"s damped"``, ``"y damped"``, ``"s and y damped"``; with the pair as it was given, which must not be used,
        ``"skipped: no curvature"`` or ``"rejected: non-finite"``.
    """

    s: object
    y: object
    word: Pairing

    @property
    def usable(self):
        """Whether the pair may go into an update."""
        return self.word not in (Pairing.LITTLE_CURVATURE, Pairing.NO_CURVATURE, Pairing.NON_FINITE)


def _tiny(x):
    return float(namespace(x).finfo(x.dtype).smallest_normal)


def _dots(*pairs):
    """Inner products of pairs, read at once."""
    with unguarded():
        return read(*(namespace(u, v).vecdot(u, v) for u, v in pairs))


def powell_damping(s, y, Hy, mu=0.2):
    """Damp s towards Hy so that sᵀy >= ``mu`` yᵀHy, with equality where it was less.

    Parameters
    ----------
    s, y : array, shape (n,)
        The pair; not changed.
    Hy : array, shape (n,)
        The inverse curvature at hand, times y.
    mu : float
        In (0, 1).

    Returns
    -------
    DampedPair

    Notes
    -----
    4n flops, and 3n where it damps.
    """
    sy, yHy = _dots((s, y), (y, Hy))
    if word := _unusable(y, sy, yHy):
        return DampedPair(s, y, word)
    if sy > mu * yHy:
        return DampedPair(s, y, Pairing.KEPT)
    theta = (1 - mu) * yHy / (yHy - sy)
    return DampedPair(theta * s + (1 - theta) * Hy, y, Pairing.S_DAMPED)


def minimal_damping(s, y, mu):
    """Damp y towards s so that sᵀy >= ``mu`` sᵀs, with equality where it was less: then ρ s sᵀ has norm at most 1/``mu``.

    ``mu`` is positive; else, and in cost, as `powell_damping`.
    """
    sy, ss = _dots((s, y), (s, s))
    if word := _unusable(s, sy, ss):
        return DampedPair(s, y, word)
    if sy > mu * ss:
        return DampedPair(s, y, Pairing.KEPT)
    if mu >= 1:
        return DampedPair(s, y + (mu - sy / ss) * s, Pairing.Y_DAMPED)
    theta = (1 - mu) * ss / (ss - sy)
    return DampedPair(s, theta * y + (1 - theta) * s, Pairing.Y_DAMPED)


def _unusable(x, sy, scale):
    """Why a pair cannot be damped, or None."""
    if not math.isfinite(sy) or not math.isfinite(scale):
        return Pairing.NON_FINITE
    return Pairing.NO_CURVATURE if scale <= _tiny(x) else None


def double_damping(s, y, Hy, mu1, mu2, noise=0.0):
    """`powell_damping` with ``mu1``, then `minimal_damping` with ``mu2`` on what it gives.

    Parameters
    ----------
    s, y, Hy : array, shape (n,)
        The pair, and the inverse curvature at hand times y.
    mu1, mu2 : float
        ``mu1`` in (0, 1), ``mu2`` positive.
    noise : float
        How much of ||y|| may be rounding: a pair whose y is no longer than that is skipped, and all are rejected where it is not
        finite.

    Returns
    -------
    DampedPair

    Raises
    ------
    ValueError
        A threshold out of its range.

    Notes
    -----
    10n flops, and 3n for each damping. Where y changes, Hy is another one afterwards.
    """
    check(ndim={"s": 1, "y": 1, "Hy": 1}, finite=False, s=s, y=y, Hy=Hy)
    mu1, mu2 = within("(0, 1)")("mu1", mu1), positive("mu2", mu2)
    if not math.isfinite(noise):
        return DampedPair(s, y, Pairing.NON_FINITE)
    first = powell_damping(s, y, Hy, mu1)
    if not first.usable:
        return first
    if _dots((y, y))[0] <= noise**2:
        return DampedPair(s, y, Pairing.NO_CURVATURE)
    second = minimal_damping(first.s, first.y, mu2)
    if not second.usable:
        return DampedPair(s, y, second.word)
    words = {(Pairing.S_DAMPED, Pairing.Y_DAMPED): Pairing.BOTH_DAMPED, (Pairing.S_DAMPED, Pairing.KEPT): Pairing.S_DAMPED}
    return DampedPair(second.s, second.y, words.get((first.word, second.word), second.word))


def _refused(s, y, gradient_norm):
    """Why a pair does not go into an update, or None."""
    sy, ss = _dots((s, y), (s, s))
    if not math.isfinite(sy) or not math.isfinite(ss):
        return Pairing.NON_FINITE
    if ss <= _tiny(s):
        return Pairing.NO_CURVATURE
    return Pairing.LITTLE_CURVATURE if sy <= 0 or not sy > CURVATURE * ss * gradient_norm else None


def bfgs_update(H, s, y, gradient_norm=0.0):
    """The inverse BFGS update of a symmetric positive definite H, which satisfies H y = s and stays so.

    Parameters
    ----------
    H : array, shape (n, n)
        Inverse curvature; not changed.
    s, y : array, shape (n,)
        Step, and change of the gradient.
    gradient_norm : float
        ||g||: the pair is skipped where sᵀy <= 1e-4 sᵀs ||g||, or sᵀy <= 0.

    Returns
    -------
    H : array, shape (n, n)
        The update, or the H given.
    word : Pairing
        ``"updated"``, ``"skipped: curvature"``, ``"skipped: no curvature"`` (yᵀHy or sᵀs vanishes) or ``"rejected: non-finite"``
        (the pair, or the update).

    Notes
    -----
    9n² flops to leading order; two arrays of the size of H.
    """
    check(ndim={"H": 2, "s": 1, "y": 1}, finite=False, H=H, s=s, y=y)
    if word := _refused(s, y, gradient_norm):
        return H, word
    with unguarded():
        Hy = H @ y
        sy, yHy = _dots((s, y), (y, Hy))
        if word := _unusable(y, sy, yHy):
            return H, word
        new = _updated(H, s, Hy, 1 / sy, yHy)
    return (new, Pairing.UPDATED) if read_flag(namespace(new).all(namespace(new).isfinite(new))) else (H, Pairing.NON_FINITE)


def track_inverse(H, matrix, damping, v):
    """An inverse BFGS update of H towards (``matrix`` + ``damping`` I)⁻¹ along s = H v, with y = (``matrix`` + ``damping`` I) s.

    Parameters
    ----------
    H, matrix : array, shape (n, n)
        Symmetric, H positive definite; not changed.
    damping : float
    v : array, shape (n,)
        The direction, and the gradient of the test of curvature: see `bfgs_update`.

    Returns
    -------
    H : array, shape (n, n)
    word : Pairing
        As from `bfgs_update`.

    Notes
    -----
    13n² flops to leading order.
    """
    with unguarded():
        s = H @ v
        y = matrix @ s + damping * s
    return bfgs_update(H, s, y, math.sqrt(_dots((v, v))[0]))


def _updated(H, s, Hy, rho, yHy):
    """H + s uᵀ + u sᵀ with u = (ρ² yᵀHy + ρ)/2 s - ρ Hy; one thin product, as single outer products take ten times as long."""
    xp = namespace(H, s)
    u = (0.5 * (rho * rho * yHy + rho)) * s - rho * Hy
    return H + xp.stack([s, u], axis=1) @ xp.stack([u, s], axis=0)


# ---------------------------------------------------------------------------------------------------------- limited memory


class LimitedMemory(NamedTuple):
    """Pairs of a limited-memory inverse BFGS matrix that starts from the identity.

    Attributes
    ----------
    S, Y : array, shape (h, n), or None
        Steps and changes of the gradient in rows, oldest first; None where there are none.
    """

    S: object = None
    Y: object = None

    def __call__(self, M):
        """H M for ``M`` (n,) or (n, k), by the compact representation."""
        return compact_product(self, M)


def remember(pairs, s, y, memory, gradient_norm=0.0):
    """``pairs`` with (s, y) as the newest, the oldest dropped beyond ``memory``; the tests are those of `bfgs_update`.

    Parameters
    ----------
    pairs : LimitedMemory
        Not changed.
    s, y, gradient_norm
        As in `bfgs_update`.
    memory : int
        Most pairs kept, at least 1.

    Returns
    -------
    pairs : LimitedMemory
    word : Pairing
        ``"updated"``, ``"skipped: curvature"``, ``"skipped: no curvature"`` or ``"rejected: non-finite"``.

    Raises
    ------
    ValueError
        A memory below 1.

    Notes
    -----
    4n flops.
    """
    xp = check(ndim={"s": 1, "y": 1}, finite=False, s=s, y=y)
    memory = integer(1)("memory", memory)
    if word := _refused(s, y, gradient_norm):
        return pairs, word
    if pairs.S is None:
        return LimitedMemory(s[None, :], y[None, :]), Pairing.UPDATED
    oldest = max(0, pairs.S.shape[0] + 1 - memory)
    kept = LimitedMemory(
        xp.concat([pairs.S[oldest:, :], s[None, :]], axis=0), xp.concat([pairs.Y[oldest:, :], y[None, :]], axis=0)
    )
    return kept, Pairing.UPDATED


def compact_product(pairs, M):
    """H M by the compact representation: four thin products.

    Parameters
    ----------
    pairs : LimitedMemory
        h pairs of length n.
    M : array, shape (n,) or (n, k)
        Not changed.

    Returns
    -------
    array, like ``M``

    Notes
    -----
    8hnk + 4h²k + 4h²n flops to leading order.
    """
    S, Y = pairs.S, pairs.Y
    if S is None:
        return M
    xp = namespace(S, M)
    transposed = xp.matrix_transpose
    SY = S @ transposed(Y)
    R, D = xp.triu(SY), xp.linalg.diagonal(SY)
    C = solve_triangular(R, S @ M)  # R⁻¹ SᵀM
    weighted = (D if M.ndim == 1 else D[:, None]) * C
    W = solve_triangular(R, weighted + (Y @ transposed(Y)) @ C - Y @ M, trans=True)
    return M + transposed(S) @ W - transposed(Y) @ C


def two_loop_product(pairs, M):
    """H M by the two-loop recursion, pair by pair: the product that `compact_product` makes; 8hnk flops to leading order."""
    S, Y = pairs.S, pairs.Y
    if S is None:
        return M
    xp, h = namespace(S, M), S.shape[0]
    rho, alpha = [1 / dot for dot in _dots(*((S[i, :], Y[i, :]) for i in range(h)))], [None] * h
    Q = M if M.ndim == 2 else M[:, None]
    for i in reversed(range(h)):
        alpha[i] = rho[i] * (S[i, :] @ Q)
        Q = Q - Y[i, :][:, None] * alpha[i][None, :]
    for i in range(h):
        beta = rho[i] * (Y[i, :] @ Q)
        Q = Q + S[i, :][:, None] * (alpha[i] - beta)[None, :]
    return xp.reshape(Q, M.shape)
