r"""Gauss-Newton for every network: two sides of one linear system, a preconditioner by name or by plan, products alone.

Paper       the method of van den Brand, Peng, Song, Weinstein, arXiv:2006.11648, beyond the networks of its theorem; Martens,
            Deep learning via Hessian-free optimization, ICML 2010; Goldshlager, Abrahamsen, Lin, arXiv:2401.10190 (SPRING)
Update      θ ← θ + lr δ,   (JᵀHJ/n + (λ + ω) I) δ = -g + λ μ δ_prev - ω θ
            J (n c, p) Jacobian of the outputs; H = C Cᵀ Hessians by the outputs; g gradient of the mean loss; K = Cᵀ J; r̃ with
            C r̃ = dl/dz
            sample side      δ = δ₀ - Kᵀu,   (K Kᵀ + n (λ + ω) I) u = r̃ + K δ₀,   δ₀ = (λ μ δ_prev - ω θ)/(λ + ω)
            parameter side   CG on δ itself from μ δ_prev: one forward-mode and one backward pass a product; C divides nothing
            until ||residual|| <= ε ||right-hand side||, for at most ``maxiter`` iterations
Notation    λ → damping, which ``info`` reports (of the mean; `NearLinearGaussNewton` has n λ),  λ + ω → strength,
            n (λ + ω) → shift,  ω → l2,  μ → momentum,  ε → epsilon
Cost        with dense layers (o, D), n samples, c outputs, p parameters, q of them in the first layer, k iterations, s sketch
              rows, beyond the forward passes:
            leading 2 c n (p - q) flops per step, c <= 4: backward passes that make the factors
            leading 4 n p flops per iteration, c <= 4: products with factors
            leading 8 n p - 4 n q flops per iteration, c > 4: products by passes
            leading 4 o D (o + D) flops per layer and iteration, plan = "kfac"
            leading 2 n² D + 2 (n c)² o flops per layer and fresh R, plan = "exact": half as rank-k updates
            leading (n c)³/3 flops per fresh R, plan = "exact" or "sketch"
            leading 2 (n c)² s flops per fresh R, plan = "sketch": half as a rank-k update
            leading 2 n² (D + c o) flops per layer and fresh R, plan = "class-averaged"
            leading n³/3 flops per fresh R, plan = "class-averaged"
            leading 2 c n² (D + o) flops per layer and fresh R, plan = "per-class"
            leading c n³/3 flops per fresh R, plan = "per-class"
            leading 9 D³ + 9 o³ + 2 n D² + 2 n o² flops per layer and fresh R, plan = "kfac": eigenvectors are nominal
            leading 2 n (p - q) flops per fresh R, plan = "kfac": a backward pass
Oracles     step: 1 jacobian
            first step: 1 forward, 4 product
            attempt: k product, 1 forward
            product, side = "sample", c <= 4: 1 gram_matvec
            product, side = "parameter", c <= 4: 1 matvec, 1 rmatvec
            product, c > 4: 1 jvp, 1 backward
            step, c <= 4: c backward: they make the factors of dense layers
            step, side = "parameter": 1 backward: the gradient
            later step, side = "parameter", momentum > 0: 1 product
            attempt, plan = "exact", c <= 4: 1 rmatvec, 1 matvec
            attempt, plan = "exact", c > 4: 1 jvp, 1 backward
            fresh R, plan = "exact": 1 gram
            fresh R, plan = "sketch": 1 sketch
            fresh R, plan = "class-averaged": 1 mean_gram
            fresh R, plan = "per-class": 1 class_grams
            fresh R, plan = "exact" or "sketch" or "class-averaged" or "per-class", c > 4: c backward
            fresh R, plan = "kfac" or "diagonal": 1 backward
Deviations  1. The sample side where n c < p, the loss is squared and no layer couples samples, and always for the two-layer
               network; else the parameter side. By name (``plan``) cross-entropies go to the sample side too; where a target's
               probability falls below √eps, r̃ has no bound, and the step goes back.
            2. The damping of the two-layer network starts as in `NearLinearGaussNewton`, at 1e-8 (float32: 1e-5) tr(K Kᵀ)/n²;
               elsewhere at 1e-2 times the largest Ritz value σ of four iterations, clamped to [eps σ, σ/eps].
            3. On the sample side momentum is always SPRING's, λ/2 ||δ - μ δ_prev||²: the solve would undo another start. A
               step that is refused is tried again without it, and drops it.
            4. A preconditioner is kept while, at the predicted rates, it costs no more than a new one; never on another batch,
               but for Kronecker factors and diagonals, which serve any.
            5. A step is taken if the loss falls by more than .05 of what the undamped model predicts (`steps.judge`), and never
               where δ = 0 has the smaller residual. λ does not fall where a smaller one was just refused, nor after a solve that
               was cut short: its step says nothing about λ.
            6. Where ε is above 1e4 rounding errors, the residual that certifies a solve is summed up from CG's own products, on
               the sample side with the image of δ, on the parameter side by the recursion; below, a product of its own makes it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import (
    check_counts,
    check_flags,
    check_fractions,
    check_not_negative,
    check_positive,
    check_shares,
    check_words,
    copies,
    fold_in,
    namespace,
    same,
    unguarded,
    widest,
)
from nearlin.curvature import DampedGram, KroneckerCurvature, diagonal_curvature, gram_solve, kronecker_curvature
from nearlin.linalg import (
    Exit,
    Nystrom,
    Rates,
    SlowProgress,
    SolveInfo,
    TriangularBlocks,
    Work,
    axpy,
    cg,
    columns,
    craig,
    inner,
    lsqr,
    norm,
    nystrom,
    sketch_factor,
)
from nearlin.nn import Point, SquaredLoss, ravel, unravel
from nearlin.sketch import KroneckerSRHT, NeuronSigns
from nearlin.steps import CEILING, Damping, Recall, StepInfo, judge, least_damping, recalled

ATTEMPTS = 7  # the first and at most 6 retries
RITZ = 4  # iterations that estimate the largest eigenvalue before the first step
HORIZON = 4  # steps that a preconditioner is expected to serve where it can be kept
ROUGH = 1e-2  # accuracy of a solve in a lower precision, of which corrections make any other
SUMMED = 1e4  # rounding errors that the accuracy must be above for an image summed along CG to stand for a recomputed one
TWICE = 2  # by how much more iterations a preconditioner is expected to take on its second step, until that has been seen
SLOW = 6  # iterations to ε = 1/6 (and their equivalent at smaller ε) above which a fresh sketch is too rough

# Iterations per ln(1/ε) that a route is expected to take before it has been tried.
SAMPLE = {"exact": 0, "sketch": 1.4, "kernel": 1, "class-averaged": 3, "per-class": 4, "frozen": 1.5, "nystrom": 2, "cg": 10}
PARAMETER = {"kfac": 2, "diagonal": 25, "parameter-cg": 40}
ROUTES = (*SAMPLE, *PARAMETER)
AGAIN = ", again"
UNCHANGING = ("frozen", "kernel", "cg", "parameter-cg")  # a new one would be the same
BY_PARTS = ("class-averaged", "per-class", "nystrom")  # no triangular factor of the whole system
ANY_BATCH = ("kfac", "diagonal")  # made of averages: they serve batches that they were not made on
_PROBES = 0x70726F6265  # keeps the probes of the effective dimension apart from the parts of a sketch


class Kept(NamedTuple):
    """A preconditioner, and what decides whether it serves again.

    Attributes
    ----------
    route : str
    source : TriangularBlocks, Nystrom or KroneckerCurvature
    x : array or None
        The inputs it was made for; None: it serves any.
    damping : float
        The strength λ + ω when it was made.
    fresh, last : int
        Iterations of the step that made it, and of the last one.
    uses : int
        Steps that it has served.
    how : str
    """

    route: str
    source: object
    x: object
    damping: float
    fresh: int = 0
    last: int = 0
    uses: int = 0
    how: str = ""


class Bounds(NamedTuple):
    """What the damping refers to: the size of H, and the smallest and largest λ."""

    size: float
    floor: float
    ceiling: float


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    damping : Damping or None
        λ of the next step, and the guard's factor.
    bounds : Bounds or None
    kept : Kept or None
    efforts : tuple of (str, float)
        Iterations per factor e of the residual, as measured: by route for new preconditioners, by route and ``AGAIN`` for those
        that served a second time.
    growth : int
        How many times its default size the next sketch is.
    delta : tuple or None
        δ of the last step, where there is momentum.
    recall : Recall or None
        The last trial point. It only saves time: without it (``transient``) the same numbers come out.
    """

    damping: Damping | None = None
    bounds: Bounds | None = None
    kept: Kept | None = None
    efforts: tuple = ()
    growth: int = 1
    delta: tuple | None = None
    recall: Recall | None = None

    transient = ("recall",)


