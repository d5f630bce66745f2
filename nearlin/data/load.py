"""`load`: a data set by name or from a file; `load_features`: the inputs alone, for prediction."""

from nearlin.data.dataset import TASKS, DataError, Dataset
from nearlin.data.frames import is_frame, read_frame, read_frame_features
from nearlin.data.named import NAMES, load_named
from nearlin.data.readers import reader_of
from nearlin.data.targets import settle_targets


def load(name_or_path, target=None, task=None):
    """Load a data set by name, from a file, or from a data frame.

    Parameters
    ----------
    name_or_path : str, path or frame
        A frame of pandas, or of a library with the same ``columns``, ``dtypes`` and ``frame[column].to_numpy()`` (polars), is
        read as a ``.csv`` of its columns would be, floats to the bit; its index is left out. Or one of `NAMES`. Or a file, by
        its suffix; that of a text may be followed by ``.gz``:

        - ``.csv``, ``.tsv``: a text table, with a comma, semicolon, bar or tab (``.tsv``: a tab) between columns, whichever
          parts the first records best. Its first line names the columns, unless it is one of data (see Notes): then they are
          called x1, x2, ..., and the last one ``label``. A column of at most 20 distinct texts becomes one of 0 and 1 for each,
          called ``column=text``; with true and false alone it becomes one of 1 and 0.
        - ``.npz`` with arrays ``x`` (n, d) and ``y`` (n,) or (n, c); ``.npy`` (n, d + 1) with the target in the last column.
        - ``.svm``, ``.libsvm``, ``.svmlight``: the text format of LIBSVM, whose features count from 1; see `load_libsvm`.
        - ``...-images-idx3-ubyte``: an IDX file, with its labels beside it. A batch of CIFAR (``data_batch_1``,
          ``test_batch.bin``, ``train``, ...), or a folder with the files of CIFAR-10, CIFAR-100 or MNIST, of which the training
          images are taken. Pixels keep their values; CIFAR-100 has its fine labels.

        Integers of every width, truth values, float16 and float32 become float64 exactly; what would be rounded (integers above
        2^53, long double) is refused. Nothing is unpickled by Python's own reader, and nothing is downloaded.
    target : str or sequence of str, optional
        Name of the target column of a table or frame, or several: ``"a,b"`` or ``("a", "b")``. Without a header line also
        ``"first"`` and ``"last"``. Tables need it; other files have their own.
    task : {"regression", "classification"}, optional
        What the targets are. Without it texts and truth values are classes, and integers that are -1 and 1, or that run without
        gaps from 0 or 1, are at most 20, and occur at least twice each; all else is regression. `Dataset.describe_target` says
        what was decided and why. Classes become 0, 1, ... in sorted order, and their names are kept.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        An unknown name, an unreadable, empty or truncated file, a missing column, a missing value (an empty cell, NA, ?, and
        what else pandas takes for one), text among the numbers, NaN or Inf, wrong dimensions, lengths that differ: one sentence
        that names the file, the line and column, what was expected and what was found.

    Notes
    -----
    The first line of a table is a header line where one of its texts stands above a column of numbers; else one of data where one
    of its texts occurs in its column again, or all its cells are numbers; else a header line where its cells are texts, among
    them at most the numbers 0, 1, 2, ... or 1, 2, 3, ... in order. What else is left is refused, as a row might become names.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    if is_frame(name_or_path):
        path, table = "frame", read_frame(name_or_path, target, task)
    elif str(name_or_path) in NAMES:
        return _named(str(name_or_path), target, task)
    else:
        path, reader = reader_of(name_or_path)
        table = _within_memory(reader.table, path, target, task)
    if table.class_names is not None and task != "regression":
        y, task, class_names, reason = table.y, "classification", table.class_names, "they are labels of images"
    else:
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
    name_or_path : str, path or frame
        As for `load`. An ``.npz`` file needs only ``x``; an ``.npy`` file holds the features alone; images need no labels.
    target : str or sequence of str, optional
        Columns to drop: their names for a table, ``"last"`` for ``.npy``.
    feature_names : sequence of str, optional
        The names that the model was trained with; a table must have exactly these columns, in any order. A column of text
        becomes the columns that it became in training, and a text that was not there is refused.
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
    if is_frame(name_or_path):
        path, x = "frame", read_frame_features(name_or_path, target, feature_names).x
    elif str(name_or_path) in NAMES:
        path, x = str(name_or_path), load_named(str(name_or_path)).x
    else:
        path, reader = reader_of(name_or_path)
        x = _within_memory(reader.features, path, target, feature_names, features).x
    if features is not None and x.shape[1] != features:
        hint = "; a target column among them is dropped with target (--target)" if x.shape[1] == features + 1 else ""
        raise DataError(f"{path} has {x.shape[1]} feature(s); expected {features}, as in training{hint}")
    return x


def _within_memory(read, path, *arguments):
    try:
        return read(path, *arguments)
    except MemoryError as error:
        raise DataError(f"{path} does not fit in memory as float64; expected a smaller set") from error


def _named(name, target, task):
    if target is not None:
        raise DataError(f"the data set {name!r} has its own target; target {target!r} is for .csv and .tsv files")
    dataset = load_named(name)
    if task not in (None, dataset.task):
        raise DataError(f"the data set {name!r} is for {dataset.task}; found task {task!r}")
    return dataset
