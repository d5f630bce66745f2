"""Pooling by hand; inputs are (samples, channels, rows, columns)."""

from dataclasses import dataclass

from nearlin._array import integer, namespace, settle
from nearlin.nn.convolution import offsets, out_size, padded
from nearlin.nn.layers import LayerSpec


@dataclass(frozen=True)
class _Pool:
    kernel: int = 2
    stride: int | None = None
    pad: int = 0
    spec = None

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", self.kernel)
        settle(self, kernel=integer(1), stride=integer(1), pad=integer(0))
        if 2 * self.pad > self.kernel:
            raise ValueError(f"pad is {self.pad}; expected at most half of the kernel, {self.kernel}")

    @property
    def _window(self):
        return LayerSpec("pool", 1, 1, self.kernel, self.stride, self.pad)

    def _shape(self, shape):
        if min(shape[2:]) + 2 * self.pad < self.kernel:
            raise ValueError(f"images of {shape[2]} x {shape[3]} with pad {self.pad} are smaller than the pool, {self.kernel}")
        return (*shape[:2], *(out_size(size, self._window) for size in shape[2:]))

    def _views(self, x, value=0.0):
        """The input seen by each entry of the window, in order: kernel² arrays (n, channels, h', w')."""
        image = padded(x, self.pad, value)
        return [image[:, :, rows, columns] for rows, columns in offsets(self._window, *x.shape[2:])]

    def _spread(self, parts, shape, like):
        """The adjoint of ``_views``."""
        xp = namespace(like)
        h, w = shape[2:]
        image = xp.zeros((*shape[:2], h + 2 * self.pad, w + 2 * self.pad), dtype=like.dtype, device=like.device)
        for (rows, columns), part in zip(offsets(self._window, h, w), parts, strict=True):
            image[:, :, rows, columns] += part
        return image[:, :, self.pad : self.pad + h, self.pad : self.pad + w]


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest entry of every ``kernel`` x ``kernel`` window, the first of equals; ``stride`` is the kernel by default."""

    def forward(self, W, x):
        """y (n, channels, h', w') of x (n, channels, h, w), and the cache (x, y). `ValueError` where x is too small."""
        self._shape(x.shape)
        xp = namespace(x)
        views = self._views(x, -xp.inf)
        y = views[0]
        for view in views[1:]:
            y = xp.maximum(y, view)
        return y, (x, y)

    def _winners(self, x, y):
        """For each entry of the window, a mask of the positions where it is the first to reach the maximum."""
        xp = namespace(x)
        free = xp.ones_like(y, dtype=xp.bool)
        for view in self._views(x, -xp.inf):
            won = xp.logical_and(view == y, free)
            free = xp.logical_and(free, xp.logical_not(won))
            yield won

    def backward(self, W, cache, dy):
        """dx, shaped like x, for output gradients dy: each goes to the entry that was taken; no trace."""
        x, y = cache
        xp = namespace(dy)
        return self._spread([dy * xp.astype(won, dy.dtype) for won in self._winners(x, y)], x.shape, x), None

    def jvp(self, W, cache, dx, dW):
        """The derivative of y along dx, dx where the maximum was taken; None, which stands for zero, stays None."""
        if dx is None:
            return None
        x, y = cache
        xp = namespace(dx)
        return sum(view * xp.astype(won, dx.dtype) for view, won in zip(self._views(dx), self._winners(x, y), strict=True))


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of every window of ``kernel`` x ``kernel``, padding included; ``stride`` is the kernel by default."""

    def _mean(self, x):
        return sum(self._views(x)) / self.kernel**2

    def forward(self, W, x):
        """y (n, channels, h', w') of x (n, channels, h, w), and the cache, x. `ValueError` where x is too small."""
        self._shape(x.shape)
        return self._mean(x), x

    def backward(self, W, x, dy):
        """dx, shaped like x, for output gradients dy: each is spread over its window; no trace."""
        return self._spread([dy / self.kernel**2] * self.kernel**2, x.shape, x), None

    def jvp(self, W, x, dx, dW):
        """The derivative of y along dx, the means of dx; None, which stands for zero, stays None."""
        return None if dx is None else self._mean(dx)


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over all positions: (n, channels, h, w) becomes (n, channels)."""

    spec = None

    def forward(self, W, x):
        """y (n, channels) of x (n, channels, h, w), and the cache, the shape of x."""
        return namespace(x).mean(x, axis=(2, 3)), tuple(x.shape)

    def backward(self, W, shape, dy):
        """dx (n, channels, h, w) for output gradients dy (n, channels), perhaps read-only; no trace."""
        xp = namespace(dy)
        return xp.broadcast_to((dy / (shape[2] * shape[3]))[:, :, None, None], shape), None

    def jvp(self, W, shape, dx, dW):
        """The derivative of y along dx, the means of dx; None, which stands for zero, stays None."""
        return None if dx is None else namespace(dx).mean(dx, axis=(2, 3))
