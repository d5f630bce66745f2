"""Pivoted columns in closed form: flops that equal the counts of columns and of whole steps, bytes near the peaks, the choice."""

import dataclasses

import numpy as np
import pytest
import threadpoolctl

import nearlin as nl
from nearlin import _array
from nearlin.complexity import cost, degree, wrap
from nearlin.linalg import PivotedCholesky, pivoted_cholesky
from nearlin.nn import KernelEntries
from tests.complexity.test_cost import counted, peak, two_layer

PIVOTED = nl.optim.NearLinearGaussNewton(preconditioner="pivoted", rates=nl.linalg.Rates(thin=(1e15, 1e15)))  # no more columns


@pytest.fixture
def rounds(monkeypatch):
    """(proposed, taken) of every round, as they are made."""
    made, plain = [], pivoted_cholesky.accepted

    def recorded(H, *given):
        found = plain(H, *given)
        made.append((len(H), len(found[0])))
        return found

    monkeypatch.setattr(pivoted_cholesky, "accepted", recorded)
    return made


@pytest.mark.parametrize(("n", "d", "k", "block"), [(64, 3, 4, 8e6), (64, 3, 40, 8e6), (300, 16, 50, 2e4)])
def test_columns_cost_what_the_formulas_say(rounds, monkeypatch, n, d, k, block):
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", int(block))
    x = wrap(nl.data.sphere(n=n, d=d, seed=0)[0])
    flops, factor = counted(lambda: PivotedCholesky(KernelEntries(x), 0).grow(k))
    assert flops == cost.pivoted_columns(n, d, k, rounds)
    rounds.clear()
    more, factor = counted(factor.grow, k + 20)
    assert more == cost.pivoted_columns(n, d, k + 20, rounds, made=k)
    root, P = counted(factor.preconditioner, 1e-3)
    assert root == cost.pivoted_root(k + 20)
    for columns in (1, 3):
        r = wrap(np.ones((n, columns) if columns > 1 else n))
        assert counted(P, r)[0] == cost.pivoted_application(n, k + 20, columns)


@pytest.mark.parametrize("k", [1, 16, 100, 1448, 8192])
def test_without_the_rounds_nearly_every_proposal_is_taken(k):
    made = cost.pivoted_columns(65536, 16, k)
    assert made >= 65536 * (41 * k + 2 * k * k)
    assert made <= 65536 * (41 * k + 2 * k * k + max(k / 8, 16) * k + 4 * k + 4 * 16 + 6) * 1.1


def test_columns_and_the_step_without_them_are_linear_in_samples():
    parts = lambda n: cost.near_linear_step(cost.two_layer(n, 16, 4096, block=64), 4, preconditioner="pivoted", rank=100)  # noqa: E731
    assert degree(lambda n: sum(parts(n).values()), [200, 400, 600, 800]) == 1


@pytest.mark.parametrize(("n", "d", "m", "outputs"), [(16, 3, 512, 1), (9, 4, 333, 3), (200, 5, 3000, 1)])
def test_steps_cost_what_the_formulas_say(rounds, monkeypatch, n, d, m, outputs):
    asked = []
    stop = nl.linalg.Smoothing.__call__
    monkeypatch.setattr(nl.linalg.Smoothing, "__call__", lambda *given: asked.append(1) or stop(*given))
    objective, params, batch = two_layer(n, d, m, outputs=outputs)
    state, network, before = PIVOTED.init(params, objective), cost.two_layer(n, d, m, outputs=outputs), None
    for t in range(3):
        rounds.clear()
        asked.clear()
        flops, (params, state, info) = counted(PIVOTED.step, params, state, objective, batch, t)
        P, fresh = state.preconditioner, info.solve.refreshed
        assert (info.attempts, fresh) == (1, t == 0)
        kinds = {"recalled": t > 0, "moved": before not in (None, P.damping), "rounds": rounds, "smoothed": len(asked)}
        assert info.solve.iterations - 1 <= len(asked) <= info.solve.iterations
        parts = cost.near_linear_step(
            network, info.solve.iterations, fresh, preconditioner="pivoted", rank=P.M.rank if t else None, **kinds
        )
        assert sum(parts.values()) == flops, (t, parts)
        before = P.damping


@pytest.mark.parametrize(
    ("n", "d", "m"),
    [(64, 16, 4096), (256, 8, 4096), (384, 8, 1024), pytest.param(1024, 8, 4096, marks=pytest.mark.nightly)],
)
def test_memory_is_near_the_formulas(n, d, m):
    (x, y), W = nl.data.sphere(n=n, d=d, seed=1), np.random.default_rng(0).standard_normal((m, d))
    with threadpoolctl.threadpool_limits(1):
        measured = peak(dataclasses.replace(PIVOTED, epsilon=1e-3), (x, y), W)  # several iterates, and a best one beside them
    forms = [cost.near_linear_memory(n, d, m, fresh=f, recalled=not f, preconditioner="pivoted") for f in (True, False)]
    expected = max(sum(parts.values()) for parts in forms)
    assert 0.9 * expected <= measured <= 1.1 * expected


def test_nothing_has_the_square_of_the_samples():
    def held(n):
        return sum(cost.near_linear_memory(n, 16, 4096, preconditioner="pivoted", rank=100).values())

    assert held(2**17) < 2.1 * held(2**16) < 4.4 * held(2**15)


# ------------------------------------------------------------------------------------------------------------ what is taken

SLOW = nl.linalg.Rates(cholesky=(1e3, 1e3))


@pytest.mark.parametrize(("n", "width"), [(64, 64), (64, 4096), (300, 600)])
@pytest.mark.parametrize(
    "options", [{}, {"rates": SLOW}, {"memory": 1e5}, {"preconditioner": "pivoted"}, {"rates": SLOW, "sketch_size": 2.0}]
)
def test_the_planned_preconditioner_is_the_one_that_a_step_takes(n, width, options):
    opt = nl.optim.NearLinearGaussNewton(maxiter=1, guard=False, **options)
    x, y = nl.data.sphere(n=n, d=8, seed=1)
    objective = nl.nn.Objective(nl.nn.TwoLayer(8, width), nl.nn.SquaredLoss())
    params = objective.network.init(0, x)
    info = opt.step(params, opt.init(params, objective), objective, (x, y), key=0)[2]
    planned = cost.planned_preconditioner(objective.network, n, "float64", opt)
    taken = {"sketch": "NeuronSigns(), cholesky", "kernel": "kernel, cholesky", "pivoted": f"pivoted, {planned.rank} columns"}
    assert info.solve.preconditioner == taken[planned.name]


def test_networks_without_a_closed_form_take_the_sketch():
    opt = nl.optim.NearLinearGaussNewton(rates=SLOW)
    for name in ("relu", "tanh"):
        planned = cost.planned_preconditioner(nl.nn.TwoLayer(4, 64, name), 4096, "float64", opt)
        assert planned.name == ("pivoted" if name == "relu" else "sketch")
