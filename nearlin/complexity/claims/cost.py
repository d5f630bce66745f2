"""Claims on cost: exact operation counts of the public functions and of the whole step, and the times of the same.

Counted claims run on counting arrays and find degrees by finite differences, with no tolerance; sizes are multiples of the
sketch's groups. Timed claims take the minimum over interleaved rounds of the processor time of one thread, with one BLAS thread,
so that other processes disturb them little.
"""

import math
import time
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from nearlin.complexity import cost
from nearlin.complexity.claims import data
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME, Claim, Outcome, Series
from nearlin.complexity.counting import count, wrap
from nearlin.complexity.degree import degree, leading_term
from nearlin.complexity.fit import contest, fit_exponent, fit_with_floor
from nearlin.linalg import axpy, damped_cholesky
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton, NearLinearGaussNewton
from nearlin.sketch import KroneckerSRHT, NeuronSigns

PAPER, GRAM_PAPER = "arXiv:2006.11648", "arXiv:1905.11675"
INNER = 4  # K, where the number of inner iterations is fixed
FIXED = NearLinearGaussNewton(epsilon=1e-12, maxiter=INNER)  # stops after K iterations, whatever the problem
KRONECKER = KroneckerSRHT()


class Problem(NamedTuple):
    """Objective, parameters and batch of a two-layer ReLU network on the sphere."""

    objective: Objective
    params: tuple
    x: object
    y: object

    @property
    def jacobian(self):
        return self.objective.network.forward(self.params, self.x)[1].jacobian


def problem(n, d, m, dtype="float64", counting=False):
    """The problem on NumPy arrays or on counting ones."""
    x, y = data.sphere(n, d, key=3).astype(dtype), data.labels(n, 3).astype(dtype)
    x, y = wrap((x, y)) if counting else (x, y)
    network = TwoLayer(d, m)
    return Problem(Objective(network, SquaredLoss()), network.init(1, x), x, y)


def run_step(p, opt, state=None):
    """One step from ``state`` (the first if None): parameters, state and info."""
    return opt.step(p.params, state or opt.init(p.params, p.objective), p.objective, (p.x, p.y), 0)


# ------------------------------------------------------------------------------------------------------------ counts


def flops(f):
    """Flops of ``f()``."""
    with count() as tally:
        f()
    return tally.total


SIZES = {"n": (8, 16, 24, 32, 40), "d": (4, 6, 8, 10, 12), "m": (120, 240, 360, 480, 600), "m'": (30, 60, 90, 120)}
BASE = {"n": 16, "d": 4, "m": 720, "m'": 60}  # m is a multiple of m' and of 1.5 n throughout


def _step(p):
    """A whole step with a fresh R, all guards on, and K inner iterations."""

    def step():
        info = run_step(p, FIXED)[2]
        if (info.attempts, info.solve.iterations) != (1, INNER):
            found = f"{info.attempts} attempts and {info.solve.iterations} iterations"
            raise RuntimeError(f"the step took {found}; expected 1 and {INNER}")

    return flops(step)


def _sketched(p, m_sketched):
    J = p.jacobian
    S = NeuronSigns().sample(0, m_sketched, J.factor_shapes, like=p.x)
    whole, fold = flops(lambda: J.sketch_gram(S)), flops(lambda: J.fold_left(0, S))
    return fold, whole - fold


def _of_jacobian(product):
    def counted(p, _):
        J = p.jacobian
        return flops(lambda: product(J, p))

    return counted


def _factorisation(p, _):
    G = p.jacobian.gram()
    return flops(lambda: damped_cholesky(G, 1e-2))


