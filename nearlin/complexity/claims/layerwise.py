"""Claims on layer-wise methods: the cost and the state of every layer, overheads beside SGD, and rates on linear networks.

Flops of a part of a step are differences of exact counts: a step where statistics are due less one where nothing is, one where
inverses are due too less that, and a step less one of SGD. Leading terms are found along rays: with all sizes multiples of s, the
terms of highest degree are one coefficient times a power of s, which finite differences give exactly.

Rates are those of whole runs of ``step`` on networks that are linear in their parameters: convolutions whose kernels cover the
image, and dense layers under masks that do not move. Labels are drawn one above or below the output. Their second moment is that
of N(f, 1), and the squares of the drawn gradients are their means, so that statistics are free of the draw.
"""

import itertools
import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from nearlin._array import generator
from nearlin.complexity import cost
from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, Check
from nearlin.complexity.claims.table import Claim
from nearlin.complexity.counting import count, wrap
from nearlin.nn import (
    MLP,
    Conv2d,
    Dense,
    GlobalAvgPool,
    Objective,
    Sequential,
    SigmoidCrossEntropy,
    SquaredLoss,
    autoencoder,
)
from nearlin.optim import KBFGS, KBFGSL, KFAC, SGD, TNT, Adam, MiniBlockFisher, Shampoo

MBF, KFAC_PAPER, KFC, ZMG = "arXiv:2202.04124", "arXiv:1503.05671", "arXiv:1602.01407", "arXiv:1905.10961"
SHAMPOO, TNT_PAPER, KBFGS_PAPER = "arXiv:1802.09568", "arXiv:2106.02925", "arXiv:2006.08877"
EVERY = {"statistics_every": 2, "inverse_every": 4, "early": False}
OPTIMIZERS = {
    "MBF": MiniBlockFisher(**EVERY),
    "K-FAC": KFAC(**EVERY),
    "Shampoo": Shampoo(**EVERY),
    "TNT": TNT(**EVERY),
    "K-BFGS": KBFGS(lr=1e-3, statistics_every=2),
    "K-BFGS(L)": KBFGSL(lr=1e-3, statistics_every=2),
}
FORMULAS = dict(zip(OPTIMIZERS, cost.LAYERS, strict=True))
MNIST = (784, 1000, 500, 250, 30)
PARTS = ("statistics", "inverse", "direction")


# ------------------------------------------------------------------------------------------------------------ counted steps


def _random(*shape):
    return np.random.default_rng(len(shape)).uniform(0.1, 1.0, shape)


def counted_steps(optimizer, network, batch, steps):
    """Flops of each of ``steps`` steps, and the last state."""
    objective, batch = Objective(network, SquaredLoss()), wrap(batch)
    params, flops = network.init(0, batch[0]), []
    state = optimizer.init(params, objective)
    for t in range(steps):
        with count() as tally:
            params, state, info = optimizer.step(params, state, objective, batch, t)
        if not info.accepted:
            raise RuntimeError(f"step {t} of {type(optimizer).__name__} was not taken: {info.reason}")
        flops.append(tally.total)
    return flops, state


def parts(optimizer, network, batch):
    """Flops of statistics (with the passes that they need), inverse and direction (with all else of every step), and of SGD."""
    flops, _ = counted_steps(optimizer, network, batch, 5)
    sgd = counted_steps(SGD(lr=1e-3), network, batch, 2)[0][1]
    return {"statistics": flops[2] - flops[1], "inverse": flops[4] - flops[2], "direction": flops[1] - sgd, "SGD": sgd}


def dense(d, o, n):
    """One dense layer with bias, and a batch."""
    return MLP((d, o)), (_random(n, d), _random(n, o))


def conv(c, f, n, kernel=3, side=2):
    """One convolution at side² positions and a mean over them, and a batch."""
    image = side + kernel - 1
    network = Sequential((Conv2d(c, f, kernel), GlobalAvgPool()), shape=(c, image, image))
    return network, (_random(n, c, image, image), _random(n, f))


