r"""DSGD: steepest descent in a norm that depends on the weights, one layer a step, with a guaranteed decrease.

Paper       Flynn, The duality structure gradient descent algorithm: analysis and applications to neural networks, 2017,
            arXiv:1708.00523
Update      i = argmax_j ||G_j||_* / p_j,   W_i ← W_i - lr ρ(G_i) / p_i²,   the other layers as they are
            G_j gradient of the mean loss by [W_j b_j]; ρ, ||·||_* duality map and dual norm of ||·||_q, q = 1, 2 or ∞
            p_j² = L_j + delta, L_j a Lipschitz constant of G_j in layer j alone, from the norms of the layers above it
            f falls by at least (lr - lr²/2) (||G_i||_* / p_i)²: the guarantee
Notation    paper → code:  ε → lr;   the constants s and L of layers: `nearlin.curvature.smoothness`
Cost        with layers (o, D), r = min(o, D), k = max(o, D), N samples, c outputs, beyond forward and backward; the chosen
              layer is the one that moves:
            leading 2 N D + 2 o D flops per layer and step: sizes of inputs, and what is finite
            leading 2 o D flops per layer and step, q = 1 or inf: dual norm
            leading 2 o D flops per layer above another and step, q = 1 or inf: norm
            leading 13 o D flops per chosen layer and step, q = 1 or inf: duality map, the move, and what is finite
            leading 5 N c flops per step, q = 1 or inf: sizes of targets, under the squared loss
            leading 4 k r² - 4 r³/3 flops per layer and step, q = 2, orth = "svd", prune = False: dual norm, nominal
            leading 14 k r² + 8 r³ + 2 k r² flops per chosen layer and step, q = 2, orth = "svd": duality map, nominal
            leading 4 k r² - 4 r³/3 flops per layer changed before and step, q = 2, orth = "svd": its norm, nominal; not of the
              first layer
            leading ns_steps (4 k r² + 2 r³) + polish 4 k r² flops per layer and step, orth = "newton_schulz", prune = False
            leading 2 k r² + 8 r³ flops per layer changed before and step, orth = "newton_schulz": its norm; not of the first
              layer
            at most o D floats kept per layer, q = 2: weights whose norms are remembered
Oracles     step: 1 forward, 1 backward
            step, verify = True: 1 forward more
            warm start, per batch, form = "stochastic": 1 forward
Deviations  1. The constants are derived here; the paper's may differ by constant factors.
            2. sharp bounds the squared loss and a bounded last activation as one function.
            3. Biases belong to their layer's matrix ("augmented"), are blocks of their own ("separate"), or stay ("none").
            4. form = "stochastic" takes L_j that hold for the whole data set: running maxima of the inputs' sizes, and for the
               first layer their mean after a warm start; with inputs = "bound" that is rigorous. The whole loss then falls by
               (lr/2)(1 - lr) times the squared score, less (lr/2) times the squared dual norm of the gradient's error.
            5. layers = "cyclic" keeps the guarantee; "all" has none, and given ``p`` neither.
            6. orth = "newton_schulz": ρ ← s O / α² with s = <G, O>, α >= ||O||₂; scores s / (α p) are certain lower bounds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nearlin import curvature
from nearlin._array import copies, flag, integer, namespace, not_negative, number, one_of, optional, same, settle, step_size
from nearlin.linalg import dual_norm, duality_map, norm, operator_norm, orthogonalize, spectral_bound
from nearlin.nn import SquaredLoss, layer_blocks, move_block, split_bias, take_block
from nearlin.steps import public_start, public_step, rate


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    t : int
        Steps taken.
    seen : Seen or None
        Of the stochastic form.
    warm : bool
        Whether the size of the first layer's inputs is that of the whole data set.
    norms : tuple or None
        Weights, their norms, and how these were taken. They only save time: without them (``transient``) the same numbers
        come out.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    t: int = 0
    seen: curvature.Seen | None = None
    warm: bool = False
    norms: tuple | None = None
    shapes: tuple = ()

    transient = ("norms",)


class Info(NamedTuple):
    """What a step did, and what it was certain of.

    Attributes
    ----------
    loss : float
        Before the step.
    accepted, reason : bool, str
    layer : int or None
        The layer that was changed; None for all of them.
    part : str
        ``"matrix"``, ``"weights"`` or ``"bias"`` of it.
    p, scores : tuple
        p_j, and ||G_j||_* / p_j or a certain lower bound of it, of every block; None where a score was not needed.
    guarantee : float or None
        By how much the loss falls at least; in the stochastic form less (lr/2) times the squared dual norm of the gradient's
        error.
    decrease, new_loss : float or None
        By how much the batch's loss fell, and to what; with ``verify``.
    bound : float
        Newton-Schulz: α; 1 otherwise.
    """

    loss: float
    accepted: bool
    reason: str
    solve: None = None
    layer: int | None = None
    part: str = "matrix"
    p: tuple = ()
    scores: tuple = ()
    guarantee: float | None = None
    decrease: float | None = None
    new_loss: float | None = None
    bound: float = 1.0


class Move(NamedTuple):
    """The dual norm of a gradient, or a certain lower bound, with ρ and Newton-Schulz's α."""

    dual: float
    rho: object
    bound: float = 1.0