PARTS = {  # flops of each part, given a problem and m'
    "forward": lambda p, _: flops(lambda: p.objective.network.forward(p.params, p.x)),
    "J v": _of_jacobian(lambda J, p: J.matvec(p.params)),
    "Jᵀu": _of_jacobian(lambda J, p: J.rmatvec(p.y)),
    "J Jᵀu": _of_jacobian(lambda J, p: J.gram_matvec(p.y)),
    "update": lambda p, _: flops(lambda: axpy(-1.0, p.params, p.params)),
    "structured Gram": _of_jacobian(lambda J, p: J.gram()),
    "neuron-mode sketch": lambda p, rows: _sketched(p, rows)[0],
    "Gram of the sketch": lambda p, rows: _sketched(p, rows)[1],
    "factorisation": _factorisation,
    "whole step": lambda p, _: _step(p),
}


def part_flops(part, variable, size):
    """Flops of a part at ``BASE`` with one size changed."""
    sizes = {**BASE, variable: size}
    return part(problem(sizes["n"], sizes["d"], sizes["m"], counting=True), sizes["m'"])


def degrees(full, wanted, parts=PARTS):
    """Degrees of the flops of parts in one size each, against ``wanted``: {(part, size): degree}."""
    found, series = {}, []
    for (name, variable), expected in wanted.items():
        counts = {size: part_flops(parts[name], variable, size) for size in SIZES[variable]}
        found[name, variable] = _degree(counts)
        predicted = _extrapolated(counts, expected)
        series.append(Series(name, tuple(counts), tuple(counts.values()), predicted, variable, "flops"))
    wrong = [
        f"{name} has degree {found[name, variable]} in {variable}"
        for name, variable in wanted
        if found[name, variable] != wanted[name, variable]
    ]
    by_degree = {}
    for (name, variable), p in found.items():
        by_degree.setdefault(f"{p} in {variable}", []).append(name)
    value = "; ".join(f"{text}: {', '.join(names)}" for text, names in by_degree.items())
    base = ", ".join(f"{variable} = {size}" for variable, size in BASE.items())
    detail = f"exact, by finite differences of counts at {base}; K = {INNER} in the whole step"
    return Outcome(value, FAILS if wrong else HOLDS, "; ".join([*wrong, detail]), tuple(series))


def _degree(counts):
    """The degree, or "none" where the counts are no polynomial on these sizes."""
    try:
        return degree(counts.__getitem__, tuple(counts))
    except ValueError:
        return "none"


def _extrapolated(counts, p):
    """The polynomial of degree p through the first p + 1 counts, at all sizes."""
    sizes, values = np.array(list(counts), dtype=float), np.array(list(map(float, counts.values())))
    return tuple(np.polyval(np.polyfit(sizes[: p + 1], values[: p + 1], p), sizes).tolist())


def closed_form(full, formula=cost.near_linear_step):
    """Flops of the first step (fresh R) and of the second (nothing made anew) against their formula."""
    rows = []
    for n, d, m in ((32, 4, 768), (40, 8, 1200), (64, 4, 960), *(((128, 16, 9600), (256, 8, 30000)) if full else ())):
        p, opt, net, state = problem(n, d, m, counting=True), NearLinearGaussNewton(), cost.two_layer(n, d, m), None
        for number in range(2):
            with count() as tally:
                params, state, info = run_step(p, opt, state)
            made = {"fresh": info.solve.refreshed, "recalled": number > 0}
            rows.append((n * m * d, tally.total, sum(formula(net, info.solve.iterations, **made).values())))
            p = p._replace(params=params)
    rows.sort()
    sizes, counted, expected = zip(*rows, strict=True)
    wrong = sum(a != b for a, b in zip(counted, expected, strict=True))
    return Outcome(
        "equal to the flop" if not wrong else f"{wrong} of {len(rows)} steps differ",
        FAILS if wrong else HOLDS,
        f"{len(rows)} steps, n m d from {sizes[0]} to {sizes[-1]}",
        (Series("whole step", sizes, counted, expected, "n m d", "flops"),),
    )


