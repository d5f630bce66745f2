"""Claims on cost: exact operation counts and peak memory of the public functions and of whole steps.

Counted claims run on counting arrays and find degrees by finite differences, with no tolerance; sizes are multiples of the
sketch's groups.
"""

import math
import operator
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np

from nearlin.complexity import cost
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import counted_steps, problem
from nearlin.complexity.counting import count, flops_of, wrap
from nearlin.complexity.degree import leading_term
from nearlin.linalg import axpy, damped_cholesky
from nearlin.optim import GaussNewton, NearLinearGaussNewton
from nearlin.sketch import KroneckerSRHT, NeuronSigns

PAPER, GRAM_PAPER = "arXiv:2006.11648", "arXiv:1905.11675"
INNER = 4  # K, where the number of inner iterations is fixed
FIXED = NearLinearGaussNewton(
    epsilon=1e-12, maxiter=INNER, preconditioner="sketch"
)  # stops after K iterations, whatever the problem
KRONECKER = KroneckerSRHT()

counting = partial(problem, counting=True)
SIZES = {"n": (8, 16, 24, 32, 40), "d": (4, 6, 8, 10, 12), "m": (120, 240, 360, 480, 600), "m'": (30, 60, 90, 120)}
BASE = {"n": 16, "d": 4, "m": 720, "m'": 60}  # m is a multiple of m' and of 1.5 n throughout
# K iterations: by the bound on them, or because a large damping makes every system easy; steps of length 1e12 are refused.
STEPS = {
    "fresh": {"epsilon": 1e-12, "maxiter": INNER, "guard": False},
    "reused": {"epsilon": 0.5, "damping": 1e3},
    "retried": {"epsilon": 0.5, "damping": 1e3, "lr": 1e12},
}
NETWORKS = {"two-layer": (0, (720, 1440)), "perceptron": (1, (15, 31)), "deep perceptron": (2, (7, 15))}


def _sketched(p, rows):
    """Flops of M' = M S₁ᵀ, and of the Gram matrix made from it."""
    J = p.jacobian()
    S = NeuronSigns().sample(0, rows, J.factor_shapes, like=p.batch[0])
    fold = flops_of(J.fold_left, 0, S)
    return fold, flops_of(J.sketch_gram, S) - fold


PARTS = {  # flops of a part, given a problem and m'
    "W Xᵀ": lambda p, _: flops_of(operator.matmul, p.params[0], p.batch[0].T),
    "forward": lambda p, _: flops_of(p.objective.network.forward, p.params, p.batch[0]),
    "J v": lambda p, _: flops_of(p.jacobian().matvec, p.params),
    "Jᵀu": lambda p, _: flops_of(p.jacobian().rmatvec, p.batch[1]),
    "J Jᵀu": lambda p, _: flops_of(p.jacobian().gram_matvec, p.batch[1]),
    "update": lambda p, _: flops_of(axpy, -1.0, p.params, p.params),
    "structured Gram": lambda p, _: flops_of(p.jacobian().gram),
    "neuron-mode sketch": lambda p, rows: _sketched(p, rows)[0],
    "Gram of the sketch": lambda p, rows: _sketched(p, rows)[1],
    "factorisation": lambda p, _: flops_of(damped_cholesky, p.jacobian().gram(), 1e-2),
    "whole step": lambda p, _: flops_of(p.step, FIXED),
}


def formulas(n, d, m, rows):
    """Flops of the parts at sizes n, d, m and m', by their formulas; the whole step has its own claim."""
    net = cost.two_layer(n, d, m)
    return {
        "W Xᵀ": 2 * n * m * d, "forward": net.forward, "J v": net.matvec, "Jᵀu": net.rmatvec, "J Jᵀu": net.gram_matvec,
        "update": 2 * m * d, "structured Gram": net.gram, "neuron-mode sketch": cost.neuron_sketch(n, m, rows),
        "Gram of the sketch": cost.sketched_gram(n, d, rows), "factorisation": cost.factorisation(n),
    }  # fmt: skip


