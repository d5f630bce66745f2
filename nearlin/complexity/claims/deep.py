"""Claims on deep networks of many outputs: preconditioners along training, effective dimension, precision, the outer loop.

Data are the digits that ship with scikit-learn, inputs divided by 16, raw or centred. Condition numbers are those of dense
matrices of n c rows, for n samples and c outputs. What is under test is a parameter, as everywhere in these tables.
"""

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from nearlin.complexity.claims import cost, data, timing
from nearlin.complexity.claims.check import Check
from nearlin.complexity.claims.outer import RATE_IS_ACCURACY, rate_is_accuracy
from nearlin.complexity.claims.preconditioning import (
    KRONECKER,
    RESOLVED,
    blocks,
    damped_condition,
    effective_dimension,
    finite_condition,
    gaussian_condition,
    sketched_gram,
)
from nearlin.complexity.claims.table import OUT_OF_REGIME, Claim, Outcome, Series
from nearlin.complexity.claims.trajectory import follow, judged
from nearlin.curvature import DampedGram
from nearlin.data import digits
from nearlin.linalg import FactorizationError, TriangularPreconditioner, axpy, cg, damped_cholesky, norm, nystrom, sketch_factor
from nearlin.nn import MLP, Objective, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredLoss, autoencoder
from nearlin.optim import GaussNewton, GramGaussNewton
from nearlin.steps import StepExit

# ------------------------------------------------------------------------------------------------- what is measured on


class Problem(NamedTuple):
    """An objective, parameters, and the batch (x, y)."""

    objective: Objective
    params: tuple
    batch: tuple

    def jacobian(self):
        """Cᵀ J with the roots C of the output Hessians."""
        return self.objective.at(self.params, self.batch).jacobian(weighted=True)


@functools.cache
def _digits():
    """Rows of 64 numbers in [0, 1], and labels."""
    images, _ = digits()
    return images.floats("float64", flat=True), np.asarray(images.y, dtype=np.int64)


def inputs(n, centred):
    """The first n digits; ``centred`` takes off the mean of all of them."""
    x, _ = _digits()
    return x[:n] - x.mean(axis=0) if centred else x[:n].copy()


def targets(n, c):
    """Least-squares targets (n, c): whether a digit is above 4, or which of the first c it is; less their mean."""
    y = _digits()[1][:n]
    found = np.where(y > 4, 1.0, -1.0)[:, None] if c == 1 else np.eye(10)[y][:, :c]
    return found - found.mean(axis=0)


SQUARED, SOFTMAX = SquaredLoss(), SoftmaxCrossEntropy()


def on_digits(n, c, widths, activation="relu", centred=True, loss=SQUARED, key=1):
    """A multi-layer perceptron on n digits: least squares on `targets`, or another loss on the labels."""
    x, network = inputs(n, centred), MLP((64, *widths, c), activation)
    y = targets(n, c) if loss == SQUARED else _digits()[1][:n]
    return Problem(Objective(network, loss), network.init(key, x), (x, y))


def autoencoding(n, key=1):
    """The auto-encoder 64-32-16-8 with tanh on n digits, by cross-entropy."""
    x, network = inputs(n, centred=False), autoencoder((64, 32, 16, 8), "tanh")
    return Problem(Objective(network, SigmoidCrossEntropy()), network.init(key, x), (x, x))


def walk(p, optimizer, steps, until=0.0):
    """(problem, info) for every step, the problem as it was before it; at the end, the last problem and None."""
    state = optimizer.init(p.params, p.objective)
    for t in range(steps):
        params, state, info = optimizer.step(p.params, state, p.objective, p.batch, t)
        yield p, info
        p = p._replace(params=params)
        if info.new_loss <= until or StepExit.of(info.reason) is StepExit.STALLED:
            break
    yield p, None


def trained(p, steps, optimizer=None):
    """The problem after some steps."""
    *_, (after, _) = walk(p, optimizer or GaussNewton(), steps)
    return after


def _list(values, digits=3):
    return ", ".join(f"{value:.{digits}g}" for value in values)


# --------------------------------------------------------------------------------------- sketches summed over the layers


class Sketched(NamedTuple):
    """One network at one time: rank of G, κ(G), the median κ_pre, and (d_eff, median κ_pre) for some dampings."""

    label: str
    activation: str
    rows: int
    rank: int
    kappa: float
    median: float
    damped: tuple


SHARES = (1e-5, 1e-3, 1e-1)  # dampings over the largest eigenvalue
NARROW = (8, 8, 8)  # too few active parameters for independent rows of 13 digits and 10 outputs


def _networks(full):
    """(activation, centred, widths, n c, c) of every case."""
    depths, sizes = ((2, 3, 4, 5), (128, 256, 512)) if full else ((2, 5), (128,))
    for activation in ("relu", "tanh"):
        for centred in (False, True):
            for size in sizes:
                for i, depth in enumerate(depths):
                    for c in (1, 10) if full else ((1, 10)[i],):
                        yield activation, centred, (128,) * (depth - 1), size, c
    yield "relu", False, NARROW, 128, 10