def along_rays(full, optimizer, layer, rays, sizes, forms):
    """Flops of every part along rays, beside the coefficient of the leading term, a form (degree, coefficient) of the ray."""
    for ray in rays if full else rays[:3]:
        for s in sizes:
            found = parts(optimizer, *layer(*(s * k for k in ray)))
            expected = {f"{part}, expected": form(*ray) for part, (_, form) in forms.items()}
            yield {"ray": str(ray), "s": s, **{part: found[part] for part in forms}, **expected}


def leading(forms, sweep):
    """The check that every part has the degree and the leading coefficient of its form."""
    ways = {"over": "s", "by": "ray"}
    degrees = (Bound(part, equal=p, reduce="degree", **ways) for part, (p, _) in forms.items())
    terms = (Bound(part, equal=f"{part}, expected", reduce="leading", **ways) for part in forms)
    return Check(partial(sweep, forms=forms), *degrees, *terms, note="exact, by finite differences")


def _named(degree, *forms):
    return {part: (degree, form) for part, form in zip(PARTS, forms, strict=True) if form}


def _matrix(d, o, n):
    """A matrix for each side of a direction (o, d)."""
    return 2 * o * d * (o + d)


DENSE_RAYS, DENSE_SIZES = ((1, 1, 1), (1, 2, 1), (2, 1, 3), (2, 1, 1), (1, 1, 2)), tuple(range(66, 76, 2))
DENSE = {  # in d, o and n; a single layer forms no input gradient
    "MBF": _named(3, lambda d, o, n: 2 * o * d * d, lambda d, o, n: d**3, lambda d, o, n: 2 * o * d * d),
    "K-FAC": _named(3, lambda d, o, n: 2 * n * (d * d + o * o), lambda d, o, n: d**3 + o**3, _matrix),
    "Shampoo": _named(3, _matrix, lambda d, o, n: 11 * (d**3 + 2 * o**3), _matrix),
    "TNT": _named(3, lambda d, o, n: _matrix(d, o, n) + 2 * n * o * d, lambda d, o, n: d**3 + 2 * o**3, _matrix),
    "K-BFGS": _named(3, lambda d, o, n: 2 * n * d * d, None, lambda d, o, n: _matrix(d, o, n) + 2 * n * o * d),
}
KAPPA, POSITIONS = 9, 4
SWEEP = cost.block_inverses(2, KAPPA) - cost.block_inverses(1, KAPPA)  # flops of one more 9 x 9 inverse
CHANNEL_RAYS = ((1, 1, 1), (1, 2, 1), (2, 1, 1))


def _modes(c, f, n):
    """A matrix for each of the axes filter and channel."""
    return 2 * f * c * KAPPA * (f + c)


CONV = {  # in c, f and n, at 3 x 3 kernels and 4 positions: rays, sizes, forms
    "MBF": (((1, 1, 1), (1, 2, 1), (2, 1, 3)), (4, 5, 6, 7), _named(
        2, lambda c, f, n: (3 * KAPPA**2 + 3 * KAPPA) * f * c, lambda c, f, n: SWEEP * f * c,
        lambda c, f, n: 2 * KAPPA**2 * f * c,
    )),
    "K-FAC": (((1, 8, 1), (1, 9, 2), (2, 8, 1)), (9, 10, 11, 12, 13), _named(
        3, lambda c, f, n: 2 * n * POSITIONS * ((c * KAPPA) ** 2 + f * f), lambda c, f, n: (c * KAPPA) ** 3 + f**3,
        lambda c, f, n: 2 * f * c * KAPPA * (f + c * KAPPA),
    )),
    "Shampoo": (CHANNEL_RAYS, DENSE_SIZES, _named(3, _modes, lambda c, f, n: 11 * (2 * f**3 + c**3), _modes)),
    "TNT": (CHANNEL_RAYS, DENSE_SIZES, _named(
        3, lambda c, f, n: _modes(c, f, n) + 2 * n * POSITIONS * f * c * KAPPA, lambda c, f, n: 2 * f**3 + c**3, _modes,
    )),
}  # fmt: skip


