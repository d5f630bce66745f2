r"""Curvature of low rank: updated by vectors, truncated, and inverted with damping, in time linear in the dimension.

Formula     S = U diag(σ) Uᵀ, U (d, k) with orthonormal columns, k = min(rank, d), kept by rows: Uᵀ (k, d)
            update    S ← T_k(decay S + weight h hᵀ), T_k the best approximation of rank k
                      w = Uᵀ h,  p = h - U w,  Z = [U, p],  Zᵀ Z = RᵀR,  v = [w; 1]
                      R (diag(decay σ, 0) + weight v vᵀ) Rᵀ = V diag(e) Vᵀ;   the k largest e, with their V:  σ ← e,  U ← Z R⁻¹ V
                      p is left out where k = d, ‖p‖ <= 10 eps ‖h‖, or ‖p‖² <= (smallest normal number) / eps,
                      where squares underflow: then Z = U, v = w + (UᵀU)⁻¹ Uᵀp, and nothing is dropped
            inverse   (γ I + S)⁻¹ v = v/γ - U (σ / (γ (γ + σ)) ∘ Uᵀ v);   k = d: U (Uᵀ v / (γ + σ)), where v/γ would cancel
Reference   the recursion of Hao, Cao, Mou, Ginger, arXiv:2402.03295, in its forward form: S itself is updated, not its inverse.
            In exact arithmetic both are one; here directions with σ/γ > 1/eps keep their σ.
Cost        flops, k < d, d (4 k² + 12 k + 9) for update and inverse together, 9 (k + 1)³ for the eigenvectors (nominal);
            memory d k + k. U is read three times: with h and v, with p, and to be written anew with the result.
Deviations  1. Uᵀ U is formed anew in every update and its Cholesky factor taken into V: U stays orthonormal to rounding in any
               number of steps. A Gram-Schmidt pass, or two, lets it drift where h repeats or changes slowly.
            2. Sums over d are taken in blocks in the dtype of U, and over blocks in float64, as are the small matrices.
"""

import math
from typing import NamedTuple

from nearlin import _array

THIN = 8  # up to as many rows a BLAS is faster row by row
NEGLIGIBLE = 10  # a remainder p below this many eps ‖h‖ is rounding
INSIDE = 1e-3  # and one with no larger share of its square outside of the span of U lies in it


class LowRank(NamedTuple):
    """S = U diag(σ) Uᵀ.

    Attributes
    ----------
    U : array, shape (k, d)
        Orthonormal rows: Uᵀ of the formula.
    sigma : array, shape (k,)
        Ascending, at least 0.
    """

    U: object
    sigma: object


class Inverse(NamedTuple):
    """What is made of a right-hand side: ``scale`` clip((γ I + ``amplify`` S)⁻¹ v, ±``bound``).

    Attributes
    ----------
    damping : float
        γ > 0.
    relative : float
        γ is at least this times the largest eigenvalue.
    amplify : float
        Positive.
    scale : float
    bound : float, optional
        Entries are clipped to [-bound, bound]; None: they are not.
    """

    damping: float
    relative: float = 0.0
    amplify: float = 1.0
    scale: float = 1.0
    bound: float | None = None

    def _terms(self, sigma, inner, d):
        """x = first v + U second, given Uᵀ v, before the clipping."""
        sigma = self.amplify * sigma
        gamma = self.damping
        if self.relative and sigma.shape[0]:
            gamma = max(gamma, self.relative * float(_array.namespace(sigma).max(sigma)))
        if sigma.shape[0] == d:
            return 0.0, self.scale * inner / (gamma + sigma)
        return self.scale / gamma, (-self.scale / gamma) * (sigma / (gamma + sigma)) * inner


class LowRankStep(NamedTuple):
    """What an update made.

    Attributes
    ----------
    curvature : LowRank
        The new S; the old one where ``finite`` is False.
    x : array, shape (d,), or None
        The image of the right-hand side under the new inverse; None where there was none, or ``finite`` is False.
    dropped : float
        The eigenvalue that was dropped.
    finite : bool
        False where h or v holds NaN or Inf, or the squares of its entries overflow.
    """

    curvature: LowRank
    x: object
    dropped: float
    finite: bool


def lowrank(d, rank, like):
    """S = 0 of dimension ``d``: the first min(``rank``, ``d``) unit vectors and zeros, in the dtype of ``like``, next to it."""
    xp, k = _array.namespace(like), min(_array.integer(0)("rank", rank), d)
    where = {"dtype": like.dtype, "device": _array.device(like)}
    return LowRank(xp.eye(k, d, **where), xp.zeros((k,), **where))


