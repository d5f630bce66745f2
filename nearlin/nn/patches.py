"""Convolution by patches: matrix products with the windows that lie in rows of the input, taken in blocks of samples.

Row i of the kernels meets T windows of one row each in a sample, P_i (T, q) for q = kw inp / groups entries in each group of
channels. With the same row of the kernels, K_i (q, out / groups),

    Y     = sum over i of P_i K_i  + b              2 T out q kh flops a sample
    dK_iᵀ = sum over samples of dYᵀ P_i
    dX    = the convolution of dY with the kernels flipped, where the stride is 1; else fold(dY Kᵀ): flipped, s² times the work.

All P_i of a sample are parts of one copy of the windows in all its rows, kh times less than a copy of whole patches; where rows
lie at stride 1 they are matrices as they are. The copy is made anew where it is needed. Products are taken sample by sample: BLAS
is faster where a product has fewer than a million multiplications.
"""

from dataclasses import replace

from nearlin._array import into, is_numpy, namespace, row_windows, sum_blocks
from nearlin.nn.images import Window, along, by_samples, channel_sums, fold, lanes, out_size, padded, sample_blocks, windows


def _parts(x, spec):
    """The matrices P_i (groups, b, h' w', q) of images ``x`` (b, inp, h, w), one for each row of the kernels."""
    xp, (height, width) = namespace(x), out_size(x.shape[2:], spec)
    if is_numpy(x) and spec.groups == spec.dilation[1] == 1:
        images = xp.permute_dims(padded(x, spec.pad), (0, 2, 3, 1))
        rows = row_windows(images, width, spec.kernel[1], spec.stride[1])[None]
    else:
        window = Window((1, spec.kernel[1]), (1, spec.stride[1]), spec.pad, (1, spec.dilation[1]))
        view = windows(x, window)[:, :, 0, ...]
        view = xp.reshape(view, (x.shape[0], spec.groups, spec.depth, *view.shape[2:]))
        rows = xp.permute_dims(view, (1, 0, 4, 5, 3, 2))
    s, reach = spec.stride[0], spec.stride[0] * (height - 1) + 1
    starts = (i * spec.dilation[0] for i in range(spec.kernel[0]))
    return [xp.reshape(rows[:, :, i : i + reach : s, ...], (spec.groups, x.shape[0], height * width, -1)) for i in starts]


def _by_positions(y, groups):
    """(b, channels, h, w) as (groups, b, h w, channels / groups)."""
    xp, (b, channels, h, w) = namespace(y), y.shape
    return xp.permute_dims(xp.reshape(xp.permute_dims(y, (0, 2, 3, 1)), (b, h * w, groups, channels // groups)), (2, 0, 1, 3))


def _matrices(kernels, spec):
    """Kernels (out, inp / groups, kh, kw) as K (kh, groups, 1, q, out / groups)."""
    xp = namespace(kernels)
    by_group = xp.reshape(kernels, (spec.groups, -1, *kernels.shape[1:]))
    return xp.reshape(xp.permute_dims(by_group, (3, 0, 4, 2, 1)), (spec.kernel[0], spec.groups, 1, -1, by_group.shape[1]))


def forward(x, kernels, bias, spec):
    """y (n, out, h', w') of x (n, inp, h, w) for ``kernels`` (out, inp / groups, kh, kw)."""
    K, size = _matrices(kernels, spec), out_size(x.shape[2:], spec)

    def part(y, x):
        Y = _by_positions(y, spec.groups)
        for i, P in enumerate(_parts(x, spec)):
            if i == 0:
                into(Y, "matmul", P, K[0, ...])
            else:
                Y += P @ K[i, ...]
        if bias is not None:
            Y = lanes(y)
            Y += along(bias, y)

    return by_samples(part, (x.shape[0], spec.out, *size), _entries(x, spec), x)


def _entries(x, spec):
    """Numbers of windows and outputs of one sample of ``x``."""
    height, width = out_size(x.shape[2:], spec)
    return ((x.shape[2] + 2 * spec.pad[0]) * spec.inp * spec.kernel[1] + 2 * height * spec.out) * width


def backward(dy, kernels, shape, spec):
    """dx of ``shape`` (n, inp, h, w) for output gradients dy (n, out, h', w')."""
    if spec.stride == (1, 1):
        return forward(dy, _flipped(kernels, spec), None, _adjoint(spec))
    xp, (_, inp, h, w) = namespace(dy), shape
    K = xp.permute_dims(_matrices(kernels, spec), (1, 2, 0, 3, 4))
    K = xp.reshape(K, (spec.groups, 1, spec.entries * spec.depth, -1))

    def part(dx, dy):
        dP = _by_positions(dy, spec.groups) @ xp.matrix_transpose(K)
        dP = xp.reshape(dP, (spec.groups, dy.shape[0], *dy.shape[2:], spec.entries, spec.depth))
        dP = xp.reshape(xp.permute_dims(dP, (4, 1, 0, 5, 2, 3)), (spec.entries, dy.shape[0], inp, *dy.shape[2:]))
        dx[...] = fold([dP[i, ...] for i in range(spec.entries)], spec, (dy.shape[0], inp, h, w))

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
    xp = namespace(dy)

    def part(rows):
        G = xp.matrix_transpose(_by_positions(dy[rows, ...], spec.groups))
        dK = [xp.sum(G @ P, axis=1) for P in _parts(x[rows, ...], spec)]
        return xp.stack(dK, axis=2), channel_sums(dy[rows, ...])

    blocks = sample_blocks(x.shape[0], _entries(x, spec), x, least=4 * spec.out * spec.fan_in)
    dK, sums = sum_blocks(part, blocks, x)  # a sum of few large products
    dK = xp.reshape(dK, (spec.out, *spec.kernel, spec.depth))
    return xp.reshape(xp.permute_dims(dK, (0, 3, 1, 2)), (spec.out, -1)), sums