def dense_sweep(full, name, forms, optimizer=None):
    """Parts of a step on one dense layer."""
    return along_rays(full, optimizer or OPTIMIZERS[name], dense, DENSE_RAYS, DENSE_SIZES, forms)


def conv_sweep(full, name, forms, optimizer=None):
    """Parts of a step on one convolution, in its channels and samples."""
    return along_rays(full, optimizer or OPTIMIZERS[name], conv, *CONV[name][:2], forms)


def kernel_sweep(full, optimizer=None):
    """Parts of a step on k x k kernels, and on 3 x 3 kernels over the samples."""
    optimizer, c, f = optimizer or OPTIMIZERS["MBF"], 2, 3
    for k in range(9, 17):
        found = parts(optimizer, *conv(c, f, 2, k))
        yield {"k": k, **{part: found[part] for part in PARTS}}
    for n in (2, 4, 6):
        found = parts(optimizer, *conv(c, f, n))
        yield {"n": n, **{f"{part} at 3 x 3": found[part] for part in PARTS}}


KERNELS = Check(
    kernel_sweep,
    *(Bound(part, equal=p, over="k", reduce="degree") for part, p in zip(PARTS, (4, 6, 4), strict=True)),
    *(Bound(part, equal=6 * a, over="k", reduce="leading") for part, a in zip(PARTS, (3, 1, 2), strict=True)),
    *(Bound(f"{part} at 3 x 3", equal=0, over="n", reduce="degree") for part in PARTS),
    note="exact, 2 channels and 3 filters, κ = k²",
)


def whole_sweep(full, formula=cost.layerwise_step):
    """Flops of steps of perceptrons, beside the formula: nothing due, statistics due, inverses due too."""
    for n, sizes in ((12, (3, 20, 2)), (7, (5, 18, 4, 3)), (5, (70, 3, 66)), *(((64, (100, 80, 90, 7)),) if full else ())):
        net, layers = cost.mlp(n, sizes), cost.dense_layers(sizes)
        for name in ("MBF", "K-FAC", "Shampoo", "TNT"):
            flops, _ = counted_steps(OPTIMIZERS[name], MLP(sizes), (_random(n, sizes[0]), _random(n, sizes[-1])), 5)
            for t in (1, 2, 4):
                expected = sum(formula(FORMULAS[name], net, layers, statistics_due=t > 1, inverse_due=t > 2).values())
                yield {"method": name, "widths": str(sizes), "flops": flops[t], "formula": expected}


def mixed(f, *sizes):
    """The coefficient of the product of all sizes in f, a polynomial whose other terms miss a size."""
    corners = itertools.product((0, 1), repeat=len(sizes))
    return sum((-1) ** (len(sizes) - sum(up)) * f(*(k + one for k, one in zip(sizes, up, strict=True))) for up in corners)


def pass_sweep(full, methods=("K-FAC", "TNT", "K-BFGS")):
    """The coefficient of n o d in what a step does beyond one of SGD, for a dense layer between thin ones."""

    def flops(name, n, d, o):
        found = parts(OPTIMIZERS[name], MLP((1, d, o, 1), "identity"), (_random(n, 1), _random(n, 1)))
        return found["direction" if name == "K-BFGS" else "statistics"]

    for name, expected in zip(methods, (2, 4, 4), strict=True):
        yield {"method": name, "coefficient": mixed(partial(flops, name), 3, 4, 5), "expected": expected}