def lowrank_solve(curvature, v, inverse):
    """x = (γ I + S)⁻¹ v.

    Parameters
    ----------
    curvature : LowRank
        S, of dimension d.
    v : array, shape (d,)
    inverse : Inverse

    Returns
    -------
    array, shape (d,)

    Raises
    ------
    BackendError, TypeError, ValueError
        Arrays that do not fit together; NaN or Inf in v; a damping or an ``amplify`` that is not positive; a damping whose
        reciprocal, times ``scale``, overflows in the dtype of v.

    Notes
    -----
    d (4 k + 4) flops, d more for the clipping; two passes over U.
    """
    inverse = _checked(curvature, inverse, v=v)
    U = curvature.U
    with _array.unguarded():
        inner, square = _sums(lambda b: (U[:, b] @ v[b], v[b] @ v[b]), U)
    if not math.isfinite(float(square)):
        raise ValueError("v holds NaN or Inf, or the squares of its entries overflow; expected finite numbers")
    return _image(U, v, inverse._terms(_wide(curvature.sigma), inner, U.shape[1]), inverse)


def lowrank_update(curvature, h, decay, weight=None):
    """S ← T_k(decay S + weight h hᵀ), the k largest eigenvalues of it; a `LowRankStep` without ``x``. See `lowrank_step`."""
    return lowrank_step(curvature, h, None, decay, None, weight)


def lowrank_step(curvature, h, v, decay, inverse, weight=None):
    """S ← T_k(decay S + weight h hᵀ), and x = (γ I + S)⁻¹ v with the new S, in three passes over U.

    Parameters
    ----------
    curvature : LowRank
        S, of dimension d; not changed.
    h : array, shape (d,)
        Zero: S only decays.
    v : array, shape (d,), or None
    decay : float
        In [0, 1].
    inverse : Inverse
        Not looked at where ``v`` is None.
    weight : float, optional
        At least 0, by default 1 - ``decay``.

    Returns
    -------
    LowRankStep

    Raises
    ------
    BackendError, TypeError, ValueError
        Arrays that do not fit together; a decay outside of [0, 1] or a negative weight; a damping or an ``amplify`` that is not
        positive; a damping whose reciprocal, times ``scale``, overflows in the dtype of v.

    Notes
    -----
    d (4 k² + 12 k + 9) flops, d more for the clipping, and O(k³) that do not depend on d; as many with h = 0 or k = d, less
    2 k d. New arrays of d k + 2 d numbers, d of them given up at the end.
    """
    inverse, decay = _checked(curvature, inverse, h=h, **({} if v is None else {"v": v})), _array.within("[0, 1]")("decay", decay)
    (k, d), weight = curvature.U.shape, _array.not_negative("weight", 1 - decay if weight is None else weight)
    with _array.unguarded():
        met = _meet(curvature.U, h, v)
        rest = _remainder(curvature.U, h, v, met.w)
        inside, outside, *square = _array.read(met.w @ met.w, rest.square, *(() if v is None else (met.square,)))
        length, rest, limits = math.sqrt(inside + outside), rest._replace(square=outside), _array.namespace(h).finfo(h.dtype)
        if not sum(square, inside + outside) < float(limits.max):  # σ and the image are kept in this dtype
            return LowRankStep(curvature, None, 0.0, False)
        if k == 0:
            x = None if v is None else _image(curvature.U, v, inverse._terms(_wide(curvature.sigma), met.inner, d), inverse)
            return LowRankStep(curvature, x, weight * rest.square, True)
        rounding = max(NEGLIGIBLE * float(limits.eps) * length, math.sqrt(float(limits.smallest_normal) / float(limits.eps)))
        basis = _basis(met, rest, k < d and math.sqrt(rest.square) > rounding)
        sigma, C, dropped = _turn(_wide(curvature.sigma), basis, decay, weight)
        terms = None if v is None else inverse._terms(sigma, C @ basis.inner, d)
        U, x = _write(curvature.U, rest.p if basis.new else None, C, v, terms, inverse)
    return LowRankStep(LowRank(U, _array.namespace(h).astype(sigma, h.dtype)), x, dropped, True)


def _checked(curvature, inverse, **vectors):
    """``inverse`` in Python's numbers, after a look at sorts and shapes of arrays; NaN and Inf show in the sums."""
    _array.check(ndim=dict.fromkeys(vectors, 1), finite=False, beside=("curvature.U", curvature.U), **vectors)
    d = curvature.U.shape[1]
    for name, vector in vectors.items():
        if vector.shape[0] != d:
            raise ValueError(f"{name} has {vector.shape[0]} entries; expected {d}, the dimension of the curvature")
    if inverse is None:
        return None
    _array.positive("damping", inverse.damping), _array.positive("amplify", inverse.amplify)
    inverse = Inverse(*(None if value is None else float(value) for value in inverse))
    most, dtype = float(_array.namespace(curvature.U).finfo(curvature.U.dtype).max), str(curvature.U.dtype).split(".")[-1]
    if not max(1.0, abs(inverse.scale)) / inverse.damping <= most:
        times = "" if abs(inverse.scale) <= 1 else f", times {abs(inverse.scale):.3g},"
        raise ValueError(f"damping is {inverse.damping!r}; expected a number whose reciprocal{times} is finite in {dtype}")
    return inverse


# ------------------------------------------------------------------------------------------------------ small matrices


class _Basis(NamedTuple):
    """Z = [U, p], or U where nothing is new: R with ZᵀZ = RᵀR, v with h = Z v, and Zᵀ of the right-hand side."""

    R: object
    v: object
    inner: object
    new: bool


