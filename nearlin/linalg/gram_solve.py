r"""(J Jᵀ + λ I) g = b through products with J, corrected until the true residual is met.

Formula     g ← g + dg,   δ ← δ + Jᵀdg,   rest ← b - J δ - λ g,   where dg solves (J Jᵀ + λ I) dg = rest approximately
Reference   iterative refinement: Wilkinson (1963); with inner products in a lower precision, Carson, Higham, SISC 40 (2018)
Cost        what the inner solves cost, and one product with J a correction: J δ completes the residual
Deviations  1. The inner solves keep Jᵀdg from their own products, so that neither δ nor the residual needs another one.
            2. g and δ stay in the dtype of b and of the outer J whatever the inner one is: cast to float32, they lose what the
               correction has gained.
"""

from typing import NamedTuple

from nearlin._array import namespace
from nearlin.linalg.operators import axpy, norm
from nearlin.linalg.solve_info import SolveInfo


class GramSolution(NamedTuple):
    """g (n,), δ = Jᵀg, its image J δ (n,), and the certificate."""

    g: object
    step: object
    image: object
    info: SolveInfo


def gram_solve(J, b, damping, inner_solve, rtol, limit):
    """Solve (J Jᵀ + λ I) g = b to the true residual ``rtol`` ||b||, or until a correction no longer halves it.

    Parameters
    ----------
    J : operator
        With ``matvec``, in the dtype of ``b``: the residual is measured by it.
    b : array, shape (n,)
        Not zero.
    damping : float
        λ.
    inner_solve : callable
        ``inner_solve(rest, rtol, limit) -> (dg, step, info)``: an approximate solution for the right-hand side ``rest`` and
        ``step`` = Jᵀdg, both in the dtype of ``b``, in at most ``limit`` iterations.
    rtol : float
    limit : int
        Iterations in all.

    Returns
    -------
    GramSolution
        Its ``info`` ends as converged, as the last inner solve did, or as stalled.
    """
    target = norm(b)
    g, step, rest, iterations, products = 0.0, None, b, 0, 0
    while True:
        before = norm(rest)
        dg, dstep, info = inner_solve(rest, rtol * target / before, limit - iterations)
        g, step = g + dg, dstep if step is None else axpy(1.0, dstep, step)
        image = J.matvec(step)
        rest = b - image - damping * g
        iterations, products = iterations + info.iterations, products + info.products + 1
        left = norm(rest)
        if left <= 1.001 * rtol * target or info.reason != "converged" or not left < 0.5 * before:
            break
    reason = "converged" if left <= 1.001 * rtol * target else info.reason if info.reason != "converged" else "stalled"
    info = SolveInfo(left / target, iterations, products, reason, info.condition, largest=info.largest)
    return GramSolution(g, step, image, info)


class DampedGram:
    """v → (J Jᵀ + λ I) v that remembers Jᵀv, so that Jᵀg follows from the steps g += α v without another product."""

    def __init__(self, J, damping):
        self.J, self.damping, self.last, self.adjoint = J, damping, None, None

    def __call__(self, v):
        image, self.last = self.J.gram_matvec_with_adjoint(v)
        return image + self.damping * v

    def accumulate(self, alpha):
        """Add α Jᵀv for the last v: called by the solver after g += α v."""
        scaled = tuple(alpha * V for V in self.last)
        self.adjoint = scaled if self.adjoint is None else axpy(1.0, scaled, self.adjoint)

    def in_dtype_of(self, g, like):
        """g and Jᵀg in the dtype of ``like``."""
        step = self.adjoint or self.J.rmatvec(g)
        cast = namespace(g).astype
        return cast(g, like.dtype, copy=False), tuple(cast(V, like.dtype, copy=False) for V in step)