def parts(full, wanted, made=PARTS):
    """Flops of parts over one size each, beside their degree and their formula."""
    for (name, variable), expected in wanted.items():
        for size in SIZES[variable]:
            n, d, m, rows = {**BASE, variable: size}.values()
            flops, formula = made[name](counting(n, d, m), rows), formulas(n, d, m, rows)
            row = {"part": f"{name} in {variable}", "size": size, "degree": expected, "flops": flops}
            yield {**row, "formula": formula[name]} if name in formula else row


def per_width(full, optimizer=NearLinearGaussNewton, steps=tuple(STEPS)):
    """Flops that a step costs more on the wider of two networks, over n; and the iterations of default steps."""
    for (network, (hidden, widths)), kind, n in product(NETWORKS.items(), steps, SIZES["n"][:4]):
        opt = optimizer(**STEPS[kind], sketch=KRONECKER if hidden else NeuronSigns())
        made = [[*counted_steps(counting(n, 4, m, hidden=hidden), opt, 1 + (kind == "reused"))][-1] for m in widths]
        done, also = ({"attempts": i.attempts, "K": i.solve.iterations, "R is fresh": i.solve.refreshed} for _, i, _ in made)
        if done != also:
            raise RuntimeError(f"steps of {network} networks, {kind}, took {done} and {also}; expected the same twice")
        yield {"step": f"{network}, {kind}", "n": n, "flops between two widths": made[1][0] - made[0][0], **done}
    for n in (64, 128, 256, *((512, 1024) if full else ())):
        yield {"n": n, "K of the default step": problem(n, 16, 16 * n).step(optimizer())[2].solve.iterations}


def whole_steps(full, formula=cost.near_linear_step):
    """Flops of the first step (fresh R), of the second (nothing made anew) and of one of 7 attempts, and their formula."""
    for n, d, m in ((32, 4, 768), (40, 8, 1200), (64, 4, 960), *(((128, 16, 9600), (256, 8, 30000)) if full else ())):
        p, net, row = counting(n, d, m), cost.two_layer(n, d, m), {"n m d": n * m * d}
        for number, (flops, info, _) in enumerate(counted_steps(p, NearLinearGaussNewton(preconditioner="sketch"), 2)):
            made = {"fresh": info.solve.refreshed, "recalled": number > 0}
            expected = sum(formula(net, info.solve.iterations, **made).values())
            yield {**row, "R is fresh": made["fresh"], "flops": flops, "formula": expected}
        yield {**row, **_retried(p, formula(net, 1))}


def _retried(p, once):
    """Flops of a step of 7 attempts over those of its parts: 7 solves and 4 factors R, as λ outgrows R thrice by more than 10."""
    ((flops, info, _),) = counted_steps(p, NearLinearGaussNewton(preconditioner="sketch", **STEPS["retried"]), 1)
    again = sum(once[part] for part in ("products", "triangular solves", "vectors", "certificate", "guard"))
    expected = sum(once.values()) + (info.attempts - 1) * again + 3 * once["factorisation"]
    return {"attempts": info.attempts, "retried step over its parts": flops / expected}


def over_samples(full, made=PARTS):
    """Flops of the whole step over n. 3 n³ is the Gram matrix of 1.5 n sketched neurons, 2 n² 1.5 n, and n³/3 its factor R."""
    for n in SIZES["n"]:
        yield {"n": n, "m": BASE["m"], "flops": made["whole step"](counting(n, 4, BASE["m"]), None)}


def naive_gram(J, naive=lambda J: J.to_dense()):
    """J Jᵀ from explicit rows."""
    rows = naive(J)
    return rows @ rows.T


def naive_ratios(full, gram=naive_gram):
    """Leading coefficients in n² of the Gram matrix from explicit rows over that of the structured one."""
    m = 720 if full else 240
    for d in (4, 8, 16, 32):
        naive, structured = (
            leading_term(lambda n, f=f, d=d: flops_of(f, counting(n, d, m).jacobian()), (4, 8, 12, 16))[1]
            for f in (gram, lambda J: J.gram())
        )
        yield {"d": d, "m": m, "explicit over structured": float(naive / structured), "m d/(m+d)": m * d / (m + d)}


