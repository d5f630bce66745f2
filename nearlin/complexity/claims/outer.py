"""Claims on the outer loop: rates, numbers of steps, widths, natural gradient, smooth networks, mini-batches.

Every measurement trains networks of the house with optimizers of the house and takes what is under test as a parameter, so that a
deliberately wrong method can be put in its place.
"""

import functools
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.linalg

from nearlin.complexity.claims import data
from nearlin.complexity.claims.table import Claim, Outcome, Series
from nearlin.complexity.claims.trajectory import geometric_mean, judged, power_law, through, train
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient, NearLinearGaussNewton

BPSW, GGN, ZMG = "arXiv:2006.11648", "arXiv:1905.11675", "arXiv:1905.10961"


def problem(n, d, key):
    """Points on the sphere with standard normal labels."""
    return data.sphere(n, d, key), data.labels(n, key)


# ------------------------------------------------------------------------------------------------- rate and number of steps


def outer_rate(full, optimizer=None, limit=0.5):
    """The worst ||r_{t+1}|| / ||r_t|| at m = 16 n; where it is above the limit, whether the exact step stays below."""
    optimizer = optimizer or NearLinearGaussNewton()
    sizes, seeds = ((64, 128, 256, 512, 1024), range(3)) if full else ((64, 128, 256), range(2))
    worst = {n: max(_worst_ratio(optimizer, n, key) for key in seeds) for n in sizes}
    above = [n for n in sizes if worst[n] > limit]
    in_regime = all(_worst_ratio(GramGaussNewton(), n, key) <= limit for n in above for key in seeds)
    detail = f"n = {sizes[0]} ... {sizes[-1]}, d = 16, m = 16 n, {len(seeds)} seeds, down to 1e-8 of the first residual"
    if above:
        detail += f"; above {limit:.3g} at n = {above}, where the exact step {'stays below' if in_regime else 'is above, too'}"
    curve = Series("near-linear step", sizes, tuple(worst.values()), (limit,) * len(sizes), "n", "worst ratio of residuals", "x")
    return Outcome(f"{max(worst.values()):.2f}", judged(not above, in_regime), detail, (curve,))


def _worst_ratio(optimizer, n, key):
    return max(train(optimizer, *problem(n, 16, key), 16 * n, key, steps=40, reduction=1e-8).ratios)


def outer_steps(full, optimizer=None, fewest=4, most=6, label="exact step"):
    """Steps to 1e-8 of the first residual at m = 16 n, for n over a range of 8 or 16."""
    optimizer = optimizer or GramGaussNewton()
    sizes, seeds = ((32, 64, 128, 256, 512), range(3)) if full else ((32, 64, 128, 256), range(2))
    runs = {n: [train(optimizer, *problem(n, 16, key), 16 * n, key, steps=40, reduction=1e-8) for key in seeds] for n in sizes}
    counts = [run.steps for n in sizes for run in runs[n]]
    arrived = all(run.reached(1e-8) for n in sizes for run in runs[n])
    detail = f"n = {sizes[0]} ... {sizes[-1]}, d = 16, m = 16 n, {len(seeds)} seeds"
    detail += "" if arrived else "; some runs did not reach 1e-8 in 40 steps"
    medians = tuple(float(np.median([run.steps for run in runs[n]])) for n in sizes)
    curve = Series(label, sizes, medians, (float(most),) * len(sizes), "n", "steps to 1e-8", "x")
    holds = arrived and fewest <= min(counts) and max(counts) <= most
    return Outcome(f"{min(counts)} to {max(counts)} steps", judged(holds), detail, (curve,))


def two_layer_run(optimizer, key):
    """A run of a wide two-layer network down to 1e-11 of the first residual."""
    return train(optimizer, *problem(100, 10, key), 8192, key, steps=40, reduction=1e-11)


EPSILONS = (0.5, 1 / 3, 1 / 6, 0.1, 0.01, 0.001)


