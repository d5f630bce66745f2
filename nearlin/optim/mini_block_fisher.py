r"""Mini-block Fisher (MBF): a block-diagonal empirical Fisher matrix of many small blocks in every layer.

Paper       Bahamou, Goldfarb, Ren, A Mini-Block Fisher Method for Deep Neural Networks, AISTATS 2023, arXiv:2202.04124
Update      v ← momentum v + g,   F ← decay F + (1 - decay) g gᵀ,   θ ← θ - lr (F + damping I)⁻¹ v        for every mini-block
            g (k,) gradient of the mean loss by a mini-block, a part θ of one layer's weights;  F (k, k)
            kernels: one block per input and output channel, k = kernel²
            dense [W b] (o, D): the blocks are rows, and one F (D, D) stands for all of them, the mean Gᵀ G / o of the g gᵀ, so
            that the direction is V (F + damping I)⁻¹
            biases of kernels, scales and shifts:  m ← momentum m + (1 - momentum) g,   s ← β₂ s + (1 - β₂) m²,
            θ ← θ - lr diag_scale m / (√(s / (1 - β₂ᵗ)) + diag_epsilon)
Notation    paper → code:  λ → damping,  ρ → decay,  μ → momentum,  α → lr,  T1 → statistics_every,  T2 → inverse_every
Cost        with dense layers (o, D), n samples, and convolutions of f filters, c channels, κ = kernel², T positions, beyond
              forward and backward:
            exact 2 o D² + 6 o D - 1 flops per layer and step, layout = "out"
            exact 2 o² D + 6 o D - 1 flops per layer and step, layout = "in" or "chunk"
            exact 2 o D² + 2 o D + 3 D² - 1 flops per layer and statistics, layout = "out", average = True, statistic = "batch"
            exact 2 o² D + 2 o D + 3 o² - 1 flops per layer and statistics, layout = "in" or "chunk", average = True, statistic
              = "batch"
            exact 3 o D² + 3 o D - 1 flops per layer and statistics, layout = "out", average = False, statistic = "batch"
            exact 2 n D² + 2 n o + n D + n + 3 D² + D - 1 flops per layer and statistics, layout = "out", average = True,
              statistic = "sample"
            exact 2 n o D² + n o D + 3 o D² + o D - 1 flops per layer and statistics, layout = "out", average = False, statistic
              = "sample"
            exact inverse(D) flops per layer and inverse, layout = "out", average = True: that of `nearlin.linalg.block_inverse`
            exact inverse(o) flops per layer and inverse, layout = "in" or "chunk", average = True
            exact o inverse(D) + o - 1 flops per layer and inverse, layout = "out", average = False
            exact o D + 2 D² floats kept per layer, layout = "out", average = True
            exact o D + 2 o² floats kept per layer, layout = "in" or "chunk", average = True
            exact o D + 2 o D² floats kept per layer, layout = "out", average = False
            exact 2 f c κ² + 6 f c κ + 18 f - 1 flops per convolution and step: its f biases take 18
            exact 3 f c κ² + 3 f c κ - 1 flops per convolution and statistics, statistic = "batch"
            exact 2 n T f c κ + 2 n f c κ² + 4 f c κ² + f c κ - 1 flops per convolution and statistics, statistic = "sample"
            exact f c inverse(κ) + f c - 1 flops per convolution and inverse
            exact f c κ + 2 f c κ² + 3 f floats kept per convolution
Oracles     step: 1 forward, 1 backward
            warm start, per batch: 1 forward, 1 backward at 1 draw of labels
Deviations  1. layout = "out" is one neuron per mini-block. achrafba96/mbf views the same matrix as D rows of o consecutive
               entries, a neuron's rows only where o = D: layout = "chunk". Any partition is legal; "in" has one input per block.
            2. The statistic is the outer product of the batch's mean gradient at the true labels, as in achrafba96/mbf: about 1/n
               of the empirical Fisher matrix (1/n) Σᵢ gᵢ gᵢᵀ, which is statistic = "sample". lr and damping do not carry over.
            3. diagonal = "released" is the rule above, as in achrafba96/mbf: m is not bias-corrected, and s is a moment of m
               instead of g. diagonal = "adam" mends both. The gradient of a bias ahead of a normalisation is rounding, and so are
               its steps.
            4. Without a warm start, statistics are plain means until 1/t < 1 - decay; start = "first" and "zero" begin with
               F = g gᵀ and F = (1 - decay) g gᵀ instead. A batch of n samples counts n² times, n times for "sample"
               (`nearlin.steps.weigh`); in achrafba96/mbf all count once.
            5. Inverses are taken at every statistics step while t < inverse_every, as in achrafba96/mbf; not so with
               early = False.
            6. weight_decay is decoupled and comes first, as in achrafba96/mbf; diag_scale is 1 there.
            7. A statistic with NaN or Inf is left out. A block that has no inverse is damped more, or keeps the inverse it has.
            8. Rows of a graph layer are its nodes: statistic = "sample" is there the sum over nodes of the outer products of the
               nodes' parts of the gradient, over the n samples of the loss, as a node is seen by many samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearlin import steps
from nearlin._array import flag, namespace, one_of, positive, settle, within
from nearlin.curvature import blend_outer, block_rows, from_rows, sample_moment
from nearlin.linalg import axpy, block_inverse, dealt, inner
from nearlin.nn import join_bias, split_bias


class Layer(NamedTuple):
    """What is kept for one layer; None where the layer has no such part.

    Attributes
    ----------
    F : array, shape (k, k) or (blocks, k, k)
        Statistics of the mini-blocks, or their mean.
    inverse : array, like F
        (F + damping I)⁻¹ of step ``made``.
    made : int
    mean, square : array
        m and s of the diagonal rule: (out,) for the bias of kernels, (channels, 2) for a normalisation.
    count : int
        How many statistics went into F.
    """

    F: object = None
    inverse: object = None
    made: int = 0
    mean: object = None
    square: object = None
    count: int = 0


@dataclass(frozen=True)
class MiniBlockFisher:
    """The mini-block Fisher method, arXiv:2202.04124.

    Parameters
    ----------
    momentum, decay : float
        In [0, 1): v ← momentum v + g, and the weight of the old statistics.
    damping : float
        Added to the diagonal of every mini-block; 3e-4 to 3e-3 for ``statistic="batch"``, 1e-2 to 1 for ``"sample"``.
        ``lr`` is about 0.01 to 0.03 of it for the one, 0.1 to 1 for the other.
    layout : str
        Mini-blocks of dense layers: ``"out"``, one per output neuron; ``"in"``, one per input; ``"chunk"``, consecutive entries.
    average : bool
        Keep one mean block for a dense layer, else all of them. Kernels are never averaged.
    statistic : str
        ``"batch"``: outer product of the mean gradient; ``"sample"``: mean of the outer products of the samples' gradients.
    start : str
        Statistics without a warm start: ``"mean"``, ``"first"`` or ``"zero"``; see Deviation 4.
    statistics_every, inverse_every, early : int, int, bool
        Steps between two statistics, and two inverses; ``early``: invert with the statistics while t < inverse_every.
    diagonal : str
        ``"released"`` or ``"adam"``: the rule for biases of kernels and for normalisation layers; see Deviation 3.
    diag_beta2, diag_epsilon, diag_scale : float
        Its decay, its epsilon, and its step size over ``lr``.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 3e-5
    momentum: float = 0.9
    decay: float = 0.9
    damping: float = 1e-3
    layout: str = "out"
    average: bool = True
    statistic: str = "batch"
    start: str = "mean"
    statistics_every: int = 2
    inverse_every: int = 25
    early: bool = True
    diagonal: str = "released"
    diag_beta2: float = 0.999
    diag_epsilon: float = 1e-8
    diag_scale: float = 1.0
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        steps.settle_shared(self, average=flag, layout=one_of("out", "in", "chunk"), start=one_of("mean", "first", "zero"))
        settle(self, statistic=one_of("batch", "sample"), diagonal=one_of("released", "adam"))
        settle(self, diag_beta2=within("[0, 1)"), diag_epsilon=positive, diag_scale=positive)

    def init(self, params, objective):
        """The state before the first step."""
        return steps.LayerwiseState(layers=(Layer(),) * len(objective.layers))

    @steps.public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state with F the mean of the statistics of ``batches`` at ``params``, with labels drawn from the model.

        `ValueError` without a batch, `ArithmeticError` where a statistic holds NaN or Inf.
        """

        def observe(layers, point, weights, count):
            point.check_unweighted("MiniBlockFisher")
            grads, traces = self._gradients(point, True, point.draw(steps.warm_key(key, count)))
            return self._observe(layers, objective.layers, grads, traces, point.samples, weights)

        return steps.warmed(state, batches, partial(objective.at, params), observe, state.layers, self._power)

    @steps.public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, specs, lr = objective.at(params, batch), objective.layers, steps.rate(self.lr, state.t)
        due = steps.statistics_due(state.t, self.statistics_every, state.statistics, again=True)
        refreshed = steps.inverses_due(state.t, self.statistics_every, self.inverse_every, self.early)
        point.check_unweighted("MiniBlockFisher")
        grads, traces = self._gradients(point, due)
        v = steps.velocity(state.velocity, point.penalised(grads), self.momentum)
        layers, size, lost, notes, kept = state.layers, state.size, [], [], 0
        if due:
            weights, size = steps.weighted(partial(self._weights, state.warm), state.statistics, point.samples**self._power, size)
            layers, lost = self._observe(layers, specs, grads, traces, point.samples, weights)
        if refreshed:
            layers, notes, kept = self._invert(layers, state.t)
        layers = tuple(map(self._moments, layers, specs, grads))
        directions = tuple(self._direction(*three, state.t) for three in zip(layers, specs, v, strict=True))
        trial = axpy(-lr, directions, steps.decay(params, specs, lr * self.weight_decay, self.exempt_bias))
        kept += state.kept + len(lost)
        new = trial, steps.LayerwiseState(state.t + 1, v, layers, state.statistics + due, state.warm, kept, size)
        return steps.taken_if_finite((params, state), new, point.loss, refreshed=refreshed, kept="; ".join(lost + notes))

    @property
    def _power(self):
        """A batch of n samples weighs n to this power."""
        return 2 if self.statistic == "batch" else 1

    def _weights(self, warm, count, share=1.0):
        """Weights of the old and of the new statistic."""
        if self.start == "first" and not warm and not count:
            return 0.0, 1.0
        return steps.mean_weights(self.decay, count, warm or self.start != "mean", share)

    def _gradients(self, point, due, targets=None):
        """The gradient of the mean loss, and traces where per-sample statistics are due."""
        if not due or self.statistic == "batch":
            return point.data_grads(targets), (None,) * len(point.params)
        traces = point.traces(targets=targets)
        return tuple(trace.grad() / point.samples for trace in traces), traces

    # ------------------------------------------------------------------------------------------------------- blocks of weights

    def _observe(self, layers, specs, grads, traces, samples, weights):
        """Layers with F ← old F + new S, ``weights`` of a count, and a sentence for each whose statistic S is not finite."""
        made, lost = [], []
        for i, (layer, spec, G, trace) in enumerate(zip(layers, specs, grads, traces, strict=True)):
            if spec.kind != "norm":
                F = self._renewed(layer.F, spec, G, trace, samples, *weights(layer.count))
                finite = F is not None
                if not finite:
                    lost.append(f"layer {i}: the statistic holds NaN or Inf, left out")
                    F = self._zeros(spec, G) if layer.F is None else layer.F
                layer = layer._replace(F=F, count=layer.count + finite)
            made.append(layer)
        return tuple(made), lost

    def _averaged(self, spec):
        return self.average and spec.kind != "conv"

    def _renewed(self, F, spec, G, trace, samples, old, new):
        """old F + new S for one layer, or None where S is not finite: no entry of S is larger than its trace."""
        xp, averaged = namespace(G), self._averaged(spec)
        if trace is not None:
            S = new / samples * sample_moment(trace, spec, self.layout, averaged)
            size = float(xp.sum(xp.linalg.diagonal(S)))
        else:
            rows = block_rows(G, spec, self.layout)
            size = inner(rows, rows)
        if not math.isfinite(size):
            return None
        if trace is None and not averaged:
            return blend_outer(F, rows, old, new)
        if trace is None:
            S = new / rows.shape[0] * (xp.matrix_transpose(rows) @ rows)
        return S if F is None else old * F + S

    def _zeros(self, spec, G):
        rows = block_rows(G, spec, self.layout)
        shape = rows.shape[1:] * 2 if self._averaged(spec) else (*rows.shape, rows.shape[1])
        return namespace(G).zeros(shape, dtype=G.dtype, device=G.device)

    def _invert(self, layers, t):
        """Layers with new inverses, a sentence for each that needed help, and how many inverses were kept."""

        def invert(i, F, previous):
            return block_inverse(F, self.damping, f"layer {i}" + ", block" * (F.ndim == 3), previous)

        made, notes, kept = list(layers), [], 0
        given = [(i, layer.F, layer.inverse) for i, layer in enumerate(layers) if layer.F is not None]
        found = dealt(invert, *zip(*given, strict=True), like=given[0][1]) if given else []
        for (i, *_), result in zip(given, found, strict=True):
            since = f" (of step {layers[i].made})" if result.kept else ""
            notes += [result.sentence() + since] * bool(result.sentence())
            kept += len(result.kept)
            made[i] = layers[i]._replace(inverse=result.inverse, made=t)
        return tuple(made), notes, kept

    def _direction(self, layer, spec, v, t):
        """(F + damping I)⁻¹ v on the blocks of one layer, and the diagonal rule on its vectors."""
        if spec.kind == "norm":
            return self._diagonal(layer, t)
        rows = block_rows(v, spec, self.layout)
        rows = rows @ layer.inverse if layer.inverse.ndim == 2 else (layer.inverse @ rows[:, :, None])[:, :, 0]
        W = from_rows(rows, spec, self.layout)
        return W if layer.mean is None else join_bias(W, self._diagonal(layer, t))

    # ---------------------------------------------------------------------------------------------------------------- vectors

    def _moments(self, layer, spec, G):
        """The layer with its m and s renewed, where it has vectors."""
        if spec.kind not in ("conv", "norm") or not spec.bias:
            return layer
        g = G if spec.kind == "norm" else split_bias(G, spec)[1]
        mean = (1 - self.momentum) * g
        mean = mean if layer.mean is None else self.momentum * layer.mean + mean
        s = mean if self.diagonal == "released" else g
        square = (1 - self.diag_beta2) * s * s
        return layer._replace(mean=mean, square=square if layer.square is None else self.diag_beta2 * layer.square + square)

    def _diagonal(self, layer, t):
        """The direction of the diagonal rule, times ``diag_scale``."""
        root = namespace(layer.square).sqrt(layer.square / (1 - self.diag_beta2 ** (t + 1))) + self.diag_epsilon
        correction = 1.0 if self.diagonal == "released" else 1 - self.momentum ** (t + 1)
        return (self.diag_scale / correction) * layer.mean / root
