"""Claims on cost: exact operation counts and peak memory of the public functions and of whole steps.

Counted claims run on counting arrays and find degrees by finite differences, with no tolerance; sizes are multiples of the
sketch's groups.
"""

import math
from fractions import Fraction
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from nearlin.complexity import cost
from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, Check
from nearlin.complexity.claims.table import Claim
from nearlin.complexity.counting import count, wrap
from nearlin.complexity.degree import leading_term
from nearlin.linalg import axpy, damped_cholesky
from nearlin.nn import MLP, Objective, SquaredLoss, TwoLayer
from nearlin.optim import GaussNewton, NearLinearGaussNewton
from nearlin.sketch import KroneckerSRHT, NeuronSigns

PAPER, GRAM_PAPER = "arXiv:2006.11648", "arXiv:1905.11675"
INNER = 4  # K, where the number of inner iterations is fixed
FIXED = NearLinearGaussNewton(epsilon=1e-12, maxiter=INNER)  # stops after K iterations, whatever the problem
KRONECKER = KroneckerSRHT()


class Problem(NamedTuple):
    """Objective, parameters and batch of a ReLU network on the sphere."""

    objective: Objective
    params: tuple
    x: object
    y: object

    @property
    def jacobian(self):
        """The Jacobian operator at the parameters and batch."""
        return self.objective.at(self.params, (self.x, self.y)).jacobian()


def problem(n, d, m, dtype="float64", counting=False, hidden=0):
    """A two-layer network of m neurons, or a perceptron of ``hidden`` layers of them, on NumPy arrays or on counting ones."""
    x, y = data.sphere(n, d, key=3).astype(dtype), data.labels(n, 3).astype(dtype)
    network = MLP((d, *hidden * (m,), 1)) if hidden else TwoLayer(d, m)
    params = network.init(1, x)
    y = y[:, None] if hidden else y
    x, y, params = wrap((x, y, params)) if counting else (x, y, params)
    return Problem(Objective(network, SquaredLoss()), params, x, y)


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


def _sketched(p, rows):
    """Flops of M' = M S₁ᵀ, and of the Gram matrix made from it."""
    J = p.jacobian
    S = NeuronSigns().sample(0, rows, J.factor_shapes, like=p.x)
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


def _step(p, _):
    return flops(lambda: run_step(p, FIXED))


PARTS = {  # flops of a part, given a problem and m'
    "W Xᵀ": lambda p, _: flops(lambda: p.params[0] @ p.x.T),
    "forward": lambda p, _: flops(lambda: p.objective.network.forward(p.params, p.x)),
    "J v": _of_jacobian(lambda J, p: J.matvec(p.params)),
    "Jᵀu": _of_jacobian(lambda J, p: J.rmatvec(p.y)),
    "J Jᵀu": _of_jacobian(lambda J, p: J.gram_matvec(p.y)),
    "update": lambda p, _: flops(lambda: axpy(-1.0, p.params, p.params)),
    "structured Gram": _of_jacobian(lambda J, p: J.gram()),
    "neuron-mode sketch": lambda p, rows: _sketched(p, rows)[0],
    "Gram of the sketch": lambda p, rows: _sketched(p, rows)[1],
    "factorisation": _factorisation,
    "whole step": _step,
}


def formulas(n, d, m, rows):
    """Flops of the parts at sizes n, d, m and m', by their formulas; the whole step has its own claim."""
    net = cost.two_layer(n, d, m)
    return {
        "W Xᵀ": 2 * n * m * d,
        "forward": net.forward,
        "J v": net.matvec,
        "Jᵀu": net.rmatvec,
        "J Jᵀu": net.gram_matvec,
        "update": 2 * m * d,
        "structured Gram": net.gram,
        "neuron-mode sketch": cost.neuron_sketch(n, m, rows),
        "Gram of the sketch": cost.sketched_gram(n, d, rows),
        "factorisation": cost.factorisation(n),
    }


def parts(full, wanted, made=PARTS):
    """Flops of parts over one size each, for ``wanted`` = {(part, size): degree}."""
    for (name, variable), expected in wanted.items():
        for size in SIZES[variable]:
            n, d, m, rows = {**BASE, variable: size}.values()
            row = {"part": f"{name} in {variable}", "size": size, "degree": expected}
            row["flops"] = made[name](problem(n, d, m, counting=True), rows)
            formula = formulas(n, d, m, rows)
            yield {**row, "formula": formula[name]} if name in formula else row


