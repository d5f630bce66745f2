r"""Stochastic gradient descent with momentum.

Paper       Polyak, Some methods of speeding up the convergence of iteration methods, USSR Comp. Math. Math. Phys. 4 (1964),
            doi:10.1016/0041-5553(64)90137-5; in the form of Sutskever, Martens, Dahl, Hinton, ICML 2013
Update      v ← momentum v + g,   W ← W - lr v;   g gradient of the mean loss, like W
Notation    paper → code:  μ → momentum,  ε → lr
Cost        forward and backward + 4 p flops (and 2 p to see that the step is finite); memory p
Oracles     1 forward, 1 backward
Deviations  1. The step size multiplies the velocity instead of the gradient (equal for a constant step size).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from nearlin.linalg import axpy, norm


class State(NamedTuple):
    """The velocity v, like the parameters; None before the first step."""

    velocity: tuple | None = None


class Info(NamedTuple):
    """Loss before the step, and whether the step was finite and taken."""

    loss: float
    accepted: bool
    reason: str
    solve: None = None


@dataclass(frozen=True)
class SGD:
    """Gradient descent with heavy-ball momentum.

    Parameters
    ----------
    lr : float
        Step size on the gradient of the mean loss.
    momentum : float
        In [0, 1).
    """

    lr: float = 0.1
    momentum: float = 0.9

    def __post_init__(self):
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr!r}; expected a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum!r}; expected a number in [0, 1)")

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        grads = point.grads()
        velocity = grads if state.velocity is None else axpy(self.momentum, state.velocity, grads)  # v ← momentum v + g
        trial = axpy(-self.lr, velocity, params)  # W ← W - lr v
        if not math.isfinite(norm(trial)):
            return params, state, Info(float(point.loss), False, "rejected: the step is not finite")
        return trial, State(velocity), Info(float(point.loss), True, "accepted")
