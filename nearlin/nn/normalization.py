"""Batch normalisation by hand."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from nearlin._array import integer, namespace, positive, settle
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

    def grad(self):
        """The gradient (channels, 2) of scale and shift."""
        xp = namespace(self.signals)
        axes = all_but_channels(self.signals)
        return xp.stack([xp.sum(self.signals * self.inputs, axis=axes), xp.sum(self.signals, axis=axes)], axis=1)


class Cache(NamedTuple):
    """Normalised inputs, 1/√(variance + epsilon) per channel, and the statistics they were normalised by."""

    normalized: object
    scale: object
    statistics: Statistics


def all_but_channels(x):
    """The axes of x (n, channels, ...) but that of channels."""
    return (0, *range(2, x.ndim))


def _along(v, x):
    """Values per channel, shaped to act on ``x``."""
    return namespace(v).reshape(v, (1, -1, *(1,) * (x.ndim - 2)))


@dataclass(frozen=True)
class BatchNorm:
    """y = gamma (x - mean) / √(variance + epsilon) + beta per channel of x (n, channels) or (n, channels, h, w).

    Mean and biased variance are those of the batch, or ``statistics`` where given: evaluation mode. The matrix (channels, 2)
    holds gamma and beta, at first 1 and 0. Ioffe, Szegedy, arXiv:1502.03167.
    """

    channels: int
    epsilon: float = 1e-5
    statistics: Statistics | None = field(default=None, compare=False)

    def __post_init__(self):
        settle(self, channels=integer(1), epsilon=positive)

    @property
    def spec(self):
        """The layer's `LayerSpec`."""
        return LayerSpec("norm", self.channels, 1)

    def init(self, key, like, gain=1.0):
        """gamma = 1, beta = 0, next to ``like``."""
        xp = namespace(like)
        ones = xp.ones((self.channels,), dtype=like.dtype, device=like.device)
        return xp.stack([ones, 0 * ones], axis=1)

    def forward(self, W, x):
        """y, shaped like x (n, channels, ...), and the `Cache`."""
        xp = namespace(W, x)
        if self.statistics is None:
            mean = xp.mean(x, axis=all_but_channels(x))
            centred = x - _along(mean, x)
            variance = xp.mean(centred * centred, axis=all_but_channels(x))
        else:
            mean, variance = self.statistics
            centred = x - _along(mean, x)
        scale = 1 / xp.sqrt(variance + self.epsilon)
        normalized = centred * _along(scale, x)
        y = normalized * _along(W[:, 0], x) + _along(W[:, 1], x)
        return y, Cache(normalized, scale, Statistics(mean, variance))

    def trace(self, cache, dy):
        """The `NormTrace` of a `Cache` and output gradients dy, shaped like x."""
        return NormTrace(cache.normalized, dy)

    def rows(self, cache):
        """Rows of a trace: samples times positions."""
        return math.prod(cache.normalized.shape) // self.channels

    def _project(self, cache, v):
        """v less its mean and its component along the normalised inputs: the derivative of normalisation, unscaled."""
        if self.statistics is not None:
            return v
        xp, axes, xh = namespace(v), all_but_channels(v), cache.normalized
        return v - _along(xp.mean(v, axis=axes), v) - xh * _along(xp.mean(v * xh, axis=axes), v)

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy, and the `NormTrace`; batch statistics are differentiated too."""
        return _along(W[:, 0] * cache.scale, dy) * self._project(cache, dy), self.trace(cache, dy)

    def jvp(self, W, cache, dx, dW):
        """Derivative of y along (dx, dW), shaped like x; ``dx`` None stands for zero (the first layer)."""
        xh = cache.normalized
        dy = xh * _along(dW[:, 0], xh) + _along(dW[:, 1], xh)
        return dy if dx is None else dy + _along(W[:, 0] * cache.scale, dx) * self._project(cache, dx)
