"""Normalisation by hand: over the batch, by channel, and over channels."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from nearlin._array import integer, is_numpy, namespace, positive, settle, sum_blocks
from nearlin.nn.images import blockwise, channel_sums, sample_blocks
from nearlin.nn.layers import LayerSpec


class Statistics(NamedTuple):
    """Mean and (biased) variance per channel, each (channels,)."""

    mean: object
    variance: object


class NormTrace(NamedTuple):
    """What a normalisation layer contributes to a gradient: normalised inputs and output gradients, (n, channels, ...)."""

    inputs: object
    signals: object

    @property
    def rows(self):
        """Samples times positions."""
        return math.prod(self.signals.shape) // self.signals.shape[1]

    def by_group(self):
        """The trace alone."""
        return (self,)

    def grad(self):
        """The gradient (channels, 2) of scale and shift."""
        return namespace(self.signals).stack(_sums(lambda g, a: (g * a, g), self.signals, self.inputs), axis=1)


class Cache(NamedTuple):
    """Normalised inputs, 1/√(variance + epsilon), shaped to act on them, and the statistics, where they are of a batch."""

    normalized: object
    scale: object
    statistics: Statistics | None = None


def all_but_channels(x):
    """The axes of x (n, channels, ...) but that of channels."""
    return (0, *range(2, x.ndim))


def _along(v, x):
    """Values per channel, shaped to act on ``x``."""
    return namespace(v).reshape(v, (1, -1, *(1,) * (x.ndim - 2)))


def _sums(f, *arrays):
    """The sums over all but channels of the arrays that ``f`` makes of blocks of samples, a tuple."""

    def part(rows):
        made = f(*(a[rows, ...] for a in arrays))
        return tuple(map(channel_sums, made))

    n, entries = arrays[0].shape[0], 4 * math.prod(arrays[0].shape[1:])
    blocks = sample_blocks(n, entries, arrays[0]) if is_numpy(arrays[0]) else [slice(0, n)]
    return sum_blocks(part, blocks, arrays[0])


class _Norm:
    """What normalisations share: the matrix (channels, 2) of gamma and beta, and the derivative."""

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

    def _affine(self, W, normalized):
        gamma, beta = (_along(W[:, i], normalized) for i in (0, 1))
        return blockwise(lambda xh: xh * gamma + beta, normalized.shape, normalized)

    def jvp(self, W, cache, dx, dW):
        """Derivative of y along (dx, dW), shaped like x; ``dx`` None stands for zero (the first layer)."""
        dy = self._affine(dW, cache.normalized)
        return dy if dx is None else dy + _along(W[:, 0], dx) * self._derivative(cache, dx)

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy, and the `NormTrace`; statistics of the batch are differentiated too."""
        return self._derivative(cache, _along(W[:, 0], dy) * dy), self.trace(cache, dy)


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
        if self.statistics is None:
            mean = _sums(lambda x: (x,), x)[0] / rows
            centre = _along(mean, x)
            variance = _sums(lambda x: ((x - centre) * (x - centre),), x)[0] / rows
        else:
            mean, variance = self.statistics
            centre = _along(mean, x)
        scale = _along(1 / xp.sqrt(variance + self.epsilon), x)
        normalized = blockwise(lambda x: (x - centre) * scale, x.shape, x)
        return self._affine(W, normalized), Cache(normalized, scale, Statistics(mean, variance))

    def _derivative(self, cache, v):
        """Of the normalised inputs along v: scale (v less its mean and its component along them), and its own adjoint."""
        if self.statistics is not None:
            return cache.scale * v
        rows, sums = math.prod(v.shape) // self.channels, _sums(lambda v, xh: (v, v * xh), v, cache.normalized)
        mean, along = (_along(s / rows, v) for s in sums)
        return blockwise(lambda v, xh: cache.scale * (v - mean - xh * along), v.shape, v, cache.normalized)


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
        centred = blockwise(lambda x: x - xp.mean(x, axis=1, keepdims=True), x.shape, x)
        scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=1, keepdims=True) + self.epsilon)
        normalized = centred * scale
        return self._affine(W, normalized), Cache(normalized, scale)

    def _derivative(self, cache, v):
        """Of the normalised inputs along v: scale (v less its mean and its component along them), and its own adjoint."""
        mean = lambda a: namespace(a).mean(a, axis=1, keepdims=True)  # noqa: E731

        def part(v, xh, scale):
            return scale * (v - mean(v) - xh * mean(v * xh))

        return blockwise(part, v.shape, v, cache.normalized, cache.scale)
