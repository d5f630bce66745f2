"""Inputs and targets of mean 0 and deviation 1 while a network is fitted, folded into its first and last layer afterwards.

Formula     z = (x - μ) / σ,   t = (y - ν) / τ
            a first layer W z + b is (W/σ) x + (b - (W/σ) μ);   a last one with outputs t becomes τ W h + (τ b + ν)
Cost        O(n d), and O(d m) for the layers
Deviations  1. σ is at least half the rms of all σ where features are pixels: `nearlin.data.preprocessing.floored`.
"""

from dataclasses import dataclass

from nearlin._array import namespace
from nearlin.data.preprocessing import floored

ROUNDING = 1e3  # rounding errors of the largest entry that a deviation has to be above


@dataclass(frozen=True, eq=False)
class Scaling:
    """Means and deviations of inputs (d,) and of targets (k,); None where they are left as they are."""

    mean: object = None
    deviation: object = None
    target_mean: object = None
    target_deviation: object = None

    @classmethod
    def fit(cls, X, y=None, weights=None):
        """The constants of inputs (n, d) and of targets (n, k), or None for labels, under weights (n,) or None."""
        mean, deviation = moments(X, weights)
        return cls(mean, _or_one(floored(deviation, X), X), *(() if y is None else _target_constants(y, weights)))

    def inputs(self, X):
        """z (n, d)."""
        return X if self.mean is None else (X - self.mean) / self.deviation

    def targets(self, y):
        """t (n, k)."""
        return y if self.target_mean is None else (y - self.target_mean) / self.target_deviation

    def fold(self, coefs, intercepts):
        """Matrices (inputs, outputs) and intercepts on z with outputs t as those on x with outputs y."""
        coefs, intercepts = list(coefs), list(intercepts)
        if self.mean is not None:
            coefs[0] = coefs[0] / self.deviation[:, None]
            intercepts[0] = intercepts[0] - self.mean @ coefs[0]
        if self.target_mean is not None:
            coefs[-1] = coefs[-1] * self.target_deviation
            intercepts[-1] = intercepts[-1] * self.target_deviation + self.target_mean
        return coefs, intercepts

    def unfold(self, coefs, intercepts):
        """What `fold` makes these matrices and intercepts of."""
        coefs, intercepts = list(coefs), list(intercepts)
        if self.target_mean is not None:
            coefs[-1] = coefs[-1] / self.target_deviation
            intercepts[-1] = (intercepts[-1] - self.target_mean) / self.target_deviation
        if self.mean is not None:
            intercepts[0] = intercepts[0] + self.mean @ coefs[0]
            coefs[0] = coefs[0] * self.deviation[:, None]
        return coefs, intercepts


def moments(a, weights=None):
    """Means and standard deviations (k,) of the columns of ``a`` (n, k), under weights (n,) or None."""
    xp = namespace(a)
    if weights is None:
        return xp.mean(a, axis=0), xp.std(a, axis=0)
    share = weights / xp.sum(weights)
    mean = share @ a
    return mean, xp.sqrt(share @ (a - mean) ** 2)


def _target_constants(y, weights):
    mean, deviation = moments(y, weights)
    return mean, _or_one(deviation, y)


def _or_one(deviation, a):
    """Deviations, 1 for columns that do not vary."""
    xp = namespace(a)
    rounding = ROUNDING * float(xp.finfo(a.dtype).eps) * xp.max(xp.abs(a), axis=0)
    return xp.where(deviation <= rounding, xp.ones_like(deviation), deviation)
