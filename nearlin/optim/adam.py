r"""Adam.

Paper       Kingma, Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, Algorithm 1
Update      M ← β₁ M + (1 - β₁) g,   V ← β₂ V + (1 - β₂) g²
            W ← W - lr (M / (1 - β₁ᵗ)) / (√(V / (1 - β₂ᵗ)) + epsilon);   g gradient of the mean loss, like W
Notation    paper → code:  α → lr,  β₁, β₂ → betas,  ε → epsilon_hat
Cost        forward and backward + 14 p flops (and 2 p to see that the step is finite); memory 2 p
Oracles     1 forward, 1 backward
Deviations  none
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace
from nearlin.linalg import norm


class State(NamedTuple):
    """Step count and the two moments, like the parameters; None before the first step."""

    t: int = 0
    mean: tuple | None = None
    square: tuple | None = None


class Info(NamedTuple):
    """Loss before the step, and whether the step was finite and taken."""

    loss: float
    accepted: bool
    reason: str
    solve: None = None


@dataclass(frozen=True)
class Adam:
    """Adam, arXiv:1412.6980.

    Parameters
    ----------
    lr : float
        Step size.
    betas : tuple of float
        Decay of the first and second moment, each in [0, 1).
    epsilon_hat : float
        Added to the root of the second moment.
    """

    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    epsilon_hat: float = 1e-8

    def __post_init__(self):
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; expected a positive number")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas!r}; expected two numbers in [0, 1)")

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        grads = point.grads()
        t = state.t + 1
        zeros = tuple(0.0 * g for g in grads)
        moments = zip(grads, state.mean or zeros, state.square or zeros, params, strict=True)
        mean, square, trial = zip(*(self._update(g, M, V, W, t) for g, M, V, W in moments), strict=True)
        if not math.isfinite(norm(trial)):
            return params, state, Info(float(point.loss), False, "rejected: the step is not finite")
        return trial, State(t, mean, square), Info(float(point.loss), True, "accepted")

    def _update(self, g, M, V, W, t):
        beta1, beta2 = self.betas
        M = beta1 * M + (1 - beta1) * g
        V = beta2 * V + (1 - beta2) * g * g
        root = namespace(g).sqrt(V / (1 - beta2**t)) + self.epsilon_hat
        return M, V, W - (self.lr / (1 - beta1**t)) * M / root
