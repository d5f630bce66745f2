"""Claims on duality structure gradient descent: its guarantee, its time to stationarity, and bounds by Newton-Schulz."""

import math
from itertools import pairwise, product

import numpy as np

from nearlin._array import fold_in, generator
from nearlin.complexity.claims.table import FAILS, HOLDS, Claim, Outcome, Series
from nearlin.complexity.counting import count, wrap
from nearlin.linalg import orthogonalize
from nearlin.nn import Dense, Elementwise, Objective, Sequential, SoftmaxCrossEntropy, SquaredLoss, activation
from nearlin.optim import DSGD

FLYNN = "arXiv:1708.00523"
QS, INPUTS = (1, 2, math.inf), ("data", "bound")
DEPTHS = {1: (6, 3), 2: (6, 5, 3), 3: (6, 6, 5, 3)}  # widths, inputs first


# --------------------------------------------------------------------------------------------------------------- the runs


def network(depth, phi="tanh"):
    """Dense layers with biases, each followed by the activation."""
    sizes = DEPTHS[depth]
    pairs = [(Dense(inp, out), Elementwise(activation(phi))) for inp, out in pairwise(sizes)]
    return Sequential(tuple(module for pair in pairs for module in pair))


def task(depth, key=0, samples=12):
    """An objective, parameters and a batch: squared loss of targets in [-0.8, 0.8] that the network does not fit."""
    objective, draws = Objective(network(depth), SquaredLoss()), generator(fold_in(key, depth))
    x = draws.standard_normal((samples, DEPTHS[depth][0]))
    y = draws.uniform(-0.8, 0.8, (samples, DEPTHS[depth][-1]))
    return objective, objective.network.init(fold_in(key, depth), x), (x, y)


def descend(optimizer, objective, params, batch, steps):
    """The `Info` of every step."""
    state, infos = optimizer.init(params, objective), []
    for t in range(steps):
        params, state, info = optimizer.step(params, state, objective, batch, t)
        infos.append(info)
        if not info.accepted:
            break
    return infos


def excess(info):
    """By how much the guarantee is missed, over the rounding that is allowed: 8 ε |f|."""
    return (info.guarantee - info.decrease) / (8 * np.finfo(np.float64).eps * abs(info.loss))


def guarantee(full, optimizer=DSGD, steps=None):
    """Steps that decrease the loss by less than is guaranteed, over norms, sizes of inputs and depths."""
    steps = steps or (10_000 if full else 300)
    broken, taken, worst, curves = 0, 0, math.inf, []
    for q, inputs, depth in product(QS, INPUTS, DEPTHS):
        infos = descend(optimizer(q=q, inputs=inputs, verify=True), *task(depth), steps)
        broken += sum(excess(info) > 1 for info in infos)
        taken += len(infos)
        worst = min(worst, *(info.decrease / info.guarantee for info in infos[:20]))
        if inputs == "data" and depth == 3:
            curves.append(_curve(f"q = {q}", infos))
    detail = f"tanh networks of {len(DEPTHS)} depths, {steps} steps each; early on at least {worst:.4g} times the guarantee"
    return Outcome(f"{broken} violations in {taken} steps", FAILS if broken else HOLDS, detail, tuple(curves))


def _curve(label, infos):
    """Decrease since the start, and the sum of guarantees, at logarithmically spaced steps."""
    at = sorted({round(len(infos) ** (k / 12)) for k in range(13)})
    fallen = np.cumsum([info.decrease for info in infos])
    certain = np.cumsum([info.guarantee for info in infos])
    values = [tuple(float(sums[t - 1]) for t in at) for sums in (fallen, certain)]
    return Series(label, tuple(at), values[0], values[1], "step", "decrease of the loss (dashed: guaranteed)")


