"""DSGD's constants, scores and guarantees against the paper's recursion in dense NumPy, and the decrease that was promised."""

import math

import numpy as np
import pytest

from nearlin import nn, optim
from tests.crosscheck.networks import cases, error

# the suprema of |phi'|, |phi''| and |phi|
SUPREMA = {
    "tanh": (1, 4 / (3 * math.sqrt(3)), 1),
    "sigmoid": (0.25, 1 / (6 * math.sqrt(3)), 1),
    "softplus": (1, 0.25, math.inf),
    "identity": (1, 0, math.inf),
}
PHI = {
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(0, z),
    "identity": lambda z: z,
}
NETS = (
    ((5, 4, 3), ("tanh", "identity")),
    ((5, 4, 4, 3), ("sigmoid", "tanh", "sigmoid")),
    ((3, 1, 2), ("tanh", "tanh")),
    ((1, 1), ("tanh",)),
    ((4, 3, 3, 2), ("softplus", "tanh", "identity")),
    ((4, 3, 3, 2, 2), ("tanh", "identity", "tanh", "identity")),
    ((6, 1), ("identity",)),
    ((4, 5, 5, 1), ("tanh", "sigmoid", "identity")),
)
LOSSES = {"squared": nn.SquaredLoss, "softmax": nn.SoftmaxCrossEntropy, "sigmoid": nn.SigmoidCrossEntropy}


def operator_norm(W, q):
    return np.linalg.norm(W, {1: 1, 2: 2, math.inf: np.inf}[q])


def dual_norm(G, q):
    """Of the operator norm: nuclear for q = 2, else the sum of the largest entries of columns (q = 1) or rows."""
    return np.linalg.svd(G)[1].sum() if q == 2 else np.abs(G).max(0 if q == 1 else 1).sum()


class Problem:
    """A perceptron of `NETS`, its data, and the constants of DSGD on it."""

    def __init__(self, net, loss, n, seed=3):
        (self.sizes, self.acts), self.loss, self.n = net, loss, n
        draw, c = np.random.default_rng(seed), net[0][-1]
        modules = []
        for a, b, phi in zip(self.sizes[:-1], self.sizes[1:], self.acts, strict=True):
            modules += [nn.Dense(a, b)] + ([] if phi == "identity" else [nn.Elementwise(nn.activation(phi))])
        self.objective = nn.Objective(nn.Sequential(tuple(modules)), LOSSES[loss]())
        start = self.objective.network.init(2, np.ones(1))
        self.params = tuple(1.3 * W + 0.2 * draw.standard_normal(W.shape) for W in start)
        self.x = draw.standard_normal((n, self.sizes[0]))
        self.y = {
            "squared": draw.uniform(-1, 1, (n, c)),
            "softmax": np.eye(c)[draw.integers(0, c, n)],
            "sigmoid": draw.random((n, c)),
        }[loss]

    def curvature(self, q):
        """The supremum of the loss's second derivative by the outputs, in the norm q."""
        c = self.sizes[-1]
        return {
            "squared": {1: 1, 2: 1, math.inf: c},
            "softmax": {1: 0.25, 2: 0.5, math.inf: 1},
            "sigmoid": {1: 0.25, 2: 0.25, math.inf: c / 4},
        }[self.loss][q]

    def slope(self, q):
        """The supremum of its first derivative, over the outputs that the last curved layer can reach."""
        c = self.sizes[-1]
        if self.loss != "squared":
            return {"softmax": {1: 1, 2: math.sqrt(2), math.inf: 2}, "sigmoid": {1: 1, 2: math.sqrt(c), math.inf: c}}[self.loss][
                q
            ]
        curved = [k for k, phi in enumerate(self.acts) if SUPREMA[phi][1] > 0]
        if not curved:
            return 0.0
        reach = np.full(self.sizes[curved[-1] + 1], SUPREMA[self.acts[curved[-1]]][2], float)
        for W in self.params[curved[-1] + 1 :]:
            reach = np.abs(W[:, :-1]) @ reach + np.abs(W[:, -1])
        return max(np.linalg.norm(row, {1: np.inf, 2: 2, math.inf: 1}[q]) for row in reach + np.abs(self.y))

    def inputs(self, k, q, bounded, augmented):
        """The mean square norm of the inputs of layer k, or its bound."""
        if bounded and k > 0:
            h0, w = SUPREMA[self.acts[k - 1]][2], self.sizes[k]
            wide = {1: (h0 * w + augmented) ** 2, 2: h0 * h0 * w + augmented}
            return wide.get(q, (max(h0, 1) if augmented else h0) ** 2)
        h = self.x
        for W, phi in zip(self.params[:k], self.acts, strict=False):
            h = PHI[phi](h @ W[:, :-1].T + W[:, -1])
        h = np.concatenate([h, np.ones((self.n, 1))], axis=1) if augmented else h
        return (np.linalg.norm(h, ord=q, axis=1) ** 2).mean()

    def constants(self, q, bounded, bias, delta=0.1):
        """p and the scores of all blocks."""
        E, c, p, scores = self.slope(q), self.curvature(q), [], []
        grads = self.objective.at(self.params, (self.x, self.y)).grads()
        for k, G in enumerate(grads):
            r, v, _ = SUPREMA[self.acts[k]]
            for W, phi in zip(self.params[k + 1 :], self.acts[k + 1 :], strict=True):
                z, (h1, h2, _) = operator_norm(W[:, :-1], q), SUPREMA[phi]
                r, v = h1 * z * r, h2 * z * z * r * r + h1 * z * v
            bound = c * r * r + (E * v if v else 0)
            sizes = [(self.inputs(k, q, bounded, bias == "augmented"), G if bias == "augmented" else G[:, :-1])]
            sizes += [(1.0, G[:, -1:])] if bias == "separate" else []
            for size, g in sizes:
                p.append(math.sqrt(bound * size + delta))
                scores.append(dual_norm(g, q) / p[-1])
        return p, scores