class Plan(NamedTuple):
    """The route of a step, and a sentence on why."""

    route: str
    reason: str

    @property
    def side(self):
        """``"sample"`` or ``"parameter"``."""
        return "sample" if self.route in SAMPLE else "parameter"


class Solution(NamedTuple):
    """δ, its image K δ (n c,), its inner product with the gradient, and the certificate."""

    step: tuple
    image: object
    slope: float
    info: SolveInfo


class Trial(NamedTuple):
    """Trial parameters, the point there (None if not finite), its loss, predicted decrease, and actual over predicted."""

    params: tuple
    point: Point | None
    loss: float
    predicted: float
    ratio: float


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton steps for any network and loss of `nearlin.nn`.

    Parameters
    ----------
    epsilon : float
        Inner accuracy: relative residual of the linear system.
    stop : str
        ``"residual"``, or ``"progress"``: on the parameter side also stop by `SlowProgress`.
    maxiter : int
        Bound on the iterations of one solve.
    lr : float
        Step size; 1 is the Gauss-Newton step.
    damping : float, optional
        The first λ; by default deviation 2.
    l2 : float
        ω: ω/2 ||θ||² is added to the loss, in gradient, curvature and guard: weight decay.
    momentum : float
        μ in [0, 1): solves on the parameter side start at μ times the last δ; on the sample side SPRING.
    spring : bool
        Regularise towards μ times the last δ on the parameter side too.
    plan : str
        ``"auto"``: the route with the least predicted time; or one of "exact", "sketch", "kernel" (two-layer ReLU networks),
        "class-averaged", "per-class", "frozen" (the first exact factor for good), "nystrom", "cg"; on the parameter side "kfac",
        "diagonal", "parameter-cg".
    solver : str
        ``"cg"``; on the sample side also ``"lsqr"`` or ``"craig"``, which square no condition number.
    sketch : distribution, optional
        Of `nearlin.sketch`; by default `NeuronSigns` for the two-layer network and `KroneckerSRHT` for others.
    sketch_size : float, optional
        Sketch rows as a multiple of n c: by default the distribution's ``oversampling``.
    inner_dtype : str, optional
        ``"float32"`` runs products and factors of the sample side there, under a residual in the working dtype.
    residual_dtype : str, optional
        ``"float64"``: u, δ and the residual of the sample side are in float64 while all else stays in float32.
    reuse : bool
        Keep preconditioners while they serve.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and λ stays.
    memory : float
        Bytes that one route may take for its matrices; routes that need more are not planned.
    rates : Rates
        How fast the machine does each primitive; ``nearlin info --measure`` makes the table.
    """

    epsilon: float = 0.1
    stop: str = "residual"
    maxiter: int = 50
    lr: float = 1.0
    damping: float | None = None
    l2: float = 0.0
    momentum: float = 0.0
    spring: bool = False
    plan: str = "auto"
    solver: str = "cg"
    sketch: object = None
    sketch_size: float | None = None
    inner_dtype: str | None = None
    residual_dtype: str | None = None
    reuse: bool = True
    guard: bool = True
    memory: float = 4e9
    rates: Rates = Rates()

    def __post_init__(self):
        check_fractions(self, "epsilon")
        check_positive(self, "lr", "memory")
        check_not_negative(self, "l2")
        check_shares(self, "momentum")
        check_counts(self, "maxiter")
        check_flags(self, "spring", "reuse", "guard")
        check_words(self, stop=("residual", "progress"), plan=("auto", *ROUTES), solver=("cg", "lsqr", "craig"))
        check_words(self, inner_dtype=(None, "float32"), residual_dtype=(None, "float64"))
        if self.solver != "cg" and self.plan in BY_PARTS:
            found = f"solver is {self.solver!r}, which takes one triangular factor of the whole, and {self.plan!r} has none"
            raise ValueError(f"{found}; expected 'cg'")
        if self.damping is not None:
            check_positive(self, "damping")
        if self.sketch_size is not None:
            check_positive(self, "sketch_size")
        drawable = hasattr(self.sketch, "sample") and hasattr(self.sketch, "oversampling") and not isinstance(self.sketch, type)
        if self.sketch is not None and not drawable:
            raise ValueError(f"sketch is {self.sketch!r}; expected a distribution of nearlin.sketch, such as KroneckerSRHT()")
        if not isinstance(self.rates, Rates):
            raise ValueError(f"rates is {self.rates!r}; expected a nearlin.linalg.Rates")
        for name in ("lr", "l2", "momentum") + ("damping",) * (self.damping is not None):
            object.__setattr__(self, name, float(getattr(self, name)))  # a NumPy scalar would widen float32

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed.

        Raises
        ------
        BackendError, TypeError, ValueError
            Input that does not fit (see `Objective.at`), or a ``plan`` that this network or loss does not allow, with the reason.
        """
        key = fold_in(key, 0)
        point = recalled(state.recall, objective, params, batch) or objective.at(params, batch)
        loss, eps = float(point.loss) + self._penalty(params), _eps(params[0])
        if not math.isfinite(loss):
            return params, state, _unmoved(float(point.loss), state, "rejected: the loss is not finite")
        if _nothing_left(point, objective, eps, 4, self.l2):
            return params, state, _unmoved(float(point.loss), state, "stalled: the residual is rounding")
        J = point.jacobian(weighted=True)
        plan = self._plan(J, point, state, objective)
        system = self._system(plan, J, point, params, state)
        bounds = state.bounds or self._bounds(J, system, eps)
        if not 0 < bounds.size < math.inf:
            reason = "stalled: the gradient, or all curvature along it, is zero"
            reason = "rejected: the curvature is not finite" if bounds.size else reason
            return params, state, _unmoved(float(point.loss), state, reason)
        damping = state.damping or Damping(self.damping or _first(J, bounds))
        kept, fresh, made, solution = _serving(state.kept, plan, point, self.reuse), False, None, None
        for attempts in range(1, ATTEMPTS + 1):
            strength, solution = damping.value + self.l2, None
            if kept is not None and _near(kept, strength):
                applied = _Applied(kept, system.n, strength, exact=False)
                solution = system.solve(damping.value, applied, self, self.maxiter if fresh else self._limit(kept, J))
            worn = solution is None or (solution.info.reason != Exit.CONVERGED and not fresh and plan.route not in UNCHANGING)
            if worn:
                exact = plan.route == "exact" or (plan.route == "frozen" and kept is None)
                made = made or _frozen(kept) or self._make(plan.route, J, point, objective, state.growth, key)
                kept, fresh = self._factor(plan.route, made, point, system.n, strength, key), True
                exact = exact and kept.how.endswith(", cholesky")  # no larger shift
                solution = system.solve(damping.value, _Applied(kept, system.n, strength, exact), self, self.maxiter)
            with unguarded():  # a trial that overflows is refused
                used, trial = damping.value, self._attempt(objective, params, batch, loss, solution)
            worse = solution.info.residual >= 1  # than δ = 0
            accepted = trial.point is not None and math.isfinite(trial.loss) and not worse
            if self.guard:
                ratio = math.nan if worse else trial.ratio
                accepted, damping = judge(damping, ratio, bounds.floor, bounds.size, bounds.ceiling)
                if accepted and (attempts > 1 or solution.info.reason != Exit.CONVERGED):
                    damping = damping._replace(value=max(damping.value, used))
            hopeless = abs(trial.predicted) <= 10 * eps * abs(loss) or _nothing_left(point, objective, eps, 1000, self.l2)
            if accepted or not self.guard or hopeless:
                break
            system.last = None  # retries go without momentum: damping alone would only leave more of it
        solve = solution.info._replace(preconditioner=kept.how, refreshed=fresh)
        at_ceiling = damping.value >= bounds.ceiling
        reason = "accepted" if accepted else _why_not(hopeless and self.guard, at_ceiling, attempts, damping, solve)
        info = StepInfo(
            float(point.loss), float((trial.point if accepted else point).loss), accepted, reason, used, trial.ratio, attempts,
            solve, plan.side, plan.reason,
            self._effective_dimension(kept, system.n, used + self.l2, key),
        )  # fmt: skip
        kept, efforts, growth = self._remember(state, plan, kept, fresh, solve, J)
        recall = Recall.of(objective, trial.params, batch, trial.point) if accepted else None
        delta = solution.step if accepted and self.momentum else None
        return trial.params if accepted else params, State(damping, bounds, kept, efforts, growth, delta, recall), info

    # ----------------------------------------------------------------------------------------------------------- the two sides

    def _system(self, plan, J, point, params, state):
        centre = state.delta if self.momentum else None
        if plan.side == "parameter":
            return ParameterSide(J, point.grads(), params, centre, point.samples)
        return SampleSide(J, point.residual, params, centre, point.samples)

    def _bounds(self, J, system, eps):
        """See deviation 2."""
        if hasattr(J, "kernel_gram"):
            size = J.mean_square() / system.n or self.l2
            return Bounds(size, least_damping(eps) * size, CEILING * size)
        size = system.largest_ritz(RITZ) or self.l2
        return Bounds(size, eps * size, size / eps)

    def _penalty(self, params):
        return 0.5 * self.l2 * norm(params) ** 2 if self.l2 else 0.0

    def _attempt(self, objective, params, batch, loss, solution):
        """θ + lr δ, its loss, and the decrease beside that of the undamped quadratic model."""
        trial = axpy(self.lr, solution.step, params)
        if not all(math.isfinite(norm(W)) for W in trial):
            return Trial(params, None, math.nan, math.nan, math.nan)
        slope = solution.slope + (self.l2 * inner(params, solution.step) if self.l2 else 0.0)
        curvature = norm(solution.image) ** 2 / batch[0].shape[0] + (self.l2 * norm(solution.step) ** 2 if self.l2 else 0.0)
        predicted = -self.lr * slope - 0.5 * self.lr**2 * curvature
        point = objective.at(trial, batch)
        after = float(point.loss) + self._penalty(trial)
        return Trial(trial, point, after, predicted, (loss - after) / predicted if predicted > 0 else math.nan)

    # ------------------------------------------------------------------------------------------------------------------ the plan

    def _plan(self, J, point, state, objective):
        """The named route, or that of the least predicted time; `ValueError` where the named one cannot be taken."""
        if self.plan != "auto":
            return self._named(J, point, objective)
        seconds = {route: self._seconds(route, J, point, state) for route in self._candidates(J, objective)}
        best, *others = sorted(seconds, key=seconds.get)
        words = f"{best}: {seconds[best]:.2g} s predicted"
        return Plan(best, words + (f", next {others[0]} {seconds[others[0]]:.2g} s" if others else ""))

    def _named(self, J, point, objective):
        if reason := _obstacle(self.plan, J, objective):
            raise ValueError(f"plan is {self.plan!r}, and {reason}; expected 'auto' or another route")
        with unguarded():
            r = None if isinstance(objective.loss, SquaredLoss) or self.plan not in SAMPLE else point.residual
        if r is not None and not float(namespace(r).max(namespace(r).abs(r))) < _eps(r) ** -0.25:  # NaN and Inf are not below
            return Plan("kfac", f"kfac: a target's probability is below √eps, where the residual of {self.plan!r} has no bound")
        return Plan(self.plan, f"{self.plan}: by name")

    def _candidates(self, J, objective):
        """The routes that fit the network, the loss and the memory."""
        N, p = J.shape
        if hasattr(J, "kernel_gram"):
            routes = ("exact", "sketch", "kernel", "cg")
        elif isinstance(objective.loss, SquaredLoss) and p > N and not getattr(objective.network, "coupling", ""):
            routes = ("exact", "sketch", "class-averaged", "cg")
        else:
            routes = tuple(PARAMETER)
        routes = [r for r in routes if self.solver == "cg" or r not in BY_PARTS]
        return [r for r in routes if not _obstacle(r, J, objective) and _bytes(r, J) <= self.memory]

    def _seconds(self, route, J, point, state):
        """Predicted time of a step's linear algebra by this route."""
        kept = _serving(state.kept, Plan(route, ""), point, self.reuse)
        digits = math.log(1 / self.epsilon)
        iterations = self._again(kept, state) if kept else dict(state.efforts).get(route, self._prior(route, J, state)) * digits
        build = 0.0 if kept else self._time(self._build_work(route, J), J) / (HORIZON if self.reuse else 1)
        return build + iterations * self._each(route, J) + self._time(J.product_work(), J)

    def _prior(self, route, J, state):
        """Iterations per factor e of a route that has not been tried: plain CG takes √κ/2 with κ <= 1 + σ/λ."""
        prior = (SAMPLE | PARAMETER)[route]
        if route != "cg" or hasattr(J, "kernel_gram"):
            return prior
        ratio = state.bounds.size / state.damping.value if state.bounds and state.damping else 100.0
        return min(prior, 0.5 * math.sqrt(1 + ratio))

    def _again(self, kept, state):
        """Iterations that a kept preconditioner is expected to take next: as last time, or, the first time, as others did."""
        if kept.uses > 1:
            return kept.last
        others = dict(state.efforts).get(kept.route + AGAIN)
        return max(kept.last, TWICE * kept.last if others is None else others * math.log(1 / self.epsilon))

    def _each(self, route, J):
        """Predicted time of one iteration."""
        return self._time(J.product_work() + self._apply_work(route, J), J)

    def _limit(self, kept, J):
        """Iterations before a kept preconditioner is given up: twice what a new one would cost in all."""
        if kept.route in UNCHANGING:
            return self.maxiter
        new = self._time(self._build_work(kept.route, J), J) / self._each(kept.route, J) + kept.fresh
        return min(self.maxiter, 2 * math.ceil(new) + 2)

    def _time(self, work, J):
        return self.rates.seconds(work, self.inner_dtype or J.dtype)

    def _build_work(self, route, J):
        (N, _), n = J.shape, J.samples
        if route in ("exact", "frozen"):
            return J.gram_work() + Work(cholesky=N**3 / 3)
        if route == "sketch":
            return J.sketch_work(math.ceil(self._size(J) * N)) + Work(cholesky=N**3 / 3)
        if route == "kernel":
            return J.kernel_work() + Work(cholesky=n**3 / 3)
        if route in ("class-averaged", "per-class"):
            mean = route == "class-averaged"
            return J.class_work(mean) + Work(cholesky=n**3 / 3 * (1 if mean else J.outputs))
        if route == "kfac":
            sums = sum(rows * (D * D + o * o) for rows, o, D in _matrices(J))
            return J.signals_work() + Work(matmul=sums, eigh=sum(9 * (D**3 + o**3) for _, o, D in _matrices(J)))
        if route == "diagonal":
            return J.signals_work() + Work(matmul=sum(2 * rows * o * D for rows, o, D in _matrices(J)))
        return 32 * J.product_work() if route == "nystrom" else Work()

    def _apply_work(self, route, J):
        (N, p), n = J.shape, J.samples
        if route in ("exact", "frozen", "sketch"):
            return Work(triangular=2 * N * N, calls=10)
        if route == "class-averaged":  # one solve of c columns: after the first, as fast as a product
            return Work(triangular=2 * n * n, matmul=2 * n * n * (J.outputs - 1), calls=10)
        if route in ("kernel", "per-class"):
            return Work(triangular=2 * n * n * J.outputs, calls=10 * J.outputs)
        flops = sum(4 * o * D * (o + D) for _, o, D in _matrices(J)) if route == "kfac" else 0
        return Work(matmul=flops, memory=40 * (p if route in PARAMETER else N), calls=40)

    # -------------------------------------------------------------------------------------------------------- the preconditioner

    def _size(self, J):
        return self._distribution(J).oversampling if self.sketch_size is None else self.sketch_size

    def _distribution(self, J):
        if self.sketch is not None:
            return self.sketch
        return NeuronSigns() if hasattr(J, "kernel_gram") else KroneckerSRHT()

    def _make(self, route, J, point, objective, growth, key):
        """What all attempts of a step share: matrices (with J Sᵀ where a sketch forms it), spectra, or ()."""
        J = self._inner(J)
        if route in ("exact", "frozen"):
            return (J.gram(),), None
        if route == "kernel":
            return (J.kernel_gram(),), None
        if route == "class-averaged":
            return (J.mean_gram(),), None
        if route == "per-class":
            return tuple(J.class_grams()), None
        if route == "sketch":
            like = point.outputs if self.inner_dtype is None else self._cast(point.outputs)
            S = J.draw(self._distribution(J), key, math.ceil(growth * self._size(J) * J.shape[0]), like)
            if hasattr(S, "left"):
                return (J.sketch_gram(S),), None
            rows = J.sketch(S)
            return (rows @ namespace(rows).matrix_transpose(rows),), rows
        if route == "kfac":
            return kronecker_curvature(point, objective.layers, key)
        if route == "diagonal":
            return diagonal_curvature(point, objective.layers, key)
        return (columns(J.gram_matvec),) if route == "nystrom" else ()

    def _factor(self, route, made, point, n, strength, key):
        """A `Kept` for this strength λ + ω of the damping."""
        if route in ANY_BATCH:
            return Kept(route, made, None, strength, how=route)
        x, shift = copies((point.x,))[0], n * strength
        if route == "nystrom":
            like = self._cast(point.outputs)
            P = nystrom(made[0], math.prod(point.outputs.shape), key, shift, like=like)
            return Kept(route, P, x, strength, how=f"nystrom of rank {P.rank}")
        if route in ("cg", "parameter-cg"):
            return Kept(route, None, None, strength, how="none")
        matrices, rows = made
        factors = tuple(sketch_factor(matrix, shift, rows) for matrix in matrices)
        columns_ = math.prod(point.outputs.shape) // factors[0][0].shape[0]
        blocks = TriangularBlocks(tuple(R for R, _ in factors), columns_, shift)
        return Kept(route, blocks, x, strength, how=f"{route}, {factors[0][1]}")

    def _remember(self, state, plan, kept, fresh, solve, J):
        """The preconditioner for the next step (None: make one), measured efforts, and the size of the next sketch."""
        digits = math.log(1 / self.epsilon)
        uses = 1 if fresh else kept.uses + 1
        last = solve.iterations if solve.reason == Exit.CONVERGED else max(solve.iterations, _needed(solve, digits))
        kept = kept._replace(last=last, fresh=solve.iterations if fresh else kept.fresh, uses=uses)
        efforts, growth = dict(state.efforts), state.growth
        if uses <= 2 and math.isfinite(solve.residual):
            efforts[plan.route + (AGAIN if uses == 2 else "")] = _effort(solve)
        if fresh and plan.route == "sketch" and solve.iterations > SLOW * max(1.0, digits / math.log(6)) and growth < 4:
            kept, growth = None, 2 * growth
        state = state._replace(efforts=tuple(sorted(efforts.items())))
        if kept is not None and plan.route not in UNCHANGING:
            new = self._time(self._build_work(plan.route, J), J) + kept.fresh * self._each(plan.route, J)
            old = self._again(kept, state) * self._each(plan.route, J)
            if not self.reuse or old > new or solve.reason != Exit.CONVERGED:
                kept = None
        return kept, state.efforts, growth

    def _effective_dimension(self, kept, n, strength, key):
        """tr(H (H + λ I)⁻¹) as the preconditioner sees it; NaN where there is none."""
        if isinstance(kept.source, KroneckerCurvature):
            return kept.source.effective_dimension(strength)
        if isinstance(kept.source, Nystrom):
            return kept.source.with_damping(n * strength).effective_dimension()
        return math.nan if kept.source is None else kept.source.effective_dimension(fold_in(key, _PROBES))

    # ------------------------------------------------------------------------------------------------------------------ precision

    def _inner(self, J):
        """J in the dtype of the inner products."""
        return J if self.inner_dtype is None else J.astype(self.inner_dtype)

    def _cast(self, x):
        xp = namespace(x)
        return x if self.inner_dtype is None else xp.astype(x, getattr(xp, self.inner_dtype), copy=False)

    def _outer(self, J, r):
        """J and r in the dtype of the residual."""
        if self.residual_dtype is None:
            return J, r
        xp = namespace(r)
        if widest(r) != xp.float64:
            raise ValueError(
                "residual_dtype is 'float64', and the device has none; expected None there: float32's accuracy is left"
            )
        return J.astype("float64"), xp.astype(r, xp.float64, copy=False)


