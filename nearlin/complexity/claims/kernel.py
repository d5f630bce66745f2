"""Claims on the limit kernel, on duplicated and antipodal data, and on damping.

Every measurement takes what is under test as a parameter, so that a deliberately wrong formula or method can be put in its place.
"""

import numpy as np

from nearlin._array import fold_in
from nearlin.complexity.claims import data
from nearlin.complexity.claims.table import Claim, Outcome, Series
from nearlin.complexity.claims.trajectory import judged, neurons, power_law, through, train
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton


def jacobian(x, width, key):
    """The Jacobian of a two-layer ReLU network at its Gaussian start, an operator."""
    objective = Objective(TwoLayer(x.shape[1], width), SquaredLoss())
    return objective.at((neurons(x.shape[1], width, key),), (x, np.zeros(x.shape[0]))).jacobian()


def smallest_eigenvalue(gram):
    """λ_min of a symmetric matrix."""
    return float(np.linalg.eigvalsh(gram)[0])


# ------------------------------------------------------------------------------------------------------- the limit kernel


def gram_to_kernel(full, kernel=data.limit_kernel, expected=-0.5, tolerance=0.1):
    """Exponent in m of ||G - K||₂."""
    widths, seeds = tuple(2**k for k in range(7, 18 if full else 16, 2)), 16 if full else 6
    x = data.sphere(100, 10, 0)
    K = kernel(x)
    distances = [[np.linalg.norm(jacobian(x, m, fold_in(key, m)).gram() - K, 2) for m in widths] for key in range(seeds)]
    exponent, means, words, _ = power_law(widths, distances)
    curve = Series("‖G - K‖₂", widths, means, through(widths, means, expected), "m", "‖G - K‖₂")
    detail = f"n = 100, d = 10, m = {widths[0]} ... {widths[-1]}, {seeds} seeds; {means[0]:.2f} falls to {means[-1]:.3f}"
    return Outcome(words, judged(abs(exponent - expected) <= tolerance), detail, (curve,))


def near_duplicates_kernel(full, kernel=data.limit_kernel, expected=1.0, tolerance=0.05):
    """Exponent in θ of λ_min(K) of two points at the angle θ, and its factor beside 1/2π."""
    angles = np.geomspace(1e-6 if full else 1e-4, 3e-2, 8)
    least = np.array([smallest_eigenvalue(kernel(data.pair_at_angle(theta, 10, 0))) for theta in angles])
    exponent, means, words, _ = power_law(angles, least[None])
    factor = float(least[0] / angles[0])
    holds = abs(exponent - expected) <= tolerance and abs(2 * np.pi * factor - 1) <= 0.05
    curve = Series("λ_min(K)", tuple(angles), means, tuple(angles / (2 * np.pi)), "θ", "λ_min of the pair")
    detail = f"two points at θ = {angles[0]:.0e} ... {angles[-1]:.0e}, d = 10"
    return Outcome(f"{words}, λ_min = {2 * np.pi * factor:.3f} θ/2π", judged(holds), detail, (curve,))


def near_duplicates_network(full, width, angles, expected, tolerance=0.15):
    """Exponent in θ of the median over seeds of λ_min(G) at finite width."""
    seeds = 41 if full else 11
    least = [[_pair_least(theta, width, key) for theta in angles] for key in range(seeds)]
    medians = np.median(least, axis=0)
    exponent, means, words, _ = power_law(angles, medians[None])
    predicted = tuple(a / (2 * np.pi) if expected == 1.0 else a**2 / 4 for a in angles)
    curve = Series(f"λ_min(G), m = {width}", tuple(angles), means, predicted, "θ", "λ_min of the pair")
    crossings = f"{width * angles[0] / np.pi:.1g} ... {width * angles[-1] / np.pi:.1g}"
    detail = f"m = {width}, θ = {angles[0]:.0e} ... {angles[-1]:.0e}: m θ/π = {crossings} separating neurons; {seeds} seeds"
    return Outcome(words, judged(abs(exponent - expected) <= tolerance), detail, (curve,))