def rate_is_accuracy(
    full, optimizer=NearLinearGaussNewton, tolerance=0.05, epsilons=EPSILONS, run=two_layer_run, what="n = 100, d = 10, m = 8192"
):
    """Asymptotic ratios of residuals beside the achieved inner residuals, for several ε₀; ``optimizer(epsilon=...)``."""
    seeds = range(1, 9) if full else (1, 3)
    pairs = [[pair for key in seeds for pair in late_steps(run(optimizer(epsilon=e), key))] for e in epsilons]
    if not all(pairs):
        return Outcome("no asymptotic step", judged(False), f"some ε₀ of {epsilons} never got there")
    off = max(abs(ratio / inner - 1) for late in pairs for ratio, inner in late)
    over = max(ratio / e for e, late in zip(epsilons, pairs, strict=True) for ratio, _ in late)
    means = tuple(float(geometric_mean([ratio for ratio, _ in late])) for late in pairs)
    inner = tuple(float(geometric_mean([inner for _, inner in late])) for late in pairs)
    curve = Series("outer ratio over achieved inner residual", inner, means, inner, "inner residual", "outer ratio")
    shares = ", ".join(f"{mean / e:.2f}" for e, mean in zip(epsilons, means, strict=True))
    detail = f"{what}, ε₀ = {epsilons[0]} ... {epsilons[-1]}, {len(seeds)} seeds; "
    detail += f"geometric mean of the ratios over ε₀: {shares}"
    holds = off <= tolerance and over <= 1 + tolerance
    return Outcome(f"off by {off:.1%} at most; at most {over:.2f} ε₀", judged(holds), detail, (curve,))


def late_steps(run):
    """(outer ratio, inner residual) of the steps where the curvature term has died out and rounding has not begun."""
    first = run.residuals[0]
    steps = zip(run.residuals[:-1], run.residuals[1:], run.ratios, run.inner, strict=True)
    return [(ratio, inner) for r, after, ratio, inner in steps if r <= 0.005 * inner * first and after >= 1e-11 * first]


# --------------------------------------------------------------------------------------------------------------------- widths


class Sweep(NamedTuple):
    """Over seeds and widths: the first two ratios of residuals, the largest movement of a neuron, the share of flipped signs."""

    first: np.ndarray
    second: np.ndarray
    movement: np.ndarray
    flips: np.ndarray


def widths(full):
    """The widths of a sweep, and its number of seeds."""
    return tuple(2**k for k in range(10, 18 if full else 16)), 12 if full else 4


@functools.cache
def sweep(optimizer, activation, sizes, seeds):
    """Train n = 48 points in d = 10 dimensions at every width and seed: ReLU for 5 steps, others for 2."""
    found = np.array([[_journey(optimizer, activation, m, key) for m in sizes] for key in range(seeds)])
    return Sweep(*np.moveaxis(found, 2, 0))


def _journey(optimizer, activation, m, key):
    x, y = problem(48, 10, key)
    run = train(optimizer, x, y, m, key, steps=5 if activation == "relu" else 2, activation=activation)
    moved = np.linalg.norm(run.end - run.start, axis=1).max()
    flipped = np.mean((x @ run.end.T > 0) != (x @ run.start.T > 0))
    return *run.ratios[:2], moved, max(flipped, 1e-12)


def width_exponent(full, what, activation="relu", expected=-0.5, tolerance=0.1, optimizer=None):
    """Exponent in m of one field of `Sweep`, where at most a tenth of the signs flips (ReLU) or first ratios are <= ½."""
    sizes, seeds = widths(full)
    found = sweep(optimizer or NaturalGradient(lr=1.0), activation, sizes, seeds)
    exponent, means, words, _ = power_law(sizes, getattr(found, what))
    lazy = found.flips.mean(axis=0).max() <= 0.1 if activation == "relu" else found.first.max() <= 0.5
    labels = {"first": "first ratio", "second": "second ratio", "movement": "largest movement", "flips": "share of flipped signs"}
    curve = Series(f"{labels[what]}, {activation}", sizes, means, through(sizes, means, expected), "m", labels[what])
    detail = f"n = 48, d = 10, m = {sizes[0]} ... {sizes[-1]}, {seeds} seeds"
    detail += "" if lazy else "; not the lazy regime"
    return Outcome(words, judged(abs(exponent - expected) <= tolerance, lazy), detail, (curve,))


