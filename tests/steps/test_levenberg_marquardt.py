"""The rule of the damping: its branches, its bounds, and the whole of it beside its text."""

import numpy as np
import pytest

from nearlin import steps


@pytest.mark.parametrize(
    ("ratio", "accepted", "value", "growth"),
    [
        (1.0, True, 0.25, 4.0),
        (0.5, True, 1.0, 4.0),
        (0.1, True, 4.0, 4.0),
        (0.01, False, 8.0, 16.0),
        (float("nan"), False, 8.0, 16.0),
    ],
)
def test_the_damping_follows_the_ratio(ratio, accepted, value, growth):
    before = steps.Damping(1.0, 8.0)
    got = steps.judge(before, ratio, floor=1e-8, scale=1.0)
    assert got[0] is accepted
    assert got[1].value == value
    assert got[1].growth == (growth if not accepted else 4.0)


def test_a_rejection_lifts_a_tiny_damping_to_the_scale_of_the_matrix():
    assert steps.judge(steps.Damping(1e-12), -1.0, 1e-12, scale=3.0)[1].value == pytest.approx(3e-4)


@pytest.mark.parametrize(("ceiling", "most"), [(None, 1e8 * 3.0), (50.0, 50.0)])
def test_the_damping_stops_at_its_ceiling(ceiling, most):
    """By default 1e8 times the scale; rejections and poor steps alike."""
    damping = steps.Damping(1.0)
    for _ in range(30):
        damping = steps.judge(damping, -1.0, 1e-8, scale=3.0, ceiling=ceiling)[1]
    assert damping.value == most
    assert steps.judge(steps.Damping(0.9 * most), 0.1, 1e-8, 3.0, ceiling) == (True, steps.Damping(most))
    assert steps.judge(steps.Damping(most), 1.0, 1e-8, 3.0, ceiling)[1].value == most / 4


def test_the_damping_stops_at_its_floor():
    assert steps.judge(steps.Damping(1e-8), 1.0, 1e-8, 1.0)[1].value == 1e-8


def rule(value, growth, ratio, floor, scale):
    """Levenberg, Marquardt, Nielsen: accepted, λ, ν."""
    if not np.isfinite(ratio) or ratio <= 1 / 20:
        return False, min(max(growth * value, scale / 10_000), 1e8 * scale), 2 * growth
    factor = 0.25 if ratio > 3 / 4 else 4 if ratio < 1 / 4 else 1
    new = value * factor
    return True, max(new, floor) if factor < 1 else min(new, 1e8 * scale) if factor > 1 else new, 4


@pytest.mark.parametrize("ratio", [-3.0, -0.4, 0.0, 0.04, 0.05, 0.051, 0.2, 0.249, 0.251, 0.7, 0.749, 0.751, 2.0, np.inf, np.nan])
def test_the_damping_follows_the_rule(ratio):
    for value in (1e-9, 1e-3, 2.0, 3e9):
        for growth in (4.0, 32.0):
            for scale in (0.1, 30.0):
                accepted, new = steps.judge(steps.Damping(value, growth), ratio, 1e-8 * scale, scale)
                assert (accepted, new.value, new.growth) == pytest.approx(rule(value, growth, ratio, 1e-8 * scale, scale))


def test_the_floor_of_the_damping_is_that_of_the_dtype():
    assert [steps.least_damping(float(np.finfo(d).eps)) for d in ("float32", "float64")] == [1e-5, 1e-8]
    assert steps.Damping(1.0).growth == 4
