"""`build`: a `Problem` from a recipe, a data set by name, a file, a `Dataset`, or arrays, and the options that it leaves open."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nearlin import nn
from nearlin._array import (
    asarray,
    backend_name,
    check,
    check_range,
    fold_in,
    is_array,
    is_map,
    memory_next_to,
    namespace,
    on_gpu,
    prototype,
    row_chunks,
    rows_of,
    to_numpy,
)
from nearlin.data import NAMES, DataError, Dataset, Preprocessing, load
from nearlin.data.dataset import class_labels, plain, split_rows
from nearlin.data.diagnosis import diagnose, equal_rows, least_loss
from nearlin.data.frames import is_frame
from nearlin.data.numpy_files import is_pair, map_pair
from nearlin.data.targets import infer_task
from nearlin.experiments import networks
from nearlin.experiments.batches import epoch
from nearlin.experiments.config import DEFAULTS, MOST, STEPS, TOL, Config
from nearlin.experiments.problems import Problem
from nearlin.experiments.recipes import RECIPES
from nearlin.experiments.registry import did_you_mean

_HELD_OUT = 0x76616C6964  # keeps the draws of the validation rows apart from those of the test rows


def build(data, config):
    """A `Problem`, and the `Config` with all that it left open filled in: backend, dtype, activation, batches and steps.

    Parameters
    ----------
    data : str, path, frame, Dataset, or (x, y)
        A recipe, a name, file or frame for `nearlin.data.load`, a data set, or a pair of arrays. All but recipes and arrays are
        split, preprocessed on the host and moved to the backend and dtype of ``config``. Arrays are split and used as they are,
        on their own backend, device and dtype, without preprocessing; their targets are two classes if they are all -1 or
        +1, and classes if they are integers that `nearlin.data` takes for such. So is a folder with ``x.npy`` and ``y.npy``, and
        any map of a file: its rows are not read at once, and the last ones are held out.
    config : Config

    Raises
    ------
    DataError, BackendError, TypeError, ValueError
        Data that cannot be used, with the reason.
    """
    data = load(data, config.target, config.task) if is_frame(data) else data
    if isinstance(data, str) and data in RECIPES:
        return _from_recipe(data, config)
    if config.data_dir is not None:
        raise ValueError(f"data_dir is for the problems that read a folder; {data!r} does not")
    if is_pair(data):
        return _from_arrays(map_pair(data), config, str(data))
    return _from_arrays(data, config) if isinstance(data, tuple | list) else _from_data(data, config)


def _with_steps(config, rows, steps=None, epochs=None, drop_last=False):
    """Steps, from epochs where those are given, and else those that a problem suggests; and the tolerance."""
    _, per_epoch = epoch(rows, config.batch_size, drop_last)
    if config.steps is not None and config.epochs is not None:
        raise ValueError("steps and epochs are both given; expected one of them")
    if config.steps is None:
        chosen = config.epochs or (None if config.time_limit else epochs)
        default = UNLIMITED if config.time_limit else steps
        config = replace(config, steps=chosen * per_epoch if chosen else default, epochs=None)
    return config if config.tol is not None else replace(config, tol=TOL)


UNLIMITED = 10**9
OWN = ("target", "task", "test_fraction", "validation_fraction", "center", "scale", "normalize", "standardize", "hidden", "width")


def _from_recipe(name, config):
    recipe = RECIPES[name]
    for option in OWN:
        if getattr(config, option) != getattr(DEFAULTS, option):
            raise ValueError(f"{option} is for networks on data sets and files; {name} has its own data and network")
    if config.data_dir is not None and not recipe.reads:
        raise ValueError(f"data_dir is for the problems that read a folder; {name} does not")
    if config.activation is not None and not recipe.any_activation:
        raise ValueError(f"activation is {config.activation!r}; the network of {name} has its own")
    config = replace(
        config,
        optimizer=config.optimizer or "adam",
        dtype=config.dtype or recipe.dtype,
        activation=config.activation or recipe.activation,
        batch_size=config.batch_size or recipe.batch_size,
    )
    like = prototype(config.backend, config.dtype)
    parts = recipe.load(config)
    bring = lambda a: asarray(a, like=like, dtype="int64" if a.dtype.kind in "iu" else None)  # noqa: E731
    train, test = (tuple(map(bring, part)) for part in (parts.train, parts.test))
    network = recipe.network(config, parts, bring)
    loss = recipe.loss
    problem = Problem(
        name, recipe.task, train, test, network, nn.Objective(network, loss, l2=config.l2), Preprocessing(),
        _fingerprint(name, *parts.train, *parts.test), recipe=True, augment=recipe.augment,
        least=loss.least(train[1]), test_least=loss.least(test[1]),
    )  # fmt: skip
    return problem, _with_steps(config, train[0].shape[0], epochs=recipe.epochs, drop_last=True)


class Choice(NamedTuple):
    """A data set, and what is chosen for it before anything is computed: `build` and `estimate` share it.

    Attributes
    ----------
    dataset : Dataset
    own : bool
        Whether it is the user's own, and not one by name.
    parts : tuple
        Rows to train on, for validation and for testing; None where there is no such part.
    config : Config
        With network, method, preprocessing and batches filled in.
    """

    dataset: Dataset
    own: bool
    parts: tuple
    config: Config

    @property
    def classes(self):
        """The number of classes, 0 for numbers."""
        return len(self.dataset.class_names or ())

    @property
    def labels(self):
        """Whether the network is trained on labels, by the softmax cross-entropy."""
        return bool(self.classes) and self.config.hidden is not None

    @property
    def outputs(self):
        """Of the network."""
        return self.classes if self.labels or self.classes > 2 else self.dataset.targets

    @property
    def constant(self):
        """Whether a constant is appended to the features."""
        return self.own and self.config.hidden is None and not self.config.normalize


def choose(data, config):
    """The `Choice` for a name, a file or a `Dataset`."""
    if isinstance(data, str) and not Path(data).suffix and data not in NAMES and not Path(data).exists():
        names = (*RECIPES, *NAMES)
        raise DataError(
            f"unknown problem or data set {data!r}{did_you_mean(data, names)}; expected one of {', '.join(names)}, or a file "
            "(.csv, .tsv, .npy, .npz, .svm, IDX or CIFAR)"
        )
    dataset, own = data if isinstance(data, Dataset) else load(data, config.target, config.task), str(data) not in NAMES
    if len(dataset) < 2:
        raise DataError(f"{dataset.name} has 1 row; expected at least 2 to train on")
    classes = len(dataset.class_names or ())
    config = networks.settled(config, own, bool(classes) or dataset.targets > 1, bool(classes), str(data))
    parts, config = _parts(len(dataset), config, own, dataset.name, dataset.y if own and classes else None)
    return Choice(dataset, own, parts, config)


def _from_data(data, config):
    chosen = choose(data, config)
    dataset, own, parts, config, classes, labels = *chosen, chosen.classes, chosen.labels
    train, validation, test = (None if rows is None else dataset.take(rows) for rows in parts)
    if labels and config.standardize:
        raise ValueError(f"standardize is for numbers; {dataset.describe_target()}")
    numbers = (lambda part: _numbers(part, classes)) if classes and not labels else lambda part: part
    standardize = not classes if config.standardize is None else config.standardize
    steps = Preprocessing.fit(numbers(train), config.center, config.normalize, standardize, config.scale, chosen.constant)
    like = prototype(config.backend, config.dtype)

    def batch(part):
        if part is None:
            return None
        x = asarray(steps.inputs(part.x, part.name, part.rows), like=like)
        return x, asarray(part.y, like=like, dtype="int64") if labels else asarray(steps.targets(numbers(part).y), like=like)

    task = "labels" if labels or classes > 2 else dataset.task
    problem = _problem(config, dataset.name, task, batch(train), batch(test), steps, chosen.outputs)
    problem = replace(
        problem,
        validation=batch(validation),
        stops=networks.stops(config, own),
        fingerprint=_fingerprint("preprocessed", dataset.x, numbers(dataset).y),
        class_names=dataset.class_names,
        feature_names=dataset.feature_names,
        target_name=dataset.target_name,
        target_names=dataset.target_names,
        target=dataset.describe_target() if own else None,
        spread=1.0 if steps.scale is not None else _spread(train.x),
    )
    before = replace(steps, normalize=False, constant=False).inputs(train.x)
    counts = _counts(dataset.y, parts, classes) if classes else None
    problem = _diagnosed(problem, train.x, before=before, rows=train.rows, normalized=steps.normalize, counts=counts)
    return problem, _ending(config, problem)


def _parts(n, config, own, name, labels=None):
    """Rows to train on, for validation and for testing (None: no such part), and the `Config` with what their numbers decide."""
    rows, test = split_rows(n, config.test_fraction, config.seed, name, labels)
    if config.test_fraction and len(rows) < 2:
        raise DataError(f"{name} leaves 1 training row of {n}; expected at least 2")
    config = replace(config, validation_fraction=networks.held_out(config, own, len(rows)))
    key, labels = fold_in(config.seed, _HELD_OUT), None if labels is None else labels[rows]
    train, validation = split_rows(len(rows), config.validation_fraction, key, f"{name} without its test rows", labels)
    config = replace(config, batch_size=networks.batch_size(config, own, len(train)))
    return (rows[train], None if validation is None else rows[validation], test), config


def _numbers(dataset, classes):
    """A data set of classes as one of numbers, which the squared loss fits."""
    return replace(dataset, task="regression", y=networks.as_numbers(dataset.y, classes), class_names=None)


def _counts(labels, parts, classes):
    """The rows of each class in every part there is."""
    named = zip(("training", "validation", "test"), parts, strict=True)
    return {name: tuple(np.bincount(labels[rows], minlength=classes).tolist()) for name, rows in named if rows is not None}


def _diagnosed(problem, given, **more):
    """The problem with its `Diagnosis`, and the losses that no outputs undercut."""
    used = -1 if problem.preprocessing.constant else None
    (x, y), test = map(to_numpy, problem.train), problem.test and tuple(map(to_numpy, problem.test))
    parameters, outputs = sum(math.prod(spec.shape) for spec in problem.objective.layers), problem.outputs
    diagnosis = diagnose(x[:, :used], y, given, parameters, outputs, class_names=problem.class_names, **more)
    test_least = least_loss(test[1], equal_rows(test[0])) if test else 0.0
    return replace(problem, diagnosis=diagnosis, least=diagnosis.floor, test_least=test_least)


def _ending(config, problem):
    """The `Config` with its steps: few where the theory says so, else many that the run itself ends."""
    rows = problem.train[0].shape[0]
    return _with_steps(config, rows, epochs=MOST) if problem.stops else _with_steps(config, rows, STEPS)


def for_method(config, problem):
    """``config`` on a problem that is built, with what its method decides on data of one's own: batches, step size and steps."""
    if not problem.stops:
        return config
    size = networks.batch_size(config, True, problem.train[0].shape[0])
    return _ending(replace(config, batch_size=size, lr=networks.step_size(config)), problem)


