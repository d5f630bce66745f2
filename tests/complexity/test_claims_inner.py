"""Claims on inner iterations: that what is wrong fails."""

import math

import numpy as np
import pytest

from nearlin.complexity.claims import inner
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.linalg import TriangularPreconditioner, cg
from nearlin.sketch import NeuronSamples
from tests.complexity.controls import controls


def test_numbers_cover_inner_iterations():
    assert {claim.number for claim in inner.CLAIMS} == {0, 10, 11, 12, 13, 32}


MEASURE = {claim.id: claim.measure for claim in inner.CLAIMS}

WRONG = {
    "neuron samples do not bound the iterations": MEASURE["pcg-counts-worst-case"].given(sketch=lambda family: NeuronSamples()),
    "half the sketch needs more iterations": MEASURE["pcg-counts"].given(ratio=2),
    "a wrong threshold is not found": MEASURE["richardson-threshold"].given(expected=14.0),
    "float64 does not have float32's floor": MEASURE["float32-floor"].given(dtype="float64"),
}
SLOW = ("half the sketch needs more iterations", "neuron samples do not bound the iterations", "a wrong threshold is not found")


@pytest.mark.parametrize("measure", controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


ROW = {"n": 512, "ε": "0.001", "typical": 11, "most": 12, "median iterations": 11.0, "largest iterations": 12}
ROW |= {"beyond the typical from n = 512": 0.0, "bound": 15, "left to the bound": 0, "data": "sphere", "k": 0, "s/n": 4}
ROW |= {"γ": 0.5, "factor": 0.5, "theory": 0.5, "method": "Richardson", "energy error, s = 4n": 1.0, "2 γ^k": 2.0, "κ(G)": 36.0}
ROW |= {"converged below the threshold": 0, "converged above the threshold": 1, "median spectral radius": 1.0, "limit": 1.0}
ROW |= {"residual attained": 1e-7, "line": 1e-7, "residual at the largest κ(G) over that at the smallest": 101.0, "κ_pre": 9.0}


@pytest.mark.parametrize(
    ("name", "column", "holds", "fails"),
    [
        ("pcg-counts", "largest iterations", (11, 12), (13,)),
        ("pcg-counts", "beyond the typical from n = 512", (-2.0, 2.0), (-3.0, 3.0, math.nan)),
        ("pcg-counts-worst-case", "left to the bound", (0, 5), (-1,)),
        ("pcg-factor", "factor", (0.455, 0.505), (0.445, 0.515)),
        ("fixed-parameter-factors", "factor", (0.43, 0.54), (0.42, 0.56, math.inf)),
        ("richardson-threshold", "threshold", (11.1, 12.2), (11.0, 12.3, math.nan)),
        ("richardson-threshold", "converged below the threshold", (0,), (1,)),
        ("richardson-threshold", "converged above the threshold", (1,), (0,)),
        ("double-product-threshold", "threshold", (37.6, 41.4), (37.4, 41.6)),
        ("float32-floor", "residual attained", (1.1e-8, 9.9e-7), (0.9e-8, 1.1e-6)),
        ("float32-floor", "residual at the largest κ(G) over that at the smallest", (101.0,), (99.0,)),
        ("float32-floor", "κ_pre", (15.0,), (15.1,)),
    ],
)
def test_a_claim_fails_by_each_of_its_bounds(name, column, holds, fails):
    row = {**ROW, "threshold": 11.66 if name == "richardson-threshold" else 39.5}
    for values, verdict in ((holds, HOLDS), (fails, FAILS)):
        assert [MEASURE[name].judge([{**row, column: value}]).verdict for value in values] == [verdict] * len(values)


def test_iterates_are_those_of_cg(rng):
    a = rng.standard_normal((30, 60))
    a, b = a @ a.T, rng.standard_normal(30)
    M = TriangularPreconditioner(np.linalg.cholesky(a + 10 * np.eye(30)).T)
    found = inner.iterates(lambda v: a @ v, b, M, rtol=1e-8)
    for k in (1, 2, len(found)):
        x, info = cg(lambda v: a @ v, b, preconditioner=M, rtol=1e-8, maxiter=k)
        np.testing.assert_array_equal(found[k - 1], x)
    assert info.reason == "converged"


def test_formulas():
    assert [inner.energy_count(epsilon, 4) for epsilon in inner.TARGETS] == list(inner.TYPICAL) == [11, 21, 35]
    assert round(inner.RICHARDSON_THRESHOLD, 2) == 11.66
    assert round(inner.DOUBLE_PRODUCT_THRESHOLD, 1) == 39.5
    assert all(math.isclose(inner.expected_floor(kappa), floor) for kappa, floor in inner.FLOORS)
