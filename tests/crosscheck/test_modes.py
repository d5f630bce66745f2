"""Shampoo, TNT and Muon against dense NumPy on awkward networks."""

import numpy as np
import pytest

from nearlin import optim
from tests.crosscheck.networks import NETWORKS, Case, Conv, cases, worst
from tests.optim.replay import Replay


def variables(M, layer, reshape):
    """What of a layer's matrix is a tensor of its own: the kernel or the weights, and the bias."""
    W = M[:, :-1] if layer.bias else M
    if isinstance(layer, Conv) and reshape == "filter":
        W = W.reshape(layer.out, layer.inp, layer.kernel**2)
    return [W, M[:, -1]] if layer.bias else [W]


def matrix(parts):
    """The way back."""
    W = parts[0].reshape(len(parts[0]), -1)
    return np.concatenate([W, parts[1][:, None]], axis=1) if len(parts) > 1 else W


def contraction(T, j):
    """T with itself over all modes but the j-th."""
    rows = np.moveaxis(T, j, 0).reshape(T.shape[j], -1)
    return rows @ rows.T


def along(T, matrices):
    """T times one matrix a mode."""
    for j, X in enumerate(matrices):
        T = np.moveaxis(np.tensordot(X, T, (1, j)), 0, j)
    return T


def power(H, exponent, damping):
    """(H + damping I)^exponent."""
    values, U = np.linalg.eigh(H)
    return (U * (np.maximum(values, 0) + damping) ** exponent) @ U.T


SCHEDULES = ((1, 1, True), (2, 3, True), (2, 5, False))


def shampoo_or_tnt(case, method, steps, reshape, schedule, accumulate="average", lr=0.01, damping=0.1):
    every, inverses, early = schedule
    params, v, H, X, count, labels = [W.copy() for W in case.params], [0.0] * len(case.params), {}, {}, 0, iter(case.drawn)
    for t in range(steps):
        G = case.reference(params).G
        v = [0.9 * a + g for a, g in zip(v, G, strict=True)]
        if t % every == 0:
            seen = G if method == "shampoo" else case.reference(params, next(labels)).G
            new, old = {"average": (w := max(0.1, 1 / (count + 1)), 1 - w), "sum": (1.0, 1.0)}[accumulate]
            count += 1
            for place, T in _tensors(case, seen, reshape):
                for j in range(T.ndim):
                    H[*place, j] = new * contraction(T, j) + old * H.get((*place, j), 0)
        if t % (every if early and t < inverses else inverses) == 0:
            for place, T in _tensors(case, G, reshape):
                X[place] = [_shampoo(H[*place, j], T, damping) for j in range(T.ndim)]
                X[place] = X[place] if method == "shampoo" else _tnt([H[*place, j] for j in range(T.ndim)], T, damping)
        params = _moved(case, params, v, reshape, lr, lambda place, T: along(T, X[place]))
    return params


def _shampoo(H, T, damping):
    return power(H, -1 / (2 * T.ndim), damping)


def _tnt(Hs, T, damping):
    trace, K = np.trace(Hs[0]), T.ndim
    mean = (trace / T.size) ** (1 / K)
    return [np.linalg.inv(H / (mean ** (K - 1) * T.size / len(H)) + damping * np.eye(len(H))) for H in Hs]


def _tensors(case, Gs, reshape):
    return [
        ((k, part), T)
        for k, (layer, G) in enumerate(zip(case.layers, Gs, strict=True))
        for part, T in enumerate(variables(G, layer, reshape))
    ]


def _moved(case, params, v, reshape, lr, direction):
    steps = dict(_tensors(case, v, reshape))
    steps = {place: direction(place, T) for place, T in steps.items()}
    parts = [[steps[place] for place in steps if place[0] == k] for k in range(len(params))]
    return [W - lr * matrix(part) for W, part in zip(params, parts, strict=True)]


def _loss(name):
    return "softmax" if name in ("plain", "no bias") else "squared"


