r"""Exact natural gradient descent for the squared loss, with step size η.

Paper       Zhang, Martens, Grosse, Fast Convergence of Natural Gradient Descent for Overparameterized Neural Networks, NeurIPS
            2019, arXiv:1905.10961
Update      W ← W - η Jᵀ(J Jᵀ)⁻¹ r:  the natural gradient F⁺∇L with Fisher F = JᵀJ/n and its pseudo-inverse
            J (n c, p) Jacobian of the outputs, r = f - y (n c,)
Notation    paper → code:  η → lr,  G = J Jᵀ/n → J Jᵀ (the 1/n cancels)
Cost        with a two-layer ReLU network of one output: n samples, d inputs, m neurons, N = n m d, G floats of masks at work
              (128 MB), B of a block (2 to 8 MB; to the flop: `nearlin.complexity.cost.natural_gradient_step`):
            leading 6 N flops per step: forward pass, update and certificate
            leading 2 n² (m + d) flops per step: Gram matrix, half of it as a rank-k update
            leading n³/3 flops per step: factor
            at most 3 n² + 4 m d + n m/32 + G + 2 B floats at the peak: masks in bits (NumPy; in bytes elsewhere)
Oracles     step: 1 forward, 1 jacobian, c backward, 1 gram, 1 rmatvec, 1 matvec: backward passes make the factors of a layered
              network
Deviations  1. ``damping`` λ, 0 in the paper, keeps the factorisation possible: (J Jᵀ + λ I)⁻¹ with λ = 1e-10 tr(G)/n in float64
               and 1e-6 tr(G)/n in float32 by default. No guard: every finite step whose solve is better than none is taken, so
               that the rate can be read.
            2. Several outputs of the two-layer network have neurons of their own: J Jᵀ is formed and factored as c blocks (n, n).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace, not_negative, optional, positive, settle
from nearlin.linalg import Exit, SolveInfo, TriangularBlocks, axpy, eps_of, norm
from nearlin.steps import public_step


class State(NamedTuple):
    """Nothing is carried from step to step."""


class Info(NamedTuple):
    """Loss before the step, whether the step was finite and taken, its damping, and the certificate of the solve."""

    loss: float
    accepted: bool
    reason: str
    damping: float
    solve: SolveInfo


@dataclass(frozen=True)
class NaturalGradient:
    """Exact natural gradient descent of arXiv:1905.10961.

    Parameters
    ----------
    lr : float
        Step size η; the paper's rate is (1 - η)^k in the squared residual norm.
    damping : float, optional
        λ in absolute terms; see Deviation 1 for the default.
    """

    lr: float = 0.5
    damping: float | None = None

    def __post_init__(self):
        settle(self, lr=positive, damping=optional(not_negative))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        point.check_least_squares(type(self).__name__)
        J, r = point.jacobian(weighted=True), point.residual
        grams = J.gram_blocks()
        damping = self._damping(grams, r)
        g = TriangularBlocks.of(grams, damping, "Gram matrix")(r)
        step = J.rmatvec(g)
        residual = norm(r - J.matvec(step) - damping * g) / norm(r) if norm(r) else 0.0
        exact = residual <= eps_of(r) ** 0.5
        solve = SolveInfo(residual, 0, 1, Exit.CONVERGED if exact else Exit.STALLED, 1.0, "exact Cholesky", True)
        trial = axpy(-self.lr, step, params)
        if residual >= 1:
            reason = f"rejected: the solve is worse than none, its residual is {residual:.2g}"
            return params, state, Info(float(point.loss), False, reason, damping, solve)
        if not all(math.isfinite(norm(W)) for W in trial):
            return params, state, Info(float(point.loss), False, "rejected: the step is not finite", damping, solve)
        return trial, state, Info(float(point.loss), True, "accepted", damping, solve)

    def _damping(self, grams, r):
        if self.damping is not None:
            return self.damping
        relative = 1e-10 if eps_of(r) < 1e-10 else 1e-6
        return relative * sum(float(namespace(r).linalg.trace(gram)) for gram in grams) / r.shape[0]
