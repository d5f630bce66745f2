r"""Near-linear Gauss-Newton: the Gauss-Newton step by sketch-and-precondition.

Paper       van den Brand, Peng, Song, Weinstein, Training (Overparametrized) Neural Networks in Near-Linear Time, ITCS 2021,
            arXiv:2006.11648; the outer loop and the fast regression of its abstract: sketch, factor, iterate
Update      W ← W - lr Jᵀg,   ||r - (J Jᵀ + λ I) g|| <= ε ||r||
            J (n c, p) Jacobian of the outputs, r (n c,) residual f - y, g (n c,)
            R (n c, n c) with RᵀR = G̃ + λ I, G̃ = J SᵀS Jᵀ sketched; PCG on J Jᵀ + λ I with M⁻¹ = R⁻¹R⁻ᵀ
Notation    paper → code:  A = Jᵀ → J transposed,  R → R⁻¹,  ε₀ → epsilon,  G_t → J Jᵀ,  λ_min of the kernel → not needed
Cost        flops, two-layer ReLU network, leading terms with N = n m d, K inner iterations, s sketched neurons (default 3n/2);
            to the flop in `nearlin.complexity.cost.near_linear_step`:
            K (4N + 2 n²) products and triangular solves + 2N certificate + 2N + 4 n m guard, which is the next step's forward
            fresh R: 2 n m + 2 n² (s + d) + n³/3, where the rank-k update of a BLAS does half of the 2 n² s
            memory n m / 8 bytes of masks (NumPy; n m elsewhere), twice; about 3 n² + n s floats when R is fresh; 5 m d floats
Oracles     1 jacobian; K products with J Jᵀ and 1 with J; 1 forward per attempt; 1 sketch when R is fresh
Deviations  1. PCG; the paper's double-product iteration, Richardson's and Chebyshev's are offered by name (``inner``).
            2. The sketch acts on the neuron mode alone, S = S₁ ⊗ I, so that G̃ = (X Xᵀ) ∘ (M S₁ᵀS₁ Mᵀ) costs n² s; the paper's
               Fast-JL transform of the factors is ``sketch=KroneckerSRHT()``.
            3. R by Cholesky of G̃ + λ I, by QR where that fails; the paper factors the sketched Jacobian by QR.
            4. R is kept while it serves: until a step needs 1.5 times the iterations (plus one) of the step that built it, the
               damping moves by more than 10 times, or the batch changes. The paper sketches anew in every step.
            5. Damping λ with a Levenberg-Marquardt guard (none in the paper): the step is taken only if the loss falls.
            6. The residual is measured as ||r - (G + λ I) g||, recomputed from the step itself; constant ε = 1/6 suffices then,
               instead of the paper's order √(λ_min/n).
            7. tr(G) of the guard's constants is read off the sketched Gram, whose trace it is in expectation.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import copies, fold_in, is_array, namespace, same
from nearlin.linalg import (
    Damping,
    SolveInfo,
    StepInfo,
    TriangularPreconditioner,
    axpy,
    cg,
    chebyshev,
    double_product,
    judge,
    norm,
    richardson,
    sketch_factor,
    sketch_spectrum,
)
from nearlin.nn import Point, attempt
from nearlin.sketch import NeuronSigns

ATTEMPTS = 7  # the first and at most 6 retries
SLOW = 6 / math.log(6)  # iterations per ln(1/ε) above which a fresh R is too rough: 6 at ε = 1/6
INNER = ("cg", "chebyshev", "richardson", "double product")


class Preconditioner(NamedTuple):
    """R with RᵀR = G̃ + damping I, and what decides how long it serves."""

    R: object
    x: object  # the inputs it was built for
    damping: float
    scale: float  # tr(G̃)/n
    effort: float  # iterations per ln(1/ε) of the step that built it
    how: str


class Recall(NamedTuple):
    """The accepted trial point with copies of what it was evaluated at: the next step's forward pass, already made."""

    objective: object
    inputs: tuple
    point: Point


