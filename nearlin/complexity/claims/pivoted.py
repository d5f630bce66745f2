"""Claims on preconditioners from a few columns of the Gram matrix: what they cost, and the iterations and conditions they leave.

Columns are those of the limit kernel, systems those of two-layer networks at their start, or the kernel's own.
"""

import math

import numpy as np

from nearlin._array import fold_in, generator
from nearlin.complexity.claims import data, spectra
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.counting import count, wrap
from nearlin.linalg import PivotedCholesky, cg, identity, nearby_groups, pivoted_blocks, second_level
from nearlin.nn import KernelEntries

D = 16
SMOOTH, NEAR = ("sphere", "offset"), ("near-duplicates at 1e-2", "clusters of 8")
ONE = 2 * D + 9  # flops of an entry of the kernel


def factored(x, rank):
    """k columns of the kernel."""
    return PivotedCholesky(KernelEntries(x), 0).grow(rank)


def flat(x, rank, damping):
    """The default preconditioner of k columns."""
    return factored(x, rank).preconditioner(damping)


def points(family, n, key=0):
    """Unit rows in 16 dimensions."""
    if family == "clusters of 8":
        x = np.repeat(data.sphere(n // 8, D, key), 8, axis=0) + 1e-2 * data.sphere(n, D, fold_in(key, 1))
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    if family == "a cluster and others":
        near = data.sphere(1, D, key) + 1e-2 * data.sphere(n - n // 10, D, fold_in(key, 1))
        x = np.concatenate([near, data.sphere(n // 10, D, fold_in(key, 2))])
        return x / np.linalg.norm(x, axis=1, keepdims=True)
    if family.startswith("near-duplicates"):
        return data.near_duplicates(n, D, key, 1e-2)
    return data.FAMILIES[family](n, key) if family == "offset" else data.sphere(n, D, key)


# ------------------------------------------------------------------------------------------------------------------- counted


def build(full, make=flat):
    """Flops of a build over n and over k, and its peak of live bytes, beside n k (2 d + 9) + 2 n k² + k³/3."""
    fixed = [(n, 128) for n in (512, 1024, 2048, 4096)]
    for n, k in [*fixed, (2048, 32), (2048, 64), *(((16384, 512), (16384, 1024)) if full else ())]:
        with count() as tally:
            make(wrap(data.sphere(n, D, 0)), k, 1e-5)
        row = {"n": n, "k": k, "flops": tally.total, "n k (2 d + 9) + 2 n k² + k³/3": n * k * ONE + 2 * n * k * k + k**3 / 3}
        yield {**row, "peak": tally.peak, "n k floats": 8 * n * k}


def nothing_square(full, make=flat, sizes=(2048, 8192)):
    """Peak of live bytes of a build with k₀ = √(2 m d) columns, m = n, beside one array of n² entries."""
    for n in (*sizes, *((32768,) if full else ())):
        k = math.isqrt(2 * n * D)
        with count() as tally:
            make(wrap(data.sphere(n, D, 0)), k, 1e-5)
        yield {"n": n, "k": k, "peak": tally.peak, "n² floats": 8 * n * n}


# --------------------------------------------------------------------------------------------------------------- iterations


def system(x, m):
    """The product with J Jᵀ for m neurons, λ = 1e-5 tr(J Jᵀ)/n, and labels."""
    J = spectra.jacobian(x, m)
    return J.gram_matvec, 1e-5 * J.mean_square(), data.labels(len(x), 1)


def iterations(product, damping, b, P=identity, rtol=1 / 6):
    """Iterations of CG for (A + λ I) u = b to ε, given the product with A."""
    return cg(lambda v: product(v) + damping * v, b, rtol=rtol, maxiter=500, preconditioner=P)[1].iterations


def at_k0(full, make=flat, m=8192, sizes=(1024, 2048, 4096)):
    """Iterations to 1/6 with k₀ = √(2 m d) columns, whose build costs about one product, and without them; λ = 1e-5 tr/n."""
    for n in (*sizes, *((8192, 16384) if full else ())):
        x, k = data.sphere(n, D, 0), math.isqrt(2 * m * D)
        given = _, damping, _ = system(x, m)
        row = {"n": n, "m": m, "k": k, "iterations": iterations(*given, make(x, k, damping))}
        yield {**row, "without": iterations(*given)} if n < 4096 or full else row


def condition(full, make=flat):
    """κ of the preconditioned kernel over the bound, with ‖R‖ and λ_min as they are, by data, rank and damping."""
    for family in (*SMOOTH, *NEAR, "a cluster and others"):
        x = points(family, 400 if full else 200)
        A, n = data.limit_kernel(x), len(x)
        for k, share in ((n // 16, 1e-5), (n // 4, 1e-5), (n // 16, 1e-2)):
            damping = share / 2
            P, M = make(x, k, damping), A + damping * np.eye(n)
            F = P.factor.F
            bound = P.condition_bound(np.linalg.eigvalsh(M)[0], np.linalg.norm(A - F @ F.T, 2))
            kappa = spectra.condition(M, F @ F.T + P.shift * np.eye(n))
            yield {"data": family, "n": n, "k": k, "λ": damping, "κ": kappa, "bound": bound}


def uniform(x, rank, damping):
    """The same preconditioner from columns drawn uniformly."""
    A, T = data.limit_kernel(x), generator(0).choice(len(x), rank, replace=False)
    F = np.linalg.solve(np.linalg.cholesky(A[np.ix_(T, T)]), A[T]).T
    mu = damping + (np.trace(A) - np.sum(F * F)) / len(A)
    R = np.linalg.inv(F.T @ F + mu * np.eye(rank))
    return lambda r: (r - F @ (R @ (F.T @ r))) / mu


def unbalanced(full, make=flat, n=300):
    """Iterations with random pivots over those with uniform ones; the kernel's own system, where most points agree nearly."""
    for key in range(5 if full else 3):
        x, damping = points("a cluster and others", n, key), 5e-6
        given, k = (data.limit_kernel(x).__matmul__, damping, data.labels(n, 1)), n // 6
        found = {"iterations": iterations(*given, make(x, k, damping))}
        yield {"n": n, "k": k, "draw": key, **found, "uniform": iterations(*given, uniform(x, k, damping))}


def always_blocks(P, groups):
    """The second level whatever its determinant says."""
    return pivoted_blocks(P.factor, P.damping, groups)


def levels(full, choose=second_level, n=1024):
    """Iterations with the level that the determinants choose over those with the first alone, by data."""
    for family in (*NEAR, *SMOOTH):
        x = points(family, n * (1 + full))
        given = _, damping, _ = system(x, 8 * len(x))
        P = flat(x, len(x) // 16, damping)
        chosen = iterations(*given, choose(P, nearby_groups(x, 0)))
        name = "near-duplicates" if family in NEAR else "smooth data"
        yield {"data": family, "n": len(x), "k": P.rank, f"iterations on {name}": chosen, "flat": iterations(*given, P)}


PIVOTED, PAPERS = "columns", "arXiv:2207.06503 and arXiv:2410.03969"

CLAIMS = (
    claim("pivoted-build", 0, PIVOTED, f"{PAPERS}; counted here",
        "k columns and their preconditioner cost n k entries, 2 n k² + k³/3 flops and some more: linear in the samples.",
        "rounds of k/8 proposals, at least 16; d = 16", build,
        Bound("flops", 1, 1.25, per="n k (2 d + 9) + 2 n k² + k³/3", over="n", by="k"),
        Bound("peak", 1, 4, per="n k floats"), how="count"),
    claim("pivoted-memory", 0, PIVOTED, "derived",
        "No array of n² entries is made.", "k₀ = √(2 m d), m = n, d = 16", nothing_square,
        Bound("peak", high=0.2, over="n", per="n² floats", reduce="last"), how="memory"),
    claim("pivoted-iterations", 0, PIVOTED, "derived",
        "With as many columns as cost one product, the wide network's system takes at most 6 iterations.",
        "points on the sphere, d = 16, m = 8192, λ = 1e-5 tr/n", at_k0, Bound("iterations", high=6, over="n", log="x"),
        Bound("without", over="n", log="x")),
    claim("pivoted-condition", 0, PIVOTED, "derived from arXiv:2304.12465",
        "What is left of A is positive semidefinite, which bounds the condition number that P = F Fᵀ + μ I leaves.", "any data",
        condition, Bound("κ", high=1, over="k", by="data", per="bound"), Bound("κ", low=0.1, per="bound")),
    claim("pivoted-unbalanced", 0, PIVOTED, PAPERS,
        "Pivots drawn by what is left find small groups that uniform columns miss.", "nine tenths of the points in one cluster",
        unbalanced, Bound("iterations", high=0.5, over="draw", per="uniform", log="y")),
    claim("pivoted-blocks", 0, PIVOTED, "derived",
        "Blocks of near rows halve the iterations on near-duplicates, and are not taken on smooth data.",
        "k = n/16, λ = 1e-5 tr/n, m = 8 n", levels, Bound("iterations on near-duplicates", high=0.5, per="flat"),
        Bound("iterations on smooth data", high=1, per="flat"), Bound("flat", over="n", by="data")),
)  # fmt: skip
