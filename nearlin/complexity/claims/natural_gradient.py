"""Claims on natural gradient, with its largest step, and on mini-batches of Gauss-Newton beside block Gauss-Seidel."""

import functools
import math

import numpy as np
import scipy.linalg

from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.outer import GGN, problem
from nearlin.complexity.claims.trajectory import train
from nearlin.nn import Objective, SquaredLoss, TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient

ZMG = "arXiv:1905.10961"

# ----------------------------------------------------------------------------------------------------- natural gradient


def natural_gradient_problems(full):
    """(d, n, x, y, width) with λ_min(K) from .01 to .26, wide enough to be lazy."""
    grid = [(d, n) for d in (4, 10, 32) for n in ((16, 32, 64, 128) if full else (16, 48))]
    return [(d, n, *problem(n, d, 1), n * (512 if d == 4 else 128)) for d, n in grid]


@functools.cache
def largest_steps(full, optimizer=NaturalGradient):
    """The largest stable η per problem; ``optimizer(lr=η)``."""
    return [
        {"d": d, "n": n, "m": width, "λ_min(K)": float(np.linalg.eigvalsh(data.limit_kernel(x))[0]),
         "largest stable η": _largest_step(optimizer, x, y, width)}
        for d, n, x, y, width in natural_gradient_problems(full)
    ]  # fmt: skip


def _largest_step(optimizer, x, y, width):
    """The largest η in (0, 3) for which the residual falls in each of 8 steps, by bisection to .03."""
    low, high = 0.0, 3.0
    while high - low > 0.03:
        eta = (low + high) / 2
        falls = max(train(optimizer(lr=eta), x, y, width, 1, steps=8, reduction=1e-7).ratios) < 1
        low, high = (eta, high) if falls else (low, eta)
    return low


def natural_gradient_rates(full, optimizer=NaturalGradient):
    """||r_k||² against the bound (1-η)^k, and ratios of residuals against 1 - η; ``optimizer(lr=η)``."""
    width = 65536 if full else 8192
    for eta in (0.1, 0.25, 0.5, 0.75):
        run = train(optimizer(lr=eta), *problem(64, 16, 1), width, 1, steps=12, reduction=1e-7)
        for k, r in enumerate(run.residuals):
            row = {"n": 64, "d": 16, "m": width, "η": eta, "step": k, "loss": (r / run.residuals[0]) ** 2}
            row |= {"(1-η)^k": (1 - eta) ** k, "(1-η)^{2k}": (1 - eta) ** (2 * k)}
            yield {**row, "ratio of residuals": run.ratios[k - 1], "1 - η": 1 - eta} if k else row


# --------------------------------------------------------------------------------------------------------- mini-batches


def gauss_seidel(gram, r, size):
    """One sweep of block Gauss-Seidel on G g = r: r ← r - G L⁻¹ r with L the block lower triangle of G."""
    blocks = np.arange(len(r)) // size
    return r - gram @ np.linalg.solve(np.where(blocks[:, None] >= blocks[None, :], gram, 0.0), r)


def minibatch_epochs(full, sweep_once=gauss_seidel, epochs=6):
    """Residuals after every epoch of mini-batch Gauss-Newton on a linearised network, beside block Gauss-Seidel."""
    n, d, width = 128, 32, 4096 if full else 1024
    x, y = problem(n, d, 1)
    network = TwoLayer(d, width)
    point = Objective(network, SquaredLoss()).at(network.init(1, x), (x, y))
    gram, r = point.jacobian().gram(), point.residual
    for size in (1, 2, 4, 8, 16, 32, 64, n) if full else (8, 16, 32, 64, n):
        expected = r
        for epoch, found in enumerate(_linearised_epochs(gram, r, size, epochs)):
            expected = sweep_once(gram, expected, size) if epoch else r
            left, off = (float(np.linalg.norm(v) / np.linalg.norm(r)) for v in (found, found - expected))
            yield {"n": n, "d": d, "m": width, "distance": off, **_left(size, n, epoch, left, 1 if size == n else epochs)}


def _left(size, n, epoch, left, last):
    """The row of a residual; what is left at last, in columns of their own for mini-batches and the full batch."""
    row = {"b": size, "epoch": epoch, "residual": max(left, 1e-16)}
    return {**row, "left by the full batch" if size == n else "left by mini-batches": left} if epoch == last else row


MINIBATCH = (
    Bound("residual", over="epoch", by="b", log="y"),
    Bound("left by mini-batches", low=1e-3),
    Bound("left by the full batch", high=1e-10),
)  # fmt: skip


