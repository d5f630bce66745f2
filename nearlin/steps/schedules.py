"""Step sizes by schedule, and when statistics and inverses are renewed."""

import math
from dataclasses import dataclass

from nearlin._array import integer, positive, settle, within


def rate(lr, t):
    """The step size of step ``t`` = 0, 1, ..., as a float.

    Parameters
    ----------
    lr : float or callable
        A step size, or a schedule t -> step size, such as `StepDecay`.
    t : int
        Steps taken before this one.

    Raises
    ------
    ValueError
        A schedule that returns a negative number, NaN or Inf.
    """
    value = float(lr(t) if callable(lr) else lr)
    if not 0 <= value < math.inf:
        raise ValueError(f"the schedule lr gives {value!r} at step {t}; expected a number >= 0")
    return value


def statistics_due(t, every, taken, again=False):
    """Whether step ``t`` = 0, 1, ... takes statistics: every ``every`` steps, and where none were ``taken`` so far.

    After a warm start step 0 takes them ``again``, or leaves it at those.
    """
    return not taken or ((again or t > 0) and t % every == 0)


def inverses_due(t, statistics_every, inverse_every, early):
    """Whether step ``t`` renews inverses: every ``inverse_every`` steps, and if ``early`` with the statistics till then."""
    return t % inverse_every == 0 or (early and t < inverse_every and t % statistics_every == 0)


@dataclass(frozen=True)
class StepDecay:
    """The schedule lr factor^⌊t / period⌋ of the step counter t.

    Parameters
    ----------
    lr : float
        Step size of the first ``period`` steps.
    factor : float
        In (0, 1].
    period : int
        Steps between two reductions; epochs times the number of batches of one epoch.
    """

    lr: float
    factor: float
    period: int

    def __post_init__(self):
        settle(self, lr=positive, factor=within("(0, 1]"), period=integer(1, ", the steps between two reductions"))

    def __call__(self, t):
        return self.lr * self.factor ** (t // self.period)
