"""Claims on Ginger: linear time and memory, what truncation keeps, float32, orthonormality, and the curvature vector's mean.

All of them measure `Ginger.update` and `Ginger.step`; the curvature that is looked at is the one in their state.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np

from nearlin._array import generator
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import SOFTMAX, starting
from nearlin.complexity.claims.timing import QUIET, geometric, interleaved, times
from nearlin.complexity.counting import count, wrap
from nearlin.linalg import lowrank
from nearlin.nn import MLP, Objective, SoftmaxCrossEntropy
from nearlin.optim import Ginger

PAPER = "arXiv:2402.03295"
FOUR = Ginger(rank=4)
DIMENSIONS, RANKS = (64, 96, 128, 160), (2, 4, 6, 8, 10, 12)
VECTORS = {
    "independent": lambda draw, t, a: draw.standard_normal(a.shape[1]),
    "of low rank": lambda draw, t, a: draw.standard_normal(3) @ a,
    "repeated": lambda draw, t, a: a[0],
    "slowly drifting": lambda draw, t, a: a[0] * math.cos(1e-3 * t) + a[1] * math.sin(1e-3 * t),
}


def on_its_way(d, opt, dtype="float64"):
    """The arguments of an update whose columns are all in use."""
    draw, state = generator(3), opt.init((), None)
    vectors = [draw.standard_normal(d).astype(dtype) for _ in range(opt.rank + 3)]
    for one in vectors[2:]:
        _, state = opt.update(state, (vectors[0],), (one,))
    return state, (vectors[0],), (vectors[1],)


def curvature(state):
    """U (k, d) and σ (k,) of the only tensor, in float64."""
    return tuple(np.asarray(a, dtype=float) for a in state.blocks[0].curvature)


def _dense(state):
    U, sigma = curvature(state)
    return (U.T * sigma) @ U


def averaged(opt, vectors):
    """The state after every update by one of ``vectors``."""
    state = opt.init((), None)
    for h in vectors:
        _, state = opt.update(state, (h,), (h,))
        yield state


def count_sweep(full, opt=Ginger):
    """Flops of an update, the coefficient of d, and what is left without it; numbers in the state and at the peak."""
    for rank, d in product(RANKS, DIMENSIONS):
        given = on_its_way(d, opt(rank=rank))
        numbers = sum(a.size for block in given[0].blocks for a in (block.m, *block.curvature))
        given = wrap(given)
        with count() as tally:
            opt(rank=rank).update(*given)
        each = 4 * rank**2 + 12 * rank + 13
        row = {"τ": rank, "d": d, "flops": tally.total, "flops an entry": each, "rest": tally.total - each * d}
        row |= {"numbers": numbers, "d τ + d + τ": d * rank + d + rank}
        yield {**row, "peak": tally.peak // 8, "peak an entry": rank + 7 if rank <= 8 else 3 * rank + 3}


def average_sweep(full, opt=Ginger):
    """Distance of the curvature from the plain average of h hᵀ, over the steps."""
    d, rank, decay = (200, 20, 0.9) if full else (40, 6, 0.9)
    draw, G = generator(5), np.zeros((d, d))
    vectors = draw.standard_normal((2 * rank, d)) * np.geomspace(3, 0.2, d)
    for t, (h, state) in enumerate(zip(vectors, averaged(opt(rank=rank, decay=decay), vectors), strict=True), start=1):
        G = decay * G + (1 - decay) * np.outer(h, h)
        when = "up to τ steps" if t <= rank else "after τ steps"
        yield {"τ": rank, "t": t, f"distance {when}": float(np.linalg.norm(_dense(state) - G) / np.linalg.norm(G))}


def _kept_inverse(S, damping):
    """S (U, σ) from its inverse in float32: s = σ / (γ (γ + σ)), and σ = γ² s / (1 - γ s) from it."""
    gamma = np.float32(damping)
    s = np.minimum(S.sigma / (gamma * (gamma + S.sigma)), 1 / gamma)
    left = 1 - gamma * s
    small = 10 * s.size * np.finfo(np.float32).eps * left.max(initial=0.0)
    sigma = np.where(left > small, gamma * gamma * s / np.where(left > small, left, 1), 0)
    return S._replace(sigma=sigma.astype(np.float32))


def float32_sweep(full, opt=Ginger):
    """Error of S in float32 against the dense recursion in float64 over ||h||²/γ; that of the kept inverse beside it."""
    d, rank, decay, damping = 40, 4, 0.9, 1e-5
    opt = opt(rank=rank, decay=decay, damping=damping)
    for power in range(-4, 5) if full else (-3, -1, 1, 3):
        draw, S, inverse = generator(7), np.zeros((d, d)), opt.init((), None)
        vectors = (math.sqrt(10.0**power / d) * draw.standard_normal((20, d))).astype(np.float32)
        for h in vectors:
            S = decay * S + (1 - decay) * np.outer(h.astype(float), h.astype(float))
            e, V = np.linalg.eigh(S)
            S = (V[:, -rank:] * e[-rank:]) @ V[:, -rank:].T
            _, inverse = opt.update(inverse, (h,), (h,))
            (block,) = inverse.blocks
            inverse = inverse._replace(blocks=(block._replace(curvature=_kept_inverse(block.curvature, damping)),))
        *_, state = averaged(opt, vectors)
        error, kept = (float(np.linalg.norm(_dense(one) - S) / np.linalg.norm(S)) for one in (state, inverse))
        yield {"||h||² / γ": 10.0**power / damping, "error": error, "error of a kept inverse": kept}


def orthonormality_sweep(full, opt=Ginger):
    """The largest entry of UᵀU - I in float32, for four kinds of vectors."""
    steps = 10_000 if full else 1_000
    for name, vector in VECTORS.items():
        draw = generator(11)
        a = draw.standard_normal((3, 40))
        vectors = (vector(draw, t, a).astype(np.float32) for t in range(1, steps + 1))
        for t, state in enumerate(averaged(opt(decay=0.99), vectors), start=1):
            if t % (steps // 20) == 0:
                U, _ = curvature(state)
                yield {"h": name, "t": t, "max |UᵀU - I|": float(np.abs(U @ U.T - np.eye(4)).max())}


@dataclass(frozen=True)
class Told(SoftmaxCrossEntropy):
    """Softmax cross-entropy whose draws are the ``labels`` that it is given."""

    labels: tuple = ()

    def draw(self, key, outputs):
        """One-hot targets (n, c)."""
        return np.eye(outputs.shape[1])[list(self.labels)]


def vector_sweep(full, opt=Ginger):
    """The mean of h hᵀ over all draws of labels against the Gauss-Newton matrix, and that over random draws beside its spread.

    With β₂ = 0 the curvature after one step is h hᵀ itself.
    """
    n, classes, draws = (3 if full else 2), 3, (4096 if full else 1024)
    net, opt = MLP((2, 3, classes), "tanh"), opt(decay=0.0, momentum=0.0, rank=1, block="all")
    start = starting(net, generator(13).standard_normal((n, 2)), np.eye(classes)[[0] * n], 1, SOFTMAX)

    def square(loss, key=0):
        return _dense(start._replace(objective=Objective(net, loss)).step(opt, key=key)[1])

    point = start.objective.at(start.params, start.batch)
    p = np.exp(point.outputs) / np.exp(point.outputs).sum(1, keepdims=True)
    J = point.jacobian().to_dense().reshape(n, classes, -1)
    ggn = sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(J, p, strict=True)) / n
    size, mean, spread = np.linalg.norm(ggn), 0.0, 0.0
    for labels in product(range(classes), repeat=n):
        S, share = square(Told(labels)), np.prod(p[np.arange(n), list(labels)])
        mean, spread = mean + share * S, spread + share * np.linalg.norm(S - ggn) ** 2
    yield {"samples": n, "error over all draws": float(np.linalg.norm(mean - ggn) / size)}
    total = 0.0
    for k in range(1, draws + 1):
        total = total + square(SOFTMAX, k)
        if k & (k - 1) == 0 and k >= 16:
            error, expected = float(np.linalg.norm(total / k - ggn) / size), math.sqrt(spread / k) / size
            yield {"draws": k, "error of random draws": error, "expected": float(expected)}


def rank_sweep(full, timer=interleaved, d=65_536):
    """Seconds of an update over τ."""

    def call(rank):
        draw, opt = generator(rank), Ginger(rank=rank)
        g, h = draw.standard_normal((2, d)).astype(np.float32)
        _, state = opt.update(opt.init((), None), (g,), (h,))
        U = np.linalg.qr(draw.standard_normal((d, rank)))[0].T.astype(np.float32)
        S = lowrank(d, rank, U)._replace(U=np.ascontiguousarray(U), sigma=np.linspace(1, 2, rank, dtype=np.float32))
        return partial(opt.update, state._replace(blocks=(state.blocks[0]._replace(curvature=S),)), (g,), (h,))

    return times(full, "τ", (16, 24, 32, 48, 64, 96, 128), call, timer, rounds=12, d=d)


CLAIMS = (
    claim("ginger-cost", 0, "Ginger", f"{PAPER}, linear time (abstract); coefficients derived",
        "An update of Ginger costs flops linear in the parameters d and quadratic in the rank τ.",
        "d > τ, h outside of the span of U", count_sweep, Bound("flops", equal=1, over="d", by="τ", reduce="degree"),
        Bound("flops", equal="flops an entry", over="d", by="τ", reduce="leading"),
        Bound("rest", equal=3, over="τ", by="d", reduce="degree"),
        Bound("rest", equal=Fraction(37, 3), over="τ", by="d", reduce="leading"),
        expected="(4 τ² + 12 τ + 13) d; a rest of leading term 37/3 τ³, exactly", how="count",
        note="exact, by finite differences; of the rest 9 (τ + 1)³ for the eigenvectors (nominal), else products and solves"),
    claim("ginger-memory", 0, "Ginger", f"{PAPER}, linear memory (abstract); coefficients derived",
        "Ginger keeps d τ + d + τ numbers, and its update needs memory linear in d.", "d > τ", count_sweep,
        Bound("numbers", per="d τ + d + τ", equal=1), Bound("peak", equal="peak an entry", over="d", by="τ", reduce="leading"),
        Bound("peak", equal=1, over="d", by="τ", reduce="degree"),
        expected="d τ + d + τ; (τ + 7) d up to τ = 8, where rows are taken one by one, (3 τ + 3) d beyond, exactly",
        how="memory", note="numbers of 8 bytes that an update makes, its new state and its increments included, in one block"),
    claim("ginger-dense-average", 0, "Ginger", "derived",
        "For t <= τ steps Ginger's curvature is the whole average of h hᵀ; then it is not.", "any size", average_sweep,
        Bound("distance up to τ steps", high=1e-12, over="t", log="y"),
        Bound("distance after τ steps", low=1e-3, high=1, over="t", log="y")),
    claim("ginger-float32", 0, "Ginger", "derived",
        "Updating the curvature itself keeps steep directions in float32, where a kept inverse loses them.", "any size",
        float32_sweep, Bound("error", high=5e-6, over="||h||² / γ"),
        Bound("error of a kept inverse", low=0.99, over="||h||² / γ", reduce="max")),
    claim("ginger-orthonormality", 0, "Ginger", "derived",
        "Rows of U stay orthonormal in float32 whatever h does.", "any size", orthonormality_sweep,
        Bound("max |UᵀU - I|", high=1e-5, over="t", by="h")),
    claim("ginger-curvature-vector", 0, "Ginger", f"{PAPER}: an unbiased estimate of the Gauss-Newton matrix; the spread derived",
        "The mean of h hᵀ over labels drawn from the model is the Gauss-Newton matrix.", "softmax cross-entropy", vector_sweep,
        Bound("error over all draws", high=1e-13),
        Bound("error of random draws", per="expected", low=0.2, high=2.5, over="draws")),
    claim("ginger-time-in-dimension", 0, "Ginger", f"{PAPER}, linear time (abstract)",
        "The time of an update is linear in the parameters.", f"float32, {QUIET}; U too large for the caches, where times bend",
        partial(times, over="d", sizes=geometric(500_000, 4_000_000, 6), rounds=12, τ=4,
            call=lambda d: partial(FOUR.update, *on_its_way(d, FOUR, "float32"))),
        Bound("seconds", low=0.9, high=1.1, halfwidth=0.15, over="d", reduce="interval, no floor"), how="time"),
    claim("ginger-time-in-rank", 0, "Ginger", "derived from the cost",
        "The time of an update grows no faster than the square of the rank.", f"float32, {QUIET}", rank_sweep,
        Bound("seconds", high=2.1, over="τ", reduce="interval, no floor"), how="time"),
)  # fmt: skip
