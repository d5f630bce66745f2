r"""Gauss-Newton for every network: two sides of one linear system, a preconditioner by name or by plan, products alone.

Paper       the method of van den Brand, Peng, Song, Weinstein, arXiv:2006.11648, beyond the networks of its theorem; Martens,
            Deep learning via Hessian-free optimization, ICML 2010; Goldshlager, Abrahamsen, Lin, arXiv:2401.10190 (SPRING)
Update      θ ← θ + lr δ,   (JᵀHJ/n + λ I + ω D) δ = -g + λ μ δ_prev - ω W
            J (n c, p) Jacobian of the outputs; H = C Cᵀ Hessians by the outputs; g gradient of the mean loss; K = Cᵀ J; r̃ with
            C r̃ = dl/dz; ω/2 ||W||² the objective's penalty on the weights W = D θ, D a diagonal of ones, zeros for biases;
            C and r̃ of a sample of weight w are times √w
            sample side      δ = δ₀ - Kᵀu,   (K Kᵀ + n (λ + ω) I) u = r̃ + K δ₀,   δ₀ = (λ μ δ_prev - ω W)/(λ + ω)
            parameter side   CG on δ itself from μ δ_prev: one forward-mode and one backward pass a product; C is not inverted
            until ||residual|| <= ε ||right-hand side||, for at most ``maxiter`` iterations; on the sample side ε is lowered by
            ||g + ω W|| / ||g|| where that is below 1
Notation    λ → damping, which ``info`` reports (of the mean; `NearLinearGaussNewton` has n λ),  λ + ω → strength,
            n (λ + ω) → shift,  ω → l2 of the `Objective`,  μ → momentum,  ε → epsilon
Cost        with dense layers (o, D), n samples, c outputs, p parameters, q of them in the first layer, k iterations, s sketch
              rows, h pivoted columns (about as many as take one product) in rounds of b, beyond the forward passes:
            leading 2 c n (p - q) flops per step, c <= 4: backward passes that make the factors
            leading 4 n p flops per iteration, c <= 4: products with factors
            leading 8 n p - 4 n q flops per iteration, c > 4: products by passes
            leading 4 o D (o + D) flops per layer and iteration, plan = "kfac"
            leading 4 n p flops per iteration, plan = "direct", c <= 4: the inverse, where n c <= p
            leading 2 n² D + 2 (n c)² o flops per layer and fresh R, plan = "exact" or "direct": half as rank-k updates
            leading (n c)³/3 flops per fresh R, plan = "exact" or "sketch" or "direct"
            leading 2 (n c)² s flops per fresh R, plan = "sketch": half as a rank-k update
            leading 2 n² (D + c o) flops per layer and fresh R, plan = "class-averaged"
            leading n³/3 flops per fresh R, plan = "class-averaged"
            leading 2 c n² (D + o) flops per layer and fresh R, plan = "per-class"
            leading c n³/3 flops per fresh R, plan = "per-class"
            leading 2 n h (c o + D) flops per layer and fresh R, plan = "pivoted"
            leading n c h (2 h + b) + h³/3 flops per fresh R, plan = "pivoted": h³/3 at every λ
            leading 4 n c h + 2 h² flops per iteration, plan = "pivoted": beside a product
            leading n c h floats at the peak, plan = "pivoted"
            at most 2 n (c o + D) floats at the peak per layer, plan = "pivoted", c > 4: factors, which J has itself where c <= 4
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
            attempt, plan = "direct", c <= 4: k rmatvec, k matvec
            attempt, plan = "direct", c > 4: k jvp, k backward
            fresh R, plan = "exact": 1 gram
            fresh R, plan = "sketch": 1 sketch
            fresh R, plan = "class-averaged": 1 mean_gram
            fresh R, plan = "per-class": 1 class_grams
            fresh R, plan = "exact" or "sketch" or "class-averaged" or "per-class" or "direct" or "pivoted", c > 4: c backward
            fresh R, plan = "kfac" or "diagonal": 1 backward
Deviations  1. The sample side where n c < p, the loss is squared and no layer couples samples, and always for the two-layer
               network; else the parameter side. By name (``plan``) cross-entropies go to the sample side too; where a target's
               probability falls below √eps, r̃ has no bound, and the step goes back.
            2. The damping of the two-layer network starts as in `NearLinearGaussNewton`, at 1e-8 (float32: 1e-5) tr(K Kᵀ)/n²;
               elsewhere at 1e-2 times the largest Ritz value σ of four iterations, clamped to [eps σ, σ/eps]. Where outputs are
               saturated and H vanishes, σ is ||g||²/2L, which least squares never exceed. Until a step is taken, every step
               measures these anew.
            3. On the sample side momentum is always SPRING's, λ/2 ||δ - μ δ_prev||²: the solve would undo another start. A
               step that is refused is tried again without it, and drops it.
            4. A preconditioner is kept while, at the predicted rates, it costs no more than a new one; never on another batch,
               but for Kronecker factors and diagonals, which serve any.
            5. A step is taken if the loss falls by more than .05 of what the undamped model predicts (`steps.judge`), and never
               where δ = 0 has the smaller residual. λ does not fall where a smaller one was just refused, nor after a solve that
               was cut short: its step says nothing about λ.
            6. On the sample side D is I in the system: biases are damped by ω too, and steps vanish at the same θ. Put on the
               parameter side, that took 1.1 to 1.8 times the steps to within 1 % of the least loss on digits and wine at
               ω = 1e-2, and about as many at 1e-4. The model that judges a step has D. A penalty takes the sample side a product
               with K and one with Kᵀ a step.
            7. Where ε is above 1e4 rounding errors, the residual that certifies a solve is summed up from CG's own products, on
               the sample side with the image of δ, on the parameter side by the recursion; below, a product of its own makes it.
            8. Several outputs of the two-layer network have neurons of their own, and K Kᵀ a block for each: "exact" and "frozen"
               have a factor (n, n) for each, "sketch" and "kernel" one of the mean of the blocks, as "class-averaged" does.
            9. λ I depends on the units of the inputs. Where they seem to have several (`several_units`; ``standardize``), a first
               dense layer [W b] is solved for, damped, preconditioned and pulled by momentum as [W diag(s), b + W m], the weights
               of inputs with their means m and deviations s of the first batch taken away: λ (||W diag(s)||² + ||b + W m||²). The
               penalty stays that of W: D is 1/s² there. As the sample side has I for D, with a penalty the parameter side is
               taken.
            10. "pivoted" has F Fᵀ + μ I of h columns of K Kᵀ and no matrix of (n c)² entries: `nearlin.curvature.pivoted_rows`. A
               ReLU network of two layers has those of the closed-form kernel, which stay for the run; others are made anew in
               every step. The planner takes them by itself for two layers alone.
            11. On the sample side CG goes on to the best combination of its iterates (`nearlin.linalg.Smoothing`), whose residual
               certifies the step, and which at small λ is there long before CG itself.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import flag, fold_in, having, one_of, optional, positive, settle
from nearlin.curvature import (
    ROUTES,
    Accuracy,
    Experience,
    ParameterSide,
    Planner,
    Preconditioning,
    Pull,
    SampleSide,
    Setting,
)
from nearlin.linalg import Exit, Rates, axpy, eps_of, norm, rates_for
from nearlin.nn import Dense, SquaredLoss, Standardised, weights_of
from nearlin.sketch import KroneckerSRHT, NeuronSigns
from nearlin.steps import Bounds, Damping, Guard, Recall, StepExit, Trial, public_step, recalled, settle_shared, unmoved

RITZ = 4  # iterations that estimate the largest eigenvalue before the first step


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    damping : Damping or None
        λ of the next step, and the guard's factor.
    bounds : Bounds or None
    experience : Experience
        The preconditioner that is kept, and what the planner has learned.
    delta : tuple or None
        δ of the last step, where there is momentum.
    recall : Recall or None
        The last trial point. It only saves time: without it (``transient``) the same numbers come out.
    variables : Standardised or None
        Those of deviation 9, in which the fields above are; None until a step is taken.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    damping: Damping | None = None
    bounds: Bounds | None = None
    experience: Experience = Experience()
    delta: tuple | None = None
    recall: Recall | None = None
    variables: Standardised | None = None
    shapes: tuple = ()

    transient = ("recall",)


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton steps for any network and loss of `nearlin.nn`.

    Parameters
    ----------
    epsilon : float
        Inner accuracy: relative residual of the linear system; less on the sample side where a penalty balances the gradient.
    stop : str
        ``"residual"``, or ``"progress"``: on the parameter side also stop by `SlowProgress`.
    maxiter : int
        Bound on the iterations of one solve.
    lr : float
        Step size; 1 is the Gauss-Newton step.
    damping : float, optional
        The first λ; by default deviation 2.
    momentum : float
        μ in [0, 1): solves on the parameter side start at μ times the last δ; on the sample side SPRING.
    spring : bool
        Regularise towards μ times the last δ on the parameter side too.
    plan : str
        ``"auto"``: the route with the least predicted time; or one of "exact", "sketch", "kernel" (two-layer ReLU networks),
        "class-averaged", "per-class", "frozen" (the first exact factor, in all steps), "nystrom", "pivoted" (a few columns of
        K Kᵀ: deviation 10), "cg"; on the parameter side
        "kfac", "diagonal", "parameter-cg", "direct" (the inverse itself: for dense layers and some 1000 rows or parameters).
    solver : str
        ``"cg"``; on the sample side also ``"lsqr"`` or ``"craig"``, which square no condition number.
    sketch : distribution, optional
        Of `nearlin.sketch`; by default `NeuronSigns` for the two-layer network and `KroneckerSRHT` for others.
    sketch_size : float, optional
        Sketch rows as a multiple of n c (of n for the two-layer network): by default the distribution's ``oversampling``.
    inner_dtype : str, optional
        ``"float32"`` runs products and factors of the sample side there, under a residual in the working dtype.
    residual_dtype : str, optional
        ``"float64"``: u, δ and the residual of the sample side are in float64 while all else stays in float32.
    reuse : bool
        Keep preconditioners while they serve.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and λ stays.
    standardize : str
        Whether a first dense layer is damped in the variables of standardised inputs: ``"always"``, ``"never"``, or ``"auto"``,
        where the inputs have several units (deviation 9).
    memory : float
        Bytes that one route may take for its matrices; routes that need more are not planned.
    rates : Rates, optional
        How fast the machine does each primitive; ``nearlin info --measure`` makes the table. None: as `nearlin.linalg.rates_for`
        has it.
    """

    epsilon: float = 0.1
    stop: str = "residual"
    maxiter: int = 50
    lr: float = 1.0
    damping: float | None = None
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
    standardize: str = "auto"
    memory: float = 4e9
    rates: Rates | None = None

    def __post_init__(self):
        settle_shared(self, lr=positive, damping=optional(positive), memory=positive, spring=flag)
        settle(self, stop=one_of("residual", "progress"), plan=one_of("auto", *ROUTES), solver=one_of("cg", "lsqr", "craig"))
        settle(self, residual_dtype=one_of(None, "float64"), standardize=one_of("auto", "always", "never"))
        if self.solver != "cg" and self.plan != "auto" and not ROUTES[self.plan].whole:
            found = f"solver is {self.solver!r}, which takes one triangular factor of the whole, and {self.plan!r} has none"
            raise ValueError(f"{found}; expected 'cg'")
        sketches = having("a distribution of nearlin.sketch, such as KroneckerSRHT()", "sample", "oversampling")
        settle(self, sketch=optional(sketches), rates=optional(having("a nearlin.linalg.Rates", "seconds", "calls")))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed.

        Raises
        ------
        BackendError, TypeError, ValueError
            Input that does not fit (see `Objective.at`), or a ``plan`` that this network or loss does not allow, with the reason.
        """
        key = fold_in(key, 0)
        point = recalled(state.recall, objective, params, batch) or objective.at(params, batch)
        variables = state.variables or self._variables(point, objective.network)
        point = point.standardised(variables)
        squared = isinstance(objective.loss, SquaredLoss)
        guard = Guard(point, self.guard, squared)
        if guard.why_unmoved:
            return params, state, unmoved(point, guard.why_unmoved, state.damping)
        J = point.jacobian(weighted=True)
        planner = self.planner(J, point, squared)
        plan = self._plan(planner, state)
        self._check_solver(J, plan)
        system = self._system(plan.side, J, point, state.delta)
        bounds = state.bounds or self._bounds(J, system, point)
        if not 0 < bounds.size < math.inf:
            return params, state, unmoved(point, _no_curvature(bounds), state.damping)
        setting = self._setting(J, point, state.experience.growth, key, planner.columns(state.experience))
        P = self._preconditioning(planner, ROUTES[plan.route], state.experience, setting)
        for damping in guard.attempts_from(state.damping or Damping(self.damping or _first(J, bounds))):
            solution = P.solve(system, damping)
            trial = self._attempt(objective, params, point, batch, solution, variables)
            guard.judge(trial, solution.info, bounds)
            system.forget()  # retries go without momentum: damping alone would only leave more of it
        solve = P.certify(solution.info)
        info = guard.info(trial, solve, plan.side, plan.reason, P.effective_dimension(damping + point.l2, key))
        recall = Recall.of(objective, trial.params, batch, trial.point) if info.accepted else None
        delta = solution.step if info.accepted and self.momentum else None
        learned = planner.learn(state.experience, P.kept, P.fresh, solve)
        bounds, variables = (bounds, variables) if info.accepted else (state.bounds, state.variables)
        state = State(_next(guard, solve), bounds, learned, delta, recall, variables)
        return trial.params if info.accepted else params, state, info

    # -------------------------------------------------------------------------------------------------------- the quadratic model

    def _variables(self, point, network):
        """See deviation 9."""
        first, how = getattr(network, "modules", (None,))[0], self.standardize
        if type(first) is Dense and how != "never" and (how == "always" or point.several_units()):
            return point.standardisation(first.bias)
        return Standardised()

    def _bounds(self, J, system, point):
        """See deviation 2."""
        eps = eps_of(system.pull.params[0])
        if not J.layered:
            return Bounds.of(J.mean_square() / system.n or point.l2, eps)
        size = system.largest_curvature(RITZ, float(point.loss)) or point.l2
        return Bounds(size, eps * size, size / eps)

    def _attempt(self, objective, params, point, batch, solution, variables):
        """θ + lr δ, its loss, and the decrease beside that of the undamped quadratic model."""
        trial = axpy(self.lr, variables.back(solution.step), params)
        if not all(math.isfinite(norm(W)) for W in trial):
            return Trial(params, None, math.nan, math.nan, math.nan)
        curvature = norm(solution.image) ** 2 / point.samples
        if point.l2:
            curvature += point.l2 * norm(weights_of(solution.step, point.layers)) ** 2
        predicted = -self.lr * solution.slope - 0.5 * self.lr**2 * curvature
        new = objective.at(trial, batch)
        after = float(new.loss)
        return Trial(trial, new, after, predicted, (float(point.loss) - after) / predicted if predicted > 0 else math.nan)

    # -------------------------------------------------------------------------------- the system, its plan and its preconditioner

    @property
    def _accuracy(self):
        return Accuracy(self.epsilon, self.solver, self.stop, self.inner_dtype, self.residual_dtype)

    def _system(self, side, J, point, delta):
        last = delta if self.momentum else None
        pull = Pull(point.params, point.layers, point.l2, last, self.momentum, self.spring)
        if side == "parameter":
            return ParameterSide(J, point.grads(), pull, self._accuracy)
        return SampleSide(J, point.residual, pull, self._accuracy)

    def _check_solver(self, J, plan):
        if self.solver != "cg" and plan.side == "sample" and J.block_diagonal:
            found = f"solver is {self.solver!r}, which takes one triangular factor of the whole"
            raise ValueError(f"{found}, and each output has its own block of J Jᵀ; expected 'cg'")

    def planner(self, J, point, squared):
        """The `Planner` of a step with the Jacobian ``J`` at a `Point`, or for a first step by sizes alone at None."""
        rows, whole = self._rows(J, 1), self.solver != "cg"
        rates = rates_for(self.rates, None if point is None else point.x)
        return Planner(
            J, point, squared, rows, self.epsilon, self.maxiter, rates, self.inner_dtype, self.reuse, self.memory, whole
        )

    def _plan(self, planner, state):
        if self.plan != "auto":
            return planner.named(self.plan)
        ratio = state.bounds.size / state.damping.value if state.bounds and state.damping else 100.0
        return planner.cheapest(state.experience, ratio)

    def _preconditioning(self, planner, route, experience, setting):
        kept = planner.serving(route, experience)
        return Preconditioning(route, kept, setting, planner.limit(kept) if kept else self.maxiter, self.maxiter)

    def _setting(self, J, point, growth, key, columns):
        return Setting(J, point, point.layers, self._distribution(J), self._rows(J, growth), key, self._accuracy, columns)

    def _rows(self, J, growth):
        """Of a sketch, ``growth`` times its default size."""
        size = self._distribution(J).oversampling if self.sketch_size is None else self.sketch_size
        return math.ceil(growth * size * J.pooled().shape[0])

    def _distribution(self, J):
        if self.sketch is not None:
            return self.sketch
        return KroneckerSRHT() if J.layered else NeuronSigns()


def _first(J, bounds):
    """The first λ: deviation 2."""
    return 1e-2 * bounds.size if J.layered else bounds.floor


def _next(guard, solve):
    """The next step's damping: deviation 5."""
    steady = guard.accepted and (guard.attempts > 1 or solve.reason != Exit.CONVERGED)
    return guard.damping._replace(value=max(guard.damping.value, guard.used)) if steady else guard.damping


def _no_curvature(bounds):
    """Why there is nothing to solve."""
    if bounds.size:
        return StepExit.REJECTED.because("the curvature is not finite")
    return StepExit.STALLED.because("the gradient, or all curvature along it, is zero")