def _basis(met, rest, new):
    """The basis, with p where it is more than rounding and more than what U lacks in orthonormality leaves of h."""
    xp, R = _array.namespace(met.w), _array.cholesky(met.gram)
    side = _array.solve_triangular(R, rest.w, trans=True)
    pivot = rest.square - _array.read_number(side @ side)  # squared length of the part of p that is orthogonal to U
    if not new or pivot <= INSIDE * rest.square:
        return _Basis(R, met.w + _array.solve_triangular(R, side), met.inner, False)
    last = xp.ones((1,), dtype=R.dtype, device=_array.device(R))
    top = xp.concat([R, side[:, None]], axis=1)
    bottom = xp.concat([0 * side, math.sqrt(pivot) * last])[None, :]
    inner = None if met.inner is None else xp.concat([met.inner, rest.inner * last])
    return _Basis(xp.concat([top, bottom]), xp.concat([met.w, last]), inner, True)


def _turn(sigma, basis, decay, weight):
    """The new σ, C with the new Uᵀ = C Zᵀ, and the eigenvalue that was dropped."""
    xp, R, grown = _array.namespace(sigma), basis.R, decay * sigma
    if basis.new:
        grown = xp.concat([grown, xp.zeros_like(grown[:1])])
    v = R @ basis.v
    e, V = _array.eigh((R * grown) @ xp.matrix_transpose(R) + (weight * v)[:, None] * v[None, :])
    e, C = xp.maximum(e, xp.zeros_like(e)), xp.matrix_transpose(_array.solve_triangular(R, V))
    return (e[1:], C[1:, :], _array.read_number(e[0])) if basis.new else (e, C, 0.0)


# ----------------------------------------------------------------------------------------------------- passes over U


class _Meeting(NamedTuple):
    """Uᵀ U, w = Uᵀ h, and with v: vᵀ v and Uᵀ v."""

    gram: object
    w: object
    square: float = 0.0
    inner: object = None


class _Remainder(NamedTuple):
    """p = h - U w, Uᵀ p, pᵀ p, and with v: pᵀ v."""

    p: object
    w: object
    square: float
    inner: object = None


def _meet(U, h, v):
    def products(b):
        A = U[:, b]
        return _gram(A), A @ h[b], *(() if v is None else (v[b] @ v[b], A @ v[b]))

    gram, w, *more = _sums(products, U)
    return _Meeting(gram, w, *more)


def _remainder(U, h, v, w):
    xp = _array.namespace(U)
    w, p = xp.astype(w, U.dtype), xp.empty_like(h)

    def products(b):
        A = U[:, b]
        part = h[b] - w @ A
        p[b] = part
        return A @ part, part @ part, *(() if v is None else (part @ v[b],))

    inner, square, *more = _sums(products, U)
    return _Remainder(p, inner, square, *more)


def _write(U, p, C, v, terms, inverse):
    """The new Uᵀ = C [U p]ᵀ, and the image of v where there is one."""
    xp, k = _array.namespace(U), U.shape[0]
    C, made = xp.astype(C, U.dtype), xp.empty_like(U)
    x, tail = (None, None) if v is None else (xp.empty_like(v), xp.astype(terms[1], U.dtype))

    def write(b):
        A = U[:, b]
        for i in _by_rows(k) or (slice(None),):
            rows = C[i, :k] @ A
            if p is not None:
                rows += C[i, k:] * p[b]
            made[i, b] = rows
        if v is not None:
            x[b] = _clipped(terms[0] * v[b] + tail @ made[:, b], inverse)
        return ()

    _sums(write, U)
    return made, x


def _image(U, v, terms, inverse):
    xp = _array.namespace(v)
    x, tail = xp.empty_like(v), xp.astype(terms[1], v.dtype)

    def write(b):
        x[b] = _clipped(terms[0] * v[b] + tail @ U[:, b], inverse)
        return ()

    _sums(write, U)
    return x


def _clipped(x, inverse):
    if inverse.bound is None:
        return x
    limit = abs(inverse.scale) * inverse.bound
    return _array.clipped(x, -limit, limit)


def _gram(A):
    """A Aᵀ."""
    xp, rows = _array.namespace(A), _by_rows(A.shape[0])
    return xp.stack([A @ A[i, :] for i in rows]) if rows else A @ xp.matrix_transpose(A)


def _by_rows(k):
    """Row after row where there are few: a BLAS is faster at products of a thin matrix with a vector than with a small one."""
    return range(k) if k <= THIN else ()


def _sums(f, U):
    """The sums over blocks of columns of U of the arrays that ``f`` makes, in float64 where the device has it."""
    (k, d), xp, dtype = U.shape, _array.namespace(U), _array.widest(U)
    columns = _array.block_length(4 * (k + 3) * _array.itemsize(U.dtype), U)  # a quarter of a share: the inner cache
    wide = lambda block: tuple(xp.astype(a, dtype, copy=False) for a in f(block))  # noqa: E731
    return _array.sum_blocks(wide, _array.slices(d, columns), U)


def _wide(a):
    return _array.namespace(a).astype(a, _array.widest(a), copy=False)
