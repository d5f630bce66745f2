"""Claims on damped systems: that what is wrong fails, and the helpers that they are measured by."""

import functools
import math

import numpy as np
import pytest

from nearlin.complexity import claims as table
from nearlin.complexity.claims import damped
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import GaussNewton
from tests.complexity.controls import controls

CHECK = {claim.id: claim.measure for claim in damped.CLAIMS}


def test_the_table_holds_them():
    assert set(damped.CLAIMS) <= set(table.CLAIMS)
    assert {claim.number for claim in damped.CLAIMS} == {28, 32}


def uncorrected(p, corrections):
    return damped.corrected(p, 0)


def rounded(p, corrections):
    u, summed = damped.corrected(p, corrections)
    return u.astype("float32").astype("float64"), summed


WRONG = {
    "an eighth of the effective dimension": ("nystrom-rank", {"rank": lambda d: math.ceil(d / 8)}),
    "an error of a thousandth": ("nystrom-adaptive-rank", {"accuracy": 2e-3}),
    "as many rows as effective dimensions": ("kappa-rows-by-dimension", {"ratio": 1.0}),
    "no correction": ("float64-correction", {"correct": uncorrected}),
    "u in float32": ("float64-correction", {"correct": rounded}),
    "a step with its residual in float32": ("float64-step", {"optimizer": functools.partial(GaussNewton, plan="sketch")}),
}
SLOW = ("a step with its residual in float32",)


@pytest.mark.parametrize(("name", "given"), controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(name, given):
    assert CHECK[name].given(**given)(False).verdict == FAILS


@pytest.mark.parametrize(
    ("column", "value"),
    [("the same with Jᵀu in float32", 9e-7), ("error by the Gram matrix", 9e-3), ("error after one", math.nan)],
)
def test_float32_has_to_lose_what_the_claim_says_that_it_loses(column, value):
    rows = [{"error after one": 1e-8, "the same with Jᵀu in float32": 1e-3, "error by the Gram matrix": 1.0}]
    assert CHECK["float64-correction"].judge(rows).verdict == HOLDS
    assert CHECK["float64-correction"].judge([{**rows[0], column: value}]).verdict == FAILS


def test_the_step_is_judged_at_the_smallest_epsilon():
    rows = [{"system": "s", "ε": epsilon, "error of the step": error} for epsilon, error in ((1e-2, 1e-2), (1e-6, 1e-7))]
    assert CHECK["float64-step"].judge(rows).verdict == HOLDS
    assert CHECK["float64-step"].judge([{**row, "error of the step": 2e-6} for row in rows]).verdict == FAILS


def test_a_rank_that_is_that_of_the_system_is_out_of_regime():
    assert CHECK["nystrom-rank"].given(rank=lambda d: 512, draws=1)(False).verdict == OUT_OF_REGIME


# ------------------------------------------------------------------------------------------------------------- helpers


def test_nystrom_of_full_rank_is_perfect():
    system = damped.decaying(False)[-1]
    n = len(system.G)
    P, kappa = damped._nystrom(system, 0, rank=n, max_rank=n, accuracy=0.0)
    assert P.rank == n
    assert kappa == pytest.approx(1.0, rel=1e-6)


@pytest.fixture(scope="module")
def small():
    """tanh on 40 Gaussian points."""
    return damped._single(np.random.default_rng(0).standard_normal((40, 2)), "tanh", 32)


def test_the_exact_step_is_that_of_the_singular_values(small):
    p = damped.precise(small, share=1e-4)
    U, s, Vt = np.linalg.svd(p.outer.to_dense(), full_matrices=False)
    step = Vt.T @ (s / (s**2 + p.damping) * (U.T @ p.b))
    assert s[0] ** 2 == pytest.approx(p.damping / 1e-4, rel=1e-6)
    np.testing.assert_allclose(np.concatenate([V.ravel() for V in p.step]), step, rtol=1e-8, atol=1e-9 * np.abs(step).max())


def test_float32_is_enough_for_a_large_damping_and_not_for_a_small_one(small):
    well, ill = damped.precise(small, share=1e-2), damped.precise(small, share=1e-8)
    assert damped.gram_error(well) < 1e-4
    assert damped.gram_error(ill) > 1e-2
    u, summed = damped.corrected(ill, 1)
    assert u.dtype == np.float64
    assert damped.step_error(ill, ill.outer.rmatvec(u)) < 1e-7
    assert damped.step_error(ill, summed) > 1e-6
    assert damped.step_error(ill, ill.step) == 0
