"""Claims on duality structure gradient descent: its guarantee, how tight it is, its time to stationarity, and Newton-Schulz.

Every run is one of `DSGD.step`, and losses are recomputed from the network's outputs. Beside networks of some depth stand
problems that leave the bounds no room: one sample and linear layers, where a step decreases the loss by what is guaranteed and
no more; labels that disagree on one input; and targets so far away that the slope term makes up the constant.
"""

import math
from itertools import pairwise, product

import numpy as np

from nearlin._array import fold_in, generator
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.problems import SOFTMAX, SQUARED, Problem, starting
from nearlin.complexity.counting import count, wrap
from nearlin.linalg import orthogonalize, spectral_bound
from nearlin.nn import MLP, Dense, Elementwise, Objective, Sequential, SquaredLoss, activation
from nearlin.optim import DSGD

FLYNN = "arXiv:1708.00523"
QS, INPUTS = (1, 2, math.inf), ("data", "bound")
DEPTHS = {1: (6, 3), 2: (6, 5, 3), 3: (6, 6, 5, 3)}  # widths, inputs first
EPS, TANH = np.finfo(np.float64).eps, Elementwise(activation("tanh"))
DUALS = {  # of matrices, by q
    1: lambda G: np.abs(G).max(0).sum(),
    2: lambda G: np.linalg.norm(G, "nuc"),
    math.inf: lambda G: np.abs(G).max(1).sum(),
}


def tanh_layers(sizes):
    """Modules of dense layers, each with tanh after it."""
    return tuple(module for inp, out in pairwise(sizes) for module in (Dense(inp, out), TANH))


def task(depth, key=0, samples=12):
    """Tanh layers and the squared loss of targets in [-0.8, 0.8] that they do not fit."""
    sizes, draws = DEPTHS[depth], generator(fold_in(key, depth))
    x, y = draws.standard_normal((samples, sizes[0])), draws.uniform(-0.8, 0.8, (samples, sizes[-1]))
    return starting(Sequential(tanh_layers(sizes)), x, y, fold_in(key, depth))


def given(modules, params, x, y):
    """The problem with these weights: cross-entropy where y are labels, the squared loss else."""
    x, y = np.asarray(x), np.asarray(y)
    return Problem(Objective(Sequential(modules), SOFTMAX if y.dtype.kind == "i" else SQUARED), params, (x, y))


X, TWO = np.array([[0.3, -0.7, 0.2]]), np.array([[1.0, 1.0]])
PLAIN, BIAS = (Dense(3, 2, bias=False),), np.array([[0.0, 0.3]])
LINEAR = given((Dense(3, 2),), (np.zeros((2, 4)),), X, TWO)
FAR = given((Dense(1, 1), TANH), (BIAS,), [[1e-9]], [[10.0]])
PAIR = given(PLAIN, (np.zeros((2, 3)),), np.outer([4.0, 0.5], X), np.outer([4.0, 0.5], TWO))
FULL = given((Dense(3, 4), TANH, Dense(4, 2)), (np.full((4, 4), 50.0), np.zeros((2, 5))), np.ones((1, 3)), TWO)
DEEP = given((*PLAIN, Dense(2, 2, bias=False)), (0.5 * np.eye(2, 3), 2 * np.eye(2)), [[1.0, 0.0, 0.0]], [[2.0, 1.0]])
BELOW = given((Dense(1, 1), TANH, Dense(1, 1)), (BIAS, np.array([[1.0, -5.0]])), [[1e-9]], [[5.0]])
BENT = given((Dense(3, 2), TANH), (np.zeros((2, 4)),), X, [[0.05, 0.05]])
NOISY = given((Dense(3, 2),), (np.zeros((2, 4)),), np.repeat(X, 10, axis=0), [0] * 6 + [1] * 4)
TIGHT = {  # problem, options, and the most that a step may gain over its guarantee
    "one linear layer": (LINEAR, {}, 1 + 1e-9),
    "one linear layer, lr = 1.5": (LINEAR, {"lr": 1.5}, 1 + 1e-9),
    "two samples": (PAIR, {}, 1 + 1e-9),
    "saturated inputs": (FULL, {"inputs": "bound"}, 1 + 1e-9),
    "two linear layers": (DEEP, {"layers": "cyclic"}, 1 + 1e-9),
    "far targets": (FAR, {"sharp": False}, 1.5),
    "far targets, folded": (FAR, {}, 1.5),
    "far targets, lower layer": (BELOW, {"layers": "cyclic"}, 1.5),
    "two tanh outputs": (BENT, {}, 1.05),
    "labels that disagree": (NOISY, {}, 1.05),
}


