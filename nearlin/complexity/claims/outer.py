"""Claims on the outer loop: rates, numbers of steps, widths, smooth networks.

Every sweep trains networks of `nearlin.nn` with optimizers of `nearlin.optim` and takes what is under test as a parameter, so
that a deliberately wrong method can be put in its place.
"""

import functools
import math
from functools import partial
from itertools import pairwise, product

import numpy as np

from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.trajectory import neurons, train
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient, NearLinearGaussNewton

BPSW, GGN = "arXiv:2006.11648", "arXiv:1905.11675"
NEAR_LINEAR, EXACT, NATURAL = NearLinearGaussNewton(), GramGaussNewton(), NaturalGradient(lr=1.0)


def problem(n, d, key):
    """Points on the sphere with standard normal labels."""
    return data.sphere(n, d, key), data.labels(n, key)


# ------------------------------------------------------------------------------------------------- rate and number of steps


def outer_rate(full, optimizer=NEAR_LINEAR):
    """Worst ratios of residuals down to 1e-8 of the first, beside the exact step's; what first steps are, by plain sums."""
    sizes, seeds = ((64, 128, 256, 512, 1024), 3) if full else ((64, 128, 256), 2)
    for n, key in product(sizes, range(seeds)):
        (x, y), row = problem(n, 16, key), {"n": n, "d": 16, "m": 16 * n, "seed": key}
        run, exact = (train(opt, x, y, 16 * n, key, steps=40, reduction=1e-8) for opt in (optimizer, EXACT))
        iterations = max(info.solve.iterations for info in run.infos)
        yield {**row, "ratio of residuals": max(run.ratios), "exact step's ratio": max(exact.ratios), "K": iterations}
        yield {**row, **_first_step(optimizer, x, y, key)}


class _Refusing:
    """An objective whose second evaluation, the first trial, is the point where the step began: no decrease, so a retry."""

    def __init__(self, objective):
        self._objective, self._points = objective, []

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def at(self, params, batch):
        self._points.append(self._objective.at(params, batch))
        return self._points[0 if len(self._points) == 2 else -1]


def _first_step(optimizer, x, y, key):
    """λ over 1e-8 tr(G)/n, accuracies of steps over ε, and whether a step on other inputs has an R of its own."""
    n, m = len(x), 16 * len(x)
    objective, W = Objective(TwoLayer(x.shape[1], m), SquaredLoss()), neurons(x.shape[1], m, key)
    start = (W,), optimizer.init((W,), objective)
    (after,), state, info = optimizer.step(*start, objective, (x, y), key)
    (retried,), _, again = optimizer.step(*start, _Refusing(objective), (x, y), key)
    _, _, other = optimizer.step((after,), state, objective, (data.sphere(n, x.shape[1], key + 100), y), key)
    signs, z = (-1.0) ** np.arange(m) / m**0.5, x @ W.T
    r = np.maximum(z, 0) @ signs - y
    mean = np.sum((z > 0).mean(axis=1) * np.sum(x * x, axis=1)) / n  # tr(G)/n

    def accuracy(new):
        """||r - J δ|| / (ε ||r||); λ is too small to tell it from the residual of the damped system."""
        left = r - ((z > 0) * (x @ (W - new).T)) @ signs
        return np.linalg.norm(left) / np.linalg.norm(r) / optimizer.epsilon

    return {
        "λ over 1e-8 tr(G)/n": info.damping / mean * 1e8, "accuracy of the step over ε": accuracy(after),
        "accuracy after a refusal over ε": accuracy(retried), "attempts after a refusal": again.attempts,
        "R is fresh on other inputs": int(other.solve.refreshed),
    }  # fmt: skip


def outer_steps(full, optimizer=EXACT):
    """Steps to 1e-8 of the first residual at m = 16 n, for n over a range of 8 or 16."""
    sizes, seeds = ((32, 64, 128, 256, 512), 3) if full else ((32, 64, 128, 256), 2)
    for n, key in product(sizes, range(seeds)):
        run = train(optimizer, *problem(n, 16, key), 16 * n, key, steps=40, reduction=1e-8)
        yield {"n": n, "d": 16, "m": 16 * n, "seed": key, "steps to 1e-8": run.steps_to(1e-8)}


def two_layer_run(optimizer, key):
    """A run of a wide two-layer network down to 1e-11 of the first residual."""
    return train(optimizer, *problem(100, 10, key), 8192, key, steps=40, reduction=1e-11)


