"""Which route a Gauss-Newton step takes: the one whose linear algebra has the least predicted time on this machine.

Formula     seconds = build / `HORIZON` + iterations (product + application) + product;   iterations = effort ln(1/ε)
            a kept preconditioner: no build, and as many iterations as last time, `TWICE` as many on its second step
Reference   derived; times from `nearlin.linalg.Rates`
Cost        O(layers)
Deviations  none
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace, unguarded
from nearlin.curvature.pivoted_rows import few_neurons, first_rank, most_columns, next_rank
from nearlin.curvature.preconditioning import too_rough
from nearlin.curvature.routes import PARAMETER, ROUTES
from nearlin.linalg import Exit, Rates, eps_of
from nearlin.nn import Point

HORIZON = 4  # steps that a preconditioner is expected to serve where it can be kept
TWICE = 2  # by how much more iterations a preconditioner is expected to take on its second step, until that has been seen
AGAIN = ", again"


class Plan(NamedTuple):
    """The route of a step by name, and a sentence on why."""

    route: str
    reason: str

    @property
    def side(self):
        """``"sample"`` or ``"parameter"``."""
        return ROUTES[self.route].side


class Experience(NamedTuple):
    """What the steps before have left.

    Attributes
    ----------
    kept : Kept or None
    efforts : tuple of (str, float)
        Iterations per factor e of the residual, as measured: by route for new preconditioners, by route and ``AGAIN`` for those
        that served a second time.
    growth : int
        How many times its default size the next sketch is.
    columns : int or None
        Of the next pivoted factor; None: k₀.
    """

    kept: object = None
    efforts: tuple = ()
    growth: int = 1
    columns: int | None = None

    def effort(self, name, default=None):
        """What was measured under ``name``."""
        return dict(self.efforts).get(name, default)


@dataclass(frozen=True)
class Planner:
    """The planner of one step.

    Parameters
    ----------
    J : Jacobian
        K.
    point : Point or None
        None: nothing is kept.
    squared : bool
        Whether the loss is squared.
    rows : int
        Of a sketch.
    epsilon : float
        Accuracy of the solves.
    maxiter : int
        Iterations of one solve at most.
    rates : Rates
    dtype : str, optional
        Of the inner products; by default that of J.
    reuse : bool
        Whether preconditioners are kept.
    memory : float
        Bytes that a route may take for its matrices.
    whole : bool
        Plan only routes with one triangular factor of the whole system, or none.
    """

    J: object
    point: Point
    squared: bool
    rows: int
    epsilon: float
    maxiter: int
    rates: Rates
    dtype: str | None = None
    reuse: bool = True
    memory: float = 4e9
    whole: bool = False

    def named(self, name):
        """The `Plan` of a route by name; `ValueError` where it cannot be taken, with the reason.

        Where a target's probability falls below √eps, the sample side's residual has no bound, and it is K-FAC's.
        """
        if reason := self.J.closed.get(ROUTES[name].side) or ROUTES[name].obstacle(self.J):
            raise ValueError(f"plan is {name!r}, and {reason}; expected 'auto' or another route")
        if not self.squared and ROUTES[name].side == "sample":
            with unguarded():
                r = self.point.residual
            if not float(namespace(r).max(namespace(r).abs(r))) < eps_of(r) ** -0.25:  # NaN and Inf are not below
                return Plan("kfac", f"kfac: a target's probability is below √eps, where the residual of {name!r} has no bound")
        return Plan(name, f"{name}: by name" + self._few_neurons(name))

    def cheapest(self, experience, ratio):
        """The `Plan` with the least predicted time; ``ratio`` is σ/λ, the size of the curvature over the damping."""
        seconds = {route.name: self.seconds(route, experience, ratio) for route in self.candidates()}
        best, *others = sorted(seconds, key=seconds.get)
        words = f"{best}: {seconds[best]:.2g} s predicted"
        return Plan(best, words + (f", next {others[0]} {seconds[others[0]]:.2g} s" if others else "") + self._few_neurons(best))

    def _few_neurons(self, name):
        return f"; {few_neurons(self.J)}" if ROUTES[name].pivoted and few_neurons(self.J) else ""

    def candidates(self):
        """The routes that fit the network, the loss and the memory."""
        N, p = self.J.shape
        if not self.J.layered:
            few = 2 * first_rank(self.J) <= self.J.samples  # else columns are no fewer than a matrix
            routes = [ROUTES[name] for name in ("exact", "sketch", "kernel", *["pivoted"] * few, "cg")]
        elif self.squared and p > N and not self.J.coupling and not self._in_units:
            routes = [ROUTES[name] for name in ("exact", "sketch", "class-averaged", "cg")]
        else:
            routes = PARAMETER
        routes = [route for route in routes if route.whole or not self.whole]
        return [route for route in routes if not route.obstacle(self.J) and route.bytes(self.J) <= self.memory]

    @property
    def _in_units(self):
        """Whether there is a penalty that the sample side cannot hold: on a first layer with an input scale."""
        return self.point is not None and bool(self.point.l2 and self.point.layers[0].input_scale)

    def seconds(self, route, experience, ratio):
        """Predicted time of a step's linear algebra by this route."""
        kept = self.serving(route, experience)
        if kept:
            iterations, build = self._again(kept, experience), 0.0
        else:
            effort = experience.effort(route.name, self._prior(route, ratio))
            build = self._build(route, experience) / (HORIZON if self.reuse and route.keeps(self.J) else 1)
            iterations = effort * self._digits
        return build + iterations * self._each(route) + self._time(self.J.product_work())

    def serving(self, route, experience):
        """The kept preconditioner, if it is this route's, serves these inputs, and has the columns that are wanted; else None."""
        kept = experience.kept
        if route.pivoted and kept and kept.route == route.name and self._lacks_columns(kept.source, experience):
            return None
        return kept if self.reuse and kept is not None and route.serves(kept, self.point) else None

    def _stays(self, route):
        """Whether what is kept of this route never ages."""
        return route.unchanging or (route.pivoted and route.keeps(self.J))

    def _lacks_columns(self, source, experience):
        return source.rank < self.columns(experience) and not source.factor.exhausted

    def limit(self, kept):
        """Iterations before a kept preconditioner is given up: twice what a new one would cost in all."""
        route = ROUTES[kept.route]
        if self._stays(route):
            return self.maxiter
        new = self._build(route, Experience()) / self._each(route) + kept.fresh
        return min(self.maxiter, 2 * math.ceil(new) + 2)

    def learn(self, experience, kept, fresh, solve):
        """The `Experience` after a step that ``kept`` has served, which was ``fresh`` or not, and whose last solve this was.

        What is expected to cost more than a new one is not kept, nor a sketch that was too rough: the next is twice as large.
        """
        route, uses = ROUTES[kept.route], 1 if fresh else kept.uses + 1
        last = solve.iterations if solve.reason == Exit.CONVERGED else max(solve.iterations, _needed(solve, self._digits))
        kept = kept._replace(last=last, fresh=solve.iterations if fresh else kept.fresh, uses=uses)
        efforts, growth = dict(experience.efforts), experience.growth
        if uses <= 2 and math.isfinite(solve.residual):
            efforts[route.name + (AGAIN if uses == 2 else "")] = _effort(solve)
        after = experience._replace(kept=kept, efforts=tuple(sorted(efforts.items())))
        if route.pivoted:
            after = after._replace(columns=self._next_columns(experience, solve.iterations))
        if fresh and route.grows and too_rough(solve.iterations, self.epsilon, growth):
            return after._replace(kept=None, growth=2 * growth)
        if self._stays(route):
            return after
        new = self._build(route, after) + kept.fresh * self._each(route)
        old = self._again(kept, after) * self._each(route)
        serves = self.reuse and not old > new and solve.reason == Exit.CONVERGED
        return after if serves and route.keeps(self.J) else after._replace(kept=None)

    @property
    def _digits(self):
        return math.log(1 / self.epsilon)

    def _prior(self, route, ratio):
        """Iterations per factor e of a route that has not been tried: plain CG takes √κ/2 with κ <= 1 + σ/λ."""
        return min(route.effort, 0.5 * math.sqrt(1 + ratio)) if route.name == "cg" and self.J.layered else route.effort

    def _again(self, kept, experience):
        """Iterations that a kept preconditioner is expected to take next: as last time, or, the first time, as others did."""
        if kept.uses > 1:
            return kept.last
        others = experience.effort(kept.route + AGAIN)
        return max(kept.last, TWICE * kept.last if others is None else others * self._digits)

    def columns(self, experience):
        """Columns of a pivoted factor."""
        return min(experience.columns or first_rank(self.J), most_columns(self.J, self.memory))

    def _next_columns(self, experience, iterations):
        build = lambda k: self._time(ROUTES["pivoted"].build_work(self.J, k))  # noqa: E731
        columns = self.columns(experience)
        wanted = next_rank(columns, iterations, build, self._time(self.J.product_work()))
        return max(wanted, columns) if self._stays(ROUTES["pivoted"]) else wanted

    def _build(self, route, experience):
        """Predicted time of making the route's preconditioner."""
        return self._time(route.build_work(self.J, self.columns(experience) if route.pivoted else self.rows))

    def _each(self, route):
        """Predicted time of one iteration."""
        return self._time(self.J.product_work() + route.apply_work(self.J))

    def _time(self, work):
        return self.rates.seconds(work, self.dtype or self.J.dtype)


def _effort(solve):
    """Iterations per factor e of the residual; of a solve that did not converge as its condition number lets expect, √κ/2.

    The residuals of such a solve go up and down on the way and say little.
    """
    if solve.reason == Exit.CONVERGED:
        return solve.iterations / max(math.log(1 / max(solve.residual, 1e-300)), 1.0)
    return 0.5 * math.sqrt(solve.condition) if math.isfinite(solve.condition) else float(solve.iterations)


def _needed(solve, digits):
    """Iterations that a solve which was cut short would have needed."""
    effort = _effort(solve) * digits
    return math.ceil(effort) if math.isfinite(effort) else solve.iterations
