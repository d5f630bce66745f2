r"""Adam.

Paper       Kingma, Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, Algorithm 1
Update      M ← β₁ M + (1 - β₁) g,   V ← β₂ V + (1 - β₂) g²
            W ← W - lr (M / (1 - β₁ᵗ)) / (√(V / (1 - β₂ᵗ)) + epsilon);   g gradient of the mean loss, like W
Notation    paper → code:  α → lr,  β₁, β₂ → betas,  ε → epsilon_hat
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 17 p - 2 L flops per step: of that 4 p - 2 L to see that g² and the step are finite
            exact 13 p - 2 L flops per first step
            exact p flops per step, second_moment_of = "mean"
            exact p flops per step, weight_decay > 0
            exact 2 p floats kept
Oracles     step: 1 forward, 1 backward
Deviations  1. second_moment_of = "mean" puts M / (1 - β₁ᵗ) for g in V, as in renyiryry/kbfgs_neurips2020_public (β₂ = 0.9),
               renyiryry/tnt_neurips_2021 and achrafba96/mbf: p flops more.
            2. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step, as in `AdamW`: p flops more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import one_of
from nearlin.steps import adam_step, decay, public_step, rate, settle_shared, taken_if_finite


class State(NamedTuple):
    """Step count and the two moments, like the parameters; None before the first step. ``shapes`` are those of the parameters."""

    t: int = 0
    mean: tuple | None = None
    square: tuple | None = None
    shapes: tuple = ()


@dataclass(frozen=True)
class Adam:
    """Adam, arXiv:1412.6980.

    Parameters
    ----------
    betas, epsilon_hat : tuple of float, float
        Decay of the first and second moment, each in [0, 1); and what is added to the root of the second.
    second_moment_of : str
        ``"gradient"``, or ``"mean"``: of the bias-corrected first moment.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-3
    betas: tuple = (0.9, 0.999)
    epsilon_hat: float = 1e-8
    weight_decay: float = 0.0
    exempt_bias: bool = False
    second_moment_of: str = "gradient"

    def __post_init__(self):
        settle_shared(self, second_moment_of=one_of("gradient", "mean"))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point = objective.at(params, batch)
        grads = point.grads()
        t, lr = state.t + 1, rate(self.lr, state.t)
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)
        rule = (self.betas, self.epsilon_hat, self.second_moment_of)
        mean, square, trial = adam_step(decayed, grads, state.mean, state.square, t, lr, *rule)
        new = trial, State(t, mean, square)
        return taken_if_finite((params, state), new, point.loss, beside=grads)  # where g² overflows, the step is 0
