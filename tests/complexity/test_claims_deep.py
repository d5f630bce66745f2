"""Claims on deep networks: that what is wrong fails, and the helpers that they are measured by."""

import functools
import math
import re

import numpy as np
import pytest

from nearlin.complexity import claims as table
from nearlin.complexity.claims import deep, problems, spectra
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import GaussNewton
from tests.complexity.controls import controls

QUICK = [claim for claim in deep.CLAIMS if claim.quick and claim.how != "time"]
CHECK = {claim.id: claim.measure for claim in deep.CLAIMS}


def test_the_table_holds_them():
    assert set(deep.CLAIMS) <= set(table.CLAIMS)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", claim.id) for claim in deep.CLAIMS)
    assert {claim.number for claim in deep.CLAIMS} == {3, 28, 29, 30, 31, 33}
    assert [claim.id for claim in deep.CLAIMS if claim not in QUICK] == ["kappa-digits-band", "break-even-plan"]


WRONG = {
    "half the sketch": ("kappa-digits", {"ratio": 2}),
    "half the sketch, damped": ("kappa-digits-damped", {"ratio": 2}),
    "few samples are easier than the range": ("kappa-class-averaged-digits", {"size": 13}),
    "with the squared loss the mean is better than nothing": ("kappa-class-averaged-softmax", {"loss": problems.SQUARED}),
    "a wide shallow network is lazy": ("kappa-kept-deep", {"deep": (1024,), "widths": (32,)}),
    "a deep narrow network is not": ("kappa-kept-deep", {"wide": (64, 64, 64), "widths": (32,)}),
    "a damping that stays": (
        "rate-is-accuracy-deep", {"optimizer": functools.partial(GaussNewton, plan="sketch", damping=0.1, guard=False)},
    ),
}  # fmt: skip
SLOW = ("half the sketch", "a damping that stays")


