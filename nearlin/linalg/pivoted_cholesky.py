r"""A few columns of a positive semidefinite matrix that stand for all of it: Cholesky with random pivots, and a preconditioner.

Formula     A (n, n), F (n, k), R = A - F Fᵀ, d = diag(R); pivots s ~ d / Σd, one after the other
            a round: H = R_SS for b proposals S ~ d;  T, the accepted of them;  L Lᵀ = R_TT
            F ← [F, (A_:T - F F_Tᵀ) L⁻ᵀ],  d ← d - rowsum(F_new²)
            P = F Fᵀ + μ I,  μ = max(λ + mean(d), 32 eps λ₁(FᵀF)),  P⁻¹ r = (r - F (FᵀF + μ I)⁻¹ Fᵀ r) / μ
            F Fᵀ ⪯ A gives κ(P⁻¹ (A + λ I)) <= (1 + μ / λ_min(A + λ I)) max(1, (‖R‖ + λ) / μ)
Reference   Chen, Epperly, Tropp, Webber, Randomly pivoted Cholesky, arXiv:2207.06503; in rounds by rejection: Epperly, Tropp,
            Webber, Embrace rejection, arXiv:2410.03969; as a preconditioner: Díaz, Epperly, Frangella, Tropp, Webber,
            arXiv:2304.12465
Cost        with c flops an entry of A: n k c + 2 n k² + n k b to grow to k columns, FᵀF included; k³/3 for a preconditioner, and
            4 n k + 2 k² a call; memory n k + 2 k², and a block of rows of 2 b + k numbers; nothing of n² entries
            2 synchronisations a round: H, and the rows' sums of squares
Deviations  1. What is below (10 + √k) eps A_ii of d is rounding, and 0: equal rows are taken once, and the rank of A is an end.
               So is what is left where squares underflow.
            2. d is kept on the host in float64, and FᵀF in float64 where the device has it.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from nearlin import _array
from nearlin.linalg.cholesky import FactorizationError, log_sum
from nearlin.linalg.operators import least_square, norm

LEAST, MOST = 16, 512  # proposals of a round: an eighth of the rank within these
NOISE = 10  # d_i below NOISE + √k units of rounding of A_ii is none
LOST = 0.02  # of A_ii: where pivots of a round nearly depend on each other, rounding of d may grow to A_ii / NOISE²
CANCELS = 32  # μ is at least so many eps λ₁(FᵀF): r - F w has that much rounding
ROWS = 1024  # of a block, where they fit: FᵀF is read and written once a block
STEPS = 10  # of the power method for λ₁(FᵀF)


class Entries(Protocol):
    """What is asked of a matrix A (n, n), positive semidefinite: its diagonal, and entries where they are wanted."""

    diagonal: object  # (n,)

    def entries(self, rows, columns):
        """A[rows, columns] for ``rows``, a slice or integers (r,), and ``columns``, integers (c,), next to the diagonal."""


@dataclass(frozen=True)
class PivotedCholesky:
    """A ≈ F Fᵀ from k columns of A; of rank 0 at first, see `grow`.

    Parameters
    ----------
    source : Entries
        A: its ``diagonal`` and its ``entries(rows, columns)``; it decides backend, device and dtype.
    key : int
        Key of the draws, which are made on the host: one key, the same pivots on all backends, up to rounding.

    Attributes
    ----------
    F : array, shape (n, k), or None where k is 0
    gram : array, shape (k, k), or None where k is 0
        FᵀF, in float64 where the device has it.
    remainder : NumPy array, shape (n,)
        d = diag(A - F Fᵀ), in float64 on the host; 0 at the pivots.
    pivots : tuple of int
        The columns of A that F is made of, in order.
    rounds : int
        So far.
    exhausted : bool
        Nothing above rounding is left: A = F Fᵀ.

    Raises
    ------
    BackendError, TypeError, ValueError
        A diagonal that is no array (n,) of float32 or float64, or has negative or non-finite numbers.
    """

    source: object
    key: int
    F: object = None
    gram: object = None
    remainder: object = None
    pivots: tuple = ()
    rounds: int = 0
    exhausted: bool = False

    def __post_init__(self):
        diagonal = self.source.diagonal
        if self.remainder is None:
            xp = _array.check(ndim={"diagonal": 1}, diagonal=diagonal)
            least = float(xp.min(diagonal))
            _array.require(least >= 0, f"diagonal holds {least:.3g}; expected at least 0: the matrix is positive semidefinite")
        object.__setattr__(self, "remainder", _host(diagonal if self.remainder is None else self.remainder))

    @property
    def rank(self):
        """k."""
        return len(self.pivots)

    def grow(self, rank, least=LEAST):
        """The same with ``rank`` columns, or fewer where it is exhausted: no column is made twice, and this one stays as it is.

        Parameters
        ----------
        rank : int
            At most n.
        least : int
            Proposals of a round at least: more where the source takes long for a few columns. The law of the pivots is the same.

        Returns
        -------
        PivotedCholesky

        Raises
        ------
        FactorizationError
            A is not positive semidefinite.
        BackendError, TypeError, ValueError
            A rank above n; entries that do not fit the diagonal, are not finite, or whose own diagonal is another.

        Notes
        -----
        n k c + 2 n k² + n k b flops for the first k columns. At most two synchronisations a round, and 10 to 16 rounds.
        """
        rank, n = _array.integer(1)("rank", rank), self.remainder.shape[0]
        _array.require(rank <= n, f"rank is {rank}; expected at most {n}, the rows of the matrix")
        if rank <= self.rank or self.exhausted:
            return self
        work = _Growth(self, rank)
        block = min(max(rank // 8, least), MOST)
        with _array.pooled(work.F):  # or BLAS libraries' threads wait for each other
            while work.rank < rank and not work.exhausted:
                work.round(block)
        return work.grown()

    def first(self, rank):
        """The same with its first ``rank`` columns alone, or this one where it has no more; n k flops."""
        rank = _array.integer(1)("rank", rank)
        if rank >= self.rank:
            return self
        (F,), pivots = _array.copies((self.F[:, :rank],)), self.pivots[:rank]  # not a view: the others' memory is free
        diagonal = _host(self.source.diagonal)
        d = diagonal - _host(_array.namespace(F).sum(F * F, axis=1))
        d[d <= _noise(rank, self._eps, diagonal)] = 0
        return replace(self, F=F, gram=self.gram[:rank, :rank], remainder=d, pivots=pivots, exhausted=False)

    def preconditioner(self, damping, shift=None):
        """P = F Fᵀ + μ I for A + λ I, λ = ``damping``; μ = ``shift``, by default max(λ + mean(d), 32 eps λ₁(FᵀF)).

        Returns
        -------
        PivotedPreconditioner

        Raises
        ------
        FactorizationError
            A and the damping are 0.
        ValueError
            A negative damping, or a shift that is not positive.
        """
        damping = _array.not_negative("damping", damping)
        if shift is None:
            shift = self.least_shift(damping + float(self.remainder.mean()))
            if shift == 0:
                raise FactorizationError("the matrix and its damping are 0; expected one of them to be positive")
        shift = _array.positive("shift", shift)
        R = None
        if self.rank:
            R = _array.namespace(self.F).astype(_array.cholesky(self.gram, shift=shift), self.F.dtype)
        return PivotedPreconditioner(self, damping, shift, R)

    def least_shift(self, shift):
        """``shift``, or 32 eps λ₁(FᵀF), below which r - F w has no digits left, where that is more."""
        return max(shift, CANCELS * self._eps * self._largest())

    @property
    def _eps(self):
        return float(_array.namespace(self.source.diagonal).finfo(self.source.diagonal.dtype).eps)

    def _largest(self):
        """λ₁(FᵀF) by the power method."""
        if not self.rank:
            return 0.0
        v, size = _array.normal(_array.fold_in(self.key, 1), (self.rank,), self.gram), 0.0
        for _ in range(STEPS):
            v = self.gram @ (v / norm(v))
            size = norm(v)
        return size


@dataclass(frozen=True)
class PivotedPreconditioner:
    """P⁻¹ r = (r - F (FᵀF + μ I)⁻¹ Fᵀ r) / μ for P = F Fᵀ + μ I; 4 n k + 2 k² flops a call. See `PivotedCholesky.preconditioner`.

    Attributes
    ----------
    factor : PivotedCholesky
    damping : float
        λ of the system A + λ I.
    shift : float
        μ.
    R : array, shape (k, k), or None where k is 0
        Upper triangular, RᵀR = FᵀF + μ I.
    """

    factor: PivotedCholesky
    damping: float
    shift: float
    R: object

    def __call__(self, r):
        """P⁻¹ r for r (n,), or (n c,): the same P for c columns, in order (row, column)."""
        if self.R is None:
            return r / self.shift
        F, R, xp = self.factor.F, self.R, _array.namespace(r)
        columns = r if r.shape[0] == F.shape[0] else xp.reshape(r, (F.shape[0], -1))
        w = _array.solve_triangular(R, _array.solve_triangular(R, xp.matrix_transpose(F) @ columns, trans=True))
        return xp.reshape(columns - F @ w, r.shape) / self.shift

    @property
    def rank(self):
        """k."""
        return self.factor.rank

    def with_damping(self, damping):
        """The same for another λ: k³/3 flops, as F and FᵀF do not depend on it."""
        return self.factor.preconditioner(damping)

    def effective_dimension(self):
        """Σ λ_i / (λ_i + λ) over the k eigenvalues of F Fᵀ: that of A, from below; 4 k³/3 flops."""
        if not self.rank:
            return 0.0
        xp = _array.namespace(self.factor.gram)
        values = xp.linalg.eigvalsh(self.factor.gram)
        values = values[values > self.factor.rank * float(xp.finfo(values.dtype).eps) * values[-1]]
        return float(xp.sum(values / (values + self.damping)))

    def condition_bound(self, smallest=None, remainder=None):
        """(1 + μ / λ_min(A + λ I)) max(1, (‖R‖ + λ) / μ), at least κ(P⁻¹ (A + λ I)).

        Parameters
        ----------
        smallest : float, optional
            λ_min(A + λ I) from below; by default λ.
        remainder : float, optional
            ‖R‖ from above; by default tr R.
        """
        smallest = self.damping if smallest is None else smallest
        remainder = float(self.factor.remainder.sum()) if remainder is None else remainder
        if smallest <= 0:
            return math.inf
        return (1 + self.shift / smallest) * max(1.0, (remainder + self.damping) / self.shift)

    def logdet(self):
        """log det P = (n - k) log μ + log det(FᵀF + μ I)."""
        n = self.factor.remainder.shape[0]
        return (n - self.rank) * math.log(self.shift) + (0.0 if self.R is None else 2 * log_sum(self.R))


class _Growth:
    """A factorisation on its way to ``rank`` columns: what changes from round to round."""

    def __init__(self, start, rank):
        self.start, self.source, diagonal = start, start.source, start.source.diagonal
        xp, self.target = _array.namespace(diagonal), rank
        where = {"device": _array.device(diagonal)}
        self.F = xp.empty((diagonal.shape[0], rank), dtype=diagonal.dtype, **where)
        self.gram = xp.zeros((rank, rank), dtype=_array.widest(diagonal), **where)
        if start.rank:
            self.F[:, : start.rank] = start.F
            self.gram[: start.rank, : start.rank] = start.gram
        self.diagonal, self.d, self.eps = _host(diagonal), start.remainder.copy(), start._eps
        self.underflow = least_square(diagonal)
        self.pivots, self.rounds, self.exhausted = list(start.pivots), start.rounds, False

    @property
    def rank(self):
        return len(self.pivots)

    @property
    def noise(self):
        """What of d is rounding, entry by entry."""
        return _noise(self.rank, self.eps, self.diagonal)

    def grown(self):
        k = self.rank
        F, gram = (self.F[:, :k], self.gram[:k, :k]) if k else (None, None)
        ends = {"rounds": self.rounds, "exhausted": self.exhausted}
        return replace(self.start, F=F, gram=gram, remainder=self.d, pivots=tuple(self.pivots), **ends)

    def round(self, block):
        """Draw pivots, and add their columns to F."""
        if not self.d.sum() > self.eps * self.diagonal.sum() + len(self.d) * self.underflow:
            self.exhausted = True
            return
        left = self.target - self.rank
        S, coins = self._proposed(min(block, 2 * left + 8))
        taken, L = accepted(self._minor(S), S, self.d, self.noise, coins, left)
        T = S[taken]
        self._add(_array.asarray(T, like=self.F, dtype="int64"), _array.asarray(L.T, like=self.F))
        self.pivots += T.tolist()
        self.d[self.d <= self.noise] = 0
        self.d[T] = 0

    def _proposed(self, b):
        """b columns S ~ d, on the host, and a number in [0, 1) for each."""
        draws, xp = _array.generator(_array.fold_in(self.start.key, 0, self.rounds)), _array.namespace(self.d)
        self.rounds += 1
        steps = xp.cumulative_sum(self.d)
        return xp.searchsorted(steps, draws.random(b) * steps[-1], side="right").clip(max=len(steps) - 1), draws.random(b)

    def _minor(self, S):
        """(A - F Fᵀ)_SS on the host; `accepted` has its diagonal from d, which carries less rounding."""
        xp, k = _array.namespace(self.F), self.rank
        at = _array.asarray(S, like=self.F, dtype="int64")
        A, F = self._entries(at, at), _array.rows_of(self.F[:, :k], at)
        H = _host(xp.stack([A, F @ xp.matrix_transpose(F)] if k else [A]))
        self._look_at(H[0].diagonal(), S)
        H = H[0] - H[1] if k else H[0]
        return (H + H.T) / 2

    def _look_at(self, own, S):
        wrong = ~(abs(own - self.diagonal[S]) <= math.sqrt(self.eps) * self.diagonal[S])
        if wrong.any():
            i = wrong.argmax()
            found = f"entry ({S[i]}, {S[i]}) of the matrix is {own[i]:.6g}, and {self.diagonal[S[i]]:.6g} on its diagonal"
            raise ValueError(f"{found}; expected the same number from source.entries as from source.diagonal")

    def _entries(self, rows, columns):
        """A[rows, columns], looked at."""
        found, r = self.source.entries(rows, columns), rows.stop - rows.start if isinstance(rows, slice) else rows.shape[0]
        _array.check(ndim={"entries": 2}, finite=False, beside=("diagonal", self.source.diagonal), entries=found)
        if found.shape != (r, columns.shape[0]):
            raise ValueError(f"entries have shape {tuple(found.shape)}; expected {(r, columns.shape[0])}: rows, columns")
        return found

    def _add(self, T, R):
        """F ← [F, (A_:T - F F_Tᵀ) R⁻¹], FᵀF and d with it, in one walk over blocks of rows."""
        xp, (n, _), k, t = _array.namespace(self.F), self.F.shape, self.rank, T.shape[0]
        F_T = xp.matrix_transpose(_array.rows_of(self.F[:, :k], T))

        def columns(rows):
            C = self._entries(rows, T)
            if k:
                C = C - self.F[rows, :k] @ F_T
            new = xp.matrix_transpose(_array.solve_triangular(R, xp.matrix_transpose(C), trans=True))
            self.F[rows, k : k + t] = new
            return xp.matrix_transpose(self.F[rows, : k + t]) @ new, xp.sum(new * new, axis=1)

        squares = []

        def add(rows, made):
            self.gram[: k + t, k : k + t] += xp.astype(made[0], self.gram.dtype, copy=False)
            squares.append(made[1])

        row = _array.itemsize(self.F.dtype) * (k + 3 * t)
        length = max(_array.block_length(row, self.F, parts=8), min(ROWS, _array.block_length(row, self.F)))
        _array.fold_blocks(columns, _array.slices(n, length), add, self.F)
        self.gram[k : k + t, :k] = xp.matrix_transpose(self.gram[:k, k : k + t])
        self._subtract(_host(xp.concat(squares)))

    def _subtract(self, squares):
        """d ← d - squares, looked at."""
        self.d -= squares
        lost = ~(self.d >= -LOST * self.diagonal - self.underflow)
        if lost.any():
            i = lost.argmax()
            if not math.isfinite(self.d[i]):
                raise ValueError(f"row {i} of the matrix holds NaN or Inf, or squares that overflow; expected finite numbers")
            left, whole = self.d[i], self.diagonal[i]
            found = f"a Schur complement has {left:.3g} on its diagonal at row {i}, beside {whole:.3g} in the matrix"
            raise FactorizationError(f"{found}; expected a positive semidefinite matrix whose diagonal is that of the source")


def _noise(rank, eps, diagonal):
    return (NOISE + math.sqrt(rank)) * eps * diagonal


def _host(x):
    """A float64 copy of its own on the host."""
    return _array.to_numpy(x).astype("float64")


def accepted(H, S, d, noise, coins, most):
    """Of the proposals S ~ d the pivots of the sequential method, by rejection: their places in S, at most ``most``, and L.

    Proposal i is taken where its coin is below what is left of d over d, which the pivots taken before have lowered.
    """
    b, taken = len(S), []
    L, left = _array.namespace(H).zeros((b, b)), d[S]
    for i in range(b):
        if left[i] <= noise[S[i]] or coins[i] * d[S[i]] > left[i]:
            continue
        j = len(taken)
        L[:, j] = (H[:, i] - L[:, :j] @ L[i, :j]) / math.sqrt(left[i])
        L[i, j] = math.sqrt(left[i])
        left = left - L[:, j] ** 2
        left[S[i] == S] = 0
        taken.append(i)
        if len(taken) == most:
            break
    L = L[taken, : len(taken)]
    return taken, L - _array.namespace(L).triu(L, k=1)
