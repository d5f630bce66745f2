"""Exponents of synthetic times whose truth is known, and what noise hides."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

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


@pytest.mark.parametrize("count", [5, 6, 9])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_a_plain_fit_is_linear_regression(count, level):
    """Slope, intercept, and the half-width from the standard error and Student's t with two degrees of freedom less."""
    sizes, times = SIZES[:count], noisy(3e-7 * SIZES**1.3, 0.2, seed=count)[:count]
    found, line = fit_exponent(sizes, times, level), scipy.stats.linregress(np.log(sizes), np.log(times))
    assert found.exponent == pytest.approx(line.slope, rel=1e-10)
    assert found.scale == pytest.approx(math.exp(line.intercept), rel=1e-10)
    assert found.halfwidth == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, count - 2) * line.stderr, rel=1e-9)
    assert (found.low + found.high) / 2 == pytest.approx(line.slope, rel=1e-12)
    left = np.log(times) - line.intercept - line.slope * np.log(sizes)
    assert found.rms == pytest.approx(math.sqrt(np.sum(left**2) / (count - 2)), rel=1e-10)
    assert (found.floor, found.level) == (0.0, level)


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("floor", [-2e-4, 2e-3])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fit_with_a_floor_is_nonlinear_regression(level, floor, seed):
    """By SciPy's least squares of the relative errors, with as many parameters as are not at their bound."""
    times = noisy(floor + 1e-6 * SIZES, 0.03, seed)
    found, free = fit_with_floor(SIZES, times, level), 3 if floor > 0 else 2

    def model(n, b, p, a=0.0):
        return (1e-3 * a + 1e-6 * b * n**p) / times

    best, covariance = scipy.optimize.curve_fit(model, SIZES, np.ones(9), [1.0, 1.0, 1.0][:free], xtol=1e-14, ftol=1e-14)
    assert (found.floor > 0) == (floor > 0)
    assert found.exponent == pytest.approx(best[1], abs=1e-5)
    width = scipy.stats.t.ppf((1 + level) / 2, 9 - free) * math.sqrt(covariance[1, 1])
    assert found.halfwidth == pytest.approx(width, rel=1e-3)
    assert found.rms == pytest.approx(math.sqrt(np.sum((model(SIZES, *best) - 1) ** 2) / (9 - free)), rel=1e-4)
    assert found.scale == pytest.approx(1e-6 * best[0], rel=1e-3)
    assert found.floor == pytest.approx(1e-3 * best[2] if floor > 0 else 0.0, rel=1e-3)


def test_a_bend_is_the_quadratic_of_the_residuals_and_an_alarm_above_chance():
    """An alarm where it exceeds both 0.2 and the half-width of its own interval."""
    x = np.log(SIZES / SIZES[0])
    for curvature, spread, seed in [
        (c, s, seed) for c in (0.0, 0.01, 0.018, 0.03) for s in (1e-9, 0.02, 0.2) for seed in range(3)
    ]:
        times = noisy(1e-6 * np.exp(x + curvature * x**2), spread, seed)
        found = fit_exponent(SIZES, times)
        parabola, covariance = np.polyfit(x, np.log(times), 2, cov=True)
        bend = 2 * parabola[0] * x[-1]
        chance = 2 * x[-1] * scipy.stats.t.ppf(0.975, 9 - 3) * math.sqrt(covariance[0, 0])
        assert found.bend == pytest.approx(bend, rel=1e-6, abs=1e-9)
        assert found.curved == (abs(bend) > max(0.2, chance))


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_the_contest_keeps_what_an_f_test_of_the_mean_squares_keeps(level):
    """The ratio of two mean squares with n - 2 degrees of freedom each is compared with Fisher's quantile."""
    kept = set()
    for seed in range(30):
        times = noisy(1e-6 * SIZES * np.log(SIZES), 0.15, seed)
        found, errors = contest(SIZES, times, level), {}
        for name, f in GROWTH.items():
            columns = np.stack([1 / times, f(SIZES) / times], axis=1)
            errors[name] = scipy.optimize.nnls(columns / np.linalg.norm(columns, axis=0), np.ones(9))[1] ** 2 / 9
        assert found.rms == pytest.approx({name: math.sqrt(error) for name, error in errors.items()}, rel=1e-6)
        ratio = {name: error / min(errors.values()) for name, error in errors.items()}
        allowed = scipy.stats.f.ppf(level, 7, 7)
        assert set(found.candidates) == {name for name in GROWTH if ratio[name] <= allowed}
        kept |= {round(math.log(ratio[name], allowed), 1) for name in GROWTH}
    assert {0.9, 1.1} <= kept  # there are cases on either side of the quantile


@pytest.mark.parametrize(("level", "least", "most"), [(0.8, 0.77, 0.83), (0.95, 0.935, 0.965)])
def test_the_interval_covers_the_truth_as_often_as_it_says_over_many_runs(level, least, most):
    """Five sizes, where two degrees of freedom more or less are seen; four standard deviations of 3000 runs."""
    draw, sizes = np.random.default_rng(3), SIZES[:5]
    covered = [
        fit_exponent(sizes, 1e-6 * sizes * np.exp(0.1 * draw.standard_normal(5)), level).contains(1.0) for _ in range(3000)
    ]
    assert least < np.mean(covered) < most


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


EXACT = {
    "1": lambda n: 1.0,
    "log n": math.log,
    "n": lambda n: n,
    "n log n": lambda n: n * math.log(n),
    "n^1.5": lambda n: n * math.sqrt(n),
    "n^2": lambda n: n * n,
    "n^3": lambda n: n * n * n,
}


@pytest.mark.parametrize("name", EXACT)
def test_times_of_exactly_a_growth_leave_no_error_to_it(name):
    result = contest(SIZES, [2e-3 + 1e-6 * EXACT[name](n) for n in SIZES])
    assert set(result.rms) == set(EXACT)
    assert (result.best, result.rms[name] < 1e-9) == (name, True)


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
