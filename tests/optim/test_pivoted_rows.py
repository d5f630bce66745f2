"""The route "pivoted" of Gauss-Newton: iterations, how many columns it takes, what ages, and what is made when."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin.curvature import ROUTES, Experience
from nearlin.curvature.pivoted_rows import first_rank, most_columns, next_rank

GaussNewton = nl.optim.GaussNewton
TANH = nn.Elementwise(nn.activation("tanh"))


@pytest.fixture(scope="module")
def digits():
    train, _ = nl.data.digits()
    return train.floats("float32", flat=True)[:400], train.y[:400].astype("int64")


def problem(x, y, hidden=(128, 64)):
    objective = nn.Objective(nn.MLP((64, *hidden, 10), "relu"), nn.SoftmaxCrossEntropy())
    return objective, objective.network.init(0, x), (x, y)


def run(opt, objective, params, batch, steps=6):
    state, found = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        found.append(info)
    return found, state


def test_few_rows_take_cross_entropies_to_few_iterations(digits):
    """At most 6 in each of six default steps, with a fiftieth of the rows."""
    iterations = {}
    for plan in ("pivoted", "cg"):
        found, _ = run(GaussNewton(plan=plan), *problem(*digits))
        iterations[plan] = [info.solve.iterations for info in found]
        assert {info.side for info in found} == {"sample"}
        assert all(info.solve.refreshed for info in found) or plan == "cg"
    assert max(iterations["pivoted"]) <= 6
    assert sum(iterations["pivoted"]) < 0.6 * sum(iterations["cg"])


def test_a_factor_of_the_step_before_is_stale(digits):
    """The negative control: after one step, F of the old weights is worse than F made anew."""
    objective, params, batch = problem(*digits)
    opt = GaussNewton(plan="pivoted", guard=False)
    moved, state, _ = opt.step(params, opt.init(params, objective), objective, batch)
    points = [objective.at(p, batch) for p in (params, moved)]
    J, damping = points[1].jacobian(weighted=True), 400 * state.damping.value
    took = []
    for point in points:
        source = nn.FactorEntries.of(point.jacobian(weighted=True))
        P = nl.linalg.PivotedCholesky(source, 0).grow(first_rank(J)).preconditioner(damping)
        b = np.reshape(points[1].residual, (-1,))
        took.append(
            nl.linalg.cg(lambda v: J.gram_matvec(v) + damping * v, b, rtol=0.1, maxiter=99, preconditioner=P)[1].iterations
        )
    assert took[1] < took[0]


def test_convolutions_take_columns_of_sketched_rows(digits):
    x, y = digits[0][:60].reshape(60, 1, 8, 8), digits[1][:60]
    layers = (nn.Conv2d(1, 6, 3, pad=1), TANH, nn.Conv2d(6, 8, 3, stride=2), TANH, nn.Flatten(), nn.Dense(72, 10))
    objective = nn.Objective(nn.Sequential(layers, shape=(1, 8, 8)), nn.SoftmaxCrossEntropy())
    made = objective, objective.network.init(0, x), (x, y)
    iterations = {plan: run(GaussNewton(plan=plan, guard=False), *made, steps=2)[0] for plan in ("pivoted", "cg")}
    took = {plan: sum(info.solve.iterations for info in found) for plan, found in iterations.items()}
    assert took["pivoted"] < took["cg"]
    assert all(info.solve.reason == "converged" for info in iterations["pivoted"])


@pytest.mark.parametrize(("iterations", "after"), [(1, 32), (2, 64), (4, 64), (9, 128)])
def test_columns_are_doubled_and_halved_by_predicted_time(iterations, after):
    """B(k) = k/32 products: 2 (B(2 k) - B(k)) is 4 products, B(k) - B(k/2) is one."""
    assert next_rank(64, iterations, lambda k: k / 32, 1 if iterations > 1 else 0.9) == after


def test_k0_columns_take_a_product_and_memory_caps_them(digits):
    objective, params, batch = problem(*digits)
    J = objective.at(params, batch).jacobian(weighted=True)
    k, entry = first_rank(J), sum(2 * o + 2 * D / 10 for o, D in J.factor_shapes)
    assert J.shape[0] * (2 * k * k + entry * k) == pytest.approx(J.product_work().matmul, rel=0.05)
    bare = most_columns(J, 1e12)
    assert (bare, most_columns(J, ROUTES["pivoted"].bytes(J) + 2 * 4 * 4000 * 2)) == (J.shape[0], 18)  # the fewest, 16, and 2
    planner = GaussNewton(plan="pivoted").planner(J, objective.at(params, batch), False)
    few = dataclasses.replace(planner, memory=ROUTES["pivoted"].bytes(J) + 2 * 4 * 4000 * 2)
    assert (planner.columns(Experience()), planner.columns(Experience(columns=5)), few.columns(Experience())) == (k, 5, 18)
