"""Declared checks: planted rows flip the verdict exactly at the bound, and words and curves follow from the rows."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

from nearlin.complexity.claims.bound import REDUCTIONS
from nearlin.complexity.claims.check import Bound, Check, claim
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME


def judged(rows, *bounds, **options):
    return Check(lambda full: rows, *bounds, **options)(False)


def rows_of(values, **more):
    return [{"n": n, "value": value, **more} for n, value in values.items()]


UP, DOWN = (lambda v: math.nextafter(v, math.inf)), (lambda v: math.nextafter(v, -math.inf))


@pytest.mark.parametrize("reduce", ["all", "max", "min", "median", "mean", "first", "last"])
def test_the_verdict_flips_exactly_at_the_bound(reduce):
    bound = Bound("value", low=0.25, high=0.5, over="n", reduce=reduce)
    for value, verdict in ((0.25, HOLDS), (0.5, HOLDS), (DOWN(0.25), FAILS), (UP(0.5), FAILS)):
        assert judged(rows_of({1: value}), bound).verdict == verdict


@pytest.mark.parametrize(
    ("reduce", "x", "y", "value"),
    [
        ("all", (1, 2, 4), (3, 1, 2), (1, 3)),
        ("max", (1, 2, 4), (3, 1, 2), (3,)),
        ("min", (1, 2, 4), (3, 1, 2), (1,)),
        ("median", (1, 2, 4), (3, 1, 2), (2,)),
        ("mean", (1, 2, 4), (3, 1, 5), (3,)),
        ("geometric mean", (1, 2), (2, 8), (4,)),
        ("first", (1, 2, 4), (3, 1, 2), (3,)),
        ("last", (1, 2, 4), (3, 1, 2), (2,)),
        ("spread", (1, 2, 4), (3, 1, 2), (3,)),
        ("share", (1, 2, 4, 5), (True, False, True, True), (0.75,)),
        ("degree", (2, 4, 6, 8), (12, 40, 84, 144), (2,)),
        ("leading", (2, 4, 6, 8), (12, 40, 84, 144), (2,)),
        ("exponent", (1, 2, 4, 8), (5, 20, 80, 320), (2,)),
    ],
)
def test_reductions_are_the_numbers_that_they_say(reduce, x, y, value):
    assert REDUCTIONS[reduce].of(x, y) == pytest.approx(value)
    exact = reduce in ("degree", "leading")
    near = {"equal": value[0]} if exact else {"low": min(value) - 1e-9, "high": max(value) + 1e-9}
    rows = [{"n": n, "value": v} for n, v in zip(x, y, strict=True)]
    assert judged(rows[::-1], Bound("value", over="n", reduce=reduce, **near)).verdict == HOLDS
    off = {"equal": value[0] + 1} if exact else {"low": max(value) + 1e-6}
    assert judged(rows, Bound("value", over="n", reduce=reduce, **off)).verdict == FAILS


def test_every_reduction_is_tested_here():
    tested = {mark for mark in REDUCTIONS if not mark.startswith("interval")}
    assert tested == {
        "all", "max", "min", "median", "mean", "geometric mean", "first", "last", "spread", "share", "degree", "leading",
        "exponent",
    }  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("reduce", [name for name in REDUCTIONS if name != "share"])
def test_what_is_not_finite_keeps_no_bound(bad, reduce):
    values = {n: n for n in (4, 8, 16, 32, 64, 128, 256, 512)}
    assert judged(rows_of({**values, 32: bad}), Bound("value", low=-1e300, over="n", reduce=reduce)).verdict == FAILS
    assert judged(rows_of({**values, 32: bad}), Bound("value", high=1e300, over="n", reduce=reduce)).verdict == FAILS


def test_a_sweep_without_rows_holds_nothing():
    outcome = judged([], Bound("value", high=1.0))
    assert outcome.verdict == FAILS
    assert outcome.detail
    assert judged([{"other": 0.0}], Bound("value", high=1.0)).verdict == FAILS
    assert judged([], Bound("value", high=1.0), among=(Bound("value", high=1.0),)).verdict == FAILS


def test_counts_that_are_no_polynomial_have_no_degree():
    rows = rows_of({n: 2**n for n in (1, 2, 3, 4, 5)})
    assert judged(rows, Bound("value", high=100, over="n", reduce="degree")).verdict == FAILS


def test_every_group_is_judged_by_its_own_bound():
    rows = [{"n": n, "value": n**p, "part": f"n^{p}", "expected": p} for p in (1, 2) for n in (2, 4, 6, 8)]
    bound = Bound("value", equal="expected", over="n", by="part", reduce="degree")
    outcome = judged(rows, bound)
    assert outcome.verdict == HOLDS
    assert [one.label for one in outcome.series] == ["n^1", "n^2"]
    outcome = judged([{**row, "expected": 1} for row in rows], bound)
    assert outcome.verdict == FAILS
    assert "n^2: degree of value in n is 2, expected 1" in outcome.detail


def test_draws_are_reduced_before_sizes():
    rows = [{"n": n, "draw": draw, "value": n + draw} for n in (1, 2) for draw in (0, 10, 100)]
    for draws, largest in (("max", 102), ("min", 2), ("median", 12), ("mean", 2 + 110 / 3)):
        assert judged(rows, Bound("value", low=largest, high=largest, over="n", draws=draws, reduce="max")).verdict == HOLDS
    assert judged(rows, Bound("value", high=101, over="n", reduce="all")).verdict == FAILS


def test_a_quotient_is_taken_row_by_row_and_drawn_beside_its_divisor():
    rows = [{"n": n, "kappa": n * n, "limit": n} for n in (2, 4)]
    outcome = judged(rows, Bound("kappa", low=2, high=4, over="n", per="limit"))
    assert outcome.verdict == HOLDS
    (one,) = outcome.series
    assert (one.y, one.predicted, one.low, one.high) == ((4, 16), None, (4, 8), (8, 16))
    assert one.bound == "bounds: 2 to 4 times limit"
    assert judged(rows, Bound("kappa", low=2, high=3.99, over="n", per="limit")).verdict == FAILS


def test_a_bound_on_a_coefficient_draws_no_level_and_its_curve_once():
    rows = [{"n": n, "flops": 2 * n**2, "coefficient": 2} for n in (2, 3, 4, 5)]
    leading = Bound("flops", equal="coefficient", over="n", reduce="leading")
    assert [one.predicted for one in judged(rows, leading).series] == [None]
    degree = Bound("flops", equal=2, over="n", reduce="degree")
    for bounds in ((degree, leading), (leading, degree)):
        (one,) = judged(rows, *bounds).series
        assert one.predicted == pytest.approx((8, 18, 32, 50))


def test_what_is_predicted_follows_from_the_bounds_and_not_from_what_was_measured():
    """A power through the middle, a polynomial through the first counts, or a column."""
    predicted = lambda rows, **bound: judged(rows, Bound("value", over="n", **bound)).series[0].predicted  # noqa: E731
    rows = rows_of({2: 3.0, 4: 5.0, 16: 400.0})
    power = np.log(predicted(rows, low=1.0, high=2.0, reduce="exponent"))
    assert np.diff(power) == pytest.approx([1.5 * math.log(2), 1.5 * math.log(4)])
    assert np.sum(power) == pytest.approx(math.log(3 * 5 * 400))
    assert predicted(rows_of({1: 3, 2: 5, 4: 400}), equal=1, reduce="degree") == pytest.approx((3, 5, 9))
    squares = [{"n": n, "value": 2 * n**2, "limit": n} for n in (1, 2, 3, 4)]
    assert predicted(squares, equal=2, reduce="degree", beside="limit") == pytest.approx((2, 8, 18, 32))
    assert predicted(squares, low=0.5, high=9, per="limit") == (1, 2, 3, 4)
    assert predicted(squares, low=0.5, beside="limit") == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("bound", "says", "low", "high"),
    [
        ({"low": 1.0, "high": 500.0}, "bounds: 1 to 500", (1.0,) * 3, (500.0,) * 3),
        ({"high": 500.0}, "bound: at most 500", None, (500.0,) * 3),
        ({"low": 0.5}, "bound: at least 0.5", (0.5,) * 3, None),
        ({"low": "least", "high": "most"}, "bounds: least to most", (1.0,) * 3, (20.0, 40.0, 160.0)),
        ({"high": 1, "per": "most"}, "upper bound: most", None, (20.0, 40.0, 160.0)),
        ({"high": "most"}, "upper bound: most", None, (20.0, 40.0, 160.0)),
        ({"low": "least", "reduce": "max"}, "lower bound: largest least", (1.0,) * 3, None),
        ({"low": 0.5, "per": "most"}, "bound: at least 0.5 times most", (10.0, 20.0, 80.0), None),
        ({"high": 9.0, "reduce": "last"}, "bound: last at most 9", None, (9.0,) * 3),
        ({"high": 9.0, "beside": "most"}, "bound: at most 9", None, (9.0,) * 3),
        ({"equal": 1, "per": "most"}, "", None, None),
        ({"low": 0.9, "high": 1.1, "reduce": "exponent"}, "", None, None),
        ({}, "", None, None),
    ],
)
def test_bounds_are_drawn_as_bounds(bound, says, low, high):
    rows = [{**row, "least": 1.0, "most": 10.0 * row["n"]} for row in rows_of({2: 3.0, 4: 5.0, 16: 400.0})]
    one = judged(rows, Bound("value", over="n", **bound), Bound("n", low=0)).series[0]
    assert (one.bound, one.low, one.high) == (says, low, high)


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        ({"equal": 1, "per": "most"}, "most"),
        ({"equal": 2.0}, "2"),
        ({"high": 9.0, "beside": "most"}, "most"),
        ({"low": 0.9, "high": 1.1, "per": "most"}, "most"),
        ({"equal": 1, "reduce": "degree"}, "degree 1, through the first counts"),
        ({"equal": "most", "reduce": "degree"}, "expected degree, through the first counts"),
        ({"low": 0.9, "high": 1.1, "reduce": "exponent"}, "exponent 0.9 to 1.1, through the middle"),
        ({"high": 2.1, "reduce": "exponent"}, "exponent at most 2.1, through the middle"),
    ],
)
def test_what_is_predicted_is_named(bound, says):
    rows = [{**row, "most": 3} for row in rows_of({2: 3.0, 4: 5.0, 16: 400.0})]
    one = judged(rows, Bound("value", over="n", **bound), Bound("n", low=0)).series[0]
    assert one.says == says
    assert len(one.predicted) == 3


def test_curves_by_a_number_are_named_with_what_it_is():
    rows = [{"n": n, "value": 1.0, "d": d, "kind": f"kind {d}", "digits": str(d), "ray": (d, 1)} for n in (1, 2) for d in (8, 16)]
    labels = lambda by: [one.label for one in judged(rows, Bound("value", high=2.0, over="n", by=by)).series]  # noqa: E731
    assert labels("d") == ["d = 8", "d = 16"]
    assert labels("digits") == ["digits = 8", "digits = 16"]
    assert labels("ray") == ["ray (8, 1)", "ray (16, 1)"]
    assert labels("kind") == ["kind 8", "kind 16"]
    assert labels("") == ["value"]


def test_a_missed_regime_comes_before_a_failure():
    rows = [{"value": 2.0, "flips": 0.2}]
    assert judged(rows, Bound("value", high=1.0), regime=(Bound("flips", high=0.1),)).verdict == OUT_OF_REGIME
    assert judged(rows, Bound("value", high=1.0), regime=(Bound("flips", high=0.2),)).verdict == FAILS
    assert judged([{"value": 1.0, "flips": math.nan}], Bound("value", high=1.0), regime=(Bound("flips", high=1),)).verdict == (
        OUT_OF_REGIME
    )


def test_single_rows_out_of_regime_are_named_and_left_out():
    rows = [{"family": "sphere", "value": 1.0, "kappa": 10.0}, {"family": "circle", "value": 9.0, "kappa": 1e13}]
    among, bound = (Bound("kappa", high=1e12),), Bound("value", high=2.0)
    outcome = judged(rows, bound, among=among)
    assert outcome.verdict == HOLDS
    assert "1 of 2 rows left out (family = circle)" in outcome.detail
    assert judged(rows[1:], bound, among=among).verdict == OUT_OF_REGIME
    assert judged([{**rows[0], "value": 3.0}], bound, among=among).verdict == FAILS


def test_value_and_detail_say_what_was_found_where_and_what_was_expected():
    outcome = judged(rows_of({8: 0.25, 16: 0.75}, d=4), Bound("value", high=0.5, over="n"))
    assert outcome.value == "value 0.25 to 0.75"
    assert outcome.detail == "value is 0.25 to 0.75 (at n = 16), expected at most 0.5; n = 8, 16; d = 4"
    assert outcome.series[0].high == (0.5, 0.5)


def test_exact_numbers_are_compared_and_written_exactly():
    rows = [{"n": n, "value": Fraction(n, 3)} for n in (1, 2, 3, 4)]
    bound = Bound("value", equal=Fraction(1, 3), over="n", reduce="leading")
    assert judged(rows, bound).value == "leading coefficient of value in n 1/3"
    rows[-1]["value"] += Fraction(1, 10**30)
    assert judged(rows, bound).verdict == FAILS


def timed(power, noise, floor=0.0):
    rng = np.random.default_rng(0)
    return rows_of({n: (floor + float(n) ** power) * (1 + noise * rng.standard_normal()) for n in (2**k for k in range(4, 14))})


@pytest.mark.parametrize("reduce", ["interval", "interval, no floor"])
def test_an_interval_holds_where_it_meets_the_bounds_and_is_narrow(reduce):
    bound = partial(Bound, "value", low=1, high=1, over="n", reduce=reduce)
    rows = timed(1, 0.01)
    low, high = REDUCTIONS[reduce].of([row["n"] for row in rows], [row["value"] for row in rows])
    assert judged(rows, bound(halfwidth=(high - low) / 2)).verdict == HOLDS
    assert judged(rows, bound(halfwidth=0.499 * (high - low))).verdict == OUT_OF_REGIME
    assert judged(timed(2, 0.01), bound(halfwidth=1e-9)).verdict == FAILS
    for end, outside in ((low, -math.inf), (high, math.inf)):
        assert judged(rows, Bound("value", end, end, over="n", reduce=reduce)).verdict == HOLDS
        beyond = math.nextafter(end, outside)
        assert judged(rows, Bound("value", beyond, beyond, over="n", reduce=reduce)).verdict == FAILS
    assert judged(timed(1.2, 0.005), Bound("value", low=0.8, high=1.25, over="n", reduce=reduce)).verdict == HOLDS


def test_a_floor_does_not_bend_the_interval():
    rows = timed(1, 0.005, floor=50)
    bound = Bound("value", low=1, high=1, over="n", reduce="interval", halfwidth=0.1)
    assert judged(rows, bound).verdict == HOLDS


def test_a_check_that_cannot_fail_is_refused():
    with pytest.raises(ValueError, match="no bound that could be missed"):
        Check(lambda full: [], Bound("value"))
    with pytest.raises(ValueError, match="reduce is 'maximum'"):
        Bound("value", reduce="maximum")


def test_a_column_without_bounds_is_drawn_and_not_judged():
    rows = [{**row, "other": 1.0} for row in rows_of({1: 1.0, 2: 9.0})]
    outcome = judged(rows, Bound("other", over="n"), Bound("value", low=1.0, reduce="first", over="n"))
    assert outcome.verdict == HOLDS
    assert [(one.predicted, one.low) for one in outcome.series] == [(None, None), (None, (1.0, 1.0))]


def test_a_curve_that_two_bounds_judge_is_drawn_once():
    rows = [{"n": n, "value": 2.0, "limit": 2.0} for n in (1, 2)]
    level, share = Bound("value", high=3.0, over="n"), Bound("value", equal=1, per="limit", over="n")
    for bounds in ((level, share), (share, level)):
        (one,) = judged(rows, *bounds).series
        assert (one.predicted, one.says, one.high, one.bound) == ((2.0, 2.0), "limit", (3.0, 3.0), "bound: at most 3")


def test_other_options_take_the_place_of_what_is_under_test():
    check = Check(lambda full, value=1.0: [{"value": value if full else 0.0}], Bound("value", high=1.0))
    assert check(True).verdict == HOLDS
    assert check.given(value=2.0)(True).verdict == FAILS
    assert check.given(value=2.0)(False).verdict == HOLDS


def test_what_is_measured_and_expected_is_said_by_the_sweep_and_the_bounds():
    def sweep(full, gain=1.0):
        """Losses over ``n``,
        and more.

        Only this is left out.
        """
        return [{"n": 1, "loss": gain}]

    bounds = Bound("loss", high=0.5, over="n"), Bound("loss", 1.9, 2.1, over="n", reduce="exponent"), Bound("drawn")
    made = claim("a", 0, "family", "derived", "It falls.", "always", partial(sweep, gain=0.1), *bounds)
    assert made.quantity == "Losses over n, and more"
    assert made.expected == "loss: at most 0.5; exponent of loss in n: 1.9 to 2.1"
    assert (made.how, made.quick, made.condition) == ("convergence", True, "always")
    timed = claim("a", 0, "family", "derived", "It falls.", "always", sweep, bounds[0], how="time", expected="little")
    assert (timed.expected, timed.quick) == ("little", False)
