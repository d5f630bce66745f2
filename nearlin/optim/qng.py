r"""QNG: natural gradients by a product of rank-one factors of the averaged curvature, the baseline of Ginger's authors.

Paper       Hao, Cao, Mou, Ginger: An Efficient Curvature Approximation with Linear Complexity for General Neural Networks,
            arXiv:2402.03295: the baseline QNG of its code, MANGA-UOFA/Ginger
Update      m ← β₁ m + g,   θ ← θ - lr C⁻ᵀ C⁻¹ m,   then  q = C⁻¹ h,  c = (1 - √(β₂ / (β₂ + (1 - β₂) qᵀq))) / qᵀq,
            C⁻¹ ← β₂^(-1/2) (I - c q qᵀ) C⁻¹,  so that  C Cᵀ = β₂ᵗ I + Σ_s (1 - β₂) β₂^(t-s) h_s h_sᵀ  after t <= τ steps;
            C⁻¹ is kept as the last τ pairs (q, c);  g, h, m, q (p,) over all parameters: g gradient of the mean loss,
            h = √n times its gradient at labels drawn from the model, n samples
Notation    paper → code:  τ → rank,  β₁ → momentum,  β₂ → decay,  δ → trust_region
Cost        with p parameters in L matrices and k vectors kept, beyond forward and backward passes and the draw of labels:
            exact 12 p k + 12 p + 3 k - L flops per step: of that 2 p - L to see that the step is finite
            exact 7 p - L flops per first step
            exact p k + p floats kept
Oracles     step: 1 forward, 2 backward: at the true labels, and at 1 draw of labels
Deviations  1. Every factor is applied to the product of those before it. The code takes qᵀ of the vector that came in, so that
               from the second pair on its product is not C⁻¹.
            2. c in a form without cancellation, also for q = 0, where the code divides 0 by 0.
            3. After τ steps the oldest pair is dropped, as in the code: q and c of the others, made with it, stay; the factor of
               I stays at β₂^-τ. What is left is no average of the last curvature, and positive definite still.
            4. There is no damping: the identity fades as β₂ᵗ, and steps may diverge, as from the defaults on small convolutional
               networks. `Info` says so in ``kept`` where the loss is 10 times that of the first step; no step is refused for it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import integer, optional, positive, within
from nearlin.nn import ravel, unravel
from nearlin.steps import decay, label_key, public_step, rate, settle_shared, taken_if_finite

DIVERGED = 10.0  # times the first loss, more than what batches differ by


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    t : int
        Steps taken.
    velocity : array, shape (p,), or None
        m; None before the first step.
    vectors : tuple of arrays, shape (p,)
        q, oldest first; at most ``rank`` of them.
    factors : tuple of float
        c of each.
    skipped : int
        How many vectors h were left out.
    start : float or None
        The loss before the first step.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    t: int = 0
    velocity: object = None
    vectors: tuple = ()
    factors: tuple = ()
    skipped: int = 0
    start: float | None = None
    shapes: tuple = ()


@dataclass(frozen=True)
class QNG:
    """The product-form natural gradient that Ginger's authors compare with, arXiv:2402.03295.

    Parameters
    ----------
    momentum : float
        β₁ in [0, 1).
    decay : float
        β₂ in (0, 1).
    rank : int
        τ: pairs (q, c) that are kept, at least 1.
    trust_region : float, optional
        δ > 0: the step size is at most √(2 δ / mᵀ C⁻ᵀ C⁻¹ m).
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    Defaults are those of MANGA-UOFA/Ginger.
    """

    lr: float | Callable = 0.5
    momentum: float = 0.9
    decay: float = 0.99
    rank: int = 64
    trust_region: float | None = None
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        settle_shared(self, decay=within("(0, 1)"), rank=integer(1), trust_region=optional(positive))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. ``key`` and the step draw the labels."""
        point, lr = objective.at(params, batch), rate(self.lr, state.t)
        point.check_unweighted("QNG")
        loss, start = float(point.loss), float(point.loss) if state.start is None else state.start
        h = tuple(point.samples**0.5 * g for g in point.grads(targets=point.draw(label_key(key, state.t))))
        increments, after = self.update(state, point.grads(), h)
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)
        trial = tuple(W + step for W, step in zip(decayed, increments, strict=True))
        lost = after.skipped > state.skipped
        words = ["the curvature vector is not finite, left out"] * lost
        if loss > DIVERGED * start > 0:
            words.append(f"diverging: the loss is {loss / start:.3g} times that of the first step")
        new = trial, after._replace(start=start)
        return taken_if_finite((params, state), new, loss, refreshed=not lost, kept="; ".join(words))

    def update(self, state, grads, h):
        """The arithmetic of a step: increments, to be added to the parameters, and the state after it.

        Parameters
        ----------
        state : State
            Not changed.
        grads, h : tuple of arrays
            g and h, in the shapes of the parameters.

        Notes
        -----
        The direction is that of the curvature before ``h``; a vector h that is not finite is left out, and counted.
        """
        g, lr = ravel(grads), rate(self.lr, state.t)
        m = g if state.velocity is None else self.momentum * state.velocity + g
        direction = self._backwards(state, self._forwards(state, m))
        if self.trust_region is not None:
            length = float(m @ direction)
            lr = min(lr, math.sqrt(2 * self.trust_region / length)) if length > 0 else lr
        q = self._forwards(state, ravel(h))
        square = float(q @ q)
        if not math.isfinite(square):
            after = state._replace(t=state.t + 1, velocity=m, skipped=state.skipped + 1)
        else:
            vectors, factors = (*state.vectors, q)[-self.rank :], (*state.factors, self._factor(square))[-self.rank :]
            after = State(state.t + 1, m, vectors, factors, state.skipped, state.start)
        return unravel(-lr * direction, grads), after

    def _forwards(self, state, v):
        """C⁻¹ v, from the oldest pair to the newest."""
        return self._product(zip(state.vectors, state.factors, strict=True), len(state.vectors), v)

    def _backwards(self, state, v):
        """C⁻ᵀ v, from the newest pair to the oldest."""
        return self._product(zip(state.vectors[::-1], state.factors[::-1], strict=True), len(state.vectors), v)

    def _product(self, pairs, count, v):
        for q, c in pairs:
            v = v - (c * (q @ v)) * q
        return v * self.decay ** (-0.5 * count) if count else v

    def _factor(self, square):
        """c = (1 - √(β₂ / (β₂ + (1 - β₂) qᵀq))) / qᵀq, from qᵀq."""
        grown = self.decay + (1 - self.decay) * square
        return (1 - self.decay) / (grown + math.sqrt(grown * self.decay))
