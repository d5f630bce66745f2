"""Sparse sign embedding.

Formula     S = nnz^(-1/2) [S_1; ...; S_nnz], each S_j a CountSketch on its share of the s rows: nnz entries ±nnz^(-1/2) in
            every column.
Reference   Cohen, Nearly tight oblivious subspace embeddings by trace inequalities (SODA 2016); the block construction is that
            of Kane and Nelson, Sparser Johnson-Lindenstrauss transforms (JACM 2014).
Cost        2 nnz p k flops for k columns; about 2 nnz p entries are held.
Deviations  1. Each block is a CountSketch with balanced buckets (see `CountSketch`).
            2. Where nnz does not divide s, the blocks differ in size by one row.
"""

from dataclasses import dataclass

from nearlin import _array
from nearlin.sketch._base import FlatDistribution, FlatSample
from nearlin.sketch.countsketch import CountSketch, CountSketchSample


@dataclass(frozen=True)
class SparseSign(FlatDistribution):
    """``nnz`` random signs in every column, one in each of ``nnz`` blocks of rows; fewer rows are a `ValueError`.

    Examples
    --------
    >>> A = np.ones((4096, 3))
    >>> (nl.sketch.SparseSign().sample(0, s=512, shape=4096, like=A) @ A).shape
    (512, 3)
    """

    nnz: int = 8

    def __post_init__(self):
        _array.settle(self, nnz=_array.integer(1, ", the non-zeros of a column"))

    def _drawn(self, key, s, p, like):
        if self.nnz > s:
            raise ValueError(f"nnz is {self.nnz} and s is {s}; expected at least one sketch row for each non-zero of a column")
        ends = [s * j // self.nnz for j in range(self.nnz + 1)]
        blocks = [CountSketch().sample(_array.fold_in(key, j), ends[j + 1] - ends[j], p, like=like) for j in range(self.nnz)]
        return SparseSignSample((s, p), tuple(blocks))


@dataclass(frozen=True, eq=False)
class SparseSignSample(FlatSample):
    """One draw: ``blocks``, one CountSketch per non-zero of a column."""

    blocks: tuple[CountSketchSample, ...]

    def _held(self):
        return self.blocks[0].signs

    def _apply(self, a):
        return _array.namespace(a).concat([block @ a for block in self.blocks], axis=0) * len(self.blocks) ** -0.5

    def _adjoint(self, b):
        total, start = 0.0, 0
        for block in self.blocks:
            stop = start + block.shape[0]
            total, start = total + block.rmatmul(b[start:stop, ...]), stop
        return total * len(self.blocks) ** -0.5