def minibatch_network(full, optimizer=GramGaussNewton(guard=False, damping=0.0), epochs=6):  # noqa: B008 (frozen)
    """Residuals of a wide ReLU network after mini-batch epochs, and their logarithms over block Gauss-Seidel's on its first G."""
    n, width = 128, 32768 if full else 8192
    x, y = problem(n, 32, 1)
    objective = Objective(TwoLayer(32, width), SquaredLoss())
    start = objective.network.init(1, x)
    point = objective.at(start, (x, y))
    gram, first = point.jacobian().gram(), np.linalg.norm(point.residual)
    for size in (4, 8, 16, 32, 64, 128) if full else (16, 64, 128):
        params, linear = start, point.residual
        for epoch in range(1, epochs + 1):
            for rows in (slice(at, at + size) for at in range(0, n, size)):
                params, _, _ = optimizer.step(params, optimizer.init(params, objective), objective, (x[rows], y[rows]))
            linear = gauss_seidel(gram, linear, size)
            left, model = (float(np.linalg.norm(v) / first) for v in (objective.at(params, (x, y)).residual, linear))
            row = {"n": n, "d": 32, "m": width, **_left(size, n, epoch, left, epochs)}
            yield {**row, "logarithm": math.log(left), "model": math.log(model)} if "left by mini-batches" in row else row


def _linearised_epochs(gram, r, size, epochs):
    """Residuals per epoch of undamped `GramGaussNewton` mini-batch steps on a linear model with the Gram matrix ``gram``."""
    features = np.ascontiguousarray(scipy.linalg.cholesky(gram, lower=True))  # F Fᵀ = G: the same residuals as with J itself
    objective, optimizer = Objective(TwoLayer(len(r), 1, "identity"), SquaredLoss()), GramGaussNewton(guard=False, damping=0.0)
    params, residuals = (np.zeros((1, len(r))),), [r]
    for _ in range(epochs):
        state = optimizer.init(params, objective)
        for start in range(0, len(r), size):
            rows = slice(start, start + size)
            params, state, _ = optimizer.step(params, state, objective, (features[rows], -r[rows]))
        residuals.append(objective.at(params, (features, -r)).residual)
    return residuals


# ------------------------------------------------------------------------------------------------------------ the table

STEP = "largest step size for which the residual falls in every step"

CLAIMS = (
    claim(
        "natural-gradient-unit-step", 20, "natural gradient steps", ZMG,
        "Natural gradient descent takes steps of size 1, whatever the number of samples and the kernel's conditioning.", STEP,
        "at least 1, and the same within 10 % for all n and λ", "wide networks, points on the sphere", largest_steps,
        Bound("largest stable η", low=1, over="λ_min(K)", log="x"), Bound("largest stable η", high=1.1, reduce="spread"),
    ),
    claim(
        "natural-gradient-largest-step", 20, "natural gradient steps", f"{ZMG}, which proves convergence for η <= 1",
        "The largest stable step size of natural gradient descent is about 1.", STEP, "1 ± .15",
        "wide networks, points on the sphere", largest_steps, Bound("largest stable η", 0.85, 1.15, over="λ_min(K)", log="x"),
        note="in the lazy limit r₊ = (1 - η) r, so that every η < 2 is stable: the η <= 1 of the theorem suffices, no more",
        should_hold=False,
    ),
    claim(
        "natural-gradient-rate", 21, "natural gradient rate", f"{ZMG}, convergence theorem; (1-η)^{{2k}} derived",
        "With step size η the loss falls at least like (1-η)^k, and in the lazy limit like (1-η)^{2k}.",
        "loss after k steps against both; ratios of residuals against 1 - η",
        "bound never broken; ratios equal to 1 - η within 10 %", "wide ReLU network", natural_gradient_rates,
        Bound("loss", high=1 + 1e-9, per="(1-η)^k"), Bound("loss", over="step", by="η", beside="(1-η)^{2k}", log="y"),
        Bound("ratio of residuals", 0.9, 1.1, per="1 - η"),
    ),
    claim(
        "minibatch-gauss-seidel", 23, "mini-batches", f"derived for the mini-batch method of {GGN}",
        "In a linear model a mini-batch epoch is a sweep of block Gauss-Seidel, while the full batch needs one step.",
        "residual after each epoch beside block Gauss-Seidel; after 6 epochs, and after 1 step at b = n",
        "equal to 1e-8; 1e-3 or more left after 6 epochs for b < n; 1e-10 at most after 1 step for b = n",
        "linearised network, no damping, batches in a fixed order", minibatch_epochs, Bound("distance", high=1e-8), *MINIBATCH,
    ),
    claim(
        "minibatch-network", 23, "mini-batches on a network", f"derived for the mini-batch method of {GGN}",
        "On a wide network, too, mini-batches converge at the rate of block Gauss-Seidel, far slower than full batch.",
        "residual after 6 epochs; logarithm of it over that of block Gauss-Seidel on the first Gram matrix",
        "1 ± .1; 1e-3 or more left for b < n, 1e-10 at most for b = n", "wide ReLU network, no damping, batches in a fixed order",
        minibatch_network, Bound("logarithm", 0.9, 1.1, per="model"), *MINIBATCH,
    ),
)  # fmt: skip
