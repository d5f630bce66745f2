r"""RMSprop.

Paper       Tieleman, Hinton, Lecture 6.5, Neural Networks for Machine Learning, Coursera 2012; as in Ruder, An overview of
            gradient descent optimization algorithms, 2016, arXiv:1609.04747
Update      V ← decay V + (1 - decay) g²,   v ← momentum v + g / (√V + epsilon),   W ← W - lr v
            g gradient of the mean loss, like W
Notation    paper → code:  η → lr,  γ → decay,  ε → epsilon_hat,  E[g²] → V
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 13 p - 2 L flops per step: of that 4 p - 2 L to see that g² and the step are finite
            exact 11 p - 2 L flops per first step
            exact p flops per step, weight_decay > 0
            exact 2 p flops per step, momentum > 0
            exact -2 p flops per first step, momentum > 0
            exact p floats kept
            exact p floats kept, momentum > 0
Oracles     step: 1 forward, 1 backward
Deviations  1. epsilon_hat is added to the root, not under it; decay = 0.99 and epsilon_hat = 1e-8 as in PyTorch.
            2. momentum is not in the lecture: 0 by default, and PyTorch's where it is positive.
            3. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step: p flops more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace
from nearlin.steps import decay, public_step, rate, settle_shared, taken_if_finite


class State(NamedTuple):
    """Step count, the average of squared gradients and, with momentum, the velocity, like the parameters; None at first.

    ``shapes`` are those of the parameters.
    """

    t: int = 0
    square: tuple | None = None
    velocity: tuple | None = None
    shapes: tuple = ()


@dataclass(frozen=True)
class RMSprop:
    """RMSprop, lecture 6.5 of Tieleman and Hinton; arXiv:1609.04747.

    Parameters
    ----------
    decay : float
        Of the average of squared gradients, in [0, 1). The average starts at 0 and is not corrected for that.
    epsilon_hat : float
        Added to the root of the average.
    momentum : float
        In [0, 1): of the scaled gradients.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-2
    decay: float = 0.99
    epsilon_hat: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        settle_shared(self)

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, lr = objective.at(params, batch), rate(self.lr, state.t)
        grads = point.grads()
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)
        nothing = (None,) * len(params)
        known = zip(grads, state.square or nothing, state.velocity or nothing, strict=True)
        square, v = zip(*(self._update(*one) for one in known), strict=True)
        trial = tuple(W - lr * step for W, step in zip(decayed, v, strict=True))
        new = trial, State(state.t + 1, square, v if self.momentum else None)
        return taken_if_finite((params, state), new, point.loss, beside=grads)  # where g² overflows, the step is 0

    def _update(self, g, V, v):
        new = (1 - self.decay) * g * g
        V = new if V is None else self.decay * V + new
        step = g / (namespace(g).sqrt(V) + self.epsilon_hat)
        return V, self.momentum * v + step if self.momentum and v is not None else step
