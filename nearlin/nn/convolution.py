"""Convolution by hand, by the fastest of three ways.

Any by patches of the input (`nearlin.nn.patches`), plain 3 x 3 kernels between many channels by Winograd's filtering
(`nearlin.nn.winograd`), PyTorch's arrays by its own convolution. Arrays are (samples, channels, rows, columns), in memory with
channels last.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from nearlin._array import (
    block_length,
    brings_image_layers,
    convolution_gradients,
    convolve,
    flag,
    integer,
    itemsize,
    namespace,
    one_of,
    require,
    settle,
    slices,
    sum_blocks,
)
from nearlin.nn import patches, winograd
from nearlin.nn.images import out_size, sides, windows
from nearlin.nn.layers import SCHEMES, LayerSpec, draw_weights

# --------------------------------------------------------------------------------------------------- by the fastest way


def _y(x, kernels, bias, spec):
    if brings_image_layers(x):
        return convolve(x, kernels, bias, spec)
    return (winograd.forward if winograd.serves(spec) else patches.forward)(x, kernels, bias, spec)


def _dx(dy, x, kernels, spec):
    if brings_image_layers(dy):
        return convolution_gradients(dy, x, kernels, spec, [True, False, False])[0]
    return (winograd.backward if winograd.serves(spec) else patches.backward)(dy, kernels, tuple(x.shape), spec)


def _dK(dy, x, spec):
    """The gradient of the kernels (out, q) and of the bias (out,)."""
    if brings_image_layers(dy):
        kernels = namespace(x).empty((spec.out, spec.depth, *spec.kernel), dtype=x.dtype, device=x.device)  # for its shape
        _, weights, bias = convolution_gradients(dy, x, kernels, spec, [False, True, True])
        return namespace(x).reshape(weights, (spec.out, -1)), bias
    return (winograd.gradient if winograd.serves(spec) else patches.gradient)(dy, x, spec)


# ------------------------------------------------------------------------------------------------------------- the layer


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

    def by_group(self):
        """The traces of the groups: convolutions of one group, side by side."""
        spec, out = self.spec, self.spec.out // self.spec.groups
        if spec.groups == 1:
            return (self,)
        inputs, signals = (slices(channels, channels // spec.groups) for channels in (spec.inp, spec.out))
        one = replace(spec, out=out, inp=spec.depth, groups=1)
        return tuple(
            ConvTrace(self.inputs[:, a, ...], self.signals[:, b, ...], one) for a, b in zip(inputs, signals, strict=True)
        )

    def accumulate(self, f):
        """The sum over blocks of samples of ``f(A, G)``, an array or a tuple of arrays.

        A (inp kh kw + 1, r) holds the patches of a block with a row of ones where the layer has a bias, G (out, r) its output
        gradients; r counts positions within samples within the block. Memory: one block of patches a worker. `ValueError` for
        more groups than one, which share no patches: `by_group` takes them apart.
        """
        found = f"a convolution of {self.spec.groups} groups has a matrix of patches for each of them"
        require(self.spec.groups == 1, f"{found}; expected one of one group here")

        def part(rows):
            P = unfold(self.inputs[rows, ...], self.spec)
            return f(_with_row_of_ones(P) if self.spec.bias else P, _columns(self.signals[rows, ...]))

        sample = self.spec.fan_in * self.positions * itemsize(self.inputs.dtype)
        return sum_blocks(part, slices(self.inputs.shape[0], block_length(sample, self.inputs)), self.inputs)

    def grad(self):
        """The gradient of the layer's matrix, (out, q + 1); 2 n T out q flops."""
        weights, bias = _dK(self.signals, self.inputs, self.spec)
        return namespace(weights).concat([weights, bias[:, None]], axis=1) if self.spec.bias else weights


def _with_row_of_ones(P):
    xp = namespace(P)
    return xp.concat([P, xp.ones_like(P[:1, :])], axis=0)


def _columns(y):
    """(b, channels, h, w) as (channels, b h w)."""
    xp = namespace(y)
    return xp.reshape(xp.permute_dims(y, (1, 0, 2, 3)), (y.shape[1], -1))


