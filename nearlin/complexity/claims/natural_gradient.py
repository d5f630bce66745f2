"""Claims on natural gradient, with its largest step, and on mini-batches of Gauss-Newton beside block Gauss-Seidel."""

import functools
import math
from itertools import product

import numpy as np
import scipy.linalg

from nearlin.complexity.claims import data
from nearlin.complexity.claims.check import Bound, claim
from nearlin.complexity.claims.outer import GGN
from nearlin.complexity.claims.problems import SQUARED, Problem, on_sphere, train
from nearlin.nn import Objective, TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient

ZMG = "arXiv:1905.10961"
UNDAMPED = GramGaussNewton(guard=False, damping=0.0)


@functools.cache
def largest_steps(full, optimizer=NaturalGradient):  # optimizer(lr=η)
    """The largest stable η for problems with λ_min(K) from .01 to .26, wide enough to be lazy."""
    rows = []
    for d, n in product((4, 10, 32), (16, 32, 64, 128) if full else (16, 48)):
        p = on_sphere(n, d, n * (512 if d == 4 else 128), 1)
        row = {"d": d, "n": n, "m": len(p.params[0]), "λ_min(K)": float(np.linalg.eigvalsh(data.limit_kernel(p.batch[0]))[0])}
        rows.append({**row, "largest stable η": _largest_step(optimizer, p)})
    return rows


def _largest_step(optimizer, p):
    """The largest η in (0, 3) for which the residual falls in each of 8 steps, by bisection to .03."""
    low, high = 0.0, 3.0
    while high - low > 0.03:
        eta = (low + high) / 2
        falls = max(train(optimizer(lr=eta), p, 1, steps=8, reduction=1e-7).ratios) < 1
        low, high = (eta, high) if falls else (low, eta)
    return low


def natural_gradient_rates(full, optimizer=NaturalGradient):  # optimizer(lr=η)
    """||r_k||² against the bound (1-η)^k, and ratios of residuals against 1 - η."""
    p = on_sphere(64, 16, 65536 if full else 8192, 1)
    for eta in (0.1, 0.25, 0.5, 0.75):
        run = train(optimizer(lr=eta), p, 1, steps=12, reduction=1e-7)
        for k, r in enumerate(run.residuals):
            row = {"n": 64, "d": 16, "m": len(p.params[0]), "η": eta, "step": k, "loss": (r / run.residuals[0]) ** 2}
            row |= {"(1-η)^k": (1 - eta) ** k, "(1-η)^{2k}": (1 - eta) ** (2 * k)}
            yield {**row, "ratio of residuals": run.ratios[k - 1], "1 - η": 1 - eta} if k else row


def gauss_seidel(gram, r, size):
    """One sweep of block Gauss-Seidel on G g = r: r ← r - G L⁻¹ r with L the block lower triangle of G."""
    blocks = np.arange(len(r)) // size
    return r - gram @ np.linalg.solve(np.where(blocks[:, None] >= blocks[None, :], gram, 0.0), r)


def epochs_of(p, optimizer, size, epochs):
    """The problem after each of some epochs of mini-batches in their order, the optimizer's state new in every epoch."""
    x, y = p.batch
    for _ in range(epochs):
        state = optimizer.init(p.params, p.objective)
        for rows in (slice(at, at + size) for at in range(0, len(x), size)):
            params, state, _ = p._replace(batch=(x[rows], y[rows])).step(optimizer, state)
            p = p._replace(params=params)
        yield p


def _left(size, n, epoch, left, last):
    """The row of a residual; what is left at last, in columns of their own for mini-batches and the full batch."""
    row = {"b": size, "epoch": epoch, "residual": max(left, 1e-16)}
    return {**row, "left by the full batch" if size == n else "left by mini-batches": left} if epoch == last else row


