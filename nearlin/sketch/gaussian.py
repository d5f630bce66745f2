"""Dense Gaussian sketch.

Formula     S (s, p) with independent entries N(0, 1/s).
Reference   Halko, Martinsson and Tropp, Finding structure with randomness (SIAM Review, 2011);
            Woodruff, Sketching as a tool for numerical linear algebra (2014), chapter 2.
Cost        2 s p k flops for k columns; s p entries are held.
Deviations  none.
"""

from dataclasses import dataclass

from nearlin import _array
from nearlin.sketch._base import FlatDistribution, FlatSample


@dataclass(frozen=True)
class Gaussian(FlatDistribution):
    """Independent N(0, 1/s) entries: the yardstick that other sketches are measured by, as its quality depends on no data.

    Examples
    --------
    >>> A = nl.data.sphere(n=4096, d=3, seed=0)[0]
    >>> S = nl.sketch.Gaussian().sample(0, s=512, shape=4096, like=A)
    >>> bool(np.linalg.cond(S @ np.linalg.qr(A).Q) < 1.5)  # S nearly keeps the lengths of the vectors A v
    True
    >>> S.rmatmul(S @ A).shape
    (4096, 3)
    """

    def _drawn(self, key, s, p, like):
        return GaussianSample((s, p), _array.normal(key, (s, p), like) * s**-0.5)


@dataclass(frozen=True, eq=False)
class GaussianSample(FlatSample):
    """One draw: ``matrix`` (s, p)."""

    matrix: object

    def _held(self):
        return self.matrix

    def _apply(self, a):
        return _array.namespace(a).matmul(self.matrix, a)

    def _adjoint(self, b):
        xp = _array.namespace(b)
        return xp.matmul(xp.matrix_transpose(self.matrix), b)