def _pair_least(theta, width, key):
    return smallest_eigenvalue(jacobian(data.pair_at_angle(theta, 4, key), width, fold_in(key, 7)).gram())


def near_duplicates_wide(full, expected=1.0):
    """Many separating neurons: m ≫ π/θ."""
    return near_duplicates_network(full, 2**19 if full else 2**17, np.geomspace(2e-3, 5e-2, 5), expected)


def near_duplicates_narrow(full, expected=2.0):
    """No separating neuron in most draws: m ≪ π/θ."""
    return near_duplicates_network(full, 64, np.geomspace(1e-5, 3e-3, 6), expected)


def antipodal_pairs(full, kernel=data.limit_kernel):
    """λ_min(K) of up to d and of d + 1 antipodal pairs in dimension d."""
    dimensions, seeds = (3, 4, 5, 6, 8, 12, 16) if full else (3, 4, 6), range(10 if full else 3)

    def extreme(pick, d, pairs):
        return pick(smallest_eigenvalue(kernel(data.antipodal_pairs(pairs, d, fold_in(key, d)))) for key in seeds)

    with_d = [extreme(min, d, d) for d in dimensions]
    beyond = [extreme(max, d, d + 1) for d in dimensions]
    counts = tuple(range(1, 7))
    medians = tuple(max(float(np.median([extreme(max, 4, k)])), 1e-17) for k in counts)
    curve = Series("λ_min(K), d = 4", counts, medians, None, "antipodal pairs", "λ_min(K)", "y")
    holds = min(with_d) >= 1e-10 and max(abs(v) for v in beyond) <= 1e-14
    detail = f"d = {', '.join(map(str, dimensions))}; {len(seeds)} seeds"
    return Outcome(f"d pairs: {min(with_d):.1e}; d + 1 pairs: {max(beyond):.0e}", judged(holds), detail, (curve,))


# ---------------------------------------------------------------------------------------------------------------- damping


def duplicated_problem(key, n=100, d=10, copies=10):
    """Points on the sphere whose last ``copies`` repeat the first with other labels, and the loss that no fit undercuts."""
    x, y = data.sphere(n, d, key), data.labels(n, key)
    x[-copies:] = x[:copies]
    return x, y, float(np.sum((y[:copies] - y[-copies:]) ** 2) / 4)


def damping_fixes_duplicates(full, optimizer=GramGaussNewton, tolerance=0.01):
    """½||r||² at the end for several λ_d beside the label-averaged fit, which no network can undercut."""
    dampings = tuple(10.0**k for k in range(-6, 0)) if full else (1e-6, 1e-4, 1e-2, 1e-1)
    seeds = range(3 if full else 1)
    losses, off, steps = [], 0.0, []
    for damping in dampings:
        for key in seeds:
            x, y, floor = duplicated_problem(key)
            run = train(optimizer(guard=False, damping=damping), x, y, 8192, key, steps=_patience(damping))
            final = 0.5 * run.residuals[-1] ** 2
            off = max(off, abs(final / floor - 1))
            at_floor = [0.5 * r**2 <= (1 + tolerance) * floor for r in run.residuals]
        losses.append(final / floor)
        steps.append(at_floor.index(True) if True in at_floor else run.steps)
    curve = Series(
        "final loss over that of the label-averaged fit", dampings, tuple(losses), (1.0,) * len(dampings), "damping", "ratio"
    )
    detail = f"n = 100, 10 points twice with other labels, d = 10, m = 8192, λ_d = {dampings[0]:.0e} ... {dampings[-1]:.0e}; "
    detail += f"steps to within {tolerance:.0%}: {', '.join(map(str, steps))}"
    return Outcome(f"off by {off:.1e}", judged(off <= tolerance), detail, (curve,))


def _patience(damping):
    """Steps that the slowest direction needs, with λ_min(K) near .05: it shrinks by λ_d / (λ_d + .05) in a step."""
    return 8 + int(np.ceil(np.log(1e-3) / np.log(damping / (damping + 0.05))))


