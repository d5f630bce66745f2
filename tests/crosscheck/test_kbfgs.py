"""K-BFGS and K-BFGS(L) against dense NumPy on awkward networks, their inverses included."""

import math

import numpy as np
import pytest

from nearlin import optim
from tests.crosscheck.networks import LINEAR, NETWORKS, Case, cases, error, worst


def updated(H, s, y):
    """The inverse BFGS update of H, which maps y to s afterwards."""
    E = np.eye(len(s)) - np.outer(s, y) / (s @ y)
    return E @ H @ E.T + np.outer(s, s) / (s @ y)


def damped(H, s, y, mu):
    """Double damping: Powell's on H, then towards (1 / mu) I; mu = sqrt(damping)."""
    Hy = H @ y
    if s @ y <= 0.2 * (yHy := y @ Hy):
        share = 0.8 * yHy / (yHy - s @ y)
        s = share * s + (1 - share) * Hy
    if s @ y <= mu * (s @ s):
        share = (1 - mu) * (s @ s) / (s @ s - s @ y)
        y = share * y + (1 - share) * s
    return s, y


def mean(rows):
    return rows.reshape(-1, rows.shape[-1]).mean(0)


def kbfgs(case, steps, lr, damping, pair_decay, memory=None, l2=1e-3):
    params, L, mu = [W.copy() for W in case.params], len(case.params), math.sqrt(damping)
    v, A, Ha, Hg = [0.0] * L, [0.0] * L, [None] * L, [np.eye(len(W)) for W in params]
    s, y, pairs = [0.0] * L, [0.0] * L, [[] for _ in params]
    for t in range(steps):
        one = case.reference(params)
        v = [0.9 * a + 0.1 * (G + l2 * W) for a, G, W in zip(v, one.G, case.weights(params), strict=True)]
        for k, a in enumerate(one.a):
            new = max(0.1, 1 / (t + 1))
            A[k] = new * np.einsum("nti,ntj->ij", a, a) / case.n + (1 - new) * A[k]
            Ha[k] = np.linalg.inv(A[k] + mu * np.eye(len(A[k]))) if t == 0 else Ha[k]
        params = [W - lr * Hg[k] @ v[k] @ Ha[k] for k, W in enumerate(params)]
        two = case.reference(params)
        for k in range(L):
            s[k] = pair_decay * s[k] + (1 - pair_decay) * (mean(two.z[k]) - mean(one.z[k]))
            y[k] = pair_decay * y[k] + (1 - pair_decay) * (mean(two.g[k]) - mean(one.g[k]))
            S, Y = damped(Hg[k], s[k], y[k], mu)
            if 1e-4 * (S @ S) * np.linalg.norm(mean(one.g[k])) < S @ Y:
                pairs[k] = [*pairs[k], (S, Y)][-(memory or 1) :]
                start = np.eye(len(S)) if memory else Hg[k]
                for pair in pairs[k]:
                    start = updated(start, *pair)
                Hg[k] = start
            inputs = mean(one.a[k])
            S = Ha[k] @ inputs
            Ha[k] = updated(Ha[k], S, (A[k] + mu * np.eye(len(S))) @ S)
    return params, Hg, Ha


SETTINGS = ((0.3, 0.3, 0.9), (0.5, 0.01, 0.9), (0.2, 0.05, 0.0))


@pytest.mark.parametrize(
    ("name", "loss", "settings", "memory"),
    cases(
        NETWORKS, ("squared", "softmax"), SETTINGS, (None, 2),
        every=6, where=lambda name, loss, *_: not (loss == "softmax" and name in LINEAR),
    ),
)  # fmt: skip
def test_kbfgs(name, loss, settings, memory):
    case, (lr, damping, pair_decay) = Case(name, loss, l2=1e-3), settings
    options = {"lr": lr, "damping": damping, "pair_decay": pair_decay}
    opt = optim.KBFGSL(**options, memory=memory) if memory else optim.KBFGS(**options)
    params, state = case.run(opt, 6)
    want, Hg, Ha = kbfgs(case, 6, lr, damping, pair_decay, memory)
    assert worst(params, want) <= 1e-7
    assert max(error(f.Ha, H) for f, H in zip(state.layers, Ha, strict=True)) <= 1e-7
    got = [f.Hg(np.eye(len(H))) if memory else f.Hg for f, H in zip(state.layers, Hg, strict=True)]
    assert worst(got, Hg) <= 1e-6
