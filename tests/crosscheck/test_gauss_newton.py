"""Gauss-Newton steps against dense solves: every plan, every sketch, the baselines, on awkward networks."""

import math

import numpy as np
import pytest

from nearlin import nn, optim, sketch
from tests.crosscheck.networks import LINEAR, LOSSES, NETWORKS, Case, cases, error, output_hessians

PLANS = (
    "auto", "exact", "sketch", "class-averaged", "per-class", "frozen", "nystrom", "cg", "kfac", "diagonal", "parameter-cg",
)  # fmt: skip


def flat(params):
    return np.concatenate([W.ravel() for W in params])


def moved(new, old):
    return flat(new) - flat(old)


def gradient_of_outputs(loss, f, y):
    """dl/df, (n, c), of the losses of the samples."""
    if loss == "squared":
        return f - y
    p = np.exp(f - f.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True) if loss == "softmax" else 1 / (1 + np.exp(-f))) - y


def _distinct(name, loss, plan, l2):
    """With one output a softmax is constant, and the routes by classes are the exact one."""
    return name not in LINEAR or not (loss == "softmax" or plan in ("class-averaged", "per-class"))


@pytest.mark.parametrize(("name", "loss", "plan", "l2"), cases(NETWORKS, LOSSES, PLANS, (0.0, 0.1), every=9, where=_distinct))
def test_gauss_newton(name, loss, plan, l2):
    case, damping = Case(name, loss, l2=l2), 0.03
    opt = optim.GaussNewton(epsilon=1e-10, maxiter=3000, damping=damping, guard=False, plan=plan)
    new, _, info = opt.step(case.params, opt.init(case.params, case.objective), case.objective, case.batch, key=1)
    J, f = case.jacobian(case.params)
    c = f.shape[1]
    curvature = (
        sum(J[i * c : (i + 1) * c].T @ H @ J[i * c : (i + 1) * c] for i, H in enumerate(output_hessians(loss, f))) / case.n
    )
    gradient = J.T @ gradient_of_outputs(loss, f, case.y).ravel() / case.n + l2 * flat(case.weights(case.params))
    D = flat(case.weights([np.ones_like(W) for W in case.params])) if info.side == "parameter" else 1.0
    want = -np.linalg.solve(curvature + np.diag(damping + l2 * D * np.ones_like(gradient)), gradient)
    assert error(moved(new, case.params), want) <= 1e-6
    assert info.accepted
    assert info.damping == pytest.approx(damping)


@pytest.mark.parametrize(
    ("method", "options", "damping", "scale"),
    [
        (optim.GramGaussNewton, {"damping": 0.05, "guard": False, "gram_weight": 0.7}, 0.05 / 0.7, 1 / 0.7),
        (optim.NaturalGradient, {"damping": 0.05, "lr": 1.0}, 0.05, 1.0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("name", ["plain", "one sample", "one output", "dense", "dense 1-1-1", "wide output"])
def test_baselines(name, method, options, damping, scale):
    case, opt = Case(name), method(**options)
    new, _, info = opt.step(case.params, opt.init(case.params, case.objective), case.objective, case.batch, key=0)
    J, f = case.jacobian(case.params)
    r = (f - case.y).ravel()
    assert error(moved(new, case.params), -scale * J.T @ np.linalg.solve(J @ J.T + damping * np.eye(len(r)), r)) <= 1e-9
    assert info.accepted


def dense_two_layer(x, W, activation):
    """f (n,) and J (n, m d) neuron by neuron."""
    phi, slope = {
        "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
        "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
        "softplus": (lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
    }[activation]
    m = len(W)
    f, J = np.zeros(len(x)), []
    for r, w in enumerate(W):
        a, z = (-1.0) ** r / math.sqrt(m), x @ w
        f += a * phi(z)
        J.append((a * slope(z))[:, None] * x)
    return f, np.concatenate(J, axis=1)


SIZES = ((1, 1, 1), (1, 7, 3), (5, 1, 2), (6, 9, 1), (6, 33, 3), (7, 64, 5), (12, 3, 2))
SKETCHES = {
    "neurons": (sketch.NeuronSigns(), None),
    "neurons 4": (sketch.NeuronSigns(), 4),
    "Kronecker 4": (sketch.KroneckerSRHT(), 4),
    "Kronecker, oversample 1": (sketch.KroneckerSRHT(oversample=1), 6),
}


@pytest.mark.parametrize(
    ("size", "activation", "damping", "name", "inner"),
    cases(
        SIZES, ("relu", "tanh", "softplus"), (1e-3, 0.5), SKETCHES, ("cg", "chebyshev", "richardson"),
        every=4, where=lambda size, activation, damping, name, inner: inner == "cg" or name == "neurons 4",
    ),
)  # fmt: skip
def test_near_linear_on_two_layers(size, activation, damping, name, inner):
    n, m, d = size
    draw = np.random.default_rng(n + m)
    x, y = draw.standard_normal((n, d)), draw.standard_normal((n, 1))
    objective = nn.Objective(nn.TwoLayer(d, m, activation), nn.SquaredLoss())
    params = objective.network.init(1, x)
    f, J = dense_two_layer(x, params[0], activation)
    point = objective.at(params, (x, y))
    assert error(point.outputs[:, 0], f) <= 1e-12
    assert error(point.jacobian(weighted=True).to_dense(), J) <= 1e-12
    kind, rows = SKETCHES[name]
    opt = optim.NearLinearGaussNewton(
        epsilon=1e-9, damping=damping, guard=False, sketch=kind, sketch_size=rows, inner=inner, maxiter=2000
    )
    new, _, info = opt.step(params, opt.init(params, objective), objective, (x, y), key=3)
    system, r = J @ J.T + damping * np.eye(n), f - y[:, 0]
    assert error(moved(new, params), -J.T @ np.linalg.solve(system, r)) <= 1e-8 * max(1, np.linalg.cond(system))
    assert info.solve.residual <= 1.001e-9


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    cases(
        ("dense", "dense 1-1-1", "one input", "wide output"),
        (
            sketch.NeuronSigns(),
            sketch.KroneckerSRHT(),
            sketch.SRHT(),
            sketch.Gaussian(),
            sketch.SparseSign(),
            sketch.CountSketch(),
        ),
        (4, 8),
    ),
)
def test_near_linear_on_perceptrons(name, kind, rows):
    case = Case(name)
    opt = optim.NearLinearGaussNewton(epsilon=1e-9, damping=0.05, guard=False, sketch=kind, sketch_size=rows, maxiter=1000)
    new, _, info = opt.step(case.params, opt.init(case.params, case.objective), case.objective, case.batch, key=1)
    J, f = case.jacobian(case.params)
    r = (f - case.y).ravel()
    assert error(moved(new, case.params), -J.T @ np.linalg.solve(J @ J.T + 0.05 * np.eye(len(r)), r)) <= 1e-5
    assert info.accepted


@pytest.mark.parametrize("size", SIZES)
def test_a_wrong_damping_is_seen(size):
    """A control: the dense step moves with the damping by more than the tolerance."""
    n, m, d = size
    draw = np.random.default_rng(0)
    x, r = draw.standard_normal((n, d)), draw.standard_normal(n)
    _, J = dense_two_layer(x, draw.standard_normal((m, d)), "tanh")
    one, two = (J.T @ np.linalg.solve(J @ J.T + damping * np.eye(n), r) for damping in (0.5, 0.501))
    assert error(one, two) > 1e-6
