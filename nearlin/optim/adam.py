r"""Adam.

Paper       Kingma, Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980, Algorithm 1
Update      M ← β₁ M + (1 - β₁) g,   V ← β₂ V + (1 - β₂) g²
            W ← W - lr (M / (1 - β₁ᵗ)) / (√(V / (1 - β₂ᵗ)) + epsilon);   g gradient of the mean loss, like W
            amsgrad = True:  the largest V so far in that root, entry by entry (Reddi, Kale, Kumar, arXiv:1904.09237)
Notation    paper → code:  α → lr,  β₁, β₂ → betas,  ε → epsilon_hat
Cost        with p parameters in L matrices, beyond forward and backward:
            exact 17 p - 2 L flops per step: of that 4 p - 2 L to see that g² and the step are finite
            exact 13 p - 2 L flops per first step
            exact p flops per step, second_moment_of = "mean"
            exact p flops per step, weight_decay > 0
            exact p flops per step, amsgrad = True
            exact -p flops per first step, amsgrad = True
            exact 2 p floats kept
            exact p floats kept, amsgrad = True
Oracles     step: 1 forward, 1 backward
Deviations  1. second_moment_of = "mean" puts M / (1 - β₁ᵗ) for g in V, as in renyiryry/kbfgs_neurips2020_public (β₂ = 0.9),
               renyiryry/tnt_neurips_2021 and achrafba96/mbf: p flops more.
            2. weight_decay > 0 is decoupled, W ← (1 - lr weight_decay) W before the step, as in `AdamW`: p flops more.
            3. amsgrad = True corrects M and the largest V for their start at 0, as in PyTorch; Reddi et al. do not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import one_of
from nearlin.steps import adam_step, amsgrad_step, decay, public_step, rate, settle_shared, taken_if_finite


class State(NamedTuple):
    """Step count and the two moments, like the parameters; None before the first step. ``shapes`` are those of the parameters.

    ``largest`` is the largest second moment so far, with ``amsgrad``.
    """

    t: int = 0
    mean: tuple | None = None
    square: tuple | None = None
    largest: tuple | None = None
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
    amsgrad : bool
        Divide by the root of the largest second moment so far: steps along an axis never grow by a smaller one.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 1e-3
    betas: tuple = (0.9, 0.999)
    epsilon_hat: float = 1e-8
    weight_decay: float = 0.0
    exempt_bias: bool = False
    second_moment_of: str = "gradient"
    amsgrad: bool = False

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
        if self.amsgrad:
            *moments, trial = amsgrad_step(decayed, grads, state[1:4], t, lr, *rule)
        else:
            *moments, trial = adam_step(decayed, grads, state.mean, state.square, t, lr, *rule)
        new = trial, State(t, *moments)
        return taken_if_finite((params, state), new, point.loss, beside=grads)  # where g² overflows, the step is 0
