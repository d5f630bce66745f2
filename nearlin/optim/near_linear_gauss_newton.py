r"""Near-linear Gauss-Newton: the Gauss-Newton step by sketch-and-precondition.

Paper       van den Brand, Peng, Song, Weinstein, Training (Overparametrized) Neural Networks in Near-Linear Time, ITCS 2021,
            arXiv:2006.11648; the outer loop and the fast regression of its abstract: sketch, factor, iterate
Update      W ← W - lr Jᵀg,   ||r - (J Jᵀ + λ I) g|| <= ε ||r||
            J (n c, p) Jacobian of the outputs, r (n c,) residual f - y, g (n c,)
            R (n c, n c) with RᵀR = G̃ + λ I, G̃ = J SᵀS Jᵀ sketched; PCG on J Jᵀ + λ I with M⁻¹ = R⁻¹R⁻ᵀ
Notation    paper → code:  A = Jᵀ → J transposed,  R → R⁻¹,  ε₀ → epsilon,  G_t → J Jᵀ,  λ_min of the kernel → not needed
Cost        with a two-layer ReLU network of one output: n samples, d inputs, m neurons, N = n m d, K inner iterations; for R
              s sketched neurons (default 3 n/2), for F k columns (default √(2 m d)) in rounds of b = k/8, within 16 and 512; B
              floats of a block of neurons (2 MB, or 256 neurons up to 8 MB, else 512 by tiles of samples; to the flop:
              `nearlin.complexity.cost.near_linear_step`):
            leading 4 K N flops per step: products
            leading 2 K n² flops per step, preconditioner = "sketch" or "kernel": triangular solves
            leading 4 K n k + 2 K k² flops per step, preconditioner = "pivoted"
            leading 2 N flops per step: certificate
            leading 2 N + 4 n m flops per step: guard, which is the next step's forward pass
            leading 2 n m + 2 n² (s + d) + n³/3 flops per fresh R, preconditioner = "sketch": half of 2 n² s as a rank-k update
            leading 2 n² d + n³/3 flops per fresh R, preconditioner = "kernel"
            leading 2 n k (d + k) + n k b + k³/3 flops per fresh F, preconditioner = "pivoted": k³/3 where λ moves, too
            at most 3 n² + n s + 6 m d + n m/32 + 2 B floats at the peak, preconditioner = "sketch": masks in bits (NumPy; in
              bytes elsewhere)
            at most 3 n² + 5 T + 6 m d + n m/32 + 2 B floats at the peak, preconditioner = "kernel": T floats of a block of rows
              (.5 MB)
            at most n k + 4 k² + 4 n d + 7 m d + n m/32 + 2 B floats at the peak, preconditioner = "pivoted": and n k of the
              columns before, where more are made
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
            9. For ReLU, ``preconditioner = "auto"`` takes what is predicted to take the least time: where the sketch's R takes
               more flops than a product, R of the closed-form kernel may, `nearlin.curvature.kernel_gram`; anywhere, and where
               no n x n fits the memory or rows lie in a file, F Fᵀ + μ I, F (n, k) pivoted columns of the kernel: no array of n²
               entries, `nearlin.curvature.pivoted_gram`. Both serve a whole run. tr(G) is that of the kernel then.
           10. Masks of one point, and none, are kept where ``memory`` holds no more beside the preconditioner:
               `nearlin.curvature.masks`. The numbers are the same.
           11. With few columns CG goes on to the best combination of its iterates, `nearlin.linalg.Smoothing`, whose residual
               certifies the step: it needs up to a third fewer iterations where there are many.
"""

from dataclasses import dataclass
from typing import NamedTuple

