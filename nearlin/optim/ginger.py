r"""Ginger: a damped low-rank inverse of the averaged curvature, in time and memory linear in the parameters.

Paper       Hao, Cao, Mou, Ginger: An Efficient Curvature Approximation with Linear Complexity for General Neural Networks,
            arXiv:2402.03295
Update      for every parameter tensor, flattened to d entries:
            S ← T_τ(β₂ S + (1 - β₂) h hᵀ),  S = U diag(σ) Uᵀ;   m ← β₁ m + (1 - β₁) g
            x = (γ I + S)⁻¹ m / (1 - β₁ᵗ);   θ ← θ - lr clip(x, ±clip)
            g (d,) gradient of the mean loss; h (d,) = √n times the gradient of the mean loss at labels drawn from the model, so
            that E[h hᵀ] is the Gauss-Newton (Fisher) matrix of the mean loss; T_τ the best approximation of rank τ;
            U (d, min(τ, d)) orthonormal columns, σ >= 0 eigenvalues without damping; n samples, t steps, this one included
Notation    paper → code:  τ → rank,  γ → damping,  β₁ → momentum,  β₂ → decay,  ρ → clip,  Uᵀ → curvature.U (kept by rows)
Cost        with d > τ entries of a tensor, beyond forward and backward passes and the draw of labels:
            exact d (4 τ² + 12 τ + 17) flops per tensor and step: products with U, of that d for the clip and 2 d to see that
              all is finite
            exact -d flops per tensor and step, clip = None
            exact (20 τ³ + 117 τ² + 247 τ + 78)/6 flops per tensor and step: small matrices
            nominal 9 (τ + 1)³ flops per tensor and step: eigenvectors of a small matrix
            exact d τ + d + τ floats kept per tensor
Oracles     step: 1 forward, 1 backward
            statistics, curvature = "fisher": 1 backward more, at 1 draw of labels
Deviations  1. The matrix is updated and truncated, not its inverse. In exact arithmetic both are one, for any damping, as a
               larger σ has the smaller inverse; in float32 MANGA-UOFA/Ginger turns a σ above some 1e5 γ into 0, and the
               steepest directions into the flattest. Here they are kept. For d > τ the step is rounding still in float32
               where m lies almost inside the span of U and σ/γ > 1/eps, as m/γ cancels: relative_damping is for that.
            2. U is made orthonormal anew in every step; there, one Gram-Schmidt pass of h against U.
            3. Tensors of d <= τ entries have rank d and all of their average, and x = U (Uᵀ m / (γ + σ)), which does not
               cancel; there, U loses its orthogonality.
            4. No pseudo-inverses and no cut-offs: γ > 0 makes all that is divided by positive.
            5. A tensor whose g or h is not finite, or has squares that overflow, is left as it is, with its momentum and
               curvature, and counted.
            6. h is drawn in the mode and from the forward pass of the gradient; there, images pass again, in evaluation mode.
            7. lr is a schedule of the steps before this one (there: this one included), weight_decay is decoupled and first.
            8. block = "all" takes all tensors as one; whether the paper does is not known to us. There: "tensor", as here.
            9. correct_curvature divides σ by 1 - β₂ᵗ, relative_damping keeps γ above a share of the largest σ, statistics_every
               leaves h out of some steps: not in the paper; off.
            10. curvature = "empirical_fisher" is h = √n g: no Fisher matrix, h hᵀ holds n times the square of the mean gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearlin._array import (
    check,
    flag,
    integer,
    namespace,
    not_negative,
    one_of,
    optional,
    positive,
    read_number,
    settle,
    side_by_side,
)
from nearlin.linalg import Inverse, lowrank, lowrank_solve, lowrank_step, norm
from nearlin.nn import ravel, unravel
from nearlin.steps import decay, label_key, public_step, rate, settle_shared

LOST = "its gradient or curvature vector is not finite, or its squares overflow"


class Block(NamedTuple):
    """What is kept for one tensor of d entries.

    Attributes
    ----------
    m : array, shape (d,)
        Average of gradients, without bias correction.
    curvature : LowRank
        S.
    t, seen : int
        Steps that this tensor took, and vectors h that its curvature saw.
    dropped : float
        The eigenvalue that the last truncation dropped.
    """

    m: object
    curvature: object
    t: int = 0
    seen: int = 0
    dropped: float = 0.0


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    t : int
        Steps taken.
    blocks : tuple of Block
        One per tensor, or one in all; none before the first step.
    skipped : int
        How many times a tensor was left as it was.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    t: int = 0
    blocks: tuple = ()
    skipped: int = 0
    shapes: tuple = ()


class Info(NamedTuple):
    """What a step was like: the first fields are those of `nearlin.steps.Info`.

    Attributes
    ----------
    refreshed : bool
        Whether the curvature saw a vector h.
    kept : str
        Which tensors were left as they were, and why.
    stiffness : float
        The largest σ / γ, both as the step has them: σ after ``correct_curvature``, γ after ``relative_damping``.
    """

    loss: float
    accepted: bool
    reason: str
    solve: None = None
    refreshed: bool = False
    kept: str = ""
    stiffness: float = 0.0


@dataclass(frozen=True)
class Ginger:
    """Ginger, arXiv:2402.03295.

    Parameters
    ----------
    momentum : float
        β₁ in [0, 1), with bias correction.
    decay : float
        β₂ in [0, 1): weight of the old curvature.
    damping : float
        γ > 0.
    rank : int
        τ; 0 is momentum over γ.
    clip : float or None
        Entries of the preconditioned step are clipped to [-clip, clip] before they are multiplied by ``lr``.
    block : str
        ``"tensor"``: a curvature of its own for every parameter matrix; ``"all"``: one for all parameters together.
    curvature : str
        ``"fisher"``: h from labels drawn from the model; ``"empirical_fisher"``: h = √n g.
    correct_curvature : bool
        Divide the average of h hᵀ by 1 - β₂ᵗ, as the momentum is by 1 - β₁ᵗ.
    relative_damping : float
        γ is at least this times the largest σ; 1e-6 suits float32.
    statistics_every : int
        Steps between two vectors h.
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.

    Notes
    -----
    Defaults are those of MANGA-UOFA/Ginger for its image experiments.
    """

    lr: float | Callable = 2e-4
    momentum: float = 0.9
    decay: float = 0.99
    damping: float = 1e-5
    rank: int = 4
    clip: float | None = 1.0
    block: str = "tensor"
    curvature: str = "fisher"
    correct_curvature: bool = False
    relative_damping: float = 0.0
    statistics_every: int = 1
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        settle_shared(self, rank=integer(0), clip=optional(positive), correct_curvature=flag, relative_damping=not_negative)
        settle(self, block=one_of("tensor", "all"), curvature=one_of("fisher", "empirical_fisher"))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. ``key`` and the step draw the labels."""
        point, due = objective.at(params, batch), state.t % self.statistics_every == 0 and self.rank > 0
        point.check_unweighted("Ginger")
        lr, grads = rate(self.lr, state.t), point.data_grads()
        h = self._vector(point, grads, label_key(key, state.t)) if due else None
        increments, after, lost = self._update(state, point.penalised(grads), h)
        decayed = decay(params, objective.layers, lr * self.weight_decay, self.exempt_bias)
        trial = tuple(W + step for W, step in zip(decayed, increments, strict=True))
        if len(lost) == len(after.blocks):
            reason = f"rejected: {LOST}, in every tensor"
            return params, state._replace(skipped=after.skipped), Info(float(point.loss), False, reason)
        if not math.isfinite(norm(trial)):
            return params, state, Info(float(point.loss), False, "rejected: the step is not finite")
        kept = "; ".join(f"{self._name(i)}: {LOST}, left as it is" for i in lost)
        stiffness = max(side_by_side(self._stiffness, after.blocks, like=trial[0]))
        return trial, after, Info(float(point.loss), True, "accepted", refreshed=due, kept=kept, stiffness=stiffness)

    def update(self, state, grads, h=None):
        """The arithmetic of a step, apart from what is asked of the objective.

        Parameters
        ----------
        state : State
            Not changed.
        grads : tuple of arrays
            g: one array of any shape per parameter tensor.
        h : tuple of arrays, optional
            Vectors h, like ``grads``; None leaves the curvature as it is.

        Returns
        -------
        increments : tuple of arrays
            Like ``grads``, to be added to the parameters; zeros where g or h is not finite, or its squares overflow.
        state : State

        Raises
        ------
        BackendError, TypeError, ValueError
            Arrays that fit neither each other nor the state; a damping whose reciprocal overflows in their dtype.
        """
        return self._update(state, grads, h)[:2]

    def _update(self, state, grads, h):
        """Increments, state, and the numbers of the blocks that were left as they are."""
        _check_shapes(grads, h)
        lr, whole = rate(self.lr, state.t), self.block == "all"
        flat = lambda arrays: (ravel(arrays),) if whole else tuple(_shaped(a, (-1,)) for a in arrays)  # noqa: E731
        vectors, curved = flat(grads), None if h is None else flat(h)
        blocks = state.blocks or tuple(Block(namespace(g).zeros_like(g), lowrank(g.shape[0], self.rank, g)) for g in vectors)
        if [g.shape[0] for g in vectors] != [block.m.shape[0] for block in blocks]:
            found, expected = [g.shape[0] for g in vectors], [block.m.shape[0] for block in blocks]
            raise ValueError(f"grads have {found} entries; expected {expected}, from the state")
        made = side_by_side(partial(self._advance, lr), blocks, vectors, curved or (None,) * len(blocks), like=vectors[0])
        lost = [i for i, (x, _) in enumerate(made) if x is None]
        steps = tuple(namespace(g).zeros_like(g) if x is None else x for (x, _), g in zip(made, vectors, strict=True))
        increments = unravel(steps[0], grads) if whole else tuple(map(_shaped, steps, (g.shape for g in grads)))
        return increments, State(state.t + 1, tuple(block for _, block in made), state.skipped + len(lost)), lost

    def _advance(self, lr, block, g, h):
        """The increment of one tensor and what is kept for it; None and the old block where g or h is not finite."""
        m, t, seen = self.momentum * block.m + (1 - self.momentum) * g, block.t + 1, block.seen + (h is not None)
        scale = -lr / (1 - self.momentum**t)
        bound = None if self.clip is None else self.clip * (1 - self.momentum**t)
        inverse = Inverse(self.damping, self.relative_damping, self._amplify(seen), scale, bound)
        if h is not None:
            made = lowrank_step(block.curvature, h, m, self.decay, inverse)
            return (made.x, Block(m, made.curvature, t, seen, made.dropped)) if made.finite else (None, block)
        if not math.isfinite(norm(m)):
            return None, block
        return lowrank_solve(block.curvature, m, inverse), Block(m, block.curvature, t, seen, block.dropped)

    def _amplify(self, seen):
        """What σ is multiplied by after ``seen`` vectors h."""
        return 1 / (1 - self.decay**seen) if self.correct_curvature and seen else 1.0

    def _stiffness(self, block):
        """The largest σ / γ of one tensor."""
        if not self.rank:
            return 0.0
        sigma = self._amplify(block.seen) * read_number(block.curvature.sigma[-1])
        return sigma / max(self.damping, self.relative_damping * sigma)

    def _vector(self, point, grads, key):
        """h, like the parameters."""
        drawn = point.grads(targets=point.draw(key)) if self.curvature == "fisher" else grads
        return tuple(point.samples**0.5 * g for g in drawn)

    def _name(self, i):
        return "all parameters" if self.block == "all" else f"layer {i}"


def _check_shapes(grads, h):
    check(finite=False, **{f"grads[{i}]": g for i, g in enumerate(grads)})
    if h is None:
        return
    check(finite=False, beside=("grads[0]", grads[0]), **{f"h[{i}]": a for i, a in enumerate(h)})
    found, expected = ([tuple(a.shape) for a in arrays] for arrays in (h, grads))
    if found != expected:
        raise ValueError(f"h has shapes {found}; expected {expected}, those of grads")


def _shaped(a, shape):
    return namespace(a).reshape(a, shape)
