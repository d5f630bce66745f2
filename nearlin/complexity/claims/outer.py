"""Claims on the outer loop: rates, numbers of steps, widths, smooth networks."""

import functools
import math
from functools import partial
from itertools import pairwise, product, takewhile

import numpy as np

from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import on_sphere, train
from nearlin.optim import GramGaussNewton, NaturalGradient, NearLinearGaussNewton

BPSW, GGN = "arXiv:2006.11648", "arXiv:1905.11675"
NEAR_LINEAR, EXACT, NATURAL = NearLinearGaussNewton(preconditioner="sketch"), GramGaussNewton(), NaturalGradient(lr=1.0)
EPSILONS, WIDE = (0.5, 1 / 3, 1 / 6, 0.1, 0.01, 0.001), partial(on_sphere, 100, 10, 8192)


def outer_rate(full, optimizer=NEAR_LINEAR):
    """Worst ratios of residuals down to 1e-8 of the first, beside the exact step's; what first steps are, by plain sums."""
    sizes, seeds = ((64, 128, 256, 512, 1024), 3) if full else ((64, 128, 256), 2)
    for n, key in product(sizes, range(seeds)):
        p, row = on_sphere(n, 16, 16 * n, key), {"n": n, "d": 16, "m": 16 * n, "seed": key}
        run, exact = (train(opt, p, key, steps=40, reduction=1e-8) for opt in (optimizer, EXACT))
        iterations = max(info.solve.iterations for info in run.infos)
        yield {**row, "ratio of residuals": max(run.ratios), "exact step's ratio": max(exact.ratios), "K": iterations}
        yield {**row, **_first_step(optimizer, p, key)}


class _Refusing:
    """An objective whose second evaluation, the first trial, is the point where the step began: no decrease, so a retry."""

    def __init__(self, objective):
        self._objective, self._points = objective, []

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def at(self, params, batch):
        self._points.append(self._objective.at(params, batch))
        return self._points[0 if len(self._points) == 2 else -1]


def _first_step(optimizer, p, key):
    """λ over 1e-8 tr(G)/n, accuracies of steps over ε, and whether a step on other inputs has an R of its own."""
    (W,), (x, y), first = p.params, p.batch, optimizer.init(p.params, p.objective)
    (after,), state, info = p.step(optimizer, first, key)
    (retried,), _, again = p._replace(objective=_Refusing(p.objective)).step(optimizer, first, key)
    other = p._replace(params=(after,), batch=(data.sphere(*x.shape, key + 100), y)).step(optimizer, state, key)[2]
    signs, z = (-1.0) ** np.arange(len(W)) / len(W) ** 0.5, x @ W.T
    r = np.maximum(z, 0) @ signs - y
    mean = np.sum((z > 0).mean(axis=1) * np.sum(x * x, axis=1)) / len(x)  # tr(G)/n

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
        run = train(optimizer, on_sphere(n, 16, 16 * n, key), key, steps=40, reduction=1e-8)
        steps = len(run.ratios) if run.residuals[-1] <= 1e-8 * run.residuals[0] else math.inf
        yield {"n": n, "d": 16, "m": 16 * n, "seed": key, "steps to 1e-8": steps}


def rate_is_accuracy(full, optimizer=NearLinearGaussNewton, epsilons=EPSILONS, make=WIDE):  # optimizer(epsilon=...)
    """Asymptotic ratios of residuals beside the achieved inner residuals, for several ε₀."""
    for epsilon in epsilons:
        late = []
        for key in range(1, 9) if full else (1, 3):
            run = train(optimizer(epsilon=epsilon), make(key=key), key, steps=40, reduction=1e-11)
            late += [{"seed": key, **row, "ratio over ε₀": row["ratio of residuals"] / epsilon} for row in _late(run)]
        yield from ({"ε₀": epsilon, **row} for row in ({"asymptotic steps": len(late)}, *late))


def _late(run):
    """Outer ratio and inner residual of the steps where the curvature term has died out and rounding has not begun."""
    first = run.residuals[0]
    for r, after, ratio, info in zip(run.residuals[:-1], run.residuals[1:], run.ratios, run.infos, strict=True):
        inner = info.solve.residual
        if r <= 0.005 * inner * first and after >= 1e-11 * first:
            yield {"ratio of residuals": ratio, "inner residual": inner}


def widths(full):
    """The widths of a sweep, and its number of seeds."""
    return tuple(2**k for k in range(10, 18 if full else 16)), 12 if full else 4


def over_widths(full, optimizer=NATURAL, activation="relu"):
    """What training on n = 48 points in d = 10 dimensions does at every width and seed: ReLU for 5 steps, others for 2."""
    return _journeys(optimizer, activation, *widths(full))


