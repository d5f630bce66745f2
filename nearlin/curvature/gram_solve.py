r"""(J Jᵀ + λ I) g = b through products with J, corrected until the true residual is met.

Formula     g ← g + dg,   δ ← δ + Jᵀdg,   rest ← b - J δ - λ g,   where dg solves (J Jᵀ + λ I) dg = rest approximately
Reference   iterative refinement: Wilkinson (1963); with inner products in a lower precision, Carson, Higham, SISC 40 (2018)
Cost        what the inner solves cost, and one product with J a correction: J δ completes the residual; none where they bring it
Deviations  1. The inner solves keep Jᵀdg, and may keep J Jᵀdg, from their own products, so that neither δ nor the residual needs
               another one. An image that is summed up so is that of δ up to k eps ||J|| ||δ|| after k iterations.
            2. g and δ stay in the dtype of b and of the outer J whatever the inner one is: cast to float32, they lose what the
               correction has gained. From inner products of a lower precision δ differs from Jᵀg by eps ||J|| ||g||, which the
               residual does not see: there it is formed anew.
"""

import math
from typing import NamedTuple

from nearlin._array import check_system, namespace
from nearlin.linalg.cg import cg
from nearlin.linalg.operators import axpy, norm
from nearlin.linalg.smoothing import Smoothing
from nearlin.linalg.solve_info import Exit, SolveInfo

PROGRESS = 0.9  # a correction that leaves more of the residual than this share is the last one


class GramSolution(NamedTuple):
    """g (n,), δ = Jᵀg, its image J δ (n,), and the certificate."""

    g: object
    step: object
    image: object
    info: SolveInfo


def gram_solve(J, b, damping, inner_solve, rtol, limit, size=None):
    """Solve (J Jᵀ + λ I) g = b to the true residual ``rtol`` ||b||, or until a correction hardly reduces it.

    Parameters
    ----------
    J : operator
        With ``matvec``, in the dtype of ``b``: the residual is measured by it.
    b : array, shape (n,)
        Zero is answered with zero.
    damping : float
        λ.
    inner_solve : callable
        ``inner_solve(rest, rtol, limit) -> (dg, step, info)`` or ``(dg, step, info, image)``: an approximate solution for the
        right-hand side ``rest`` in at most ``limit`` iterations, ``step`` = Jᵀdg, and its image J Jᵀdg where the inner products
        are those of ``J`` itself; all in the dtype of ``b``. A ``step`` of None: δ = Jᵀg is formed by ``J``.
    rtol : float
    limit : int
        Iterations in all.
    size : float, optional
        ||b||, where it is known: a GPU is not asked for it again.

    Returns
    -------
    GramSolution
        Its ``info`` ends as converged, as the last inner solve did, as stalled, or as non-finite.

    Raises
    ------
    BackendError, TypeError, ValueError
        A b that is no vector of float32 or float64, a negative damping, or a tolerance outside of [0, 1).
    """
    check_system(b, rtol, damping)
    target = left = norm(b) if size is None else size
    if not 0 < target < math.inf:
        zero = namespace(b).zeros_like(b)
        return GramSolution(zero, J.rmatvec(zero), zero, SolveInfo.unsolved(target))
    g, step, image, rest, iterations, products, first = 0.0, None, 0.0, b, 0, 0, True
    while True:
        before = left
        dg, dstep, info, *known = inner_solve(rest, rtol * target / before, limit - iterations)
        g = g + dg
        step = J.rmatvec(g) if dstep is None else dstep if step is None else axpy(1.0, dstep, step)
        image = image + known[0] if known else J.matvec(step)
        rest = b - image - damping * g
        iterations, products = iterations + info.iterations, products + info.products + (not known)
        left = norm(rest)
        stuck = not left < PROGRESS * before and not (first and math.isfinite(left))  # the first may gain in δ alone
        if left <= 1.001 * rtol * target or info.reason != Exit.CONVERGED or stuck:
            break
        first = False
    failed = info.reason if info.reason != Exit.CONVERGED else Exit.STALLED if math.isfinite(left) else Exit.NON_FINITE
    reason = Exit.CONVERGED if left <= 1.001 * rtol * target else failed
    info = SolveInfo(left / target, iterations, products, reason, info.condition, largest=info.largest)
    return GramSolution(g, step, image, info)


class DampedGram:
    """v → (J Jᵀ + λ I) v that remembers Jᵀv, so that Jᵀg follows from the steps g += α v without another product.

    With ``keep_image`` J Jᵀg is summed up too, in ``image``.
    """

    def __init__(self, J, damping, keep_image=False):
        self.J, self.damping, self.last, self.adjoint = J, damping, None, None
        self.image, self._last_image, self._keep = None, None, keep_image

    def __call__(self, v):
        self.last = None  # its memory is free for the next one
        self._last_image, self.last = self.J.gram_matvec_with_adjoint(v)
        return self._last_image + self.damping * v

    def accumulate(self, alpha):
        """Add α Jᵀv for the last v: called by the solver after g += α v."""
        self.adjoint = tuple(alpha * V for V in self.last) if self.adjoint is None else axpy(alpha, self.last, self.adjoint)
        if self._keep:
            self.image = alpha * self._last_image if self.image is None else self.image + alpha * self._last_image

    def sums(self):
        """What is summed up so far: the arrays of Jᵀg, and J Jᵀg if it is kept."""
        return self.adjoint if self.image is None else (*self.adjoint, self.image)

    def replace(self, sums):
        """Go on with other ``sums``, those of another g."""
        self.adjoint, self.image = (sums, None) if self.image is None else (sums[:-1], sums[-1])

    def in_dtype_of(self, g, like):
        """g and Jᵀg in the dtype of ``like``."""
        step = self.adjoint or self.J.rmatvec(g)
        cast = lambda a: namespace(a).astype(a, like.dtype, copy=False)  # noqa: E731
        return cast(g), tuple(map(cast, step))


def smoothed_cg(operator, b, rtol, **options):
    """`cg` on a `DampedGram` that goes on to the best combination of its iterates, and ends by its residual, `Smoothing`.

    Returns g and `SolveInfo`; the operator's sums are of the same g.
    """
    smooth = Smoothing(b, rtol, operator.sums)
    g, info = cg(operator, b, rtol=rtol, certify=False, on_step=operator.accumulate, stop=smooth, **options)
    if smooth.steps and smooth.steps == info.iterations:
        operator.replace(smooth.images)
        return smooth.x, info
    return g, info