class SampleSide:
    """(K Kᵀ + n s I) u = r̃ + K δ₀, δ = δ₀ - Kᵀu, for the strength s = λ + ω."""

    def __init__(self, J, r, params, last, n):
        self.J, self.r, self.params, self.last, self.n, self._images = J, r, params, last, n, {}

    def largest_ritz(self, iterations):
        """The largest Ritz value of K Kᵀ / n."""
        return _largest(cg(self.J.gram_matvec, self.r, rtol=0.0, maxiter=iterations, certify=False)[1]) / self.n

    def _image(self, name, v):
        if name not in self._images:
            self._images[name] = self.J.matvec(v)
        return self._images[name]

    def _centre(self, damping, opt):
        """δ₀ = (λ μ δ_prev - ω θ) / (λ + ω) and K δ₀, or None twice."""
        strength, parts = damping + opt.l2, []
        if self.last is not None and damping:
            parts.append((damping * opt.momentum / strength, self.last, "last"))
        if opt.l2:
            parts.append((-opt.l2 / strength, self.params, "params"))
        if not parts:
            return None, None
        centre = tuple(sum(a * v[i] for a, v, _ in parts) for i in range(len(self.params)))
        return centre, sum(a * self._image(name, v) for a, v, name in parts)

    def solve(self, damping, P, opt, limit):
        """A `Solution` to the accuracy that ``opt`` asks for."""
        centre, image = self._centre(damping, opt)
        b = self.r if centre is None else self.r + image
        shift = self.n * (damping + opt.l2)
        J, b64 = opt._outer(self.J, b)
        solved = gram_solve(J, b64, shift, _inner_solver(opt, self.J, b, P, shift), opt.epsilon, limit)
        back = lambda a: namespace(a).astype(a, self.r.dtype, copy=False)  # noqa: E731
        step, made = tuple(-back(V) for V in solved.step), -back(solved.image)
        if centre is not None:
            step, made = axpy(1.0, centre, step), image + made
        return Solution(step, made, inner(self.r, made) / self.n, solved.info)