def cubic_tail(full, parts=PARTS):
    """Degree and leading coefficient of the whole step in n, against those of its n x n part."""
    counts = {n: part_flops(parts["whole step"], "n", n) for n in SIZES["n"]}
    try:
        p, coefficient = leading_term(counts.__getitem__, tuple(counts))
    except ValueError as error:
        return Outcome("no polynomial", FAILS, str(error))
    # the Gram matrix of 1.5 n sketched neurons, 2 n² 1.5 n, and its factorisation, n³/3
    holds = p == 3 and 3 * coefficient == 10
    series = Series("whole step", tuple(counts), tuple(counts.values()), _extrapolated(counts, 3), "n", "flops")
    detail = f"exact, at m = {BASE['m']}, d = {BASE['d']}, K = {INNER}; 3 n³ is the Gram matrix of 1.5 n sketched neurons, n³/3 R"
    return Outcome(f"degree {p}, leading term {coefficient} n^{p}", HOLDS if holds else FAILS, detail, (series,))


def naive_ratio(full, naive=lambda J: J.to_dense()):
    """Leading coefficients in n² of the Gram matrix from explicit rows and of the structured one."""
    m, dims = (720 if full else 240), (4, 8, 16, 32)

    def explicit(p, _):
        J = p.jacobian
        return flops(lambda: (lambda rows: rows @ rows.T)(naive(J)))

    def coefficient(part, d):
        return leading_term(lambda n: part(problem(n, d, m, counting=True), None), (4, 8, 12, 16))[1]

    found = tuple(float(coefficient(explicit, d) / coefficient(PARTS["structured Gram"], d)) for d in dims)
    expected = tuple(m * d / (m + d) for d in dims)
    worst = max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))
    return Outcome(
        f"{', '.join(f'{ratio:.2f}' for ratio in found)} for d = {', '.join(map(str, dims))}",
        HOLDS if worst <= 0.02 else FAILS,
        f"ratio of the exact coefficients of n² at m = {m}; at worst {worst:.1%} from m d/(m+d)",
        (Series("explicit over structured", dims, found, expected, "d", "ratio of flops"),),
    )


def kronecker_counts(full, sketch=KRONECKER):
    """The coefficients of m log₂ m and of d log₂ d in the flops that the Kronecker sketch makes for one more row."""
    sizes, coefficients, series = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), {}, []

    def row(variable, size):
        widths = {"m": 16, "d": 16, variable: size}
        return _rows_flops(sketch, 2, **widths) - _rows_flops(sketch, 1, **widths)

    for variable in ("m", "d"):
        least = row(variable, 1)  # nothing to transform; every further entry takes a sign
        growth = {size: row(variable, size) - least - (size - 1) for size in sizes}
        coefficients[variable] = {size: growth[size] / (size * math.log2(size)) for size in sizes}
        bound = tuple(8 * size * math.log2(size) for size in sizes)
        series.append(Series(f"over {variable}", sizes, tuple(growth.values()), bound, "factor width", "flops a row"))
    found = [c for by_size in coefficients.values() for c in by_size.values()]
    full_factors = [by_size[size] for by_size in coefficients.values() for size in (16, 256, 4096)]
    return Outcome(
        f"coefficients {min(found):.2f} to {max(found):.2f}, {min(full_factors):.2f} at powers of 16",
        HOLDS if max(found) == 8 and set(full_factors) == {8} else FAILS,
        "exact, beside one sign an entry and terms that do not depend on the width",
        tuple(series),
    )


def _rows_flops(sketch, n, m, d):
    S = sketch.sample(0, 32, ((m, d),), like=wrap(np.empty(0)))
    left, right = wrap((np.ones((n, m)), np.ones((n, d))))
    return flops(lambda: S.rows(0, left, right))


# ------------------------------------------------------------------------------------------------------------ memory


def peak_bytes(f):
    """Most bytes that arrays made inside of ``f()`` took."""
    with count() as tally:
        f()
    return tally.peak