@functools.cache
def sketches_on_digits(full, sketch=KRONECKER, ratio=4, draws=5, steps=4):
    """A `Sketched` of every network, at the start and after some exact steps."""
    found = []
    for activation, centred, widths, size, c in _networks(full):
        start = on_digits(round(size / c), c, widths, activation, centred)
        label = f"{activation} 64-{'-'.join(map(str, widths))}-{c}, {'centred' if centred else 'raw'}"
        for when, p in (("start", start), (f"{steps} steps", trained(start, steps, GramGaussNewton()))):
            found.append(_sketched(f"{label}, {when}", activation, p.jacobian(), sketch, ratio, draws))
    return tuple(found)


def _sketched(label, activation, J, sketch, ratio, draws):
    G, grams = J.gram(), [sketched_gram(J, sketch, ratio, key) for key in range(draws)]
    spectrum = np.maximum(np.linalg.eigvalsh(G), 0.0)
    median = lambda damping: float(np.median([damped_condition(G, gram, damping) for gram in grams]))  # noqa: E731
    kappa = float(spectrum[-1] / spectrum[0]) if spectrum[0] > 0 else math.inf
    damped = tuple((effective_dimension(spectrum, share * spectrum[-1]), median(share * spectrum[-1])) for share in SHARES)
    rank = int(np.sum(spectrum > spectrum[-1] / RESOLVED))
    return Sketched(label, activation, len(G), rank, kappa, median(0.0) if kappa < RESOLVED else math.inf, damped)


def _regular(found):
    """Those whose undamped κ_pre float64 resolves, and words on the others."""
    regular = [one for one in found if one.kappa < RESOLVED]
    left = [f"{one.label} (rank {one.rank} of {one.rows})" for one in found if one.kappa >= RESOLVED]
    return regular, f"; out of regime, as the rows of J depend on each other: {'; '.join(left)}" if left else ""


def layer_sum_on_digits(full, sketch=KRONECKER, ratio=4, most=9.9, tolerance=0.1):
    """Medians of κ_pre at s = 4nc: below ``most``, and near that of a Gaussian sketch of as many rows."""
    return _judged_medians(sketches_on_digits(full, sketch, ratio), lambda m, off: m[-1] <= most and off <= tolerance)


def layer_sum_band(full, sketch=KRONECKER, ratio=4, low=8.1, high=9.9):
    """The same medians: whether all of them are within [``low``, ``high``]."""
    return _judged_medians(sketches_on_digits(full, sketch, ratio), lambda m, off: low <= m[0] and m[-1] <= high, low)


def _judged_medians(found, holds, low=0.0):
    """The `Outcome` for ``holds(medians, off)``: medians ascending, and their distance from the Gaussian sketch's."""
    regular, left = _regular(found)
    if not regular:
        return Outcome("no Gram matrix that float64 resolves", OUT_OF_REGIME, left.removeprefix("; "))
    medians = sorted(one.median for one in regular)
    off = max(abs(one.median / finite_condition(one.rows, 4) - 1) for one in regular)
    below = [one for one in regular if one.median < low]
    sizes = sorted({one.rows for one in regular})
    detail = f"{len(regular)} medians of 5 draws, nc = {_list(sizes)}, κ(G) up to {max(one.kappa for one in regular):.0e}{left}"
    if below:
        detail += f"; {len(below)} below {low}, at nc = {_list(sorted({one.rows for one in below}))}: better than in the limit"
    value = f"{medians[0]:.2f} to {medians[-1]:.2f}, within {off:.1%} of a Gaussian sketch at that size"
    return Outcome(value, judged(holds(medians, off)), detail, tuple(_over_kappa(regular)))


def _over_kappa(regular):
    for activation in ("relu", "tanh"):
        some = sorted((one.kappa, one.median, finite_condition(one.rows, 4)) for one in regular if one.activation == activation)
        kappas, medians, expected = zip(*some, strict=True)
        yield Series(activation, kappas, medians, expected, "κ(G)", "median κ_pre")


def damped_on_digits(full, sketch=KRONECKER, ratio=4, limit=1.2):
    """Median κ_pre of the damped system over the formula with d_eff for n c, at s = 4nc."""
    found = sketches_on_digits(full, sketch, ratio)
    points = [(d / one.rows, kappa, one.activation) for one in found for d, kappa in one.damped]
    excess = max(kappa / gaussian_condition(4 / share) for share, kappa, _ in points)
    series = []
    for activation in ("relu", "tanh"):
        shares, kappas = zip(*sorted((share, kappa) for share, kappa, phi in points if phi == activation), strict=True)
        bound = tuple(gaussian_condition(4 / share) for share in shares)
        series.append(Series(activation, shares, kappas, bound, "d_eff/(n c)", "median κ_pre", "y"))
    detail = f"{len(points)} cases: the networks of kappa-digits, singular ones too, λ = {_list(SHARES)} times the largest"
    return Outcome(f"at most {excess:.2f} of the formula", judged(excess <= limit), f"{detail} eigenvalue", tuple(series))


# ------------------------------------------------------------------------------------------------------- blocks of G