def _inner_solver(opt, J, b, P, shift):
    """``inner_solve`` of `gram_solve`: P itself where it is exact and new, else CG, LSQR or CRAIG with it, in the inner dtype."""
    J, same_dtype = opt._inner(J), opt.inner_dtype is None and opt.residual_dtype is None

    def solve(rest, rtol, limit):
        c = namespace(rest).astype(rest, opt._cast(b).dtype, copy=False)
        lower = c.dtype != rest.dtype
        rtol = max(rtol, ROUGH) if lower else rtol
        summed = same_dtype and opt.solver == "cg" and not P.exact and rtol >= SUMMED * _eps(rest)
        operator = DampedGram(J, shift, keep_image=summed)
        if P.exact:
            u, info = P(c), SolveInfo(0.0, 0, 0, Exit.CONVERGED, 1.0)
        elif opt.solver == "cg":
            u, info = cg(
                operator, c, preconditioner=P, rtol=min(rtol, 0.99), maxiter=limit, certify=False, on_step=operator.accumulate
            )
        else:
            method = lsqr if opt.solver == "lsqr" else craig
            (operator.adjoint, u), info = method(J, c, shift, P.triangular, rtol=min(rtol, 0.99), maxiter=limit)
        if lower:
            reason = Exit.CONVERGED if info.reason == Exit.STALLED else info.reason  # how far it got, the residual above tells
            return namespace(u).astype(u, rest.dtype), None, info._replace(reason=reason)
        found = (*operator.in_dtype_of(u, rest), info)
        return found if operator.image is None else (*found, operator.image)

    return solve