def width_law(full, d, expected, tolerance=0.4, optimizer=None):
    """Exponent in n of the width from which every step halves the residual (median over seeds)."""
    optimizer = optimizer or GramGaussNewton(guard=False)
    sizes = _width_law_sizes(d, full)
    needed = np.array([[_needed_width(optimizer, n, d, range(5 if full else 3)) for n in sizes]])
    exponent, means, words, _ = power_law(sizes, needed)
    least = [float(np.linalg.eigvalsh(data.limit_kernel(data.sphere(n, d, 0)))[0]) for n in sizes]
    theory = [n**4 / s**4 for n, s in zip(sizes, least, strict=True)]
    curve = Series(f"needed width, d = {d}", sizes, means, through(sizes, means, expected), "n", "m from which ratios are ≤ ½")
    detail = f"d = {d}: m = {means[0]:.0f} at n = {sizes[0]} and {means[-1]:.0f} at n = {sizes[-1]}"
    detail += f"; sufficient by the theorem, up to logarithms: n⁴/λ⁴ = {theory[0]:.0e} and {theory[-1]:.0e}"
    holds = abs(exponent - expected) <= tolerance and all(m <= t for m, t in zip(means, theory, strict=True))
    return Outcome(words, judged(holds), detail, (curve,))


def _width_law_sizes(d, full):
    if d == 10:
        return (32, 48, 64, 96, 128, 192, 256) if full else (32, 48, 64, 96, 128, 192)
    return (64, 96, 128, 192, 256, 384, 512) if full else (64, 96, 128, 192, 256)


def _needed_width(optimizer, n, d, seeds):
    """Where the worst ratio crosses ½ from below as the width falls by steps of √2, interpolated in logarithms."""
    k, below = math.ceil(2 * math.log2(n**2.3 / 40 if d == 10 else n / 4)), None
    while k > 2:
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
def smooth_pairs(optimizer, activation, sizes, seeds):
    """Residual norms of the runs at every width and seed, cut where rounding or the tiny damping begins to show."""
    runs = [[train(optimizer, *problem(48, 10, s), m, s, 7, 1e-10, activation).residuals for s in range(seeds)] for m in sizes]
    return [[_quadratic_part(run) for run in at_width] for at_width in runs]


def _quadratic_part(residuals):
    """The leading part of a run in which r_{t+1} > 1e-7 r_t and r_{t+1} > 1e-11 r_0."""
    part = residuals[:1]
    for r in residuals[1:]:
        if not 1e-7 * part[-1] < r or not 1e-11 * part[0] < r:
            break
        part += (r,)
    return part


def quadratic_order(full, optimizer=None, expected=2.0, tolerance=0.15):
    """Median of ln(r_{t+2}/r_{t+1}) / ln(r_{t+1}/r_t) at the end of runs of tanh and softplus networks."""
    optimizer, (sizes, seeds) = optimizer or NaturalGradient(lr=1.0), smooth_sizes(full)
    found, curves = {}, []
    for activation in ("tanh", "softplus"):
        runs = [run for at_width in smooth_pairs(optimizer, activation, sizes, seeds) for run in at_width]
        found[activation] = float(np.median([_order(run) for run in runs if len(run) > 2]))
        before, after = runs[0][:-1], runs[0][1:]
        predicted = through(before, after, expected)
        curves.append(Series(f"{activation}, m = {sizes[0]}", before, after, predicted, "residual before", "residual after"))
    detail = f"n = 48, d = 10, m = {sizes[0]} ... {sizes[-1]}, {seeds} seeds, exact steps; median at the end of the runs"
    holds = all(abs(order - expected) <= tolerance for order in found.values())
    return Outcome(", ".join(f"{a} {p:.2f}" for a, p in found.items()), judged(holds), detail, tuple(curves))