class Along(NamedTuple):
    """κ along training: without a preconditioner, with Ḡ ⊗ I_c, and with one Gram matrix per class; the loss at the end."""

    plain: tuple
    averaged: tuple
    by_class: tuple
    end: float


TARGET = 1e-4  # loss at which digits are learnt


@functools.cache
def blocks_along(loss, n, key, optimizer, until=TARGET, steps=40):
    """`Along` a run of 64-256-256-10 on n centred digits; `SquaredLoss` undamped, with the trained network; else damped by λ."""
    rows, squared, end = [], loss == SQUARED, math.inf
    for p, info in walk(on_digits(n, 10, (256, 256), loss=loss, key=key), optimizer, steps, until):
        if info is None and not squared:
            break
        damping = 0.0 if squared else n * info.damping
        end = info.new_loss if info is not None else end
        J = p.jacobian()
        G = J.gram()
        made = (blocks((J.mean_gram(),), 10), blocks(J.class_grams(), 10))
        plain = float(np.linalg.cond(G + damping * np.eye(G.shape[0])))
        rows.append((plain, *(damped_condition(G, matrix, damping) for matrix in made)))
    return Along(*map(tuple, zip(*rows, strict=True)), end)


def _steps(values):
    return tuple(range(len(values)))


def averaged_on_digits(full, optimizer=None, low=5 / 1.15, high=11 * 1.15, size=None):
    """κ of Ḡ ⊗ I_c at every step of least squares: the median over seeds."""
    n, seeds = size or (100 if full else 50), (1, 2, 3) if full else (1, 2)
    runs = [blocks_along(SQUARED, n, key, optimizer or GaussNewton(), 1e-6) for key in seeds]
    shortest = min(len(run.plain) for run in runs)
    kappas = tuple(np.median([run.averaged[:shortest] for run in runs], axis=0).tolist())
    plain = tuple(np.median([run.plain[:shortest] for run in runs], axis=0).tolist())
    series = [Series("Ḡ ⊗ I_c", _steps(kappas), kappas, (11.0,) * shortest, "step, least squares", "κ", "y")]
    series.append(Series("none", _steps(plain), plain, None, "step, least squares", "κ", "y"))
    sizes = (13, 25, 50, 100)[: 4 if full else 3]
    grown = tuple(float(np.median([_averaged_start(m, key) for key in seeds])) for m in sizes)
    series.append(Series("Ḡ ⊗ I_c at the start", sizes, grown, None, "n", "κ at the start"))
    detail = f"n = {n}, {len(seeds)} seeds, every step: {_list(kappas)}; at the start for n = {_list(sizes)}: {_list(grown)}"
    value = f"{min(kappas):.1f} to {max(kappas):.1f}, none {plain[0]:.0f}"
    return Outcome(value, judged(low <= min(kappas) and max(kappas) <= high), detail, tuple(series))


def _averaged_start(n, key):
    J = on_digits(n, 10, (256, 256), key=key).jacobian()
    return damped_condition(J.gram(), blocks((J.mean_gram(),), 10))


def _softmax_run(full, optimizer, size, loss=SOFTMAX):
    """The `Along` of cross-entropy, its size, and whether it arrived."""
    n = size or (100 if full else 40)
    run = blocks_along(loss, n, 1, optimizer or GaussNewton())
    return run, n, run.end <= TARGET


def _softmax_series(run):
    found = {"none": (run.plain, None), "Ḡ ⊗ I_c": (run.averaged, None)}
    found["one Gram matrix per class"] = run.by_class, (300.0,) * len(run.by_class)
    axes = ("step, cross-entropy", "κ, damped by λ of the step", "y")
    return tuple(Series(label, _steps(kappas), kappas, limit, *axes) for label, (kappas, limit) in found.items())


def averaged_on_softmax(full, optimizer=None, loss=SOFTMAX, size=None):
    """Whether Ḡ ⊗ I_c is worse than no preconditioner at every step of cross-entropy."""
    run, n, arrived = _softmax_run(full, optimizer, size, loss)
    ratios = np.divide(run.averaged, run.plain)
    detail = f"n = {n}, loss {run.end:.1e} at the end; every step: {_list(run.averaged)}; none: {_list(run.plain)}"
    value = f"{ratios.min():.2f} to {ratios.max():.2f} times that of none"
    return Outcome(value, judged(ratios.min() > 1, arrived), detail, _softmax_series(run)[:2])


def per_class_on_softmax(full, optimizer=None, limit=300.0, size=None):
    """κ of one Gram matrix per class at the end of the run."""
    run, n, arrived = _softmax_run(full, optimizer, size)
    detail = f"n = {n}, loss {run.end:.1e} at the end; every step: {_list(run.by_class)}"
    value = f"{run.by_class[-1]:.0f} at the end, where none has {run.plain[-1]:.0f}"
    return Outcome(value, judged(run.by_class[-1] <= limit, arrived), detail, _softmax_series(run))


# --------------------------------------------------------------------------------------------- kept preconditioners


