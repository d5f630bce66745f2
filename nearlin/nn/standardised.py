"""The variables of a first dense layer in which its inputs have mean 0 and deviation 1.

Formula     x' = (x - m) / s, W' = W diag(s), b' = b + W m: W' x' + b' = W x + b;   without bias m = 0 and s the root mean square
Reference   the scale: Marquardt, J. SIAM 11 (1963); the mean: LeCun, Bottou, Orr, Müller, Efficient BackProp, LNCS 1524 (1998)
Cost        8 n d for m and s, 2 n d for x'
Deviations  1. s = 1 where a feature is constant.
"""

from statistics import median_low
from typing import NamedTuple

from nearlin._array import asarray, namespace, to_numpy

ROUNDING = 1e3  # rounding errors of the largest entry that a deviation has to be above
UNITS = 20  # raw wine, breast_cancer and boston lie above (34 to 4400), pixels and one-hot columns below (2 to 11)


class Columns:
    """Column by column the largest entry, and the mean, of an array with a row for every sample."""

    def max(self, a):
        """The largest entries."""
        return namespace(a).max(a, axis=0)

    def mean(self, a):
        """The means."""
        return namespace(a).mean(a, axis=0)


OWN = Columns()


class Standardised(NamedTuple):
    """m and s of d features, as floats; both () for inputs and variables as they are."""

    mean: tuple = ()
    deviation: tuple = ()

    @classmethod
    def of(cls, x, weights=None, bias=True, columns=OWN):
        """Those of the inputs ``x`` (n, d), for a layer with a ``bias`` or not; ``weights`` (n,) of samples have mean 1."""
        xp = namespace(x)
        peaks = _peaks(x, columns)
        z, weighed = x / peaks, lambda a: a if weights is None else weights[:, None] * a
        mean = columns.mean(weighed(z)) if bias else xp.zeros_like(peaks)
        deviation = xp.sqrt(columns.mean(weighed((z - mean) ** 2)))
        constant = deviation <= ROUNDING * float(xp.finfo(x.dtype).eps)
        return cls(_floats(peaks * mean), _floats(xp.where(constant, xp.ones_like(peaks), peaks * deviation)))

    def inputs(self, x):
        """x'."""
        return (x - asarray(self.mean, like=x)) / asarray(self.deviation, like=x)

    def forth(self, params):
        """The parameters [W' b'] and those of further layers, for [W b] and the same."""
        W, mean, s = self._parts(params[0])
        columns = [W * s] if params[0].shape == W.shape else [W * s, params[0][:, -1:] + (W @ mean)[:, None]]
        return namespace(W).concat(columns, axis=1), *params[1:]

    def back(self, params):
        """What `forth` takes to ``params``."""
        if not self.mean:
            return params
        W, mean, s = self._parts(params[0])
        columns = [W / s] if params[0].shape == W.shape else [W / s, params[0][:, -1:] - (W @ (mean / s))[:, None]]
        return namespace(W).concat(columns, axis=1), *params[1:]

    def _parts(self, matrix):
        return matrix[:, : len(self.mean)], asarray(self.mean, like=matrix), asarray(self.deviation, like=matrix)


def several_units(x, columns=OWN):
    """Whether features of ``x`` (n, d) seem to have several units: a root mean square above `UNITS` times their lower median.

    Features that are zero throughout do not count.
    """
    peaks = _peaks(x, columns)
    sizes = [size for size in _floats(peaks * namespace(x).sqrt(columns.mean((x / peaks) ** 2))) if size > 0]
    return bool(sizes) and max(sizes) > UNITS * median_low(sizes)


def _peaks(x, columns):
    """The largest absolute value of each column, 1 where it is 0: what keeps squares within the range of the dtype."""
    xp = namespace(x)
    peaks = columns.max(xp.abs(x))
    return xp.where(peaks > 0, peaks, xp.ones_like(peaks))


def _floats(a):
    return tuple(to_numpy(a).tolist())
