r"""Residual smoothing of conjugate gradients: beside x_k, whose residual goes up and down, the y_k with the least one on the way.

Formula     y ← y + τ (x - y),  s ← s + τ (r - s),  τ = -<s, r - s> / ‖r - s‖²,  from y = 0, s = b;  ‖s‖ <= ‖r‖, and never grows
Reference   Schönauer, Scientific Computing on Vector Computers (1987); Zhou, Walker, Residual smoothing techniques for iterative
            methods, SISC 15 (1994): without a preconditioner y_k are the iterates of MINRES
Cost        12 n flops an iteration, 3 more for every number of another image, and 2 synchronisations
Deviations  1. Where ‖r - s‖² is 0 or overflows, y = x.
"""

import math

from nearlin._array import read, unguarded
from nearlin.linalg.operators import product, safe_norm


class Smoothing:
    """The ``stop`` of `nearlin.linalg.cg` that ends it at ‖s‖ <= rtol ‖b‖.

    Parameters
    ----------
    b : array, shape (n,)
        The right-hand side of a solve that starts at 0.
    rtol : float
    images : callable, optional
        Of no arguments: a tuple of arrays, linear images of the x that CG is at; those of y are ``images`` then.

    Attributes
    ----------
    x : array, shape (n,), or None
        y; None before the first iteration.
    images : tuple of arrays
    steps : int
        Iterations that were looked at: CG does not ask after one that meets the tolerance itself, or fails.
    """

    def __init__(self, b, rtol, images=tuple):
        self._of_x, self._rest, self._bound = images, b, rtol * safe_norm(b)
        self.x, self.images, self.steps = None, (), 0

    def __call__(self, x, r):
        change, self.steps = r - self._rest, self.steps + 1
        with unguarded():
            square, along = read(product(change, change), product(self._rest, change))
        share = -along / square if 0 < square < math.inf else 1.0
        if self.x is None:
            self.x, self.images = share * x, tuple(share * image for image in self._of_x())
        else:
            self.x = _between(self.x, x, share)
            self.images = tuple(_between(*pair, share) for pair in zip(self.images, self._of_x(), strict=True))
        self._rest = self._rest + share * change
        return safe_norm(self._rest) <= self._bound


def _between(y, x, share):
    return y + share * (x - y)