def kept_along(p, steps=12, sketch=KRONECKER, optimizer=None):
    """κ_pre of the first Gram matrix and of the first sketch at every step of training; (steps, 2)."""
    kept, rows = None, []
    for q, _ in walk(p, optimizer or GaussNewton(plan="exact"), steps, until=1e-8):
        J = q.jacobian()
        G = J.gram()
        kept = kept or (G, sketched_gram(J, sketch, 4, 0))
        rows.append([data.preconditioned_condition(G, matrix) for matrix in kept])
    return np.array(rows)


KEPT = ("first Gram matrix", "first sketch")
LAZY, BEYOND = (1.3, 10.0), (16.0, 40.0)  # of these: in the lazy regime; on collinear inputs, out of it


def kept_on_deep(full, deep=(64, 64, 64), wide=None, widths=None):
    """Growth of κ_pre of kept preconditioners on deep narrow networks on digits, beside a wide shallow one."""
    wide = wide or ((4096,) if full else (2048,))
    n, kinds = (50, [(phi, c) for phi in ("relu", "tanh") for c in (False, True)]) if full else (25, [("relu", False)])
    series, ends = [], []
    for activation, centred in kinds:
        rows = kept_along(on_digits(n, 10, deep, activation, centred))
        ends.append(rows.max(axis=0))
        label = f"{activation}, {'-'.join(map(str, deep))}, {'centred' if centred else 'raw'}"
        series += _kept_series(label, rows, BEYOND)
    shallow = kept_along(on_digits(n, 10, wide, *kinds[0]))
    series += _kept_series(f"{kinds[0][0]}, {'-'.join(map(str, wide))}, raw", shallow, LAZY)
    least, lazy = np.min(ends, axis=0), shallow.max(axis=0)
    widths = widths or (32, 64, 128, 256, 512, *((1024,) if full else ()))
    over = np.array([kept_along(on_digits(n, 10, (width,) * 3, *kinds[0])).max(axis=0) for width in widths])
    for name, column in zip(KEPT, over.T.tolist(), strict=True):
        series.append(Series(name, widths, tuple(column), None, "width, 3 layers", "largest κ_pre"))
    value = f"deep: first Gram matrix {least[0]:.0f}, first sketch {least[1]:.0f}; wide: {lazy[0]:.2f}, {lazy[1]:.1f}"
    detail = f"n = {n}, c = 10, to a loss of 1e-8; {len(kinds)} deep network(s), the least of their largest κ_pre; "
    detail += f"3 layers of {_list(widths, 4)}: first Gram matrix {_list(over[:, 0])}"
    return Outcome(value, judged(np.all(least >= BEYOND) and np.all(lazy <= LAZY)), detail, tuple(series))


def _kept_series(label, rows, limits):
    pairs = zip(KEPT, rows.T.tolist(), limits, strict=True)
    return [
        Series(label, _steps(rows), tuple(y), (limit,) * len(rows), "step", f"κ_pre, {name}", "y") for name, y, limit in pairs
    ]


# ---------------------------------------------------------------------------------------------- effective dimension


class Damped(NamedTuple):
    """A Gram matrix at one damping μ: its share of the largest eigenvalue, and the effective dimension."""

    share: float
    damping: float
    dimension: float


@functools.cache
def decaying(full):
    """(label, J, G, its `Damped`) of an auto-encoder after some steps, and of a tanh network with one output on raw digits."""
    found = []
    cases = {
        "auto-encoder": (trained(autoencoding(12 if full else 5), 6), (1.0, 0.3, 0.1, 0.03, 0.01)),
        "tanh, c = 1": (on_digits(512 if full else 256, 1, (128, 128), "tanh", centred=False), (1e-1, 1e-2, 1e-3, 1e-4)),
    }
    for label, (p, shares) in cases.items():
        J = p.jacobian()
        G = J.gram()
        spectrum = np.linalg.eigvalsh(G)
        dampings = [(share, share * float(spectrum[-1])) for share in shares]
        found.append((label, J, G, tuple(Damped(s, mu, effective_dimension(spectrum, mu)) for s, mu in dampings)))
    return tuple(found)


def _nystrom(G, damped, key, **options):
    """A `Nystrom` of G, and κ that it leaves."""
    n = G.shape[0]
    P = nystrom(lambda Z: G @ Z, n, key, damped.damping, like=G, **options)
    values = P.values + P.damping
    matrix = np.eye(n) + (P.U * (values / values[-1] - 1)) @ P.U.T
    return P, data.preconditioned_condition(G + P.damping * np.eye(n), matrix)


def theorem_rank(dimension):
    """2⌈1.5 d_eff⌉ + 1."""
    return 2 * math.ceil(1.5 * dimension) + 1


