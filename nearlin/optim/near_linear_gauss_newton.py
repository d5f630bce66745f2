r"""Near-linear Gauss-Newton: the Gauss-Newton step by sketch-and-precondition.

Paper       van den Brand, Peng, Song, Weinstein, Training (Overparametrized) Neural Networks in Near-Linear Time, ITCS 2021,
            arXiv:2006.11648; the outer loop and the fast regression of its abstract: sketch, factor, iterate
Update      W ← W - lr Jᵀg,   ||r - (J Jᵀ + λ I) g|| <= ε ||r||
            J (n c, p) Jacobian of the outputs, r (n c,) residual f - y, g (n c,)
            R (n c, n c) with RᵀR = G̃ + λ I, G̃ = J SᵀS Jᵀ sketched; PCG on J Jᵀ + λ I with M⁻¹ = R⁻¹R⁻ᵀ
Notation    paper → code:  A = Jᵀ → J transposed,  R → R⁻¹,  ε₀ → epsilon,  G_t → J Jᵀ,  λ_min of the kernel → not needed
Cost        with a two-layer ReLU network of one output: n samples, d inputs, m neurons, N = n m d, s sketched neurons (default
              3 n/2), K inner iterations, B floats of a block of neurons (2 MB, or 256 neurons up to 8 MB; to the flop:
              `nearlin.complexity.cost.near_linear_step`):
            leading K (4 N + 2 n²) flops per step: products and triangular solves
            leading 2 N flops per step: certificate
            leading 2 N + 4 n m flops per step: guard, which is the next step's forward pass
            leading 2 n m + 2 n² (s + d) + n³/3 flops per fresh R: half of 2 n² s as a rank-k update
            at most 3 n² + n s + 7 m d + n m/32 + 2 B floats at the peak: masks in bits (NumPy; in bytes elsewhere)
Oracles     step: 1 jacobian, c backward: backward passes make the factors of a layered network
            first step: 1 forward more
            fresh R: 1 sketch_gram
            attempt: K gram_matvec, 1 matvec, 1 forward
Deviations  1. PCG; the paper's double-product iteration, Richardson's and Chebyshev's are offered by name (``inner``).
            2. The sketch acts on the neuron mode alone, S = S₁ ⊗ I, so that G̃ = (X Xᵀ) ∘ (M S₁ᵀS₁ Mᵀ) costs n² s; the paper's
               Fast-JL transform of the factors is ``sketch=KroneckerSRHT()``.
            3. R by Cholesky of G̃ + λ I; where that fails by QR of the sketched Jacobian, as in the paper, or for sketches of the
               neuron mode, which form no such matrix, by Cholesky with a larger shift.
            4. R is kept while it serves: until a step needs 1.5 times the iterations (plus one) of the step that built it, the
               damping moves by more than 10 times, or the batch changes. The paper sketches anew in every step.
            5. Damping λ, of J Jᵀ and not of its mean, with a Levenberg-Marquardt guard (none in the paper): the step is taken
               only if the loss falls, and g solves better than 0 does.
            6. The residual is measured as ||r - (G + λ I) g||, recomputed from the step itself; constant ε = 1/6 suffices then,
               instead of the paper's order √(λ_min/n).
            7. tr(G) of the guard's constants is read off the sketched Gram, whose trace it is in expectation.
            8. Several outputs of the two-layer network (one in the paper) have neurons of their own, and J Jᵀ a block for each.
               One R (n, n), of a sketch of all neurons that estimates the mean of the blocks, preconditions them all.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin import linalg
from nearlin._array import copies, fold_in, having, namespace, not_negative, one_of, optional, positive, require, same, settle
from nearlin.curvature import Accuracy, DampedGram, gram_solve, near, too_rough
from nearlin.sketch import NeuronSamples, NeuronSigns
from nearlin.steps import (
    CEILING,
    Bounds,
    Damping,
    Guard,
    Recall,
    attempt,
    least_damping,
    public_step,
    recalled,
    settle_shared,
    unmoved,
)

FINE = 1e-3  # accuracy below which Jᵀg is formed in the working dtype whatever the inner one is
UNIT_STEP = 39.5  # sketch rows per n below which the double product diverges
INNER = ("cg", "chebyshev", "richardson", "double product")


class Preconditioner(NamedTuple):
    """R with RᵀR = G̃ + damping I, and what decides how long it serves."""

    R: object
    x: object  # the inputs it was built for
    damping: float
    scale: float  # tr(G̃)/n
    oversampling: float  # sketch rows per n
    sketch: str
    how: str  # the factorisation
    effort: float = math.inf  # iterations per ln(1/ε) of the step that built it


class Sketched(NamedTuple):
    """G̃ = J SᵀS Jᵀ, J Sᵀ where the sketch forms it, tr(G̃)/n, and the sketch rows per n."""

    gram: object
    rows: object
    scale: float
    oversampling: float


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    damping : Damping or None
        λ of the next step, and the guard's factor.
    preconditioner : Preconditioner or None
        R, if it may serve again.
    growth : int
        How many times its default size the next sketch is.
    previous : float
        ||r|| of the last step, for superlinear forcing; 0 where there was none on this batch.
    recall : Recall or None
        The last trial point. It only saves time: without it (``transient``) the same numbers come out.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    damping: Damping | None = None
    preconditioner: Preconditioner | None = None
    growth: int = 1
    previous: float = 0.0
    recall: Recall | None = None
    shapes: tuple = ()

    transient = ("recall",)


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
        Sketch rows as a multiple of n c (of n for the two-layer network): by default the distribution's ``oversampling``.
    inner : str
        ``"cg"``; ``"chebyshev"`` or ``"richardson"``, with parameters from the spectrum that the sketch size implies; or the
        paper's ``"double product"``, which needs a ``sketch_size`` above 39.5.
    inner_dtype : str, optional
        ``"float32"`` runs products and R there under a residual in the working dtype, corrected until it meets ``epsilon``;
        below 1e-3 the step Jᵀg is formed in the working dtype too, one product a correction.
    damping : float, optional
        The first λ. The default, and what the guard never goes below again, is 1e-8 tr(G)/n in float64 and 1e-5 tr(G)/n in
        float32.
    reuse : bool
        Keep R while it serves.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and λ stays.
    maxiter : int
        Bound on the iterations of one inner solve.

    Examples
    --------
    >>> x, y = nl.data.sphere(n=32, d=4, seed=0)
    >>> objective = nl.nn.Objective(nl.nn.TwoLayer(inputs=4, width=512), nl.nn.SquaredLoss())
    >>> params = objective.network.init(key=0, like=x)
    >>> opt = nl.optim.NearLinearGaussNewton()
    >>> params, state, info = opt.step(params, opt.init(params, objective), objective, (x, y), key=0)
    >>> info.accepted, info.new_loss < info.loss / 2, info.solve.residual <= 1 / 6
    (True, True, True)
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
        sketches = having("a distribution of nearlin.sketch, such as NeuronSigns()", "sample", "oversampling")
        settle_shared(self, lr=positive, damping=optional(not_negative), sketch=sketches)
        settle(self, forcing=one_of("constant", "superlinear"), inner=one_of(*INNER))
        require(
            self.inner != "double product" or self.size > UNIT_STEP,
            f"sketch_size is {self.size!r}; expected more than {UNIT_STEP} for the double product, which diverges below",
        )

    @property
    def size(self):
        """Sketch rows as a multiple of n c."""
        return self.sketch.oversampling if self.sketch_size is None else self.sketch_size

    @property
    def _accuracy(self):
        return Accuracy(self.epsilon, inner_dtype=self.inner_dtype)

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed.

        Raises
        ------
        BackendError, TypeError, ValueError
            Input that does not fit (see `Objective.at`).
        """
        key = fold_in(key, 0)
        point = recalled(state.recall, objective, params, batch) or objective.at(params, batch)
        point.check_least_squares(type(self).__name__)
        r, eps = point.residual, linalg.eps_of(point.x)
        guard = Guard(point, self.guard)
        if guard.why_unmoved:
            return params, state, unmoved(point, guard.why_unmoved, state.damping)
        J, sketched = self._jacobian(point, objective), None
        self._check_inner(J)
        P, fresh, known = state.preconditioner, False, self._knows(state.preconditioner, point.x)
        epsilon = self._forcing_term(guard.size, state.previous if known else 0.0, eps)
        if not (self.reuse and known and near(P.damping, state.damping.value)):
            sketched, fresh = self._sketch(J, point.x, state.growth, key), True
            P = self._factor(sketched, state.damping, point.x)
        least = least_damping(eps) * P.scale
        for damping in guard.attempts_from(state.damping or Damping(P.damping)):
            solution = None
            if near(P.damping, damping):
                solution = self._solve(J, r, damping, P, epsilon, self._limit(P, fresh, epsilon))
            if solution is None or (solution.info.reason != linalg.Exit.CONVERGED and not fresh):
                sketched, fresh = sketched or self._sketch(J, point.x, state.growth, key), True
                P = self._factor(sketched, guard.damping, point.x)
                solution = self._solve(J, r, damping, P, epsilon, self.maxiter)
            trial = attempt(objective, point, batch, solution.step, solution.image, self.lr)
            guard.judge(trial, solution.info, Bounds(P.scale, least, CEILING * P.scale))
        solve = solution.info._replace(preconditioner=f"{P.sketch}, {P.how}", refreshed=fresh)
        info = guard.info(trial, solve)
        recall = Recall.of(objective, trial.params, batch, trial.point) if info.accepted else None
        state = State(guard.damping, *self._keep(P, fresh, solve, epsilon, state.growth), guard.size, recall)
        return (trial.params if info.accepted else params), state, info

    def _forcing_term(self, size, previous, eps):
        """ε of this step."""
        if self.forcing == "constant" or not previous:
            return self.epsilon
        return max(min(self.epsilon, 0.5 * size / previous), 100 * eps)

    # ------------------------------------------------------------------------------------------------ the preconditioner

    def _knows(self, P, x):
        """Whether R was built for these inputs, by this sketch, in this dtype."""
        dtype = self._accuracy.cast(x).dtype
        return P is not None and P.sketch == repr(self.sketch) and P.R.dtype == dtype and same((P.x,), (x,))

    def _jacobian(self, point, objective):
        """J, kept in factors where a sketch of neurons needs them."""
        neurons = isinstance(self.sketch, NeuronSigns | NeuronSamples)
        dense = all(spec.kind == "dense" for spec in objective.layers)
        return point.jacobian(weighted=True, factors=True if neurons and dense else None)

    def _check_inner(self, J):
        if self.inner != "cg" and J.block_diagonal:
            found = f"inner is {self.inner!r}, which needs a sketch of the system itself"
            raise ValueError(f"{found}, and that of several outputs is one of their mean; expected 'cg'")

    def _sketch(self, J, x, growth, key):
        """G̃ = J SᵀS Jᵀ."""
        J, x = self._accuracy.inner(J).pooled(), self._accuracy.cast(x)
        n = J.shape[0]
        S = J.draw(self.sketch, key, math.ceil(growth * self.size * n), x)
        xp = namespace(x)
        rows = None if hasattr(S, "left") else J.sketch(S)
        gram = J.sketch_gram(S) if rows is None else rows @ xp.matrix_transpose(rows)
        return Sketched(gram, rows, float(xp.linalg.trace(gram)) / n, growth * self.size)

    def _factor(self, sketched, damping, x):
        """R with RᵀR = G̃ + λ I."""
        first = least_damping(linalg.eps_of(x)) * sketched.scale if self.damping is None else self.damping
        value = damping.value if damping else first
        R, how = linalg.sketch_factor(sketched.gram, value, sketched.rows)
        return Preconditioner(R, *copies((x,)), value, sketched.scale, sketched.oversampling, repr(self.sketch), how)

    def _limit(self, P, fresh, epsilon):
        """Iterations before a kept R is given up."""
        return self.maxiter if fresh else min(self.maxiter, math.ceil(4 * P.effort * math.log(1 / epsilon)) + 8)

    def _keep(self, P, fresh, solve, epsilon, growth):
        """The preconditioner for the next step (None: build one), and the size of the next sketch."""
        accuracy = math.log(1 / epsilon)
        if fresh and too_rough(solve.iterations, epsilon, growth):
            return None, 2 * growth
        if fresh:
            return P._replace(effort=solve.iterations / accuracy), growth
        serves = solve.iterations <= 1.5 * P.effort * accuracy + 1
        return (P if serves else None), growth

    # ------------------------------------------------------------------------------------------------ the linear system

    def _solve(self, J, r, damping, P, epsilon, limit):
        """(J Jᵀ + λ I) g = r to the true residual ``epsilon``; products in the inner dtype, the residual in the working dtype."""
        inner = self._accuracy.inner(J)
        M = linalg.TriangularBlocks((P.R,), J.shape[0] // P.R.shape[0], P.damping)

        def inner_solve(rest, rtol, left):
            operator = DampedGram(inner, damping)
            g, info = self._iterate(operator, self._accuracy.cast(rest), M, P.oversampling, rtol, left)
            if self.inner_dtype is not None and epsilon < FINE:  # a step summed in float32 would be no better than that
                return namespace(g).astype(g, rest.dtype, copy=False), None, info
            return *operator.in_dtype_of(g, rest), info

        return gram_solve(J, r, damping, inner_solve, epsilon, limit)

    def _iterate(self, operator, b, M, oversampling, rtol, limit):
        options = {"preconditioner": M, "rtol": rtol, "maxiter": limit}
        if self.inner == "cg":
            return linalg.cg(operator, b, certify=False, on_step=operator.accumulate, **options)
        if self.inner == "double product":
            return linalg.double_product(operator, b, **options)
        gamma = min(0.95, oversampling**-0.5)
        if self.inner == "chebyshev":
            return linalg.chebyshev(operator, b, bounds=linalg.sketch_spectrum(gamma), **options)
        return linalg.richardson(operator, b, step=linalg.best_step(gamma), **options)