def undamped_duplicates(full, damping=0.0):
    """Whether the undamped step fails on inconsistent duplicates."""
    seeds = range(5 if full else 2)
    worst = []
    for key in seeds:
        x, y, _ = duplicated_problem(key)
        run = train(GramGaussNewton(guard=False, damping=damping), x, y, 8192, key, steps=8)
        worst.append(max(run.ratios))
    curve = Series(
        "worst ratio of residuals, undamped", tuple(seeds), tuple(min(w, 1e30) for w in worst), None, "seed", "ratio", "y"
    )
    value = (
        "no such step: the Gram matrix is singular" if np.isinf(min(worst)) else f"the residual grows by {min(worst):.0e} or more"
    )
    detail = f"n = 100, 10 points twice with other labels, d = 10, m = 8192, {len(seeds)} seeds"
    return Outcome(value, judged(min(worst) > 10), detail, (curve,))


# -------------------------------------------------------------------------------------------------------------- the table

BPSW = "arXiv:2006.11648"

CLAIMS = (
    Claim(
        id="gram-to-kernel",
        number=24,
        family="limit kernel",
        paper=f"derived; the concentration lemma of {BPSW}",
        statement="The Gram matrix at the start approaches its limit kernel like m^{-1/2}.",
        quantity="exponent in m of the spectral norm of the difference",
        how="convergence",
        expected="-1/2 ± .1",
        condition="Gaussian weights, points on the sphere",
        measure=gram_to_kernel,
    ),
    Claim(
        id="near-duplicates-kernel",
        number=25,
        family="near-duplicates",
        paper="derived",
        statement="The smallest eigenvalue of the limit kernel of two points at a small angle θ is θ/2π.",
        quantity="exponent in θ, and the factor",
        how="convergence",
        expected="1 ± .05; θ/2π within 5 %",
        condition="θ at most .03",
        measure=near_duplicates_kernel,
    ),
    Claim(
        id="near-duplicates-wide",
        number=25,
        family="near-duplicates",
        paper="derived",
        statement="At finite width the smallest eigenvalue is linear in θ when many neurons separate the two points.",
        quantity="exponent in θ of the median smallest eigenvalue",
        how="convergence",
        expected="1 ± .15",
        condition="m well above π/θ",
        measure=near_duplicates_wide,
    ),
    Claim(
        id="near-duplicates-narrow",
        number=25,
        family="near-duplicates",
        paper="derived",
        statement="At finite width the smallest eigenvalue is θ²/4 in most draws when no neuron separates the two points.",
        quantity="exponent in θ of the median smallest eigenvalue",
        how="convergence",
        expected="2 ± .15",
        condition="m well below π/θ",
        measure=near_duplicates_narrow,
    ),
    Claim(
        id="antipodal-pairs",
        number=26,
        family="antipodal pairs",
        paper="derived",
        statement="Antipodal pairs of points are harmless up to d of them; with d + 1 the limit kernel is singular.",
        quantity="smallest eigenvalue of the limit kernel",
        how="convergence",
        expected="positive (above 1e-10) at d pairs, 0 to 1e-14 at d + 1",
        condition="points in general position",
        measure=antipodal_pairs,
    ),
    Claim(
        id="damping-fixes-duplicates",
        number=27,
        family="damping",
        paper="derived",
        statement="With any damping, training on repeated points with contradicting labels ends at the fit of their averages.",
        quantity="final loss over that of the label-averaged fit",
        how="convergence",
        expected="1 within 1 %, for every damping from 1e-6 to .1",
        condition="wide ReLU network, exact steps",
        measure=damping_fixes_duplicates,
    ),
    Claim(
        id="undamped-duplicates",
        number=27,
        family="undamped duplicates",
        paper="derived",
        statement="Without damping the step on repeated points with contradicting labels explodes or does not exist.",
        quantity="worst ratio of successive residuals",
        how="convergence",
        expected="above 10, or no step",
        condition="wide ReLU network, exact steps",
        measure=undamped_duplicates,
    ),
)