@dataclass(frozen=True)
class DSGD:
    """Duality structure gradient descent, arXiv:1708.00523, on chains of dense layers and smooth activations.

    Parameters
    ----------
    q : 1, 2 or inf
        Of the norm of matrices; ``"inf"`` is taken too.
    lr : float or callable
        In (0, 2); 1 is best for the whole batch. In (0, 1) in the stochastic form. With ``p`` any positive number.
    form : str
        ``"batch"``: the guarantee is for the loss of the batch; or ``"stochastic"``.
    layers : str
        ``"greedy"``, ``"cyclic"`` or ``"all"``.
    inputs : str
        Sizes of a layer's inputs: of the ``"data"``, or their ``"bound"`` from bounded activations (first layer: data).
    bias : str
        ``"augmented"``, ``"separate"`` or ``"none"``.
    sharp : bool
        Bound the squared loss and a bounded last activation as one function.
    delta : float
        At least 0.
    orth : str
        q = 2: ``"svd"``, or ``"newton_schulz"``, without singular values anywhere.
    ns_steps, polish : int
        Quintic and cubic Newton-Schulz steps.
    prune : bool
        q = 2: leave out dual norms of layers that cannot be chosen, by Frobenius norms.
    verify : bool
        Evaluate the loss after the step too, and say where the guarantee is broken by more than rounding: 8 ε times the sum of
        |f|, the mean of |y · df/dy|, y the outputs, |<G_i, step>| and ||G_i||_F ||W_i||_F.
    p : float or tuple, optional
        Given p_j, one for all or one per block: any network, no guarantee. Their squares neither overflow nor vanish.
    """

    q: float = 2
    lr: float | Callable = 1.0
    form: str = "batch"
    layers: str = "greedy"
    inputs: str = "data"
    bias: str = "augmented"
    sharp: bool = True
    delta: float = 0.0
    orth: str = "svd"
    ns_steps: int = 5
    polish: int = 2
    prune: bool = True
    verify: bool = False
    p: float | tuple | None = None

    def __post_init__(self):
        settle(self, lr=step_size, p=optional(_scales), q=one_of(1, 2, math.inf, "inf"), delta=not_negative)
        settle(self, form=one_of("batch", "stochastic"), layers=one_of("greedy", "cyclic", "all"))
        settle(self, inputs=one_of("data", "bound"), bias=one_of("augmented", "separate", "none"))
        settle(self, sharp=flag, prune=flag, verify=flag)
        settle(self, orth=one_of("svd", "newton_schulz"), ns_steps=integer(0), polish=integer(0))
        if not callable(self.lr):
            self._checked_rate(self.lr)
        if self.orth == "newton_schulz" and self._q != 2:
            raise ValueError(f"orth is 'newton_schulz' and q is {self.q!r}; expected q = 2")

    @property
    def whole_batch(self):
        """Whether what is certain is so for the loss of all rows alone where every step takes all of them."""
        return self.form == "batch" and self.p is None

    @property
    def _q(self):
        return float(self.q)

    def _checked_rate(self, lr):
        most = math.inf if self.p is not None else 2 if self.form == "batch" else 1
        if not 0 < lr < most:
            form = "" if self.form == "batch" else " in the stochastic form, such as 0.5"
            raise ValueError(f"lr is {lr!r}; expected a number in (0, {most}){form}")
        return lr

    def init(self, params, objective):
        """The state before the first step; `ValueError` with the reason where the network or the loss allows no guarantee."""
        blocks = layer_blocks(objective.layers, self.bias)
        if isinstance(self.p, tuple) and len(self.p) != len(blocks):
            raise ValueError(f"p holds {len(self.p)} numbers; expected {len(blocks)}, one per block")
        if self.p is None:
            objective.check_without_penalty("DSGD with its guarantee")
            self._chain(objective)
        return State()

    def _chain(self, objective):
        """The activations, all of them smooth."""
        chain = objective.chain
        curvature.check_smooth(chain, objective.loss)
        for i, phi in enumerate(chain[:-1] if self.inputs == "bound" else ()):
            if math.isinf(phi.h0):
                words = f"layer {i + 1} has unbounded inputs ({phi.name})"
                raise ValueError(f"inputs is 'bound' and {words}; expected inputs='data' or bounded activations")
        return chain

    @public_start
    def warm_start(self, params, state, objective, batches, key=0):
        """The state after a look at the inputs and targets of ``batches``, which the stochastic form needs; 1 forward each.

        ``key`` is not used.
        """
        if self.form == "batch" or self.p is not None:
            return state
        total, rows, seen = 0.0, 0, None
        for batch in batches:
            point = objective.at(params, batch)
            size = curvature.input_size(point, self._q, self._biased(objective.layers[0]))
            total, rows = total + size * point.samples, rows + point.samples
            unknown = (0.0,) * (len(objective.layers) - 1)
            seen = curvature.join_seen(seen, curvature.Seen((size, *unknown), _targets(objective.loss, point.y)))
        if not rows:
            raise ValueError("batches is empty; expected at least one (x, y)")
        return state._replace(seen=seen._replace(inputs=(total / rows, *seen.inputs[1:])), warm=True)

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, lr = objective.at(params, batch), self._checked_rate(rate(self.lr, state.t))
        blocks = layer_blocks(objective.layers, self.bias)
        if self.p is None:
            grads, p, after = self._guaranteed(point, state, objective, blocks)
        else:
            grads, after = point.grads(), state
            p = self.p if isinstance(self.p, tuple) else (self.p,) * len(blocks)
        grads = [take_block(grads[i], objective.layers[i], part) for i, part in blocks]
        sizes, info = [norm(G) for G in grads], Info(float(point.loss), False, "", p=tuple(p))
        if not all(map(math.isfinite, sizes)):
            return params, state, info._replace(reason="rejected: the gradient is not finite")
        if not any(sizes):
            return params, state, info._replace(reason="stalled: the gradient is zero", scores=(0.0,) * len(blocks))
        if not any(0 < value < math.inf for value in p):
            return params, state, info._replace(reason="rejected: no p is positive and finite")
        moves, scores = self._moves(grads, sizes, p, state.t)
        trial = list(params)
        for j, move in moves.items():
            i, part = blocks[j]
            trial[i] = move_block(trial[i], objective.layers[i], part, lr / p[j] / p[j], move.rho)
        if not all(math.isfinite(norm(trial[blocks[j].layer])) for j in moves):
            return params, state, info._replace(reason="rejected: the step is not finite", scores=scores)
        info = info._replace(accepted=True, reason="accepted", scores=scores)
        info = self._judged(info, lr, moves, blocks)
        if self.verify:
            moved = sum(lr * scores[j] * scores[j] + sizes[j] * norm(params[blocks[j].layer]) for j in moves)
            info = self._verified(info, point, objective, tuple(trial), batch, moved)
        return tuple(trial), after._replace(t=state.t + 1), info

    # ------------------------------------------------------------------------------------------------------ the weights p

    def _guaranteed(self, point, state, objective, blocks):
        """Gradients, p_j = √(L_j + delta), and the state that knows the norms and the data behind them."""
        objective.check_without_penalty("DSGD with its guarantee")
        point.check_unweighted("DSGD with its guarantee")
        layers, chain, traces = objective.layers, self._chain(objective), point.traces()
        grads = tuple(trace.grad() / point.samples for trace in traces)
        seen = curvature.Seen(self._input_sizes(traces, layers, chain), _targets(objective.loss, point.y))
        if self.form == "stochastic":
            first = state.seen.inputs[0] if state.warm else None
            seen = curvature.join_seen(state.seen, seen)
            seen = seen if first is None else seen._replace(inputs=(first, *seen.inputs[1:]))
        known = self._norms(point.params, layers, state.norms)
        norms = [z for _, z, _ in known]
        s = curvature.layer_constants(self._q, point.params, layers, chain, objective.loss, norms, seen.targets, self.sharp)
        sizes = [1.0 if part == "bias" else seen.inputs[i] for i, part in blocks]
        p = tuple(math.sqrt(s[i] * size + self.delta) for (i, _), size in zip(blocks, sizes, strict=True))
        after = State(state.t, seen if self.form == "stochastic" else None, state.warm, known if self._q == 2 else None)
        return grads, p, after

    def _biased(self, spec):
        return spec.bias and self.bias == "augmented"

    def _input_sizes(self, traces, layers, chain):
        """X_i² of every layer: of the data, or bounds for all but the first."""
        sizes = []
        for i, (trace, spec) in enumerate(zip(traces, layers, strict=True)):
            if i and self.inputs == "bound":
                sizes.append(curvature.input_bound(chain[i - 1].h0, spec.fan_in, self._q, self._biased(spec)))
            else:
                sizes.append(curvature.trace_input_size(trace, self._q, self._biased(spec)))
        return tuple(sizes)

    def _norms(self, params, layers, known):
        """Weights and their norms, or upper bounds; those of weights that are as they were are not computed again (q = 2)."""
        made = [(None, 0.0, "")]  # nothing is below the first layer
        for j, (W, spec) in enumerate(zip(params[1:], layers[1:], strict=True), start=1):
            if known and self._q == 2 and known[j][2] == self.orth and same((W,), (known[j][0],)):
                made.append(known[j])
            else:
                weights, _ = split_bias(W, spec)
                made.append((copies((W,))[0] if self._q == 2 else None, self._norm(weights), self.orth))
        return tuple(made)

    def _norm(self, weights):
        if self._q != 2:
            return operator_norm(weights, self._q)
        return spectral_bound(weights, "svd" if self.orth == "svd" else "gram")

    # ------------------------------------------------------------------------------------------------ which layers, and how

    def _moves(self, grads, sizes, p, t):
        """{block: `Move`} of the blocks to change, and the scores that were looked at."""
        if self.layers == "greedy":
            return self._greedy(grads, sizes, p)
        turn = [(t + j) % len(grads) for j in range(len(grads))]
        chosen = turn if self.layers == "all" else [next(j for j in turn if 0 < p[j] < math.inf)]
        moves = {j: self._move(grads[j]) for j in chosen if p[j] > 0}
        return moves, tuple(moves[j].dual / p[j] if j in moves else 0.0 if j in chosen else None for j in range(len(grads)))

    def _greedy(self, grads, sizes, p):
        """The block of the highest score; the first of equal ones."""
        rivals, moves, found = self._rivals(grads, sizes, p), {}, {}
        for j, most in rivals:
            if most < max(found.values(), default=0.0):
                break
            if self.orth == "newton_schulz" or len(rivals) == 1:
                moves[j] = self._move(grads[j])
            found[j] = (moves[j].dual if j in moves else dual_norm(grads[j], self._q)) / p[j]
        best = max(found, key=lambda j: (found[j], -j))
        move = moves.get(best) or self._move(grads[best])
        found[best] = move.dual / p[best]
        return {best: move}, tuple(found.get(j, None if p[j] > 0 else 0.0) for j in range(len(grads)))

    def _rivals(self, grads, sizes, p):
        """(block, bound of its score) of those that may have the highest, by ||G||_F <= ||G||_* <= √r ||G||_F; highest first."""
        alive = [j for j in range(len(grads)) if p[j] > 0]
        if self._q != 2 or not self.prune:
            return [(j, math.inf) for j in alive]
        slack = 1 + float(namespace(grads[0]).finfo(grads[0].dtype).eps) ** 0.5  # for rounding in the norms
        most = {j: slack * math.sqrt(min(grads[j].shape)) * sizes[j] / p[j] for j in alive}
        least = max(sizes[j] / p[j] for j in alive) if self.orth == "svd" else 0.0
        return sorted(((j, most[j]) for j in alive if most[j] >= least), key=lambda pair: -pair[1])

    def _move(self, G):
        if self.orth == "svd":
            rho, dual = duality_map(G, self._q)
            return Move(dual, rho)
        O, alignment, bound = orthogonalize(G, self.ns_steps, self.polish)
        return Move(alignment / bound, (alignment / bound**2) * O, bound)

    # ----------------------------------------------------------------------------------------------------- what is certain

    def _judged(self, info, lr, moves, blocks):
        """The `Info` with what was chosen and what is guaranteed."""
        if self.layers == "all" or not moves:
            return info
        (j,) = moves
        share = lr - lr**2 / 2 if self.form == "batch" else lr * (1 - lr) / 2
        guarantee = share * info.scores[j] * info.scores[j] if self.p is None else None
        return info._replace(layer=blocks[j].layer, part=blocks[j].part, bound=moves[j].bound, guarantee=guarantee)

    def _verified(self, info, point, objective, params, batch, moved):
        """The `Info` with what happened; outputs, gradient and weights are rounded too, which shows in a loss near 0."""
        loss = float(objective.at(params, batch).loss)
        info = info._replace(new_loss=loss, decrease=info.loss - loss)
        xp = namespace(point.outputs)
        slope = objective.loss.gradient(point.outputs, point.y)
        size = abs(info.loss) + moved + float(xp.sum(xp.abs(slope * point.outputs))) / point.samples
        rounding = 8 * float(xp.finfo(slope.dtype).eps) * size
        if info.guarantee is None or self.form != "batch" or info.decrease >= info.guarantee - rounding:
            return info
        words = f"the loss fell by {info.decrease:.6g}, less than the guaranteed {info.guarantee:.6g}"
        return info._replace(reason=f"accepted, but {words}")


_scale = number(
    "a positive number or a tuple of them, whose squares neither overflow nor vanish", lambda x: x > 0 and 0 < x * x < math.inf
)


def _scales(name, value):
    return tuple(_scale(name, one) for one in value) if isinstance(value, tuple) else _scale(name, value)


def _targets(loss, y):
    """The range of the targets, for the loss whose slope depends on it."""
    return curvature.target_range(y) if isinstance(loss, SquaredLoss) else None