def nystrom_rank(full, rank=theorem_rank, limit=28.0, draws=3):
    """Mean κ that a Nyström preconditioner of a rank made from d_eff leaves."""
    series, worst, left = [], 0.0, []
    for label, _, G, dampings in decaying(full):
        ranks = {one: rank(one.dimension) for one in dampings}
        large = [one for one in dampings if ranks[one] >= G.shape[0]]
        left += [f"{label} at λ = {one.share:g} of the largest, where it is {ranks[one]} of {G.shape[0]}" for one in large]
        usable = tuple(one for one in dampings if one not in large)
        dimensions = tuple(one.dimension for one in usable)
        kappas = tuple(_mean_kappa(G, one, ranks[one], draws) for one in usable)
        halves = tuple(_mean_kappa(G, one, math.ceil(one.dimension / 2), draws) for one in usable)
        worst = max(worst, *kappas)
        axes = ("d_eff", "κ left by Nyström")
        series.append(Series(label, dimensions, kappas, (limit,) * len(kappas), *axes))
        series.append(Series(f"{label}, rank d_eff/2", dimensions, halves, None, *axes))
        series.append(_plain_counts(label, G, dampings))
    detail = f"{draws} draws; d_eff {_list([d for one in series[::3] for d in one.x])}"
    detail += f"; out of regime: {', '.join(left)}" if left else ""
    return Outcome(f"at most {worst:.2f}", judged(worst <= limit), detail, tuple(series))


def _mean_kappa(G, damped, rank, draws):
    return float(np.mean([_nystrom(G, damped, key, rank=rank, max_rank=rank, accuracy=0.0)[1] for key in range(draws)]))


def _iterations(G, damping, **options):
    """Iterations of CG to 1e-6 on a random right-hand side."""
    return cg(lambda v: G @ v + damping * v, data.labels(G.shape[0], 1), rtol=1e-6, **options)[1].iterations


def _plain_counts(label, G, dampings):
    """Iterations without a preconditioner, which grow as the damping falls."""
    counts = tuple(_iterations(G, one.damping) for one in dampings)
    dimensions = tuple(one.dimension for one in dampings)
    return Series(f"{label}, no preconditioner", dimensions, counts, None, "d_eff", "iterations to 1e-6")


def adaptive_rank(full, accuracy=0.2):
    """The rank that doubling takes for an error of μ/5, against twice the theorem's for μ/15; what iterations it leaves."""
    series, ratios, counts, excess = [], [], [], 0.0
    for label, _, G, dampings in decaying(full):
        n, spectrum, ranks = G.shape[0], np.linalg.eigvalsh(G), []
        for damped in dampings:
            P, _ = _nystrom(G, damped, 0, rank=2, max_rank=n, accuracy=accuracy)
            counts.append(_iterations(G, P.damping, preconditioner=P))
            ranks.append(P.rank)
        dimensions = tuple(one.dimension for one in dampings)
        enough = tuple(2 * theorem_rank(effective_dimension(spectrum, one.damping / 15)) for one in dampings)
        ratios += np.divide(ranks, dimensions).tolist()
        excess = max(excess, *np.divide(ranks, enough).tolist())
        series.append(Series(f"{label}, n c = {n}", dimensions, tuple(ranks), enough, "d_eff", "rank by doubling"))
    value = f"at most {excess:.2f} times that; {min(ratios):.1f} to {max(ratios):.1f} d_eff"
    detail = f"ranks 2, 4, 8, ... until the error is at most μ/5; they leave {min(counts)} to {max(counts)} iterations to 1e-6"
    return Outcome(value, judged(excess <= 1), detail, tuple(series))


def rows_by_dimension(full, sketch=KRONECKER, ratio=4.0, draws=5):
    """Median κ_pre of the damped system with s = 4 d_eff sketch rows, be they fewer than n c."""
    series, worst = [], 0.0
    limit = gaussian_condition(4)
    for label, J, G, dampings in decaying(full):
        n, kappas = G.shape[0], []
        for damped in dampings:
            share = ratio * damped.dimension / n
            drawn = [damped_condition(G, sketched_gram(J, sketch, share, key), damped.damping) for key in range(draws)]
            kappas.append(float(np.median(drawn)))
        shares = tuple(4 * one.dimension / n for one in dampings)
        worst = max(worst, *kappas)
        series.append(Series(label, shares, tuple(kappas), (limit,) * len(kappas), "s/(n c)", "median κ_pre, s = 4 d_eff"))
    shares = [share for one in series for share in one.x]
    detail = f"s from {min(shares):.2f} to {max(shares):.2f} times n c = {_list([len(G) for _, _, G, _ in decaying(full)])}"
    return Outcome(f"at most {worst:.2f}", judged(worst <= 1.2 * limit), f"{detail}, {draws} draws", tuple(series))


# ------------------------------------------------------------------------------------------------------- precision


class Precise(NamedTuple):
    """A system whose factors are float32 numbers: J in float32, the same in float64, b, λ, δ to float64, and R of a sketch."""

    J: object
    outer: object
    b: np.ndarray
    damping: float
    step: tuple
    preconditioner: TriangularPreconditioner