def _spread(x):
    std = np.std(x, axis=0)
    std = std[std > 1e-12 * np.max(np.abs(x))]
    return float(np.max(std) / np.min(std)) if len(std) else 1.0


def _from_arrays(data, config, name="arrays"):
    if len(data) != 2:
        raise ValueError(f"data is a {type(data).__name__} of {len(data)}; expected (x, y), a Dataset, a name or a path")
    x, y = data
    config = _of_a_map(x, config) if is_map(x) else config
    labels, class_names = _classes(y, config)
    if not class_names and is_array(y) and "int" in str(y.dtype):
        why = "" if config.task else f" and holds no classes by itself, because {infer_task(plain('y', to_numpy(y)))[1]}"
        raise TypeError(f"y has dtype {y.dtype}{why}; expected floats for regression, or task='classification'")
    check(ndim={"x": 2, "y": (1, 2)}, x=x, **({} if class_names else {"y": y}))
    if x.shape[0] != y.shape[0]:
        raise DataError(f"x has {x.shape[0]} rows and y has {y.shape[0]}; expected one target per row")
    outputs = len(class_names or ()) or (1 if y.ndim == 1 else y.shape[1])
    own, as_given = outputs > 1 or config.hidden is not None, {"center": None, "scale": None, "normalize": None}
    config = networks.settled(
        replace(config, dtype=str(x.dtype).split(".")[-1], backend=backend_name(x)), own, outputs > 1, bool(class_names)
    )
    parts, config = _parts(x.shape[0], config, own, "the data", labels)
    parts = _in_order(parts) if is_map(x) else parts
    task = _task(y, config) if labels is None else "labels"
    if labels is not None:
        wide, numbers = config.hidden is None, networks.as_numbers(labels, outputs)
        y = asarray(numbers if wide else labels, like=x, dtype=None if wide else "int64")
        outputs, task = (1, "classification") if wide and outputs == 2 else (outputs, task)
    train, validation, test = (None if rows is None else _take(x, y, rows) for rows in parts)
    train = (x, y) if validation is None and test is None else train
    problem = _problem(config, name, task, train, test, Preprocessing(), outputs)
    fingerprint = _fingerprint("as they are", x if is_map(x) else to_numpy(x), to_numpy(y))
    problem = replace(problem, fingerprint=fingerprint, class_names=class_names, validation=validation, stops=own)
    counts = None if labels is None else _counts(labels, parts, len(class_names))
    problem = problem if is_map(x) else _diagnosed(problem, to_numpy(train[0]), rows=parts[0], counts=counts)
    return problem, _ending(replace(config, **as_given), problem)


