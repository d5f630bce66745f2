r"""RMSprop.

Paper       Tieleman, Hinton, Lecture 6.5, Neural Networks for Machine Learning, Coursera 2012; as in Ruder, An overview of
            gradient descent optimization algorithms, 2016, arXiv:1609.04747
Update      V ← decay V + (1 - decay) g²,   v ← momentum v + g / (√V + epsilon),   W ← W - lr v
            g gradient of the mean loss, like W
            centered = True:  m ← decay m + (1 - decay) g, and √(V - m²), the deviation of g, for √V
Notation    paper → code:  η → lr,  γ → decay,  ε → epsilon_hat,  E[g²] → V
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 13 p - 2 L flops per step: of that 4 p - 2 L to see that g² and the step are finite
            exact 11 p - 2 L flops per first step
            exact p flops per step, weight_decay > 0
            exact 2 p flops per step, momentum > 0
            exact -2 p flops per first step, momentum > 0
            exact 6 p flops per step, centered = True
            exact -2 p flops per first step, centered = True
            exact p floats kept
            exact p floats kept, centered = True
            exact p floats kept, momentum > 0
Oracles     step: 1 forward, 1 backward
Deviations  1. epsilon_hat is added to the root, not under it; decay = 0.99 and epsilon_hat = 1e-8 as in PyTorch.
            2. momentum is not in the lecture: 0 by default, and PyTorch's where it is positive.
            3. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step: p flops more.
            4. centered is Graves, Generating Sequences with Recurrent Neural Networks, arXiv:1308.0850, equations 38 to 45, with
               epsilon_hat beside the root as in 1; V - m² that rounding has made negative counts as 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearlin._array import namespace
from nearlin.steps import decay, entrywise, public_step, rate, settle_shared, taken_if_finite


class State(NamedTuple):
    """Step count, the average of squared gradients and, with momentum, the velocity, like the parameters; None at first.

    ``mean`` is the average of gradients, where they are centred.

    ``shapes`` are those of the parameters.
    """

    t: int = 0
    square: tuple | None = None
    velocity: tuple | None = None
    mean: tuple | None = None
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
    centered : bool
        Divide by the deviation of the gradients in place of their root mean square.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-2
    decay: float = 0.99
    epsilon_hat: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
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
        results = 2 + bool(self.momentum) + self.centered
        trees = (decayed, grads, state.square, state.velocity, state.mean)
        trial, square, *more = entrywise(partial(self._update, lr), results, *trees)
        mean = more.pop() if self.centered else None
        new = trial, State(state.t + 1, square, more.pop() if self.momentum else None, mean)
        return taken_if_finite((params, state), new, point.loss, beside=grads)  # where g² overflows, the step is 0

    def _update(self, lr, W, g, V, v, m):
        xp, new = namespace(g), (1 - self.decay) * g * g
        V = variance = new if V is None else self.decay * V + new
        if self.centered:
            m = (1 - self.decay) * g if m is None else self.decay * m + (1 - self.decay) * g
            variance = xp.maximum(V - m * m, 0.0)
        step = g / (xp.sqrt(variance) + self.epsilon_hat)
        v = self.momentum * v + step if self.momentum and v is not None else step
        return W - lr * v, V, *([v] if self.momentum else []), *([m] if self.centered else [])
