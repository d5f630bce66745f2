"""The readers of files, by suffix or name, and the checks that come before any of them."""

import difflib
from pathlib import Path
from typing import NamedTuple

from nearlin.data.dataset import DataError
from nearlin.data.delimited import read_delimited, read_delimited_features
from nearlin.data.libsvm import read_libsvm, read_libsvm_features
from nearlin.data.named import NAMES
from nearlin.data.numpy_files import is_pair, read_npy, read_npy_features, read_npz, read_npz_features
from nearlin.data.pictures import is_pictures, read_pictures, read_pictures_features


class Reader(NamedTuple):
    """``table(path, target, task)`` and, for prediction, ``features(path, target, feature_names, features)``: a `Table` each."""

    table: callable
    features: callable


_DELIMITED, _LIBSVM = Reader(read_delimited, read_delimited_features), Reader(read_libsvm, read_libsvm_features)
_PICTURES = Reader(read_pictures, read_pictures_features)
_TEXT = {".csv": _DELIMITED, ".tsv": _DELIMITED, ".svm": _LIBSVM, ".libsvm": _LIBSVM, ".svmlight": _LIBSVM}
READERS = {
    **_TEXT,
    **{f"{suffix}.gz": reader for suffix, reader in _TEXT.items()},
    ".npy": Reader(read_npy, read_npy_features),
    ".npz": Reader(read_npz, read_npz_features),
}
KINDS = f"{', '.join(suffix for suffix in READERS if not suffix.endswith('.gz'))}, .gz of the texts among them"


def reader_of(path):
    """The path and the `Reader` of an existing file or folder; `DataError` for any other."""
    path = Path(path)
    if is_pictures(path):
        return path, _PICTURES
    if is_pair(path):
        found = f"{path} is a folder with x.npy, whose rows `train` maps"
        raise DataError(f"{found}; expected an .npz file to read into memory, or sizes for an estimate")
    if path.is_dir():
        raise DataError(
            f"{path} is a folder; expected a file ({KINDS}), one of {', '.join(NAMES)}, or a folder with the files of CIFAR-10, "
            "CIFAR-100 or MNIST"
        )
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])
    reader = READERS.get(suffix)
    if reader is None and path.is_file():
        raise DataError(
            f"{path} has the suffix {suffix!r}; expected {KINDS}, or a file of CIFAR or IDX images under its own name"
        )
    if reader is None:
        close = difflib.get_close_matches(str(path), NAMES, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise DataError(f"unknown data set {str(path)!r}{meant}; expected one of {', '.join(NAMES)}, or a file ({KINDS})")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    return path, reader
