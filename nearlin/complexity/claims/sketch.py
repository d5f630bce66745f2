"""Claims on sketched preconditioners, and on the inner iterations that run on them.

κ_pre = κ(R⁻ᵀ G R⁻¹) is the measure of a preconditioner, with G = J Jᵀ and RᵀR the Gram matrix of the sketched Jacobian. For a
Gaussian sketch of s rows it tends to ((1+γ)/(1-γ))², γ = √(n/s), whatever J is; the eigenvalues of R⁻ᵀ G R⁻¹ then fill the
interval [(1+γ)⁻², (1-γ)⁻²], which decides the speed of every inner iteration. Medians are over draws of the sketch.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.linalg

from nearlin.complexity.claims import data
from nearlin.complexity.claims.preconditioning import (
    KRONECKER,
    RESOLVED,
    blocks,
    conditions,
    gaussian_condition,
    median_condition,
    scale,
    sketched_gram,
)
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME, Claim, Outcome, Series
from nearlin.linalg import (
    SolveInfo,
    TriangularPreconditioner,
    best_step,
    cg,
    chebyshev,
    double_product,
    norm,
    richardson,
    sketch_factor,
    sketch_spectrum,
)
from nearlin.nn import MLP, Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton
from nearlin.sketch import SRHT, Gaussian, KroneckerSRHT, NeuronSigns

PAPER = "arXiv:2006.11648"
ROWS = (2, 4, 8)  # s / n
COLLINEAR = "offset"  # the family on which sketches of factors need more oversampling
GAUSSIAN, NEURONS, PLAIN = Gaussian(), NeuronSigns(), SRHT()


# ------------------------------------------------------------------------------------------------------------ formulas


def energy_count(epsilon, ratio, condition=1.0):
    """⌈ln(2√κ/ε) / ln √(s/n)⌉: iterations of PCG to the energy error ε; with κ = κ(G) to the raw residual, at worst."""
    return math.ceil(math.log(2 * condition**0.5 / epsilon) / math.log(ratio**0.5))


# --------------------------------------------------------------------------------------------------- what is measured on


def jacobian(x, width, key=1):
    """The Jacobian of a two-layer ReLU network of ``width`` neurons at its start."""
    network = TwoLayer(x.shape[1], width)
    return network.forward(network.init(key, x), x)[1].jacobian


def mlp_jacobian(x, widths, outputs, activation="relu", key=1):
    """The Jacobian of a multi-layer perceptron at its start."""
    network = MLP((x.shape[1], *widths, outputs), activation)
    params = network.init(key, x)
    return network.jacobian(params, network.forward(params, x)[1], x)


def kronecker(family):
    """The Kronecker-signed transform with the oversampling that the data need."""
    return KroneckerSRHT(oversample=8 if family == COLLINEAR else 4)


def preconditioner(sketched):
    """M⁻¹ from a sketched Gram matrix."""
    return TriangularPreconditioner(sketch_factor(sketched, 0.0)[0])


class History(NamedTuple):
    """What PCG went through: its iterates, the residual norms that it saw relative to ||b||, and how it ended."""

    iterates: list
    residuals: list
    info: SolveInfo

    def count(self, epsilon):
        """Iterations to the relative residual ε."""
        return 1 + next(k for k, residual in enumerate(self.residuals) if residual <= epsilon)


def pcg(matvec, b, M, **options):
    """The `History` of `linalg.cg` on A x = b."""
    x, r, last, iterates, residuals = np.zeros_like(b), b, None, [], []

    def product(p):
        nonlocal last
        last = p, matvec(p)
        return last[1]

    def advance(alpha):
        nonlocal x, r
        x, r = x + alpha * last[0], r - alpha * last[1]
        iterates.append(x)
        residuals.append(norm(r) / norm(b))

    _, info = cg(product, b, preconditioner=M, certify=False, on_step=advance, **options)
    return History(iterates, residuals, info)


def _verdict(holds):
    return HOLDS if holds else FAILS


def _slashes(values, digits=2):
    return "/".join(f"{value:.{digits}g}" for value in values)


# ------------------------------------------------------------------------------------------------------- preconditioners


def universal(full, sketch=kronecker, families=tuple(data.FAMILIES)):
    """κ_pre over s/n on every family, against the limit of Gaussian sketches."""
    n, m, draws = (384, 4096, 40) if full else (256, 2048, 11)
    expected = [gaussian_condition(ratio) for ratio in ROWS]
    series, worst, largest, singular, scales = [], 1.0, 0.0, [], []
    for family in families:
        J = jacobian(data.FAMILIES[family](n, key=3), m)
        kappa = np.linalg.cond(J.gram())
        if not kappa < RESOLVED:
            singular.append(f"{family} (κ(G) = {kappa:.0e})")
            continue
        drawn = [conditions(J, sketch(family), ratio, draws) for ratio in ROWS]
        medians = [float(np.median(kappas)) for kappas in drawn]
        scales.append(scale(J, sketch(family), 4, 3))
        worst = max([worst, *(value / want for value, want in zip(medians, expected, strict=True))], key=_off)
        largest = max(largest, *(kappas[-1] / want for kappas, want in zip(drawn, expected, strict=True)))
        series.append(Series(f"{family}, κ(G) = {kappa:.0e}", ROWS, tuple(medians), tuple(expected), "s/n", "κ_pre"))
    detail = f"n = {n}, m = {m}, {draws} draws; limits {_slashes(expected)} at s = 2n, 4n, 8n"
    if singular:
        detail += f"; not judged, as κ(G) is beyond float64: {', '.join(singular)}"
    if not series:
        return Outcome("no family with a Gram matrix that float64 resolves", OUT_OF_REGIME, detail)
    value = f"medians at worst {worst:.2f} of the limit, no draw above {largest:.2f} of it; tr(G̃)/tr(G) {_slashes(scales)}"
    holds = abs(worst - 1) <= 0.15 and largest <= 2.5 and max(map(_off, scales)) <= 0.15
    return Outcome(value, _verdict(holds), detail, tuple(series))


def _off(ratio):
    """How far a ratio is from 1."""
    return abs(ratio - 1)


def neuron_mode(full, sketch=NEURONS):
    """κ_pre of the neuron-mode sketch at m' = 2n and 4n, on every family."""
    n, m, draws, ratios = 256, 8192, 20 if full else 4, (2, 4)
    limits = tuple(gaussian_condition(ratio) for ratio in ratios)
    series, largest, scales = [], [], []
    for family, draw in data.FAMILIES.items():
        J = jacobian(draw(n, key=3), m)
        scales.append(scale(J, sketch, 4, 3))
        worst = tuple(float(conditions(J, sketch, ratio, draws)[-1]) for ratio in ratios)
        largest.append(worst)
        series.append(Series(family, ratios, worst, limits, "m'/n", "largest κ_pre"))
    at_2n, at_4n = np.max(largest, axis=0)
    families = ", ".join(f"{name} {_slashes(pair)}" for name, pair in zip(data.FAMILIES, largest, strict=True))
    return Outcome(
        f"largest κ_pre {at_2n:.3g} at m' = 2n and {at_4n:.3g} at 4n",
        _verdict(at_2n <= limits[0] and at_4n <= limits[1] and max(map(_off, scales)) <= 0.15),
        f"n = {n}, m = {m}, {draws} draws; {families}; tr(G̃)/tr(G) {_slashes(scales)}",
        tuple(series),
    )


