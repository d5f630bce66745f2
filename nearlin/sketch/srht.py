"""Subsampled randomised Hadamard transform.

Formula     S = s^(-1/2) P H_N [D; 0]: random signs D (p, p), zeros up to N = 2^k >= p, unnormalised Hadamard H_N, and P,
            which takes s of the N rows.
Reference   Ailon and Chazelle, The fast Johnson-Lindenstrauss transform and approximate nearest neighbors (SIAM J. Comput.,
            2009); Tropp, Improved analysis of the subsampled randomized Hadamard transform (arXiv:1011.1595).
Cost        at most 8 k N log2 N flops for k columns, as dense 16-point products (`fwht`; butterflies: k N log2 N additions);
            p + s entries are held.
Deviations  1. Rows are taken without replacement and kept in ascending order, which changes SᵀS in nothing.
            2. For s > N every row is taken s // N times, and s mod N rows once more, without replacement.
"""

from dataclasses import dataclass

from nearlin import _array
from nearlin.linalg.hadamard import fwht, next_power_of_two, pad_rows
from nearlin.sketch._base import FlatDistribution, FlatSample


@dataclass(frozen=True)
class SRHT(FlatDistribution):
    """Signs, Hadamard transform, rows without replacement.

    Examples
    --------
    >>> A = np.ones((4096, 3))
    >>> (nl.sketch.SRHT().sample(0, s=512, shape=4096, like=A) @ A).shape
    (512, 3)
    """

    def _drawn(self, key, s, p, like):
        xp = _array.namespace(like)
        length = next_power_of_two(p)
        signs = _array.signs(_array.fold_in(key, 0), p, like)
        taken = _array.permutation(_array.fold_in(key, 1), length, like)[: s % length]
        return SRHTSample((s, p), signs, xp.sort(taken))


@dataclass(frozen=True, eq=False)
class SRHTSample(FlatSample):
    """One draw: ``signs`` (p,) and the ascending ``index`` of the s mod N rows that are taken beside the s // N full rounds."""

    signs: object
    index: object

    def _held(self):
        return self.signs

    def _apply(self, a):
        xp = _array.namespace(a)
        s, p = self.shape
        length = next_power_of_two(p)
        y = fwht(pad_rows(a * self.signs[:, None], length))
        taken = [xp.take(y, self.index, axis=0)] if s % length else []
        return xp.concat([y] * (s // length) + taken, axis=0) * s**-0.5

    def _adjoint(self, b):
        s, p = self.shape
        length = next_power_of_two(p)
        full = s // length * length
        y = _scatter_rows(b[full:, ...], self.index, length) if s % length else 0.0
        for start in range(0, full, length):
            y = y + b[start : start + length, ...]
        return fwht(y)[:p, ...] * (self.signs * s**-0.5)[:, None]


def _scatter_rows(b, index, length):
    """(length, k) array with the rows of ``b`` at the ascending, distinct ``index`` and zeros elsewhere.

    The standard has no write to an integer index, so every row looks up its source.
    """
    xp = _array.namespace(b)
    row = xp.arange(length, dtype=index.dtype, device=_array.device(index))
    source = _array.clipped(xp.searchsorted(index, row), 0, index.shape[0] - 1)
    hit = xp.astype(xp.take(index, source) == row, b.dtype)
    return xp.take(b, source, axis=0) * hit[:, None]