@pytest.mark.parametrize(
    ("name", "reshape", "schedule", "accumulate", "root"),
    cases(NETWORKS, ("filter", "matrix"), SCHEDULES, ("average", "sum"), ("eigh", "newton"), every=8),
)
def test_shampoo(name, reshape, schedule, accumulate, root):
    case = Case(name, _loss(name))
    every, inverses, early = schedule
    opt = optim.Shampoo(
        lr=0.01, damping=0.1, reshape=reshape, statistics_every=every, inverse_every=inverses, early=early, accumulate=accumulate,
        root=root,
    )  # fmt: skip
    want = shampoo_or_tnt(case, "shampoo", 6, reshape, schedule, accumulate)
    assert worst(case.run(opt, 6)[0], want) <= (1e-8 if root == "eigh" else 2e-6)


@pytest.mark.parametrize(("name", "reshape", "schedule"), cases(NETWORKS, ("filter", "matrix"), SCHEDULES, every=3))
def test_tnt(name, reshape, schedule):
    case = Case(name, _loss(name))
    every, inverses, early = schedule
    opt = optim.TNT(lr=0.01, damping=0.1, reshape=reshape, statistics_every=every, inverse_every=inverses, early=early)
    params, _ = case.run(opt, 6, Replay(case.objective, case.drawn))
    assert worst(params, shampoo_or_tnt(case, "tnt", 6, reshape, schedule)) <= 1e-8


def muon(case, steps, scale, nesterov, head, polish, betas, epsilon, lr=0.01):
    params, v, M, V = [W.copy() for W in case.params], {}, {}, {}
    for t in range(1, steps + 1):
        G = case.reference(params).G

        def direction(place, g, t=t):
            if g.ndim == 2 and (head or place[0] < len(case.params) - 1):
                v[place] = 0.95 * v.get(place, 0) + g
                rows, columns = g.shape
                size = {"rms": 0.2 * max(g.shape) ** 0.5, "shape": max(1, rows / columns) ** 0.5, "none": 1}[scale]
                return size * _newton_schulz(g + 0.95 * v[place] if nesterov else v[place], polish)
            M[place] = betas[0] * M.get(place, 0) + (1 - betas[0]) * g
            V[place] = betas[1] * V.get(place, 0) + (1 - betas[1]) * g * g
            return 0.5 * (M[place] / (1 - betas[0] ** t)) / (np.sqrt(V[place] / (1 - betas[1] ** t)) + epsilon)

        decayed = [(1 - 0.1 * lr) * W for W in params]
        params = _moved(case, decayed, G, "matrix", lr, direction)
    return params


def _newton_schulz(U, polish):
    X = (U.T if len(U) > U.shape[1] else U) / np.linalg.norm(U)
    if len(X) > 1:
        for _ in range(5):
            A = X @ X.T
            X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
        for _ in range(polish):
            X = 1.5 * X - 0.5 * X @ X.T @ X
    return X.T if len(U) > U.shape[1] else X


@pytest.mark.parametrize(
    ("name", "scale", "nesterov", "head", "polish"),
    cases(NETWORKS, ("rms", "shape", "none"), (True, False), (True, False), (0, 3), every=8),
)
def test_muon(name, scale, nesterov, head, polish):
    case = Case(name)
    opt = optim.Muon(lr=0.01, scale=scale, nesterov=nesterov, head=head, polish=polish, weight_decay=0.1, adam_scale=0.5)
    want = muon(case, 4, scale, nesterov, head, polish, opt.betas, opt.epsilon_hat)
    assert worst(case.run(opt, 4)[0], want) <= 1e-7


def test_the_references_are_not_each_other():
    """A control: another schedule and another shape give another path."""
    case = Case("plain")
    base = shampoo_or_tnt(case, "shampoo", 6, "filter", (1, 1, True))
    others = [
        shampoo_or_tnt(case, "shampoo", 6, "filter", (2, 3, True)),
        shampoo_or_tnt(case, "shampoo", 6, "matrix", (1, 1, True)),
    ]
    assert all(worst(other, base) > 1e-5 for other in others)
