"""Claims on layer-wise methods: the cost and the state of every layer, and overheads beside SGD.

Flops of a part of a step are differences of exact counts: a step where statistics are due less one where nothing is, one where
inverses are due too less that, and a step less one of SGD. Leading terms are found along rays: with all sizes multiples of s, the
terms of highest degree are one coefficient times a power of s, which finite differences give exactly.
"""

import math
import time
from functools import partial
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from nearlin.complexity import cost
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.cost import mixed
from nearlin.complexity.claims.problems import counted_steps, starting
from nearlin.complexity.counting import wrap
from nearlin.nn import MLP, Conv2d, GlobalAvgPool, Sequential, SigmoidCrossEntropy, autoencoder
from nearlin.optim import KBFGS, KBFGSL, KFAC, SGD, TNT, Adam, MiniBlockFisher, Shampoo

MBF, KFAC_PAPER, KFC = "arXiv:2202.04124", "arXiv:1503.05671", "arXiv:1602.01407"
SHAMPOO, TNT_PAPER, KBFGS_PAPER = "arXiv:1802.09568", "arXiv:2106.02925", "arXiv:2006.08877"
EVERY = {"statistics_every": 2, "inverse_every": 4, "early": False}
OPTIMIZERS = {
    "MBF": MiniBlockFisher(**EVERY), "K-FAC": KFAC(**EVERY), "Shampoo": Shampoo(**EVERY), "TNT": TNT(**EVERY),
    "K-BFGS": KBFGS(lr=1e-3, statistics_every=2), "K-BFGS(L)": KBFGSL(lr=1e-3, statistics_every=2),
}  # fmt: skip
FORMULAS = dict(zip(OPTIMIZERS, cost.LAYERS, strict=True))
MNIST = (784, 1000, 500, 250, 30)
PARTS = ("statistics", "inverse", "direction")
# T1 and T2 of the experiments; steps of SGD that a step costs, and floats of state a parameter
OVERHEADS = {
    "MBF": (2, 25, 1.45, 3.3), "K-FAC": (1, 20, 2.7, 5.57), "Shampoo": (1, 20, 2.45, 7.8), "TNT": (1, 20, 2.8, 7.8),
    "K-BFGS": (1, 20, 2.65, 4.45),
}  # fmt: skip


def _random(*shape):
    return np.random.default_rng(len(shape)).uniform(0.1, 1.0, shape)


def run(optimizer, network, batch, steps):
    """Flops of each of ``steps`` steps, and the last state."""
    flops, infos, states = zip(*counted_steps(wrap(starting(network, *batch, 0)), optimizer, steps), strict=True)
    if refused := [info.reason for info in infos if not info.accepted]:
        raise RuntimeError(f"a step of {type(optimizer).__name__} was not taken: {refused[0]}")
    return flops, states[-1]


def parts(optimizer, network, batch):
    """Flops of statistics (with the passes that they need), inverse and direction (with all else of every step), and of SGD."""
    flops, _ = run(optimizer, network, batch, 5)
    sgd = run(SGD(lr=1e-3), network, batch, 2)[0][1]
    return {"statistics": flops[2] - flops[1], "inverse": flops[4] - flops[2], "direction": flops[1] - sgd, "SGD": sgd}


def dense(d, o, n):
    """One dense layer with bias, and a batch."""
    return MLP((d, o)), (_random(n, d), _random(n, o))


def conv(c, f, n, kernel=3, side=2):
    """One convolution at side² positions and a mean over them, and a batch."""
    image = side + kernel - 1
    network = Sequential((Conv2d(c, f, kernel), GlobalAvgPool()), shape=(c, image, image))
    return network, (_random(n, c, image, image), _random(n, f))