@functools.cache
def _journeys(optimizer, activation, sizes, seeds):
    rows = []
    for key, m in product(range(seeds), sizes):
        p = on_sphere(48, 10, m, key, activation)
        run, x = train(optimizer, p, key, steps=5 if activation == "relu" else 2), p.batch[0]
        row = {"n": 48, "d": 10, "m": m, "seed": key, "first ratio": run.ratios[0], "second ratio": run.ratios[1]}
        row["largest movement"] = np.linalg.norm(run.end - run.start, axis=1).max()
        rows.append({**row, "flipped signs": max(np.mean((x @ run.end.T > 0) != (x @ run.start.T > 0)), 1e-12)})
    return rows


def width_law(full, d, optimizer=GramGaussNewton(guard=False)):  # noqa: B008 (frozen)
    """The width from which every step halves the residual (median over seeds), and what suffices by the theorem."""
    sizes = ((32, 48, 64, 96, 128, 192), (256,)) if d == 10 else ((64, 96, 128, 192, 256), (384, 512))
    for n in sizes[0] + sizes[1] * full:
        needed = _needed_width(optimizer, n, d, range(5 if full else 3))
        least = float(np.linalg.eigvalsh(data.limit_kernel(data.sphere(n, d, 0)))[0])
        yield {"n": n, "d": d, "needed width": needed, "n⁴/λ⁴": n**4 / least**4}


def _needed_width(optimizer, n, d, seeds):
    """Where the worst ratio crosses ½ from below as the width falls by steps of √2, interpolated in logarithms; inf: nowhere."""
    first = math.ceil(2 * math.log2(n**2.3 / 40 if d == 10 else n / 4))
    k, below = first, None
    while k > 2:
        if k > first + 8:
            return math.inf
        m = round(2 ** (k / 2))
        runs = (train(optimizer, on_sphere(n, d, m, seed), seed, steps=12, reduction=1e-8) for seed in seeds)
        worst = np.median([max(run.ratios) for run in runs])
        if worst > 0.5 and below is not None:
            share = math.log(worst / 0.5) / math.log(worst / below[1]) if math.isfinite(worst) else 1.0
            return m * (below[0] / m) ** share
        k, below = (k + 2, None) if worst > 0.5 else (k - 1, (m, worst))
    return float(m)


@functools.cache
def _smooth_runs(full, optimizer, activation):
    """(m, seed, residual norms) of runs of smooth networks, cut where rounding or the tiny damping begins to show."""
    cases = product((2**k for k in range(8, 16 if full else 14)), range(6 if full else 3))
    runs = ((m, key, train(optimizer, on_sphere(48, 10, m, key, activation), key, 7, 1e-10)) for m, key in cases)
    return [(m, key, _quadratic_part(run.residuals)) for m, key, run in runs]


def _quadratic_part(residuals):
    """The leading part of a run in which r_{t+1} > 1e-7 r_t and r_{t+1} > 1e-11 r_0."""
    falls = takewhile(lambda pair: pair[1] > 1e-7 * pair[0] and pair[1] > 1e-11 * residuals[0], pairwise(residuals))
    return residuals[: 1 + len(list(falls))]


def quadratic_orders(full, optimizer=NATURAL):
    """ln(r_{t+2}/r_{t+1}) / ln(r_{t+1}/r_t) at the end of runs of tanh and softplus networks."""
    for activation in ("tanh", "softplus"):
        runs = _smooth_runs(full, optimizer, activation)
        for m, key, run in runs:
            row = {"activation": activation, "n": 48, "d": 10, "m": m, "seed": key}
            if len(run) > 2:
                yield {**row, "order": math.log(run[-1] / run[-2]) / math.log(run[-2] / run[-3])}
        yield from ({"activation": activation, "residual": a, "residual after": b} for a, b in pairwise(runs[0][2]))


def quadratic_prefactors(full, optimizer=NATURAL):
    """The largest ||r_{t+1}|| / ||r_t||² of runs of tanh networks; the theorem bounds it by a multiple of m^{-1/2}."""
    for m, key, run in _smooth_runs(full, optimizer, "tanh"):
        yield {"n": 48, "d": 10, "m": m, "seed": key, "largest r₊ / r²": max(b / a**2 for a, b in pairwise(run))}


THEOREM = f"{BPSW}, main theorem"
PROOF, ONE_STEP = f"derived from the proof of {BPSW}", f"derived from the one-step bound of {BPSW}"
EXPONENT = {"over": "m", "draws": "geometric mean", "reduce": "exponent"}
FEW_FLIP = (Bound("flipped signs", high=0.1, over="m", draws="mean", reduce="max"),)
LAZY = "lazy: at most a tenth of the signs flips"


def _needed(p):
    """The bounds of a width law: an exponent, and what the theorem asks for."""
    return Bound("needed width", p - 0.4, p + 0.4, over="n", reduce="exponent"), Bound("needed width", high=1, per="n⁴/λ⁴")


RATE_IS_ACCURACY = (
    Bound("ratio of residuals", 0.95, 1.05, over="inner residual", per="inner residual"),
    Bound("ratio over ε₀", high=1.05),
    Bound("ratio over ε₀", low=0.15, over="ε₀", draws="geometric mean", log="x"),
    Bound("asymptotic steps", low=1, over="ε₀", log="x"),
)