def _of_a_map(x, config):
    """The `Config` for rows that lie in a file, which the two-layer network alone reads some at a time, as they are."""
    lies = "x lies in a file"
    if config.hidden is not None:
        raise ValueError(f"{lies}, of which the two-layer network alone reads some rows at a time; expected width, not hidden")
    if asked := [name for name in ("center", "scale", "normalize", "standardize") if getattr(config, name)]:
        raise ValueError(f"{asked[0]} would copy all rows, and {lies}; expected a file of rows that are preprocessed")
    if config.backend != "numpy" or config.dtype not in (None, str(x.dtype)):
        found = f"backend is {config.backend!r} and dtype {config.dtype!r}"
        raise ValueError(f"{found}, and {lies} in {x.dtype}, which NumPy reads; expected these")
    return replace(config, width=config.width or networks.WIDTH)


def _in_order(parts):
    """As many rows in each part, but rows of a file as they lie: to train on, for validation, for testing."""
    ends = np.cumsum([0 if rows is None else len(rows) for rows in parts])
    return tuple(None if rows is None else np.arange(end - len(rows), end) for rows, end in zip(parts, ends, strict=True))


def _classes(y, config):
    """Labels (n,) on the host and class names of an array of targets that is one of classes; else (None, None)."""
    integers = "float" not in str(getattr(y, "dtype", "float")) and is_array(y)
    if not integers and (config.task != "classification" or not is_array(y) or (config.hidden is None and _are_signs(y))):
        return None, None
    y = plain("y", to_numpy(y))
    task = config.task or infer_task(y)[0]
    return class_labels("y", y) if task == "classification" else (None, None)