class State(NamedTuple):
    """What a step hands to the next. ``recall`` only saves time: without it (``transient``) the same numbers come out."""

    damping: Damping | None = None
    preconditioner: Preconditioner | None = None
    growth: int = 1  # the sketch is this many times its default size
    previous: float = 0.0  # ||r|| of the step before
    recall: Recall | None = None

    transient = ("recall",)


class Solution(NamedTuple):
    """g, the step Jᵀg, its image J Jᵀg, and the certificate."""

    g: object
    step: tuple
    image: object
    info: SolveInfo


@dataclass(frozen=True)
class NearLinearGaussNewton:
    """The near-linear Gauss-Newton step of arXiv:2006.11648.

    Parameters
    ----------
    epsilon : float
        Inner accuracy: the relative true residual of the linear system; the outer contraction tends to what is achieved.
    lr : float
        Step size; 1 is the Gauss-Newton step.
    forcing : str
        ``"constant"``, or ``"superlinear"``: min(epsilon, half the last contraction).
    sketch : distribution
        `NeuronSigns` (default), `KroneckerSRHT`, or any other of `nearlin.sketch`.
    sketch_size : float, optional
        Sketch rows as a multiple of n c: by default the distribution's ``oversampling``.
    inner : str
        ``"cg"``, or ``"chebyshev"``, ``"richardson"``, ``"double product"`` with the spectrum that the sketch size implies.
    inner_dtype : str, optional
        ``"float32"`` runs products and R there under a residual in the working dtype, corrected until it meets ``epsilon``.
    damping : float, optional
        The first λ; by default, and at least, 1e-8 tr(G)/n in float64 and 1e-5 tr(G)/n in float32.
    reuse : bool
        Keep R while it serves.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and λ stays.
    maxiter : int
        Bound on the iterations of one inner solve.
    """

    epsilon: float = 1 / 6
    lr: float = 1.0
    forcing: str = "constant"
    sketch: object = NeuronSigns()
    sketch_size: float | None = None
    inner: str = "cg"
    inner_dtype: str | None = None
    damping: float | None = None
    reuse: bool = True
    guard: bool = True
    maxiter: int = 200

    def __post_init__(self):
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon!r}; expected a number between 0 and 1")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr!r}; expected a positive number")
        if self.forcing not in ("constant", "superlinear"):
            raise ValueError(f"forcing is {self.forcing!r}; expected 'constant' or 'superlinear'")
        if self.inner not in INNER:
            raise ValueError(f"inner is {self.inner!r}; expected one of {', '.join(INNER)}")
        if self.inner_dtype not in (None, "float32"):
            raise ValueError(f"inner_dtype is {self.inner_dtype!r}; expected None or 'float32'")
        if self.damping is not None and not self.damping >= 0:
            raise ValueError(f"damping is {self.damping!r}; expected a number >= 0")

    @property
    def size(self):
        """Sketch rows as a multiple of n c."""
        return self.sketch.oversampling if self.sketch_size is None else self.sketch_size

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    def step(self, params, state, objective, batch, key):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed.

        Raises
        ------
        BackendError, TypeError, ValueError
            Input that does not fit (see `Objective.at`).
        """
        point = _recalled(state, objective, params, batch) or objective.at(params, batch)
        J, r = point.jacobian(weighted=True), point.residual
        size, rounding = norm(r), _eps(r) * (norm(point.outputs) + norm(point.y))
        if size <= 4 * rounding:
            return params, state, _stalled(point, state)
        epsilon = self._forcing_term(size, state.previous, r)
        P, fresh = state.preconditioner, False
        if not (self.reuse and _serves(P, point.x, state.damping)):
            P, fresh = self._precondition(J, point, state.damping, state.growth, key), True
        damping = state.damping or Damping(self._first_damping(P.scale, r))
        for attempts in range(1, ATTEMPTS + 1):  # noqa: B007 (read after the loop)
            if not _serves(P, point.x, damping):
                P, fresh = self._precondition(J, point, damping, state.growth, key), True
            solution = self._solve(J, r, damping.value, P, epsilon, self._limit(P, fresh, epsilon))
            if solution.info.reason != "converged" and not fresh:
                P, fresh = self._precondition(J, point, damping, state.growth, key), True
                solution = self._solve(J, r, damping.value, P, epsilon, self.maxiter)
            trial, used = attempt(objective, point, batch, solution.step, solution.image, self.lr), damping.value
            accepted = math.isfinite(trial.ratio)
            if self.guard:
                accepted, damping = judge(damping, trial.ratio, _least(r) * P.scale, P.scale)
            if accepted or not self.guard or size <= 1000 * rounding:
                break
        solve = solution.info._replace(preconditioner=f"{type(self.sketch).__name__}, {P.how}", refreshed=fresh)
        loss = float(point.loss)
        new_loss = float(trial.point.loss) if accepted else loss
        reason = "accepted" if accepted else _why_not(size, rounding, attempts, damping)
        recall = Recall(objective, copies((*trial.params, *batch)), trial.point) if accepted else None
        state = State(damping, *self._keep(P, fresh, solve, epsilon, state.growth), size, recall)
        info = StepInfo(loss, new_loss, accepted, reason, used, trial.ratio, attempts, solve)
        return (trial.params if accepted else params), state, info

    def _forcing_term(self, size, previous, r):
        """ε of this step."""
        if self.forcing == "constant" or not previous:
            return self.epsilon
        return max(min(self.epsilon, 0.5 * size / previous), 100 * _eps(r))

    def _first_damping(self, scale, r):
        return _least(r) * scale if self.damping is None else self.damping

    # ------------------------------------------------------------------------------------------------ the preconditioner

    def _precondition(self, J, point, damping, growth, key):
        """Sketch the Jacobian and factor: RᵀR = J SᵀS Jᵀ + λ I."""
        J = self._inner(J)
        n, p = J.shape
        rows = math.ceil(growth * self.size * n)
        like = self._cast(point.x)
        S = self.sketch.sample(fold_in(key, 0), rows, J.factor_shapes if self.sketch.factored else p, like=like)
        gram = J.sketch_gram(S)
        scale = float(namespace(gram).linalg.trace(gram)) / n
        value = damping.value if damping else self._first_damping(scale, point.residual)
        R, how = sketch_factor(gram, value)
        return Preconditioner(R, *copies((point.x,)), value, scale, math.inf, how)

    def _limit(self, P, fresh, epsilon):
        """Iterations before a kept R is given up."""
        return self.maxiter if fresh else min(self.maxiter, math.ceil(4 * P.effort * math.log(1 / epsilon)) + 8)

    def _keep(self, P, fresh, solve, epsilon, growth):
        """The preconditioner for the next step (None: build one), and the size of the next sketch."""
        effort = solve.iterations / math.log(1 / epsilon)
        if fresh:
            too_rough = effort > SLOW and growth < 4
            return (None, 2 * growth) if too_rough else (P._replace(effort=effort), growth)
        serves = solve.iterations <= 1.5 * P.effort * math.log(1 / epsilon) + 1
        return (P if serves else None), growth

    # ------------------------------------------------------------------------------------------------ the linear system

    def _solve(self, J, r, damping, P, epsilon, limit):
        """(J Jᵀ + λ I) g = r to the true residual ``epsilon``: inner solves for what is left, until that is small or stays."""
        target = norm(r)
        g, step, rest, iterations, products = 0.0, None, r, 0, 0
        while True:
            before = norm(rest)
            dg, dstep, info = self._inner_solve(J, rest, damping, P, epsilon * target / before, limit - iterations)
            g, step = g + dg, dstep if step is None else axpy(1.0, dstep, step)
            image = J.matvec(step)
            rest = r - image - damping * g
            iterations, products = iterations + info.iterations, products + info.products + 1
            left = norm(rest)
            if left <= 1.001 * epsilon * target or info.reason != "converged" or not left < 0.5 * before:
                break
        reason = "converged" if left <= 1.001 * epsilon * target else info.reason if info.reason != "converged" else "stalled"
        return Solution(g, step, image, SolveInfo(left / target, iterations, products, reason, info.condition))

    def _inner_solve(self, J, b, damping, P, rtol, limit):
        """g, Jᵀg and the solver's info; products in the inner dtype, results in the working dtype."""
        J, dtype = self._inner(J), b.dtype
        operator, M = _DampedGram(J, damping), TriangularPreconditioner(P.R)
        g, info = self._iterate(operator, self._cast(b), M, rtol, limit)
        step = operator.adjoint or J.rmatvec(g)
        cast = namespace(b).astype
        return cast(g, dtype, copy=False), tuple(cast(V, dtype, copy=False) for V in step), info

    def _iterate(self, operator, b, M, rtol, limit):
        options = {"preconditioner": M, "rtol": rtol, "maxiter": limit}
        if self.inner == "cg":
            return cg(operator, b, certify=False, on_step=operator.accumulate, **options)
        if self.inner == "double product":
            return double_product(operator, b, **options)
        bounds = sketch_spectrum(min(0.95, self.size**-0.5))
        if self.inner == "chebyshev":
            return chebyshev(operator, b, bounds=bounds, **options)
        return richardson(operator, b, step=2 / sum(bounds), **options)

    def _inner(self, J):
        """J in the dtype of the inner products."""
        return J if self.inner_dtype is None else J.astype(self.inner_dtype)

    def _cast(self, x):
        xp = namespace(x)
        return x if self.inner_dtype is None else xp.astype(x, getattr(xp, self.inner_dtype), copy=False)


