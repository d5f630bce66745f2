"""Images (samples, channels, rows, columns), in memory channels last: frames, windows, and work by blocks of samples.

With channels last the entries of a window in one row of an image lie side by side, so that patches are copied in runs.
"""

import math
from dataclasses import dataclass

from nearlin._array import (
    block_length,
    by_one_worker,
    integer,
    is_numpy,
    itemsize,
    map_blocks,
    namespace,
    settle,
    slices,
    strided_windows,
)

# Bytes: a block of samples with its working memory exceeds a core's cache a little, as workers that are called often wait for
# each other; elementwise work on less is not worth two workers.
BLOCK, LIGHT = 2**22, 2**22


@dataclass(frozen=True)
class Window:
    """How the windows of a kernel lie on images: integers, or pairs for rows and for columns."""

    kernel: int | tuple
    stride: int | tuple = 1
    pad: int | tuple = 0
    dilation: int | tuple = 1

    def __post_init__(self):
        settle(self, **dict.fromkeys(("kernel", "stride", "pad", "dilation"), lambda _, value: both(value)))


def sides(least):
    """The kind of an integer of at least ``least`` or a pair of them, for rows and columns; of equal ones it is the integer."""

    def convert(name, value):
        if not isinstance(value, tuple | list) or len(value) != 2:
            return integer(least, ", or a pair of them")(name, value)
        rows, columns = (integer(least)(f"{name}[{i}]", side) for i, side in enumerate(value))
        return rows if rows == columns else (rows, columns)

    return convert


def both(value):
    """An integer, or a pair, as a pair."""
    return value if isinstance(value, tuple) else (value, value)


