"""Images with class labels on the host, kept in bytes as they were read."""

from dataclasses import dataclass, replace

import numpy as np

from nearlin.data.checks import check_labels, float_dtype
from nearlin.data.dataset import DataError


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in bytes; `floats` makes network inputs of them.

    Parameters
    ----------
    name : str
        What messages call them.
    x : numpy.ndarray, (n, channels, height, width), uint8
        Kept as given, not copied.
    y : numpy.ndarray, (n,), integer
        Positions in ``classes``; kept in int64.
    classes : tuple of str
        The names of the classes.
    levels : int
        The pixel value that means 1: 255, or 16 for scikit-learn's digits.

    Raises
    ------
    DataError
        Wrong dtype or number of dimensions, no images, lengths that differ, a pixel above ``levels``, a label out of range.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple
    levels: int = 255

    def __post_init__(self):
        x, y = self.x, check_labels(self.name, self.y, len(self.classes))
        if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 4 or 0 in x.shape:
            found = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
            raise DataError(f"{self.name}: the images are {found}; expected uint8 of shape (n, channels, height, width), n > 0")
        if len(x) != len(y):
            raise DataError(f"{self.name}: {len(x)} images and {len(y)} labels; expected one label per image")
        if (largest := int(x.max())) > self.levels:
            raise DataError(f"{self.name}: the largest pixel is {largest}; expected 0 to {self.levels}")
        object.__setattr__(self, "y", y)

    def __len__(self):
        return self.x.shape[0]

    def take(self, rows):
        """The images of the given row positions, in that order."""
        return replace(self, x=self.x[rows], y=self.y[rows])

    def floats(self, dtype="float32", mean=None, std=None, flat=False):
        """The images as floats in [0, 1], or as (x - mean) / std.

        Parameters
        ----------
        dtype : {"float32", "float64"}
        mean, std : sequence of floats, one per channel, optional
            In units of [0, 1], for instance the `moments` of the training images; 0 and 1 where not given.
        flat : bool
            One row per image, its pixels in the order (channel, height, width).

        Returns
        -------
        numpy.ndarray, (n, channels, height, width), or (n, channels height width) if ``flat``

        Raises
        ------
        ValueError
            Another dtype, a wrong number of constants, one that is not finite, or a ``std`` that is not positive.
        """
        dtype = float_dtype(dtype)
        mean, std = self._per_channel("mean", mean, dtype), self._per_channel("std", std, dtype)
        x = self.x / dtype.type(self.levels)
        if mean is not None:
            x -= mean
        if std is not None:
            x /= std
        return x.reshape(len(self), -1) if flat else x

    def _per_channel(self, name, values, dtype):
        if values is None:
            return None
        values, channels = np.asarray(values, dtype=dtype), self.x.shape[1]
        if values.shape != (channels,) or not np.all(np.isfinite(values)) or (name == "std" and not np.all(values > 0)):
            kind = "positive" if name == "std" else "finite"
            raise ValueError(f"{name} is {values.tolist()}; expected {channels} {kind} number(s), one per channel")
        return values[:, None, None]

    def moments(self):
        """Mean and standard deviation of each channel in units of [0, 1], two arrays (channels,) in float64."""
        counts = np.stack([np.bincount(self.x[:, c].ravel(), minlength=256) for c in range(self.x.shape[1])])
        values, shares = np.arange(counts.shape[1]) / self.levels, counts / counts.sum(axis=1, keepdims=True)
        mean = np.sum(shares * values, axis=1)
        return mean, np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
