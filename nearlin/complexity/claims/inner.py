"""Claims on the inner iterations that run on sketched preconditioners, and on the precision that they attain."""

import math
from functools import partial

import numpy as np
import scipy.linalg
from scipy.interpolate import make_interp_spline

from nearlin import linalg
from nearlin.complexity.claims import data, spectra
from nearlin.complexity.claims.check import Bound, claim
from nearlin.sketch import Gaussian

GAUSSIAN = Gaussian()
TARGETS, TYPICAL, MOST = (1e-3, 1e-6, 1e-10), (11, 21, 35), (12, 23, 37)
KINDS = ("sphere", spectra.COLLINEAR, "near-duplicates")
RICHARDSON_THRESHOLD = (1 - 2 ** (-1 / 2)) ** -2  # (1-γ)⁻² = 2
DOUBLE_PRODUCT_THRESHOLD = (1 - 2 ** (-1 / 4)) ** -2  # (1-γ)⁻⁴ = 2
FLOORS = ((36, 5e-7), (2.7e4, 5e-5), (1.5e6, 5e-3))  # κ(G) and the residual that float32 attains


def energy_count(epsilon, ratio, kappa=1.0):
    """⌈ln(2√κ/ε) / ln √(s/n)⌉: iterations of PCG to the energy error ε; with κ = κ(G) to the raw residual, at worst."""
    return math.ceil(math.log(2 * kappa**0.5 / epsilon) / math.log(ratio**0.5))


def preconditioner(sketched):
    """M⁻¹ from a sketched Gram matrix."""
    return linalg.TriangularPreconditioner(linalg.sketch_factor(sketched, 0.0)[0])


def counts(J, distribution, ratio, draws):
    """Iterations of PCG to each of `TARGETS` (draws, 3), with the Jacobian's own products, on random right-hand sides."""
    found = []
    for key in range(draws):
        b, M = data.labels(J.shape[0], key), preconditioner(spectra.sketched_gram(J, distribution, ratio, key))
        solves = (linalg.cg(J.gram_matvec, b, preconditioner=M, rtol=epsilon, certify=False) for epsilon in TARGETS)
        found.append([info.iterations for _, info in solves])
    return np.array(found)


def pcg_counts(full, sketch=spectra.KRONECKER, ratio=4):
    """Iterations of PCG to three residuals on the sphere, over n."""
    for n in (64, 128, 256, 512, *((1024,) if full else ())):
        found = counts(spectra.jacobian(data.sphere(n, 32, key=3), 4 * n), sketch, ratio, draws=3)
        for epsilon, ks, typical, most in zip(TARGETS, found.T, TYPICAL, MOST, strict=True):
            row = {"n": n, "d": 32, "m": 4 * n, "s/n": ratio, "draws": 3, "ε": f"{epsilon:g}", "typical": typical, "most": most}
            row |= {"median iterations": float(np.median(ks)), "largest iterations": int(np.max(ks))}
            yield {**row, "beyond the typical from n = 512": row["median iterations"] - typical} if n >= 512 else row


def pcg_worst_case(full, sketch=spectra.kronecker):
    """Iterations on ill-conditioned data, beside the bound with ½ ln κ(G) more."""
    for family in KINDS:
        J, kappa, row = spectra.on_family(family, 256, 2048)
        largest = np.max(counts(J, sketch(family), 4, draws=5 if full else 2), axis=0)
        for epsilon, k in zip(TARGETS, largest.tolist(), strict=True):
            bound = energy_count(epsilon, 4, kappa)
            yield {**row, "ε": epsilon, "largest iterations": k, "bound": bound, "left to the bound": bound - k}


def iterates(matvec, b, M, **options):
    """What x is after every iteration of PCG."""
    found = []
    x, _ = linalg.cg(matvec, b, preconditioner=M, certify=False, stop=lambda x, r: found.append(x), **options)
    return [*found, x]  # stop is not asked where the tolerance is met


