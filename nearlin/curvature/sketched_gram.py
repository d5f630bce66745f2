r"""The paper's R, from a sketch of J: how a step makes it, and how long it serves.

Formula     RᵀR = G̃ + λ I,  G̃ = J SᵀS Jᵀ;  M⁻¹ = R⁻¹R⁻ᵀ
            R is kept until a step needs 1.5 times the iterations (plus one) of the step that built it, or λ moves by more than 10
            times; a sketch with which a fresh solve takes more than 6 iterations is twice as large in the next step
Reference   arXiv:2006.11648; the rules are measured
Cost        that of `Jacobian.sketch_gram` and n³/3 flops;  an application 2 n² c
Deviations  those of `nearlin.optim.near_linear_gauss_newton`
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import copies, namespace, same
from nearlin.curvature.planner import HORIZON
from nearlin.curvature.preconditioning import near, too_rough
from nearlin.curvature.routes import ROUTES
from nearlin.linalg import TriangularBlocks, sketch_factor


class SketchedGram(NamedTuple):
    """R with RᵀR = G̃ + damping I, and what decides how long it serves."""

    R: object
    x: object  # the inputs it was built for
    damping: float
    scale: float  # tr(G̃)/n
    oversampling: float  # sketch rows per n
    of: str  # the distribution of the sketch, or "kernel"
    how: str  # the factorisation
    effort: float = math.inf  # iterations per ln(1/ε) of the step that built it

    smoothed = False  # few iterations, in which the residual falls

    @property
    def described(self):
        """In words."""
        return f"{self.of}, {self.how}"

    def operator(self, rows):
        """r → R⁻¹R⁻ᵀ r for r (n c,), the same for every output with neurons of its own; ``rows`` is n c."""
        return TriangularBlocks((self.R,), rows // self.R.shape[0], self.damping)


class Sketched(NamedTuple):
    """G̃ = J SᵀS Jᵀ, J Sᵀ where the sketch forms it, tr(G̃)/n, and the sketch rows per n."""

    gram: object
    rows: object
    scale: float
    oversampling: float


@dataclass(frozen=True)
class Sketches:
    """How a step makes R, and keeps it.

    Parameters
    ----------
    J : Jacobian
        In the dtype of the inner products.
    x : array
        The inputs.
    sketch : distribution
    size : float
        Default sketch rows as a multiple of n c, or n for the two-layer network.
    growth : int
        How many times its default size the sketch is.
    key : int
        Of the draws.
    maxiter : int
        Iterations of a solve at most.
    """

    J: object
    x: object
    sketch: object
    size: float
    growth: int
    key: int
    maxiter: int

    renews = True  # another draw may serve better

    def known(self, P):
        """P, where it was built for these inputs, by this sketch, in this dtype; else None."""
        alike = isinstance(P, SketchedGram) and P.of == repr(self.sketch) and P.R.dtype == self.J.dtype
        return P if alike and same((P.x,), (self.x,)) else None

    def at(self, P, damping):
        """P, where it serves at λ; else None."""
        return P if near(P.damping, damping) else None

    def make(self, P):
        """G̃ = J SᵀS Jᵀ; P has no part in it."""
        J, xp = self.J.pooled(), namespace(self.x)
        S = J.draw(self.sketch, self.key, self._rows, xp.astype(self.x, J.dtype, copy=False))
        rows = None if hasattr(S, "left") else J.sketch(S)
        gram = J.sketch_gram(S) if rows is None else rows @ xp.matrix_transpose(rows)
        return Sketched(gram, rows, float(xp.linalg.trace(gram)) / J.shape[0], self.growth * self.size)

    def scale(self, made):
        """tr(G̃)/n."""
        return made.scale

    def factor(self, made, damping, P):
        """R with RᵀR = G̃ + λ I; P has no part in it."""
        R, how = sketch_factor(made.gram, damping, made.rows)
        return SketchedGram(R, *copies((self.x,)), damping, made.scale, made.oversampling, repr(self.sketch), how)

    def limit(self, P, fresh, epsilon):
        """Iterations before a kept R is given up."""
        return self.maxiter if fresh else min(self.maxiter, math.ceil(4 * P.effort * math.log(1 / epsilon)) + 8)

    def keep(self, P, fresh, iterations, epsilon):
        """The preconditioner for the next step (None: build one), and the size of the next sketch."""
        accuracy = math.log(1 / epsilon)
        if fresh and too_rough(iterations, epsilon, self.growth):
            return None, 2 * self.growth
        if fresh:
            return P._replace(effort=iterations / accuracy), self.growth
        serves = iterations <= 1.5 * P.effort * accuracy + 1
        return (P if serves else None), self.growth

    @property
    def _rows(self):
        """Of the sketch."""
        return math.ceil(self.growth * self.size * self.J.pooled().shape[0])

    def held(self, P):
        """Bytes that P takes while a step goes on, G̃ with it."""
        return self.bytes

    @property
    def bytes(self):
        """What G̃ and R take."""
        return ROUTES["sketch"].bytes(self.J)

    @property
    def outweighs_products(self):
        """Whether R takes more flops than a product with J Jᵀ."""
        return self._build.matmul + self._build.cholesky > self.J.product_work().thin

    @property
    def _build(self):
        return ROUTES["sketch"].build_work(self.J, self._rows)

    def seconds(self, rates, epsilon):
        """Predicted time of a step's linear algebra."""
        route, J = ROUTES["sketch"], self.J
        each = J.product_work() + route.apply_work(J)
        return rates.seconds(1 / HORIZON * self._build + route.effort * math.log(1 / epsilon) * each, J.dtype)