def vector_sweep(full, optimizer=None):
    """Flops of a step of K-BFGS without statistics on one dense layer, over each side at several of the other."""
    optimizer = optimizer or OPTIMIZERS["K-BFGS"]
    for size, k in itertools.product((6, 8, 10), (5, 7, 9, 11)):
        over_inputs, over_outputs = (counted_steps(optimizer, *dense(*sides, 6), 4)[0][3] for sides in ((k, size), (size - 1, k)))
        yield {"o": size, "inputs": k, "flops over D": over_inputs, "D² expected": 2 * size + 13}
        yield {"D": size, "outputs": k, "flops over o": over_outputs, "o² expected": 2 * size + 11}


VECTORS = Check(
    vector_sweep,
    Bound("flops over D", equal=2, over="inputs", by="o", reduce="degree"),
    Bound("flops over D", equal="D² expected", over="inputs", by="o", reduce="leading"),
    Bound("flops over o", equal=2, over="outputs", by="D", reduce="degree"),
    Bound("flops over o", equal="o² expected", over="outputs", by="D", reduce="leading"),
    note="exact; beside 2 o D² and 2 o² D of the direction, three products with a vector for D and two for o, and 7 each for "
    "the rank-two update and the look at its entries",
)


def pair_sweep(full, optimizer=None):
    """The coefficient of o D in a step of K-BFGS(L) over its pairs."""
    optimizer = optimizer or OPTIMIZERS["K-BFGS(L)"]
    for t in (1, 3, 5, 7):
        flops = lambda d, o, t=t: counted_steps(optimizer, *dense(d, o, 6), t + 1)[0][t]  # noqa: E731
        yield {"h": t, "coefficient of o D": mixed(flops, 9, 7)}


# ------------------------------------------------------------------------------------------------------ overheads and state

SCHEDULES = {"MBF": (2, 25), "K-FAC": (1, 20), "Shampoo": (1, 20), "TNT": (1, 20), "K-BFGS": (1, 20)}
RATIOS = {"MBF": 1.45, "K-FAC": 2.7, "Shampoo": 2.45, "TNT": 2.8, "K-BFGS": 2.65}
STATES = {"MBF": 3.3, "K-FAC": 5.57, "Shampoo": 7.8, "TNT": 7.8, "K-BFGS": 4.45}


def scaled(share):
    """The auto-encoder of the MNIST experiments with a share of its widths, and a batch of that share of 1000."""
    sizes, n = tuple(round(size * share) for size in MNIST), round(1000 * share)
    return autoencoder(sizes), (_random(n, sizes[0]),) * 2


def overhead_sweep(full, names, optimizers=OPTIMIZERS):
    """Flops of a mean step on the auto-encoder, counted at shares of its sizes, beside those of SGD."""
    for name, share in itertools.product(names, (1 / 16, 1 / 8, *((1 / 4, 1 / 2) if full else ()))):
        network, batch = scaled(share)
        found, (T1, T2) = parts(optimizers[name], network, batch), SCHEDULES[name]
        mean = found["SGD"] + found["direction"] + found["statistics"] / T1 + found["inverse"] / T2
        low, high = RATIOS[name] - 0.12, RATIOS[name] + 0.12
        gradient = 6 * batch[0].shape[0] * sum(math.prod(spec.shape) for spec in network.layers)
        row = {"method": name, "share": share, "flops": float(mean), "SGD": found["SGD"], "low": low, "high": high}
        yield {**row, "6 n p": gradient}


OVERHEAD = (
    Bound("flops", per="SGD", low="low", high="high", over="share", by="method", log="x"),
    Bound("SGD", per="6 n p", low=0.9, high=1),
)


def step_seconds(sizes, n, periods=2):
    """Mean seconds of a step of MBF and of the SGD step beside it, float32, one BLAS thread, after two periods of 25 steps."""
    network, x = autoencoder(sizes), _random(n, sizes[0]).astype("float32")
    objective = Objective(network, SigmoidCrossEntropy())
    params, runs = network.init(0, x), []
    for optimizer in (MiniBlockFisher(lr=1e-8, damping=3e-4), SGD(lr=3e-5)):
        runs.append([optimizer, params, optimizer.init(params, objective), []])
    with threadpool_limits(1, user_api="blas"):
        for t in range(25 * (2 + periods)):
            for run in runs if t >= 50 else runs[:1]:
                start = time.perf_counter()
                run[1], run[2], _ = run[0].step(run[1], run[2], objective, (x, x), t)
                run[3].append(time.perf_counter() - start)
    return tuple(float(np.mean(run[3][-25 * periods :])) for run in runs)


