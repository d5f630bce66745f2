"""CURVES: images of smooth curves through three random points, drawn on the fly or read from the published file."""

import numpy as np

from nearlin._array import fold_in, generator, integer
from nearlin.data.checks import check_positive, float_dtype
from nearlin.data.dataset import DataError
from nearlin.data.files import read_mat

_CURVES = 0x63757276  # keeps these draws apart from those of other users of the same seed
_SIDE, _MARGIN, _WIDTH, _CHORDS = 28, 4.0, 2.0, 24
_CHUNK = 64  # images whose temporaries stay in the cache


def curves(n_train=20000, n_test=10000, seed=0, dtype="float32"):
    """Draw images of smooth curves, each given by six numbers: data for auto-encoders with a code of six.

    This is a definition of our own, made to resemble the CURVES set of the auto-encoder literature, which is not reproduced here
    (`load_curves` reads it). In units of pixels, with the image [0, 28]² and pixel (row i, column j) centred at
    (j + 1/2, i + 1/2): three points p₀, p₁, p₂ are independent and uniform on [4, 24]²; the curve is the quadratic that
    interpolates them,

        B(t) = (1 - t)(1 - 2t) p₀ + 4t(1 - t) p₁ + t(2t - 1) p₂,    0 ≤ t ≤ 1,    B(0), B(1/2), B(1) = p₀, p₁, p₂,

    replaced by its 24 chords of equal steps in t (at most 0.05 pixels away from it); a pixel at distance δ from them has the
    value clip(3/2 - δ, 0, 1): a stroke 2 pixels wide, its edge one pixel soft. A quadratic leaves the range of its three values
    by at most an eighth of it, so that every curve stays inside [1.5, 26.5]², and no stroke is cut off.

    Parameters
    ----------
    n_train, n_test : int
        Numbers of images, at least 1. Fewer images are the first of more.
    seed : int
        Non-negative; training and test images have streams of their own.
    dtype : {"float32", "float64"}
        Images are drawn in float64 and rounded at the end.

    Returns
    -------
    train : numpy.ndarray, (n_train, 784)
        Values in [0, 1], rows of pixels one after the other; ``train.reshape(-1, 28, 28)`` are the pictures.
    test : numpy.ndarray, (n_test, 784)

    Raises
    ------
    ValueError
        A size that is no positive integer, a negative seed, another dtype.

    Notes
    -----
    About 0.3 million operations an image, in chunks of 64 images: 2 s for the defaults on one core.
    """
    check_positive(n_train=n_train, n_test=n_test)
    seed, dtype = integer(0)("seed", seed), float_dtype(dtype)
    return _images(n_train, fold_in(seed, _CURVES, 0), dtype), _images(n_test, fold_in(seed, _CURVES, 1), dtype)


def load_curves(path):
    """Read the published CURVES set from its MATLAB file, ``digs3pts_1.mat``; nothing is downloaded.

    Parameters
    ----------
    path : str or path
        Holds ``bdata`` (n_train, 784) and ``bdatatest`` (n_test, 784), the names that public auto-encoder codes expect.

    Returns
    -------
    train, test : numpy.ndarray, (n, 784)
        In the dtype of the file; the order of the pixels is that of the file.

    Raises
    ------
    DataError
        A missing or damaged file, arrays of other names, shapes or types, values outside [0, 1].
    """
    return tuple(_checked(path, name, array) for name, array in zip(_ARRAYS, read_mat(path, *_ARRAYS), strict=True))


_ARRAYS = ("bdata", "bdatatest")


def _checked(path, name, images):
    if images.dtype not in (np.float32, np.float64) or images.ndim != 2 or images.shape[1] != _SIDE**2 or len(images) == 0:
        found = f"{images.dtype} of shape {images.shape}"
        raise DataError(f"{path}: {name} is {found}; expected float32 or float64 of shape (n, {_SIDE**2}), n > 0")
    if not (images.min() >= 0 and images.max() <= 1):
        raise DataError(f"{path}: {name} has values from {images.min():g} to {images.max():g}; expected 0 to 1")
    return np.ascontiguousarray(images)


def _images(n, key, dtype):
    points = _MARGIN + (_SIDE - 2 * _MARGIN) * generator(key).random((n, 3, 2))
    images = np.empty((n, _SIDE, _SIDE), dtype)
    for i in range(0, n, _CHUNK):
        images[i : i + _CHUNK] = _strokes(_vertices(points[i : i + _CHUNK]))
    return images.reshape(n, -1)


def _vertices(points):
    """Where the chords of the curves through ``points`` (n, 3, 2) begin and end: (n, chords + 1, 2)."""
    t = np.linspace(0, 1, _CHORDS + 1)[:, None]
    p, q, r = (points[:, None, k] for k in range(3))
    return (1 - t) * (1 - 2 * t) * p + 4 * t * (1 - t) * q + t * (2 * t - 1) * r


def _strokes(vertices):
    """Images (n, 28, 28) of the polylines through ``vertices``: one minus the distance beyond the stroke, cut to [0, 1]."""
    centres, nearest = np.arange(_SIDE) + 0.5, np.inf
    for begin, chord in zip(vertices[:, :-1].swapaxes(0, 1), np.diff(vertices, axis=1).swapaxes(0, 1), strict=True):
        dx, dy = chord[:, 0, None, None], chord[:, 1, None, None]
        x, y = (centres - begin[:, :1])[:, None, :], (centres - begin[:, 1:])[:, :, None]
        square = np.maximum(dx**2 + dy**2, np.finfo(float).tiny)
        u = np.clip(x * (dx / square) + y * (dy / square), 0, 1)  # the nearest point of the chord is begin + u chord
        nearest = np.minimum(nearest, (x - u * dx) ** 2 + (y - u * dy) ** 2)
    return np.clip(_WIDTH / 2 + 0.5 - np.sqrt(nearest), 0, 1)
