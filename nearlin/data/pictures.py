"""Images with labels as tables: pairs of IDX files, and batches and folders of CIFAR, under the names that they are published."""

import re

import numpy as np

from nearlin.data.cifar import load_cifar10, load_cifar100, read_batch
from nearlin.data.dataset import DataError
from nearlin.data.files import find
from nearlin.data.idx import find_idx, read_idx
from nearlin.data.table import Table

_IDX = re.compile(r"(.*)(images|labels)([-.])idx\d+-[a-z0-9]+(\.gz)?", re.IGNORECASE)
_BATCH = re.compile(r"(.*[-_.])?(data_batch_\d+|test_batch)(\.bin)?|(train|test)(\.bin)?")
_FOLDERS = {  # what a folder is called inside, the file that shows what it holds, and how that is read
    "CIFAR-10": (("cifar-10-batches-bin", "cifar-10-batches-py"), ("data_batch_1.bin", "data_batch_1"), load_cifar10),
    "CIFAR-100": (("cifar-100-binary", "cifar-100-python"), ("train.bin", "train"), load_cifar100),
}


def is_pictures(path):
    """Whether a path is an IDX file, a batch of CIFAR, or a folder of one of them, by its names."""
    if path.is_dir():
        return _loader(path) is not None or _idx_images(path) is not None
    return path.is_file() and bool(_IDX.fullmatch(path.name) or _BATCH.fullmatch(path.name))


def read_pictures(path, target=None, task=None):
    """A `Table` of pixels as they are stored, one row an image, and labels; of a folder its training images."""
    _refuse_target(path, target)
    if path.is_dir() and (load := _loader(path)):
        return _table(load(path)[0])
    images = _idx_images(path) if path.is_dir() else path
    if _IDX.fullmatch(images.name):
        return _idx_pair(images)
    return _table(read_batch(images))


def read_pictures_features(path, target=None, feature_names=None, features=None):
    """The pixels of a file alone."""
    _refuse_target(path, target)
    if path.is_dir():
        raise DataError(
            f"{path} is a folder of training and test images; expected one of its files, for instance that of the test"
        )
    if _IDX.fullmatch(path.name):
        return Table(_idx_rows(path))
    return Table(_table(read_batch(path)).x)


def _loader(folder):
    """How the CIFAR set in a folder is read, or None."""
    for inside, names, load in _FOLDERS.values():
        if any((place / name).is_file() for place in (folder, *(folder / name for name in inside)) for name in names):
            return load
    return None


def _idx_images(folder):
    """The file of training images of a folder like MNIST's, or None."""
    for place in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if place.is_dir() and (found := find_idx(place, "train-images", "idx3")):
            return found
    return None


def _table(images):
    return Table(images.x.reshape(len(images), -1).astype(np.float64), images.y, class_names=images.classes)


def _idx_pair(images):
    """The images of a file, and the labels beside it."""
    x = _idx_rows(images)
    name = re.sub("images([-.])idx[0-9]+", r"labels\1idx1", images.name, flags=re.IGNORECASE)
    labels = find(images.parent, name, name.removesuffix(".gz"), f"{name}.gz")
    y = read_idx(labels)
    if y.shape != (len(x),):
        raise DataError(f"{images} holds {len(x)} image(s) and {labels} labels of shape {y.shape}; expected a label per image")
    classes, labels = np.unique(y, return_inverse=True)
    return Table(x, labels.reshape(-1), class_names=tuple(map(str, classes.tolist())))


def _idx_rows(images):
    x = read_idx(images)
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{images} holds entries of shape {x.shape}; expected images, (n, height, width), and not their labels")
    return x.reshape(len(x), -1).astype(np.float64)


def _refuse_target(path, target):
    if target is not None:
        raise DataError(f"{path}: target {target!r} is for .csv and .tsv files; images have their labels beside them")
