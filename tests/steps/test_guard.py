"""How a guarded step ends, beside what `judge` says of each attempt."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from nearlin.linalg import SolveInfo
from nearlin.steps import Bounds, Damping, Guard, StepExit, Trial, unmoved

BOUNDS = Bounds(size=1.0, floor=1e-8, ceiling=1e12)


def point(loss=1.0, residual=1.0, l2=0.0, weight=1.0, outputs=1.0, y=0.0):
    ones = np.ones(4)
    facts = {"loss": loss, "outputs": outputs * ones, "y": y * ones, "residual": residual * ones, "l2": l2}
    return SimpleNamespace(**facts, weighed=lambda a: weight**0.5 * a)


def attempts(guard, ratio, residual=0.1, predicted=1.0, damping=1.0, reason="converged"):
    """λ of each attempt, all of which come out the same, and the step's info."""
    after = point(loss=0.5)
    used = []
    for used_now in guard.attempts_from(Damping(damping)):
        trial, solve = Trial((), after, 0.5, predicted, ratio), SolveInfo(residual, 1, 1, reason)
        guard.judge(trial, solve, BOUNDS)
        used.append(used_now)
    return used, guard.info(trial, solve)


@pytest.mark.parametrize(
    ("case", "tried", "reason"),
    [
        ({"ratio": 1.0}, [1.0], "accepted"),
        (
            {"ratio": -1.0},
            [1.0, 4.0, 32.0, 512.0, 16384.0, 2**20, 2**27],
            "rejected: no decrease in 7 attempt(s), damping now",
        ),
        ({"ratio": -1.0, "damping": 1e12}, [1e12] * 7, "stalled: the damping is at its largest"),
        ({"ratio": 1.0, "residual": 1.0}, None, "rejected: the solve is worse than none, its residual is 1"),
        ({"ratio": math.nan, "predicted": 1e-15}, [1.0], "stalled: no decrease is left above rounding"),
        ({"ratio": math.nan, "residual": math.nan, "reason": "non-finite"}, None, "rejected: the solve is not finite"),
    ],
)
def test_a_step_ends_at_the_first_attempt_that_is_taken_or_says_why_none_was(case, tried, reason):
    used, info = attempts(Guard(point()), **case)
    assert info.reason.startswith(reason)
    assert (info.accepted, info.attempts, info.damping) == (reason == "accepted", len(used), used[-1])
    assert info.new_loss == (0.5 if info.accepted else 1.0)
    assert len(used) == 7 if tried is None else used == tried


@pytest.mark.parametrize(("residual", "taken"), [(0.9, True), (1.0, False)])
def test_without_a_guard_one_attempt_is_taken_unless_its_solve_is_worse_than_none(residual, taken):
    guard = Guard(point(), on=False)
    used, info = attempts(guard, -1.0, residual)
    assert (used, info.accepted, guard.damping) == ([1.0], taken, Damping(1.0))


@pytest.mark.parametrize(
    ("where", "options", "reason"),
    [
        (point(loss=math.inf), {}, "rejected: the loss is not finite"),
        (point(residual=1e-16), {}, "stalled: the residual is rounding"),
        (point(residual=1e-16, outputs=0.0, y=1.0), {}, "stalled: the residual is rounding"),
        (point(residual=1e-14), {}, ""),
        (point(residual=1e-16, weight=1e-6), {}, ""),
        (point(residual=1e-16, l2=0.1), {}, ""),
        (point(residual=1e-16), {"squared": False}, ""),
        (point(loss=0.0), {"squared": False}, "stalled: the residual is rounding"),
    ],
)
def test_a_step_is_not_tried_where_nothing_is_left_or_the_loss_is_not_finite(where, options, reason):
    assert Guard(where, **options).why_unmoved == reason


def test_a_residual_of_few_rounding_errors_is_tried_once():
    assert len(attempts(Guard(point(residual=1e-14)), -1.0)[0]) == 1


@pytest.mark.parametrize(("kind", "word"), [(StepExit.STALLED, "converged"), (StepExit.REJECTED, "non-finite")])
def test_a_step_before_any_solve_reports_one_of_nothing(kind, word):
    info = unmoved(point(), kind.because("why"), Damping(0.5))
    assert (info.loss, info.new_loss, info.accepted, info.damping, info.attempts) == (1.0, 1.0, False, 0.5, 0)
    assert (info.reason, info.solve.reason, info.solve.products) == (f"{kind}: why", word, 0)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("accepted", StepExit.ACCEPTED),
        ("accepted, but the decrease is rounding", StepExit.ACCEPTED),
        ("stalled: no decrease", StepExit.STALLED),
        ("rejected: stalled", StepExit.REJECTED),
        ("not tried", None),
        ("", None),
    ],
)
def test_the_reason_of_a_record_tells_how_its_step_ended(reason, kind):
    assert StepExit.of(json.loads(json.dumps(reason))) is kind