def unfold(x, spec):
    """The patches (q, b T) of images ``x`` (b, inp, h, w), as the columns of the layer's matrix are: by channel first."""
    xp = namespace(x)
    return xp.reshape(xp.permute_dims(windows(x, spec), (1, 2, 3, 0, 4, 5)), (spec.inp * spec.entries, -1))


@dataclass(frozen=True)
class Conv2d:
    """Two-dimensional convolution (cross-correlation).

    Parameters
    ----------
    inp, out : int
        Channels.
    kernel, stride, pad, dilation : int or pair of int
        Rows and columns of the kernel, steps between positions, rows and columns of zeros around the image, and steps between
        the entries of the kernel. Output rows: (h + 2 pad - dilation (kernel - 1) - 1) // stride + 1.
    groups : int
        Parts of the channels that are convolved each on its own; a divisor of ``inp`` and ``out``.
    bias : bool
    scheme : str
        How weights are drawn; see `draw_weights`.

    Notes
    -----
    The matrix is (out, q + 1) for q = inp kh kw / groups, or (out, q) without bias. `ValueError` where the kernel exceeds the
    padded image.
    """

    inp: int
    out: int
    kernel: int | tuple = 3
    stride: int | tuple = 1
    pad: int | tuple = 0
    bias: bool = True
    scheme: str = "normal"
    dilation: int | tuple = 1
    groups: int = 1

    def __post_init__(self):
        settle(self, inp=integer(1), out=integer(1), bias=flag, scheme=one_of(*SCHEMES), groups=integer(1))
        settle(self, kernel=sides(1), stride=sides(1), pad=sides(0), dilation=sides(1))
        divides = self.inp % self.groups == self.out % self.groups == 0
        require(divides, f"groups is {self.groups}; expected a divisor of inp and out, {self.inp} and {self.out}")

    @cached_property
    def spec(self):
        """The layer's `LayerSpec`."""
        geometry = self.kernel, self.stride, self.pad, self.bias, self.dilation, self.groups
        return LayerSpec("conv", self.out, self.inp, *geometry)

    def init(self, key, like, gain=1.0):
        """The matrix [W b] drawn by the layer's scheme, next to ``like``."""
        return draw_weights(self.scheme, key, self.spec, like, gain)

    def _parts(self, W):
        """Kernels (out, inp / groups, kh, kw), and the bias (out,) or None."""
        spec = self.spec
        kernels = namespace(W).reshape(W[:, : spec.fan_in], (spec.out, spec.depth, *spec.kernel))
        return kernels, W[:, spec.fan_in] if spec.bias else None

    def _size(self, x):
        spec, size = self.spec, out_size(x.shape[2:], self.spec)
        if min(size) < 1:
            reach = " x ".join(str(d * (k - 1) + 1) for d, k in zip(spec.dilation, spec.kernel, strict=True))
            raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} with pad {self.pad} are smaller than the kernel, {reach}")
        return size

    def forward(self, W, x):
        """y (n, out, h', w') of x (n, inp, h, w), and the cache, x. `ValueError` where x has another shape or is too small."""
        if x.ndim != 4 or x.shape[1] != self.inp:
            raise ValueError(f"a convolution of {self.inp} channels was given an array of shape {tuple(x.shape)}")
        self._size(x)
        return _y(x, *self._parts(W), self.spec), x

    def trace(self, x, dy):
        """The `ConvTrace` of the cache x (n, inp, h, w) and output gradients dy (n, out, h', w')."""
        return ConvTrace(x, dy, self.spec)

    def rows(self, x):
        """Rows of a trace: samples n times output positions h' w'."""
        h, w = self._size(x)
        return x.shape[0] * h * w

    def backward(self, W, x, dy):
        """dx (n, inp, h, w) for output gradients dy (n, out, h', w'), and the `ConvTrace`."""
        return _dx(dy, x, self._parts(W)[0], self.spec), self.trace(x, dy)

    def jvp(self, W, x, dx, dW):
        """Derivative of y along (dx, dW); ``dx`` None stands for zero (the first layer)."""
        dy = _y(x, *self._parts(dW), self.spec)
        return dy if dx is None else dy + _y(dx, self._parts(W)[0], None, self.spec)
