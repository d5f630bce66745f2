"""Named data sets, readers for the files people have on disk, splitting and preprocessing. Nothing here downloads anything."""

from nearlin.data.augment import augment
from nearlin.data.cifar import load_cifar10, load_cifar100
from nearlin.data.curves import curves, load_curves
from nearlin.data.dataset import DataError, Dataset, split
from nearlin.data.graph import Graph, planted_graph
from nearlin.data.idx import load_fashion_mnist, load_mnist, read_idx
from nearlin.data.images import Images
from nearlin.data.libsvm import load_libsvm
from nearlin.data.load import load, load_features
from nearlin.data.named import NAMES, digits, sphere
from nearlin.data.preprocessing import Preprocessing
from nearlin.data.svhn import load_svhn

__all__ = [
    "NAMES",
    "DataError",
    "Dataset",
    "Graph",
    "Images",
    "Preprocessing",
    "augment",
    "curves",
    "digits",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_curves",
    "load_fashion_mnist",
    "load_features",
    "load_libsvm",
    "load_mnist",
    "load_svhn",
    "planted_graph",
    "read_idx",
    "sphere",
    "split",
]