@pytest.mark.parametrize(("name", "given"), controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(name, given):
    assert CHECK[name].given(**given)(False).verdict == FAILS


def test_the_mean_of_the_classes_does_not_pass_for_one_matrix_per_class():
    rows = deep.softmax_blocks(False)
    planted = [{**row, "κ by class": row["κ of Ḡ ⊗ I_c"]} for row in rows]
    assert CHECK["kappa-per-class-softmax"].judge(rows).verdict == HOLDS
    assert CHECK["kappa-per-class-softmax"].judge(planted).verdict == FAILS


def test_what_is_no_better_than_nothing_is_no_worse_either():
    rows = [{**row, "κ of Ḡ ⊗ I_c": row["κ of none"]} for row in deep.softmax_blocks(False)]
    assert CHECK["kappa-class-averaged-softmax"].judge(rows).verdict == FAILS


@pytest.mark.parametrize(
    ("medians", "verdict"), [((8.1, 9.9), HOLDS), ((8.0, 9.0), FAILS), ((9.0, 10.0), FAILS)], ids=["within", "below", "above"]
)
def test_the_band_is_for_medians_over_draws(medians, verdict):
    rows = [
        {"κ_pre": kappa, "κ(G)": x, "activation": "relu", "draw": draw, "a Gaussian sketch's": 9.0}
        for x, median in zip((1e3, 1e4), medians, strict=True)
        for draw, kappa in enumerate((1.0, median, 100.0))
    ]
    singular = [{**row, "κ(G)": 1e13, "κ_pre": math.inf} for row in rows]
    assert CHECK["kappa-digits-band"].judge([*rows, *singular]).verdict == verdict


@pytest.mark.parametrize(
    ("auto", "verdict"), [(1.0, HOLDS), (1.2, HOLDS), (1.4, FAILS), (2.0, FAILS)], ids=["best", "near", "often off", "far"]
)
def test_the_planner_is_compared_with_the_best_route(auto, verdict):
    timer = lambda calls, rounds: {"auto": auto, "exact": 2.0, "sketch": 1.5, "kernel": 1.0}  # noqa: E731
    rows = list(deep.plan_times(False, timer=timer))
    assert CHECK["break-even-plan"].judge(rows).verdict == verdict
    gains = {"gain of auto": 2 / auto, "gain of sketch": 4 / 3, "gain of kernel": 2.0, "gain of the best": 2.0}
    assert all(row[name] == pytest.approx(gain) for row in rows for name, gain in gains.items())


def test_one_size_that_is_far_off_breaks_the_plan():
    rows = [{"m/n": 4, "n": n, "time over the best": 1.0, "at most 1.3 times the best": 1} for n in range(20)]
    rows = [{**row, "gain of auto": 1.0, "gain of the best": 1.0} for row in rows]
    assert CHECK["break-even-plan"].judge([*rows, {**rows[0], "time over the best": 1.61}]).verdict == FAILS
    assert CHECK["break-even-plan"].judge([*rows, {**rows[0], "time over the best": 1.6}]).verdict == HOLDS


def test_the_planner_is_timed_on_steps():
    steps = []
    assert deep._routes(problems.problem(16, 4, 64), GaussNewton(plan="kernel"), 2) == {"kernel"}
    list(deep.plan_times(False, timer=lambda calls, rounds: steps.append(tuple(calls)) or dict.fromkeys(calls, 1.0)))
    assert set(steps) == {("auto", "exact", "sketch", "kernel")}


# ------------------------------------------------------------------------------------------------------------- regimes


@pytest.mark.nightly
def test_a_singular_gram_is_named_and_out_of_regime():
    singular = [row for row in deep.layer_sums(False) if row["κ(G)"] >= spectra.RESOLVED]
    names = ["relu 64-8-8-8-10 raw at the start", "relu 64-8-8-8-10 raw after 4 steps"]
    assert list(dict.fromkeys(row["network"] for row in singular)) == names
    assert all(name in CHECK["kappa-digits"](False).detail for name in names)
    assert CHECK["kappa-digits"].judge(singular).verdict == OUT_OF_REGIME


def test_a_run_that_does_not_arrive_is_out_of_regime():
    stuck = {"optimizer": GaussNewton(damping=1e6, guard=False, plan="kfac"), "size": 10}
    for name in ("kappa-per-class-softmax", "kappa-class-averaged-softmax"):
        assert CHECK[name].given(**stuck)(False).verdict == OUT_OF_REGIME


def test_the_walk_ends_where_it_is_told_to():
    p = problems.on_digits(8, 10, (32,))
    visited = list(problems.walk(p, GaussNewton(plan="exact"), 5))
    assert len(visited) == 6
    assert visited[0][0] is p
    assert visited[-1][1] is None
    losses = [info.new_loss for _, info in visited[:-1]]
    again = list(problems.walk(p, GaussNewton(plan="exact"), 5, until=losses[1]))
    assert len(again) == 3
    np.testing.assert_allclose(float(again[-1][0].objective.at(*again[-1][0][1:]).loss), losses[1])


# ------------------------------------------------------------------------------------------------------------- helpers


def test_a_gaussian_sketch_of_few_rows(rng):
    drawn = [np.linalg.cond(rng.standard_normal((128, 512))) ** 2 for _ in range(20)]
    assert abs(np.median(drawn) / spectra.finite_condition(128, 4) - 1) < 0.04
    assert [round(spectra.finite_condition(n, 4), 1) for n in (128, 256, 512)] == [8.5, 8.7, 8.8]
    assert abs(spectra.finite_condition(10**8, 4) - spectra.gaussian_condition(4)) < 1e-3


def test_blocks(rng):
    grams = [rng.standard_normal((3, 3)) for _ in range(2)]
    np.testing.assert_array_equal(spectra.blocks(grams[:1], 2), np.kron(grams[0], np.eye(2)))
    expected = np.kron(grams[0], np.diag([1.0, 0.0])) + np.kron(grams[1], np.diag([0.0, 1.0]))
    np.testing.assert_array_equal(spectra.blocks(grams, 2), expected)


def test_the_effective_dimension(rng):
    a = rng.standard_normal((6, 9))
    G = a @ a.T
    expected = np.trace(G @ np.linalg.inv(G + 0.3 * np.eye(6)))
    assert math.isclose(spectra.effective_dimension(np.linalg.eigvalsh(G), 0.3), expected)


def test_a_damped_preconditioner_of_itself_is_perfect(rng):
    a = rng.standard_normal((6, 9))
    assert math.isclose(spectra.condition(a @ a.T, a @ a.T, 0.1), 1.0)
    assert math.isclose(spectra.condition(a @ a.T, np.eye(6)), np.linalg.cond(a) ** 2)
