r"""K-BFGS and K-BFGS(L): a Kronecker-factored quasi-Newton method, both inverse factors of a layer kept by BFGS updates.

Paper       Goldfarb, Ren, Bahamou, Practical Quasi-Newton Methods for Training Deep Neural Networks, NeurIPS 2020,
            arXiv:2006.08877, K-BFGS and K-BFGS(L) with double damping
Update      v ← momentum v + (1 - momentum) g,   W ← W - lr Hg v Ha        per layer; Hg (o, o), Ha (D, D), g, v and W (o, D)
            A ← decay A + (1 - decay) mean(a aᵀ),   Ha: BFGS towards (A + √damping I)⁻¹ along Ha mean(a)
            s ← pair_decay s + (1 - pair_decay) Δ mean(z),   y likewise of mean(∂L/∂z): before and after the step, on one batch
            Hg: BFGS with (s, y) after the double damping: sᵀy >= powell yᵀHg y, then sᵀy >= √damping sᵀs;
            `KBFGSL`: never formed, the last ``memory`` pairs from the identity
            a homogeneous inputs, z = W a outputs of the layer before the activation
Notation    paper → code:  H_a, H_g → Ha, Hg,  λ → damping,  λ_A = λ_G = μ₂ → √damping,  μ₁ → powell,  β → decay, pair_decay,
            α → lr,  h → z,  g → ∂L/∂z,  p (pairs) → memory
Cost        with dense layers (o, D = d + 1), n rows and, for `KBFGSL`, h pairs, beyond two forward and backward passes:
            exact 2 n D² + 4 D² + D - 1 flops per layer and statistics: a BLAS does half of 2 n D²
            exact 7 o D - 1 flops per layer and step: momentum, and the step is finite
            exact 13 D² + 15 D + 4 o D + 20 o + n (2 D + 6 o - 1) - 4 flops per layer and step: the pair, Ha, and means over n
              rows
            at most 6 o flops per layer and step: damping
            exact 2 o² D + 2 o D² flops per layer and step, class = "KBFGS": direction
            exact 11 o² + 11 o - 1 flops per layer and step, class = "KBFGS": Hg
            exact 8 h o D + 4 h² (o + D) + 3 h D + 2 o D + 2 o D² flops per layer and step, class = "KBFGSL": direction
            exact 8 h o + 4 h² (o + 1) + 3 h + 6 o flops per layer and step, class = "KBFGSL": Hg
            exact o D + 2 D² + 2 o floats kept per layer
            exact o² floats kept per layer, class = "KBFGS"
            exact 2 h o floats kept per layer, class = "KBFGSL"
Oracles     step: 2 forward, 2 backward: the second pair at the new parameters gives (s, y) and new_loss
            warm start, per batch: 1 forward, 1 backward
Deviations  1. A bias is a column of W; momentum and its form follow renyiryry/kbfgs_neurips2020_public. The objective's l2 is in
               g, not in the pairs (s, y), as there, where it is 1e-5 and decays biases too.
            2. Without a warm start, the mean over given batches, A is a plain mean until 1/t < 1 - decay; the authors, on full
               batches, start from 0, which is start = "zero". There they take pair_decay = 0. A batch of n samples counts
               n times.
            3. Pairs where yᵀHg y or sᵀs is at most the smallest normal number are skipped: the formulas divide by them. So are
               pairs with ||y|| below 32 ε times the root mean square of the ∂L/∂z: ahead of a normalisation their mean is 0, y is
               rounding, and the damping would put it in the place of s. There Hg stays the identity.
            4. Own extension: in convolutions A is a mean over samples of sums over positions, and other means are over both, as
               in K-FAC (arXiv:1602.01407); rows of a graph layer are its nodes. Normalisation layers step along v.
            5. A step after which the loss is not finite is rejected. weight_decay is decoupled. Statistics with NaN or Inf are
               left out.
            6. `KBFGSL` takes products with Hg by the compact representation, four thin products; the two loops give the same.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearlin import steps
from nearlin._array import integer, namespace, one_of, settle, side_by_side, within
from nearlin.curvature import change, means, observe
from nearlin.linalg import LimitedMemory, axpy, bfgs_update, block_inverse, double_damping, norm, remember, track_inverse


class Factors(NamedTuple):
    """One layer: second moment A of ``count`` batches and inverse Ha of the input side (D, D), inverse Hg of the output side
    (o, o) or its pairs (h, o), the averaged pair s, y (o,), and how much of ||y|| may be rounding. None for a normalisation."""

    A: object = None
    Ha: object = None
    Hg: object = None
    s: object = 0.0
    y: object = 0.0
    noise: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class KBFGS:
    """K-BFGS, arXiv:2006.08877.

    Parameters
    ----------
    momentum, form : float, str
        In [0, 1); ``"average"``: v ← momentum v + (1 - momentum) g, or ``"sum"``: v ← momentum v + g.
    decay, pair_decay : float
        In [0, 1): weight of the old statistics A, and of the old pair (s, y).
    damping : float
        Positive. Its root is added to A, and is the least curvature sᵀy / sᵀs of a pair.
    powell : float
        In (0, 1): the least sᵀy / yᵀHg y of a pair.
    start : str
        Without a warm start: ``"mean"``, A is a plain mean at first; ``"zero"``: it starts from 0, A = (1 - decay) mean(a aᵀ).
    statistics_every : int
        Steps between two statistics A.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    lr and damping are those of renyiryry/kbfgs_neurips2020_public for its MNIST auto-encoder.
    """

    lr: float | Callable = 0.3
    momentum: float = 0.9
    form: str = "average"
    decay: float = 0.9
    pair_decay: float = 0.9
    damping: float = 0.3
    powell: float = 0.2
    start: str = "mean"
    statistics_every: int = 1
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        steps.settle_shared(self, form=one_of("average", "sum"), pair_decay=within("[0, 1)"), powell=within("(0, 1)"))
        settle(self, start=one_of("mean", "zero"))

    def init(self, params, objective):
        """The state before the first step."""
        return steps.LayerwiseState()

    @steps.public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state with the mean of the second moments of inputs over ``batches`` at ``params``. ``key`` is not used.

        `ValueError` without a batch, `ArithmeticError` where a statistic holds NaN or Inf.
        """

        def seen(factors, point, weights, count):
            point.check_unweighted(type(self).__name__)
            return _statistics(factors, observe(point, objective.layers)[1], weights)

        return steps.warmed(state, batches, partial(objective.at, params), seen)

    @steps.public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, layers, lr = objective.at(params, batch), objective.layers, steps.rate(self.lr, state.t)
        loss, due = float(point.loss), steps.statistics_due(state.t, self.statistics_every, state.statistics)
        point.check_unweighted(type(self).__name__)
        grads, seen = observe(point, layers, gram=due)
        v = steps.velocity(state.velocity, point.penalised(grads), self.momentum, self.form)
        factors, size, kept = state.layers, state.size, []
        if due:
            weights = partial(steps.mean_weights, self.decay, warm=state.warm or self.start == "zero")
            weights, size = steps.weighted(weights, state.statistics, point.samples, size)
            factors, kept = _statistics(factors, seen, weights)
        factors = tuple(side_by_side(self._started, factors, layers, like=point.outputs))
        direction = tuple(self._product(f.Hg, u) @ f.Ha if f else u for f, u in zip(factors, v, strict=True))
        trial = axpy(-lr, direction, steps.decay(params, layers, lr * self.weight_decay, self.exempt_bias))
        if not math.isfinite(norm(trial)):
            return params, state, steps.Info(loss, False, "rejected: the step is not finite", new_loss=loss)
        after = objective.at(trial, batch)
        new_loss = float(after.loss)
        if not math.isfinite(new_loss):
            return params, state, steps.Info(loss, False, "rejected: the loss after the step is not finite", new_loss=loss)
        factors, words = self._update(factors, seen, params, trial, after)
        kept = kept + [f"{factor} {word}" for factor, word in words if word != "updated"]
        refreshed = any(word == "updated" for _, word in words)
        state = steps.LayerwiseState(state.t + 1, v, factors, state.statistics + due, state.warm, state.kept + len(kept), size)
        return trial, state, steps.Info(loss, True, "accepted", refreshed=refreshed, kept="; ".join(kept), new_loss=new_loss)

    def _started(self, f, spec):
        """The factors of a layer; before its first step Ha = (A + √damping I)⁻¹ and Hg = I."""
        if f is None or f.Ha is not None:
            return f
        return f._replace(
            Ha=block_inverse(f.A, math.sqrt(self.damping), "input factor").inverse, Hg=self._identity(f.A, spec.out)
        )

    # how Hg is kept

    def _identity(self, like, out):
        return namespace(like).eye(out, dtype=like.dtype, device=like.device)

    def _product(self, Hg, u):
        return Hg @ u

    def _renewed(self, Hg, s, y, size):
        """Hg after the pair, and what happened, in a word."""
        return bfgs_update(Hg, s, y, size)

    def _update(self, factors, seen, params, trial, after):
        """The factors of all layers with the pairs of this step, and what happened to each factor, in a word."""
        found = side_by_side(self._update_layer, factors, seen, params, trial, after.traces(), like=trial[0])
        words = [
            (f"layer {i}: {side} factor", word)
            for i, (f, *both) in enumerate(found)
            for side, word in zip(("input", "output"), both, strict=True)
            if f is not None
        ]
        return tuple(f for f, *_ in found), words

    def _update_layer(self, f, one, W, W_new, trace):
        """One layer with its pair, from the means ``one`` before the step and its ``trace`` after it; what befell its factors."""
        if f is None:
            return None, "", ""
        old, mu = self.pair_decay, math.sqrt(self.damping)
        parts = zip((f.s, f.y, f.noise), change(W, one, W_new, means(trace)), strict=True)
        s, y, noise = (old * kept + (1 - old) * new for kept, new in parts)
        pair = double_damping(s, y, self._product(f.Hg, y), self.powell, mu, noise)
        Hg, outer = self._renewed(f.Hg, pair.s, pair.y, norm(one.signals)) if pair.usable else (f.Hg, pair.word)
        Ha, inner = track_inverse(f.Ha, f.A, mu, one.inputs)
        if outer == "rejected: non-finite":
            s, y, noise = f.s, f.y, f.noise
        return Factors(f.A, Ha, Hg, s, y, noise, f.count), inner, outer