def time_sweep(full, seconds=step_seconds):
    """Seconds of a step of MBF and of SGD with momentum at half the widths and half the batch of the paper."""
    own, sgd = seconds(tuple(size // 2 for size in MNIST), 500)
    return [{"share": 0.5, "seconds": own, "seconds of SGD": sgd}]


def _floats(state):
    """Numbers in the arrays of a nested state."""
    if isinstance(state, tuple):
        return sum(map(_floats, state))
    return state.size if hasattr(state, "size") else 0


def state_sweep(full, layers=cost.LAYERS):
    """Floats in the state after three steps, beside the formula."""
    for network, batch in (dense(5, 18, 6), dense(30, 7, 6), conv(2, 3, 6), conv(5, 4, 6)):
        (spec,) = network.layers
        for name, optimizer in OPTIMIZERS.items():
            _, state = counted_steps(optimizer, network, batch, 3)
            formula = layers[FORMULAS[name]](spec, 6, **({"pairs": 3} if name == "K-BFGS(L)" else {})).state
            yield {"method": name, "layer": f"{spec.kind} {spec.shape}", "floats": _floats(state), "formula": formula}


def share_sweep(full, optimizers=OPTIMIZERS):
    """Floats of state beside the parameters of auto-encoders in the proportions of the MNIST experiments."""
    for name, share in itertools.product(STATES, (1 / 8, 1 / 4)):
        network, (x, y) = scaled(share)
        _, state = counted_steps(optimizers[name], network, (x[:8], y[:8]), 2)
        parameters = sum(math.prod(spec.shape) for spec in network.layers)
        row = {"method": name, "share": share, "floats": _floats(state), "parameters": parameters}
        yield {**row, "low": STATES[name] - 0.05, "high": STATES[name] + 0.05}


def kernel_state_sweep(full, optimizer=None):
    """Floats of the state of mini-block Fisher on two convolutions of k x k kernels, beside those of Adam."""
    for k in (1, 2, 3, 5):
        modules = (Conv2d(2, 6, k, bias=False), Conv2d(6, 4, k, bias=False), GlobalAvgPool())
        network, batch = Sequential(modules, shape=(2, 2 * k, 2 * k)), (_random(3, 2, 2 * k, 2 * k), _random(3, 4))
        own, adam = (_floats(counted_steps(one, network, batch, 2)[1]) for one in (optimizer or OPTIMIZERS["MBF"], Adam()))
        yield {"κ": k * k, "floats": own, "floats of Adam": adam, "κ + 1/2": k * k + 0.5}


# -------------------------------------------------------------------------------------------- runs on linear networks

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
    options = {"decay": 1 - 1e-15, "statistic": "sample", **FIXED}
    network, params, x = kernels(J)
    found = residuals(MiniBlockFisher(lr=eta, damping=damping, **options), network, params, x, r, steps)
    return np.linalg.norm(found, axis=1)


def least_share(J, damping):
    """μ = λ_min(J Jᵀ) / (max |J_b|² + n λ)."""
    n, largest = J.shape[1], max(np.linalg.norm(block, 2) ** 2 for block in J)
    return float(np.linalg.eigvalsh(np.einsum("bij,bkj->ik", J, J))[0]) / (largest + n * damping)


def linear_sweep(full, share=least_share, step=1.0):
    """||r_k|| over (1 - η μ)ᵏ ||r_0|| with η = ``step`` / K, the largest over 40 steps, for random blocks and equal ones."""
    sizes = ((8, 8, 4, 3.0), (16, 8, 4, 3.0), (24, 12, 9, 3.0), (32, 4, 16, 3.0), (9, 4, 9, 1.0), (16, 3, 25, 1.0))
    for n, blocks, width, spread in (*sizes, *(((96, 12, 25, 3.0),) if full else ())):
        for key, damping in itertools.product(range(25 if full else 3), (1e-6, 1e-2, 1.0)):
            J, r = affine_blocks(n, blocks, width, key, spread)
            bound = (1 - step / blocks * share(J, damping)) ** np.arange(41)
            seen = bound > 1e-9  # rounding beyond
            worst = np.max((norms(J, r, damping, step / blocks, 40) / np.linalg.norm(r) / bound)[seen][1:])
            named = "over the bound" if spread > 1 else "over the bound, equal blocks"
            yield {"n": n, "blocks": blocks, "damping": damping, named: float(worst)}


def one_step_sweep(full, step=1.0, width=16):
    """||r_1|| / ||r_0|| with η = ``step`` / K where every block has full row rank, over the damping."""
    n, blocks = 16, 6
    for damping, key in itertools.product((1e-2, 1e-4, 1e-6, 1e-8, 1e-10), range(20 if full else 5)):
        J, r = affine_blocks(n, blocks, width, key)
        before, after = norms(J, r, damping, step / blocks, 1)
        yield {"damping": damping, "ratio": after / before, "limit": n * damping / (1 + n * damping)}


# ---------------------------------------------------------------------------------------------------------------- the table

COST, FISHER = "layer-wise cost", "mini-block Fisher"
CUBES = "inverses by Cholesky, s³ (2 s³ by LU)"


def _layer(method, paper, kind, expected, note):
    what = "dense layer (d, o), n samples" if kind == "dense" else "convolution (c, f, 3 x 3), n samples"
    forms, sweep = (DENSE[method], dense_sweep) if kind == "dense" else (CONV[method][2], conv_sweep)
    return Claim(
        f"{kind}-cost-{FORMULAS[method]}", 0, COST, f"{paper} for the method; leading terms derived",
        f"The parts of a step of {method} for one {what} cost what its polynomials say.", "leading terms of the flops",
        "count", expected, note, leading(forms, partial(sweep, name=method)),
    )  # fmt: skip


def _claim(name, family, paper, statement, quantity, how, expected, condition, measure, number=0):
    return Claim(name, number, family, paper, statement, quantity, how, expected, condition, measure, quick=how != "time")


CLAIMS = (
    _claim(
        "layerwise-closed-form", COST, "derived", "The flops of a whole step of a layer-wise method are those of its formula.",
        "flops of steps with and without statistics and inverses", "count", "equal to the flop", "perceptrons, squared loss",
        Check(whole_sweep, Bound("flops", per="formula", equal=1)),
    ),
    _layer("MBF", MBF, "dense", "statistics 2 o d², inverse d³, direction 2 o d²", f"one averaged block; {CUBES}"),
    _layer("K-FAC", KFAC_PAPER, "dense", "statistics 2 n d² + 2 n o², inverses d³ + o³, direction 2 o² d + 2 o d²", CUBES),
    _layer(
        "Shampoo", SHAMPOO, "dense", "statistics and direction 2 o² d + 2 o d², roots 11 (d³ + 2 o³)",
        "eigenvectors 9 s³ (nominal) and 2 s³ to form a root; a bias is a variable of its own",
    ),
    _layer(
        "TNT", TNT_PAPER, "dense",
        "statistics 2 o² d + 2 o d² and a pass at drawn labels, inverses d³ + 2 o³, direction 2 o² d + 2 o d²",
        f"{CUBES}; a first layer has no input gradient: 2 n o d of 4 n o d",
    ),
    _layer(
        "K-BFGS", KBFGS_PAPER, "dense", "statistics 2 n d², direction 2 o² d + 2 o d², and a second pass",
        "a first layer has no input gradient: 2 n o d of 4 n o d; no inverse after the first step",
    ),
    _layer(
        "MBF", MBF, "conv", f"a kernel: statistics 270, inverse {SWEEP}, direction 162; nothing in n",
        "κ = 9: 3 κ² + 3 κ (2 κ² for the outer product and its sum alone), a symmetric sweep, 2 κ²",
    ),
    _layer("K-FAC", KFC, "conv", "statistics 2 n T (q² + f²), inverses q³ + f³, direction 2 f q (f + q); q = 9 c", CUBES),
    _layer(
        "Shampoo", SHAMPOO, "conv", "statistics and direction 2 f c κ (f + c), roots 11 (2 f³ + c³)",
        "axes filter, channel, position; a bias is a variable of its own",
    ),
    _layer(
        "TNT", TNT_PAPER, "conv", "as Shampoo, and a pass at drawn labels; inverses 2 f³ + c³",
        f"{CUBES}; a first layer has no input gradient: 2 n T f q of 4 n T f q",
    ),
    _claim(
        "mbf-kernel-degrees", COST, f"{MBF}, a cost slightly above first order (abstract); degrees derived from the update",
        "MBF on kernels costs κ² a kernel for statistics and direction and κ³ for inverses, whatever the batch.",
        "degrees of the flops in k and in n", "count", "4, 6, 4 in k with coefficients 3, 1 and 2 a kernel, 0 in n, exactly",
        "kernels of 9 x 9 to 16 x 16", KERNELS,
    ),
    _claim(
        "layerwise-passes", COST, "derived",
        "Drawn labels cost K-FAC a backward pass without weight gradients and TNT one with them; K-BFGS pays a forward pass too.",
        "coefficient of n o d in a step beyond SGD's", "count", "2, 4 and 4, exactly", "a layer that is not the first",
        Check(pass_sweep, Bound("coefficient", equal="expected", by="method")),
    ),
    _claim(
        "kbfgs-vectors", COST, "derived", "The BFGS updates in a step of K-BFGS cost 13 D² and 11 o² flops.",
        "coefficients of D² and o²", "count", "2 o + 13 and 2 D + 11, exactly", "both factors updated", VECTORS,
    ),
    _claim(
        "kbfgs-l-pairs", COST, "derived", "The direction and the update of K-BFGS(L) cost 8 h o D flops for its h pairs.",
        "coefficient of h in that of o D", "count", "8, exactly", "any size",
        Check(
            pair_sweep, Bound("coefficient of o D", equal=1, over="h", reduce="degree"),
            Bound("coefficient of o D", equal=8, over="h", reduce="leading"),
        ),
    ),
    _claim(
        "layerwise-state", COST, "derived", "What a layer-wise method keeps from step to step is what its formula says.",
        "floats in the state", "memory", "equal", "one layer, dense or convolution",
        Check(state_sweep, Bound("floats", per="formula", equal=1), note="K-BFGS keeps 2 D²: A + √λ I is not among them"),
    ),
    _claim(
        "layerwise-state-per-parameter", COST, "derived",
        "On auto-encoders like that of the MNIST experiments the state is 3.3 (MBF) to 7.8 (Shampoo, TNT) times the parameters.",
        "floats a parameter", "memory", "3.3, 5.57, 7.8, 7.8 and 4.45, within .05", "an eighth and a quarter of the widths",
        Check(share_sweep, Bound("floats", per="parameters", low="low", high="high", over="share", by="method")),
    ),
    _claim(
        "layerwise-overheads", COST, "derived",
        "K-FAC, Shampoo, TNT and K-BFGS cost 2.4 to 2.8 steps of SGD on the auto-encoder of the MNIST experiments.",
        "mean flops of a step over SGD's", "count", "2.7, 2.45, 2.8 and 2.65, within .12",
        "T1 = 1, T2 = 20; batch and widths scaled together, products A Aᵀ in full",
        Check(partial(overhead_sweep, names=("K-FAC", "Shampoo", "TNT", "K-BFGS")), *OVERHEAD),
    ),
    _claim(
        "mbf-overhead", FISHER, f"{MBF}, abstract; the number derived",
        "A step of MBF costs only slightly more than one of a method of first order.",
        "mean flops of a step over SGD's", "count", "1.45 within .12",
        "MNIST auto-encoder, T1 = 2, T2 = 25; batch and widths scaled together, products A Aᵀ in full",
        Check(partial(overhead_sweep, names=("MBF",)), *OVERHEAD),
    ),
    _claim(
        "mbf-step-time", FISHER, f"{MBF}, abstract; the limit is ours",
        "In time, too, a step of MBF costs only slightly more than one of SGD.",
        "mean seconds of a step over SGD's", "time", "at most 1.6",
        "a quiet machine, one BLAS thread; half the MNIST auto-encoder, batch 500, float32, T1 = 2, T2 = 25",
        Check(time_sweep, Bound("seconds", per="seconds of SGD", high=1.6, over="share", log="")),
    ),
    _claim(
        "mbf-memory-kernels", FISHER, "derived", "On k x k kernels MBF keeps κ + 1/2 times the state of Adam, κ = k².",
        "floats of state over Adam's", "memory", "κ + 1/2, exactly", "convolutions without bias",
        Check(kernel_state_sweep, Bound("floats", per="floats of Adam", equal="κ + 1/2", by="κ")),
    ),
    _claim(
        "mbf-linear-rate", FISHER, f"{MBF}, linear convergence of an idealised method (abstract); the affine case derived",
        "With exact blocks, MBF contracts the residuals of an affine model by 1 - η μ, μ = λ_min(J Jᵀ) / (max |J_b|² + n λ).",
        "largest residual over (1 - η μ)ᵏ of the first", "convergence", "at most 1; 1 where all singular values are equal",
        "η = 1/K for K blocks; full batch, blocks of a warm start",
        Check(
            linear_sweep, Bound("over the bound", low=0.1, high=1 + 1e-9, over="damping"),
            Bound("over the bound, equal blocks", low=0.99, high=1 + 1e-6, over="damping"),
        ),
    ),
    _claim(
        "mbf-one-step", FISHER, f"{MBF}, linear convergence of an idealised method (abstract); the affine case derived",
        "Where every block has full row rank and λ → 0, MBF with η = 1/K solves an affine model in one step.",
        "ratio of residuals after one step", "convergence", "at most n λ / (1 + n λ), and at least a ninth of it",
        "K square blocks with singular values in [1, 3]",
        Check(one_step_sweep, Bound("ratio", per="limit", low=1 / 9, high=1, over="damping")),
    ),
    _claim(
        "kfac-leverage", "K-FAC", f"derived for the K-FAC of {ZMG}",
        "In function space a K-FAC step multiplies the residual of sample i by 1 - η h_i, with its leverage h_i in X.",
        "distance of the change of the outputs from η h_i r_i, over η and the largest residual", "convergence",
        "at most 1e-4 at λ = 1e-20, and falling like √λ: exponent .5 ± .05", "masks of rank n, 4, 16 and n features", Check(
            leverage_sweep, Bound("error", high=1e-4, over="damping", by="d", reduce="first"),
            Bound("error", low=0.45, high=0.55, over="damping", by="d", reduce="exponent"),
        ), number=22,
    ),
    _claim(
        "kfac-rate", "K-FAC rate", f"{ZMG}, convergence of K-FAC; the rate with a uniform step derived",
        "K-FAC with a uniform step converges at the rate 1 - 1/κ(XᵀX): the conditioning of the inputs alone decides.",
        "slowest contraction of a residual per step", "convergence", "between 1 - η min h and 1 - 1/κ(XᵀX)",
        "linearised network, masks of rank n, η = λ_min(XᵀX), λ = 1e-20", Check(
            kfac_rate_sweep, Bound("contraction", high="1 - 1/κ", low="1 - η min h", over="κ", by="d", log="x"),
        ), number=22,
    ),
)  # fmt: skip
