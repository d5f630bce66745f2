"""Claims on the outer loop: that a wrong method or a wrong expectation fails."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from nearlin.complexity.claims import natural_gradient, outer
from nearlin.complexity.claims.problems import on_sphere, train
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.nn import TwoLayer
from nearlin.optim import GramGaussNewton, NaturalGradient, NearLinearGaussNewton
from tests.complexity.controls import controls

CLAIMS = (*outer.CLAIMS, *natural_gradient.CLAIMS)
TIMID = NaturalGradient(lr=0.9)


def test_numbers_cover_the_outer_loop():
    assert {claim.number for claim in CLAIMS} == {1, 2, 3, 16, 17, 18, 19, 20, 21, 23}


class Halving(NamedTuple):
    """A problem whose steps halve the residual, and report their key."""

    params: tuple
    objective: object = None

    def residual(self):
        return self.params[0]

    def step(self, optimizer, state, key):
        return (self.params[0] / 2,), state, key


def test_a_run_ends_at_a_share_of_its_first_residual():
    run = train(SimpleNamespace(init=lambda params, objective: None), Halving((np.array([8.0, 6.0]),)), 3, 9, reduction=0.2)
    assert run.residuals == (10, 5, 2.5, 1.25)
    assert run.ratios == (0.5, 0.5, 0.5)
    assert len(set(run.infos)) == 3
    assert (run.start.tolist(), run.end.tolist()) == ([8, 6], [1, 0.75])


def timid(epsilon):
    """Steps that stop short of what their linear systems allow."""
    return NearLinearGaussNewton(epsilon=epsilon, lr=0.6)


def jacobi(gram, r, size):
    """Block Jacobi in the place of block Gauss-Seidel: all blocks see the old residual."""
    blocks = np.arange(len(r)) // size
    return r - gram @ np.linalg.solve(np.where(blocks[:, None] == blocks[None, :], gram, 0.0), r)


class Stale(NearLinearGaussNewton):
    """Any R of the right size serves."""

    def _knows(self, P, x):
        return P is not None


MEASURE = {claim.id: claim.measure for claim in CLAIMS}

WRONG = {
    "half steps do not halve": MEASURE["outer-rate"].given(optimizer=NearLinearGaussNewton(lr=0.5)),
    "another damping is seen": MEASURE["outer-rate"].given(optimizer=NearLinearGaussNewton(damping=1e-4)),
    "a preconditioner of other inputs is seen": MEASURE["outer-rate"].given(optimizer=Stale()),
    "half steps take longer": MEASURE["outer-steps"].given(optimizer=GramGaussNewton(lr=0.5)),
    "more steps than log₂(1/ε)": MEASURE["outer-steps-bound"].given(optimizer=NearLinearGaussNewton(lr=0.3)),
    "timid steps leave more than ε": MEASURE["rate-is-accuracy"].given(optimizer=timid, epsilons=(0.5, 0.1)),
    "steps more accurate than asked for": MEASURE["rate-is-accuracy"].given(
        optimizer=lambda epsilon: NearLinearGaussNewton(epsilon=0.1 * epsilon), epsilons=(0.5, 0.1)
    ),
    "an accuracy that no run reaches": MEASURE["rate-is-accuracy"].given(optimizer=timid, epsilons=(1e-9,)),
    "the width does not grow like n": MEASURE["width-law-d10"].given(d=40),
    "timid steps have no width law": MEASURE["first-ratio-relu"].given(optimizer=NaturalGradient(lr=0.5)),
    "timid steps are linear": MEASURE["quadratic-order"].given(optimizer=TIMID),
    "the prefactor of timid steps stays": MEASURE["quadratic-prefactor"].given(optimizer=TIMID),
    "tripled steps are unstable": MEASURE["natural-gradient-unit-step"].given(optimizer=lambda lr: NaturalGradient(lr=3 * lr)),
    "half steps have another rate": MEASURE["natural-gradient-rate"].given(optimizer=lambda lr: NaturalGradient(lr=lr / 2)),
    "an epoch is not block Jacobi": MEASURE["minibatch-gauss-seidel"].given(sweep_once=jacobi),
    "half steps in batches": MEASURE["minibatch-network"].given(optimizer=GramGaussNewton(lr=0.5, guard=False, damping=0.0)),
}
SLOW = (
    "an accuracy that no run reaches",
    "tripled steps are unstable",
    "more steps than log₂(1/ε)",
    "half steps take longer",
    "timid steps leave more than ε",
    "timid steps are linear",
    "timid steps have no width law",
    "a preconditioner of other inputs is seen",
    "another damping is seen",
)


@pytest.mark.parametrize("measure", controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_movement_is_not_1_over_m():
    rows = [{**row, "largest movement": row["largest movement"] / row["m"] ** 0.5} for row in outer.over_widths(False)]
    assert MEASURE["lazy-movement"].judge(rows).verdict == FAILS


@pytest.mark.parametrize(
    ("column", "value", "verdict"),
    [
        ("ratio of residuals", 0.51, FAILS),
        ("ratio of residuals", 0.5, HOLDS),
        ("exact step's ratio", 0.51, OUT_OF_REGIME),
        ("K", 5, FAILS),
        ("λ over 1e-8 tr(G)/n", 4.0, FAILS),
        ("λ over 1e-8 tr(G)/n", 1e4, FAILS),
        ("λ over 1e-8 tr(G)/n", 0.5, FAILS),
        ("accuracy of the step over ε", 1.1, FAILS),
        ("accuracy of the step over ε", 0.1, FAILS),
        ("accuracy after a refusal over ε", 1.1, FAILS),
        ("accuracy after a refusal over ε", 0.1, FAILS),
        ("attempts after a refusal", 1, FAILS),
        ("R is fresh on other inputs", 0, FAILS),
    ],
)
def test_the_rate_fails_by_each_of_its_bounds(column, value, verdict):
    row = {"n": 64, "ratio of residuals": 0.2, "exact step's ratio": 0.1, "K": 2, "λ over 1e-8 tr(G)/n": 1.0}
    row |= {"accuracy of the step over ε": 0.3, "R is fresh on other inputs": 1}
    row |= {"accuracy after a refusal over ε": 0.3, "attempts after a refusal": 2}
    assert MEASURE["outer-rate"].judge([row]).verdict == HOLDS
    assert MEASURE["outer-rate"].judge([{**row, column: value}]).verdict == verdict


def test_networks_that_are_too_narrow_are_out_of_regime(monkeypatch):
    monkeypatch.setattr(outer, "widths", lambda full: ((16, 32, 64, 128, 256), 2))
    assert MEASURE["first-ratio-relu"](False).verdict == OUT_OF_REGIME


def test_a_run_starts_where_the_network_starts():
    run = train(NaturalGradient(), on_sphere(8, 3, 40, 5), 5, steps=1)
    assert np.array_equal(run.start, TwoLayer(3, 40).init(5, np.empty(0))[0])
    assert len(run.ratios) == 1
    assert run.residuals[1] < run.residuals[0]


def test_a_singular_problem_has_no_step():
    p = on_sphere(8, 3, 40, 5)
    twice = p._replace(batch=tuple(np.concatenate(pair) for pair in ((p.batch[0], p.batch[0]), (p.batch[1], -p.batch[1]))))
    run = train(GramGaussNewton(guard=False, damping=0.0), twice, 5, steps=3)
    assert run.residuals[-1] == np.inf
