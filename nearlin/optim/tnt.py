r"""TNT: tensor-normal training, a natural gradient whose Fisher matrix is a Kronecker product over the axes of each variable.

Paper       Ren, Goldfarb, Tensor Normal Training for Deep Learning Models, NeurIPS 2021, arXiv:2106.02925
Update      Hⱼ ← decay Hⱼ + (1 - decay) g̃ⱼ,   Xⱼ = (Hⱼ / (c^(K-1) prod(Nᵢ, i ≠ j)) + damping I)⁻¹,   c = (tr H₀ / N)^(1/K)
            v ← momentum v + g,   θ ← θ - lr v x₀ X₀ x₁ X₁ ...
            g gradient of the mean loss, g̃ the same with labels drawn from the model, g̃ⱼ (Nⱼ, Nⱼ) its contraction with itself over
            all axes but j; N = N₀ N₁ ... entries in a variable of K axes. The scaled factors have one mean eigenvalue, c, and
            their Kronecker product has the trace tr H₀ of the model's covariance.
Notation    paper → code:  ε → damping,  Ω⁽ʲ⁾ → Hⱼ in grams, unscaled,  d → N,  β → decay,  μ → momentum,  α → lr
Cost        with, for a variable of N = N₀ N₁ ... entries and K axes, s = sum(Nⱼ), q = sum(Nⱼ²), c = sum(Nⱼ³), beyond forward
              and backward:
            exact 2 N s flops per variable and step: direction
            exact 6 p - L flops per step: momentum, of that 2 p - L to see that the step is finite; p parameters in L matrices
            exact 2 N s + 2 q + N + N₀ - 1 flops per variable and statistics: a BLAS does half of 2 N s
            exact inverses + q + N₀ - K - 1 flops per variable and inverse: inverses of the K factors by
              `nearlin.linalg.block_inverse`
            exact q flops per variable and inverse, K > 1: scaling
            exact N + 2 q floats kept per variable
Oracles     step: 1 forward, 1 backward
            statistics: 1 backward more, at 1 draw of labels
            warm start, per batch: 1 forward, 1 backward at 1 draw of labels
Deviations  1. A variable without trace has no normalisation: its factors are I / damping.
            2. Inverses in intervals, and at every statistics step while t < inverse_every (not with early = False).
            3. After a warm start, the mean of the statistics over given batches, step 0 adds no statistic, as in
               renyiryry/tnt_neurips_2021. Without one, statistics are plain means until 1/t < 1 - decay. A batch of n samples
               counts n² times (`nearlin.steps.weigh`); there, all count once.
            4. Weights, biases, scales and shifts are variables of their own; kernels have the axes filter, channel and position
               (reshape = "filter") or filter and the rest ("matrix").
            5. weight_decay is decoupled. A statistic with NaN or Inf is left out; an inverse that fails is tried with larger
               damping (`nearlin.linalg.block_inverse`), then kept from before.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nearlin import steps
from nearlin._array import namespace
from nearlin.linalg import average_modes, axpy, block_inverse, dealt, mode_products
from nearlin.nn import join_tensors, split_tensors, tensor_names


@dataclass(frozen=True)
class TNT:
    """Tensor-normal training, arXiv:2106.02925.

    Parameters
    ----------
    momentum, decay : float
        In [0, 1): v ← momentum v + g, and the weight of the old statistics.
    damping : float
        Added to every scaled factor.
    statistics_every, inverse_every, early : int, int, bool
        Steps between two statistics, and two inversions; ``early``: invert with the statistics while t < inverse_every.
    reshape : str
        Kernels as ``"filter"`` (out, inp, kernel²), or as ``"matrix"`` (out, inp kernel²).
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    lr, damping and the intervals are those of renyiryry/tnt_neurips_2021 for its MNIST auto-encoder.
    """

    lr: float | Callable = 1e-4
    momentum: float = 0.9
    decay: float = 0.9
    damping: float = 0.1
    statistics_every: int = 1
    inverse_every: int = 20
    early: bool = True
    reshape: str = "filter"
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        steps.settle_shared(self)

    def init(self, params, objective):
        """The state before the first step."""
        return steps.LayerwiseState()

    @steps.public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state with the mean of the statistics of ``batches`` at ``params``, labels drawn from the model.

        `ValueError` without a batch, `ArithmeticError` where a statistic holds NaN or Inf.
        """

        def observe(modes, point, weights, count):
            point.check_unweighted("TNT")
            drawn = self._drawn_gradient(point, layers, steps.warm_key(key, count))
            return average_modes(modes, drawn, weights, tensor_names(layers))

        layers = objective.layers
        return steps.warmed(state, batches, partial(objective.at, params), observe, power=2)

    @steps.public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. ``key`` draws the labels."""
        point, layers, lr = objective.at(params, batch), objective.layers, steps.rate(self.lr, state.t)
        point.check_unweighted("TNT")
        grads = point.grads()
        v = steps.velocity(state.velocity, grads, self.momentum)
        modes, counted, size, kept = state.layers, state.statistics, state.size, []
        if steps.statistics_due(state.t, self.statistics_every, counted):
            drawn = self._drawn_gradient(point, layers, steps.label_key(key, state.t))
            weights = partial(steps.mean_weights, self.decay, warm=state.warm)
            weights, size = steps.weighted(weights, counted, point.samples**2, size)
            modes, kept = average_modes(modes, drawn, weights, tensor_names(layers))
            counted += 1
        if refreshed := steps.inverses_due(state.t, self.statistics_every, self.inverse_every, self.early):
            modes, failed = self._inverses(modes, state.t, tensor_names(layers))
            kept = kept + failed
        pairs = zip(split_tensors(v, layers, self.reshape), modes, strict=True)
        direction = join_tensors([mode_products(u, variable.matrices) for u, variable in pairs], layers)
        trial = axpy(-lr, direction, steps.decay(params, layers, lr * self.weight_decay, self.exempt_bias))
        new = trial, steps.LayerwiseState(state.t + 1, v, modes, counted, state.warm, state.kept + len(kept), size)
        return steps.taken_if_finite((params, state), new, point.loss, refreshed=refreshed, kept="; ".join(kept))

    def _drawn_gradient(self, point, layers, key):
        return split_tensors(point.grads(targets=point.draw(key)), layers, self.reshape)

    def _inverses(self, modes, t, called):
        """The variables with new inverses, and a sentence for each that keeps old ones."""
        found = dealt(self._invert, modes, called, like=modes[0].grams[0])
        made = [v._replace(matrices=inverses, made=t) if inverses else v for v, (inverses, _) in zip(modes, found, strict=True)]
        return tuple(made), [note for _, notes in found for note in notes]

    def _invert(self, variable, name):
        """(H / scale + damping I)⁻¹ for every mode, None where the old ones stay, and what that took."""
        if variable.matrices and not all(math.isfinite(float(namespace(H).sum(H))) for H in variable.grams):
            return None, [f"{name}: statistics hold NaN or Inf, inverses of step {variable.made} kept"]
        grams, old = variable.grams, variable.matrices or (None,) * len(variable.grams)
        scales = equalising_scales(grams)
        if scales is None:
            return tuple(_eye(H) / self.damping for H in grams), []
        scaled = [H if scale == 1 else H / scale for H, scale in zip(grams, scales, strict=True)]
        found = [block_inverse(H, self.damping, name, previous=X) for H, X in zip(scaled, old, strict=True)]
        return tuple(one.inverse for one in found), [one.sentence() for one in found if one.sentence()]


def equalising_scales(grams):
    """What each Gram matrix of a variable is divided by, so that all have one mean eigenvalue; None where their trace vanishes.

    cᴷ⁻¹ prod(Nᵢ, i ≠ j) with c = (tr / N)^(1/K): the mean eigenvalue tr / Nⱼ of mode j becomes c.
    """
    xp, K, N = namespace(*grams), len(grams), math.prod(H.shape[0] for H in grams)
    trace = float(xp.linalg.trace(grams[0]))
    if not trace > float(xp.finfo(grams[0].dtype).smallest_normal):
        return None
    mean = (trace / N) ** (1 / K)
    return tuple(mean ** (K - 1) * (N // H.shape[0]) for H in grams)


def _eye(H):
    return namespace(H).eye(H.shape[0], dtype=H.dtype, device=H.device)
