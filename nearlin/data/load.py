"""`load`: a data set by name or from a file; `load_features`: the inputs alone, for prediction."""

import difflib
from pathlib import Path

import numpy as np

from nearlin.data.dataset import TASKS, DataError, Dataset, shown
from nearlin.data.named import NAMES, load_named
from nearlin.data.readers import READERS
from nearlin.data.targets import settle_targets


def load(name_or_path, target=None, task=None):
    """Load a data set by name, or from a file.

    Parameters
    ----------
    name_or_path : str or path
        One of `NAMES`, or a file: ``.npz`` with arrays ``x`` (n, d) and ``y`` (n,); ``.npy`` (n, d + 1) with the target in the
        last column; ``.csv`` with a header line and comma, semicolon or tab between columns. Integers and booleans in files are
        converted to float64. Nothing is unpickled and nothing is downloaded.
    target : str, optional
        Name of the target column; needed for ``.csv``, meaningless elsewhere.
    task : {"regression", "classification"}, optional
        What the targets are. Without it, two distinct strings, booleans, and targets that are exactly -1 and +1 are two
        classes, and everything else is regression. With ``"classification"`` any two distinct values are two classes; they
        become -1 and +1 in sorted order, and their names are kept.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        An unknown name, an unreadable, empty or truncated file, a missing column, text among the numbers, NaN or Inf, wrong
        dimensions, lengths that differ: one sentence that names the file, what was expected and what was found.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if str(name_or_path) in NAMES:
        return _named(str(name_or_path), target, task)
    path, reader = _file(name_or_path)
    table = reader(path, target=target)
    y, task, class_names, reason = settle_targets(path, table.y, task)
    names = table.target_names or ()
    return Dataset(
        str(path), table.x, y, task, class_names, table.feature_names, names[0] if len(names) == 1 else None,
        target_names=names if len(names) > 1 else None, reason=reason,
    )  # fmt: skip


def load_features(name_or_path, target=None, feature_names=None, features=None):
    """Load the inputs alone, for prediction.

    Parameters
    ----------
    name_or_path : str or path
        As for `load`. An ``.npz`` file needs only ``x``; an ``.npy`` file holds the features alone.
    target : str, optional
        A column to drop: its name for ``.csv``, ``"last"`` for ``.npy``.
    feature_names : sequence of str, optional
        The names that the model was trained with; a ``.csv`` file must have exactly these columns, in any order.
    features : int, optional
        Number of features that the model was trained with.

    Returns
    -------
    x : numpy.ndarray, (n, d), float64

    Raises
    ------
    DataError
        As for `load`, and where the columns or their number differ from those of training.
    """
    if str(name_or_path) in NAMES:
        path, x = str(name_or_path), load_named(str(name_or_path)).x
    else:
        path, reader = _file(name_or_path)
        table = reader(path, target=target, features_only=True)
        x = _in_training_order(path, table, feature_names)
    if features is not None and x.shape[1] != features:
        hint = "; a target column among them is dropped with target (--target)" if x.shape[1] == features + 1 else ""
        raise DataError(f"{path} has {x.shape[1]} feature(s); expected {features}, as in training{hint}")
    return x


def _named(name, target, task):
    if target is not None:
        raise DataError(f"the data set {name!r} has its own target; target {target!r} is for .csv files")
    dataset = load_named(name)
    if task not in (None, dataset.task):
        raise DataError(f"the data set {name!r} is for {dataset.task}; found task {task!r}")
    return dataset


def _file(path):
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file ({', '.join(READERS)}) or one of {', '.join(NAMES)}")
    if reader is None and path.is_file():
        raise DataError(f"{path} has the suffix {path.suffix!r}; expected {', '.join(READERS)}")
    if reader is None:
        close = difflib.get_close_matches(str(path), NAMES, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        expected = f"one of {', '.join(NAMES)}, or a file ({', '.join(READERS)})"
        raise DataError(f"unknown data set {str(path)!r}{meant}; expected {expected}")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    return path, reader


def _in_training_order(path, table, names):
    if not names or not table.feature_names:
        return table.x
    missing = [name for name in names if name not in table.feature_names]
    extra = [name for name in table.feature_names if name not in names]
    if missing:
        raise DataError(f"{path} lacks the column(s) {shown(missing)} of the training data; found {shown(table.feature_names)}")
    if extra:
        hint = "; a target column is dropped with target (--target)" if len(extra) == 1 else ""
        raise DataError(f"{path} has the column(s) {shown(extra)}, which the training data had not{hint}")
    return np.ascontiguousarray(table.x[:, [table.feature_names.index(name) for name in names]])