def _order(run):
    return math.log(run[-1] / run[-2]) / math.log(run[-2] / run[-3])


def quadratic_prefactor(full, optimizer=None, limit=-0.5, tolerance=0.1):
    """Exponent in m of the largest ||r_{t+1}|| / ||r_t||² of a run; the theorem bounds it by a multiple of m^{-1/2}."""
    optimizer, (sizes, seeds) = optimizer or NaturalGradient(lr=1.0), smooth_sizes(full)
    runs = smooth_pairs(optimizer, "tanh", sizes, seeds)
    factors = [[max(b / a**2 for a, b in pairwise(run)) for run in at_width] for at_width in runs]
    exponent, means, words, _ = power_law(sizes, np.transpose(factors))
    bound = tuple(means[0] * (m / sizes[0]) ** limit for m in sizes)
    curve = Series("largest r₊ / r², tanh", sizes, means, bound, "m", "prefactor of r²")
    detail = f"tanh, n = 48, d = 10, m = {sizes[0]} ... {sizes[-1]}, {seeds} seeds; predicted curve: the bound"
    return Outcome(words, judged(exponent <= limit + tolerance), detail, (curve,))


# ----------------------------------------------------------------------------------------------------- natural gradient


def natural_gradient_problems(full):
    """(d, n, x, y, width) with λ_min(K) from .01 to .26, wide enough to be lazy."""
    grid = [(d, n) for d in (4, 10, 32) for n in ((16, 32, 64, 128) if full else (16, 48))]
    return [(d, n, *problem(n, d, 1), n * (512 if d == 4 else 128)) for d, n in grid]


@functools.cache
def largest_steps(optimizer, full):
    """(n, λ_min(K), largest stable η) per problem; ``optimizer(lr=η)``."""
    found = []
    for _, n, x, y, width in natural_gradient_problems(full):
        least = float(np.linalg.eigvalsh(data.limit_kernel(x))[0])
        found.append((n, least, _largest_step(optimizer, x, y, width)))
    return found


def _largest_step(optimizer, x, y, width):
    """The largest η in (0, 3) for which the residual falls in each of 8 steps, by bisection to .03."""
    low, high = 0.0, 3.0
    while high - low > 0.03:
        eta = (low + high) / 2
        falls = max(train(optimizer(lr=eta), x, y, width, 1, steps=8, reduction=1e-7).ratios) < 1
        low, high = (eta, high) if falls else (low, eta)
    return low


def unit_step_is_stable(full, optimizer=NaturalGradient):
    """Whether η = 1 is stable at every n and λ, and the largest stable η does not depend on them."""
    found = largest_steps(optimizer, full)
    etas = [eta for _, _, eta in found]
    holds = min(etas) >= 1 and max(etas) <= 1.1 * min(etas)
    return Outcome(f"{min(etas):.2f} to {max(etas):.2f}", judged(holds), _step_detail(found), (_step_curve(found, 1.0),))


def largest_step_is_one(full, optimizer=NaturalGradient, expected=1.0, tolerance=0.15):
    """Whether the largest stable η itself is about ``expected``."""
    found = largest_steps(optimizer, full)
    etas = [eta for _, _, eta in found]
    holds = all(abs(eta - expected) <= tolerance for eta in etas)
    detail = _step_detail(found)
    if not holds:
        detail += "; in the lazy limit r₊ = (1 - η) r, so that every η < 2 is stable: the η ≤ 1 of the theorem suffices, no more"
    return Outcome(f"{min(etas):.2f} to {max(etas):.2f}", judged(holds), detail, (_step_curve(found, expected),))


def _step_detail(found):
    smallest, largest = (f(least for _, least, _ in found) for f in (min, max))
    sizes = f"d = 4, 10, 32, n = {found[0][0]} ... {found[-1][0]}, m = 128 n (d = 4: 512 n)"
    return f"points on the sphere, {sizes}, λ = {smallest:.3f} ... {largest:.2f}"