from nearlin import linalg
from nearlin._array import fold_in, having, is_map, namespace, not_negative, one_of, optional, positive, require, settle
from nearlin.curvature import (
    KERNEL,
    Accuracy,
    DampedGram,
    LimitKernel,
    PivotedColumns,
    PivotedGram,
    SketchedGram,
    Sketches,
    gram_solve,
    smoothed_cg,
)
from nearlin.curvature.masks import Masks, asked_for
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


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    damping : Damping or None
        λ of the next step, and the guard's factor.
    preconditioner : SketchedGram, PivotedGram or None
        What may serve again.
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
    preconditioner: SketchedGram | PivotedGram | None = None
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
    preconditioner : str
        ``"sketch"``: the paper's R. ``"kernel"``: R of the limit kernel of a two-layer ReLU network, without a sketch.
        ``"pivoted"``: k columns of that kernel, where R (n, n) would take too long or too much memory. ``"auto"``: the one with
        the least predicted time, the kernel where a sketch's n³ outweighs a product, if ``sketch``, ``sketch_size`` and
        ``inner`` are the default ones; else ``"sketch"``.
    reuse : bool
        Keep the preconditioner while it serves.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and λ stays.
    maxiter : int
        Bound on the iterations of one inner solve.
    memory : float
        Bytes that the preconditioner's matrices may take, and with them the two-layer network's masks: where they are too few for
        those of both the step's point and a trial, masks are let go and made again, or in every walk.
    rates : Rates, optional
        How fast the machine does each primitive; ``nearlin info --measure`` makes the table. None: as `nearlin.linalg.rates_for`
        has it.

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
    preconditioner: str = "auto"
    reuse: bool = True
    guard: bool = True
    maxiter: int = 200
    memory: float = 4e9
    rates: linalg.Rates | None = None

    def __post_init__(self):
        sketches = having("a distribution of nearlin.sketch, such as NeuronSigns()", "sample", "oversampling")
        rates = optional(having("a nearlin.linalg.Rates", "seconds", "calls"))
        settle_shared(self, lr=positive, damping=optional(not_negative), sketch=sketches, memory=positive, rates=rates)
        settle(self, preconditioner=one_of("auto", "sketch", "kernel", "pivoted"))
        settle(self, forcing=one_of("constant", "superlinear"), inner=one_of(*INNER))
        require(
            self.inner != "double product" or self.size > UNIT_STEP,
            f"sketch_size is {self.size!r}; expected more than {UNIT_STEP} for the double product, which diverges below",
        )
        require(
            self.preconditioner not in ("kernel", "pivoted") or self.inner == "cg",
            f"preconditioner is {self.preconditioner!r} with inner {self.inner!r}, whose parameters are those of a sketch; "
            "expected 'cg'",
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
            Input that does not fit (see `Objective.at`), or a ``preconditioner`` that the network does not allow.
        """
        key = fold_in(key, 0)
        point = recalled(state.recall, objective, params, batch)
        point = point or objective.at(params, batch, **asked_for(objective.network, batch, self.memory))
        point.check_least_squares(type(self).__name__)
        eps = linalg.eps_of(point.x)
        guard = Guard(point, self.guard)
        if guard.why_unmoved:
            return params, state, unmoved(point, guard.why_unmoved, state.damping)
        J = self._jacobian(point, objective)
        self._check_inner(J)
        way, why = self.way(J, point.x, state, key)
        known, made, fresh = way.known(state.preconditioner), None, False
        epsilon = self._forcing_term(guard.size, state.previous if known else 0.0, eps)
        kept = known if self.reuse else None
        P = kept and way.at(kept, state.damping.value)
        if P is None:
            made, fresh = way.make(kept), True
            P = way.factor(made, self._first(way, made, state, eps), kept)
        least, masks = least_damping(eps) * P.scale, Masks(J, way.held(P), self.memory)
        for damping in guard.attempts_from(state.damping or Damping(P.damping)):
            masks.before_solve()
            solution, served = None, way.at(P, damping)
            if served is not None:
                P = served
                solution = self._solve(J, point.residual, guard.size, damping, P, epsilon, way.limit(P, fresh, epsilon))
            if solution is None or (solution.info.reason != linalg.Exit.CONVERGED and not fresh and way.renews):
                made, fresh = made or way.make(P), True
                P = way.factor(made, damping, P)
                solution = self._solve(J, point.residual, guard.size, damping, P, epsilon, self.maxiter)
            trial = attempt(objective, point, batch, solution.step, solution.image, self.lr, **masks.before_trial())
            guard.judge(trial, solution.info, Bounds(P.scale, least, CEILING * P.scale))
            masks.after_trial(trial.point, guard.accepted)
        solve = solution.info._replace(preconditioner=P.described, refreshed=fresh)
        info = guard.info(trial, solve, "", _sentences(why, masks.described))
        recall = Recall.of(objective, trial.params, batch, trial.point) if info.accepted else None
        state = State(guard.damping, *way.keep(P, fresh, solve.iterations, epsilon), guard.size, recall)
        return (trial.params if info.accepted else params), state, info

    def _forcing_term(self, size, previous, eps):
        """ε of this step."""
        if self.forcing == "constant" or not previous:
            return self.epsilon
        return max(min(self.epsilon, 0.5 * size / previous), 100 * eps)

    # ------------------------------------------------------------------------------------------------ the preconditioner

    def way(self, J, x, state, key):
        """How J Jᵀ + λ I is preconditioned: `Sketches`, `LimitKernel` or `PivotedColumns`, and why where there was a choice.

        Sizes alone decide in a first step, and arrays are not looked at.
        """
        inner = self._accuracy.inner(J)
        sketched = Sketches(inner, x, self.sketch, self.size, state.growth, key, self.maxiter)
        rates = linalg.rates_for(self.rates, x)
        kernel = LimitKernel(inner, self.maxiter)
        pivoted = PivotedColumns(inner, fold_in(key, 0), rates, self.memory, self.maxiter)
        if self.preconditioner in ("kernel", "pivoted"):
            return self._named(kernel if self.preconditioner == "kernel" else pivoted)
        chosen = (self.sketch, self.sketch_size, self.inner) != (NeuronSigns(), None, "cg")
        if self.preconditioner == "sketch" or chosen or pivoted.obstacle:
            return sketched, ""
        if isinstance(state.preconditioner, SketchedGram) and state.preconditioner.of != KERNEL:
            return sketched, "sketch: as before"
        if is_map(x):
            return pivoted, _sentences("pivoted: x lies in a file", pivoted.few_neurons)
        return self._cheapest(sketched, kernel, pivoted, state.preconditioner, rates)

    def _named(self, way):
        """A way other than the sketch's, which was asked for by name."""
        if way.obstacle:
            found = f"preconditioner is {self.preconditioner!r}, and {way.obstacle}"
            raise ValueError(f"{found}; expected 'auto' or 'sketch', or GaussNewton(plan='pivoted') for other columns")
        return way, _sentences(f"{self.preconditioner}: by name", way.few_neurons)

    def _cheapest(self, sketched, kernel, pivoted, P, rates):
        """The one with the least predicted time; the kernel's R where a sketch's n³ outweighs products, no n x n over memory."""
        ways, seconds = {"sketch": sketched, "kernel": kernel, "pivoted": pivoted}, {}
        R, F = kernel.known(P), pivoted.known(P)
        if sketched.bytes <= self.memory:
            seconds["sketch"] = sketched.seconds(rates, self.epsilon)
        fits = sketched.outweighs_products and kernel.bytes <= self.memory and not kernel.few_neurons
        if R or (fits and not F):  # columns may be there because R served badly
            seconds["kernel"] = kernel.seconds(rates, R, self.epsilon)
        seconds["pivoted"] = pivoted.seconds(F, self.epsilon)
        best, *others = sorted(seconds, key=seconds.get)
        if not others:
            why = f"pivoted: a sketch takes {sketched.bytes / 1e9:.3g} GB"
        else:
            why = f"{best}: {seconds[best]:.2g} s predicted, {others[0]} {seconds[others[0]]:.2g} s"
        return ways[best], _sentences(why, pivoted.few_neurons if best == "pivoted" else "")

    def _first(self, way, made, state, eps):
        """λ of a first attempt."""
        if state.damping:
            return state.damping.value
        return least_damping(eps) * way.scale(made) if self.damping is None else self.damping

    def _jacobian(self, point, objective):
        """J, kept in factors where a sketch of neurons needs them."""
        neurons = isinstance(self.sketch, NeuronSigns | NeuronSamples)
        dense = all(spec.kind == "dense" for spec in objective.layers)
        return point.jacobian(weighted=True, factors=True if neurons and dense else None)

    def _check_inner(self, J):
        if self.inner != "cg" and J.block_diagonal:
            found = f"inner is {self.inner!r}, which needs a sketch of the system itself"
            raise ValueError(f"{found}, and that of several outputs is one of their mean; expected 'cg'")

    # ------------------------------------------------------------------------------------------------ the linear system

    def _solve(self, J, r, size, damping, P, epsilon, limit):
        """(J Jᵀ + λ I) g = r, ||r|| = ``size``, to the true residual ``epsilon``, which is measured in the working dtype."""
        inner = self._accuracy.inner(J)

        def inner_solve(rest, rtol, left):
            operator = DampedGram(inner, damping)
            g, info = self._iterate(operator, self._accuracy.cast(rest), P, rtol, left)
            if self.inner_dtype is not None and epsilon < FINE:  # a step summed in float32 would be no better than that
                return namespace(g).astype(g, rest.dtype, copy=False), None, info
            return *operator.in_dtype_of(g, rest), info

        return gram_solve(J, r, damping, inner_solve, epsilon, limit, size)

    def _iterate(self, operator, b, P, rtol, limit):
        options = {"preconditioner": P.operator(b.shape[0]), "rtol": rtol, "maxiter": limit}
        if P.smoothed:
            return smoothed_cg(operator, b, **options)
        if self.inner == "cg":
            return linalg.cg(operator, b, certify=False, on_step=operator.accumulate, **options)
        if self.inner == "double product":
            return linalg.double_product(operator, b, **options)
        gamma = min(0.95, P.oversampling**-0.5)
        if self.inner == "chebyshev":
            return linalg.chebyshev(operator, b, bounds=linalg.sketch_spectrum(gamma), **options)
        return linalg.richardson(operator, b, step=linalg.best_step(gamma), **options)


def _sentences(*parts):
    return "; ".join(part for part in parts if part)
