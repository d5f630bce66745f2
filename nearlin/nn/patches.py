"""Convolution by patches: a matrix product with all windows of the input, taken in blocks of samples.

At T output positions a sample has the patches P (T, q): q = kh kw inp / groups entries for each group of channels. With kernels K
(q, out / groups) of a group

    Y  = P K + b                                    2 T out q flops a sample
    dK = sum over samples of Pᵀ dY
    dX = the convolution of dY with the kernels flipped, where the stride is 1; else fold(dY Kᵀ): flipped, s² times as much work.

P is one copy of a view of the images, which lie in memory with channels last, made anew where it is needed instead of kept.
"""

from dataclasses import replace

from nearlin._array import is_numpy, namespace, sum_blocks, window_rows
from nearlin.nn.images import by_samples, channel_sums, fold, out_size, padded, sample_blocks, windows


def _patches(x, spec):
    """The patches (groups, b T, q) of images ``x`` (b, inp, h, w): by kernel row, kernel column, channel of the group."""
    xp = namespace(x)
    if is_numpy(x) and spec.groups == spec.dilation[1] == 1:
        images, size = xp.permute_dims(padded(x, spec.pad), (0, 2, 3, 1)), out_size(x.shape[2:], spec)
        rows = window_rows(images, size, spec.kernel, spec.stride, spec.dilation)
        return xp.reshape(rows, (1, x.shape[0] * size[0] * size[1], -1))
    view = windows(x, spec)
    b, _, kh, kw, h, w = view.shape
    view = xp.reshape(view, (b, spec.groups, spec.depth, kh, kw, h, w))
    return xp.reshape(xp.permute_dims(view, (1, 0, 5, 6, 3, 4, 2)), (spec.groups, b * h * w, -1))


def _rows(y, groups):
    """(b, channels, h, w) as (groups, b h w, channels / groups)."""
    xp = namespace(y)
    rows = xp.reshape(xp.permute_dims(y, (0, 2, 3, 1)), (-1, groups, y.shape[1] // groups))
    return xp.permute_dims(rows, (1, 0, 2))


def _images(rows, size):
    """The inverse of `_rows`, for images of ``size`` (h, w)."""
    xp = namespace(rows)
    return xp.permute_dims(xp.reshape(xp.permute_dims(rows, (1, 0, 2)), (-1, *size, rows.shape[0] * rows.shape[2])), (0, 3, 1, 2))


def _matrices(kernels, spec):
    """Kernels (out, inp / groups, kh, kw) as K (groups, q, out / groups)."""
    xp = namespace(kernels)
    by_group = xp.reshape(kernels, (spec.groups, -1, *kernels.shape[1:]))
    return xp.reshape(xp.permute_dims(by_group, (0, 3, 4, 2, 1)), (spec.groups, -1, by_group.shape[1]))


def forward(x, kernels, bias, spec):
    """y (n, out, h', w') of x (n, inp, h, w) for ``kernels`` (out, inp / groups, kh, kw)."""
    K, size = _matrices(kernels, spec), out_size(x.shape[2:], spec)

    def part(x):
        Y = _patches(x, spec) @ K
        if bias is not None:
            Y += namespace(bias).reshape(bias, (spec.groups, 1, -1))
        return _images(Y, size)

    return by_samples(part, (x.shape[0], spec.out, *size), spec.inp * spec.entries * size[0] * size[1], x)


def backward(dy, kernels, shape, spec):
    """dx of ``shape`` (n, inp, h, w) for output gradients dy (n, out, h', w')."""
    if spec.stride == (1, 1):
        return forward(dy, _flipped(kernels, spec), None, _adjoint(spec))
    xp, K = namespace(dy), _matrices(kernels, spec)
    _, inp, h, w = shape

    def part(dy):
        dP = _rows(dy, spec.groups) @ xp.matrix_transpose(K)
        dP = xp.reshape(dP, (spec.groups, dy.shape[0], *dy.shape[2:], spec.entries, spec.depth))
        dP = xp.reshape(xp.permute_dims(dP, (4, 1, 0, 5, 2, 3)), (spec.entries, dy.shape[0], inp, *dy.shape[2:]))
        return fold([dP[i, ...] for i in range(spec.entries)], spec, (dy.shape[0], inp, h, w))

    return by_samples(part, shape, inp * spec.entries * dy.shape[2] * dy.shape[3], dy)


def _flipped(kernels, spec):
    """Kernels turned by half a circle, (inp, out / groups, kh, kw)."""
    xp = namespace(kernels)
    by_group = xp.reshape(xp.flip(kernels, axis=(2, 3)), (spec.groups, -1, *kernels.shape[1:]))
    return xp.reshape(xp.permute_dims(by_group, (0, 2, 1, 3, 4)), (spec.inp, -1, *spec.kernel))


def _adjoint(spec):
    """Of the convolution from dY to dX, where the stride is 1."""
    pad = tuple(d * (k - 1) - p for d, k, p in zip(spec.dilation, spec.kernel, spec.pad, strict=True))
    return replace(spec, out=spec.inp, inp=spec.out, pad=pad)


def gradient(dy, x, spec):
    """The gradients of the kernels (out, inp kh kw / groups) and of the bias (out,)."""
    xp, size = namespace(dy), dy.shape[2] * dy.shape[3]

    def part(rows):
        G = dy[rows, ...]
        return xp.matrix_transpose(_patches(x[rows, ...], spec)) @ _rows(G, spec.groups), channel_sums(G)

    blocks = sample_blocks(x.shape[0], spec.inp * spec.entries * size, x, least=4 * spec.out * spec.fan_in)
    dK, sums = sum_blocks(part, blocks, x)  # a sum of few large products
    dK = xp.permute_dims(xp.reshape(dK, (spec.groups, *spec.kernel, spec.depth, -1)), (0, 4, 3, 1, 2))
    return xp.reshape(dK, (spec.out, -1)), sums
