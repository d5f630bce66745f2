"""CountSketch with balanced buckets.

Formula     (S A)_h = sum of ε_j A_j over the coordinates j of bucket h, ε_j = ±1.
Reference   Charikar, Chen and Farach-Colton, Finding frequent items in data streams (2002); Clarkson and Woodruff, Low rank
            approximation and regression in input sparsity time (STOC 2013).
Cost        2 p k flops for k columns; 2 q s entries are held, q = ceil(p / s).
Deviations  1. Buckets are the rows of a randomly permuted (s, q) table of the coordinates (with q s - p empty places), so that
               all hold the same number up to empty places, instead of independent uniform buckets. Two coordinates meet with
               probability (q - 1) / (q s - 1) < 1 / s, and the variance of ‖S x‖² is no larger than with independent buckets.
               In exchange the product is a gather and a sum, without a scatter-add, which the array API does not have.
"""

from dataclasses import dataclass

from nearlin import _array
from nearlin.sketch._base import FlatDistribution, FlatSample


@dataclass(frozen=True)
class CountSketch(FlatDistribution):
    """Every coordinate goes to one of s buckets with a random sign.

    Examples
    --------
    >>> A = np.ones((4096, 3))
    >>> (nl.sketch.CountSketch().sample(0, s=512, shape=4096, like=A) @ A).shape
    (512, 3)
    """

    def _drawn(self, key, s, p, like):
        xp = _array.namespace(like)
        places = -(-p // s) * s
        order = _array.permutation(_array.fold_in(key, 0), places, like)
        signs = _array.signs(_array.fold_in(key, 1), places, like) * xp.astype(order < p, like.dtype)
        return CountSketchSample((s, p), order, signs)


@dataclass(frozen=True, eq=False)
class CountSketchSample(FlatSample):
    """One draw: place t = (bucket, position) holds coordinate ``order[t]`` with ``signs[t]``, which is 0 at empty places."""

    order: object
    signs: object

    def _held(self):
        return self.signs

    def _apply(self, a):
        xp = _array.namespace(a)
        s, p = self.shape
        taken = xp.take(a, _array.clipped(self.order, 0, p - 1), axis=0) * self.signs[:, None]
        return xp.sum(xp.reshape(taken, (s, self.order.shape[0] // s, a.shape[1])), axis=1)

    def _adjoint(self, b):
        xp = _array.namespace(b)
        s, p = self.shape
        spread = xp.reshape(self.signs, (s, -1, 1)) * b[:, None, :]
        places = xp.argsort(self.order)[:p]
        return xp.take(xp.reshape(spread, (self.order.shape[0], b.shape[1])), places, axis=0)
