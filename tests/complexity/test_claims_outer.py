"""Claims on the outer loop: their quick verdicts, and that a wrong method or a wrong expectation fails."""

import functools

import numpy as np
import pytest

from nearlin.complexity.claims import outer
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.complexity.claims.trajectory import train
from nearlin.nn import TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient, NearLinearGaussNewton

TIMID = NaturalGradient(lr=0.9)


@pytest.mark.parametrize("claim", outer.CLAIMS, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted or series.y)


def test_numbers_cover_the_outer_loop():
    assert {claim.number for claim in outer.CLAIMS} == {1, 2, 3, 16, 17, 18, 19, 20, 21, 23}


def timid(epsilon):
    """Steps that stop short of what their linear systems allow."""
    return NearLinearGaussNewton(epsilon=epsilon, lr=0.6)


def halved_rate(full, optimizer=NaturalGradient):
    return outer.natural_gradient_rate(full, lambda lr: optimizer(lr=lr / 2))


def jacobi(gram, r, size):
    """Block Jacobi in the place of block Gauss-Seidel: all blocks see the old residual."""
    blocks = np.arange(len(r)) // size
    return r - gram @ np.linalg.solve(np.where(blocks[:, None] == blocks[None, :], gram, 0.0), r)


WRONG = {
    "half steps do not halve": functools.partial(outer.outer_rate, optimizer=NearLinearGaussNewton(lr=0.5)),
    "half steps take longer": functools.partial(outer.outer_steps, optimizer=GramGaussNewton(lr=0.5)),
    "timid steps leave more than ε": functools.partial(outer.rate_is_accuracy, optimizer=timid, epsilons=(0.5, 0.1)),
    "the width does not grow like n⁴": functools.partial(outer.width_law, d=40, expected=4.0),
    "movement is not 1/m": functools.partial(outer.width_exponent, what="movement", expected=-1.0),
    "timid steps have no width law": functools.partial(outer.width_exponent, what="first", optimizer=NaturalGradient(lr=0.5)),
    "timid steps are linear": functools.partial(outer.quadratic_order, optimizer=TIMID),
    "the prefactor of timid steps stays": functools.partial(outer.quadratic_prefactor, optimizer=TIMID),
    "tripled steps are unstable": functools.partial(outer.unit_step_is_stable, optimizer=lambda lr: NaturalGradient(lr=3 * lr)),
    "half steps have another rate": halved_rate,
    "an epoch is not block Jacobi": functools.partial(outer.minibatch_epochs, sweep_once=jacobi),
    "half steps in batches": functools.partial(
        outer.minibatch_network, optimizer=GramGaussNewton(lr=0.5, guard=False, damping=0.0)
    ),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_the_largest_step_is_two():
    assert outer.largest_step_is_one(False, expected=2.0).verdict == HOLDS


def test_an_accuracy_that_no_run_reaches_fails_with_a_reason():
    outcome = outer.rate_is_accuracy(False, optimizer=timid, epsilons=(1e-9,))
    assert outcome.verdict == FAILS
    assert "never got there" in outcome.detail


def test_networks_that_are_too_narrow_are_out_of_regime(monkeypatch):
    monkeypatch.setattr(outer, "widths", lambda full: ((16, 32, 64, 128, 256), 2))
    assert outer.width_exponent(False, "first").verdict == OUT_OF_REGIME


def test_the_rate_is_out_of_regime_where_the_exact_step_does_not_halve_either():
    assert outer.outer_rate(False, limit=0.01).verdict == OUT_OF_REGIME


def test_a_run_starts_where_the_network_starts():
    x, y = outer.problem(8, 3, 5)
    run = train(NaturalGradient(), x, y, 40, 5, steps=1)
    assert np.array_equal(run.start, TwoLayer(3, 40).init(5, x)[0])
    assert run.steps == 1
    assert run.residuals[1] < run.residuals[0]


def test_a_singular_problem_has_no_step():
    x, y = outer.problem(8, 3, 5)
    run = train(GramGaussNewton(guard=False, damping=0.0), np.concatenate([x, x]), np.concatenate([y, -y]), 40, 5, steps=3)
    assert run.residuals[-1] == np.inf