def size_independence(full, sketch=kronecker):
    """Slopes of ln κ_pre over ln n, ln m and ln d at s = 4n."""
    draws = 15 if full else 7
    sizes = (64, 128, 256, 512, *((1024,) if full else ()))
    dist = sketch("sphere")
    over = {
        "n": (sizes, lambda n: jacobian(data.sphere(n, 32, key=3), 4 * n)),
        "m": ((512, 1024, 2048, 4096, 8192), lambda m: jacobian(data.sphere(128, 32, key=3), m)),
        "d": ((4, 8, 16, 32, 64), lambda d: jacobian(data.sphere(128, d, key=3), 2048)),
    }
    series, slopes = [], {}
    for name, (values, made) in over.items():
        kappas = [median_condition(made(size), dist, 4, draws) for size in values]
        slopes[name] = np.polyfit(np.log(values), np.log(kappas), 1)[0]
        limit = (gaussian_condition(4),) * len(values)
        series.append(Series(f"κ_pre over {name}", values, tuple(kappas), limit, name, "κ_pre"))
    kappa = tuple(float(np.linalg.cond(over["n"][1](n).gram())) for n in sizes)
    growth = np.polyfit(np.log(sizes), np.log(kappa), 1)[0]
    series.append(Series("κ(G) over n", sizes, kappa, None, "n", "κ"))
    return Outcome(
        "slopes " + ", ".join(f"{slope:+.3f} in {name}" for name, slope in slopes.items()),
        _verdict(max(map(abs, slopes.values())) <= 0.1),
        f"sphere, s = 4n, {draws} draws; κ(G) itself has slope {growth:+.2f} in n",
        tuple(series),
    )