def along_rays(full, method, layer, rays, sizes, forms, optimizer=None):
    """Flops of every part along rays, beside the coefficient of the leading term, a form (degree, coefficient) of the ray."""
    for ray, s in product(rays if full else rays[:3], sizes):
        found = parts(optimizer or OPTIMIZERS[method], *layer(*(s * k for k in ray)))
        expected = {f"{part}, expected": form(*ray) for part, (_, form) in forms.items()}
        yield {"ray": str(ray), "s": s, **{part: found[part] for part in forms}, **expected}


def _named(degree, *forms):
    return {part: (degree, form) for part, form in zip(PARTS, forms, strict=True) if form}


def _matrix(d, o, n):
    """A matrix for each side of a direction (o, d)."""
    return 2 * o * d * (o + d)


CUBES = "inverses by Cholesky, s³ (2 s³ by LU)"
DENSE_RAYS, DENSE_SIZES = ((1, 1, 1), (1, 2, 1), (2, 1, 3), (2, 1, 1), (1, 1, 2)), tuple(range(66, 76, 2))
DENSE = {  # paper, forms in d, o and n, the same in words, and a condition; a single layer forms no input gradient
    "MBF": (MBF, _named(3, lambda d, o, n: 2 * o * d * d, lambda d, o, n: d**3, lambda d, o, n: 2 * o * d * d),
        "statistics 2 o d², inverse d³, direction 2 o d²", f"one averaged block; {CUBES}"),
    "K-FAC": (KFAC_PAPER, _named(3, lambda d, o, n: 2 * n * (d * d + o * o), lambda d, o, n: d**3 + o**3, _matrix),
        "statistics 2 n d² + 2 n o², inverses d³ + o³, direction 2 o² d + 2 o d²", CUBES),
    "Shampoo": (SHAMPOO, _named(3, _matrix, lambda d, o, n: 11 * (d**3 + 2 * o**3), _matrix),
        "statistics and direction 2 o² d + 2 o d², roots 11 (d³ + 2 o³)",
        "eigenvectors 9 s³ (nominal) and 2 s³ to form a root; a bias is a variable of its own"),
    "TNT": (TNT_PAPER, _named(3, lambda d, o, n: _matrix(d, o, n) + 2 * n * o * d, lambda d, o, n: d**3 + 2 * o**3, _matrix),
        "statistics 2 o² d + 2 o d² and a pass at drawn labels, inverses d³ + 2 o³, direction 2 o² d + 2 o d²",
        f"{CUBES}; a first layer has no input gradient: 2 n o d of 4 n o d"),
    "K-BFGS": (KBFGS_PAPER, _named(3, lambda d, o, n: 2 * n * d * d, None, lambda d, o, n: _matrix(d, o, n) + 2 * n * o * d),
        "statistics 2 n d², direction 2 o² d + 2 o d², and a second pass",
        "a first layer has no input gradient: 2 n o d of 4 n o d; no inverse after the first step"),
}  # fmt: skip
KAPPA, POSITIONS = 9, 4
SWEEP = cost.block_inverses(2, KAPPA) - cost.block_inverses(1, KAPPA)  # flops of one more 9 x 9 inverse
CHANNEL_RAYS = ((1, 1, 1), (1, 2, 1), (2, 1, 1))


def _modes(c, f, n):
    """A matrix for each of the axes filter and channel."""
    return 2 * f * c * KAPPA * (f + c)