def _step_curve(found, expected):
    ordered = sorted((least, eta) for _, least, eta in found)
    least, eta = zip(*ordered, strict=True)
    return Series("largest stable η", least, eta, (expected,) * len(eta), "λ_min(K)", "largest stable η", "x")


def natural_gradient_rate(full, optimizer=NaturalGradient, tolerance=0.1):
    """||r_k||² against the bound (1-η)^k, and ratios of residuals against 1 - η; ``optimizer(lr=η)``."""
    etas, width = (0.1, 0.25, 0.5, 0.75), 65536 if full else 8192
    runs = {eta: train(optimizer(lr=eta), *problem(64, 16, 1), width, 1, steps=12, reduction=1e-7) for eta in etas}
    off = max(abs(ratio / (1 - eta) - 1) for eta, run in runs.items() for ratio in run.ratios)
    bounded = all(_below_bound(run, eta) for eta, run in runs.items())
    curves = tuple(_rate_curve(eta, run) for eta, run in runs.items())
    detail = f"n = 64, d = 16, m = {width}, η = {', '.join(map(str, etas))}; the bound {'holds' if bounded else 'is broken'}"
    return Outcome(f"ratios within {off:.1%} of 1 - η", judged(bounded and off <= tolerance), detail, curves)


def _below_bound(run, eta):
    first = run.residuals[0]
    return all((r / first) ** 2 <= (1 - eta) ** k * (1 + 1e-9) for k, r in enumerate(run.residuals))


def _rate_curve(eta, run):
    steps = tuple(range(len(run.residuals)))
    losses = tuple((r / run.residuals[0]) ** 2 for r in run.residuals)
    predicted = tuple((1 - eta) ** (2 * k) for k in steps)
    return Series(f"η = {eta}", steps, losses, predicted, "step", "loss over first loss", "y")


# --------------------------------------------------------------------------------------------------------- mini-batches


def gauss_seidel(gram, r, size):
    """One sweep of block Gauss-Seidel on G g = r: r ← r - G L⁻¹ r with L the block lower triangle of G."""
    blocks = np.arange(len(r)) // size
    return r - gram @ np.linalg.solve(np.where(blocks[:, None] >= blocks[None, :], gram, 0.0), r)


def minibatch_epochs(full, sweep_once=gauss_seidel, epochs=6):
    """Residuals after every epoch of mini-batch Gauss-Newton on a linearised network, beside block Gauss-Seidel."""
    n, d = 128, 32
    x, y = problem(n, d, 1)
    network = TwoLayer(d, 4096 if full else 1024)
    point = Objective(network, SquaredLoss()).at(network.init(1, x), (x, y))
    gram, r = point.jacobian().gram(), point.residual
    sizes = (1, 2, 4, 8, 16, 32, 64, n) if full else (8, 16, 32, 64, n)
    off, left = 0.0, []
    for size in sizes:
        expected = [r]
        for _ in range(epochs):
            expected.append(sweep_once(gram, expected[-1], size))
        measured = _linearised_epochs(gram, r, size, epochs)
        off = max(off, *(np.linalg.norm(a - b) for a, b in zip(measured, expected, strict=True)))
        left.append([float(np.linalg.norm(s) / np.linalg.norm(r)) for s in measured])
    one_step, slower = left[-1][1], min(history[-1] for history in left[:-1])
    steps = tuple(range(epochs + 1))
    curves = tuple(
        Series(f"b = {b}", steps, tuple(h), None, "epoch", "residual over the first", "y") for b, h in _shown(sizes, left)
    )
    holds = off <= 1e-8 * np.linalg.norm(r) and one_step <= 1e-10 and slower >= 1e-3
    value = f"equal to {off / np.linalg.norm(r):.0e}; after {epochs} epochs {slower:.1e} or more, b = n: {one_step:.0e} after 1"
    detail = f"linearised ReLU network, n = {n}, d = {d}, b = {', '.join(map(str, sizes))}; after {epochs} epochs: "
    return Outcome(value, judged(holds), detail + ", ".join(f"{history[-1]:.1e}" for history in left), curves)