def drawn(key):
    """A small tanh network of two or three layers, far targets or classes, and the options of a step in one of its layers."""
    draws = generator(fold_in(7, key))
    sizes = draws.integers(1, 4, 3 + key % 2).tolist()
    modules, classes = tanh_layers(sizes), key % 3 == 2 and sizes[-1] > 1
    x = draws.standard_normal((2, sizes[0]))
    y = draws.integers(0, sizes[-1], 2) if classes else 5 * draws.standard_normal((2, sizes[-1]))
    shapes = [spec.shape for spec in Sequential(modules).layers]
    params = tuple(draws.uniform(0.5, 3) * draws.standard_normal(shape) for shape in shapes)
    options = {"q": QS[key % 3], "sharp": key % 4 < 2, "inputs": INPUTS[key // 4 % 2]}
    return given(modules[: len(modules) - key // 2 % 2], params, x, y), options


def loss_at(objective, params, batch):
    """The mean loss, from the outputs."""
    outputs, y = objective.network.forward(params, batch[0])[0], batch[1]
    if isinstance(objective.loss, SquaredLoss):
        return float(np.sum((outputs - y) ** 2)) / (2 * len(outputs))
    return float(np.mean(np.log(np.sum(np.exp(outputs), axis=1)) - outputs[np.arange(len(outputs)), y]))


def descend(optimizer, p, steps, first=0, loss=loss_at):
    """(`Info`, loss before, loss after) of every step from the ``first`` on until one is not taken."""
    state, before = optimizer.init(p.params, p.objective)._replace(t=first), loss(*p)
    for t in range(steps):
        params, state, info = p.step(optimizer, state, t)
        if not info.accepted:
            return
        p = p._replace(params=params)
        after = loss(*p)
        yield info, before, after
        before = after


def shortfall(run):
    """The most by which a step misses its guarantee, over the rounding that is allowed: 8 ε f."""
    missed = [(info.guarantee - (before - after)) / (8 * EPS * before) for info, before, after in run]
    return max(missed, default=math.inf)


def guarantee_sweep(full, optimizer=DSGD, steps=None):
    """The guarantee over norms, sizes of inputs and depths, and on tight problems; and what is guaranteed along a run."""
    steps = steps or (10_000 if full else 80)
    for q, inputs, depth in product(QS, INPUTS, DEPTHS):
        run = list(descend(optimizer(q=q, inputs=inputs), task(depth), steps))
        yield {"q": q, "inputs": inputs, "problem": f"{depth} tanh layers", "shortfall": shortfall(run)}
        if inputs == "data" and depth == 3:
            certain = np.cumsum([info.guarantee for info, *_ in run])
            for t in sorted({round(len(run) ** (k / 12)) for k in range(13)}):
                yield {"norm": f"q = {q}", "step": t, "decrease": run[0][1] - run[t - 1][2], "guaranteed": float(certain[t - 1])}
    for q, (name, (problem, options, _)) in product(QS, TIGHT.items()):
        yield {"q": q, "problem": name, "shortfall": shortfall(descend(optimizer(q=q, **options), problem, 1))}
    for key in range(1000 if full else 240):
        p, options = drawn(key)
        for taken in descend(optimizer(layers="cyclic", **options), p, 1, first=key // 8):
            yield {"problem": "drawn", "shortfall": shortfall([taken])}
        grads, dual = p.objective.at(p.params, p.batch).grads(), DUALS[options["q"]]
        for info, *_ in descend(optimizer(**options), p, 1):
            largest = max(dual(G) / norm for G, norm in zip(grads, info.p, strict=True) if norm > 0)
            yield {"problem": "drawn", "guarantee": info.guarantee, "half the squared dual norm": largest**2 / 2}


def tight_sweep(full, optimizer=DSGD):
    """What a first step gains over its guarantee, where the bounds are tight."""
    for q, (name, (problem, options, most)) in product(QS, TIGHT.items()):
        for info, before, after in descend(optimizer(q=q, **options), problem, 1):
            yield {"problem": name, "q": q, "gain": (before - after) / info.guarantee, "most": most}


def stationarity_sweep(full, optimizer=DSGD, steps=None):
    """The first step at which the squared dual norm of the gradient is at most g, beside (f₀ - f*) / ((lr - lr²/2) g)."""
    steps = steps or (5_000 if full else 120)
    problems = {"two tanh layers": task(2), "one linear layer": LINEAR}
    for (name, problem), lr, q in product(problems.items(), (0.5, 1.0), QS):
        run = list(descend(optimizer(q=q, lr=lr), problem, steps))
        share = lr - lr**2 / 2
        squares = np.array([info.guarantee / share for info, *_ in run])  # ||df||² in the norm at the weights
        ends = np.append(squares[1:], 0.0 if len(run) < steps else np.inf)  # a run that ends early is at a stationary point
        for g in squares[0] * (1 - 1e-6) * 2.0 ** -np.arange(20):
            if g >= min(ends, default=np.inf):
                row = {"problem": name, "lr": lr, "q": q, "squared dual norm": float(g), "steps": 1 + int(np.argmax(ends <= g))}
                yield {**row, "bound": run[0][1] / (share * float(g)), "run": f"{name}, q = {q}, lr = {lr}"}


def cross_entropy_sweep(full, optimizer=DSGD, steps=None):
    """Rises of the loss of a linear-output tanh network on drawn classes, and the guarantee where labels disagree."""
    draws = generator(fold_in(5, 2))
    x = draws.standard_normal((40, 8))
    labels = np.argmax(x[:, :3] + 0.5 * draws.standard_normal((40, 3)), axis=1)
    p = starting(MLP((8, 10, 3), "tanh"), x, labels, 3, SOFTMAX)
    for t, (info, before, after) in enumerate(descend(optimizer(q=2), p, steps or (2_000 if full else 100))):
        rise = (after - before) / (8 * EPS * before)
        yield {"step": t, "layer": info.layer, "rise over rounding": rise, "loss": after}
    for q in QS:
        yield {"q": q, "shortfall": shortfall(descend(optimizer(q=q), NOISY, 1))}


def matrices(full):
    """Gaussian, ill-conditioned, rank-one, clustered and orthogonal matrices of both precisions, with their singular values."""
    n, draw = 256 if full else 64, generator(0).standard_normal
    spectrum = lambda s: np.linalg.qr(draw((n, n)))[0] * s @ np.linalg.qr(draw((n, n)))[0]  # noqa: E731
    made = {
        "square": draw((n, n)),
        "tall": draw((n, n // 4)),
        "wide": draw((n // 4, n)),
        "condition 1e6": spectrum(np.geomspace(1, 1e-6, n)),
        "rank one": np.outer(draw(n), draw(n)),
        "clusters": spectrum(np.where(np.arange(n) < n // 2, 1.0, 0.01)),
        "orthogonal": spectrum(np.ones(n)),
    }
    for dtype, (name, G) in product(("float32", "float64"), made.items()):
        yield f"{name}, {dtype}", G.astype(dtype), np.linalg.svd(G.astype(dtype).astype(float), compute_uv=False)


def certificate_sweep(full, make=orthogonalize):
    """||O||₂ over α and <G, O> / α over ||G||_* for O from Newton-Schulz steps; the share of the guarantee that is left."""
    for (name, G, values), (steps, polish) in product(matrices(full), ((5, 0), (5, 2), (8, 0))):
        O, alignment, bound = make(G, steps, polish)
        size, dual = np.linalg.norm(O.astype(float), 2), values.sum()
        row = {"matrix": name, "steps": f"{steps} + {polish}", "||O|| over α": float(size / bound)}
        row["<G, O> over α ||G||"] = alignment / bound / dual / (1 + max(G.shape) * np.finfo(G.dtype).eps)
        if name == "square, float64" and polish:
            row["polished share"] = (alignment / dual) ** 2 / bound**2
        elif name == "square, float64" and steps == 5:
            row["quintic share"] = (alignment / dual) ** 2 / size**2
        yield row


def bound_sweep(full, bound=spectral_bound):
    """The bound of the spectral norm over that norm, by powers of traces (r^(1/64) at most) and by singular values."""
    for name, G, values in matrices(full):
        for method, most in (("gram", len(values) ** (1 / 64)), ("svd", 1.0)):
            slack = 1 + 100 * max(G.shape) * np.finfo(G.dtype).eps
            row = {"matrix": name, "bound": bound(G, method), "norm": float(values[0]), "most": most * slack}
            yield {**row, "case": f"{name}, {method}"}


def no_svd_sweep(full, orth="newton_schulz"):
    """Decompositions called in steps with Newton-Schulz, and the most by which a guarantee is missed."""
    loss = lambda objective, params, batch: float(objective.at(params, batch).loss)  # noqa: E731
    cases = (("three tanh layers", task(3), 50, 2), ("one linear layer", LINEAR, 1, 2), ("one linear layer", LINEAR, 1, 0))
    for name, p, steps, polish in (*cases, ("two linear layers", DEEP, 1, 2)):
        with count() as tally:
            missed = shortfall(descend(DSGD(orth=orth, polish=polish), wrap(p), steps, loss=loss))
        calls = sum(tally.calls[kind] for kind in ("svd", "svdvals", "eigh", "eigvalsh"))
        yield {"problem": name, "decompositions": calls, "shortfall": missed}


DERIVED = f"{FLYNN}; the constants are derived here"
CLAIMS = (
    claim("dsgd-guarantee", 0, "dsgd", DERIVED,
        "Every full-batch step decreases the loss by at least half the squared dual norm of the gradient.",
        "full batch, smooth activations, lr = 1", guarantee_sweep, Bound("shortfall", high=1),
        Bound("guarantee", per="half the squared dual norm", low=1 - 1e-9, high=1 + 1e-9),
        Bound("decrease", low=0, per="guaranteed", over="step", by="norm")),
    claim("dsgd-tight", 0, "dsgd on tight problems", "derived",
        "The guarantee is what one sample and linear layers decrease by, and little less where losses and activations bend.",
        "q = 1, 2, ∞, lr = 1", tight_sweep, Bound("gain", low=1 - 1e-9, high="most", by="problem"),
        expected="1 to 1e-9; at most 1.05 where labels disagree or outputs bend, 1.5 with far targets"),
    claim("dsgd-stationarity", 0, "dsgd to stationarity", f"{FLYNN}; the bound is derived here",
        "A point whose squared dual norm is at most g is met within (f₀ - f*) / ((lr - lr²/2) g) steps.",
        "full batch, smooth activations", stationarity_sweep,
        Bound("steps", per="bound", high=1, over="squared dual norm", by="run")),
    claim("dsgd-cross-entropy", 0, "dsgd on classes", DERIVED,
        "In batch mode the loss never rises, cross-entropy included, and keeps its guarantee.",
        "full batch, tanh network with linear outputs, q = 2; ten labels that disagree", cross_entropy_sweep,
        Bound("rise over rounding", high=1), Bound("shortfall", high=1), Bound("loss", over="step")),
    claim("newton-schulz-certificate", 0, "Newton-Schulz", "derived for the coefficients of KellerJordan/Muon",
        "Five quintic steps end below 1.21, a cubic step below 1: bounds of ||O||₂ without computing a norm.",
        "any matrix (share: square Gaussian ones)", certificate_sweep, Bound("||O|| over α", low=0.5, high=1),
        Bound("<G, O> over α ||G||", low=0.1, high=1), Bound("quintic share", low=0.45, high=0.7),
        Bound("polished share", low=0.93, high=1)),
    claim("spectral-bound", 0, "Newton-Schulz", "derived",
        "Traces of powers bound the spectral norm from above, by at most r^(1/64) times too much for matrices of rank r.",
        "any matrix, four squarings", bound_sweep, Bound("bound", per="norm", low=1, high="most", by="case"),
        expected="1 to r^(1/64), rounding included; 1 from singular values"),
    claim("newton-schulz-no-svd", 0, "Newton-Schulz", "derived",
        "With Newton-Schulz, DSGD keeps its guarantee without a singular value decomposition.",
        "q = 2, norms of weights bounded by traces of powers", no_svd_sweep, Bound("decompositions", equal=0),
        Bound("shortfall", high=1), how="count"),
)  # fmt: skip
