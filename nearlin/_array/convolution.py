"""Views of the windows of images, and what a library brings of its own: convolution, ReLU, max pooling, normalisation."""

import importlib

import array_api_compat as compat
import numpy as np

from nearlin._array.backends import is_numpy, namespace


def strided_windows(x, shape, stride, dilation):
    """A NumPy view of ``shape`` (b, channels, kh, kw, h', w') on the windows of images ``x`` (b, channels, h, w)."""
    b, channels, h, w = x.strides
    strides = (b, channels, h * dilation[0], w * dilation[1], h * stride[0], w * stride[1])
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def row_windows(x, count, width, stride):
    """The windows of ``width`` columns in the rows of NumPy images ``x`` (b, h, w, channels): (b, h, count, width channels).

    A window lies in one piece, and is copied as one item, in half the time.
    """
    x = np.ascontiguousarray(x)
    column = x.shape[3] * x.itemsize  # NumPy's own strides may be any where a length is 1
    row = x.shape[2] * column
    item = np.dtype((np.void, width * column))
    view = np.ndarray((*x.shape[:2], count), item, x, strides=(x.shape[1] * row, row, column * stride))
    return view.copy()[..., None].view(x.dtype)


def brings_image_layers(x):
    """Whether layers of images on ``x`` are made by its library's own functions: PyTorch's are."""
    return compat.is_torch_array(x)


def convolve(x, kernels, bias, spec):
    """y (n, out, h', w') of x (n, inp, h, w) for ``kernels`` (out, inp / groups, kh, kw), by the library of x."""
    functional = importlib.import_module("torch").nn.functional
    return functional.conv2d(x, kernels, bias, spec.stride, spec.pad, spec.dilation, spec.groups)


def convolution_gradients(dy, x, kernels, spec, which):
    """The gradients by x, ``kernels`` and bias that the flags ``which`` ask for, None for others, by the library of dy."""
    aten = importlib.import_module("torch").ops.aten
    given = ([spec.out], spec.stride, spec.pad, spec.dilation, False, [0, 0], spec.groups, which)
    return aten.convolution_backward(dy, x, kernels, *given)


def where_positive(d, x):
    """``d`` where ``x`` is positive, else zero."""
    if brings_image_layers(x):
        return importlib.import_module("torch").ops.aten.threshold_backward(d, x, 0)
    return d * (x > 0 if is_numpy(x) else namespace(x).astype(x > 0, d.dtype))


def max_pooled_gradient(dy, x, window):
    """dx for the gradients dy of the largest entries of windows of x (n, channels, h, w), by the library of dy."""
    aten = importlib.import_module("torch").ops.aten
    given = window.kernel, window.stride, window.pad, window.dilation, False
    return aten.max_pool2d_with_indices_backward(dy, x, *given, aten.max_pool2d_with_indices(x, *given)[1])


def normalization_gradients(dy, xh, scale):
    """Of y = gamma xh + beta for inputs xh normalised over a batch, by the library of dy: dx, and dgamma and dbeta.

    ``scale`` is gamma / √(variance + epsilon), by channel.
    """
    zeros, ones = scale * 0, scale * 0 + 1  # mean and scale of inputs that are normalised already
    backward = importlib.import_module("torch").ops.aten.native_batch_norm_backward
    dx, *sums = backward(dy, xh, scale, None, None, zeros, ones, True, 0.0, [True, True, True])
    return dx, tuple(sums)