def precise(problem, share=1e-8, sketch=KRONECKER):
    """The system of a float32 problem with one output; λ = ``share`` times the largest eigenvalue of J Jᵀ."""
    J, b = problem.jacobian(), problem.objective.at(problem.params, problem.batch).residual.astype("float64")
    outer = J.astype("float64")
    G = outer.gram()
    damping = share * float(np.linalg.eigvalsh(G)[-1])
    rows = J.sketch(J.draw(sketch, 0, 4 * len(b), problem.batch[0]))
    R, _ = sketch_factor(rows @ rows.T, damping, rows)
    return Precise(J, outer, b, damping, _exact_step(outer, G, b, damping), TriangularPreconditioner(R))


def _exact_step(J, G, b, damping):
    """δ = Jᵀu by Cholesky of G and refinement."""
    solve, u = TriangularPreconditioner(damped_cholesky(G, damping)), np.zeros_like(b)
    for _ in range(4):
        u = u + solve(_rest(J, u, b, damping))
    return J.rmatvec(u)


def _rest(J, u, b, damping):
    """b - (J Jᵀ + λ I) u."""
    return b - J.gram_matvec(u) - damping * u


def corrected(p, corrections, rtol=1e-6):
    """u in float64 from solves in float32, one more for the float64 residual of every correction; and δ as these sum it up."""
    u, summed = np.zeros_like(p.b), None
    for _ in range(1 + corrections):
        operator = DampedGram(p.J, p.damping)
        rest = _rest(p.outer, u, p.b, p.damping).astype("float32")
        options = {"preconditioner": p.preconditioner, "rtol": rtol, "maxiter": 60, "certify": False}
        du, _ = cg(operator, rest, on_step=operator.accumulate, **options)
        u = u + du.astype("float64")
        summed = operator.adjoint if summed is None else axpy(1.0, operator.adjoint, summed)
    return u, summed


def step_error(p, step):
    """||δ - δ_exact|| / ||δ_exact||."""
    return norm(axpy(-1.0, p.step, tuple(V.astype("float64") for V in step))) / norm(p.step)


def gram_error(p):
    """The error of the step by Cholesky of the float32 Gram matrix; infinite where that is not positive definite."""
    try:
        R = damped_cholesky(p.J.gram(), p.damping)
    except FactorizationError:
        return math.inf
    return step_error(p, p.J.rmatvec(TriangularPreconditioner(R)(p.b.astype("float32"))))


def precise_problems(full):
    """tanh on Gaussian points in the plane, and ReLU on near-duplicates: float32, two hidden layers, at their start."""
    n, width = (400, 256) if full else (200, 128)
    kinds = {
        f"tanh, {n} Gaussian points": (np.random.default_rng(1).standard_normal((n, 2)), "tanh"),
        f"relu, {n} near-duplicates": (data.near_duplicates(n, 16, 1, 1e-4), "relu"),
    }
    return {label: _single(x, activation, width) for label, (x, activation) in kinds.items()}


def _single(x, activation, width):
    x, network = x.astype("float32"), MLP((x.shape[1], width, width, 1), activation)
    return Problem(Objective(network, SquaredLoss()), network.init(1, x), (x, data.labels(len(x), 1).astype("float32")))


def float64_correction(full, correct=corrected, limit=1e-7):
    """Errors of δ = Jᵀu by float32 solves, with and without a float64 residual and a float64 Jᵀ."""
    found, series, counts = [], [], (0, 1, 2)
    for label, problem in precise_problems(full).items():
        p = precise(problem)
        solves = [correct(p, corrections) for corrections in counts]
        errors = tuple(step_error(p, p.outer.rmatvec(u)) for u, _ in solves)
        rounded = tuple(step_error(p, p.J.rmatvec(u.astype("float32"))) for u, _ in solves)
        found.append((*errors[:2], rounded[1], step_error(p, solves[1][1]), gram_error(p)))
        axes = ("float64 corrections", "error of δ", "y")
        series.append(Series(label, counts, errors, (limit,) * 3, *axes))
        series.append(Series(f"{label}: Jᵀu in float32", counts, rounded, None, *axes))
    floors, after, rounded, summed, gram = zip(*found, strict=True)
    holds = max(after) <= limit and min(gram) > 1e-2 and min(rounded) >= 1e-6
    fails = ["not positive definite" if error == math.inf else f"{error:.0e}" for error in gram]
    detail = f"λ = 1e-8 of the largest eigenvalue; {', '.join(precise_problems(full))}; float32 alone {_powers(floors)}; "
    detail += f"u corrected, but Jᵀu in float32 {_powers(rounded)}, or summed up along the solves {_powers(summed)}; "
    detail += f"float32 Gram matrix and Cholesky: {', '.join(fails)}"
    return Outcome(f"{_powers(after)} after one correction", judged(holds), detail, tuple(series))


def _powers(values):
    return ", ".join(f"{value:.0e}" for value in values)


