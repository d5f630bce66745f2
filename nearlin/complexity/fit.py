"""Exponents of measured times, with intervals that say how much they are worth.

Formula     power law   ln t = ln b + p ln n, least squares; interval from the residuals (Student t, k - 2 degrees of freedom)
            with floor  t = a + b nᵖ, a >= 0, least squares of the relative errors; interval from the linearised problem at the
                        solution (k - 3 degrees of freedom, k - 2 where a = 0)
            contest     t = a + b f(n), a, b >= 0, by the root mean square of the relative errors, f among 1, log n, n, n log n,
                        n^1.5, n², n³
Reference   Seber, Wild, Nonlinear Regression (1989), chapters 2 and 5.
Cost        least squares of k rows and two columns: 1 for a power law, 7 for a contest, some 620 with a floor.

Times spread by chance and bend at cache levels, so that only sizes all above or all below the last-level cache, over a range
of 256 and more, give an exponent to a few hundredths. Where counts exist, `degree` says more.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri, stdtrit

MINIMUM_SIZES = 5
BENDING = 0.2  # change of the local exponent over the range that is worth an alarm
GROWTH = {
    "1": lambda n: np.ones_like(n),
    "log n": np.log,
    "n": lambda n: n,
    "n log n": lambda n: n * np.log(n),
    "n^1.5": lambda n: n**1.5,
    "n^2": lambda n: n**2,
    "n^3": lambda n: n**3,
}


@dataclass(frozen=True)
class ExponentFit:
    """A fit t = floor + scale nᵖ.

    Attributes
    ----------
    exponent : float
        p.
    low, high : float
        Interval for p at ``level``, from the residuals.
    level : float
    floor, scale : float
        Seconds that do not depend on n, and the factor of nᵖ.
    rms : float
        Root mean square of the relative residuals, by degrees of freedom.
    bend : float
        Change of the local exponent from the smallest to the largest size, by a quadratic in log n of what the fit leaves.
    curved : bool
        Whether the bend is more than 0.2 and more than chance at ``level``: then no power law fits, whatever the interval says.
    """

    exponent: float
    low: float
    high: float
    level: float
    floor: float
    scale: float
    rms: float
    bend: float
    curved: bool

    @property
    def halfwidth(self):
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def contains(self, exponent):
        """Whether ``exponent`` lies in the interval."""
        return self.low <= exponent <= self.high

    def __str__(self):
        alarm = ", CURVED: no power law" if self.curved else ""
        return f"p = {self.exponent:.3f} [{self.low:.3f}, {self.high:.3f}] at {self.level:.0%}, rms {self.rms:.1%}{alarm}"


@dataclass(frozen=True)
class Contest:
    """Which growth fits the times best.

    Attributes
    ----------
    rms : dict[str, float]
        Relative rms error of a + b f(n) by the name of f, best first.
    candidates : tuple of str
        Those whose error chance alone could make out of the best one's (an F test at ``level``), best first.
    level : float
    """

    rms: dict
    candidates: tuple
    level: float

    @property
    def best(self):
        """The growth with the smallest error."""
        return self.candidates[0]

    @property
    def distinct(self):
        """Whether the noise leaves one candidate only."""
        return len(self.candidates) == 1

    def __str__(self):
        errors = ", ".join(f"{name} {self.rms[name]:.1%}" for name in self.candidates)
        return f"{errors}" if self.distinct else f"indistinct, the noise allows: {errors}"


def fit_exponent(sizes, seconds, level=0.95):
    """Fit t = b nᵖ by least squares in logarithms.

    Parameters
    ----------
    sizes : sequence of number
        At least five, positive, ascending; best geometric.
    seconds : sequence of float
        Positive, one per size: minima or medians of repeated measurements.
    level : float
        Confidence of the interval, in (0, 1).

    Returns
    -------
    ExponentFit
        With ``floor`` 0.

    Raises
    ------
    ValueError
        Too few sizes, or sizes and seconds that do not fit each other.
    """
    n, t = _checked(sizes, seconds, level)
    x = np.log(n)
    A = np.stack([np.ones_like(x), x], axis=1)
    (intercept, p), residuals = _least_squares(A, np.log(t))
    rms, width = _spread(A, residuals, level)
    bend, curved = _curvature(A, x, residuals, level)
    return ExponentFit(p, p - width[1], p + width[1], level, 0.0, math.exp(intercept), rms, bend, curved)


def fit_with_floor(sizes, seconds, level=0.95):
    """Fit t = a + b nᵖ with a >= 0 by least squares of relative errors: for times with a part that does not grow.

    Parameters, result and errors are those of `fit_exponent`; p is sought in [0, 5].

    Notes
    -----
    For every p the best a and b are found exactly, and p by a scan and golden sections. An interval that is wide says that floor
    and exponent cannot be told apart: take larger sizes.
    """
    n, t = _checked(sizes, seconds, level)
    scaled = n / n[-1]  # keeps the columns within range

    def error(p):
        return _floored(scaled**p, t)[1]

    grid = np.linspace(0.0, 5.0, 501)
    start = int(np.argmin([error(p) for p in grid]))
    p = _golden(error, grid[max(start - 1, 0)], grid[min(start + 1, 500)])
    (a, b), _ = _floored(scaled**p, t)
    A = _linearised(a, b, p, scaled, t)
    residuals = 1 - (a + b * scaled**p) / t
    rms, width = _spread(A, residuals, level)
    bend, curved = _curvature(A, np.log(n), residuals, level)
    return ExponentFit(p, p - width[-1], p + width[-1], level, a, b / n[-1] ** p, rms, bend, curved)


def contest(sizes, seconds, level=0.95):
    """Which of 1, log n, n, n log n, n^1.5, n², n³ fits as a + b f(n), a, b >= 0, with the smallest relative errors.

    Parameters and errors are those of `fit_exponent`.

    Returns
    -------
    Contest
    """
    n, t = _checked(sizes, seconds, level)
    errors = {name: _floored(f(n) / max(f(n)[-1], 1e-300), t)[1] for name, f in GROWTH.items()}
    ranking = dict(sorted(errors.items(), key=lambda item: item[1]))
    freedom = len(n) - 2
    least = max(min(errors.values()), 1e-12)
    allowed = least * math.sqrt(fdtri(freedom, freedom, level))
    return Contest(ranking, tuple(name for name, rms in ranking.items() if rms <= allowed), level)


def _checked(sizes, seconds, level):
    n, t = np.asarray(sizes, dtype=float), np.asarray(seconds, dtype=float)
    if n.ndim != 1 or n.shape != t.shape:
        raise ValueError(f"sizes have shape {n.shape}, seconds {t.shape}; expected one time per size")
    if len(n) < MINIMUM_SIZES:
        raise ValueError(
            f"{len(n)} sizes are too few for a fit; expected at least {MINIMUM_SIZES} (8 over a range of 256 are good)"
        )
    if not (np.all(n > 0) and np.all(np.diff(n) > 0)):
        raise ValueError(f"sizes are {n.tolist()}; expected positive, ascending numbers")
    if not (np.all(np.isfinite(t)) and np.all(t > 0)):
        raise ValueError(f"seconds are {t.tolist()}; expected positive, finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a number between 0 and 1")
    return n, t


def _least_squares(A, y):
    solution = np.linalg.lstsq(A, y, rcond=None)[0]
    return solution, y - A @ solution


def _spread(A, residuals, level):
    """Residual standard deviation, and half-widths of the parameters' intervals."""
    freedom = A.shape[0] - A.shape[1]
    rms = math.sqrt(residuals @ residuals / freedom)
    errors = np.linalg.norm(np.linalg.pinv(A), axis=1)
    errors[errors == 0] = math.inf  # a parameter that the times say nothing about
    return rms, stdtrit(freedom, (1 + level) / 2) * rms * errors