class ParameterSide:
    """(KᵀK/n + s I) δ = -g + λ μ δ_prev - ω θ by CG on δ, for the strength s = λ + ω."""

    def __init__(self, J, gradient, params, last, n):
        self.J, self.g, self.params, self.last, self.n = J, ravel(gradient), params, last and ravel(last), n
        self._theta = ravel(params)

    def largest_ritz(self, iterations):
        """The largest Ritz value of KᵀK / n."""
        return _largest(cg(lambda v: self._product(v)[0], self.g, rtol=0.0, maxiter=iterations, certify=False)[1])

    def _product(self, v):
        """KᵀK v / n and K v."""
        image = self.J.matvec(unravel(v, self.params))
        return ravel(self.J.rmatvec(image)) / self.n, image

    def solve(self, damping, P, opt, limit):
        """A `Solution` to the accuracy that ``opt`` asks for; below `SUMMED` roundings one backward pass certifies it."""
        s, b = damping + opt.l2, -self.g
        if opt.l2:
            b = b - opt.l2 * self._theta
        if opt.spring and self.last is not None:
            b = b + (damping * opt.momentum) * self.last
        delta, image, rest, size = 0.0, 0.0, b, norm(b)
        if not 0 < size < math.inf:
            info = SolveInfo(0.0, 0, 0, Exit.CONVERGED) if size == 0 else SolveInfo(math.nan, 0, 0, Exit.NON_FINITE)
            zero = unravel(namespace(b).zeros_like(b), self.params)
            return Solution(zero, self.J.matvec(zero), 0.0, info)
        if self.last is not None:
            delta = opt.momentum * self.last
            along, image = self._product(delta)
            rest = b - along - s * delta
        seen = _Images(self._product, s)
        left = norm(rest)
        stop = SlowProgress(rest) if opt.stop == "progress" else None
        rtol = opt.epsilon * size / left if left else 1.0
        if rtol < 1:
            M = lambda r: ravel(P.on_parameters(unravel(r, self.params)))  # noqa: E731
            x, info = cg(
                seen, rest, preconditioner=M, rtol=rtol, maxiter=limit, certify=False, on_step=seen.accumulate, stop=stop
            )
            delta, image = delta + x, image + (0.0 if seen.total is None else seen.total)
        else:
            info = SolveInfo(1.0, 0, 0, Exit.CONVERGED)
        step, products = unravel(delta, self.params), info.products + (self.last is not None)
        residual, reason = info.residual * left / size, info.reason
        if rtol < SUMMED * _eps(b):  # summed along the way, it may have lost touch
            rest = b - ravel(self.J.rmatvec(image)) / self.n - s * delta
            residual, products = norm(rest) / size, products + 1
        if reason == Exit.CONVERGED and residual > 1.05 * opt.epsilon and stop is None:
            reason = Exit.STALLED
        info = info._replace(residual=residual, products=products, reason=reason)
        return Solution(step, image, inner(self.g, delta), info)


