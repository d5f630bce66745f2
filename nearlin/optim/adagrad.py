r"""AdaGrad with a diagonal matrix.

Paper       Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, JMLR 12
            (2011) 2121-2159; beside its relatives in McMahan, A Survey of Algorithms and Analysis for Adaptive Online Learning,
            JMLR 18 (2017), arXiv:1403.3465
Update      V ← V + g²,   W ← W - lr g / (√V + epsilon);   g gradient of the mean loss, like W
Notation    paper → code:  η → lr,  δ → epsilon_hat,  s → √V
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 11 p - 2 L flops per step: of that 4 p - 2 L to see that g² and the step are finite
            exact 10 p - 2 L flops per first step
            exact p flops per step, weight_decay > 0
            exact p floats kept
Oracles     step: 1 forward, 1 backward
Deviations  1. The mirror-descent form without regulariser and without constraint; defaults as in PyTorch.
            2. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step: p flops more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import namespace
from nearlin.steps import decay, entrywise, public_step, rate, settle_shared, taken_if_finite


class State(NamedTuple):
    """Step count and the sum of squared gradients, like the parameters; None before the first step.

    ``shapes`` are those of the parameters.
    """

    t: int = 0
    square: tuple | None = None
    shapes: tuple = ()


@dataclass(frozen=True)
class AdaGrad:
    """AdaGrad, JMLR 12 (2011) 2121-2159.

    Parameters
    ----------
    epsilon_hat : float
        Added to the root of the sum of squared gradients.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-2
    epsilon_hat: float = 1e-10
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

        def update(W, g, V):
            V = g * g if V is None else V + g * g
            return V, W - lr * g / (namespace(g).sqrt(V) + self.epsilon_hat)

        square, trial = entrywise(update, 2, decayed, grads, state.square)
        new = trial, State(state.t + 1, square)
        return taken_if_finite((params, state), new, point.loss, beside=grads)  # where g² overflows, the step is 0