def structured_like_plain(full, sketch=kronecker, plain=PLAIN):
    """κ_pre of the Kronecker transform over that of the plain one, at equal s: per family, the mean over s."""
    n, m, draws = (256, 2048, 11) if full else (128, 512, 7)
    series, means = [], {}
    for family in ("sphere", "near-duplicates", "sparse pairs", COLLINEAR):
        J = jacobian(data.FAMILIES[family](n, key=3), m)
        reference = [median_condition(J, plain, s, draws) for s in ROWS]
        kappas = [median_condition(J, sketch(family), s, draws) for s in ROWS]
        means[family] = math.exp(np.mean(np.log(np.divide(kappas, reference))))
        series.append(Series(family, ROWS, tuple(kappas), tuple(reference), "s/n", "κ_pre (line: plain transform)"))
    return Outcome(
        ", ".join(f"{family} {mean:.2f}" for family, mean in means.items()),
        _verdict(min(means.values()) >= 0.9 and max(means.values()) <= 1.2),
        f"n = {n}, m = {m}, {draws} draws, geometric mean over s = 2n, 4n, 8n",
        tuple(series),
    )


def collinear_oversampling(full, sketch=KroneckerSRHT, plain=PLAIN):
    """The same ratio at s = 2n on nearly collinear inputs, for oversampling σ = 1, 4 and 8."""
    n, m, draws, sigmas = 256, 2048, 11 if full else 5, (1, 4, 8)
    J = jacobian(data.FAMILIES[COLLINEAR](n, key=3), m)
    reference = median_condition(J, plain, 2, draws)
    ratios = tuple(median_condition(J, sketch(oversample=sigma), 2, 3 * draws) / reference for sigma in sigmas)
    one, four, eight = ratios
    return Outcome(
        f"{one:.1f} with σ = 1, {four:.2f} with σ = 4, {eight:.2f} with σ = 8",
        _verdict(one <= 3.5 and four <= 1.2),
        f"{COLLINEAR}, n = {n}, m = {m}, {draws} draws of the plain transform; worse than at n = 128: take σ = 8 on such data",
        (Series(f"{COLLINEAR}, s = 2n", sigmas, ratios, (3.0, 1.1, 1.1), "σ", "κ_pre over that of the plain transform", "x"),),
    )


def effective_dimension(full, sketch=KRONECKER):
    """κ_pre of the damped system, against the formula with d_eff in place of n."""
    n, m, draws, ratios = (256, 2048, 15, (1, 2, 4)) if full else (128, 1024, 7, (1, 2, 4))
    J = jacobian(data.sphere(n, 10, key=3), m)
    spectrum = np.linalg.eigvalsh(J.gram())
    points = []
    for damping in (1e-2, 3e-2, 1e-1, 3e-1, 1.0):
        share = float(np.sum(spectrum / (spectrum + damping))) / n
        points += [(share, s, median_condition(J, sketch, s, draws, damping)) for s in ratios]
    excess = max(kappa / gaussian_condition(s / share) for share, s, kappa in points)
    at_n = max(kappa for share, s, kappa in points if s == 1 and share <= 0.65)
    series = []
    for s in ratios:
        shares, kappas = zip(*[(share, kappa) for share, rows, kappa in points if rows == s], strict=True)
        bound = tuple(gaussian_condition(s / share) for share in shares)
        series.append(Series(f"s = {s}n", shares, kappas, bound, "d_eff/n", "κ_pre", "y"))
    return Outcome(
        f"at most {excess:.2f} of the formula; s = n gives {at_n:.1f} where d_eff <= 0.65 n",
        _verdict(excess <= 1 and at_n <= gaussian_condition(2)),
        f"sphere, n = {n}, m = {m}, d = 10, {draws} draws, damping 0.01 to 1",
        tuple(series),
    )


def kept_preconditioners(full, family="sphere"):
    """κ_pre of K, of the first Gram matrix and of the first sketch along Gauss-Newton training."""
    n, m = (512, 32768) if full else (256, 8192)
    x, y = data.FAMILIES[family](n, key=3), data.labels(n, 3)
    objective, opt = Objective(TwoLayer(x.shape[1], m), SquaredLoss()), GramGaussNewton()
    params = objective.network.init(1, x)
    state, kept, rows, contraction = opt.init(params, objective), {}, [], 0.0
    for _ in range(4):
        J = objective.at(params, (x, y)).jacobian()
        G = J.gram()
        kept = kept or {"K": data.limit_kernel(x), "first G": G, "first R": sketched_gram(J, kronecker(family), 4, 0)}
        rows.append([data.preconditioned_condition(G, matrix) for matrix in kept.values()])
        params, state, info = opt.step(params, state, objective, (x, y))
        contraction = max(contraction, (info.new_loss / info.loss) ** 0.5)
    worst = dict(zip(kept, np.max(rows, axis=0), strict=True))
    expected = {"K": 1.3, "first G": 1.3, "first R": 10.0}
    series = tuple(
        Series(name, (1, 2, 3, 4), tuple(column), (expected[name],) * 4, "outer step", "κ_pre", "y")
        for name, column in zip(kept, np.transpose(rows).tolist(), strict=True)
    )
    detail = f"{family}, n = {n}, m = {m}, 4 Gauss-Newton steps, largest ratio of residuals {contraction:.2g}"
    lazy = contraction <= 0.5
    verdict = _verdict(all(worst[name] <= limit for name, limit in expected.items())) if lazy else OUT_OF_REGIME
    detail += "" if lazy else ": above 1/2, the masks move"
    value = f"K {worst['K']:.2f}, first Gram matrix {worst['first G']:.2f}, first sketch {worst['first R']:.1f}"
    return Outcome(value, verdict, detail, series)


