"""Claims on Ginger: linear time and memory, what truncation keeps, float32, orthonormality, and the curvature vector's mean."""

import itertools
import math
from functools import partial

import numpy as np

from nearlin._array import generator
from nearlin.complexity.claims.cost import geometric, interleaved, judge_exponent
from nearlin.complexity.claims.table import FAILS, HOLDS, Claim, Outcome, Series
from nearlin.complexity.counting import count, wrap
from nearlin.complexity.degree import leading_term
from nearlin.complexity.fit import fit_exponent
from nearlin.linalg import Inverse, lowrank, lowrank_step, lowrank_update, norm
from nearlin.nn import MLP, Objective, SoftmaxCrossEntropy, ravel
from nearlin.optim import Ginger

PAPER = "arXiv:2402.03295"
DIMENSIONS, RANKS = (64, 96, 128, 160), (2, 4, 6, 8, 10, 12)


def _on_its_way(d, rank, like=None, **options):
    """An optimizer with all of its columns in use, and the arguments of its next update."""
    draw, opt = generator(3), Ginger(rank=rank, **options)
    vectors = [draw.standard_normal(d) if like is None else draw.standard_normal(d).astype(like) for _ in range(rank + 3)]
    state, (g, h, *earlier) = opt.init((), None), vectors
    for one in earlier:
        _, state = opt.update(state, (g,), (one,))
    return opt, (state, (g,), (h,))


# ------------------------------------------------------------------------------------------------------------- counted


def counted(d, rank, update=Ginger.update):
    """Flops of one update."""
    opt, given = _on_its_way(d, rank)
    given = wrap(given)
    with count() as tally:
        update(opt, *given)
    return tally.total


def cost(full, update=Ginger.update):
    """The degree in d, and the degrees in τ of the coefficient of d and of the remainder."""
    coefficient, remainder, degrees = {}, {}, set()
    for rank in RANKS:
        flops = {d: counted(d, rank, update) for d in DIMENSIONS}
        try:
            p, slope = leading_term(flops.__getitem__, DIMENSIONS)
        except ValueError as error:
            return Outcome("no polynomial in d", FAILS, str(error))
        degrees.add(p)
        coefficient[rank], remainder[rank] = slope, flops[DIMENSIONS[0]] - slope * DIMENSIONS[0]
    if degrees != {1}:
        return Outcome(f"degree {max(degrees)} in d", FAILS, f"exact, at τ = {RANKS[0]} to {RANKS[-1]}")
    (p, slope), (rest, _) = (leading_term(counts.__getitem__, RANKS) for counts in (coefficient, remainder))
    quadratic = [float(slope) * rank**2 for rank in RANKS]
    return Outcome(
        f"degree 1 in d; {slope} τ^{p} d; the rest has degree {rest} in τ",
        HOLDS if (p, rest) == (2, 3) else FAILS,
        f"exact, d = {DIMENSIONS[0]} to {DIMENSIONS[-1]}, τ = {RANKS[0]} to {RANKS[-1]}; {coefficient[4]} per entry at τ = 4",
        (Series("flops per entry", RANKS, tuple(map(float, coefficient.values())), tuple(quadratic), "τ", "flops"),),
    )


def memory(full, opt=Ginger):
    """Numbers in the state, and numbers that the update holds at its peak, per entry."""
    wrong, peaks = [], {}
    for rank in (1, 4, 12):
        for d in DIMENSIONS:
            _, (state, g, h) = _on_its_way(d, rank)
            numbers = sum(a.size for block in state.blocks for a in (block.m, *block.curvature))
            if numbers != d * rank + d + rank:
                wrong.append(f"{numbers} numbers at d = {d}, τ = {rank}")
            state, g, h = wrap((state, g, h))
            with count() as tally:
                opt(rank=rank).update(state, g, h)
            peaks[rank, d] = tally.peak / 8
    slopes = {
        rank: (peaks[rank, DIMENSIONS[-1]] - peaks[rank, DIMENSIONS[0]]) / (DIMENSIONS[-1] - DIMENSIONS[0]) for rank in (1, 4, 12)
    }
    curved = [rank for rank in slopes if len({round(peaks[rank, d] - slopes[rank] * d, 6) for d in DIMENSIONS}) > 1]
    wrong += [f"the peak is not linear in d at τ = {rank}" for rank in curved]
    series = Series(
        "peak of an update", (1, 4, 12), tuple(slopes.values()), tuple(rank + 1 for rank in slopes), "τ", "numbers per entry"
    )
    return Outcome(
        "d τ + d + τ numbers" if not wrong else f"{len(wrong)} differ",
        FAILS if wrong else HOLDS,
        "; ".join(
            [*wrong[:3], f"an update holds {slopes[4]:g} d more at its peak for τ = 4, in one block (line: the new state)"]
        ),
        (series,),
    )