EXACTLY = (Bound("flops", equal="degree", over="size", by="part", reduce="degree"), Bound("flops", equal=1, per="formula"))


# K iterations: by the bound on them, or because a large damping makes every system easy; steps of length 1e12 are refused.
STEPS = {
    "fresh": {"epsilon": 1e-12, "maxiter": INNER, "guard": False},
    "reused": {"epsilon": 0.5, "damping": 1e3},
    "retried": {"epsilon": 0.5, "damping": 1e3, "lr": 1e12},
}
NETWORKS = {"two-layer": (0, (720, 1440)), "perceptron": (1, (15, 31)), "deep perceptron": (2, (7, 15))}


def per_width(full, optimizer=NearLinearGaussNewton, steps=tuple(STEPS)):
    """Flops that a step costs more on the wider of two networks, over n; and the iterations of default steps."""
    for (network, (hidden, widths)), kind, n in product(NETWORKS.items(), steps, SIZES["n"][:4]):
        opt = optimizer(**STEPS[kind], sketch=KRONECKER if hidden else NeuronSigns())
        made = [_counted_step(problem(n, 4, m, counting=True, hidden=hidden), opt, kind == "reused") for m in widths]
        (few, done), (many, also) = made
        if done != also:
            raise RuntimeError(f"steps of {network} networks, {kind}, took {done} and {also}; expected the same twice")
        yield {"step": f"{network}, {kind}", "n": n, "flops between two widths": many - few, **done}
    for n in (64, 128, 256, *((512, 1024) if full else ())):
        yield {"n": n, "K of the default step": run_step(problem(n, 16, 16 * n), optimizer())[2].solve.iterations}


def _counted_step(p, opt, reuses):
    """Flops of the first step, or of the second, and what it went through."""
    state = opt.init(p.params, p.objective)
    for _ in range(1 + reuses):
        with count() as tally:
            params, state, info = run_step(p, opt, state)
        p = p._replace(params=params)
    return tally.total, {"attempts": info.attempts, "K": info.solve.iterations, "R is fresh": info.solve.refreshed}


NEAR_LINEAR = (
    Bound("flops between two widths", equal=1, over="n", by="step", reduce="degree"),
    Bound("K of the default step", low=1, high=6, over="n", log="x"),
)


def whole_steps(full, formula=cost.near_linear_step):
    """Flops of the first step (fresh R) and of the second (nothing made anew), and their formula."""
    for n, d, m in ((32, 4, 768), (40, 8, 1200), (64, 4, 960), *(((128, 16, 9600), (256, 8, 30000)) if full else ())):
        p, opt, net, state = problem(n, d, m, counting=True), NearLinearGaussNewton(), cost.two_layer(n, d, m), None
        for number in range(2):
            with count() as tally:
                params, state, info = run_step(p, opt, state)
            made = {"fresh": info.solve.refreshed, "recalled": number > 0}
            expected = sum(formula(net, info.solve.iterations, **made).values())
            yield {"n m d": n * m * d, "R is fresh": made["fresh"], "flops": tally.total, "formula": expected}
            p = p._replace(params=params)
        yield {"n m d": n * m * d, **_retried(problem(n, d, m, counting=True), formula(net, 1))}


def _retried(p, once):
    """Flops of a step of 7 attempts over those of its parts: 7 solves and 4 factors R, as λ outgrows R thrice by more than 10."""
    with count() as tally:
        info = run_step(p, NearLinearGaussNewton(**STEPS["retried"]))[2]
    again = sum(once[part] for part in ("products", "triangular solves", "vectors", "certificate", "guard"))
    expected = sum(once.values()) + (info.attempts - 1) * again + 3 * once["factorisation"]
    return {"attempts": info.attempts, "retried step over its parts": tally.total / expected}


def over_samples(full, made=PARTS):
    """Flops of the whole step over n. 3 n³ is the Gram matrix of 1.5 n sketched neurons, 2 n² 1.5 n, and n³/3 its factor R."""
    for n in SIZES["n"]:
        yield {"n": n, "m": BASE["m"], "flops": made["whole step"](problem(n, 4, BASE["m"], counting=True), None)}


