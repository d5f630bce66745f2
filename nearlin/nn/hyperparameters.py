"""Hyper-parameters of optimizers: their checks, and step sizes by schedule."""

import math
from dataclasses import dataclass
from numbers import Real


def check_shares(optimizer, *names):
    """`ValueError` unless these fields are numbers in [0, 1)."""
    for name in names:
        if not _is_share(getattr(optimizer, name)):
            raise ValueError(f"{name} is {getattr(optimizer, name)!r}; expected a number in [0, 1)")


def check_fractions(optimizer, *names):
    """`ValueError` unless these fields are numbers in (0, 1)."""
    for name in names:
        value = getattr(optimizer, name)
        if not (_is_number(value) and 0 < value < 1):
            raise ValueError(f"{name} is {value!r}; expected a number in (0, 1)")


def check_betas(betas):
    """`ValueError` unless ``betas`` are two numbers in [0, 1)."""
    if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(map(_is_share, betas))):
        raise ValueError(f"betas are {betas!r}; expected two numbers in [0, 1)")


def _is_share(value):
    return _is_number(value) and 0 <= value < 1


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(optimizer, *names):
    """`ValueError` unless these fields are positive finite numbers."""
    for name in names:
        value = getattr(optimizer, name)
        if not (_is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a positive number")


def check_not_negative(optimizer, *names):
    """`ValueError` unless these fields are finite numbers >= 0."""
    for name in names:
        value = getattr(optimizer, name)
        if not (_is_number(value) and 0 <= value < math.inf):
            raise ValueError(f"{name} is {value!r}; expected a number >= 0")


def check_counts(optimizer, *names, least=1):
    """`ValueError` unless these fields are integers of at least ``least``, 1 or 0."""
    kind = "positive" if least == 1 else "non-negative"
    for name in names:
        value = getattr(optimizer, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected a {kind} integer")


def check_flags(optimizer, *names):
    """`ValueError` unless these fields are True or False."""
    for name in names:
        if not isinstance(getattr(optimizer, name), bool):
            raise ValueError(f"{name} is {getattr(optimizer, name)!r}; expected True or False")


def check_words(optimizer, **words):
    """`ValueError` unless each field is one of its ``words``, a sequence of texts, and None where that is allowed."""
    for name, known in words.items():
        value = getattr(optimizer, name)
        if not isinstance(value, str | None) or value not in known:
            known = list(map(repr, known))
            expected = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
            raise ValueError(f"{name} is {value!r}; expected {expected}")


def check_lr(lr):
    """Raise `ValueError` unless ``lr`` is a positive finite number or a callable schedule of the step counter."""
    if not callable(lr) and not (_is_number(lr) and 0 < lr < math.inf):
        raise ValueError(f"lr is {lr!r}; expected a positive number or a schedule of the step counter")


def check_weight_decay(optimizer):
    """`ValueError` unless ``weight_decay`` is a finite number >= 0, and ``exempt_bias`` True or False."""
    check_not_negative(optimizer, "weight_decay")
    check_flags(optimizer, "exempt_bias")


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
        check_positive(self, "lr")
        if not (_is_number(self.factor) and 0 < self.factor <= 1):
            raise ValueError(f"factor is {self.factor!r}; expected a number in (0, 1]")
        if isinstance(self.period, bool) or not isinstance(self.period, int) or self.period < 1:
            raise ValueError(f"period is {self.period!r}; expected a positive integer, the steps between two reductions")

    def __call__(self, t):
        return self.lr * self.factor ** (t // self.period)
