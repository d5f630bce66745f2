r"""Muon: momentum, orthogonalised layer by layer with Newton-Schulz steps.

Paper       Liu et al., Muon is Scalable for LLM Training, 2025, arXiv:2502.16982; Jordan et al., Muon, 2024
            (kellerjordan.github.io/posts/muon)
Update      v ← momentum v + g,   u = g + momentum v (nesterov) or v,   O ≈ P Qᵀ for u = P diag(s) Qᵀ
            W ← (1 - lr weight_decay) W - lr c O;   g gradient of the mean loss by the weights W (m, n) of a layer
            c = 0.2 √max(m, n) (scale = "rms"), √max(1, m/n) ("shape") or 1 ("none")
Notation    paper → code:  η → lr,  μ → momentum,  λ → weight_decay
Cost        with m x n weights and m biases a layer, r = min(m, n) and k = max(m, n), beyond forward and backward:
            exact ns_steps (4 k r² + 2 r³ + 2 k r + 3 r²) flops per layer and step: Newton-Schulz
            exact polish (4 k r² + 3 k r) flops per layer and step
            exact 19 m n + 18 m - 6 flops per layer and step: momentum, lengths, Adam's steps of biases, and what is finite
            exact m n + 2 m floats kept per layer
Oracles     step: 1 forward, 1 backward
Deviations  1. Momentum is a sum, not an average: O does not depend on the length of u.
            2. Newton-Schulz runs in the dtype of the parameters (KellerJordan/Muon: bfloat16), and ||u||_F is taken without 1e-7.
               Weights of one row or column become u / ||u||_F, which is P Qᵀ; the iteration, as others run it there, stops
               short of length 1.
            3. Biases, normalisation layers and, with head = False, the last layer's weights take Adam's steps, by lr adam_scale.
            4. Kernels are matrices (out, inp kernel²). polish > 0 adds cubic steps, which converge to P Qᵀ itself.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import flag, integer, one_of, positive, settle
from nearlin.linalg import axpy, norm, orthogonalize
from nearlin.nn import join_tensors, split_tensors
from nearlin.steps import Info, adam_moments, decay, public_step, rate, settle_shared, taken_if_finite


class Velocity(NamedTuple):
    """v of weights that are orthogonalised."""

    v: object


class Moments(NamedTuple):
    """Adam's first and second moment of other variables."""

    mean: object
    square: object


class State(NamedTuple):
    """Steps taken, and a `Velocity` or `Moments` for every variable; None before the first step.

    ``shapes`` are those of the parameters.
    """

    t: int = 0
    variables: tuple | None = None
    shapes: tuple = ()


@dataclass(frozen=True)
class Muon:
    """Muon, arXiv:2502.16982.

    Parameters
    ----------
    momentum : float
        In [0, 1): v ← momentum v + g.
    nesterov : bool
        Orthogonalise g + momentum v instead of v.
    ns_steps, polish : int
        Quintic and cubic Newton-Schulz steps; see `nearlin.linalg.orthogonalize`.
    scale : str
        Length of the steps: ``"rms"``, entries like Adam's whatever the shape; ``"shape"``; ``"none"``.
    head : bool
        Orthogonalise the last layer's weights too.
    adam_scale : float
        Adam's step size over lr.
    betas, epsilon_hat : tuple of float, float
        As in `Adam`.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-3
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    polish: int = 0
    scale: str = "rms"
    weight_decay: float = 0.0
    exempt_bias: bool = False
    head: bool = True
    adam_scale: float = 1.0
    betas: tuple = (0.9, 0.95)
    epsilon_hat: float = 1e-8

    def __post_init__(self):
        settle_shared(self, nesterov=flag, ns_steps=integer(0), polish=integer(0))
        settle(self, scale=one_of(*SCALES), head=flag, adam_scale=positive)

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, layers, lr = objective.at(params, batch), objective.layers, rate(self.lr, state.t)
        variables = split_tensors(point.grads(), layers, "matrix")
        if not math.isfinite(norm(tuple(variables))):
            return params, state, Info(float(point.loss), False, "rejected: the gradient is not finite")
        last = max((i for i, g in enumerate(variables) if g.ndim == 2), default=-1)
        moved = []
        for i, (g, old) in enumerate(zip(variables, state.variables or (None,) * len(variables), strict=True)):
            orthogonal = g.ndim == 2 and (self.head or i < last)
            moved.append(self._orthogonal(g, old) if orthogonal else self._adam(g, old, state.t + 1))
        directions, made = zip(*moved, strict=True)
        decayed = decay(params, layers, lr * self.weight_decay, self.exempt_bias)
        trial = axpy(-lr, join_tensors(directions, layers), decayed)
        return taken_if_finite((params, state), (trial, State(state.t + 1, made)), point.loss)

    def _orthogonal(self, g, old):
        """The direction c O of weights, and their velocity."""
        v = g if old is None else axpy(self.momentum, old.v, g)
        u = axpy(self.momentum, v, g) if self.nesterov else v
        return SCALES[self.scale](*g.shape) * orthogonalize(u, self.ns_steps, self.polish).matrix, Velocity(v)

    def _adam(self, g, old, t):
        """Adam's direction, and the moments."""
        M, V, root = adam_moments(g, *(old or (None, None)), t, self.betas, self.epsilon_hat)
        return self.adam_scale / (1 - self.betas[0] ** t) * M / root, Moments(M, V)


SCALES = {
    "rms": lambda m, n: 0.2 * max(m, n) ** 0.5,
    "shape": lambda m, n: max(1.0, m / n) ** 0.5,
    "none": lambda m, n: 1.0,
}