def _curvature(A, x, residuals, level):
    """Change of the local exponent over the range that a quadratic in x sees in the residuals, and whether it is an alarm."""
    A = np.column_stack([A, (x - x.mean()) ** 2])
    coefficients, left = _least_squares(A, residuals)
    bend, width = 2 * coefficients[-1] * (x[-1] - x[0]), math.inf
    if A.shape[0] > A.shape[1]:
        width = 2 * _spread(A, left, level)[1][-1] * (x[-1] - x[0])
    return float(bend), bool(abs(bend) > max(width, BENDING))


def _floored(f, t):
    """a, b >= 0 with the smallest relative errors of a + b f against t, and their root mean square."""
    columns = np.stack([1 / t, f / t], axis=1)
    choices = [np.linalg.lstsq(columns, np.ones_like(t), rcond=None)[0]]
    for j in range(2):  # where a bound is active the other coefficient is free
        c = np.zeros(2)
        c[j] = max(0.0, columns[:, j].sum() / (columns[:, j] @ columns[:, j]))
        choices.append(c)
    feasible = [(math.sqrt(np.mean((columns @ c - 1) ** 2)), c) for c in choices if min(c) >= 0]
    rms, (a, b) = min(feasible, key=lambda choice: choice[0])
    return (float(a), float(b)), rms


def _linearised(a, b, p, n, t):
    """Derivatives of the relative model by a (unless it is at its bound), b and p."""
    power = n**p
    columns = [power / t, b * power * np.log(n) / t]
    return np.stack(([1 / t] if a > 0 else []) + columns, axis=1)


def _golden(f, low, high, iterations=60):
    """The minimum of ``f`` on an interval by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(iterations):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if f(left) < f(right) else (left, high)
    return (low + high) / 2