# --------------------------------------------------------------------------------------------------------------- exact


def _dense(curvature):
    U, sigma = (a.astype(float) for a in curvature)
    return (U.T * sigma) @ U


def _truncated(S, k):
    e, V = np.linalg.eigh(S)
    return (V[:, -k:] * e[-k:]) @ V[:, -k:].T


def dense_average(full, update=lowrank_update):
    """Distance from the plain average of h hᵀ, over steps; up to τ of them it should be rounding."""
    d, rank, decay = (200, 20, 0.9) if full else (40, 6, 0.9)
    draw, G, S, apart = generator(5), np.zeros((d, d)), lowrank(d, rank, np.zeros(1)), []
    for _ in range(2 * rank):
        h = draw.standard_normal(d) * np.geomspace(3, 0.2, d)
        G, S = decay * G + (1 - decay) * np.outer(h, h), update(S, h, decay).curvature
        apart.append(float(np.linalg.norm(_dense(S) - G) / np.linalg.norm(G)))
    holds = max(apart[:rank]) <= 1e-12 and min(apart[rank:]) > 1e-3
    steps = tuple(range(1, 2 * rank + 1))
    return Outcome(
        f"{max(apart[:rank]):.0e} up to τ steps, {min(apart[rank:]):.2f} and more after",
        HOLDS if holds else FAILS,
        f"float64, d = {d}, τ = {rank}, decay {decay}; h independent",
        (Series("distance from the average", steps, tuple(apart), (1e-12,) * rank + (1.0,) * rank, "t", "relative", "y"),),
    )


def _kept_inverse(decay, damping):
    """The same recursion with the inverse kept in float32: s = σ / (γ (γ + σ)), and σ = γ² s / (1 - γ s) from it."""

    def update(curvature, h, _):
        made = lowrank_update(curvature, h, decay).curvature
        gamma = np.float32(damping)
        s = np.minimum(made.sigma / (gamma * (gamma + made.sigma)), 1 / gamma)
        left = 1 - gamma * s
        small = 10 * s.size * np.finfo(np.float32).eps * left.max(initial=0.0)
        return made._replace(
            sigma=np.where(left > small, gamma * gamma * s / np.where(left > small, left, 1), 0).astype(np.float32)
        )

    return update


def float32(full, update=None):
    """Error of S in float32 against the dense recursion in float64, over the stiffness σ/γ; that of a kept inverse beside it."""
    d, rank, decay, damping = 40, 4, 0.9, 1e-5
    update = update or (lambda S, h, decay: lowrank_update(S, h, decay).curvature)
    errors, theirs, sizes = [], [], (1e-3, 1e-1, 1e1, 1e3) if not full else tuple(10.0**p for p in range(-4, 5))
    for size in sizes:
        draw, S = generator(7), np.zeros((d, d))
        ours = inverse = lowrank(d, rank, np.zeros(1, np.float32))
        for _ in range(20):
            h = (math.sqrt(size / d) * draw.standard_normal(d)).astype(np.float32)
            exact = h.astype(float)
            S = _truncated(decay * S + (1 - decay) * np.outer(exact, exact), rank)
            ours, inverse = update(ours, h, decay), _kept_inverse(decay, damping)(inverse, h, decay)
        errors.append(float(np.linalg.norm(_dense(ours) - S) / np.linalg.norm(S)))
        theirs.append(float(np.linalg.norm(_dense(inverse) - S) / np.linalg.norm(S)))
    stiffness = tuple(size / damping for size in sizes)
    return Outcome(
        f"at most {max(errors):.0e}; with a kept inverse up to {max(theirs):.1f}",
        HOLDS if max(errors) <= 5e-6 and max(theirs) > 0.99 else FAILS,
        f"float32, d = {d}, τ = {rank}, γ = {damping:g}, 20 steps, ||h||² / γ from {stiffness[0]:.0e} to {stiffness[-1]:.0e}",
        (
            Series("S updated", stiffness, tuple(errors), (5e-6,) * len(sizes), "||h||² / γ", "relative error of S"),
            Series("inverse kept", stiffness, tuple(theirs), None, "||h||² / γ", "relative error of S"),
        ),
    )


