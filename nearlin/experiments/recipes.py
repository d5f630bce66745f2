"""Problems by name: data, network, loss, and the sizes that the papers use; `RECIPES` lists them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nearlin import data as sets
from nearlin import nn
from nearlin.data import DataError


class Parts(NamedTuple):
    """NumPy batches (x, y) to train and to test on, and the graph where there is one."""

    train: tuple
    test: tuple
    graph: object = None


@dataclass(frozen=True)
class Recipe:
    """A problem by name.

    Parameters
    ----------
    about : str
        One line for the help.
    load : callable
        ``load(config) -> Parts``.
    network : callable
        ``network(config, parts, bring) -> network``; ``bring`` moves a NumPy array next to the problem's arrays.
    loss : loss
    task : {"labels", "reconstruction"}
    batch_size, epochs : int or None
        What a run uses where it does not say otherwise; None is all rows.
    activation, dtype : str
    augment : bool
        Whether training images are cropped and flipped at random.
    reads : bool
        Whether it reads files from ``data_dir``.
    any_activation : bool
        Whether the network takes another activation.
    """

    about: str
    load: Callable
    network: Callable
    loss: object
    task: str
    batch_size: int | None
    epochs: int
    activation: str = "relu"
    dtype: str = "float32"
    augment: bool = False
    reads: bool = False
    any_activation: bool = True


def _folder(config, what):
    if config.data_dir is None:
        raise DataError(f"this problem reads {what}; name the folder with data_dir (--data-dir DIR)")
    return config.data_dir


def _to_itself(x):
    return x, x


def _digits_ae(config):
    train, test = sets.digits(seed=0)
    return Parts(*(_to_itself(part.floats(config.dtype, flat=True)) for part in (train, test)))


def _digits(config):
    train, test = sets.digits(seed=0)
    x, x_test = (part.floats(config.dtype, flat=True) for part in (train, test))
    mean = x.mean(axis=0)
    return Parts((x - mean, train.y), (x_test - mean, test.y))


def _curves_ae(config):
    return Parts(*map(_to_itself, sets.curves(dtype=config.dtype)))


def _mnist_ae(config):
    parts = sets.load_mnist(_folder(config, "the four files of MNIST"))
    return Parts(*(_to_itself(part.floats(config.dtype, flat=True)) for part in parts))


def _digits_cnn(config):
    return Parts(*((part.floats(config.dtype), part.y) for part in sets.digits(seed=0)))


def _cifar10(config):
    train, test = sets.load_cifar10(_folder(config, "the batches of CIFAR-10"))
    mean, std = train.moments()
    return Parts(*((part.floats(config.dtype, mean, std), part.y) for part in (train, test)))


def _graph(config):
    graph = sets.planted_graph(seed=0, dtype=config.dtype)
    return Parts(*((nodes, graph.labels[nodes]) for nodes in (graph.train, graph.test)), graph)


def _small_cnn(config, parts, bring):
    """conv 3 x 3 x 16, BN, pool, conv 3 x 3 x 32, BN, global pool, dense 10."""
    phi = nn.Elementwise(nn.activation(config.activation))
    first = (nn.Conv2d(1, 16, 3, pad=1), nn.BatchNorm(16), phi, nn.MaxPool(2))
    second = (nn.Conv2d(16, 32, 3, pad=1), nn.BatchNorm(32), phi, nn.GlobalAvgPool())
    return nn.Sequential((*first, *second, nn.Dense(32, 10)), gain=2.0, shape=parts.train[0].shape[1:])


def _two_graph_convolutions(config, parts, bring):
    classes = int(np.max(parts.graph.labels)) + 1
    return nn.GraphNetwork(bring(parts.graph.S), bring(parts.graph.H), (16, classes), config.activation)


RECIPES = {
    "digits-ae": Recipe(
        "auto-encoder 64-200-100-50-12 mirrored on scikit-learn's digits",
        _digits_ae, lambda config, *_: nn.autoencoder((64, 200, 100, 50, 12), config.activation),
        nn.SigmoidCrossEntropy(), "reconstruction", 200, 50, "tanh",
    ),
    "curves-ae": Recipe(
        "auto-encoder 784-400-200-100-50-25-6 mirrored on drawn curves",
        _curves_ae, lambda config, *_: nn.CURVES_autoencoder(config.activation),
        nn.SigmoidCrossEntropy(), "reconstruction", 1000, 10,
    ),
    "mnist-ae": Recipe(
        "auto-encoder 784-1000-500-250-30 mirrored on MNIST (--data-dir)",
        _mnist_ae, lambda config, *_: nn.MNIST_autoencoder(config.activation),
        nn.SigmoidCrossEntropy(), "reconstruction", 1000, 10, reads=True,
    ),
    "digits": Recipe(
        "perceptron 64-256-256-10 on scikit-learn's digits",
        _digits, lambda config, *_: nn.MLP((64, 256, 256, 10), config.activation),
        nn.SoftmaxCrossEntropy(), "labels", 200, 20,
    ),
    "digits-cnn": Recipe(
        "two convolutions with batch normalisation on scikit-learn's digits",
        _digits_cnn, _small_cnn, nn.SoftmaxCrossEntropy(), "labels", 128, 20,
    ),
    "cifar10-resnet32": Recipe(
        "ResNet-32 on CIFAR-10 (--data-dir), images cropped and flipped at random",
        _cifar10, lambda config, *_: nn.ResNet32(), nn.SoftmaxCrossEntropy(), "labels", 128, 1, augment=True, reads=True,
        any_activation=False,
    ),
    "planted-graph": Recipe(
        "two graph convolutions on a drawn graph of Cora's shape",
        _graph, _two_graph_convolutions, nn.SoftmaxCrossEntropy(), "labels", None, 100,
    ),
}  # fmt: skip