CONV = {  # in c, f and n, at 3 x 3 kernels and 4 positions: rays, sizes, and as above
    "MBF": (((1, 1, 1), (1, 2, 1), (2, 1, 3)), (4, 5, 6, 7), MBF, _named(
            2, lambda c, f, n: 3 * KAPPA * (KAPPA + 1) * f * c, lambda c, f, n: SWEEP * f * c,
            lambda c, f, n: 2 * KAPPA**2 * f * c),
        f"a kernel: statistics 270, inverse {SWEEP}, direction 162; nothing in n",
        "κ = 9: 3 κ² + 3 κ (2 κ² for the outer product and its sum alone), a symmetric sweep, 2 κ²"),
    "K-FAC": (((1, 8, 1), (1, 9, 2), (2, 8, 1)), (9, 10, 11, 12, 13), KFC, _named(
            3, lambda c, f, n: 2 * n * POSITIONS * ((c * KAPPA) ** 2 + f * f), lambda c, f, n: (c * KAPPA) ** 3 + f**3,
            lambda c, f, n: 2 * f * c * KAPPA * (f + c * KAPPA)),
        "statistics 2 n T (q² + f²), inverses q³ + f³, direction 2 f q (f + q); q = 9 c", CUBES),
    "Shampoo": (CHANNEL_RAYS, DENSE_SIZES, SHAMPOO, _named(3, _modes, lambda c, f, n: 11 * (2 * f**3 + c**3), _modes),
        "statistics and direction 2 f c κ (f + c), roots 11 (2 f³ + c³)",
        "axes filter, channel, position; a bias is a variable of its own"),
    "TNT": (CHANNEL_RAYS, DENSE_SIZES, TNT_PAPER, _named(
            3, lambda c, f, n: _modes(c, f, n) + n * (2 * POSITIONS + 1) * f * c * KAPPA, lambda c, f, n: 2 * f**3 + c**3,
            _modes),
        "as Shampoo, and a pass at drawn labels; inverses 2 f³ + c³",
        f"{CUBES}; a first layer has no input gradient: 2 n T f q of 4 n T f q, and n f q to add up the samples"),
}  # fmt: skip


def kernel_sweep(full, optimizer=OPTIMIZERS["MBF"], c=2, f=3):
    """Parts of a step on k x k kernels, and on 3 x 3 kernels over the samples."""
    for k in range(9, 17):
        found = parts(optimizer, *conv(c, f, 2, k))
        yield {"k": k, **{part: found[part] for part in PARTS}}
    for n in (2, 4, 6):
        found = parts(optimizer, *conv(c, f, n))
        yield {"n": n, **{f"{part} at 3 x 3": found[part] for part in PARTS}}


def whole_sweep(full, formula=cost.layerwise_step):
    """Flops of steps of perceptrons, beside the formula: nothing due, statistics due, inverses due too."""
    for n, sizes in ((12, (3, 20, 2)), (7, (5, 18, 4, 3)), (5, (70, 3, 66)), *(((64, (100, 80, 90, 7)),) if full else ())):
        net, layers = cost.mlp(n, sizes), cost.dense_layers(sizes)
        for name in ("MBF", "K-FAC", "Shampoo", "TNT"):
            flops, _ = run(OPTIMIZERS[name], MLP(sizes), (_random(n, sizes[0]), _random(n, sizes[-1])), 5)
            for t in (1, 2, 4):
                expected = sum(formula(FORMULAS[name], net, layers, statistics_due=t > 1, inverse_due=t > 2).values())
                yield {"method": name, "widths": str(sizes), "flops": flops[t], "formula": expected}


def pass_sweep(full, methods=("K-FAC", "TNT", "K-BFGS")):
    """The coefficient of n o d in what a step does beyond one of SGD, for a dense layer between thin ones."""

    def flops(name, n, d, o):
        found = parts(OPTIMIZERS[name], MLP((1, d, o, 1), "identity"), (_random(n, 1), _random(n, 1)))
        return found["direction" if name == "K-BFGS" else "statistics"]

    for name, expected in zip(methods, (2, 4, 4), strict=True):
        yield {"method": name, "coefficient": mixed(partial(flops, name), (3, 4), (4, 5), (5, 6)), "expected": expected}


def vector_sweep(full, optimizer=OPTIMIZERS["K-BFGS"]):
    """Flops of a step of K-BFGS without statistics on one dense layer, over each side at several of the other."""
    for size, k in product((6, 8, 10), (5, 7, 9, 11)):
        over_inputs, over_outputs = (run(optimizer, *dense(*sides, 6), 4)[0][3] for sides in ((k, size), (size - 1, k)))
        yield {"o": size, "inputs": k, "flops over D": over_inputs, "D² expected": 2 * size + 13}
        yield {"D": size, "outputs": k, "flops over o": over_outputs, "o² expected": 2 * size + 11}


