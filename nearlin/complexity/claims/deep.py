"""Claims on deep networks of many outputs: preconditioners along training, the outer loop, the planner's choice.

Condition numbers are those of dense matrices of n c rows, for n samples and c outputs.
"""

import functools
import math
from functools import partial
from itertools import product

import numpy as np

from nearlin.complexity.claims import data, spectra, timing
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.outer import RATE_IS_ACCURACY, rate_is_accuracy
from nearlin.complexity.claims.problems import GAUSS_NEWTON, SOFTMAX, SQUARED, named, on_digits, problem, starting, trained, walk
from nearlin.nn import MLP
from nearlin.optim import GaussNewton, GramGaussNewton

SHARES = (1e-5, 1e-3, 1e-1)  # dampings over the largest eigenvalue
NARROW = (8, 8, 8)  # too few active parameters for independent rows of 13 digits and 10 outputs
TARGET = 1e-4  # loss at which digits are learnt
UNDAMPED = partial(GaussNewton, plan="sketch", damping=1e-12, guard=False)
ROUTES = ("exact", "sketch", "kernel")


def _networks(full):
    """(activation, centred, widths, n c, c) of every case."""
    depths, sizes = ((2, 3, 4, 5), (128, 256, 512)) if full else ((2, 5), (128,))
    for activation, centred, size, (i, depth) in product(("relu", "tanh"), (False, True), sizes, enumerate(depths)):
        for c in (1, 10) if full else ((1, 10)[i],):
            yield activation, centred, (128,) * (depth - 1), size, c
    yield "relu", False, NARROW, 128, 10


@functools.cache
def _layer_sums(full, sketch, ratio, draws=5, steps=4):
    """Rows for every draw of a sketch, network and time, undamped ones and damped ones."""
    undamped, damped = [], []
    for activation, centred, widths, size, c in _networks(full):
        start = on_digits(round(size / c), c, widths, activation, centred)
        for when, p in (("at the start", start), (f"after {steps} steps", trained(start, steps, GramGaussNewton()))):
            J = p.jacobian()
            G, row = J.gram(), {"network": f"{named(widths, c, activation, centred)} {when}", "activation": activation}
            spectrum = np.maximum(np.linalg.eigvalsh(G), 0.0)
            kappa = float(spectrum[-1] / spectrum[0]) if spectrum[0] > 0 else math.inf
            for key in range(draws):
                gram = spectra.sketched_gram(J, sketch, ratio, key)
                found = spectra.condition(G, gram) if kappa < spectra.RESOLVED else math.inf
                limit = {"a Gaussian sketch's": spectra.finite_condition(len(G), 4)}
                undamped.append({**row, "n c": len(G), "draw": key, "κ(G)": kappa, "κ_pre": found, **limit})
                for damping in (share * spectrum[-1] for share in SHARES):
                    share, found = spectra.effective_dimension(spectrum, damping) / len(G), spectra.condition(G, gram, damping)
                    limit = {"the formula": spectra.gaussian_condition(4 / share)}
                    damped.append({**row, "draw": key, "d_eff/(n c)": share, "κ_pre": found, **limit})
    return undamped, damped


def layer_sums(full, sketch=spectra.KRONECKER, ratio=4, damped=False):
    """κ_pre at s = 4nc at the start and after some exact steps, beside a Gaussian sketch's, or with damping, the formula's."""
    return _layer_sums(full, sketch, ratio)[damped]


@functools.cache
def blocks_along(loss, n, key, optimizer, until=TARGET, steps=40):
    """κ without a preconditioner, with Ḡ ⊗ I_c and with one Gram matrix per class at every step of 64-256-256-10 on n digits.

    `SquaredLoss` undamped, with the trained network; else damped by λ of the step.
    """
    rows, squared, end = [], loss == SQUARED, math.inf
    for t, (p, info) in enumerate(walk(on_digits(n, 10, (256, 256), loss=loss, key=key), optimizer, steps, until)):
        if info is None and not squared:
            break
        damping, end = 0.0 if squared else n * info.damping, info.new_loss if info is not None else end
        J = p.jacobian()
        G = J.gram()
        plain = float(np.linalg.cond(G + damping * np.eye(len(G))))
        made = [spectra.blocks(grams, 10) for grams in ((J.mean_gram(),), J.class_grams())]
        averaged, by_class = (spectra.condition(G, matrix, damping) for matrix in made)
        rows.append({"n": n, "seed": key, "step": t, "κ of none": plain, "κ of Ḡ ⊗ I_c": averaged, "κ by class": by_class})
    return [{**row, "loss at the end": end} for row in rows]


