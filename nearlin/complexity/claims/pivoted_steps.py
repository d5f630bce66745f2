"""Claims on whole steps with pivoted columns in the place of an n x n matrix: what they cost, how many iterations are left as
neurons, inputs and weights change, and which columns serve how long.
"""

import math
from dataclasses import replace

import numpy as np

from nearlin.complexity.claims import data, spectra
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.pivoted import PIVOTED, factored, iterations, points
from nearlin.complexity.claims.problems import SOFTMAX, on_digits, on_sphere, problem, starting, walk
from nearlin.complexity.counting import count
from nearlin.linalg import FactorizationError, PivotedCholesky, nearby_groups, pivoted_blocks
from nearlin.nn import FactorEntries, TwoLayer
from nearlin.optim import GaussNewton, NearLinearGaussNewton
from nearlin.sketch import NeuronSigns

D, K = 16, 4  # inputs, and iterations where their number is fixed
BY_NAME = NearLinearGaussNewton(preconditioner="pivoted")
COLUMNS = 4  # so few that one round makes them


def fixed(n, preconditioner="pivoted", columns=COLUMNS):
    """Steps of K iterations; ``columns`` by the memory that they may take."""
    options = {"epsilon": 1e-12, "maxiter": K, "guard": False, "memory": 2 * 8 * n * columns}
    return NearLinearGaussNewton(preconditioner=preconditioner, **options)


# ------------------------------------------------------------------------------------------------------------------- counted


def flops(full, optimizer=fixed):
    """Flops of a whole step over n, m and d, at K iterations and k columns."""
    base, sizes = {"n": 16, "d": 8, "m": 720}, {"n": (8, 16, 24, 32, 40), "m": (240, 480, 720, 960), "d": (8, 12, 16, 20)}
    for name, several in sizes.items():
        for size in several:
            n, d, m = {**base, name: size}.values()
            with count() as tally:
                problem(n, d, m, counting=True).step(optimizer(n))
            yield {"step": f"in {name}", "size": size, "flops": tally.total}


def memory(full, optimizer=BY_NAME, sizes=(1536, 2304, 3072, 3840), m=1024):
    """Bytes of the largest array of a whole step with k₀ = √(2 m d) columns, and of all at the peak, beside n² floats."""
    for n in sizes:
        p = problem(n, D, m, counting=True)
        with count() as tally:
            p.step(optimizer)
        yield {"n": n, "m": m, "largest": tally.largest, "peak": tally.peak, "n² floats": 8 * n * n}


# --------------------------------------------------------------------------------------------------------------- iterations


def first_system(p):
    """J, the product with J Jᵀ, λ = 1e-5 tr(J Jᵀ)/n, and the residual of a problem."""
    J = p.jacobian()
    return J, (J.gram_matvec, 1e-5 * J.mean_square(), np.ravel(p.residual()))


def kernel(p, k):
    """k columns of the closed-form kernel."""
    return factored(p.batch[0], k)


def present(p, k, key=1):
    """k columns of the network at its present weights, from sums over 4 k groups of neurons."""
    J = p.jacobian()
    return PivotedCholesky(FactorEntries.of(J, J.draw(NeuronSigns(), key, 4 * k, p.batch[0])), 0).grow(k)


def left(p, factor):
    """Iterations to 1/6 that a factor leaves."""
    _, given = first_system(p)
    return iterations(*given, factor.preconditioner(given[1]))