def sketch_memory(full, sketch=lambda J, S: J.sketch(S)):
    """The coefficient of m d in the peak of the Kronecker sketch of a Jacobian."""
    n, widths, dims = 16, (512, 1024), (32, 64)
    peaks = {}
    for m in widths:
        for d in dims:
            J = problem(n, d, m, counting=True).jacobian
            S = KroneckerSRHT().sample(0, 4 * n, J.factor_shapes, like=J.x)
            peaks[m, d] = peak_bytes(partial(sketch, J, S))
    (m0, m1), (d0, d1) = widths, dims
    mixed = (peaks[m1, d1] - peaks[m1, d0] - peaks[m0, d1] + peaks[m0, d0]) / ((m1 - m0) * (d1 - d0))
    series = tuple(
        Series(
            f"d = {d}",
            widths,
            tuple(peaks[m, d] for m in widths),
            tuple(8 * n * m * d for m in widths),
            "m",
            "bytes (line: J itself)",
        )
        for d in dims
    )
    largest = peaks[m1, d1] / (8 * n * m1 * d1)
    return Outcome(
        f"{mixed:g} bytes per m d; the peak is {largest:.1%} of the explicit Jacobian",
        HOLDS if mixed == 0 else FAILS,
        f"exact peaks at n = {n}, m = {m0}, {m1}, d = {d0}, {d1}",
        series,
    )


def step_memory(full, opt=FIXED):
    """Bytes per n m and per m in the peak of a whole step, on masks in bytes."""
    d, samples, widths = 4, (128, 256), tuple(8192 * k for k in (2, 3, 4))  # whole blocks
    peaks = {(n, m): peak_bytes(partial(run_step, problem(n, d, m, counting=True), opt)) for n in samples for m in widths}
    slopes = {n: {(peaks[n, b] - peaks[n, a]) / (b - a) for a, b in pairwise(widths)} for n in samples}
    few, many = samples
    series = tuple(
        Series(
            f"n = {n}",
            widths,
            tuple(peaks[n, m] for m in widths),
            tuple(8 * n * m for m in widths),
            "m",
            "bytes (line: n m floats)",
        )
        for n in samples
    )
    detail = f"exact peaks at n = {few}, {many}, d = {d}, m = {widths[0]} to {widths[-1]}"
    if any(len(slope) > 1 for slope in slopes.values()):
        return Outcome("the peak is not linear in m", FAILS, detail, series)
    slope = {n: slopes[n].pop() for n in samples}
    per_nm = (slope[many] - slope[few]) / (many - few)
    per_md = (slope[few] - few * per_nm) / d
    return Outcome(
        f"{per_nm:g} bytes per n m, {per_md:g} per m d",
        HOLDS if per_nm == 2 else FAILS,
        f"{detail}; the masks of the point and of its trial, one byte an entry here and one bit on NumPy arrays",
        series,
    )


# ------------------------------------------------------------------------------------------------------------- times


def interleaved(calls, rounds=5, budget=60.0):
    """Minimum processor seconds of each call, over rounds through all of them, with one BLAS thread.

    Parameters
    ----------
    calls : dict
        Callables by size.
    rounds : int
        At most this many; at least two.
    budget : float
        Seconds after which no further round begins.

    Returns
    -------
    dict
        Seconds by size.
    """
    start, best = time.perf_counter(), dict.fromkeys(calls, math.inf)
    with threadpool_limits(1, user_api="blas"):
        for done in range(rounds):
            if done >= 2 and time.perf_counter() - start > budget * done / (done + 1):
                break
            for size, call in calls.items():
                before = time.thread_time()
                call()
                best[size] = min(best[size], time.thread_time() - before)
    return best


def geometric(low, high, number=8):
    """Sizes from low to high, odd multiples of 8: powers of two make strided access slow."""
    return tuple(16 * round(low * (high / low) ** (i / (number - 1)) / 16) + 8 for i in range(number))