EPSILONS = (0.5, 1 / 3, 1 / 6, 0.1, 0.01, 0.001)


def rate_is_accuracy(full, optimizer=NearLinearGaussNewton, epsilons=EPSILONS, run=two_layer_run):
    """Asymptotic ratios of residuals beside the achieved inner residuals, for several ε₀; ``optimizer(epsilon=...)``."""
    for epsilon in epsilons:
        late = [
            (key, *pair) for key in (range(1, 9) if full else (1, 3)) for pair in late_steps(run(optimizer(epsilon=epsilon), key))
        ]
        yield {"ε₀": epsilon, "asymptotic steps": len(late)}
        for key, ratio, inner in late:
            yield {
                "ε₀": epsilon,
                "seed": key,
                "ratio of residuals": ratio,
                "inner residual": inner,
                "ratio over ε₀": ratio / epsilon,
            }


RATE_IS_ACCURACY = (
    Bound("ratio of residuals", 0.95, 1.05, over="inner residual", per="inner residual"),
    Bound("ratio over ε₀", high=1.05),
    Bound("ratio over ε₀", low=0.15, over="ε₀", draws="geometric mean", log="x"),
    Bound("asymptotic steps", low=1, over="ε₀", log="x"),
)


def late_steps(run):
    """(outer ratio, inner residual) of the steps where the curvature term has died out and rounding has not begun."""
    first = run.residuals[0]
    steps = zip(run.residuals[:-1], run.residuals[1:], run.ratios, run.inner, strict=True)
    return [(ratio, inner) for r, after, ratio, inner in steps if r <= 0.005 * inner * first and after >= 1e-11 * first]


# --------------------------------------------------------------------------------------------------------------------- widths


def widths(full):
    """The widths of a sweep, and its number of seeds."""
    return tuple(2**k for k in range(10, 18 if full else 16)), 12 if full else 4


def over_widths(full, optimizer=NATURAL, activation="relu"):
    """What training on n = 48 points in d = 10 dimensions does at every width and seed: ReLU for 5 steps, others for 2."""
    return _journeys(optimizer, activation, *widths(full))


@functools.cache
def _journeys(optimizer, activation, sizes, seeds):
    return [_journey(optimizer, activation, m, key) for key in range(seeds) for m in sizes]


def _journey(optimizer, activation, m, key):
    x, y = problem(48, 10, key)
    run = train(optimizer, x, y, m, key, steps=5 if activation == "relu" else 2, activation=activation)
    return {
        "n": 48, "d": 10, "m": m, "seed": key, "first ratio": run.ratios[0], "second ratio": run.ratios[1],
        "largest movement": np.linalg.norm(run.end - run.start, axis=1).max(),
        "flipped signs": max(np.mean((x @ run.end.T > 0) != (x @ run.start.T > 0)), 1e-12),
    }  # fmt: skip


def width_law(full, d, optimizer=GramGaussNewton(guard=False)):  # noqa: B008 (frozen)
    """The width from which every step halves the residual (median over seeds), and what suffices by the theorem."""
    for n in _width_law_sizes(d, full):
        needed = _needed_width(optimizer, n, d, range(5 if full else 3))
        least = float(np.linalg.eigvalsh(data.limit_kernel(data.sphere(n, d, 0)))[0])
        yield {"n": n, "d": d, "needed width": needed, "n⁴/λ⁴": n**4 / least**4}


def _width_law_sizes(d, full):
    if d == 10:
        return (32, 48, 64, 96, 128, 192, 256) if full else (32, 48, 64, 96, 128, 192)
    return (64, 96, 128, 192, 256, 384, 512) if full else (64, 96, 128, 192, 256)


def _needed_width(optimizer, n, d, seeds):
    """Where the worst ratio crosses ½ from below as the width falls by steps of √2, interpolated in logarithms; inf: nowhere."""
    first = math.ceil(2 * math.log2(n**2.3 / 40 if d == 10 else n / 4))
    k, below = first, None
    while k > 2:
        if k > first + 8:
            return math.inf
        m = round(2 ** (k / 2))
        worst = np.median([max(train(optimizer, *problem(n, d, s), m, s, steps=12, reduction=1e-8).ratios) for s in seeds])
        if worst > 0.5 and below is not None:
            share = math.log(worst / 0.5) / math.log(worst / below[1]) if math.isfinite(worst) else 1.0
            return m * (below[0] / m) ** share
        k, below = (k + 2, None) if worst > 0.5 else (k - 1, (m, worst))
    return float(m)