def over_inputs(full, make=kernel, sizes=(1024, 2048), ratio=16):
    """Iterations to 1/6 with k₀ columns over n and d, m d = 16 n."""
    k = lambda n: math.isqrt(2 * ratio * n)  # noqa: E731
    for d in (4, 16, 64):
        for n in (*sizes, *((4096, 8192, 16384) if full else ())):
            p = on_sphere(n, d, ratio * n // d, 3)
            found = left(p, make(p, k(n)))
            yield {"inputs": f"d = {d}", "n": n, "k": k(n), f"iterations, d {'>= 16' if d >= 16 else '= 4'}": found}


def over_neurons(full, make=kernel, n=1024):
    """Iterations to 1/6 with k₀ columns over m d/n: of the kernel, and of sums over the neurons at their present weights."""
    n = 4096 if full else n
    for ratio in (256, 16, 4, 1):
        p, k = on_sphere(n, D, ratio * n // D, 3), min(n, math.isqrt(2 * ratio * n))
        regime = "m d >= 16 n" if ratio >= 16 else "m d = 4 n" if ratio == 4 else "m d = n"
        for columns in (make, present):
            found = left(p, columns(p, k))
            yield {
                "columns": columns.__name__,
                "n": n,
                "k": k,
                "m d/n": ratio,
                "iterations": found,
                f"iterations, {regime}": found,
            }


def conditions(full, bound=lambda P, smallest, rest: P.condition_bound(smallest, rest), n=150):
    """κ that k columns of the kernel leave of J Jᵀ + λ I before every step of a run, over the bound for the kernel times that κ
    of the two matrices beside each other.
    """
    p = on_sphere(n, D, 32 * n, 3)
    P = kernel(p, n // 6).preconditioner(1e-3)
    K, F, I = data.limit_kernel(p.batch[0]), P.factor.F, np.eye(n)
    of_kernel = bound(P, np.linalg.eigvalsh(K)[0] + P.damping, np.linalg.norm(K - F @ F.T, 2))
    for t, (now, _) in enumerate(walk(p, BY_NAME, 8 if full else 4)):
        A = now.jacobian().gram()
        kappa = spectra.condition(A + P.damping * I, F @ F.T + P.shift * I)
        yield {"n": n, "step": t, "κ": kappa, "bound": of_kernel * spectra.condition(A, K, P.damping)}


def ageing(full, activation="relu", make=kernel, n=384, steps=30, d=8):
    """Iterations to 1/6 that the columns of the first step leave, less those of columns made anew, every sixth step of a run."""
    n = 1024 if full else n
    p = on_sphere(n, d, 2 * n, 3, activation)
    k, opt = n // 8, NearLinearGaussNewton(preconditioner="auto" if activation == "relu" else "sketch")
    aged, start = make(p, k), p.params[0]
    for t, (now, _) in enumerate(walk(p, opt, steps)):
        if t % 6 == 0:
            moved = float(np.linalg.norm(now.params[0] - start) / np.linalg.norm(start))
            old, new = left(now, aged), left(now, present(now, k, t))
            yield {"n": n, "step": t, "moved": moved, "aged": old, "fresh": new, "more iterations": old - new}


def deep_columns(full, every=1, k=64, n=80):
    """Iterations to .1 with k rows of Cᵀ J of a network under cross-entropy, made anew every so many steps, over steps."""
    p, factor = on_digits(n * (1 + full), 10, (128, 64), centred=False, loss=SOFTMAX), None
    for t, (now, _) in enumerate(walk(p, GaussNewton(epsilon=0.1, plan="cg"), 6)):
        J = now.jacobian()
        source = FactorEntries.of(J)
        if t % every == 0:
            factor = PivotedCholesky(source, 0).grow(k)
        damping, b = 0.1 * float(np.mean(source.diagonal)), data.labels(J.shape[0], 1)
        found = [iterations(J.gram_matvec, damping, b, *P, rtol=0.1) for P in ((factor.preconditioner(damping),), ())]
        yield {"n c": J.shape[0], "k": k, "step": t, "iterations": found[0], "without": found[1]}


def sources(full, mix=lambda factor, p: factor, n=512):
    """Iterations on near-duplicates with groups of near rows, F and groups from one source, over those without groups."""
    n *= 1 + full
    x = points("clusters of 8", n)
    p = starting(TwoLayer(D, 8 * n), x, data.labels(n, 1), 1)
    _, given = first_system(p)
    factor = kernel(p, n // 16)
    try:
        found = iterations(*given, pivoted_blocks(mix(factor, p), given[1], nearby_groups(x, 0)))
    except FactorizationError:  # what is left of one matrix without the columns of another need not be positive
        found = math.inf
    yield {"n": n, "k": factor.rank, "iterations": found, "flat": left(p, factor)}


def mixed(factor, p):
    """F of the kernel, and groups of the network at its present weights."""
    J = p.jacobian()
    return replace(factor, source=FactorEntries.of(J, J.draw(NeuronSigns(), 1, 4 * factor.rank, p.batch[0])))


OF_STEPS = "arXiv:2207.06503; counted here"

CLAIMS = (
    claim("pivoted-step-linear", 0, PIVOTED, OF_STEPS,
        "A whole step is linear in samples, neurons and inputs: its flops have no term n², and none n³.",
        "K iterations and k columns fixed; k = 4, which one round makes", flops,
        Bound("flops", equal=1, over="size", by="step", reduce="degree"), how="count"),
    claim("pivoted-step-memory", 0, PIVOTED, "derived",
        "A whole step makes no array of n² entries, and its peak is linear in the samples.",
        "m and k₀ = √(2 m d) fixed; so many samples that walks go by tiles of them", memory,
        Bound("largest", equal=1, over="n", reduce="degree"), Bound("peak", equal=1, over="n", reduce="degree"),
        Bound("peak", high=0.25, over="n", per="n² floats", reduce="last"), how="memory"),
    claim("pivoted-inputs", 0, PIVOTED, "derived",
        "With k₀ columns and m d = 16 n the system takes few iterations in 16 dimensions and more; in few they grow.",
        "points on the sphere, λ = 1e-5 tr/n", over_inputs, Bound("iterations, d >= 16", high=8, over="n", by="inputs", log="x"),
        Bound("iterations, d = 4", over="n", log="x")),
    claim("pivoted-neurons", 0, PIVOTED, "derived",
        "Iterations grow as m d / n falls, and no columns serve where it is 1: neither the kernel's nor present ones.",
        "points on the sphere, d = 16, k₀ columns, λ = 1e-5 tr/n", over_neurons,
        Bound("iterations, m d >= 16 n", high=8, by="columns"), Bound("iterations, m d = 4 n", high=24, by="columns"),
        Bound("iterations, m d = n", low=60, by="columns"), Bound("iterations", over="m d/n", by="columns")),
    claim("pivoted-condition-steps", 0, PIVOTED, "derived from arXiv:2304.12465",
        "Along a run κ stays below the kernel's bound times κ of J Jᵀ + λ I beside K + λ I.", "points on the sphere, d = 16",
        conditions, Bound("κ", high=1, over="step", per="bound", log="y"), Bound("κ", low=0.1, per="bound")),
    claim("pivoted-ageing", 0, PIVOTED, "derived",
        "One factor of kernel columns serves 30 steps: at most 2 more iterations than with columns of the present weights.",
        "two-layer ReLU networks, m = 2 n, d = 8", ageing, Bound("more iterations", high=2, over="step", log=""),
        Bound("aged", over="step", log="y"), Bound("fresh", over="step", log="y"), Bound("moved")),
    claim("pivoted-deep", 0, PIVOTED, "derived",
        "Under cross-entropy rows (sample, output) of Cᵀ J, made anew in every step, leave at most half of the iterations.",
        "digits, 64-128-64-10, k = 64, λ = .1 tr/n, ε = .1", deep_columns,
        Bound("iterations", high=0.5, over="step", per="without", log="y")),
    claim("pivoted-sources", 0, PIVOTED, "derived",
        "Groups of near rows serve beside columns that come from the same matrix.", "clusters of 8, k = n/16", sources,
        Bound("iterations", high=0.5, per="flat")),
)  # fmt: skip
