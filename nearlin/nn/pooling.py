"""Pooling by hand; inputs are (samples, channels, rows, columns)."""

import math
from dataclasses import dataclass
from functools import cached_property

from nearlin._array import brings_image_layers, max_pooled_gradient, namespace, settle
from nearlin.nn.images import Window, blockwise, both, fold, out_size, sides, views


@dataclass(frozen=True)
class _Pool:
    kernel: int | tuple = 2
    stride: int | tuple | None = None
    pad: int | tuple = 0
    spec = None

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        settle(self, kernel=sides(1), stride=sides(1), pad=sides(0))
        if any(2 * pad > kernel for pad, kernel in zip(both(self.pad), both(self.kernel), strict=True)):
            raise ValueError(f"pad is {self.pad}; expected at most half of the kernel, {self.kernel}")

    @cached_property
    def _window(self):
        return Window(self.kernel, self.stride, self.pad)

    @property
    def _entries(self):
        return math.prod(self._window.kernel)

    def _shape(self, shape):
        size = out_size(shape[2:], self._window)
        if min(size) < 1:
            raise ValueError(f"images of {shape[2]} x {shape[3]} with pad {self.pad} are smaller than the pool, {self.kernel}")
        return (*shape[:2], *size)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest entry of every window, the first of equals; ``stride`` is the kernel by default. Pairs are rows and columns."""

    def forward(self, W, x):
        """y (n, channels, h', w') of x (n, channels, h, w), and the cache (x, y). `ValueError` where x is too small."""
        y = blockwise(self._largest, self._shape(x.shape), x)
        return y, (x, y)

    def _largest(self, x):
        xp = namespace(x)
        y, *others = views(x, self._window, -xp.inf)
        for view in others:
            y = xp.maximum(y, view)
        return y

    def _winners(self, x, y):
        """For each entry of the window, a mask of the positions where it is the first to reach the maximum."""
        xp = namespace(x)
        free = xp.ones_like(y, dtype=xp.bool)
        for view in views(x, self._window, -xp.inf):
            won = xp.logical_and(view == y, free)
            free = xp.logical_xor(free, won)
            yield won

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy: each goes to the entry that was taken; no trace."""
        xp = namespace(dy)
        if brings_image_layers(dy):
            return max_pooled_gradient(dy, cache[0], self._window), None

        def part(x, y, dy):
            return fold([dy * xp.astype(won, dy.dtype) for won in self._winners(x, y)], self._window, x.shape)

        return blockwise(part, cache[0].shape, *cache, dy), None

    def jvp(self, W, cache, dx, dW):
        """The derivative of y along dx, dx where the maximum was taken; None, which stands for zero, stays None."""
        if dx is None:
            return None
        x, y = cache
        xp = namespace(dx)

        def part(x, y, dx):
            return sum(v * xp.astype(won, dx.dtype) for v, won in zip(views(dx, self._window), self._winners(x, y), strict=True))

        return blockwise(part, y.shape, x, y, dx)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of every window, padding included; ``stride`` is the kernel by default. Pairs are rows and columns."""

    def _mean(self, x):
        return blockwise(lambda x: sum(views(x, self._window)) / self._entries, self._shape(x.shape), x)

    def forward(self, W, x):
        """y (n, channels, h', w') of x (n, channels, h, w), and the cache, x. `ValueError` where x is too small."""
        return self._mean(x), x

    def backward(self, W, x, dy):
        """dx, shaped like x, for output gradients dy: each is spread over its window; no trace."""

        def part(x, dy):
            return fold([dy / self._entries] * self._entries, self._window, x.shape)

        return blockwise(part, x.shape, x, dy), None

    def jvp(self, W, x, dx, dW):
        """The derivative of y along dx, the means of dx; None, which stands for zero, stays None."""
        return None if dx is None else self._mean(dx)


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over all positions: (n, channels, h, w) becomes (n, channels)."""

    spec = None

    def forward(self, W, x):
        """y (n, channels) of x (n, channels, h, w), and the cache, the shape of x."""
        return _mean(x), tuple(x.shape)

    def backward(self, W, shape, dy):
        """dx (n, channels, h, w) for output gradients dy (n, channels), perhaps read-only; no trace."""
        xp = namespace(dy)
        return xp.broadcast_to((dy / (shape[2] * shape[3]))[:, :, None, None], shape), None

    def jvp(self, W, shape, dx, dW):
        """The derivative of y along dx, the means of dx; None, which stands for zero, stays None."""
        return None if dx is None else _mean(dx)


def _mean(x):
    """Over rows, then columns: the fast order with channels last."""
    xp = namespace(x)
    return xp.sum(xp.sum(x, axis=2), axis=2) / (x.shape[2] * x.shape[3])