class _Images:
    """v → (KᵀK/n + s I) v that adds up K x along the steps x += α v."""

    def __init__(self, product, strength):
        self._product, self._strength, self._last, self.total = product, strength, None, None

    def __call__(self, v):
        made, self._last = self._product(v)
        return made + self._strength * v

    def accumulate(self, alpha):
        self.total = alpha * self._last if self.total is None else self.total + alpha * self._last


class _Applied:
    """A kept preconditioner at one strength of the damping, as both sides use it."""

    def __init__(self, kept, n, strength, exact):
        self._source, self._n, self._strength, self.exact = kept.source, n, strength, exact

    def __call__(self, r):
        source = self._source
        if source is None:
            return r
        return source.with_damping(self._n * self._strength)(r) if isinstance(source, Nystrom) else source(r)

    def on_parameters(self, v):
        """M⁻¹ v for a params-shaped tuple."""
        return v if self._source is None else self._source.solve(v, self._strength)

    @property
    def triangular(self):
        """R of the whole system, where there is one: what LSQR and CRAIG take."""
        source = self._source
        return source.factors[0] if isinstance(source, TriangularBlocks) and source.columns == 1 else None


def _serving(kept, plan, point, reuse):
    """The kept preconditioner, if it is this route's and serves these inputs; else None."""
    if kept is None or not reuse or kept.route != plan.route:
        return None
    return kept if kept.x is None or same((kept.x,), (point.x,)) else None


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


