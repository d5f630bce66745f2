"""Convolution by hand: a matrix product with the patches of the input, taken in blocks of samples.

For one sample the patches are P (q, T): q = inp kernel² entries ordered by channel, then kernel row, then kernel column, at T
output positions. Then

    Y  = W P + b                                    2 T out q flops a sample
    dW = sum over samples of dY Pᵀ,  dx = fold(Wᵀ dY)

Samples stand side by side, so that a block is one matrix product; P is made anew where it is needed instead of kept: a
forward pass, the gradient and each statistic unfold their inputs once. Arrays are (samples, channels, rows, columns); in memory
channels come first.
"""

from dataclasses import dataclass
from typing import NamedTuple

from nearlin._array import block_length, flag, integer, map_blocks, namespace, one_of, settle, slices, sum_blocks
from nearlin.nn.layers import SCHEMES, LayerSpec, draw_weights


class ConvTrace(NamedTuple):
    """What a convolution contributes to a gradient: raw inputs (n, inp, h, w) and output gradients g (n, out, h', w')."""

    inputs: object
    signals: object
    spec: LayerSpec

    @property
    def positions(self):
        """Output positions T of one sample."""
        return self.signals.shape[2] * self.signals.shape[3]

    @property
    def rows(self):
        """Samples times positions."""
        return self.inputs.shape[0] * self.positions

    def accumulate(self, f):
        """The sum over blocks of samples of ``f(A, G)``, an array or a tuple of arrays.

        A (inp kernel² + 1, r) holds the patches of a block with a row of ones where the layer has a bias, G (out, r) its output
        gradients; r counts positions within samples within the block. Memory: one block of patches a worker.
        """

        def part(rows):
            patches = unfold(self.inputs[rows, ...], self.spec)
            return f(_with_row_of_ones(patches) if self.spec.bias else patches, _columns(self.signals[rows, ...]))

        return sum_blocks(part, _blocks(self.inputs, self.spec), self.inputs)

    def grad(self):
        """The gradient of the layer's matrix, (out, q + 1); 2 n T out q flops."""
        xp = namespace(self.signals)

        def part(rows):
            G = _columns(self.signals[rows, ...])
            return G @ xp.matrix_transpose(unfold(self.inputs[rows, ...], self.spec))

        weights = sum_blocks(part, _blocks(self.inputs, self.spec), self.inputs)
        return xp.concat([weights, xp.sum(self.signals, axis=(0, 2, 3))[:, None]], axis=1) if self.spec.bias else weights


def _with_row_of_ones(P):
    xp = namespace(P)
    return xp.concat([P, xp.ones_like(P[:1, :])], axis=0)


def _columns(y):
    """(b, channels, h, w) as (channels, b h w)."""
    xp = namespace(y)
    return xp.reshape(xp.permute_dims(y, (1, 0, 2, 3)), (y.shape[1], -1))


def out_size(size, spec):
    """Output rows (or columns) of a convolution or pooling of ``size`` input rows."""
    return (size + 2 * spec.pad - spec.kernel) // spec.stride + 1


def padded(x, pad, value=0.0):
    """``x`` (..., h, w) inside a frame of ``pad`` rows and columns of ``value``."""
    if pad == 0:
        return x
    xp = namespace(x)
    h, w = x.shape[-2:]
    frame = xp.full((*x.shape[:-2], h + 2 * pad, w + 2 * pad), value, dtype=x.dtype, device=x.device)
    frame[..., pad : pad + h, pad : pad + w] = x
    return frame


def offsets(spec, height, width):
    """For every entry of the kernel, in order, the (rows, columns) of a padded image that it meets over all positions."""
    reach = [(spec.stride * (out_size(size, spec) - 1) + 1) for size in (height, width)]
    along = [[slice(i, i + r, spec.stride) for i in range(spec.kernel)] for r in reach]
    return [(rows, columns) for rows in along[0] for columns in along[1]]


def unfold(x, spec):
    """The patches (q, b T) of images ``x`` (b, inp, h, w)."""
    xp = namespace(x)
    image = padded(xp.permute_dims(x, (1, 0, 2, 3)), spec.pad)
    views = [image[:, :, rows, columns] for rows, columns in offsets(spec, *x.shape[2:])]
    return xp.reshape(xp.stack(views, axis=1), (spec.fan_in, -1))


def fold(P, spec, shape):
    """The adjoint of `unfold`: images (b, inp, h, w) of the given ``shape`` from (q, b T)."""
    xp = namespace(P)
    b, channels, h, w = shape
    parts = xp.reshape(P, (channels, spec.kernel**2, b, out_size(h, spec), out_size(w, spec)))
    image = xp.zeros((channels, b, h + 2 * spec.pad, w + 2 * spec.pad), dtype=P.dtype, device=P.device)
    for i, (rows, columns) in enumerate(offsets(spec, h, w)):
        image[:, :, rows, columns] += parts[:, i, ...]
    inner = image[:, :, spec.pad : spec.pad + h, spec.pad : spec.pad + w]
    return xp.permute_dims(inner, (1, 0, 2, 3))


