"""Claims on damped systems: what the effective dimension decides, and what float32 and one float64 residual can do.

Systems are G + μ I with G = J Jᵀ of networks on the digits, on points in the plane and on near-duplicates.
"""

import functools
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from nearlin.complexity.claims import data, spectra
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import autoencoding, on_digits, starting, trained, walk
from nearlin.curvature import DampedGram
from nearlin.linalg import FactorizationError, TriangularPreconditioner, axpy, cg, damped_cholesky, norm, nystrom, sketch_factor
from nearlin.nn import MLP
from nearlin.optim import GaussNewton

SKETCHED = partial(GaussNewton, plan="sketch", residual_dtype="float64")


class System(NamedTuple):
    """G + μ I: its name, the Jacobian, G, the eigenvalues of G, μ."""

    name: str
    J: object
    G: np.ndarray
    spectrum: np.ndarray
    damping: float

    def dimension(self, share=1.0):
        """The effective dimension for ``share`` times μ."""
        return spectra.effective_dimension(self.spectrum, share * self.damping)

    @property
    def row(self):
        """What is told of it."""
        return {"system": self.name, "n c": len(self.G), "d_eff": self.dimension()}


@functools.cache
def decaying(full):
    """Dampings of an auto-encoder after some steps, and of a tanh network with one output on raw digits."""
    cases = {
        "auto-encoder": (trained(autoencoding(12 if full else 5), 6), (1.0, 0.3, 0.1, 0.03, 0.01)),
        "tanh with one output": (on_digits(512 if full else 256, 1, (128, 128), "tanh", centred=False), (1e-1, 1e-2, 1e-3, 1e-4)),
    }
    found = []
    for name, (p, shares) in cases.items():
        J = p.jacobian()
        G = J.gram()
        spectrum = np.linalg.eigvalsh(G)
        found += [System(name, J, G, spectrum, share * float(spectrum[-1])) for share in shares]
    return tuple(found)


def _nystrom(system, key, **options):
    """A `Nystrom` of G, and κ that it leaves."""
    n, G = len(system.G), system.G
    P = nystrom(lambda Z: G @ Z, n, key, system.damping, like=G, **options)
    values = P.values + P.damping
    matrix = np.eye(n) + (P.U * (values / values[-1] - 1)) @ P.U.T
    return P, spectra.condition(G + P.damping * np.eye(n), matrix)


def theorem_rank(dimension):
    """2⌈1.5 d_eff⌉ + 1."""
    return 2 * math.ceil(1.5 * dimension) + 1


def _iterations(system, **options):
    """Iterations of CG to 1e-6 on a random right-hand side."""
    b = data.labels(len(system.G), 1)
    return cg(lambda v: system.G @ v + system.damping * v, b, rtol=1e-6, **options)[1].iterations


def nystrom_ranks(full, rank=theorem_rank, draws=3):
    """κ that Nyström preconditioners leave, of a rank made from d_eff and of d_eff/2; iterations of CG without one."""
    for one in decaying(full):
        enough, few, plain = rank(one.dimension()), math.ceil(one.dimension() / 2), _iterations(one)
        for key in range(draws):
            kappas = [_nystrom(one, key, rank=k, max_rank=k, accuracy=0.0)[1] for k in (enough, few)]
            row = {**one.row, "rank": enough, "n c less the rank": len(one.G) - enough, "draw": key, "κ": kappas[0]}
            yield {**row, "κ at rank d_eff/2": kappas[1], "iterations without a preconditioner": plain}


def adaptive_ranks(full, accuracy=0.2):
    """The rank that doubling takes for an error of μ/5, and twice the theorem's for μ/15; what iterations it leaves."""
    for one in decaying(full):
        P, _ = _nystrom(one, 0, rank=2, max_rank=len(one.G), accuracy=accuracy)
        row = {**one.row, "rank by doubling": P.rank, "twice the theorem's rank": 2 * theorem_rank(one.dimension(1 / 15))}
        yield {**row, "rank over d_eff": P.rank / one.dimension(), "iterations left": _iterations(one, preconditioner=P)}


def rows_by_dimension(full, sketch=spectra.KRONECKER, ratio=4.0, draws=5):
    """κ_pre of damped systems with s = ``ratio`` d_eff sketch rows, be they fewer than n c."""
    for one in decaying(full):
        share = one.dimension() / len(one.G)
        for key in range(draws):
            kappa = spectra.condition(one.G, spectra.sketched_gram(one.J, sketch, ratio * share, key), one.damping)
            yield {**one.row, "draw": key, "4 d_eff/(n c)": 4 * share, "κ_pre": kappa}


class Precise(NamedTuple):
    """A system whose factors are float32 numbers: J in float32, the same in float64, b, λ, δ to float64, and R of a sketch."""

    J: object
    outer: object
    b: np.ndarray
    damping: float
    step: tuple
    preconditioner: TriangularPreconditioner


def precise(problem, share=1e-8, sketch=spectra.KRONECKER):
    """The system of a float32 problem with one output; λ = ``share`` times the largest eigenvalue of J Jᵀ."""
    J, b = problem.jacobian(), problem.residual().astype("float64")
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
        operator, rest = DampedGram(p.J, p.damping), _rest(p.outer, u, p.b, p.damping).astype("float32")
        options = {"preconditioner": p.preconditioner, "rtol": rtol, "maxiter": 60, "certify": False}
        du, _ = cg(operator, rest, on_step=operator.accumulate, **options)
        u = u + du.astype("float64")
        summed = operator.adjoint if summed is None else axpy(1.0, operator.adjoint, summed)
    return u, summed