def naive_ratios(full, naive=lambda J: J.to_dense()):
    """Leading coefficients in n² of the Gram matrix from explicit rows over that of the structured one."""
    m = 720 if full else 240

    def explicit(J, _):
        rows = naive(J)
        return rows @ rows.T

    for d in (4, 8, 16, 32):
        made = _of_jacobian(explicit), PARTS["structured Gram"]
        a, b = (leading_term(lambda n, f=f: f(problem(n, d, m, counting=True), None), (4, 8, 12, 16))[1] for f in made)  # noqa: B023
        yield {"d": d, "m": m, "explicit over structured": float(a / b), "m d/(m+d)": m * d / (m + d)}


def kronecker_counts(full, sketch=KRONECKER):
    """Flops that one more row of the Kronecker sketch takes, over N log₂ N, beside one sign an entry and a constant."""
    for variable in ("m", "d"):
        row = partial(_another_row, sketch, variable)
        least = row(1)
        for size in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            growth = row(size) - least - (size - 1)
            coefficient = growth / (size * math.log2(size))
            found = {"factor": variable, "width": size, "flops over N log₂ N": coefficient}
            yield {**found, "the same at powers of 16": coefficient} if size in (16, 256, 4096) else found


def _another_row(sketch, variable, size):
    widths = {"m": 16, "d": 16, variable: size}
    return _rows_flops(sketch, 2, **widths) - _rows_flops(sketch, 1, **widths)


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
    """Peaks of the Kronecker sketch of a Jacobian, and their mixed difference in m and d."""
    n, widths, dims, peaks = 16, (512, 1024), (32, 64), {}
    for m, d in product(widths, dims):
        J = problem(n, d, m, counting=True).jacobian
        S = KroneckerSRHT().sample(0, 4 * n, J.factor_shapes, like=J.x)
        peaks[m, d] = peak_bytes(partial(sketch, J, S))
        yield {"n": n, "d": d, "m": m, "peak": peaks[m, d], "n m floats": 8 * n * m}
    yield {"bytes per m d": _mixed(peaks, widths, dims)}


def _mixed(f, first, second):
    """The coefficient of a product of two sizes, from values at two of each."""
    (a, b), (c, d) = first, second
    return (f[b, d] - f[b, c] - f[a, d] + f[a, c]) / ((b - a) * (d - c))


def step_memory(full, opt=FIXED):
    """Peaks of a whole step, on masks in bytes; their coefficients of n m and of m d, from sizes of whole blocks."""
    d, samples, widths = 4, (128, 256), tuple(8192 * k for k in (2, 3, 4))
    peaks = {(n, m): peak_bytes(partial(run_step, problem(n, d, m, counting=True), opt)) for n in samples for m in widths}
    for (n, m), peak in peaks.items():
        yield {"n": n, "d": d, "m": m, "peak": peak, "n m floats": 8 * n * m}
    per_nm = _mixed(peaks, samples, widths[::2])
    slope = (peaks[samples[0], widths[-1]] - peaks[samples[0], widths[0]]) / (widths[-1] - widths[0])
    yield {"bytes per n m": per_nm, "bytes per m d": (slope - samples[0] * per_nm) / d}


# ---------------------------------------------------------------------------------------------------------- the table

IDEA = "arXiv:2112.07628 for the idea; derived"
PRODUCTS = ("W Xᵀ", "forward", "J v", "Jᵀu", "J Jᵀu")
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
MAIN = f"{PAPER}, main theorem; counted here"


def _counted(
    name, number, statement, expected, measure, paper=PAPER, quantity="degree of the flops", condition="any size", how="count"
):
    return Claim(name, number, "cost, counted", paper, statement, quantity, how, expected, condition, measure)


PER_WIDTH = "K fixed, m' in proportion to n; m a multiple of the sketch's groups, perceptrons of 2^k - 1 neurons a layer"

