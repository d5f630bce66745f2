"""The guard of a Gauss-Newton step: attempts under growing damping, each judged by its decrease, until one is taken.

Formula     an attempt is taken where the loss falls by more than .05 of what the model predicts (`judge`), and its solve is
            better than none; given up are steps whose predicted decrease is rounding, and all after `ATTEMPTS`
Reference   see `nearlin.steps.levenberg_marquardt`
Cost        O(n c) beside the attempts
Deviations  none
"""

import math
from typing import NamedTuple

from nearlin.linalg import Exit, SolveInfo, eps_of, norms
from nearlin.steps.info import StepExit, StepInfo
from nearlin.steps.levenberg_marquardt import CEILING, judge, least_damping

ATTEMPTS = 7  # the first and at most 6 retries
NOTHING = 4  # rounding errors of the outputs that a residual has to be above for a step to be tried
LITTLE = 1000  # and for a second attempt
FLAT = 10  # rounding errors of the loss that a predicted decrease has to be above for a second attempt


class Bounds(NamedTuple):
    """What the damping refers to: the size of the damped matrix, and the smallest and largest λ."""

    size: float
    floor: float
    ceiling: float

    @classmethod
    def of(cls, size, eps):
        """From `least_damping` to `CEILING` times the size."""
        return cls(size, least_damping(eps) * size, CEILING * size)


def unmoved(point, reason, damping=None):
    """The `StepInfo` of a step that stays where it is before any solve; ``damping`` is the state's, a `Damping` or None."""
    loss, stalled = float(point.loss), StepExit.of(reason) is StepExit.STALLED
    solve = SolveInfo.unsolved(0.0 if stalled else math.nan)
    return StepInfo(loss, loss, False, reason, damping.value if damping else 0.0, math.nan, 0, solve)


class Guard:
    """The attempts of one step: ``for damping in guard.attempts_from(damping):`` solve, try, and let the guard ``judge``.

    Parameters
    ----------
    point : Point
        Where the step starts.
    on : bool
        False: one attempt, which is taken if it is finite and its solve is better than none; the damping stays.
    squared : bool
        Whether the loss is squared.

    Attributes
    ----------
    why_unmoved : str
        The reason for a step that stays where it is before any solve, or nothing.
    size : float
        Of the residual of least squares, in its norm, where there is no penalty; else NaN.
    damping : Damping
        Of the next attempt, or step.
    accepted : bool
    used : float
        λ of the last attempt.
    attempts : int
    """

    def __init__(self, point, on=True, squared=True):
        self._point, self._on, self.size, self.why_unmoved = point, on, math.nan, ""
        self.damping, self.accepted, self.attempts, self._at_rounding, self._at_ceiling = None, False, 0, False, False
        alone = point.l2 or not squared
        sizes = () if alone else (point.residual, point.weighed(point.outputs), point.weighed(point.y))
        self._loss, *sizes = norms(*sizes, beside=(point.loss,))
        if not math.isfinite(self._loss):
            self.why_unmoved = StepExit.REJECTED.because("the loss is not finite")
            return
        left = self._left(*sizes)
        self._little = left <= LITTLE
        if left <= NOTHING:
            self.why_unmoved = StepExit.STALLED.because("the residual is rounding")

    def _left(self, *sizes):
        """The residual in rounding errors of the outputs; of other losses than least squares 0 where they are 0, else Inf.

        With a penalty it is Inf: the weights may still shrink.
        """
        if not sizes:
            return math.inf if self._point.l2 or self._loss else 0.0
        self.size, outputs, targets = sizes
        rounding = eps_of(self._point.outputs) * (outputs + targets)
        return self.size / rounding if rounding else math.inf if self.size else 0.0

    def attempts_from(self, damping):
        """λ of each attempt, the first a `Damping`."""
        self.damping = damping
        while self.attempts < ATTEMPTS:
            self.used, self.attempts = self.damping.value, self.attempts + 1
            yield self.used
            if self.accepted or not self._on or self._at_rounding:
                return

    def judge(self, trial, solve, bounds):
        """Take an attempt, or refuse it and raise the damping.

        Parameters
        ----------
        trial : Trial
        solve : SolveInfo
        bounds : Bounds
        """
        worse = solve.residual >= 1  # than no step
        self.accepted = trial.point is not None and math.isfinite(trial.loss) and not worse
        if self._on:
            ratio = math.nan if worse else trial.ratio
            self.accepted, self.damping = judge(self.damping, ratio, bounds.floor, bounds.size, bounds.ceiling)
        flat = abs(trial.predicted) <= FLAT * eps_of(self._point.outputs) * abs(self._loss)
        self._at_rounding, self._at_ceiling = flat or self._little, self.damping.value >= bounds.ceiling

    def info(self, trial, solve, *more):
        """The `StepInfo` after the last attempt; ``more`` are its last fields."""
        new_loss = trial.loss if self.accepted else self._loss
        reason = StepExit.ACCEPTED if self.accepted else self._why_not(solve)
        return StepInfo(self._loss, new_loss, self.accepted, reason, self.used, trial.ratio, self.attempts, solve, *more)

    def _why_not(self, solve):
        if solve.reason == Exit.NON_FINITE:
            return StepExit.REJECTED.because("the solve is not finite")
        if self._on and self._at_rounding:
            return StepExit.STALLED.because("no decrease is left above rounding")
        if solve.residual >= 1:
            return StepExit.REJECTED.because(f"the solve is worse than none, its residual is {solve.residual:.2g}")
        if self._on and self._at_ceiling:
            return StepExit.STALLED.because("the damping is at its largest; a smooth activation or mini-batches may go on")
        return StepExit.REJECTED.because(f"no decrease in {self.attempts} attempt(s), damping now {self.damping.value:.1e}")
