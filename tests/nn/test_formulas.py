"""Layers against automatic differentiation of their formulas in float64: on NumPy, and where PyTorch's own code is used.

Shapes of one sample, channel, row or pixel are among them. NumPy's arrays may not be written to and are not contiguous.
"""

from functools import partial

import numpy as np
import pytest

from nearlin import _array, nn

torch = pytest.importorskip("torch")
MEAN, VARIANCE = np.array([0.5, -1.0, 2.0]), np.array([0.25, 4.0, 1.0])


def affine(centred, variance, W, epsilon):
    by_channel = lambda v: v.reshape(1, -1, *(1,) * (centred.ndim - 2))  # noqa: E731
    return by_channel(W[:, 0]) * centred / (variance + epsilon).sqrt() + by_channel(W[:, 1])


def normalised(x, W, axes, epsilon):
    """By mean and variance over ``axes``."""
    centred = x - x.mean(axes, keepdim=True)
    return affine(centred, (centred**2).mean(axes, keepdim=True), W, epsilon)


def over_batch(x, W, epsilon=0.3):
    return normalised(x, W, [axis for axis in range(x.ndim) if axis != 1], epsilon)


def over_channels(x, W, epsilon=0.3):
    return normalised(x, W, [1], epsilon)


def by_statistics(x, W):
    mean, variance = (torch.tensor(a).reshape(1, -1, *(1,) * (x.ndim - 2)) for a in (MEAN, VARIANCE))
    return affine(x - mean, variance, W, 0.3)


def windows(x, kernel, stride, pad, value):
    """(n, channels, h', w', entries)."""
    padded = torch.nn.functional.pad(x, (pad[1], pad[1], pad[0], pad[0]), value=value)
    return padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).flatten(4)


def largest(x, *window):
    """Of equal entries the first."""
    entries = windows(x, *window, -np.inf)
    first = torch.as_tensor(np.argmax(entries.detach().numpy(), axis=4))
    return torch.gather(entries, 4, first[..., None])[..., 0]


def convolution(inp, out, kernel, stride, pad, dilation, groups):
    def formula(x, W):
        kernels = W[:, :-1].reshape(out, inp // groups, *kernel)
        return torch.nn.functional.conv2d(x, kernels, W[:, -1], stride, pad, dilation, groups)

    return nn.Conv2d(inp, out, kernel, stride, pad, dilation=dilation, groups=groups), formula


POOLS = [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((2, 3), (3, 1), (1, 0)), ((3, 2), (1, 2), (0, 1))]
IMAGES = [(4, 3), (4, 3, 1, 1), (2, 3, 4, 5), (1, 3, 1, 2), (1, 3, 2, 1)]
OBSERVED = nn.BatchNorm(3, 0.3, nn.Statistics(MEAN, VARIANCE))
CASES = {
    "relu": (nn.Elementwise(nn.activation("relu")), lambda x, W: torch.where(x > 0, x, 0 * x), (3, 2, 5, 7)),
    **{f"batch-norm-{s}": (nn.BatchNorm(3, 0.3), over_batch, s) for s in IMAGES},
    **{f"observed-{s}": (OBSERVED, by_statistics, s) for s in IMAGES},
    **{f"layer-norm-{s}": (nn.LayerNorm(3, 0.3), over_channels, s) for s in IMAGES},
    "batch-norm-by-default": (nn.BatchNorm(3), partial(over_batch, epsilon=1e-5), (4, 3)),
    "layer-norm-by-default": (nn.LayerNorm(3), partial(over_channels, epsilon=1e-5), (4, 3)),
    **{f"max-pool-{w}": (nn.MaxPool(*w), lambda x, W, w=w: largest(x, *w), (3, 2, 5, 7)) for w in POOLS},
    **{f"mean-pool-{w}": (nn.AvgPool(*w), lambda x, W, w=w: windows(x, *w, 0.0).mean(4), (3, 2, 5, 7)) for w in POOLS},
    **{f"conv-{i}": (*convolution(*options), shape) for i, (options, shape) in enumerate((
        ((1, 1, (1, 1), (1, 1), (0, 0), (1, 1), 1), (1, 1, 1, 1)),
        ((1, 1, (3, 3), (1, 1), (1, 1), (1, 1), 1), (1, 1, 1, 1)),
        ((1, 4, (3, 3), (2, 2), (1, 1), (1, 1), 1), (2, 1, 5, 4)),
        ((2, 4, (3, 1), (1, 3), (2, 0), (2, 5), 2), (2, 2, 6, 9)),
        ((6, 6, (2, 3), (1, 1), (0, 4), (2, 1), 3), (2, 6, 4, 1)),
        ((2, 2, (1, 1), (1, 1), (3, 3), (1, 1), 1), (1, 2, 1, 1)),
        ((64, 64, (3, 3), (1, 1), (1, 1), (1, 1), 1), (1, 64, 1, 3)),
    ))},
}  # fmt: skip


def as_numpy(a, dtype):
    spread = np.repeat(a, 2, axis=-1).astype(dtype)[..., ::2]
    spread.flags.writeable = False
    return spread


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_formula(name, library, dtype):
    """Of small integers, with zeros and equals among them, where a layer chooses between entries."""
    (layer, formula, shape), g = CASES[name], np.random.default_rng(0)
    x = g.standard_normal(shape) if layer.spec else g.integers(-2, 3, shape).astype(float)
    W = g.standard_normal(layer.spec.shape) if layer.spec else None
    leaves = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, W)]
    y = formula(*leaves)
    dy = g.standard_normal(tuple(y.shape))
    y.backward(torch.tensor(dy))
    make = as_numpy if library == "numpy" else lambda a, dtype: torch.tensor(a, dtype=getattr(torch, dtype))
    x, dy, W = (None if a is None else make(a, dtype) for a in (x, dy, W))
    if layer is OBSERVED:
        layer = nn.BatchNorm(3, 0.3, nn.Statistics(make(MEAN, dtype), make(VARIANCE, dtype)))
    found, cache = layer.forward(W, x)
    dx, trace = layer.backward(W, cache, dy)
    pairs = [(found, y.detach()), (dx, leaves[0].grad), *([(trace.grad(), leaves[1].grad)] if trace else [])]
    for ours, theirs in pairs:
        assert str(ours.dtype).endswith(dtype)
        tol = (1e-13 if dtype == "float64" else 2e-6) * max(1.0, float(theirs.abs().max()))
        np.testing.assert_allclose(_array.to_numpy(ours), theirs.numpy(), rtol=0, atol=tol)