def judge_exponent(seconds, expected, halfwidth, variable, label, detail, slack=0.0, fitted=fit_with_floor):
    """The `Outcome` of times by size that should grow like size to the power ``expected``.

    Fails where the interval for the exponent stays further than ``slack`` from what is expected, and is out of regime where
    that cannot be told because the interval is wider than ``halfwidth``. A bend is told, not judged: the rates of BLAS and of
    memory change with size.
    """
    sizes, times = tuple(seconds), tuple(seconds.values())
    fit = fitted(sizes, times)
    predicted = tuple(fit.floor + (times[-1] - fit.floor) * (size / sizes[-1]) ** expected for size in sizes)
    if fit.curved:
        detail += f"; the local exponent changes by {fit.bend:+.2f} over the range"
    verdict = HOLDS
    if not fit.low - slack <= expected <= fit.high + slack:
        verdict, detail = FAILS, f"{detail}; {expected:g} lies outside of the interval"
    elif fit.halfwidth > halfwidth:
        verdict, detail = OUT_OF_REGIME, f"{detail}; half-width {fit.halfwidth:.3f} is above {halfwidth:g}: too noisy to tell"
    value = f"{fit.exponent:.3f} in [{fit.low:.3f}, {fit.high:.3f}]"
    return Outcome(value, verdict, detail, (Series(label, sizes, times, predicted, variable, "seconds"),))


def step_time(full, timer=interleaved):
    """Time of a whole step with a fresh R and K inner iterations, over m."""
    n, d = 256, 16
    calls = {2**k: partial(run_step, problem(n, d, 2**k, "float32"), FIXED) for k in range(10, 19)}
    detail = f"n = {n}, d = {d}, float32, K = {INNER}, one BLAS thread, 9 sizes"
    return judge_exponent(timer(calls, rounds=30), 1, 0.05, "m", "whole step", detail)


def product_time(full, timer=interleaved):
    """Time of J Jᵀu over n."""
    m, d, calls = 16384, 16, {}
    for n in geometric(128, 4096):
        p = problem(n, d, m)
        calls[n] = partial(p.jacobian.gram_matvec, p.y)
    detail = f"m = {m}, d = {d}, float64, one BLAS thread, 8 sizes"
    return judge_exponent(timer(calls, rounds=30), 1, 0.1, "n", "J Jᵀu", detail, slack=0.05)


def factorisation_time(full, timer=interleaved):
    """Time of the damped Cholesky factorisation over n."""
    calls = {}
    for n in geometric(512, 4096):
        rows = data.sphere(n, n, key=3)
        calls[n] = partial(damped_cholesky, rows @ rows.T, 1.0)
    return judge_exponent(timer(calls, rounds=6), 3, 0.2, "n", "factorisation", "float64, one BLAS thread, 8 sizes", slack=0.15)


def gram_time(full, timer=interleaved):
    """Time of the structured Gram matrix by rank-k updates over n."""
    m, d = 4096, 16
    calls = {n: problem(n, d, m, "float32").jacobian.gram for n in geometric(512, 8192)}
    detail = f"m = {m}, d = {d}, float32, one BLAS thread, 8 sizes, none of them a power of two"
    return judge_exponent(timer(calls, rounds=6, budget=70.0), 2, 0.2, "n", "structured Gram", detail, fitted=fit_exponent)


def naive_time(full, timer=interleaved):
    """Time of the Gram matrix from explicit rows over that of the structured one, over d."""
    n, m, dims = 264, 2048, (2, 4, 8, 16)
    ratios = []
    for d in dims:
        J = problem(n, d, m).jacobian
        seconds = timer({"naive": partial(_naive_gram, J), "structured": J.gram})
        ratios.append(seconds["naive"] / seconds["structured"])
    expected = tuple(m * d / (m + d) for d in dims)
    relative = np.divide(ratios, expected)
    return Outcome(
        f"{', '.join(f'{ratio:.1f}' for ratio in ratios)} for d = {', '.join(map(str, dims))}",
        HOLDS if relative.min() >= 0.5 and relative.max() <= 2.5 else FAILS,
        f"n = {n}, m = {m}, float64, one BLAS thread; {relative.min():.2f} to {relative.max():.2f} of m d/(m+d)",
        (Series("explicit over structured", dims, tuple(ratios), expected, "d", "ratio of times"),),
    )