NETWORKS = ((32, (64, 64), 4, "relu"), (32, (64, 64), 4, "tanh"), (32, (64,) * 4, 4, "relu"), (16, (64, 64), 10, "relu"))


def layer_sum(full, sketch=KRONECKER):
    """κ_pre of sketches that are summed over the layers of deep networks, against the limit of Gaussian sketches."""
    draws, scale = (25, 4) if full else (5, 2)
    expected = [gaussian_condition(ratio) for ratio in ROWS]
    series, worst = [], 1.0
    for n, widths, outputs, activation in NETWORKS:
        J = mlp_jacobian(data.sphere(scale * n, 16, key=3), widths, outputs, activation)
        kappas = [median_condition(J, sketch, ratio, draws) for ratio in ROWS]
        worst = max([worst, *np.divide(kappas, expected).tolist()], key=_off)
        label = f"{activation}, {len(widths) + 1} layers, c = {outputs}"
        series.append(Series(label, ROWS, tuple(kappas), tuple(expected), "s/(n c)", "κ_pre"))
    return Outcome(
        f"medians at worst {worst:.2f} of the limit; {_slashes(series[0].y)} at s = 2nc, 4nc, 8nc",
        _verdict(abs(worst - 1) <= 0.15),
        f"{len(NETWORKS)} networks of 3 to 5 layers, {draws} draws",
        tuple(series),
    )


CLASS_AVERAGED = ((32, (256,) * 3, 4), (32, (1024,) * 2, 4), (64, (512,) * 2, 10))


def class_averaged(full, low, high):
    """κ of G preconditioned by Ḡ ⊗ I_c at the start, as it comes out of MLPs with biases; within [low, high]?"""
    keys, dims = range(5 if full else 2), (16, 32, 64) if full else (32,)
    series, medians, plain = [], [], []
    for activation in ("relu", "tanh"):
        found = []
        for n, widths, c in CLASS_AVERAGED:
            made = [mlp_jacobian(data.sphere(n, d, key), widths, c, activation, key) for d in dims for key in keys]
            grams = [J.gram() for J in made]
            averaged = [blocks((J.mean_gram(),), c) for J in made]
            found.append(float(np.median(list(map(data.preconditioned_condition, grams, averaged)))))
            plain.append(float(np.median(list(map(np.linalg.cond, grams)))))
        medians += found
        reference = (2.06, 1.22, 1.96)
        series.append(Series(activation, (1, 2, 3), tuple(found), reference, "network (3x256, 2x1024, 2x512)", "κ_pre", "y"))
    return Outcome(
        f"relu {_slashes(series[0].y, 3)}, tanh {_slashes(series[1].y, 3)}",
        _verdict(low <= min(medians) and max(medians) <= high),
        f"3 x 256, n = 32, c = 4; 2 x 1024, n = 32, c = 4; 2 x 512, n = 64, c = 10; d in {dims}; "
        f"κ(G) itself {min(plain):.0f} to {max(plain):.0f}",
        tuple(series),
    )


# ------------------------------------------------------------------------------------------------------ inner iterations

TARGETS = (1e-3, 1e-6, 1e-10)


