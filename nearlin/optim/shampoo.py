r"""Shampoo: a preconditioner for every axis of every variable, from the Gram matrices of its gradient.

Paper       Gupta, Koren, Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, ICML 2018, arXiv:1802.09568,
            Algorithms 1 and 2
Update      Hⱼ ← decay Hⱼ + (1 - decay) gⱼ,   Xⱼ = (Hⱼ + damping I)^(-1/2K)      every axis j of every variable, K axes
            v ← momentum v + g,   θ ← θ - lr v x₀ X₀ x₁ X₁ ...
            g gradient of the mean loss, gⱼ (Nⱼ, Nⱼ) its contraction with itself over all axes but j: g gᵀ and gᵀ g for a matrix
Notation    paper → code:  η → lr,  ε → damping,  Hⱼ → grams,  k → K,  Hⱼ^(-1/2k) → roots
Cost        with, for a variable of N = N₀ N₁ ... entries and K axes, s = sum(Nⱼ), q = sum(Nⱼ²), c = sum(Nⱼ³), beyond forward
              and backward:
            exact 2 N s flops per variable and step: direction
            exact 6 p - L flops per step: momentum, of that 2 p - L to see that the step is finite; p parameters in L matrices
            exact 2 N s + 2 q + N + N₀ - 1 flops per variable and statistics: a BLAS does half of 2 N s
            nominal 9 c flops per variable and inverse, root = "eigh": eigenvectors
            exact 2 c + (16 K + 27) q + 31 s - 4 K flops per variable and inverse, root = "eigh": roots and their errors
            exact N + 2 q floats kept per variable
Oracles     step: 1 forward, 1 backward
            warm start, per batch: 1 forward, 1 backward
Deviations  1. Averages and a damping of every root instead of sums from H = ε I, and momentum, as in renyiryry/tnt_neurips_2021
               and achrafba96/mbf; accumulate = "sum" with momentum = 0 is Algorithms 1 and 2.
            2. Roots and statistics in intervals; roots at every statistics step while t < inverse_every (not with early = False).
            3. After a warm start, the mean of the statistics over given batches, step 0 adds no statistic. Without one,
               statistics are plain means until 1/t < 1 - decay; achrafba96/mbf leaves the first weights without a sum of one.
               A batch of n samples counts n² times in a mean (`nearlin.steps.weigh`), and once in a sum; there, all count once.
            4. Weights, biases, scales and shifts are variables of their own; kernels have the axes filter, channel and position
               (reshape = "filter") or filter and the rest ("matrix").
            5. root = "newton" is the coupled Newton iteration of the authors named above; a root that it misses is taken by
               eigendecomposition, and named in the info.
            6. weight_decay is decoupled. A statistic with NaN or Inf is left out, and a root that fails is kept from before.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nearlin import steps
from nearlin._array import namespace, one_of, read, side_by_side
from nearlin.linalg import FactorizationError, average_modes, axpy, dealt, inverse_root, mode_products
from nearlin.nn import join_tensors, split_tensors, tensor_names


@dataclass(frozen=True)
class Shampoo:
    """Shampoo, arXiv:1802.09568.

    Parameters
    ----------
    momentum, decay : float
        In [0, 1): v ← momentum v + g, and the weight of the old statistics.
    damping : float
        Added to every Gram matrix before its root is taken.
    statistics_every, inverse_every, early : int, int, bool
        Steps between two statistics, and two roots; ``early``: take roots with the statistics while t < inverse_every.
    accumulate : str
        ``"average"``, or ``"sum"``: H ← H + gⱼ.
    root : str
        ``"eigh"``, or ``"newton"``: coupled Newton.
    reshape : str
        Kernels as ``"filter"`` (out, inp, kernel²), or as ``"matrix"`` (out, inp kernel²).
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    lr, damping and the intervals are those of renyiryry/tnt_neurips_2021 for its MNIST auto-encoder.
    """

    lr: float | Callable = 3e-4
    momentum: float = 0.9
    decay: float = 0.9
    damping: float = 3e-4
    statistics_every: int = 1
    inverse_every: int = 20
    early: bool = True
    accumulate: str = "average"
    root: str = "eigh"
    reshape: str = "filter"
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        steps.settle_shared(self, accumulate=one_of("average", "sum"), root=one_of("eigh", "newton"))

    def init(self, params, objective):
        """The state before the first step."""
        return steps.LayerwiseState()

    @steps.public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state with the mean of the statistics of ``batches`` at ``params``, true labels. ``key`` is not used.

        `ValueError` without a batch, `ArithmeticError` where a statistic holds NaN or Inf.
        """

        def observe(modes, point, weights, count):
            return average_modes(modes, self._split(point.grads(), layers), weights, tensor_names(layers))

        layers = objective.layers
        return steps.warmed(state, batches, partial(objective.at, params), observe, power=2)

    @steps.public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, layers, lr = objective.at(params, batch), objective.layers, steps.rate(self.lr, state.t)
        grads = point.grads()
        v = steps.velocity(state.velocity, grads, self.momentum)
        modes, counted, size, kept, replaced = state.layers, state.statistics, state.size, [], []
        if steps.statistics_due(state.t, self.statistics_every, counted):
            weights, size = steps.weighted(partial(self._weights, state.warm), counted, point.samples**2, size)
            modes, kept = average_modes(modes, self._split(grads, layers), weights, tensor_names(layers))
            counted += 1
        if refreshed := steps.inverses_due(state.t, self.statistics_every, self.inverse_every, self.early):
            modes, failed, replaced = self._roots(modes, state.t, tensor_names(layers))
            kept = kept + failed
        pairs = zip(self._split(v, layers), modes, strict=True)
        direction = join_tensors([mode_products(u, variable.matrices) for u, variable in pairs], layers)
        trial = axpy(-lr, direction, steps.decay(params, layers, lr * self.weight_decay, self.exempt_bias))
        new = trial, steps.LayerwiseState(state.t + 1, v, modes, counted, state.warm, state.kept + len(kept), size)
        return steps.taken_if_finite((params, state), new, point.loss, refreshed=refreshed, kept="; ".join(kept + replaced))

    def _split(self, grads, layers):
        return split_tensors(grads, layers, self.reshape)

    def _weights(self, warm, count, share=1.0):
        """Weights of the old and of the new statistic."""
        return (1.0, 1.0) if self.accumulate == "sum" else steps.mean_weights(self.decay, count, warm, share)

    def _roots(self, modes, t, called):
        """The variables with new roots, a sentence for each that keeps its old ones, and one for each root that Newton missed."""
        found = dealt(self._root, modes, like=modes[0].grams[0])
        named = list(zip(called, modes, found, strict=True))
        kept = [f"{name}: {why}, roots of step {variable.made} kept" for name, variable, (_, why, _) in named if why]
        replaced = [f"{name}, {what}" for name, _, (*_, missed) in named for what in missed]
        made = [variable._replace(matrices=roots, made=t) if roots else variable for _, variable, (roots, *_) in named]
        return tuple(made), kept, replaced

    def _root(self, variable):
        """New roots of one variable or None, why it keeps those it has, and which of its roots are not Newton's."""
        grams, p = variable.grams, 2 * len(variable.grams)
        if variable.matrices and not all(map(math.isfinite, read(*(namespace(H).sum(H) for H in grams)))):
            return None, "statistics hold NaN or Inf", []

        def root(axis, H):
            root, info = inverse_root(H, p, self.damping, self.root)
            if info.reason in ("eigh", "converged"):
                return root, ""
            why = f"axis {axis}: Newton {info.reason}, error {info.error:.1e}, root by eigendecomposition"
            return inverse_root(H, p, self.damping)[0], why

        try:
            roots, missed = zip(*side_by_side(root, range(len(grams)), grams, like=grams[0]), strict=True)
        except FactorizationError as error:
            if not variable.matrices:
                raise
            return None, str(error), []
        return roots, "", list(filter(None, missed))