def _near(kept, strength):
    """Whether it was made for about this damping: within a factor of 10, where the damping is inside of its factor."""
    if not isinstance(kept.source, TriangularBlocks):
        return True
    low, high = sorted((kept.damping, strength))
    return high <= 10 * low


def _frozen(kept):
    """What `_make` made for a factor that is kept for good, to be factored at another damping; None for other routes."""
    if kept is None or kept.route != "frozen":
        return None
    R = kept.source.factors[0]
    xp = namespace(R)
    return (xp.matrix_transpose(R) @ R - kept.source.damping * xp.eye(R.shape[0], dtype=R.dtype, device=R.device),), None


def _obstacle(route, J, objective):
    """Why a route cannot be taken, in words, or nothing."""
    layered = not hasattr(J, "kernel_gram")
    if route == "kernel":
        if layered:
            return "the closed-form kernel is that of the two-layer network"
        return "" if J.phi.name == "relu" else "the closed-form kernel is that of ReLU"
    if route in ("class-averaged", "per-class") and J.outputs == 1:
        return "there is one output: it would be 'exact'"
    if route in ("kfac", "diagonal") and not layered:
        return "the two-layer network's neurons are too many for factors of layers"
    coupling = getattr(objective.network, "coupling", "")
    if route in SAMPLE and route not in ("cg", "nystrom") and coupling:
        return f"{coupling}: there are no rows of single samples"
    return ""


