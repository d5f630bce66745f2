"""Preprocessing as visible steps whose constants, taken from the training rows, are kept for prediction."""

import warnings
from dataclasses import dataclass

import numpy as np

from nearlin._array import namespace, refuse_masked
from nearlin.data.dataset import DataError

_ZERO = 1e-12  # a row this small beside what was subtracted from it is rounding error


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Affine steps on inputs and targets, and rows of unit length. The default instance changes nothing.

    Parameters
    ----------
    mean : numpy.ndarray, (d,), optional
        Subtracted from every input row.
    scale : numpy.ndarray, (d,), optional
        Then every feature is divided by its entry.
    constant : bool
        Then a column of ones is appended: a bias for networks without one.
    normalize : bool
        Then every row is divided by its Euclidean length.
    target_mean, target_std : float, or numpy.ndarray (c,) for several targets
        Targets become (y - target_mean) / target_std; predictions are mapped back.
    """

    mean: np.ndarray | None = None
    scale: np.ndarray | None = None
    normalize: bool = False
    target_mean: float = 0.0
    target_std: float = 1.0
    constant: bool = False

    @classmethod
    def fit(cls, dataset, center=True, normalize=True, standardize=None, scale=False, constant=False):
        """Take the constants from a (training) data set.

        Parameters
        ----------
        dataset : Dataset
        center : bool
            Subtract the mean of the rows.
        normalize : bool
            Divide every row by its length; what the theory of the near-linear step assumes.
        standardize : bool, optional
            Give the targets mean 0 and standard deviation 1; by default for regression and not for classification.
        scale : bool
            Divide every feature by its standard deviation (constant features are left alone); for features in different units.
            Where all features are integers of one range, as pixels are, deviations count as at least half their root mean
            square: a pixel that is nearly always empty says nothing louder than others.
        constant : bool
            Append a column of ones.

        Raises
        ------
        DataError
            A row that is zero where rows are to be normalised, named by its number in the source.
        """
        standardize = dataset.task == "regression" if standardize is None else standardize
        fitted = cls(
            mean=np.mean(dataset.x, axis=0) if center else None,
            scale=_deviations(dataset.x) if scale else None,
            normalize=normalize,
            constant=constant,
            **(_target_constants(dataset) if standardize else {}),
        )
        fitted.inputs(dataset.x, dataset.name, dataset.rows)
        return fitted

    def inputs(self, x, name="x", rows=None, keep_zero=False):
        """The inputs (n, d) as the network sees them: (n, d + 1) with a constant.

        Parameters
        ----------
        x : numpy.ndarray, (n, d)
        name : str
            What error messages call the data.
        rows : sequence of int, optional
            Row numbers for error messages; 0, 1, ... by default.
        keep_zero : bool
            A row that is zero where rows are normalised stays zero, with a warning; else it is refused.

        Raises
        ------
        DataError
            A different number of features than in training, or a zero row where rows are normalised.
        TypeError
            A masked array.
        """
        refuse_masked(name, x)
        x = np.asarray(x, dtype=np.float64)
        for constants in (self.mean, self.scale):
            if constants is not None and x.shape[-1] != constants.shape[0]:
                raise DataError(f"{name} has {x.shape[-1]} feature(s); expected {constants.shape[0]}, as in training")
        z = x if self.mean is None else x - self.mean
        z = z if self.scale is None else z / self.scale
        z = np.column_stack([z, np.ones(len(z))]) if self.constant else z
        return self._unit_rows(z, x, name, rows, keep_zero) if self.normalize else z

    def _unit_rows(self, z, x, name, rows, keep_zero):
        length = np.linalg.norm(z, axis=1)
        subtracted = 0.0 if self.mean is None else np.linalg.norm(x / (1.0 if self.scale is None else self.scale), axis=1)
        zero = (length == 0) | (length <= _ZERO * subtracted)
        if not np.any(zero):
            return z / length[:, None]
        first = np.flatnonzero(zero)[0]
        when = "" if self.mean is None else " after centring"
        row = f"{name}: row {int(first if rows is None else rows[first])} (counted from 0) is zero{when}"
        if not keep_zero:
            remedy = "remove it" if self.mean is None else "remove it or do not centre (--no-center)"
            raise DataError(f"{row} and has no direction to normalise; {remedy}")
        others = f", as {np.sum(zero) - 1} more" if np.sum(zero) > 1 else ""
        warnings.warn(f"{row}{others}, and has no direction; its prediction is what the network gives for zero", stacklevel=4)
        return np.where(zero[:, None], 0.0, z / np.where(zero, 1.0, length)[:, None])

    def targets(self, y):
        """Targets (n,) or (n, c) in the units of the network; labels of classes are for the problem to turn into numbers."""
        return (np.asarray(y, dtype=np.float64) - self.target_mean) / self.target_std

    def untargets(self, f):
        """Network outputs in the units of the data; undoes `targets`."""
        return np.asarray(f, dtype=np.float64) * self.target_std + self.target_mean

    def to_dict(self):
        """The constants as a dict of NumPy arrays and plain numbers; `from_dict` undoes it."""
        return {
            "mean": self.mean,
            "scale": self.scale,
            "normalize": self.normalize,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "constant": self.constant,
        }

    @classmethod
    def from_dict(cls, constants):
        """The preprocessing that `to_dict` wrote."""
        return cls(**constants)

    def describe(self):
        """One line for the head of a run."""
        steps = [
            ("inputs centred", self.mean is not None),
            ("features scaled to unit deviation", self.scale is not None),
            ("a constant appended", self.constant),
            ("rows normalised", self.normalize),
            (self._describe_targets(), bool(np.any(self.target_mean != 0) or np.any(self.target_std != 1))),
        ]
        return ", ".join(text for text, used in steps if used) or "none"

    def _describe_targets(self):
        if np.ndim(self.target_mean):
            return f"{len(self.target_mean)} targets centred and scaled to unit deviation"
        return f"targets (y - {self.target_mean:.6g}) / {self.target_std:.6g}"


def _deviations(x):
    """Standard deviations (d,), those of pixels with a floor; 1 for features that do not vary."""
    std = floored(np.std(x, axis=0), x)
    return np.where(std <= _ZERO * np.max(np.abs(x), axis=0), 1.0, std)


def floored(std, x):
    """Deviations ``std`` (d,) of features x (n, d) of any backend, at least half their rms where features are pixels.

    Pixels are integers of one range: half of the features that vary span half of it or more. One that is almost always 0 would be
    blown up.
    """
    xp = namespace(x)
    spans = xp.max(x, axis=0) - xp.min(x, axis=0)
    varying, wide = spans > 0, 2 * spans >= xp.max(x) - xp.min(x)
    count = lambda which: int(xp.sum(xp.astype(which, xp.int64)))  # noqa: E731
    pixels = count(varying) > 1 and 2 * count(varying & wide) >= count(varying) and bool(xp.all(xp.round(x) == x))
    return xp.maximum(std, 0.5 * xp.sqrt(xp.mean(std * std))) if pixels else std


def _target_constants(dataset):
    """Mean and deviation of the targets, 1 for those that do not vary: numbers, or arrays (c,) for several targets."""
    mean, std = np.mean(dataset.y, axis=0), np.std(dataset.y, axis=0)
    constant = std <= _ZERO * np.abs(mean)
    for value in np.atleast_1d(mean)[np.atleast_1d(constant)]:
        warnings.warn(f"{dataset.name}: all training targets are {value:g}; they are centred but not scaled", stacklevel=3)
    std = np.where(constant, 1.0, std)
    return (
        {"target_mean": mean, "target_std": std}
        if dataset.y.ndim == 2
        else {"target_mean": float(mean), "target_std": float(std)}
    )
