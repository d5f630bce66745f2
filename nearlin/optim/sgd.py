r"""Stochastic gradient descent with momentum.

Paper       Polyak, Some methods of speeding up the convergence of iteration methods, USSR Comp. Math. Math. Phys. 4 (1964),
            doi:10.1016/0041-5553(64)90137-5; in the form of Sutskever, Martens, Dahl, Hinton, ICML 2013
Update      v ← momentum v + g,   W ← W - lr v;   g gradient of the mean loss, like W
            nesterov = True:  W ← W - lr (g + momentum v) with the new v
Notation    paper → code:  μ → momentum,  ε → lr
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 6 p - L flops per step: of that 2 p - L to see that the step is finite
            exact 4 p - L flops per first step
            exact p flops per step, form = "average"
            exact p flops per step, weight_decay > 0
            exact 2 p flops per step, nesterov = True
            exact p flops per step, nesterov = True, form = "average"
            exact p floats kept
Oracles     step: 1 forward, 1 backward
Deviations  1. The step size multiplies the velocity instead of the gradient (equal for a constant step size).
            2. form = "average" is v ← momentum v + (1 - momentum) g, as in renyiryry/kbfgs_neurips2020_public: p flops more;
               the same steps as the sum with lr (1 - momentum).
            3. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step: p flops more.
            4. nesterov = True is PyTorch's form, of the parameters that look ahead: with the velocity v' = -lr v and a constant
               step size, these W are W' + momentum v' of Sutskever et al., who take the gradient there and step W' ← W' + v'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin.steps import added, decay, entrywise, public_step, rate, settle_shared, taken_if_finite


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
    nesterov : bool
        Step along g + momentum v, with (1 - momentum) g for g in an average, in place of v.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    exempt_bias: bool = False
    form: str = "sum"
    nesterov: bool = False

    def __post_init__(self):
        settle_shared(self)

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, lr = objective.at(params, batch), rate(self.lr, state.t)
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)

        def update(W, g, v):
            v = added(v, g, self.momentum, self.form)
            return v, W - lr * (added(v, g, self.momentum, self.form) if self.nesterov else v)

        v, trial = entrywise(update, 2, decayed, point.grads(), state.velocity)
        return taken_if_finite((params, state), (trial, State(v, state.t + 1)), point.loss)
