"""What the Gauss-Newton methods report about a step, recomputed by dense float64 code that shares nothing with them."""

import dataclasses
import sys

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn

NearLinear, GramGaussNewton, NaturalGradient = nl.optim.NearLinearGaussNewton, nl.optim.GramGaussNewton, nl.optim.NaturalGradient
GaussNewton = nl.optim.GaussNewton


def two_layer(n=24, d=5, width=96, seed=0, dtype=np.float64, activation="relu", scale=1.0, noise=None):
    """An objective, parameters and a batch; ``noise`` makes every second row a near-duplicate of the one before."""
    g = np.random.default_rng(seed)
    x, y = g.standard_normal((n, d)), g.standard_normal(n)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if noise is not None:
        x[1::2] = x[::2] + noise * g.standard_normal((n // 2, d))
    net = nn.TwoLayer(d, width, activation)
    batch = tuple((scale * a).astype(dtype) for a in (x, y))
    return nn.Objective(net, nn.SquaredLoss()), net.init(seed, batch[0]), batch


def first(opt, objective, params, batch, state=None, key=0):
    return opt.step(params, opt.init(params, objective) if state is None else state, objective, batch, key=key)


def flat(v):
    return np.concatenate([np.asarray(V, dtype=float).ravel() for V in v])


# --------------------------------------------------------------------------------------------- solves that are worse than none

FACTORS = {NaturalGradient: "damped_cholesky", GramGaussNewton: "damped_cholesky", GaussNewton: "sketch_factor"}


@pytest.fixture
def wrong(monkeypatch):
    """Makes the triangular factors of a method so small that its solves are eleven times too large."""

    def spoil(method):
        module, name = sys.modules[method.__module__], FACTORS[method]
        right = getattr(module, name)

        def smaller(*args):
            found = right(*args)
            return (0.3 * found[0], *found[1:]) if isinstance(found, tuple) else 0.3 * found

        monkeypatch.setattr(module, name, smaller)

    return spoil


NO_BETTER = [
    NaturalGradient(damping=1e-3),
    GramGaussNewton(damping=1e-3, guard=False),
    GaussNewton(plan="exact", damping=1e-3, guard=False),
    GramGaussNewton(damping=1e-3),
]


@pytest.mark.parametrize("opt", NO_BETTER, ids=lambda opt: f"{type(opt).__name__}-{getattr(opt, 'guard', False)}")
def test_a_step_whose_solve_is_worse_than_none_is_not_taken_and_says_so(wrong, opt):
    """||b - A g|| >= ||b||, at a step that is so small that the loss falls all the same; with a guard it is tried again."""
    objective, params, batch = two_layer()
    opt = dataclasses.replace(opt, lr=0.05)
    before = first(opt, objective, params, batch)[2]
    assert before.accepted
    wrong(type(opt))
    new, state, info = first(opt, objective, params, batch)
    assert info.solve.residual > 5
    assert new is params
    assert not info.accepted
    assert info.reason == f"rejected: the solve is worse than none, its residual is {info.solve.residual:.2g}"
    if getattr(opt, "guard", False):
        assert info.attempts == 7
        assert info.new_loss == info.loss
        assert state.damping.value > info.damping > opt.damping


def test_an_exact_factor_that_solves_worse_than_none_preconditions_the_next_attempt(wrong):
    objective, params, batch = two_layer()
    wrong(GaussNewton)
    info = first(GaussNewton(plan="exact", damping=1e-3, lr=0.05), objective, params, batch)[2]
    assert (info.accepted, info.attempts, info.damping) == (True, 2, pytest.approx(4e-3))
    assert info.solve.iterations > 0
    assert info.solve.residual <= 0.1


@pytest.mark.parametrize("guard", [True, False])
def test_a_solve_that_is_cut_short_where_it_is_worse_than_none_gives_no_step(guard):
    """Points on a circle of radius 1e-12, one iteration without damping; with the guard more of it is tried."""
    attempts = []
    for seed in range(6):
        objective, params, batch = two_layer(n=60, d=2, width=64, seed=seed, dtype=np.float32, scale=1e-12)
        new, _, info = first(NearLinear(guard=guard, damping=0.0, maxiter=1), objective, params, batch)
        assert (new is params) == (not info.accepted)
        assert not (info.accepted and info.solve.residual >= 1)
        if info.solve.residual >= 1:
            assert info.reason == f"rejected: the solve is worse than none, its residual is {info.solve.residual:.2g}"
        attempts.append(info.attempts if guard else info.solve.residual)
    assert max(attempts) > 1