def step_error(p, step):
    """||δ - δ_exact|| / ||δ_exact||."""
    return norm(axpy(-1.0, p.step, tuple(V.astype("float64") for V in step))) / norm(p.step)


def gram_error(p):
    """The error of the step by Cholesky of the float32 Gram matrix; that of no step, 1, where it is not positive definite."""
    try:
        R = damped_cholesky(p.J.gram(), p.damping)
    except FactorizationError:
        return 1.0
    return step_error(p, p.J.rmatvec(TriangularPreconditioner(R)(p.b.astype("float32"))))


def precise_problems(full):
    """tanh on Gaussian points in the plane, and ReLU on near-duplicates: float32, two hidden layers, at their start."""
    n, width = (400, 256) if full else (200, 128)
    yield f"tanh on {n} Gaussian points", _single(np.random.default_rng(1).standard_normal((n, 2)), "tanh", width)
    yield f"relu on {n} near-duplicates", _single(data.near_duplicates(n, 16, 1, 1e-4), "relu", width)


def _single(x, activation, width):
    network, y = MLP((x.shape[1], width, width, 1), activation), data.labels(len(x), 1)
    return starting(network, x.astype("float32"), y.astype("float32"), 1)


def corrections(full, correct=corrected):
    """Errors of δ = Jᵀu by float32 solves after 0, 1 and 2 float64 residuals; with Jᵀu in float32, and by the Gram matrix."""
    for name, problem in precise_problems(full):
        p = precise(problem)
        for number in range(3):
            u, summed = correct(p, number)
            row = {"system": name, "float64 residuals": number, "error": step_error(p, p.outer.rmatvec(u))}
            row["error with Jᵀu in float32"] = step_error(p, p.J.rmatvec(u.astype("float32")))
            yield {**row, "error of the sum along the solves": step_error(p, summed)}
            if number == 1:
                after = {"error after one": row["error"], "the same with Jᵀu in float32": row["error with Jᵀu in float32"]}
                yield {**after, "error by the Gram matrix": gram_error(p)}


def steps_taken(full, optimizer=SKETCHED, epsilons=(1e-2, 1e-4, 1e-6)):
    """Errors of the step that `GaussNewton` takes in float32 with its residual in float64, over the ε of its solve."""
    for name, problem in precise_problems(full):
        p = precise(problem)
        for epsilon in epsilons:
            (_, info), (after, _) = walk(problem, optimizer(epsilon=epsilon, damping=p.damping / len(p.b), guard=False), 1)
            old, new = (tuple(W.astype("float64") for W in one.params) for one in (problem, after))
            error = step_error(p, axpy(-1.0, new, old))
            yield {"system": name, "ε": epsilon, "error of the step": error, "residual of the solve": info.solve.residual}


NYSTROM = "derived from arXiv:2110.02820, Theorem 5.1"
SYSTEMS = {"over": "d_eff", "by": "system"}
OF_SOLVES = {"over": "float64 residuals", "by": "system", "log": "y"}

CLAIMS = (
    claim("nystrom-rank", 28, "effective dimension", NYSTROM,
        "A Nyström preconditioner of rank 2⌈1.5 d_eff⌉ + 1 leaves a constant condition number.", "that rank below n c",
        nystrom_ranks, Bound("κ", high=28, draws="mean", **SYSTEMS), Bound("κ at rank d_eff/2", draws="mean", **SYSTEMS),
        Bound("iterations without a preconditioner", draws="mean", **SYSTEMS), among=(Bound("n c less the rank", low=1),)),
    claim("nystrom-adaptive-rank", 28, "effective dimension", NYSTROM,
        "The rank that doubling finds for an error of μ/5 is at most twice what the theorem takes for μ/15.",
        "rank 2 at first; the theorem expects an error of 3 μ at its rank for μ", adaptive_ranks,
        Bound("rank by doubling", high=1, per="twice the theorem's rank", **SYSTEMS)),
    claim("kappa-rows-by-dimension", 28, "effective dimension", "derived",
        "4 d_eff rows of a sketch are enough, be they fewer than the system has.", "a damped system whose spectrum decays",
        rows_by_dimension,
        Bound("κ_pre", high=1.2 * spectra.gaussian_condition(4), over="4 d_eff/(n c)", by="system", draws="median")),
    claim("float64-correction", 32, "deep precision", "derived",
        "One float64 residual takes a float32 solve to 1e-7 where the float32 Gram matrix fails; Jᵀu in float32 loses it again.",
        "λ = 1e-8 of the largest eigenvalue of J Jᵀ; products and R in float32", corrections, Bound("error after one", high=1e-7),
        Bound("the same with Jᵀu in float32", low=1e-6), Bound("error by the Gram matrix", low=1e-2),
        *(Bound(f"error{how}", **OF_SOLVES) for how in ("", " with Jᵀu in float32", " of the sum along the solves")),
        note="1 by the Gram matrix: not positive definite, no step"),
    claim("float64-step", 32, "deep precision", "derived",
        "The step of GaussNewton in float32 with a float64 residual is as good as its float32 parameters.",
        "the same systems; sketch route, guard off", steps_taken,
        Bound("error of the step", high=1e-6, over="ε", by="system", reduce="first")),
)  # fmt: skip