def kronecker_counts(full, sketch=KRONECKER):
    """Flops that one more row of the Kronecker sketch takes, over N log₂ N, beside one sign an entry and a constant."""
    for variable in ("m", "d"):
        least = _another_row(sketch, **{variable: 1})
        for size in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096):
            growth = _another_row(sketch, **{variable: size}) - least - (size - 1)
            coefficient = growth / (size * math.log2(size))
            found = {"factor": variable, "width": size, "flops over N log₂ N": coefficient}
            yield {**found, "the same at powers of 16": coefficient} if size in (16, 256, 4096) else found


def _another_row(sketch, m=16, d=16):
    S = sketch.sample(0, 32, ((m, d),), like=wrap(np.empty(0)))
    one, two = (flops_of(S.rows, 0, np.ones((n, m)), np.ones((n, d))) for n in (1, 2))
    return two - one


def peak_bytes(f, *args):
    """Most bytes that arrays made inside of ``f(*args)`` took."""
    with count() as tally:
        f(*args)
    return tally.peak


def mixed(f, *pairs):
    """The coefficient of the product of all sizes in f, a polynomial whose other terms miss a size; by two values of each."""
    corners = product((0, 1), repeat=len(pairs))
    signed = ((-1) ** (len(pairs) - sum(up)) * f(*(pair[i] for pair, i in zip(pairs, up, strict=True))) for up in corners)
    return Fraction(sum(signed), math.prod(b - a for a, b in pairs))


def sketch_memory(full, sketch=lambda J, S: J.sketch(S)):
    """Peaks of the Kronecker sketch of a Jacobian, and their mixed difference in m and d."""
    n, widths, dims, peaks = 16, (512, 1024), (32, 64), {}
    for m, d in product(widths, dims):
        J = counting(n, d, m).jacobian()
        S = KroneckerSRHT().sample(0, 4 * n, J.factor_shapes, like=J.x)
        peaks[m, d] = peak_bytes(sketch, J, S)
        yield {"n": n, "d": d, "m": m, "peak": peaks[m, d], "n m floats": 8 * n * m}
    yield {"bytes per m d": mixed(lambda *sizes: peaks[sizes], widths, dims)}


def step_memory(full, opt=FIXED):
    """Peaks of a whole step, on masks in bytes; their coefficients of n m and of m d, from sizes of whole blocks."""
    d, samples, widths = 4, (128, 256), tuple(8192 * k for k in (2, 3, 4))
    peaks = {(n, m): peak_bytes(counting(n, d, m).step, opt) for n in samples for m in widths}
    for (n, m), peak in peaks.items():
        yield {"n": n, "d": d, "m": m, "peak": peak, "n m floats": 8 * n * m}
    per_nm = mixed(lambda *sizes: peaks[sizes], samples, widths[::2])
    slope = mixed(lambda m: peaks[samples[0], m], widths[::2])
    yield {"bytes per n m": per_nm, "bytes per m d": (slope - samples[0] * per_nm) / d}


COUNTED, IDEA = "cost, counted", "arXiv:2112.07628 for the idea; derived"
PRODUCTS = ("W Xᵀ", "forward", "J v", "Jᵀu", "J Jᵀu")
WIDTH = {(part, "m"): 1 for part in (*PRODUCTS, "update", "neuron-mode sketch", "whole step")}
INPUTS = {(part, "d"): 1 for part in (*PRODUCTS, "update", "whole step")}
SAMPLES = {(part, "n"): 1 for part in (*PRODUCTS, "neuron-mode sketch")} | {
    ("update", "n"): 0, ("Gram of the sketch", "n"): 2, ("Gram of the sketch", "m'"): 1, ("factorisation", "n"): 3,
}  # fmt: skip
GRAM = {("structured Gram", "n"): 2, ("structured Gram", "m"): 1, ("structured Gram", "d"): 1}
MAIN = f"{PAPER}, main theorem; counted here"
PER_WIDTH = "K fixed, m' in proportion to n; m a multiple of the sketch's groups, perceptrons of 2^k - 1 neurons a layer"
EXACTLY = (Bound("flops", equal="degree", over="size", by="part", reduce="degree"), Bound("flops", equal=1, per="formula"))
NEAR_LINEAR = (
    Bound("flops between two widths", equal=1, over="n", by="step", reduce="degree"),
    Bound("K of the default step", low=1, high=6, over="n", log="x"),
)

