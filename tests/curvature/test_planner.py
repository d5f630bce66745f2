"""What a planner learns from a solve: efforts, what is kept, and when a sketch was too rough."""

import dataclasses
import math

import pytest

from nearlin import nn
from nearlin.curvature import AGAIN, ROUTES, Experience, Kept, Planner
from nearlin.linalg import Rates, SolveInfo


@pytest.fixture
def planner(rng):
    """Of a perceptron on 8 samples, with arithmetic that costs nothing but calls."""
    x, net = rng.standard_normal((8, 4)), nn.MLP((4, 9, 2), "tanh")
    point = nn.Objective(net, nn.SquaredLoss()).at(net.init(0, x), (x, rng.standard_normal((8, 2))))
    J = point.jacobian(weighted=True)
    return Planner(J, point, squared=True, rows=16, epsilon=math.exp(-4), maxiter=99, rates=Rates())


def solve(iterations, nats, reason="converged", condition=math.nan):
    """One that took its residual down by e^``nats``."""
    return SolveInfo(math.exp(-nats), iterations, iterations, reason, condition)


def kept(planner, route, **fields):
    return Kept(route, None, planner.point.x, 1.0)._replace(**fields)


@pytest.mark.parametrize(
    ("solved", "effort"),
    [
        (solve(10, 5.0), 2.0),
        (solve(3, 0.5), 3.0),  # of less than a factor e, as if of one
        (solve(9, 2.0, "maxiter", 64.0), 4.0),
        (solve(9, 2.0, "maxiter"), 9.0),
    ],
)
def test_an_effort_is_iterations_per_factor_e_or_what_the_condition_lets_expect(planner, solved, effort):
    learned = planner.learn(Experience(efforts=(("cg", 7.0),)), kept(planner, "exact"), True, solved)
    assert dict(learned.efforts) == {"cg": 7.0, "exact": pytest.approx(effort)}


def test_the_second_use_has_an_effort_of_its_own_and_later_ones_none(planner):
    learned = Experience()
    for uses, (fresh, name) in enumerate([(True, "diagonal"), (False, "diagonal" + AGAIN), (False, None)], start=1):
        one = learned.kept or kept(planner, "diagonal", x=None)
        learned = planner.learn(learned, one._replace(fresh=50), fresh, solve(4 * uses, 4.0))
        assert learned.kept is None or learned.kept.uses == uses
        if name:
            assert learned.effort(name) == pytest.approx(uses)
        learned = learned._replace(kept=one._replace(uses=uses))
    assert len(learned.efforts) == 2


@pytest.mark.parametrize(
    ("route", "fresh", "solved", "growth", "after"),
    [
        ("sketch", True, solve(30, 4.0), 1, (False, 2)),
        ("sketch", True, solve(30, 4.0), 4, (True, 4)),
        ("sketch", True, solve(4, 4.0), 1, (True, 1)),
        ("exact", False, solve(90, 4.0), 1, (False, 1)),
        ("exact", False, solve(2, 1.0, "maxiter"), 1, (False, 1)),
        ("cg", False, solve(90, 1.0, "maxiter"), 1, (True, 1)),
    ],
)
def test_what_is_worn_or_rough_is_not_kept_and_what_would_not_change_is(planner, route, fresh, solved, growth, after):
    one = kept(planner, route, fresh=2, last=2, uses=2)
    others = Experience(efforts=((route + AGAIN, 0.1),), growth=growth)  # which took no more on their second step
    learned = planner.learn(others, one, fresh, solved)
    assert (learned.kept is not None, learned.growth) == after


def test_what_is_kept_serves_its_inputs_alone_and_only_where_preconditioners_are_reused(planner):
    one, other = kept(planner, "exact"), kept(planner, "exact", x=planner.point.x + 1e-9)
    assert planner.serving(ROUTES["exact"], Experience(one)) is one
    assert planner.serving(ROUTES["exact"], Experience(other)) is planner.serving(ROUTES["sketch"], Experience(one)) is None
    assert dataclasses.replace(planner, reuse=False).serving(ROUTES["exact"], Experience(one)) is None
    anywhere = kept(planner, "kfac", x=None)
    assert planner.serving(ROUTES["kfac"], Experience(anywhere)) is anywhere


def test_a_route_that_has_triangular_factors_is_planned_for_lsqr_alone(planner):
    names = {whole: [r.name for r in dataclasses.replace(planner, whole=whole).candidates()] for whole in (False, True)}
    assert names == {False: ["exact", "sketch", "class-averaged", "cg"], True: ["exact", "sketch", "cg"]}