def float64_step(full, optimizer=None, limit=1e-6, epsilons=(1e-2, 1e-4, 1e-6)):
    """Error of the step that `GaussNewton` takes in float32 with its residual in float64; judged at the smallest ε."""
    optimizer = optimizer or partial(GaussNewton, plan="sketch", residual_dtype="float64")
    found, series, residuals = [], [], []
    for label, problem in precise_problems(full).items():
        p, errors = precise(problem), []
        for epsilon in epsilons:
            opt = optimizer(epsilon=epsilon, damping=p.damping / len(p.b), guard=False)
            (_, info), (after, _) = walk(problem, opt, 1)
            pairs = zip(problem.params, after.params, strict=True)
            errors.append(step_error(p, tuple(old.astype("float64") - new.astype("float64") for old, new in pairs)))
        found.append(errors[-1])
        residuals.append(info.solve.residual)
        series.append(Series(label, epsilons, tuple(errors), (limit,) * len(epsilons), "ε of the solve", "error of the step"))
    detail = f"{', '.join(precise_problems(full))}; sketch route, λ = 1e-8 of the largest eigenvalue, ε = {epsilons[-1]:g}; "
    detail += f"residuals of the solves {_powers(residuals)}"
    return Outcome(_powers(found), judged(max(found) <= limit), detail, tuple(series))


# ------------------------------------------------------------------------------------------- the outer loop, and the plan


def deep_run(optimizer, key, n=24, d=10, widths=(256, 256, 256)):
    """A run of a deep wide tanh network on the sphere, down to 1e-11 of the first residual."""
    x, y = data.sphere(n, d, key), data.labels(n, key)
    objective = Objective(MLP((d, *widths, 1), "tanh"), SquaredLoss())
    return follow(optimizer, objective, objective.network.init(key, x), (x, y), key, steps=40, reduction=1e-11)


UNDAMPED = partial(GaussNewton, plan="sketch", damping=1e-12, guard=False)


def deep_rates(full, optimizer=UNDAMPED):
    """The rows of `rate_is_accuracy` on a deep network."""
    return rate_is_accuracy(full, optimizer, (0.5, 1 / 3, 1 / 6, 0.1, 0.01), deep_run)


ROUTES = ("exact", "sketch", "kernel")


def planner_break_even(full, timer=timing.interleaved, steps=4, share=0.9, near=1.3, far=1.6):
    """Seconds of some steps by the planner's choice over those of the best route; and what the routes gain over the exact one."""
    grid = [(n, ratio) for ratio in (4, 32) for n in ((64, 128, 256, 512, 1024) if full else (32, 64))]
    found, chosen = {}, set()
    for n, ratio in grid:
        p = cost.problem(n, 16, ratio * n)
        calls = {plan: partial(_routes, p, GaussNewton(plan=plan), steps) for plan in ("auto", *ROUTES)}
        found[n, ratio] = timer(calls, rounds=3)
        chosen |= calls["auto"]()
    excess = {at: seconds["auto"] / min(seconds[route] for route in ROUTES) for at, seconds in found.items()}
    worst = max(excess, key=excess.get)
    within = sum(one <= near for one in excess.values()) / len(excess)
    value = f"at most {excess[worst]:.2f} times the best route, at n = {worst[0]}, m = {worst[1]}n; "
    value += f"within {near} on {within:.0%} of the grid"
    detail = (
        f"{steps} steps of two-layer networks, d = 16, float64, default rates; n = {grid[0][0]} to {grid[-1][0]}, m = 4n, 32n; "
    )
    detail += f"chosen: {', '.join(sorted(chosen))}; largest gain over the exact route: "
    detail += ", ".join(f"{route} {max(s['exact'] / s[route] for s in found.values()):.2f}" for route in ("auto", *ROUTES[1:]))
    holds = within >= share and excess[worst] <= far
    return Outcome(
        value, judged(holds), detail, tuple(_gains(found, ratio, plan) for ratio in (4, 32) for plan in ("auto", "best"))
    )


def _gains(found, ratio, plan):
    some = {n: seconds for (n, m), seconds in found.items() if m == ratio}
    best = lambda seconds: min(seconds[route] for route in ROUTES) if plan == "best" else seconds[plan]  # noqa: E731
    gains = tuple(seconds["exact"] / best(seconds) for seconds in some.values())
    return Series(f"m = {ratio} n, {plan}", tuple(some), gains, (1.0,) * len(gains), "n", "exact route's time over it")


def _routes(p, optimizer, steps):
    """The routes of some steps."""
    visited = walk(Problem(p.objective, p.params, (p.x, p.y)), optimizer, steps)
    return {info.plan.partition(":")[0] for _, info in visited if info is not None}


# ---------------------------------------------------------------------------------------------------------- the table

NYSTROM = "arXiv:2110.02820"
DIGITS = "digits, one-hot targets or signs less their mean"


def _claim(id, number, family, statement, quantity, expected, condition, measure, paper="derived", how="convergence", **options):
    return Claim(id, number, family, paper, statement, quantity, how, expected, condition, measure, **options)