def _shown(sizes, left):
    return [(size, [max(v, 1e-16) for v in history]) for size, history in zip(sizes, left, strict=True)]


def minibatch_network(full, optimizer=None, epochs=6, tolerance=0.1):
    """Residuals of a wide ReLU network after mini-batch epochs, beside block Gauss-Seidel on its first Gram matrix."""
    optimizer = optimizer or GramGaussNewton(guard=False, damping=0.0)
    n, width, sizes = 128, 32768 if full else 8192, (4, 8, 16, 32, 64, 128) if full else (16, 64, 128)
    histories = {size: _network_epochs(optimizer, n, width, size, epochs) for size in sizes}
    off = max(abs(math.log(h[-1][0]) / math.log(h[-1][1]) - 1) for size, h in histories.items() if size < n)
    slower = min(h[-1][0] for size, h in histories.items() if size < n)
    full_batch, steps = histories[n][-1][0], tuple(range(epochs + 1))
    curves = tuple(
        Series(f"b = {size}", steps, *(tuple(max(v, 1e-16) for v in c) for c in zip(*h, strict=True)), "epoch", "residual", "y")
        for size, h in histories.items()
    )
    detail = (
        f"n = {n}, d = 32, m = {width}, b = {', '.join(map(str, sizes))}; rates per epoch within {off:.0%} of the linear model's"
    )
    value = f"after {epochs} epochs {slower:.1e} or more, b = n: {full_batch:.0e}"
    return Outcome(value, judged(off <= tolerance and slower >= 1e-3 and full_batch <= 1e-10), detail, curves)


def _network_epochs(optimizer, n, width, size, epochs):
    """(residual over the first, the same by Gauss-Seidel) after every epoch."""
    x, y = problem(n, 32, 1)
    objective = Objective(TwoLayer(32, width), SquaredLoss())
    params = objective.network.init(1, x)
    point = objective.at(params, (x, y))
    gram, r = point.jacobian().gram(), point.residual
    first, linear, history = np.linalg.norm(r), r, [(1.0, 1.0)]
    for _ in range(epochs):
        for start in range(0, n, size):
            rows = slice(start, start + size)
            params, _, _ = optimizer.step(params, optimizer.init(params, objective), objective, (x[rows], y[rows]))
        linear = gauss_seidel(gram, linear, size)
        now = objective.at(params, (x, y)).residual
        history.append((float(np.linalg.norm(now) / first), float(np.linalg.norm(linear) / first)))
    return history


def _linearised_epochs(gram, r, size, epochs):
    """Residuals per epoch of the house's undamped mini-batch step on a linear model whose Gram matrix is ``gram``."""
    features = np.ascontiguousarray(scipy.linalg.cholesky(gram, lower=True))  # F Fᵀ = G: the same residuals as with J itself
    objective, optimizer = Objective(TwoLayer(len(r), 1, "identity"), SquaredLoss()), GramGaussNewton(guard=False, damping=0.0)
    params, residuals = (np.zeros((1, len(r))),), [r]
    for _ in range(epochs):
        state = optimizer.init(params, objective)
        for start in range(0, len(r), size):
            rows = slice(start, start + size)
            params, state, _ = optimizer.step(params, state, objective, (features[rows], -r[rows]))
        residuals.append(objective.at(params, (features, -r)).residual)
    return residuals


# ------------------------------------------------------------------------------------------------------------ the table


def _width_claim(name, number, statement, quantity, promise, what, **options):
    paper = f"derived from the {'proof' if number == 17 else 'one-step bound'} of {BPSW}"
    condition = "lazy: " + ("first ratios are at most 1/2" if options.get("activation") else "at most a tenth of the signs flips")
    measure = functools.partial(width_exponent, what=what, **options)
    return Claim(name, number, "widths", paper, statement, quantity, "convergence", promise, condition, measure)