def squared_blocks(full, optimizer=GAUSS_NEWTON, size=None):
    """κ at every step of least squares, as far as all seeds go, and κ at the start for smaller n."""
    n, seeds = size or (100 if full else 50), (1, 2, 3) if full else (1, 2)
    for rows in zip(*(blocks_along(SQUARED, n, key, optimizer, 1e-6) for key in seeds), strict=False):
        yield from rows
    for few, key in product((13, 25, 50, 100)[: 4 if full else 3], seeds):
        J = on_digits(few, 10, (256, 256), key=key).jacobian()
        yield {"n": few, "seed": key, "κ at the start": spectra.condition(J.gram(), spectra.blocks((J.mean_gram(),), 10))}


def softmax_blocks(full, optimizer=GAUSS_NEWTON, loss=SOFTMAX, size=None):
    """κ at every step of a run of cross-entropy."""
    return blocks_along(loss, size or (100 if full else 40), 1, optimizer)


def kept_along(p, steps=12, sketch=spectra.KRONECKER, optimizer=GaussNewton(plan="exact")):  # noqa: B008 (frozen)
    """κ_pre of the first Gram matrix and of the first sketch at every step of training; (steps, 2)."""
    kept, rows = None, []
    for q, _ in walk(p, optimizer, steps, until=1e-8):
        J = q.jacobian()
        G = J.gram()
        kept = kept or (G, spectra.sketched_gram(J, sketch, 4, 0))
        rows.append([spectra.condition(G, matrix) for matrix in kept])
    return np.array(rows)


def kept_on_digits(full, deep=(64, 64, 64), wide=None, widths=None):
    """κ_pre along training of deep networks on digits, of a wide shallow one, and the largest over the width of three layers."""
    wide, widths = wide or ((4096,) if full else (2048,)), widths or (32, 64, 128, 256, 512, *((1024,) if full else ()))
    n, kinds = (50, [*product(("relu", "tanh"), (False, True))]) if full else (25, [("relu", False)])
    for kind, layers, given in (*(("deep", deep, given) for given in kinds), ("wide", wide, kinds[0])):
        for t, (gram, sketch) in enumerate(kept_along(on_digits(n, 10, layers, *given)).tolist()):
            row = {"network": named(layers, 10, *given), "n": n, "step": t}
            yield {**row, f"κ_pre of the first Gram matrix, {kind}": gram, f"κ_pre of the first sketch, {kind}": sketch}
    for width in widths:
        gram, sketch = kept_along(on_digits(n, 10, (width,) * 3, *kinds[0])).max(axis=0).tolist()
        yield {"width": width, "largest κ_pre of the first Gram matrix": gram, "largest κ_pre of the first sketch": sketch}


def deep_tanh(key, n=24, d=10, widths=(256, 256, 256)):
    """A deep wide tanh network on the sphere."""
    return starting(MLP((d, *widths, 1), "tanh"), data.sphere(n, d, key), data.labels(n, key), key)


def plan_times(full, timer=timing.interleaved, steps=4):
    """Seconds of some steps by the planner's choice over those of the best route; and what plans gain over the exact route."""
    for ratio, n in product((4, 32), (64, 128, 256, 512, 1024) if full else (32, 64)):
        p = problem(n, 16, ratio * n)
        calls = {plan: partial(_routes, p, GaussNewton(plan=plan), steps) for plan in ("auto", *ROUTES)}
        seconds = timer(calls, rounds=3)
        best = min(seconds[route] for route in ROUTES)
        over = seconds["auto"] / best
        row = {"m/n": ratio, "n": n, "d": 16, "chosen": ", ".join(sorted(calls["auto"]())), "time over the best": over}
        row |= {f"gain of {plan}": seconds["exact"] / seconds[plan] for plan in ("auto", "sketch", "kernel")}
        yield {**row, "gain of the best": seconds["exact"] / best, "at most 1.3 times the best": int(over <= 1.3)}


def _routes(p, optimizer, steps):
    """The routes of some steps."""
    return {info.plan.partition(":")[0] for _, info in walk(p, optimizer, steps) if info is not None}


MEDIAN = {"over": "κ(G)", "by": "activation", "draws": "median"}
REGULAR = (Bound("κ(G)", high=spectra.RESOLVED),)  # the undamped κ_pre that float64 resolves
LEARNT = (Bound("loss at the end", high=TARGET),)
DEEP = {"over": "step", "by": "network", "reduce": "max", "log": "y"}

