"""Claims on cost: their quick verdicts, that wrong counts and times are caught, and the timing itself."""

import functools
import math
import time

import numpy as np
import pytest

from nearlin.complexity import cost as closed
from nearlin.complexity.claims import cost
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import GramGaussNewton

QUICK = [claim for claim in cost.CLAIMS if claim.quick]
TIMED = [claim for claim in cost.CLAIMS if not claim.quick]


@pytest.mark.parametrize("claim", QUICK, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted)


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert all(claim.how == "time" for claim in TIMED)
    assert all(claim.how != "time" for claim in QUICK)
    assert {claim.number for claim in cost.CLAIMS} == {0, 4, 5, 6, 7, 15, 33}


# -------------------------------------------------------------------------------------------------------------- counts


def quadratic_step(p, _):
    """A step that also forms products of all pairs of neurons."""
    (W,) = p.params
    return cost.PARTS["whole step"](p, _) + cost.flops(lambda: W @ W.T)


def doubled(*args, **kwargs):
    """The formula with one constant wrong."""
    parts = closed.near_linear_step(*args, **kwargs)
    return {**parts, "certificate": 2 * parts["certificate"]}


def outer_sketch(J, S):
    """A sketch that forms the Jacobian's rows first."""
    J.to_dense()
    return J.sketch(S)


class PlainRows:
    """A sketch of factors whose cost has no logarithm."""

    def sample(self, key, s, shapes, like):
        return self

    def rows(self, layer, left, right):
        return left @ left.T * (right @ right.T)


WRONG = {
    "a quadratic step is not linear in m": functools.partial(
        cost.degrees, wanted=cost.WIDTH, parts={**cost.PARTS, "whole step": quadratic_step}
    ),
    "the structured Gram is not linear in n": functools.partial(cost.degrees, wanted={("structured Gram", "n"): 1}),
    "one wrong constant": functools.partial(cost.closed_form, formula=doubled),
    "the tail of another part": functools.partial(cost.cubic_tail, parts={"whole step": cost.PARTS["factorisation"]}),
    "a structured Gram is not naive": functools.partial(cost.naive_ratio, naive=lambda J: J.factors(slice(0, J.samples))[0].left),
    "no logarithm": functools.partial(cost.kronecker_counts, sketch=PlainRows()),
    "rows of the Jacobian in memory": functools.partial(cost.sketch_memory, sketch=outer_sketch),
    "the exact step holds n m floats": functools.partial(cost.step_memory, opt=GramGaussNewton()),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_a_quadratic_step_is_named():
    outcome = WRONG["a quadratic step is not linear in m"](False)
    assert "whole step has degree 2 in m" in outcome.detail


# --------------------------------------------------------------------------------------------------------------- times


def timer_of(power, floor=0.0, noise=0.0):
    """A timer that makes up times with a power of the size."""

    def timer(calls, rounds=1, budget=0.0):
        rng = np.random.default_rng(0)
        return {size: (floor + 1e-9 * float(size) ** power) * (1 + noise * rng.standard_normal()) for size in calls}

    return timer


EXPONENTS = {cost.step_time: 1, cost.product_time: 1, cost.factorisation_time: 3, cost.gram_time: 2}


@pytest.fixture
def small(monkeypatch):
    """Problems of the smallest size, whatever is asked for: what is made here is not run."""
    make = cost.problem
    monkeypatch.setattr(cost, "problem", lambda n, d, m, *args: make(8, 2, 16, *args))
    monkeypatch.setattr(cost.data, "sphere", lambda n, d, key, make=cost.data.sphere: make(8, 2, key))


@pytest.mark.parametrize(("measure", "power"), EXPONENTS.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_made_up_times(small, measure, power):
    assert measure(True, timer=timer_of(power, floor=1e-6, noise=0.01)).verdict == HOLDS
    assert measure(True, timer=timer_of(power + 1)).verdict == FAILS
    assert measure(True, timer=timer_of(power - 0.5)).verdict == FAILS


def test_quadratic_times_fail_the_linear_claim_with_noise_and_floor(small):
    assert cost.step_time(True, timer=timer_of(2, floor=1e-3, noise=0.03)).verdict == FAILS


def test_noise_is_no_failure(small):
    outcome = cost.step_time(True, timer=timer_of(1, noise=0.2))
    assert outcome.verdict == OUT_OF_REGIME
    assert "too noisy to tell" in outcome.detail


def test_growth_of_the_sketch(monkeypatch):
    monkeypatch.setattr(cost.data, "sphere", lambda n, d, key: np.zeros((n, d)))
    log = lambda calls, rounds: {m: 1e-9 * m * math.log(m) for m in calls}  # noqa: E731
    assert cost.kronecker_time(True, timer=log).verdict == HOLDS
    assert cost.kronecker_time(True, timer=timer_of(2)).verdict == FAILS


def gains(threshold_n, threshold_ratio):
    """Gains that pass 1 at given sizes."""
    return lambda n, m: (n / threshold_n) if m == 32 * n else (m / n / threshold_ratio)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (gains(256, 4.3), HOLDS),
        (gains(20, 0.5), HOLDS),
        (gains(700, 4.3), FAILS),
        (gains(256, 11), FAILS),
        (gains(1e9, 1e9), FAILS),
    ],
)
def test_break_even(gain, verdict):
    sizes = cost.BreakEven((64, 128, 256, 512, 1024), (1, 2, 4, 8, 16), 1000)
    assert cost.break_even(sizes, gain, lambda: 4, 2.0, "made up").verdict == verdict


def test_crossing_is_the_last_one():
    assert cost.crossing((1, 2, 4, 8), (0.5, 2.0, 0.5, 2.0)) == pytest.approx(2**2.5)
    assert cost.crossing((1, 2), (1.5, 2.0)) == 1
    assert cost.crossing((1, 2), (0.5, 0.9)) == math.inf


def test_a_full_gram_product_breaks_even_elsewhere():
    assert cost.break_even_counted(False).value != cost.break_even_counted(False, rank_k=False).value


def test_interleaved_takes_minima_of_processor_time():
    spins = iter([200_000, 0, 0, 0])
    seconds = cost.interleaved({"spin": lambda: sum(range(next(spins))), "sleep": lambda: time.sleep(0.01)}, rounds=4)
    assert seconds["spin"] < 1e-3
    assert seconds["sleep"] < 5e-3


def test_interleaved_stops_at_its_budget_after_two_rounds():
    calls = []
    cost.interleaved({0: lambda: calls.append(0)}, rounds=50, budget=0.0)
    assert len(calls) == 2


def test_sizes_are_no_powers_of_two():
    sizes = cost.geometric(512, 8192)
    assert len(sizes) == 8
    assert (sizes[0], sizes[-1]) == (520, 8200)
    assert all(n % 16 == 8 for n in sizes)
