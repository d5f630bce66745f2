"""SVHN, the cropped digits in MATLAB files."""

import numpy as np

from nearlin.data.dataset import DataError
from nearlin.data.files import check_folder, find, read_mat
from nearlin.data.images import Images


def load_svhn(folder):
    """Load the cropped digits of SVHN from a folder with their two files; nothing is downloaded.

    Parameters
    ----------
    folder : str or path
        Holds ``train_32x32.mat`` and ``test_32x32.mat``: X (32, 32, 3, n) in bytes, y (n, 1) from 1 to 10; 10 is the digit 0.

    Returns
    -------
    train, test : Images
        x (73257 or 26032, 3, 32, 32) for the published files; y from 0 to 9.

    Raises
    ------
    DataError
        A missing folder or file, a damaged one, arrays of other names, shapes or types, numbers of images and labels that differ,
        a label outside 1, ..., 10.
    """
    folder = check_folder(folder)
    return tuple(_part(find(folder, f"{part}_32x32.mat"), f"SVHN {part}") for part in ("train", "test"))


def _part(path, name):
    x, y = read_mat(path, "X", "y")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.shape[3] == 0:
        raise DataError(f"{path}: X is {x.dtype} of shape {x.shape}; expected uint8 of shape (32, 32, 3, n), n > 0")
    if y.dtype.kind not in "fiu" or y.shape != (x.shape[3], 1):
        raise DataError(f"{path}: y is {y.dtype} of shape {y.shape}; expected a number for each image, ({x.shape[3]}, 1)")
    bad = np.flatnonzero(~np.isin(y, np.arange(1, 11)))
    if len(bad):
        raise DataError(f"{path}: the label {y[bad[0], 0]} in row {bad[0]} (counted from 0); expected 1 to 10")
    labels = y[:, 0].astype(np.int64) % 10
    return Images(name, np.ascontiguousarray(x.transpose(3, 2, 0, 1)), labels, tuple("0123456789"))