CLAIMS = (
    claim("outer-rate", 1, "outer rate", f"{THEOREM}, for the rate; the factor 1/2 and the rest derived",
        "Every near-linear step at least halves the residual of a wide network, by few iterations to the accuracy asked for.",
        "a width at which the exact step halves the residual, too", outer_rate,
        Bound("ratio of residuals", high=0.5, over="n", beside="exact step's ratio", log="x"),
        Bound("K", low=1, high=4, over="n", log="x"), Bound("λ over 1e-8 tr(G)/n", 0.7, 1.4),
        Bound("accuracy of the step over ε", high=1.05), Bound("accuracy of the step over ε", low=0.15, reduce="geometric mean"),
        Bound("accuracy after a refusal over ε", high=1.05),
        Bound("accuracy after a refusal over ε", low=0.15, reduce="geometric mean"), Bound("attempts after a refusal", equal=2),
        Bound("R is fresh on other inputs", equal=1),
        expected="at most 1/2; K at most 4; .7 to 1.4; .15 (geometric mean) to 1.05; made anew",
        among=(Bound("exact step's ratio", high=0.5),)),
    claim("outer-steps", 2, "outer loop", f"{BPSW}, abstract",
        "The number of Gauss-Newton steps does not depend on the number of samples.", "m = 16 n, d = 16", outer_steps,
        Bound("steps to 1e-8", 4, 6, over="n", log="x")),
    claim("outer-steps-bound", 2, "outer loop", f"{THEOREM}, with the factor 1/2",
        "The near-linear method reduces the residual by ε in at most log₂(1/ε) steps, whatever the number of samples.",
        "m = 16 n, d = 16", partial(outer_steps, optimizer=NEAR_LINEAR), Bound("steps to 1e-8", 1, 27, over="n", log="x")),
    claim("rate-is-accuracy", 3, "inner accuracy", f"derived from the one-step bound of {BPSW}",
        "In the end the residual shrinks in every step by the accuracy to which that step's linear system was solved.",
        "residual below .005 of the inner one times the first, above rounding", rate_is_accuracy, *RATE_IS_ACCURACY),
    claim("width-law-d10", 16, "width law", f"{THEOREM}, for n⁴/λ⁴; the practical exponent is measured",
        "In 10 dimensions the width from which every step halves the residual grows like n^2.3, not like n⁴/λ⁴.",
        "points on the sphere in 10 dimensions, exact steps", partial(width_law, d=10), *_needed(2.3)),
    claim("width-law-d40", 16, "width law", f"{THEOREM}, for n⁴/λ⁴; the practical exponent is measured",
        "In 40 dimensions the width from which every step halves the residual grows about in proportion to n.",
        "points on the sphere in 40 dimensions, n >= 64 (below, a dozen neurons do and no power law fits), exact steps",
        partial(width_law, d=40), *_needed(1.0)),
    claim("lazy-movement", 17, "widths", PROOF,
        "No neuron moves further than a multiple of m^{-1/2} during training.", LAZY, over_widths,
        Bound("largest movement", -0.56, -0.44, **EXPONENT), regime=FEW_FLIP),
    claim("lazy-flips", 17, "widths", PROOF,
        "The share of neuron-sample signs that change during training falls like m^{-1/2}.", LAZY, over_widths,
        Bound("flipped signs", -0.56, -0.44, **EXPONENT), regime=FEW_FLIP),
    claim("first-ratio-relu", 18, "widths", ONE_STEP,
        "The first step of a ReLU network leaves a share of the residual that falls like m^{-1/2}.", LAZY, over_widths,
        Bound("first ratio", -0.6, -0.4, **EXPONENT), regime=FEW_FLIP),
    claim("second-ratio-relu", 18, "widths", ONE_STEP,
        "The second step of a ReLU network leaves a share that falls like 1/m.", LAZY, over_widths,
        Bound("second ratio", -1.2, -0.8, **EXPONENT), regime=FEW_FLIP),
    claim("first-ratio-softplus", 18, "widths", ONE_STEP,
        "The first step of a softplus network leaves a share of the residual that falls like 1/m.",
        "lazy: first ratios are at most 1/2", partial(over_widths, activation="softplus"),
        Bound("first ratio", -1.1, -0.9, **EXPONENT), regime=(Bound("first ratio", high=0.5, reduce="max"),)),
    claim("quadratic-order", 19, "smooth networks", f"{GGN}, full-batch theorem",
        "With a smooth activation the exact full-batch step converges quadratically.",
        "tanh and softplus, exact steps, before rounding", quadratic_orders,
        Bound("order", 1.85, 2.15, by="activation", reduce="median"), Bound("residual after", over="residual", by="activation")),
    claim("quadratic-prefactor", 19, "smooth networks by width", f"{GGN}, full-batch theorem",
        "The factor in front of the squared residual falls at least like m^{-1/2}.", "tanh, exact steps, before rounding",
        quadratic_prefactors, Bound("largest r₊ / r²", high=-0.4, over="m", draws="geometric mean", reduce="exponent")),
)  # fmt: skip