def minibatch_epochs(full, sweep_once=gauss_seidel, epochs=6):
    """Residuals after every epoch of mini-batch Gauss-Newton on a linearised network, beside block Gauss-Seidel."""
    n, d, width = 128, 32, 4096 if full else 1024
    p = on_sphere(n, d, width, 1)
    gram, r = p.jacobian().gram(), p.residual()
    F = np.ascontiguousarray(scipy.linalg.cholesky(gram, lower=True))  # F Fᵀ = G: the same residuals as with J itself
    linear = Problem(Objective(TwoLayer(n, 1, "identity"), SQUARED), (np.zeros((1, n)),), (F, -r))
    for size in (1, 2, 4, 8, 16, 32, 64, n) if full else (8, 16, 32, 64, n):
        expected = r
        for epoch, at in enumerate([linear, *epochs_of(linear, UNDAMPED, size, epochs)]):
            found, expected = (at.residual(), sweep_once(gram, expected, size)) if epoch else (r, r)
            left, off = (float(np.linalg.norm(v) / np.linalg.norm(r)) for v in (found, found - expected))
            yield {"n": n, "d": d, "m": width, "distance": off, **_left(size, n, epoch, left, 1 if size == n else epochs)}


def minibatch_network(full, optimizer=UNDAMPED, epochs=6):
    """Residuals of a wide ReLU network after mini-batch epochs, and their logarithms over block Gauss-Seidel's on its first G."""
    n, width = 128, 32768 if full else 8192
    p = on_sphere(n, 32, width, 1)
    gram, r = p.jacobian().gram(), p.residual()
    for size in (4, 8, 16, 32, 64, 128) if full else (16, 64, 128):
        linear = r
        for epoch, at in enumerate(epochs_of(p, optimizer, size, epochs), start=1):
            linear = gauss_seidel(gram, linear, size)
            left, model = (float(np.linalg.norm(v) / np.linalg.norm(r)) for v in (at.residual(), linear))
            row = {"n": n, "d": 32, "m": width, **_left(size, n, epoch, left, epochs)}
            yield {**row, "logarithm": math.log(left), "model": math.log(model)} if "left by mini-batches" in row else row


MINIBATCH = (
    Bound("residual", over="epoch", by="b", log="y"), Bound("left by mini-batches", low=1e-3),
    Bound("left by the full batch", high=1e-10),
)  # fmt: skip

CLAIMS = (
    claim("natural-gradient-unit-step", 20, "natural gradient steps", ZMG,
        "Natural gradient descent takes steps of size 1, whatever the number of samples and the kernel's conditioning.",
        "wide networks, points on the sphere", largest_steps, Bound("largest stable η", low=1, over="λ_min(K)", log="x"),
        Bound("largest stable η", high=1.1, reduce="spread")),
    claim("natural-gradient-largest-step", 20, "natural gradient steps", f"{ZMG}, which proves convergence for η <= 1",
        "The largest stable step size of natural gradient descent is about 1.", "wide networks, points on the sphere",
        largest_steps, Bound("largest stable η", 0.85, 1.15, over="λ_min(K)", log="x"),
        note="in the lazy limit r₊ = (1 - η) r, so that every η < 2 is stable: the η <= 1 of the theorem suffices, no more",
        should_hold=False),
    claim("natural-gradient-rate", 21, "natural gradient rate", f"{ZMG}, convergence theorem; (1-η)^{{2k}} derived",
        "With step size η the loss falls at least like (1-η)^k, and in the lazy limit like (1-η)^{2k}.", "wide ReLU network",
        natural_gradient_rates, Bound("loss", high=1 + 1e-9, per="(1-η)^k"),
        Bound("loss", over="step", by="η", beside="(1-η)^{2k}", log="y"), Bound("ratio of residuals", 0.9, 1.1, per="1 - η")),
    claim("minibatch-gauss-seidel", 23, "mini-batches", f"derived for the mini-batch method of {GGN}",
        "In a linear model a mini-batch epoch is a sweep of block Gauss-Seidel, while the full batch needs one step.",
        "linearised network, no damping, batches in a fixed order", minibatch_epochs, Bound("distance", high=1e-8), *MINIBATCH),
    claim("minibatch-network", 23, "mini-batches on a network", f"derived for the mini-batch method of {GGN}",
        "On a wide network, too, mini-batches converge at the rate of block Gauss-Seidel, far slower than full batch.",
        "wide ReLU network, no damping, batches in a fixed order", minibatch_network, Bound("logarithm", 0.9, 1.1, per="model"),
        *MINIBATCH),
)  # fmt: skip
