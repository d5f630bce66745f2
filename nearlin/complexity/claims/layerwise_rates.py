"""Claims on the rates of layer-wise methods on networks that are linear in their parameters.

Rates are those of whole runs of ``step``: on convolutions whose kernels cover the image, and on dense layers under masks that do
not move. Labels are drawn one above or below the output. Their second moment is that of N(f, 1), and the squares of the drawn
gradients are their means, so that statistics are free of the draw.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from nearlin._array import generator
from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.layerwise import FISHER, MBF
from nearlin.nn import Conv2d, Dense, GlobalAvgPool, Objective, Sequential, SquaredLoss
from nearlin.optim import KFAC, MiniBlockFisher

NEVER = 10**9
FIXED = {"momentum": 0.0, "statistics_every": NEVER, "inverse_every": NEVER, "early": False}  # all is made in the first step


@dataclass(frozen=True)
class Signs(SquaredLoss):
    """The squared loss with labels drawn at the outputs plus or minus 1."""

    def draw(self, key, outputs):
        """Targets (n, c)."""
        return outputs + generator(key).choice([-1.0, 1.0], size=outputs.shape)


@dataclass(frozen=True, eq=False)
class Masks:
    """f_i = Σ_r M_ir z_ir for fixed M (n, m): the neurons of a network that is linearised at its first weights."""

    M: object
    spec = None

    def forward(self, W, z):
        """Outputs (n, 1)."""
        return np.sum(self.M * z, axis=1, keepdims=True), None

    def backward(self, W, cache, dy):
        """Output gradients of the neurons."""
        return dy * self.M, None


def masked(x, M):
    """The network f_i = Σ_r M_ir w_r · x_i of m neurons, and its weights 0."""
    return Sequential((Dense(x.shape[1], M.shape[1], bias=False), Masks(M))), (np.zeros((M.shape[1], x.shape[1])),)


def kernels(J):
    """f_i = Σ_b J_b[i] · θ_b, for J (blocks, n, k²): a convolution at one position; its weights 0, and its inputs."""
    blocks, n, width = J.shape
    k = math.isqrt(width)
    network = Sequential((Conv2d(blocks, 1, k, bias=False), GlobalAvgPool()), shape=(blocks, k, k))
    return network, (np.zeros((1, blocks * width)),), np.swapaxes(J, 0, 1).reshape(n, blocks, k, k)


def residuals(optimizer, network, params, x, r, steps):
    """Outputs less labels before and after every step, (steps + 1, n), from those at ``params``: r."""
    objective = Objective(network, Signs())
    batch = (x, (network.forward(params, x)[0][:, 0] - r)[:, None])
    state = optimizer.init(params, objective)
    if isinstance(optimizer, MiniBlockFisher):
        state = optimizer.warm_start(params, state, objective, [batch])
    found = [r]
    for t in range(steps):
        params, state, _ = optimizer.step(params, state, objective, batch, t)
        found.append((network.forward(params, x)[0] - batch[1])[:, 0])
    return np.array(found)


def leverage(x):
    """h_i = x_iᵀ(XᵀX)⁻¹x_i, the diagonal of the projector on the columns of X."""
    Q = np.linalg.qr(x).Q
    return np.sum(Q * Q, axis=1)


def _features(n, d):
    """Unit rows whose features have scales from 1 to .1, masks of m = 4 n neurons, and residuals."""
    x = data.sphere(n, d, d) * np.geomspace(1.0, 0.1, d)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x, data.relu_mask(x, 4 * n, d), data.labels(n, d)


def leverage_sweep(full, formula=leverage):
    """How far the change of the outputs in a step of K-FAC is from -η h_i r_i, over the largest residual and η, by damping.

    With as many features as samples the smallest eigenvalue of XᵀX / n must stay above √λ, so n is small there.
    """
    most = 256 if full else 96
    for n, d in ((most, 4), (most, 16), (96, 96)):
        x, M, r = _features(n, d)
        for damping in (1e-16, 1e-18, 1e-20):
            before, after = residuals(KFAC(lr=1 / n, damping=damping, **FIXED), *masked(x, M), x, r, 1)
            error = np.max(np.abs(before - after - formula(x) * r)) / np.max(np.abs(r))
            yield {"d": d, "n": n, "damping": damping, "error": float(error)}


def kfac_rate_sweep(full, step=1.0):
    """Slowest contraction of a residual in runs of K-FAC with η = ``step`` λ_min(XᵀX), beside 1 - 1/κ(XᵀX)."""
    n, steps = (256, 400) if full else (96, 200)
    for d in (4, 8, 16):
        x, M, r = _features(n, d)
        values = np.linalg.eigvalsh(x.T @ x)
        found = residuals(KFAC(lr=step * values[0] / n, damping=1e-20, **FIXED), *masked(x, M), x, r, steps)
        slowest, kappa = float(np.max(np.abs(found[-1] / r)) ** (1 / steps)), float(values[-1] / values[0])
        least = float(1 - values[0] * np.min(leverage(x)))
        yield {"d": d, "κ": kappa, "contraction": slowest, "1 - 1/κ": 1 - 1 / kappa, "1 - η min h": least * (1 - 1e-6)}


def affine_blocks(n, blocks, width, key, spread=3.0):
    """J_b (blocks, n, width): full rank, singular values between 1 and ``spread``; residual r (n,)."""
    rng, k = np.random.default_rng(key), min(n, width)
    J = np.empty((blocks, n, width))
    for b in range(blocks):
        U, V = (np.linalg.qr(rng.standard_normal((size, k))).Q for size in (n, width))
        J[b] = U * rng.uniform(1, spread, k) @ V.T
    return J, rng.standard_normal(n)


def norms(J, r, damping, eta, steps):
    """||r|| after every step of mini-block Fisher with exact blocks, those of a warm start, on f = J θ."""
    optimizer = MiniBlockFisher(lr=eta, damping=damping, decay=1 - 1e-15, statistic="sample", **FIXED)
    return np.linalg.norm(residuals(optimizer, *kernels(J), r, steps), axis=1)


def least_share(J, damping):
    """μ = λ_min(J Jᵀ) / (max |J_b|² + n λ)."""
    n, largest = J.shape[1], max(np.linalg.norm(block, 2) ** 2 for block in J)
    return float(np.linalg.eigvalsh(np.einsum("bij,bkj->ik", J, J))[0]) / (largest + n * damping)


def linear_sweep(full, share=least_share, step=1.0):
    """||r_k|| over (1 - η μ)ᵏ ||r_0|| with η = ``step`` / K, the largest over 40 steps, for random blocks and equal ones."""
    sizes = ((8, 8, 4, 3.0), (16, 8, 4, 3.0), (24, 12, 9, 3.0), (32, 4, 16, 3.0), (9, 4, 9, 1.0), (16, 3, 25, 1.0))
    for n, blocks, width, spread in (*sizes, *(((96, 12, 25, 3.0),) if full else ())):
        for key, damping in product(range(25 if full else 3), (1e-6, 1e-2, 1.0)):
            J, r = affine_blocks(n, blocks, width, key, spread)
            bound = (1 - step / blocks * share(J, damping)) ** np.arange(41)
            seen = bound > 1e-9  # rounding beyond
            worst = np.max((norms(J, r, damping, step / blocks, 40) / np.linalg.norm(r) / bound)[seen][1:])
            named = "over the bound" if spread > 1 else "over the bound, equal blocks"
            yield {"n": n, "blocks": blocks, "damping": damping, named: float(worst)}


def one_step_sweep(full, step=1.0, width=16):
    """||r_1|| / ||r_0|| with η = ``step`` / K where every block has full row rank, over the damping."""
    n, blocks = 16, 6
    for damping, key in product((1e-2, 1e-4, 1e-6, 1e-8, 1e-10), range(20 if full else 5)):
        J, r = affine_blocks(n, blocks, width, key)
        before, after = norms(J, r, damping, step / blocks, 1)
        yield {"damping": damping, "ratio": after / before, "limit": n * damping / (1 + n * damping)}


ZMG = "arXiv:1905.10961"
AFFINE = f"{MBF}, linear convergence of an idealised method (abstract); the affine case derived"

CLAIMS = (
    claim("mbf-linear-rate", 0, FISHER, AFFINE,
        "With exact blocks, MBF contracts the residuals of an affine model by 1 - η μ, μ = λ_min(J Jᵀ) / (max |J_b|² + n λ).",
        "η = 1/K for K blocks; full batch, blocks of a warm start", linear_sweep,
        Bound("over the bound", low=0.1, high=1 + 1e-9, over="damping"),
        Bound("over the bound, equal blocks", low=0.99, high=1 + 1e-6, over="damping")),
    claim("mbf-one-step", 0, FISHER, AFFINE,
        "Where every block has full row rank and λ → 0, MBF with η = 1/K solves an affine model in one step.",
        "K square blocks with singular values in [1, 3]", one_step_sweep,
        Bound("ratio", per="limit", low=1 / 9, high=1, over="damping")),
    claim("kfac-leverage", 22, "K-FAC", f"derived for the K-FAC of {ZMG}",
        "In function space a K-FAC step multiplies the residual of sample i by 1 - η h_i, with its leverage h_i in X.",
        "masks of rank n, 4, 16 and n features", leverage_sweep,
        Bound("error", high=1e-4, over="damping", by="d", reduce="first"),
        Bound("error", low=0.45, high=0.55, over="damping", by="d", reduce="exponent")),
    claim("kfac-rate", 22, "K-FAC rate", f"{ZMG}, convergence of K-FAC; the rate with a uniform step derived",
        "K-FAC with a uniform step converges at the rate 1 - 1/κ(XᵀX): the conditioning of the inputs alone decides.",
        "linearised network, masks of rank n, η = λ_min(XᵀX), λ = 1e-20", kfac_rate_sweep,
        Bound("contraction", high="1 - 1/κ", low="1 - η min h", over="κ", by="d", log="x")),
)  # fmt: skip