CLAIMS = (
    claim("step-near-linear", 4, COUNTED, MAIN,
        "What a step costs per neuron is linear in the samples: its flops have no term n² m.", PER_WIDTH, per_width,
        *NEAR_LINEAR, how="count"),
    claim("gauss-newton-near-linear", 4, COUNTED, MAIN,
        "By the sketch route the step of GaussNewton has no term n² m, either.", PER_WIDTH,
        partial(per_width, optimizer=partial(GaussNewton, plan="sketch"), steps=("fresh", "retried")), *NEAR_LINEAR, how="count"),
    claim("step-linear-in-width", 4, COUNTED, MAIN,
        "Every part of the near-linear step, and the whole of it, costs flops linear in the width.", "K fixed",
        partial(parts, wanted=WIDTH), *EXACTLY, expected="1 in m, and equal to the formula", how="count"),
    claim("step-linear-in-inputs", 4, COUNTED, MAIN,
        "Every product, and the whole step, costs flops linear in the input dimension.", "K fixed",
        partial(parts, wanted=INPUTS), *EXACTLY, expected="1 in d, and equal to the formula", how="count"),
    claim("parts-in-samples", 5, COUNTED, MAIN,
        "Products and the neuron-mode sketch are linear in the samples; only n x n matrices cost more.", "any size",
        partial(parts, wanted=SAMPLES), *EXACTLY,
        expected="products and sketch 1 in n, their Gram matrix 2 in n and 1 in m', factorisation 3 in n; equal to the formula",
        how="count"),
    claim("step-cubic-tail", 5, COUNTED, MAIN,
        "The whole step has a cubic tail in the samples, which is that of its n x n matrices alone.", "K fixed, m' = 1.5 n",
        over_samples, Bound("flops", equal=3, over="n", reduce="degree"),
        Bound("flops", equal=Fraction(10, 3), over="n", reduce="leading"), how="count"),
    claim("step-closed-form", 0, COUNTED, "derived",
        "The flops of a whole step are those of its formula.", "any size", whole_steps,
        Bound("flops", equal=1, over="n m d", per="formula"), Bound("retried step over its parts", 0.999, 1),
        Bound("attempts", equal=7), how="count"),
    claim("gram-quadratic-in-samples", 6, COUNTED, f"{GRAM_PAPER}, as {PAPER} states it",
        "The structured Gram matrix is quadratic in the samples, linear in width and inputs.", "any size",
        partial(parts, wanted=GRAM), *EXACTLY, expected="2 in n, 1 in m, 1 in d, and equal to the formula", how="count"),
    claim("naive-gram-ratio", 7, COUNTED, "derived",
        "A Gram matrix from explicit rows costs m d/(m+d) times the structured one.", "any size", naive_ratios,
        Bound("explicit over structured", 0.98, 1.02, over="d", per="m d/(m+d)"), how="count"),
    claim("kronecker-sketch-nlogn", 15, COUNTED, IDEA,
        "The Kronecker sketch costs at most 8 n (m log₂ m + d log₂ d) flops beside linear terms.",
        "m and d powers of two; dense factors of at most 16 points", kronecker_counts,
        Bound("flops over N log₂ N", low=1, high=8, over="width", by="factor", log="x"),
        Bound("the same at powers of 16", equal=8), how="count"),
    claim("kronecker-sketch-memory", 15, COUNTED, IDEA,
        "The Kronecker sketch forms nothing of the size of the Jacobian.", "any size", sketch_memory,
        Bound("peak", 4, 4.2, over="m", by="d", per="n m floats"), Bound("bytes per m d", equal=0), how="memory"),
    claim("step-memory", 0, COUNTED, "derived",
        "A near-linear step holds no float array of samples by neurons, only two masks.",
        "ReLU; masks in bytes, as on counting arrays", step_memory, Bound("peak", over="m", by="n", beside="n m floats"),
        Bound("bytes per n m", low=1.99, high=2.01), Bound("bytes per m d", low=15.9, high=16.1), how="memory"),
)  # fmt: skip