def pair_sweep(full, optimizer=OPTIMIZERS["K-BFGS(L)"]):
    """The coefficient of o D in a step of K-BFGS(L) over its pairs."""
    for t in (1, 3, 5, 7):
        coefficient = mixed(lambda d, o, t=t: run(optimizer, *dense(d, o, 6), t + 1)[0][t], (9, 10), (7, 8))
        yield {"h": t, "coefficient of o D": coefficient}


def scaled(share):
    """The auto-encoder of the MNIST experiments with a share of its widths, a batch of that share of 1000, and its weights."""
    sizes, n = tuple(round(size * share) for size in MNIST), round(1000 * share)
    network = autoencoder(sizes)
    return network, (_random(n, sizes[0]),) * 2, sum(math.prod(spec.shape) for spec in network.layers)


def overhead_sweep(full, names, optimizers=OPTIMIZERS):
    """Flops of a mean step on the auto-encoder, counted at shares of its sizes, beside those of SGD."""
    for name, share in product(names, (1 / 16, 1 / 8, *((1 / 4, 1 / 2) if full else ()))):
        network, batch, weights = scaled(share)
        found, (T1, T2, ratio, _) = parts(optimizers[name], network, batch), OVERHEADS[name]
        mean = found["SGD"] + found["direction"] + found["statistics"] / T1 + found["inverse"] / T2
        row = {"method": name, "share": share, "flops": float(mean), "SGD": found["SGD"], "6 n p": 6 * len(batch[0]) * weights}
        yield {**row, "low": ratio - 0.12, "high": ratio + 0.12}


def step_seconds(sizes, n, periods=2):
    """Mean seconds of a step of MBF and of the SGD step beside it, float32, one BLAS thread, after two periods of 25 steps."""
    x = _random(n, sizes[0]).astype("float32")
    p = starting(autoencoder(sizes), x, x, 0, SigmoidCrossEntropy())
    optimizers = MiniBlockFisher(lr=1e-8, damping=3e-4), SGD(lr=3e-5)
    runs = [[optimizer, p, optimizer.init(p.params, p.objective), []] for optimizer in optimizers]
    with threadpool_limits(1, user_api="blas"):
        for t in range(25 * (2 + periods)):
            for one in runs if t >= 50 else runs[:1]:
                start = time.perf_counter()
                params, one[2], _ = one[1].step(one[0], one[2], t)
                one[3].append(time.perf_counter() - start)
                one[1] = one[1]._replace(params=params)
    return tuple(float(np.mean(one[3][-25 * periods :])) for one in runs)


