"""Masks of the two-layer network within a step's bytes: two sets, one or none make the same steps, and hold what they say."""

import tracemalloc

import numpy as np
import pytest

import nearlin as nl
from nearlin.curvature import DampedGram

N, D, M = 256, 4, 8192
SET = N * M // 8
COLUMNS = 32
F = 8 * N * COLUMNS
BUDGETS = {2: 2 * SET + F, 1: 2 * SET + F - 1, 0: SET + F - 1}
WORDS = {
    2: "",
    1: "; masks of one point at a time, as those of two take 0.000524 GB",
    0: "; phi' is made anew in every walk, as a set of masks takes 0.000262 GB",
}


def problem(be, n=N, width=M, activation="relu"):
    x, y = nl.data.sphere(n=n, d=D, seed=0)
    net = nl.nn.TwoLayer(D, width, activation)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(0, be.like), (be.array(x), be.array(y))


def stepped(sets, problem, steps=3, **options):
    """Weights after each step, and what they report, by columns of which the memory for two caps the number."""
    objective, params, batch = problem
    opt = nl.optim.NearLinearGaussNewton(preconditioner="pivoted", memory=BUDGETS[sets], **options)
    state, found = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        found.append((params[0], info))
    return found


@pytest.fixture
def few_columns(monkeypatch):
    """The same columns at every budget."""
    monkeypatch.setattr("nearlin.curvature.pivoted_gram.most_columns", lambda J, memory: COLUMNS)


@pytest.mark.parametrize("lr", [1.0, 5.0])
def test_steps_are_the_same_with_two_sets_one_or_none(numpy_backend, few_columns, lr):
    """With the larger step size trials are refused, and what was let go is made again."""
    found = {sets: stepped(sets, problem(numpy_backend), lr=lr) for sets in BUDGETS}
    attempts = [info.attempts for _, info in found[2]]
    assert (max(attempts) > 1) == (lr > 1)
    for sets, steps in found.items():
        assert all(info.plan == f"pivoted: by name{WORDS[sets]}" for _, info in steps)
        assert [info.attempts for _, info in steps] == attempts
        for (W, info), (want, other) in zip(steps, found[2], strict=True):
            assert np.array_equal(W, want)
            assert (info.loss, info.new_loss, info.solve.residual) == (other.loss, other.new_loss, other.solve.residual)


@pytest.mark.parametrize("lr", [1.0, 5.0])
@pytest.mark.parametrize("sets", BUDGETS)
def test_no_more_sets_are_there_than_it_says(numpy_backend, few_columns, monkeypatch, sets, lr):
    """What was made by packing masks and is still there, in solves and behind trials."""
    objective, params, batch = problem(numpy_backend)
    opt = nl.optim.NearLinearGaussNewton(preconditioner="pivoted", memory=BUDGETS[sets], lr=lr)
    behind_trials, in_products, product = [], [], DampedGram.__call__

    def look(seen):
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*_array/blocks.py")])
        seen.append(sum(trace.size for trace in snapshot.traces) / SET)

    class Looking:
        def __getattr__(self, name):
            return getattr(objective, name)

        def at(self, params, batch, **kept):
            point = objective.at(params, batch, **kept)
            look(behind_trials)
            return point

    monkeypatch.setattr(DampedGram, "__call__", lambda self, v: (look(in_products), product(self, v))[1])
    tracemalloc.start()
    other, state, attempts = Looking(), opt.init(params, objective), []
    for t in range(3):
        params, state, info = opt.step(params, state, other, batch, key=t)
        attempts.append(info.attempts)
    tracemalloc.stop()
    assert (max(attempts) > 1) == (lr > 1)
    del behind_trials[0]  # before the number of columns is known
    assert behind_trials == pytest.approx([sets] * sum(attempts), abs=0.02)
    assert in_products == pytest.approx([min(sets, 1)] * len(in_products), abs=0.02)
    assert len(in_products) >= sum(attempts)


def test_a_state_whose_masks_are_gone_makes_the_same_step_again(numpy_backend, few_columns):
    objective, params, batch = problem(numpy_backend)
    opt = nl.optim.NearLinearGaussNewton(preconditioner="pivoted", memory=BUDGETS[1])
    params, state, _ = opt.step(params, opt.init(params, objective), objective, batch, key=0)
    J = state.recall.point.jacobian()
    assert J.masks[0] is not None
    first = opt.step(params, state, objective, batch, key=1)[0][0]
    assert J.masks[0] is None
    assert np.array_equal(opt.step(params, state, objective, batch, key=1)[0][0], first)


@pytest.mark.parametrize("n", [96, 5000])
def test_what_is_let_go_comes_back_and_products_are_the_same_meanwhile(be, n):
    objective, params, batch = problem(be, n, 96)
    J = objective.at(params, batch).jacobian()
    before, u = [be.numpy(mask) for mask in J.masks], be.array(np.random.default_rng(0).standard_normal(n))
    want = J.gram_matvec(u)
    J.release()
    assert J.masks == [None] * len(before)
    np.testing.assert_allclose(be.numpy(J.gram_matvec(u)), be.numpy(want), rtol=0, atol=be.tol(1e-13))
    J.restore()
    assert len(before) == len(J.masks)
    assert all(np.array_equal(be.numpy(mask), one) for mask, one in zip(J.masks, before, strict=True))


def test_a_set_that_does_not_fit_is_never_made(numpy_backend):
    """The first evaluation of a step is told so."""
    objective, params, batch = problem(numpy_backend)
    opt = nl.optim.NearLinearGaussNewton(preconditioner="pivoted", memory=SET - 1)
    asked = []
    at = objective.at

    class Listening:
        def __getattr__(self, name):
            return getattr(objective, name)

        def at(self, params, batch, masks=True):
            asked.append(masks)
            return at(params, batch, masks=masks)

    opt.step(params, opt.init(params, objective), Listening(), batch, key=0)
    assert asked == [False, False]
    assert objective.at(params, batch, masks=False).jacobian().masks[0] is None


def test_other_networks_and_activations_have_no_masks(numpy_backend):
    x, y = nl.data.sphere(n=24, d=D, seed=0)
    for network in (nl.nn.TwoLayer(D, 64, "tanh"), nl.nn.MLP((D, 16, 1), "relu")):
        objective, params = nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x)
        opt = nl.optim.NearLinearGaussNewton(preconditioner="sketch", memory=1e5)
        info = opt.step(params, opt.init(params, objective), objective, (x, y), key=0)[2]
        assert "masks" not in info.plan
        assert "phi'" not in info.plan
