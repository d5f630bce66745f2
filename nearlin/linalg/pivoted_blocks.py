r"""A second level for near-duplicates: what k columns leave of A, kept within small groups of rows that lie near each other.

Formula     P = F Fᵀ + B,  B = blockdiag(A - F Fᵀ) + μ I over the groups,  μ = max(λ, 32 eps λ₁(FᵀF))
            P⁻¹ = B⁻¹ - B⁻¹ F (I + Fᵀ B⁻¹ F)⁻¹ Fᵀ B⁻¹
            groups of at most 64 rows: each part is cut across two far points of it, at the widest gap of its middle half
            worth it where (log det P_flat - log det P) / n > .7, P_flat = F Fᵀ + μ_flat I
Reference   derived; F as in `nearlin.linalg.pivoted_cholesky`. The bound .7 is measured: .94 to 2.66 where blocks win, below .46
            where they do not (smooth data, and data far from the origin)
Cost        about 6 n d log₂(n / q) flops for groups of q rows in d dimensions
            n q (c + 2 k) + 7 n q²/3 flops for B⁻¹, c an entry of A;  2 n k (q + k) + k³/3 for I + Fᵀ B⁻¹ F
            a call 4 n k + 2 k² + 4 n q;  memory n q + k² beside F.  n counts groups as if all were of the largest's size
Deviations  none
"""

import math
from dataclasses import dataclass

from nearlin import _array
from nearlin.linalg.block_inverse import block_inverse
from nearlin.linalg.cholesky import log_sum
from nearlin.linalg.pivoted_cholesky import PivotedCholesky

ROWS = 64  # of a group at most
GAIN = 0.7  # of log det, a row, above which the groups are kept


def nearby_groups(x, key, size=ROWS):
    """Groups of at most ``size`` rows of ``x`` (n, d) near each other, clusters whole where they can be: on the host.

    Parameters
    ----------
    x : array, shape (n, d)
    key : int
        Key of the first of the two far points of each part.
    size : int
        At least 2.

    Returns
    -------
    list of NumPy arrays of integers
        Every row once; ascending within a group.
    """
    _array.check(ndim={"x": 2}, x=x)
    size, x, draws, done = _array.integer(2)("size", size), _array.to_numpy(x), _array.generator(key), []
    xp = _array.namespace(x)
    parts = [xp.arange(x.shape[0])]
    while parts:
        part = parts.pop()
        if len(part) <= size:
            done.append(xp.sort(part))
            continue
        points = x[part]
        far = points[_farthest(points, points[draws.integers(len(part))])]
        along = points @ (far - points[_farthest(points, far)])
        order = xp.argsort(along, stable=True)
        low, high = len(part) // 4, 3 * len(part) // 4
        cut = low + 1 + int(xp.argmax(xp.diff(along[order])[low:high]))
        parts += [part[order[cut:]], part[order[:cut]]]
    return done


def _farthest(points, one):
    return int(((points - one) ** 2).sum(axis=1).argmax())


@dataclass(frozen=True)
class PivotedBlocks:
    """P⁻¹ r for P = F Fᵀ + B. Made by `pivoted_blocks`.

    Attributes
    ----------
    factor : PivotedCholesky
    shift : float
        μ.
    members : array of int64, shape (groups, q)
        Rows of each group; smaller ones are filled up with row 0, which stands apart in ``inverses``.
    places : array of int64, shape (n,)
        Where each row stands among the ``members``.
    inverses : array, shape (groups, q, q)
        B⁻¹ by groups; 1/μ on the diagonal where a group is filled up.
    R : array, shape (k, k), or None where k is 0
        Upper triangular, RᵀR = I + Fᵀ B⁻¹ F.
    """

    factor: PivotedCholesky
    shift: float
    members: object
    places: object
    inverses: object
    R: object

    def __call__(self, r):
        """P⁻¹ r for r (n,), or (n c,): the same P for c columns, in order (row, column)."""
        xp, columns = _array.namespace(r), r
        if r.shape[0] > self.places.shape[0]:
            columns = xp.reshape(r, (self.places.shape[0], -1))
        q = self._blocks(columns)
        if self.R is not None:
            F, R = self.factor.F, self.R
            w = _array.solve_triangular(R, _array.solve_triangular(R, xp.matrix_transpose(F) @ q, trans=True))
            q = self._blocks(columns - F @ w)
        return xp.reshape(q, r.shape)

    def _blocks(self, r):
        """B⁻¹ r."""
        xp, columns = _array.namespace(r), math.prod(r.shape[1:])
        rows = xp.take(xp.reshape(r, (-1, columns)), xp.reshape(self.members, (-1,)), axis=0)
        solved = self.inverses @ xp.reshape(rows, (*self.members.shape, columns))
        return xp.reshape(xp.take(xp.reshape(solved, (-1, columns)), self.places, axis=0), r.shape)

    @property
    def rank(self):
        """k."""
        return self.factor.rank

    def logdet(self):
        """log det P = log det B + log det(I + Fᵀ B⁻¹ F)."""
        xp = _array.namespace(self.inverses)
        filled = math.prod(self.members.shape) - self.places.shape[0]
        within = -float(xp.sum(xp.linalg.slogdet(self.inverses)[1])) - filled * math.log(self.shift)
        return within + (0.0 if self.R is None else 2 * log_sum(self.R))