def _task(y, config):
    return config.task or ("classification" if config.hidden is None and _are_signs(y) else "regression")


def _are_signs(y):
    return (y.ndim == 1 or y.shape[1:] == (1,)) and bool(namespace(y).all(namespace(y).abs(y) == 1))


def _take(x, y, rows):
    if is_map(x):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        return x[part], y[part]
    xp = namespace(x)
    rows = asarray(rows, like=x, dtype="int64")
    return xp.take(x, rows, axis=0), xp.take(y, rows, axis=0)


def _problem(config, name, task, train, test, preprocessing, outputs):
    check_range("x", train[0][:, :-1] if preprocessing.constant else train[0])
    if config.hidden is None:
        _refuse_too_wide(config, train[0])
    network = networks.network(config.to_dict(), train[0].shape[1], outputs)
    loss = nn.SoftmaxCrossEntropy() if "int" in str(train[1].dtype) else nn.SquaredLoss()
    return Problem(name, task, train, test, network, nn.Objective(network, loss, l2=config.l2), preprocessing, "")


def _refuse_too_wide(config, x):
    """The weights, in the copies that a step needs, must fit into memory: finding out by trying can take the machine down."""
    needed = COPIES * config.width * x.shape[1] * (4 if config.dtype == "float32" else 8)
    there = memory_next_to(x)
    if there and needed > there:
        weights = f"{COPIES} copies of {config.width} x {x.shape[1]} weights take {needed / 2**30:.3g} GiB"
        where = "free on the GPU" if on_gpu(x) else "on this machine"
        raise ValueError(f"width is {config.width}: {weights} and {there / 2**30:.3g} GiB are {where}; expected a smaller width")


COPIES = 3  # weights, step, and trial weights


def _fingerprint(use, *arrays):
    digest = hashlib.sha256(use.encode())
    for a in arrays:
        digest.update(repr((a.shape, str(a.dtype))).encode())
        for rows in row_chunks(a):
            digest.update(np.ascontiguousarray(rows_of(a, rows)).tobytes())
    return digest.hexdigest()[:16]