CLAIMS = (
    _counted(
        "step-near-linear", 4, "What a step costs per neuron is linear in the samples: its flops have no term n² m.",
        "1 in n, exactly; K of the default step at most 6, whatever n", Check(per_width, *NEAR_LINEAR), MAIN,
        "degree in n of the difference of a step's flops between two widths; fresh, reused and retried R", PER_WIDTH,
    ),
    _counted(
        "gauss-newton-near-linear", 4, "By the sketch route the step of GaussNewton has no term n² m, either.",
        "1 in n, exactly; K of the default step at most 6, whatever n",
        Check(partial(per_width, optimizer=partial(GaussNewton, plan="sketch"), steps=("fresh", "retried")), *NEAR_LINEAR),
        MAIN, "degree in n of the difference of a step's flops between two widths; fresh and retried R", PER_WIDTH,
    ),
    _counted(
        "step-linear-in-width", 4, "Every part of the near-linear step, and the whole of it, costs flops linear in the width.",
        "1 in m, and equal to the formula, exactly", Check(partial(parts, wanted=WIDTH), *EXACTLY), MAIN, condition="K fixed",
    ),
    _counted(
        "step-linear-in-inputs", 4, "Every product, and the whole step, costs flops linear in the input dimension.",
        "1 in d, and equal to the formula, exactly", Check(partial(parts, wanted=INPUTS), *EXACTLY), MAIN, condition="K fixed",
    ),
    _counted(
        "parts-in-samples", 5, "Products and the neuron-mode sketch are linear in the samples; only n x n matrices cost more.",
        "products and sketch 1 in n, their Gram matrix 2 in n and 1 in m', factorisation 3 in n; equal to the formula, exactly",
        Check(partial(parts, wanted=SAMPLES), *EXACTLY), MAIN,
    ),
    _counted(
        "step-cubic-tail", 5, "The whole step has a cubic tail in the samples, which is that of its n x n matrices alone.",
        "degree 3 in n with leading term 10/3 n³, exactly",
        Check(
            over_samples, Bound("flops", equal=3, over="n", reduce="degree"),
            Bound("flops", equal=Fraction(10, 3), over="n", reduce="leading"),
        ),
        MAIN, "degree and leading term of the flops", "K fixed, m' = 1.5 n",
    ),
    _counted(
        "step-closed-form", 0, "The flops of a whole step are those of its formula.",
        "equal to the flop; a step of 7 attempts within .1 % of its parts",
        Check(
            whole_steps, Bound("flops", equal=1, over="n m d", per="formula"), Bound("retried step over its parts", 0.999, 1),
            Bound("attempts", equal=7),
        ),
        "derived", "flops of fresh, reusing and retried steps",
    ),
    _counted(
        "gram-quadratic-in-samples", 6, "The structured Gram matrix is quadratic in the samples, linear in width and inputs.",
        "2 in n, 1 in m, 1 in d, and equal to the formula, exactly", Check(partial(parts, wanted=GRAM), *EXACTLY),
        f"{GRAM_PAPER}, as {PAPER} states it",
    ),
    _counted(
        "naive-gram-ratio", 7, "A Gram matrix from explicit rows costs m d/(m+d) times the structured one.",
        "m d/(m+d) within 2 %",
        Check(naive_ratios, Bound("explicit over structured", 0.98, 1.02, over="d", per="m d/(m+d)")),
        "derived", "ratio of the flops' coefficients of n²",
    ),
    _counted(
        "kronecker-sketch-nlogn", 15, "The Kronecker sketch costs at most 8 n (m log₂ m + d log₂ d) flops beside linear terms.",
        "at most 8, and 8 at powers of 16, exactly",
        Check(
            kronecker_counts, Bound("flops over N log₂ N", low=1, high=8, over="width", by="factor", log="x"),
            Bound("the same at powers of 16", equal=8),
        ),
        IDEA, "coefficients of m log₂ m and d log₂ d, per row", "m and d powers of two; dense factors of at most 16 points",
    ),
    _counted(
        "kronecker-sketch-memory", 15, "The Kronecker sketch forms nothing of the size of the Jacobian.",
        "0, exactly; the peak is that of 4 to 4.2 arrays of samples by neurons",
        Check(sketch_memory, Bound("peak", 4, 4.2, over="m", by="d", per="n m floats"), Bound("bytes per m d", equal=0)),
        IDEA, "bytes per m d at the peak", how="memory",
    ),
    _counted(
        "step-memory", 0, "A near-linear step holds no float array of samples by neurons, only two masks.",
        "2 and 16, exactly (one float64 array more would add 8)",
        Check(
            step_memory, Bound("peak", over="m", by="n", beside="n m floats"), Bound("bytes per n m", equal=2),
            Bound("bytes per m d", equal=16),
        ),
        "derived", "bytes per n m and m d at the peak", "ReLU; masks in bytes, as on counting arrays", "memory",
    ),
)  # fmt: skip