def _bounded(net, loss, q, bounded, bias, n):
    """Where the paper's constants are finite."""
    sizes, acts = net
    reachable = not (bounded and any(SUPREMA[phi][2] == math.inf for phi in acts[:-1]))
    return reachable and not (loss == "softmax" and sizes[-1] == 1)


def _orthogonal(net, loss, q, bounded, bias, n, lr, orth):
    """Newton-Schulz serves the spectral norm alone."""
    return _bounded(net, loss, q, bounded, bias, n) and (q == 2 or orth == "svd")


EVERY = (NETS, LOSSES, (1, 2, math.inf), (False, True), ("augmented", "separate", "none"), (1, 9))
NAMES = ("net", "loss", "q", "bounded", "bias", "n")


@pytest.mark.parametrize(NAMES, cases(*EVERY, every=12, where=_bounded))
def test_constants_scores_and_guarantee(net, loss, q, bounded, bias, n):
    problem = Problem(net, loss, n)
    opt = optim.DSGD(q=q, inputs="bound" if bounded else "data", bias=bias, sharp=False, prune=False, verify=True, delta=0.1)
    state = opt.init(problem.params, problem.objective)
    _, _, info = opt.step(problem.params, state, problem.objective, (problem.x, problem.y))
    p, scores = problem.constants(q, bounded, bias)
    assert error(info.p, p) <= 1e-12
    assert error(info.scores, scores) <= 1e-11
    assert error(info.guarantee, 0.5 * max(scores) ** 2) <= 1e-11


@pytest.mark.parametrize(
    (*NAMES, "lr", "orth"),
    cases(*EVERY, (1.0, 1.7), ("svd", "newton_schulz"), every=60, where=_orthogonal),
)
def test_the_loss_falls_by_what_was_guaranteed(net, loss, q, bounded, bias, n, lr, orth):
    problem = Problem(net, loss, n)
    opt = optim.DSGD(q=q, inputs="bound" if bounded else "data", bias=bias, verify=True, lr=lr, orth=orth)
    params, state, batch = problem.params, opt.init(problem.params, problem.objective), (problem.x, problem.y)
    for _ in range(12):
        before = float(problem.objective.at(params, batch).loss)
        params, state, info = opt.step(params, state, problem.objective, batch)
        if not info.accepted:
            break
        after = float(problem.objective.at(params, batch).loss)
        assert error(info.decrease, before - after) <= 1e-9 or abs(before - after) <= 1e-13
        assert before - after >= info.guarantee - 1e-13 * max(1, before)