def pcg_factor(full, sketch=GAUSSIAN):
    """Contraction of PCG's energy error per iteration, beside γ; the errors of one run at s = 4n."""
    n, draws = (512, 5) if full else (256, 2)
    J = spectra.jacobian(data.sphere(n, 32, key=3), n // 4)
    G = J.gram()
    for ratio in (2, 3, 4, 8, 16):
        for key in range(draws):
            errors = _energy_errors(G, spectra.sketched_gram(J, sketch, ratio, key), data.labels(n, key))
            factor = math.exp(np.polyfit(range(len(errors)), np.log(errors), 1)[0])
            yield {"n": n, "d": 32, "m": n // 4, "s/n": ratio, "draw": key, "factor": factor, "γ": ratio**-0.5}
            if ratio == 4 and key == 0:
                yield from ({"k": k, "energy error, s = 4n": e, "2 γ^k": 2 * 0.5**k} for k, e in enumerate(errors))


def _energy_errors(G, sketched, b):
    """||g_k - g*||_G / ||g*||_G along PCG to a residual of 1e-10."""
    exact = np.linalg.solve(G, b)
    errors = [g - exact for g in (0.0, *iterates(lambda v: G @ v, b, preconditioner(sketched), rtol=1e-10))]
    return [math.sqrt(e @ G @ e) / math.sqrt(exact @ b) for e in errors]


def fixed_parameters(full, sketch=GAUSSIAN):
    """Contraction of the residual per iteration of Richardson with the best step and of Chebyshev, from γ alone."""
    n, draws = (512, 5) if full else (256, 3)
    J = spectra.jacobian(data.sphere(n, 32, key=3), n // 4)
    G, b = J.gram(), data.labels(n, 3)
    for ratio in (4, 8, 16):
        gamma = ratio**-0.5
        methods = {
            "Richardson": (partial(linalg.richardson, step=linalg.best_step(gamma)), 2 * gamma / (1 + gamma**2)),
            "Chebyshev": (partial(linalg.chebyshev, bounds=linalg.sketch_spectrum(gamma)), gamma),
        }
        for key in range(draws):
            M = preconditioner(spectra.sketched_gram(J, sketch, ratio, key))
            for name, (iteration, theory) in methods.items():
                _, info = iteration(lambda v: G @ v, b, preconditioner=M, rtol=1e-9)
                factor = info.residual ** (1 / info.iterations) if info.reason == "converged" else math.inf
                yield {"method": name, "n": n, "s/n": ratio, "draw": key, "factor": factor, "theory": theory}


def threshold(full, iteration, factor, expected, sketch=GAUSSIAN):
    """Where max |``factor(μ)``| over the eigenvalues passes 1 as s/n grows, and whether ``iteration`` converges on both sides."""
    n, draws = (512, 7) if full else (256, 5)
    ratios = tuple(round(expected * share, 2) for share in (0.88, 0.94, 1.0, 1.06, 1.12))
    J, b, radii = spectra.jacobian(data.sphere(n, 8, key=3), n // 4), data.labels(n, 3), []
    G = J.gram()
    for ratio, side in zip(ratios, ("below", "", "", "", "above"), strict=True):
        sketches = [spectra.sketched_gram(J, sketch, ratio, key) for key in range(draws)]
        eigenvalues = [scipy.linalg.eigh(G, sketched, eigvals_only=True) for sketched in sketches]
        radii.append(float(np.median([np.max(np.abs(factor(mu))) for mu in eigenvalues])))
        limit = max(abs(factor(mu)) for mu in linalg.sketch_spectrum(ratio**-0.5))
        yield {"n": n, "draws": draws, "s/n": ratio, "median spectral radius": radii[-1], "limit": limit}
        for M in map(preconditioner, sketches[:3] if side else ()):
            reason = iteration(lambda v: G @ v, b, preconditioner=M, rtol=1e-6, maxiter=400)[1].reason
            yield {"s/n": ratio, f"end {side}": reason, f"converged {side} the threshold": int(reason == "converged")}
    passed = radii[0] > 1 > radii[-1]
    yield {"threshold": float(np.interp(-1.0, np.negative(radii), ratios)) if passed else math.nan}


def _threshold(expected, iteration, factor):
    """The sweep and the bounds of a threshold."""
    return (
        partial(threshold, iteration=iteration, factor=factor, expected=expected),
        Bound("threshold", 0.95 * expected, 1.05 * expected), Bound("converged below the threshold", equal=0),
        Bound("converged above the threshold", equal=1), Bound("median spectral radius", over="s/n", beside="limit", log=""),
    )  # fmt: skip


def expected_floor(kappa):
    """The line through `FLOORS` in logarithms, with the ends continued."""
    x, y = np.log(FLOORS).T
    return math.exp(make_interp_spline(x, y, k=1)(math.log(kappa)))


def float32_floor(full, dtype="float32"):
    """The best true residual of 40 iterations of PCG with J and R in float32, over κ(G): medians of draws on each family."""
    n, m, draws, found = 256, 2048, 3 if full else 1, {}
    for family in KINDS:
        kappa, attained, left = np.median([_attained(family, n, m, key, dtype) for key in range(draws)], axis=0).tolist()
        row = {"data": family, "n": n, "m": m, "draws": draws, "κ(G)": kappa, "residual attained": attained}
        yield {**row, "line": expected_floor(kappa), "κ_pre": left}
        found[kappa] = attained
    yield {"residual at the largest κ(G) over that at the smallest": found[max(found)] / found[min(found)]}


def _attained(family, n, m, key, dtype):
    """κ(G), the least relative residual in float64, and κ_pre."""
    J, kappa, _ = spectra.on_family(family, n, m, 3 + key)
    G, b, single = J.gram(), data.labels(n, key), J.astype(dtype)
    sketched = spectra.sketched_gram(single, spectra.kronecker(family), 4, key)
    made = iterates(single.gram_matvec, b.astype(dtype), preconditioner(sketched), rtol=0.0, maxiter=40)
    attained = min(linalg.norm(b - G @ g.astype("float64")) / linalg.norm(b) for g in made)
    return kappa, attained, spectra.condition(G, sketched.astype("float64"))


CLAIMS = (
    claim("pcg-counts", 10, "inner iterations", "derived",
        "Preconditioned CG needs a number of iterations that does not depend on the number of samples.",
        "data on the sphere, n >= 64", pcg_counts, Bound("median iterations", over="n", by="ε", beside="typical", log="x"),
        Bound("largest iterations", high="most", by="ε"), Bound("beyond the typical from n = 512", -2, 2),
        expected="11/21/35 within 2 for n >= 512, never above 12/23/37"),
    claim("pcg-counts-worst-case", 10, "inner iterations", "arXiv:2006.11648, regression lemma",
        "An ill-conditioned Gram matrix costs at most ½ ln κ(G) / ln √(s/n) more iterations to the same raw residual.",
        "κ(G) below 1e12", pcg_worst_case, Bound("left to the bound", low=0),
        Bound("largest iterations", over="ε", by="data", beside="bound", log="x"), expected="at most ⌈ln(2√κ(G)/ε) / ln √(s/n)⌉"),
    claim("pcg-factor", 11, "inner iterations", "derived",
        "Every iteration of preconditioned CG contracts the energy error by γ = √(n/s).", "Gaussian sketch", pcg_factor,
        Bound("factor", 0.9, 1.02, over="s/n", draws="median", per="γ"),
        Bound("energy error, s = 4n", over="k", beside="2 γ^k", log="y")),
    claim("fixed-parameter-factors", 0, "inner iterations", "derived",
        "With parameters from the sketch size alone, Richardson's iteration contracts by 2γ/(1+γ²) and Chebyshev's by γ.",
        "Gaussian sketch, s >= 4n (nearer to n, eigenvalues of small problems leave the interval)", fixed_parameters,
        Bound("factor", 0.85, 1.1, over="s/n", by="method", draws="median", per="theory")),
    claim("richardson-threshold", 12, "inner iterations", "derived",
        "Richardson's iteration with unit step converges only from s = 11.66 n on.", "Gaussian sketch",
        *_threshold(RICHARDSON_THRESHOLD, linalg.richardson, lambda mu: 1 - mu)),
    claim("double-product-threshold", 13, "inner iterations", "arXiv:2006.11648, fast regression",
        "The paper's double-product iteration with unit step converges only from s = 39.5 n on.", "Gaussian sketch",
        *_threshold(DOUBLE_PRODUCT_THRESHOLD, linalg.double_product, lambda mu: 1 - mu**2)),
    claim("float32-floor", 32, "precision", "derived",
        "In float32 the attainable residual is set by the condition number of the Gram matrix, however good the preconditioner.",
        "J, R and iterates in float32, no refinement", float32_floor,
        Bound("residual attained", 0.1, 10, over="κ(G)", per="line"),
        Bound("residual at the largest κ(G) over that at the smallest", low=100), Bound("κ_pre", high=15),
        expected="within 10 times of the line through 5e-7, 5e-5, 5e-3 at κ(G) = 36, 2.7e4, 1.5e6: the constant is the BLAS's"),
)  # fmt: skip
