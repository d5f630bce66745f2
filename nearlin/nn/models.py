"""Networks by name: those of the experiments of arXiv:2006.08877, arXiv:2106.02925 and arXiv:2202.04124."""

from itertools import pairwise

from nearlin.nn.activations import activation as named
from nearlin.nn.convolution import Conv2d
from nearlin.nn.layers import Dense, Elementwise, Flatten, widths
from nearlin.nn.network import Residual, Sequential, ZeroPadShortcut
from nearlin.nn.normalization import BatchNorm
from nearlin.nn.pooling import GlobalAvgPool, MaxPool

RELU = Elementwise(named("relu"))


def autoencoder(sizes, activation="relu", scheme="uniform"):
    """A mirrored auto-encoder: ``sizes`` down to the code, and back; the code and the outputs are linear.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, widths, code: 784, 1000, 500, 250, 30 makes 784-1000-500-250-30-250-500-1000-784.
    activation : str
    scheme : str
        How weights are drawn; see `nearlin.nn.Dense`.
    """
    sizes = widths("inputs, widths, code", sizes)
    phi, mirrored, modules = Elementwise(named(activation)), (*sizes, *sizes[-2::-1]), []
    for i, (inp, out) in enumerate(pairwise(mirrored), start=1):
        modules.append(Dense(inp, out, scheme=scheme))
        if i not in (len(sizes) - 1, len(mirrored) - 1):
            modules.append(phi)
    return Sequential(tuple(modules), gain=2.0 if activation == "relu" else 1.0)


def MNIST_autoencoder(activation="relu"):
    """784-1000-500-250-30 mirrored; train with `SigmoidCrossEntropy`."""
    return autoencoder((784, 1000, 500, 250, 30), activation)


def FACES_autoencoder(activation="relu"):
    """625-2000-1000-500-30 mirrored; train with `SquaredLoss`."""
    return autoencoder((625, 2000, 1000, 500, 30), activation)


def CURVES_autoencoder(activation="relu"):
    """784-400-200-100-50-25-6 mirrored; train with `SigmoidCrossEntropy`."""
    return autoencoder((784, 400, 200, 100, 50, 25, 6), activation)


def _block(inp, out):
    """Two 3 x 3 convolutions with batch normalisation; stride 2 where the width changes."""
    first = Conv2d(inp, out, 3, stride=1 if inp == out else 2, pad=1, bias=False)
    second = Conv2d(out, out, 3, pad=1, bias=False)
    body = Sequential((first, BatchNorm(out), RELU, second, BatchNorm(out)), gain=2.0)
    return [Residual(body, None if inp == out else ZeroPadShortcut()), RELU]


def ResNet32(classes=10, size=32):
    """ResNet-32 (arXiv:1512.03385) on RGB images: widths 16, 32, 64, five blocks each; Kaiming-normal weights."""
    modules = [Conv2d(3, 16, 3, pad=1, bias=False), BatchNorm(16), RELU]
    for inp, out in pairwise((16, *(16,) * 5, *(32,) * 5, *(64,) * 5)):
        modules += _block(inp, out)
    return Sequential((*modules, GlobalAvgPool(), Dense(64, classes)), gain=2.0, shape=(3, size, size))


def _vgg(widths, normalized, classes, size, hidden):
    """Convolutions 3 x 3 of the given widths, "M" for a pool of 2, and a head of three dense layers."""
    modules, inp = [], 3
    for width in widths:
        if width == "M":
            modules.append(MaxPool(2))
            continue
        modules += [Conv2d(inp, width, 3, pad=1, scheme="fan-out"), *((BatchNorm(width),) if normalized else ()), RELU]
        inp = width
    side = size // 2 ** widths.count("M")
    if side < 1:
        raise ValueError(f"size is {size}; expected at least {2 ** widths.count('M')}, one pixel after {widths.count('M')} pools")
    dense = lambda inp, out: Dense(inp, out, scheme="uniform")  # noqa: E731
    head = [Flatten(), dense(inp * side * side, hidden), RELU, dense(hidden, hidden), RELU, dense(hidden, classes)]
    return Sequential((*modules, *head), shape=(3, size, size))


def VGG16(classes=100, size=32, hidden=4096):
    """VGG-16 (arXiv:1409.1556) with batch normalisation on RGB images: dense 512-4096-4096-classes, convolutions with biases."""
    widths = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
    return _vgg(widths, True, classes, size, hidden)


def VGG11(classes=10, size=32, hidden=4096):
    """VGG-11 (arXiv:1409.1556) without batch normalisation on RGB images: dense 512-4096-4096-classes."""
    return _vgg((64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"), False, classes, size, hidden)