def out_size(size, window):
    """Output rows and columns of a convolution or pooling of images of ``size`` (h, w); not positive where they are too small."""
    along = zip(size, window.kernel, window.stride, window.pad, window.dilation, strict=True)
    return tuple((side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for side, kernel, stride, pad, dilation in along)


def framed(shape, like, value=0.0):
    """Images of ``shape`` (b, channels, h, w) full of ``value``, channels last, next to ``like``."""
    xp, (b, channels, h, w) = namespace(like), shape
    return xp.permute_dims(xp.full((b, h, w, channels), value, dtype=like.dtype, device=like.device), (0, 3, 1, 2))


def padded(x, pad, value=0.0):
    """Images ``x`` inside a frame of ``pad`` rows and columns of ``value``, channels last; a negative pad cuts off."""
    if pad == (0, 0):
        return x
    x = x[:, :, max(0, -pad[0]) : x.shape[2] - max(0, -pad[0]), max(0, -pad[1]) : x.shape[3] - max(0, -pad[1])]
    (b, channels, h, w), (top, left) = x.shape, (max(0, p) for p in pad)
    frame = framed((b, channels, h + 2 * top, w + 2 * left), x, value)
    frame[:, :, top : top + h, left : left + w] = x
    return frame


def offsets(size, window):
    """For every entry of the kernel, in order, the (rows, columns) of padded images of ``size`` that it meets."""
    along = [
        [slice(i * d, i * d + s * (steps - 1) + 1, s) for i in range(k)]
        for k, s, d, steps in zip(window.kernel, window.stride, window.dilation, out_size(size, window), strict=True)
    ]
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def views(x, window, value=0.0):
    """What each entry of the kernel meets, in order: arrays (b, channels, h', w'), views of images in a frame of ``value``."""
    frame = padded(x, window.pad, value)
    return [frame[:, :, rows, columns] for rows, columns in offsets(x.shape[2:], window)]


def windows(x, window):
    """The windows of images ``x``, (b, channels, kh, kw, h', w'): on NumPy views of a frame of zeros."""
    shape = (*x.shape[:2], *window.kernel, *out_size(x.shape[2:], window))
    if is_numpy(x):
        return strided_windows(padded(x, window.pad), shape, window.stride, window.dilation)
    return namespace(x).reshape(namespace(x).stack(views(x, window), axis=2), shape)


def fold(parts, window, shape):
    """The adjoint of `views`: images of ``shape`` (b, channels, h, w)."""
    (b, channels, h, w), (top, left) = shape, window.pad
    apart = all(k == 1 or s >= d * (k - 1) + 1 for k, s, d in zip(window.kernel, window.stride, window.dilation, strict=True))
    image = framed((b, channels, h + 2 * top, w + 2 * left), parts[0])
    for (rows, columns), part in zip(offsets((h, w), window), parts, strict=True):
        if apart:  # nothing is there yet
            image[:, :, rows, columns] = part
        else:
            image[:, :, rows, columns] += part
    return image[:, :, top : top + h, left : left + w]


def lanes(x):
    """x (n, channels) as it is; images (n, channels, h, w) as (n h, w channels), as they lie in memory with channels last."""
    xp = namespace(x)
    return x if x.ndim == 2 else xp.reshape(xp.permute_dims(x, (0, 2, 3, 1)), (-1, x.shape[3] * x.shape[1]))


def from_lanes(rows, shape):
    """The images of ``shape`` that `lanes` laid out."""
    xp = namespace(rows)
    if len(shape) == 2:
        return rows
    n, channels, h, w = shape
    return xp.permute_dims(xp.reshape(rows, (n, h, w, channels)), (0, 3, 1, 2))


def along(v, x):
    """Values per channel, shaped to act on the `lanes` of ``x``."""
    return v if x.ndim == 2 else namespace(v).tile(v, (x.shape[3],))


def channel_sums(x):
    """The sum over all but channels of x (n, channels) or images (n, channels, h, w): of these over rows and samples, then
    columns, as errors stay near those of pairwise sums where few terms follow on each other."""
    xp = namespace(x)
    if x.ndim == 2:
        return xp.sum(x, axis=0)
    by_sample = xp.sum(xp.reshape(lanes(x), (x.shape[0], x.shape[2], -1)), axis=1)
    return xp.sum(xp.reshape(xp.sum(by_sample, axis=0), (-1, x.shape[1])), axis=0)


def sample_blocks(n, entries, like, least=0):
    """Even blocks of ``n`` samples with ``entries`` numbers of work each: of `BLOCK` bytes, or ``least`` numbers."""
    if not is_numpy(like):
        return slices(n, block_length(entries * itemsize(like.dtype), like))
    size = n * entries * itemsize(like.dtype)
    count = math.ceil(n * entries / max(BLOCK // itemsize(like.dtype), least))
    count = min(n, 2 * math.ceil(count / 2)) if size > BLOCK else 1
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def by_samples(f, shape, entries, *arrays, least=0, light=False):
    """An array of ``shape``, images channels last, that ``f(out, ...)`` fills from `sample_blocks` of the ``arrays``."""
    whole = empty_images(shape, arrays[0])

    def part(rows):
        f(whole[rows, ...], *(a[rows, ...] for a in arrays))

    blocks = sample_blocks(shape[0], entries, arrays[0], least)
    lightly(lambda: map_blocks(part, blocks, arrays[0]), light and arrays[0])
    return whole


def is_light(x):
    """Whether elementwise work on ``x`` is not worth two workers."""
    return math.prod(x.shape) * itemsize(x.dtype) <= LIGHT


def lightly(walk, x):
    """``walk()``, by one worker where ``x`` is an array of few bytes."""
    return by_one_worker(walk) if x is not False and is_light(x) else walk()


def blockwise(f, shape, *arrays):
    """``f``, which acts on each sample, of the ``arrays``: on NumPy by blocks that stay in the cache, elsewhere at once."""
    entries = 4 * math.prod(arrays[0].shape[1:])
    if not is_numpy(arrays[0]) or is_light(arrays[0]):
        return f(*arrays)

    def part(out, *arrays):
        out[...] = f(*arrays)

    return by_samples(part, shape, entries, *arrays)


def empty_images(shape, like):
    """An array of ``shape`` to be filled, next to ``like``; images channels last."""
    xp = namespace(like)
    if len(shape) != 4:
        return xp.empty(shape, dtype=like.dtype, device=like.device)
    n, channels, h, w = shape
    return xp.permute_dims(xp.empty((n, h, w, channels), dtype=like.dtype, device=like.device), (0, 3, 1, 2))