VECTORS = {
    "independent": lambda draw, t, a: draw.standard_normal(a.shape[1]),
    "of low rank": lambda draw, t, a: draw.standard_normal(3) @ a,
    "repeated": lambda draw, t, a: a[0],
    "slowly drifting": lambda draw, t, a: a[0] * math.cos(1e-3 * t) + a[1] * math.sin(1e-3 * t),
}


def orthonormality(full, update=lowrank_update):
    """The largest entry of UᵀU - I in float32, for four kinds of vectors."""
    steps, series = 10_000 if full else 1_000, []
    for name, vector in VECTORS.items():
        draw = generator(11)
        a = draw.standard_normal((3, 40))
        S, seen = lowrank(40, 4, np.zeros(1, np.float32)), {}
        for t in range(1, steps + 1):
            S = update(S, vector(draw, t, a).astype(np.float32), 0.99).curvature
            if t % (steps // 20) == 0:
                U = S.U.astype(float)
                seen[t] = float(np.abs(U @ U.T - np.eye(4)).max())
        series.append(Series(name, tuple(seen), tuple(seen.values()), (1e-5,) * len(seen), "t", "max |UᵀU - I|"))
    worst = {s.label: max(s.y) for s in series}
    return Outcome(
        ", ".join(f"{value:.0e} {name}" for name, value in worst.items()),
        HOLDS if max(worst.values()) <= 1e-5 else FAILS,
        f"float32, d = 40, τ = 4, {steps} steps",
        tuple(series),
    )


def curvature_vector(full, scale=math.sqrt):
    """E[h hᵀ] over all draws of labels against the Gauss-Newton matrix; and the mean over random draws."""
    n, classes, draws = (3 if full else 2), 3, (4096 if full else 512)
    net, draw = MLP((2, 3, classes), "tanh"), generator(13)
    x, objective = draw.standard_normal((n, 2)), Objective(net, SoftmaxCrossEntropy())
    params = net.init(1, x)
    point = objective.at(params, (x, np.eye(classes)[[0] * n]))
    z = np.exp(point.outputs - point.outputs.max(1, keepdims=True))
    p = z / z.sum(1, keepdims=True)

    def square(targets):
        h = scale(n) * ravel(point.grads(targets=targets))
        return np.outer(h, h)

    J = point.jacobian().to_dense().reshape(n, classes, -1)
    ggn = sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(J, p, strict=True)) / n
    labels = itertools.product(range(classes), repeat=n)
    mean = sum(np.prod(p[np.arange(n), list(one)]) * square(np.eye(classes)[list(one)]) for one in labels)
    error = float(np.abs(mean - ggn).max() / np.abs(ggn).max())
    total, seen = 0.0, {}
    for k in range(1, draws + 1):
        total = total + square(point.draw(k))
        if k & (k - 1) == 0 and k >= 4:
            seen[k] = float(norm(total / k - ggn) / norm(ggn))
    last = seen[draws] * math.sqrt(draws)
    return Outcome(
        f"{error:.0e} over all {classes**n} draws; {seen[draws]:.3f} after {draws} random ones",
        HOLDS if error <= 1e-13 and last <= 10 else FAILS,
        f"softmax, {n} samples, {ggn.shape[0]} parameters; relative errors (line: the square root's rate)",
        (
            Series(
                "random draws", tuple(seen), tuple(seen.values()), tuple(last / math.sqrt(k) for k in seen), "draws", "relative"
            ),
        ),
    )


# --------------------------------------------------------------------------------------------------------------- timed