CLAIMS = (
    Claim(
        id="outer-rate",
        number=1,
        family="outer rate",
        paper=f"{BPSW}, main theorem (the factor from memory)",
        statement="Every step of the near-linear method at least halves the residual when the network is wide enough.",
        quantity="largest ratio of successive residual norms",
        how="convergence",
        expected="at most 1/2",
        condition="a width at which the exact step halves the residual, too",
        measure=outer_rate,
    ),
    Claim(
        id="outer-steps",
        number=2,
        family="outer loop",
        paper=f"{BPSW}, abstract",
        statement="The number of Gauss-Newton steps does not depend on the number of samples.",
        quantity="exact steps to 1e-8 of the first residual",
        how="convergence",
        expected="4 to 6, for n = 32 ... 512",
        condition="m = 16 n, d = 16",
        measure=outer_steps,
    ),
    Claim(
        id="outer-steps-bound",
        number=2,
        family="outer loop",
        paper=f"{BPSW}, main theorem (the factor from memory)",
        statement="The near-linear method reduces the residual by ε in at most log₂(1/ε) steps, whatever the number of samples.",
        quantity="near-linear steps to 1e-8 of the first residual",
        how="convergence",
        expected="at most 27",
        condition="m = 16 n, d = 16",
        measure=lambda full: outer_steps(full, NearLinearGaussNewton(), 1, 27, "near-linear step"),
    ),
    Claim(
        id="rate-is-accuracy",
        number=3,
        family="inner accuracy",
        paper=f"derived from the one-step bound of {BPSW}",
        statement="In the end the residual shrinks in every step by the accuracy to which that step's linear system was solved.",
        quantity="asymptotic ratio of residuals over achieved inner residual, and over ε₀",
        how="convergence",
        expected="1 within 5 %; never above 1.05 ε₀",
        condition="residual below .005 of the inner one times the first, above rounding",
        measure=rate_is_accuracy,
    ),
    Claim(
        id="width-law-d10",
        number=16,
        family="width law",
        paper=f"{BPSW}, main theorem (the condition from memory); the practical exponent is measured",
        statement="In 10 dimensions the width from which every step halves the residual grows like n^2.3, not like n⁴/λ⁴.",
        quantity="exponent in n of the needed width",
        how="convergence",
        expected="2.3 ± .4, and below n⁴/λ⁴",
        condition="points on the sphere in 10 dimensions, exact steps",
        measure=functools.partial(width_law, d=10, expected=2.3),
    ),
    Claim(
        id="width-law-d40",
        number=16,
        family="width law",
        paper=f"{BPSW}, main theorem (the condition from memory); the practical exponent is measured",
        statement="In 40 dimensions the width from which every step halves the residual grows about in proportion to n.",
        quantity="exponent in n of the needed width",
        how="convergence",
        expected="1 ± .4, and below n⁴/λ⁴",
        condition="points on the sphere in 40 dimensions, n >= 64 (below, a dozen neurons do and no power law fits), exact steps",
        measure=functools.partial(width_law, d=40, expected=1.0),
    ),
    _width_claim(
        "lazy-movement", 17, "No neuron moves further than a multiple of m^{-1/2} during training.",
        "exponent in m of the largest movement of a neuron", "-1/2 ± .06", "movement", tolerance=0.06,
    ),
    _width_claim(
        "lazy-flips", 17, "The share of neuron-sample signs that change during training falls like m^{-1/2}.",
        "exponent in m of the share of flipped signs", "-1/2 ± .06", "flips", tolerance=0.06,
    ),
    _width_claim(
        "first-ratio-relu", 18, "The first step of a ReLU network leaves a share of the residual that falls like m^{-1/2}.",
        "exponent in m of the first ratio of residuals", "-1/2 ± .1", "first",
    ),
    _width_claim(
        "second-ratio-relu", 18, "The second step of a ReLU network leaves a share that falls like 1/m.",
        "exponent in m of the second ratio of residuals", "-1 ± .2", "second", expected=-1.0, tolerance=0.2,
    ),
    _width_claim(
        "first-ratio-softplus", 18, "The first step of a softplus network leaves a share of the residual that falls like 1/m.",
        "exponent in m of the first ratio of residuals", "-1 ± .1", "first", activation="softplus", expected=-1.0,
    ),
    Claim(
        id="quadratic-order",
        number=19,
        family="smooth networks",
        paper=f"{GGN}, full-batch theorem",
        statement="With a smooth activation the exact full-batch step converges quadratically.",
        quantity="order of convergence at the end of a run",
        how="convergence",
        expected="2 ± .15",
        condition="tanh and softplus, exact steps, before rounding",
        measure=quadratic_order,
    ),
    Claim(
        id="quadratic-prefactor",
        number=19,
        family="smooth networks by width",
        paper=f"{GGN}, full-batch theorem",
        statement="The factor in front of the squared residual falls at least like m^{-1/2}.",
        quantity="exponent in m of the largest ratio of a residual to the square of the one before",
        how="convergence",
        expected="at most -1/2 + .1",
        condition="tanh, exact steps, before rounding",
        measure=quadratic_prefactor,
    ),
    Claim(
        id="natural-gradient-unit-step",
        number=20,
        family="natural gradient steps",
        paper=ZMG,
        statement="Natural gradient descent takes steps of size 1, whatever the number of samples and the kernel's conditioning.",
        quantity="largest step size for which the residual falls in every step",
        how="convergence",
        expected="at least 1, and the same within 10 % for all n and λ",
        condition="wide networks, points on the sphere",
        measure=unit_step_is_stable,
    ),
    Claim(
        id="natural-gradient-largest-step",
        number=20,
        family="natural gradient steps",
        paper=f"{ZMG} (the bound on the step size from memory)",
        statement="The largest stable step size of natural gradient descent is about 1.",
        quantity="largest step size for which the residual falls in every step",
        how="convergence",
        expected="1 ± .15",
        condition="wide networks, points on the sphere",
        measure=largest_step_is_one,
        should_hold=False,
    ),
    Claim(
        id="natural-gradient-rate",
        number=21,
        family="natural gradient rate",
        paper=f"{ZMG}, convergence theorem (from memory); (1-η)^{{2k}} derived",
        statement="With step size η the loss falls at least like (1-η)^k, and in the lazy limit like (1-η)^{2k}.",
        quantity="loss after k steps against both; ratios of residuals against 1 - η",
        how="convergence",
        expected="bound never broken; ratios equal to 1 - η within 10 %",
        condition="wide ReLU network",
        measure=natural_gradient_rate,
    ),
    Claim(
        id="minibatch-gauss-seidel",
        number=23,
        family="mini-batches",
        paper=f"derived for the mini-batch method of {GGN}",
        statement="In a linear model a mini-batch epoch is a sweep of block Gauss-Seidel, while the full batch needs one step.",
        quantity="residual after each epoch beside block Gauss-Seidel; after 6 epochs, and after 1 step at b = n",
        how="convergence",
        expected="equal to 1e-8; 1e-3 or more left after 6 epochs for b < n; 1e-10 at most after 1 step for b = n",
        condition="linearised network, no damping, batches in a fixed order",
        measure=minibatch_epochs,
    ),
    Claim(
        id="minibatch-network",
        number=23,
        family="mini-batches on a network",
        paper=f"derived for the mini-batch method of {GGN}",
        statement="On a wide network, too, mini-batches converge at the rate of block Gauss-Seidel, far slower than full batch.",
        quantity="residual after 6 epochs; logarithm of it over that of block Gauss-Seidel on the first Gram matrix",
        how="convergence",
        expected="1 ± .1; 1e-3 or more left for b < n, 1e-10 at most for b = n",
        condition="wide ReLU network, no damping, batches in a fixed order",
        measure=minibatch_network,
    ),
)  # fmt: skip