def _naive_gram(J):
    rows = J.to_dense()
    return rows @ rows.T


def kronecker_time(full, timer=interleaved):
    """Time of the Kronecker sketch over m: which growth fits."""
    n, d, calls = 32, 16, {}
    for m in (2**k for k in range(10, 20)):
        left, right = data.sphere(n, m, key=3), data.sphere(n, d, key=4)
        calls[m] = partial(KroneckerSRHT().sample(0, 4 * n, ((m, d),), like=left).rows, 0, left, right)
    seconds = timer(calls, rounds=12)
    sizes, times = tuple(seconds), tuple(seconds.values())
    found, fit = contest(sizes, times), fit_with_floor(sizes, times)
    growth = np.array(sizes) * np.log(sizes)
    floor, scale = min(times) / 2, (times[-1] - min(times) / 2) / growth[-1]
    series = Series("Kronecker sketch", sizes, times, tuple((floor + scale * growth).tolist()), "m", "seconds")
    return Outcome(
        str(found),
        HOLDS if found.best in ("n", "n log n") else FAILS,
        f"n = {n}, d = {d}, s = 4n, float64, one BLAS thread, 10 sizes; {fit}",
        (series,),
    )


# --------------------------------------------------------------------------------------------------------- break-even


def crossing(sizes, gains):
    """The size from which on gains stay above 1, between two sizes by logarithms; the first size, or infinity, beyond them."""
    slow = [i for i, gain in enumerate(gains) if gain < 1]
    if not slow:
        return float(sizes[0])
    i = slow[-1]
    if i + 1 == len(sizes):
        return math.inf
    x, y = np.log(sizes[i : i + 2]), np.log(gains[i : i + 2])
    return float(np.exp(np.interp(0.0, y, x)))


class BreakEven(NamedTuple):
    """Where gains were taken and where they should pass 1: over n at m = 32 n, and over m/n at one n."""

    samples: tuple
    ratios: tuple
    at: int
    d: int = 16


def break_even(sizes, gain, iterations, limit, detail):
    """The `Outcome` of gain(n, m), the exact step's cost over the near-linear step's, which should pass 1 at 4 K d and 4.3 n.

    ``limit`` is the factor by which the crossings may miss, upwards; they may come as early as they like.
    """
    over_n = tuple(gain(n, 32 * n) for n in sizes.samples)
    over_m = tuple(gain(sizes.at, ratio * sizes.at) for ratio in sizes.ratios)
    K = iterations()
    found = crossing(sizes.samples, over_n) / (4 * K * sizes.d), crossing(sizes.ratios, over_m) / 4.3
    series = (
        Series("gain over n, m = 32 n", sizes.samples, over_n, (1.0,) * len(over_n), "n", "gain"),
        Series(f"gain over m, n = {sizes.at}", sizes.ratios, over_m, (1.0,) * len(over_m), "m/n", "gain"),
    )
    value = f"from n = {found[0] * 4 * K * sizes.d:.0f} = {found[0]:.2f} (4 K d) and from m = {found[1] * 4.3:.1f} n on"
    value = (
        value if math.isfinite(sum(found)) else f"gains up to {max(over_n):.2f} over n and {max(over_m):.2f} over m: no crossing"
    )
    verdict = HOLDS if max(found) <= limit else FAILS
    return Outcome(value, verdict, f"{detail}, d = {sizes.d}, K = {K}; largest gain {max(*over_n, *over_m):.2f}", series)


def break_even_counted(full, rank_k=True):
    """Break-even by the closed forms, which equal the counts, with symmetric products by rank-k updates."""
    K, d = 4, 16

    def gain(n, m):
        net = cost.two_layer(n, d, m)
        exact, near = cost.gram_gauss_newton_step(net), cost.near_linear_step(net, K, sketch="kronecker")
        half = n * n if rank_k else 0  # A Aᵀ is counted in full; a rank-k update does half
        return (sum(exact.values()) - half * (m + d)) / (sum(near.values()) - half * 4 * n)

    sizes = BreakEven((64, 128, 256, 512, 1024, 2048, 4096), (1, 2, 4, 8, 16, 32), 8192, d)
    return break_even(sizes, gain, lambda: K, 1.5, "flops of whole steps, Kronecker sketch with s = 4n")


