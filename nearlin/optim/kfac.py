r"""K-FAC: the Fisher matrix of every layer as a Kronecker product of an input and an output factor.

Paper       Martens, Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature, ICML 2015,
            arXiv:1503.05671, sections 3, 5 and 6
Update      v ← momentum v + g,   A ← decay A + (1 - decay) Σ a aᵀ / n,   G ← decay G + (1 - decay) Σ d dᵀ / rows
            W ← W - lr (G + √damping/π I)⁻¹ v (A + π √damping I)⁻¹        for every layer
            g gradient of the mean loss, like W (o, D); a (D,) homogeneous inputs; d (o,) per-sample gradients by the layer's
            outputs, at labels drawn from the model; n samples, T positions a sample in a convolution and rows = n T: there A sums
            over positions and G is a mean over them (Grosse, Martens, arXiv:1602.01407);  π = √((tr A / D) / (tr G / o)), or 1
            inverse = "exact":     W ← W - lr U_G [(U_Gᵀ v U_A) / (s_G s_Aᵀ + damping)] U_Aᵀ by the eigenvectors U of A and G
            inverse = "rescaled":  the same with S, second moments of the samples' gradients in that basis, for s_G s_Aᵀ: E-KFAC
            (George, Laurent, Bouthillier, Ballas, Vincent, arXiv:1806.03884)
Notation    paper → code:  Ā → A,  g → d,  ∇h → g,  λ + η → damping,  ε → decay,  γ → √damping,  T3 → inverse_every
Cost        with dense layers (o, D) and n rows (convolutions: D = inp kernel² (+ 1), n T), beyond forward, backward and the
              passes for statistics:
            exact 2 o² D + 2 o D² + 6 o D - 1 flops per layer and step, inverse = "factored"
            exact 4 o² D + 4 o D² + 9 o D - 1 flops per layer and step, inverse = "exact"
            exact 4 o² D + 4 o D² + 8 o D - 1 flops per layer and step, inverse = "rescaled"
            exact 2 n D² + 2 n o² + 3 D² + 3 o² + D + o - 2 flops per layer and statistics: a BLAS does half of the products
            exact (c - 1) (2 n o² + o²) flops per layer and statistics, fisher = "type-2": c outputs
            exact 2 n (D² + o² + o D) + n (o + D) + 6 o D - 1 flops per layer and statistics, inverse = "rescaled": in dense
              layers
            exact inverse(D) + inverse(o) flops per layer and inverse, inverse = "factored": those of
              `nearlin.linalg.block_inverse`
            exact D + o - 2 flops per layer and inverse, inverse = "factored", pi = True
            nominal 9 D³ + 9 o³ flops per layer and inverse, inverse = "exact" or "rescaled": eigenvectors
            exact 4 D² + 4 o² + 3 D + 3 o - 6 flops per layer and inverse, inverse = "exact" or "rescaled"
            exact -3 o D flops per layer and inverse, inverse = "rescaled": S is not averaged in a new basis
            exact o D + 2 D² + 2 o² floats kept per layer
            exact D + o floats kept per layer, inverse = "exact" or "rescaled"
            exact o D floats kept per layer, inverse = "rescaled"
Oracles     step: 1 forward, 1 backward
            statistics, fisher = "drawn": 1 backward more, at 1 draw of labels
            statistics, fisher = "empirical": 1 backward more
            statistics, fisher = "type-2": c backward more: as many traces are kept together
            warm start, per batch, fisher = "drawn": 1 forward, 1 backward at 1 draw of labels
            warm start, per batch, fisher = "empirical": 1 forward, 1 backward
            warm start, per batch, fisher = "type-2": 1 forward, c backward
Deviations  1. A fixed damping, a fixed step size and momentum; no quadratic model, no adaptation, no block-tridiagonal form: the
               baseline of renyiryry/kbfgs_neurips2020_public, renyiryry/tnt_neurips_2021 and achrafba96/mbf.
            2. π is the paper's trace-balanced one. Those codes have π = 1 (pi = False), which depends on how A ⊗ G is split.
            3. Drawn labels see a backward pass of their own. Two of those codes add the gradients at the true labels to it.
            4. Without a warm start, statistics are plain means until 1/t < 1 - decay; the paper's weights are those, up to 0.95.
               A batch of n samples counts n times (`nearlin.steps.weigh`).
            5. Inverses are taken at every statistics step while t < inverse_every, as in those codes; not so with early = False.
            6. Scales and shifts of normalisation layers step along the momentum, as in those codes.
            7. form = "average" is v ← momentum v + (1 - momentum) g, and the objective's l2 is in g, not in A and G, as in
               renyiryry/kbfgs_neurips2020_public, which decays biases too. weight_decay is decoupled and comes first.
            8. Sample weights w, with fisher = "type-2": A = Σ w a aᵀ / n, and the columns of the root are √w times as long.
            9. "rescaled" estimates S anew from the batch at hand whenever the basis changes. Where a factor is singular, S
               depends on the basis of its null space, which is up to the library and changes with the order of the rows: steps
               then differ between orders and backends by more than rounding.
            10. In a graph layer the rows are nodes: A = Σ a aᵀ over the n samples of the loss, G a mean over all nodes.
            11. A statistic with NaN or Inf is left out; a factor without an inverse keeps the one it has.
            12. fisher = "type-2" takes d = C e_k pulled back for every column k of the root C Cᵀ = H of the output Hessian, and
               sums d dᵀ over k: the expectation over drawn labels, without noise. "empirical" takes d at the true labels: no
               Fisher matrix.
            13. A convolution by g groups is g layers side by side, each with its A and G: what the Fisher matrix holds between
               groups is left out, as between layers.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

from nearlin import steps
from nearlin._array import block_length, flag, namespace, one_of, read, read_number, side_by_side, slices
from nearlin.curvature import factor_sums, signal_sums
from nearlin.linalg import FactorizationError, axpy, damped_factors, dealt, eigenbasis, in_turn
from nearlin.nn import join_groups, over_samples, split_groups, ungrouped

FISHERS = ("drawn", "type-2", "empirical")
WORTH = 2**28  # work of the directions that ranks share: below it, handing them round takes longer


class Layer(NamedTuple):
    """What is kept for one layer; all None for a normalisation.

    Attributes
    ----------
    A, G : array, shapes (D, D) and (o, o)
        The factors.
    inverse : KroneckerInverse or KroneckerEigenbasis
        Of step ``made``.
    S : array, shape (o, D)
        Curvature in the eigenbasis, where it is estimated on its own.
    made : int
    count : int
        How many statistics went into the factors.
    """

    A: object = None
    G: object = None
    inverse: object = None
    S: object = None
    made: int = 0
    count: int = 0


@dataclass(frozen=True)
class KFAC:
    """K-FAC for dense, convolutional and graph layers, arXiv:1503.05671; E-KFAC by ``inverse="rescaled"``.

    Parameters
    ----------
    momentum, form : float, str
        In [0, 1); ``"sum"``: v ← momentum v + g, or ``"average"``: v ← momentum v + (1 - momentum) g.
    decay : float
        In [0, 1): weight of the old statistics.
    damping : float
        λ; its root goes on each factor, all of it on the product where ``inverse`` is not ``"factored"``.
    pi : bool
        Balance the two roots by the traces of the factors.
    fisher : str
        Where the d come from: ``"drawn"``, labels drawn from the model; ``"type-2"``, the columns of the root of the loss's
        Hessian by the outputs, whose sum is the expectation over such labels; ``"empirical"``, the true labels.
    inverse : str
        ``"factored"``; ``"exact"``: the product of the factors is damped; ``"rescaled"``: so is E-KFAC's S.
    statistics_every, inverse_every, early : int, int, bool
        Steps between two statistics, and two inverses; ``early``: invert with the statistics while t < inverse_every.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    lr, damping and the intervals are those of renyiryry/tnt_neurips_2021 for its MNIST auto-encoder.
    """

    lr: float | Callable = 3e-3
    momentum: float = 0.9
    form: str = "sum"
    decay: float = 0.9
    damping: float = 0.3
    pi: bool = True
    fisher: str = "drawn"
    inverse: str = "factored"
    statistics_every: int = 1
    inverse_every: int = 20
    early: bool = True
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        steps.settle_shared(self, pi=flag, fisher=one_of(*FISHERS), inverse=one_of("factored", "exact", "rescaled"))

    def init(self, params, objective):
        """The state before the first step."""
        return steps.LayerwiseState(layers=(Layer(),) * len(ungrouped(objective.layers)))

    @steps.public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state with A and G the means of the statistics of ``batches`` at ``params``.

        `ValueError` without a batch, `ArithmeticError` where a statistic holds NaN or Inf.
        """

        def observe(layers, point, weights, count):
            traces = self._traces(point, steps.warm_key(key, count))
            return self._observe(layers, ungrouped(objective.layers), traces, point, weights)

        return steps.warmed(state, batches, partial(self._point, objective, params), observe, state.layers)

    @steps.public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. ``key`` and the step draw the labels."""
        point, specs, lr = self._point(objective, params, batch), objective.layers, steps.rate(self.lr, state.t)
        v = steps.velocity(state.velocity, point.grads(), self.momentum, self.form)
        layers, size, (lost, notes, kept) = state.layers, state.size, ([], [], 0)
        due = steps.statistics_due(state.t, self.statistics_every, state.statistics, again=True)
        refreshed = steps.inverses_due(state.t, self.statistics_every, self.inverse_every, self.early)
        if due or (refreshed and self.inverse == "rescaled"):
            traces = self._traces(point, steps.label_key(key, state.t))
        if due:
            weights = partial(steps.mean_weights, self.decay, warm=state.warm)
            weights, size = steps.weighted(weights, state.statistics, point.samples, size)
            layers, lost = self._observe(layers, ungrouped(specs), traces, point, weights)
        if refreshed:
            layers, notes, kept = self._invert(layers, state.t)
        if self.inverse == "rescaled" and (due or refreshed):
            layers = tuple(self._rescale(*both, point.samples) for both in zip(layers, traces, strict=True))
        found = dealt(self._direction, layers, split_groups(v, specs), like=params[0], walk=in_turn, least=WORTH)
        directions = join_groups(found, specs)
        trial = axpy(-lr, directions, steps.decay(params, specs, lr * self.weight_decay, self.exempt_bias))
        kept += state.kept + len(lost)
        new = trial, steps.LayerwiseState(state.t + 1, v, layers, state.statistics + due, state.warm, kept, size)
        return steps.taken_if_finite((params, state), new, point.loss, refreshed=refreshed, kept="; ".join(lost + notes))

    def _point(self, objective, params, batch):
        """The point of a batch; `ValueError` for sample weights, which have no part in labels drawn, or true, as they are."""
        point = objective.at(params, batch)
        if self.fisher != "type-2":
            point.check_unweighted(f"KFAC with fisher={self.fisher!r}")
        return point

    def _traces(self, point, key):
        """For every layer, or group of one, its traces: one at drawn or true labels, or one for each column of the root of the
        output Hessian."""
        if self.fisher == "type-2":
            xp, like = namespace(point.outputs), point.outputs
            columns = xp.eye(like.shape[1], dtype=like.dtype, device=like.device)
            signals = [point.root.apply(xp.broadcast_to(columns[k, :], like.shape)) for k in range(like.shape[1])]
            passes = map(point.pullback, signals)
        else:
            passes = (point.traces(targets=point.draw(key) if self.fisher == "drawn" else None),)
        return tuple(zip(*([one for trace in traces for one in trace.by_group()] for traces in passes), strict=True))

    def _observe(self, layers, specs, traces, point, weights):
        """Layers with A ← old A + new Σ a aᵀ / n and G alike, by the ``weights`` of a count, and a sentence for each whose
        statistic is not finite."""

        def observe(layer, spec, traces):
            if spec.kind == "norm":
                return layer, True
            (old, new), (trace, *others) = weights(layer.count), traces
            A, G = factor_sums(trace, point.root_weights)
            for other in others:
                G = G + signal_sums(other)
            A, G = new / point.samples * A, new / trace.rows * G
            finite = all(map(math.isfinite, read(*(namespace(X).linalg.trace(X) for X in (A, G)))))  # no entry is larger
            if not finite:
                A, G = (namespace(X).zeros_like(X) for X in (A, G))
            A, G = _blend(layer.A, A, old, finite), _blend(layer.G, G, old, finite)
            return layer._replace(A=A, G=G, count=layer.count + finite), finite

        made, finite = zip(*side_by_side(observe, layers, specs, traces, like=point.params[0]), strict=True)
        return made, [f"layer {i}: the statistic holds NaN or Inf, left out" for i, fine in enumerate(finite) if not fine]

    def _invert(self, layers, t):
        """Layers with new inverses, a sentence for each that needed help, and how many inverses were kept."""

        def invert(i, layer):
            return self._inverse(layer, (f"layer {i}, input factor", f"layer {i}, output factor"))

        there = [i for i, layer in enumerate(layers) if layer.A is not None]
        given, made, notes, kept = [layers[i] for i in there], list(layers), [], 0
        found = dealt(invert, there, given, like=given[0].A) if given else []
        for i, layer, (inverse, why, lost) in zip(there, given, found, strict=True):
            made[i] = layer._replace(inverse=inverse, made=layer.made if lost else t, S=layer.S if lost else None)
            notes += [why + (f" (of step {layer.made})" if lost else "")] * bool(why)
            kept += lost
        return tuple(made), notes, kept

    def _inverse(self, layer, names):
        """A new inverse, a sentence on what it needed, and how many of its parts are old."""
        if self.inverse == "factored":
            inverse = damped_factors(layer.A, layer.G, self.damping, self.pi, names, layer.inverse)
            return inverse._replace(notes=(), kept=0), "; ".join(inverse.notes), inverse.kept
        try:
            return eigenbasis(layer.A, layer.G, names), "", 0
        except (FactorizationError, ValueError) as error:  # eigenvalues that do not converge, NaN or Inf
            if layer.inverse is None:
                raise
            return layer.inverse, f"{error}, previous eigenvectors kept", 1

    def _rescale(self, layer, traces, samples):
        """The layer with its S renewed: estimated anew in a new basis, else averaged."""
        if layer.inverse is None:
            return layer
        S = reduce(operator.add, (_second_moments(trace, layer.inverse, samples) for trace in traces))
        if not math.isfinite(read_number(namespace(S).sum(S))):
            S = layer.inverse.scaling() if layer.S is None else layer.S
        return layer._replace(S=_blend(layer.S, S if layer.S is None else (1 - self.decay) * S, self.decay, True))

    def _direction(self, layer, v):
        if layer.inverse is None:
            return v
        return layer.inverse(v) if self.inverse == "factored" else layer.inverse.solve(v, self.damping, layer.S)


def _blend(old_value, new_value, old, finite):
    """old X + new X', where there is an old one; the old one where the new one is not finite."""
    if old_value is None:
        return new_value
    return old * old_value + new_value if finite else old_value


def _second_moments(trace, basis, samples):
    """S (o, D) = (1/n) Σ (U_Gᵀ V U_A)² for the samples' gradients V (o, D) of one layer."""
    return over_samples(partial(_own_moments, basis, samples), trace)


def _own_moments(basis, samples, trace):
    if hasattr(trace, "positions"):
        return trace.accumulate(partial(_projected_squares, basis, trace.positions)) / samples
    return basis.second_moments(trace.homogeneous(), trace.signals) * (trace.rows / samples)


def _projected_squares(basis, positions, A, G):
    """Σ (U_Gᵀ V U_A)² over the samples of a block of patches; 2 n T o D flops for the gradients themselves."""
    xp, n, total = namespace(A, G), A.shape[1] // positions, 0.0
    left, right = xp.matrix_transpose(basis.UG) @ G, xp.matrix_transpose(basis.UA) @ A
    left = xp.permute_dims(xp.reshape(left, (-1, n, positions)), (1, 0, 2))
    right = xp.permute_dims(xp.reshape(right, (-1, n, positions)), (1, 2, 0))
    for block in slices(n, block_length(8 * G.shape[0] * A.shape[0], A)):
        total = total + xp.sum((left[block, ...] @ right[block, ...]) ** 2, axis=0)
    return total
