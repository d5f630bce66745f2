"""A preconditioner at work: what it is made from, what is kept of it, and how a step uses it at one strength of the damping."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from nearlin._array import fold_in
from nearlin.curvature.kronecker_curvature import KroneckerCurvature
from nearlin.curvature.sides import Accuracy
from nearlin.linalg import Exit, Nystrom, PivotedPreconditioner, TriangularBlocks
from nearlin.nn import Point

SLOW = 6  # iterations to ε = 1/6 (and their equivalent at smaller ε) above which a new sketch is too rough
LOW_RANK = (Nystrom, PivotedPreconditioner)  # they serve every damping
_PROBES = 0x70726F6265  # keeps the probes of the effective dimension apart from the parts of a sketch


@dataclass(frozen=True)
class Setting:
    """What a preconditioner is made from.

    Parameters
    ----------
    jacobian : Jacobian
        K, in the working dtype.
    point : Point
    layers : tuple of LayerSpec
    sketch : distribution
        Of `nearlin.sketch`.
    rows : int
        Of the sketch.
    key : int
        Of all draws.
    accuracy : Accuracy
        Its inner dtype is that of the factors.
    columns : int
        Of the route "pivoted".
    """

    jacobian: object
    point: Point
    layers: tuple
    sketch: object
    rows: int
    key: int
    accuracy: Accuracy
    columns: int

    @cached_property
    def J(self):
        """K in the dtype of the inner products."""
        return self.accuracy.inner(self.jacobian)

    @property
    def like(self):
        """Outputs in that dtype."""
        return self.accuracy.cast(self.point.outputs)


class Kept(NamedTuple):
    """A preconditioner, and what decides whether it serves again.

    Attributes
    ----------
    route : str
    source : TriangularBlocks, Nystrom, PivotedPreconditioner, KroneckerCurvature or None
    x : array or None
        The inputs it was made for; None: it serves any.
    strength : float
        λ + ω when it was made.
    fresh, last : int
        Iterations of the step that made it, and of the last one.
    uses : int
        Steps that it has served.
    how : str
        The route, and how it was factored.
    """

    route: str
    source: object
    x: object
    strength: float
    fresh: int = 0
    last: int = 0
    uses: int = 0
    how: str = ""


def near(made, wanted):
    """Whether a factor made at one damping serves at another: within a factor of 10."""
    low, high = sorted((made, wanted))
    return high <= 10 * low


def too_rough(iterations, epsilon, growth):
    """Whether a solve to ε by a new sketch, ``growth`` times its default size, took so many iterations that it is to grow."""
    return iterations > SLOW * max(1.0, math.log(1 / epsilon) / math.log(6)) and growth < 4


class Applied:
    """A kept preconditioner at one strength, as both sides use it; ``exact``: it is the inverse of the system itself."""

    def __init__(self, kept, n, strength, exact=False):
        source, self._strength, self.exact = kept.source, strength, exact
        self._source = source.with_damping(n * strength) if isinstance(source, LOW_RANK) else source

    def __call__(self, r):
        """M⁻¹ r for r (n c,)."""
        return r if self._source is None else self._source(r)

    def on_parameters(self, v):
        """M⁻¹ v for a params-shaped tuple."""
        return v if self._source is None else self._source.solve(v, self._strength)

    @property
    def triangular(self):
        """R of the whole system, where there is one: what LSQR and CRAIG take."""
        source = self._source
        return source.factors[0] if isinstance(source, TriangularBlocks) and source.columns == 1 else None

    def effective_dimension(self, key):
        """tr(H (H + s I)⁻¹) as the preconditioner sees it; NaN where there is none."""
        source = self._source
        if source is None:
            return math.nan
        if isinstance(source, KroneckerCurvature):
            return source.effective_dimension(self._strength)
        return source.effective_dimension() if isinstance(source, LOW_RANK) else source.effective_dimension(fold_in(key, _PROBES))


class Preconditioning:
    """The preconditioner of one step: a kept one while it serves, else a new one, made once for all attempts.

    Parameters
    ----------
    route : Route
    kept : Kept or None
        Of an earlier step, if it serves these inputs.
    setting : Setting
    limit : int
        Iterations before ``kept`` is given up.
    maxiter : int
        Those of any other solve.
    """

    def __init__(self, route, kept, setting, limit, maxiter):
        self.route, self.kept, self.fresh, self._made = route, kept, False, None
        self._setting, self._limit, self._maxiter = setting, limit, maxiter

    def solve(self, system, damping):
        """A `Solution` of a side at λ = ``damping``; where a kept preconditioner does not get there, by a new one."""
        strength, n = damping + system.pull.l2, self._setting.point.samples
        if self.kept is not None and self.route.near(self.kept, strength):
            limit = self._maxiter if self.fresh else self._limit
            solution = system.solve(damping, Applied(self.kept, n, strength), limit)
            if self.fresh or self.route.unchanging or solution.info.reason == Exit.CONVERGED:
                return solution
        return system.solve(damping, Applied(*self._renewed(n, strength)), self._maxiter)

    def _renewed(self, n, strength):
        """What `Applied` takes, of a new preconditioner."""
        exact = self.route.solves(self.kept)
        if self._made is None:
            self._made = self.route.remake(self.kept) or self.route.make(self._setting)
        self.kept, self.fresh = self.route.factor(self._made, self._setting, strength), True
        return self.kept, n, strength, exact and self.kept.how == f"{self.route.name}, cholesky"  # no larger shift

    def effective_dimension(self, strength, key):
        """As `Applied.effective_dimension`, of the last one."""
        return Applied(self.kept, self._setting.point.samples, strength).effective_dimension(key)

    def certify(self, info):
        """The `SolveInfo` of a solve, with how it was preconditioned."""
        return info._replace(preconditioner=self.kept.how, refreshed=self.fresh)