def stationarity(full, optimizer=DSGD, share=1.0):
    """The first step at which the gradient's squared dual norm is at most g, against (f₀ - f*) / ((lr - lr²/2) g)."""
    late, shares, curves = [], [], []
    for lr, q in product((0.5, 1.0), QS):
        infos = descend(optimizer(q=q, lr=lr), *task(2), 5_000 if full else 150)
        squares = np.array([info.guarantee / (lr - lr**2 / 2) for info in infos])  # ||df||² in the norm at the weights
        levels = squares[0] * 2.0 ** -np.arange(1, 40)
        levels = levels[levels >= squares.min()]
        times = np.array([int(np.argmax(squares <= g)) for g in levels])
        bounds = np.ceil(share * infos[0].loss / (levels * (lr - lr**2 / 2)))  # f* >= 0
        late += [f"q = {q}, lr = {lr}: {t} steps, bound {b:.0f}" for t, b in zip(times, bounds, strict=True) if t > b]
        shares += list(times / bounds)
        if lr == 1.0:
            curves.append(_times(f"q = {q}", levels, times, bounds))
    value = f"at most {max(shares, default=0):.2g} of the bound" if not late else f"{len(late)} times later than the bound"
    detail = f"{len(shares)} levels of q = 1, 2, ∞ and lr = 0.5, 1; f* replaced by 0"
    if not shares:
        return Outcome("no level was reached", FAILS, detail)
    return Outcome(value, FAILS if late else HOLDS, "; ".join([*late[:3], detail]), tuple(curves))


def _times(label, levels, times, bounds):
    x, y, predicted = (tuple(map(float, values)) for values in (levels, np.maximum(times, 1), bounds))
    return Series(label, x, y, predicted, "squared dual norm of the gradient", "steps (dashed: bound)")


# ------------------------------------------------------------------------------------------------------------ Newton-Schulz


