"""Random crops and flips of image batches."""

import numpy as np

from nearlin._array import asarray, describe, device, fold_in, generator, integer, is_array, namespace

_AUGMENT = 0x61756700  # keeps these draws apart from those of other users of the same key


def augment(x, key, pad=4, flip=True):
    """Shift every image at random, zeros entering at the border, and mirror half of them.

    An image is padded with ``pad`` zeros on each side and cropped back to its size at an offset uniform on
    {0, ..., 2 pad}²; then, with probability one half, left and right are exchanged.

    Parameters
    ----------
    x : array, (n, channels, height, width)
        Of any dtype; not changed. Normalise before, so that the zeros are the mean, or after, so that they are black.
    key : int
        Non-negative; the same key draws the same offsets and flips for every dtype and backend, and the same offsets without
        ``flip``.
    pad : int
        Largest shift in pixels; 0 for none.
    flip : bool

    Returns
    -------
    array, (n, channels, height, width), a new one of the dtype of ``x``, next to it

    Raises
    ------
    TypeError
        Not an array.
    ValueError
        Not four dimensions, a negative ``pad``, or a negative key.

    Notes
    -----
    One padded copy of the batch, and an integer a pixel. The offsets alone are drawn on the host and moved.
    """
    if not is_array(x):
        raise TypeError(f"x is a {describe(x)}; expected an array of images")
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (n, channels, height, width)")
    pad = integer(0)("pad", pad)
    (n, channels, height, width), draw, xp = x.shape, generator(fold_in(key, _AUGMENT)), namespace(x)
    top, left = draw.integers(0, 2 * pad + 1, size=(2, n))
    mirrored = (draw.integers(0, 2, size=n) == 1)[:, None] & flip
    tall, wide = height + 2 * pad, width + 2 * pad
    padded = xp.zeros((n, channels, tall, wide), dtype=x.dtype, device=device(x))
    padded[:, :, pad : pad + height, pad : pad + width] = x
    pixel, image = np.arange(width), np.arange(n) * channels * tall * wide
    rows = image[:, None] + wide * (top[:, None] + np.arange(height))
    columns = left[:, None] + np.where(mirrored, width - 1 - pixel, pixel)
    rows, columns = (asarray(place, like=x, dtype="int64") for place in (rows, columns))
    planes = tall * wide * xp.arange(channels, dtype=xp.int64, device=device(x))
    places = planes[None, :, None, None] + rows[:, None, :, None] + columns[:, None, None, :]
    return xp.reshape(xp.take(xp.reshape(padded, (-1,)), xp.reshape(places, (-1,))), x.shape)
