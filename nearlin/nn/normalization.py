"""Normalisation by hand: over the batch, by channel, and over channels."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from nearlin._array import (
    brings_image_layers,
    integer,
    into,
    is_numpy,
    namespace,
    normalization_gradients,
    positive,
    settle,
    sum_blocks,
)
from nearlin.nn.images import along, blockwise, by_samples, channel_sums, empty_images, from_lanes, lanes, lightly, sample_blocks
from nearlin.nn.layers import LayerSpec


class Statistics(NamedTuple):
    """Mean and (biased) variance per channel, each (channels,)."""

    mean: object
    variance: object


class NormTrace(NamedTuple):
    """What a normalisation layer contributes to a gradient: normalised inputs and output gradients, (n, channels, ...).

    ``sums``, the gradients of scale and shift, are given where the backward pass has needed them.
    """

    inputs: object
    signals: object
    sums: tuple | None = None

    @property
    def rows(self):
        """Samples times positions."""
        return math.prod(self.signals.shape) // self.signals.shape[1]

    def by_group(self):
        """The trace alone."""
        return (self,)

    def grad(self):
        """The gradient (channels, 2) of scale and shift."""
        return namespace(self.signals).stack(self.sums or _moments(self.signals, self.inputs), axis=1)


class Cache(NamedTuple):
    """Normalised inputs, 1/√(variance + epsilon) per channel, or for each position, and the statistics of a batch."""

    normalized: object
    scale: object
    statistics: Statistics | None = None


def all_but_channels(x):
    """The axes of x (n, channels, ...) but that of channels."""
    return (0, *range(2, x.ndim))


def _by_lanes(f, *arrays):
    """An array that ``f(out, ...)``, which acts entry by entry, fills from the lanes of ``arrays`` shaped alike."""
    shape, rows = arrays[0].shape, tuple(map(lanes, arrays))
    return from_lanes(by_samples(f, rows[0].shape, 2 * rows[0].shape[1], *rows, light=True), shape)


def _sums(f, *arrays):
    """The sums over all but channels of the arrays shaped alike that ``f`` makes of blocks of samples, a tuple."""

    def part(rows):
        return tuple(map(channel_sums, f(*(a[rows, ...] for a in arrays))))

    n, entries = arrays[0].shape[0], 2 * math.prod(arrays[0].shape[1:])
    blocks = sample_blocks(n, entries, arrays[0]) if is_numpy(arrays[0]) else [slice(0, n)]
    return lightly(lambda: sum_blocks(part, blocks, arrays[0]), arrays[0])


def _moments(v, xh):
    """The sums of v xh and of v over all but channels."""
    return _sums(lambda v, xh: (v * xh, v), v, xh)


def _centred(x, mean):
    """x less its mean by channel, and the sums of its squares."""
    centred, mean = empty_images(x.shape, x), along(mean, x)

    def part(rows):
        c = lanes(centred[rows, ...])
        into(c, "subtract", lanes(x[rows, ...]), mean)
        return channel_sums(from_lanes(c * c, (rows.stop - rows.start, *x.shape[1:])))

    blocks = sample_blocks(x.shape[0], 2 * math.prod(x.shape[1:]), x)
    return centred, lightly(lambda: sum_blocks(part, blocks, x), x)


class _Norm:
    """What normalisations share: the matrix (channels, 2) of gamma and beta, and its part of the derivatives."""

    def __post_init__(self):
        settle(self, channels=integer(1), epsilon=positive)

    @cached_property
    def spec(self):
        """The layer's `LayerSpec`."""
        return LayerSpec("norm", self.channels, 1)

    def init(self, key, like, gain=1.0):
        """gamma = 1, beta = 0, next to ``like``."""
        xp = namespace(like)
        ones = xp.ones((self.channels,), dtype=like.dtype, device=like.device)
        return xp.stack([ones, 0 * ones], axis=1)

    def trace(self, cache, dy):
        """The `NormTrace` of a `Cache` and output gradients dy, shaped like x."""
        return NormTrace(cache.normalized, dy)

    def rows(self, cache):
        """Rows of a trace: samples times positions."""
        return math.prod(cache.normalized.shape) // self.channels

    def _affine(self, W, normalized, scale=None):
        """gamma xh + beta for the normalised inputs xh, which are multiplied by ``scale`` before, where it is given."""
        gamma, beta = (along(W[:, i], normalized) for i in (0, 1))
        lengths = None if scale is None else along(scale, normalized)

        def part(y, xh):
            if lengths is not None:
                xh *= lengths
            into(y, "multiply", xh, gamma)
            y += beta

        return _by_lanes(part, normalized)