def _bytes(route, J):
    """What a route's matrices take: the Gram matrix, its product of inputs, and the factor, or J Sᵀ."""
    rows = J.samples if route == "class-averaged" else J.shape[0] if route in ("exact", "sketch", "kernel") else 0
    item = 8 if "64" in str(J.dtype) else 4
    return item * rows * rows * (5 if route == "sketch" and not hasattr(J, "kernel_gram") else 3)


def _matrices(J):
    """(rows, o, D) of the layers with two Kronecker factors."""
    return [(rows, *shape) for rows, shape in zip(J.rows, J.factor_shapes, strict=True) if not isinstance(shape, int)]


def _largest(info):
    """The largest Ritz value of a solve; 0 where the right-hand side, or its image, is zero, NaN where one is not finite."""
    return 0.0 if info.iterations == 0 and info.reason != Exit.NON_FINITE else info.largest


def _first(J, bounds):
    """The first λ: deviation 2."""
    return bounds.floor if hasattr(J, "kernel_gram") else 1e-2 * bounds.size


def _eps(x):
    return float(namespace(x).finfo(x.dtype).eps)


def _nothing_left(point, objective, eps, times, l2):
    """Whether the loss is 0, of least squares the residual so many rounding errors of the outputs; ``l2`` may still shrink θ."""
    if l2 or not isinstance(objective.loss, SquaredLoss):
        return not l2 and float(point.loss) == 0
    return norm(point.residual) <= times * eps * (norm(point.outputs) + norm(point.y))


def _unmoved(loss, state, reason):
    """The step that stays where it is, before any solve."""
    stalled = reason.startswith("stalled")
    solve = SolveInfo(0.0, 0, 0, Exit.CONVERGED) if stalled else SolveInfo(math.nan, 0, 0, Exit.NON_FINITE)
    return StepInfo(loss, loss, False, reason, state.damping.value if state.damping else 0.0, math.nan, 0, solve)


def _why_not(hopeless, at_ceiling, attempts, damping, solve):
    if solve.reason == Exit.NON_FINITE:
        return "rejected: the solve is not finite"
    if hopeless:
        return "stalled: no decrease is left above rounding"
    if solve.residual >= 1:
        return f"rejected: the solve is worse than none, its residual is {solve.residual:.2g}"
    if at_ceiling:
        return "stalled: the damping is at its largest; a smooth activation or mini-batches may go on"
    return f"rejected: no decrease in {attempts} attempt(s), damping now {damping.value:.1e}"