class _DampedGram:
    """v → (J Jᵀ + λ I) v that remembers Jᵀv, so that Jᵀg follows from the steps g += α v without another product."""

    def __init__(self, J, damping):
        self.J, self.damping, self.last, self.adjoint = J, damping, None, None

    def __call__(self, v):
        image, self.last = self.J.gram_matvec_with_adjoint(v)
        return image + self.damping * v

    def accumulate(self, alpha):
        scaled = tuple(alpha * V for V in self.last)
        self.adjoint = scaled if self.adjoint is None else axpy(1.0, scaled, self.adjoint)


def _recalled(state, objective, params, batch):
    """The point that the last step left, if this step starts there."""
    recall = state.recall
    if recall is None or recall.objective != objective or not all(map(is_array, (*params, *batch))):
        return None
    return recall.point if same(recall.inputs, (*params, *batch)) else None


def _serves(P, x, damping):
    """Whether R was built for these inputs and about this damping."""
    if P is None or damping is None or not same((P.x,), (x,)):
        return False
    low, high = sorted((P.damping, damping.value))
    return high <= 10 * low


def _eps(x):
    return float(namespace(x).finfo(x.dtype).eps)


def _least(r):
    """The least damping over tr(G)/n."""
    return 1e-8 if _eps(r) < 1e-10 else 1e-5


def _stalled(point, state):
    """The step that stays where it is, as nothing but rounding is left to remove."""
    loss, damping = float(point.loss), state.damping.value if state.damping else 0.0
    solve = SolveInfo(0.0, 0, 0, "converged")
    return StepInfo(loss, loss, False, "stalled: the residual is rounding", damping, math.nan, 0, solve)


def _why_not(size, rounding, attempts, damping):
    if size <= 1000 * rounding:
        return "stalled: the residual is near rounding and did not fall"
    return f"rejected: no decrease in {attempts} attempts, damping now {damping.value:.1e}"