def _blocks(x, spec):
    """Blocks of samples whose patches fit the budget of bytes."""
    positions = out_size(x.shape[2], spec) * out_size(x.shape[3], spec)
    sample = spec.fan_in * positions * (4 if "32" in str(x.dtype) else 8)
    return slices(x.shape[0], block_length(sample, x))


def _assemble(parts, blocks, shape, like):
    """Blocks of samples (b, channels, h, w) in one array of ``shape`` with channels first in memory."""
    xp = namespace(like)
    n, channels, h, w = shape
    whole = xp.empty((channels, n, h, w), dtype=like.dtype, device=like.device)
    for rows, part in zip(blocks, parts, strict=True):
        whole[:, rows, :, :] = part
    return xp.permute_dims(whole, (1, 0, 2, 3))


@dataclass(frozen=True)
class Conv2d:
    """Two-dimensional convolution (cross-correlation) with square kernels.

    Parameters
    ----------
    inp, out : int
        Channels.
    kernel : int
        Side of the kernel.
    stride, pad : int
        Step between positions, and rows of zeros around the image. Output rows: (h + 2 pad - kernel) // stride + 1.
    bias : bool
    scheme : str
        How weights are drawn; see `draw_weights`.

    Notes
    -----
    The matrix is (out, inp kernel² + 1), or (out, inp kernel²) without bias. `ValueError` where the kernel exceeds the padded
    image.
    """

    inp: int
    out: int
    kernel: int = 3
    stride: int = 1
    pad: int = 0
    bias: bool = True
    scheme: str = "normal"

    def __post_init__(self):
        settle(self, inp=integer(1), out=integer(1), bias=flag, scheme=one_of(*SCHEMES))
        settle(self, kernel=integer(1), stride=integer(1), pad=integer(0))

    @property
    def spec(self):
        """The layer's `LayerSpec`."""
        return LayerSpec("conv", self.out, self.inp, self.kernel, self.stride, self.pad, self.bias)

    def init(self, key, like, gain=1.0):
        """The matrix [W b] drawn by the layer's scheme, next to ``like``."""
        return draw_weights(self.scheme, key, self.spec, like, gain)

    def _shape(self, x):
        spec = self.spec
        if min(x.shape[2:]) + 2 * spec.pad < spec.kernel:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} with pad {spec.pad} are smaller than the kernel, {spec.kernel}"
            )
        return (x.shape[0], spec.out, out_size(x.shape[2], spec), out_size(x.shape[3], spec))

    def _apply(self, W, x):
        xp, spec = namespace(W, x), self.spec
        weights, (_, out, h, w) = W[:, : spec.fan_in], self._shape(x)

        def part(rows):
            y = weights @ unfold(x[rows, ...], spec)
            return xp.reshape(y + W[:, spec.fan_in :] if spec.bias else y, (out, -1, h, w))

        blocks = _blocks(x, spec)
        return _assemble(map_blocks(part, blocks, x), blocks, self._shape(x), x)

    def forward(self, W, x):
        """y (n, out, h', w') of x (n, inp, h, w), and the cache, x. `ValueError` where x has another shape or is too small."""
        if x.ndim != 4 or x.shape[1] != self.inp:
            raise ValueError(f"a convolution of {self.inp} channels was given an array of shape {tuple(x.shape)}")
        return self._apply(W, x), x

    def trace(self, x, dy):
        """The `ConvTrace` of the cache x (n, inp, h, w) and output gradients dy (n, out, h', w')."""
        return ConvTrace(x, dy, self.spec)

    def rows(self, x):
        """Rows of a trace: samples n times output positions h' w'."""
        n, _, h, w = self._shape(x)
        return n * h * w

    def backward(self, W, x, dy):
        """dx (n, inp, h, w) for output gradients dy (n, out, h', w'), and the `ConvTrace`."""
        xp, spec = namespace(W, x), self.spec
        transposed = xp.matrix_transpose(W[:, : spec.fan_in])

        def part(rows):
            image = x[rows, ...]
            return xp.permute_dims(fold(transposed @ _columns(dy[rows, ...]), spec, image.shape), (1, 0, 2, 3))

        blocks = _blocks(x, spec)
        return _assemble(map_blocks(part, blocks, x), blocks, x.shape, x), self.trace(x, dy)

    def jvp(self, W, x, dx, dW):
        """Derivative of y along (dx, dW); ``dx`` None stands for zero (the first layer)."""
        dy = self._apply(dW, x)
        if dx is None:
            return dy
        along = self._apply(W, dx)
        return dy + (along - W[:, self.spec.fan_in][None, :, None, None] if self.bias else along)