CLAIMS = (
    claim("kappa-digits", 30, "deep networks", "derived",
        "On real digits, too, sketches summed over layers precondition like a Gaussian sketch, before and after training.",
        "digits, one-hot targets or signs less their mean, raw and centred; 2 to 5 layers, ReLU and tanh, undamped, "
        "κ(G) below 1e12; σ = 4",
        layer_sums, Bound("κ_pre", high=9.9, beside="a Gaussian sketch's", **MEDIAN),
        Bound("κ_pre", 0.9, 1.1, per="a Gaussian sketch's", **MEDIAN), among=REGULAR),
    claim("kappa-digits-band", 30, "deep networks", "derived",
        "All of these medians lie within ten percent of the limit 9.",
        "the same; at nc = 128 a Gaussian sketch's own median of 5 draws falls below 8.1 once in 40 times", layer_sums,
        Bound("κ_pre", 8.1, 9.9, beside="a Gaussian sketch's", **MEDIAN), among=REGULAR, should_hold=False, quick=False),
    claim("kappa-digits-damped", 28, "deep networks", "derived",
        "With damping the effective dimension takes the place of the number of rows.",
        "the same, and singular Gram matrices; λ = 1e-5, 1e-3 and .1 times the largest eigenvalue",
        partial(layer_sums, damped=True),
        Bound("κ_pre", high=1.2, per="the formula", over="d_eff/(n c)", by="activation", draws="median", log="y")),
    claim("kappa-class-averaged-digits", 31, "deep networks", "derived",
        "With the squared loss Ḡ ⊗ I_c stays a good preconditioner from the start to the trained network.",
        "64-256-256-10, ReLU, centred digits, n = 100 (quick: 50); grows with n", squared_blocks,
        Bound("κ of Ḡ ⊗ I_c", 5 / 1.15, 11 * 1.15, over="step", draws="median", log="y"),
        Bound("κ of none", over="step", draws="median", log="y"), Bound("κ at the start", over="n", draws="median")),
    claim("kappa-class-averaged-softmax", 31, "deep networks", "derived",
        "With cross-entropy Ḡ ⊗ I_c is worse than no preconditioner.",
        "64-256-256-10, ReLU, centred digits, damped by λ of the step, to a loss of 1e-4, n = 100 (quick: 40)", softmax_blocks,
        Bound("κ of Ḡ ⊗ I_c", low=1 + 1e-9, per="κ of none", over="step", log="y"), regime=LEARNT),
    claim("kappa-per-class-softmax", 31, "deep networks", "derived",
        "With cross-entropy one Gram matrix per class preconditions to the end.", "the same run", softmax_blocks,
        Bound("κ by class", high=300, over="step", reduce="last", log="y"), regime=LEARNT),
    claim("kappa-kept-deep", 29, "deep networks", "derived",
        "Out of the lazy regime a preconditioner made at the start does not serve all along; on a wide shallow network it does.",
        "3 layers of 64 on raw digits, to a loss of 1e-8; wide: one layer, 80 neurons a sample", kept_on_digits,
        Bound("κ_pre of the first Gram matrix, deep", low=16, **DEEP), Bound("κ_pre of the first sketch, deep", low=40, **DEEP),
        Bound("κ_pre of the first Gram matrix, wide", high=1.3, over="step", log="y"),
        Bound("κ_pre of the first sketch, wide", high=10, over="step", log="y"),
        Bound("largest κ_pre of the first Gram matrix", over="width"), Bound("largest κ_pre of the first sketch", over="width")),
    claim("rate-is-accuracy-deep", 3, "deep outer loop", "(★) of the convergence proof, derived",
        "On deep wide networks the accuracy of the linear solve sets the rate of convergence, too.",
        "tanh, 3 layers of 256, points on the sphere; damping 1e-12, which adds nothing; residual below .005 of the inner one "
        "times the first, above rounding",
        partial(rate_is_accuracy, optimizer=UNDAMPED, epsilons=(0.5, 1 / 3, 1 / 6, 0.1, 0.01), make=deep_tanh),
        *RATE_IS_ACCURACY),
    claim("break-even-plan", 33, "deep outer loop", "derived",
        "By the planner's choice steps take about as long as by the best of the exact, the sketch and the kernel route.",
        "4 steps of two-layer networks, float64; the default table of rates, which is of two idle cores; measured on one thread",
        plan_times, Bound("time over the best", high=1.6, over="n", by="m/n", reduce="max"),
        Bound("at most 1.3 times the best", low=0.9, reduce="share"),
        Bound("gain of auto", over="n", by="m/n", beside="gain of the best"), how="time", should_hold=False),
)  # fmt: skip
