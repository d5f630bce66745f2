"""Claims on deep networks: their quick verdicts, that what is wrong fails, and the helpers that they are measured by."""

import functools
import math
import re

import numpy as np
import pytest

from nearlin.complexity import claims as table
from nearlin.complexity.claims import deep, preconditioning
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import GaussNewton

QUICK = [claim for claim in deep.CLAIMS if claim.quick and claim.how != "time"]


@pytest.mark.nightly
@pytest.mark.parametrize("claim", QUICK, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted or series.y)


def test_the_table_holds_them():
    assert set(deep.CLAIMS) <= set(table.CLAIMS)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", claim.id) for claim in deep.CLAIMS)
    assert {claim.number for claim in deep.CLAIMS} == {3, 28, 29, 30, 31, 32, 33}
    assert [claim.id for claim in deep.CLAIMS if claim not in QUICK] == ["kappa-digits-band", "break-even-plan"]


MEASURE = {claim.id: claim.measure for claim in deep.CLAIMS}


def uncorrected(p, corrections):
    return deep.corrected(p, 0)


def rounded(p, corrections):
    u, summed = deep.corrected(p, corrections)
    return u.astype("float32").astype("float64"), summed


WRONG = {
    "half the sketch": functools.partial(deep.layer_sum_on_digits, ratio=2),
    "half the sketch, damped": functools.partial(deep.damped_on_digits, ratio=2),
    "a narrower band": functools.partial(deep.layer_sum_band, low=8.5),
    "few samples are easier than the range": functools.partial(deep.averaged_on_digits, size=13),
    "with the squared loss the mean is better than nothing": functools.partial(deep.averaged_on_softmax, loss=deep.SQUARED),
    "classes are no exact preconditioner": functools.partial(deep.per_class_on_softmax, limit=2.0),
    "a wide shallow network is lazy": functools.partial(deep.kept_on_deep, deep=(1024,), widths=(32,)),
    "a deep narrow network is not": functools.partial(deep.kept_on_deep, wide=(64, 64, 64), widths=(32,)),
    "an eighth of the effective dimension": functools.partial(deep.nystrom_rank, rank=lambda d: math.ceil(d / 8), limit=28.0),
    "an error of a thousandth": functools.partial(deep.adaptive_rank, accuracy=2e-3),
    "as many rows as effective dimensions": functools.partial(deep.rows_by_dimension, ratio=1.0),
    "no correction": functools.partial(deep.float64_correction, correct=uncorrected),
    "u in float32": functools.partial(deep.float64_correction, correct=rounded),
    "a step with its residual in float32": functools.partial(
        deep.float64_step, optimizer=functools.partial(GaussNewton, plan="sketch")
    ),
    "a damping that stays": MEASURE["rate-is-accuracy-deep"].given(
        optimizer=functools.partial(GaussNewton, plan="sketch", damping=0.1, guard=False)
    ),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


@pytest.mark.parametrize(
    ("auto", "verdict"), [(1.0, HOLDS), (1.2, HOLDS), (1.4, FAILS), (2.0, FAILS)], ids=["best", "near", "often off", "far"]
)
def test_the_planner_is_compared_with_the_best_route(auto, verdict):
    timer = lambda calls, rounds: {"auto": auto, "exact": 2.0, "sketch": 1.5, "kernel": 1.0}  # noqa: E731
    outcome = deep.planner_break_even(False, timer=timer)
    assert outcome.verdict == verdict
    assert f"auto {2 / auto:.2f}, sketch 1.33, kernel 2.00" in outcome.detail


def test_the_planner_is_timed_on_steps():
    steps = []
    assert deep._routes(deep.cost.problem(16, 4, 64), GaussNewton(plan="kernel"), 2) == {"kernel"}
    deep.planner_break_even(False, timer=lambda calls, rounds: steps.append(tuple(calls)) or dict.fromkeys(calls, 1.0))
    assert set(steps) == {("auto", "exact", "sketch", "kernel")}


# ------------------------------------------------------------------------------------------------------------- regimes


def test_a_singular_gram_is_named_and_out_of_regime():
    found = deep.sketches_on_digits(False, deep.KRONECKER, 4)
    singular = [one for one in found if one.kappa >= preconditioning.RESOLVED]
    assert [one.label for one in singular] == ["relu 64-8-8-8-10, raw, start", "relu 64-8-8-8-10, raw, 4 steps"]
    assert all(one.rank < one.rows for one in singular)
    assert "64-8-8-8-10" in deep.layer_sum_on_digits(False).detail
    alone = deep._judged_medians(singular, lambda medians, off: True)
    assert alone.verdict == OUT_OF_REGIME
    assert alone.detail.startswith("out of regime, as the rows")


def test_a_run_that_does_not_arrive_is_out_of_regime():
    stuck = GaussNewton(damping=1e6, guard=False, plan="kfac")
    assert deep.per_class_on_softmax(False, optimizer=stuck, size=10).verdict == OUT_OF_REGIME
    assert deep.averaged_on_softmax(False, optimizer=stuck, size=10).verdict == OUT_OF_REGIME


def test_the_walk_ends_where_it_is_told_to():
    p = deep.on_digits(8, 10, (32,))
    visited = list(deep.walk(p, GaussNewton(plan="exact"), 5))
    assert len(visited) == 6
    assert visited[0][0] is p
    assert visited[-1][1] is None
    losses = [info.new_loss for _, info in visited[:-1]]
    again = list(deep.walk(p, GaussNewton(plan="exact"), 5, until=losses[1]))
    assert len(again) == 3
    np.testing.assert_allclose(float(again[-1][0].objective.at(*again[-1][0][1:]).loss), losses[1])


# ------------------------------------------------------------------------------------------------------------- helpers


def test_a_gaussian_sketch_of_few_rows(rng):
    drawn = [np.linalg.cond(rng.standard_normal((128, 512))) ** 2 for _ in range(20)]
    assert abs(np.median(drawn) / preconditioning.finite_condition(128, 4) - 1) < 0.04
    assert [round(preconditioning.finite_condition(n, 4), 1) for n in (128, 256, 512)] == [8.5, 8.7, 8.8]
    assert abs(preconditioning.finite_condition(10**8, 4) - preconditioning.gaussian_condition(4)) < 1e-3


def test_blocks(rng):
    grams = [rng.standard_normal((3, 3)) for _ in range(2)]
    np.testing.assert_array_equal(preconditioning.blocks(grams[:1], 2), np.kron(grams[0], np.eye(2)))
    expected = np.kron(grams[0], np.diag([1.0, 0.0])) + np.kron(grams[1], np.diag([0.0, 1.0]))
    np.testing.assert_array_equal(preconditioning.blocks(grams, 2), expected)


def test_the_effective_dimension(rng):
    a = rng.standard_normal((6, 9))
    G = a @ a.T
    expected = np.trace(G @ np.linalg.inv(G + 0.3 * np.eye(6)))
    assert math.isclose(preconditioning.effective_dimension(np.linalg.eigvalsh(G), 0.3), expected)


def test_a_damped_preconditioner_of_itself_is_perfect(rng):
    a = rng.standard_normal((6, 9))
    assert math.isclose(preconditioning.damped_condition(a @ a.T, a @ a.T, 0.1), 1.0)
    assert math.isclose(preconditioning.damped_condition(a @ a.T, np.eye(6)), np.linalg.cond(a) ** 2)


def test_nystrom_of_full_rank_is_perfect():
    _, _, G, dampings = deep.decaying(False)[1]
    P, kappa = deep._nystrom(G, dampings[0], 0, rank=len(G), max_rank=len(G), accuracy=0.0)
    assert P.rank == len(G)
    assert kappa == pytest.approx(1.0, rel=1e-6)


@pytest.fixture(scope="module")
def small():
    """tanh on 40 Gaussian points."""
    return deep._single(np.random.default_rng(0).standard_normal((40, 2)), "tanh", 32)


def test_the_exact_step_is_that_of_the_singular_values(small):
    p = deep.precise(small, share=1e-4)
    U, s, Vt = np.linalg.svd(p.outer.to_dense(), full_matrices=False)
    step = Vt.T @ (s / (s**2 + p.damping) * (U.T @ p.b))
    assert s[0] ** 2 == pytest.approx(p.damping / 1e-4, rel=1e-6)
    np.testing.assert_allclose(np.concatenate([V.ravel() for V in p.step]), step, rtol=1e-8, atol=1e-9 * np.abs(step).max())


def test_float32_is_enough_for_a_large_damping_and_not_for_a_small_one(small):
    well, ill = deep.precise(small, share=1e-2), deep.precise(small, share=1e-8)
    assert deep.gram_error(well) < 1e-4
    assert deep.gram_error(ill) > 1e-2
    u, summed = deep.corrected(ill, 1)
    assert u.dtype == np.float64
    assert deep.step_error(ill, ill.outer.rmatvec(u)) < 1e-7
    assert deep.step_error(ill, summed) > 1e-6
    assert deep.step_error(ill, ill.step) == 0
