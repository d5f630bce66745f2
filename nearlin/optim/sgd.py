r"""Stochastic gradient descent with momentum.

Paper       Polyak, Some methods of speeding up the convergence of iteration methods, USSR Comp. Math. Math. Phys. 4 (1964),
            doi:10.1016/0041-5553(64)90137-5; in the form of Sutskever, Martens, Dahl, Hinton, ICML 2013
Update      v ← momentum v + g,   W ← W - lr v;   g gradient of the mean loss, like W
Notation    paper → code:  μ → momentum,  ε → lr
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 6 p - L flops per step: of that 2 p - L to see that the step is finite
            exact 4 p - L flops per first step
            exact p flops per step, form = "average"
            exact p flops per step, weight_decay > 0
            exact p floats kept
Oracles     step: 1 forward, 1 backward
Deviations  1. The step size multiplies the velocity instead of the gradient (equal for a constant step size).
            2. form = "average" is v ← momentum v + (1 - momentum) g, as in renyiryry/kbfgs_neurips2020_public: p flops more;
               the same steps as the sum with lr (1 - momentum).
            3. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step: p flops more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin.linalg import axpy
from nearlin.steps import decay, public_step, rate, settle_shared, taken_if_finite, velocity


class State(NamedTuple):
    """The velocity v, like the parameters (None before the first step), the steps taken, and the shapes of the parameters."""

    velocity: tuple | None = None
    t: int = 0
    shapes: tuple = ()


@dataclass(frozen=True)
class SGD:
    """Gradient descent with heavy-ball momentum.

    Parameters
    ----------
    momentum, form : float, str
        In [0, 1); ``"sum"``: v ← momentum v + g, or ``"average"``: v ← momentum v + (1 - momentum) g.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    exempt_bias: bool = False
    form: str = "sum"

    def __post_init__(self):
        settle_shared(self)

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, lr = objective.at(params, batch), rate(self.lr, state.t)
        v = velocity(state.velocity, point.grads(), self.momentum, self.form)
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)
        trial = axpy(-lr, v, decayed)  # W ← W - lr v
        return taken_if_finite((params, state), (trial, State(v, state.t + 1)), point.loss)