def pcg_counts(full, sketch=KRONECKER, ratio=4):
    """Iterations of PCG to three residuals at s = ``ratio`` n on the sphere, over n."""
    sizes, draws, most, typical = (64, 128, 256, 512, *((1024,) if full else ())), 3, (12, 23, 37), (11, 21, 35)
    counts = {n: [_counts(jacobian(data.sphere(n, 32, key=3), 4 * n), sketch, key, ratio) for key in range(draws)] for n in sizes}
    medians = np.array([np.median(counts[n], axis=0) for n in sizes])
    largest = np.max([np.max(counts[n], axis=0) for n in sizes], axis=0)
    large = medians[np.array(sizes) >= 512]
    series = tuple(
        Series(f"to {epsilon:g}", sizes, tuple(medians[:, j].tolist()), (typical[j],) * len(sizes), "n", "iterations", "x")
        for j, epsilon in enumerate(TARGETS)
    )
    holds = np.all(largest <= most) and np.all(np.abs(large - np.array(typical)) <= 2)
    return Outcome(
        f"{'/'.join(f'{k:.0f}' for k in medians[-1])} at n = {sizes[-1]}, never above {'/'.join(map(str, largest))}",
        _verdict(holds),
        f"sphere, d = 32, m = 4n, s = {ratio}n, n = {sizes[0]} to {sizes[-1]}, {draws} draws",
        series,
    )


def _counts(J, distribution, key, ratio=4):
    """Iterations of PCG with the Jacobian's own products to each of `TARGETS`, on a random right-hand side."""
    b = data.labels(J.shape[0], key)
    history = pcg(J.gram_matvec, b, preconditioner(sketched_gram(J, distribution, ratio, key)), rtol=TARGETS[-1])
    return [history.count(epsilon) for epsilon in TARGETS]


def pcg_worst_case(full, sketch=kronecker):
    """Iterations on ill-conditioned data, against the bound with ½ ln κ(G) more."""
    n, m, draws = 256, 2048, 5 if full else 2
    series, slack, values = [], [], []
    for family in ("sphere", COLLINEAR, "near-duplicates"):
        J = jacobian(data.FAMILIES[family](n, key=3), m)
        kappa = np.linalg.cond(J.gram())
        counts = np.max([_counts(J, sketch(family), key) for key in range(draws)], axis=0)
        bound = [energy_count(epsilon, 4, kappa) for epsilon in TARGETS]
        slack.append(np.min(np.subtract(bound, counts)))
        values.append(f"{family} {'/'.join(map(str, counts))}")
        label = f"{family}, κ(G) = {kappa:.0e}"
        series.append(Series(label, TARGETS, tuple(counts.tolist()), tuple(bound), "ε", "iterations", "x"))
    detail = f"n = {n}, m = {m}, s = 4n, {draws} draws; the bound is {min(slack)} iterations away at least"
    return Outcome(", ".join(values), _verdict(min(slack) >= 0), detail, tuple(series))