def pivoted_blocks(factor, damping, groups):
    """`PivotedBlocks` for A + λ I, λ = ``damping``.

    Parameters
    ----------
    factor : PivotedCholesky
        Its source is asked for the groups' entries: F and B have to come from one matrix.
    damping : float
        Positive.
    groups : list of NumPy arrays of integers
        Every row of A in one of them, as `nearby_groups` makes them.

    Returns
    -------
    PivotedBlocks

    Raises
    ------
    FactorizationError
        What is left of A within a group is not positive definite, whatever the damping.
    ValueError
        A damping that is not positive, or groups that do not hold every row once.
    """
    shift = factor.least_shift(_array.positive("damping", damping))
    members, present, places = _stacked(groups, factor)
    inverses = block_inverse(_remainders(factor, members, present), shift, "group").inverse
    return PivotedBlocks(factor, shift, members, places, inverses, _root(factor, members, present, inverses))


def second_level(flat, groups):
    """`PivotedBlocks` beside ``flat``, a `PivotedPreconditioner`, or ``flat`` itself where they are not worth it."""
    blocks = pivoted_blocks(flat.factor, flat.damping, groups)
    return blocks if (flat.logdet() - blocks.logdet()) / flat.factor.remainder.shape[0] > GAIN else flat


def _stacked(groups, factor):
    """``members``, ``present`` (1 for a row of the group, else 0) and ``places`` next to F."""
    n, like, host = factor.remainder.shape[0], factor.source.diagonal, _array.namespace(factor.remainder)
    rows = host.concat([host.asarray(group) for group in groups]) if groups else host.zeros(0, dtype="int64")
    if rows.shape[0] != n or not (host.sort(rows) == host.arange(n)).all():
        raise ValueError(f"groups hold {rows.shape[0]} rows; expected each of the {n} rows of the matrix once")
    longest = max(map(len, groups))
    present = host.arange(longest)[None, :] < host.asarray([len(group) for group in groups])[:, None]
    members, places = host.zeros(present.shape, dtype="int64"), host.zeros(n, dtype="int64")
    members[present] = rows
    places[rows] = host.nonzero(present.ravel())[0]
    members, places = (_array.asarray(a, like=like, dtype="int64") for a in (members, places))
    return members, _array.asarray(present, like=like), places


def _rows(factor, members, present):
    """F by groups (g, q, k), with zeros where a group is filled up."""
    xp = _array.namespace(present)
    rows = xp.take(factor.F, xp.reshape(members, (-1,)), axis=0)
    return xp.reshape(rows, (*members.shape, factor.rank)) * present[:, :, None]


def _walk(factor, members):
    """Slices of groups, so many that their rows of F make a block."""
    row = _array.itemsize(factor.source.diagonal.dtype) * members.shape[1] * (2 * factor.rank + members.shape[1])
    return _array.slices(members.shape[0], _array.block_length(row, members))


def _remainders(factor, members, present):
    """A - F Fᵀ by groups (g, q, q); zeros where a group is filled up."""
    xp = _array.namespace(present)

    def remainders(some):
        A = xp.stack([factor.source.entries(rows, rows) for rows in (members[i, :] for i in range(some.start, some.stop))])
        if factor.rank:
            F = _rows(factor, members[some, :], present[some, :])
            A = A - F @ xp.matrix_transpose(F)
        A = A * present[some, :, None] * present[some, None, :]
        return (A + xp.matrix_transpose(A)) / 2

    return xp.concat(_array.map_blocks(remainders, _walk(factor, members), present), axis=0)


def _root(factor, members, present, inverses):
    """R with RᵀR = I + Fᵀ B⁻¹ F."""
    if not factor.rank:
        return None
    xp, k = _array.namespace(present), factor.rank

    def products(some):
        F = _rows(factor, members[some, :], present[some, :])
        solved = inverses[some, :, :] @ F
        product = xp.matrix_transpose(xp.reshape(F, (-1, k))) @ xp.reshape(solved, (-1, k))
        return xp.astype(product, _array.widest(product), copy=False)

    core = _array.sum_blocks(products, _walk(factor, members), present)
    core = (core + xp.matrix_transpose(core)) / 2
    return xp.astype(_array.cholesky(core, shift=1.0), present.dtype)
