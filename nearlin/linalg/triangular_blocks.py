"""Preconditioners of a system over (sample, output) from small triangular factors: one for all outputs, or one for each.

Formula     whole      M = RᵀR,                R (n c, n c)
            shared     M = RᵀR ⊗ I_c,          R (n, n): one mean Gram matrix for all c outputs
            by class   M = blockdiag RₖᵀRₖ,    Rₖ (n, n): the outputs' own Gram matrices
Reference   derived; the shared form from the class-averaged kernel, arXiv:2006.11648 extended to many outputs
Cost        2 n² c flops a call, 2 (n c)² for the whole; n²/2, c n²/2, (n c)²/2 floats
Deviations  none
"""

from typing import NamedTuple

from nearlin._array import namespace, signs, solve_triangular
from nearlin.linalg.cholesky import damped_cholesky
from nearlin.linalg.operators import inner


class TriangularBlocks(NamedTuple):
    """M⁻¹ r for r (n c,) in order (sample, output).

    Attributes
    ----------
    factors : tuple of arrays
        One upper triangular R, or one for each of the columns.
    columns : int
        r is seen as a matrix with so many columns: 1 for the whole system, else c.
    shift : float
        What was added to the diagonals before the factorisation: to estimate the effective dimension.
    """

    factors: tuple
    columns: int
    shift: float

    @classmethod
    def of(cls, matrices, shift, name):
        """Of one matrix (n c, n c), or of one (n, n) for every output, each with ``shift`` I added; see `damped_cholesky`."""
        return cls(tuple(damped_cholesky(matrix, shift, name) for matrix in matrices), len(matrices), shift)

    def __call__(self, r):
        return self._solve(r, lambda R, b: solve_triangular(R, solve_triangular(R, b, trans=True)))

    def effective_dimension(self, key):
        """tr(G (G + λ I)⁻¹) of the factored matrices by one random probe z = ±1: N - λ ||R⁻ᵀ z||² for N rows; half a call."""
        rows = self.factors[0].shape[0] * self.columns
        halves = self._solve(signs(key, rows, self.factors[0]), lambda R, b: solve_triangular(R, b, trans=True))
        return max(0.0, rows - self.shift * inner(halves, halves))

    def _solve(self, r, solve):
        """``solve(R, b)`` of every column."""
        if self.columns == 1:
            return solve(self.factors[0], r)
        xp = namespace(r)
        r = xp.reshape(r, (-1, self.columns))
        if len(self.factors) == 1:
            return xp.reshape(solve(self.factors[0], r), (-1,))
        return xp.reshape(xp.stack([solve(R, r[:, k]) for k, R in enumerate(self.factors)], axis=1), (-1,))