@dataclass(frozen=True)
class BatchNorm(_Norm):
    """y = gamma (x - mean) / √(variance + epsilon) + beta per channel of x (n, channels) or (n, channels, h, w).

    Mean and biased variance are those of the batch, or ``statistics`` where given: evaluation mode. The matrix (channels, 2)
    holds gamma and beta, at first 1 and 0. Ioffe, Szegedy, arXiv:1502.03167.
    """

    channels: int
    epsilon: float = 1e-5
    statistics: Statistics | None = field(default=None, compare=False)

    def forward(self, W, x):
        """y, shaped like x (n, channels, ...), and the `Cache`."""
        xp, rows = namespace(W, x), math.prod(x.shape) // self.channels
        mean = _sums(lambda x: (x,), x)[0] / rows if self.statistics is None else self.statistics.mean
        normalized, squares = _centred(x, mean)
        variance = squares / rows if self.statistics is None else self.statistics.variance
        scale = 1 / xp.sqrt(variance + self.epsilon)
        return self._affine(W, normalized, scale), Cache(normalized, scale, Statistics(mean, variance))

    def _derivative(self, W, cache, v, sums):
        """Of y along a change v of x: gamma scale (v less its mean and its component along the normalised inputs).

        It is its own adjoint. ``sums`` are the `_moments` of v; the statistics of evaluation do not change.
        """
        k = along(W[:, 0] * cache.scale, v)
        if self.statistics is not None:
            return _by_lanes(lambda dy, v: into(dy, "multiply", v, k), v)
        rows = math.prod(v.shape) // self.channels
        component, mean = (along(total / rows, v) for total in sums)

        def part(change, v, xh):
            into(change, "multiply", xh, -component)
            change += v
            change -= mean
            change *= k

        return _by_lanes(part, v, cache.normalized)

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy, and the `NormTrace`; batch statistics are differentiated too."""
        if brings_image_layers(dy) and self.statistics is None:
            dx, sums = normalization_gradients(dy, cache.normalized, W[:, 0] * cache.scale)
            return dx, NormTrace(cache.normalized, dy, sums)
        sums = _moments(dy, cache.normalized)
        return self._derivative(W, cache, dy, sums), NormTrace(cache.normalized, dy, sums)

    def jvp(self, W, cache, dx, dW):
        """Derivative of y along (dx, dW), shaped like x; ``dx`` None stands for zero (the first layer)."""
        dy = self._affine(dW, cache.normalized)
        return dy if dx is None else dy + self._derivative(W, cache, dx, _moments(dx, cache.normalized))


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """y = gamma (x - mean) / √(variance + epsilon) + beta over the channels of each sample, of images at each position.

    x is (n, channels) or (n, channels, h, w); mean and biased variance are of ``channels`` numbers, and samples stay apart. The
    matrix (channels, 2) holds gamma and beta, at first 1 and 0. Ba, Kiros, Hinton, arXiv:1607.06450.
    """

    channels: int
    epsilon: float = 1e-5

    def forward(self, W, x):
        """y, shaped like x (n, channels, ...), and the `Cache`."""
        xp = namespace(W, x)
        centred = blockwise(lambda x: x - _mean(x), x.shape, x)
        scale = 1 / xp.sqrt(_mean(centred * centred) + self.epsilon)
        normalized = centred * scale
        return self._affine(W, normalized), Cache(normalized, scale)

    def _derivative(self, cache, v):
        """Of the normalised inputs along v: scale (v less its mean and its component along them), and its own adjoint."""

        def part(v, xh, scale):
            return scale * (v - _mean(v) - xh * _mean(v * xh))

        return blockwise(part, v.shape, v, cache.normalized, cache.scale)

    def _scaled(self, W, v):
        gamma = along(W[:, 0], v)
        return _by_lanes(lambda out, v: into(out, "multiply", v, gamma), v)

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy, and the `NormTrace`."""
        return self._derivative(cache, self._scaled(W, dy)), self.trace(cache, dy)

    def jvp(self, W, cache, dx, dW):
        """Derivative of y along (dx, dW), shaped like x; ``dx`` None stands for zero (the first layer)."""
        dy = self._affine(dW, cache.normalized)
        return dy if dx is None else dy + self._scaled(W, self._derivative(cache, dx))


def _mean(x):
    """Over the channels of x (n, channels, ...)."""
    return namespace(x).mean(x, axis=1, keepdims=True)
