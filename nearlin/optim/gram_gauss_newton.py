r"""Gram-Gauss-Newton: the exact Gauss-Newton step through the Gram matrix, the O(m n²) method.

Paper       Cai, Gao, Hou, Chen, Wang, He, Zhang, Wang, Gram-Gauss-Newton Method: Learning Overparameterized Neural Networks for
            Regression Problems, arXiv:1905.11675; full batch and the damped mini-batch form
Update      full batch:  W ← W - lr Jᵀ(J Jᵀ + λ I)⁻¹ r          with λ from the guard
            mini-batch:  W ← W - lr J_Bᵀ(λ_g J_B J_Bᵀ + α I)⁻¹ r_B    with ``gram_weight`` = λ_g, ``damping`` = α, ``guard=False``
            J (n c, p), r = f - y (n c,)
Notation    paper → code:  G → J Jᵀ,  λ (mini-batch) → gram_weight,  α → damping
Cost        with a two-layer ReLU network: n samples, d inputs, m neurons, G floats of masks at work (128 MB), N = n m d (to the
              flop: `nearlin.complexity.cost.gram_gauss_newton_step`):
            leading 8 N flops per step: forward pass, update, image and guard
            leading 2 n² (m + d) flops per step: Gram matrix, half of it as a rank-k update
            leading n³/3 flops per step: factor
            at most 3 n² + 4 m d + n m/32 + 2 G floats at the peak: masks in bits (NumPy; in bytes elsewhere)
            with a perceptron of layers (o, D) and c outputs:
            leading 2 n² D + 2 (n c)² o flops per layer and Gram matrix
Oracles     step: 1 forward, 1 jacobian, c backward, 1 gram: backward passes make the factors of a layered network
            attempt: 1 rmatvec, 1 matvec, 1 forward
Deviations  1. The Gram matrix is formed as a Hadamard product (structured), not from explicit per-sample gradients: n² (m + d)
               instead of n² m d. The naive form is the same matrix.
            2. Damping with a Levenberg-Marquardt guard in full batch (the paper: none); ``guard=False`` takes every finite step
               whose solve is better than none.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import check_flags, check_not_negative, check_positive, check_words, namespace
from nearlin.linalg import Exit, SolveInfo, TriangularPreconditioner, damped_cholesky, norm
from nearlin.steps import CEILING, Damping, StepInfo, attempt, judge, least_damping

ATTEMPTS = 7  # the first and at most 6 retries


class State(NamedTuple):
    """The damping of the next step."""

    damping: Damping | None = None


@dataclass(frozen=True)
class GramGaussNewton:
    """The exact Gauss-Newton step of arXiv:1905.11675.

    Parameters
    ----------
    lr : float
        Step size; 1 is the Gauss-Newton step.
    gram_weight : float
        λ_g of the mini-batch form.
    damping : float, optional
        The first λ (with the guard), or α of the mini-batch form. The default, and what the guard never goes below again, is
        1e-8 tr(G)/n in float64 and 1e-5 tr(G)/n in float32.
    guard : bool
        Judge each step by its actual decrease; without it every finite step is taken and the damping stays.
    gram_dtype : str, optional
        ``"float32"`` forms a ReLU network's Gram counts there, which is exact below 2^24 neurons.
    """

    lr: float = 1.0
    gram_weight: float = 1.0
    damping: float | None = None
    guard: bool = True
    gram_dtype: str | None = None

    def __post_init__(self):
        check_positive(self, "lr", "gram_weight")
        if self.damping is not None:
            check_not_negative(self, "damping")
        check_flags(self, "guard")
        check_words(self, gram_dtype=(None, "float32"))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        point.check_least_squares()
        r, loss, eps = point.residual, float(point.loss), float(namespace(point.x).finfo(point.x.dtype).eps)
        size, rounding = norm(r), eps * (norm(point.outputs) + norm(point.y))
        if not math.isfinite(size) or size <= 4 * rounding:
            return params, state, _unmoved(loss, size)
        J = point.jacobian(weighted=True)
        gram = self.gram_weight * self._gram(J)
        scale = float(namespace(gram).linalg.trace(gram)) / r.shape[0]
        least = least_damping(eps) * scale
        damping = state.damping or Damping(least if self.damping is None else self.damping)
        for attempts in range(1, ATTEMPTS + 1):  # noqa: B007 (read after the loop)
            used = damping.value
            g = TriangularPreconditioner(damped_cholesky(gram, used, "Gram matrix"))(r)
            step = J.rmatvec(g)
            image = J.matvec(step)
            residual = norm(r - self.gram_weight * image - used * g) / size
            trial, worse = attempt(objective, point, batch, step, image, self.lr), residual >= 1  # than g = 0
            accepted = trial.point is not None and math.isfinite(float(trial.point.loss)) and not worse
            if self.guard:
                accepted, damping = judge(damping, math.nan if worse else trial.ratio, least, scale)
            hopeless = size <= 1000 * rounding or abs(trial.predicted) <= 10 * eps * loss
            if accepted or not self.guard or hopeless:
                break
        solve = SolveInfo(residual, 0, 1, Exit.CONVERGED if residual <= eps**0.5 else Exit.STALLED, 1.0, "exact Cholesky", True)
        hopeless = self.guard and (hopeless or damping.value >= CEILING * scale)
        reason = "accepted" if accepted else _why_not(hopeless, attempts, damping, solve)
        new_loss = float(trial.point.loss) if accepted else loss
        info = StepInfo(loss, new_loss, accepted, reason, used, trial.ratio, attempts, solve)
        return (trial.params if accepted else params), State(damping), info

    def _gram(self, J):
        return J.gram() if self.gram_dtype is None else J.gram(dtype=self.gram_dtype)


def _unmoved(loss, size):
    """The step that stays where it is: nothing but rounding is left to remove, or the residual overflows."""
    reason = "stalled: the residual is rounding" if math.isfinite(size) else "rejected: the norm of the residual overflows"
    solve = SolveInfo(0.0, 0, 0, Exit.CONVERGED) if math.isfinite(size) else SolveInfo(math.nan, 0, 0, Exit.NON_FINITE)
    return StepInfo(loss, loss, False, reason, 0.0, math.nan, 0, solve)


def _why_not(hopeless, attempts, damping, solve):
    if hopeless:
        return "stalled: no decrease is left above rounding"
    if solve.residual >= 1:
        return f"rejected: the solve is worse than none, its residual is {solve.residual:.2g}"
    return f"rejected: no decrease in {attempts} attempt(s), damping now {damping.value:.1e}"