@dataclass(frozen=True)
class KBFGSL(KBFGS):
    """K-BFGS(L), arXiv:2006.08877: `KBFGS` with the output factor of every layer in limited memory.

    Parameters
    ----------
    memory : int
        Most pairs kept in a layer. The other parameters are those of `KBFGS`.
    """

    memory: int = 100

    def __post_init__(self):
        super().__post_init__()
        settle(self, memory=integer(1))

    def _identity(self, like, out):
        return LimitedMemory()

    def _product(self, Hg, u):
        return Hg(u)

    def _renewed(self, Hg, s, y, size):
        return remember(Hg, s, y, self.memory, size)


def _statistics(factors, seen, weights):
    """Every A averaged with mean(a aᵀ) by the ``weights`` of a count, and a sentence for each layer where that is not finite."""

    def average(f, one):
        if one is None:
            return None, True
        A, finite = steps.average(f.A, one.gram, *weights(f.count))
        return f._replace(A=A, count=f.count + finite), finite

    like = next((one.gram for one in seen if one is not None), None)
    made, finite = zip(*side_by_side(average, factors or [Factors()] * len(seen), seen, like=like), strict=True)
    return made, [f"layer {i}: the statistic holds NaN or Inf, left out" for i, fine in enumerate(finite) if not fine]