# ----------------------------------------------------------------------------------------------------- smooth networks


def smooth_sizes(full):
    """Widths and seeds for smooth networks."""
    return tuple(2**k for k in range(8, 16 if full else 14)), 6 if full else 3


@functools.cache
def _smooth_runs(optimizer, activation, sizes, seeds):
    """(m, seed, residual norms) of the runs, cut where rounding or the tiny damping begins to show."""
    runs = ((m, s, train(optimizer, *problem(48, 10, s), m, s, 7, 1e-10, activation)) for m in sizes for s in range(seeds))
    return [(m, s, _quadratic_part(run.residuals)) for m, s, run in runs]


def _quadratic_part(residuals):
    """The leading part of a run in which r_{t+1} > 1e-7 r_t and r_{t+1} > 1e-11 r_0."""
    part = residuals[:1]
    for r in residuals[1:]:
        if not 1e-7 * part[-1] < r or not 1e-11 * part[0] < r:
            break
        part += (r,)
    return part


def quadratic_orders(full, optimizer=NATURAL):
    """ln(r_{t+2}/r_{t+1}) / ln(r_{t+1}/r_t) at the end of runs of tanh and softplus networks."""
    for activation in ("tanh", "softplus"):
        for m, key, run in _smooth_runs(optimizer, activation, *smooth_sizes(full)):
            row = {"activation": activation, "n": 48, "d": 10, "m": m, "seed": key}
            if len(run) > 2:
                yield {**row, "order": math.log(run[-1] / run[-2]) / math.log(run[-2] / run[-3])}
            if key == 0 and m == smooth_sizes(full)[0][0]:
                yield from ({"activation": activation, "residual": a, "residual after": b} for a, b in pairwise(run))


def quadratic_prefactors(full, optimizer=NATURAL):
    """The largest ||r_{t+1}|| / ||r_t||² of runs of tanh networks; the theorem bounds it by a multiple of m^{-1/2}."""
    for m, key, run in _smooth_runs(optimizer, "tanh", *smooth_sizes(full)):
        yield {"n": 48, "d": 10, "m": m, "seed": key, "largest r₊ / r²": max(b / a**2 for a, b in pairwise(run))}


# ------------------------------------------------------------------------------------------------------------ the table


def _width_claim(id, number, statement, expected, column, low, high, activation="relu"):
    paper = f"derived from the {'proof' if number == 17 else 'one-step bound'} of {BPSW}"
    lazy = {
        "relu": Bound("flipped signs", high=0.1, over="m", draws="mean", reduce="max"),
        "softplus": Bound("first ratio", high=0.5, reduce="max"),
    }[activation]
    condition = "lazy: " + ("at most a tenth of the signs flips" if activation == "relu" else "first ratios are at most 1/2")
    return claim(
        id, number, "widths", paper, statement, f"exponent in m of the {column}", expected, condition,
        partial(over_widths, activation=activation),
        Bound(column, low, high, over="m", draws="geometric mean", reduce="exponent"), regime=(lazy,),
    )  # fmt: skip


THEOREM = f"{BPSW}, main theorem"
SOLVES = "a width at which the exact step halves the residual, too"

