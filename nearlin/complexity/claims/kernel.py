"""Claims on the limit kernel, on duplicated and antipodal data, and on damping.

Points, labels and masks are those of `data`, where the kernel stands in a second form; Gram matrices are those of the networks.
"""

from functools import partial
from itertools import product

import numpy as np

from nearlin._array import fold_in
from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import starting, train
from nearlin.complexity.claims.spectra import jacobian
from nearlin.nn import TwoLayer
from nearlin.optim import GramGaussNewton

BPSW = "arXiv:2006.11648"
WIDE, NARROW = np.geomspace(2e-3, 5e-2, 5), np.geomspace(1e-5, 3e-3, 6)


def limit_kernel(x):
    """K as the network's Jacobian has it."""
    return jacobian(x, 8).kernel_gram()


def gram_to_kernel(full, kernel=limit_kernel):
    """||G - K||₂ over m, and the distance of K from its second form."""
    x = data.sphere(100, 10, 0)
    K = kernel(x)
    yield {"distance of both forms of K": float(np.max(np.abs(K - data.limit_kernel(x))))}
    for m, key in product((2**k for k in range(7, 18 if full else 16, 2)), range(16 if full else 6)):
        yield {"n": 100, "d": 10, "m": m, "seed": key, "‖G - K‖₂": np.linalg.norm(jacobian(x, m, fold_in(key, m)).gram() - K, 2)}


def near_duplicates_kernel(full, kernel=limit_kernel):
    """λ_min(K) of two points at the angle θ, beside θ/2π."""
    for theta in np.geomspace(1e-6 if full else 1e-4, 3e-2, 8):
        least = np.linalg.eigvalsh(kernel(data.pair_at_angle(theta, 10, 0)))[0]
        yield {"d": 10, "θ": theta, "λ_min(K)": least, "θ/2π": theta / (2 * np.pi)}


def near_duplicates_network(full, width, angles):
    """λ_min(G) of two points at the angle θ at finite width, whose crossing neurons number m θ/π."""
    m = width[full]
    for key, theta in product(range(41 if full else 11), angles):
        least = np.linalg.eigvalsh(jacobian(data.pair_at_angle(theta, 4, key), m, fold_in(key, 7)).gram())[0]
        yield {"d": 4, "m": m, "θ": theta, "m θ/π": m * theta / np.pi, "seed": key, "λ_min(G)": least}


def antipodal_pairs(full, kernel=limit_kernel):
    """λ_min(K) of d and of d + 1 antipodal pairs in dimension d; the arc cosine costs half of the digits at angle π."""
    for d, key in product((3, 4, 5, 6, 8, 12, 16) if full else (3, 4, 6), range(10 if full else 3)):
        few, many = (np.linalg.eigvalsh(kernel(data.antipodal_pairs(k, d, fold_in(key, d))))[0] for k in (d, d + 1))
        yield {"d": d, "seed": key, "λ_min(K), d pairs": few, "λ_min(K), d + 1 pairs": many}


def duplicates(key, n=100, d=10, copies=10, width=8192):
    """A wide network on points whose last ``copies`` repeat the first with other labels, and the loss that no fit undercuts."""
    x, y = data.sphere(n, d, key), data.labels(n, key)
    x[-copies:] = x[:copies]
    return starting(TwoLayer(d, width), x, y, key), float(np.sum((y[:copies] - y[-copies:]) ** 2) / 4)


def damping_fixes_duplicates(full, optimizer=GramGaussNewton):
    """½||r||² at the end for several λ_d over that of the label-averaged fit, which no network can undercut."""
    for damping, key in product([10.0**k for k in range(-6, 0)] if full else (1e-6, 1e-4, 1e-2, 1e-1), range(3 if full else 1)):
        p, floor = duplicates(key)
        steps = 8 + int(np.ceil(np.log(1e-3) / np.log(damping / (damping + 0.05))))  # of the slowest direction, λ_min(K) near .05
        run = train(optimizer(guard=False, damping=damping), p, key, steps)
        loss = 0.5 * run.residuals[-1] ** 2 / floor
        yield {"n": 100, "d": 10, "m": 8192, "λ_d": damping, "seed": key, "loss over the floor": loss}


def undamped_duplicates(full, damping=0.0):
    """Growth of the residual without damping, inverted: 0 where there is no such step."""
    for key in range(5 if full else 2):
        run = train(GramGaussNewton(guard=False, damping=damping), duplicates(key)[0], key, steps=8)
        yield {"n": 100, "d": 10, "m": 8192, "seed": key, "1 / largest ratio of residuals": 1 / max(run.ratios)}


CLAIMS = (
    claim("gram-to-kernel", 24, "limit kernel", f"derived; the concentration lemma of {BPSW}",
        "The Gram matrix at the start approaches its limit kernel like m^{-1/2}.", "Gaussian weights, points on the sphere",
        gram_to_kernel, Bound("‖G - K‖₂", -0.6, -0.4, over="m", draws="geometric mean", reduce="exponent"),
        Bound("distance of both forms of K", high=1e-7)),
    claim("near-duplicates-kernel", 25, "near-duplicates", "derived",
        "The smallest eigenvalue of the limit kernel of two points at a small angle θ is θ/2π.", "θ at most .03",
        near_duplicates_kernel, Bound("λ_min(K)", 0.95, 1.05, over="θ", reduce="exponent"),
        Bound("λ_min(K)", 0.95, 1.05, over="θ", per="θ/2π")),
    claim("near-duplicates-wide", 25, "near-duplicates", "derived",
        "At finite width the smallest eigenvalue is linear in θ when many neurons separate the two points.", "m well above π/θ",
        partial(near_duplicates_network, width=(2**17, 2**19), angles=WIDE),
        Bound("λ_min(G)", 0.85, 1.15, over="θ", draws="median", reduce="exponent")),
    claim("near-duplicates-narrow", 25, "near-duplicates", "derived",
        "At finite width the smallest eigenvalue is θ²/4 in most draws when no neuron separates the two points.",
        "m well below π/θ", partial(near_duplicates_network, width=(64, 64), angles=NARROW),
        Bound("λ_min(G)", 1.85, 2.15, over="θ", draws="median", reduce="exponent")),
    claim("antipodal-pairs", 26, "antipodal pairs", "derived",
        "Antipodal pairs of points are harmless up to d of them; with d + 1 the limit kernel is singular.",
        "points in general position", antipodal_pairs, Bound("λ_min(K), d pairs", low=2e-8, over="d", log="y"),
        Bound("λ_min(K), d + 1 pairs", -5e-9, 5e-9)),
    claim("damping-fixes-duplicates", 27, "damping", "derived",
        "With any damping, training on repeated points with contradicting labels ends at the fit of their averages.",
        "wide ReLU network, exact steps", damping_fixes_duplicates, Bound("loss over the floor", 0.99, 1.01, over="λ_d")),
    claim("undamped-duplicates", 27, "undamped duplicates", "derived",
        "Without damping the step on repeated points with contradicting labels explodes or does not exist.",
        "wide ReLU network, exact steps", undamped_duplicates,
        Bound("1 / largest ratio of residuals", 0, 0.1, over="seed", log="")),
)  # fmt: skip
