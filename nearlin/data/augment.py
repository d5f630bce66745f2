"""Random crops and flips of image batches."""

import numpy as np

from nearlin._array import fold_in, generator, integer

_AUGMENT = 0x61756700  # keeps these draws apart from those of other users of the same key


def augment(x, key, pad=4, flip=True):
    """Shift every image at random, zeros entering at the border, and mirror half of them.

    An image is padded with ``pad`` zeros on each side and cropped back to its size at an offset uniform on
    {0, ..., 2 pad}²; then, with probability one half, left and right are exchanged.

    Parameters
    ----------
    x : numpy.ndarray, (n, channels, height, width)
        Of any dtype; not changed. Normalise before, so that the zeros are the mean, or after, so that they are black.
    key : int
        Non-negative; the same key draws the same offsets and flips for every dtype, and the same offsets without ``flip``.
    pad : int
        Largest shift in pixels; 0 for none.
    flip : bool

    Returns
    -------
    numpy.ndarray, (n, channels, height, width), a new array of the dtype of ``x``

    Raises
    ------
    TypeError
        Not a NumPy array.
    ValueError
        Not four dimensions, a negative ``pad``, or a negative key.

    Notes
    -----
    One padded copy of the batch.
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x is a {type(x).__name__}; expected a NumPy array: images are augmented on the host")
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}; expected (n, channels, height, width)")
    pad = integer(0)("pad", pad)
    (n, _, height, width), draw = x.shape, generator(fold_in(key, _AUGMENT))
    top, left = draw.integers(0, 2 * pad + 1, size=(2, n))
    mirrored = draw.integers(0, 2, size=n) == 1
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    shifted = windows[np.arange(n), :, top, left]
    return np.where(mirrored[:, None, None, None], shifted[..., ::-1], shifted) if flip else shifted