CLAIMS = (
    claim(
        "outer-rate", 1, "outer rate", f"{THEOREM}, for the rate; the factor 1/2 and the rest derived",
        "Every near-linear step at least halves the residual of a wide network, by few iterations to the accuracy asked for.",
        "largest ratio of residuals; K; of first steps λ over 1e-8 tr(G)/n and ||r - J δ|| / (ε ||r||); R on other inputs",
        "at most 1/2; K at most 4; .7 to 1.4; .15 (geometric mean) to 1.05; made anew", SOLVES, outer_rate,
        Bound("ratio of residuals", high=0.5, over="n", beside="exact step's ratio", log="x"),
        Bound("K", low=1, high=4, over="n", log="x"), Bound("λ over 1e-8 tr(G)/n", 0.7, 1.4),
        Bound("accuracy of the step over ε", high=1.05), Bound("accuracy of the step over ε", low=0.15, reduce="geometric mean"),
        Bound("accuracy after a refusal over ε", high=1.05),
        Bound("accuracy after a refusal over ε", low=0.15, reduce="geometric mean"), Bound("attempts after a refusal", equal=2),
        Bound("R is fresh on other inputs", equal=1), among=(Bound("exact step's ratio", high=0.5),),
    ),
    claim(
        "outer-steps", 2, "outer loop", f"{BPSW}, abstract",
        "The number of Gauss-Newton steps does not depend on the number of samples.", "exact steps to 1e-8 of the first residual",
        "4 to 6, for n = 32 ... 512", "m = 16 n, d = 16", outer_steps, Bound("steps to 1e-8", 4, 6, over="n", log="x"),
    ),
    claim(
        "outer-steps-bound", 2, "outer loop", f"{THEOREM}, with the factor 1/2",
        "The near-linear method reduces the residual by ε in at most log₂(1/ε) steps, whatever the number of samples.",
        "near-linear steps to 1e-8 of the first residual", "at most 27", "m = 16 n, d = 16",
        partial(outer_steps, optimizer=NEAR_LINEAR), Bound("steps to 1e-8", 1, 27, over="n", log="x"),
    ),
    claim(
        "rate-is-accuracy", 3, "inner accuracy", f"derived from the one-step bound of {BPSW}",
        "In the end the residual shrinks in every step by the accuracy to which that step's linear system was solved.",
        "asymptotic ratio of residuals over achieved inner residual, and over ε₀",
        "1 within 5 %; never above 1.05 ε₀, geometric mean at least .15 ε₀",
        "residual below .005 of the inner one times the first, above rounding", rate_is_accuracy, *RATE_IS_ACCURACY,
    ),
    *(
        claim(
            f"width-law-d{d}", 16, "width law", f"{THEOREM}, for n⁴/λ⁴; the practical exponent is measured", statement,
            "exponent in n of the needed width", f"{p:g} ± .4, and below n⁴/λ⁴", condition, partial(width_law, d=d),
            Bound("needed width", p - 0.4, p + 0.4, over="n", reduce="exponent"), Bound("needed width", high=1, per="n⁴/λ⁴"),
        )
        for d, p, statement, condition in (
            (
                10, 2.3, "In 10 dimensions the width from which every step halves the residual grows like n^2.3, not like n⁴/λ⁴.",
                "points on the sphere in 10 dimensions, exact steps",
            ),
            (
                40, 1.0, "In 40 dimensions the width from which every step halves the residual grows about in proportion to n.",
                "points on the sphere in 40 dimensions, n >= 64 (below, a dozen neurons do and no power law fits), exact steps",
            ),
        )
    ),
    _width_claim(
        "lazy-movement", 17, "No neuron moves further than a multiple of m^{-1/2} during training.", "-1/2 ± .06",
        "largest movement", -0.56, -0.44,
    ),
    _width_claim(
        "lazy-flips", 17, "The share of neuron-sample signs that change during training falls like m^{-1/2}.", "-1/2 ± .06",
        "flipped signs", -0.56, -0.44,
    ),
    _width_claim(
        "first-ratio-relu", 18, "The first step of a ReLU network leaves a share of the residual that falls like m^{-1/2}.",
        "-1/2 ± .1", "first ratio", -0.6, -0.4,
    ),
    _width_claim(
        "second-ratio-relu", 18, "The second step of a ReLU network leaves a share that falls like 1/m.", "-1 ± .2",
        "second ratio", -1.2, -0.8,
    ),
    _width_claim(
        "first-ratio-softplus", 18, "The first step of a softplus network leaves a share of the residual that falls like 1/m.",
        "-1 ± .1", "first ratio", -1.1, -0.9, "softplus",
    ),
    claim(
        "quadratic-order", 19, "smooth networks", f"{GGN}, full-batch theorem",
        "With a smooth activation the exact full-batch step converges quadratically.", "order of convergence at the end of a run",
        "2 ± .15", "tanh and softplus, exact steps, before rounding", quadratic_orders,
        Bound("order", 1.85, 2.15, by="activation", reduce="median"), Bound("residual after", over="residual", by="activation"),
    ),
    claim(
        "quadratic-prefactor", 19, "smooth networks by width", f"{GGN}, full-batch theorem",
        "The factor in front of the squared residual falls at least like m^{-1/2}.",
        "exponent in m of the largest ratio of a residual to the square of the one before", "at most -1/2 + .1",
        "tanh, exact steps, before rounding", quadratic_prefactors,
        Bound("largest r₊ / r²", high=-0.4, over="m", draws="geometric mean", reduce="exponent"),
    ),
)  # fmt: skip