def matrices(n, key=0):
    """Gaussian matrices, tall, wide and square; condition 1e6; rank one; two clusters of singular values."""
    draw = generator(key).standard_normal
    spectrum = lambda s: np.linalg.qr(draw((n, n)))[0] * s @ np.linalg.qr(draw((n, n)))[0]  # noqa: E731
    return {
        "square": draw((n, n)),
        "tall": draw((n, n // 4)),
        "wide": draw((n // 4, n)),
        "condition 1e6": spectrum(np.geomspace(1, 1e-6, n)),
        "rank one": np.outer(draw(n), draw(n)),
        "clusters": spectrum(np.where(np.arange(n) < n // 2, 1.0, 0.01)),
    }


def certificate(full, make=orthogonalize):
    """α >= ||O||₂ and <G, O> / α <= ||G||_* for O from Newton-Schulz steps, in both dtypes."""
    broken, numbers, n = [], 0, 256 if full else 64
    efficiency = {}
    for dtype, (name, G), (steps, polish) in product((np.float32, np.float64), matrices(n).items(), ((5, 0), (5, 2), (8, 0))):
        O, alignment, bound = make(G.astype(dtype), steps, polish)
        values = np.linalg.svd(G.astype(dtype).astype(np.float64), compute_uv=False)
        size, dual = np.linalg.norm(O.astype(np.float64), 2), values.sum()
        numbers += 1
        if size > bound or alignment / bound > dual * (1 + n * np.finfo(dtype).eps):
            broken.append(f"{name}: ||O|| {size:.6g}, α {bound:.6g}, <G, O>/α {alignment / bound:.6g}, ||G||_* {dual:.6g}")
        if name == "square" and dtype == np.float64:
            efficiency[steps, polish] = (alignment / dual) ** 2 / size**2, (alignment / dual) ** 2 / bound**2
    shares = {"quintic": efficiency[5, 0][0], "polished": efficiency[5, 2][1]}
    poor = not 0.45 <= shares["quintic"] <= 0.7 or not shares["polished"] >= 0.93
    value = f"{len(broken)} of {numbers} bounds broken; efficiency {shares['quintic']:.2f}, polished {shares['polished']:.2f}"
    series = Series("efficiency", (0.0, 2.0), tuple(shares.values()), None, "cubic steps", "share of the exact guarantee", "")
    return Outcome(
        value, FAILS if broken or poor else HOLDS, "; ".join([*broken[:2], f"{n} x {n} and quarters of it"]), (series,)
    )


def no_svd(full, orth="newton_schulz"):
    """Calls of singular value and eigenvalue decompositions in steps with Newton-Schulz, whose guarantee is checked."""
    objective, params, batch = task(3)
    with count() as tally:
        infos = descend(DSGD(orth=orth, verify=True), objective, wrap(params), wrap(batch), 50)
    calls = sum(tally.calls[name] for name in ("svd", "svdvals", "eigh", "eigvalsh"))
    broken = sum(excess(info) > 1 for info in infos)
    products = tally.calls["matmul"] / len(infos)
    series = Series("loss", tuple(range(1, 51)), tuple(i.loss for i in infos), None, "step", "loss", "")
    value = f"{calls} decompositions, {broken} violations in {len(infos)} steps"
    return Outcome(
        value, FAILS if calls or broken else HOLDS, f"three tanh layers, {products:.0f} matrix products a step", (series,)
    )


def cross_entropy_descends(full, optimizer=DSGD, q=2, steps=None):
    """Whether the loss of a linear-output tanh network on drawn classes ever rises."""
    steps = steps or (2_000 if full else 100)
    draws = generator(fold_in(5, int(min(q, 9))))
    x = draws.standard_normal((40, 8))
    labels = np.argmax(x[:, :3] + 0.5 * draws.standard_normal((40, 3)), axis=1)
    phi = Elementwise(activation("tanh"))
    objective = Objective(Sequential((Dense(8, 10), phi, Dense(10, 3))), SoftmaxCrossEntropy())
    infos = descend(optimizer(q=q, verify=True), objective, objective.network.init(3, x), (x, labels), steps)
    rises = sum(info.decrease < -8 * np.finfo(np.float64).eps * info.loss for info in infos)
    chosen = sum(info.layer == 0 for info in infos)
    series = Series("loss", tuple(range(1, len(infos) + 1)), tuple(i.loss for i in infos), None, "step", "loss")
    detail = f"loss {infos[0].loss:.4g} to {infos[-1].new_loss:.4g}; the lower layer is changed in {chosen} steps"
    return Outcome(f"{rises} rises in {len(infos)} steps", FAILS if rises else HOLDS, detail, (series,))


CLAIMS = (
    Claim(
        id="dsgd-guarantee",
        number=0,
        family="dsgd",
        paper=f"{FLYNN} (the constants are derived here)",
        statement="Every full-batch step decreases the loss by at least half the squared dual norm of the gradient.",
        quantity="steps that decrease it by less, beyond rounding (8 ε |f|)",
        how="convergence",
        expected="0, for q = 1, 2, ∞, input sizes from data and from bounds, three depths",
        condition="full batch, smooth activations, lr = 1",
        measure=guarantee,
    ),
    Claim(
        id="dsgd-stationarity",
        number=0,
        family="dsgd",
        paper=f"{FLYNN} (the bound is derived here)",
        statement="A point whose squared dual norm is at most g is met within (f₀ - f*) / ((lr - lr²/2) g) steps.",
        quantity="first such step over the bound",
        how="convergence",
        expected="at most 1 at every level g",
        condition="full batch, smooth activations",
        measure=stationarity,
    ),
    Claim(
        id="dsgd-cross-entropy",
        number=0,
        family="dsgd on classes",
        paper=f"{FLYNN} (the constants are derived here)",
        statement="In batch mode the loss never rises, cross-entropy included.",
        quantity="steps in which it rises beyond rounding",
        how="convergence",
        expected="0",
        condition="full batch, tanh network with linear outputs, q = 2",
        measure=cross_entropy_descends,
    ),
    Claim(
        id="newton-schulz-certificate",
        number=0,
        family="Newton-Schulz",
        paper="derived for the coefficients of KellerJordan/Muon",
        statement="Five quintic steps end below 1.21, a cubic step below 1: bounds of ||O||₂ without computing a norm.",
        quantity="bounds broken; share of the exact step's guarantee that the orthogonalised one keeps",
        how="convergence",
        expected="0 broken, rounding included; .45 to .7 after quintic steps (measured norm), .93 or more after two cubic ones",
        condition="any matrix (efficiency: square Gaussian ones)",
        measure=certificate,
    ),
    Claim(
        id="newton-schulz-no-svd",
        number=0,
        family="Newton-Schulz",
        paper="derived",
        statement="With Newton-Schulz, DSGD keeps its guarantee without a singular value decomposition.",
        quantity="decompositions called, and violations",
        how="count",
        expected="0 and 0",
        condition="q = 2, norms of weights bounded by traces of powers",
        measure=no_svd,
    ),
)