CLAIMS = (
    _claim(
        "kappa-digits", 30, "deep networks",
        "On real digits, too, sketches summed over layers precondition like a Gaussian sketch, before and after training.",
        "median κ_pre of 5 draws at s = 4nc", "at most 9.9; within 10 % of a Gaussian sketch of as many rows (8.5 at nc = 128)",
        f"{DIGITS}, raw and centred; 2 to 5 layers, ReLU and tanh, undamped, κ(G) below 1e12; σ = 4", layer_sum_on_digits,
    ),
    _claim(
        "kappa-digits-band", 30, "deep networks",
        "All of these medians lie within ten percent of the limit 9.", "median κ_pre of 5 draws at s = 4nc", "8.1 to 9.9",
        "the same; at nc = 128 a Gaussian sketch's own median of 5 draws falls below 8.1 once in 40 times", layer_sum_band,
        should_hold=False, quick=False,
    ),
    _claim(
        "kappa-digits-damped", 28, "deep networks",
        "With damping the effective dimension takes the place of the number of rows.", "median κ_pre of 5 draws at s = 4nc",
        "at most 1.2 ((1+√(d_eff/s))/(1-√(d_eff/s)))²", "the same, and singular Gram matrices", damped_on_digits,
    ),
    _claim(
        "kappa-class-averaged-digits", 31, "deep networks",
        "With the squared loss Ḡ ⊗ I_c stays a good preconditioner from the start to the trained network.",
        "κ at every step, median over seeds", "5 to 11, within 15 %",
        "64-256-256-10, ReLU, centred digits, n = 100 (quick: 50); grows with n", averaged_on_digits,
    ),
    _claim(
        "kappa-class-averaged-softmax", 31, "deep networks",
        "With cross-entropy Ḡ ⊗ I_c is worse than no preconditioner.", "κ over that without one, at every step",
        "above 1 throughout",
        "64-256-256-10, ReLU, centred digits, damped by λ of the step, n = 100 (quick: 40)", averaged_on_softmax,
    ),
    _claim(
        "kappa-per-class-softmax", 31, "deep networks",
        "With cross-entropy one Gram matrix per class preconditions to the end.", "κ at the end of the run", "at most 300",
        "the same run, to a loss of 1e-4", per_class_on_softmax,
    ),
    _claim(
        "kappa-kept-deep", 29, "deep networks",
        "Out of the lazy regime a preconditioner made at the start does not serve all along; on a wide shallow network it does.",
        "largest κ_pre along training", "above 16 (first Gram matrix) and 40 (first sketch); wide: at most 1.3 and 10",
        "3 layers of 64 on raw digits, to a loss of 1e-8; wide: one layer, 80 neurons a sample", kept_on_deep,
    ),
    _claim(
        "nystrom-rank", 28, "effective dimension",
        "A Nyström preconditioner of rank 2⌈1.5 d_eff⌉ + 1 leaves a constant condition number.", "mean κ of 3 draws",
        "at most 28", "that rank below n c", nystrom_rank, f"derived from {NYSTROM}, Theorem 5.1",
    ),
    _claim(
        "nystrom-adaptive-rank", 28, "effective dimension",
        "The rank that doubling finds for an error of μ/5 is at most twice what the theorem takes for μ/15.", "rank by doubling",
        "at most 2 (2⌈1.5 d_eff(μ/15)⌉ + 1)", "rank 2 at first; the theorem expects an error of 3 μ at its rank for μ",
        adaptive_rank, f"derived from {NYSTROM}, Theorem 5.1",
    ),
    _claim(
        "kappa-rows-by-dimension", 28, "effective dimension",
        "4 d_eff rows of a sketch are enough, be they fewer than the system has.", "median κ_pre of 5 draws at s = 4 d_eff",
        "at most 1.2 times 9", "a damped system whose spectrum decays", rows_by_dimension,
    ),
    _claim(
        "float64-correction", 32, "deep precision",
        "One float64 residual takes a float32 solve to 1e-7 where the float32 Gram matrix fails; Jᵀu in float32 loses it again.",
        "relative error of δ = Jᵀu", "at most 1e-7; Gram matrix: not positive definite, or 1e-2; Jᵀu in float32: 1e-6 or worse",
        "λ = 1e-8 of the largest eigenvalue of J Jᵀ; products and R in float32", float64_correction,
    ),
    _claim(
        "float64-step", 32, "deep precision",
        "The step of GaussNewton in float32 with a float64 residual is as good as its float32 parameters.",
        "relative error of the step taken", "at most 1e-6", "the same systems; guard off", float64_step,
    ),
    _claim(
        "rate-is-accuracy-deep", 3, "deep outer loop",
        "On deep wide networks the accuracy of the linear solve sets the rate of convergence, too.",
        "ratio of residuals over the achieved inner residual", "1 within 5 %; at most 1.05 ε₀, in the mean .15 ε₀ or more",
        "tanh, 3 layers of 256, points on the sphere; damping 1e-12, which adds nothing; residual below .005 of the inner one "
        "times the first, above rounding",
        Check(deep_rates, *RATE_IS_ACCURACY),
        "(★) of the convergence proof, derived",
    ),
    _claim(
        "break-even-plan", 33, "deep outer loop",
        "By the planner's choice steps take about as long as by the best of the exact, the sketch and the kernel route.",
        "time over that of the best route", "within 1.3 on 90 % of the grid, 1.6 everywhere",
        "the default table of rates, which is of two idle cores; measured on one thread", planner_break_even, how="time",
        should_hold=False,
    ),
)  # fmt: skip