def time_in_dimension(full, timer=interleaved):
    """Time of an update over d, at τ = 4, where U is too large for the caches: below that, times bend at each of them."""
    calls = {}
    for d in geometric(500_000, 4_000_000, 6):
        opt, given = _on_its_way(d, 4, np.float32)
        calls[d] = partial(opt.update, *given)
    detail = "τ = 4, float32, one BLAS thread, 6 sizes"
    return judge_exponent(timer(calls, rounds=12), 1, 0.15, "d", "update", detail, slack=0.1, fitted=fit_exponent)


def time_in_rank(full, timer=interleaved):
    """Time of an update over τ: no faster than its square."""
    d, calls = 65_536, {}
    for rank in (16, 24, 32, 48, 64, 96, 128):
        draw = generator(rank)
        U = np.linalg.qr(draw.standard_normal((d, rank)))[0].T.astype(np.float32)
        S = lowrank(d, rank, U)._replace(U=np.ascontiguousarray(U), sigma=np.linspace(1, 2, rank, dtype=np.float32))
        h, v = draw.standard_normal((2, d)).astype(np.float32)
        calls[rank] = partial(lowrank_step, S, h, v, 0.99, Inverse(1e-2))
    seconds = timer(calls, rounds=12)
    ranks, times = tuple(seconds), tuple(seconds.values())
    fit = fit_exponent(ranks, times)
    quadratic = tuple(times[-1] * (rank / ranks[-1]) ** 2 for rank in ranks)
    return Outcome(
        f"{fit.exponent:.2f} in [{fit.low:.2f}, {fit.high:.2f}]",
        HOLDS if fit.low <= 2.1 else FAILS,
        f"d = {d}, float32, one BLAS thread, τ = {ranks[0]} to {ranks[-1]}; a BLAS is faster at larger τ",
        (Series("update", ranks, times, quadratic, "τ", "seconds"),),
    )


# ------------------------------------------------------------------------------------------------------------ the table


def _claim(name, statement, quantity, how, expected, measure, paper="derived", condition="any size", **options):
    return Claim(name, 0, "Ginger", paper, statement, quantity, how, expected, condition, measure, **options)


QUIET = {"condition": "a quiet machine, one BLAS thread", "quick": False}
CLAIMS = (
    _claim(
        "ginger-cost", "An update of Ginger costs flops linear in the parameters d and quadratic in the rank τ.",
        "degrees of the flops", "count", "1 in d; 2 in τ for its coefficient and 3 for the rest, exactly", cost, PAPER,
        condition="d > τ, h outside of the span of U",
    ),
    _claim(
        "ginger-memory", "Ginger keeps d τ + d + τ numbers, and its update needs memory linear in d.",
        "numbers in the state", "memory", "d τ + d + τ, exactly", memory, PAPER, condition="d > τ",
    ),
    _claim(
        "ginger-dense-average", "For t <= τ steps Ginger's curvature is the whole average of h hᵀ; then it is not.",
        "relative distance from the average", "convergence", "<= 1e-12 up to τ steps, > 1e-3 after", dense_average,
    ),
    _claim(
        "ginger-float32", "Updating the curvature itself keeps steep directions in float32, where a kept inverse loses them.",
        "relative error of the curvature", "convergence", "<= 5e-6 at any σ/γ; > 0.99 for the inverse at some", float32,
    ),
    _claim(
        "ginger-orthonormality", "Rows of U stay orthonormal in float32 whatever h does.", "max |UᵀU - I|", "convergence",
        "<= 1e-5", orthonormality,
    ),
    _claim(
        "ginger-curvature-vector", "The mean of h hᵀ over labels drawn from the model is the Gauss-Newton matrix.",
        "relative error", "convergence", "<= 1e-13 over all draws; random draws within 10 / √draws", curvature_vector, PAPER,
        condition="softmax cross-entropy",
    ),
    _claim(
        "ginger-time-in-dimension", "The time of an update is linear in the parameters.", "exponent of the time", "time",
        "1, within 0.1 of an interval of half-width at most 0.15", time_in_dimension, PAPER, **QUIET,
    ),
    _claim(
        "ginger-time-in-rank", "The time of an update grows no faster than the square of the rank.", "exponent of the time",
        "time", "at most 2.1", time_in_rank, PAPER, **QUIET,
    ),
)  # fmt: skip