def pcg_factor(full, sketch=GAUSSIAN):
    """Contraction of PCG's energy error per iteration, against γ."""
    n, ratios, draws = (512 if full else 256), (2, 3, 4, 8, 16), 5 if full else 2
    J = jacobian(data.sphere(n, 32, key=3), n // 4)
    G = J.gram()
    curves = {ratio: [_energy_errors(G, sketched_gram(J, sketch, ratio, key), key) for key in range(draws)] for ratio in ratios}
    rates = [float(np.median([_rate(errors) for errors in curves[ratio]])) for ratio in ratios]
    gammas = [ratio**-0.5 for ratio in ratios]
    relative = np.divide(rates, gammas)
    errors = curves[4][0]
    k = tuple(range(len(errors)))
    series = (
        Series("factor per iteration", ratios, tuple(rates), tuple(gammas), "s/n", "factor"),
        Series("energy error, s = 4n", k, tuple(errors), tuple(2 * 0.5**i for i in k), "iteration", "relative energy error", "y"),
    )
    return Outcome(
        f"{relative.min():.2f} to {relative.max():.2f} of γ",
        _verdict(relative.min() >= 0.9 and relative.max() <= 1.02),
        f"sphere, n = {n}, s/n = 2, 3, 4, 8, 16, {draws} draws of a Gaussian sketch",
        series,
    )


def _energy_errors(G, sketched, key):
    """||g_k - g*||_G / ||g*||_G along PCG to a residual of 1e-10."""
    b = data.labels(G.shape[0], key)
    exact = np.linalg.solve(G, b)
    history = pcg(lambda v: G @ v, b, preconditioner(sketched), rtol=1e-10)
    errors = [g - exact for g in (0.0, *history.iterates)]
    return [math.sqrt(e @ G @ e) / math.sqrt(exact @ b) for e in errors]


def _rate(errors):
    return math.exp(np.polyfit(range(len(errors)), np.log(errors), 1)[0])


def fixed_parameters(full, sketch=GAUSSIAN):
    """Contraction of the residual per iteration of Richardson with the best step and of Chebyshev, from γ alone."""
    n, ratios, draws = (512 if full else 256), (4, 8, 16), 5 if full else 3
    J = jacobian(data.sphere(n, 32, key=3), n // 4)
    G, b = J.gram(), data.labels(n, 3)
    found = {"Richardson": [], "Chebyshev": []}
    for ratio in ratios:
        sketches = [sketched_gram(J, sketch, ratio, key) for key in range(draws)]
        step, bounds = best_step(ratio**-0.5), sketch_spectrum(ratio**-0.5)
        found["Richardson"].append(_contraction(partial(richardson, step=step), G, b, sketches))
        found["Chebyshev"].append(_contraction(partial(chebyshev, bounds=bounds), G, b, sketches))
    theory = {"Richardson": [2 * s**-0.5 / (1 + 1 / s) for s in ratios], "Chebyshev": [s**-0.5 for s in ratios]}
    relative = {name: np.divide(found[name], theory[name]) for name in found}
    series = tuple(Series(name, ratios, tuple(found[name]), tuple(theory[name]), "s/n", "factor") for name in found)
    return Outcome(
        "; ".join(f"{name} {r.min():.2f} to {r.max():.2f} of theory" for name, r in relative.items()),
        _verdict(all(r.min() >= 0.85 and r.max() <= 1.1 for r in relative.values())),
        f"sphere, n = {n}, s/n = 4, 8, 16, to a residual of 1e-9, {draws} draws",
        series,
    )


def _contraction(iteration, G, b, sketches):
    """Median over sketches of the residual's geometric mean factor; infinite where the iteration does not converge."""
    solves = [iteration(lambda v: G @ v, b, preconditioner=preconditioner(sketched), rtol=1e-9)[1] for sketched in sketches]
    return float(np.median([i.residual ** (1 / i.iterations) if i.reason == "converged" else math.inf for i in solves]))


RICHARDSON_THRESHOLD = (1 - 2 ** (-1 / 2)) ** -2  # (1-γ)⁻² = 2
DOUBLE_PRODUCT_THRESHOLD = (1 - 2 ** (-1 / 4)) ** -2  # (1-γ)⁻⁴ = 2


def threshold(full, iteration, factor, expected, sketch=GAUSSIAN):
    """The s/n at which max |``factor(μ)``| over the eigenvalues passes 1, and what ``iteration`` does on both sides of it."""
    n, draws = (512, 7) if full else (256, 5)
    ratios = tuple(round(expected * share, 2) for share in (0.88, 0.94, 1.0, 1.06, 1.12))
    J = jacobian(data.sphere(n, 8, key=3), n // 4)
    G = J.gram()
    sketches = {ratio: [sketched_gram(J, sketch, ratio, key) for key in range(draws)] for ratio in ratios}
    radii = [float(np.median([_radius(G, sketched, factor) for sketched in sketches[ratio]])) for ratio in ratios]
    found = float(np.interp(-1.0, [-radius for radius in radii], ratios))  # radii fall as s grows
    below, above = ([_reason(G, sketched, iteration) for sketched in sketches[ratio][:3]] for ratio in (ratios[0], ratios[-1]))
    crossed = radii[0] > 1 > radii[-1]
    behaved = "converged" not in below and set(above) == {"converged"}
    limit = tuple(max(abs(factor(mu)) for mu in sketch_spectrum(ratio**-0.5)) for ratio in ratios)
    return Outcome(
        f"s = {found:.2f} n" if crossed else f"no threshold in s = {ratios[0]} n to {ratios[-1]} n",
        _verdict(crossed and behaved and abs(found / expected - 1) <= 0.05),
        f"n = {n}, {draws} draws of a Gaussian sketch; solves end {', '.join(below)} at s = {ratios[0]} n, "
        f"{', '.join(above)} at {ratios[-1]} n",
        (Series("spectral radius of the iteration", ratios, tuple(radii), limit, "s/n", "spectral radius", ""),),
    )


def _radius(G, sketched, factor):
    return float(np.max(np.abs(factor(scipy.linalg.eigh(G, sketched, eigvals_only=True)))))


def _reason(G, sketched, iteration):
    """How an iteration of 400 steps on a random right-hand side ends."""
    options = {"preconditioner": preconditioner(sketched), "rtol": 1e-6, "maxiter": 400}
    return iteration(lambda v: G @ v, data.labels(G.shape[0], 3), **options)[1].reason


# ------------------------------------------------------------------------------------------------------------- precision

FLOORS = ((36, 5e-7), (2.7e4, 5e-5), (1.5e6, 5e-3))  # κ(G) and the residual that float32 attains


def expected_floor(kappa):
    """The line through `FLOORS` in logarithms, with the ends continued."""
    x, y = np.log(FLOORS).T
    piece = 0 if math.log(kappa) < x[1] else 1
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return math.exp(y[piece] + slope * (math.log(kappa) - x[piece]))


def float32_floor(full, dtype="float32"):
    """The best true residual that PCG attains with J and R in float32, over κ(G): medians of the draws of each kind of data."""
    n, m, keys = 256, 2048, range(3 if full else 1)
    found = []
    for family in ("sphere", COLLINEAR, "near-duplicates"):
        draws = []
        for key in keys:
            J = jacobian(data.FAMILIES[family](n, key=3 + key), m)
            sketch = sketched_gram(J.astype(dtype), kronecker(family), 4, key)
            G, b = J.gram(), data.labels(n, key)
            history = pcg(J.astype(dtype).gram_matvec, b.astype(dtype), preconditioner(sketch), rtol=0.0, maxiter=40)
            floor = min(norm(b - G @ g.astype("float64")) / norm(b) for g in history.iterates)
            draws.append((float(np.linalg.cond(G)), floor, data.preconditioned_condition(G, sketch.astype("float64"))))
        found.append(tuple(map(float, np.median(draws, axis=0))))
    kappas, floors, preconditioned = zip(*sorted(found), strict=True)
    expected = tuple(expected_floor(kappa) for kappa in kappas)
    ratios = np.divide(floors, expected)
    held = ratios.min() >= 1 / 10 and ratios.max() <= 10 and floors[-1] > 100 * floors[0] and max(preconditioned) <= 15
    return Outcome(
        ", ".join(f"{floor:.0e} at {kappa:.0e}" for kappa, floor in zip(kappas, floors, strict=True)),
        _verdict(held),
        f"n = {n}, m = {m}, s = 4n, best of 40 iterations, {len(keys)} draw(s); "
        f"κ_pre {min(preconditioned):.1f} to {max(preconditioned):.1f}",
        (Series("residual attained", kappas, tuple(floors), expected, "κ(G)", "relative true residual"),),
    )


# ---------------------------------------------------------------------------------------------------------- the table

CLAIMS = (
    Claim(
        "kappa-universal", 8, "preconditioner", "derived: the limit of Gaussian sketches",
        "The preconditioned condition number depends on s/n alone, whatever the condition number of the Gram matrix.",
        "median κ_pre of the Kronecker transform at s = 2n, 4n, 8n", "convergence",
        "34, 9.0, 4.4 within 15 %, no draw above 2.5 times; tr(G̃)/tr(G) 1 within 15 %",
        "σ = 4, and 8 on nearly collinear inputs; κ(G) below 1e12; n >= 128 (small n are biased low at s = 2n)", universal,
    ),
    Claim(
        "kappa-neuron-mode", 0, "preconditioner", "derived: Schur product theorem",
        "Sketching the neurons alone never preconditions worse than a Gaussian sketch of the whole Jacobian.",
        "largest κ_pre of NeuronSigns", "convergence", "at most 34 at m' = 2n, 9 at 4n; tr(G̃)/tr(G) 1 within 15 %; every family",
        "near-duplicates differ in 8 neurons or more", neuron_mode,
    ),
    Claim(
        "kappa-size-independent", 9, "preconditioner", f"{PAPER}, regression lemma",
        "The preconditioned condition number does not grow with samples, neurons or inputs.",
        "slope of ln κ_pre over ln n, ln m, ln d at s = 4n", "convergence", "0 within 0.1", "data on the sphere",
        size_independence,
    ),
    Claim(
        "kappa-structured-sketch", 14, "preconditioner", "derived, after Ahle et al., SODA 2020",
        "A sketch that acts on the two factors preconditions as well as one of the explicit Jacobian.",
        "κ_pre of the Kronecker transform over that of the plain one", "convergence", "1.0 to 1.1, within 0.1",
        "equal s; σ = 4, and 8 on nearly collinear inputs", structured_like_plain,
    ),
    Claim(
        "kappa-collinear-oversampling", 14, "preconditioner", "derived",
        "On nearly collinear inputs the sketch of factors is up to 3 times worse, and oversampling by σ = 4 makes up for that.",
        "κ_pre of the Kronecker transform over that of the plain one", "convergence",
        "at most 3.0 (within 0.5) with σ = 1 and 1.1 (within 0.1) with σ = 4", "s = 2n", collinear_oversampling,
        should_hold=False,
    ),
    Claim(
        "kappa-effective-dimension", 28, "preconditioner", "derived",
        "With damping the effective dimension takes the place of n: fewer sketch rows will do.",
        "κ_pre over ((1+√(d_eff/s))/(1-√(d_eff/s)))²", "convergence",
        "at most 1; κ_pre at most 34 with s = n where d_eff <= 0.65 n", "d_eff < s", effective_dimension,
    ),
    Claim(
        "kappa-kept-preconditioner", 29, "preconditioner", "derived",
        "While the masks hardly move, a preconditioner made at the start serves all along.",
        "largest κ_pre along training", "convergence",
        "at most 1.3 for the limit kernel and the first Gram matrix, 10 for the first sketch",
        "lazy regime: every step at least halves the residual", kept_preconditioners,
    ),
    Claim(
        "kappa-layer-sum", 30, "preconditioner", "derived",
        "On deep networks, sketches of the layers that are summed into the same rows precondition as on two layers.",
        "median κ_pre at s = 2nc, 4nc, 8nc", "convergence", "34, 9.0, 4.4 within 15 %", "σ = 4, independent draws per layer",
        layer_sum,
    ),
    Claim(
        "kappa-class-averaged", 31, "preconditioner", "derived",
        "One Gram matrix averaged over classes preconditions all of them at initialisation.",
        "κ of G preconditioned by Ḡ ⊗ I_c", "convergence", "at most 4", "wide networks with biases at their start, squared loss",
        partial(class_averaged, low=1.0, high=4.0),
    ),
    Claim(
        "kappa-class-averaged-range", 31, "preconditioner", "derived",
        "At initialisation the class-averaged Gram matrix leaves condition numbers between 1.2 and 2.1.",
        "κ of G preconditioned by Ḡ ⊗ I_c", "convergence", "1.2 to 2.1, within 15 %",
        "wide networks at their start; what the range was measured on is not known in full",
        partial(class_averaged, low=1.2 / 1.15, high=2.1 * 1.15),
        should_hold=False,
    ),
    Claim(
        "pcg-counts", 10, "inner iterations", "derived",
        "Preconditioned CG needs a number of iterations that does not depend on the number of samples.",
        "iterations to 1e-3, 1e-6, 1e-10 at s = 4n", "convergence", "11/21/35 within 2 for n >= 512, never above 12/23/37",
        "data on the sphere, n >= 64", pcg_counts,
    ),
    Claim(
        "pcg-counts-worst-case", 10, "inner iterations", f"{PAPER}, regression lemma",
        "An ill-conditioned Gram matrix costs at most ½ ln κ(G) / ln √(s/n) more iterations to the same raw residual.",
        "iterations to 1e-3, 1e-6, 1e-10 at s = 4n", "convergence", "at most ⌈ln(2√κ(G)/ε) / ln √(s/n)⌉", "κ(G) below 1e12",
        pcg_worst_case,
    ),
    Claim(
        "pcg-factor", 11, "inner iterations", "derived",
        "Every iteration of preconditioned CG contracts the energy error by γ = √(n/s).",
        "slope of the log energy error", "convergence", "γ, from 0.9 γ (finite n) to 1.02 γ", "Gaussian sketch", pcg_factor,
    ),
    Claim(
        "fixed-parameter-factors", 0, "inner iterations", "derived",
        "With parameters from the sketch size alone, Richardson's iteration contracts by 2γ/(1+γ²) and Chebyshev's by γ.",
        "residual factor per iteration", "convergence", "2γ/(1+γ²) and γ, from 0.85 to 1.1 times",
        "Gaussian sketch, s >= 4n (nearer to n, eigenvalues of small problems leave the interval)", fixed_parameters,
    ),
    Claim(
        "richardson-threshold", 12, "inner iterations", "derived",
        "Richardson's iteration with unit step converges only from s = 11.66 n on.",
        "s/n at which it begins to converge", "convergence", "11.66 within 5 %", "Gaussian sketch",
        partial(threshold, iteration=richardson, factor=lambda mu: 1 - mu, expected=RICHARDSON_THRESHOLD),
    ),
    Claim(
        "double-product-threshold", 13, "inner iterations", f"{PAPER}, fast regression",
        "The paper's double-product iteration with unit step converges only from s = 39.5 n on.",
        "s/n at which it begins to converge", "convergence", "39.5 within 5 %", "Gaussian sketch",
        partial(threshold, iteration=double_product, factor=lambda mu: 1 - mu**2, expected=DOUBLE_PRODUCT_THRESHOLD),
    ),
    Claim(
        "float32-floor", 32, "precision", "derived",
        "In float32 the attainable residual is set by the condition number of the Gram matrix, however good the preconditioner.",
        "best true residual of PCG", "convergence",
        "5e-7, 5e-5, 5e-3 at κ(G) = 36, 2.7e4, 1.5e6; within 10 times of the line through them: the constant is the BLAS's",
        "J, R and iterates in float32, no refinement", float32_floor,
    ),
)  # fmt: skip