def time_sweep(full, seconds=step_seconds):
    """Seconds of a step of MBF and of SGD with momentum at half the widths and half the batch of the paper."""
    own, sgd = seconds(tuple(size // 2 for size in MNIST), 500)
    yield {"share": 0.5, "seconds": own, "seconds of SGD": sgd}


def _floats(state):
    """Numbers in the arrays of a nested state."""
    return sum(map(_floats, state)) if isinstance(state, tuple) else getattr(state, "size", 0)


def state_sweep(full, layers=cost.LAYERS):
    """Floats in the state after three steps, beside the formula."""
    for (network, batch), (name, optimizer) in product(
        (dense(5, 18, 6), dense(30, 7, 6), conv(2, 3, 6), conv(5, 4, 6)), OPTIMIZERS.items()
    ):
        (spec,), (_, state) = network.layers, run(optimizer, network, batch, 3)
        formula = layers[FORMULAS[name]](spec, 6, **({"pairs": 3} if name == "K-BFGS(L)" else {})).state
        yield {"method": name, "layer": f"{spec.kind} {spec.shape}", "floats": _floats(state), "formula": formula}


def share_sweep(full, optimizers=OPTIMIZERS):
    """Floats of state beside the parameters of auto-encoders in the proportions of the MNIST experiments."""
    for (name, (*_, ratio)), share in product(OVERHEADS.items(), (1 / 8, 1 / 4)):
        network, (x, y), weights = scaled(share)
        _, state = run(optimizers[name], network, (x[:8], y[:8]), 2)
        row = {"method": name, "share": share, "floats": _floats(state), "parameters": weights}
        yield {**row, "low": ratio - 0.05, "high": ratio + 0.05}


def kernel_state_sweep(full, optimizer=OPTIMIZERS["MBF"]):
    """Floats of the state of mini-block Fisher on two convolutions of k x k kernels, beside those of Adam."""
    for k in (1, 2, 3, 5):
        modules = (Conv2d(2, 6, k, bias=False), Conv2d(6, 4, k, bias=False), GlobalAvgPool())
        network, batch = Sequential(modules, shape=(2, 2 * k, 2 * k)), (_random(3, 2, 2 * k, 2 * k), _random(3, 4))
        own, adam = (_floats(run(one, network, batch, 2)[1]) for one in (optimizer, Adam()))
        yield {"κ": k * k, "floats": own, "floats of Adam": adam, "κ + 1/2": k * k + 0.5}


def _layer(kind, method, rays, sizes, paper, forms, expected, condition):
    layer, what = {"dense": (dense, "dense layer (d, o)"), "conv": (conv, "convolution (c, f, 3 x 3)")}[kind]
    degrees = (Bound(part, equal=p, over="s", by="ray", reduce="degree") for part, (p, _) in forms.items())
    terms = (Bound(part, equal=f"{part}, expected", over="s", by="ray", reduce="leading") for part in forms)
    return claim(
        f"{kind}-cost-{FORMULAS[method]}", 0, COST, f"{paper} for the method; leading terms derived",
        f"The parts of a step of {method} for one {what}, n samples, cost what its polynomials say.", condition,
        partial(along_rays, method=method, layer=layer, rays=rays, sizes=sizes, forms=forms), *degrees, *terms, how="count",
        expected=expected, note="exact, by finite differences",
    )  # fmt: skip


OVERHEAD = (
    Bound("flops", per="SGD", low="low", high="high", over="share", by="method", log="x"),
    Bound("SGD", per="6 n p", low=0.9, high=1),
)
COST, FISHER = "layer-wise cost", "mini-block Fisher"

CLAIMS = (
    claim("layerwise-closed-form", 0, COST, "derived",
        "The flops of a whole step of a layer-wise method are those of its formula.", "perceptrons, squared loss", whole_sweep,
        Bound("flops", per="formula", equal=1), how="count"),
    *(_layer("dense", method, DENSE_RAYS, DENSE_SIZES, *given) for method, given in DENSE.items()),
    *(_layer("conv", method, *given) for method, given in CONV.items()),
    claim("mbf-kernel-degrees", 0, COST, f"{MBF}, a cost slightly above first order (abstract); degrees derived from the update",
        "MBF on kernels costs κ² a kernel for statistics and direction and κ³ for inverses, whatever the batch.",
        "kernels of 9 x 9 to 16 x 16", kernel_sweep,
        *(Bound(part, equal=p, over="k", reduce="degree") for part, p in zip(PARTS, (4, 6, 4), strict=True)),
        *(Bound(part, equal=6 * a, over="k", reduce="leading") for part, a in zip(PARTS, (3, 1, 2), strict=True)),
        *(Bound(f"{part} at 3 x 3", equal=0, over="n", reduce="degree") for part in PARTS),
        expected="4, 6, 4 in k with coefficients 3, 1 and 2 a kernel, 0 in n, exactly",
        note="exact, 2 channels and 3 filters, κ = k²", how="count"),
    claim("layerwise-passes", 0, COST, "derived",
        "Drawn labels cost K-FAC a backward pass without weight gradients and TNT one with them; K-BFGS pays a forward pass too.",
        "a layer that is not the first", pass_sweep, Bound("coefficient", equal="expected", by="method"),
        expected="2, 4 and 4, exactly", how="count"),
    claim("kbfgs-vectors", 0, COST, "derived",
        "The BFGS updates in a step of K-BFGS cost 13 D² and 11 o² flops.", "both factors updated", vector_sweep,
        Bound("flops over D", equal=2, over="inputs", by="o", reduce="degree"),
        Bound("flops over D", equal="D² expected", over="inputs", by="o", reduce="leading"),
        Bound("flops over o", equal=2, over="outputs", by="D", reduce="degree"),
        Bound("flops over o", equal="o² expected", over="outputs", by="D", reduce="leading"),
        expected="2 o + 13 and 2 D + 11, exactly",
        note="exact, beside the direction: three products with a vector for D, two for o, and 7 each for the rank-two update "
        "and the look at its entries", how="count"),
    claim("kbfgs-l-pairs", 0, COST, "derived",
        "The direction and the update of K-BFGS(L) cost 8 h o D flops for its h pairs.", "any size", pair_sweep,
        Bound("coefficient of o D", equal=1, over="h", reduce="degree"),
        Bound("coefficient of o D", equal=8, over="h", reduce="leading"), how="count"),
    claim("layerwise-state", 0, COST, "derived",
        "What a layer-wise method keeps from step to step is what its formula says.", "one layer, dense or convolution",
        state_sweep, Bound("floats", per="formula", equal=1), note="K-BFGS keeps 2 D²: A + √λ I is not among them", how="memory"),
    claim("layerwise-state-per-parameter", 0, COST, "derived",
        "On auto-encoders like that of the MNIST experiments the state is 3.3 (MBF) to 7.8 (Shampoo, TNT) times the parameters.",
        "an eighth and a quarter of the widths", share_sweep,
        Bound("floats", per="parameters", low="low", high="high", over="share", by="method"),
        expected="3.3, 5.57, 7.8, 7.8 and 4.45, within .05", how="memory"),
    claim("layerwise-overheads", 0, COST, "derived",
        "K-FAC, Shampoo, TNT and K-BFGS cost 2.4 to 2.8 steps of SGD on the auto-encoder of the MNIST experiments.",
        "T1 = 1, T2 = 20; batch and widths scaled together, products A Aᵀ in full",
        partial(overhead_sweep, names=("K-FAC", "Shampoo", "TNT", "K-BFGS")), *OVERHEAD,
        expected="2.7, 2.45, 2.8 and 2.65, within .12", how="count"),
    claim("mbf-overhead", 0, FISHER, f"{MBF}, abstract; the number derived",
        "A step of MBF costs only slightly more than one of a method of first order.",
        "MNIST auto-encoder, T1 = 2, T2 = 25; batch and widths scaled together, products A Aᵀ in full",
        partial(overhead_sweep, names=("MBF",)), *OVERHEAD, expected="1.45 within .12", how="count"),
    claim("mbf-step-time", 0, FISHER, f"{MBF}, abstract; the limit is ours",
        "In time, too, a step of MBF costs only slightly more than one of SGD.",
        "a quiet machine, one BLAS thread; half the MNIST auto-encoder, batch 500, float32, T1 = 2, T2 = 25", time_sweep,
        Bound("seconds", per="seconds of SGD", high=1.6, over="share", log=""), how="time"),
    claim("mbf-memory-kernels", 0, FISHER, "derived",
        "On k x k kernels MBF keeps κ + 1/2 times the state of Adam, κ = k².", "convolutions without bias", kernel_state_sweep,
        Bound("floats", per="floats of Adam", equal="κ + 1/2", by="κ"), how="memory"),
)  # fmt: skip