def break_even_timed(full, sketch, timer=interleaved):
    """Break-even in time of whole steps, with fresh R, against the exact step."""
    needed = []

    def gain(n, m):
        p, near = problem(n, 16, m), NearLinearGaussNewton(reuse=False, sketch=sketch)
        needed.append(run_step(p, near)[2].solve.iterations)
        seconds = timer({"exact": partial(run_step, p, GramGaussNewton()), "near": partial(run_step, p, near)}, rounds=4)
        return seconds["exact"] / seconds["near"]

    sizes = BreakEven((32, 64, 128, 256, 512, 1024), (1, 2, 4, 8, 16, 32), 1024)
    detail = f"seconds of whole steps, {type(sketch).__name__}, float64, one BLAS thread"
    return break_even(sizes, gain, lambda: max(needed), 2.0, detail)


# ---------------------------------------------------------------------------------------------------------- the table

IDEA = "arXiv:2112.07628 for the idea; derived"
PRODUCTS = ("forward", "J v", "Jᵀu", "J Jᵀu")
WIDTH = {(part, "m"): 1 for part in (*PRODUCTS, "update", "neuron-mode sketch", "whole step")}
INPUTS = {(part, "d"): 1 for part in (*PRODUCTS, "update", "whole step")}
SAMPLES = {
    **{(part, "n"): 1 for part in (*PRODUCTS, "neuron-mode sketch")},
    ("update", "n"): 0,
    ("Gram of the sketch", "n"): 2,
    ("Gram of the sketch", "m'"): 1,
    ("factorisation", "n"): 3,
}
GRAM = {("structured Gram", "n"): 2, ("structured Gram", "m"): 1, ("structured Gram", "d"): 1}


def _counted(name, number, statement, expected, measure, paper=PAPER, quantity="degree of the flops", condition="any size"):
    return Claim(name, number, "cost, counted", paper, statement, quantity, "count", expected, condition, measure)


def _timed(name, number, statement, expected, measure, paper=PAPER, quantity="exponent of the time", **options):
    condition = options.pop("condition", "a quiet machine, one BLAS thread")
    return Claim(
        name, number, "cost, timed", paper, statement, quantity, "time", expected, condition, measure, quick=False, **options
    )


