r"""Gram-Gauss-Newton: the exact Gauss-Newton step through the Gram matrix, the O(m n²) method.

Paper       Cai, Gao, Hou, Chen, Wang, He, Zhang, Wang, Gram-Gauss-Newton Method: Learning Overparameterized Neural Networks for
            Regression Problems, arXiv:1905.11675; full batch and the damped mini-batch form
Update      full batch:  W ← W - lr Jᵀ(J Jᵀ + λ I)⁻¹ r          with λ from the guard
            mini-batch:  W ← W - lr J_Bᵀ(λ_g J_B J_Bᵀ + α I)⁻¹ r_B    with ``gram_weight`` = λ_g, ``damping`` = α, ``guard=False``
            J (n c, p), r = f - y (n c,)
Notation    paper → code:  G → J Jᵀ,  λ (mini-batch) → gram_weight,  α → damping
Cost        with a two-layer ReLU network of one output: n samples, d inputs, m neurons, N = n m d, G floats of masks at work
              (128 MB), B of a block (2 to 8 MB; to the flop: `nearlin.complexity.cost.gram_gauss_newton_step`):
            leading 8 N flops per step: forward pass, update, image and guard
            leading 2 n² (m + d) flops per step: Gram matrix, half of it as a rank-k update
            leading n³/3 flops per step: factor
            at most 3 n² + 4 m d + n m/32 + G + 2 B floats at the peak: masks in bits (NumPy; in bytes elsewhere)
            with a perceptron of layers (o, D) and c outputs:
            leading 2 n² D + 2 (n c)² o flops per layer and Gram matrix
Oracles     step: 1 forward, 1 jacobian, c backward, 1 gram: backward passes make the factors of a layered network
            attempt: 1 rmatvec, 1 matvec, 1 forward
Deviations  1. The Gram matrix is formed as a Hadamard product (structured), not from explicit per-sample gradients: n² (m + d)
               instead of n² m d. The naive form is the same matrix.
            2. Damping with a Levenberg-Marquardt guard in full batch (the paper: none); ``guard=False`` takes every finite step
               whose solve is better than none.
            3. Several outputs of the two-layer network have neurons of their own: J Jᵀ is formed and factored as c blocks (n, n).
"""

from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace, not_negative, one_of, optional, positive
from nearlin.linalg import Exit, SolveInfo, TriangularBlocks, eps_of, norm
from nearlin.steps import Bounds, Damping, Guard, attempt, public_step, settle_shared, unmoved


class State(NamedTuple):
    """The damping of the next step, and the shapes of the parameters."""

    damping: Damping | None = None
    shapes: tuple = ()


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
        settle_shared(self, lr=positive, damping=optional(not_negative), gram_weight=positive, gram_dtype=one_of(None, "float32"))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `StepInfo`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        point.check_least_squares(type(self).__name__)
        r, eps = point.residual, eps_of(point.x)
        guard = Guard(point, self.guard)
        if guard.why_unmoved:
            return params, state, unmoved(point, guard.why_unmoved, state.damping)
        J = point.jacobian(weighted=True)
        options = {} if self.gram_dtype is None else {"dtype": self.gram_dtype}
        grams = [self.gram_weight * gram for gram in J.gram_blocks(**options)]
        bounds = Bounds.of(sum(float(namespace(r).linalg.trace(gram)) for gram in grams) / r.shape[0], eps)
        for damping in guard.attempts_from(state.damping or Damping(bounds.floor if self.damping is None else self.damping)):
            g = TriangularBlocks.of(grams, damping, "Gram matrix")(r)
            step = J.rmatvec(g)
            image = J.matvec(step)
            residual = norm(r - self.gram_weight * image - damping * g) / guard.size
            reason = Exit.CONVERGED if residual <= eps**0.5 else Exit.STALLED
            solve = SolveInfo(residual, 0, 1, reason, 1.0, "exact Cholesky", True)
            trial = attempt(objective, point, batch, step, image, self.lr)
            guard.judge(trial, solve, bounds)
        info = guard.info(trial, solve)
        return (trial.params if info.accepted else params), State(guard.damping), info
