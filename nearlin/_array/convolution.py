"""Views of the windows of images, and the convolution that a library brings of its own."""

import importlib

import array_api_compat as compat
import numpy as np


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
    sample, row, column, _ = x.strides
    item = np.dtype((np.void, width * column))
    view = np.ndarray((*x.shape[:2], count), item, x, strides=(sample, row, column * stride))
    return view.copy()[..., None].view(x.dtype)


def brings_convolution(x):
    """Whether the library of ``x`` has a convolution of its own that is used: PyTorch's is."""
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