CLAIMS = (
    _counted(
        "step-linear-in-width", 4, "Every part of the near-linear step, and the whole of it, costs flops linear in the width.",
        "1 in m, exactly", partial(degrees, wanted=WIDTH), f"{PAPER}, main theorem", condition="K fixed",
    ),
    _counted(
        "step-linear-in-inputs", 4, "Every product, and the whole step, costs flops linear in the input dimension.",
        "1 in d, exactly", partial(degrees, wanted=INPUTS), f"{PAPER}, main theorem", condition="K fixed",
    ),
    _counted(
        "parts-in-samples", 5, "Products and the neuron-mode sketch are linear in the samples; only n x n matrices cost more.",
        "products and sketch 1 in n, Gram of the sketch 2 in n and 1 in m', factorisation 3 in n, exactly",
        partial(degrees, wanted=SAMPLES), f"{PAPER}, main theorem",
    ),
    _counted(
        "step-cubic-tail", 5, "The whole step has a cubic tail in the samples, which is that of its n x n matrices alone.",
        "degree 3 in n with leading term 10/3 n³, exactly", cubic_tail, f"{PAPER}, main theorem",
        "degree and leading term of the flops", "K fixed, m' = 1.5 n",
    ),
    _counted(
        "step-closed-form", 0, "The flops of a whole step are those of its formula.", "equal to the flop", closed_form, "derived",
        "flops of fresh and of reusing steps", "one attempt",
    ),
    _counted(
        "gram-quadratic-in-samples", 6, "The structured Gram matrix is quadratic in the samples, linear in width and inputs.",
        "2 in n, 1 in m, 1 in d, exactly", partial(degrees, wanted=GRAM), f"{GRAM_PAPER}, as {PAPER} states it",
    ),
    _counted(
        "naive-gram-ratio", 7, "A Gram matrix from explicit rows costs m d/(m+d) times the structured one.",
        "m d/(m+d) within 2 %", naive_ratio, "derived", "ratio of the flops' coefficients of n²",
    ),
    _counted(
        "kronecker-sketch-nlogn", 15, "The Kronecker sketch costs at most 8 n (m log₂ m + d log₂ d) flops beside linear terms.",
        "at most 8, and 8 at powers of 16, exactly", kronecker_counts, IDEA, "coefficients of m log₂ m and d log₂ d, per row",
        "m and d powers of two; dense factors of at most 16 points",
    ),
    Claim(
        "kronecker-sketch-memory", 15, "cost, counted", IDEA,
        "The Kronecker sketch forms nothing of the size of the Jacobian.", "bytes per m d at the peak", "memory",
        "0, exactly", "any size", sketch_memory,
    ),
    Claim(
        "step-memory", 0, "cost, counted", "derived",
        "A near-linear step holds no float array of samples by neurons, only two masks.", "bytes per n m at the peak", "memory",
        "2, exactly (one float64 array would add 8)", "ReLU; masks in bytes, as on counting arrays", step_memory,
    ),
    _counted(
        "break-even-flops", 33, "By flops, sketching pays against the structured exact step from n = 4 K d and m = 4.3 n on.",
        "crossings at most 1.5 times there", break_even_counted, "derived", "exact step's flops over the near-linear step's",
        "Kronecker sketch with s = 4n, Y Yᵀ and Gram by rank-k updates",
    ),
    _timed(
        "step-time-in-width", 4, "The time of a near-linear step is linear in the width.",
        "1, in an interval of half-width at most 0.05", step_time, f"{PAPER}, main theorem",
    ),
    _timed(
        "product-time-in-samples", 5, "The time of an inner iteration's product is linear in the samples.",
        "1, within 0.05 of an interval of half-width at most 0.1", product_time, f"{PAPER}, main theorem",
    ),
    _timed(
        "factorisation-time", 5, "The time of the factorisation is cubic in the samples.",
        "3, within 0.15 (BLAS gains speed with size) of an interval of half-width at most 0.2", factorisation_time,
        f"{PAPER}, main theorem",
    ),
    _timed(
        "gram-time-in-samples", 6, "The time of the structured Gram matrix is quadratic in the samples.",
        "2, in an interval of half-width at most 0.2", gram_time, f"{GRAM_PAPER}, as {PAPER} states it",
    ),
    _timed(
        "naive-gram-time", 7, "A Gram matrix from explicit rows takes about m d/(m+d) times as long as the structured one.",
        "0.5 to 2.5 times m d/(m+d)", naive_time, "derived", "ratio of times",
    ),
    _timed(
        "kronecker-sketch-time", 15, "The time of the Kronecker sketch grows with the width like m log m.",
        "m or m log m fit best", kronecker_time, IDEA, "growth of the time",
    ),
    _timed(
        "break-even-time", 33, "In time, a near-linear step beats the structured exact step from n = 4 K d and m = 4.3 n on.",
        "crossings at most 2 times there", partial(break_even_timed, sketch=NeuronSigns()), "derived",
        "exact step's seconds over the near-linear step's",
    ),
    _timed(
        "break-even-time-kronecker", 33, "In time, the same holds with the Kronecker sketch that the count is about.",
        "crossings at most 2 times there", partial(break_even_timed, sketch=KroneckerSRHT()), "derived",
        "exact step's seconds over the near-linear step's", should_hold=False,
    ),
)  # fmt: skip
