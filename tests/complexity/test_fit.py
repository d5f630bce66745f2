"""Exponents of synthetic times whose truth is known, and what noise hides."""

import numpy as np
import pytest

from nearlin.complexity import contest, fit_exponent, fit_with_floor
from nearlin.complexity.fit import GROWTH

SIZES = 2.0 ** np.arange(10, 19)
FITS = [fit_exponent, fit_with_floor]


def noisy(times, spread, seed=0):
    return times * np.exp(spread * np.random.default_rng(seed).standard_normal(len(times)))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_a_power_law_without_noise_is_found_exactly(fit, p):
    found = fit(SIZES, 1e-9 * SIZES**p)
    assert found.exponent == pytest.approx(p, abs=1e-6)
    assert found.halfwidth < 1e-4
    assert not found.curved
    assert found.scale == pytest.approx(1e-9, rel=1e-4)


def test_a_floor_is_told_from_the_growth():
    times = 1e-3 + 2e-6 * SIZES
    plain, floored = fit_exponent(SIZES, times), fit_with_floor(SIZES, times)
    assert plain.curved
    assert not plain.contains(1.0)
    assert floored.exponent == pytest.approx(1.0, abs=1e-4)
    assert floored.floor == pytest.approx(1e-3, rel=1e-3)
    assert not floored.curved


@pytest.mark.parametrize("fit", FITS)
def test_the_interval_holds_the_truth_as_often_as_it_says(fit):
    floor = 1e-3 if fit is fit_with_floor else 0.0
    fits = [fit(SIZES, noisy(floor + 2e-6 * SIZES, 0.05, seed)) for seed in range(40)]
    assert sum(f.contains(1.0) for f in fits) >= 34
    assert sum(f.curved for f in fits) <= 4
    assert np.median([f.rms for f in fits]) == pytest.approx(0.05, rel=0.3)


@pytest.mark.parametrize("fit", FITS)
def test_a_quadratic_is_not_taken_for_linear(fit):
    """The negative control."""
    found = fit(SIZES, noisy(1e-9 * SIZES**2, 0.1))
    assert found.low > 1.5
    assert not found.contains(1.0)
    assert contest(SIZES, noisy(1e-9 * SIZES**2, 0.1)).candidates == ("n^2",)


def test_a_wider_level_gives_a_wider_interval():
    times = noisy(1e-6 * SIZES, 0.1)
    assert fit_exponent(SIZES, times, level=0.99).halfwidth > fit_exponent(SIZES, times, level=0.9).halfwidth


def test_growth_that_changes_along_the_way_is_an_alarm():
    assert fit_exponent(SIZES, noisy(1e-6 * SIZES + 1e-11 * SIZES**2, 0.02)).curved


def test_times_without_growth_say_nothing_about_an_exponent():
    found = fit_with_floor(SIZES, noisy(np.ones(9), 0.05))
    assert found.contains(0.0)
    falling = fit_with_floor(SIZES, 1 / SIZES)
    assert falling.contains(0.0)
    assert falling.halfwidth == np.inf


@pytest.mark.parametrize("name", GROWTH)
def test_the_contest_names_the_growth(name):
    times = 1e-7 * GROWTH[name](SIZES) + 1e-9
    result = contest(SIZES, noisy(times, 0.01))
    assert name in result.candidates
    assert list(result.rms.values()) == sorted(result.rms.values())
    if name not in ("1", "log n"):  # a constant is any growth with b = 0
        assert result.best == name
        assert result.distinct


def test_noise_that_hides_the_growth_is_said_so():
    sizes = 2.0 ** np.arange(10, 15)
    result = contest(sizes, noisy(1e-9 * sizes, 0.3, seed=3))
    assert not result.distinct
    assert {"n", "n log n"} <= set(result.candidates)
    assert str(result).startswith("indistinct, the noise allows: ")


def test_a_fit_reads_as_a_sentence():
    assert str(fit_exponent(SIZES, noisy(SIZES, 0.01))).startswith("p = 1.00")
    assert "CURVED" in str(fit_exponent(SIZES, 1e-3 + 1e-6 * SIZES))


@pytest.mark.parametrize("judge", [*FITS, contest])
@pytest.mark.parametrize(
    ("sizes", "seconds", "level", "words"),
    [
        ([1, 2, 4, 8], [1, 2, 4, 8], 0.95, "4 sizes are too few for a fit; expected at least 5"),
        ([1, 2, 4, 8, 16], [1, 2, 4, 8], 0.95, "expected one time per size"),
        ([1, 2, 4, 8, 8], [1, 2, 4, 8, 9], 0.95, "expected positive, ascending"),
        ([0, 2, 4, 8, 16], [1, 2, 4, 8, 9], 0.95, "expected positive, ascending"),
        ([1, 2, 4, 8, 16], [1, 2, 0, 8, 9], 0.95, "expected positive, finite"),
        ([1, 2, 4, 8, 16], [1, 2, np.inf, 8, 9], 0.95, "expected positive, finite"),
        ([1, 2, 4, 8, 16], [1, 2, 4, 8, 9], 1.0, "level is 1.0"),
    ],
)
def test_bad_input_is_one_clear_error(judge, sizes, seconds, level, words):
    with pytest.raises(ValueError, match=words):
        judge(sizes, seconds, level)
