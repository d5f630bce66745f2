"""Claims on time: that wrong times are caught, the timing itself, and from which sizes sketched steps pay."""

import functools
import math
import time

import numpy as np
import pytest

from nearlin.complexity.claims import cost, timing
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME
from nearlin.optim import NearLinearGaussNewton

MEASURE = {claim.id: claim.measure for claim in timing.CLAIMS}


@pytest.mark.nightly
def test_the_quick_claim_on_break_even_holds():
    assert MEASURE["break-even-flops"](False).verdict == HOLDS


def test_twice_the_iterations_pay_later():
    check = MEASURE["break-even-flops"]
    twice = NearLinearGaussNewton(epsilon=1e-12, maxiter=8, guard=False, sketch=cost.KRONECKER)
    later = check.given(grid=lambda full: ([(224, 4, 32)], []), gain=functools.partial(timing.counted_gain, near=twice))
    assert later(False).verdict == FAILS


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert [claim.id for claim in timing.CLAIMS if claim.quick] == ["break-even-flops"]
    assert all((claim.how == "time") != claim.quick for claim in (*cost.CLAIMS, *timing.CLAIMS))
    assert {claim.number for claim in (*cost.CLAIMS, *timing.CLAIMS)} == {0, 4, 5, 6, 7, 15, 33}


def timer_of(power, floor=0.0, noise=0.0):
    """A timer that makes up times with a power of the size."""

    def timer(calls, rounds=1, budget=0.0):
        rng = np.random.default_rng(0)
        return {size: (floor + 1e-9 * float(size) ** power) * (1 + noise * rng.standard_normal()) for size in calls}

    return timer


EXPONENTS = {"step-time-in-width": 1, "product-time-in-samples": 1, "factorisation-time": 3, "gram-time-in-samples": 2}


@pytest.fixture
def small(monkeypatch):
    """Problems of the smallest size, whatever is asked for: what is made here is not run."""
    make = timing.problem
    monkeypatch.setattr(timing, "problem", lambda n, d, m, *args: make(8, 2, 16, *args))
    monkeypatch.setattr(timing.data, "sphere", lambda n, d, key, make=timing.data.sphere: make(8, 2, key))


@pytest.mark.parametrize(("name", "power"), EXPONENTS.items())
def test_made_up_times(small, name, power):
    assert MEASURE[name].given(timer=timer_of(power, floor=1e-6, noise=0.01))(True).verdict == HOLDS
    assert MEASURE[name].given(timer=timer_of(power + 1))(True).verdict == FAILS
    assert MEASURE[name].given(timer=timer_of(power - 0.5))(True).verdict == FAILS


def test_quadratic_times_fail_the_linear_claim_with_noise_and_floor(small):
    assert MEASURE["step-time-in-width"].given(timer=timer_of(2, floor=1e-3, noise=0.03))(True).verdict == FAILS


def test_noise_is_no_failure(small):
    outcome = MEASURE["step-time-in-width"].given(timer=timer_of(1, noise=0.2))(True)
    assert outcome.verdict == OUT_OF_REGIME
    assert "too noisy to tell" in outcome.detail


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, HOLDS), (0.55, HOLDS), (2.4, HOLDS), (0.45, FAILS), (2.6, FAILS)])
def test_times_of_explicit_rows(small, factor, verdict):
    ratios = iter([factor * 2048 * d / (2048 + d) for d in (2, 4, 8, 16)])
    timer = lambda calls: {"naive": next(ratios), "structured": 1.0}  # noqa: E731
    assert MEASURE["naive-gram-time"].given(timer=timer)(True).verdict == verdict


def test_growth_of_the_sketch(monkeypatch):
    monkeypatch.setattr(timing.data, "sphere", lambda n, d, key: np.zeros((n, d)))
    log = lambda calls, rounds: {m: 1e-9 * m * math.log(m) for m in calls}  # noqa: E731
    assert MEASURE["kronecker-sketch-time"].given(timer=log)(True).verdict == HOLDS
    assert MEASURE["kronecker-sketch-time"].given(timer=timer_of(2))(True).verdict == FAILS


@pytest.mark.parametrize("name", ["break-even-time", "break-even-time-kronecker"])
@pytest.mark.parametrize(
    ("from_n", "from_ratio", "verdict"),
    [(256, 4.3, HOLDS), (20, 0.5, HOLDS), (513, 4.3, FAILS), (512, 16, HOLDS), (256, 17, FAILS), (1e9, 1e9, FAILS)],
)
def test_break_even_in_made_up_times(name, from_n, from_ratio, verdict):
    gain = lambda n, d, m: (4, min(n / from_n, m / n / from_ratio))  # noqa: E731
    assert MEASURE[name].given(gain=gain)(True).verdict == verdict


def test_break_even_is_not_judged_by_sizes_that_it_does_not_speak_of():
    gain = lambda n, d, m: (64, 9.0)  # noqa: E731
    assert MEASURE["break-even-time"].given(gain=gain)(True).verdict == FAILS  # no size is large enough beside 4 K d


def test_interleaved_takes_minima_of_processor_time():
    spins = iter([200_000, 0, 0, 0])
    seconds = timing.interleaved({"spin": lambda: sum(range(next(spins))), "sleep": lambda: time.sleep(0.01)}, rounds=4)
    assert seconds["spin"] < 1e-3
    assert seconds["sleep"] < 5e-3


def test_interleaved_stops_at_its_budget_after_two_rounds():
    calls = []
    timing.interleaved({0: lambda: calls.append(0)}, rounds=50, budget=0.0)
    assert len(calls) == 2


def test_sizes_are_no_powers_of_two():
    sizes = timing.geometric(512, 8192)
    assert len(sizes) == 8
    assert (sizes[0], sizes[-1]) == (520, 8200)
    assert all(n % 16 == 8 for n in sizes)
